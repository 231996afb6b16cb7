"""The reasons why outputs can't be printed, in few sentences for many tasks.

Rules of this file: pure.  Each reason is given once, with the ids of its tasks.
"""

from collections.abc import Collection
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.wording import counted

MAX_NAMES = 70
"""Characters of the ids in a sentence."""
MAX_GAPS = 20
"""Sentences that one command prints at most, and one about all other tasks."""


class Gap(NamedTuple):
    """A sentence about tasks: the words before and after their ids."""

    before: str
    after: str


class GapError(InputError):
    """An output of one task that can't be printed, with the reason `gap`."""

    def __init__(self, gap: Gap, taskid: int) -> None:
        super().__init__(f"{gap.before}task {taskid}{gap.after}")
        self.gap = gap


class GoneError(GapError):
    """An output that is gone from its place, and may be elsewhere now."""


class Gaps:
    """The reasons why outputs of many tasks can't be printed."""

    def __init__(self) -> None:
        self._ids: dict[Gap, list[int]] = {}

    def note(self, gap: Gap, taskid: int) -> None:
        """Add a task to a reason."""
        self._ids.setdefault(gap, []).append(taskid)

    @property
    def are_none(self) -> bool:
        """Whether no task was noted."""
        return not self._ids

    def sentences(self) -> list[str]:
        """Return a sentence for each reason, `MAX_GAPS` and one at most."""
        found = [
            f"{gap.before}{_name_tasks(ids)}{gap.after}"
            for gap, ids in self._ids.items()
        ]
        if len(found) > MAX_GAPS:
            rest = [*self._ids.values()][MAX_GAPS:]
            count = sum(map(len, rest))
            found[MAX_GAPS:] = [f"the like is true of {counted(count, 'more task')}"]
        return found


def _name_tasks(taskids: Collection[int]) -> str:
    if len(taskids) == 1:
        return f"task {name_ids(taskids)}"
    names = name_ids(taskids, MAX_NAMES)
    if names.endswith("…"):
        return f"each of {counted(len(taskids))} ({names})"
    return f"each of the tasks {names}"
