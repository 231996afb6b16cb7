"""The lock of a workdir: ``flock`` on every file that a conforming farmer could hold.

Rules of this file:

- it is the only one that takes a lock, and the only import of filelock;
- a lock file is never truncated, replaced or unlinked, and nothing is kept in it;
- what is held is all locks or none, and they are always taken in the same order, the
  lock area's and then the workdir's own: no two farms can wait for one another;
- nothing here blocks in the kernel: every try is non-blocking, and they are polled;
- between giving back and taking again at least 1 ms passes: plain farmers poll each
  millisecond, and one that finds no gap for 10 s dies;
- the name of a lock in /tmp can be foretold, so in a directory where everyone may write
  nothing is opened that a stranger has put there, be it a link or a file.

Of filelock it uses `lock_descriptor` on files opened here, not ``FileLock``: that one
creates a missing directory (a workdir that vanished would come back, empty), refuses a
lock file that is a symbolic link (plain farmers follow it), and unless told otherwise
falls back to a soft lock, which excludes no plain farmer.
"""

import errno
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import md5

from filelock import lock_descriptor, unlock_descriptor

from mpifarm.errors import FarmError, InputError, StorageError

POLL_SECONDS = 0.001
"""Between two tries, and at least from a release to the next taking."""

DOUBT_SECONDS = 1.0
"""How long an answer counts as "busy" that may only mean that a file was replaced."""

PATIENCE_SECONDS = 0.25
"""How long `WorkdirLock.acquire` keeps the first lock while it waits for the second.

Two groups of plain farmers that have one lock each are seldom both outside at one
moment.  Less than the 0.5 s for which they may have to wait for us.
"""

_AREA_VARIABLES = ("SCRATCH", "TMP", "TMPDIR")
"""Where PyTaskFarmer looks for a lock area, in its order; set and empty counts."""

_NO_FLOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
"""What ``flock`` answers where the file system has none."""

_MOST_LINKS = 40
"""As many links as Linux follows, path_resolution(7)."""

_MOST_RACES = 10
"""How often a file may come and go between our looking for it and making it."""

_OPEN_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: a lease on the file would block the open, and so would a fifo."""

_CREATION_MODE = 0o664
"""Less the umask.  A lock that everyone may write, everyone could hold for ever."""

_AREA_REMEDY = (
    "name a directory whose file system has file locking with --lock-area or $SCRATCH,"
    " the same for every farmer of this workdir"
)


# ---- which files --------------------------------------------------------------------


_STRANGERS_REMEDY = (
    "have it removed, or name a lock area where only you may write with --lock-area or"
    " $SCRATCH, the same for every farmer of this workdir"
)


def lock_paths(
    workdir: str, environ: Mapping[str, str], lock_area: str | None
) -> tuple[str, ...]:
    """The lock files of `workdir`, symbolic links resolved: the area's, then its own.

    The area is `lock_area`, or else what PyTaskFarmer would choose from `environ`.
    Raises InputError where the area is no directory or can't be written, or where a
    stranger's link stands in place of the file.
    """
    own = _resolved(os.path.join(workdir, "lock"))
    area, source = _find_area(environ, lock_area)
    if area is None:
        return (own,)
    # As PyTaskFarmer joins them: an empty area is the root directory.
    in_area = _resolved(f"{area}/{_area_file_name(workdir)}")
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
        # The workdir's own lock is the last.
        self._workdir = os.path.dirname(self.paths[-1])
        self._clock = clock
        self._sleep = sleep
        self._descriptors: list[int] = []
        self._taken = self._released = float("-inf")
        self._busy = self.paths[0]
        self._doubtful_since: float | None = None

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
                usable.setdefault(_probe_flock(path, self._workdir), path)
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
            descriptor = _find_locked(path, self._workdir)
        except OSError as error:
            if self._may_pass(error):
                return False
            self.release()
            raise StorageError(_trouble(path, error)) from error
        self._doubtful_since = None
        if descriptor is None:
            return False
        self._descriptors.append(descriptor)
        return True

    def _may_pass(self, error: OSError) -> bool:
        """ESTALE: another host has just replaced the file.  EAGAIN: a lease on it."""
        if error.errno not in (errno.ESTALE, errno.EAGAIN):
            return False
        if self._doubtful_since is None:
            self._doubtful_since = self._clock()
        return self._clock() - self._doubtful_since < DOUBT_SECONDS

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


def _find_locked(path: str, workdir: str) -> int | None:
    """A descriptor that holds the lock of `path`, or None when another has it."""
    descriptor = _open_lock_file(path, workdir)
    locked = False
    try:
        locked = lock_descriptor(descriptor, blocking=False) and _is_at(
            descriptor, path
        )
        return descriptor if locked else None
    finally:
        if not locked:
            os.close(descriptor)


def _probe_flock(path: str, workdir: str) -> tuple[int, int]:
    """Which file `path` is, once ``flock`` has answered for it, be it "busy"."""
    descriptor = _open_lock_file(path, workdir)
    try:
        lock_descriptor(descriptor, blocking=False)
        return _identity(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _open_lock_file(path: str, workdir: str) -> int:
    """A descriptor of the lock file, which is made where it is not there yet.

    Raises OSError, and `UnsafeLockError` for what a stranger may have put there.
    """
    end = _end_of_links(path)
    descriptor = _open_or_create(end)
    try:
        _refuse_unsafe_file(end, os.fstat(descriptor), workdir)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_or_create(path: str) -> int:
    # First without O_CREAT: in a sticky directory (/tmp) Linux refuses O_CREAT on a
    # file of another user.  Then with O_EXCL, which follows no link at all.
    for _ in range(_MOST_RACES):
        with suppress(FileNotFoundError):
            return os.open(path, _OPEN_FLAGS)
        with suppress(FileExistsError):  # another farmer was quicker
            return os.open(path, _OPEN_FLAGS | os.O_CREAT | os.O_EXCL, _CREATION_MODE)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


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


# ---- what strangers may have put there ----------------------------------------------


class UnsafeLockError(OSError):
    """What stands in place of a lock file may be another user's trap: one sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.EPERM, sentence)
        self.sentence = sentence


def _resolved(path: str) -> str:
    """`path` without links; InputError for one that a stranger has put there."""
    try:
        end = _end_of_links(path)
    except UnsafeLockError as error:
        raise InputError(error.sentence) from error
    except OSError:
        end = path  # told when it is opened
    return os.path.realpath(end)


def _end_of_links(path: str) -> str:
    """What the links lead to: there is a file, or nothing yet.

    Plain farmers follow links, and so a link of the user's own is the same lock.
    """
    for _ in range(_MOST_LINKS):
        target = _find_target(path)
        if target is None:
            return path
        path = os.path.join(os.path.dirname(path), target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _find_target(path: str) -> str | None:
    """Where the link `path` leads, None if it is no link."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISLNK(status.st_mode):
        return None
    directory = os.stat(os.path.dirname(path) or ".")
    # Linux has this rule too, as fs.protected_symlinks, but not everywhere.
    if _is_open_to_all(directory) and status.st_uid not in _safe_owners(directory):
        raise UnsafeLockError(
            f"the lock file {path} is a link that {_user_name(status.st_uid)} has put"
            " into a directory where everyone may write: it is not followed; "
            + _STRANGERS_REMEDY
        )
    return os.readlink(path)


def _refuse_unsafe_file(path: str, status: os.stat_result, workdir: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeLockError(
            f"the lock file {path} is no file ({_kind(status.st_mode)}): remove it"
        )
    directory = os.stat(os.path.dirname(path) or ".")
    if not _is_open_to_all(directory):
        return
    owner = _user_name(status.st_uid)
    if status.st_nlink > 1:
        raise UnsafeLockError(
            f"the lock file {path} of {owner} has a second name (a hard link), and is"
            " in a directory where everyone may write: it is not used; "
            + _STRANGERS_REMEDY
        )
    if status.st_uid in _safe_owners(directory):
        return
    if not _shares_workdir(status.st_uid, workdir):
        raise UnsafeLockError(
            f"the lock file {path} belongs to {owner}, who has no part in the workdir"
            f" {workdir} and could replace it at any time: it is not used; "
            + _STRANGERS_REMEDY
        )


def _is_open_to_all(directory: os.stat_result) -> bool:
    return bool(directory.st_mode & stat.S_IWOTH)


def _safe_owners(directory: os.stat_result) -> tuple[int, int]:
    """We, and who could do anything in that directory anyway (in /tmp: root)."""
    return os.geteuid(), directory.st_uid


def _shares_workdir(uid: int, workdir: str) -> bool:
    """Whether the workdir is that user's, or one that he may write as a group's."""
    status = os.stat(workdir)
    if uid == status.st_uid:
        return True
    if not status.st_mode & stat.S_IWGRP or _is_open_to_all(status):
        return False
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return False
    return status.st_gid in os.getgrouplist(user.pw_name, user.pw_gid)


def _kind(mode: int) -> str:
    return {
        stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }.get(stat.S_IFMT(mode), "something else")


# ---- in words -----------------------------------------------------------------------


def _probe_trouble(path: str, error: OSError) -> FarmError:
    """At the start, what the user can mend is his input; the rest is the storage's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE):
        return StorageError(_trouble(path, error))
    return InputError(_trouble(path, error))


def _trouble(path: str, error: OSError) -> str:
    if isinstance(error, UnsafeLockError):
        return error.sentence
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
