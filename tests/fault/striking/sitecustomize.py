"""Strikes a process of a farm at its n-th call that writes; Python imports it.

Rules of this file: it stands alone, in a directory of its own that a test puts into
``PYTHONPATH``.  It changes nothing but calls of the system's that write, and does
nothing in a process that is no farm's.  Its variables:

``STRIKE_AT``    ``30:USR1,45:kill``: what happens at which call, counted from 1.  A
                 name of a signal: it is sent, the call goes on.  ``kill``: KILL before
                 the call.  ``torn``: KILL in mid-write, or right after another call.
``STRIKE_PART``  whose calls count: ``rank``, ``parent`` (of the pool) or ``worker``.
                 A rank's calls on pipes and on its output don't: they change no file;
                 nor does the release of a lock, or the opening of a file that is there.
``STRIKE_NOTES`` the file that gets a line for each strike; the last one of all
                 strikes only once, in whichever process comes to it first.
"""

import builtins
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Callable
from typing import Any, NoReturn

_RANK = os.getpid()
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CALLS = (
    *("write", "writev", "pwrite", "pwritev", "sendfile", "ftruncate", "truncate"),
    *("rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir"),
    *("fsync", "fdatasync", "utime"),
)

_open, _write = os.open, os.write


class _Striker:
    """Counts the calls of this process, and strikes."""

    def __init__(self, schedule: str, part: str, notes: str) -> None:
        entries = (entry.split(":") for entry in schedule.split(","))
        self._strikes = {int(count): deed for count, deed in entries}
        self._part = part
        self._notes = notes
        self._count = 0
        self._pid = _RANK

    def find_deed(self, name: str, args: tuple[Any, ...]) -> str | None:
        """What happens at this call, if anything; it is noted."""
        part = _part_of_this_process()
        if part != self._part or (part == "rank" and _changes_no_file(name, args)):
            return None
        if self._pid != os.getpid():  # a fork counts for itself
            self._pid, self._count = os.getpid(), 0
        self._count += 1
        deed = self._strikes.get(self._count)
        if deed is not None and self._note(
            f"{self._count}:{deed}", f"{name}{args}"[:200]
        ):
            return deed
        return None

    def _note(self, strike: str, call: str) -> bool:
        """False where another process has struck there already."""
        with_mark = f"{self._notes}.{strike}"
        try:
            os.close(_open(with_mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        notes = _open(self._notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _write(notes, f"{strike} {call}\n".encode())
        os.close(notes)
        return True


def _part_of_this_process() -> str:
    if os.getpid() == _RANK:
        return "rank"
    return "parent" if os.getppid() == _RANK else "worker"


def _changes_no_file(name: str, args: tuple[Any, ...]) -> bool:
    first = args[0]
    if name == "open":
        return not args[1] & os.O_CREAT
    if name == "flock" and args[1] & fcntl.LOCK_UN:
        return True
    if not isinstance(first, int):
        return False
    return first <= 2 or not stat.S_ISREG(os.fstat(first).st_mode)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("KILL is deadly")


def _wrap(striker: _Striker, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        deed = striker.find_deed(name, args)
        if deed == "kill":
            _die()
        if deed == "torn":
            if name in ("write", "pwrite"):
                args = args[0], args[1][: len(args[1]) // 2], *args[2:]
            call(*args, **kwargs)
            _die()
        if deed is not None:
            os.kill(os.getpid(), signal.Signals[f"SIG{deed}"])
        return call(*args, **kwargs)

    return wrapped


def _wrap_open(striker: _Striker) -> Callable[..., int]:
    writing = _wrap(striker, "open", os.open)

    def wrapped(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        call = writing if flags & _WRITES else _open
        return int(call(path, flags, *args, **kwargs))

    return wrapped


def _wrap_builtin_open(striker: _Striker) -> Callable[..., Any]:
    reading = builtins.open
    writing = _wrap(striker, "builtin open", builtins.open)

    def wrapped(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return (reading if mode.strip("bt") == "r" else writing)(
            file, mode, *args, **kwargs
        )

    return wrapped


def _install(striker: _Striker) -> None:
    for name in _CALLS:
        setattr(os, name, _wrap(striker, name, getattr(os, name)))
    os.open = _wrap_open(striker)
    builtins.open = _wrap_builtin_open(striker)
    fcntl.flock = _wrap(striker, "flock", fcntl.flock)
    fcntl.lockf = _wrap(striker, "lockf", fcntl.lockf)


if sys.orig_argv[1:3] == ["-m", "mpifarm"] and os.environ.get("STRIKE_AT"):
    _install(
        _Striker(
            os.environ["STRIKE_AT"],
            os.environ["STRIKE_PART"],
            os.environ["STRIKE_NOTES"],
        )
    )
