"""Runners: what executes a task; the user's second plug-in point.

Rules of this file: a runner lives in a worker process and runs one task at a time;
rank 0 makes one as well, only to check the options, so a constructor changes nothing.
The default one does what ``/bin/bash -c line`` does, and leaves the shell out where
nobody could tell (`shellwords`).  Whatever can't be started directly is given to the
shell as well: so the message and the status (127, 126) are the shell's own.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from io import FileIO
from shlex import quote
from typing import IO, Any, Final

from mpifarm import processes
from mpifarm.classes import check_options, import_class, in_one_line
from mpifarm.config import RunnerDefinition
from mpifarm.errors import InputError
from mpifarm.shellwords import split_direct

BASH: Final = "/bin/bash"
SH: Final = "/bin/sh"

ARGUMENT_LIMIT: Final = 131_072
"""Bytes of one argument of exec with its NUL (MAX_ARG_STRLEN, pages of 4 KiB)."""

NOT_FOUND: Final = 127
"""The status of a task whose program does not exist; as in a shell."""

COULD_NOT_START: Final = 126
"""The status of a task whose program exists and can't be started; as in a shell."""

SHELL_USES: Final = ("auto", "always", "never")
"""What the option `shell` of the default runner may be."""

SHELL_SETTINGS: Final = (
    b"BASH_ENV",  # read by bash before each line: may change PATH, limits, anything
    b"SHELLOPTS",  # xtrace, noexec, keyword, ...
    b"EXECIGNORE",  # programs which bash does not see on PATH
)
"""Variables by which the user changes what bash makes of the plainest line."""

REFRESHED: Final = (b"MPIFARM_TASK_ID", b"MPIFARM_ATTEMPT")
"""Variables that the worker sets anew for each task, beside ``PROC_NUMBER``."""


class Runner:
    """What executes tasks, one at a time.  The API is PyTaskFarmer's.

    A class of the user's derives from this one and has `run` and `terminate`; the
    options of its definition are keyword arguments of its constructor, all strings.
    """

    def run(self, taskid: int, command: str, logfh: IO[Any]) -> int:
        """Run a task to its end; its exit status, or -n if signal n killed it.

        `taskid` is the task's place in the tasklist from 0, `command` its text (bytes
        that are not UTF-8 are lone surrogates, ``surrogateescape``).  Output goes to
        `logfh`, a file with a descriptor, open for appending.
        """
        raise NotImplementedError

    def terminate(self) -> None:
        """End the command that is running, if one is; called from a signal handler.

        At a stop that leaves it time, and when the task's time is over.
        """
        raise NotImplementedError


class CommandRunner(Runner):
    """What the runners of mpifarm share: a task's environment, and how it is ended."""

    attempt: int | None = None
    """Of the task that comes next, where its worker does not say so in `os.environ`."""

    def terminate(self) -> None:
        """TERM, or what is sent at a stop in its place, to the command's group."""
        processes.terminate_command()

    def _environment_of(self, taskid: int) -> dict[bytes, bytes]:
        """The environment of a task, the same dict each time.

        Reading `os.environb` whole takes 100 µs, so only what changes is set anew.
        """
        env = self._environment
        env[b"PROC_NUMBER"] = b"%d" % taskid
        if self.attempt is not None:
            env[b"MPIFARM_TASK_ID"] = env[b"PROC_NUMBER"]
            env[b"MPIFARM_ATTEMPT"] = b"%d" % self.attempt
            return env
        for name in REFRESHED:
            value = os.environb.get(name)
            if value is not None:
                env[name] = value
        return env

    @cached_property
    def _environment(self) -> dict[bytes, bytes]:
        # Not before the first task: the worker has made os.environ right by then.
        env = dict(os.environb)
        _mend_pwd(env)
        return env


class BasicRunner(CommandRunner):
    """Runs what the user wrote, as ``/bin/bash -c`` would.

    `shell`: ``auto``; ``always``, even where that makes no difference; or ``never``:
    the words between blanks are a program and its arguments, as for PyTaskFarmer.
    `setup`: lines that the shell runs before each task; where they fail the task does
    not run, and their status is its status.  `cwd`: the directory in which tasks run.
    ``env.NAME``: a variable of the tasks' environment.

    Raises InputError for a wrong option.
    """

    def __init__(
        self, shell: str = "auto", setup: str = "", cwd: str = "", **variables: str
    ) -> None:
        self._shell_use = _checked_shell_use(shell, setup)
        self._setup = setup
        self._cwd = _existing_directory(cwd) if cwd else ""
        self._variables = _parsed_variables(variables)

    def run(self, taskid: int, command: str, logfh: IO[Any]) -> int:
        """Run a line: directly where that is the same, else by a shell."""
        logfh.flush()
        logfd = logfh.fileno()
        env = self._environment_of(taskid)
        argv = self._split(command)
        if argv is not None:
            try:
                pid = processes.start_command(argv, env, logfd)
            except OSError as error:
                if self._shell_use == "never":
                    return tell_start_failure(logfd, argv[0], error)
                # The shell tries again, and says why in its own words.
            else:
                return processes.wait_command(pid)
        return self._run_by_shell(after_setup(self._setup, command), env, logfd)

    def _run_by_shell(self, command: str, env: dict[bytes, bytes], logfd: int) -> int:
        line = encode_text(command)
        with ExitStack() as until_its_end:
            try:
                if len(line) >= ARGUMENT_LIMIT:
                    path = until_its_end.enter_context(_readable_path(line))
                    line = self._line_that_reads(path)
                pid = self._start_shell(line, env, logfd)
            except OSError as error:
                return tell_start_failure(logfd, self._shell, error)
            return processes.wait_command(pid)

    def _start_shell(self, line: bytes, env: dict[bytes, bytes], logfd: int) -> int:
        argv: list[bytes | str] = [self._shell, "-c", line]
        if line.startswith((b"-", b"+")):
            argv.insert(2, "--")  # Else the shell takes the line for its own option.
        return processes.start_command(argv, env, logfd)

    def _line_that_reads(self, path: str) -> bytes:
        """A line that does what the text in the file `path` says, in the same shell.

        The blank in front keeps `eval` from taking a text such as "-x" for its option.
        """
        read = "<" if self._shell == BASH else "cat "
        return os.fsencode(f'eval " $({read}{quote(path)})"')

    @cached_property
    def _environment(self) -> dict[bytes, bytes]:
        if self._cwd:
            os.chdir(self._cwd)
        # Into our own environment: programs are looked for along its PATH.
        os.environb.update(self._variables)
        return super()._environment

    @cached_property
    def _split(self) -> Callable[[str], "list[str] | list[bytes] | None"]:
        """How a line is made an argv; None from it: a shell has to run the line."""
        if self._shell_use == "never":
            return _split_literally
        if self._shell_use == "always" or self._setup or not self._is_direct_allowed:
            return _leave_to_shell
        functions = _exported_functions(self._environment)
        return partial(split_direct, functions=functions)

    @cached_property
    def _is_direct_allowed(self) -> bool:
        env = self._environment
        # Without PATH each shell has its own; bash expands a "~" in it at each search.
        return b"~" not in env.get(b"PATH", b"~") and not any(
            env.get(name) for name in SHELL_SETTINGS
        )

    @cached_property
    def _shell(self) -> str:
        return BASH if os.access(BASH, os.X_OK) else SH


def create_runner(definition: RunnerDefinition) -> Runner:
    """Make the runner that a definition names; InputError where there is no such class.

    What the constructor raises comes through as it is: it is the user's own code.
    """
    runner: Runner = import_class(definition.python_class)(**definition.options)
    return runner


def check_runner(definition: RunnerDefinition) -> None:
    """Make one runner, to find what is wrong with its definition or the user's class.

    For rank 0, before anything is touched.  The built-in default costs nothing.
    Raises InputError, which names the runner, its INI file and what is wrong.
    """
    if definition == RunnerDefinition():
        return
    name = f"the runner {definition.name!r}"
    where = f"{name} in {definition.source}" if definition.source else name
    try:
        runner_class = import_class(definition.python_class)
        _check_options(runner_class, definition)
        _check_methods(_constructed(runner_class, definition), definition.python_class)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_options(runner_class: object, definition: RunnerDefinition) -> None:
    try:
        check_options(runner_class, definition.python_class, definition.options)
    except InputError as error:
        if isinstance(runner_class, type):
            # A handler, say: what options it takes would lead the user astray.
            _check_methods(runner_class, definition.python_class)
        raise InputError(f"it {error}") from error


def _constructed(
    runner_class: Callable[..., object], definition: RunnerDefinition
) -> object:
    try:
        return runner_class(**definition.options)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"its class {definition.python_class} can't be made ({in_one_line(error)})"
        ) from error


def _check_methods(runner: object, python_class: str) -> None:
    """Raise InputError where `runner` (or its class) lacks what runs a task."""
    for name, unmade in (("run", Runner.run), ("terminate", Runner.terminate)):
        method = getattr(runner, name, None)
        if not callable(method) or getattr(method, "__func__", method) is unmade:
            raise InputError(
                f"its class {python_class} is no runner: it has no method {name}()"
            )


# ---- options ------------------------------------------------------------------------


def _checked_shell_use(shell: str, setup: str) -> str:
    if shell not in SHELL_USES:
        raise InputError(
            f"the option shell is {shell!r}: write {', '.join(SHELL_USES[:-1])}"
            f" or {SHELL_USES[-1]}"
        )
    if shell == "never" and setup:
        raise InputError(
            "the option setup needs a shell, and shell = never forbids it: "
            "leave one of them out"
        )
    return shell


def _existing_directory(cwd: str) -> str:
    path = os.path.abspath(os.path.expanduser(cwd))
    if not os.path.isdir(path):
        raise InputError(
            f"the option cwd is {cwd}, and {path} is no directory: "
            "create it, or name another"
        )
    return path


def _parsed_variables(options: Mapping[str, str]) -> dict[bytes, bytes]:
    """The variables that options ``env.NAME`` set; any other option is unknown."""
    variables = {}
    for option, value in options.items():
        name = option.removeprefix("env.")
        if name == option:
            raise InputError(
                f"there is no option {option}; there are shell, setup, cwd and env.NAME"
            )
        if not name or "=" in name or "\0" in name + value:
            raise InputError(f"the option {option} names no variable: write env.NAME")
        if name == "PROC_NUMBER" or name.startswith("MPIFARM_"):
            raise InputError(f"the option {option} can't be: the farm sets {name}")
        variables[encode_text(name)] = encode_text(value)
    return variables


# ---- lines --------------------------------------------------------------------------


def after_setup(setup: str, command: str) -> str:
    """A line that runs `setup` and then `command`, only if the setup ends with 0.

    Otherwise its status is the setup's.  Where it means the same the line is
    ``setup && command``, as PyTaskFarmer writes it.  It does not where `&&` would bind
    to a part of either, or stand in a comment.
    """
    setup = setup.strip()
    if not setup:
        return command
    if _ends_cleanly(setup) and _begins_plainly(command) and not _is_list(command):
        return f"{setup} && {command}"
    # Not in braces: they would switch off a "set -e" of the setup.  The empty line is
    # for a backslash at its end.
    return f"{setup}\n\ncase $? in 0) ;; *) exit $? ;; esac\n{command}"


def _ends_cleanly(setup: str) -> bool:
    return not any(char in setup for char in "\n#\\") and setup[-1] not in ";&|"


def _begins_plainly(command: str) -> bool:
    """Whether it is neither blank nor a comment, which may not follow an `&&`."""
    text = command.lstrip()
    return text != "" and not text.startswith("#")


def _is_list(command: str) -> bool:
    """Whether it may be something else than pipelines joined by `&&`."""
    for harmless in ("&&", ">&", "<&", "&>"):
        command = command.replace(harmless, "")
    return any(mark in command for mark in (";", "||", "&", "\n"))


def encode_text(text: str) -> bytes:
    """The bytes that `text` was read from (UTF-8, ``surrogateescape``)."""
    return text.encode("utf-8", "surrogateescape")


def _split_literally(line: str) -> list[bytes]:
    return [encode_text(word) for word in line.split()] or [b""]


def _leave_to_shell(line: str) -> None:
    """None: no line is started directly."""


def tell_start_failure(logfd: int, program: bytes | str, error: OSError) -> int:
    """Say in the log why a program was not started; the status of its task."""
    reason = f"mpifarm: can't start {os.fsdecode(program)}: {error}\n"
    os.write(logfd, encode_text(reason))
    return NOT_FOUND if error.errno == errno.ENOENT else COULD_NOT_START


# ---- the environment ----------------------------------------------------------------


def _exported_functions(env: dict[bytes, bytes]) -> frozenset[str]:
    """Names of bash functions in an environment: ``BASH_FUNC_name%%=() {...``.

    ``()`` instead of ``%%`` is what Red Hat's bash 4.2 writes.
    """
    prefix, suffixes = b"BASH_FUNC_", (b"%%", b"()")
    return frozenset(
        os.fsdecode(name[len(prefix) : -len(suffixes[0])])
        for name in env
        if name.startswith(prefix) and name.endswith(suffixes)
    )


def _mend_pwd(env: dict[bytes, bytes]) -> None:
    """Make PWD true, as each shell does at its start.

    A launcher may change into a directory and leave PWD as it was.
    """
    pwd = env.get(b"PWD", b"")
    if not (pwd.startswith(b"/") and _is_here(pwd)):
        with suppress(OSError):  # The directory itself is gone.
            env[b"PWD"] = os.getcwdb()


def _is_here(path: bytes) -> bool:
    try:
        return os.path.samefile(path, b".")
    except OSError:
        return False


# ---- long lines ---------------------------------------------------------------------


@contextmanager
def _readable_path(text: bytes) -> Iterator[str]:
    """A path under which a child can read `text`, with no descriptor inherited.

    In memory where the system can (Linux); else a temporary file, removed at the end.
    """
    file = _create_memory_file()
    if file is None:
        import tempfile

        with tempfile.NamedTemporaryFile(prefix="mpifarm-", buffering=0) as named:
            named.write(text)
            yield named.name
    else:
        with file:
            file.write(text)
            yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _create_memory_file() -> FileIO | None:
    """A file without a name (close-on-exec), or None where there is no such thing."""
    if not (hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")):
        return None
    try:
        return FileIO(os.memfd_create("command"), "w+")
    except OSError:
        return None
