"""The command line: PyTaskFarmer's own, and a few options more, into `Settings`.

Rules of this file: a command line that PyTaskFarmer 0.1.0 takes means the same here,
abbreviations included, whatever options are added; whatever is wrong is an InputError
of one sentence that names the thing and the remedy.  Nothing is printed and nothing
exits: ``--help`` and ``--version`` raise `HelpAsked`, for only one rank is to print.

The one exception from the first rule: ``-v False`` and the like mean "no" (PyTaskFarmer
takes any word as yes, and then makes no use of it).
"""

import argparse
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from mpifarm import __version__
from mpifarm.config import Settings
from mpifarm.errors import InputError

OLD_OPTIONS = (
    "--help",
    "--proc",
    "--timeout",
    "--workdir",
    "--verbose",
    "--runner",
    "--tasklist",
)
"""PyTaskFarmer's long options: what abbreviates one of them goes on meaning it."""

NEW_OPTIONS = (
    "--bind",
    "--config",
    "--gpus",
    "--grace",
    "--lock-area",
    "--mpi",
    "--version",
)

_NO_WORDS = frozenset({"", "0", "false", "no", "off"})
_BOOLEAN_WORDS = _NO_WORDS | {"1", "true", "yes", "on"}
_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")

_EPILOG = """\
exit status:
  0   all tasks of the list are finished
  1   nothing is left to do; some tasks failed
  2   the command line or an input is wrong; nothing was started
  3   nothing is left to start; some tasks are with other farmers, or were lost
      by a plain one
  70  a defect of mpifarm
  75  tasks are left: give the same command again to go on

signals, sent to any rank, act on the whole farm:
  USR1       stop: end what runs, put it back, exit 75 (as --timeout does)
  TERM, INT, HUP
             the same without the grace time; a second INT ends it at once
  USR2       drain: start nothing more, finish what runs
             (a file named "drain" in the workdir does the same)

The same command again goes on where the last one stopped.
"""


class HelpAsked(Exception):  # noqa: N818 - it is not an error
    """The user asked for `text` (help or version): print it and exit 0."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings that `argv` (without the program's name) asks for.

    Of `environ` only ``COLUMNS`` counts, for the width of the help.  Raises HelpAsked
    for ``--help`` and ``--version``, InputError for a command line that is wrong.
    """
    return _settings(_chosen(_make_parser(environ), list(_expanded(argv))))


def _chosen(parser: "_Parser", words: Sequence[str]) -> argparse.Namespace:
    chosen, extra = parser.parse_known_args(list(_separated(words)))
    if not extra:
        return chosen
    # "-v WORD LIST" with a WORD that is no boolean: to PyTaskFarmer it is -v's value.
    with suppress(InputError):
        as_before, extra_as_before = parser.parse_known_args(list(_attached(words)))
        if not extra_as_before:
            return as_before
    raise _unexpected(extra, words)


def _settings(chosen: argparse.Namespace) -> Settings:
    return Settings(
        tasklist=chosen.tasklist,
        workdir=chosen.workdir or chosen.tasklist + "_workdir",
        workers=chosen.workers,
        timeout=chosen.timeout or None,  # 0 is none, as for PyTaskFarmer's alarm(0)
        verbose=chosen.verbose,
        runner=chosen.runner,
        handler=chosen.handler,
        grace=chosen.grace,
        lock_area=chosen.lock_area,
        mpi=chosen.mpi,
        config=chosen.config,
        bind=chosen.bind,
        gpus=chosen.gpus,
    )


# ---- the words before argparse sees them --------------------------------------------


def _expanded(argv: Sequence[str]) -> Iterator[str]:
    """`argv` with each abbreviated long option spelt out."""
    words = iter(argv)
    for word in words:
        if word == "--":
            yield word
            break
        name, equals, value = word.partition("=")
        yield (_full_name(name) + equals + value) if word.startswith("--") else word
    yield from words


def _full_name(name: str) -> str:
    """The option that `name` abbreviates; PyTaskFarmer's own go first."""
    if name in OLD_OPTIONS or name in NEW_OPTIONS:
        return name
    for options in (OLD_OPTIONS, NEW_OPTIONS):
        meant = [option for option in options if option.startswith(name)]
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise _usage_error(f"{name} can mean {' or '.join(meant)}: spell it out")
    return name


def _separated(words: Sequence[str]) -> Iterator[str]:
    """`words` with each bare ``-v`` given a value, its next word if that is one."""
    return _with_verbose_values(words, lambda word: word.lower() in _BOOLEAN_WORDS)


def _attached(words: Sequence[str]) -> Iterator[str]:
    """`words` with each bare ``-v`` given a value, its next word whatever it is."""
    return _with_verbose_values(words, lambda word: not _looks_like_option(word))


def _with_verbose_values(
    words: Sequence[str], is_value: Callable[[str], bool]
) -> Iterator[str]:
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        if word == "--":
            yield word
            break
        if word in ("-v", "--verbose"):
            takes_next = bool(waiting) and is_value(waiting[-1])
            word = "--verbose=" + (waiting.pop() if takes_next else "1")
        yield word
    yield from reversed(waiting)


def _looks_like_option(word: str) -> bool:
    """As argparse tells an option from a value that begins with a dash."""
    if not word.startswith("-") or word == "-" or " " in word:
        return False
    return _NEGATIVE_NUMBER.fullmatch(word) is None


# ---- the parser ---------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong by an InputError, not by pages and an exit."""

    color = False
    """Python 3.14 would colour the help; it may go into a file."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str]
    ) -> tuple[argparse.Namespace, list[str]]:
        # The values' own types raise InputError, so what comes here is a value that is
        # missing, one that is too many, or (older Pythons: `error`) no tasklist.
        try:
            return super().parse_known_args(args)
        except argparse.ArgumentError as error:
            if error.argument_name is None:
                self.error(error.message)
            raise _wrong_count(error.argument_name) from error

    def error(self, message: str) -> NoReturn:
        raise _usage_error(
            "no tasklist is given: name the file that lists the commands"
        )


def _make_parser(environ: Mapping[str, str]) -> _Parser:
    columns = environ.get("COLUMNS", "")
    wide = int(columns) if columns.isdecimal() else 80
    # Narrower tears words apart, wider makes lines that nobody likes to read; argparse
    # itself leaves two columns free.
    width = min(max(wide, 60), 100) - 2
    parser = _Parser(
        prog="mpifarm",
        usage="mpifarm [options] tasklist\n"
        "       mpirun ... python -m mpifarm [options] tasklist",
        description="Run every command of a list once, over the ranks of an MPI job or"
        " on this\nmachine alone, and keep its output and its outcome.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=width
        ),
        allow_abbrev=False,
        add_help=False,
        exit_on_error=False,
    )
    parser.color = False
    _add_old_arguments(parser)
    _add_new_arguments(parser)
    return parser


def _add_old_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tasklist",
        type=_tasklist,
        help="a text file of commands, one a line; # in the first column is a comment",
    )
    parser.add_argument(
        "--proc",
        "-n",
        metavar="N",
        dest="workers",
        nargs="?",
        type=_workers,
        default=8,
        const=os.cpu_count() or 1,
        help="tasks at one time on each rank (default: 8); 'auto': the CPUs that this"
        " rank may use; without a number: all CPUs of the machine",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds("--timeout"),
        help="stop after this time, put back what runs, exit 75; 0 is never, and so is"
        " the default",
    )
    parser.add_argument(
        "--workdir",
        "-w",
        metavar="DIR",
        type=_not_empty("--workdir", "DIR"),
        help="where progress and logs are kept (default: <tasklist>_workdir)",
    )
    parser.add_argument(
        "--verbose",
        "-v",
        metavar="[BOOL]",
        type=_yes_or_no,
        default=False,
        help="a line for each task; the value may be left out",
    )
    parser.add_argument(
        "--runner",
        "-r",
        metavar="NAME",
        default="default",
        help="the runner that runs the commands, as INI files name it (default:"
        " default)",
    )
    parser.add_argument(
        "--tasklist",
        "-t",
        metavar="HANDLER",
        dest="handler",
        default="default",
        help="the handler that reads the tasklist, as INI files name it (default:"
        " default)",
    )
    parser.add_argument(
        "--help", "-h", nargs=0, action=_AskForHelp, help="show this and exit"
    )


def _add_new_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=_not_empty("--config", "FILE"),
        help="an INI file of runners and handlers, before those in ~/.config/mpifarm"
        " and ~/.pytaskfarmer",
    )
    parser.add_argument(
        "--bind",
        action="store_true",
        help="give each worker its own share of the rank's CPUs",
    )
    parser.add_argument(
        "--gpus",
        metavar="auto|N|none",
        type=_gpus,
        default="none",
        help="which GPUs the workers share, one for each, round robin; 'auto': those"
        " that the rank was given (default: none, nothing is changed)",
    )
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=_seconds("--grace"),
        default=2.0,
        help="when stopping, from TERM to KILL (default: 2)",
    )
    parser.add_argument(
        "--lock-area",
        metavar="DIR",
        type=_not_empty("--lock-area", "DIR"),
        help="where the lock file is, for a workdir without file locking; the same for"
        " every farmer (default: $SCRATCH, $TMP or $TMPDIR, as PyTaskFarmer)",
    )
    parser.add_argument(
        "--mpi",
        metavar="auto|off",
        type=_mpi,
        default="auto",
        help="'off': this process is a farm of its own even under a launcher",
    )
    parser.add_argument(
        "--version", nargs=0, action=_AskForVersion, help="show the version and exit"
    )


class _AskForHelp(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise HelpAsked(parser.format_help())


class _AskForVersion(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        raise HelpAsked(f"mpifarm {__version__}\n")


# ---- the values ---------------------------------------------------------------------


def _tasklist(word: str) -> str:
    if not word:
        raise _usage_error(
            "the tasklist's name is empty: is a variable in your job script not set?"
        )
    return word


MOST_WORKERS = 4096
"""On one rank; what the pool can keep apart."""


def _workers(word: str) -> int:
    if word == "auto":
        return usable_cpus()
    try:
        workers = int(word)
    except ValueError:
        raise _usage_error(
            f"--proc takes a number or 'auto', not {word!r}: without a number it stands"
            " last, or before another option"
        ) from None
    if workers < 1:
        raise _usage_error(f"--proc {workers} would run nothing: it takes 1 or more")
    if workers > MOST_WORKERS:
        raise _usage_error(f"--proc {workers} is too many: {MOST_WORKERS} at the most")
    return workers


def usable_cpus() -> int:
    """The CPUs that this process may use (its affinity, which a launcher sets)."""
    return len(os.sched_getaffinity(0))


def _seconds(option: str) -> Callable[[str], float]:
    def parse(word: str) -> float:
        try:
            seconds = float(word)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise _usage_error(f"{option} takes seconds, 0 or more, not {word!r}")
        return seconds

    return parse


def _not_empty(option: str, what: str) -> Callable[[str], str]:
    def parse(word: str) -> str:
        if not word:
            raise _usage_error(
                f"the {what} of {option} is empty: is a variable in your job script"
                " not set?"
            )
        return word

    return parse


def _yes_or_no(word: str) -> bool:
    return word.lower() not in _NO_WORDS


def _mpi(word: str) -> str:
    if word not in ("auto", "off"):
        raise _usage_error(
            f"--mpi is 'auto' or 'off', not {word!r}: is its value missing?"
        )
    return word


def _gpus(word: str) -> str:
    if word in ("auto", "none"):
        return word
    if not (word.isdecimal() and word.isascii()):
        raise _usage_error(
            f"--gpus takes 'auto', 'none' or a number of GPUs, not {word!r}"
        )
    if int(word) < 1:
        raise _usage_error(
            f"--gpus {word} would share nothing: it takes 1 or more, or 'none'"
        )
    return str(int(word))


# ---- what is wrong, in one sentence -------------------------------------------------


def _usage_error(sentence: str) -> InputError:
    return InputError(f"{sentence} (mpifarm --help tells more)")


def _wrong_count(option: str) -> InputError:
    """`option`, as "--workdir/-w", has no value, or one although it takes none."""
    if option.startswith(("--bind", "--help", "--version")):
        return _usage_error(f"{option} takes no value")
    return _usage_error(f"{option} needs a value after it")


def _unexpected(extra: Sequence[str], words: Sequence[str]) -> InputError:
    """What to say of words that are neither an option nor its value nor the list."""
    for word in words:
        if f"-{word}" in (*OLD_OPTIONS, *NEW_OPTIONS):
            return _usage_error(f"{word} is not an option, did you mean -{word}?")
    for word in extra:
        if _looks_like_option(word):
            shown = word if word.isprintable() else repr(word)
            return _usage_error(f"there is no option {shown}{_near(word, 0.6)}")
    return _usage_error(
        f"{extra[0]!r} is one word too many, for there is one tasklist"
        f"{_near('--' + extra[0], 0.8) or ': quote a name that has spaces in it'}"
    )


_OTHERS_WORKERS = frozenset({"--workers", "--jobs", "-j", "--ntasks", "-P", "--np"})
"""What other tools call --proc."""


def _near(word: str, likeness: float) -> str:
    name = word.partition("=")[0]
    if name in _OTHERS_WORKERS:
        return ", did you mean --proc?"
    options = (*OLD_OPTIONS, *NEW_OPTIONS)
    import difflib  # for mistakes only: every rank parses arguments

    near = difflib.get_close_matches(name, options, n=1, cutoff=likeness)
    return f", did you mean {near[0]}?" if near else ""
