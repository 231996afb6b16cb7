"""The parser of a subcommand's command line.

Rules of this file: a mistake is an InputError of one sentence; nothing is printed.
"""

import argparse
import re
from typing import Any, Final, NoReturn

from mpifarm.commands.options import ALL_NAMES, HELP, add_option
from mpifarm.errors import InputError
from mpifarm.model.id_ranges import NO_ID, IdRangesError, parse_ids


class SubcommandParser(argparse.ArgumentParser):
    """The parser of a subcommand: raises InputError and HelpAsked, prints nothing."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(
            prog=f"mpifarm {name}",
            description=description,
            allow_abbrev=False,
            add_help=False,
        )
        self.color = False
        self.is_intermixed = False
        """Whether options may stand between words of a list of words."""
        add_option(self, HELP)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the choices; raises InputError for a wrong or unknown word.

        Raises HelpAsked for ``--help``.
        """
        parse = self.parse_known_args
        if self.is_intermixed:
            parse = self.parse_known_intermixed_args
        chosen, extra = parse(args, namespace)
        self._refuse_ids_first(chosen, extra)
        if extra:
            from mpifarm.commands.misspelt import explain_extra  # for mistakes only

            options = [*self._option_string_actions]
            self.error(explain_extra(self.prog, extra, options, ALL_NAMES))
        return chosen

    def _refuse_ids_first(self, chosen: argparse.Namespace, extra: list[str]) -> None:
        """Raise InputError for ids that stand in the place of the list."""
        first = getattr(chosen, "workdir", None) or ""
        if not first[:1].isdigit():
            return
        from mpifarm.commands.misspelt import explain_ids_first  # for mistakes only

        ids = getattr(chosen, "ids", None)
        rest = [*(ids if isinstance(ids, list) else ()), *extra]
        if why := explain_ids_first(self.prog, first, rest):
            self.error(why)

    def list_options(self) -> dict[str, bool]:
        """Return the names of all options, each with whether it takes a value."""
        return {
            name: action.nargs != 0
            for name, action in self._option_string_actions.items()
        }

    def error(self, message: str) -> NoReturn:
        """Raise InputError, in plainer words than argparse's `message`."""
        for pattern, words in _PLAINER:
            if found := re.fullmatch(pattern, message):
                names = map(_name_all, found.groups())
                message = words.format(*names, program=self.prog)
        raise InputError(f"{message} ({self.prog} --help tells more)")


def _name_all(names: str) -> str:
    """Return arguments as argparse lists them, in plainer words."""
    return " and ".join(_IN_WORDS.get(name, name) for name in names.split(", "))


_IN_WORDS: Final = {
    "WORKDIR": "the list or its workdir",
    "IDS": "the ids of tasks",
    "COMMAND": "a command in quotes",
    "--output/-o": "-o FILE",
}

_PLAINER: Final = (
    ("the following arguments are required: (.*)", "{program} needs {0} after it"),
    ("argument (.*): expected one argument", "{0} needs a value after it"),
    ("argument (.*): ignored explicit argument .*", "{0} takes no value"),
)
"""Patterns of argparse's messages, and plainer words.  Compiled for mistakes only."""


def parse_id_word(word: str) -> list[int]:
    """Return the ids that a word names, as 3,7-9; raise InputError if it names none."""
    text = word.replace(" ", "").strip(",")
    try:
        ids = parse_ids(text)
    except IdRangesError as error:
        raise InputError(str(error)) from error
    if not ids:
        raise InputError(NO_ID.format(word))
    return ids
