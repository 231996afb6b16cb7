"""What the rows of a database say of its tasks, as far as a farm has read them.

Rules of this file: the rows are the truth, and this is what a farm remembers of them,
so that it need not read them again while nobody else changes them.
"""

from collections.abc import Iterable
from itertools import compress
from typing import NamedTuple

from mpifarm.database.farming import (
    are_worth_reading,
    find_changes,
    read_changed,
    read_unfinished,
)
from mpifarm.database.schema import Connection
from mpifarm.database.tasks import TaskState

_FAILED = (TaskState.FAILED, TaskState.CANCELLED)
_QUEUED = (TaskState.TO_PROCESS, TaskState.WAITING)


class Changes(NamedTuple):
    """The tasks that others have ended, or opened again, since the last reading."""

    finished: list[int]
    failed: list[int]
    opened: list[int]


class RowStates:
    """The states of the first `total` tasks, a byte of 0 or 1 for each in an array."""

    def __init__(self, total: int) -> None:
        self.finished = bytearray(total)
        self.failed = bytearray(total)
        """Failed or cancelled."""
        self.queued = bytearray(total)
        """To be processed, or waiting, when the rows were read last."""
        self.counts = (0, 0)
        """The numbers of finished and of failed tasks."""
        self._next_change = 0
        """The number of the first change that was not read; 0 before any reading."""

    def grow(self, total: int) -> None:
        """Remember more tasks, which are open."""
        for flags in (self.finished, self.failed, self.queued):
            flags.extend(bytes(total - len(flags)))

    def refresh(self, connection: Connection) -> Changes:
        """Read the rows that have changed.  Return what differs, as `read` does."""
        kept = find_changes(connection)
        if not are_worth_reading(kept, self._next_change, len(self.finished)):
            return self.read(connection)
        rows = read_changed(connection, self._next_change, len(self.finished))
        self._next_change = kept.stop
        return self.take_in(rows)

    def take_in(self, rows: Iterable[tuple[int, str]]) -> Changes:
        """Remember the states of some tasks.  Return what differs."""
        changes = Changes([], [], [])
        for taskid, state in rows:
            before = self.finished[taskid], self.failed[taskid]
            finished, failed = state == TaskState.FINISHED, state in _FAILED
            self.queued[taskid] = state in _QUEUED
            if before == (finished, failed):
                continue
            self.finished[taskid], self.failed[taskid] = finished, failed
            new = changes.finished if finished else changes.failed
            (new if finished or failed else changes.opened).append(taskid)
        if any(changes):
            self._count()
        return changes

    def read(self, connection: Connection) -> Changes:
        """Read all rows.  Return what differs from what was remembered.

        It takes some 0.2 µs for each task that has not finished, and less where these
        are all behind the others.
        """
        # First: what is changed meanwhile is read again.
        next_change = find_changes(connection).stop
        total = len(self.finished)
        finished, failed = bytearray(b"\1" * total), bytearray(total)
        queued = bytearray(total)
        for state in TaskState:
            if state is TaskState.FINISHED:
                continue
            flags = failed if state in _FAILED else queued
            is_kept = state in _FAILED or state in _QUEUED
            for ids in read_unfinished(connection, state, total):
                finished[ids.start : ids.stop] = bytes(len(ids))
                if is_kept:
                    flags[ids.start : ids.stop] = b"\1" * len(ids)
        changes = Changes(
            _find_new(self.finished, finished),
            _find_new(self.failed, failed),
            _find_new(_joined(finished, failed), _joined(self.finished, self.failed)),
        )
        self.finished[:], self.failed[:], self.queued[:] = finished, failed, queued
        self._next_change = next_change
        self._count()
        return changes

    def note_ends(self, finished: Iterable[int], failed: Iterable[int]) -> None:
        """Remember ends of tasks; one that has finished stays finished."""
        new_finished = [each for each in finished if not self.finished[each]]
        for taskid in new_finished:
            self.finished[taskid] = 1
        new_failed = [
            each for each in failed if not self.failed[each] | self.finished[each]
        ]
        for taskid in new_failed:
            self.failed[taskid] = 1
        before = self.counts
        self.counts = before[0] + len(new_finished), before[1] + len(new_failed)

    def note_open(self, taskids: Iterable[int]) -> None:
        """Remember that tasks run again, whatever had become of them."""
        ended = [each for each in taskids if self.finished[each] | self.failed[each]]
        for taskid in ended:
            self.finished[taskid] = self.failed[taskid] = 0
        if ended:
            self._count()

    def have(self, taskid: int) -> bool:
        """Return whether a task has ended."""
        return bool(self.finished[taskid] or self.failed[taskid])

    def _count(self) -> None:
        self.counts = self.finished.count(1), self.failed.count(1)


def _joined(ours: bytearray, theirs: bytearray) -> int:
    """Return the flags that either has, as a number: a loop would take a second."""
    return int.from_bytes(ours, "little") | int.from_bytes(theirs, "little")


def _find_new(before: bytearray | int, now: bytearray | int) -> list[int]:
    """Return the ids that are in `now`, and not in `before`."""
    old = before if isinstance(before, int) else int.from_bytes(before, "little")
    new = now if isinstance(now, int) else int.from_bytes(now, "little")
    added = new & ~old
    if not added:
        return []
    flags = added.to_bytes((added.bit_length() + 7) // 8, "little")
    return [*compress(range(len(flags)), flags)]
