"""Runners, which execute tasks; the user's second plug-in point.

Rules of this file: a runner lives in a worker process and runs one task at a time.
Rank 0 makes one as well, only to check its options, so a constructor changes nothing.
The default runner does what ``/bin/bash -c line`` does, without the shell where the
result is the same (`shell_split`).
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from io import FileIO
from shlex import quote
from typing import IO, Any, Final

from mpifarm.errors import InputError
from mpifarm.model.settings import RunnerDefinition
from mpifarm.model.task import encode_text
from mpifarm.plugins.loading import check_options, import_class, in_one_line, nearest
from mpifarm.plugins.shell_split import split_direct
from mpifarm.system import task_command

BASH: Final = "/bin/bash"
SH: Final = "/bin/sh"

ARGUMENT_LIMIT: Final = 131_072
"""Bytes of one argument of exec with its NUL (MAX_ARG_STRLEN in execve(2), for pages of
4 KiB)."""

NOT_FOUND: Final = 127
"""The status of a task whose program does not exist (POSIX, Shell Command Language
2.8.2, "Exit Status for Commands")."""

COULD_NOT_START: Final = 126
"""The status of a task whose program exists, but cannot be started (POSIX, as
above)."""

SHELL_USES: Final = ("auto", "always", "never")
"""The values of the option `shell` of the default runner."""

SHELL_SETTINGS: Final = (
    b"BASH_ENV",  # A file that bash reads first: it may change PATH, limits, anything.
    b"SHELLOPTS",  # xtrace, noexec, keyword and the like.
    b"EXECIGNORE",  # Programs that bash ignores on PATH.
)
"""Variables that change the effect of even the plainest line in bash."""

REFRESHED: Final = (b"MPIFARM_TASK_ID", b"MPIFARM_ATTEMPT")
"""Variables, besides ``PROC_NUMBER``, that the worker sets for each task."""


class Runner:
    """The base class of runners, with the API of PyTaskFarmer's.

    A class of the user derives from this one and has `run` and `terminate`.  The
    options of its definition are keyword arguments of its constructor, all strings.
    """

    def run(self, taskid: int, command: str, logfh: IO[Any]) -> int:
        """Run a task to its end.  Return its exit status, or -n if signal n killed it.

        `taskid` is the task's place in the tasklist, from 0.  `command` is its text;
        bytes that are not UTF-8 are lone surrogates in it (``surrogateescape``).
        Output goes to `logfh`, a file with a descriptor, open for appending.
        """
        raise NotImplementedError

    def terminate(self) -> None:
        """End the running command, if any, and leave it time to clean up.

        Called in a signal handler: at a stop of the farm, and at the time limit of the
        task.
        """
        raise NotImplementedError


class CommandRunner(Runner):
    """The base class of mpifarm's own runners: environment and end of a task."""

    attempt: int | None = None
    """The attempt of the next task; None if the worker sets it in `os.environ`."""

    numbers: Sequence[tuple[bytes, int]] = ()
    """More variables that hold the task's number, each with the number of task 0."""

    def terminate(self) -> None:
        """Send TERM, or the farm's checkpoint signal, to the command's group."""
        task_command.terminate_command()

    def words_of(self, command: str) -> Sequence[str | bytes]:
        """Return the program and the arguments that `run` starts for a line.

        To be called after `environment_of`, as `run` does.
        """
        raise NotImplementedError

    def find_fault(self, command: str) -> str:
        """Return why `run` can't start a line whatever happens, "" if it can."""
        return ""

    @property
    def aliases(self) -> Sequence[tuple[bytes, bytes]]:
        """Variables of a task that are set twice, each with its second name."""
        return ()

    def environment_of(self, taskid: int) -> dict[bytes, bytes]:
        """Set a task's variables in the runner's environment.  Return that dict.

        Each call returns the same dict: the next task's variables replace these.
        """
        # Only changed variables are set: a copy of `os.environb` takes 100 µs.
        env = self._environment
        env[b"PROC_NUMBER"] = b"%d" % taskid
        for name, first in self.numbers:
            env[name] = b"%d" % (taskid + first)
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
        # At the first task, not before: by then the worker has set up os.environ.
        env = dict(os.environb)
        _mend_pwd(env)
        return env


class BasicRunner(CommandRunner):
    """The default runner, which runs a line as ``/bin/bash -c`` does.

    `shell`: ``auto`` uses a shell for lines that need one, ``always`` for each line.
    With ``never``, the words of a line are a program and its arguments, as in
    PyTaskFarmer 0.1.0.  `setup`: lines that the shell runs before each task; if they
    fail, the task does not run and gets their status.  `cwd`: the directory of the
    tasks.  ``env.NAME``: a variable for the tasks.

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
        """Run a line, without a shell if the result is the same.

        Return its exit status.  The status is 126 or 127, with the reason in the log,
        if the program or the shell does not start.
        """
        logfh.flush()
        logfd = logfh.fileno()
        env = self.environment_of(taskid)
        argv = self._split(command)
        if argv is not None:
            try:
                pid = task_command.start_command(argv, env, logfd)
            except OSError as error:
                if self._shell_use == "never":
                    return log_start_failure(logfd, argv[0], error)
                # The shell tries again: message and status (127, 126) are its own.
            else:
                return task_command.wait_command(pid)
        return self._run_by_shell(after_setup(self._setup, command), env, logfd)

    def words_of(self, command: str) -> Sequence[str | bytes]:
        """Return the program and the arguments that `run` starts for a line.

        The text of a line that is too long for an argument of exec is one of them, too.
        """
        words = self._split(command)
        if words is not None:
            return words
        return self._words_of_shell(encode_text(after_setup(self._setup, command)))

    def _run_by_shell(self, command: str, env: dict[bytes, bytes], logfd: int) -> int:
        line = encode_text(command)
        with ExitStack() as until_its_end:
            try:
                if len(line) >= ARGUMENT_LIMIT:
                    path = until_its_end.enter_context(_readable_path(line))
                    line = self._line_that_reads(path)
                argv = self._words_of_shell(line)
                pid = task_command.start_command(argv, env, logfd)
            except OSError as error:
                return log_start_failure(logfd, self._shell, error)
            return task_command.wait_command(pid)

    def _words_of_shell(self, line: bytes) -> list[bytes | str]:
        # Without the dashes, the shell reads such a line as its own option.
        dashes = ["--"] if line.startswith((b"-", b"+")) else []
        return [self._shell, "-c", *dashes, line]

    def _line_that_reads(self, path: str) -> bytes:
        """Return a line that runs the text in the file `path` in the same shell."""
        read = "<" if self._shell == BASH else "cat "
        # The blank after the quote: else `eval` reads a text "-x" as its own option.
        return os.fsencode(f'eval " $({read}{quote(path)})"')

    @cached_property
    def _environment(self) -> dict[bytes, bytes]:
        """The environment of the tasks.

        At the first use, this process changes into `cwd`, and sets the variables of the
        options in `os.environb`.
        """
        if self._cwd:
            os.chdir(self._cwd)
        # Into our own environment: its PATH is used to look up programs.
        os.environb.update(self._variables)
        return super()._environment

    @cached_property
    def _split(self) -> Callable[[str], "list[str] | list[bytes] | None"]:
        """The function that returns the argv of a line, None for one for a shell."""
        if self._shell_use == "never":
            return _split_literally
        if self._shell_use == "always" or self._setup or not self._is_direct_allowed:
            return _leave_to_shell
        functions = _exported_functions(self._environment)
        return partial(split_direct, functions=functions)

    @cached_property
    def _is_direct_allowed(self) -> bool:
        env = self._environment
        # Without PATH, shells have defaults of their own.  bash expands "~" in PATH.
        return b"~" not in env.get(b"PATH", b"~") and not any(
            env.get(name) for name in SHELL_SETTINGS
        )

    @cached_property
    def _shell(self) -> str:
        return BASH if os.access(BASH, os.X_OK) else SH


def create_runner(definition: RunnerDefinition) -> Runner:
    """Make the runner of a definition.

    Raises InputError if its class cannot be imported, and any error of the constructor,
    which is code of the user.
    """
    runner: Runner = import_class(definition.python_class)(**definition.options)
    return runner


def is_own(python_class: type) -> bool:
    """Return whether a class of a runner is mpifarm's, and not the user's."""
    return python_class.__module__.startswith("mpifarm.")


def has_shell(definition: RunnerDefinition) -> bool:
    """Return whether a shell runs the lines that need one.

    Return False for a class of the user, which may do anything with a line.
    """
    if definition.python_class == RunnerDefinition().python_class:
        return definition.options.get("shell") != "never"
    return definition.python_class.startswith("mpifarm.containers.")


def check_runner(definition: RunnerDefinition) -> None:
    """Check a definition and its class by making one runner.

    Rank 0 does this before any file is changed.  The built-in default is not checked.
    Raises InputError with the names of the runner and of its INI file, also for an
    exception of the constructor.
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
            # First the methods: of a handler, say, the options are not the problem.
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
    """Raise InputError if `runner` (or its class) lacks `run` or `terminate`."""
    for name, unmade in (("run", Runner.run), ("terminate", Runner.terminate)):
        method = getattr(runner, name, None)
        if not callable(method) or getattr(method, "__func__", method) is unmade:
            raise InputError(
                f"its class {python_class} is not a runner: it has no method {name}()"
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
            f"the option cwd is {cwd}, and {path} is not a directory: "
            "create it, or name another"
        )
    return path


def _parsed_variables(options: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return the variables of the options ``env.NAME``.

    Raises InputError for any other option, for a name that no variable can have, and
    for a variable that the farm sets.
    """
    variables = {}
    for option, value in options.items():
        name = option.removeprefix("env.")
        if name == option:
            raise InputError(
                f"there is no option {option}"
                f"{nearest(option, ('shell', 'setup', 'cwd'))}; there are shell, setup,"
                " cwd and env.NAME"
            )
        if not name or "=" in name or "\0" in name + value:
            raise InputError(
                f"the option {option} does not name a variable: write env.NAME"
            )
        if name == "PROC_NUMBER" or name.startswith("MPIFARM_"):
            raise InputError(f"the option {option} can't be set: the farm sets {name}")
        variables[encode_text(name)] = encode_text(value)
    return variables


# ---- lines --------------------------------------------------------------------------


def after_setup(setup: str, command: str) -> str:
    """Return a line that runs `setup`, and `command` if the setup ends with 0.

    Else the line's status is that of the setup.  An empty setup changes nothing.
    """
    setup = setup.strip()
    if not setup:
        return command
    # As PyTaskFarmer writes it, unless `&&` would bind to a part of either, or be in a
    # comment.
    if _ends_cleanly(setup) and _begins_plainly(command) and not _is_list(command):
        return f"{setup} && {command}"
    # Not in braces: they would switch off a "set -e" of the setup.  The empty line
    # takes up a backslash at the end of the setup.
    return f"{setup}\n\ncase $? in 0) ;; *) exit $? ;; esac\n{command}"


def _ends_cleanly(setup: str) -> bool:
    return not any(char in setup for char in "\n#\\") and setup[-1] not in ";&|"


def _begins_plainly(command: str) -> bool:
    """Return whether a command may follow `&&`: it is neither blank nor a comment."""
    text = command.lstrip()
    return text != "" and not text.startswith("#")


def _is_list(command: str) -> bool:
    """Return whether a command may be more than pipelines joined by `&&`."""
    for harmless in ("&&", ">&", "<&", "&>"):
        command = command.replace(harmless, "")
    return any(mark in command for mark in (";", "||", "&", "\n"))


def _split_literally(line: str) -> list[bytes]:
    return [encode_text(word) for word in line.split()] or [b""]


def _leave_to_shell(line: str) -> None:
    """Return None, so that a shell runs the line."""


def log_start_failure(logfd: int, program: bytes | str, error: OSError) -> int:
    """Write to the log why a program was not started.  Return the task's status.

    The status is 127 if the program does not exist, else 126.
    """
    reason = f"mpifarm: can't start {os.fsdecode(program)}: {error}\n"
    os.write(logfd, encode_text(reason))
    return NOT_FOUND if error.errno == errno.ENOENT else COULD_NOT_START


# ---- the environment ----------------------------------------------------------------


def _exported_functions(env: dict[bytes, bytes]) -> frozenset[str]:
    """Return the names of the bash functions in an environment."""
    # bash exports BASH_FUNC_name%%=() {...; Red Hat's bash 4.2 has () in place of %%.
    prefix, suffixes = b"BASH_FUNC_", (b"%%", b"()")
    return frozenset(
        os.fsdecode(name[len(prefix) : -len(suffixes[0])])
        for name in env
        if name.startswith(prefix) and name.endswith(suffixes)
    )


def _mend_pwd(env: dict[bytes, bytes]) -> None:
    """Set PWD in `env` unless it is right, as each shell does at its start."""
    # A launcher may change into a directory and leave PWD as it was.
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
    """Give a path under which a child can read `text`, without a descriptor.

    The path is of a file in memory if the system has such files (Linux), else of a
    temporary file.  Both are gone at the end.
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
    """Create a file in memory (close-on-exec), or return None if that is impossible."""
    if not (hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")):
        return None
    try:
        return FileIO(os.memfd_create("command"), "w+")
    except OSError:
        return None
