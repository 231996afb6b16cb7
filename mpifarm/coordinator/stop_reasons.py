"""Why a farm stops or drains by itself, without a signal.

Rules of this file: pure; time is an argument (seconds, monotonic).  How the farm ends
then is `ending`'s affair.
"""

from mpifarm.coordinator.dispatch import Dispatcher
from mpifarm.coordinator.ending import Ending
from mpifarm.coordinator.limits import Limits
from mpifarm.coordinator.rank_use import RankUse
from mpifarm.coordinator.results import Results
from mpifarm.coordinator.state import FarmState, Phase, RankRecord
from mpifarm.coordinator.task_table import TaskTable

_RUNNING = frozenset({Phase.WORKING, Phase.DRAINING})
"""Phases in which tasks run, and may have to be stopped."""


class StopReasons:
    """The reasons for which a farm ends before the list is done.

    `timeout` is the seconds after `now` at which the farm stops.
    """

    def __init__(
        self,
        farm: FarmState,
        table: TaskTable,
        limits: Limits,
        dispatcher: Dispatcher,
        rank_use: RankUse,
        results: Results,
        ending: Ending,
        timeout: float | None,
        now: float,
    ) -> None:
        self.too_many_failures = False
        """Whether the farm stops because of the tasks that failed."""
        self.stopped_because = "too many tasks failed"
        """The summary's words for a stop because of failures."""
        self.way_on = ""
        """How to go on where the same command would stop again; else empty."""
        self._farm = farm
        self._table = table
        self._limits = limits
        self._dispatcher = dispatcher
        self._rank_use = rank_use
        self._results = results
        self._ending = ending
        self._timeout = timeout
        self._stop_at = float("inf") if timeout is None else now + timeout
        self._unusable_because = ""
        """The reason of the last rank that can't run tasks."""

    def wake_at(self) -> float:
        """Return when time alone may end the farm or open its gate; `inf` if never."""
        limits, phase, wake_at = self._limits, self._farm.phase, self._stop_at
        if phase is not Phase.STOPPING:
            wake_at = min(wake_at, limits.walltime.stop_at)
        if phase is Phase.WORKING and not limits.trial.is_open:
            wake_at = min(wake_at, limits.trial.opens_at)
        return wake_at

    # ---- time --------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Stop at the timeout or near the job's end; drain if no task would finish.

        There is no drain once no task waits and ``toprocess`` is empty.
        """
        if now >= self._stop_at:
            self._stop_at = float("inf")
            reason = f"the timeout of {self._timeout:g} s is over"
            self._ending.stop_with_grace(reason, now)
        walltime, phase = self._limits.walltime, self._farm.phase
        if now >= walltime.stop_at:
            if phase in _RUNNING:
                self._ending.stop_with_grace(walltime.why_stop(now), now)
        elif phase is Phase.WORKING and walltime.is_too_late(now):
            table = self._table
            if (
                table.queue
                or table.retry_queue
                or table.seats
                or not self._dispatcher.prefetch.is_empty
            ):
                self._ending.drain(walltime.why_drain(now))

    # ---- failures ----------------------------------------------------------------

    def check_failures(self, now: float) -> None:
        """Stop if too many tasks failed, or all of the first; then check the trial.

        Streaks that nothing can end any more are ended first: their failures count.
        """
        limits, table = self._limits, self._table
        why, because = "", self.stopped_because
        if limits.failures.counts:
            self._rank_use.end_streaks_without_end()
            why = limits.failures.why()
        canaries_died = limits.canary.is_exhausted and not table.tasks
        if canaries_died and table.transaction is None:
            why = because = limits.canary.why()
        if why and self._farm.phase in _RUNNING:
            self.too_many_failures, self.stopped_because = True, because
            self._ending.stop_with_grace(why, now)
        if not limits.trial.is_open and self._farm.is_working:
            self._check_trial(now)

    def _check_trial(self, now: float) -> None:
        """Stop at once if no first command was found; open the gate if they run on."""
        trial, table = self._limits.trial, self._table
        all_held = 0 < len(trial.held) == len(table.tasks)
        none_found = all_held and self._dispatcher.prefetch.nothing_more_comes
        if none_found and table.transaction is None:
            self.way_on = trial.way_on
            why = trial.explain(len(trial.held))
            self._ending.stop(why, 0.0, now, by_signal=False)
        elif not none_found and now >= trial.opens_at:
            self._results.open_trial()

    # ---- ranks -------------------------------------------------------------------

    def on_rank_unusable(self, record: RankRecord, reason: str, now: float) -> None:
        """Give up a rank that can run no task; stop if no other rank takes leases.

        No effect in a stop.
        """
        if self._farm.phase is Phase.STOPPING:
            return
        others = (r for r in self._farm.ranks.values() if r is not record)
        if any(other.may_work for other in others):
            self._unusable_because = reason
            self._rank_use.give_up(record, reason)
        else:
            self._ending.stop_with_grace(reason, now)

    def check_ranks(self, now: float) -> None:
        """Stop at once if no rank takes leases, or will."""
        if not self._dispatcher.capacity.can_work:
            said = self._unusable_because
            why = f" ({said})" if said else ""
            what = f"no rank is left that can run tasks{why}"
            self._ending.stop(what, 0.0, now, by_signal=False)
