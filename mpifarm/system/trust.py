"""Whether a stranger could have written a file that says what to execute.

Rules of this file: fail closed; it only looks.
"""

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from typing import Final

MAX_LINKS: Final = 40
"""Links on the way to a file, as Linux follows them."""


def find_stranger(path: str) -> str:
    """Return why a file is not to be trusted, in words; "" if nothing is wrong.

    The file, and each directory and link on the way to it, has to belong to this user
    or root, and must not be writable for everyone; a directory with the sticky bit may
    be.  Raises OSError if the file is missing.
    """
    os.stat(path)
    for each in reversed([*_walk(path)]):
        if why := _find_fault(each, _find_status(each)):
            return why
    return ""


def _walk(path: str) -> Iterator[str]:
    """Yield the directories and links on the way to a file, from the root; then it."""
    here, links = "/", 0
    yield here
    waiting = os.path.join(os.getcwd(), path).split("/")[::-1]
    while waiting:
        name = waiting.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            continue
        found = os.path.join(here, name)
        yield found
        if not os.path.islink(found):
            here = found
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink(found)
        here = "/" if target.startswith("/") else here
        waiting += target.split("/")[::-1]


def _find_status(path: str) -> os.stat_result:
    return os.lstat(path)


def _find_fault(path: str, status: os.stat_result) -> str:
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to {_name_of(status.st_uid)}, not to you or root"
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    is_link = stat.S_ISLNK(status.st_mode)  # whose mode says nothing
    if status.st_mode & stat.S_IWOTH and not (is_sticky or is_link):
        return f"everyone may write {path}"
    return ""


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
