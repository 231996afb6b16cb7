"""Where each task is: the one order of precedence, for farms and for subcommands.

Rules of this file: pure; ids in, locations out.  Several files may name a task; its
location is the greatest `Location` of those that do.  ``docs/protocol.md`` has the same
order as a table ("Where a task is").
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from itertools import compress
from typing import NamedTuple, TypeAlias

Source: TypeAlias = bytearray | Iterable[int]
"""Ids; or for each task of the list whether it is meant, a byte of 0 or 1."""


class Location(IntEnum):
    """The place of a task; of several that apply, the greatest counts."""

    NOWHERE = 0
    """In no file: a plain farmer runs the task, or has lost it."""
    FAILED = 1
    """In ``failed``."""
    QUEUED = 2
    """In ``toprocess`` or ``added``; or there is no ``toprocess``."""
    CLAIMED = 3
    """Held by a claim, be its farm alive or dead."""
    FINISHED = 4
    """In ``finished``."""
    UNKNOWN = -1
    """Known only to a tasklist that keeps its own state."""


class TaskCounts(NamedTuple):
    """The numbers of tasks by location; `total` is the sum of the others."""

    total: int
    finished: int
    failed: int
    queued: int
    claimed: int
    nowhere: int


class TaskMap:
    """The location of each task of a list of `total` tasks.

    Ids beyond the list are left out; a bytearray of flags has just `total` bytes.
    """

    def __init__(
        self,
        total: int,
        *,
        finished: Source,
        claimed: Source,
        queued: Iterable[Source],
        failed: Source,
    ) -> None:
        self.total = total
        self._locations = bytearray(total)
        # In ascending order: what is put later replaces what was put before.
        self._put(Location.FAILED, failed)
        for source in queued:
            self._put(Location.QUEUED, source)
        self._put(Location.CLAIMED, claimed)
        self._put(Location.FINISHED, finished)

    def _put(self, location: Location, source: Source) -> None:
        match source:
            case bytearray():
                self._put_flags(location, source)
            case range():
                known = source[: max(0, self.total - source.start)]
                content = bytes([location]) * len(known)
                self._locations[known.start : known.stop] = content
            case _:
                locations, total = self._locations, self.total
                for taskid in source:
                    if taskid < total:
                        locations[taskid] = location

    def _put_flags(self, location: Location, flags: bytearray) -> None:
        # For all at once: a loop over a million tasks would take a second.
        named = int.from_bytes(flags, "little")
        others = int.from_bytes(self._locations, "little") & ~(named * 0xFF)
        self._locations[:] = (others | named * location).to_bytes(self.total, "little")

    def find(self, taskid: int) -> Location:
        """Return the location of a task, `NOWHERE` for an id beyond the list."""
        known = taskid < self.total
        return Location(self._locations[taskid]) if known else Location.NOWHERE

    def ids_at(self, location: Location) -> Iterator[int]:
        """Return the ids of the tasks at a location, in order."""
        is_there = bytes(number == location for number in range(256))
        return compress(range(self.total), self._locations.translate(is_there))

    def at(self, taskids: Iterable[int]) -> Iterator[int]:
        """Return the location of each task as a number; the list must have them all."""
        return map(self._locations.__getitem__, taskids)

    def count_from(self, location: Location, begin: int) -> int:
        """Return the number of tasks at a location, without those below `begin`."""
        return self._locations.count(location, begin)

    def count(self) -> TaskCounts:
        """Return the number of tasks at each location."""
        return TaskCounts(
            self.total,
            self._locations.count(Location.FINISHED),
            self._locations.count(Location.FAILED),
            self._locations.count(Location.QUEUED),
            self._locations.count(Location.CLAIMED),
            self._locations.count(Location.NOWHERE),
        )


def find_settled(
    failed: Iterable[tuple[int, int]], takes: Mapping[int, int]
) -> set[int]:
    """Return the tasks of a dead farm's claim that failed under that farm.

    `failed` has id and end (in bytes) of each line of ``failed``.  `takes` maps each id
    of the claim to the size of ``failed`` at its take, in bytes.  A line behind that
    size is younger than the take: the task has failed, and does not run again.
    """
    return {taskid for taskid, end in failed if end > takes.get(taskid, end)}
