"""Whether a stranger could have written a file that says what to execute.

Rules of this file: fail closed; it only looks.
"""

import errno
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_LINKS: Final = 40
"""Links on the way to a file, as Linux follows them."""


class Stranger(NamedTuple):
    """Who could have written a file.

    `path` is the file, or a directory or link on the way to it.
    """

    path: str
    why: str
    is_open: bool
    """Whether everyone may write `path`; if not, it belongs to another user."""

    def find_remedy(self, otherwise: str) -> str:
        """Return the command that mends `path`, `otherwise` if only its owner can."""
        return f"chmod go-w {shlex.quote(self.path)}" if self.is_open else otherwise


def find_stranger(path: str) -> str:
    """Return why a file is not to be trusted, in words; "" if nothing is wrong.

    As `judge_file`.
    """
    found = judge_file(path)
    return found.why if found else ""


def judge_file(path: str) -> Stranger | None:
    """Return who could have written a file, None if it is to be trusted.

    The file, and each directory and link on the way to it, has to belong to this user
    or root, and must not be writable for everyone; a directory with the sticky bit may
    be.  Raises OSError if the file is missing.
    """
    os.stat(path)
    for each in reversed([*_walk(path)]):
        if found := _find_fault(each, _find_status(each)):
            return found
    return None


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


def _find_fault(path: str, status: os.stat_result) -> Stranger | None:
    if status.st_uid not in (0, os.geteuid()):
        why = f"{path} belongs to {_name_of(status.st_uid)}, not to you or root"
        return Stranger(path, why, is_open=False)
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    is_link = stat.S_ISLNK(status.st_mode)  # whose mode says nothing
    if status.st_mode & stat.S_IWOTH and not (is_sticky or is_link):
        return Stranger(path, f"everyone may write {path}", is_open=True)
    return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
