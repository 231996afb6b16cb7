"""Which tasks can still finish before the end of the job.

Rules of this file: pure; times are seconds, monotonic.  What tasks take is counted in
classes of 10 %, so that a million of them take no more room than ten.
"""

import math

from mpifarm.coordinator.pacing import AHEAD_SECONDS
from mpifarm.model.wording import duration_in_words

SHARE = 0.9
"""The share of finished tasks that took no more than a task is expected to take."""

SHORTEST_END_SECONDS = 2.0
LONGEST_END_SECONDS = 10.0
"""The end of a farm takes twice the grace time beyond it, within these bounds."""

STEP = math.log(1.1)
SHORTEST = 1e-3


def margin(grace: float) -> float:
    """Return how many seconds before the end of the job the farm stops all commands."""
    return grace + min(LONGEST_END_SECONDS, max(SHORTEST_END_SECONDS, 2 * grace))


class Walltime:
    """The times after which nothing is started, and at which the farm stops.

    `task_time`: seconds that a task takes, if the user has said so, else None.
    """

    def __init__(
        self, deadline: float | None, grace: float, task_time: float | None
    ) -> None:
        self._margin = margin(grace)
        self._task_time = task_time
        self.learns = False
        """Whether to call `note` with the seconds of each finished task."""
        self.set_deadline(math.inf if deadline is None else deadline)
        self._counts: dict[int, int] = {}
        self._ended = 0
        self._longest = 0.0
        self._expected = 0.0
        self._expected_of = 0
        """The number of tasks from which `_expected` was found."""

    def expect_deadline(self) -> None:
        """Set `learns`, unless the user gave a task time: a deadline may come."""
        self.learns = self._task_time is None

    def set_deadline(self, deadline: float) -> None:
        """Set the end of the job (`inf`: none), and with it `stop_at` and `learns`."""
        self.deadline = deadline
        self.stop_at = deadline - self._margin
        self.learns = math.isfinite(deadline) and self._task_time is None

    def note(self, seconds: float) -> None:
        """Count a task that finished in `seconds`."""
        place = math.ceil(math.log(max(seconds, SHORTEST) / SHORTEST) / STEP)
        self._counts[place] = self._counts.get(place, 0) + 1
        self._ended += 1
        self._longest = max(self._longest, seconds)

    def expected(self) -> float:
        """Return the seconds that a task takes: 9 in 10 took no more; 0 while unknown.

        A time that the user gave is returned as it is.
        """
        if self._task_time is not None:
            return self._task_time
        if self._ended > 1.01 * self._expected_of:
            self._expected_of = self._ended
            self._expected = min(self._longest, self._quantile())
        return self._expected

    def _quantile(self) -> float:
        """Return the seconds in which the share `SHARE` of the tasks has finished."""
        wanted = math.ceil(SHARE * self._ended)
        for place in sorted(self._counts):
            wanted -= self._counts[place]
            if wanted <= 0:
                return SHORTEST * math.exp(STEP * place)
        return self._longest

    def start_until(self) -> float:
        """Return the last moment at which a task handed out is expected to finish."""
        return self.stop_at - AHEAD_SECONDS - self.expected()

    def is_too_late(self, now: float) -> bool:
        """Return whether a task started now would not finish; False if unknown."""
        # the longest first: it costs nothing
        if (
            now + AHEAD_SECONDS + max(self._longest, self._task_time or 0)
            < self.stop_at
        ):
            return False
        return self.expected() > 0 and now > self.start_until()

    def why_drain(self, now: float) -> str:
        """Return the reason for starting nothing more, in words."""
        left = f"the job ends in {duration_in_words(self.deadline - now)}"
        took = duration_in_words(self.expected())
        if self._task_time is not None:
            return f"{left}, and a task takes {took} (--task-time)"
        if self._ended == 1:
            return f"{left}, and the only task that has finished took {took}"
        return (
            f"{left}, and {100 * SHARE:.0f} % of the {self._ended} tasks that have "
            f"finished took up to {took}"
        )

    def why_stop(self, now: float) -> str:
        """Return the reason for stopping all commands now, in words."""
        if now >= self.deadline:
            return "the end of the job (--deadline) has come"
        return f"the job ends in {duration_in_words(self.deadline - now)}"
