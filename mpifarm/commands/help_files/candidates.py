"""What may stand in the place of a value, by its name in the help.

Rules of this file: pure; the same for all shells.  A metavar that nothing is known of
is completed by nothing, and the word for a file by the shell itself.
"""

import enum
import re
from collections.abc import Mapping
from typing import Final

from mpifarm.commands import SUBCOMMANDS
from mpifarm.commands.help_files.command_lines import CommandLine, Takes
from mpifarm.commands.topics import TOPIC_NAMES
from mpifarm.submit.samples import DESCRIPTIONS


class Candidates(enum.Enum):
    """What the shell looks up itself."""

    FILES = "files"
    DIRECTORIES = "directories"
    WORKDIRS = "workdirs"
    """Directories, and lists that have a workdir."""
    NOTHING = "nothing"


_LOOKED_UP: Final = {
    "FILE": Candidates.FILES,
    "FILE.db": Candidates.FILES,
    "LIST": Candidates.FILES,
    "COMMAND": Candidates.FILES,
    "tasklist": Candidates.FILES,
    "DIR": Candidates.DIRECTORIES,
    "DIRECTORY": Candidates.DIRECTORIES,
    "WORKDIR": Candidates.WORKDIRS,
}

_WORDS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "SIG"): ("USR1", "USR2", "INT", "TERM"),
    ("", "HANDLER"): ("default", "disbatch", "greasy", "sqlite"),
    ("", "STATES"): ("finished", "failed", "cancelled", "running", "waiting"),
    ("jobs", "NAME"): tuple(DESCRIPTIONS),
    ("completion", "SHELL"): ("bash", "fish", "zsh"),
}
"""Words by the subcommand that has them ("": any) and the metavar."""


def find_candidates(command: str, metavar: str) -> Candidates | tuple[str, ...]:
    """Return what may stand where the help of `command` has `metavar`."""
    for key in ((command, metavar), ("", metavar)):
        if key in _WORDS:
            return _WORDS[key]
    if "|" in metavar and "[" not in metavar:  # auto|N|none: words, and a number
        words = metavar.split("|")
        return tuple(each for each in words if re.fullmatch("[a-z][a-z-]*", each))
    return _LOOKED_UP.get(metavar, Candidates.NOTHING)


def names_with_values(command: CommandLine) -> tuple[str, ...]:
    """Return the names of all options whose next word is their value."""
    return tuple(
        name
        for option in command.options
        if option.takes is Takes.VALUE
        for name in option.names
    )


def find_places(command: CommandLine) -> tuple[Candidates | tuple[str, ...], ...]:
    """Return what may stand in each place; the last one may repeat."""
    if command.name in (
        "",
        "submit",
        "supervise",
    ):  # a list, or a command and ::: files
        return (Candidates.FILES,)
    places = [find_candidates(command.name, each.metavar) for each in command.places]
    repeats = bool(command.places) and command.places[-1].may_repeat
    return (*places, *(() if repeats else (Candidates.NOTHING,)))


BEHIND_LIST: Final = ("submit",)
"""Subcommands whose own options stand before the list, and a farm's behind it."""

HELP_TOPICS: Final = tuple(sorted({*SUBCOMMANDS, *TOPIC_NAMES, "run"}))
"""What ``mpifarm help`` may be asked."""

OTHER_WORDS: Final = {
    "help": "say more of a subcommand or a topic",
    "run": "the same as mpifarm alone",
    "version": "show the version",
}
"""First words that are neither subcommands nor lists."""
