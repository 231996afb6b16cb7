"""What runs on a rank, told to rank 0 now and then.

Rules of this file: pure, but for the pool that it looks at.  A task that ends before it
is old enough is never told of; its result says all of it.
"""

from mpifarm.model.messages import Running
from mpifarm.model.task import RunningTask
from mpifarm.pool import Pool

MIN_AGE = 0.2
"""Age at which a task is told of, as a share of the seconds between two looks."""


class RunningWatch:
    """The running tasks of a rank of which rank 0 knows."""

    def __init__(self, pool: Pool) -> None:
        self.look_at = float("inf")
        """When to look next (monotonic); `inf` before `begin`."""
        self._pool = pool
        self._seconds = 0.0
        self._most = 0
        self._told: set[tuple[int, int]] = set()

    def begin(self, seconds: float, most: int, now: float) -> None:
        """Look each `seconds` from now on, and tell of `most` tasks at a time."""
        self._seconds, self._most = seconds, most
        self.look_at = now + seconds * MIN_AGE

    def forget(self) -> None:
        """Tell of all running tasks again: another coordinator does not know them."""
        self._told.clear()

    def find_news(self, now: float, wall: float) -> Running | None:
        """Return the tasks to tell of, if it is time; None if there are none.

        `wall` is the time since the epoch, in seconds.
        """
        if now < self.look_at:
            return None
        self.look_at = now + self._seconds
        oldest = self._find_oldest(wall - self._seconds * MIN_AGE)
        news = [each for each in oldest if each[:2] not in self._told]
        self._told = {each[:2] for each in oldest}
        return Running(tuple(news)) if news else None

    def _find_oldest(self, before: float) -> list[RunningTask]:
        """Return the tasks that have run longest, of those begun before this time."""
        running = [each for each in self._pool.running_tasks() if each.started < before]
        if len(running) > self._most:
            running = sorted(running, key=lambda each: each.started)[: self._most]
        return running
