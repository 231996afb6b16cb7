"""How the farm drains, stops and leaves.

Rules of this file:

* The farm's phase changes in `Ending._enter` alone, by `PHASES`.
* Why the farm ends is decided elsewhere (`stop_reasons`, and signals).
"""

from typing import assert_never

from mpifarm.coordinator.announcement import announce
from mpifarm.coordinator.commits import Commits
from mpifarm.coordinator.effects import Conclude, Post, Send, TakeNothing, Tell
from mpifarm.coordinator.failover import Failover
from mpifarm.coordinator.limits import DirectoryTrial
from mpifarm.coordinator.liveness import Liveness
from mpifarm.coordinator.rank_use import RankUse
from mpifarm.coordinator.state import (
    PHASES,
    FarmState,
    Phase,
    RankRecord,
    RankState,
)
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.model.messages import Drain, Shutdown, Stop, ToRank
from mpifarm.model.task import LAUNCHED_WAIT

ANSWER_SECONDS = 0.5
"""Seconds beyond the grace time after which a silent rank is given up at a stop."""

ANSWER_SECONDS_AT_ONCE = 0.1
"""The same seconds at a stop without grace: the launcher's KILL is close behind."""


class Ending:
    """The farm's way from working to leaving; `grace` is its grace time, seconds."""

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        trial: DirectoryTrial,
        commits: Commits,
        rank_use: RankUse,
        liveness: Liveness,
        failover: Failover,
        grace: float,
        post: Post,
    ) -> None:
        self.reason = ""
        """Why the farm stops or drains before the list is done, in words."""
        self.unrecorded: tuple[int, ...] = ()
        """Tasks whose results could not be recorded when the storage failed."""
        self._farm = farm
        self._table = table
        self._trial = trial
        self._commits = commits
        self._rank_use = rank_use
        self._liveness = liveness
        self._failover = failover
        self._farm_grace = grace
        self._post = post
        self._grace = 0.0
        """The grace time of the stop that is under way."""
        self._by_signal = False
        """Whether a signal to some rank stops the farm."""
        self._answer_by = 0.0
        """When ranks that have not stopped are given up."""

    # ---- the phases --------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Enter DRAINING: requeue waiting tasks, and tell all ranks to start no more.

        Do nothing unless the farm is working.
        """
        if not self._farm.is_working:
            return
        self._rank_use.end_streaks()
        self._enter(Phase.DRAINING, reason)
        self._requeue_waiting()
        self._liveness.send_all(Drain())

    def stop(
        self, reason: str, grace: float, now: float, *, by_signal: bool = True
    ) -> None:
        """Enter STOPPING: requeue waiting tasks, and have all ranks end their commands.

        Commands have `grace` seconds.  A result that ended before counts once its rank
        is sure of it.  A stop under way keeps its reason; only a shorter `grace` or the
        first signal is passed on.  No effect if the farm is leaving.
        """
        phase = self._farm.phase
        if phase is Phase.LEAVING:
            return
        self._rank_use.end_streaks()
        if phase is Phase.STOPPING:
            grace = min(grace, self._grace)
            if grace < self._grace or (by_signal and not self._by_signal):
                self._stop_all(grace, now, by_signal=by_signal or self._by_signal)
            return
        self._enter(Phase.STOPPING, reason)
        self._requeue_waiting()
        self._stop_all(grace, now, by_signal=by_signal)

    def stop_with_grace(self, reason: str, now: float) -> None:
        """Stop, with the farm's grace time, for a reason that is no signal."""
        self.stop(reason, self._farm_grace, now, by_signal=False)

    def repeat_phase(self, record: RankRecord) -> None:
        """Send one rank the message of the phase again: the first may have been lost.

        Nothing is sent while the farm is working.
        """
        phase = self._farm.phase
        match phase:
            case Phase.WORKING:
                return
            case Phase.DRAINING:
                message: ToRank = Drain()
            case Phase.STOPPING:
                message = Stop(self._grace, self._by_signal)
            case Phase.LEAVING:
                message = self._create_shutdown()
            case _:
                assert_never(phase)
        self._post(Send(record.rank, message))

    def _stop_all(self, grace: float, now: float, *, by_signal: bool) -> None:
        """Set the grace and the time to answer, and send `Stop` to all ranks."""
        at_once = by_signal and grace == 0  # the launcher's KILL may be close behind
        wait = ANSWER_SECONDS_AT_ONCE if at_once else ANSWER_SECONDS
        self._grace, self._by_signal = grace, by_signal
        # Without a signal, a rank answers when it is sure of all that had ended.
        self._answer_by = now + max(grace, 0.0 if by_signal else LAUNCHED_WAIT) + wait
        self._liveness.send_all(Stop(grace, by_signal))

    def _requeue_waiting(self) -> None:
        """Requeue tasks that wait for a rank or are held for the directory's trial."""
        self._table.requeue_waiting()
        for task in self._trial.open():
            self._table.requeue(task)

    def _enter(self, phase: Phase, reason: str) -> None:
        """Set phase and reason, cancel a taking that is under way, and tell the user.

        Raise AssertionError if `PHASES` has no such change.
        """
        farm = self._farm
        if phase not in PHASES[farm.phase]:
            raise AssertionError(f"phase {farm.phase} -> {phase}")
        farm.phase = phase
        self.reason = reason
        under_way = self._table.transaction
        if under_way is not None and under_way.take:
            # The lock may be with another farmer for long.
            self._post(TakeNothing())
        if sentence := announce(phase, reason, farm.count_running()):
            self._post(Tell(sentence))

    # ---- the way out -------------------------------------------------------------

    def wake_at(self) -> float:
        """Return when ranks that do not answer a stop are given up, else `inf`."""
        is_stopping = self._farm.phase is Phase.STOPPING
        return self._answer_by if is_stopping else float("inf")

    def advance_drain(self, now: float) -> None:
        """Begin a transaction if results are due, and leave when no task is held."""
        self._commits.begin(now, take=0)
        self.leave_if_done()

    def advance_stop(self, now: float) -> None:
        """Give up late ranks, record and requeue; leave once all ranks have settled.

        Without grace, nothing is written before all have settled.
        """
        if now >= self._answer_by:
            for record in self._farm.ranks.values():
                if not record.settled:
                    self._rank_use.settle(record, RankState.LOST)
        settled = self._liveness.are_all_settled()
        if settled:
            self._failover.requeue_unlocated()
        if settled or self._grace > 0:
            self._commits.begin(now, take=0)
        if settled:
            self.leave_if_done()

    def leave_if_done(self) -> None:
        """Enter LEAVING and send all ranks `Shutdown`, once no task is held.

        After the storage failed, drop all tasks first, and set `unrecorded`.  Ranks
        that have yet to rejoin are waited for, but not in a stop.
        """
        farm, table = self._farm, self._table
        if table.storage_failed:
            # What is held stays in the claim; results without a record are told.
            self.unrecorded = table.abandon()
            self._failover.abandon()
        if table.tasks or table.transaction is not None:
            return
        if self._failover.awaits_ranks and farm.phase is not Phase.STOPPING:
            return
        self._enter(Phase.LEAVING, self.reason)
        self._post(Conclude())
        # Those given up too: they may only be late, and this rank itself may be one.
        shutdown, own = self._create_shutdown(), farm.rank_set.own
        # The own rank is last: it waits for its pool.
        for record in sorted(farm.ranks.values(), key=lambda r: r.rank == own):
            if record.state is not RankState.DEAD and not record.is_dismissed:
                self._post(Send(record.rank, shutdown))

    def _create_shutdown(self) -> Shutdown:
        aborts = self._liveness.must_leave_alone
        ranks_lost = aborts or bool(self._liveness.lost_ranks())
        return Shutdown(ranks_lost=ranks_lost, aborts=aborts)
