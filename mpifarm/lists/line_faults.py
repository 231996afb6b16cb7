"""The faults of a line that was written for another tool, or as a part of a script.

Rules of this file: pure; a line and the environment of its tasks in, faults out.  A
line is read as its shell reads it (`shell_lines`).  In doubt there is no fault.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from mpifarm.batch.launcher import is_of_the_rank
from mpifarm.batch.step_cpus import waits_for_cpus
from mpifarm.lists.shell_lines import Command, Reading, read_line
from mpifarm.lists.task_numbers import KNOWN_NUMBERS
from mpifarm.order.directives import command_of

_DISBATCH: Final = "disBatch"

_OTHERS: Final = (
    (re.compile(r"LAUNCHER_\w+"), "the TACC launcher"),
    (re.compile(r"DISBATCH_\w+"), _DISBATCH),
    (re.compile(r"GREASY_\w+"), "GREASY"),
    (re.compile(r"HQ_(?:JOB_ID|INSTANCE_ID|ENTRY)"), "HyperQueue"),
    (re.compile(r"SLURM_ARRAY_\w+"), "a Slurm job array"),
    (re.compile(r"SGE_TASK_(?:FIRST|LAST|STEPSIZE)"), "a Grid Engine job array"),
    (re.compile(r"PBS_(?:VNODENUM|TASKNUM|ARRAY_ID)"), "PBS"),
    (
        re.compile(r"PARALLEL_(?:PID|SSHHOST|SSHLOGIN|(?:ARG)?HOSTGROUPS)"),
        "GNU parallel",
    ),
)
"""Variables, other than a task's number, that other tools set for their tasks."""

_FILLERS: Final = {"SGE_TASK_ID": b"undefined", "LSB_JOBINDEX": b"0"}
"""The value of a task number in a job that is not an array."""


QUOTE: Final = "quote"
"""The kind of the fault of an open quote."""

CONDORS: Final = ("Process", "ProcId", "Cluster", "ClusterId")
"""Macros of HTCondor, which a list has as ``$(Process)``."""


class Fault(NamedTuple):
    """A reason why a line hardly has the effect that its author meant."""

    kind: str
    what: str
    """Follows "line 7 of tasks.txt" in a sentence."""
    remedy: str
    is_certain: bool = True
    """Whether tasks would silently run wrongly; if not, the line may be meant so."""
    is_of_script: bool = False
    """Whether lines of a script have this fault."""


WHOLE_COMMANDS: Final = (
    "if a command has several lines, put them into a script, and list its call, as"
    " bash script.sh"
)


def fault_of_script(kind: str, what: str, *, is_certain: bool = True) -> Fault:
    """Return the fault of a line that is a part of a script."""
    return Fault(kind, what, WHOLE_COMMANDS, is_certain, is_of_script=True)


_digits = re.compile(r"[0-9]+")
_is_plain = re.compile(r"[A-Za-z0-9_./:,@%+\- \t]*").fullmatch
MAX_SHAPES: Final = 20_000
"""Different lines whose faults are remembered: a long list must not fill the memory."""


class LineChecker:
    """A check of lines, which remembers the faults of lines that differ only in digits.

    `environment`: the tasks' environment.  `setup`: commands that the shell runs before
    each line.  `given`: variables that the farm sets for each task (``--id-variable``).
    `holds_cpus`: returns whether the farm's own step holds all CPUs of a Slurm job; it
    is called only for a list with an srun.
    """

    def __init__(
        self,
        environment: Mapping[bytes, bytes],
        setup: str = "",
        given: Iterable[str] = (),
        holds_cpus: Callable[[], bool] = lambda: False,
    ) -> None:
        self._environment = environment
        self._holds_cpus = functools.cache(holds_cpus)
        self._given = frozenset(given)
        self._missing: dict[str, bool] = {}
        before = read_line(setup.replace("\n", ";"))
        self._set_before = before.names | set(re.findall(r"\w+(?==)", setup))
        self._reads_before = bool(environment.get(b"BASH_ENV")) or bool(
            re.search(r"(?:^|[\s;&|])(?:source|\.|eval|module|ml)\s", setup)
        )
        self._seen: dict[str, tuple[Fault, ...]] = {}
        """The faults of lines, by the line with all its digits made equal."""

    @classmethod
    def of_runner(
        cls,
        options: Mapping[str, str],
        environment: Mapping[bytes, bytes],
        given: Iterable[str],
        holds_cpus: Callable[[], bool],
    ) -> "LineChecker":
        """Make a checker for a runner's options and the environment of its tasks."""
        own = [name.removeprefix("env.") for name in options if name.startswith("env.")]
        setup = options.get("setup", "")
        return cls(environment, setup, [*given, *own], holds_cpus)

    def faults_of(self, text: str) -> tuple[Fault, ...]:
        """Return the faults of a line, () if it has none or is not understood.

        A line that differs from an earlier one only in digits has the same faults.
        """
        text = command_of(text)
        shape = _digits.sub("0", text)
        faults = self._seen.get(shape)
        if faults is None:
            faults = tuple(self._check(text))
            if len(self._seen) < MAX_SHAPES:
                self._seen[shape] = faults
        return faults

    def _check(self, text: str) -> Iterator[Fault]:
        """Yield the faults of a line: one that spoils the whole line, or all others."""
        if dialect := _find_dialect(text):
            yield dialect
            return
        first = text.split(maxsplit=1)[0]
        if _is_plain(text) and first not in _CHECKED_FIRST_WORDS and "srun" not in text:
            return
        reading = read_line(text)
        if not reading.is_sure:
            return
        if part := _find_part(reading):
            yield part
        elif reading.ends_in_background:
            yield _BACKGROUND
        else:
            if state := _find_state(reading):
                yield state
            yield from self._find_variables(text, reading)
            if self._waits_for_cpus(reading):
                yield _WAITING

    def _waits_for_cpus(self, reading: Reading) -> bool:
        """Return whether the line starts an srun that waits until the farm ends.

        The batch system is asked (`holds_cpus`) at the first srun that may wait.
        """
        set_here = self._given | self._set_before | reading.names | reading.prefixed
        if "SLURM_OVERLAP" in set_here or b"SLURM_OVERLAP" in self._environment:
            return False
        lines = (
            [word.raw if word.value is None else word.value for word in command.words]
            for each in _readings_within(reading)
            for command in each.commands
        )
        return any(map(waits_for_cpus, lines)) and self._holds_cpus()

    # ---- variables ----

    def is_missing(self, name: str) -> bool:
        """Return whether other tools set a variable that no task here gets.

        A task number that only says "not an array" counts as missing.
        """
        if name not in self._missing:
            self._missing[name] = self._find_missing(name)
        return self._missing[name]

    def _find_missing(self, name: str) -> bool:
        if name in self._given or name in self._set_before:
            return False
        value = self._environment.get(name.encode())
        if value is not None:
            return value == _FILLERS.get(name)
        return name in KNOWN_NUMBERS or bool(_find_setter(name))

    def _find_variables(self, text: str, reading: Reading) -> Iterator[Fault]:
        """Yield a fault for each use of a variable or macro that no task gets.

        The fault is uncertain if the line, or a file read before, may set the variable.
        """
        for word in sorted(set(CONDORS).intersection(reading.substituted)):
            yield _of_condor(f"$({word})")
        inner = [_inner_of(command) for command in reading.commands]
        names = reading.names.union(*(each.names for each in inner))
        guards = {"", "-", "=", "?"}
        within = names | reading.prefixed
        for expansion, known in (
            *((each, names) for each in reading.expansions),
            *((each, within) for i in inner for each in i.expansions),
        ):
            name = expansion.name
            if name in known or not self.is_missing(name):
                continue
            is_set = name.encode() in self._environment
            if expansion.guard in (guards if is_set else ("",)):
                may_be_set = (
                    self._reads_before or _may_set(reading) or _asks_for(name, text)
                )
                yield self._missing_variable(name, is_certain=not may_be_set)

    def _missing_variable(self, name: str, *, is_certain: bool) -> Fault:
        value = self._environment.get(name.encode())
        here = "is not set here" if value is None else f"is {value.decode()!r} here"
        kind, setter = f"${name}", _find_setter(name)
        if name in KNOWN_NUMBERS:
            tool, first = KNOWN_NUMBERS[name]
            what = f"uses ${name}, by which {tool} numbers its tasks, and it {here}"
            remedy = (
                f"give --id-variable {name} (numbers from {first}; {name}={1 - first}: "
                f"from {1 - first}), or write $PROC_NUMBER (from 0)"
            )
            if tool == _DISBATCH:
                remedy = f"give {_AS_DISBATCH}, or {remedy.removeprefix('give ')}"
        elif setter == _DISBATCH:
            what = f"uses ${name}, which {setter} sets, and it {here}"
            remedy = f"give {_AS_DISBATCH}"
        elif setter == _FARM:
            what = f"uses ${name}, which is of the farm's own ranks: no task gets it"
            remedy = "write its value, or $PROC_NUMBER for the number of the task"
        else:
            what = f"uses ${name}, which {setter} sets, and it {here}"
            remedy = "write what it stands for, or set it before mpifarm starts"
        return Fault(kind, what, remedy, is_certain)


_AS_DISBATCH: Final = "--tasklist disbatch, if the list is one of disBatch"
_FARM: Final = "the farm"


def _find_setter(name: str) -> str:
    """Return the tool that sets a variable for its tasks, "" if none is known."""
    for pattern, tool in _OTHERS:
        if pattern.fullmatch(name):
            return tool
    return _FARM if is_of_the_rank(name) else ""


_SHELLS = re.compile(r"(?:/(?:usr/)?bin/)?(?:ba|da|k|z)?sh")


def _inner_of(command: Command) -> Reading:
    """Return the reading of the ``-c`` argument of a shell, else an empty one."""
    values = [word.value for word in command.words[:3]]
    if len(values) == 3 and _SHELLS.fullmatch(command.name) and values[1] == "-c":
        inner = read_line(values[2] or "")
        if inner.is_sure and not inner.unfinished and not inner.stray:
            return inner
    return Reading()


def _readings_within(reading: Reading) -> Iterator[Reading]:
    """Yield the readings of a line and of each ``$(…)`` and ``sh -c`` in it."""
    yield reading
    yield from map(_inner_of, reading.commands)
    for text in reading.substituted:
        yield read_line(text)


def _may_set(reading: Reading) -> bool:
    """Return whether the line runs a command that may set any variable."""
    names = {command.name for command in reading.commands}
    return bool(names & {"source", ".", "eval", "module", "ml"})


def _asks_for(name: str, text: str) -> bool:
    """Return whether the line tests whether the variable `name` is set."""
    test = rf"(?:(?<![\w$])\[|\btest\b)[^];&|]*\$\{{?{name}\b"
    return re.search(test, text) is not None


def _of_condor(text: str) -> Fault:
    return Fault(
        "condor",
        f"uses {text}, which HTCondor replaces; a shell runs it as a command",
        "write $PROC_NUMBER",
    )


# ---- other faults -------------------------------------------------------------------

BOM: Final = "\ufeff"

_BACKGROUND: Final = Fault(
    "background",
    'ends with "&", so its task would end at once, while its command still runs',
    'leave the "&" out (lines run side by side anyway), or write "… & wait"',
)


_WAITING: Final = Fault(
    "srun",
    "starts srun without --overlap, which waits for ever for CPUs, since the farm's own"
    " step holds all of the job's",
    'write srun --overlap -N1 -w "$SLURMD_NODENAME" … (mpifarm help'
    " docs/cpus-and-gpus.md, MPI programs as tasks)",
    is_certain=False,
)


def _find_dialect(text: str) -> Fault | None:
    if text.startswith(BOM):
        return Fault(
            "byte order mark",
            "begins with a byte order mark, which a shell takes for a part of the"
            " command",
            "remove it (sed -i 's/^\\xEF\\xBB\\xBF//' FILE)",
        )
    if re.match(r"\[#[\s\d,+-]*#\]|\[@.*?@\]", text):
        return Fault(
            "GREASY",
            f'begins with "{text[:2]}", a mark of GREASY, and a pattern to a shell',
            "give --tasklist greasy",
        )
    if re.search(r"\bPYL_ID\b", text):
        return Fault(
            "pylauncher",
            "uses PYL_ID, which pylauncher fills in",
            "write $PROC_NUMBER",
        )
    return None


_QUOTES: Final = {"'": "a single quote", '"': "a double quote", "`": "a backtick"}


def _find_part(reading: Reading) -> Fault | None:
    """Return the fault of a line that is a part of a longer command, or None."""
    if reading.unfinished == "\\":
        return fault_of_script(
            "backslash", "ends with a backslash, so it continues in the next line"
        )
    if reading.unfinished in _QUOTES:
        what = f"has {_QUOTES[reading.unfinished]} that is not closed"
        return fault_of_script(QUOTE, what, is_certain=False)
    if reading.unfinished:
        return fault_of_script("begun", f'has no end for its "{reading.unfinished}"')
    if reading.stray:
        return fault_of_script("ended", f'has a "{reading.stray}" without a beginning')
    if reading.has_heredoc:
        what = 'has a here-document ("<<"), whose text would be in the lines after it'
        return fault_of_script("here-document", what)
    return None


_ALWAYS_STATE: Final = frozenset({"cd", "chdir", "pushd", "popd"})
_STATE_WITH_WORDS: Final = frozenset(
    {"export", "declare", "typeset", "readonly", "set", "unset", "shopt", "alias"}
    | {"unalias", "umask", "trap", "setenv"}
)
_MODULE_VERBS: Final = frozenset(
    {"load", "add", "unload", "rm", "del", "purge", "swap", "switch", "use", "unuse"}
    | {"restore", "reset"}
)
_KEYWORDS: Final = frozenset(
    {"if", "then", "else", "elif", "fi", "for", "select", "while", "until", "do"}
    | {"done", "case", "esac", "function", "time"}
)
_CHECKED_FIRST_WORDS: Final = (
    _ALWAYS_STATE
    | _STATE_WITH_WORDS
    | _KEYWORDS
    | {"wait", "module", "ml", "spack", "conda", "mamba", "ulimit", "source", "."}
    | {"exec"}
)
"""First words of plain lines that are checked."""


def _find_state(reading: Reading) -> Fault | None:
    """Return the fault of a line that only changes the state of its shell, or None.

    A line that only waits or defines a function has this fault, too.
    """
    commands = reading.commands
    if reading.has_compound:
        what = "only defines a function"
        return fault_of_script("function", what) if reading.only_defines else None
    if not commands or not all(map(_is_state, commands)):
        return None
    names = {command.name for command in commands}
    if names == {"wait"}:
        return fault_of_script("wait", 'is a "wait", and no task waits for another')
    name = commands[0].name or "an assignment"
    what = f"only sets something ({name}), which no other task sees"
    is_certain = not names & {"source", ".", "ml"} and not any(
        word.runs for each in commands for word in (*each.assignments, *each.words)
    )
    fault = fault_of_script("setting", what, is_certain=is_certain)
    return fault._replace(
        remedy="do it before mpifarm starts, in setup of a runner, or in each line"
    )


def _is_state(command: Command) -> bool:
    if not command.words:
        return bool(command.assignments)
    name, *rest = [word.value or "" for word in command.words]
    return not command.assignments and (
        name in _ALWAYS_STATE
        or (name in _STATE_WITH_WORDS and bool(rest) and "-p" not in rest)
        or (name in _STATE_IF and _STATE_IF[name](rest))
    )


_SETTINGS = re.compile(r"activate|env|setup|rc$|profile|init|modul|conda|config")
"""Names of files that are sourced for the variables that they set."""


def _sources_settings(rest: Sequence[str]) -> bool:
    return bool(rest) and _SETTINGS.search(rest[0]) is not None


def _activates(rest: Sequence[str]) -> bool:
    return rest[:1] in (["activate"], ["deactivate"], ["load"])


_STATE_IF: Final[Mapping[str, Callable[[Sequence[str]], bool]]] = {
    "conda": _activates,
    "exec": lambda rest: not rest,
    "mamba": _activates,
    "ml": bool,
    "module": lambda rest: bool(rest) and rest[0] in _MODULE_VERBS,
    "source": _sources_settings,
    ".": _sources_settings,
    "spack": _activates,
    "ulimit": lambda rest: bool(rest) and (len(rest) > 1 or rest[0][0] != "-"),
    "wait": lambda rest: not rest,
}
"""Commands that, with some arguments, only change the state of the shell."""
