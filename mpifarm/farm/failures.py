"""The failed tasks of a farm: told as they fail, and grouped by cause at its end.

Rules of this file: its cost is bounded.  It reads the end of an output and groups only
while that takes a small share of rank 0's time; it tells a few failures a minute, and
counts the others.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from mpifarm.causes.failure import TAIL, Failure
from mpifarm.causes.groups import CauseGrouper
from mpifarm.causes.lines import last_printed
from mpifarm.farm.cause_lines import GroupedFailures
from mpifarm.farm.summary import failed_in_words
from mpifarm.farm.task_lines import show_command
from mpifarm.model.task import Outcome, Result, has_not_run
from mpifarm.output.fresh_end import read_fresh_end

MAX_TOLD = 5
"""Failures that are told in a minute."""
MINUTE = 60.0
MAX_LINE = 200
"""Characters of a task's last line that are shown."""

FREE_SECONDS = 2.0
"""Seconds that reading and grouping may take beyond their share."""
MAX_SHARE = 0.02
"""Share of rank 0's time that reading and grouping may take."""


class Failures:
    """The failed tasks of one farm.

    `find_host` names the host of a rank.  `tell` prints a line; where each end of a
    task has a line already (`tells_ends` False) only the task's last words are added.
    """

    def __init__(
        self,
        logs: str,
        farm: str,
        commands: Sequence[str],
        find_host: Callable[[int], str],
        tell: Callable[[str], None],
        now: float,
        *,
        tells_ends: bool = True,
    ) -> None:
        self._logs = logs
        self._farm = farm
        self._commands = commands
        self._find_host = find_host
        self._tell = tell
        self._tells_ends = tells_ends
        self._begun = now
        self._spent = 0.0
        self._grouper = CauseGrouper()
        self._count = 0
        self._minute_ends = now + MINUTE
        self._told = 0
        self._untold = 0

    def note(self, rank: int, result: Result, now: float) -> None:
        """Tell of a failed task, if not too many were told, and group it.

        One that a user has cancelled is only grouped.
        """
        self.look(now)
        is_cancelled = result.outcome is Outcome.CANCELLED
        tells = self._told < MAX_TOLD
        tail = b""
        if self._spent <= FREE_SECONDS + MAX_SHARE * (now - self._begun):
            begun = time.perf_counter()
            tail = self._read_end(rank, result)
            self._grouper.add(self._describe(rank, result, tail))
            self._count += 1
            self._spent += time.perf_counter() - begun
        if is_cancelled:
            return
        if not tells:
            self._untold += 1
            return
        self._told += 1
        if self._tells_ends:
            self._tell(self._word(rank, result))
        if line := last_printed(tail):
            self._tell(f"task {result.taskid} printed last: {_shorten(line)}")

    def look(self, now: float) -> None:
        """Tell how many more have failed, once a minute is over."""
        if now < self._minute_ends:
            return
        if self._untold:
            self._tell(f"… and {self._untold} more failed in the last minute")
        self._minute_ends = now + MINUTE
        self._told = self._untold = 0

    def group(self, ran: Mapping[str, int]) -> GroupedFailures:
        """Return the failures by cause; `ran` is the number of attempts by host."""
        return GroupedFailures(self._grouper.groups(ran), self._count)

    def _read_end(self, rank: int, result: Result) -> bytes:
        attempt = (result.taskid, result.attempt)
        # One byte more, so that it is known whether the first line is whole.
        return read_fresh_end(self._logs, self._farm, rank, attempt, TAIL + 1)

    def _describe(self, rank: int, result: Result, tail: bytes) -> Failure:
        number = max(0, -result.status)
        return Failure(
            result.taskid,
            result.outcome.value,
            128 + number if number else result.status,
            number,
            "" if has_not_run(result) else self._find_host(rank),
            show_command(self._commands, result.taskid),
            tail,
            result.started,
            result.seconds,
            result.peak_memory,
            result.attempt,
        )

    def _word(self, rank: int, result: Result) -> str:
        return (
            f"task {result.taskid} {failed_in_words(result)} on"
            f" {self._find_host(rank)}: {show_command(self._commands, result.taskid)}"
        )


def _shorten(line: str) -> str:
    line = line.strip()
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"
