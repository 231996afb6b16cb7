"""The lock of a workdir: ``flock`` on every file that a conforming farmer could hold.

Rules of this file:

- it is the only one that takes a lock, and the only import of filelock;
- a lock file is never truncated, replaced or unlinked, and nothing is kept in it;
- what is held is all locks or none, and they are always taken in the same order, the
  lock area's and then the workdir's own: no two farms can wait for one another;
- nothing here blocks in the kernel: every try is non-blocking, and they are polled;
- between giving back and taking again at least 1 ms passes: plain farmers poll each
  millisecond, and one that finds no gap for 10 s dies.

Of filelock it uses `lock_descriptor` on files opened here, not ``FileLock``: that one
creates a missing directory (a workdir that vanished would come back, empty), refuses a
lock file that is a symbolic link (plain farmers follow it), and unless told otherwise
falls back to a soft lock, which excludes no plain farmer.
"""

import errno
import os
import pwd
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import md5

from filelock import lock_descriptor, unlock_descriptor

from mpifarm.errors import FarmError, InputError, StorageError

POLL_SECONDS = 0.001
"""Between two tries, and at least from a release to the next taking."""

PATIENCE_SECONDS = 0.25
"""How long `WorkdirLock.acquire` keeps the first lock while it waits for the second.

Two groups of plain farmers that have one lock each are seldom both outside at one
moment.  Less than the 0.5 s for which they may have to wait for us.
"""

_AREA_VARIABLES = ("SCRATCH", "TMP", "TMPDIR")
"""Where PyTaskFarmer looks for a lock area, in its order; set and empty counts."""

_NO_FLOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
"""What ``flock`` answers where the file system has none."""

_AREA_REMEDY = (
    "name a directory whose file system has file locking with --lock-area or $SCRATCH,"
    " the same for every farmer of this workdir"
)


# ---- which files --------------------------------------------------------------------


def lock_paths(
    workdir: str, environ: Mapping[str, str], lock_area: str | None
) -> tuple[str, ...]:
    """The lock files of `workdir`, symbolic links resolved: the area's, then its own.

    The area is `lock_area`, or else what PyTaskFarmer would choose from `environ`.
    Raises InputError where the area is no directory or can't be written.
    """
    own = os.path.realpath(os.path.join(workdir, "lock"))
    area, source = _find_area(environ, lock_area)
    if area is None:
        return (own,)
    # As PyTaskFarmer joins them: an empty area is the root directory.
    in_area = os.path.realpath(f"{area}/{_area_file_name(workdir)}")
    _check_area(in_area, source)
    return (in_area,) if in_area == own else (in_area, own)


def _find_area(
    environ: Mapping[str, str], lock_area: str | None
) -> tuple[str | None, str]:
    """The lock area, if there is one, and what named it."""
    if lock_area is not None:
        return lock_area, "--lock-area"
    for variable in _AREA_VARIABLES:
        if variable in environ:
            return environ[variable], f"${variable}"
    return None, ""


def _area_file_name(workdir: str) -> str:
    """PyTaskFarmer's name for the lock of `workdir` in a lock area."""
    name = os.fsencode(os.path.abspath(workdir))
    return md5(name, usedforsecurity=False).hexdigest() + "_lock"


def _check_area(path: str, source: str) -> None:
    area = os.path.dirname(path)
    if not os.path.exists(area):
        trouble = "does not exist"
    elif not os.path.isdir(area):
        trouble = "is not a directory"
    elif not os.path.exists(path) and not os.access(area, os.W_OK | os.X_OK):
        trouble = "can't be written"
    else:
        return
    remedy = (
        "name another one"
        if source == "--lock-area"
        else f"unset or correct {source}, or name another one with --lock-area"
    )
    raise InputError(
        f"the lock area {area} (from {source}) {trouble}: {remedy},"
        " the same for every farmer of this workdir"
    )


# ---- taking and giving back ---------------------------------------------------------


class WorkdirLock:
    """All lock files of one workdir, taken and given back as one.

    `paths` are those in use, in the order of taking; `without_flock` are those that
    `probe` dropped.  `clock` (monotonic, seconds) and `sleep` are for tests.
    """

    def __init__(
        self,
        paths: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.paths = tuple(paths)
        self.without_flock: tuple[str, ...] = ()
        self._clock = clock
        self._sleep = sleep
        self._descriptors: list[int] = []
        self._taken = self._released = float("-inf")
        self._busy = self.paths[0]

    @property
    def held(self) -> bool:
        """Whether this object holds all locks."""
        return len(self._descriptors) == len(self.paths)

    def probe(self) -> None:
        """Once at start: create each lock file, and see that ``flock`` works on it.

        Drops a path whose file system has no ``flock`` if another remains, and the
        second of two paths to one file, on which we would lock ourselves out.  Raises
        InputError where none remains or a lock file can't be used, and StorageError
        where the storage gives way (full, for example).
        """
        usable: dict[tuple[int, int], str] = {}
        without: list[str] = []
        for path in self.paths:
            try:
                usable.setdefault(_probe_flock(path), path)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise _probe_trouble(path, error) from error
                without.append(path)
        self._released = self._clock()
        if not usable:
            raise InputError(
                f"there is no file locking (flock) for {_listed(without)}: "
                + _AREA_REMEDY
            )
        self.paths = tuple(usable.values())
        self.without_flock = tuple(without)

    def try_acquire(self) -> bool:
        """Take all locks or none, without waiting; whether they are held now.

        False also within 1 ms after the last release.  Raises StorageError when a lock
        file can't be opened or locked any more.
        """
        if not self._take_more():
            self.release()
        return self.held

    def acquire(self, timeout: float) -> None:
        """Take all locks, polling each ms; StorageError after `timeout` seconds."""
        deadline = self._clock() + timeout
        try:
            while not self._take_more():
                self._give_up_after(deadline, timeout)
                self._sleep(POLL_SECONDS)
        finally:
            if not self.held:
                self.release()

    def release(self) -> None:
        """Give back what is held, in the reverse order; nothing held is no error."""
        if not self._descriptors:
            return
        while self._descriptors:
            _unlock_and_close(self._descriptors.pop())
        self._released = self._clock()

    @contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        """``with lock.hold(timeout):`` acquires, and releases at the end."""
        self.acquire(timeout)
        try:
            yield
        finally:
            self.release()

    def describe(self) -> str:
        """One sentence that says which files the locks are."""
        text = f"the lock of this workdir is flock on {_listed(self.paths)}"
        if self.without_flock:
            text += f" (there is no flock for {_listed(self.without_flock)})"
        return text

    def _take_more(self) -> bool:
        """Take the locks that aren't held yet, up to the first that another has."""
        if self.held:
            raise RuntimeError("the workdir's lock is taken twice")
        if not self._descriptors:
            if self._clock() - self._released < POLL_SECONDS:
                return False
            self._taken = self._clock()
        for path in self.paths[len(self._descriptors) :]:
            if not self._take_next(path):
                self._busy = path
                return False
        return True

    def _take_next(self, path: str) -> bool:
        try:
            descriptor = _find_locked(path)
        except OSError as error:
            self.release()
            raise StorageError(_trouble(path, error)) from error
        if descriptor is None:
            return False
        self._descriptors.append(descriptor)
        return True

    def _give_up_after(self, deadline: float, timeout: float) -> None:
        now = self._clock()
        if now >= deadline:
            raise StorageError(
                f"the lock {self._busy} was held by other farmers for {timeout:g} s:"
                " see which of them hangs, and run this again"
            )
        if now - self._taken >= PATIENCE_SECONDS:
            self.release()


# ---- one lock file ------------------------------------------------------------------


def _find_locked(path: str) -> int | None:
    """A descriptor that holds the lock of `path`, or None when another has it."""
    try:
        return _find_locked_now(path)
    except OSError as error:
        # ESTALE: another host has just replaced the file; EAGAIN: see O_NONBLOCK.
        if error.errno in (errno.ESTALE, errno.EAGAIN):
            return None
        raise


def _find_locked_now(path: str) -> int | None:
    descriptor = _open_lock_file(path)
    locked = False
    try:
        locked = lock_descriptor(descriptor, blocking=False) and _is_at(
            descriptor, path
        )
        return descriptor if locked else None
    finally:
        if not locked:
            os.close(descriptor)


def _probe_flock(path: str) -> tuple[int, int]:
    """Which file `path` is, once ``flock`` has answered for it, be it "busy"."""
    descriptor = _open_lock_file(path)
    try:
        lock_descriptor(descriptor, blocking=False)
        return _identity(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _open_lock_file(path: str) -> int:
    # O_NONBLOCK: a lease on the file would block the open.  First without O_CREAT: in
    # a sticky directory (/tmp) Linux refuses O_CREAT on a file of another user.
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CREAT, 0o666)


def _is_at(descriptor: int, path: str) -> bool:
    """Whether `path` still names the open file.

    Who locks a file that was unlinked or replaced since the open excludes nobody.
    """
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return _identity(there) == _identity(os.fstat(descriptor))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _unlock_and_close(descriptor: int) -> None:
    # Both: the unlock also reaches copies of the descriptor that a fork made, and the
    # close releases where the unlock failed.
    with suppress(OSError):
        unlock_descriptor(descriptor)
    with suppress(OSError):
        os.close(descriptor)


# ---- in words -----------------------------------------------------------------------


def _probe_trouble(path: str, error: OSError) -> FarmError:
    """At the start, what the user can mend is his input; the rest is the storage's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return StorageError(_trouble(path, error))
    return InputError(_trouble(path, error))


def _trouble(path: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return _denied(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"the lock file {path} can't be made: its directory is not there"
    if error.errno in _NO_FLOCK:
        return f"file locking (flock) has stopped working for {path}: {error.strerror}"
    return f"the lock file {path} can't be used: {error.strerror}"


def _denied(path: str) -> str:
    """The sentence for a lock file that we may not write."""
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return (
            f"the lock file {path} can't be made: you may not write to its directory"
            f" {os.path.dirname(path)}; " + _AREA_REMEDY
        )
    return (
        f"the lock file {path} belongs to {_user_name(owner)} and you may not write it:"
        " have its owner give you write permission, or use a workdir and a lock area"
        " of your own"
    )


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _listed(paths: Sequence[str]) -> str:
    return " and ".join(paths)
