"""``'convert {} {.}.png' ::: *.jpg``: the words of a command line that are a list.

Rules of this file: pure; a farm imports it only for words that have a separator.
Options stand in front of the command, as for GNU parallel: all from the first word
that is none belongs to the command.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from typing import Final

from mpifarm.commands.option_values import usage_error
from mpifarm.model.settings import Arguments, ArgumentSource

SEPARATORS: Final = (":::", ":::+", "::::", "::::+")

_RUN_NOTHING: Final = ("--dry-run", "--help")
"""Options that keep a farm from running."""


def split_line(
    argv: Sequence[str],
    count_values: Callable[[str, str], int],
    names: Collection[str] = (),
    in_front: int = 0,
) -> tuple[Sequence[str], Arguments]:
    """Return the options of a command line that has a separator, and its arguments.

    `count_values` says how many words behind an option (the first, with the word that
    follows it as the second) are its value; `names` are those of options.  `in_front`
    words that are no options' stand in front of the command.  Raises InputError where
    nothing stands behind a separator, or ``--dry-run``.
    """
    first = next(n for n, word in enumerate(argv) if word in SEPARATORS)
    begin = _skip_options(argv[:first], count_values)
    for _ in range(in_front):
        begin = min(begin + 1, first)
        begin += _skip_options(argv[begin:first], count_values)
    options = argv[:begin]
    if begin < first and argv[begin] == "--":
        begin += 1
    _refuse_misplaced(argv[first:])
    sources = tuple(_split_sources(argv[first:]))
    if begin == first:
        _check_are_commands(sources)
    like = next((word for word in argv[first:] if word in names), "")
    size = len(argv) - begin
    return options, Arguments(tuple(argv[begin:first]), sources, size, like)


def find_options(
    argv: Sequence[str], count_values: Callable[[str, str], int]
) -> Sequence[str]:
    """Return the options of a command line that has a separator, as `split_line`."""
    first = next(n for n, word in enumerate(argv) if word in SEPARATORS)
    return argv[: _skip_options(argv[:first], count_values)]


def _skip_options(words: Sequence[str], count_values: Callable[[str, str], int]) -> int:
    """Return the number of words in front of the first that is no option's."""
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--" or not word.startswith("-") or word == "-":
            break
        following = words[at + 1] if at + 1 < len(words) else ""
        at += 1 + (count_values(word, following) if following else 0)
    return min(at, len(words))


def _refuse_misplaced(words: Sequence[str]) -> None:
    """Raise InputError for an option that keeps a farm from running, among arguments.

    Whoever writes one would not have the commands run.
    """
    separator = ""
    for word in words:
        if word in SEPARATORS:
            separator = word
        elif word in _RUN_NOTHING:
            raise usage_error(
                f"{word} stands behind {separator}, where all words are arguments: put"
                " it in front of the command"
            )


def _check_are_commands(sources: Sequence[ArgumentSource]) -> None:
    """Raise InputError for an option in place of a whole command."""
    for source in sources:
        for word in source.words:
            if word.startswith("-") and not source.is_file:
                raise usage_error(
                    f"{word} would be a command, because no command stands in front of"
                    " ::: (options stand in front of it, too)"
                )


def _split_sources(words: Sequence[str]) -> Iterator[ArgumentSource]:
    """Yield the sources of words that begin with a separator."""
    starts = [n for n, word in enumerate(words) if word in SEPARATORS]
    for start, end in pairwise([*starts, len(words)]):
        separator, given = words[start], tuple(words[start + 1 : end])
        if not given:
            raise usage_error(
                f"{separator} needs an argument behind it: is a variable in your job"
                " script not set, or does a pattern match no file?"
            )
        is_linked = separator.endswith("+")
        if not separator.startswith("::::"):
            yield ArgumentSource(given, is_linked=is_linked)
            continue
        for path in given:
            if not path:
                raise usage_error(
                    f"the name of a file behind {separator} is empty: is a variable in"
                    " your job script not set?"
                )
            yield ArgumentSource((path,), is_file=True, is_linked=is_linked)
