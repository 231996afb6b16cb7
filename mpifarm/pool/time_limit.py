"""``--task-timeout``: which runs have taken too long, and who has to be told.

Rules of this file: it reads and writes the board, nothing else; time is an argument
(monotonic, ns).  Only the pool's parent uses it, and only where there is a limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from mpifarm.pool.board import BoardLine, Verdict

SECOND = 1_000_000_000

LATE = 2 * SECOND
"""Time after the grace time at which a worker is given up that is still at its run."""

REMIND = SECOND // 20
"""Time between two looks at a run whose time is over."""

PAUSE = SECOND
"""A look that is so late tells that this process was suspended, the tasks as well."""

_LONGEST = 1e8
"""Seconds, three years: who wants more wants none.  select() takes no more."""


class Measure(Enum):
    """What is due for a run."""

    REMIND = "remind its worker of the verdict"
    KILL_WORKER = "kill its worker"


@dataclass(slots=True)
class _Run:
    since: int
    forgiven: int = 0
    """Time in which it was suspended."""


class TimeKeeper:
    """Looks at the runs of all workers."""

    def __init__(self, limit: float, grace: float) -> None:
        self._limit = int(min(limit, _LONGEST) * SECOND)
        self._grace = int(min(grace, _LONGEST) * SECOND)
        self._runs: dict[int, _Run] = {}
        """By the index of the worker."""
        self.look_at = 0
        """When to look again."""

    def look(
        self, lines: Mapping[int, BoardLine], now: int
    ) -> list[tuple[int, Measure]]:
        """Give verdicts; what is due, by the index of the worker."""
        was_suspended = 0 < self.look_at < now - PAUSE
        suspended_at = self.look_at if was_suspended else now
        # What begins right after this look is not over before that.
        self.look_at = now + self._limit
        due = []
        for index, line in lines.items():
            run = self._find_run(index, line.since)
            if run is not None:
                if run.since < suspended_at:
                    run.forgiven += now - suspended_at
                due.append((index, self._judge(run, line, now)))
        return [(index, measure) for index, measure in due if measure is not None]

    def _find_run(self, index: int, since: int) -> _Run | None:
        if not since:
            return None
        run = self._runs.get(index)
        if run is None or run.since != since:
            run = self._runs[index] = _Run(since)
        return run

    def _judge(self, run: _Run, line: BoardLine, now: int) -> Measure | None:
        over = now - run.since - run.forgiven - self._limit
        if over < 0:
            self.look_at = min(self.look_at, now - over)
            return None
        self.look_at = min(self.look_at, now + REMIND)
        line.say(Verdict.KILL if over >= self._grace else Verdict.TERMINATE, run.since)
        return Measure.KILL_WORKER if over >= self._grace + LATE else Measure.REMIND
