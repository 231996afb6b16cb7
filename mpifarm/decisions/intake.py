"""How many tasks to take out of ``toprocess``, and when.

Rules of this file: pure; time is an argument (seconds, monotonic).  ``toprocess`` is
rewritten whole at each taking, so takings are few.
"""

TAKE_SECONDS = 2.0
"""Seconds of work that one taking out of ``toprocess`` is worth."""

TAKE_COST_FACTOR = 20
"""A taking is worth at least this many times what it costs."""

TAKE_INTERVAL = 0.1
"""Seconds between two takings, as long as no worker waits for them."""

POLL_SECONDS = 1.0
"""Seconds between two looks at a ``toprocess`` that had nothing for us."""

MOST_STOCK = 8
"""Tasks taken ahead, at the most, for each that the farm has shown to get done."""

MOST_AT_ONCE = 200_000
"""Tasks of one taking, as long as that is enough for the time that it is to last: a
farm of a million workers hands some out before it takes the next, and gives the lock
to others in between."""


class Intake:
    """What is known of ``toprocess``; `first` tasks are taken before any rank asks."""

    def __init__(self, first: int, now: float, *, waits_for_others: bool) -> None:
        self.is_empty = False
        """Whether it had nothing more for us at the last look."""
        self.others_hold = False
        """Whether other farms hold tasks, and this one waits for them."""
        self.poll_at = now
        self._waits_for_others = waits_for_others
        self._first = first
        self._took_at = now - TAKE_INTERVAL
        self._cost = 0.0

    def note(self, now: float, *, empty: bool, cost: float, others: bool) -> None:
        """A taking is done; `cost` is what it took in seconds."""
        self.is_empty = empty
        self.others_hold = others and self._waits_for_others
        self.poll_at = now + POLL_SECONDS
        self._took_at = now
        self._cost = cost

    def is_too_soon(self, now: float) -> bool:
        """Whether only workers that have nothing to do are a reason to take more."""
        return now < self._took_at + TAKE_INTERVAL

    def count(self, queued: int, unmet: int, rate: float, ended: int) -> int:
        """How many more to take.

        `queued` tasks wait for a rank, and ranks could hold `unmet` more leases;
        they have `ended` so many and end `rate` a second.
        """
        shown = MOST_STOCK * ended
        if queued > unmet + min(shown, int(rate * TAKE_SECONDS / 2)):
            return 0
        seconds = max(TAKE_SECONDS, TAKE_COST_FACTOR * self._cost)
        stock = min(shown, int(rate * seconds))
        first, self._first = self._first, 0
        wanted = max(0, first, unmet + stock - queued)
        return min(wanted, max(MOST_AT_ONCE, stock))
