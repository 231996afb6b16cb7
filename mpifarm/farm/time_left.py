"""The time left, looked at as often as its cost allows, and what it learns from files.

Rules of this file: at most half a percent of rank 0's time.
"""

import time

from mpifarm.coordinator.coordinator import Coordinator, Phase
from mpifarm.errors import StorageError
from mpifarm.farm.summary import Tally
from mpifarm.model.wording import TimeLeft
from mpifarm.store.attempts import COMPLETED, Column, parse_seconds, read_last_rows
from mpifarm.store.store import Store

MIN_SECONDS = 1.0
"""Seconds between two looks."""
MAX_SHARE = 0.005
"""Share of rank 0's time that looks may take."""
MAX_EARLIER = 1 << 20
"""Bytes of earlier attempts that are read: some ten thousand."""


class TimeLeftLook:
    """The last look at the time left, and when the next one is due."""

    def __init__(self, coordinator: Coordinator, store: Store, tally: Tally) -> None:
        self._coordinator = coordinator
        self._store = store
        self._tally = tally
        self._due_at = float("-inf")
        self._seen_at = 0.0
        self._seen: TimeLeft | None = None
        self._has_read_earlier = False

    def find(self, now: float) -> TimeLeft | None:
        """Return the time left at `now` (monotonic); None if nothing is known.

        Between two looks it is that of the last one, less the time since.
        """
        if self._coordinator.phase is not Phase.WORKING:
            return None
        if now >= self._due_at:
            self._look(now)
        if self._seen is None:
            return None
        since = now - self._seen_at
        return TimeLeft(*(max(0.0, seconds - since) for seconds in self._seen))

    def _look(self, now: float) -> None:
        begun = time.perf_counter()
        if not self._has_read_earlier:
            self._has_read_earlier = True
            self._learn_from_earlier()
        done = sum(self._store.recorded)
        self._seen = None
        if not self._is_up_to_users(done):
            self._seen = self._coordinator.forecast.estimate(
                *(now, time.time(), done, self._tally.share(done)),
                self._store.has_record_of,
            )
        self._seen_at = now
        cost = time.perf_counter() - begun
        self._due_at = now + max(MIN_SECONDS, cost / MAX_SHARE)

    def _is_up_to_users(self, done: int) -> bool:
        """Return whether all that is left is held, or waits for another farm's limit.

        Who knows until when.
        """
        held = self._store.held_by_users
        if held.holds_all:
            return True
        total = len(self._coordinator.commands)
        waiting = held._replace(tasks=held.tasks | self._store.unlimited.tasks)
        left = waiting.count_left(total, self._store.has_record_of)
        return 0 < total - done <= left

    def _learn_from_earlier(self) -> None:
        """Learn from the last attempts of earlier farms, if the disk lets."""
        if not self._tally.done_before:
            return
        farm = self._coordinator.definition.farm.encode()
        try:
            rows = [*read_last_rows(self._store.paths, MAX_EARLIER)]
        except StorageError:
            return
        for fields in rows:
            if fields[Column.OUTCOME] == COMPLETED and fields[Column.FARM] != farm:
                try:
                    seconds = parse_seconds(fields[Column.SECONDS])
                except ValueError:
                    continue  # an odd line teaches nothing
                self._coordinator.forecast.note_earlier(int(fields[0]), seconds)
