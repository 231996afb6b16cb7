"""How long what runs has been running, in a bounded number of classes.

Rules of this file: pure.  A farm runs a million tasks at a time, so begins that are
within a tenth of their age are counted together; the older they get, the more are.
"""

from bisect import bisect_right
from collections.abc import Iterable

FINENESS = 0.1
"""The begins in one class differ at the most by this share of their age."""

MAX_CLASSES = 512
"""As many as need no counting together; what is left then is some 200 at the most."""


class RunningAges:
    """When the running tasks began."""

    def __init__(self, begins: Iterable[float] = ()) -> None:
        self.count = 0
        """The number of running tasks."""
        # Three lists that go together, by begin: of each class the first begin, the
        # last and the number.
        self._firsts: list[float] = []
        self._lasts: list[float] = []
        self._counts: list[int] = []
        for each in sorted(begins):
            self.note_begun(each)

    def note_begun(self, now: float, count: int = 1) -> None:
        """Count tasks that begin now, or began a little earlier than others."""
        if count <= 0:
            return
        self.count += count
        lasts = self._lasts
        if not lasts or now > lasts[-1]:
            self._firsts.append(now)
            lasts.append(now)
            self._counts.append(count)
            if len(lasts) > MAX_CLASSES:
                self._join(now)
            return
        place = bisect_right(self._firsts, now) - 1
        if place >= 0 and now <= self._lasts[place]:
            self._counts[place] += count
            return
        self._firsts.insert(place + 1, now)
        self._lasts.insert(place + 1, now)
        self._counts.insert(place + 1, count)
        if len(self._firsts) > MAX_CLASSES:
            self._join(self._lasts[-1])

    def note_gone(self, begun: float) -> None:
        """Count a task no more that began then: it ended, or was lost."""
        if not self.count:
            return
        self.count -= 1
        place = max(0, bisect_right(self._firsts, begun) - 1)
        # When a task began is known to some milliseconds only: the nearer neighbour.
        after = place + 1
        if after < len(self._firsts) and (
            self._firsts[after] - begun < begun - self._lasts[place]
        ):
            place = after
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._firsts[place], self._lasts[place], self._counts[place]

    def at(self, now: float) -> list[tuple[float, int]]:
        """Return pairs of an age and how many tasks have it, the oldest first."""
        return [
            (max(0.0, now - (first + last) / 2), count)
            for first, last, count in zip(
                self._firsts, self._lasts, self._counts, strict=True
            )
        ]

    def _join(self, now: float) -> None:
        """Count together what has become old enough for it."""
        firsts, lasts, counts = [self._firsts[0]], [self._lasts[0]], [self._counts[0]]
        rest = zip(self._firsts[1:], self._lasts[1:], self._counts[1:], strict=True)
        finest = (now - firsts[0]) / MAX_CLASSES / 4
        for first, last, count in rest:
            if last - firsts[-1] <= max(finest, FINENESS * (now - last)):
                lasts[-1] = last
                counts[-1] += count
            else:
                firsts.append(first)
                lasts.append(last)
                counts.append(count)
        self._firsts, self._lasts, self._counts = firsts, lasts, counts
