"""The end of the job: which tasks can still finish before it.

Rules of this file: pure; times are seconds, monotonic.  What tasks take is counted in
classes of 10 %, so that a million of them take no more room than ten.
"""

import math

from mpifarm.decisions.state import AHEAD_SECONDS

SHARE = 0.9
"""Of the finished tasks took at most what a task is expected to take."""

SHORTEST_END_SECONDS = 1.0
LONGEST_END_SECONDS = 10.0
"""What the end of a farm takes beyond the grace time: twice that, within these."""

STEP = math.log(1.1)
SHORTEST = 1e-3


def margin(grace: float) -> float:
    """Seconds before the end of the job at which the farm stops what runs."""
    return grace + min(LONGEST_END_SECONDS, max(SHORTEST_END_SECONDS, 2 * grace))


class Walltime:
    """Until when tasks may be started, and when the farm has to stop.

    `task_time`: seconds that a task takes, if the user has said so.
    """

    def __init__(
        self, deadline: float | None, grace: float, task_time: float | None
    ) -> None:
        self.deadline = float("inf") if deadline is None else deadline
        self.stop_at = self.deadline - margin(grace)
        self._task_time = task_time
        self.learns = deadline is not None and task_time is None
        """Whether it wants to know what tasks take."""
        self._counts: dict[int, int] = {}
        self._ended = 0
        self._longest = 0.0
        self._expected = 0.0
        self._expected_of = 0
        """Of how many tasks `_expected` is."""

    def note(self, seconds: float) -> None:
        """A task finished after so long."""
        place = math.ceil(math.log(max(seconds, SHORTEST) / SHORTEST) / STEP)
        self._counts[place] = self._counts.get(place, 0) + 1
        self._ended += 1
        self._longest = max(self._longest, seconds)

    def expected(self) -> float:
        """Seconds that a task takes; 0 as long as that is not known."""
        if self._task_time is not None:
            return self._task_time
        if self._ended > 1.01 * self._expected_of:
            self._expected_of = self._ended
            self._expected = min(self._longest, self._quantile())
        return self._expected

    def _quantile(self) -> float:
        wanted = math.ceil(SHARE * self._ended)
        for place in sorted(self._counts):
            wanted -= self._counts[place]
            if wanted <= 0:
                return SHORTEST * math.exp(STEP * place)
        return self._longest

    def start_until(self) -> float:
        """No task that is handed out after this moment is expected to finish."""
        return self.stop_at - AHEAD_SECONDS - self.expected()

    def is_too_late(self, now: float) -> bool:
        """Whether to start nothing more."""
        # the longest first: it costs nothing
        if (
            now + AHEAD_SECONDS + max(self._longest, self._task_time or 0)
            < self.stop_at
        ):
            return False
        return self.expected() > 0 and now > self.start_until()

    def why_drain(self, now: float) -> str:
        """Why nothing is started any more."""
        left = f"the job ends in {self.deadline - now:.0f} s"
        took = f"{self.expected():.3g} s"
        if self._task_time is not None:
            return f"{left}, and a task takes {took} (--task-time)"
        return (
            f"{left}, and tasks take up to {took} ({100 * SHARE:.0f} % of the "
            f"{self._ended} that have finished)"
        )

    def why_stop(self, now: float) -> str:
        """Why what runs is ended now."""
        if now >= self.deadline:
            return "the end of the job (--deadline) has come"
        return f"the job ends in {self.deadline - now:.0f} s"
