"""The directories of a workdir, made before anything is written into them.

Rules of this file: a directory that can't be made or used is an `InputError`.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.system import files


def make_directories(path: str) -> Callable[[], None]:
    """Make the workdir `path` and its ``logs``, as PyTaskFarmer does at its start.

    Return a function that removes the directories that this call has made, if they are
    empty.  Raises `InputError`, with nothing left behind.
    """
    paths = WorkdirPaths(os.path.abspath(path))
    made = [paths.root] if make_root(paths.root) else []
    try:
        if files.make_directory(paths.logs):
            made.insert(0, paths.logs)
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"can't create {paths.logs}: {error.strerror}") from error
    return lambda: _remove_empty(made)


def _remove_empty(directories: Sequence[str]) -> None:
    for directory in directories:
        with suppress(OSError):  # A directory that is in use is not empty.
            os.rmdir(directory)


def make_root(root: str) -> bool:
    """Make the workdir `root` unless it exists.  Return whether this call made it.

    Raises `InputError`, also for a workdir that is not a directory or not writable.
    """
    try:
        is_new = files.make_directory(root)
    except OSError as error:
        why = error.strerror or error
        if isinstance(error, FileNotFoundError):
            why = f"there is no {os.path.dirname(root)}, create it first (mkdir -p)"
        raise InputError(f"can't create the workdir {root}: {why}") from error
    if not files.is_directory(root):
        raise InputError(f"the workdir {root} is not a directory")
    if not files.is_permitted(root, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(f"the workdir {root} can't be written: check its permissions")
    return is_new
