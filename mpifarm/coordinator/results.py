"""What a finished attempt means: it counts, it is suspect, or its task goes elsewhere.

Rules of this file:

* An answer counts only with the rank and the attempt that the task has now: a late or
  repeated one changes nothing.
* What counts is recorded when its rank is sure that no signal ended the command
  (`Report.sure`).
"""

from signal import SIGKILL, SIGUSR2

from mpifarm.coordinator.ahead import expect_long_tasks
from mpifarm.coordinator.dispatch import Dispatcher
from mpifarm.coordinator.effects import NoteAttempt, Post, Tell
from mpifarm.coordinator.forecast import Forecast
from mpifarm.coordinator.limits import NOT_FOUND, Limits
from mpifarm.coordinator.quarantine import Quarantine
from mpifarm.coordinator.rank_use import RankUse
from mpifarm.coordinator.retries import (
    MAX_LOST,
    is_checkpoint,
    is_final,
    poison_in_words,
)
from mpifarm.coordinator.state import (
    FarmState,
    Phase,
    RankRecord,
    TaskRecord,
    TaskState,
)
from mpifarm.coordinator.task_table import TaskTable, result_of
from mpifarm.coordinator.unlocated import Unlocated
from mpifarm.model.messages import Report
from mpifarm.model.task import Outcome, Result


class Results:
    """The decisions on finished attempts, and on leases that were lost."""

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        dispatcher: Dispatcher,
        rank_use: RankUse,
        quarantine: Quarantine,
        limits: Limits,
        unlocated: Unlocated,
        forecast: Forecast,
        post: Post,
    ) -> None:
        self._farm = farm
        self._table = table
        self._dispatcher = dispatcher
        self._rank_use = rank_use
        self._quarantine = quarantine
        self._limits = limits
        self._unlocated = unlocated
        self._forecast = forecast
        self._post = post

    def on_report(self, record: RankRecord, report: Report, now: float) -> None:
        """Take in the results of a rank, and the leases that it returns or has lost.

        Answers for leases that the rank does not have are ignored.  The rank's capacity
        and demand are updated.
        """
        table = self._table
        if self._unlocated.tasks:
            self._unlocated.note_report(record.rank, report, now)
        table.note_sure(record, report.sure, now)
        self._take_results(record, report, now)
        if report.is_recall:
            record.is_asked = False
        for taskid, attempt in reversed(report.returned):  # to the front, in order
            task = table.find_leased(record.rank, taskid, attempt)
            if task is not None:
                table.release_unstarted(record, task)
        if report.returned and not report.is_recall:
            expect_long_tasks(record)
        for taskid, attempt in report.lost:
            task = table.find_leased(record.rank, taskid, attempt)
            if task is not None:
                self.on_lease_lost(record, task, now)
        self._dispatcher.capacity.update(record)
        self._dispatcher.update_demand(record)

    def _take_results(self, record: RankRecord, report: Report, now: float) -> None:
        """End the attempts of a report, and learn from them what tasks take."""
        find_leased, capacity = self._table.find_leased, self._dispatcher.capacity
        note_duration, note_ended = record.note_duration, self._forecast.note_ended
        rank, sent = record.rank, report.sent
        for result in report.results:
            task = find_leased(rank, result.taskid, result.attempt)
            if task is not None:
                ago = sent - result.ended
                ended = now - ago if ago > 0.0 else now
                if result.outcome is not Outcome.CANCELLED:  # a user has cut it short
                    note_duration(result.seconds)
                    capacity.ended += 1
                    note_ended(result)
                self.on_result(record, task, result, ended)

    # ---- what has ended ----------------------------------------------------------

    def on_result(
        self, record: RankRecord, task: TaskRecord, result: Result, ended: float
    ) -> None:
        """End an attempt; decide whether it counts, is suspect, or is requeued.

        It is requeued if a signal may have ended it.  `ended`: by the coordinator's
        clock.
        """
        self._table.end(record, task, result, ended)
        if record.is_void and result.ended > record.sure:
            self._table.requeue(task)
        elif result.outcome is Outcome.COMPLETED:
            self._table.keep(task)
            self._on_success(record, task.turn, result.seconds)
        elif result.outcome is Outcome.CANCELLED:  # it says nothing of task and rank
            self._table.keep(task)
        elif record.is_drained and died_of_drain(task):
            self._table.requeue(task)
        else:
            self._on_failure(record, task, result)

    def _on_success(self, record: RankRecord, turn: int, seconds: float) -> None:
        """Open the gates of the first tasks, clear the rank, learn the run time."""
        limits = self._limits
        limits.canary.is_open = True
        if not limits.trial.is_open:
            self.open_trial()
        self._quarantine.note_success(record, seconds, turn)
        streak = self._quarantine.streaks.get(record.rank)
        if streak is not None and streak.note_success(turn):
            self._rank_use.clear(record, "a task succeeded there")
        if limits.walltime.learns:
            limits.walltime.note(seconds)

    def _on_failure(self, record: RankRecord, task: TaskRecord, result: Result) -> None:
        """Let a failure count, unless the directory or the rank is suspect.

        A suspect failure is held back.
        """
        farm, limits = self._farm, self._limits
        if not limits.trial.is_open and farm.is_working:
            if result.status in NOT_FOUND:
                limits.trial.held.append(task)
                return
            self.open_trial()
        self._expect_failure(task, result)
        if not farm.is_working or is_checkpoint(farm.policy, result):
            self._rank_use.end_streak(record)
            self._table.keep(task)
            return
        for certain in self._quarantine.note_failure(record, task, result.seconds):
            self._table.keep(certain)
        if record.works and self._quarantine.has_returned(record.rank):
            why = "a task that failed there did not fail fast"
            self._rank_use.clear(record, why)

    def _expect_failure(self, task: TaskRecord, result: Result) -> None:
        """Count a failure towards the limit, if any, unless the task runs again."""
        failures = self._limits.failures
        if failures.counts and is_final(self._farm.policy, task, result):
            failures.expect(task.taskid)

    def open_trial(self) -> None:
        """Open the directory's gate; let the commands that were not found fail."""
        for task in self._limits.trial.open():
            self._expect_failure(task, result_of(task))
            self._table.keep(task)
        self._dispatcher.update_all_demand()

    # ---- what was lost -----------------------------------------------------------

    def on_lease_lost(
        self,
        record: RankRecord,
        task: TaskRecord,
        now: float,
        *,
        with_rank: bool = False,
    ) -> None:
        """Count a lost attempt; queue its task again, or fail the task at `MAX_LOST`.

        `with_rank`: the rank was lost too.  A failure is told to the user.  In a stop,
        or if it is cancelled, the task is never failed, only released.
        """
        task.lost += 1
        if with_rank:
            task.past.ranks_lost += 1
        is_cancelled = task.taskid in self._table.bars.cancelled
        if self._farm.phase is Phase.STOPPING or is_cancelled:
            self._table.release(record, task)
            return
        lost = self._describe_lost(task, now)
        if task.lost < MAX_LOST:
            # A lost rank may have held the lease without running it.
            if lost.worker_index is not None or not with_rank:
                self._post(NoteAttempt(record.rank, lost))
            self._table.release(record, task)
            return
        self._post(Tell(poison_in_words(task, task.lost)))
        self._table.fail(record, task, lost, now)

    def _describe_lost(self, task: TaskRecord, now: float) -> Result:
        """Return the result of an attempt that nobody saw end."""
        known = self._forecast.running.find(task.taskid, task.attempt)
        started, worker = 0.0, None
        if known is not None:
            started, worker = known.task.started, known.task.worker_index
        return Result(
            *(task.taskid, task.attempt, Outcome.LOST, -SIGKILL, 0),
            *(started, 0.0, now),
            worker_index=worker,
        )

    def on_rank_lost(self, record: RankRecord, task: TaskRecord, now: float) -> None:
        """Take a task from a lost rank: queue it again, or fail it if it kills ranks.

        Count the loss if the command still ran.
        """
        if task.state is TaskState.ENDED:  # it was not what killed the rank
            self._table.release(record, task)
        else:
            self.on_lease_lost(record, task, now, with_rank=True)


def died_of_drain(task: TaskRecord) -> bool:
    """Return whether the signal for drain, USR2, has ended the command of a task.

    Slurm delivers that signal to the commands as well.
    """
    return result_of(task).status in {-SIGUSR2, 128 + SIGUSR2}
