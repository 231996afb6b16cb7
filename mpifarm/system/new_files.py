"""New files that take long to make: written beside their place, and named at the end.

Rules of this file: a maker holds an exclusive ``flock`` on what it writes, which ends
with it.  So the next maker of a file of that name removes what killed ones have left.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from mpifarm.errors import InputError
from mpifarm.system import files
from mpifarm.system.regular_files import open_regular

_LEFT: Final = re.compile(r"\.[0-9a-f]{8}\.new")
"""What the name of a file that is being made has behind that of the new file."""

_MARK: Final = ".making.new"
"""What the name of an empty file has, behind that of the file, while one process alone
makes that."""


@contextmanager
def staging_for(path: str) -> Iterator[str]:
    """Give the name of an empty file, to be written in a ``with`` block.

    At the end of the block it gets the name `path`, once that is on the disk; if the
    block raises, it is removed.  What is written has to be synced by the caller.
    Raises `InputError` if there is such a file by then, `StorageError` if the disk
    fails.
    """
    _remove_left(path)
    staging = f"{path}.{secrets.token_hex(4)}.new"
    try:
        descriptor = files.create_exclusively(staging)
    except OSError as error:
        raise files.storage_error("write", staging, error) from error
    try:
        _take_flock(descriptor)
        yield staging
        files.rename_new(staging, path)
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(staging)


@contextmanager
def sole_maker(path: str, refusal: str) -> Iterator[None]:
    """Be the only maker of the file `path`, and of what goes with it, in a block.

    Raises `InputError` with the sentence `refusal` while another process is in such a
    block, `StorageError` if the disk fails.  A killed one hinders nobody.
    """
    mark = path + _MARK
    try:
        descriptor = _take_mark(mark)
    except OSError as error:
        raise files.storage_error("write", mark, error) from error
    if descriptor is None:
        raise InputError(refusal)
    try:
        yield
    finally:
        # Before it is unlocked: so whoever has opened it sees that it is gone.
        with suppress(OSError):
            os.unlink(mark)
        os.close(descriptor)


def _take_mark(mark: str) -> int | None:
    """Return the descriptor of a mark, locked if its file system has locks.

    Return None if another process has locked it.
    """
    while True:
        descriptor = _open_mark(mark)
        is_taken = _has_other_flock(descriptor)
        if not is_taken and _is_at(descriptor, mark):
            return descriptor
        os.close(descriptor)
        if is_taken:
            return None


def _open_mark(mark: str) -> int:
    try:
        return open_regular(mark, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        # Another user's, whose maker was killed.
        with suppress(OSError):
            return open_regular(mark, os.O_RDONLY)
        raise


def _is_at(descriptor: int, path: str) -> bool:
    """Return whether `path` still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _has_other_flock(descriptor: int) -> bool:
    """Take the lock, if that can be had.  Return whether another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _remove_left(path: str) -> None:
    """Remove what killed makers of this file have left."""
    directory, name = os.path.split(path)
    for each in files.find_names(directory or "."):
        if each.startswith(name) and _LEFT.fullmatch(each, len(name)):
            with suppress(OSError):
                _remove_if_left(os.path.join(directory, each))


def _remove_if_left(staging: str) -> None:
    descriptor = open_regular(staging, os.O_RDWR)
    try:
        # Its maker may be about to take the lock of an empty one.
        if os.fstat(descriptor).st_size and _take_flock(descriptor):
            os.unlink(staging)
    finally:
        os.close(descriptor)


def _take_flock(descriptor: int) -> bool:
    """Try to take the lock.  Return False if that fails, and proves nothing."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
