"""Runs that users have cancelled: what is due for each until it has ended.

Rules of this file: it reads and writes shared rows, nothing else; time is an argument
(monotonic, ns).  Only the fork server uses it, and only once a run is cancelled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mpifarm.pool.shared_state import TimeVerdict, WorkerRow
from mpifarm.pool.time_limit import LATE, LONGEST, SECOND, TimeAction

IDLE = 2 * SECOND
"""Time without the run after which it counts as ended: its worker may be about to begin
it."""


@dataclass(slots=True)
class _Cancelled:
    """A run, named by the serial number of its lease."""

    serial: int
    since: int
    """When it was cancelled."""
    seen_at: int
    """When it was seen to run last."""


class CancelKeeper:
    """The cancelled runs of all workers; `grace` is in seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = int(min(grace, LONGEST) * SECOND)
        self._runs: dict[int, _Cancelled] = {}
        """By the index of the worker."""

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, index: int, serial: int, now: int) -> None:
        """Cancel the run of a lease, unless it is being cancelled."""
        known = self._runs.get(index)
        if known is None or known.serial != serial:
            self._runs[index] = _Cancelled(serial, now, now)

    def look(
        self, rows: Mapping[int, WorkerRow], now: int
    ) -> list[tuple[int, TimeAction]]:
        """Pass verdicts.  Return the actions due, each with its worker's index."""
        due = []
        for index, run in [*self._runs.items()]:
            row = rows.get(index)
            if row is None or row.serial > run.serial:
                del self._runs[index]
            elif row.serial == run.serial and row.task is not None:
                due.append((index, self._check(run, row, now)))
            elif now - run.seen_at > IDLE:
                del self._runs[index]
        return due

    def _check(self, run: _Cancelled, row: WorkerRow, now: int) -> TimeAction:
        """Pass the verdict on a run; return what its worker needs."""
        run.seen_at = now
        over = now - run.since
        verdict = TimeVerdict.KILL if over >= self._grace else TimeVerdict.TERMINATE
        row.pass_cancel_verdict(verdict, run.serial)
        is_worker_stuck = over >= self._grace + LATE
        return TimeAction.KILL_WORKER if is_worker_stuck else TimeAction.REMIND
