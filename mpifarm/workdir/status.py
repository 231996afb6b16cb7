"""The lines of ``toprocess``, ``finished`` and ``failed``: ``<id> <text>``, newline.

Rules of this file: bytes in, ids out; it opens nothing.  A line counts only when it
ends in a newline and its text is that of its id in the tasklist.  What does not is
*torn* (the writer was killed, or the disk full), *fused* (a plain farmer appended
behind a torn line), or *alien*: from another tasklist, or this one before an edit.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class StatusLines(NamedTuple):
    """What a status file says.  `tail` is what stands behind the last newline."""

    ids: list[int]
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
    return encode_text("".join([f"{taskid} {tasks[taskid]}\n" for taskid in taskids]))


def parse_status(content: bytes, tasks: Sequence[str]) -> StatusLines:
    """Tell the lines that count from those that don't.

    Blank lines are neither.  Costs less than a microsecond a line.
    """
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    tail = encode_text(lines.pop())
    ids: list[int] = []
    odd: list[bytes] = []
    count = len(tasks)
    for line in lines:
        head, _, text = line.partition(" ")
        # isdecimal alone lets other scripts' digits and leading zeros through, which
        # the two conditions behind it sort out for next to nothing.
        if head.isdecimal() and head.isascii() and (head[0] != "0" or head == "0"):
            taskid = int(head[:_MOST_DIGITS])
            if taskid < count and tasks[taskid] == text:
                ids.append(taskid)
                continue
        if line:
            odd.append(encode_text(line))
    return StatusLines(ids, odd, tail)


_LEADING_ID = re.compile(rb"^(?:0|[1-9][0-9]{0,17})(?= )", re.MULTILINE)


def parse_ids_only(content: bytes) -> list[int]:
    """The ids that lines begin with, their texts unread: for counting."""
    return list(map(int, _LEADING_ID.findall(content)))


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
