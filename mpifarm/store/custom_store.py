"""A workdir whose tasklist keeps its own state, by its own pop and records.

Rules of this file: the list takes the lock in its own methods, so no method of the list
is called with the lock held.  The methods are called one by one, and after each call
the claim records the change.  A kill in between leaves that one task to the list alone.
A task that the list has just given goes back to the list if the claim can't be written.
Timeline and attempts are written under the lock, as in any workdir.
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
from mpifarm.store.attempts import (
    COMPLETED,
    last_outcomes,
    read_attempts_content,
    split_rows,
)
from mpifarm.store.claim_journal import Event
from mpifarm.store.claims import OtherClaim
from mpifarm.store.counting import MAX_FAILED_NAMED
from mpifarm.store.directories import make_root
from mpifarm.store.farm_liveness import Machine, this_machine
from mpifarm.store.file_store import LOCK_TIMEOUT
from mpifarm.store.progress import Progress, TransactionStep
from mpifarm.store.store import Store
from mpifarm.store.types import Counts, HeldLock, Recorded, Survey, Transacted
from mpifarm.store.validate import validate_access

POP_SECONDS = 0.1
"""Seconds that one transaction pops tasks at most: signals wait meanwhile."""


class OwnStateList(Protocol):
    """A tasklist as PyTaskFarmer's base class ``TaskList`` describes it."""

    def __len__(self) -> int: ...

    def get_finished(self) -> list[int] | None:
        """Return the ids of the finished tasks, None if the list does not know them."""

    def pop_task(self) -> int | None:
        """Take out a task to be processed.  Return its id, None if there is none."""

    def record_toprocess_task(self, taskid: int) -> None:
        """Put a task back, so that `pop_task` gives it again."""

    def record_done_task(self, taskid: int, returncode: int) -> None:
        """Record the end of a task, with its exit status (0: finished)."""


class Texts(Sequence[str]):
    """The texts of tasks for the timeline, ``task <id>`` where the list has no text.

    The texts are those in ``tasks`` if the list has that, else the list's own items.
    """

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
        texts = Texts(tasks)
        super().__init__(paths, texts, farm, machine)
        self._tasks = tasks
        self._finished: set[int] = set()
        self._failed: set[int] = set()
        self._reclaimed: list[int] = []
        """Tasks of dead farms that this claim holds, and that were not taken yet."""
        self._popped: list[int] = []
        """Tasks that this claim holds, and that the next `transact` returns."""
        self._unclaimed: list[int] = []
        """Tasks that the list has given, and that this claim does not hold yet."""
        self._progress = Progress()
        self._empty = False
        """Whether the list had no task when it was asked last."""
        self._trouble: StorageError | None = None
        """The error of the last `prepare`."""
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
        """Make the workdir at `path` if needed, ask the list, take the lock, and join.

        `predecessor` names the farm that this one takes over, since its coordinator was
        lost: this farm holds that one's tasks from the start ("": none).

        Raises `InputError` if the workdir cannot be used; `StorageError` where the disk
        or the list fails, or the lock cannot be had in `LOCK_TIMEOUT` seconds.
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
        """Check the other farms, create the claim, reclaim dead farms.  Lock held.

        If that fails, the claim is removed unless it holds tasks.
        """
        self._member.validate_others(lock_paths, self._total)
        self._member.make_directories()
        self._member.enter(clock)
        try:
            self._timeline.mend()
            self._take_over(predecessor)
            self.reclaim_dead()
            self._begin_attempts()
            self._begin_requests(predecessor)
        except (StorageError, OSError):
            self._member.give_up()
            raise
        except BaseException:
            self._member.claim.end()
            raise

    def _take_over(self, farm: str) -> None:
        """Put the tasks of the lost coordinator `farm` into this farm's claim.

        Finished tasks are left out, and claims that were taken over are removed.  ""
        names no farm.
        """
        self._others.poll()
        for claim in self._member.find_predecessors(farm):
            held = claim.journal.held.keys() - self._finished - self.held
            self._member.take_over(claim, dict.fromkeys(held, 0))

    # ---- the list -------------------------------------------------------------------

    def _ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the list; raise `StorageError` for any exception of it."""
        try:
            return getattr(self._tasks, method)(*arguments)
        except (Exception, SystemExit) as error:
            raise StorageError(
                f"the tasklist's own {method} failed ({in_one_line(error)})"
            ) from error

    def _ask_finished(self) -> None:
        """Ask the list for the finished tasks, and remember them.

        Raises `StorageError` if the list fails or does not return ids.
        """
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

        A tasklist with its own state does not tell failed tasks.  Raises
        `StorageError`.
        """
        ended = last_outcomes(split_rows(read_attempts_content(self.paths)))
        return (
            taskid
            for taskid, outcome in ended.items()
            if outcome != COMPLETED and taskid < self._total
        )

    # ---- transactions ---------------------------------------------------------------

    def prepare(
        self, results: Sequence[Recorded], requeue: Sequence[int], take: int
    ) -> None:
        """Have the list record, requeue and pop tasks one by one, without the lock.

        The claim follows each change.  With `take` 0, reclaimed tasks go back to the
        list, too.  Popping ends after `POP_SECONDS`.  An error is kept for `transact`,
        and tasks that no claim holds go back to the list.
        """
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
        """Have the list record a result, then release the task, each at most once."""
        taskid = result.taskid
        if self._progress.left(TransactionStep.RECORD, [taskid]):
            if taskid not in self._finished:
                status = 0 if result.finished else result.result.status or 1
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
        """Put tasks back to the list, and release them from the claim.

        Finished tasks are released only.  The claim names the tasks before: another
        farm that gets a task from the list at once must not believe that this farm
        still holds the task, or no farm would run it.
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
        """Put tasks that this claim does not hold yet back to the list."""
        while self._unclaimed:
            self._requeue_one(self._unclaimed[-1])
            self._unclaimed.pop()

    def _pop(self, take: int, until: float) -> None:
        """Get up to `take` tasks, reclaimed ones first, and hold them in the claim.

        After the time `until` (`time.perf_counter`), stop if there is one at least.
        """
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
        """Return the id that the list has given; raise `StorageError` for no id."""
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
        """Return whether a task is unfinished, and in no claim.

        If another claim holds the task, the claims are read again first.
        """
        if taskid in self._finished or taskid in self._member.claim.held:
            return False
        if self._others.hold(taskid):
            self._others.poll()  # Its farm may have requeued it since.
        return not self._others.hold(taskid)

    def _hold(self, taskids: Sequence[int]) -> None:
        """Put tasks into this farm's claim; they do not count as failed any more."""
        self._member.claim.append(Event(take=taskids))
        self._member.claim.held.update(taskids)
        self._failed.difference_update(taskids)

    def transact(
        self,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int] = (),
    ) -> Transacted:
        """Write timeline and attempts, and return the tasks of `prepare`.  Lock held.

        Nothing is pulled: such a list gives the tasks that it likes.
        Raise the error of the last `prepare`, if any, as `Store.transact` does.
        """
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
                TransactionStep.ATTEMPTS, results, self._attempts.append
            )
        self._progress.forget()
        taken, self._popped = self._popped, []
        empty = self._empty and not self._reclaimed
        seconds = time.perf_counter() - begun + self._prepare_seconds
        return Transacted(taken, empty, seconds)

    def reclaim_dead(self) -> int:
        """Put the tasks of dead farms into this claim, remove theirs.  Lock held.

        Return the number of tasks, which the next `prepare` takes or gives to the list.
        """
        self._others.poll()
        return self._reclaim_each(self._reclaim)

    def _reclaim(self, claim: OtherClaim, _descriptor: int) -> int:
        """Hold the tasks of a dead farm, and remove its claim.  Return their number.

        Tasks that are finished or held by another farm are left out.  A kill in between
        leaves the tasks in both claims.
        """
        held = claim.journal.held.keys() - self._finished - self._member.claim.held
        held = {taskid for taskid in held if not self._is_with_another(taskid, claim)}
        if held:
            self._hold(sorted(held))
            self._reclaimed.extend(sorted(held, reverse=True))
            self._lost.note_reclaimed(claim.farm, held)
        self._member.remove(claim, len(held))
        return len(held)

    def _is_with_another(self, taskid: int, dead: OtherClaim) -> bool:
        """Return whether another farm got the task when the dead one put it back."""
        claims = self._others.claims.values()
        return any(claim.keeps(taskid) for claim in claims if claim is not dead)

    # ---- counting -------------------------------------------------------------------

    @property
    def recorded(self) -> tuple[int, int]:
        """The numbers of finished and of failed tasks, as far as this farm knows."""
        return len(self._finished), len(self._failed - self._finished)

    def has_record_of(self, taskid: int) -> bool:
        """Return whether the task has ended, as far as this farm knows."""
        return taskid in self._finished or taskid in self._failed

    def survey(self, *, in_array: bool = False) -> Survey:
        """Poll the claims, and return the ids in them.  Lock held.

        `in_array` has no effect: claims of such a list name no job array.
        """
        self._others.poll()
        return Survey(self.held, frozenset(self._others.held_ids()), None)

    def counts(self, survey: Survey) -> Counts:
        """Count the tasks by the list and `survey`, without the lock.

        The list is asked for the finished tasks.  The failed ones are those that this
        farm knows of.  All others count as queued until the list gives no more, then as
        elsewhere.  Raises `StorageError` if the list fails.
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
