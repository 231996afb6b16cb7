"""How many workers are busy, as an area over time.

Rules of this file: constant time for each begin and each end, in any order.
"""

from collections import defaultdict


class BusyTime:
    """The worker seconds spent in tasks, in slots of `slot` seconds."""

    def __init__(self, slot: float) -> None:
        self._slot = slot
        self._rises: defaultdict[int, int] = defaultdict(int)
        """By slot: begins less ends in the slot before."""
        self._parts: defaultdict[int, float] = defaultdict(float)
        """By slot: the seconds in it of what began there, less those of what ended."""
        self.total = 0.0
        self.last_end = 0.0

    def begin(self, now: float) -> None:
        """Note that a worker has begun a task."""
        self._note(now, 1)
        self.total -= now

    def end(self, now: float) -> None:
        """Note that a worker has ended its task."""
        self._note(now, -1)
        self.total += now
        self.last_end = max(self.last_end, now)

    def _note(self, now: float, sign: int) -> None:
        place = int(now / self._slot)
        self._rises[place + 1] += sign
        self._parts[place] += sign * ((place + 1) * self._slot - now)

    def between(self, begin: float, end: float) -> float:
        """Return the worker seconds in tasks in the whole slots of that time."""
        first, last = self._slots(begin, end)
        busy, area = 0, 0.0
        for place in range(last):
            busy += self._rises[place]
            if place >= first:
                area += busy * self._slot + self._parts[place]
        return area

    def seconds_between(self, begin: float, end: float) -> float:
        """The length of these slots."""
        first, last = self._slots(begin, end)
        return (last - first) * self._slot

    def _slots(self, begin: float, end: float) -> tuple[int, int]:
        first = -int(-begin // self._slot)
        return first, max(first, int(end / self._slot))
