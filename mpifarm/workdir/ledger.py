"""``finished`` and ``failed`` as this farm knows them: read on, and appended to.

Rules of this file: a look costs what came since the last one, never the whole file.
The caller holds the lock.  Neither file is ever rewritten: other farms remember how
far they have read.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.workdir import files
from mpifarm.workdir.status import TornLine, encode_lines, judge_odd, parse_status


class Look(NamedTuple):
    """What others have appended since the last look."""

    ids: list[int]
    odd: list[bytes]


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

    def __contains__(self, taskid: int) -> bool:
        return self._recorded[taskid] != 0

    def missing(self) -> list[int]:
        """The ids that don't stand in it."""
        return [taskid for taskid, there in enumerate(self._recorded) if not there]

    def recorded(self) -> list[int]:
        """The ids that stand in it."""
        return [taskid for taskid, there in enumerate(self._recorded) if there]

    def add(self, taskids: Sequence[int]) -> None:
        """Note what is known to stand in the file."""
        recorded = self._recorded
        for taskid in taskids:
            self.count += not recorded[taskid]
            recorded[taskid] = 1

    def start_behind(self, content: bytes, taskids: Sequence[int]) -> None:
        """Begin behind the last newline of `content`, which says `taskids`."""
        self._offset = content.rfind(b"\n") + 1
        self.add(taskids)

    def look(self) -> Look:
        """Read what others have appended; raises `StorageError`."""
        try:
            content = self._read_on()
        except OSError as error:
            raise files.storage_error("read", self.path, error) from error
        lines = parse_status(content, self._tasks)
        self._offset += len(content) - len(lines.tail)
        self._tail = lines.tail
        ids = lines.ids + self._salvage(lines.odd)
        self.add(ids)
        return Look(ids, lines.odd)

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

    def append(self, taskids: Sequence[int]) -> None:
        """Record tasks, synced; with none, only end a torn last line.

        Follows a `look` under the same lock.
        """
        lines = encode_lines(taskids, self._tasks)
        self._offset = files.append(self.path, lines, sync=True)
        self.add(taskids)
        if self._tail:
            self.add(self._salvage([self._tail]))
            self._tail = b""

    def size(self) -> int:
        """Of the file, in bytes."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise files.storage_error("read", self.path, error) from error

    def find_younger(self, sizes: dict[int, int]) -> set[int]:
        """Those ids that were recorded when the file was past the size of each."""
        if not sizes:
            return set()
        begin = min(sizes.values())
        try:
            content = files.read_from(self.path, begin)
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise files.storage_error("read", self.path, error) from error
        younger: set[int] = set()
        end = begin - 1
        *lines, _ = content.split(b"\n")
        for line in lines:
            end += len(line) + 1
            found = judge_odd(line, self._tasks, may_be_torn=True)
            ids = found.ids if isinstance(found, TornLine) else ()
            younger.update(taskid for taskid in ids if end > sizes.get(taskid, end))
        return younger
