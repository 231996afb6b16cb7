"""A workdir whose tasklist keeps its own state, by its own pop and records.

Rules of this file: the list takes the lock in its own methods, so none of them is
called with the lock held.  They are called one by one, and after each the claim says
what it changed; a kill between the two leaves that one task to the list alone, and so
does a claim that can't be written: what the list has just given goes back to it.  What
else a farm writes (claim, timeline, attempts, logs) it writes under the lock as ever.
"""

import operator
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import counted
from mpifarm.plugins.loading import in_one_line
from mpifarm.store.claim_journal import Event
from mpifarm.store.claims import OtherClaim
from mpifarm.store.counting import MAX_FAILED_NAMED
from mpifarm.store.directories import make_root
from mpifarm.store.farm_liveness import Machine, this_machine
from mpifarm.store.file_store import LOCK_TIMEOUT
from mpifarm.store.progress import Progress, TransactionStep
from mpifarm.store.store import Store
from mpifarm.store.timeline_file import TimelineFile
from mpifarm.store.types import Counts, HeldLock, Recorded, Survey, Transacted
from mpifarm.store.validate import validate_access
from mpifarm.system import files

POP_SECONDS = 0.1
"""Seconds that one transaction pops at most: signals wait meanwhile."""


class OwnStateList(Protocol):
    """A tasklist as PyTaskFarmer's base class ``TaskList`` describes it."""

    def __len__(self) -> int: ...

    def get_finished(self) -> list[int] | None:
        """Return the ids of the finished tasks; None where the list can't tell."""

    def pop_task(self) -> int | None:
        """Take a task out of those to be processed; None when there is none."""

    def record_toprocess_task(self, taskid: int) -> None:
        """Put a task back."""

    def record_done_task(self, taskid: int, returncode: int) -> None:
        """Record how a task ended."""


class Texts(Sequence[str]):
    """The texts of tasks for the timeline: of ``tasks`` if the list has it."""

    def __init__(self, tasks: Any) -> None:
        self._tasks = getattr(tasks, "tasks", tasks)
        self._count = len(tasks)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, taskid: Any) -> Any:
        try:
            return str(self._tasks[taskid])
        except Exception:  # noqa: BLE001 - the user's own; a name is not worth a farm
            return f"task {taskid}"


class CustomStore(Store):
    """The workdir of a farm whose tasklist keeps its own state."""

    def __init__(
        self, paths: WorkdirPaths, tasks: OwnStateList, farm: str, machine: Machine
    ) -> None:
        super().__init__(paths, farm, machine)
        self._tasks = tasks
        self._total = len(tasks)
        self._timeline = TimelineFile(paths, farm, Texts(tasks), self.notes)
        self._finished: set[int] = set()
        self._failed: set[int] = set()
        self._reclaimed: list[int] = []
        """Tasks of dead farms that this claim holds, and that were not taken yet."""
        self._popped: list[int] = []
        self._unclaimed: list[int] = []
        """Tasks that the list has given, and that this claim does not hold yet."""
        self._progress = Progress()
        self._empty = False
        self._trouble: StorageError | None = None
        self._prepare_seconds = 0.0

    @classmethod
    def open(
        cls,
        path: str,
        tasks: OwnStateList,
        lock: HeldLock,
        farm: str,
        clock: Callable[[], float] = time.time,
        machine: Machine | None = None,
        *,
        predecessor: str = "",
    ) -> "CustomStore":
        """Join the workdir at `path`; take the lock for it.

        `predecessor` names the farm that this one takes over, since its coordinator was
        lost: this farm holds that one's tasks from the start.

        Raises `InputError` where the workdir can't be used, `StorageError` where the
        disk or the list gives way.
        """
        paths = WorkdirPaths(os.path.abspath(path))
        make_root(paths.root)
        validate_access(paths)
        workdir = cls(paths, tasks, farm, machine or this_machine())
        workdir._ask_finished()
        workdir._failed = set(workdir._read_failed()) - workdir._finished
        with lock.hold(LOCK_TIMEOUT):
            workdir._join(lock.paths, clock, predecessor)
        return workdir

    def _join(
        self, lock_paths: Sequence[str], clock: Callable[[], float], predecessor: str
    ) -> None:
        self._member.validate_others(lock_paths, self._total)
        self._member.make_directories()
        self._member.enter(clock)
        try:
            self._timeline.mend()
            self._take_over(predecessor)
            self.reclaim_dead()
        except (StorageError, OSError):
            self._member.give_up()
            raise
        except BaseException:
            self._member.claim.end()
            raise

    def _take_over(self, farm: str) -> None:
        """Hold what the lost coordinator of this farm held, unless others got it."""
        self._others.poll()
        for claim in self._member.find_predecessors(farm):
            held = claim.journal.held.keys() - self._finished - self.held
            self._member.take_over(claim, dict.fromkeys(held, 0))

    # ---- the list -------------------------------------------------------------------

    def _ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the list; raise `StorageError` for whatever it raises."""
        try:
            return getattr(self._tasks, method)(*arguments)
        except (Exception, SystemExit) as error:
            raise StorageError(
                f"the tasklist's own {method} failed ({in_one_line(error)})"
            ) from error

    def _ask_finished(self) -> None:
        given = self._ask("get_finished")
        try:
            ids = [operator.index(taskid) for taskid in given or ()]
        except TypeError as error:
            raise StorageError(
                f"the tasklist's own get_finished gave no task ids: {str(given)[:60]!r}"
            ) from error
        self._finished.update(taskid for taskid in ids if 0 <= taskid < self._total)

    def _read_failed(self) -> Iterator[int]:
        """Return the tasks whose last row in ``attempts.tsv`` is of a failure.

        A tasklist with its own state can't tell which tasks failed.
        """
        content = files.find_content(self.paths.attempts) or b""
        last: dict[int, int] = {}
        for line in content.splitlines()[1:]:
            with suppress(ValueError):  # a torn line
                taskid, _, status = line.split(b"\t")[:3]
                last[int(taskid)] = int(status)
        return (
            taskid
            for taskid, status in last.items()
            if status and 0 <= taskid < self._total
        )

    # ---- transactions ---------------------------------------------------------------

    def prepare(
        self, results: Sequence[Recorded], requeue: Sequence[int], take: int
    ) -> None:
        """Have the list record, requeue and pop, one by one, without the lock."""
        begun = time.perf_counter()
        self._trouble = None
        try:
            for result in results:
                self._record(result)
            self._requeue(requeue)
            if take <= 0:
                self._requeue(self._reclaimed)
                self._reclaimed.clear()
                self._requeue_unclaimed()
            self._pop(take, until=begun + POP_SECONDS)
        except StorageError as error:
            self._trouble = error
            with suppress(StorageError):
                self._requeue_unclaimed()
        self._prepare_seconds = time.perf_counter() - begun

    def _record(self, result: Recorded) -> None:
        taskid = result.taskid
        if self._progress.left(TransactionStep.RECORD, [taskid]):
            if taskid not in self._finished:
                status = 0 if result.finished else result.status or 1
                self._ask("record_done_task", taskid, status)
            (self._finished if result.finished else self._failed).add(taskid)
            self._progress.note(TransactionStep.RECORD, [taskid])
        self._release(taskid)

    def _release(self, taskid: int) -> None:
        # Once: the list may have given it to us again since.
        if self._progress.left(TransactionStep.RELEASE, [taskid]):
            self._member.release([taskid])
            self._progress.note(TransactionStep.RELEASE, [taskid])

    def _requeue(self, taskids: Sequence[int]) -> None:
        """Return the tasks to the list.

        The claim says so before: another farm that gets a task from the list at once
        must not think that this farm still holds it, or no farm would run the task.
        """
        left = self._progress.left(TransactionStep.RELEASE, taskids)
        if not left:
            return
        self._member.claim.append(Event(giving=left))
        for taskid in left:
            if taskid not in self._finished and self._progress.left(
                TransactionStep.REQUEUE, [taskid]
            ):
                self._requeue_one(taskid)
                self._progress.note(TransactionStep.REQUEUE, [taskid])
            self._release(taskid)

    def _requeue_one(self, taskid: int) -> None:
        self._ask("record_toprocess_task", taskid)
        self._empty = False

    def _requeue_unclaimed(self) -> None:
        while self._unclaimed:
            self._requeue_one(self._unclaimed[-1])
            self._unclaimed.pop()

    def _pop(self, take: int, until: float) -> None:
        if take > 0:
            self._others.poll()
        while len(self._popped) < take:
            if self._unclaimed:
                self._claim_given()
                continue
            if self._reclaimed:
                taskid = self._reclaimed.pop()
                if taskid in self._member.claim.held:
                    self._popped.append(taskid)
                continue
            if time.perf_counter() > until and self._popped:
                return
            given = self._ask("pop_task")
            self._empty = given is None
            if self._empty:
                return
            taskid = self._checked_id(given)
            if self._is_free(taskid):
                self._unclaimed.append(taskid)

    def _claim_given(self) -> None:
        self._hold(self._unclaimed[-1:])
        self._popped.append(self._unclaimed.pop())

    def _checked_id(self, given: Any) -> int:
        try:
            taskid = operator.index(given)  # numpy's integers as well
        except TypeError:
            taskid = -1
        if not 0 <= taskid < self._total:
            raise StorageError(
                f"the tasklist's own pop_task gave {given!r}, which is no task id: "
                f"it has {counted(self._total)}"
            )
        return taskid

    def _is_free(self, taskid: int) -> bool:
        if taskid in self._finished or taskid in self._member.claim.held:
            return False
        if self._others.hold(taskid):
            self._others.poll()  # Its farm may have requeued it since.
        return not self._others.hold(taskid)

    def _hold(self, taskids: Sequence[int]) -> None:
        self._member.claim.append(Event(take=taskids))
        self._member.claim.held.update(taskids)
        self._failed.difference_update(taskids)

    def transact(
        self, results: Sequence[Recorded], requeue: Sequence[int], take: int
    ) -> Transacted:
        """Return what `prepare` got, and write the rest down.  Lock held."""
        begun = time.perf_counter()
        if self._trouble is not None:
            # Until it was prepared again: the list may not have recorded the results.
            raise self._trouble
        self._member.claim.check()
        self._others.poll()
        if results:
            self._progress.once(
                TransactionStep.TIMELINE, results, self._timeline.append
            )
            self._progress.once(
                TransactionStep.ATTEMPTS, results, self._append_attempts
            )
        self._progress.forget()
        taken, self._popped = self._popped, []
        empty = self._empty and not self._reclaimed
        seconds = time.perf_counter() - begun + self._prepare_seconds
        return Transacted(taken, empty, seconds)

    def reclaim_dead(self) -> int:
        """Take over what dead farms held; how many tasks.  Lock held."""
        self._others.poll()
        return self._member.reclaim_dead(self._reclaim)

    def _reclaim(self, claim: OtherClaim, _descriptor: int) -> int:
        """Hold what a dead farm held: a kill in between leaves it in both claims."""
        held = claim.journal.held.keys() - self._finished - self._member.claim.held
        held = {taskid for taskid in held if not self._is_with_another(taskid, claim)}
        if held:
            self._hold(sorted(held))
            self._reclaimed.extend(sorted(held, reverse=True))
        self._member.remove(claim, len(held))
        return len(held)

    def _is_with_another(self, taskid: int, dead: OtherClaim) -> bool:
        """Return whether another farm got the task when the dead one put it back."""
        claims = self._others.claims.values()
        return any(claim.keeps(taskid) for claim in claims if claim is not dead)

    # ---- counting -------------------------------------------------------------------

    @property
    def recorded(self) -> tuple[int, int]:
        """How many tasks have finished and failed, as far as this farm knows."""
        return len(self._finished), len(self._failed - self._finished)

    def has_record_of(self, taskid: int) -> bool:
        """Return whether the task has ended, as far as this farm knows."""
        return taskid in self._finished or taskid in self._failed

    def survey(self, *, in_array: bool = False) -> Survey:
        """Return what the claims say; they know of no job array here.  Lock held."""
        self._others.poll()
        return Survey(self.held, frozenset(self._others.held_ids()), None)

    def counts(self, survey: Survey) -> Counts:
        """Count where all tasks were, by the list and `survey`.  Without the lock.

        Finished ones are asked of the list; failed ones are those that this farm knows
        of; the rest counts as queued until the list has no more, then as elsewhere.
        """
        self._ask_finished()
        finished = self._finished
        claimed = survey.claimed - finished
        busy = survey.held | claimed
        failed = self._failed - finished - busy
        rest = max(0, self._total - len(finished) - len(failed) - len(busy - finished))
        return Counts(
            total=self._total,
            finished=len(finished),
            failed=len(failed),
            toprocess=0 if self._empty else rest,
            held=len(survey.held),
            claimed=len(busy) - len(survey.held),
            elsewhere=rest if self._empty else 0,
            first_failed=tuple(sorted(failed)[:MAX_FAILED_NAMED]),
        )
