"""The search for tasks of a database that a farm may take.

Rules of this file: it reads, within the transaction that takes what it finds.  Tasks
that are to be processed may run at once; of those that wait, the frontier says which
may, and which never will.  Long stretches that have to wait are not looked at.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from mpifarm.database.farming import find_ready, find_waiting
from mpifarm.database.schema import Connection
from mpifarm.order.frontier import Frontier

MAX_DOOMED: Final = 10_000
"""Tasks that are not to run, of one transaction: each of them has to be recorded."""

WINDOW: Final = 1000
"""Rows of waiting tasks that are read at once."""


@dataclass(slots=True)
class FoundTasks:
    """The tasks that a transaction is to take."""

    taken: list[int] = field(default_factory=list)
    """Tasks to run."""
    doomed: list[tuple[int, str]] = field(default_factory=list)
    """Tasks that are never to run, and why."""
    is_empty: bool = True
    """Whether no other task may run now."""

    @property
    def ids(self) -> list[int]:
        """All these tasks."""
        return [*self.taken, *(taskid for taskid, _ in self.doomed)]

    def add(self, taskid: int, frontier: Frontier | None) -> None:
        """Add a task that the farm has taken already."""
        if frontier and (why := frontier.find_doomed(taskid)):
            self.doomed.append((taskid, why))
        else:
            self.taken.append(taskid)


def find_tasks(
    connection: Connection,
    take: int,
    total: int,
    frontier: Frontier | None,
    *,
    stays: frozenset[int],
    held: Sequence[Collection[int]],
) -> FoundTasks:
    """Return up to `take` of the first `total` tasks that may run, the lowest first.

    Tasks in `stays` are not taken, but are there for a later transaction.  Those of the
    sets `held` that wait are not there for anybody.
    """
    found, take = FoundTasks(), max(take, 0)
    # One more than is taken: it tells whether any are left.
    ready = find_ready(connection, total, take + len(stays) + 1)
    found.taken = [taskid for taskid in ready if taskid not in stays][:take]
    found.is_empty = len(found.taken) == len(ready)
    if frontier is not None:
        _search(connection, found, take, total, frontier, stays, held)
    return found


def _search(
    connection: Connection,
    found: FoundTasks,
    take: int,
    total: int,
    frontier: Frontier,
    stays: frozenset[int],
    held: Sequence[Collection[int]],
) -> None:
    """Add the tasks that wait and may leave their queue."""
    place = 0
    while found.is_empty or len(found.taken) < take:
        place = frontier.find_candidate(place)
        rows = find_waiting(connection, place, total, WINDOW)
        if place >= total or not rows:
            return
        place = rows[-1] + 1
        for taskid in rows:
            if frontier.find_candidate(taskid) != taskid:
                continue
            if any(taskid in each for each in held):
                continue
            why = frontier.find_doomed(taskid)
            is_full = len(found.doomed if why else found.taken) >= (
                MAX_DOOMED if why and take else take
            )
            if is_full or taskid in stays:
                found.is_empty = found.is_empty and bool(why and not take)
            elif why:
                found.doomed.append((taskid, why))
            else:
                found.taken.append(taskid)
