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
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from mpifarm import __version__
from mpifarm.config import LOG_KINDS, Policy, Settings, TaskLimits
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
    "--canary",
    "--checkpoint-signal",
    "--config",
    "--deadline",
    "--gpus",
    "--grace",
    "--lock-area",
    "--logs",
    "--max-failures",
    "--mpi",
    "--quarantine",
    "--rank-timeout",
    "--remap",
    "--requeue-status",
    "--retries",
    "--retry-delay",
    "--task-memory",
    "--task-time",
    "--task-timeout",
    "--version",
)

_NO_WORDS = frozenset({"", "0", "false", "no", "off"})
_BOOLEAN_WORDS = _NO_WORDS | {"1", "true", "yes", "on"}
_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")

_EPILOG = """\
also, each with --help of its own:
  mpifarm check WORKDIR      what is true of a workdir; --repair puts it right
  mpifarm log WORKDIR ID     what a task has written; -f: and goes on to write
  mpifarm retry WORKDIR      put failed tasks back, to run again
  mpifarm selftest           what this cluster's file systems and MPI can do
  mpifarm supervise -- srun ...
                             start the farm again until the list is done

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

    Of `environ` count ``COLUMNS``, for the width of the help, and
    ``SLURM_JOB_END_TIME``, the deadline.  Raises HelpAsked for ``--help`` and
    ``--version``, InputError for a command line that is wrong.
    """
    chosen = _chosen(_make_parser(environ), list(_expanded(argv)))
    return _settings(chosen, environ)


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


def _settings(chosen: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
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
        logs=chosen.logs,
        remap=chosen.remap,
        limits=TaskLimits(
            timeout=chosen.task_timeout or None,
            memory=chosen.task_memory,
            checkpoint_signal=chosen.checkpoint_signal,
        ),
        policy=_policy(chosen, environ),
    )


def _policy(chosen: argparse.Namespace, environ: Mapping[str, str]) -> Policy:
    failures, share = chosen.max_failures
    deadline = chosen.deadline
    if deadline is None:
        end = environ.get("SLURM_JOB_END_TIME", "")
        deadline = float(end) if end.isdecimal() and end.isascii() else None
    return Policy(
        retries=chosen.retries,
        retry_delay=chosen.retry_delay,
        max_failures=failures,
        max_failed_share=share,
        requeue_status=chosen.requeue_status,
        quarantine=chosen.quarantine,
        canary=chosen.canary,
        deadline=None if deadline == math.inf else deadline,
        task_time=chosen.task_time,
        rank_timeout=chosen.rank_timeout,
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
        self.add_argument(
            "--help", "-h", nargs=0, action=_AskForHelp, help="show this and exit"
        )

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong."""
        raise InputError(f"{message} ({self.prog} --help tells more)")


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
    _add_limits(parser)
    _add_policy(parser)
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
        "--logs",
        metavar="all|packed|failed",
        type=_logs,
        default="all",
        help="a log file for each task; or a few files for all, which 'mpifarm log'"
        " reads; or log files of failed tasks alone (default: all)",
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


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits for each task")
    limits.add_argument(
        "--task-timeout",
        metavar="SECONDS",
        type=_seconds("--task-timeout"),
        help="end a task that takes longer (TERM, then KILL after --grace): it failed,"
        ' "timed out"; 0 is never, and so is the default',
    )
    limits.add_argument(
        "--task-memory",
        metavar="BYTES",
        type=_memory,
        help="memory that each process of a task may have, as 500M or 4G; the kernel"
        " refuses more (RLIMIT_DATA)",
    )
    limits.add_argument(
        "--checkpoint-signal",
        metavar="SIG",
        type=_signal,
        help="at a stop, send this signal in place of TERM, so that the commands can"
        " save what they have; KILL follows after --grace",
    )


def _add_policy(parser: argparse.ArgumentParser) -> None:
    policy = parser.add_argument_group("tasks and ranks that fail, and the time")
    policy.add_argument(
        "--retries",
        metavar="N",
        type=_number("--retries"),
        default=0,
        help="run a failed task up to N times more, on another rank where there is one"
        " (default: 0)",
    )
    policy.add_argument(
        "--retry-delay",
        metavar="SECONDS",
        type=_seconds("--retry-delay"),
        default=0.0,
        help="wait so long before a task is run again (default: 0)",
    )
    policy.add_argument(
        "--max-failures",
        metavar="N|P%",
        type=_max_failures,
        default=(None, None),
        help="stop the farm, exit 1, when so many tasks have failed, or this share of"
        " those that have ended",
    )
    policy.add_argument(
        "--requeue-status",
        metavar="N",
        type=_requeue_status,
        help="a task that exits with N has made a checkpoint and wants to run again"
        " (default: none does)",
    )
    policy.add_argument(
        "--quarantine",
        metavar="K|off",
        type=_quarantine,
        default=10,
        help="a rank whose tasks fail fast, K in a row, while those of others succeed,"
        " gets no more, and they run elsewhere (default: 10)",
    )
    policy.add_argument(
        "--canary",
        metavar="N",
        type=_number("--canary"),
        default=0,
        help="run the first N tasks alone, and the others only if one of them succeeds",
    )
    policy.add_argument(
        "--deadline",
        metavar="TIME",
        type=_deadline,
        help="when the job ends: seconds since 1970, 2026-12-31T23:59, or 'none'; the"
        " farm ends by itself in time (default: $SLURM_JOB_END_TIME)",
    )
    policy.add_argument(
        "--task-time",
        metavar="SECONDS",
        type=_seconds("--task-time"),
        help="what a task takes: none is started that can't end before the deadline"
        " (default: what those that have ended took)",
    )
    policy.add_argument(
        "--rank-timeout",
        metavar="SECONDS",
        type=_rank_timeout,
        default=60.0,
        help="give a rank up that has not been heard for so long (default: 60)",
    )
    policy.add_argument(
        "--remap",
        action="store_true",
        help="the tasklist was edited: find what was done by the text of its lines",
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


def _logs(word: str) -> str:
    if word not in LOG_KINDS:
        raise _usage_error(f"--logs is 'all', 'packed' or 'failed', not {word!r}")
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


def _number(option: str) -> Callable[[str], int]:
    def parse(word: str) -> int:
        if not (word.isdecimal() and word.isascii()):
            raise _usage_error(f"{option} takes a number, 0 or more, not {word!r}")
        return int(word)

    return parse


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
LEAST_MEMORY = 2**26
"""What Python and a worker need themselves, and more."""


def _memory(word: str) -> int:
    found = _MEMORY.fullmatch(word)
    if found is None:
        raise _usage_error(f"--task-memory takes bytes, as 500M or 4G, not {word!r}")
    memory = int(float(found[1]) * _UNITS[found[2].upper()])
    if memory < LEAST_MEMORY:
        raise _usage_error(f"--task-memory {word} is too little: it takes 64M or more")
    return memory


def _signal(word: str) -> int:
    name = word.upper().removeprefix("SIG")
    number = int(name) if name.isdecimal() and name.isascii() else 0
    for each in signal.Signals:
        if each.name == f"SIG{name}" or each.value == number:
            if each in (signal.SIGKILL, signal.SIGSTOP):
                break
            return int(each)
    raise _usage_error(
        f"--checkpoint-signal takes a signal that a command can catch, as USR1, not"
        f" {word!r}"
    )


def _max_failures(word: str) -> tuple[int | None, float | None]:
    number = word.removesuffix("%")
    try:
        value = float(number) if word.endswith("%") else int(number)
    except ValueError:
        value = 0
    if word.endswith("%") and 0 < value <= 100:
        return None, value / 100
    if not word.endswith("%") and value >= 1:
        return int(value), None
    raise _usage_error(
        f"--max-failures takes a number of tasks, 1 or more, or a share as 5%, not"
        f" {word!r}"
    )


def _requeue_status(word: str) -> int:
    if word.isdecimal() and word.isascii() and 1 <= int(word) <= 255:
        return int(word)
    raise _usage_error(f"--requeue-status takes a status, 1 to 255, not {word!r}")


def _quarantine(word: str) -> int:
    if word == "off":
        return 0
    if word.isdecimal() and word.isascii() and int(word) >= 1:
        return int(word)
    raise _usage_error(
        f"--quarantine takes a number, 1 or more, or 'off', not {word!r}"
    )


def _rank_timeout(word: str) -> float:
    seconds = _seconds("--rank-timeout")(word)
    if seconds < LEAST_RANK_TIMEOUT:
        raise _usage_error(
            f"--rank-timeout {word} is too short: a busy rank may be silent for"
            f" {LEAST_RANK_TIMEOUT:g} s"
        )
    return seconds


LEAST_RANK_TIMEOUT = 2.0


def _deadline(word: str) -> float:
    """Seconds since the epoch; ``inf`` for none."""
    if word == "none":
        return math.inf
    if word.isdecimal() and word.isascii():
        return float(word)
    from datetime import datetime  # for those who ask for it

    try:
        return datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        raise _usage_error(
            "--deadline takes seconds since 1970, a time as 2026-12-31T23:59, or"
            f" 'none', not {word!r}"
        ) from None


# ---- what is wrong, in one sentence -------------------------------------------------


def _usage_error(sentence: str) -> InputError:
    return InputError(f"{sentence} (mpifarm --help tells more)")


def _wrong_count(option: str) -> InputError:
    """`option`, as "--workdir/-w", has no value, or one although it takes none."""
    if option.startswith(("--bind", "--help", "--remap", "--version")):
        return _usage_error(f"{option} takes no value")
    return _usage_error(f"{option} needs a value after it")


def _unexpected(extra: Sequence[str], words: Sequence[str]) -> InputError:
    """What to say of words that are neither an option nor its value nor the list."""
    for word in words:
        if f"-{word}" in (*OLD_OPTIONS, *NEW_OPTIONS):
            return _usage_error(f"{word} is not an option, did you mean -{word}?")
    if len(words) > 1 and not os.path.exists(words[0]):
        import difflib  # for mistakes only

        near = difflib.get_close_matches(words[0], [*_OF_SUBCOMMANDS], n=1)
        if near:
            return _usage_error(f"{words[0]!r}: did you mean mpifarm {near[0]}?")
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


_OF_SUBCOMMANDS = {
    "check": ("--repair", "--assume-idle"),
    "log": ("--attempt", "--follow"),
    "retry": ("--failed", "--ids", "--status"),
    "selftest": ("--kill-a-rank",),
    "supervise": ("--max-restarts",),
}
"""What the subcommands take, and a farm does not."""


def _near(word: str, likeness: float) -> str:
    name = word.partition("=")[0]
    for subcommand, its_options in _OF_SUBCOMMANDS.items():
        if name in its_options:
            return f"; mpifarm {subcommand} has one"
    if name in _OTHERS_WORKERS:
        return ", did you mean --proc?"
    options = (*OLD_OPTIONS, *NEW_OPTIONS)
    import difflib  # for mistakes only: every rank parses arguments

    near = difflib.get_close_matches(name, options, n=1, cutoff=likeness)
    return f", did you mean {near[0]}?" if near else ""
