"""The location of one task, and its farm, by the files of a workdir.

Rules of this file: pure; contents in, locations out, and no words about them.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from mpifarm.audit.audit import ClaimView, Contents, audit_contents, learn_tasks
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store.task_map import Location, TaskMap


class LocatedTask(NamedTuple):
    """The location of one task, at one moment."""

    location: Location
    holder: ClaimView | None
    """The claim that holds the task, of a farm alive or dead; None without a claim."""
    may_start: bool
    """Whether any farm of the workdir is alive, or may be."""
    is_held_up: bool = False
    """Whether it waits for tasks that have not ended, by the list's order."""


class TaskLocator:
    """The locations of the tasks of a list, at one moment.

    `total` is the number of tasks in the list, which may be more than `tasks` has, if
    lines were added.  `has_own_state`: the tasklist keeps its own state, and the status
    files say nothing.  `constraints` are those of the list.
    """

    def __init__(
        self,
        contents: Contents,
        tasks: TaskMap,
        total: int,
        *,
        has_own_state: bool,
        constraints: Constraints,
    ) -> None:
        self.claims = contents.claims
        self.may_start = any(each.may_live for each in contents.claims)
        self.total = total
        self._tasks = tasks
        self._all_run = contents.toprocess is None
        self._has_own_state = has_own_state
        self._constraints = constraints

    def knows(self, taskid: int) -> bool:
        """Return whether the list has the task; True for a list with its own state."""
        return self._has_own_state or taskid < self.total

    def locate(self, taskid: int) -> LocatedTask:
        """Return the location of a task, `NOWHERE` for an unknown one.

        A task of a list with its own state is `UNKNOWN`, unless a claim holds it.
        Without ``toprocess``, a task that the workdir has not taken up yet is `QUEUED`.
        """
        location, holder = self._tasks.find(taskid), None
        if location is Location.CLAIMED:
            holder = next(each for each in self.claims if taskid in each.held)
        elif self._has_own_state:
            location = Location.UNKNOWN
        elif taskid >= self._tasks.total and self._all_run:
            location = Location.QUEUED
        is_queued = location is Location.QUEUED and taskid < self._tasks.total
        is_held_up = is_queued and self._is_held_up(taskid)
        return LocatedTask(location, holder, self.may_start, is_held_up)

    def find_unqueued(self, taskids: Sequence[int]) -> list[int]:
        """Return those of some tasks that are not `QUEUED`, in their order."""
        if self._has_own_state:
            return [*taskids]
        total = self._tasks.total
        known = [taskid for taskid in taskids if taskid < total]
        places = zip(known, self._tasks.at(known), strict=True)
        found = [taskid for taskid, at in places if at != Location.QUEUED]
        if not self._all_run:
            found += [taskid for taskid in taskids if taskid >= total]
        return found

    def _is_held_up(self, taskid: int) -> bool:
        return bool(self._constraints) and (
            self._frontier.find_candidate(taskid) != taskid
        )

    @cached_property
    def _frontier(self) -> Frontier:
        ids_at, flags = self._tasks.ids_at, []
        for location in (Location.FINISHED, Location.FAILED):
            flags.append(ended := bytearray(self._tasks.total))
            for taskid in ids_at(location):
                ended[taskid] = 1
        return Frontier(self._constraints, *flags)


def locate_tasks(
    contents: Contents,
    texts: Sequence[str] | None,
    *,
    has_own_state: bool,
    constraints: Constraints = UNORDERED,
) -> TaskLocator:
    """Return the locations of all tasks.

    `texts` are the tasks of the list; None: the files tell as many as they name.
    `constraints` are those of the list.
    """
    if has_own_state:
        contents = contents._replace(toprocess=None, finished=None, failed=None)
    tasks = learn_tasks(contents) if texts is None else texts
    audit = audit_contents(
        contents, tasks, list_is_known=texts is not None, constraints=constraints
    )
    return TaskLocator(
        *(contents, audit.locations, len(tasks)),
        has_own_state=has_own_state,
        constraints=constraints,
    )
