"""A farm among the farms of a workdir: its own claim, and those of others.

Rules of this file: it knows who holds what, and who is dead; what becomes of the tasks
of a dead farm its caller decides.  A method that says "lock held" is called with the
main lock held.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from mpifarm.errors import InputError, StorageError
from mpifarm.workdir import files
from mpifarm.workdir.claims import (
    Event,
    Head,
    Life,
    LockFile,
    Machine,
    OtherClaim,
    OtherClaims,
    OwnClaim,
    find_leftovers,
    find_lock_files,
    grasped,
    share_a_lock,
)
from mpifarm.workdir.opening import REMEDY
from mpifarm.workdir.paths import WorkdirPaths

FAMILY = 8
"""Characters of a farm's name that it has in common with all that lead it later."""


class Membership:
    """This farm's place in a workdir, from its claim's creation to its removal.

    `notes` takes sentences for the user.
    """

    claim: OwnClaim

    def __init__(
        self, paths: WorkdirPaths, farm: str, machine: Machine, notes: list[str]
    ) -> None:
        self.paths = paths
        self.farm = farm
        self.others = OtherClaims(paths, farm)
        self._machine = machine
        self._notes = notes
        self._locks: tuple[LockFile, ...] = ()
        self._told: set[str] = set()

    # ---- joining --------------------------------------------------------------------

    def judge_others(self, lock_paths: Sequence[str], total: int) -> None:
        """Raise `InputError` if a live farm can't be worked with.  Lock held.

        `total` is the number of tasks in the list.
        """
        self._locks = find_lock_files(lock_paths)
        self.others.look()
        for claim in self.others.claims.values():
            self._judge_list(claim, total)
            self._judge_locks(claim)

    def _judge_list(self, claim: OtherClaim, total: int) -> None:
        last = max(claim.journal.held, default=-1)
        if last >= total:
            raise InputError(
                f"the tasklist was edited since the workdir was begun: the farm of "
                f"{claim.path} holds task {last}, and the tasklist has only "
                f"{total} tasks; {REMEDY}"
            )

    def _judge_locks(self, claim: OtherClaim) -> None:
        head = claim.journal.head
        with grasped(claim, self._machine) as (life, _):
            if life is Life.DEAD or head is None:
                return
        same_boot = head.boot_id == self._machine.boot_id
        if not share_a_lock(self._locks, head, same_boot=same_boot):
            ours = ", ".join(lock.path for lock in self._locks)
            theirs = ", ".join(lock.path for lock in head.locks)
            raise InputError(
                f"farm {head.farm} on {head.host} (pid {head.pid}) works in "
                f"{self.paths.root} under other locks ({theirs}) than this one "
                f"would ({ours}): give both the same SCRATCH or --lock-area"
            )

    def make_directories(self) -> None:
        """Create those that are not there; raises `InputError`, `StorageError`."""
        for directory in (self.paths.logs, self.paths.claims):
            try:
                files.make_directory(directory)
            except OSError as error:
                raise _unusable(directory, error) from error

    def enter(self, clock: Callable[[], float]) -> None:
        """Create this farm's claim.  Lock held."""
        self.claim = OwnClaim(self.paths, self._make_head(clock()))

    def _make_head(self, started: float) -> Head:
        machine = self._machine
        return Head(
            farm=self.farm,
            host=machine.host,
            boot_id=machine.boot_id,
            pid=machine.pid,
            process_start=machine.find_process_start(machine.pid) or 0,
            started=started,
            locks=self._locks,
        )

    # ---- what this farm holds -------------------------------------------------------

    def check_held(self, taskids: Sequence[int]) -> None:
        """Raise `ValueError` for an id that this farm does not hold, or twice."""
        alien = set(taskids) - self.claim.held
        if alien or len(set(taskids)) != len(taskids):
            raise ValueError(f"not held, or twice: {sorted(alien)[:10]}")

    def strike(self, taskids: Sequence[int]) -> None:
        """These need no claim any more: what became of them is on disk."""
        self.claim.append(Event(done=taskids))
        self.claim.held.difference_update(taskids)

    def find_ancestors(self, farm: str) -> list[OtherClaim]:
        """The claims of all that led this farm before, as `farm` or after that.

        Who led between `farm` and this one may have said nothing to anyone.
        """
        family = farm[:FAMILY]
        return [
            claim
            for claim in self.others.claims.values()
            if family and claim.farm.startswith(family) and claim.damage is None
        ]

    def adopt(self, claim: OtherClaim, held: Mapping[int, int]) -> None:
        """Hold what the coordinator that was lost held; its claim goes.  Lock held.

        `held` maps ids to the size of ``failed`` at their take.  That it is dead is
        known, whatever its claim's lock says; if it only seems so, it finds its claim
        gone and records nothing more.  A kill in between leaves the ids in both.
        """
        for size in sorted(set(held.values())):
            ids = [taskid for taskid, taken_at in held.items() if taken_at == size]
            self.claim.append(Event(take=ids, failed=size))
        self.claim.held.update(held)
        self.discard(claim)

    # ---- the others -----------------------------------------------------------------

    def inherit(self, take_back: Callable[[OtherClaim, int], int]) -> int:
        """Have `take_back` called for the claim of each dead farm; the sum of it all.

        Lock held.  It gets the claim's descriptor as well, by which it can be written
        to, and which holds its lock meanwhile.  Of the living the user is told, once.
        """
        requeued = 0
        for claim in list(self.others.claims.values()):
            with grasped(claim, self._machine) as (life, descriptor):
                if life is Life.DEAD:
                    requeued += take_back(claim, descriptor)
                else:
                    self._tell_of(claim, life)
        return requeued

    def remove(self, claim: OtherClaim, requeued: int) -> None:
        """Remove the claim of a dead farm whose tasks are back.  Lock held."""
        self.discard(claim)
        tasks = "task" if requeued == 1 else "tasks"
        self._notes.append(
            f"{requeued} {tasks} taken back from the dead farm {_describe(claim)}"
        )

    def discard(self, claim: OtherClaim) -> None:
        """Remove a claim that says nothing any more.  Lock held.

        Its temporary files go last: those that its journal names say "did not happen"
        as long as there is a journal.
        """
        files.settle_names(self.paths.root)
        files.remove(claim.path)
        for path, _, _ in find_leftovers(self.paths, claim.farm):
            files.remove(path)
        del self.others.claims[claim.farm]

    def _tell_of(self, claim: OtherClaim, life: Life) -> None:
        if claim.damage is not None:
            why = f"can't be understood ({claim.damage}), and is left alone"
        elif life is Life.ALIVE:
            why = "is at work in this workdir too"
        elif owner := files.find_other_owner(claim.path):
            why = f"belongs to {owner}: its tasks are left for a farm of that user"
        else:
            why = "may be dead, but that is not certain: its tasks are left alone"
        note = f"farm {_describe(claim)} {why}"
        if note not in self._told:
            self._told.add(note)
            self._notes.append(note)

    # ---- leaving --------------------------------------------------------------------

    def give_up(self) -> None:
        """Have no claim after all, unless it was adopted.  Lock held."""
        if self.claim.held:
            self.claim.end()
            return
        with suppress(StorageError):
            files.remove(self.claim.path)

    def leave(self) -> bool:
        """Remove the claim if it holds nothing, and return whether.  Lock held.

        Else it is left for the next start to take back.
        """
        try:
            if self.claim.held:
                return False
            self.claim.check()
            files.settle_names(self.paths.root)
            files.remove(self.claim.path)
            with suppress(StorageError):  # The next start removes what is left.
                for path, _, _ in find_leftovers(self.paths, self.farm):
                    files.remove(path)
        finally:
            self.claim.end()
        return True


def _unusable(path: str, error: OSError) -> InputError | StorageError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return InputError(f"can't create {path}: {error.strerror}")
    return files.storage_error("create", path, error)


def _describe(claim: OtherClaim) -> str:
    head = claim.journal.head
    return f"{claim.farm} on {head.host} (pid {head.pid})" if head else claim.farm
