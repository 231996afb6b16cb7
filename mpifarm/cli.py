"""The command line: arguments in, lines and an exit status out.

Rules of this file: `main` notes signals before it imports anything more, and leaves by
`sys.exit`: MPICH tells its launcher of the end in a function that runs at exit, and the
launcher kills all ranks when one ends without.
"""

import os
import sys
from typing import TYPE_CHECKING

from mpifarm.signals import SignalInbox

if TYPE_CHECKING:
    from mpifarm.console import Console

SUBCOMMANDS = ("check", "retry", "selftest", "supervise")
"""Each is a module of that name with ``main(argv, console, environ) -> int``."""


def main() -> None:
    """Run ``mpifarm`` and exit with its status (README, exit statuses)."""
    signals = SignalInbox()
    signals.install()
    status = run(sys.argv[1:], signals)
    signals.ignore()
    sys.exit(status)


def run(argv: list[str], signals: SignalInbox) -> int:
    """The whole command; returns the exit status of this process."""
    from mpifarm.console import Console
    from mpifarm.launcher import launched_rank, was_launched

    first = launched_rank(os.environ) == 0
    # Open MPI puts a terminal of its own between the first rank and a log file.
    live = not was_launched(os.environ) or _parent_has_terminal()
    console = Console(speaks=first, is_terminal=live)
    try:
        return _run(argv, signals, console, first=first)
    finally:
        console.close()


def _parent_has_terminal() -> bool:
    """Whether the launcher, if it is our parent, writes to a terminal."""
    try:
        stdout = os.readlink(f"/proc/{os.getppid()}/fd/1")
    except OSError:
        return False
    return stdout.startswith(("/dev/pts/", "/dev/tty"))


def _run(
    argv: list[str], signals: SignalInbox, console: "Console", *, first: bool
) -> int:
    from mpifarm.arguments import HelpAsked, parse_arguments
    from mpifarm.errors import InputError

    if argv and argv[0] in SUBCOMMANDS and not os.path.isfile(argv[0]):
        return _run_subcommand(argv, console)
    try:
        settings = parse_arguments(argv, os.environ)
    except HelpAsked as asked:
        console.say_whole(asked.text)
        return 0
    except InputError as error:
        # One sentence and one status for the whole launch.
        if first:
            console.complain(str(error))
        return error.exit_status if first else 0
    from mpifarm.farm import run_farm
    from mpifarm.surroundings import Surroundings, Voice

    voice = Voice(console.say, console.show, console.complain, console.speak_up)
    return run_farm(settings, Surroundings(os.environ, os.environb, signals, voice))


def _run_subcommand(argv: list[str], console: "Console") -> int:
    from importlib import import_module

    from mpifarm.arguments import HelpAsked
    from mpifarm.errors import FarmError

    subcommand = import_module(f"mpifarm.{argv[0]}")
    try:
        status: int = subcommand.main(argv[1:], console, os.environ)
    except HelpAsked as asked:
        console.say_whole(asked.text)
        return 0
    except FarmError as error:
        console.complain(str(error))
        return error.exit_status
    return status
