"""How many tasks to take out of ``toprocess``, and when.

Rules of this file: pure; time is an argument (seconds, monotonic).  ``toprocess`` is
rewritten whole at each taking, so takings are few.
"""

from mpifarm.coordinator.limits import Limits

TAKE_SECONDS = 2.0
"""Seconds of work that one taking out of ``toprocess`` is worth."""

TAKE_COST_FACTOR = 20
"""A taking is worth at least this many times what it costs."""

TAKE_INTERVAL = 0.1
"""Seconds between two takings, as long as no worker waits for them."""

POLL_SECONDS = 1.0
"""Seconds between two looks at a ``toprocess`` that had nothing for us."""

MAX_STOCK = 8
"""Tasks taken ahead, at the most, for each that the farm has shown to get done."""

MAX_AT_ONCE = 200_000
"""Tasks of one taking, as long as that is enough for the time that it is to last: a
farm of a million workers hands some out before it takes the next, and gives the lock
to others in between."""


class Prefetch:
    """The takings from ``toprocess``; `first` tasks are taken before any rank asks."""

    def __init__(
        self, limits: Limits, first: int, now: float, *, waits_for_others: bool
    ) -> None:
        self.is_empty = False
        """Whether ``toprocess`` had nothing more for us at the last look."""
        self.others_hold = False
        """Whether other farms hold tasks, and this one waits for them, or whether tasks
        wait that may be ready later by what other farms do."""
        self.some_wait = False
        """Whether tasks wait for others, by the order of the list."""
        self.waits_for_more = False
        """Whether this farm waits for tasks that are not in the list yet."""
        self.poll_at = now
        """When to look again at a ``toprocess`` that had nothing."""
        self._limits = limits
        self._waits_for_others = waits_for_others
        self._first = first
        self._took_at = now - TAKE_INTERVAL
        self._cost = 0.0

    @property
    def nothing_more_comes(self) -> bool:
        """Return whether ``toprocess`` was empty, or a gate lets no more tasks out."""
        return self.is_empty or self._limits.is_shut

    def note(
        self,
        now: float,
        *,
        empty: bool,
        cost: float,
        others: bool,
        more_may_come: bool = False,
    ) -> None:
        """Record a taking that cost `cost` seconds; the next look is then due later.

        `empty`: ``toprocess`` has nothing more for us.  `others`: other farms hold
        tasks.  `more_may_come`: by what these do, more may be ready later.
        """
        self.is_empty = empty
        self.others_hold = (others and self._waits_for_others) or more_may_come
        self.poll_at = now + POLL_SECONDS
        self._took_at = now
        self._cost = cost

    def note_more(self, now: float) -> None:
        """Note that tasks were queued: the next look is due."""
        self.is_empty = False
        self.poll_at = now

    def is_too_soon(self, now: float) -> bool:
        """Return whether the last taking was less than `TAKE_INTERVAL` ago."""
        return now < self.next_at

    @property
    def next_at(self) -> float:
        """Return when the last taking is no longer too recent."""
        return self._took_at + TAKE_INTERVAL

    def count(self, queued: int, unmet: int, rate: float, ended: int) -> int:
        """Return how many more tasks to take (0: none now), and use `first` up.

        `queued` tasks wait for a rank, and ranks could hold `unmet` more leases.  Ranks
        have got `ended` tasks done, and get `rate` done in a second.  As long as
        `queued` is enough, `first` stays.
        """
        shown = MAX_STOCK * ended
        if queued > unmet + min(shown, int(rate * TAKE_SECONDS / 2)):
            return 0
        seconds = max(TAKE_SECONDS, TAKE_COST_FACTOR * self._cost)
        stock = min(shown, int(rate * seconds))
        first, self._first = self._first, 0
        wanted = max(0, first, unmet + stock - queued)
        return self._limits.limit(min(wanted, max(MAX_AT_ONCE, stock)))
