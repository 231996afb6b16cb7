"""Safe opening of regular files: follow no link, wait for no fifo.

Rules of this file: the kind of a file is asked of the open descriptor, never of its
name before: between the two, another process may give the name to something else.
"""

import os
import stat
from contextlib import suppress
from typing import NoReturn

_CAREFUL = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: else the open of a fifo waits for its other end.  On a regular file it
has no effect."""

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class OddFileError(OSError):
    """A link, directory, fifo or device in place of a file, named in `strerror`."""


def kind_in_words(mode: int) -> str:
    """Return the kind of an irregular file ("a fifo"), "" for a regular file."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def open_regular(
    path: str, flags: int, mode: int = 0o666, *, follow: bool = False
) -> int:
    """Open a regular file and return its descriptor, which no program inherits.

    `follow`: also follow a link to one.  O_TRUNC is obeyed once the file is known to be
    regular.  Waits while another program has a lease on the file.  Raises
    `OddFileError` for another kind of file, else `OSError`.
    """
    careful = _CAREFUL & ~os.O_NOFOLLOW if follow else _CAREFUL
    # Truncated below, once it is known to be a regular file.
    opening = (flags & ~os.O_TRUNC) | careful
    try:
        descriptor = os.open(path, opening, mode)
    except FileNotFoundError:
        raise
    except OSError as error:
        descriptor = _open_otherwise(path, opening, mode, error)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            _refuse(path, status.st_mode)
        if flags & os.O_TRUNC and status.st_size:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_otherwise(path: str, flags: int, mode: int, error: OSError) -> int:
    """Raise `OddFileError` if `path` is no regular file, or wait for a lease's end.

    Return a descriptor after the lease; raise `error` for any other reason.
    """
    found = 0
    with suppress(OSError):
        look = os.lstat if flags & os.O_NOFOLLOW else os.stat
        found = look(path).st_mode
    if found and not stat.S_ISREG(found):
        _refuse(path, found, error)
    if not isinstance(error, BlockingIOError):
        raise error
    # Another program, such as a file server, has a lease on the file.  A blocking open
    # waits until it is given up (fcntl(2), "Leases").
    return os.open(path, flags & ~os.O_NONBLOCK, mode)


def _refuse(path: str, mode: int, error: OSError | None = None) -> NoReturn:
    """Raise `OddFileError` for a file of this `mode`."""
    number = error.errno if error and error.errno else 22
    raise OddFileError(number, f"it is {kind_in_words(mode)}", path) from error


def read_end(path: str, most: int, offset: int = 0, length: int | None = None) -> bytes:
    """Return the last bytes, `most` at most, of a part of a regular file.

    The part begins at `offset` and has `length` bytes, None for all that follow.
    Raises OSError.
    """
    descriptor = open_regular(path, os.O_RDONLY)
    try:
        end = os.fstat(descriptor).st_size
        if length is not None:
            end = min(end, offset + length)
        begin = max(offset, end - most)
        return os.pread(descriptor, max(0, end - begin), begin)
    finally:
        os.close(descriptor)
