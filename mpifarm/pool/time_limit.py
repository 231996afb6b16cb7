"""``--task-timeout``: which runs have taken too long, and what is due for each.

Rules of this file: it reads and writes shared rows, nothing else; time is an argument
(monotonic, ns).  Only the fork server uses it, and only where there is a limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from mpifarm.pool.shared_state import TimeVerdict, WorkerRow

SECOND = 1_000_000_000

LATE = 2 * SECOND
"""Time after the grace time at which a worker that is still at its run is KILLed."""

REMIND = SECOND // 20
"""Time between two looks at a run whose time is over."""

PAUSE = SECOND
"""A look this late means that the fork server was suspended, and the tasks with it."""

LONGEST = 1e8
"""Seconds, three years.  select() takes no more; who wants more wants no limit."""


class TimeAction(Enum):
    """The act that is due for a run whose time is over."""

    REMIND = "remind its worker of the verdict"
    KILL_WORKER = "kill its worker"


@dataclass(slots=True)
class _Run:
    since: int
    forgiven: int = 0
    """Time in which the run was suspended."""


class TimeKeeper:
    """The times of all workers' runs; `limit` and `grace` are in seconds."""

    def __init__(self, limit: float, grace: float) -> None:
        self._limit = int(min(limit, LONGEST) * SECOND)
        self._grace = int(min(grace, LONGEST) * SECOND)
        self._runs: dict[int, _Run] = {}
        """By the index of the worker."""
        self.look_at = 0
        """When to call `look` again."""

    def look(
        self, rows: Mapping[int, WorkerRow], now: int
    ) -> list[tuple[int, TimeAction]]:
        """Pass verdicts.  Return the actions due, each with its worker's index.

        Set `look_at`.  Time in which the fork server was suspended does not count.
        """
        was_suspended = 0 < self.look_at < now - PAUSE
        suspended_at = self.look_at if was_suspended else now
        # A run that begins right after this look is not over before that.
        self.look_at = now + self._limit
        due = []
        for index, row in rows.items():
            run = self._find_run(index, row.since)
            if run is not None:
                if run.since < suspended_at:
                    run.forgiven += now - suspended_at
                due.append((index, self._check(run, row, now)))
        return [(index, action) for index, action in due if action is not None]

    def _find_run(self, index: int, since: int) -> _Run | None:
        """Return the run that began at `since`, noted if it is new; None for 0."""
        if not since:
            return None
        run = self._runs.get(index)
        if run is None or run.since != since:
            run = self._runs[index] = _Run(since)
        return run

    def _check(self, run: _Run, row: WorkerRow, now: int) -> TimeAction | None:
        """Pass the verdict on a run, and see that the next look comes in time.

        Return what its worker needs; None while the run is in time.
        """
        over = now - run.since - run.forgiven - self._limit
        if over < 0:
            self.look_at = min(self.look_at, now - over)
            return None
        self.look_at = min(self.look_at, now + REMIND)
        is_kill_due = over >= self._grace
        verdict = TimeVerdict.KILL if is_kill_due else TimeVerdict.TERMINATE
        row.pass_verdict(verdict, run.since)
        is_worker_stuck = over >= self._grace + LATE
        return TimeAction.KILL_WORKER if is_worker_stuck else TimeAction.REMIND
