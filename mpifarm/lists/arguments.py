"""A list made of a command and arguments, line by line as GNU parallel makes its jobs.

Rules of this file: pure.  Texts are bytes: a shell and GNU parallel take them so.
Where this page of rules seems odd, GNU parallel is: ``parallel --dry-run`` is the judge
(tests/process/test_arguments_against_parallel.py).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, product
from math import prod
from typing import Final, NamedTuple

from mpifarm.errors import InputError

MAX_TASKS: Final = 10**8
"""More is a mistake in the number of ``:::``, and would fill the memory."""

_TOKEN = re.compile(rb"\{(?:(-?[0-9]+)\s*)?(|#|%|\.|/|//|/\.)\}")
_OF_PERL = re.compile(rb"\{=.*?=\}", re.DOTALL)
_NOT_QUOTED = re.compile(rb"[^ \t\n=]*")
"""What stands in front of a replacement string that is not quoted: it is a command, or
a part of one."""
_NEEDS_QUOTES = re.compile(rb"[^-_.+a-zA-Z0-9/]")
_LAST_PART = re.compile(rb"\.[^/.]*\Z")


class Source(NamedTuple):
    """The arguments behind one ``:::``, or in one file behind ``::::``.

    `is_linked`: each goes with one of the source before, and not with all (``:::+``).
    """

    arguments: Sequence[bytes]
    is_linked: bool = False


class _Token(NamedTuple):
    """A replacement string: ``{2/.}`` has the `place` 2 and the `change` ``/.``.

    The place of the first source is 1; `place` None stands for all sources, one
    after the other.
    """

    place: int | None
    change: bytes


_SEQUENCE = -1
"""The source of a column of numbers, those of the tasks."""


def split_arguments(content: bytes) -> list[bytes]:
    """Return the arguments in `content`, one a line.

    Raises InputError for a carriage return within one: in a list it ends a line, and
    what is behind it would be a command.
    """
    content = content.replace(b"\r\n", b"\n")
    before, found, _ = content.partition(b"\r")
    if found:
        number = before.count(b"\n") + 1
        raise InputError(
            f"argument {number} has a carriage return in it, which ends a line of a"
            " list: take it out, or rename the file"
        )
    arguments = content.split(b"\n")
    if not arguments[-1]:
        arguments.pop()
    return arguments


def quote_argument(argument: bytes) -> bytes:
    """Return an argument as one word for a shell."""
    if _NEEDS_QUOTES.search(argument):
        quoted = b"'" + argument.replace(b"'", b"'\"'\"'") + b"'"
        return quoted.removeprefix(b"''").removesuffix(b"''")
    return argument or b"''"


def _find_directory(argument: bytes) -> bytes:
    """Return the directory, as Perl's ``dirname``."""
    directory, slash, name = argument.rpartition(b"/")
    if slash and not name:  # The last name has slashes behind it.
        directory, slash, name = _strip(argument).rpartition(b"/")
        if slash and not name:
            return b"/"
    return _strip(directory + slash) if slash else b"."


def _strip(path: bytes) -> bytes:
    """Return a path without the slashes at its end, but for the first character."""
    return path[:1] + path[1:].rstrip(b"/")


_CHANGES: Final[Mapping[bytes, Callable[[bytes], bytes]]] = {
    b"": lambda argument: argument,
    b".": lambda argument: _LAST_PART.sub(b"", argument),
    b"/": lambda argument: argument.rpartition(b"/")[2],
    b"//": _find_directory,
    b"/.": lambda argument: _LAST_PART.sub(b"", argument.rpartition(b"/")[2]),
}
"""What each replacement string makes of an argument, by the characters in it."""


def make_lines(words: Sequence[bytes], sources: Sequence[Source]) -> bytes:
    """Return a list: the command of `words` for each combination of arguments.

    Raises InputError for a command that can't be one of a list.
    """
    texts, tokens, quotes = _parse(words)
    groups = [*_link(sources)]
    tasks = prod(len(group[0]) for group in groups)
    if tasks > MAX_TASKS:
        raise InputError(
            f"the arguments make {tasks} tasks, all combinations of {len(groups)}"
            f" sources, and {MAX_TASKS} are the most: link what belongs together by"
            " :::+, or give parts of them, each with a --workdir"
        )
    pattern, needed = _plan(texts, tokens, len(sources))
    columns = [_change(groups, source, change, quotes) for source, change in needed]
    rows = _combine(columns, [source for source, _ in needed], groups)
    return b"".join(map(pattern.__mod__, rows))


def _parse(
    words: Sequence[bytes],
) -> tuple[Sequence[bytes], Sequence[_Token], bool]:
    """Return a command as texts and the tokens between them, and whether they quote.

    Each word is looked at by itself: ``{1`` and ``}`` make no token, though ``{1 }``
    in one word is one.  Raises InputError for a wrong command.
    """
    _check_command(b" ".join(words))
    texts, tokens = [b""], list[_Token]()
    for number, word in enumerate(words):
        parts = _TOKEN.split(word)
        texts[-1] += b" " * bool(number) + parts[0]
        texts += parts[3::3]
        tokens += map(_read_token, parts[1::3], parts[2::3])
    if not tokens:
        tokens = [_Token(None, b"")]
        texts = [texts[0] + b" " if words else b"", b""]
    return texts, tokens, _NOT_QUOTED.fullmatch(texts[0]) is None


def _check_command(command: bytes) -> None:
    """Raise InputError for a command that can't be one of a list."""
    if b"\n" in command or b"\r" in command:
        raise InputError(
            "the command in front of the arguments has a line break in it, and a task"
            " is one line: join its lines by ;"
        )
    if command.lstrip().startswith(b"#"):
        raise InputError(
            "the command in front of the arguments begins with #, which makes a comment"
            " of it in a list: begin with a command"
        )
    if any(found[2] == b"%" for found in _TOKEN.finditer(command)):
        raise InputError(
            "{%}, the worker that runs a task, is not known beforehand: the command"
            " finds it in $MPIFARM_WORKER, from 0 on each rank"
        )
    if _OF_PERL.search(command):
        raise InputError(
            "{= =} has an expression of Perl, which mpifarm does not run: give its"
            " values as further arguments, linked by :::+"
        )


def _read_token(place: bytes | None, change: bytes) -> _Token:
    if change == b"#":
        # GNU parallel reads {2#} as {21} of which the number is asked, and {#} as {1}.
        return _Token(int((place or b"") + b"1"), change)
    if place is None or place == b"0":
        return _Token(None, change)
    return _Token(int(place), change)


def _link(sources: Sequence[Source]) -> Iterator[Sequence[Sequence[bytes]]]:
    """Yield groups of linked sources, all of one group as long as the shortest.

    A source without arguments has an empty one, unless none has any.
    """
    has_any = any(source.arguments for source in sources)
    group: list[Sequence[bytes]] = []
    for source in sources:
        if group and not source.is_linked:
            yield _cut(group)
            group = []
        group.append(source.arguments or ([b""] if has_any else []))
    yield _cut(group)


def _cut(group: Sequence[Sequence[bytes]]) -> Sequence[Sequence[bytes]]:
    shortest = min(map(len, group))
    return [column[:shortest] for column in group]


def _plan(
    texts: Sequence[bytes], tokens: Sequence[_Token], sources: int
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the pattern of a line, and for each gap in it the source and the change.

    A line is the pattern ``%`` the values of its gaps.
    """
    pattern, needed = [_escape(texts[0])], []
    for token, text in zip(tokens, texts[1:], strict=True):
        found = [*_find_sources(token, sources)]
        pattern += [b" ".join([b"%b"] * len(found)), _escape(text)]
        needed += found
    return b"".join([*pattern, b"\n"]), needed


def _escape(text: bytes) -> bytes:
    return text.replace(b"%", b"%%")


def _find_sources(token: _Token, sources: int) -> Iterator[tuple[int, bytes]]:
    """Yield source and change for each value of a token; none for an unknown place."""
    if token.place is None:
        yield from ((source, token.change) for source in range(sources))
        return
    place = token.place
    index = place - 1 if place > 0 else sources + place
    if -sources <= index < sources:
        is_number = token.change == b"#"
        yield (_SEQUENCE if is_number else index % sources, token.change)


def _change(
    groups: Sequence[Sequence[Sequence[bytes]]],
    source: int,
    change: bytes,
    quotes: bool,  # noqa: FBT001 - a private step of make_lines
) -> Iterable[bytes]:
    """Return what a change makes of the arguments of a source, or of the numbers."""
    if source == _SEQUENCE:
        return map(b"%d".__mod__, count(1))
    arguments = [*chain.from_iterable(groups)][source]
    changed = map(_CHANGES[change], arguments) if change else iter(arguments)
    return _quote_all([*changed]) if quotes else [*changed]


def _quote_all(arguments: list[bytes]) -> list[bytes]:
    """Return arguments as words for a shell; a million plain names cost one look."""
    if all(arguments) and not _NEEDS_QUOTES.search(b"".join(arguments)):
        return arguments
    return [*map(quote_argument, arguments)]


def _combine(
    columns: Sequence[Iterable[bytes]],
    sources: Sequence[int],
    groups: Sequence[Sequence[Sequence[bytes]]],
) -> Iterator[tuple[bytes, ...]]:
    """Yield the values of each line, all combinations of the groups in their order.

    `sources` are those of the columns.
    """
    group_of = [n for n, group in enumerate(groups) for _ in group]
    if len(groups) == 1 and columns:
        yield from _take(zip(*columns, strict=False), len(groups[0][0]))
        return
    # The place of each column in a row of its group; of the numbers in none.
    gaps = [(-1 if s == _SEQUENCE else group_of[s]) for s in sources]
    own = [[n for n, at in enumerate(gaps) if at == g] for g in range(len(groups))]
    at = {n: (g, k) for g, ns in enumerate(own) for k, n in enumerate(ns)}
    rows = [
        [*zip(*(columns[n] for n in ns), strict=True)] or [()] * len(group[0])
        for ns, group in zip(own, groups, strict=True)
    ]
    places = [at.get(n) for n in range(len(columns))]
    for number, row in enumerate(product(*rows), 1):
        yield tuple(
            b"%d" % number if place is None else row[place[0]][place[1]]
            for place in places
        )


def _take(rows: Iterator[tuple[bytes, ...]], size: int) -> Iterator[tuple[bytes, ...]]:
    """Yield the first `size` rows: a column of numbers has no end."""
    yield from (row for row, _ in zip(rows, range(size), strict=False))
