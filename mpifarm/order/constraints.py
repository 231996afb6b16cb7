"""What a list says of its tasks: which wait for others, and which share seats.

Rules of this file: pure; ids and names, no texts.  A task waits only for tasks above
it, so there are no cycles, and lines that are added to the end of a list change nothing
for those above.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import filterfalse, takewhile
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")


class Barrier(NamedTuple):
    """All tasks before `first` have to end before `first` or a later one may start.

    `checks`: none of those from `since` on may have failed, or those behind are not
    run.
    """

    first: int
    checks: bool
    since: int = 0


@dataclass(slots=True)
class Constraints:
    """The constraints of a list; without any, all tasks may start in any order.

    It grows with its list: parts are appended, and none of them ever changes.
    """

    barriers: list[Barrier] = field(default_factory=list)
    """By `Barrier.first`, ascending; two at one place are one that checks if either
    does."""
    after: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """For a task, the lower ids that have to be finished before it may start.  If one
    of these has failed, the task is not run."""
    kinds: dict[int, str] = field(default_factory=dict)
    """For a task, the name of the seats that it shares with others (``--limit``)."""
    is_foreign: bool = False
    """Whether plain farmers read other tasks in the list: it is written in a dialect.
    """
    barrier_words: str = field(default="#BARRIER", compare=False)
    """How the list says a barrier; with `` CHECK`` behind it, it checks."""

    def __bool__(self) -> bool:
        """Return whether the list says anything that plain farmers do not heed."""
        return bool(self.barriers or self.after or self.kinds or self.is_foreign)

    def add_barrier(self, first: int, *, checks: bool, since: int = 0) -> None:
        """Put a barrier in front of task `first`, which is to be the list's next."""
        barriers = self.barriers
        if barriers and barriers[-1].first == first:
            before = barriers.pop()
            if before.checks:
                checks, since = True, min(before.since, since if checks else first)
        if first:
            barriers.append(Barrier(first, checks, since if checks else 0))

    def extend(self, others: "Constraints") -> None:
        """Append what the tasks that were added to the list's end say."""
        for barrier in others.barriers:
            first, checks, since = barrier
            self.add_barrier(first, checks=checks, since=since)
        for taskid, ids in others.after.items():
            before = self.after.get(taskid, ())
            self.after[taskid] = tuple(sorted({*before, *ids})) if before else ids
        self.kinds.update(others.kinds)

    def cut(self, count: int) -> "Constraints":
        """Keep what is said of the first `count` tasks.  Return the rest."""
        rest = Constraints(is_foreign=self.is_foreign)
        while self.barriers and self.barriers[-1].first >= count:
            rest.barriers.append(self.barriers.pop())
        rest.barriers.reverse()
        _move(self.after, rest.after, count)
        _move(self.kinds, rest.kinds, count)
        return rest

    def is_shared(self, taskid: int) -> bool:
        """Return whether plain farmers may run the task as it stands, at once."""
        if self.is_foreign or taskid in self.after or taskid in self.kinds:
            return False
        return self.count_barriers(taskid) == 0

    def find_shared(self, taskids: Iterable[int]) -> Iterator[int]:
        """Yield those of `taskids`, in order, that plain farmers may run at once."""
        if self.is_foreign:
            return iter(())
        if self.barriers:
            taskids = takewhile(self.barriers[0].first.__gt__, taskids)
        for mapping in (self.after, self.kinds):
            if mapping:
                taskids = filterfalse(mapping.__contains__, taskids)
        return iter(taskids)

    def count_barriers(self, taskid: int) -> int:
        """Return how many barriers are in front of a task."""
        barriers = self.barriers
        if not barriers or taskid < barriers[0].first:
            return 0
        return bisect_right(barriers, taskid, key=_place_of)

    def describe(self, begin: int, end: int) -> Iterator[tuple[int, str]]:
        """Yield id and directives of each task in a range that has any, in order.

        Two lists with equal texts and equal directives are the same list.
        """
        places = {each.first for each in self._barriers_between(begin, end)}
        for mapping in (self.after, self.kinds):
            if len(mapping) < end - begin:
                places.update(each for each in mapping if begin <= each < end)
            else:
                places.update(each for each in range(begin, end) if each in mapping)
        for taskid in sorted(places):
            yield taskid, "".join(self._directives(taskid))

    def _barriers_between(self, begin: int, end: int) -> list[Barrier]:
        first = bisect_left(self.barriers, begin, key=_place_of)
        return self.barriers[first : bisect_left(self.barriers, end, key=_place_of)]

    def _directives(self, taskid: int) -> Iterator[str]:
        place = self.count_barriers(taskid)
        if place and self.barriers[place - 1].first == taskid:
            _, checks, since = self.barriers[place - 1]
            yield "#BARRIER CHECK" if checks else "#BARRIER"
            yield f" {since}\n" if since else "\n"
        if waits_for := self.after.get(taskid):
            yield f"#AFTER {','.join(map(str, waits_for))}\n"
        if kind := self.kinds.get(taskid):
            yield f"#KIND {kind}\n"


UNORDERED: Final = Constraints()
"""The constraints of a list that has none, and never gets any."""


def _place_of(barrier: Barrier) -> int:
    return barrier.first


def _move(ours: dict[int, T], theirs: dict[int, T], count: int) -> None:
    """Move the entries of the ids from `count` on, which stand last."""
    moved = list(takewhile(count.__le__, reversed(ours)))
    for taskid in reversed(moved):
        theirs[taskid] = ours.pop(taskid)
