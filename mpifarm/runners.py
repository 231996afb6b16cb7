"""Runners: what executes a task; the user's second plug-in point.

Rules of this file: a runner lives in a worker process and runs one task at a time.
The default one does what ``/bin/bash -c line`` does, and leaves the shell out where
nobody could tell (`shellwords`).  Whatever can't be started directly is given to the
shell as well: so the message and the status (127, 126) are the shell's own.
"""

import importlib
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from io import FileIO
from shlex import quote
from typing import IO, Any, Final

from mpifarm import processes
from mpifarm.config import RunnerDefinition
from mpifarm.errors import InputError
from mpifarm.shellwords import split_direct

BASH: Final = "/bin/bash"
SH: Final = "/bin/sh"

ARGUMENT_LIMIT: Final = 131_072
"""Bytes of one argument of exec with its NUL (MAX_ARG_STRLEN, pages of 4 KiB)."""

COULD_NOT_START: Final = 127
"""The status of a task for which not even a shell could be started."""

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
        """End the command that is running, if one is; called from a signal handler."""
        raise NotImplementedError


class BasicRunner(Runner):
    """Runs what the user wrote, as ``/bin/bash -c`` would."""

    def run(self, taskid: int, command: str, logfh: IO[Any]) -> int:
        """Run a line: directly where that is the same, else by a shell."""
        logfh.flush()
        logfd = logfh.fileno()
        env = self._environment_of(taskid)
        if self._is_direct_allowed:
            argv = split_direct(command, self._functions)
            if argv is not None:
                try:
                    pid = processes.start_command(argv, env, logfd)
                except OSError:
                    pass  # The shell tries again, and says why in its own words.
                else:
                    return processes.wait_command(pid)
        return self._run_by_shell(command, env, logfd)

    def terminate(self) -> None:
        """TERM to the process group of the command."""
        processes.terminate_command(signal.SIGTERM)

    def _run_by_shell(self, command: str, env: dict[bytes, bytes], logfd: int) -> int:
        line = command.encode("utf-8", "surrogateescape")
        with ExitStack() as until_its_end:
            try:
                if len(line) >= ARGUMENT_LIMIT:
                    path = until_its_end.enter_context(_readable_path(line))
                    line = self._line_that_reads(path)
                pid = self._start_shell(line, env, logfd)
            except OSError as error:
                _write_reason(logfd, f"mpifarm: can't start {self._shell}: {error}\n")
                return COULD_NOT_START
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

    def _environment_of(self, taskid: int) -> dict[bytes, bytes]:
        """The environment of a task, the same dict each time.

        Reading `os.environb` whole takes 100 µs, so only what changes is read anew.
        """
        env = self._environment
        env[b"PROC_NUMBER"] = b"%d" % taskid
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

    @cached_property
    def _functions(self) -> frozenset[str]:
        return _exported_functions(self._environment)

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


def find_runner(name: str) -> RunnerDefinition:
    """The definition of a runner by its name (``--runner``); InputError: no such."""
    known = {"default": RunnerDefinition()}
    if name not in known:
        raise InputError(
            f"there is no runner {name!r} for --runner, only: {', '.join(known)}"
        )
    return known[name]


def create_runner(definition: RunnerDefinition) -> Runner:
    """Make the runner that a definition names; InputError where there is no such class.

    What the constructor raises comes through as it is: it is the user's own code.
    """
    module, _, name = definition.python_class.rpartition(".")
    try:
        runner_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"runner {definition.name!r}: there is no class"
            f" {definition.python_class!r} ({error})"
        ) from error
    runner: Runner = runner_class(**definition.options)
    return runner


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


@contextmanager
def _readable_path(text: bytes) -> Iterator[str]:
    """A path under which a child can read `text`, with no descriptor inherited.

    In memory where the system can (Linux); else a temporary file, removed at the end.
    """
    file = _create_memory_file()
    if file is None:
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


def _write_reason(logfd: int, reason: str) -> None:
    os.write(logfd, reason.encode("utf-8", "surrogateescape"))
