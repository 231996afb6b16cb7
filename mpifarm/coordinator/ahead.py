"""How many leases a rank may hold: what its workers run, and how much ahead.

Rules of this file: pure; no other module answers this question.  What stands against
each other: a rank that has too little ahead waits for rank 0, and what a rank has ahead
is not there for others.
"""

from collections.abc import Sized

from mpifarm.coordinator.capacity import Capacity
from mpifarm.coordinator.limits import FailureLimit
from mpifarm.coordinator.pacing import ReportPacing
from mpifarm.coordinator.prefetch import Prefetch
from mpifarm.coordinator.state import RankRecord, RankSet

ONE_AHEAD_SECONDS = 2.5
"""Seconds within which a rank that ends a task gets one lease ahead at least."""

ROUND_SECONDS = 1e-5
"""Rank 0's time for each worker, at the least, when the tasks of all end at once."""

ROUND_SHARE = 0.02
"""The share of a task's run time that a round may cost; where it would cost more, each
worker gets a task ahead."""

LONG_ROUND_SECONDS = 0.05
"""Seconds of a round from which on the first tasks may end all at once, too."""


class LeaseRoom:
    """The number of leases that each rank may hold; `queue` is the tasks of no rank.

    `one_by_one`: whether a lease has to start at once, so that nothing is ahead.
    """

    def __init__(
        self,
        rank_set: RankSet,
        pacing: ReportPacing,
        capacity: Capacity,
        failures: FailureLimit,
        prefetch: Prefetch,
        queue: Sized,
        *,
        one_by_one: bool = False,
    ) -> None:
        self._capacity = capacity
        self._failures = failures
        self._prefetch = prefetch
        self._queue = queue
        self._one_by_one = one_by_one
        workers = len(rank_set.ranks) * rank_set.workers
        self._ahead_seconds = pacing.ahead_seconds
        self.one_each_below = workers * ROUND_SECONDS / ROUND_SHARE
        """Run time, seconds, below which each worker has a task ahead at least."""
        self.one_each_at_first = workers * ROUND_SECONDS >= LONG_ROUND_SECONDS
        """Whether each worker has a task ahead before its rank has ended any."""

    def of(self, record: RankRecord) -> int:
        """Return how many leases a rank may hold: for its workers, and ahead of them.

        Fewer are ahead when the rank is on trial, the limit of failures is near, or
        little is left, and none where starts are limited.
        """
        workers = record.workers
        if self._one_by_one:
            return min(workers, record.most_leases)
        if self.one_each_at_first and not record.ended:
            room = 2 * workers
        else:
            room = workers + self._ahead_by_rate(record)
        room = min(room, record.most_leases)
        everybody = self._capacity.workers
        if self._failures.counts:
            # What is out may all fail: near the limit there is nothing ahead.
            may_fail = max(0, self._failures.left - everybody)
            room = min(room, workers + may_fail * workers // max(1, everybody))
        if room > workers and self._prefetch.nothing_more_comes:
            return min(
                room, workers + share_ahead(len(self._queue), workers, everybody)
            )
        return room

    def _ahead_by_rate(self, record: RankRecord) -> int:
        """Return how many leases are worth `ReportPacing.ahead_seconds` on this rank.

        At most twice as many as the rank has ended; 0 before its first result.
        """
        if not record.mean:
            return 0
        rate = record.workers / record.mean
        ahead = int(rate * self._ahead_seconds) or int(rate * ONE_AHEAD_SECONDS >= 1.0)
        if ahead < record.workers and record.mean < self.one_each_below:
            ahead = record.workers
        return min(ahead, 2 * record.ended)


def share_ahead(waiting: int, workers: int, all_workers: int) -> int:
    """Return how many of `waiting` leases a rank may have ahead of its workers.

    The answer is half of the rank's share by workers: so leases go out in ever smaller
    portions, and the last go to whichever rank is free.  0 if there are no workers.
    """
    return waiting * workers // (2 * all_workers) if all_workers else 0


def expect_long_tasks(record: RankRecord) -> None:
    """Raise the mean run time of a rank, so that it gets nothing ahead for now.

    The rank returned leases because its tasks got longer; later results correct the
    mean.
    """
    record.mean = max(record.mean, 1.01 * ONE_AHEAD_SECONDS * record.workers)
