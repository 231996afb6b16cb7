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

import mpifarm

MAX_LINKS: Final = 40
"""Links on the way to a file, as Linux follows them."""

OVERFLOW_UID: Final = "/proc/sys/kernel/overflowuid"
"""The file with the user id that the kernel shows for one that it can't show."""

UID_MAP: Final = "/proc/self/uid_map"
"""The file with the user ids that this user namespace has, of some containers."""

ALL_UIDS: Final = 2**32 - 1
"""The number of user ids outside any container."""


class Stranger(NamedTuple):
    """Who could have written a file.

    `path` is the file, or a directory or link on the way to it.
    """

    path: str
    why: str
    is_mendable: bool
    """Whether all that is wrong is the mode of `path`, and this user may change it."""
    is_above: bool = False
    """Whether only the owner of a directory above the file could have replaced it.

    The file itself is right, and so is each link.
    """

    def find_remedy(self, otherwise: str) -> str:
        """Return the command that mends `path`, `otherwise` if this user can't."""
        return f"chmod go-w {shlex.quote(self.path)}" if self.is_mendable else otherwise


def find_stranger(path: str) -> str:
    """Return why a file is not to be trusted, in words; "" if nothing is wrong.

    As `judge_file`.
    """
    found = judge_file(path)
    return found.why if found else ""


def judge_file(path: str) -> Stranger | None:
    """Return who could have written a file, None if it is to be trusted.

    The file, and each directory and link on the way to it, has to belong to this user,
    root or the owner of mpifarm, and must not be writable for everyone; a directory
    with the sticky bit may be.  What more people could have written is told before a
    directory of another user.  Raises OSError if the file is missing.
    """
    os.stat(path)
    above = None
    for each in reversed([*_walk(path)]):
        found = _find_fault(each, _find_status(each))
        if found and not found.is_above:
            return found
        above = above or found
    return above


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
    is_directory = stat.S_ISDIR(status.st_mode)
    is_link = stat.S_ISLNK(status.st_mode)  # whose mode says nothing
    is_ours = _is_trusted(status.st_uid, is_file=not (is_directory or is_link))
    is_sticky = is_directory and status.st_mode & stat.S_ISVTX
    is_open = status.st_mode & stat.S_IWOTH and not (is_sticky or is_link)
    if is_open and (is_ours or is_directory):  # of a file, its owner says more
        may_mend = is_ours and os.geteuid() in (0, status.st_uid)
        return Stranger(path, f"everyone may write {path}", may_mend)
    if not is_ours:
        why = f"{path} belongs to {_name_of(status.st_uid)}, not to you or root"
        return Stranger(path, why, is_mendable=False, is_above=is_directory)
    return None


def _is_trusted(uid: int, *, is_file: bool) -> bool:
    """Return whether a user may own a file, or else a directory or link above it."""
    if uid in (0, os.geteuid()):
        return True
    if uid == _find_overflow_uid():
        # In a container without root's id, the directories of root are shown as this.
        return not is_file and not _has_all_uids()
    return uid == _find_owner_of_mpifarm()


def _find_owner_of_mpifarm() -> int | None:
    """Return the owner of the program that runs, who can have it do anything.

    None if there is no such file.
    """
    try:
        return os.stat(mpifarm.__file__ or "").st_uid
    except OSError:
        return None


def _find_overflow_uid() -> int:
    try:
        with open(OVERFLOW_UID, encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):
        return 65534  # the kernel's default


def _has_all_uids() -> bool:
    """Return whether this process sees all user ids; True if that can't be read."""
    try:
        with open(UID_MAP, encoding="ascii") as stream:
            return sum(int(line.split()[2]) for line in stream) >= ALL_UIDS
    except (OSError, ValueError, IndexError):
        return True


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
