"""The command line of a farm: one table of its options, and `Settings` made from it.

Rules of this file: a command line that PyTaskFarmer 0.1.0 takes means the same here,
abbreviations included, whatever options are added; no other option can be shortened.
Defaults stand in `mpifarm.model.settings` and nowhere else.  A mistake is an InputError
of one sentence that names the word and the remedy.  Nothing is printed and nothing
exits: ``--help`` and ``--version`` raise `HelpAsked`, because only one rank may print.

Two exceptions from the first rule: ``-v False`` and the like mean "no".  PyTaskFarmer
takes any word as yes, and then makes no use of it.  ``-n +2`` counts from the CPUs.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple, NoReturn

from mpifarm import __version__
from mpifarm.commands.option_values import (
    ANY,
    ANY_ORDER,
    DEADLINE,
    EVER,
    FOLLOW,
    GPUS,
    ID_VARIABLE,
    LOGS,
    MAX_FAILURES,
    MEMORY,
    MPI,
    NAME,
    NO_WORDS,
    NUMBER,
    ORDER,
    PROGRESS,
    QUARANTINE,
    RANK_TIMEOUT,
    SEATS,
    SECONDS,
    SECONDS_OR_NEVER,
    SHUFFLE,
    SIGNAL,
    START_RATE,
    STATUS,
    VERBOSE,
    WORKERS,
    Kind,
    is_seconds,
    is_seed,
    is_workers,
    parse_tasklist,
    usage_error,
)
from mpifarm.errors import InputError
from mpifarm.model.settings import (
    ARGUMENTS_LIST,
    KEPT_WORKDIR,
    STDIN_LIST,
    Arguments,
    Default,
    HookSettings,
    Policy,
    Settings,
    TaskLimits,
    is_passing,
)

_EPILOG = """\
subcommands, each with a --help of its own:
  mpifarm status WORKDIR     say what goes on, what hangs, and how long still
  mpifarm add WORKDIR 'COMMAND'
                             add a task to the list, also while it is farmed
  mpifarm check WORKDIR      say what is finished, failed, left and wrong
  mpifarm ls WORKDIR         list the tasks: state, status, host, time, command
  mpifarm log WORKDIR [ID]   print what tasks have, or a task has, written
  mpifarm joblog WORKDIR --gnu
                             print the attempts in GNU parallel's format
  mpifarm cancel WORKDIR ID  end tasks of a running farm, or don't start them
  mpifarm hold WORKDIR       have farms start nothing more, or not these tasks
  mpifarm release WORKDIR    let held tasks start
  mpifarm drain WORKDIR      have running farms start no more, and then end
  mpifarm import LIST FILE.db
                             make a database of a list, to farm and to query
  mpifarm export WORKDIR     print the tasks as a list, or (--sqlite FILE.db)
                             write all that is known of them into a database
  mpifarm retry WORKDIR      put failed tasks back, so that they run again
  mpifarm completion SHELL   print the script by which bash, fish or zsh
                             completes words of mpifarm
  mpifarm config             say what each option is here, and which file or
                             variable says so
  mpifarm doctor             say whether MPI, launcher and disk fit a farm
  mpifarm selftest           test the file systems and the MPI of this cluster
  mpifarm submit -N 8 -t 4:00:00 LIST
                             write a job script for a list, and submit it
  mpifarm jobs               list the job scripts of mpifarm, or copy them
  mpifarm supervise -- srun ...
                             start the farm again when its launcher dies
  mpifarm timeline WORKDIR -o FILE
                             merge all timelines into one file, for Perfetto
  mpifarm why WORKDIR        say why tasks failed: groups, one for each cause

defaults:
  A file or a variable may set an option for many farms (MPIFARM_PROC=32);
  mpifarm config tells which, and --no-proc has mpifarm's own default again.

exit status:
  0   all tasks of the list are finished
  1   nothing is left to do; some tasks failed
      (or --max-failures or --canary stopped the farm: tasks are left)
  2   the command line or an input is wrong; nothing was started
  3   nothing is left to start; some tasks are with another farm, or in no file
  70  a defect of mpifarm
  75  tasks are left: give the same command again to go on

signals, sent to any rank, act on the whole farm:
  USR1       stop: end the running tasks, put them back, exit 75 (as --timeout)
  TERM, INT, HUP
             stop without the grace time; a second INT ends the farm at once
  USR2       drain: start no more tasks, finish the running ones
             (a file named "drain" in the workdir does the same)

The same command, given again, goes on where the last one stopped.
'mpifarm help TOPIC' says more of arguments, exit, failures, files, lists,
logs, mpi, order, resume, signals, slurm, time; 'mpifarm help README.md' and
'mpifarm help docs/order.md' print pages.  'mpifarm run' is 'mpifarm'.
A task's id is its place in the list, from 0.
"""


class HelpAsked(Exception):  # noqa: N818 - it is not an error
    """A request for help or version: the catcher prints `text` and exits with 0.

    `parser` is the one whose help it is, None for a text of another kind.
    """

    def __init__(
        self, text: str, parser: argparse.ArgumentParser | None = None
    ) -> None:
        super().__init__(text)
        self.text = text
        self.parser = parser


class CommandLine:
    """The options that a user has typed; all others are open.

    `values` are those by the fields of `Settings`, `OPEN` for each other.
    """

    def __init__(self, values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.values = values
        self._environ = environ

    def settle(self, defaults: Sequence[Default] = ()) -> Settings:
        """Return the settings: what was typed, then `defaults`, then mpifarm's own.

        Of `environ` counts ``SLURM_JOB_END_TIME``, the deadline unless ``--deadline``
        is given.  Raises InputError for options that contradict each other.
        """
        values = dict(self.values)
        used: list[Default] = []
        for default in defaults:
            option = BY_NAME[default.option]
            if not default.words:
                values[_LEFT_OUT] = (*values[_LEFT_OUT], default.option)
                used.append(default)
            elif values[option.field] is OPEN and not self._contradicts(default):
                values[option.field] = parse_default(option, default.words)
                used.append(default)
        values["names_handler"] = values["handler"] is not OPEN
        for option in _SETTINGS:
            if values[option.field] is OPEN:
                values[option.field] = own_default(option)
        return _make_settings(values, used, self._environ)

    def _contradicts(self, default: Default) -> bool:
        """Return whether a typed option rules out a default: --quiet, and verbose."""
        if default.option == "--order":
            return self.values["shuffle"] is not OPEN
        other = CONTRARY.get(default.option)
        return other is not None and self.values[BY_NAME[other].field] is True


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings that `argv` asks for, without files and variables.

    Raises as `parse_line`.
    """
    return parse_line(argv, environ).settle()


def parse_line(argv: Sequence[str], environ: Mapping[str, str]) -> CommandLine:
    """Return what `argv` (without the program's name) asks for.

    Of `environ` counts ``COLUMNS``, for the width of the help.  The list need not
    exist.  Raises HelpAsked for ``--help`` and ``--version``, InputError for a wrong
    command line.
    """
    argv, arguments = _find_arguments(argv)
    words = list(_with_values(list(_expanded(argv))))
    values = vars(_chosen(_make_parser(environ), words))
    values["arguments"] = arguments
    tasklist = values["tasklist"]
    is_plain = values["handler"] in (OPEN, "default") and arguments is None
    if is_plain and not os.path.exists(tasklist):
        _check_is_list(tasklist)
    if values["workdir"] in (OPEN, ""):
        if arguments is not None or _is_standard_input(tasklist):
            values["workdir"] = KEPT_WORKDIR
        _check_has_name(tasklist)
    for option in _SETTINGS:
        if option.is_list and values[option.field] is None:
            values[option.field] = OPEN
    return CommandLine(values, environ)


def _find_arguments(argv: Sequence[str]) -> tuple[Sequence[str], Arguments | None]:
    """Return a command line of options and a list, and the arguments that make it.

    Without a ``:::`` or its like, that is `argv`.
    """
    if not any(word.startswith(ARGUMENTS_LIST) for word in argv):
        return argv, None
    from mpifarm.commands.argument_words import SEPARATORS, split_line

    if not any(word in SEPARATORS for word in argv):
        return argv, None
    options, arguments = split_line(argv, count_values, LONG_NAMES)
    # In front: an option without its value must not take the list for it.
    return [ARGUMENTS_LIST, *options], arguments


def count_values(word: str, following: str) -> int:
    """Return how many words behind an option are its value: 1 or 0."""
    name, equals, _ = word.partition("=")
    if not word.startswith("--"):
        name, equals = word[:2], word[2:]
    elif not equals:
        name = _full_name(name)
    option = next((each for each in _ALL if name in each.names.split()), None)
    if equals or option is None or option.kind is None:
        return 0
    if option.kind is VERBOSE:
        return int(following.lower() in _BOOLEAN_WORDS)
    if option.kind is FOLLOW:
        return int(is_seconds(following))
    if option.kind is SHUFFLE:
        return int(is_seed(following))
    if option.kind is WORKERS:
        return int(is_workers(following))
    return 1


def _is_standard_input(tasklist: str) -> bool:
    return tasklist == STDIN_LIST and not os.path.exists(tasklist)


def _check_is_list(tasklist: str) -> None:
    """Raise InputError if a missing list has the name of another tool's subcommand.

    A name that misspells one of ours, or that begins with a dash other than ``-``, or
    is a negative number, is refused, too.
    """
    from mpifarm.commands.misspelt import (  # for mistakes only
        explain_command,
        explain_dash,
        explain_near_command,
        explain_number,
    )

    for explain in (explain_number, explain_command, explain_near_command):
        if why := explain_dash([tasklist]) or explain(tasklist):
            raise usage_error(why)


def _check_has_name(tasklist: str) -> None:
    """Raise InputError if the list is a pipe: no workdir can be named after it."""
    if is_passing(tasklist):
        raise usage_error(
            f"the list {tasklist} has no name of its own to name its workdir after: add"
            " --workdir DIR, and the same DIR when you give the command again"
        )


def _chosen(parser: "_Parser", words: Sequence[str]) -> argparse.Namespace:
    """Parse the words; raise InputError for words that mean nothing."""
    try:
        chosen, extra = parser.parse_known_args(list(_separated(words)), _open_values())
    except _NoListError:
        _refuse_unknown(parser, words)
        raise
    if not extra:
        return chosen
    # PyTaskFarmer takes the WORD of "-v WORD LIST" as the value of -v, whatever it is.
    with suppress(InputError):
        as_before, extra_as_before = parser.parse_known_args(
            list(_attached(words)), _open_values()
        )
        if not extra_as_before:
            return as_before
    from mpifarm.commands.misspelt import explain_words  # for mistakes only

    raise usage_error(explain_words(words, extra, chosen.tasklist, LONG_NAMES))


def _refuse_unknown(parser: "_Parser", words: Sequence[str]) -> None:
    """Raise InputError for an unknown option, though there is no list either.

    Without it, the list may be what the option was taken for.
    """
    _, extra = parser.parse_known_args(
        [ARGUMENTS_LIST, *_separated(words)], _open_values()
    )
    if extra:
        from mpifarm.commands.misspelt import explain_words  # for mistakes only

        raise usage_error(explain_words(words, extra, ARGUMENTS_LIST, LONG_NAMES))


def _open_values() -> argparse.Namespace:
    """Return a namespace in which each option is open, for argparse to fill in."""
    # None of a list: argparse copies what is there, and appends to it.
    return argparse.Namespace(
        **{each.field: None if each.is_list else OPEN for each in _SETTINGS},
        **{_LEFT_OUT: ()},
    )


_LEFT_OUT: Final = "hooks.left_out"
"""The field of `Settings` that ``--no-NAME`` of a hook sets."""


def _make_settings(
    values: dict[str, Any], used: Sequence[Default], environ: Mapping[str, str]
) -> Settings:
    """Make settings of the values of all options, some of which depend on list or job.

    `used` are the defaults among them.
    """
    if values["quiet"] and values["verbose"]:
        raise usage_error("--quiet and --verbose contradict each other: leave one out")
    if values["workers"] is None:  # --proc without a number
        values["workers"] = os.cpu_count() or 1
    if values["shuffle"] is not None and values["order"] != "list":
        raise usage_error(
            f"--shuffle and --order {values['order']} contradict each other: leave one"
            " out"
        )
    if values["again"] and values["remap"]:
        raise usage_error(
            "--again starts all tasks, and --remap none that has finished: leave one"
            " out"
        )
    values["workdir"] = values["workdir"] or values["tasklist"] + "_workdir"
    values["id_variables"] = join_names("--id-variable", values["id_variables"] or ())
    policy = _part_of(values, "policy.")
    policy["max_failures"], policy["max_failed_share"] = policy["max_failures"] or (
        None,
        None,
    )
    policy["seats"] = join_names("--limit", policy["seats"] or ())
    if policy["deadline"] is None:
        policy["deadline"] = deadline_of_job(environ)
    limits = TaskLimits(**_part_of(values, "limits."))
    hooks = _part_of(values, "hooks.")
    for name in ("names", "left_out"):
        hooks[name] = tuple(dict.fromkeys(hooks[name] or ()))
    return Settings(
        **values,
        limits=limits,
        policy=Policy(**policy),
        hooks=HookSettings(**hooks),
        defaults=tuple(used),
    )


def join_names(
    option: str, given: Sequence[tuple[str, int]]
) -> tuple[tuple[str, int], ...]:
    """Return names with their numbers; raise InputError for a name with two of them."""
    numbers: dict[str, int] = {}
    for name, number in given:
        if (before := numbers.setdefault(name, number)) != number:
            raise usage_error(
                f"{option} {name}={before} and {option} {name}={number} contradict each"
                " other: leave one out"
            )
    return tuple(numbers.items())


def _part_of(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Remove the values whose names begin with `prefix`, and return them.

    The names lose the prefix.
    """
    names = [name for name in values if name.startswith(prefix)]
    return {name.removeprefix(prefix): values.pop(name) for name in names}


def deadline_of_job(environ: Mapping[str, str]) -> float | None:
    """Return the end of the Slurm job in seconds since the epoch, None if unknown."""
    end = environ.get("SLURM_JOB_END_TIME", "")
    return float(end) if end.isdecimal() and end.isascii() else None


# ---- the words before argparse sees them --------------------------------------------

_BOOLEAN_WORDS = NO_WORDS | {"1", "true", "yes", "on"}
_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")


def _expanded(argv: Sequence[str]) -> Iterator[str]:
    """Yield `argv` with each abbreviated option of PyTaskFarmer's spelt out."""
    words = iter(argv)
    for word in words:
        if word == "--":
            yield word
            break
        name, equals, value = word.partition("=")
        yield (_full_name(name) + equals + value) if word.startswith("--") else word
    yield from words


def _full_name(name: str) -> str:
    """Return the option of PyTaskFarmer's that `name` abbreviates, else `name`.

    No option of mpifarm's own can be shortened: the next one may begin alike, and a job
    script would then mean another option than before.  Raises InputError if `name`
    abbreviates two options.
    """
    if name in LONG_NAMES:
        return name
    meant = [option for option in OLD_NAMES if option.startswith(name)]
    if len(meant) > 1:
        raise usage_error(f"{name} can mean {' or '.join(meant)}: spell it out")
    return meant[0] if meant else name


def _separated(words: Sequence[str]) -> Iterator[str]:
    """Yield `words`, each bare ``-v`` with a value: the next word if it is one."""
    return _with_verbose_values(words, lambda word: word.lower() in _BOOLEAN_WORDS)


def _attached(words: Sequence[str]) -> Iterator[str]:
    """Yield `words`, each bare ``-v`` with a value: the next word, whatever it is."""
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


_BARE: Final = {"--follow": (is_seconds, EVER), "--shuffle": (is_seed, ANY_ORDER)}
"""Options whose value may be missing: which words are one, and what stands for none."""


def _with_values(words: Sequence[str]) -> Iterator[str]:
    """Yield `words`, each option of `_BARE` with a value: the next word if it is one.

    What stands behind it may be the list.
    """
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        if word == "--":
            yield word
            break
        if word in _BARE:
            is_value, without = _BARE[word]
            takes_next = bool(waiting) and is_value(waiting[-1])
            word += "=" + (waiting.pop() if takes_next else without)
        yield word
    yield from reversed(waiting)


def _looks_like_option(word: str) -> bool:
    """Return whether argparse takes the word for an option and not for a value."""
    if not word.startswith("-") or word == "-" or " " in word:
        return False
    return _NEGATIVE_NUMBER.fullmatch(word) is None


# ---- the table ----------------------------------------------------------------------


class Option(NamedTuple):
    """One option of a farm.

    `names` are separated by a blank, the long one first.  `field` is the field of
    `Settings` that the option sets, and whose default it has.  An option of `kind` None
    is a flag, without a value.
    """

    names: str
    field: str
    kind: Kind | None
    metavar: str | None
    help: str
    is_old: bool = False
    """Whether the option is PyTaskFarmer's, and may be abbreviated."""
    more: Mapping[str, Any] = {}
    """More arguments for argparse's `add_argument`."""

    @property
    def long_name(self) -> str:
        """The first of the names."""
        return self.names.split()[0]

    @property
    def is_list(self) -> bool:
        """Whether the option may be given again, for another value."""
        return self.more.get("action") == "append"

    @property
    def is_flag(self) -> bool:
        """Whether a file says yes or no to it."""
        return self.kind is None or self.kind is VERBOSE

    @property
    def is_path(self) -> bool:
        """Whether its value names a file or directory."""
        return self.metavar in ("FILE", "DIR")

    @property
    def is_of_hooks(self) -> bool:
        """Whether it asks for a hook, so that its ``--no-NAME`` undoes the site's."""
        return self.field.startswith("hooks.")


class _Open:
    """The value of an option that nobody has typed."""


OPEN: Final = _Open()


class _Undo(argparse.Action):
    """``--no-NAME``: files and variables don't count for the option ``--NAME``."""

    def __call__(  # type: ignore[override]
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        _values: object,
        option_string: str,
    ) -> None:
        option = BY_NAME[f"--{option_string.removeprefix(NO)}"]
        setattr(namespace, option.field, [] if option.is_list else own_default(option))
        if option.is_of_hooks:
            before = getattr(namespace, _LEFT_OUT)
            setattr(namespace, _LEFT_OUT, (*before, option.long_name))


class _AskForHelp(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise HelpAsked(parser.format_help(), parser)


class _AskForFirstScreen(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        from mpifarm.commands.first_screen import FIRST_SCREEN  # for this question

        raise HelpAsked(FIRST_SCREEN)


class _AskForVersion(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        raise HelpAsked(f"mpifarm {__version__}\n")


HELP: Final = Option(
    "--help -h", "", None, None, "show this and exit", is_old=True,
    more={"nargs": 0, "action": _AskForHelp, "default": argparse.SUPPRESS},
)  # fmt: skip

_HELP_OF_FARM: Final = (
    HELP._replace(
        help="show what fits on one screen, and exit",
        more={**HELP.more, "action": _AskForFirstScreen},
    ),
    Option(
        "--help-all", "", None, None, "show all options and exit",
        more={"nargs": 0, "action": _AskForHelp, "default": argparse.SUPPRESS},
    ),
)  # fmt: skip

OPTIONS: Final[Mapping[str, Sequence[Option]]] = {
    "options": (
        Option(
            "--proc -n -j --jobs", "workers", WORKERS, "N",
            "tasks that run at one time on each rank (default: %(default)s); 'auto':"
            " one for each CPU that the rank may use; 50%%, +2 and -2: half of these, 2"
            " more, 2 less; without N: all of the machine's",
            is_old=True, more={"nargs": "?"},
        ),
        Option(
            "--timeout", "timeout", SECONDS_OR_NEVER, "TIME",
            "stop the farm after this time, put running tasks back, and exit 75"
            " (default: 0, never)",
            is_old=True,
        ),
        Option(
            "--workdir -w", "workdir", NAME, "DIR",
            "where progress and logs are kept (default: <tasklist>_workdir)",
            is_old=True, more={"default": None},
        ),
        Option(
            "--verbose -v", "verbose", VERBOSE, "[BOOL]",
            "print a line for each task",
            is_old=True,
        ),
        Option(
            "--runner -r", "runner", ANY, "NAME",
            "the runner that runs the commands, by its name in an INI file (default:"
            " %(default)s)",
            is_old=True,
        ),
        Option(
            "--tasklist -t", "handler", ANY, "HANDLER",
            "the handler that reads the tasklist, by its name in an INI file; disbatch"
            " and greasy read lists of these tools, sqlite a database (default:"
            " %(default)s)",
            is_old=True,
        ),
        *_HELP_OF_FARM,
        Option(
            "--version -V", "", None, None, "show the version and exit",
            more={"nargs": 0, "action": _AskForVersion, "default": argparse.SUPPRESS},
        ),
        Option(
            "--config", "config", NAME, "FILE",
            "an INI file of runners and handlers; it is read before those in"
            " ~/.config/mpifarm and ~/.pytaskfarmer",
        ),
        Option(
            "--chdir", "chdir", NAME, "DIR",
            "where the commands run (default: where mpifarm was started)",
        ),
        Option(
            "--bind", "bind", None, None,
            "give each worker its own share of the rank's CPUs",
        ),
        Option(
            "--gpus", "gpus", GPUS, "auto|N|none",
            "give each worker one of N GPUs, round robin; 'auto': one of those that"
            " the rank was given (default: none, nothing is changed)",
        ),
        Option(
            "--grace", "grace", SECONDS, "TIME",
            "time from TERM to KILL for running tasks when the farm stops (default:"
            " %(default)g)",
        ),
        Option(
            "--logs", "logs", LOGS, "all|packed|failed",
            "all: a log file for each task; packed: a few files for all tasks, read by"
            " 'mpifarm log'; failed: a log file for each failed task (default:"
            " %(default)s)",
        ),
        Option(
            "--progress", "progress", PROGRESS, "auto|bar|lines|off",
            "show the state of the farm as a live line, or as lines that stay"
            " (default: %(default)s, a live line on a terminal)",
        ),
        Option(
            "--quiet", "quiet", None, None,
            "print warnings and errors alone, and at the end what has not finished",
        ),
        Option(
            "--lock-area", "lock_area", NAME, "DIR",
            "where to put the lock file if the workdir's file system has no locks; the"
            " same for every farmer (default: $SCRATCH, $TMP or $TMPDIR, as"
            " PyTaskFarmer)",
        ),
        Option(
            "--remap", "remap", None, None,
            "the tasklist was edited: find finished tasks by the text of their lines",
        ),
        Option(
            "--again", "again", None, None,
            "start all tasks from the beginning; the workdir of before is kept, beside"
            " the new one",
        ),
        Option(
            "--follow", "follow", FOLLOW, "[TIME]",
            "when all is done, wait for lines that are added to the list, for this"
            " long (default: no wait; without TIME: for ever); the list - is"
            " standard input",
        ),
        Option(
            "--dry-run", "dry_run", None, None,
            "show what would run, and how: the first tasks with their quoting, the"
            " runner, the environment; run nothing, and change nothing",
        ),
        Option(
            "--as-is", "as_is", None, None,
            "run the list even if it looks like a script, or like one for another tool",
        ),
        Option(
            "--id-variable", "id_variables", ID_VARIABLE, "NAME[=FIRST]",
            "give each task its number in this variable too, such as SGE_TASK_ID; the"
            " first task gets FIRST (default: the first number of the tool that has"
            " this variable)",
            more={"action": "append", "default": None},
        ),
        Option(
            "--in-array", "in_array", None, None,
            "in a job array that shares the list: exit 0 if all tasks that are left"
            " run in other jobs of the array",
        ),
        Option(
            "--span-nodes", "span_nodes", None, None,
            "let an MPI program in a task use other nodes of the job (default: its"
            " ranks start on the node of the task)",
        ),
        Option(
            "--mpi", "mpi", MPI, "auto|off",
            "'off': this process is a farm of its own, even under a launcher",
        ),
    ),
    "for each task": (
        Option(
            "--setup", "setup", NAME, "COMMAND",
            "run this before each command, in its shell, as 'source env.sh'; if it"
            " fails, the command does not run, and the task fails",
        ),
        Option(
            "--task-timeout", "limits.timeout", SECONDS_OR_NEVER, "TIME",
            "end a task that takes longer, by TERM, then KILL after --grace; it counts"
            ' as failed, "timed out" (default: 0, never)',
        ),
        Option(
            "--task-memory", "limits.memory", MEMORY, "BYTES",
            "memory that a task may have, as 500M or 4G: the kernel refuses a process"
            " more (RLIMIT_DATA), and a task whose processes together have more is"
            " ended within a second",
        ),
        Option(
            "--checkpoint-signal", "limits.checkpoint_signal", SIGNAL,
            "SIG",
            "when the farm stops, send running tasks this signal and not TERM, so that"
            " they can save their work; KILL follows after --grace",
        ),
        Option(
            "--retries", "policy.retries", NUMBER, "N",
            "run a failed task up to N times more, on another rank if there is one"
            " (default: %(default)s)",
        ),
        Option(
            "--retry-delay", "policy.retry_delay", SECONDS, "TIME",
            "wait this long before a failed task runs again (default: %(default)g)",
        ),
        Option(
            "--requeue-status", "policy.requeue_status", STATUS, "N",
            "run a task again that exits with N: it has written a checkpoint (default:"
            " no status does that)",
        ),
    ),
    "for the farm": (
        Option(
            "--max-failures", "policy.max_failures", MAX_FAILURES, "N|P%",
            "stop the farm and exit 1 when N tasks, or P percent of the list, have"
            " failed",
        ),
        Option(
            "--canary", "policy.canary", NUMBER, "N",
            "run the first N tasks alone, and the others only if one of the N succeeds",
        ),
        Option(
            "--quarantine", "policy.quarantine", QUARANTINE, "K|off",
            "give a rank no tasks for a while when K in a row failed there fast, while"
            " tasks succeed on other ranks; they run again elsewhere (default:"
            " %(default)s)",
        ),
        Option(
            "--rank-timeout", "policy.rank_timeout", RANK_TIMEOUT, "TIME",
            "give up a rank that has sent nothing for this long (default: %(default)g)",
        ),
        Option(
            "--start-rate", "policy.start_rate", START_RATE, "N[/s|/m|/h]",
            "start at most N tasks in a second (minute, hour) on all ranks together"
            " (default: any number)",
        ),
        Option(
            "--limit", "policy.seats", SEATS, "NAME=N",
            "run at most N tasks of the kind NAME at a time, on all ranks together: the"
            " list has them as '[limit=NAME] command'; give it again for other kinds",
            more={"action": "append", "default": None},
        ),
        Option(
            "--deadline", "policy.deadline", DEADLINE, "TIME",
            "when the job ends: seconds since 1970, 2026-12-31T23:59, 23:59, or 'none';"
            " the farm ends before (default: as Slurm, PBS or LSF says)",
        ),
        Option(
            "--task-time", "policy.task_time", SECONDS, "TIME",
            "how long a task takes: start none that can't end before the deadline"
            " (default: as long as the tasks so far)",
        ),
        Option(
            "--order", "order", ORDER, "list|longest-first",
            "longest-first: start the tasks first that took longest before, by"
            " --durations, or by this workdir and the last one that --again has moved"
            " aside (default: %(default)s)",
        ),
        Option(
            "--shuffle", "shuffle", SHUFFLE, "[SEED]",
            "start tasks in a random order; the same SEED means the same order",
        ),
        Option(
            "--durations", "durations", NAME, "FILE",
            "how long each task takes, for the time left and --order: lines of a task's"
            " number and its seconds, or another workdir of this list",
        ),
    ),
    "for those who watch": (
        Option(
            "--events", "hooks.events", NAME, "FILE",
            "append what happens to this file, a line of JSON for each task, rank and"
            " request",
        ),
        Option(
            "--metrics", "hooks.metrics", NAME, "FILE",
            "keep the farm's numbers in this file, in Prometheus' text format",
        ),
        Option(
            "--on-end", "hooks.on_end", NAME, "COMMAND",
            "run this by the shell when the farm has ended, with a summary in its"
            " environment ($MPIFARM_EXIT_STATUS, $MPIFARM_FAILED and so on); what it"
            " prints is not shown",
        ),
        Option(
            "--on-failure", "hooks.on_failure", NAME, "COMMAND",
            "run this by the shell when tasks have failed, once a minute at the most"
            " ($MPIFARM_FAILURES says which); what it prints is not shown",
        ),
        Option(
            "--hook", "hooks.names", ANY, "NAME",
            "a class of your own that is called for each event, by its name in an INI"
            " file; give it again for others",
            more={"action": "append", "default": None},
        ),
    ),
}  # fmt: skip
"""All options, under the heads that the help has for them."""

_ALL: Final = [option for group in OPTIONS.values() for option in group]
LONG_NAMES: Final = tuple(option.long_name for option in _ALL)
ALL_NAMES: Final = frozenset(name for option in _ALL for name in option.names.split())
OLD_NAMES: Final = tuple(option.long_name for option in _ALL if option.is_old)
"""PyTaskFarmer's options: a word that abbreviates one keeps its meaning."""
_SETTINGS: Final = [option for option in _ALL if option.field]
BY_NAME: Final = {option.long_name: option for option in _SETTINGS}

CONTRARY: Final = {"--quiet": "--verbose", "--verbose": "--quiet"}
"""Flags of which the later one rules out the other."""

ONE_RUN: Final[Mapping[str, str]] = {
    "--workdir": "each list has a workdir of its own",
    "--chdir": "the commands of one list run there",
    "--remap": "it says that one list was edited",
    "--again": "each start would begin its list again",
    "--follow": "it says that one list grows",
    "--dry-run": "it asks what one start would do",
    "--as-is": "it says that one list is meant as it stands",
    "--in-array": "it says how one job was submitted",
    "--deadline": "it is the end of one job",
    "--task-time": "the tasks of one list take so long",
    "--durations": "the tasks of one list take so long",
    "--shuffle": "its seed means an order of one list",
    "--mpi": "each rank has to know it before rank 0 can tell it",
}
"""The options that no file and no variable can set, each with the reason."""

NO: Final = "--no-"
UNDONE: Final = tuple(NO + name[2:] for name in BY_NAME if name not in ONE_RUN)
"""The options that undo a default of a file or a variable."""


# ---- the parser ---------------------------------------------------------------------


class _NoListError(InputError):
    """A command line that names no list."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises an InputError; argparse's prints pages and exits."""

    color = False
    """Python 3.14 would colour the help, and the help may go into a file."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: argparse.Namespace
    ) -> tuple[argparse.Namespace, list[str]]:
        # The kinds raise InputError.  An ArgumentError is a value that is missing, a
        # value that is too many, or (older Pythons: `error`) no tasklist.
        try:
            return super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            if error.argument_name is None:
                self.error(error.message)
            raise _wrong_count(error.argument_name) from error

    def error(self, message: str) -> NoReturn:
        told = usage_error(
            "no tasklist is given: name the file that lists the commands, or - for"
            " standard input"
        )
        raise _NoListError(str(told))


def _make_parser(environ: Mapping[str, str]) -> _Parser:
    columns = environ.get("COLUMNS", "")
    wide = int(columns) if columns.isdecimal() else 80
    # Narrower tears words apart, and nobody likes to read wider lines; argparse itself
    # leaves two columns free.
    width = min(max(wide, 60), 100) - 2
    parser = _Parser(
        prog="mpifarm",
        usage="mpifarm [run] [options] tasklist\n"
        "       mpifarm [options] 'command {}' ::: argument ...\n"
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
    parser.add_argument(
        "tasklist",
        type=parse_tasklist,
        help="a text file of commands, one a line, or - for standard input; a line that"
        " begins with # is a comment, but for #BARRIER and #AFTER (mpifarm help"
        " order)",
    )
    for title, group in OPTIONS.items():
        into = parser if title == "options" else parser.add_argument_group(title)
        for option in group:
            add_option(into, option)
    parser.add_argument(
        *UNDONE,
        action=_Undo,
        nargs=0,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,  # docs/defaults.md: forty lines more tell nobody more
    )
    return parser


_DEFAULTS = Settings(tasklist="", workdir="")


def add_option(into: argparse._ActionsContainer, option: Option) -> None:
    """Add an option of the table to a parser, with the default of its field."""
    words: dict[str, Any] = {"help": option.help}
    if option.field:
        words |= {"dest": option.field, "default": attrgetter(option.field)(_DEFAULTS)}
    if option.kind is None:
        words |= {"action": "store_true"}
    else:
        words |= {"metavar": option.metavar, "type": partial(_parse_value, option)}
    into.add_argument(*option.names.split(), **{**words, **option.more})


def _parse_value(option: Option, word: str) -> Any:
    """Return the value that `word` means for `option`; raises InputError."""
    assert option.kind is not None
    if option.kind is NAME and not word:
        raise usage_error(
            f"the {option.metavar} of {option.long_name} is empty: is a variable in"
            " your job script not set?"
        )
    try:
        return option.kind.parse(word)
    except ValueError:
        if option.kind is WORKERS and os.path.exists(word):
            raise usage_error(_explain_list_as_number(word)) from None
        sentence = f"{option.long_name} takes {option.kind.takes}, not {word!r}"
        raise usage_error(sentence + option.kind.hint) from None


def _explain_list_as_number(word: str) -> str:
    """Return what to write where the list stands behind ``--proc``."""
    from shlex import quote  # for mistakes only

    tasklist = quote(word)
    return (
        f"{word} stands in the place of the number of --proc: write mpifarm -n 8"
        f" {tasklist}, or, to use all of the machine, mpifarm {tasklist} --proc"
    )


def own_default(option: Option) -> Any:
    """Return mpifarm's own default of an option: that of its field."""
    if "default" in option.more:  # it depends on other options
        return option.more["default"]
    return attrgetter(option.field)(_DEFAULTS)


def parse_default(option: Option, words: Sequence[str]) -> Any:
    """Return the value of an option by the words of a file or a variable.

    Raises ValueError and InputError for a wrong word, as the option's kind does.
    """
    if option.is_flag:
        return words[0] == YES
    assert option.kind is not None
    if option.is_list:
        return [option.kind.parse(word) for word in words]
    return option.kind.parse(words[0])


YES: Final = "yes"
"""The word of a `Default` for a flag that is on."""


def _wrong_count(names: str) -> InputError:
    """Return the error for an option without its value, or a flag with a value.

    `names` are argparse's, as "--workdir/-w".
    """
    if names.startswith(NO):
        return usage_error(f"{NO}NAME, which undoes a default, takes no value")
    (option,) = (each for each in _ALL if each.long_name == names.partition("/")[0])
    needs = "takes no value" if option.kind is None else "needs a value after it"
    return usage_error(f"{names} {needs}")
