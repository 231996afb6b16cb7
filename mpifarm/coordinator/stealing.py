"""Which leases ranks are to return unstarted, so that workers elsewhere begin them.

Rules of this file:

* Pure: time is an argument (seconds, monotonic).
* A rank is asked again only when it has answered.
* All that a rank has ahead comes back but a small share of what all have ahead: what
  comes back waits on rank 0 for whoever is free first, so that no lease goes to and
  fro between ranks.
"""

from collections.abc import Iterable

from mpifarm.coordinator.ahead import share_ahead
from mpifarm.coordinator.state import RankRecord

PATIENCE_SECONDS = 0.01
"""Seconds for which workers are idle before leases are recalled for them: results may
be under way, after which the leases can begin where they are."""

PATIENCE_FOR_DISK_SECONDS = 0.2
"""The same seconds while ``toprocess`` may have more tasks."""

SECONDS_FOR_RANK = 2e-5
"""Seconds of patience for each rank of the farm: a look at all of them takes time."""


class Recalls:
    """The requests for leases to come back; `ranks` is the number of ranks."""

    def __init__(self, ranks: int) -> None:
        self.look_at = float("inf")
        """When time alone may make leases come back."""
        self._patience = max(PATIENCE_SECONDS, SECONDS_FOR_RANK * ranks)
        self._idle_since: float | None = None

    def rest(self) -> None:
        """Stop the wait: no worker is idle, or tasks are there for the idle ones."""
        self._idle_since = None
        self.look_at = float("inf")

    def is_due(self, now: float, *, more_may_come: bool) -> bool:
        """Start the wait when workers become idle; return whether the wait is over."""
        if self._idle_since is None:
            self._idle_since = now
            self.look_at = now + self._patience
            if more_may_come:
                self.look_at = now + max(self._patience, PATIENCE_FOR_DISK_SECONDS)
        return now >= self.look_at

    def note_leases(self, now: float) -> None:
        """Look soon at leases handed out while workers idle: they may wait there."""
        if self._idle_since is not None:
            self.look_at = min(self.look_at, now + self._patience)

    def pick(
        self, records: Iterable[RankRecord], all_workers: int, now: float
    ) -> list[tuple[RankRecord, int]]:
        """Mark ranks as asked that are to return leases; return each with the number.

        `look_at` is set to the next look: `inf` if no rank has more leases than
        workers.
        """
        rich = [r for r in records if len(r.leases) > r.workers and not r.settled]
        # Where no rank has anything ahead, none will before more was handed out.
        self.look_at = now + self._patience if rich else float("inf")
        ahead = sum(len(record.leases) - record.workers for record in rich)
        asked = []
        for record in rich:
            keeps = share_ahead(ahead, record.workers, all_workers)
            count = len(record.leases) - record.workers - keeps
            if count > 0 and not record.is_asked:
                record.is_asked = True
                asked.append((record, count))
        return asked
