"""The lines of ``toprocess``, ``finished`` and ``failed``: ``<id> <text>``, newline.

Rules of this file: bytes in, ids out; it opens nothing.  Lists and files of millions of
lines are taken in blocks, and never made into as many Python objects.

A line *counts* when it ends in a newline and its text is that of its id in the
tasklist.  Any other line is *odd*:

- *torn*: the beginning of a task's line, since its writer was killed or the disk full.
  A torn line records nothing: its task runs again.  Two torn lines count: a last line
  that lacks its newline alone, and in ``toprocess`` one whose id is whole (a plain
  farmer reads no more than the id).
- *fused*: a torn line with a whole line behind it, which a plain farmer appended.  The
  whole line counts where no other reading is possible.
- *alien*: of another tasklist, or of this one before an edit.

Who mends a torn line: each mpifarm that appends to ``finished`` or ``failed`` ends a
last line without newline first (`Ledger.append`), the start of a farm does so too and
rewrites ``toprocess`` (`FileStore._mend`), each step of a queue drops or completes the
last line of its file (`queue.mend_tail`), ``check --repair`` takes torn lines out of
all files (`audit.repair`).  `parse_status` alone says which lines are torn.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import lt
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from mpifarm.model.task import encode_text

Ids: TypeAlias = "array[int]"
"""Ids of tasks, 4 bytes each."""


@runtime_checkable
class EncodedTexts(Protocol):
    """A tasklist that has its texts encoded, as the status files hold them."""

    def encoded_text(self, taskid: int, /) -> bytes | bytearray:
        """Return the text of a task, without a newline."""

    def encoded_texts(self, begin: int, end: int, /) -> memoryview:
        """Return the texts of a range of ids, each followed by a newline."""


class TornLine(NamedTuple):
    """A torn or fused line, and the ids that it records beyond doubt.

    `begun` is the id of the torn part, None if that id is torn itself.
    """

    ids: tuple[int, ...]
    begun: int | None


class AlienLine(NamedTuple):
    """A line that is not of this tasklist; `taskid` is None for one without an id."""

    taskid: int | None
    text: str


class OddLine(NamedTuple):
    """A line that does not count as it is, without its newline, and its kind."""

    line: bytes
    found: TornLine | AlienLine


class ParsedStatus(NamedTuple):
    """The content of a status file: the one answer, for farms and for subcommands.

    `ids` are the tasks that count, each as often as in the file: first those of whole
    lines, in their order, then those of odd lines.  `tail` is the last line if it has
    no newline, else None.  `tail_ids` count when a newline ends the tail.
    """

    ids: Ids
    odd: list[OddLine]
    tail: OddLine | None
    tail_ids: Sequence[int]

    @property
    def tail_size(self) -> int:
        """The number of bytes behind the last newline."""
        return len(self.tail.line) if self.tail else 0

    @property
    def torn(self) -> int:
        """The number of torn and fused lines, without the last one."""
        return sum(isinstance(each.found, TornLine) for each in self.odd)

    @property
    def aliens(self) -> list[AlienLine]:
        """The alien lines, without the last one."""
        return [each.found for each in self.odd if isinstance(each.found, AlienLine)]

    @property
    def is_in_order(self) -> bool:
        """Whether no line is odd, and the ids are sorted, each once."""
        is_whole = not (self.odd or self.tail)
        return is_whole and all(map(lt, self.ids, islice(self.ids, 1, None)))

    def ended(self) -> "ParsedStatus":
        """Return the content as it is when a newline ends the last line."""
        tail = [self.tail] if self.tail else []
        ids = self.ids + array("I", self.tail_ids)
        return ParsedStatus(ids, [*self.odd, *tail], None, ())

    def without_tail(self) -> "ParsedStatus":
        """Return the content as it is while the last line is still being written."""
        return self._replace(tail=None, tail_ids=())


_MAX_DIGITS = 18
"""Digits of an id; Python refuses to read numbers of more than 4 300."""


def encode_line(taskid: int, tasks: Sequence[str]) -> bytes:
    """Return the line of one task, with its newline."""
    return encode_text(f"{taskid} {tasks[taskid]}\n")


def encode_lines(taskids: Iterable[int], tasks: Sequence[str]) -> bytes:
    """Return the lines of many tasks."""
    return b"".join(encode_blocks(taskids, tasks))


def encode_blocks(taskids: Iterable[int], tasks: Sequence[str]) -> Iterator[bytes]:
    """Yield the lines of many tasks block by block."""
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
    """Return the texts of a range of ids, each with a newline behind it."""
    if isinstance(tasks, EncodedTexts):
        return tasks.encoded_texts(begin, end)
    return encode_text("\n".join([*tasks[begin:end], ""]))


_LINES_OF_BLOCK = 1000
_BYTES_OF_BLOCK = 1 << 17


def parse_status(
    content: bytes | Iterable[bytes],
    tasks: Sequence[str],
    *,
    list_is_same: bool,
    counts_begun: bool = False,
) -> ParsedStatus:
    """Parse a status file, whole or in blocks that are cut anywhere.

    `list_is_same`: whether a line within the file may be torn, and not only the last
    one.  An mpifarm may have ended a torn line with a newline; then a fingerprint
    proves that the list is still the same.  `counts_begun`: whether a torn line with a
    whole id counts, as in ``toprocess``.
    """
    ids, lines, rest = scan_status(content, tasks)
    odd = [_classify(line, tasks, may_be_torn=list_is_same) for line in lines]
    tail = _classify(rest, tasks, may_be_torn=True) if rest else None
    total = len(tasks)
    for each in odd:
        ids.extend(ids_of_odd(each, total, counts_begun=counts_begun))
    tail_ids = ids_of_odd(tail, total, counts_begun=counts_begun) if tail else ()
    return ParsedStatus(ids, odd, tail, tail_ids)


def _classify(line: bytes, tasks: Sequence[str], *, may_be_torn: bool) -> OddLine:
    return OddLine(line, classify_odd(line, tasks, may_be_torn=may_be_torn))


def ids_of_odd(odd: OddLine, total: int, *, counts_begun: bool) -> Sequence[int]:
    """Return the ids for which an odd line counts.

    `total` is the number of tasks in the list.  With `counts_begun`, a torn or alien
    line counts for its id if the list has that id, as in `parse_status`.
    """
    found = odd.found
    if isinstance(found, TornLine):
        has_begun = counts_begun and found.begun is not None
        return (*found.ids, found.begun or 0) if has_begun else found.ids
    has_id = found.taskid is not None and found.taskid < total
    return (found.taskid or 0,) if counts_begun and has_id else ()


def find_empty_status() -> ParsedStatus:
    """Return the content of an empty status file."""
    return ParsedStatus(array("I"), [], None, ())


def scan_status(
    content: bytes | Iterable[bytes], tasks: Sequence[str]
) -> tuple[Ids, list[bytes], bytes]:
    """Return the ids of lines that count, the odd lines, and the rest without newline.

    Blank lines are left out.  A line takes less than a microsecond, a blank one of a
    run, as a retry leaves it behind, a small part of that.
    """
    blocks = _cut(content) if isinstance(content, bytes) else content
    ids, odd = array("I"), list[bytes]()
    for piece in cut_behind_lines(blocks):
        if not piece.endswith(b"\n"):
            return ids, odd, piece
        lines = _without_blank(piece)
        if not lines:
            continue
        run = find_run(lines, tasks) or _find_whole(lines, tasks)
        if run:
            ids.extend(run)
        else:
            _scan_lines(lines, tasks, ids, odd)
    return ids, odd, b""


def _without_blank(lines: bytes) -> bytes:
    """Return whole lines without the blank ones."""
    if b"\n\n" in lines:
        lines = _NEWLINES.sub(b"\n", lines)
    return lines.removeprefix(b"\n")


_NEWLINES = re.compile(rb"\n{2,}")


def _cut(content: bytes) -> Iterator[bytes]:
    for place in range(0, len(content), _BYTES_OF_BLOCK):
        yield content[place : place + _BYTES_OF_BLOCK]


def cut_behind_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content in pieces that end with a newline; last, the rest without."""
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
    """Return the ids if they follow one another and all lines count, else None.

    `lines` must end with a newline.
    """
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


def _find_whole(lines: bytes, tasks: Sequence[str]) -> list[int] | None:
    """Return the ids, in their order, if all lines count and are near in the list.

    `lines` must end with a newline.  None if it is not sure that all count.
    """
    # For all lines at once: half the time of one by one.
    if b"\n0" in lines or lines[:1] == b"0":
        return None
    cut = [line.partition(b" ") for line in lines[:-1].split(b"\n")]
    heads, _, texts = zip(*cut, strict=True)
    if not b"".join(heads).isdigit():
        return None
    try:
        ids = [*map(int, heads)]
    except ValueError:  # a blank line, or thousands of digits
        return None
    first, end = min(ids), max(ids) + 1
    if end > len(tasks) or end - first > _MAX_SPREAD * len(ids):
        return None
    known = bytes(encode_texts(first, end, tasks)).split(b"\n")
    if len(known) != end - first + 1:  # a text with a newline, which no line has
        return None
    return ids if tuple([known[each - first] for each in ids]) == texts else None


_MAX_SPREAD = 4
"""The part of the list from which lines are, by their number, if its texts are encoded
for all lines at once."""


def _scan_lines(lines: bytes, tasks: Sequence[str], ids: Ids, odd: list[bytes]) -> None:
    """Add the id of each line that counts to `ids`, and any other line to `odd`."""
    count = len(tasks)
    encode = _find_encoder(tasks)
    for line in lines.split(b"\n"):
        head, _, text = line.partition(b" ")
        if head.isdigit() and (head[0] != _ZERO or head == b"0"):
            taskid = int(head[:_MAX_DIGITS])
            if taskid < count and encode(taskid) == text:
                ids.append(taskid)
                continue
        if line:
            odd.append(line)


_ZERO = ord("0")
_LEADING_ID = re.compile(rb"^(?:0|[1-9][0-9]{0,17})(?= )", re.MULTILINE)


def scan_ids(blocks: Iterable[bytes]) -> Iterator[Sequence[int]]:
    """Yield the ids that lines begin with, without a look at their texts: for counting.

    The file must be sorted and without repetitions, as a queue is.
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
    """Return the id that a line begins with; None unless a space follows the id."""
    head, space, _ = line.partition(b" ")
    return parse_id(head) if space else None


def parse_id(digits: bytes) -> int | None:
    """Return the number that digits mean; None if an id is not written so."""
    zeros = digits[:1] == b"0" and digits != b"0"
    fits = digits.isdigit() and len(digits) <= _MAX_DIGITS
    return int(digits) if fits and not zeros else None


def parse_line(line: bytes, tasks: Sequence[str]) -> int | None:
    """Return the id of a line, without its newline; None if the line does not count."""
    taskid = find_id(line)
    if taskid is None or taskid >= len(tasks):
        return None
    text = line[line.index(b" ") + 1 :]
    return taskid if text == encode_text(tasks[taskid]) else None


def is_beyond(line: bytes, tasks: Sequence[str]) -> bool:
    """Return whether a line has an id behind the last of the list."""
    taskid = find_id(line)
    return taskid is not None and taskid >= len(tasks)


# ---- lines that don't count as they are ---------------------------------------------


def classify_odd(
    line: bytes, tasks: Sequence[str], *, may_be_torn: bool
) -> TornLine | AlienLine:
    """Return a torn, fused or whole line as `TornLine`, any other as `AlienLine`.

    `may_be_torn`: whether the line may end too early, as at the end of a file.  Bytes
    0, which a crash of the host leaves, count as torn.
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
    """Return a line that has a whole one behind a torn or whole one, else None.

    The ids count only if no other reading is possible: ``112 cmd`` may be a torn
    ``1`` before ``12 cmd``, or the line of a task that was added to the list.
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
    """Return index and id of each ending of the line that is a whole line itself."""
    endings = []
    space = line.find(b" ")
    while space >= 0:
        start = space
        least = max(1, space - _MAX_DIGITS)
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
    """Return whether some task's line, with its newline, begins with `line`.

    Bytes 0 at the end of `line` are left out.
    """
    line = line.rstrip(b"\0")
    if b" " not in line:
        taskid = parse_id(line)
        return taskid is not None and taskid < len(tasks)
    taskid = _find_known_id(line, tasks)
    return taskid is not None and encode_line(taskid, tasks).startswith(line)


def _find_known_id(line: bytes, tasks: Sequence[str]) -> int | None:
    taskid = find_id(line)
    return taskid if taskid is not None and taskid < len(tasks) else None
