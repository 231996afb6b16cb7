"""Tasks of a coordinator that was lost, until the ranks have said where they are.

Rules of this file: pure.  Ranks that say something of the same task are told apart by
the attempt: the highest is the truth, so nothing is decided before all have spoken.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from mpifarm.messages import Report
from mpifarm.task import Result


class Where(Enum):
    """What a rank says of a task in limbo."""

    HELD = "held"
    ENDED = "ended"
    LOST = "lost"
    RETURNED = "returned"


class Found(NamedTuple):
    """The last that is known of a task in limbo."""

    rank: int
    attempt: int
    where: Where
    result: Result | None = None
    ended: float = 0.0
    """When its command ended, by the coordinator's clock."""


class Limbo:
    """Where each task in limbo was found; None: nowhere yet."""

    def __init__(self, taskids: Iterable[int]) -> None:
        self.found: dict[int, Found | None] = dict.fromkeys(taskids)

    def __bool__(self) -> bool:
        return bool(self.found)

    def note_leases(self, rank: int, leases: Iterable[tuple[int, int]]) -> None:
        """`rank` holds these (taskid, attempt), and nothing that it held before."""
        for taskid, found in self.found.items():
            if found and found.rank == rank and found.where is Where.HELD:
                self.found[taskid] = None
        for taskid, attempt in leases:
            self._note(taskid, Found(rank, attempt, Where.HELD))

    def note_report(self, rank: int, report: Report, now: float) -> None:
        """`rank` reports these."""
        for result in report.results:
            ended = now - max(0.0, report.sent - result.ended)
            found = Found(rank, result.attempt, Where.ENDED, result, ended)
            self._note(result.taskid, found)
        for taskid, attempt in report.returned:
            self._note(taskid, Found(rank, attempt, Where.RETURNED))
        for taskid, attempt in report.lost:
            self._note(taskid, Found(rank, attempt, Where.LOST))

    def _note(self, taskid: int, found: Found) -> None:
        if taskid not in self.found:
            return
        known = self.found[taskid]
        if known is None or _supersedes(found, known):
            self.found[taskid] = found

    def clear(self) -> dict[int, Found | None]:
        """It ends; what was found."""
        found, self.found = self.found, {}
        return found


def _supersedes(found: Found, known: Found) -> bool:
    if found.attempt != known.attempt:
        return found.attempt > known.attempt
    # An attempt that was returned unstarted may have gone to another rank.
    return known.rank == found.rank or known.where is Where.RETURNED
