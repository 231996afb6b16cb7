"""The log of a task: ``log_<id>``, or what becomes a part of other files.

Rules of this file: opened for append, so that nothing ever erases an earlier attempt's
output; mpifarm's own lines in it look like ``=== mpifarm: ... ===`` and start at the
start of a line.  Every error is an OSError, and the task's own failure where the file
is the task's own.
"""

import os
import signal
from typing import Any, Self, TextIO

from mpifarm.pool.definition import PoolDefinition

_FLAGS = os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC


class TaskLog:
    """What a runner gets as `logfh`: a text file for whoever writes to it.

    The text layer is made at the first use of it: most runners only take `fileno()`.
    """

    def __init__(self, path: str, attempt: int, started: float | None = None) -> None:
        self.name = path
        self._text: TextIO | None = None
        self._fd = os.open(path, _FLAGS, 0o666)
        try:
            self._begin = os.fstat(self._fd).st_size
            if self._begin:
                self._say_again(attempt, started)
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """The descriptor; what was written as text before is in the file already."""
        if self._text is not None:
            self._text.flush()
        return self._fd

    def write(self, text: str) -> int:
        """As a text file's, UTF-8, with ``surrogateescape``."""
        return self._text_file().write(text)

    def flush(self) -> None:
        """As a text file's."""
        if self._text is not None:
            self._text.flush()

    def append_killed_line(self, signum: int) -> None:
        """Say that the command was killed by this signal."""
        self.flush()
        self._say(f"killed by signal {signum}{_signal_name(signum)}")

    def append_own_line(self, text: str) -> None:
        """Say this of the attempt."""
        self.flush()
        self._say(text)

    def read_end(self, most: int) -> bytes:
        """The last bytes, at most so many, that this attempt has written."""
        try:
            with open(self.name, "rb", buffering=0) as written:
                size = written.seek(0, os.SEEK_END)
                written.seek(max(self._begin, size - most))
                return written.read(most)
        except OSError:
            return b""

    def end(self) -> None:
        """Write what is buffered and close, whoever has closed it before."""
        text, fd = self._text, self._fd
        self._text, self._fd = None, -1
        try:
            if text is not None and not text.closed:
                text.flush()
        finally:
            if fd >= 0:
                os.close(fd)

    def __getattr__(self, name: str) -> Any:
        """Everything else that a text file has."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._text_file(), name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    def _say_again(self, attempt: int, started: float | None) -> None:
        from mpifarm.logfiles import encode_again  # for what runs a second time

        farm = os.environ.get("MPIFARM_FARM", "")
        host = f"host {os.uname().nodename}"
        self._say(encode_again(attempt, farm, started, host))

    def _say(self, text: str) -> None:
        _write_line(self._fd, self.name, text)

    def _text_file(self) -> TextIO:
        if self._text is None:
            self._text = open(  # noqa: SIM115 - closed by end()
                self._fd,
                "a",
                encoding="utf-8",
                errors="surrogateescape",
                closefd=False,
            )
        return self._text


class LogKeeper:
    """Where the tasks of one worker, one at a time, have their logs.

    This one has a file ``log_<id>`` in `directory` for each task.
    """

    is_shared = False
    """Whether the files are all tasks' own: one that can't be written says nothing of
    the task that was to begin."""

    def __init__(self, directory: str) -> None:
        self._prefix = os.path.join(directory, "log_")

    def path_of(self, taskid: int) -> str:
        """The file to name where something is wrong with the log of this task."""
        return f"{self._prefix}{taskid}"

    def begin(self, taskid: int, attempt: int) -> TaskLog:
        """The log of an attempt that begins; raises OSError where there is none."""
        return TaskLog(self.path_of(taskid), attempt)

    def end(self, log: TaskLog, *, failed: bool) -> None:
        """The attempt has ended; raises OSError or ValueError, as `TaskLog.end`."""
        log.end()

    def close(self) -> None:
        """The worker ends, and no attempt of it runs."""


def create_log_keeper(definition: PoolDefinition, worker: int) -> LogKeeper:
    """The keeper for what a farm keeps (`PoolDefinition.kept_logs`)."""
    if definition.kept_logs == "all":
        return LogKeeper(definition.logs)
    from mpifarm.pool.scratch import create_scratch_keeper

    return create_scratch_keeper(definition, worker)


def time_limit_line(seconds: float) -> str:
    """What is said of a run that took too long."""
    return f"ended after {seconds:g} s, the limit of --task-timeout"


def note_in_log(definition: PoolDefinition, worker: int, task: int, text: str) -> None:
    """Say this of the attempt at which a worker has died; raises OSError."""
    path = os.path.join(definition.logs, f"log_{task}")
    if definition.kept_logs == "all":
        append_own_line(path, text)
        return
    from mpifarm.pool.scratch import find_scratch_of

    scratch = find_scratch_of(definition, worker, task)
    if scratch is None or not append_own_line(scratch, text):
        append_own_line(path, text, os.O_CREAT)


def append_own_line(path: str, text: str, flags: int = 0) -> bool:
    """Say this in a log whose own worker can't any more; False if there is none."""
    try:
        fd = os.open(path, os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC | flags, 0o666)
    except OSError:
        return False
    try:
        _write_line(fd, path, text)
    finally:
        os.close(fd)
    return True


def _write_line(fd: int, path: str, text: str) -> None:
    line = f"=== mpifarm: {text} ===\n"
    if not _ends_with_newline(fd, path):
        line = "\n" + line
    os.write(fd, line.encode("utf-8", "surrogateescape"))


def _ends_with_newline(fd: int, path: str) -> bool:
    size = os.fstat(fd).st_size
    if not size:
        return True
    try:
        with open(path, "rb", buffering=0) as written:
            written.seek(size - 1)
            return written.read(1) == b"\n"
    except OSError:  # written by us but not readable, or not a plain file
        return False


def _signal_name(signum: int) -> str:
    try:
        return f" ({signal.Signals(signum).name})"
    except ValueError:  # a real-time signal
        return ""
