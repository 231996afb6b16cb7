"""The command line: arguments in, lines and an exit status out.

Rules of this file: `main` opens what is closed of the descriptors 0, 1 and 2 before any
other descriptor, and notes signals before it imports anything more.  The process ends
by `sys.exit`, because MPICH tells its launcher of the end in a function that runs at
exit: the launcher kills all ranks if one rank ends without that.
"""

import gc
import os
import sys
from typing import TYPE_CHECKING

from mpifarm.commands import SUBCOMMANDS
from mpifarm.system.signals import SignalInbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpifarm.commands.options import CommandLine
    from mpifarm.farm.context import Defaults
    from mpifarm.model.settings import Default, Settings
    from mpifarm.system.console import Console
    from mpifarm.system.destination import Destination

RUN = "run"
"""The word of those whose other tools want one: what follows is a farm's own line."""

_ON_EACH_RANK = ("selftest",)
"""Subcommands that run on each rank; under a launcher all others run on the first."""

_GARBAGE_THRESHOLDS = (20_000, 20, 20)
"""Thresholds for `gc`.  There is hardly any garbage in cycles.  The search at Python's
own thresholds took a tenth of a start, and of rank 0's time with short tasks."""

_END_BY_SIGNALS = (
    *("add", "cancel", "check", "completion", "config", "doctor", "drain", "export"),
    *("hold", "import", "joblog", "jobs", "log", "ls", "release", "retry", "status"),
    *("submit", "timeline", "why"),
)
"""Subcommands that may be ended at any moment, so that signals have their defaults."""

_PRINT_ONCE = (
    *("completion", "config", "export", "import", "joblog", "jobs", "ls", "submit"),
    "why",
)
"""Subcommands that end soon: a search for garbage takes a tenth of their time."""


_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""Python's own streams on the descriptors 0, 1 and 2, with the modes to open them."""

_OF_SQLITE = ("sqlite3", "_sqlite3")
"""Modules that a Python may lack that was built without SQLite's header files."""

NO_SQLITE = (
    "this Python was built without SQLite, which databases need: use another one, as"
    " that of the system"
)


def main() -> None:
    """Install the signal handlers, run ``mpifarm``, and exit with its status.

    The statuses are in docs/exit-status.md.  Signals during the exit are ignored.
    """
    _open_closed_streams()
    signals = SignalInbox()
    signals.install()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    status = run(sys.argv[1:], signals)
    # A signal during Python's exit would end this rank with another status.
    signals.ignore()
    sys.exit(status)


def _open_closed_streams() -> None:
    """Open /dev/null as each of the descriptors 0, 1 and 2 that is closed.

    Else the next file or pipe gets that number: it is read as standard input, or has
    what is printed written into it.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest free number, which is this one: those below are open.
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)  # as each of the three is
            # Python has None there, which nothing can be read from or written to.
            setattr(sys, name, open(null, mode, closefd=False))  # noqa: SIM115 - for good


def run(argv: list[str], signals: SignalInbox) -> int:
    """Run a farm or a subcommand.  Return the exit status of this process.

    Errors are printed, on the first rank alone where each rank would print the same.
    """
    from mpifarm.batch.launcher import launched_rank, was_launched
    from mpifarm.system.console import Console
    from mpifarm.system.destination import find_destination

    first = launched_rank(os.environ) == 0
    is_launched = was_launched(os.environ)
    place = find_destination(1, is_launched=is_launched)
    console = Console(prints=first, place=place)
    try:
        return _run(argv, signals, console, first=first)
    finally:
        console.close()


def _run(
    argv: list[str], signals: SignalInbox, console: "Console", *, first: bool
) -> int:
    from mpifarm.commands.options import HelpAsked, parse_line
    from mpifarm.errors import InputError

    argv = spell_out(argv)
    if names_subcommand(argv):
        if not first and argv[0] not in _ON_EACH_RANK:
            return 0
        return _run_subcommand(argv, signals, console, first=first)
    try:
        _answer_topic(argv)
        line = parse_line(argv, os.environ)
        line.settle()
    except HelpAsked as asked:
        console.print_text(asked.text)
        return 0
    except InputError as error:
        # One sentence and one status for the whole launch.
        if first:
            console.print_error(str(error))
        return error.exit_status if first else 0
    return _run_farm(line, signals, console, first=first)


def _run_farm(
    line: "CommandLine", signals: SignalInbox, console: "Console", *, first: bool
) -> int:
    """Run this rank of a farm; on the first rank with the defaults for all of them."""
    from functools import partial

    from mpifarm.batch.launcher import was_launched
    from mpifarm.farm.context import ProcessContext, UserOutput
    from mpifarm.farm.process import run_farm
    from mpifarm.system.destination import find_destination

    defaults, warnings = _find_defaults(line, first=first)
    settings = line.settle(defaults.found)
    if settings.dry_run:
        return _run_dry(settings, defaults, warnings, console) if first else 0
    if first and settings.tasklist in (*SUBCOMMANDS, RUN):
        from mpifarm.commands.misspelt import explain_list_named_as_command

        console.print_error(explain_list_named_as_command(settings.tasklist))
    errors = find_destination(2, is_launched=was_launched(os.environ))
    printing = _Printing(console, errors)
    printing.obey(settings)
    output = UserOutput(
        say=console.print_line,
        mention=printing.mention,
        show=console.show_progress,
        complain=console.print_error,
        refuse=partial(console.print_error, has_time=False),
        speak_up=console.unmute,
        obey=printing.obey,
    )
    for warning in warnings:
        output.say(warning)
    context = ProcessContext(os.environ, os.environb, signals, output, defaults)
    return run_farm(settings, context)


def _run_dry(
    settings: "Settings",
    defaults: "Defaults",
    warnings: "Sequence[str]",
    console: "Console",
) -> int:
    """Print what a farm would run, and `warnings` first; return the exit status."""
    from mpifarm.commands.dry_run import describe_dry_run
    from mpifarm.errors import ExitStatus, FarmError
    from mpifarm.farm.default_words import name_sources

    _restore_signals()  # It may read a pipe to its end, and starts nothing.
    sys.dont_write_bytecode = True  # A class of the user's is imported to be checked.
    try:
        if defaults.fault is not None:
            raise defaults.fault
        text = describe_dry_run(settings, os.environ, console.print_error)
    except FarmError as error:
        console.print_error(name_sources(str(error), settings.defaults))
        return error.exit_status
    console.print_text("".join(f"{line}\n" for line in warnings) + text)
    return ExitStatus.ALL_FINISHED


def _find_defaults(
    line: "CommandLine", *, first: bool
) -> "tuple[Defaults, Sequence[str]]":
    """Return what files and variables set, on the first rank, with its warnings.

    A fault is told when the ranks are connected: the others can't know of it.
    """
    from mpifarm.errors import FarmError
    from mpifarm.farm.context import Defaults

    def find() -> "tuple[tuple[Default, ...], tuple[str, ...]]":
        # A thousand ranks import from one file system: on the first one alone.
        from mpifarm.commands.defaults import find_defaults

        return find_defaults(os.environ)

    def find_alone() -> "Sequence[Default]":
        return find()[0]

    try:
        found, warnings = find() if first else ((), ())
        return Defaults(found, None, find_alone, line.settle), warnings
    except FarmError as error:
        return Defaults((), error, find_alone, line.settle), ()


class _Printing:
    """Prints a farm's lines as its settings say."""

    def __init__(self, console: "Console", errors: "Destination") -> None:
        self._console = console
        self._errors = errors
        self._is_quiet = False

    def obey(self, settings: "Settings") -> None:
        """Print as ``--quiet`` and ``--progress`` say from now on."""
        self._is_quiet = settings.quiet
        progress = "off" if settings.quiet else settings.progress
        self._console.begin_farm(progress, self._errors)

    def mention(self, line: str) -> None:
        """Print a line that ``--quiet`` leaves out."""
        if not self._is_quiet:
            self._console.print_line(line)


def spell_out(argv: list[str]) -> list[str]:
    """Return the options for ``help``, ``help check`` and ``version``, else `argv`.

    ``help run`` is that for starting a list.

    ``run LIST`` is the list alone.  A word that names a file is a list, and stays.
    """
    if argv[:1] == [RUN] and not _names_list(argv):
        return argv[1:]
    if not argv or os.path.isfile(argv[0]):
        return argv
    match argv:
        case ["help" | "version" as word]:
            return [f"--{word}"]
        case ["help", "run"]:
            return ["--help"]
        case ["help", subcommand] if subcommand in SUBCOMMANDS:
            return [subcommand, "--help"]
    return argv


def _names_list(argv: "Sequence[str]") -> bool:
    """Return whether the first word is a tasklist that has the name of a command.

    It is if it names a file and no word follows that is not an option: after its
    tasklist, a farm takes options alone.
    """
    after = argv[1] if len(argv) > 1 else "-"
    return os.path.isfile(argv[0]) and after != "--" and after.startswith("-")


def _answer_topic(argv: "Sequence[str]") -> None:
    """Raise `HelpAsked` for ``mpifarm help TOPIC``, `InputError` for an unknown one."""
    if len(argv) > 1 and argv[0] == "help" and not os.path.isfile(argv[0]):
        from mpifarm.commands.options import HelpAsked
        from mpifarm.commands.topics import find_topic

        raise HelpAsked(find_topic(" ".join(argv[1:])))


def names_subcommand(argv: list[str]) -> bool:
    """Return whether a command line is that of a subcommand, and not of a farm.

    A word that names a file is a tasklist, unless a word that is not an option follows.
    (``./check`` is always a tasklist.)
    """
    return bool(argv) and argv[0] in SUBCOMMANDS and not _names_list(argv)


def _restore_signals() -> None:
    """Undo `SignalInbox.install`, except for signals that the user has ignored."""
    import signal

    from mpifarm.system.signals import SIGNALS

    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


def _run_subcommand(
    argv: list[str], signals: SignalInbox, console: "Console", *, first: bool
) -> int:
    from functools import partial
    from importlib import import_module

    from mpifarm.commands.options import HelpAsked
    from mpifarm.errors import ExitStatus, FarmError, InputError

    if argv[0] in _END_BY_SIGNALS:
        _restore_signals()
    if argv[0] in _PRINT_ONCE:
        gc.disable()
    try:
        subcommand = import_module(f"mpifarm.commands.{argv[0]}")
        early = {"early": signals.take()} if argv[0] == "supervise" else {}
        run = partial(subcommand.main, argv[1:], console, os.environ, **early)
        status = _run_anywhere(run)
    except HelpAsked as asked:
        console.print_text(asked.text)
        return ExitStatus.ALL_FINISHED
    except FarmError as error:
        if isinstance(error, InputError) and not first:
            return ExitStatus.ALL_FINISHED  # One sentence for the whole launch.
        console.print_error(str(error))
        return error.exit_status
    except Exception as error:  # noqa: BLE001 - a defect becomes 70 here alone
        if isinstance(error, ModuleNotFoundError) and error.name in _OF_SQLITE:
            console.print_error(NO_SQLITE)
            return ExitStatus.BAD_INPUT
        import traceback

        console.print_error(f"a defect of mpifarm:\n{traceback.format_exc()}")
        return ExitStatus.DEFECT
    return status


def _run_anywhere(run: "Callable[[], int]") -> int:
    """Return what `run` returns.

    Raises `InputError` if it needs the current directory, and that was removed.
    """
    try:
        return run()
    except FileNotFoundError as error:
        from mpifarm.errors import InputError
        from mpifarm.system.processes import find_directory

        if error.filename is not None or find_directory():  # os.getcwd names no file
            raise
        raise InputError(
            "the current directory is gone: go to one that is there, or write whole"
            " paths"
        ) from error
