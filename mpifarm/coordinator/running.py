"""What runs where, as ranks tell of it: for those who look, not for decisions.

Rules of this file: pure.  A task that has ended is not taken out of here at once, which
would cost each task; it is left out when somebody looks.
"""

from typing import NamedTuple

from mpifarm.coordinator.state import RankRecord
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.model.messages import MAX_RUNNING, RUNNING_SECONDS, Running
from mpifarm.model.task import RunningTask

LOOKS_PER_SECOND = 100
"""Messages `Running` of all ranks together, at the most: each costs rank 0 50 us."""

VERBOSE_SECONDS = 0.5
"""Seconds between two looks of a rank where the user is told of each task."""


class Located(NamedTuple):
    """A running task and its rank."""

    rank: int
    task: RunningTask


class RunningTasks:
    """The tasks that are known to run, and the pace at which ranks tell of them."""

    def __init__(self, table: TaskTable, ranks: int, *, verbose: bool) -> None:
        least = VERBOSE_SECONDS if verbose else RUNNING_SECONDS
        self.seconds = max(least, ranks / LOOKS_PER_SECOND)
        """Seconds between two looks of a rank."""
        self.most = max(1, MAX_RUNNING // ranks)
        """How many tasks each rank tells of."""
        self._table = table
        self._known: dict[int, Located] = {}

    def note(self, record: RankRecord, message: Running) -> tuple[RunningTask, ...]:
        """Take in what a rank has told; return the tasks that it still has."""
        running = tuple(
            each
            for each in message.tasks
            if self._table.find_leased(record.rank, each.taskid, each.attempt)
        )
        self._known.update(
            (each.taskid, Located(record.rank, each)) for each in running
        )
        if len(self._known) > 2 * MAX_RUNNING:
            self._forget_ended()
        return running

    def find_longest(self) -> list[Located]:
        """Return the tasks that have run longest, first the longest."""
        self._forget_ended()
        known = sorted(self._known.values(), key=lambda each: each.task.started)
        return known[:MAX_RUNNING]

    def find(self, taskid: int, attempt: int) -> Located | None:
        """Return where the attempt runs, or ran last; None if nobody told of it."""
        known = self._known.get(taskid)
        return known if known and known.task.attempt == attempt else None

    def _forget_ended(self) -> None:
        self._known = {
            taskid: each
            for taskid, each in self._known.items()
            if self._table.find_leased(each.rank, taskid, each.task.attempt)
        }
