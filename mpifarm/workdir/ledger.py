"""``finished`` and ``failed`` as this farm knows them: read on, and appended to.

Rules of this file: a look costs what came since the last one, never the whole file.
The caller holds the lock.  Neither file is ever rewritten: other farms remember how
far they have read.  So an append that failed, and could not be taken back at once, is
never taken back: others may have read a part of it; the next look brings it to its end.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.workdir import files
from mpifarm.workdir.records import Recorded
from mpifarm.workdir.status import TornLine, encode_lines, judge_odd, parse_status


class Look(NamedTuple):
    """What others have appended since the last look.

    `own` are the ids of an append of ours that had failed, and stand there now.
    """

    ids: list[int]
    odd: list[bytes]
    own: list[int]


class Debt(NamedTuple):
    """An append that failed: behind `offset` the file may hold any part of it."""

    offset: int
    content: bytes


class Ledger:
    """One of the two files."""

    def __init__(self, path: str, tasks: Sequence[str]) -> None:
        self.path = path
        self.count = 0
        """How many tasks stand in it, each counted once."""
        self._tasks = tasks
        self._recorded = bytearray(len(tasks))
        self._offset = 0
        self._tail = b""
        self._debt: Debt | None = None

    def __contains__(self, taskid: int) -> bool:
        return self._recorded[taskid] != 0

    def missing(self) -> Iterator[int]:
        """The ids that don't stand in it, in order."""
        return _places_of(0, self._recorded)

    def recorded(self) -> Iterator[int]:
        """The ids that stand in it, in order."""
        return _places_of(1, self._recorded)

    def clear_in(self, flags: bytearray) -> None:
        """Set the flags of those ids to 0; there is one for each task, 0 or 1."""
        ours = int.from_bytes(self._recorded, "little")
        left = int.from_bytes(flags, "little") & ~ours
        flags[:] = left.to_bytes(len(flags), "little")

    def add(self, taskids: Iterable[int]) -> None:
        """Note what is known to stand in the file."""
        recorded = self._recorded
        for taskid in taskids:
            self.count += not recorded[taskid]
            recorded[taskid] = 1

    def start_behind(self, offset: int, taskids: Iterable[int]) -> None:
        """Begin at `offset`, behind a newline; what stands before it says `taskids`."""
        self.count = 0
        self._recorded = bytearray(len(self._tasks))
        self._offset = offset
        self.add(taskids)

    def look(self) -> Look:
        """Read what others have appended; raises `StorageError`."""
        own = self._settle()
        try:
            content = self._read_on()
        except OSError as error:
            raise files.storage_error("read", self.path, error) from error
        lines = parse_status(content, self._tasks)
        self._offset += len(content) - len(lines.tail)
        self._tail = lines.tail
        ids = [*lines.ids, *self._salvage(lines.odd)]
        self.add(ids)
        alien = [taskid for taskid in ids if taskid not in own]
        return Look(alien, lines.odd, sorted(own))

    def _settle(self) -> set[int]:
        """Bring an append that failed to its end, if any of it is there; its ids.

        Where others have appended behind a part of it, its whole lines count.
        """
        if self._debt is None:
            return set()
        offset, content = self._debt
        there = files.find_rest(self.path, offset)
        part = _common_beginning(there, content)
        if part:
            whole = content if len(part) == len(there) else part
            files.write_again(self.path, offset, whole)
            part = whole
        self._debt = None
        return set(parse_status(part, self._tasks).ids)

    def _read_on(self) -> bytes:
        try:
            with files.opened(self.path, os.O_RDONLY) as descriptor:
                size = os.fstat(descriptor).st_size
                content = files.read_descriptor(descriptor, self._offset)
        except FileNotFoundError:
            size, content = 0, b""
        if size < self._offset:
            raise StorageError(
                f"{self.path} got shorter while the farm was running: "
                "somebody removed or replaced it"
            )
        return content

    def _salvage(self, odd: Sequence[bytes]) -> list[int]:
        ids: list[int] = []
        for line in odd:
            found = judge_odd(line, self._tasks, may_be_torn=True)
            if isinstance(found, TornLine):
                ids.extend(found.ids)
        return ids

    @property
    def tail(self) -> bytes:
        """What stands behind the last newline, as of the last look."""
        return self._tail

    def record(self, results: Sequence[Recorded]) -> None:
        """`append` the tasks of these."""
        self.append([result.taskid for result in results])

    def append(self, taskids: Sequence[int]) -> None:
        """Record tasks, synced; with none, only end a torn last line.

        Follows a `look` under the same lock.  Raises `StorageError`; the next look
        then says which of them stand there all the same.
        """
        lines = encode_lines(taskids, self._tasks)
        newline = b"\n" if self._tail else b""
        self._debt = Debt(self._offset + len(self._tail), newline + lines)
        self._offset = files.append(self.path, lines, sync=True)
        self._debt = None
        self.add(taskids)
        if self._tail:
            self.add(self._salvage([self._tail]))
            self._tail = b""

    def size(self) -> int:
        """Of the file, in bytes."""
        return files.find_size(self.path)

    def find_younger(self, sizes: dict[int, int]) -> set[int]:
        """Those ids that were recorded when the file was past the size of each."""
        if not sizes:
            return set()
        begin = min(sizes.values())
        younger: set[int] = set()
        end = begin - 1
        *lines, _ = files.find_rest(self.path, begin).split(b"\n")
        for line in lines:
            end += len(line) + 1
            found = judge_odd(line, self._tasks, may_be_torn=True)
            ids = found.ids if isinstance(found, TornLine) else ()
            younger.update(taskid for taskid in ids if end > sizes.get(taskid, end))
        return younger


def _places_of(value: int, flags: bytearray) -> Iterator[int]:
    begin = flags.find(value)
    while begin >= 0:
        end = flags.find(1 - value, begin)
        yield from range(begin, len(flags) if end < 0 else end)
        begin = flags.find(value, end) if end >= 0 else -1


def _common_beginning(left: bytes, right: bytes) -> bytes:
    most = min(len(left), len(right))
    if left[:most] == right[:most]:
        return left[:most]
    same = next(place for place in range(most) if left[place] != right[place])
    return left[:same]
