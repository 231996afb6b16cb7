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

SUBCOMMANDS = ("check", "log", "retry", "selftest", "supervise")
"""Each is a module of that name with ``main(argv, console, environ) -> int``."""

_FOR_EACH_RANK = ("selftest",)
"""Under a launcher the others are the affair of the first rank alone."""

_END_BY_SIGNALS = ("check", "log", "retry")
"""May be ended at any moment, so a signal does what it does to any program."""


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

    if names_subcommand(argv):
        if not first and argv[0] not in _FOR_EACH_RANK:
            return 0
        return _run_subcommand(argv, signals, console, first=first)
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


def names_subcommand(argv: list[str]) -> bool:
    """Whether a command line is that of a subcommand, and no farm's.

    Where there is a file of that name, it is a tasklist, unless the next word is no
    option: after its tasklist, a farm takes nothing else.  (``./check`` is always one.)
    """
    if not argv or argv[0] not in SUBCOMMANDS:
        return False
    after = argv[1] if len(argv) > 1 else "-"
    return not os.path.isfile(argv[0]) or after == "--" or not after.startswith("-")


def _restore_signals() -> None:
    """What `SignalInbox.install` has changed, but for what the user has ignored."""
    import signal

    from mpifarm.signals import SIGNALS

    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def _run_subcommand(
    argv: list[str], signals: SignalInbox, console: "Console", *, first: bool
) -> int:
    from importlib import import_module

    from mpifarm.arguments import HelpAsked
    from mpifarm.errors import ExitStatus, FarmError, InputError

    if argv[0] in _END_BY_SIGNALS:
        _restore_signals()
    try:
        subcommand = import_module(f"mpifarm.{argv[0]}")
        early = {"early": signals.take()} if argv[0] == "supervise" else {}
        status: int = subcommand.main(argv[1:], console, os.environ, **early)
    except HelpAsked as asked:
        console.say_whole(asked.text)
        return ExitStatus.ALL_FINISHED
    except FarmError as error:
        if isinstance(error, InputError) and not first:
            return ExitStatus.ALL_FINISHED  # One sentence for the whole launch.
        console.complain(str(error))
        return error.exit_status
    except Exception:  # noqa: BLE001 - a defect becomes 70 here alone
        import traceback

        console.complain(f"a defect of mpifarm:\n{traceback.format_exc()}")
        return ExitStatus.DEFECT
    return status
