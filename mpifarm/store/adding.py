"""Lines that ``mpifarm add`` appends to a tasklist.

Rules of this file: the lock of the workdir is held, but for `ListEnd.read`.  What is to
be added stands in the file ``adding`` before the first byte of it gets into the list,
and until the adder has told the ids.  So an adder that is killed at any moment leaves
``adding``, or has not begun: the next adder, or the next start of a farm, brings the
lines to their end, and an adder of the same lines knows that they are there.  Once a
start has done so, no other start does: the user may have taken lines out again.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths, copy_staging_of
from mpifarm.model.task import decode_text
from mpifarm.store.fingerprint import Fingerprint, ListMatch, compare
from mpifarm.system import files
from mpifarm.system.regular_files import open_regular
from mpifarm.tasklists import ListReader, read_list

FORMAT = 1

HASHED = 1 << 12
"""Bytes of the list in front of what is added that are hashed, at the most."""

PART = 1 << 22
"""Bytes of the list that are read at once."""


class Adding(NamedTuple):
    """Lines that are being added to the list at `path`.

    `begin` is the size of the list before them, in bytes; they are `number` tasks, the
    first of them with the id `first`.
    """

    path: str
    begin: int
    first: int
    number: int
    content: bytes
    before: str = ""
    """The hash of the list's end before them, by which another list is known."""
    is_done: bool = False
    """Whether a start has brought them to their end; their ids are still to be told."""

    def is_like(self, other: "Adding") -> bool:
        """Return whether both add the same lines to the same list."""
        ours, theirs = self.content.lstrip(b"\n"), other.content.lstrip(b"\n")
        return (self.path, ours) == (other.path, theirs)


class ListEnd:
    """The end of a list, up to which it was read; raises OSError for one that is gone.

    `read` may be called again, and then reads what was appended since.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._begin_again()

    def _begin_again(self) -> None:
        self.reader = ListReader(self.path)
        self.size = 0
        """The bytes that were read: whole lines."""
        self.rest = b""
        """A last line without newline behind them."""
        self._inode = (-1, -1)

    @property
    def total(self) -> int:
        """The number of tasks, that of a last line without newline included."""
        return self.reader.tasks + self._count_rest()

    def _count_rest(self) -> int:
        last = ListReader(self.path)
        last.take(self.rest)
        return len(last.texts)

    def is_edited(self, stored: Fingerprint) -> bool:
        """Return whether the list is not the one that a workdir was begun with.

        Raises `TasklistFileError` as any reading of a list.
        """
        is_of_whole_lines = stored.total <= self.reader.tasks
        reader = self.reader if is_of_whole_lines else read_list(self.path)
        return compare(stored, reader.texts, reader.constraints) is ListMatch.EDITED

    def read(self) -> None:
        """Read on to the end of the list, or all of it if it was replaced.

        Raises OSError, and `TasklistFileError` as any reading of a list.
        """
        descriptor = open_regular(self.path, os.O_RDONLY, follow=True)
        try:
            status = os.fstat(descriptor)
            inode = status.st_dev, status.st_ino
            if inode != self._inode or status.st_size < self.size:
                self._begin_again()
                self._inode = inode
            self.rest = b""
            while part := os.pread(descriptor, PART, self.size + len(self.rest)):
                self._take(self.rest + part)
        finally:
            os.close(descriptor)

    def _take(self, content: bytes) -> None:
        cut = content.rfind(b"\n") + 1
        if cut:
            self.reader.take(content[:cut])
        self.size += cut
        self.rest = content[cut:]


# ---- the file ``adding`` ------------------------------------------------------------


def encode_adding(adding: Adding) -> bytes:
    """Return the content of ``adding``: a line of JSON, then the lines themselves."""
    head = {
        "format": FORMAT,
        "list": adding.path,
        "begin": adding.begin,
        "first": adding.first,
        "count": adding.number,
        "bytes": len(adding.content),
        "before": adding.before,
        "done": adding.is_done,
    }
    return json.dumps(head).encode("ascii") + b"\n" + adding.content


def parse_adding(content: bytes) -> Adding | None:
    """Parse ``adding``; return None if it is damaged, or of another format."""
    line, _, lines = content.partition(b"\n")
    try:
        head = json.loads(line)
        path, *numbers = head["list"], head["begin"], head["first"], head["count"]
        before, is_done = head["before"], head["done"]
        is_known = head["format"] == FORMAT and head["bytes"] == len(lines)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    are_numbers = all(type(each) is int and each >= 0 for each in numbers)
    are_texts = isinstance(path, str) and isinstance(before, str)
    if not (is_known and are_numbers and are_texts):
        return None
    begin, first, count = numbers
    return Adding(path, begin, first, count, lines, before, is_done is True)


def add(paths: WorkdirPaths, adding: Adding) -> None:
    """Append lines to the list, by way of ``adding``, which stays.

    Raises `StorageError`: nothing was added then, if the disk let it be taken back.
    """
    _write(paths, adding)
    try:
        files.append_beside_others(adding.path, adding.content)
    except StorageError:
        if _read_behind(adding) == b"":
            forget(paths)
        raise


def _write(paths: WorkdirPaths, adding: Adding) -> None:
    content = encode_adding(adding)
    files.replace(paths.adding, copy_staging_of(paths.adding), content)


def forget(paths: WorkdirPaths) -> None:
    """Remove ``adding``: its lines are in the list.  Raises `StorageError`."""
    files.remove(paths.adding)


def find_unfinished(paths: WorkdirPaths, tasklist: str) -> Adding | None:
    """Return what a killed adder was adding to a list, None if there is nothing.

    What another user has left there is not ours to finish; what is of a list that was
    edited since is forgotten.  Raises `StorageError`.
    """
    content = files.find_content(paths.adding)
    if content is None or files.find_other_owner(paths.adding):
        return None
    adding = parse_adding(content)
    if adding is None or adding.path != os.path.realpath(tasklist):
        return None
    if _is_outdated(adding):
        forget(paths)
        return None
    return adding


def _is_outdated(adding: Adding) -> bool:
    """Return whether the list was edited since.  Raises `StorageError`."""
    before = _hash_end(adding.path, adding.begin)
    if before is None:  # the list is gone, and may come back
        return False
    return before != adding.before or (
        adding.is_done and len(find_ids(adding)) < adding.number
    )


def finish_at_start(paths: WorkdirPaths, tasklist: str) -> None:
    """Bring to their end, once, the lines that a killed adder was adding to a list.

    Raises `StorageError`.
    """
    adding = find_unfinished(paths, tasklist)
    if adding is not None and not adding.is_done:
        finish(adding)
        _write(paths, adding._replace(is_done=True))


def finish(adding: Adding) -> list[int]:
    """Append what is missing of lines that a killed adder was adding.

    Return the ids of their tasks.  Raises `StorageError`.
    """
    if adding.is_done:
        return find_ids(adding)
    there = _read_behind(adding)
    if there is None:  # the list is another one by now
        return _first_ids(adding)
    if missing := find_missing(there, adding.content):
        files.append_beside_others(adding.path, missing)
    return find_ids(adding)


def find_ids(adding: Adding) -> list[int]:
    """Return the ids of tasks whose lines are in the list now.

    Others append without the lock, so their lines may stand in front.  Raises
    `StorageError`.
    """
    there = _read_behind(adding)
    if there is None or there.startswith(adding.content):  # as nearly always
        return _first_ids(adding)
    wanted, ids = deque(filter(_is_task, _split(adding.content))), []
    for number, line in enumerate(filter(_is_task, _split(there))):
        if wanted and line == wanted[0]:
            wanted.popleft()
            ids.append(adding.first + number)
    return ids


def find_missing(there: bytes, content: bytes) -> bytes:
    """Return what is to follow `there`, the list's end, so that `content` is in it."""
    if content.startswith(there):
        return content[len(there) :]
    *whole, torn = there.split(b"\n")
    wanted = deque(content.lstrip(b"\n").splitlines(keepends=True))
    begun: list[bytes] = []
    """Directives of a task that is missing: others have got them."""
    for line in whole:
        if wanted and line + b"\n" == wanted[0]:
            begun.append(wanted.popleft())
            if not begun[-1].startswith(b"#"):
                begun.clear()
    if not wanted:
        return b""
    missing = b"".join([*begun, *wanted])
    if torn and missing.startswith(torn):
        return missing[len(torn) :]
    return b"\n" + missing if torn else missing


def _first_ids(adding: Adding) -> list[int]:
    return [*range(adding.first, adding.first + adding.number)]


def _split(content: bytes) -> list[str]:
    """Return the lines as a list has them."""
    text = decode_text(content).replace("\r\n", "\n").replace("\r", "\n")
    return [line.strip() for line in text.split("\n")[:-1]]


def _is_task(line: str) -> bool:
    return line != "" and not line.startswith("#")


def _read_behind(adding: Adding) -> bytes | None:
    """Return what the list has behind its old end, None if it ends before that.

    Raises `StorageError`.
    """
    with _opened(adding.path) as descriptor:
        if descriptor is None or os.fstat(descriptor).st_size < adding.begin:
            return None
        return files.read_descriptor(descriptor, adding.begin)


def _hash_end(path: str, size: int) -> str | None:
    """Return the hash of the end of a list's first `size` bytes, None if it is gone.

    Raises `StorageError`.
    """
    with _opened(path) as descriptor:
        if descriptor is None:
            return None
        length = min(size, HASHED)
        content = os.pread(descriptor, length, size - length)
        return hashlib.blake2b(content, digest_size=16).hexdigest()


@contextmanager
def _opened(path: str) -> Iterator[int | None]:
    """Open a list for a block, None if it is gone.  Raises `StorageError`."""
    try:
        descriptor = open_regular(path, os.O_RDONLY, follow=True)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        yield None
    except OSError as error:
        raise files.storage_error("read", path, error) from error


def compose(end: ListEnd, commands: Sequence[bytes], after: str) -> Adding:
    """Return the lines for some commands, each behind an ``#AFTER`` if `after` says so.

    `after` are ids as a list has them, "" for none.  Raises `StorageError`.
    """
    front = f"#AFTER {after}\n".encode() if after else b""
    lines = b"".join(b"%b%b\n" % (front, command) for command in commands)
    newline = b"\n" if end.rest else b""
    begin = end.size + len(end.rest)
    before = _hash_end(end.path, begin) or ""
    return Adding(end.path, begin, end.total, len(commands), newline + lines, before)
