"""Another order of starts than that of the list: ``--shuffle``, ``--order``.

Rules of this file: pure; the ids of tasks and the queues stay as they are.  Plain
farmers sort ``toprocess`` by id whenever they take a task, and every search in a queue
relies on that.  So the order is one farm's own: it picks its next tasks out of the
middle of a queue, and nothing on the disk tells of it.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from math import inf
from random import Random
from typing import Final

from mpifarm.store.status_lines import Ids

BLOCK: Final = 4096
"""Tasks whose keys are made at once."""


class StartOrder:
    """An order of tasks: by a key for each, then by id.

    `make_keys` returns the keys of `BLOCK` tasks, from an id on that is a multiple of
    it.  They don't depend on the length of the list, which may grow.
    """

    def __init__(self, make_keys: Callable[[int], Iterable[float]]) -> None:
        self._make_keys = make_keys
        self._keys = array("d")

    def sort(self, taskids: Iterable[int]) -> Ids:
        """Return the tasks in the order of their starts."""
        ids = array("I", taskids)
        self._reach(ids)
        return array("I", sorted(ids, key=self._keys.__getitem__))

    def find_first(self, taskids: Iterable[int], count: int) -> list[int]:
        """Return up to `count` of the tasks, in the order of their starts."""
        ids = array("I", taskids)
        self._reach(ids)
        return nsmallest(count, ids, key=self._keys.__getitem__)

    def _reach(self, taskids: Ids) -> None:
        """Make the keys of all tasks up to the last of `taskids`."""
        last = max(taskids, default=-1)
        while last >= len(self._keys):
            self._keys.extend(self._make_keys(len(self._keys)))


def shuffled(seed: int) -> StartOrder:
    """Return a random order; the same one for the same seed."""

    def make_keys(begin: int) -> Iterable[float]:
        random = Random(f"{seed} {begin}").random
        return [random() for _ in range(BLOCK)]

    return StartOrder(make_keys)


def longest_first(durations: Mapping[int, float]) -> StartOrder:
    """Return the order by duration, the longest first; unknown ones before all."""

    def make_keys(begin: int) -> Iterable[float]:
        return [-durations.get(taskid, inf) for taskid in range(begin, begin + BLOCK)]

    return StartOrder(make_keys)
