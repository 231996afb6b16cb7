"""``--task-memory``: which runs have too much memory, all their processes together.

Rules of this file: it reads and writes shared rows, and asks `measure`; time is an
argument (monotonic, ns).  Only the fork server uses it, and only where there is a
limit.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mpifarm.pool.shared_state import WorkerRow
from mpifarm.pool.time_limit import LATE, REMIND, SECOND, TimeAction

PERIOD = SECOND
"""Time between two looks."""

SOON = SECOND // 5
"""The same where a run has more than half its limit."""

REST = 4
"""A look is followed by so many times the time that it took: to count the pages that
processes share takes up to a second for 100 GB."""

Measure = Callable[[int], int]
"""Returns the bytes of a worker's run, by the worker's index."""


@dataclass(slots=True)
class _Excess:
    """A run that is being ended."""

    serial: int
    since: int


class MemoryWatch:
    """The memory of all workers' runs; `limit` is in bytes."""

    def __init__(self, limit: int, measure: Measure) -> None:
        self._limit = limit
        self._measure = measure
        self._ending: dict[int, _Excess] = {}
        """By the index of the worker."""
        self._largest = 0
        """The bytes of the largest run of this look."""
        self.look_at = 0
        """When to call `look` again."""

    def look(
        self, rows: Mapping[int, WorkerRow], now: int
    ) -> list[tuple[int, TimeAction]]:
        """Note the runs that have too much.  Return the actions due, by worker.

        Set `look_at`; before that, do nothing.
        """
        if now < self.look_at:
            return []
        begin = time.perf_counter_ns()
        self._largest = 0
        actions = {index: self._check(index, row, now) for index, row in rows.items()}
        due = [(index, each) for index, each in actions.items() if each is not None]
        period = SOON if 2 * self._largest > self._limit else PERIOD
        rest = REST * (time.perf_counter_ns() - begin)
        self.look_at = now + (REMIND if due else max(period, rest))
        return due

    def _check(self, index: int, row: WorkerRow, now: int) -> TimeAction | None:
        """Measure a run, or go on ending it.  Return what its worker needs, if any."""
        serial = row.serial  # First: a run that begins meanwhile is not meant.
        if row.task is None:
            return None
        excess = self._ending.get(index)
        if excess is None or excess.serial != serial:
            size = self._measure(index)
            self._largest = max(self._largest, size)
            if size <= self._limit:
                return None
            row.note_excess(size, serial)
            excess = self._ending[index] = _Excess(serial, now)
        is_worker_stuck = now - excess.since >= LATE
        return TimeAction.KILL_WORKER if is_worker_stuck else TimeAction.REMIND
