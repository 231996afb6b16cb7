"""Whether a file system has the locks that SQLite takes (``fcntl`` records).

Rules of this file: it takes no lock for longer than the question.  To close a file
drops all such locks that the process has on it (fcntl(2)), so a process asks only
while it has no connection to the database.
"""

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final

_SHARED_BYTES: Final = (0x40000002, 510)
"""Place and number of the bytes on which SQLite's readers have their locks."""

_NONE: Final = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
)


_answers: Final[dict[int, bool]] = {}
"""What was found out, by the device of the file system."""


def has_record_locks(path: str) -> bool:
    """Return whether the file system of a file has such locks.

    It is asked once: NFS may take long for the answer.
    """
    try:
        device = os.stat(path).st_dev
    except OSError:
        return True
    if device not in _answers:
        _answers[device] = ask(path)
    return _answers[device]


def forget() -> None:
    """Ask again the next time: locks have failed since, or were never there."""
    _answers.clear()


def ask(path: str) -> bool:
    """Return whether a file can have such locks, also if one is taken.

    SQLite finds no difference between a file system without locks and a lock that is
    taken, and waits for it in vain.
    """
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            begin, length = _SHARED_BYTES
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, length, begin)
        except OSError as error:
            return error.errno not in _NONE
        finally:
            os.close(descriptor)
    return True
