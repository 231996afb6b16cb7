"""When this farm's list will be done: what ends and what runs, for the estimator.

Rules of this file: pure; nothing is decided by it.  A task that ends costs under a
microsecond; a look costs a few milliseconds, so the caller looks seldom.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from mpifarm.coordinator.running import RunningTasks
from mpifarm.coordinator.running_ages import RunningAges
from mpifarm.coordinator.state import FarmState
from mpifarm.model.task import Result

if TYPE_CHECKING:
    from mpifarm.coordinator.seat_time import SeatTime
    from mpifarm.coordinator.time_left import TimeLeftEstimator
    from mpifarm.model.wording import TimeLeft


FAR_LONGER = 2.0
"""So many times the longest that has ended; what runs then is of an unknown kind."""

LATE_REPORT = 10.0
"""Seconds for which nothing is said of what runs: a task of a moment may seem to run
until its rank reports, on a busy machine some seconds later."""


class Forecast:
    """The time left of one farm, from what has ended and what runs."""

    def __init__(
        self,
        farm: FarmState,
        running: RunningTasks,
        total: int,
        now: float,
    ) -> None:
        self._farm = farm
        self.running = running
        self._known: Mapping[int, float] = {}
        self._total = total
        self._begun = now
        self._ended = 0
        self._seconds = 0.0
        self._longest = 0.0
        self.outruns = False
        """At the last estimate, all that was left ran, and had run `FAR_LONGER`.

        False where nothing runs, or nothing has ended to compare it with.
        """
        self._seats: SeatTime | None = None

    def share_seats(self, most: Mapping[str, int], kinds: Mapping[int, str]) -> None:
        """Reckon with the seats of each limited kind; `kinds` may grow."""
        if most:
            from mpifarm.coordinator.seat_time import SeatTime  # for the few with seats

            self._seats = SeatTime(most, kinds)

    @cached_property
    def _estimator(self) -> "TimeLeftEstimator":
        # At the first task that ends: the import takes longer than all else here, and
        # the first command does not wait for it.
        from mpifarm.coordinator.time_left import TimeLeftEstimator

        return TimeLeftEstimator(self._total, self._begun)

    def grow(self, total: int) -> None:
        """Reckon with the `total` tasks that the list has now."""
        before, self._total = self._total, total
        if "_estimator" not in vars(self):
            return  # Nothing has ended yet, and nothing is known of any task.
        self._estimator.grow(total)
        for taskid in range(before, total) if self._known else ():
            if taskid in self._known:
                self._estimator.note_known(taskid, self._known[taskid])

    def expect(self, known: Mapping[int, float]) -> None:
        """Learn what tasks are said to take, by id, in seconds."""
        self._known = known
        for taskid, seconds in known.items():
            if taskid < self._total:
                self._estimator.note_known(taskid, seconds)

    def note_ended(self, result: Result) -> None:
        """Learn from an attempt that has ended."""
        known = self._known.get(result.taskid, 0.0)
        self._estimator.note_ended(result.taskid, result.seconds, known)
        self._ended += 1
        self._seconds += result.seconds
        self._longest = max(self._longest, result.seconds)
        if self._seats is not None:
            self._seats.note_ended(result.taskid, result.seconds)

    def note_earlier(self, taskid: int, seconds: float) -> None:
        """Learn from an attempt of an earlier farm."""
        if taskid < self._total:
            self._longest = max(self._longest, seconds)
            self._estimator.note_earlier(taskid, seconds)

    def estimate(
        self,
        now: float,
        wall: float,
        done: int,
        share: float,
        has_ended: Callable[[int], bool],
    ) -> "TimeLeft | None":
        """Return the time left; None if nothing is known yet.

        `wall`: the time since the epoch.  `done`: tasks of the list that have ended, as
        `has_ended` says of each.  `share`: the share of the tasks that end which this
        farm runs, 0 to 1.
        """
        running = self._farm.count_running()
        workers = sum(each.workers for each in self._farm.ranks.values() if each.works)
        waiting = max(0, self._total - done - running)
        ages = self._find_ages(wall, running)
        is_last = bool(running and self._longest) and not (waiting or self._known)
        far = max(LATE_REPORT, FAR_LONGER * self._longest)
        self.outruns = is_last and all(age > far for age, _ in ages)
        left = self._estimator.estimate(now, waiting, workers, ages, share)
        if left is None:
            return None
        if rate := self._farm.policy.start_rate:
            left = _at_least(left, [share * waiting / rate] * 3)
        if self._seats is not None:
            left = _at_least(left, self._seats.estimate(has_ended, share))
        return left

    def _find_ages(self, wall: float, running: int) -> list[tuple[float, int]]:
        """Return ages of running tasks; those that no rank has told of are young."""
        begins = [each.task.started for each in self.running.find_longest()]
        mean = self._seconds / self._ended if self._ended else self.running.seconds
        young = wall - min(mean, self.running.seconds) / 2
        begins += [young] * max(0, running - len(begins))
        return RunningAges(begins).at(wall)


def _at_least(left: "TimeLeft", others: Iterable[float]) -> "TimeLeft":
    """Return the time left, if that takes as long as `others` at the least."""
    return type(left)(*map(max, left, others))
