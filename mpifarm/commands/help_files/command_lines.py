"""The command lines of mpifarm, as ``--help`` describes them.

Rules of this file: the one reader of argparse's own lists.  A new option or subcommand
needs no change here.
"""

import argparse
import enum
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.options import HelpAsked, parse_line


class Takes(enum.Enum):
    """Whether an argument is followed by a value."""

    NOTHING = enum.auto()
    MAY = enum.auto()
    VALUE = enum.auto()


class Argument(NamedTuple):
    """One argument; an option has `names`, and any other has none.

    `metavar` is the value in the help, "" for a flag.
    """

    names: tuple[str, ...]
    metavar: str
    takes: Takes
    may_repeat: bool
    help: str


class CommandLine(NamedTuple):
    """The help of a farm (`name` is "") or of a subcommand.

    `usage` has a line for each way to write it, `groups` are arguments by their heads.
    """

    name: str
    usage: str
    description: str
    groups: Mapping[str, tuple[Argument, ...]]
    epilog: str

    @property
    def options(self) -> tuple[Argument, ...]:
        """All options, in the order of the help."""
        return tuple(each for each in self._all() if each.names)

    @property
    def places(self) -> tuple[Argument, ...]:
        """The arguments that are known by their place."""
        return tuple(each for each in self._all() if not each.names)

    def _all(self) -> Iterator[Argument]:
        for group in self.groups.values():
            yield from group


def list_command_lines() -> tuple[CommandLine, ...]:
    """Return the command line of a farm, and those of all subcommands."""
    return (_describe_farm(), *map(_describe_subcommand, SUBCOMMANDS))


def summarize(farm: CommandLine) -> dict[str, str]:
    """Return what each subcommand does in a few words, by the end of ``--help-all``."""
    subcommands, _, _ = farm.epilog.partition("\n\n")
    return {words.split()[1]: text for words, text in split_items(subcommands)}


_ITEM: Final = re.compile(r"  (\S.*?)(?:  +(\S.*))?")


def split_items(text: str) -> list[tuple[str, str]]:
    """Return the items of a text of two columns: words, and what is said of them.

    An item begins behind two blanks, and its next lines behind more of them.
    """
    items: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("   ") and items:
            words, said = items[-1]
            items[-1] = (words, f"{said} {line.strip()}".strip())
        elif found := _ITEM.fullmatch(line):
            items.append((found[1], found[2] or ""))
    return items


def _describe_farm() -> CommandLine:
    try:
        parse_line(["--help-all"], {})
    except HelpAsked as asked:
        return _describe("", asked.parser)
    raise AssertionError  # --help-all asks for help


def _describe_subcommand(name: str) -> CommandLine:
    try:
        import_module(f"mpifarm.commands.{name}").main(["--help"], None, {})
    except HelpAsked as asked:
        return _describe(name, asked.parser)
    raise AssertionError  # each subcommand has a --help


def _describe(name: str, parser: argparse.ArgumentParser | None) -> CommandLine:
    assert parser is not None
    groups = {}
    for group in parser._action_groups:  # noqa: SLF001 - it has no other list of them
        shown = [
            _describe_argument(parser, action)
            for action in group._group_actions  # noqa: SLF001 - as above
            if action.help != argparse.SUPPRESS
        ]
        if shown:
            groups[group.title or ""] = tuple(shown)
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    # It is folded to the width of a terminal, which whoever builds may have.
    usage = re.sub(r"\n +(?! |mpi)", " ", usage).replace("\n       ", "\n")
    description = parser.description or ""
    return CommandLine(name, usage, description, groups, parser.epilog or "")


def _describe_argument(
    parser: argparse.ArgumentParser, action: argparse.Action
) -> Argument:
    values: dict[str, Any] = {**vars(action), "prog": parser.prog}
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest
    takes = Takes.VALUE
    if action.nargs == 0:
        metavar, takes = "", Takes.NOTHING
    elif action.nargs in ("?", "*") or metavar.startswith("["):
        takes = Takes.MAY
    return Argument(
        tuple(action.option_strings),
        metavar,
        takes,
        may_repeat=action.nargs in ("*", "+") or "Append" in type(action).__name__,
        help=(action.help or "") % values,
    )
