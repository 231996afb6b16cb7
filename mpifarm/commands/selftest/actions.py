"""What each of the two processes of a check does with files and locks.

Rules of this file: each is a function that another process can be asked for.  Locks are
kept until they are released.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mpifarm.commands.selftest.helpers import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    HelperError,
)
from mpifarm.store import farm_liveness
from mpifarm.system import files
from mpifarm.system.lock import WorkdirLock, lock_paths


class LockPlace(NamedTuple):
    """A lock file, or a directory with all the locks that a farm takes for it."""

    path: str
    lock_area: str | None = None

    def files(self) -> list[str]:
        """Return the lock files of a directory; the environment may name areas."""
        return [*lock_paths(self.path, os.environ, self.lock_area)]


_locks: dict[LockPlace, WorkdirLock] = {}


def take(place: LockPlace, seconds: float) -> bool:
    """Take a lock and keep it.  Return False if it is not free within `seconds`."""
    lock = _find_lock(place)
    deadline = time.monotonic() + seconds
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _find_lock(place: LockPlace) -> WorkdirLock:
    if place not in _locks:
        is_directory = os.path.isdir(place.path)
        lock = WorkdirLock(place.files() if is_directory else [place.path])
        _locks[place] = lock
        if is_directory:
            lock.probe()
    return _locks[place]


def release(place: LockPlace) -> None:
    """Give back what `take` took."""
    if place in _locks:
        _locks[place].release()


@contextmanager
def hold(place: LockPlace) -> Iterator[None]:
    """Take a lock, and give it back at the end."""
    if not take(place, PATIENCE_SECONDS):
        raise HelperError(f"cannot get the lock of {place.path}")
    try:
        yield
    finally:
        release(place)


def remove_locks() -> None:
    """Unlink the lock files: nobody else knows these workdirs."""
    for path in {path for lock in _locks.values() for path in lock.paths}:
        with suppress(OSError):
            os.unlink(path)
    _locks.clear()


def read_locked(path: str, place: LockPlace) -> str | None:
    """Return the file as the next holder of the lock reads it."""
    with hold(place):
        content = files.find_content(path)
    return None if content is None else content.decode()


def record(name: str, number: int) -> bytes:
    """Return a short line that says whose it is."""
    return f"{name} {number}\n".encode()


def append_locked(path: str, place: LockPlace, count: int, name: str) -> None:
    """Append records as a farm does: each under the lock."""
    for number in range(count):
        with hold(place):
            files.append(path, record(name, number), sync=False)


def append(path: str, count: int, name: str) -> None:
    """Append records as ``>>`` does."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number in range(count):
        with files.opened(path, flags) as descriptor:
            os.write(descriptor, record(name, number))


def flip(path: str, old: bytes, new: bytes, count: int) -> None:
    """Replace the file again and again, without `files.replace`, which syncs."""
    beside, flags = f"{path}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number in range(count):
        with files.opened(beside, flags) as descriptor:
            files.write_at(descriptor, 0, old if number % 2 else new)
        files.rename(beside, path)


def await_content(path: str, content: bytes, seconds: float) -> bool:
    """Open the file again and again until it has this content, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while files.find_content(path) != content:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def create(path: str) -> bool:
    """Create a file; return False if it exists."""
    try:
        os.close(files.create_exclusively(path))
    except FileExistsError:
        return False
    return True


def touch(path: str) -> None:
    """Write a heartbeat."""
    with files.opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        files.touch(descriptor, path)


def age(path: str) -> float:
    """Return the seconds since a heartbeat, as a farm reckons them."""
    with files.opened(path, os.O_RDONLY) as descriptor:
        touched = os.fstat(descriptor).st_mtime
    return farm_liveness.read_file_clock(os.path.dirname(path)) - touched
