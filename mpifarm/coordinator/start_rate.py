"""How many tasks may start by now (``--start-rate``).

Rules of this file: pure; time is an argument (seconds, monotonic).
"""

from mpifarm.coordinator.state import UNLIMITED

BURST_SECONDS = 0.1
"""Starts that were not used for so long may come together, one at least."""


class StartRate:
    """The pace of starts: `rate` tasks in a second at the most; None: any number."""

    def __init__(self, rate: float | None, now: float) -> None:
        self.is_limited = rate is not None
        self._rate = rate or 1.0
        self._most = max(1.0, self._rate * BURST_SECONDS)
        self._saved = 1.0
        """Starts that may come at `_at`; a part of one grows until it is whole."""
        self._at = now

    def allow(self, now: float) -> int:
        """Return how many tasks may start now."""
        if not self.is_limited:
            return UNLIMITED
        self._save(now)
        return int(self._saved + _ROUNDING)

    def note_started(self, count: int) -> None:
        """Count tasks that were given to idle workers."""
        if self.is_limited:
            self._saved -= count

    def wake_at(self) -> float:
        """Return when the next task may start; `inf` if one may start already."""
        if not self.is_limited or self._saved + _ROUNDING >= 1.0:
            return float("inf")
        return self._at + (1.0 - self._saved) / self._rate

    def _save(self, now: float) -> None:
        seconds = max(0.0, now - self._at)
        self._saved = min(self._most, self._saved + seconds * self._rate)
        self._at = now


_ROUNDING = 1e-9
"""By so much a whole start may seem too small, out of a sum of parts."""
