"""Which processes a run has: those that count, and that a KILL of the run is for.

Rules of this file: it reads only.
"""

import os

from mpifarm.system import processes

_TASK_ID = b"MPIFARM_TASK_ID="


class RunProcesses:
    """The processes of the runs of one farm, in the farm's own words.

    `may_wait`: whether a look may wait for a process that the kernel holds.  If not,
    one that is held counts for no task, unless it is below the task's command.
    """

    def __init__(self, farm: str, *, may_wait: bool = True) -> None:
        self._farm = b"MPIFARM_FARM=" + os.fsencode(farm)
        self.may_wait = may_wait

    def task_of(self, pid: int) -> int | None:
        """Return the task of this farm whose name a process bears, None if none."""
        words = processes.environment_of(pid).split(b"\0")
        if self._farm not in words:
            return None
        numbers = [word[len(_TASK_ID) :] for word in words if word.startswith(_TASK_ID)]
        return int(numbers[0]) if numbers and numbers[0].isdigit() else None

    def tree_of(self, command: int, worker: int, task: int) -> set[int]:
        """Return the command of a run, or its worker if it has none, and descendants.

        What earlier tasks of a user's runner have left below its worker is left out.
        """
        if command > 0:
            return set(processes.tree_of(command))
        tree = set(processes.tree_of(worker))
        for pid in tree - {worker}:
            if self._is_unknown(pid) or self.task_of(pid) not in (None, task):
                tree.difference_update(processes.tree_of(pid))
        return tree

    def orphans_of(self, parent: int, ours: set[int]) -> dict[int, set[int]]:
        """Return the children of `parent` that bear a task's name, by the task.

        `parent` has adopted those whose own parents have ended.  Their descendants
        count as well if they bear the name.  `ours` are no orphans.
        """
        found: dict[int, set[int]] = {}
        for pid in orphans_below(parent, ours):
            task = None if self._is_unknown(pid) else self.task_of(pid)
            if task is not None:
                found.setdefault(task, set()).add(pid)
        return found

    def _is_unknown(self, pid: int) -> bool:
        return not self.may_wait and processes.is_held(pid)


def orphans_below(parent: int, ours: set[int]) -> list[int]:
    """Return the adopted children of a process, not `ours`, and their descendants.

    The monitor of a Podman container, for one, bears no name of a task, but the
    processes in the container do.
    """
    found = [pid for pid in _children_of(parent) if pid not in ours]
    for pid in found:  # which grows meanwhile
        found.extend(_children_of(pid))
    return found


def _children_of(pid: int) -> list[int]:
    try:
        return processes.children_of(pid)
    except ProcessLookupError:  # it has just gone
        return []
