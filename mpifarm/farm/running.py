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
        """When to look next (monotonic); `inf` before `begin`, and while rank 0 knows
        all that runs."""
        self._pool = pool
        self._seconds = 0.0
        self._most = 0
        self._next_at = float("inf")
        """The earliest time at which more may be told."""
        self._told: set[tuple[int, int]] = set()

    def begin(self, seconds: float, most: int, now: float) -> None:
        """Tell of `most` tasks each `seconds` from now on, at the most."""
        self._seconds, self._most = seconds, most
        self.look_at = self._next_at = now + seconds * MIN_AGE

    def note_change(self, now: float) -> None:
        """Look again, when it is time: a task may have begun."""
        if self.look_at == float("inf"):
            self.look_at = max(self._next_at, now + self._seconds * MIN_AGE)

    def forget(self) -> None:
        """Tell of all running tasks again: another coordinator does not know them."""
        self._told.clear()
        self.look_at = self._next_at

    def find_news(self, now: float, wall: float) -> Running | None:
        """Return the tasks to tell of, if it is time; None if there are none.

        `wall` is the time since the epoch, in seconds.
        """
        if now < self.look_at:
            return None
        running = self._pool.running_tasks()
        oldest = self._find_oldest(running, wall - self._seconds * MIN_AGE)
        news = [each for each in oldest if each[:2] not in self._told]
        self._told = {each[:2] for each in oldest}
        if news:  # What rank 0 hears costs it time; a look without news does not.
            self._next_at = now + self._seconds
        self.look_at = float("inf")
        if len(oldest) < min(self._pool.count_busy(), self._most):
            # A task is too young, or its worker is just beginning it.
            self.note_change(now)
        return Running(tuple(news)) if news else None

    def _find_oldest(
        self, running: list[RunningTask], before: float
    ) -> list[RunningTask]:
        """Return the tasks that have run longest, of those begun before this time."""
        old = [each for each in running if each.started < before]
        if len(old) > self._most:
            old = sorted(old, key=lambda each: each.started)[: self._most]
        return old
