"""Runs that users have cancelled: what is due for each until it has ended.

Rules of this file: it reads and writes shared rows, nothing else; time is an argument
(monotonic, ns).  Only the fork server uses it, and only once a run is cancelled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mpifarm.pool.shared_state import TimeVerdict, WorkerRow
from mpifarm.pool.time_limit import LATE, LONGEST, SECOND, TimeAction

IDLE = 2 * SECOND
"""Time without the run, since its worker came to it, after which it counts as ended:
the worker may be about to begin it."""


@dataclass(slots=True)
class _Cancelled:
    """A run that is to end."""

    since: int
    """When it was cancelled, or last seen to be one that its worker comes to later."""
    seen_at: int
    """When it was seen to run last."""


class CancelKeeper:
    """The cancelled runs of all workers; `grace` is in seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = int(min(grace, LONGEST) * SECOND)
        self._runs: dict[tuple[int, int], _Cancelled] = {}
        """By the index of the worker and the serial number of the lease."""

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, index: int, serial: int, now: int) -> None:
        """Cancel the run of a lease, unless it is being cancelled."""
        self._runs.setdefault((index, serial), _Cancelled(now, now))

    def look(
        self, rows: Mapping[int, WorkerRow], now: int
    ) -> list[tuple[int, TimeAction]]:
        """Pass verdicts.  Return the actions due, each with its worker's index."""
        due = []
        for (index, serial), run in [*self._runs.items()]:
            row = rows.get(index)
            if row is None or row.serial > serial:
                del self._runs[index, serial]
            elif row.serial < serial:
                run.since = run.seen_at = now  # the worker has yet to come to it
            elif row.task is not None:
                due.append((index, self._check(run, serial, row, now)))
            elif now - run.seen_at > IDLE:
                del self._runs[index, serial]
        return due

    def _check(
        self, run: _Cancelled, serial: int, row: WorkerRow, now: int
    ) -> TimeAction:
        """Pass the verdict on a run; return what its worker needs."""
        run.seen_at = now
        over = now - run.since
        verdict = TimeVerdict.KILL if over >= self._grace else TimeVerdict.TERMINATE
        row.pass_cancel_verdict(verdict, serial)
        is_worker_stuck = over >= self._grace + LATE
        return TimeAction.KILL_WORKER if is_worker_stuck else TimeAction.REMIND
