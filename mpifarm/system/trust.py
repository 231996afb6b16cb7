"""Whether a stranger could have written a file that says what to execute.

Rules of this file: fail closed; it only looks.
"""

import os
import pwd
import stat
from collections.abc import Iterator


def find_stranger(path: str) -> str:
    """Return why a file is not to be trusted, in words; "" if nothing is wrong.

    The file, and each directory above it, has to belong to this user or root, and must
    not be writable for everyone; a directory with the sticky bit may be.  So have a
    link's target and the directories above that.  Raises OSError if it is missing.
    """
    for each in (
        os.path.realpath(path),
        *_above(path),
        *_above(os.path.realpath(path)),
    ):
        if why := _find_fault(each, _find_status(each)):
            return why
    return ""


def _above(path: str) -> Iterator[str]:
    """Yield the directories above a path, the nearest first."""
    path = os.path.abspath(path)
    while (above := os.path.dirname(path)) != path:
        path = above
        yield path


def _find_status(path: str) -> os.stat_result:
    return os.stat(path)


def _find_fault(path: str, status: os.stat_result) -> str:
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to {_name_of(status.st_uid)}, not to you or root"
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & stat.S_IWOTH and not is_sticky:
        return f"everyone may write {path}"
    return ""


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
