"""How long the seats of a kind will take for the tasks that need them.

Rules of this file: pure.  A kind's tasks take their seats one after the other, however
many workers are free: so nothing ends before that.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpifarm.model.wording import TimeLeft

TENTH = 1.2816
"""The normal distribution's, beyond which a tenth lies."""

MAX_ERROR = 3.0
"""Errors beyond this one say no more: any time is possible."""


@dataclass(slots=True)
class Durations:
    """What tasks of a kind have taken."""

    count: int = 0
    seconds: float = 0.0
    squares: float = 0.0

    def note(self, seconds: float) -> None:
        """Count a task that took `seconds`."""
        self.count += 1
        self.seconds += seconds
        self.squares += seconds * seconds

    @property
    def variance(self) -> float:
        """The variance, relative to the square of the mean; 1 for a single task."""
        if self.count < 2 or not self.seconds:
            return 1.0
        return max(0.0, self.count * self.squares / self.seconds**2 - 1)


class SeatTime:
    """The time that seats need, `most` of each limited kind; `kinds` may grow."""

    def __init__(self, most: Mapping[str, int], kinds: Mapping[int, str]) -> None:
        self._most = most
        self._kinds = kinds
        self._durations = {name: Durations() for name in most}
        self._of_all = Durations()

    def note_ended(self, taskid: int, seconds: float) -> None:
        """Learn from an attempt that has ended."""
        self._of_all.note(seconds)
        if durations := self._durations.get(self._kinds.get(taskid, "")):
            durations.note(seconds)

    def estimate(self, has_ended: Callable[[int], bool], share: float) -> TimeLeft:
        """Return how long the kind takes that takes longest; 0 if nothing is known.

        `share`: how much of what is left this farm will run.
        """
        left = Counter(
            name
            for taskid, name in self._kinds.items()
            if name in self._most and not has_ended(taskid)
        )
        found = [self._estimate(name, share * count) for name, count in left.items()]
        return TimeLeft(*map(max, zip(TimeLeft(0.0, 0.0, 0.0), *found, strict=True)))

    def _estimate(self, name: str, left: float) -> TimeLeft:
        durations, seats = self._durations[name], self._most[name]
        is_known = durations.count > 0
        if not is_known:  # as long as none has ended: like the others
            durations = self._of_all
        if not durations.count or not left:
            return TimeLeft(0.0, 0.0, 0.0)
        # Those that have their seats are half done.
        work = max(left - seats / 2, left / 2) / seats
        likely = work * durations.seconds / durations.count
        # A share of a task varies as a whole one does.
        parts = 1 / durations.count + 1 / max(1.0, left)
        error = min(math.sqrt(durations.variance * parts), MAX_ERROR)
        factor = math.exp(TENTH * (error if is_known else 1.0))
        return TimeLeft(likely / factor, likely, likely * factor)
