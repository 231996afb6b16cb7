"""The lock of a workdir: ``flock`` on each file that another farmer may lock.

Rules of this file:

- Only this file takes locks and imports filelock.
- A lock file is never truncated, replaced or unlinked, and never has content.
- A farm holds all locks or none.  It takes them in a fixed order, first the lock
  area's, then the workdir's own, so that no two farms wait for each other.
- No call blocks in the kernel: locks are polled.
- A lock in the workdir is not opened through a link.  In a directory where everyone may
  write (/tmp), nothing is opened that a stranger has put there: the name of a lock can
  be computed in advance.
"""

import errno
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import md5

from mpifarm.errors import FarmError, FutileError, InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.system.patience import is_of_the_disk
from mpifarm.system.regular_files import kind_in_words

POLL_SECONDS = 0.001
"""Seconds between two tries, and the least time from a release to the next taking.

Plain farmers poll each millisecond, and end with an error if they find no gap for 10 s
(PyTaskFarmer's timeout)."""

DOUBT_SECONDS = 1.0
"""Seconds for which an error counts as "busy" that may mean a replaced lock file."""

PATIENCE_SECONDS = 0.25
"""Seconds for which `WorkdirLock.acquire` keeps the first lock, waiting for the second.

Where some plain farmers use one lock and some the other, both locks are seldom free at
the same moment.  It is less than the 0.5 s that a farm may keep plain farmers waiting.
"""

_AREA_VARIABLES = ("SCRATCH", "TMP", "TMPDIR")
"""Variables that name PyTaskFarmer's lock area, in its order; an empty one counts."""

_NO_FLOCK = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
"""Errors of ``flock`` on a file system without it."""

_MAX_LINKS = 40
"""As many links as Linux follows (path_resolution(7))."""

_MAX_RACES = 10
"""Tries to open a lock file that others create and remove at the same time."""

_OPEN_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: else a lease on the file, or a fifo in its place, would block the
open."""

_CREATION_MODE = 0o664
"""Less the umask.  Not 0o666: whoever can write a lock file can hold the lock for
ever."""

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
    """Return the lock files of `workdir`, the lock area's first, with links resolved.

    The area is `lock_area`, or else the one that PyTaskFarmer chooses from `environ`;
    without an area, the workdir's own lock is the only one.  Raises InputError if the
    area is not a writable directory, or if a link that may not be followed is in place
    of a lock file; raises StorageError if the disk fails.
    """
    own = _own_lock(workdir)
    area, source = _find_area(environ, lock_area)
    if area is None:
        return (own,)
    # As PyTaskFarmer joins them: an empty area is the root directory.
    in_area = _resolved(f"{area}/{_area_file_name(workdir)}")
    _check_area(in_area, source)
    return (in_area,) if in_area == own else (in_area, own)


def _own_lock(workdir: str) -> str:
    """Return the lock file in the workdir; raises InputError if it is a link."""
    path = WorkdirPaths(workdir).lock
    if os.path.islink(path):
        raise InputError(_NO_LINK.format(path))
    return WorkdirPaths(os.path.realpath(workdir)).lock


_NO_LINK = (
    "the lock file {} is a link, and no file in a workdir is opened through one: remove"
    " it, and name the directory for the lock with --lock-area"
)


def _find_area(
    environ: Mapping[str, str], lock_area: str | None
) -> tuple[str | None, str]:
    """Return the lock area, if any, and the option or variable that names it."""
    if lock_area is not None:
        return lock_area, "--lock-area"
    for variable in _AREA_VARIABLES:
        if variable in environ:
            return environ[variable], f"${variable}"
    return None, ""


def _area_file_name(workdir: str) -> str:
    """Return PyTaskFarmer's name for the lock of `workdir` in a lock area."""
    name = os.fsencode(os.path.abspath(workdir))
    return md5(name, usedforsecurity=False).hexdigest() + "_lock"


def _check_area(path: str, source: str) -> None:
    """Raise InputError if a lock area can't be used; `source` names the option."""
    area = os.path.dirname(path)
    status = _find_status(area)
    if status is None:
        trouble = "does not exist"
    elif not stat.S_ISDIR(status.st_mode):
        trouble = "is not a directory"
    elif _find_status(path) is None and not os.access(area, os.W_OK | os.X_OK):
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


def _find_status(path: str) -> os.stat_result | None:
    """Return the status of a file; None if it is not there or may not be looked at.

    Raises `StorageError` if the disk fails.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if is_of_the_disk(error):
            raise StorageError(_explain(path, error)) from error
        return None


# ---- taking and releasing -----------------------------------------------------------


class WorkdirLock:
    """All lock files of one workdir, taken and released as one lock.

    `paths` are the lock files in use, in the order of taking.  `without_flock` are the
    files that `probe` dropped.  `clock` (monotonic, seconds) and `sleep` are for tests.
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
        """Create each lock file, and check that ``flock`` works; once at the start.

        Drops a path whose file system has no ``flock``, if another remains, and the
        second of two paths to one file, which we would lock twice and so wait for
        ourselves.  Raises InputError if no path remains or a lock file is unusable, and
        StorageError if the storage fails (full, for example).
        """
        usable: dict[tuple[int, int], str] = {}
        without: list[str] = []
        for path in self.paths:
            try:
                usable.setdefault(_probe_flock(path, self._workdir), path)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise _probe_error(path, error) from error
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
        """Take all locks or none, without waiting.  Return whether they are held.

        Return False within 1 ms after the last release, too.  Raises StorageError if a
        lock file cannot be opened or locked any more, RuntimeError if the locks are
        held already.
        """
        if not self._take_more():
            self.release()
        return self.held

    def acquire(self, timeout: float) -> None:
        """Take all locks, polling each ms; raises StorageError after `timeout` seconds.

        It is a `FutileError` if other farmers held a lock for all that time.  Raises
        RuntimeError if the locks are held already.
        """
        deadline = self._clock() + timeout
        try:
            while not self._take_more():
                self._give_up_after(deadline, timeout)
                self._sleep(POLL_SECONDS)
        finally:
            if not self.held:
                self.release()

    def release(self) -> None:
        """Release the locks that are held, if any, in the reverse order."""
        if not self._descriptors:
            return
        while self._descriptors:
            _unlock_and_close(self._descriptors.pop())
        self._released = self._clock()

    @contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        """Hold all locks for the time of a ``with`` block; raises as `acquire` does."""
        self.acquire(timeout)
        try:
            yield
        finally:
            self.release()

    def describe(self) -> str:
        """Return a sentence that names the lock files."""
        text = f"the lock of this workdir is flock on {_listed(self.paths)}"
        if self.without_flock:
            text += f" (there is no flock for {_listed(self.without_flock)})"
        return text

    def _take_more(self) -> bool:
        """Take the missing locks, up to the first that another process holds.

        Return whether all are held.
        """
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
        """Take one more lock.  Return False if another process holds it.

        Raises StorageError, after the release of all locks, if the file can't be used.
        """
        try:
            descriptor = _find_locked(path, self._workdir)
        except OSError as error:
            if self._counts_as_busy(error):
                return False
            self.release()
            raise StorageError(_explain(path, error)) from error
        self._doubtful_since = None
        if descriptor is None:
            return False
        self._descriptors.append(descriptor)
        return True

    def _counts_as_busy(self, error: OSError) -> bool:
        """Return whether an error on a lock file counts as "busy", for a short time."""
        # ESTALE: another host has just replaced the file.  EAGAIN: a lease on it.
        if error.errno not in (errno.ESTALE, errno.EAGAIN):
            return False
        if self._doubtful_since is None:
            self._doubtful_since = self._clock()
        return self._clock() - self._doubtful_since < DOUBT_SECONDS

    def _give_up_after(self, deadline: float, timeout: float) -> None:
        """Raise FutileError at the deadline; release all after `PATIENCE_SECONDS`."""
        now = self._clock()
        if now >= deadline:
            raise FutileError(
                f"the lock {self._busy} was held by other farmers for {timeout:g} s:"
                " see which of them hangs, and run this again"
            )
        if now - self._taken >= PATIENCE_SECONDS:
            self.release()


# ---- one lock file ------------------------------------------------------------------

# filelock is imported where a lock is taken: it takes longer than all else that a
# command which only looks imports.  Not FileLock: it creates a missing directory (a
# removed workdir would come back, empty), refuses a lock file that is a link (plain
# farmers follow it), and may fall back to a soft lock, which plain farmers do not see.


def _find_locked(path: str, workdir: str) -> int | None:
    """Return a descriptor that holds the lock of `path`, None if another holds it."""
    from filelock import lock_descriptor

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
    """Check that ``flock`` works on `path`.  Return the file's device and inode."""
    from filelock import lock_descriptor

    descriptor = _open_lock_file(path, workdir)
    try:
        lock_descriptor(descriptor, blocking=False)
        return _identity(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _open_lock_file(path: str, workdir: str) -> int:
    """Open the lock file, creating it if it does not exist.  Return its descriptor.

    Raises OSError, and `UnsafeLockError` for a file that a stranger may have put there.
    """
    if os.path.dirname(path) == workdir:
        if os.path.islink(path):
            raise UnsafeLockError(_NO_LINK.format(path))
        end = path
    else:
        end = _end_of_links(path)
    try:
        descriptor = _open_or_create(end)
    except OSError:
        _refuse_odd_file(end)
        raise
    try:
        _refuse_unsafe_file(end, os.fstat(descriptor), workdir)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_or_create(path: str) -> int:
    """Open a file, or create it; raises OSError, EAGAIN if others race for it."""
    # First without O_CREAT: in a sticky directory (/tmp) Linux refuses O_CREAT on a
    # file of another user.  Then with O_EXCL, which follows no link at all.
    for _ in range(_MAX_RACES):
        with suppress(FileNotFoundError):
            return os.open(path, _OPEN_FLAGS)
        with suppress(FileExistsError):  # another farmer was quicker
            return os.open(path, _OPEN_FLAGS | os.O_CREAT | os.O_EXCL, _CREATION_MODE)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def _is_at(descriptor: int, path: str) -> bool:
    """Return whether `path` still names the open file."""
    # A lock on a file that was unlinked or replaced since the open excludes nobody.
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return _identity(there) == _identity(os.fstat(descriptor))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _unlock_and_close(descriptor: int) -> None:
    from filelock import unlock_descriptor

    # Both: the unlock also works for copies of the descriptor in forked processes, and
    # the close releases the lock if the unlock fails.
    with suppress(OSError):
        unlock_descriptor(descriptor)
    with suppress(OSError):
        os.close(descriptor)


# ---- files of strangers -------------------------------------------------------------


class UnsafeLockError(OSError):
    """A file in place of a lock file that may be another user's trap."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.EPERM, sentence)
        self.sentence = sentence


def _resolved(path: str) -> str:
    """Return `path` without links; raises InputError for a stranger's link."""
    try:
        end = _end_of_links(path)
    except UnsafeLockError as error:
        raise InputError(error.sentence) from error
    except OSError:
        end = path  # The error is reported when the file is opened.
    return os.path.realpath(end)


def _end_of_links(path: str) -> str:
    """Return the path to which links lead; it need not exist yet.

    Raises `UnsafeLockError` for a stranger's link, OSError.
    """
    # Plain farmers follow links: with a link of the user's own, both use the same file.
    for _ in range(_MAX_LINKS):
        target = _find_target(path)
        if target is None:
            return path
        path = os.path.join(os.path.dirname(path), target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _find_target(path: str) -> str | None:
    """Return the target of the link `path`, None if it is not a link."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISLNK(status.st_mode):
        return None
    directory = os.stat(os.path.dirname(path) or ".")
    # Linux has this rule too (fs.protected_symlinks in proc(5)), but it may be off.
    if _is_open_to_all(directory) and status.st_uid not in _safe_owners(directory):
        raise UnsafeLockError(
            f"the lock file {path} is a link that {_user_name(status.st_uid)} has put"
            " into a directory where everyone may write: it is not followed; "
            + _STRANGERS_REMEDY
        )
    return os.readlink(path)


def _refuse_odd_file(path: str) -> None:
    """Raise `UnsafeLockError` if `path` is not a regular file."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        what = kind_in_words(os.lstat(path).st_mode)
        if what:
            raise UnsafeLockError(
                f"the lock file {path} is not a regular file ({what}): remove it"
            )


def _refuse_unsafe_file(path: str, status: os.stat_result, workdir: str) -> None:
    """Raise `UnsafeLockError` for an open file that may be a stranger's trap."""
    if what := kind_in_words(status.st_mode):
        raise UnsafeLockError(
            f"the lock file {path} is not a regular file ({what}): remove it"
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
    """Return our uid and that of the directory's owner, who can replace any file there.

    In /tmp the owner is root.
    """
    return os.geteuid(), directory.st_uid


def _shares_workdir(uid: int, workdir: str) -> bool:
    """Return whether a user owns the workdir, or may write it by its group."""
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


# ---- sentences ----------------------------------------------------------------------


def _probe_error(path: str, error: OSError) -> FarmError:
    """Return the error of a start: of the storage, or of the input that is wrong."""
    if is_of_the_disk(error):
        return StorageError(_explain(path, error))
    return InputError(_explain(path, error))


def _explain(path: str, error: OSError) -> str:
    """Return the sentence for an error of a lock file, with a remedy."""
    if isinstance(error, UnsafeLockError):
        return error.sentence
    if error.errno in (errno.EACCES, errno.EPERM):
        return _denied(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return (
            f"the lock file {path} cannot be made, as its directory does not exist: "
            "make it, or name another one with --lock-area"
        )
    if error.errno in _NO_FLOCK:
        return f"file locking (flock) has stopped working for {path}: {error.strerror}"
    return f"the lock file {path} can't be used: {error.strerror}"


def _denied(path: str) -> str:
    """Return the sentence for a lock file that we may not write."""
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
