"""Manual pages: mpifarm(1), and one for each subcommand.

Rules of this file: pure; macros of man(7) alone, which groff and mandoc both know.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from mpifarm import __version__
from mpifarm.commands.help_files.command_lines import (
    Argument,
    CommandLine,
    Takes,
    split_items,
    summarize,
)
from mpifarm.commands.topics import TOPICS

_ABOUT: Final = "run every command of a list once, over the ranks of an MPI job"

_TITLES: Final = {
    "positional arguments": "ARGUMENTS",
    "options": "OPTIONS",
    "subcommands, each with a --help of its own": "SUBCOMMANDS",
    "signals, sent to any rank, act on the whole farm": "SIGNALS",
}
"""Heads of the help that are others in a manual."""


def write_pages(lines: Sequence[CommandLine], date: str) -> dict[str, str]:
    """Return the pages by their file names; `date` stands at their feet."""
    farm, *subcommands = lines
    about = summarize(farm)
    names = sorted(about)
    pages = {"mpifarm.1": _join(_write_farm(farm, names, date))}
    for line in subcommands:
        page = _write_subcommand(line, about[line.name], date)
        pages[f"mpifarm-{line.name}.1"] = _join(page)
    return pages


def _join(page: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in page)


def _write_farm(farm: CommandLine, names: Sequence[str], date: str) -> Iterator[str]:
    yield from _head("mpifarm", _ABOUT, farm, date)
    for title, arguments in farm.groups.items():
        yield from _section(_TITLES.get(title, f"OPTIONS {title}"))
        for argument in arguments:
            yield from _argument(argument)
    for block in farm.epilog.strip().split("\n\n"):
        yield from _block(block)
    yield from _section("TOPICS")
    yield r"\fBmpifarm help\fR \fITOPIC\fR prints the same lines."
    for name, text in TOPICS.items():
        yield f".SS {_escape(name.split()[0])}"
        yield ".nf"
        yield from map(_escape, text.rstrip().splitlines())
        yield ".fi"
    yield from _section("SEE ALSO")
    yield ",\n".join(f".BR mpifarm\\-{name} (1)" for name in names).replace(
        "(1),", "(1) ,"
    )


def _write_subcommand(line: CommandLine, about: str, date: str) -> Iterator[str]:
    yield from _head(f"mpifarm-{line.name}", about, line, date)
    for title, arguments in line.groups.items():
        yield from _section(_TITLES.get(title, title))
        for argument in arguments:
            yield from _argument(argument)
    if line.epilog:
        yield from _section("NOTES")
        yield from _text(line.epilog)
    yield from _section("SEE ALSO")
    yield ".BR mpifarm (1)"


def _head(name: str, about: str, line: CommandLine, date: str) -> Iterator[str]:
    yield r".\" made from mpifarm's --help"
    yield f'.TH {name.upper()} 1 "{date}" "mpifarm {__version__}" "mpifarm"'
    yield ".nh"  # no hyphens: they would be typed
    yield ".ad l"
    yield from _section("NAME")
    yield f"{_escape(name)} \\-"
    yield from _fill(about)
    yield from _section("SYNOPSIS")
    for number, usage in enumerate(line.usage.splitlines()):
        if number:
            yield ".br"
        yield from _fill(usage)
    yield from _section("DESCRIPTION")
    yield from _text(line.description)


def _section(title: str) -> Iterator[str]:
    yield f".SH {_escape(title.upper())}"


def _argument(argument: Argument) -> Iterator[str]:
    value = f"\\fI{_escape(argument.metavar)}\\fR"
    if argument.takes is Takes.MAY and not argument.metavar.startswith("["):
        value = f"[{value}]"
    names = [f"\\fB{_escape(name)}\\fR" for name in argument.names]
    if argument.metavar:
        dots = " ..." if argument.may_repeat else ""
        names = [f"{name} {value}" for name in names] or [f"{value}{dots}"]
    yield ".TP"
    yield ", ".join(names)
    yield from _fill(argument.help)


def _block(block: str) -> Iterator[str]:
    """Yield a block of the end of the help: a section if it begins with a head."""
    head, colon, rest = block.partition(":\n")
    if not colon:
        yield from _section("NOTES")
        yield from _text(block)
        return
    yield from _section(_TITLES.get(head, head))
    items = split_items(rest)
    if any(not said for _, said in items):  # plain lines
        yield from _text(rest)
        return
    for words, said in items:
        yield ".TP"
        yield f"\\fB{_escape(words)}\\fR"
        yield from _fill(said)


def _text(text: str) -> Iterator[str]:
    """Yield running text, a sentence to a line, as roff wants it."""
    joined = re.sub(r"\s*\n\s*", " ", text.strip())
    for sentence in re.split(r"(?<=[.!?])  +|(?<=[.!?]) (?=[A-Z])", joined):
        yield from _fill(sentence)


def _fill(sentence: str) -> Iterator[str]:
    """Yield lines of at most 80 characters, which roff fills anew."""
    lines = textwrap.wrap(sentence, 60, break_long_words=False, break_on_hyphens=False)
    yield from map(_escape, lines)


def _escape(text: str) -> str:
    r"""Return a line that roff prints as it is: no request, and ASCII's - and '."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    text = text.replace("'", r"\(aq").replace("`", r"\(ga")
    text = text.replace("^", r"\(ha").replace("~", r"\(ti")
    return f"\\&{text}" if text.startswith(".") else text
