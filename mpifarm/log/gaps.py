"""What can't be shown, told of many tasks in few sentences.

Rules of this file: pure.  Each reason is told once, however many tasks it is about.
"""

from collections.abc import Collection
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.workdir.claims import encode_ids

MOST_NAMES = 70
"""Characters that the ids in a sentence take."""
MOST_GAPS = 20
"""Sentences on what can't be shown."""


class Gap(NamedTuple):
    """Why something can't be shown: a sentence, without the tasks it is about."""

    before: str
    behind: str


class GapError(InputError):
    """Something of one task can't be shown."""

    def __init__(self, gap: Gap, taskid: int) -> None:
        super().__init__(f"{gap.before}task {taskid}{gap.behind}")
        self.gap = gap


class GoneError(GapError):
    """It is gone from where it was: it may be elsewhere now."""


class Gaps:
    """What can't be shown of many tasks, in few sentences."""

    def __init__(self) -> None:
        self._ids: dict[Gap, list[int]] = {}

    def note(self, gap: Gap, taskid: int) -> None:
        """One more task to which it applies."""
        self._ids.setdefault(gap, []).append(taskid)

    def sentences(self) -> list[str]:
        """One for each reason."""
        found = [
            f"{gap.before}{_name_tasks(ids)}{gap.behind}"
            for gap, ids in self._ids.items()
        ]
        if len(found) > MOST_GAPS:
            rest = [*self._ids.values()][MOST_GAPS:]
            count = sum(map(len, rest))
            found[MOST_GAPS:] = [
                f"the same, or the like, is true of {count} more tasks"
            ]
        return found


def _name_tasks(taskids: Collection[int]) -> str:
    if len(taskids) == 1:
        return f"task {encode_ids(taskids)}"
    names = name_ids(taskids)
    if names.endswith("..."):
        return f"each of {len(taskids)} tasks ({names})"
    return f"each of the tasks {names}"


def name_ids(taskids: Collection[int]) -> str:
    """Ids for a sentence: the first of them, where they are many."""
    names = encode_ids(taskids)
    if len(names) <= MOST_NAMES:
        return names
    return names[: names.rindex(",", 0, MOST_NAMES)] + ",..."
