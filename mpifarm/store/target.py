"""A workdir with its tasklist: the words that name it, the tasks, the lock.

Rules of this file: it finds and reads, and creates nothing.  What is wrong is an
InputError of one sentence.
"""

import os
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.plugins.registry import find_handler, find_search_path
from mpifarm.store.directories import make_root
from mpifarm.store.validate import validate_access
from mpifarm.system import files
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.tasklists import TaskList, keeps_own_state, open_tasklist

SUFFIX = "_workdir"


class Target(NamedTuple):
    """A workdir and its tasklist; `tasklist` is None where it can't be found."""

    workdir: str
    tasklist: str | None
    handler: str = "default"
    config: str | None = None
    lock_area: str | None = None


def words_of(place: Target) -> list[str]:
    """Return the words by which a subcommand's command line names the target.

    Where its tasklist is not known, ``FILE`` stands for that.
    """
    words = [place.workdir]
    if place.workdir.rstrip("/") != f"{place.tasklist}{SUFFIX}":
        words += ["--list", place.tasklist or "FILE"]
    return words + _options_of(place)


def farm_words_of(place: Target) -> list[str]:
    """Return the words of a farm's command line that farms the target."""
    words = _options_of(place)
    if place.workdir.rstrip("/") != f"{place.tasklist}{SUFFIX}":
        words += ["--workdir", place.workdir]
    return [*words, place.tasklist or "FILE"]


def _options_of(place: Target) -> list[str]:
    words: list[str] = []
    if place.config is not None:
        words += ["--config", place.config]
    if place.handler != "default":
        words += ["-t", place.handler]
    if place.lock_area is not None:
        words += ["--lock-area", place.lock_area]
    return words


def read_tasks(place: Target, environ: Mapping[str, str]) -> TaskList | None:
    """Return the tasks; None where no tasklist is known.  Raises `InputError`."""
    if place.tasklist is None:
        return None
    handler = find_handler(place.handler, find_search_path(environ, place.config))
    return open_tasklist(handler, place.tasklist, place.workdir, lambda: lambda: None)


def has_own_state(tasks: TaskList | None, place: Target) -> bool:
    """Return whether the tasklist keeps its own state, apart from files."""
    return tasks is not None and keeps_own_state(tasks, place.workdir)


def find_lock(place: Target, environ: Mapping[str, str]) -> WorkdirLock:
    """Return the lock that a farm would take; a probe of it makes its files.

    Raises `InputError` where the workdir could not be written to.
    """
    root = os.path.abspath(place.workdir)
    make_root(root)
    validate_access(WorkdirPaths(root))
    return WorkdirLock(lock_paths(place.workdir, environ, place.lock_area))


def find_existing_lock(place: Target, environ: Mapping[str, str]) -> WorkdirLock | None:
    """Return the lock as far as it is there; None where none was ever taken."""
    paths = lock_paths(place.workdir, environ, place.lock_area)
    there = [path for path in paths if files.is_there(path)]
    return WorkdirLock(there) if there else None


def find_tasklist_of(workdir: str) -> str | None:
    """Return the tasklist whose name a workdir bears, or None if it is not there."""
    path = workdir.rstrip("/")
    tasklist = path.removesuffix(SUFFIX)
    return tasklist if tasklist != path and files.is_file(tasklist) else None


def refuse_as_list(path: str) -> None:
    """Raise `InputError` where a workdir, or a file in one, is named as the list."""
    is_directory = files.is_directory(path)
    workdir = path if is_directory else os.path.dirname(path) or os.getcwd()
    if _is_workdir(workdir):
        place = Target(workdir, find_tasklist_of(workdir))
        farm = shlex.join(["mpifarm", *farm_words_of(place)])
        retry = shlex.join(["mpifarm", "retry", *words_of(place)])
        what = "the workdir" if is_directory else "a file in the workdir"
        raise InputError(
            f"{path} is {what} of a list, and no list: {farm} goes on with the list,"
            f" {retry} puts back what failed"
        )


def _is_workdir(path: str) -> bool:
    """Return whether the directory looks like a workdir."""
    has_list = find_tasklist_of(path) is not None
    return has_list or files.is_there(WorkdirPaths(path).fingerprint)
