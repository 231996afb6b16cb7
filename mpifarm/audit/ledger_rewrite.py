"""The rewriting of ``finished`` and ``failed``: lines taken out, parted and ended.

Rules of this file: bytes in, bytes out; it opens nothing.  A farm at work remembers the
place up to which it has read ``finished`` and ``failed``, and a claim the length of
``failed``.  So as long as there is any claim no byte of these files moves: a line that
goes leaves its length in newlines, which every reader skips.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from mpifarm.store.status_lines import (
    AlienLine,
    classify_odd,
    encode_line,
    parse_line,
)


class LedgerRewrite(NamedTuple):
    """The plan by which a ledger (``finished`` or ``failed``) is rewritten.

    `drop` are ids whose lines go.  `keep_last`: keep the last line of each id, else the
    first.  `list_is_same`: lines of no task go.  `keep_length`: no byte may move.
    """

    drop: Collection[int] = ()
    keep_last: bool = False
    list_is_same: bool = True
    keep_length: bool = True


def rewrite_ledger(
    content: bytes, tasks: Sequence[str], rewrite: LedgerRewrite
) -> bytes:
    """Return the new content of a ledger.

    Besides the lines of `rewrite.drop`, all but one of the lines of each task go.  Torn
    and fused lines are parted, and the last line is ended.
    """
    if not content:
        return content
    *lines, tail = content.split(b"\n")
    taken_apart = [
        _take_apart(line, tasks, rewrite, may_be_torn=rewrite.list_is_same)
        for line in lines
    ]
    if tail:
        taken_apart.append(_take_apart(tail, tasks, rewrite, may_be_torn=True))
    _drop(taken_apart, rewrite)
    parts = [part for each in taken_apart for part in each]
    if rewrite.keep_length:
        return b"".join(part.content + b"\n" for part in parts)
    return b"".join(part.content + b"\n" for part in parts if part.content)


class _Part(NamedTuple):
    """A piece of a line, without the newline that will end the piece.

    `taskid` is None for a piece of no task, which stays as it is.
    """

    taskid: int | None
    content: bytes


_Parts = list[_Part]


def _blank(length: int) -> bytes:
    return b"\n" * length


def _take_apart(
    line: bytes, tasks: Sequence[str], rewrite: LedgerRewrite, *, may_be_torn: bool
) -> _Parts:
    """Return the parts of one line: one for each task that the line records.

    A part of newlines fills the rest if no byte may move.
    """
    taskid = parse_line(line, tasks)
    if taskid is not None or not line:
        return [_Part(taskid, line)]
    found = classify_odd(line, tasks, may_be_torn=may_be_torn)
    gone = _Part(None, _blank(len(line)) if rewrite.keep_length else b"")
    if isinstance(found, AlienLine):
        return [gone if rewrite.list_is_same else _Part(None, line)]
    wholes = [encode_line(each, tasks)[:-1] for each in found.ids]
    if len(wholes) > 1 and rewrite.keep_length:
        # There is no room for a newline between the two.
        return [_Part(None, line)]
    parts = [_Part(each, whole) for each, whole in zip(found.ids, wholes, strict=True)]
    if not parts:
        return [gone]
    rest = len(line) - sum(map(len, wholes))
    if rewrite.keep_length and rest:
        # Each part is ended by a newline; so this one is one shorter.
        parts.insert(0, _Part(None, _blank(rest - 1)))
    return parts


def _drop(lines: list[_Parts], rewrite: LedgerRewrite) -> None:
    """Blank the parts of tasks in `drop`, and all but one part of each other task."""
    seen: set[int] = set()
    for parts in reversed(lines) if rewrite.keep_last else lines:
        places = range(len(parts))
        for place in reversed(places) if rewrite.keep_last else places:
            taskid, content = parts[place]
            if taskid is None:
                continue
            if taskid in rewrite.drop or taskid in seen:
                length = len(content) if rewrite.keep_length else 0
                parts[place] = _Part(None, _blank(length))
            seen.add(taskid)
