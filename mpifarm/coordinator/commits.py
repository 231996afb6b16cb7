"""When results go to disk, and which tasks run again in place of being recorded.

Rules of this file:

* At most one `Transact` is under way; what comes up meanwhile goes into the next.
* Whether a failed task runs again is decided when its result is due, not before: until
  then its rank may turn out to be at fault (`rank_use`).
"""

from collections.abc import Iterable, Sequence
from itertools import islice

from mpifarm.coordinator.effects import NoteAttempt, Post, Send, Tell
from mpifarm.coordinator.limits import FailureLimit
from mpifarm.coordinator.retries import Sequel, count_attempt
from mpifarm.coordinator.state import FarmState, TaskRecord
from mpifarm.coordinator.task_table import MAX_AT_ONCE, TaskTable, result_of
from mpifarm.model.messages import Committed
from mpifarm.model.task import Outcome, Result

COMMIT_INTERVAL = 0.1
"""Seconds for which a result that counts waits for others, to go to disk together."""


NO_FAILURES = frozenset({Outcome.CANCELLED, Outcome.NOT_RUN})
"""Outcomes of tasks that did not fail by themselves."""


class Commits:
    """The transactions of the farm, and the attempts that end without a record."""

    def __init__(
        self, farm: FarmState, table: TaskTable, failures: FailureLimit, post: Post
    ) -> None:
        self._farm = farm
        self._table = table
        self._failures = failures
        self._post = post

    def due_at(self) -> float:
        """Return when the first of the ended tasks is due; `-inf` if all have ended.

        Only for a table with ended tasks.
        """
        table = self._table
        if len(table.ended) < len(table.tasks):
            return table.ended[0].due + COMMIT_INTERVAL
        return float("-inf")

    def is_due(self, now: float) -> bool:
        """Return whether results are to go to disk now, with the next transaction."""
        return bool(self._table.ended) and self.due_at() <= now

    def wake_at(self) -> float:
        """Return when results are due; `inf` if none waits, or none may be written."""
        table = self._table
        if table.transaction is not None or table.storage_failed:
            return float("inf")
        if table.to_pull:
            return float("-inf")
        return self.due_at() if table.ended else float("inf")

    def begin(self, now: float, take: int) -> None:
        """Queue due failures that may run again; post a `Transact` of all else due.

        More than `MAX_AT_ONCE` results wait for the next one.
        Do nothing while a transaction is under way, after the storage failed, or if no
        result is due, no task is to be requeued, and `take` is 0.
        """
        table = self._table
        if table.transaction is not None or table.storage_failed:
            return
        if not (self.is_due(now) or table.requeuing or take or table.to_pull):
            return
        results = tuple(islice(self._pick_results(now), MAX_AT_ONCE))
        if results or table.requeuing or take or table.to_pull:
            self._post(table.begin_transaction(results, take))

    def _pick_results(self, now: float) -> Iterable[tuple[int, Result]]:
        """Take each task out of the list of ended ones; yield (rank, result) to record.

        A failed task that may run again is queued for that in place of being yielded.
        """
        ended, counts = self._table.ended, self._failures.counts
        while ended:
            task = ended.popleft()
            result = task.result or result_of(task)
            failed = result.outcome is not Outcome.COMPLETED
            if failed and self._runs_again(task, result, now):
                continue
            self._table.write(task)
            if counts:
                failed = failed and result.outcome not in NO_FAILURES
                self._failures.note(task.taskid, failed=failed)
            yield task.rank, result

    def _runs_again(self, task: TaskRecord, result: Result, now: float) -> bool:
        """Count an attempt that did not complete; queue its task if it may run again.

        Return whether the task runs again.  A farm that ends requeues it in place of
        queueing.
        """
        sequel, why = count_attempt(self._farm.policy, task, result)
        if why:
            self._post(Tell(why))
        if sequel is Sequel.FAILED:
            return False
        self.note_attempt(task)
        if not self._farm.is_working:
            self._table.requeue(task)
        elif sequel is Sequel.GOES_ON and not task.may_kill_ranks:
            self._table.go_on(task)
        else:
            self._table.retry(task, now, self._farm.policy.retry_delay)
        return True

    def note_attempt(self, task: TaskRecord) -> None:
        """Post `NoteAttempt` for a task that runs again, and acknowledge the attempt.

        Raise AssertionError if the task's result was dropped before.
        """
        result = result_of(task)
        self._post(NoteAttempt(task.rank, result))
        self.acknowledge(task.rank, [(result.taskid, result.attempt)])

    def acknowledge_results(self, results: Iterable[tuple[int, Result]]) -> None:
        """Tell each rank which of its results, (rank, result) each, are on disk.

        Nothing is sent where no other rank could take over.
        """
        if not self._farm.rank_set.survives_rank_loss:
            return
        by_rank: dict[int, list[tuple[int, int]]] = {}
        for rank, result in results:
            by_rank.setdefault(rank, []).append((result.taskid, result.attempt))
        for rank, recorded in by_rank.items():
            self.acknowledge(rank, recorded)

    def acknowledge(self, rank: int, attempts: Sequence[tuple[int, int]]) -> None:
        """Tell a rank that no other coordinator will need these (taskid, attempt).

        Nothing is sent to the own rank or a gone one, or where no rank could take over.
        """
        farm = self._farm
        needs = farm.rank_set.survives_rank_loss and rank != farm.rank_set.own
        if needs and attempts and not farm.ranks[rank].is_gone:
            self._post(Send(rank, Committed(tuple(attempts))))
