"""``finished`` and ``failed`` as this farm knows them: read on, and appended to.

Rules of this file: a poll costs what came since the last one, never the whole file.
The caller holds the lock.  A farm never rewrites either file: others remember how
far they have read.  So an append that failed, and could not be taken back at once, is
never taken back: others may have read a part of it; the next poll brings it to its end.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.store.status_lines import (
    ParsedStatus,
    TornLine,
    classify_odd,
    encode_lines,
    is_beyond,
    parse_status,
)
from mpifarm.store.task_map import find_settled
from mpifarm.store.types import Recorded
from mpifarm.system import files
from mpifarm.system.file_contents import KeptFile, Version, find_version, version_of

_LINE = re.compile(rb"[^\n]+")
"""A line that is not blank: a retry leaves long runs of blank ones behind."""


class Appended(NamedTuple):
    """The lines that others have appended since the last poll.

    `ids` are the tasks of lines that count, `odd` the lines that do not count as they
    are.  `own` are ids of an append of this farm that had failed, and that the file has
    now all the same; `ids` has none of these.  `gone` are tasks that were taken out of
    the file, by a repair or a retry.
    """

    ids: list[int]
    odd: list[bytes]
    own: list[int]
    gone: list[int]


class PendingAppend(NamedTuple):
    """An append that failed: behind `offset` the file may have any part of it."""

    offset: int
    content: bytes


class Ledger:
    """One of the files ``finished`` and ``failed``."""

    def __init__(self, path: str, tasks: Sequence[str]) -> None:
        self.path = path
        self.count = 0
        """The number of tasks in the file, each counted once."""
        self._tasks = tasks
        self._recorded = bytearray(len(tasks))
        self._offset = 0
        """The end of the last whole line that was read, in bytes."""
        self._tail = b""
        self._tail_ids: Sequence[int] = ()
        """Tasks that count as soon as a newline ends the tail."""
        self._ended_tail: list[int] = []
        """Tasks that count since an append ended the tail; see `take_ended_tail`."""
        self._pending: PendingAppend | None = None
        """An append that failed, until the next poll settles it."""
        self._beyond_at: int | None = None
        """From here on, in bytes, the file may have lines beyond the list."""
        self._grown = (0, 0)
        """The length of the list before it grew last, and from where on, in bytes, the
        file may have lines beyond that length."""
        self._version: Version | None = None
        """The version of the file, as last seen; None if it was missing."""
        self._kept: KeptFile | None = None
        """The file that was read last, None if it was not opened yet."""
        self._was_replaced = False
        """Whether the file was replaced since it was read."""

    def __contains__(self, taskid: int) -> bool:
        return self._recorded[taskid] != 0

    def has(self, taskid: int) -> bool:
        """Return whether the file has the task, False for one beyond the list."""
        return taskid < len(self._recorded) and self._recorded[taskid] != 0

    def missing(self) -> Iterator[int]:
        """Yield the ids that the file does not have, in order."""
        flags = self._recorded
        begin = flags.find(0)
        while begin >= 0:
            end = flags.find(1, begin)
            yield from range(begin, len(flags) if end < 0 else end)
            begin = flags.find(0, end) if end >= 0 else -1

    @property
    def flags(self) -> bytearray:
        """A byte for each task, 1 if the file has the task.  Not to be changed."""
        return self._recorded

    def add(self, taskids: Iterable[int]) -> None:
        """Note that the file has these tasks."""
        recorded = self._recorded
        for taskid in taskids:
            self.count += not recorded[taskid]
            recorded[taskid] = 1

    def start_behind(
        self,
        offset: int,
        taskids: Iterable[int],
        version: Version | None = None,
    ) -> None:
        """Forget all that was read, and read on from `offset`, behind a newline.

        `taskids` are the tasks that the file has before `offset`; `version` is its
        version as it was read, None if it was missing.
        """
        self._version, self._kept = version, None
        self.count = 0
        self._recorded = bytearray(len(self._tasks))
        self._offset = offset
        self.add(taskids)

    def poll(self) -> Appended:
        """Settle an append that failed, read on, return the lines of others.

        The tasks of all lines count from now on, and those that were taken out of the
        file do not.  Raises `StorageError` if the file cannot be read or written, or is
        shorter than before.
        """
        own = self._settle()
        try:
            content = self._read_on()
        except OSError as error:
            raise files.storage_error("read", self.path, error) from error
        gone = self._find_gone() if self._was_replaced else []
        parsed = parse_status(content, self._tasks, list_is_same=True)
        before = self._offset
        self._offset += len(content) - parsed.tail_size
        self._tail = parsed.tail.line if parsed.tail else b""
        self._tail_ids = parsed.tail_ids
        self.add(parsed.ids)
        if self._beyond_at is None and self._has_beyond(parsed):
            self._beyond_at = before
        theirs = [taskid for taskid in parsed.ids if taskid not in own]
        return Appended(theirs, [each.line for each in parsed.odd], sorted(own), gone)

    def _find_gone(self) -> list[int]:
        """Read the file again up to where it was read, and know what is there now.

        Return the tasks that the file had before.  Whoever replaces it while farms work
        leaves all other lines at their places.
        """
        content = files.find_rest(self.path, 0)[: self._offset]
        parsed = parse_status(content, self._tasks, list_is_same=True)
        before, self._recorded = self._recorded, bytearray(len(self._recorded))
        self.count = 0
        self.add(parsed.ids)
        self._was_replaced = False
        now = self._recorded
        return [each for each in _flagged(before) if not now[each]]

    def _has_beyond(self, parsed: ParsedStatus) -> bool:
        return any(is_beyond(each.line, self._tasks) for each in parsed.odd)

    def resize(self) -> None:
        """Know as many tasks as the list has now: it has grown, or was cut again.

        Lines that were beyond the list count from now on.  Raises `StorageError`.
        """
        before, total = len(self._recorded), len(self._tasks)
        if total < before:
            self.count -= self._recorded.count(1, total)
            del self._recorded[total:]
            self._beyond_at = self._find_beyond(total)
            return
        begin = self._offset if self._beyond_at is None else self._beyond_at
        self._grown = before, begin
        self._recorded += bytes(total - before)
        if self._beyond_at is not None:
            self._read_again(self._beyond_at)

    def _find_beyond(self, total: int) -> int | None:
        """Return from where on lines were read that are beyond `total` tasks, if any.

        The list was longer when they were read.
        """
        known, begin = self._grown
        if total < known:
            begin = 0
        return begin if begin < self._offset else None

    def _read_again(self, begin: int) -> None:
        """Count the tasks of lines that were read from `begin` on."""
        content = files.find_rest(self.path, begin)[: self._offset - begin]
        parsed = parse_status(content, self._tasks, list_is_same=True)
        self.add(parsed.ids)
        if not self._has_beyond(parsed):
            self._beyond_at = None

    def _settle(self) -> set[int]:
        """Complete a failed append of which the file has a part, and forget it.

        Return the ids that the file has of it.  If others have appended behind a part,
        that part alone is kept, and its whole lines count.
        """
        if self._pending is None:
            return set()
        offset, content = self._pending
        there = files.find_rest(self.path, offset)
        part = common_beginning(there, content)
        if part:
            whole = content if len(part) == len(there) else part
            files.write_again(self.path, offset, whole)
            part = whole
        self._pending = None
        return set(parse_status(part, self._tasks, list_is_same=True).ids)

    def _read_on(self) -> bytes:
        """Return the bytes behind the last poll's; a file that is missing is empty."""
        try:
            with files.opened(self.path, os.O_RDONLY) as descriptor:
                version = version_of(descriptor)
                size = version.size
                self._note_version(descriptor, version)
                content = files.read_descriptor(descriptor, self._offset)
        except FileNotFoundError:
            size, content = 0, b""
        if size < self._offset:
            raise StorageError(
                f"{self.path} got shorter while the farm was running: somebody removed "
                "or replaced it; put it back, or see which tasks are lost: mpifarm "
                f"check {shlex.quote(os.path.dirname(self.path))}"
            )
        return content

    def _note_version(self, descriptor: int, version: Version) -> None:
        """Note whether the open file is another one than before, and keep it open."""
        is_kept = self._kept is not None and self._kept.has(version)
        self._was_replaced |= _was_replaced(self._version, version)
        if self._kept is not None and not is_kept:
            # Its inode and a greater size tell nothing of it.
            self._was_replaced = True
        if not is_kept:
            self._kept = None
            with suppress(OSError):  # too many open files: the version has to do
                self._kept = KeptFile(descriptor)
        self._version = version

    @property
    def tail(self) -> bytes:
        """The bytes behind the last newline, as of the last poll."""
        return self._tail

    def record(self, results: Sequence[Recorded]) -> None:
        """Append the tasks of these results, as `append` does."""
        self.append([result.taskid for result in results])

    def append(self, taskids: Sequence[int]) -> None:
        """End a torn last line, append the lines of `taskids`, and sync the file.

        The tasks count from now on, also those of the torn line.  A `poll` under the
        same lock must come before.  Raises `StorageError`: the next poll then settles
        the lines that are in the file all the same.
        """
        lines = encode_lines(taskids, self._tasks)
        newline = b"\n" if self._tail else b""
        self._pending = PendingAppend(self._offset + len(self._tail), newline + lines)
        self._offset = files.append(self.path, lines, sync=True)
        self._pending = None
        with suppress(StorageError):  # the lines are there: the next poll asks
            self._version = find_version(self.path)
        self.add(taskids)
        if self._tail:
            self.add(self._tail_ids)
            self._ended_tail += self._tail_ids
            self._tail = b""

    def take_ended_tail(self) -> list[int]:
        """Return, once, the tasks of others' last lines that appends have ended."""
        ended, self._ended_tail = self._ended_tail, []
        return ended

    def size(self) -> int:
        """Return the file's size in bytes, 0 without a file; raises `StorageError`."""
        return files.find_size(self.path)

    def find_settled(self, takes: Mapping[int, int]) -> set[int]:
        """Return the tasks of a claim that were recorded here after their takes.

        `takes` maps the ids of the claim to the size of this file at each take, in
        bytes.  The file is read again from the first take on.  Raises `StorageError`.
        """
        if not takes:
            return set()
        begin = min(takes.values())
        content = files.find_rest(self.path, begin)
        return find_settled(self._ids_and_ends(content, begin), takes)

    def _ids_and_ends(self, content: bytes, begin: int) -> Iterator[tuple[int, int]]:
        """Yield each id that the file has from `begin` on, and its line's end in it."""
        for line in _LINE.finditer(content, 0, content.rfind(b"\n") + 1):
            found = classify_odd(line[0], self._tasks, may_be_torn=True)
            if isinstance(found, TornLine):
                end = begin + line.end()
                yield from ((taskid, end) for taskid in found.ids)


class Ledgers(NamedTuple):
    """Both ledgers of a workdir."""

    finished: Ledger
    failed: Ledger

    def have(self, taskid: int) -> bool:
        """Return whether either file had the task at the last poll."""
        return taskid in self.finished or taskid in self.failed


def _was_replaced(before: Version | None, now: Version) -> bool:
    """Return whether a file is another one than before, though it may have its inode.

    Who appends to it makes it longer.
    """
    if before is None or before == now:
        return False
    return before[:2] != now[:2] or before.size == now.size


def _flagged(flags: bytearray) -> Iterator[int]:
    """Yield the tasks whose byte is 1, in order."""
    place = flags.find(1)
    while place >= 0:
        yield place
        place = flags.find(1, place + 1)


def common_beginning(left: bytes, right: bytes) -> bytes:
    """Return the bytes with which both begin."""
    most = min(len(left), len(right))
    if left[:most] == right[:most]:
        return left[:most]
    same = next(place for place in range(most) if left[place] != right[place])
    return left[:same]
