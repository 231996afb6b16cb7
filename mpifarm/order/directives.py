"""The directives of a plain list: ``#BARRIER``, ``#AFTER``, ``[limit=NAME]``.

Rules of this file: pure; lines in, constraints out.  A directive holds from its line
on, so a list that grows is read part by part, each from where the last one ended.  A
comment that looks like a directive and is not one is a mistake: silence would run tasks
too early.
"""

import re
from collections.abc import Iterable
from itertools import chain
from typing import Final, NoReturn

from mpifarm.order.constraints import Constraints

DIRECTIVES: Final = (b"#BARRIER", b"#AFTER", b"[limit", b"[Limit", b"[LIMIT")
"""The beginnings of all directives, and of those that are nearly one: in a text without
them there are none."""

LIMIT: Final = "[limit="
"""The beginning of the prefix of a task that names its kind."""

_MAX_EXAMPLE: Final = 40
"""Characters of corrected ids that a sentence has."""

MAX_WAITS: Final = 10_000_000
"""The number of pairs of tasks, one waiting for the other, that a list may have."""

_is_directive = re.compile(r"#(BARRIER|AFTER)(?![A-Za-z0-9_])(.*)", re.DOTALL).match
_KIND: Final = "[A-Za-z0-9_.-]+"
_match_limit = re.compile(rf"\[limit=({_KIND})\]\s+(?=\S)").match
seems_limit = re.compile(r"\[limits?(?![A-Za-z0-9_./-])", re.IGNORECASE).match
"""Finds a prefix that is a command to no shell, and was meant to name a kind."""
MISSPELT: Final = (
    r"#(?!(?:BARRIER|AFTER)(?![A-Za-z0-9_]))"
    r"(?:B[A-Z]{4,7}(?:\s+[A-Z]{4,6})?|A[A-Z]{2,6}\s*\d(?:[\s\d,-]*\d)?)\s*$"
)
"""The pattern of comments in which a directive may be misspelt."""
_may_be_misspelt = re.compile(MISSPELT).match
_RANGE: Final = r"\s*[0-9]{1,18}(?:-[0-9]{1,18})?\s*"
_is_ids = re.compile(rf"{_RANGE}(?:,{_RANGE})*").fullmatch
_find_far = re.compile(r"[0-9]{19,}").search
"""Finds an id that is larger than any."""


class DirectiveError(Exception):
    """A mistake in a directive, at the line `number`, from 1.

    The text follows "line 7 of tasks.txt" in a sentence.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


def is_kind(name: str) -> bool:
    """Return whether a kind of tasks may have this name."""
    return re.fullmatch(_KIND, name) is not None


def command_of(text: str) -> str:
    """Return the command in the text of a task: the text without its ``[limit=…]``."""
    if text.startswith(LIMIT) and (found := _match_limit(text)):
        return text[found.end() :]
    return text


def kind_of(text: str) -> str:
    """Return the kind that the text of a task names, "" for none."""
    if text.startswith(LIMIT) and (found := _match_limit(text)):
        return found[1]
    return ""


def find_misspelt(comment: str) -> str:
    """Return the directive that a comment misspells, "" if it is none."""
    if not _may_be_misspelt(comment):
        return ""
    from mpifarm.model.nearness import find_near_word  # for odd comments only

    word = re.match(r"#([A-Z]+)", comment)
    assert word is not None, comment
    near = find_near_word(word.group(1), ("BARRIER", "AFTER"))
    return near and f"#{near}"


class DirectiveReader:
    """A reader of the directives in a list, block by block."""

    def __init__(self) -> None:
        self._waits = 0
        """The pairs of tasks so far, one waiting for the other."""
        self._last: tuple[str | None, tuple[int, ...]] = (None, ())
        """The text after the last ``#AFTER`` and its ids: lines often repeat it."""

    def read(
        self, constraints: Constraints, lines: Iterable[str], number: int, taskid: int
    ) -> None:
        """Add what lines say of their tasks to `constraints`.

        `number` is that of the first line, from 1, and `taskid` the id of the first
        task in them.  Raises DirectiveError; some of the lines may then be added.
        """
        for line in lines:
            if line.startswith("#"):
                if found := _is_directive(line):
                    self._take(constraints, found, number, taskid)
            elif text := line.strip():
                if text[0] == "[" and (text.startswith(LIMIT) or seems_limit(text)):
                    constraints.kinds[taskid] = _parse_kind(text, number)
                taskid += 1
            number += 1

    def _take(
        self,
        constraints: Constraints,
        found: re.Match[str],
        number: int,
        taskid: int,
    ) -> None:
        """Add a directive that stands in front of the task `taskid`."""
        word, rest = found.groups()
        if word == "BARRIER":
            constraints.add_barrier(taskid, checks=_parse_barrier(rest, number))
            return
        if self._last[0] != rest:
            self._last = (rest, _parse_ids(taskid, rest, number))
        ids, before = self._last[1], constraints.after.get(taskid, ())
        if before:
            ids = tuple(sorted({*before, *ids}))
        self._waits += len(ids) - len(before)
        if self._waits > MAX_WAITS:
            _refuse_waits(number)
        constraints.after[taskid] = ids


def _parse_barrier(rest: str, number: int) -> bool:
    """Return whether a barrier checks; `rest` is its line after ``#BARRIER``."""
    words = rest.split()
    if words in ([], ["CHECK"]):
        return bool(words)
    raise DirectiveError(
        number,
        f"is no #BARRIER, for more stands in it ({shorten(rest)}): write #BARRIER or"
        ' #BARRIER CHECK alone, or "# BARRIER …" if it is a comment',
    )


def _parse_kind(text: str, number: int) -> str:
    """Return the kind that the prefix of a task names."""
    if found := _match_limit(text):
        if seems_limit(text, found.end()):
            raise DirectiveError(
                number,
                f"names two kinds ({shorten(text)}), and a task has one: leave one"
                " [limit=NAME] in front of the command",
            )
        return found.group(1)
    raise DirectiveError(
        number,
        f"begins with a broken prefix, {shorten(text)}: write [limit=NAME] in small"
        " letters and a blank before the command, with letters, digits, _ . - in NAME",
    )


def shorten(text: str) -> str:
    """Return a text in quotes, its beginning if it is long."""
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _refuse_waits(number: int) -> NoReturn:
    raise DirectiveError(
        number,
        f"lets tasks wait for more than {MAX_WAITS} others in all: write #BARRIER where"
        " many tasks wait for many",
    )


def _parse_ids(taskid: int, rest: str, number: int) -> tuple[int, ...]:
    """Return the ids that an ``#AFTER`` in front of `taskid` names, ascending."""
    if not _is_ids(rest):
        raise DirectiveError(number, _explain_no_ids(taskid, rest))
    ranges = []
    for part in rest.split(","):
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if begin > end:
            raise DirectiveError(
                number, f"has {begin}-{end} after #AFTER: write {end}-{begin}"
            )
        if end >= taskid:
            raise DirectiveError(number, _explain_late(taskid, end))
        ranges.append(range(begin, end + 1))
    if sum(map(len, ranges)) > MAX_WAITS:
        _refuse_waits(number)
    if len(ranges) == 1:
        return tuple(ranges[0])
    return tuple(sorted({*chain.from_iterable(ranges)}))


def _explain_no_ids(taskid: int, rest: str) -> str:
    """Explain why the text after ``#AFTER`` names no tasks."""
    if not rest.strip("0123456789,- \t") and (far := _find_far(rest)):
        return _explain_late(taskid, shorten(far[0]).strip("'"))
    ids = ",".join(rest.replace(",", " ").split())
    if ids and _is_ids(ids):
        example = f": #AFTER {ids}" if len(ids) <= _MAX_EXAMPLE else ""
        return (
            f"has {shorten(rest)} after #AFTER, which are no ids: write one comma"
            f" between two of them, and none at the end{example}"
        )
    return (
        f"names no tasks after #AFTER ({shorten(rest)}): write their ids, as in"
        ' #AFTER 3,7-9, or "# AFTER …" if it is a comment'
    )


def _explain_late(taskid: int, later: int | str) -> str:
    """Explain why the task `taskid` can't wait for the task `later`."""
    match taskid:
        case 0:
            above = "there is none above the first task"
        case 1:
            above = "above it is only task 0"
        case _:
            above = f"above it are the ids 0 to {taskid - 1}"
    itself = "itself" if later == taskid else f"task {later}"
    return (
        f"lets task {taskid} wait for {itself}, but a task can only wait for tasks"
        f" above it, and {above}: correct the ids after #AFTER"
    )
