"""What becomes of results: recorded, run again, or held back as suspect.

Rules of this file: a result counts when it has been in hand for `HOLD` seconds, not
before; what it then means is asked of `attempts`, `quarantine` and `gates`.
"""

from collections.abc import Iterable, Sequence
from signal import SIGUSR2

from mpifarm.config import FarmDefinition, Policy
from mpifarm.decisions.attempts import (
    MOST_LOST,
    Sequel,
    fate_in_words,
    is_checkpoint,
    judge,
    poison_in_words,
)
from mpifarm.decisions.effects import NoteAttempt, Send, Tell
from mpifarm.decisions.gates import FailureLimit
from mpifarm.decisions.holdings import HOLD, Holdings
from mpifarm.decisions.quarantine import Streak, Verdict
from mpifarm.decisions.state import (
    Crew,
    Phase,
    RankRecord,
    RankState,
    TaskRecord,
    tasks_in_words,
)
from mpifarm.decisions.walltime import Walltime
from mpifarm.messages import Noted
from mpifarm.task import Outcome, Result, TaskState

MOST_TOLD = 10
"""Ranks put out of use that are told one by one; the summary has all."""


class Outcomes(Holdings):
    """What the farm holds, and what it makes of what has ended."""

    def __init__(
        self,
        commands: Sequence[str],
        definition: FarmDefinition,
        crew: Crew,
        policy: Policy,
        now: float,
        *,
        deadline: float | None,
        adopted: Iterable[int],
        waits_for_others: bool,
    ) -> None:
        super().__init__(
            commands,
            crew,
            policy,
            now,
            adopted=adopted,
            waits_for_others=waits_for_others,
        )
        self.definition = definition
        self.quarantined: list[tuple[int, str, int]] = []
        """Ranks put out of use: (rank, host, tasks that run again for it)."""
        self._failures = FailureLimit(policy)
        self._walltime = Walltime(deadline, definition.grace, policy.task_time)
        self._drain_at = float("-inf")
        self._stopped_at = float("inf")

    # ---- results -----------------------------------------------------------------

    def _on_result(
        self, record: RankRecord, task: TaskRecord, result: Result, ended: float
    ) -> None:
        record.leases.discard(task.taskid)
        self._move(task, TaskState.ENDED)
        task.result = result
        task.ended = ended
        if ended > self._ended_last:  # noqa: PLR1730 - max() takes longer
            self._ended_last = ended
        if self.phase is Phase.STOPPING and ended > self._stopped_at - HOLD:
            self._give_back(task)  # after our own TERM, or a signal
        elif result.outcome is Outcome.COMPLETED:
            self.ended.append(task)
            self._on_success(record, task.turn, result.seconds)
        elif self._died_of_drain(task):
            self._give_back(task)
        else:
            self._on_failure(record, task, result)

    def _died_of_drain(self, task: TaskRecord) -> bool:
        """Whether the signal that said drain has ended the command (Slurm: it may)."""
        status = task.result.status if task.result else 0
        near = abs(task.ended - self._drain_at) <= HOLD
        return near and status in {-SIGUSR2, 128 + SIGUSR2}

    def _on_success(self, record: RankRecord, turn: int, seconds: float) -> None:
        self._canary.is_open = True
        self._quarantine.note_success(seconds, turn)
        if record.rank in self._quarantine.streaks:
            self._end_streak(record)
        if self._walltime.learns:
            self._walltime.note(seconds)

    def _on_failure(self, record: RankRecord, task: TaskRecord, result: Result) -> None:
        """It counts at once, unless the rank is suspect."""
        if self.phase is not Phase.WORKING or is_checkpoint(self.policy, result):
            self._end_streak(record)
            self.ended.append(task)
            return
        for certain in self._quarantine.note_failure(record, task, result.seconds):
            if certain is task:
                self.ended.append(task)
            else:
                self.ended.appendleft(certain)

    def _on_lease_lost(
        self,
        record: RankRecord,
        task: TaskRecord,
        now: float,
        *,
        with_rank: bool = False,
    ) -> None:
        task.lost += 1
        if with_rank:
            task.past.ranks_lost += 1
        if task.lost < MOST_LOST or self.phase is Phase.STOPPING:
            self._unlease(record, task)
            return
        self._outbox.append(Tell(poison_in_words(task, task.lost)))
        lost = Result(
            task.taskid, task.attempt, Outcome.LOST, -9, 0, 0.0, 0.0, ended=now
        )
        self._fail(record, task, lost, now)

    # ---- on their way to the disk ------------------------------------------------

    def _matured(self, now: float) -> Iterable[tuple[int, Result]]:
        while self.ended and self.ended[0].ended + HOLD <= now:
            task = self.ended.popleft()
            result = task.result or self._result_of(task)
            failed = result.outcome is not Outcome.COMPLETED
            if failed and self._runs_again(task, result, now):
                continue
            self._move(task, TaskState.WRITING)
            if self._failures.counts:
                self._failures.note(failed=failed)
            yield task.rank, result

    def _runs_again(self, task: TaskRecord, result: Result, now: float) -> bool:
        """A task that did not complete may get another attempt."""
        sequel, why = judge(self.policy, task, result)
        if why:
            self._outbox.append(Tell(why))
        if sequel is Sequel.FAILED:
            return False
        self._end_attempt(task)
        if self.phase is not Phase.WORKING:
            self._give_back(task)
        elif sequel is Sequel.GOES_ON and not task.may_kill_ranks:
            self.queue.append(task)
        else:
            self.reruns.add(task, now, self.policy.retry_delay)
        return True

    def _end_attempt(self, task: TaskRecord) -> None:
        """It is noted, and the task waits for another."""
        result = self._result_of(task)
        self._outbox.append(NoteAttempt(task.rank, result))
        self._note_at(task.rank, [(result.taskid, result.attempt)])
        self._move(task, TaskState.QUEUED)
        task.result = None

    def _note_at(self, rank: int, results: Sequence[tuple[int, int]]) -> None:
        needs = self.crew.heals and rank != self.crew.own
        if needs and results and not self.ranks[rank].is_gone:
            self._outbox.append(Send(rank, Noted(tuple(results))))

    # ---- ranks that fail everything ----------------------------------------------

    def _heed_streaks(self, now: float) -> None:
        due = self._quarantine.find_due(now)
        for streak in due:
            self._judge_streak(streak, now)
        if due or now >= self._quarantine.wake_at:
            self._quarantine.set_timer()
        if self._only_suspects_left():
            for streak in [*self._quarantine.streaks.values()]:
                self._judge_streak(streak, now)
                self._end_streak(self.ranks[streak.rank])

    def _only_suspects_left(self) -> bool:
        """Nothing runs or will that could tell whether they are."""
        exhausted = self._intake.is_empty or self._canary.is_exhausted
        held = self._quarantine.held
        # what has ended may yet run again; whether it does is known when it is due
        runs_again = self.policy.retries or self.policy.requeue_status is not None
        done = 0 if runs_again else len(self.ended)
        return exhausted and 0 < held == len(self.tasks) - done

    def _judge_streak(self, streak: Streak, now: float) -> None:
        record = self.ranks[streak.rank]
        if not streak.is_on_trial:
            self._release(self._quarantine.release(streak))
            return
        match self._quarantine.judge(streak, record, now):
            case None:
                pass
            case Verdict.ACQUITTED:
                self._end_streak(record)
                self._note_hunger(record)
            case Verdict.PROBE:
                self._note_hunger(record)
            case Verdict.OUT_OF_USE:
                self._quarantine_rank(record, streak, now)

    def _end_streak(self, record: RankRecord) -> None:
        self._release(self._quarantine.end(record))

    def _end_streaks(self) -> None:
        for rank in [*self._quarantine.streaks]:
            self._end_streak(self.ranks[rank])

    def _release(self, tasks: Sequence[TaskRecord]) -> None:
        """Failures that are no longer suspect; they are old, and due first."""
        self.ended.extendleft(reversed(tasks))

    def _quarantine_rank(self, record: RankRecord, streak: Streak, now: float) -> None:
        """What it failed runs again elsewhere, and no attempt is counted."""
        suspects = self._quarantine.end(record)
        for task in reversed(suspects):
            self._end_attempt(task)
            self._queue_first(task)
        seconds = max(0.1, streak.longest)
        why = (
            f"{tasks_in_words(streak.count)} in a row failed there within "
            f"{seconds:.2g} s while others succeed elsewhere; "
            f"{fate_in_words(len(suspects), is_working=True)}"
        )
        self._put_out_of_use(record, why, len(suspects))

    def _put_out_of_use(self, record: RankRecord, why: str, reruns: int) -> None:
        self._leave_use(record, RankState.OUT_OF_USE)
        self.quarantined.append((record.rank, record.host, reruns))
        if len(self.quarantined) <= MOST_TOLD:
            self._outbox.append(Tell(f"{record.name} is put out of use: {why}"))

    def _leave_use(self, record: RankRecord, state: RankState) -> None:
        """It gets no more leases; what it did counts."""
        self._end_streak(record)
        self._enter_rank(record, state)
        self.hungry.forget(record.rank)
        self._rejoining.discard(record.rank)

    def _enter_rank(self, record: RankRecord, state: RankState) -> None:
        self._quarantine.working += state is RankState.WORKING
        self._quarantine.working -= record.works
        self._census.enter(record, state)
