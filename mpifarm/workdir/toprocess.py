"""How a new ``toprocess`` is composed: ids put back, and a batch taken off its front.

Rules of this file: content in, chunks out; it opens nothing.  Only the front is taken
apart; the rest is copied as it is, so that Python's work grows with the batch and not
with the list, and of a large file only a few parts are read.  An id that the tasklist
does not have never gets in: plain farmers die of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from mpifarm.workdir.files import Chunk, Content, length_of, part_of
from mpifarm.workdir.status import (
    cut_behind_lines,
    encode_line,
    find_id,
    find_run,
    parse_line,
)


class AlienTaskError(ValueError):
    """A line of ``toprocess`` is not of this tasklist."""


class Plan(NamedTuple):
    """A new ``toprocess``, and what is left out of it.

    `dropped` are ids that were met and must not run.
    """

    taken: list[int]
    dropped: list[int]
    chunks: Iterable[Chunk]
    changed: bool
    empty: bool


class Front(NamedTuple):
    """What was read off the front, up to the byte `end`."""

    taken: list[int]
    dropped: list[int]
    end: int


def mend_tail(content: Content, tasks: Sequence[str]) -> Content:
    """The content with its last line whole.

    Where a plain farmer was killed while it wrote, the last line is torn.  It counts if
    its id is whole (that farmer would have run it); else nobody can tell what it was.
    """
    if not content or content[len(content) - 1 :] == b"\n":
        return content
    begin = content.rfind(b"\n", 0, len(content)) + 1
    taskid = find_id(content[begin:])
    if taskid is None or taskid >= len(tasks):
        return content[:begin]
    line = encode_line(taskid, tasks)
    if not line.startswith(content[begin:]):
        raise AlienTaskError(content[begin:].decode("utf-8", "backslashreplace"))
    return content[:begin] + line


def plan_toprocess(
    content: Content,
    tasks: Sequence[str],
    is_blocked: Callable[[int], bool],
    give_back: Sequence[int],
    take: int,
) -> Plan:
    """Compose the next ``toprocess`` out of `content` (whole lines, sorted by id).

    Ids that must not run (`is_blocked`) are dropped where they are met.  What is given
    back is not taken in the same step.
    """
    front = read_front(content, tasks, is_blocked, take)
    chunks = insert(content, front.end, tasks, give_back)
    return Plan(
        taken=front.taken,
        dropped=front.dropped,
        chunks=chunks,
        changed=front.end > 0 or bool(give_back),
        empty=not chunks,
    )


def read_front(
    content: Content,
    tasks: Sequence[str],
    is_blocked: Callable[[int], bool],
    take: int,
) -> Front:
    """Take up to `take` ids that may run off the front."""
    taken: dict[int, None] = {}
    dropped: list[int] = []
    place = 0
    windows = range(0, len(content), _WINDOW)
    for lines in cut_behind_lines(content[at : at + _WINDOW] for at in windows):
        run = find_run(lines, tasks) if lines.endswith(b"\n") else None
        pieces: Iterable[tuple[Sequence[int], int]] = _each(lines, tasks)
        if run is not None and len(run) <= take - len(taken):
            pieces = [(run, len(lines))]
        for taskids, length in pieces:
            if len(taken) >= take:
                return Front(list(taken), dropped, place)
            for taskid in taskids:
                if is_blocked(taskid):
                    dropped.append(taskid)
                else:
                    taken[taskid] = None
            place += length
    return Front(list(taken), dropped, place)


def _each(lines: bytes, tasks: Sequence[str]) -> Iterator[tuple[Sequence[int], int]]:
    """The id of each line, none of a blank one, and the bytes that it takes."""
    for line in lines.split(b"\n")[:-1]:
        taskid = parse_line(line, tasks)
        if taskid is None and line:
            raise AlienTaskError(line.decode("utf-8", "backslashreplace"))
        yield () if taskid is None else (taskid,), len(line) + 1


_WINDOW = 1 << 13
"""Bytes that are compared with the tasklist at once: fewer than a taking has."""


def insert(
    content: Content, begin: int, tasks: Sequence[str], taskids: Sequence[int]
) -> list[Chunk]:
    """The content from `begin` on, with the lines of `taskids` at their places."""
    chunks: list[Chunk] = []
    place = begin
    next_id = -1
    for taskid in sorted(set(taskids)):
        if taskid >= next_id >= 0 or next_id < 0:
            there, found = find_place(content, place, taskid)
            chunks.append(part_of(content, place, there))
            place = there
            next_id = _id_at(content, there) if there < len(content) else len(tasks)
            if found:
                continue
        chunks.append(encode_line(taskid, tasks))
    chunks.append(part_of(content, place, len(content)))
    return [chunk for chunk in chunks if length_of(chunk)]


def find_place(content: Content, begin: int, taskid: int) -> tuple[int, bool]:
    """Where the line of `taskid` is, or belongs, from the line at `begin` on."""
    low, high = begin, len(content)
    while low < high:
        middle = (low + high) // 2
        newline = content.rfind(b"\n", low, middle)
        start = low if newline < 0 else newline + 1
        found = _id_at(content, start)
        if found == taskid:
            return start, True
        if found < taskid:
            low = _end_of_line(content, start) + 1
        else:
            high = start
    return low, False


def _id_at(content: Content, start: int) -> int:
    line = content[start : _end_of_line(content, start)]
    taskid = find_id(line)
    if taskid is None:
        raise AlienTaskError(line.decode("utf-8", "backslashreplace"))
    return taskid


def _end_of_line(content: Content, start: int) -> int:
    end = content.find(b"\n", start)
    if end < 0:
        raise AlienTaskError("its last line has no end")
    return end
