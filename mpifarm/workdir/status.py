"""The lines of ``toprocess``, ``finished`` and ``failed``: ``<id> <text>``, newline.

Rules of this file: bytes in, ids out; it opens nothing.  Lists and files of millions of
lines are taken in blocks, and never made into as many Python objects.

A line counts only when it ends in a newline and its text is that of its id in the
tasklist.  What does not is *torn* (the writer was killed, or the disk full), *fused*
(a plain farmer appended behind a torn line), or *alien*: from another tasklist, or
this one before an edit.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

Ids: TypeAlias = "array[int]"
"""Ids of tasks, 4 bytes each."""


@runtime_checkable
class EncodedTexts(Protocol):
    """A tasklist's texts where they are at hand as the files hold them."""

    def encoded_text(self, taskid: int, /) -> bytes | bytearray:
        """One text."""

    def encoded_texts(self, begin: int, end: int, /) -> memoryview:
        """Those of a range of ids, each with a newline behind it."""


class StatusLines(NamedTuple):
    """What a status file says.  `tail` is what stands behind the last newline."""

    ids: Ids
    odd: list[bytes]
    tail: bytes


class TornLine(NamedTuple):
    """A torn or fused line, and the ids that it records beyond doubt all the same.

    `begun` is the id of the part that is torn, where at least its id is whole.
    """

    ids: tuple[int, ...]
    begun: int | None


class AlienLine(NamedTuple):
    """A line that is not of this tasklist.  `taskid` is None where it has none."""

    taskid: int | None
    text: str


_MOST_DIGITS = 18
"""Of an id; Python refuses to read numbers of more than 4 300."""


def encode_text(text: str) -> bytes:
    """The text of a task as it stands in the files."""
    return text.encode("utf-8", "surrogateescape")


def encode_line(taskid: int, tasks: Sequence[str]) -> bytes:
    """The line of one task, with its newline."""
    return encode_text(f"{taskid} {tasks[taskid]}\n")


def encode_lines(taskids: Iterable[int], tasks: Sequence[str]) -> bytes:
    """The lines of many tasks."""
    return b"".join(encode_blocks(taskids, tasks))


def encode_blocks(taskids: Iterable[int], tasks: Sequence[str]) -> Iterator[bytes]:
    """The same piece by piece: for as many as there may be."""
    left = iter(taskids)
    encode = _find_encoder(tasks)
    while block := list(islice(left, _LINES_OF_BLOCK)):
        begin, end = block[0], block[0] + len(block)
        if block == list(range(begin, end)):
            yield _encode_range(begin, end, tasks)
        else:
            yield b"".join([b"%d %b\n" % (each, encode(each)) for each in block])  # type: ignore[str-format] # of a bytearray, too


def _encode_range(begin: int, end: int, tasks: Sequence[str]) -> bytes:
    if isinstance(tasks, EncodedTexts):
        texts = bytes(tasks.encoded_texts(begin, end)).split(b"\n")
    else:
        texts = list(map(encode_text, tasks[begin:end]))
    lines = zip(range(begin, end), texts, strict=False)
    return b"".join([b"%d %b\n" % line for line in lines])


def _find_encoder(tasks: Sequence[str]) -> Callable[[int], bytes | bytearray]:
    if isinstance(tasks, EncodedTexts):
        return tasks.encoded_text
    return lambda taskid: encode_text(tasks[taskid])


def encode_texts(begin: int, end: int, tasks: Sequence[str]) -> bytes | memoryview:
    """The texts of a range of ids, each with a newline behind it."""
    if isinstance(tasks, EncodedTexts):
        return tasks.encoded_texts(begin, end)
    return encode_text("\n".join([*tasks[begin:end], ""]))


_LINES_OF_BLOCK = 1000
_BYTES_OF_BLOCK = 1 << 17


def parse_status(content: bytes, tasks: Sequence[str]) -> StatusLines:
    """Tell the lines that count from those that don't.

    Blank lines are neither.  Costs less than a microsecond a line.
    """
    places = range(0, len(content), _BYTES_OF_BLOCK)
    return scan_status(
        (content[place : place + _BYTES_OF_BLOCK] for place in places), tasks
    )


def scan_status(blocks: Iterable[bytes], tasks: Sequence[str]) -> StatusLines:
    """The same for a content that comes in blocks, cut anywhere."""
    found = StatusLines(array("I"), [], b"")
    for lines in cut_behind_lines(blocks):
        if not lines.endswith(b"\n"):
            return found._replace(tail=lines)
        run = find_run(lines, tasks)
        if run:
            found.ids.extend(run)
        else:
            _scan_lines(lines, tasks, found)
    return found


def cut_behind_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same content, cut behind newlines; last what stands behind the last one."""
    rest = b""
    for block in blocks:
        cut = block.rfind(b"\n") + 1
        if cut:
            yield rest + block[:cut]
            rest = block[cut:]
        else:
            rest += block
    if rest:
        yield rest


def find_run(lines: bytes, tasks: Sequence[str]) -> range | None:
    """The ids, where they follow one another and all lines count."""
    first = find_id(lines[: lines.index(b"\n")])
    if first is None:
        return None
    run = range(first, first + lines.count(b"\n"))
    if run.stop > len(tasks):
        return None
    last = lines[lines.rfind(b"\n", 0, -1) + 1 :]
    if find_id(last) == run[-1] and _encode_range(run.start, run.stop, tasks) == lines:
        return run
    return None


def _scan_lines(lines: bytes, tasks: Sequence[str], found: StatusLines) -> None:
    count = len(tasks)
    encode = _find_encoder(tasks)
    ids, odd = found.ids, found.odd
    for line in lines.split(b"\n"):
        head, _, text = line.partition(b" ")
        if head.isdigit() and (head[0] != _ZERO or head == b"0"):
            taskid = int(head[:_MOST_DIGITS])
            if taskid < count and encode(taskid) == text:
                ids.append(taskid)
                continue
        if line:
            odd.append(line)


_ZERO = ord("0")
_LEADING_ID = re.compile(rb"^(?:0|[1-9][0-9]{0,17})(?= )", re.MULTILINE)


def scan_ids(blocks: Iterable[bytes]) -> Iterator[Sequence[int]]:
    """The ids that lines begin with, their texts unread: for counting.

    Of a sorted file without repetitions, as a queue is.
    """
    for lines in cut_behind_lines(blocks):
        first = find_id(lines[: lines.find(b"\n")])
        last = find_id(lines[lines.rfind(b"\n", 0, -1) + 1 :])
        count = lines.count(b"\n")
        is_whole = b"\n\n" not in lines
        if first is not None and last == first + count - 1 and is_whole:
            yield range(first, first + count)
        else:
            yield list(map(int, _LEADING_ID.findall(lines)))


def find_id(line: bytes) -> int | None:
    """The id that a line begins with, if it begins with one and a space."""
    head, space, _ = line.partition(b" ")
    return parse_id(head) if space else None


def parse_id(digits: bytes) -> int | None:
    """The number, if it is written as an id is."""
    zeros = digits[:1] == b"0" and digits != b"0"
    fits = digits.isdigit() and len(digits) <= _MOST_DIGITS
    return int(digits) if fits and not zeros else None


def parse_line(line: bytes, tasks: Sequence[str]) -> int | None:
    """The id of a line that counts; None where it does not."""
    taskid = find_id(line)
    if taskid is None or taskid >= len(tasks):
        return None
    text = line[line.index(b" ") + 1 :]
    return taskid if text == encode_text(tasks[taskid]) else None


def is_beyond(line: bytes, tasks: Sequence[str]) -> bool:
    """Whether the line has an id that the list does not have (yet)."""
    taskid = find_id(line)
    return taskid is not None and taskid >= len(tasks)


# ---- lines that don't count as they are ---------------------------------------------


def judge_odd(
    line: bytes, tasks: Sequence[str], *, may_be_torn: bool
) -> TornLine | AlienLine:
    """Tell a torn or fused line from one that is not of this tasklist.

    `may_be_torn`: whether the line may end too early.  It may at the end of a file;
    elsewhere only if this farm or another mpifarm has ended it with a newline, and
    then a fingerprint proves that the list is still the same.
    """
    if not line.strip(b"\0"):
        return TornLine((), None)
    if (whole := parse_line(line, tasks)) is not None:
        return TornLine((whole,), None)
    if may_be_torn and _is_beginning(line, tasks):
        return TornLine((), _find_known_id(line, tasks))
    fused = find_fused(line, tasks)
    if fused is not None:
        return fused
    taskid = find_id(line)
    text = line if taskid is None else line[line.index(b" ") + 1 :]
    return AlienLine(taskid, text.decode("utf-8", "surrogateescape"))


def find_fused(line: bytes, tasks: Sequence[str]) -> TornLine | None:
    """A torn line and a whole one behind it, without a newline between them.

    The whole one counts only where no other reading is possible: ``112 cmd`` may be a
    torn ``1`` before ``12 cmd``, or the line of a task that was added to the list.
    """
    readings = [
        (taskid, line[:start])
        for start, taskid in _whole_endings(line, tasks)
        if _is_beginning(line[:start], tasks)
        or parse_line(line[:start], tasks) is not None
    ]
    if not readings:
        return None
    if len(readings) > 1:
        return TornLine((), None)
    taskid, front = readings[0]
    if b" " not in front and is_beyond(line, tasks):
        return TornLine((), None)
    whole = parse_line(front, tasks)
    if whole is not None:
        return TornLine((whole, taskid), None)
    return TornLine((taskid,), _find_known_id(front, tasks))


def _whole_endings(line: bytes, tasks: Sequence[str]) -> list[tuple[int, int]]:
    """(place, id) of each ending of the line that is a whole line."""
    endings = []
    space = line.find(b" ")
    while space >= 0:
        start = space
        least = max(1, space - _MOST_DIGITS)
        while start > least and line[start - 1 : start].isdigit():
            start -= 1
            taskid = parse_id(line[start:space])
            if taskid is not None and _is_text_behind(line, space, taskid, tasks):
                endings.append((start, taskid))
        space = line.find(b" ", space + 1)
    return endings


def _is_text_behind(line: bytes, space: int, taskid: int, tasks: Sequence[str]) -> bool:
    # A line of a million numbers must not be compared a million times.
    length = len(line) - space - 1
    most = 4 * len(tasks[taskid]) if taskid < len(tasks) else -1
    return length <= most and encode_text(tasks[taskid]) == line[space + 1 :]


def _is_beginning(line: bytes, tasks: Sequence[str]) -> bool:
    """Whether some task's line begins so, and goes on."""
    line = line.rstrip(b"\0")
    if b" " not in line:
        taskid = parse_id(line)
        return taskid is not None and taskid < len(tasks)
    taskid = _find_known_id(line, tasks)
    return taskid is not None and encode_line(taskid, tasks).startswith(line)


def _find_known_id(line: bytes, tasks: Sequence[str]) -> int | None:
    taskid = find_id(line)
    return taskid if taskid is not None and taskid < len(tasks) else None
