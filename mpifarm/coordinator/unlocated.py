"""The tasks of a coordinator that was lost, until ranks have said where they are.

Rules of this file: pure.  What ranks say of the same task is told apart by the attempt:
the highest is the truth, so nothing is decided before all ranks have spoken.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from mpifarm.model.messages import Report
from mpifarm.model.task import Result


class SeenAs(Enum):
    """The state of a task by the word of a rank."""

    HELD = "held"
    ENDED = "ended"
    LOST = "lost"
    RETURNED = "returned"


class LastSeen(NamedTuple):
    """The last news of a task that is not located yet."""

    rank: int
    attempt: int
    seen_as: SeenAs
    result: Result | None = None
    """Only with ENDED."""
    ended: float = 0.0
    """When its command ended, by the coordinator's clock."""


class Unlocated:
    """The tasks that may be on any rank, and the ranks that have yet to speak."""

    def __init__(self, taskids: Iterable[int], ranks: Iterable[int]) -> None:
        self.tasks: dict[int, LastSeen | None] = dict.fromkeys(taskids)
        """The last that is known of each task; None: nothing yet."""
        self.awaited: set[int] = set(ranks)
        """Ranks that have yet to `Rejoin`; they get no leases."""

    @property
    def is_pending(self) -> bool:
        """Return whether a task is not located, or a rank has yet to rejoin."""
        return bool(self.tasks or self.awaited)

    def note_leases(self, rank: int, leases: Iterable[tuple[int, int]]) -> None:
        """Replace the leases known of `rank` by these, (taskid, attempt) each.

        Only tasks that are not located yet are noted.
        """
        for taskid, seen in self.tasks.items():
            if seen and seen.rank == rank and seen.seen_as is SeenAs.HELD:
                self.tasks[taskid] = None
        for taskid, attempt in leases:
            self._note(taskid, LastSeen(rank, attempt, SeenAs.HELD))

    def note_report(self, rank: int, report: Report, now: float) -> None:
        """Note what a report of `rank` says of tasks that are not located yet."""
        for result in report.results:
            ended = now - max(0.0, report.sent - result.ended)
            seen = LastSeen(rank, result.attempt, SeenAs.ENDED, result, ended)
            self._note(result.taskid, seen)
        for taskid, attempt in report.returned:
            self._note(taskid, LastSeen(rank, attempt, SeenAs.RETURNED))
        for taskid, attempt in report.lost:
            self._note(taskid, LastSeen(rank, attempt, SeenAs.LOST))

    def _note(self, taskid: int, seen: LastSeen) -> None:
        """Note news of an unlocated task, unless other news of it supersede them."""
        if taskid not in self.tasks:
            return
        known = self.tasks[taskid]
        if known is None or _supersedes(seen, known):
            self.tasks[taskid] = seen

    def clear(self) -> dict[int, LastSeen | None]:
        """Forget all tasks; return where each was last seen (None: nowhere)."""
        tasks, self.tasks = self.tasks, {}
        return tasks


def _supersedes(seen: LastSeen, known: LastSeen) -> bool:
    """Return whether `seen` is later news of a task than `known`."""
    if seen.attempt != known.attempt:
        return seen.attempt > known.attempt
    # An attempt that was returned unstarted may have gone to another rank.
    return known.rank == seen.rank or known.seen_as is SeenAs.RETURNED
