"""The checks of the file system that one node can make.

Rules of this file: a check returns one finding, and lets OSError and FarmError pass
(`run_check`).  Files are written by the farm's own functions.  What follows from a
finding is what a farm would suffer, with the remedy.
"""

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from statistics import median
from typing import Final, NamedTuple

from mpifarm.commands.selftest.findings import (
    SelfTestFinding,
    broken,
    holds,
    measured,
    run_check,
    untested,
)
from mpifarm.errors import FutileError, StorageError
from mpifarm.system import files, processes
from mpifarm.system.lock import WorkdirLock, lock_paths

SYNCS = 20
SLOW_SYNC = 0.05

MIN_BYTES = 100 << 20
MIN_FILES = 1000

LOCK_SECONDS = 5.0
"""Longest wait for a lock that others hold for a moment."""

FREE_SECONDS = 5.0
"""Within which a lock has to be free after its holder was killed."""

FULL_REMEDY = "a farm stops with status 75 when it is full: make room"

LOCK_REMEDY = (
    "two farms on one workdir could run a task twice: give all of them --lock-area (or"
    " $SCRATCH) on a file system where flock does exclude, or start only one"
)


class Stage(NamedTuple):
    """The directory of a check, and the lock area of its farms."""

    directory: str
    lock_area: str | None = None

    def path(self, name: str) -> str:
        """Return a file in the directory."""
        return f"{self.directory}/{name}"

    def lock_files(self) -> tuple[str, ...]:
        """Return the lock files of a farm on this host, whose variables name areas."""
        return lock_paths(self.directory, os.environ, self.lock_area)


# ---- the lock -----------------------------------------------------------------------

_locks: dict[tuple[str, ...], WorkdirLock] = {}
"""The locks that this process has tried, by their files."""


def find_lock(paths: tuple[str, ...]) -> WorkdirLock:
    """Return the lock of these files; raise FarmError if there is no flock for them."""
    if paths not in _locks:
        lock = WorkdirLock(paths)
        lock.probe()
        _locks[paths] = lock
    return _locks[paths]


def take(paths: tuple[str, ...], seconds: float) -> bool:
    """Take a lock and keep it.  Return False if others hold it for `seconds`."""
    try:
        find_lock(paths).acquire(seconds)
    except FutileError:
        return False
    return True


def release(paths: tuple[str, ...]) -> None:
    """Release the lock that `take` took on these paths; no effect without one."""
    if paths in _locks:
        _locks[paths].release()


def remove_locks() -> None:
    """Unlink the lock files: nobody else knows these workdirs."""
    for path in {path for lock in _locks.values() for path in lock.paths}:
        with suppress(OSError):
            os.unlink(path)
    _locks.clear()


def check_lock(stage: Stage) -> SelfTestFinding:
    """Return whether the lock excludes, and is free when its holder was killed."""
    lock = find_lock(stage.lock_files())
    ours, theirs = socket.socketpair()

    def hold() -> None:
        ours.close()
        lock.acquire(LOCK_SECONDS)
        theirs.send(b"held")
        theirs.recv(1)  # returns when the parent is gone

    holder = processes.fork_child(hold)
    theirs.close()
    try:
        if not ours.recv(4):
            return untested("another process could not take the lock")
        if take(lock_files := stage.lock_files(), 0.1):
            release(lock_files)
            return broken("both held it at once", LOCK_REMEDY)
    finally:
        processes.kill_process(holder, signal.SIGKILL)
        processes.reap_child(holder)
        ours.close()
    begun = time.monotonic()
    if not take(lock_files, FREE_SECONDS):
        return broken(
            f"still taken {FREE_SECONDS:g} s after kill -9 of its holder",
            "after a kill no farm can start here until the lock is free: use"
            " --lock-area on another file system",
        )
    seconds = time.monotonic() - begun
    release(lock_files)
    partly = f"{lock.describe()}: all farms must have the same lock area"
    return holds(
        "the holder of the lock keeps the other out; free"
        f" {in_ms(seconds)} after kill -9 of its holder",
        partly if lock.without_flock else "",
    )


# ---- space and time -----------------------------------------------------------------


def check_fsync(stage: Stage) -> SelfTestFinding:
    """Return whether fsync works, and how long it takes."""
    seconds = []
    for number in range(SYNCS):
        begun = time.monotonic()
        try:
            files.append(stage.path("synced"), b"%d\n" % number, sync=True)
        except StorageError as error:
            if is_full(error.__cause__):
                return untested("the disk is full", FULL_REMEDY)
            raise
        seconds.append(time.monotonic() - begun)
    middle = median(seconds)
    follows = (
        "results go to disk a few at a time; lists of very short tasks run slower,"
        " nothing is lost"
    )
    return holds(
        f"works; median {in_ms(middle)}, longest {in_ms(max(seconds))}",
        follows if middle > SLOW_SYNC else "",
        middle,
    )


def check_room(stage: Stage) -> SelfTestFinding:
    """Return whether there is space for files, and a MiB can be written."""
    written, is_short = "1 MiB written", False
    try:
        files.write_staging_file(stage.path("room"), (b"\0" * (1 << 20),))
    except StorageError as error:
        if not is_full(error.__cause__):
            raise
        written, is_short = "1 MiB can't be written", True
    status = os.statvfs(stage.directory)
    free = status.f_bavail * status.f_frsize
    inodes = f", {status.f_favail} files" if status.f_files else ""
    seen = f"{free / (1 << 30):.1f} GiB{inodes}"
    seen += f"; {written} (quota -s, or lfs quota, tells your quota)"
    if is_short or free < MIN_BYTES or (inodes and status.f_favail < MIN_FILES):
        return broken(seen, FULL_REMEDY)
    return holds(seen)


def is_full(error: BaseException | None) -> bool:
    """Return whether a call failed because disk or quota are used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


# ---- the mount ----------------------------------------------------------------------


class Mount(NamedTuple):
    """A mounted file system."""

    kind: str
    source: str
    options: str


def check_mount(stage: Stage) -> SelfTestFinding:
    """Tell which file system it is, and of options that touch our promises."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        mount = find_mount(os.path.realpath(stage.directory), file.read())
    if mount is None:
        return untested("the mounts can't be read")
    seen = f"{mount.kind} ({mount.source}), {mount.options}"
    return measured(seen, warn_of_mount(mount))


def find_mount(path: str, mounts: str) -> Mount | None:
    """Return the file system of `path`, None if it is not found.

    `mounts` has a line for each mount, as fstab(5) says.
    """
    longest, found = 0, None
    fields = r"^([^ ]*) ([^ ]+) ([^ ]+) ([^ ]+)"
    for source, point, kind, options in re.findall(fields, mounts, re.MULTILINE):
        # A blank is written as \040.
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
        is_inside = path == place or path.startswith(place.rstrip("/") + "/")
        if is_inside and len(place) >= longest:  # of two on one place the last counts
            longest, found = len(place), Mount(kind, source, options)
    return found


def warn_of_mount(mount: Mount) -> str:
    """Return what a farm should know of the mount, "" if nothing."""
    options = mount.options.split(",")
    local = {"nolock", "local_lock=flock", "local_lock=all"} & {*options}
    match mount.kind:
        case "lustre" if "flock" not in options:
            return "mounted without flock: see whether locks exclude between nodes"
        case "nfs" | "nfs4" if local:
            return f"mounted with {local.pop()}: locks exclude on one node only"
        case "gpfs":
            return "flock has excluded on one node only: see the lines on flock"
        case "tmpfs" | "ramfs" | "overlay":
            return "this is memory, or local to the node: gone with it"
    if mount.kind.startswith("beegfs"):
        return "locks exclude on one node only unless tuneUseGlobalFileLocks is set"
    return ""


def in_ms(seconds: float) -> str:
    """Return a time in words."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


# ---- all of them ---------------------------------------------------------------------

FILE_SYSTEM: Final = "file system"
LOCK: Final = "flock between two processes on this node"

CHECKS: Final[Mapping[str, Callable[[Stage], SelfTestFinding]]] = {
    FILE_SYSTEM: check_mount,
    "free space": check_room,
    "fsync": check_fsync,
    LOCK: check_lock,
}
"""The checks of one node, by their names."""


def check_alone(stage: Stage) -> Iterator[SelfTestFinding]:
    """Yield the findings of one node."""
    for name, check in CHECKS.items():
        yield run_check(name, check, stage)
