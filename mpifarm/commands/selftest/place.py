"""The words that name the place of a check: a directory, and the lock area of farms.

Rules of this file: the self-test and the doctor have the same two words.
"""

from typing import Any

from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.errors import InputError


def add_place(parser: SubcommandParser) -> None:
    """Add the two words to a command line."""
    parser.add_argument(
        "directory",
        metavar="DIRECTORY",
        nargs="?",
        default=".",
        help="a directory on the file system of your workdirs (default: the current"
        " one)",
    )
    parser.add_argument(
        "--lock-area", metavar="DIR", help="the --lock-area that farms will have"
    )


def check_place(chosen: Any) -> None:
    """Raise `InputError` for a word that is empty: it would mean another place."""
    words = {"DIRECTORY": chosen.directory, "DIR of --lock-area": chosen.lock_area}
    for what, word in words.items():
        if word == "":
            raise InputError(f"the {what} is empty: is a variable not set?")
