"""Which ranks are in use: one that fails everything is put out of use for a time.

Rules of this file: a rank's state changes in `RankUse.enter` alone.  Whether a rank is
at fault is `quarantine`'s answer.
"""

from mpifarm.coordinator.commits import Commits
from mpifarm.coordinator.dispatch import Dispatcher
from mpifarm.coordinator.effects import NoteRank, Post, RankChange, Tell
from mpifarm.coordinator.limits import DirectoryTrial
from mpifarm.coordinator.quarantine import (
    OutOfUse,
    Quarantine,
    QuarantineVerdict,
    Streak,
)
from mpifarm.coordinator.retries import fate_in_words
from mpifarm.coordinator.state import (
    RANK_MOVES,
    FarmState,
    RankRecord,
    RankState,
)
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.coordinator.unlocated import Unlocated
from mpifarm.model.wording import counted

MAX_TOLD = 10
"""Ranks put out of use that are told one by one; the summary has all."""


class RankUse:
    """The states of the ranks, and the effects of the verdicts of `Quarantine`."""

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        dispatcher: Dispatcher,
        commits: Commits,
        quarantine: Quarantine,
        trial: DirectoryTrial,
        unlocated: Unlocated,
        post: Post,
    ) -> None:
        self.out_of_use: dict[int, OutOfUse] = {}
        """Ranks that were put out of use, and have not been cleared since."""
        self._farm = farm
        self._table = table
        self._dispatcher = dispatcher
        self._commits = commits
        self._quarantine = quarantine
        self._trial = trial
        self._unlocated = unlocated
        self._post = post
        self._times_told = 0

    # ---- states ------------------------------------------------------------------

    def enter(self, record: RankRecord, state: RankState) -> None:
        """Set the state of a rank, and count its workers and rate as in that state.

        Raise AssertionError if `RANK_MOVES` has no such change.
        """
        if state not in RANK_MOVES[record.state]:
            raise AssertionError(f"rank {record.rank}: {record.state} -> {state}")
        capacity = self._dispatcher.capacity
        self._quarantine.enter(record, state)
        capacity.can_work -= record.may_work
        record.state = state
        capacity.can_work += record.may_work
        capacity.update(record)

    def leave(self, record: RankRecord, state: RankState) -> None:
        """Take a rank out of work into `state`; count the failures held back for it.

        The leases that the rank has stay with it: `settle` releases them.
        """
        self.end_streak(record)
        for task in [each for each in self._trial.held if each.rank == record.rank]:
            self._trial.held.remove(task)
            self._table.keep(task)
        if state is not RankState.OUT_OF_USE:
            self._quarantine.pauses.pop(record.rank, None)
        self.enter(record, state)
        self._dispatcher.demand.forget(record.rank)
        self._unlocated.awaited.discard(record.rank)

    def settle(self, record: RankRecord, state: RankState) -> None:
        """Put a rank that runs nothing any more into `state`; release its tasks.

        Failures held back for the rank count first.
        """
        self.leave(record, state)
        self._table.release_all(record)

    def put_out_of_use(self, record: RankRecord, why: str, fate: str = "") -> None:
        """Give a rank no more tasks; tell `why`, and the `fate` of its tasks.

        The first `MAX_TOLD` such sentences are told.
        """
        self.leave(record, RankState.OUT_OF_USE)
        self.out_of_use[record.rank] = OutOfUse(record.rank, record.host, why)
        self._tell(f"{record.name} is put out of use: {why}{fate}")
        self._post(NoteRank(record.rank, RankChange.OUT_OF_USE, why))

    def give_up(self, record: RankRecord, why: str) -> None:
        """Put a rank out of use for good: no task is tried there any more."""
        self._quarantine.pauses.pop(record.rank, None)
        if record.state is not RankState.OUT_OF_USE:
            self.put_out_of_use(record, why)

    def _tell(self, sentence: str) -> None:
        """Tell the user a sentence, unless `MAX_TOLD` were told before."""
        self._times_told += 1
        if self._times_told <= MAX_TOLD:
            self._post(Tell(sentence))

    # ---- streaks of failures -----------------------------------------------------

    def clear(self, record: RankRecord, why: str) -> None:
        """End the streak of a rank in its favour: its held failures count.

        If it was out of use for a time, tell the user that it is in use again.
        """
        self.end_streak(record)
        if self._quarantine.pauses.pop(record.rank, None):
            del self.out_of_use[record.rank]
            self._tell(f"{record.name} is in use again: {why}")
            self._post(NoteRank(record.rank, RankChange.IN_USE, why))

    def end_streak(self, record: RankRecord) -> None:
        """Let the failures held back for a rank count, and lift its limit of leases."""
        if record.rank in self._quarantine.streaks:
            for task in self._quarantine.end(record):
                self._table.keep(task)
            # A trial may have kept the rank from leases.
            self._dispatcher.update_demand(record)

    def end_streaks(self) -> None:
        """Let all failures that are held back count, and lift the limits of leases."""
        for rank in [*self._quarantine.streaks]:
            self.end_streak(self._farm.ranks[rank])

    def end_streaks_without_end(self) -> None:
        """End all streaks if no lease is out and the limit of failures allows no more.

        Nothing can then tell whether a suspect rank is to blame.
        """
        dispatcher = self._dispatcher
        if (
            self._quarantine.streaks
            and not dispatcher.count_leased()
            and dispatcher.count_allowed() <= 0
        ):
            self.end_streaks()

    def assess_streaks(self, now: float) -> None:
        """Assess the streaks that are due, and carry the verdicts out.

        If only suspect tasks are left, end all streaks.
        """
        quarantine = self._quarantine
        due = quarantine.find_due(now)
        for streak in due:
            self._assess(streak, now)
        if due or now >= quarantine.wake_at:
            quarantine.set_timer()
        if self._only_suspects_left():
            for streak in [*quarantine.streaks.values()]:
                self._assess(streak, now)
                self.end_streak(self._farm.ranks[streak.rank])

    def _only_suspects_left(self) -> bool:
        """Return whether only suspect tasks are left, so that nothing can tell more."""
        table, policy, held = self._table, self._farm.policy, self._quarantine.held
        # What has ended may yet run again; whether it does is known when it is due.
        runs_again = policy.retries or policy.requeue_status is not None
        done = 0 if runs_again else len(table.ended) + table.unsure
        nothing_comes = self._dispatcher.prefetch.nothing_more_comes
        return nothing_comes and 0 < held == len(table.tasks) - done

    def _assess(self, streak: Streak, now: float) -> None:
        """Carry out the verdict on a trial; let the tasks of a quiet streak count."""
        record = self._farm.ranks[streak.rank]
        if not streak.is_on_trial:
            for task in self._quarantine.release(streak):
                self._table.keep(task)
            return
        match self._quarantine.assess(streak, record, now):
            case None:
                pass
            case QuarantineVerdict.RUNS_ON:
                self.clear(record, "a task runs on there")
            case QuarantineVerdict.TASKS_AT_FAULT:
                self.clear(record, "tasks fail on other ranks as well")
            case QuarantineVerdict.PROBE:
                self._dispatcher.update_demand(record)
            case QuarantineVerdict.OUT_OF_USE:
                self._quarantine_rank(record, streak, now)
            case QuarantineVerdict.STILL_OUT:
                self._retry_suspects(record)
                self._quarantine.pause(record.rank, streak.longest, now)
                self.leave(record, RankState.OUT_OF_USE)

    def _quarantine_rank(self, record: RankRecord, streak: Streak, now: float) -> None:
        """Put a rank out of use for a time; queue its suspect tasks again, and tell."""
        count = self._retry_suspects(record)
        known = (
            f"{counted(streak.count)} in a row failed there within "
            f"{max(0.1, streak.longest):.2g} s, while tasks succeeded on other ranks"
        )
        seconds = self._quarantine.pause(record.rank, streak.longest, now)
        fate = fate_in_words(count, is_working=True)
        then = f"; {fate}; a task is tried there in {seconds:.0f} s"
        self.put_out_of_use(record, known, then)

    def _retry_suspects(self, record: RankRecord) -> int:
        """End the streak; queue its tasks first, as if not failed; return how many."""
        suspects = self._quarantine.end(record)
        for task in reversed(suspects):  # to the front, in order
            self._commits.note_attempt(task)
            self._table.retry_first(task)
        return len(suspects)

    # ---- the way back ------------------------------------------------------------

    def try_again(self, now: float) -> None:
        """Put ranks whose time out of use is over to work, on trial with one task.

        Nothing happens unless the farm works and has tasks for them.
        """
        if not self._farm.is_working or not self._dispatcher.has_work_for_returns():
            return
        for rank in self._quarantine.find_due_returns(now):
            record = self._farm.ranks[rank]
            self.enter(record, RankState.WORKING)
            self._quarantine.try_again(record, self._table.turn)
            self._dispatcher.update_demand(record)

    def wake_at(self) -> float:
        """Return when time alone may change the use of a rank; `inf` if never."""
        quarantine, wake_at = self._quarantine, float("inf")
        if quarantine.streaks:
            wake_at = quarantine.wake_at
        if quarantine.pauses and self._dispatcher.has_work_for_returns():
            wake_at = min(wake_at, quarantine.return_at())
        return wake_at
