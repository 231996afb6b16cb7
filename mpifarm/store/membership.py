"""A farm among the farms of a workdir: its own claim, and those of others.

Rules of this file: it knows which farm holds which tasks, and which farms are dead; the
caller decides what becomes of a dead farm's tasks.  A method that says "lock held" is
called with the main lock held.
"""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import counted
from mpifarm.store.claim_journal import Event, Head, LockFile
from mpifarm.store.claims import (
    OtherClaim,
    OtherClaims,
    OwnClaim,
    assess_untaken,
    find_leftovers,
    find_lock_files,
    grasped,
    share_a_lock,
)
from mpifarm.store.farm_liveness import FarmLiveness, Machine
from mpifarm.store.nowhere import describe_wait, read_nowhere
from mpifarm.store.validate import REMEDY, EditedListError
from mpifarm.system import files

FAMILY = 8
"""Characters of a farm's name that stay the same when another rank leads the farm."""


def put_off(
    error: EditedListError, paths: WorkdirPaths, machine: Machine
) -> EditedListError:
    """Return the error of an edited list, with what is to be waited for first.

    Its remedies are refused while farms may live, or plain farmers may have tasks.  No
    lock is needed.  Raises `StorageError`.
    """
    if not error.remedy:
        return error
    others = OtherClaims(paths, farm="")
    others.poll()
    claims = others.claims.values()
    live = [each for each in claims if assess_untaken(each, machine).may_live]
    ends = [f"the farm {each.describe()} has ended" for each in live[:1]]
    claimed = {taskid for each in claims for taskid in each.journal.held}
    if read_nowhere(paths, claimed):
        ends.append(describe_wait(paths))
    wait = f"once {' and '.join(ends)}, " if ends else ""
    return EditedListError(error.what, f"{wait}{error.remedy}")


class Membership:
    """This farm's place in a workdir, from its claim's creation to its removal.

    `claim` exists from `enter` on.  `notes` takes sentences for the user.
    """

    claim: OwnClaim

    def __init__(
        self, paths: WorkdirPaths, farm: str, machine: Machine, notes: list[str]
    ) -> None:
        self.paths = paths
        self.farm = farm
        self.others = OtherClaims(paths, farm)
        self.array = ""
        """The name of this farm's job array, "" outside of an array."""
        self._machine = machine
        self._notes = notes
        self._locks: tuple[LockFile, ...] = ()
        self._may_live: set[str] = set()
        self._reported: set[str] = set()
        """Sentences about farms that the user need not read twice."""

    # ---- joining --------------------------------------------------------------------

    def validate_others(self, lock_paths: Sequence[str], total: int) -> None:
        """Note the lock files, poll the claims, and check them.  Lock held.

        Raises `InputError` if a claim has a task behind the `total` of the list, or if
        a farm that may live takes other locks.
        """
        self._locks = find_lock_files(lock_paths)
        self.others.poll()
        for claim in self.others.claims.values():
            self._validate_list(claim, total)
            self._validate_locks(claim)

    def _validate_list(self, claim: OtherClaim, total: int) -> None:
        last = max(claim.journal.held, default=-1)
        if last < total:
            return
        with grasped(claim, self._machine) as grasp:
            wait = "" if grasp.is_reclaimable else "once that farm has ended, "
        raise InputError(
            f"the tasklist was edited since the workdir was begun: the farm of "
            f"{claim.path} holds task {last}, and the tasklist has only "
            f"{counted(total)}; {wait}{REMEDY}"
        )

    def _validate_locks(self, claim: OtherClaim) -> None:
        head = claim.journal.head
        with grasped(claim, self._machine) as grasp:
            if grasp.is_reclaimable or head is None:
                return
        same_boot = head.boot_id == self._machine.boot_id
        if not share_a_lock(self._locks, head, same_boot=same_boot):
            ours = ", ".join(lock.path for lock in self._locks)
            theirs = ", ".join(lock.path for lock in head.locks)
            raise InputError(
                f"farm {head.farm} {head.where} works in "
                f"{self.paths.root} under other locks ({theirs}) than this one "
                f"would ({ours}): give both the same SCRATCH or --lock-area"
            )

    def make_directories(self) -> None:
        """Make the directories of logs and claims, unless they exist.

        Raises `InputError`, `StorageError`.
        """
        for directory in (self.paths.logs, self.paths.claims):
            try:
                files.make_directory(directory)
            except OSError as error:
                raise _unusable(directory, error) from error

    def enter(self, clock: Callable[[], float]) -> None:
        """Create this farm's claim; raises `StorageError`.  Lock held."""
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
            array=self.array,
            requests=1,
        )

    # ---- what this farm holds -------------------------------------------------------

    def check_held(self, taskids: Sequence[int]) -> None:
        """Raise `ValueError` for an id that this farm does not hold, or given twice."""
        alien = set(taskids) - self.claim.held
        if alien or len(set(taskids)) != len(taskids):
            raise ValueError(f"not held, or twice: {sorted(alien)[:10]}")

    def release(self, taskids: Sequence[int]) -> None:
        """Release tasks, whose results are on disk, from the claim.

        Raises `StorageError`.
        """
        self.claim.append(Event(done=taskids))
        self.claim.held.difference_update(taskids)

    def find_predecessors(self, farm: str) -> list[OtherClaim]:
        """Return the claims of all ranks that led this farm before, `farm` or later.

        A rank that led in between may have sent nothing before it died.  "" is no farm,
        and damaged claims are left out.
        """
        family = farm[:FAMILY]
        return [
            claim
            for claim in self.others.claims.values()
            if family and claim.farm.startswith(family) and claim.damage is None
        ]

    def take_over(self, claim: OtherClaim, held: Mapping[int, int]) -> None:
        """Hold the tasks of the lost coordinator, and remove its claim.  Lock held.

        `held` maps ids to the size of ``failed`` at their take, in bytes.  The other
        ranks know that the coordinator is lost, even if the lock of its claim is held;
        a coordinator that only seemed lost finds its claim gone and records nothing
        more.  A kill in between leaves the ids in both claims.
        """
        for size in sorted(set(held.values())):
            ids = [taskid for taskid, taken_at in held.items() if taken_at == size]
            self.claim.append(Event(take=ids, failed=size))
        self.claim.held.update(held)
        self.discard(claim)

    # ---- the others -----------------------------------------------------------------

    def reclaim_dead(self, reclaim: Callable[[OtherClaim, int], int]) -> int:
        """Call `reclaim` for each dead farm's claim.  Return the sum of its answers.

        Lock held.  `reclaim` gets the descriptor of the claim, too, which can be
        written to and holds the claim's lock.  A note for the user names each other
        farm, once.
        """
        requeued = 0
        self._may_live = set()
        for claim in list(self.others.claims.values()):
            with grasped(claim, self._machine) as grasp:
                if grasp.is_reclaimable:
                    requeued += reclaim(claim, grasp.descriptor)
                else:
                    self._report_farm(claim, grasp.liveness)
                if grasp.liveness.may_live:
                    self._may_live.add(claim.farm)
        return requeued

    def held_by_living(self) -> Iterator[int]:
        """Yield what farms hold that live, or may, as of the last `reclaim_dead`."""
        for claim in self.others.claims.values():
            if claim.farm in self._may_live:
                yield from claim.journal.held

    def held_in_array(self) -> set[int]:
        """Return the ids that living farms of this job array hold.  Lock held.

        A farm that only may live does not count.  Outside of an array, return no ids.
        """
        held: set[int] = set()
        for claim in self.others.claims.values():
            head, theirs = claim.journal.head, claim.journal.held
            if not (self.array and theirs and head and head.array == self.array):
                continue
            with grasped(claim, self._machine) as grasp:
                if grasp.liveness is FarmLiveness.HOLDS_LOCK:
                    held.update(theirs)
        return held

    def remove(self, claim: OtherClaim, requeued: int) -> None:
        """Remove the claim of a dead farm, and note that for the user.  Lock held.

        `requeued` is the number of its reclaimed tasks.  Raises `StorageError`.
        """
        self.discard(claim)
        self._notes.append(
            f"{counted(requeued)} reclaimed from the dead farm {claim.describe()}"
        )

    def discard(self, claim: OtherClaim) -> None:
        """Remove a claim with its staging files, and forget it.  Lock held.

        The tasks of the claim have to be in a queue, in another claim or recorded.  The
        staging files go last: while a journal names one, its presence says that the
        step did not happen.  Raises `StorageError`.
        """
        files.sync_names(self.paths.root)
        files.remove(claim.path)
        for path, _, _ in find_leftovers(self.paths, claim.farm):
            files.remove(path)
        del self.others.claims[claim.farm]

    def _report_farm(self, claim: OtherClaim, liveness: FarmLiveness) -> None:
        if claim.damage is not None:
            why = f"can't be understood ({claim.damage}), and is left alone"
        elif liveness is FarmLiveness.HOLDS_LOCK:
            why = "is at work in this workdir too"
        elif owner := files.find_other_owner(claim.path):
            why = f"belongs to {owner}: its tasks are left for a farm of that user"
        else:
            why = "may be dead, but that is not certain: its tasks are left alone"
        note = f"farm {claim.describe()} {why}"
        if note not in self._reported:
            self._reported.add(note)
            self._notes.append(note)

    # ---- leaving --------------------------------------------------------------------

    def give_up(self) -> None:
        """Remove this farm's claim unless it holds tasks, and give up its lock.

        Lock held.  An error of the disk is ignored.
        """
        try:
            if not self.claim.held:
                with suppress(StorageError):
                    files.remove(self.claim.path)
        finally:
            self.claim.end()

    def leave(self) -> bool:
        """Remove the claim if it holds no task, and return whether.  Lock held.

        Else the claim stays, and the next start reclaims its tasks.  The claim's lock
        is given up in any case.  Raises `ClaimLostError`, `StorageError`.
        """
        try:
            if self.claim.held:
                return False
            self.claim.check()
            files.sync_names(self.paths.root)
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
