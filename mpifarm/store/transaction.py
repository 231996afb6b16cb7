"""The transactions of a farm: results recorded, tasks requeued and taken.

Rules of this file: all but `prepare` is called with the lock held.  A kill between any
two steps is harmless because of their order; each function that depends on an order
says which and why.  A transaction that raised stays open: given again, it goes on
behind the last step that is on the disk.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.model.task import Outcome
from mpifarm.store.claim_journal import Event
from mpifarm.store.ledger import Appended, Ledger, Ledgers
from mpifarm.store.membership import Membership
from mpifarm.store.progress import Progress, TransactionStep
from mpifarm.store.queue import Plan, Queue, Step
from mpifarm.store.queue_pair import QueuePair
from mpifarm.store.timeline_file import TimelineFile
from mpifarm.store.types import Recorded, Transacted
from mpifarm.system import files


class OpenStep(NamedTuple):
    """A step of a queue that happens by the rename of `staging`.

    `plan` has the ids that the farm gets, `back` are ids that return to the queue.  If
    the rename failed, the step has happened if the staging file is gone.
    """

    staging: str
    plan: Plan
    back: tuple[int, ...]


@dataclass(slots=True)
class OpenTransaction:
    """The done part of a transaction that has not returned yet."""

    progress: Progress = field(default_factory=Progress)
    taken: list[int] = field(default_factory=list)
    """Tasks that the claim holds, and that the caller does not know of yet."""
    not_run: list[tuple[int, str]] = field(default_factory=list)
    """Such tasks that are never to run, and why."""
    step: OpenStep | None = None
    """The step whose rename was begun, until it is known whether it has happened."""
    prepare_seconds: float = 0.0

    def end_step(self, held: set[int]) -> None:
        """Close the open step, which has happened, and change `held` by its ids.

        `held` are the ids of the claim.  The ids that went back count as released.
        """
        step, self.step = self.step, None
        assert step is not None
        held.difference_update(step.back)
        held.update(step.plan.held)
        self.progress.note(TransactionStep.RELEASE, step.back)
        self.taken += step.plan.taken
        self.not_run += step.plan.doomed


class Transactions:
    """The transactions of one farm, one after the other.

    `append_attempts` writes rows of ``attempts.tsv``.
    """

    def __init__(
        self,
        member: Membership,
        queues: QueuePair,
        ledgers: Ledgers,
        timeline: TimelineFile,
        append_attempts: Callable[[Sequence[Recorded]], None],
    ) -> None:
        self._member = member
        self._queues = queues
        self._ledgers = ledgers
        self._ledger_steps = (
            (ledgers.finished, TransactionStep.FINISHED),
            (ledgers.failed, TransactionStep.FAILED),
        )
        self._timeline = timeline
        self._append_attempts = append_attempts
        self._open = OpenTransaction()

    # ---- without the lock -----------------------------------------------------------

    def prepare(self, requeue: Sequence[int], take: int) -> None:
        """Remove old staging files, and write the next queues into new ones.

        `carry_out` with the same arguments uses these files, unless others have changed
        the queues since.  Errors are left to `carry_out`.
        """
        with suppress(StorageError):
            self._queues.discard_prepared()
        begun = time.perf_counter()
        for queue, back in self._queues.divide(requeue):
            take -= queue.prepare(back, take)
        self._open.prepare_seconds = time.perf_counter() - begun

    # ---- lock held ------------------------------------------------------------------

    def check(self, results: Sequence[Recorded], requeue: Sequence[int]) -> None:
        """Raise `ValueError` for a task that this farm does not hold, or given twice.

        Tasks that an unfinished transaction has released pass.  Raises `ClaimLostError`
        if the claim is not this farm's any more.
        """
        ids = [*(each.taskid for each in results), *requeue]
        left = self._open.progress.left(TransactionStep.RELEASE, ids)
        self._member.check_held(left)
        self._member.claim.check()

    def poll_ledgers(self) -> Iterator[tuple[Ledger, Appended]]:
        """Poll each ledger, and yield it with the lines appended since the last poll.

        An append of this farm that had failed, and that the ledger has all the same,
        counts as done.  Raises `StorageError`.
        """
        for ledger, step in self._ledger_steps:
            appended = ledger.poll()
            self._open.progress.note(step, appended.own)
            yield ledger, appended

    def carry_out(
        self,
        results: Sequence[Recorded],
        requeue: Sequence[int],
        take: int,
        pull: Sequence[int],
        begun: float,
    ) -> Transacted:
        """Record results, requeue ids, take up to `take` new ones, and pull others.

        `check` and `poll_ledgers` must come before, under the same lock.  `begun` is
        the time of `time.perf_counter` from which the transaction's duration is
        measured.  Raises `StorageError`: the transaction stays open then, and goes on
        when it is given again.
        """
        self._record(results)
        empty = self._exchange(requeue, take)
        held = self._pull_held()
        self._pull(pull)
        done, self._open = self._open, OpenTransaction()
        seconds = time.perf_counter() - begun
        seconds += done.prepare_seconds
        if not (pull or held):
            return Transacted(done.taken, empty, seconds, done.not_run)
        wanted = {*pull, *held}
        return Transacted(
            [taskid for taskid in done.taken if taskid not in wanted],
            *(empty, seconds, done.not_run),
            [taskid for taskid in done.taken if taskid in wanted],
        )

    def _record(self, results: Sequence[Recorded]) -> None:
        """Record results, and release their tasks from the claim.

        A task that others have finished meanwhile gets no line in a ledger, one that
        was not run no event in the timeline.  Timeline first (an event of an attempt
        that runs again is still true), then the ledgers, then the attempts, and only
        then may the claim release the tasks: a rank that leads on counts those that
        failed by their attempts, and by the claim those that have none yet.
        """
        if not results:
            return
        once = self._open.progress.once
        ran = results
        if self._queues.waiting is not None:
            ran = [each for each in ran if each.result.outcome is not Outcome.NOT_RUN]
        once(TransactionStep.TIMELINE, ran, self._timeline.append)
        finished = self._ledgers.finished
        new = [result for result in results if result.taskid not in finished]
        for ledger, step in self._ledger_steps:
            is_finished = ledger is finished
            ended = [result for result in new if result.finished is is_finished]
            once(step, ended, ledger.record)
        self._queues.heed_ended_tails()
        once(TransactionStep.ATTEMPTS, results, self._append_attempts)
        self._release([result.taskid for result in results])

    def _release(self, taskids: Sequence[int]) -> None:
        progress = self._open.progress
        if left := progress.left(TransactionStep.RELEASE, taskids):
            self._member.release(left)
            progress.note(TransactionStep.RELEASE, left)

    def _exchange(self, requeue: Sequence[int], take: int) -> bool:
        """Settle an open step, then requeue and take, in one step for each queue.

        Return whether the queues are empty.  A finished task is released, and not
        requeued.  A step happens by a rename, before which the claim has named the
        step.
        """
        self.close_step()
        finished = self._ledgers.finished
        left = self._open.progress.left(TransactionStep.RELEASE, requeue)
        self._release([taskid for taskid in left if taskid in finished])
        back = [taskid for taskid in left if taskid not in finished]
        empty = True
        for queue, ids in self._queues.divide(back):
            empty &= self._settle(queue, ids, take - len(self._open.taken))
        return empty

    def _pull(self, taskids: Collection[int]) -> None:
        """Take these tasks out of the queues that have them, a step for each queue."""
        left = {*taskids}.difference(self._open.taken)
        for queue in self._queues.each() if left else ():
            left -= self._pull_from(queue, left)

    def _pull_from(self, queue: Queue, taskids: Collection[int]) -> set[int]:
        """Take tasks out of a queue, and return those that it had."""
        step = queue.pull(taskids)
        if step.plan.changed:
            self._commit(queue, step, ())
        return {*step.plan.taken}

    def _pull_held(self) -> Collection[int]:
        """Take what users hold out of a new ``toprocess``: plain farmers would run it.

        Return what users hold, () if ``toprocess`` has none of it.
        """
        queues = self._queues
        if not queues.may_have_held:
            return ()
        self._pull_from(queues.toprocess, queues.held.difference(self._open.taken))
        queues.may_have_held = False
        return queues.held

    def _settle(self, queue: Queue, back: tuple[int, ...], take: int) -> bool:
        """Requeue and take in one queue.  Return whether the queue is empty then.

        With nothing to do, remove the prepared staging file.
        """
        if not back and take <= 0:
            queue.discard()
            return queue.is_empty()
        step = queue.settle(back, take)
        if step.plan.changed:
            self._commit(queue, step, back)
        return step.plan.empty

    def _commit(self, queue: Queue, step: Step, back: tuple[int, ...]) -> None:
        """Name a step in the claim, and rename its staging file to the queue.

        Then the claim's ids and the taken tasks change.  A step that takes and requeues
        nothing is not named.
        """
        plan, number = step
        staging = self._queues.steps.file(number)
        if plan.held or back:
            failed = self._ledgers.failed.size()
            event = Event(take=plan.held, put=back, step=number, failed=failed)
            self._member.claim.append_step(event, staging)
        # Before the rename: where that raises, it may have happened all the same.
        self._open.step = OpenStep(staging, plan, back)
        files.rename(staging, queue.path)
        self._open.end_step(self._member.claim.held)

    def close_step(self) -> None:
        """Settle a step whose rename failed, if there is one.

        The step has happened if its staging file is gone.  Else empty that file, and
        forget the step.  Raises `StorageError`.
        """
        step = self._open.step
        if step is None:
            return
        if not files.exists(step.staging):
            self._open.end_step(self._member.claim.held)
            return
        # The claim names the step: as long as its staging file exists, readers of the
        # claim know that the step did not happen.
        files.truncate(step.staging)
        self._open.step = None
