"""The files of claims: this farm's own, and those of other farms.

Rules of this file: claims are created, assessed and removed only under the main lock;
`claim_journal` has their format.  A farm holds an exclusive ``flock`` on its claim.  A
staging file of a queue goes only after the claim that names it.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from mpifarm.errors import FutileError, StorageError
from mpifarm.model.paths import WorkdirPaths, parse_queue_staging
from mpifarm.store.claim_journal import (
    DamagedClaimError,
    Event,
    Head,
    Journal,
    LockFile,
    encode_event,
    encode_head,
)
from mpifarm.store.farm_liveness import (
    ClaimEvidence,
    ClaimLock,
    FarmLiveness,
    Machine,
    assess_liveness,
)
from mpifarm.system import files
from mpifarm.system.regular_files import OddFileError

_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ELOOP}
"""Errors at the opening of a claim that do not mean that the disk has failed."""
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class ClaimLostError(FutileError):
    """The loss of this farm's claim: it was taken for dead, or its workdir is gone."""


# ---- locks ---------------------------------------------------------------------------


def share_a_lock(ours: Iterable[LockFile], head: Head, *, same_boot: bool) -> bool:
    """Return whether two farms take a lock file in common.

    `same_boot`: whether both run on one machine.  From another machine a file has
    another device number, so that inode number and name are compared.
    """
    if same_boot:
        theirs = {(lock.device, lock.inode) for lock in head.locks}
        return any((lock.device, lock.inode) in theirs for lock in ours)
    named = {(os.path.basename(lock.path), lock.inode) for lock in head.locks}
    return any((os.path.basename(lock.path), lock.inode) in named for lock in ours)


def find_lock_files(paths: Iterable[str]) -> tuple[LockFile, ...]:
    """Return the lock files that exist, which are all if the lock is held.

    Raises `StorageError`.
    """
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            status = _status_of(path)
            absolute = os.path.abspath(path)
            found.append(LockFile(absolute, status.st_dev, status.st_ino))
    return tuple(found)


def _status_of(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise files.storage_error("read", path, error) from error


def take_flock(descriptor: int) -> bool:
    """Try to take the exclusive ``flock``, without waiting.  Return whether it is ours.

    Return True, too, on a file system without such locks, where the answer proves
    nothing.  Raises OSError.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    return True


def is_at(descriptor: int, path: str) -> bool:
    """Return whether `path` still names the open file; raises `StorageError`.

    `path` is opened, since NFS answers for names out of a cache for seconds.
    """
    try:
        with files.opened(path, os.O_RDONLY) as there:
            return os.path.samestat(os.fstat(there), os.fstat(descriptor))
    except (FileNotFoundError, OddFileError):
        return False
    except OSError as error:
        raise files.storage_error("open", path, error) from error


# ---- the claim of this farm ---------------------------------------------------------


class OwnClaim:
    """This farm's claim, from its creation to its removal.

    `held` are the ids that the claim holds.  The descriptor stays open for life: it
    carries the lock that says "alive".  No other program writes this file.

    The constructor creates the file, locks it and writes its head.  Raises
    `StorageError`.
    """

    def __init__(self, paths: WorkdirPaths, head: Head) -> None:
        self.farm = head.farm
        self.path = paths.claim(head.farm)
        self.held: set[int] = set()
        try:
            self._descriptor = files.create_exclusively(self.path)
        except OSError as error:
            raise files.storage_error("create", self.path, error) from error
        try:
            self._claim(head)
        except StorageError:
            self.end()
            with suppress(OSError):
                os.unlink(self.path)
            raise
        except BaseException:
            self.end()
            raise

    def _claim(self, head: Head) -> None:
        try:
            locked = take_flock(self._descriptor)
        except OSError as error:
            raise files.storage_error("lock", self.path, error) from error
        if not locked or not is_at(self._descriptor, self.path):
            raise StorageError(f"another farm has taken over {self.path}")
        files.append_to(self._descriptor, self.path, encode_head(head), sync=True)

    def check(self) -> None:
        """Raise `ClaimLostError` unless the claim's file is still this farm's."""
        if not is_at(self._descriptor, self.path):
            raise ClaimLostError(
                f"the claim {self.path} is gone: another farm took this one for dead "
                "and took its tasks over, or the workdir was removed"
            )

    def append(self, event: Event, *, sync: bool = True) -> None:
        """Append an event to the file; raises `StorageError`.

        `held` stays: the caller changes it when the event has happened.
        """
        files.append_to(self._descriptor, self.path, encode_event(event), sync=sync)

    def append_step(self, event: Event, staging: str) -> None:
        """Append and sync the event of a step that happens by the rename of `staging`.

        If that fails, remove `staging` and raise `StorageError`.  If a part of the
        event may be in the claim, leave `staging` there, but empty: its presence says
        that the step did not happen.
        """
        before = self._find_size()
        try:
            self.append(event)
        except StorageError:
            files.truncate(staging)
            if before is not None and self._find_size() == before:
                with suppress(StorageError):
                    files.remove(staging)
            raise

    def _find_size(self) -> int | None:
        try:
            return os.fstat(self._descriptor).st_size
        except OSError:
            return None

    def beat(self) -> None:
        """Set the claim's modification time, the heartbeat, to now.

        Raises `StorageError`.
        """
        files.touch(self._descriptor, self.path)

    def end(self) -> None:
        """Close the file, and with it give up the claim's lock.

        Other farms may take this one for dead from now on.  A second call does nothing.
        """
        if self._descriptor >= 0:
            with suppress(OSError):  # each line that matters was synced
                os.close(self._descriptor)
            self._descriptor = -1


# ---- the claims of others -----------------------------------------------------------


@dataclass(slots=True)
class OtherClaim:
    """Another farm's claim, as far as it was read.

    `offset` is the end of the read part in bytes, `inode` the device and inode of the
    file.  `damage` says in words why the claim cannot be understood, None if it can.
    """

    farm: str
    path: str
    journal: Journal
    offset: int = 0
    inode: tuple[int, int] | None = None
    damage: str | None = None

    def describe(self) -> str:
        """Return farm, host and pid in words, the farm alone without a head."""
        head = self.journal.head
        return f"{self.farm} {head.where}" if head else self.farm

    def keeps(self, taskid: int) -> bool:
        """Return whether the farm holds the task, and is not requeueing it now."""
        return taskid in self.journal.held and taskid not in self.journal.giving


@dataclass(slots=True)
class OtherClaims:
    """The claims of all farms but this one (`farm` may have none yet)."""

    paths: WorkdirPaths
    farm: str
    claims: dict[str, OtherClaim] = field(default_factory=dict)

    def poll(self) -> None:
        """Update `claims`: meet new ones, read on in known ones, forget removed ones.

        Raises `StorageError`.
        """
        names = files.find_names(self.paths.claims)
        there = {
            name for name in names if name != self.farm and not name.startswith(".")
        }
        for gone in self.claims.keys() - there:
            del self.claims[gone]
        for name in sorted(there):
            self._poll_one(name)

    def _poll_one(self, name: str) -> None:
        """Read on in a claim, or from its beginning if the file is another one."""
        claim = self.claims.get(name) or self._meet(name)
        try:
            with files.opened(claim.path, os.O_RDONLY) as descriptor:
                status = os.fstat(descriptor)
                if claim.inode not in (None, (status.st_dev, status.st_ino)):
                    claim = self._meet(name)
                claim.inode = (status.st_dev, status.st_ino)
                content = files.read_descriptor(descriptor, claim.offset)
        except OddFileError as error:
            claim.damage = error.strerror or ""
            return
        except OSError as error:
            raise files.storage_error("read", claim.path, error) from error
        self._feed(claim, content)

    def _feed(self, claim: OtherClaim, content: bytes) -> None:
        claim.offset += len(content)
        try:
            claim.journal.feed(content)
        except DamagedClaimError as error:
            claim.damage = str(error)
        except StorageError:
            # Whether its steps have happened is not known now: read it all again.
            del self.claims[claim.farm]
            raise

    def _meet(self, name: str) -> OtherClaim:
        """Add an unread claim to `claims`, in place of one of the same name."""

        def step_happened(step: int) -> bool:
            return not files.exists(self.paths.queue_staging(name, step))

        claim = OtherClaim(name, self.paths.claim(name), Journal(step_happened))
        self.claims[name] = claim
        return claim

    def hold(self, taskid: int) -> bool:
        """Return whether a farm holds the id, and is not requeueing it now."""
        for claim in self.claims.values():  # noqa: SIM110 - any() takes three times as long
            if claim.keeps(taskid):
                return True
        return False

    def held_ids(self) -> set[int]:
        """Return all ids that the farms hold, also those that they requeue now."""
        held: set[int] = set()
        for claim in self.claims.values():
            held.update(claim.journal.held)
        return held


class Grasp(NamedTuple):
    """The liveness of a claim's farm, and the claim's descriptor.

    The descriptor is -1 if this process must not write to the claim.
    """

    liveness: FarmLiveness
    descriptor: int

    @property
    def is_reclaimable(self) -> bool:
        """Whether the farm is dead, and its claim this process's to end."""
        return self.liveness is FarmLiveness.DEAD and self.descriptor >= 0


@contextmanager
def grasped(claim: OtherClaim, machine: Machine) -> Iterator[Grasp]:
    """Assess the farm of a claim; hold the claim's lock meanwhile, if it is free.

    The main lock has to be held, under which a farm that starts takes the lock of its
    claim.  Raises `StorageError`.
    """
    try:
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(claim.path, flags)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise files.storage_error("open", claim.path, error) from error
        yield Grasp(assess_untaken(claim, machine, _try_read_only(claim)), -1)
        return
    try:
        yield _assess_open(claim, descriptor, machine)
    finally:
        os.close(descriptor)


def _try_read_only(claim: OtherClaim) -> ClaimLock:
    """Return `HELD` if the lock of another user's claim is held, else `UNTRIED`."""
    try:
        with files.opened(claim.path, os.O_RDONLY) as descriptor:
            return ClaimLock.UNTRIED if take_flock(descriptor) else ClaimLock.HELD
    except OSError:  # NFS wants it open for writing
        return ClaimLock.UNTRIED


def _assess_open(claim: OtherClaim, descriptor: int, machine: Machine) -> Grasp:
    try:
        if not take_flock(descriptor):
            return Grasp(FarmLiveness.HOLDS_LOCK, descriptor)
        if not is_at(descriptor, claim.path):
            return Grasp(assess_untaken(claim, machine), -1)
        heartbeat = os.fstat(descriptor).st_mtime
    except OSError as error:
        raise files.storage_error("read", claim.path, error) from error
    return Grasp(
        _assess(claim, machine, ClaimLock.TAKEN, lambda: heartbeat), descriptor
    )


def assess_untaken(
    claim: OtherClaim, machine: Machine, lock: ClaimLock = ClaimLock.UNTRIED
) -> FarmLiveness:
    """Assess the farm of a claim whose lock this process has not taken.

    A claim that cannot be looked at is `UNCERTAIN`.
    """
    try:
        return _assess(claim, machine, lock, lambda: os.stat(claim.path).st_mtime)
    except OSError:
        return FarmLiveness.UNCERTAIN


def _assess(
    claim: OtherClaim,
    machine: Machine,
    lock: ClaimLock,
    find_heartbeat: Callable[[], float],
) -> FarmLiveness:
    def find_age() -> float:
        clock = machine.read_file_clock(os.path.dirname(claim.path))
        return clock - find_heartbeat()

    evidence = ClaimEvidence(
        claim.journal.head, claim.damage is not None, lock, find_age
    )
    return assess_liveness(evidence, machine)


def find_leftovers(
    paths: WorkdirPaths, farm: str | None = None
) -> list[tuple[str, str, int]]:
    """Return path, farm and step of each staging file of a queue, sorted by name.

    `farm` limits them to one farm; None means all.  Raises `StorageError`.
    """
    try:
        names = os.listdir(paths.root)
    except OSError as error:
        raise files.storage_error("read", paths.root, error) from error
    found = []
    for name in sorted(names):
        step = parse_queue_staging(name)
        if step and (farm is None or step[0] == farm):
            found.append((paths.file(name), *step))
    return found
