"""The log of a task: ``log_<id>``, or what becomes a part of other files.

Rules of this file:

- A log is opened for append, so nothing ever erases an earlier attempt's output.
- mpifarm's own lines look like ``=== mpifarm: ... ===`` and start at the start of a
  line.
- What stands in the place of a log but is not a file of this task alone (a link, a
  fifo, a second name of another file) is moved or removed.
- An error after the end of the run does not change the task's outcome: it is kept as
  `trouble`, for the user.  Every other error is raised as an OSError.
"""

import errno
import os
import signal
import time
from typing import Any, NamedTuple, Self, TextIO

from mpifarm.model.paths import LOG_PREFIX
from mpifarm.system.regular_files import OddFileError, open_regular

_APPEND = os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
_NEW = _APPEND | os.O_CREAT | os.O_EXCL

_MAX_RACES = 10
"""Tries to open a log in whose place something comes and goes."""


class LogPlace(NamedTuple):
    """Directory, farm, rank and kind of the outputs of one rank's tasks."""

    directory: str
    farm: str
    rank: int
    kind: str
    """Which outputs are kept: one of `settings.LOG_KINDS`."""


class TaskLog:
    """The `logfh` of a runner, with all attributes of a text file.

    Opening an earlier attempt's log appends a line about this attempt.  The text layer
    is made at its first use: most runners only take `fileno()`.

    `started` is in seconds since the epoch, None for now.  The constructor raises
    OSError.
    """

    def __init__(self, path: str, attempt: int, started: float | None = None) -> None:
        self.name = path
        self.trouble = ""
        """The first error behind the run, as words for the user; "" without one."""
        self._text: TextIO | None = None
        # The size before this attempt: `read_end` shows nothing of earlier attempts.
        self._fd, self._begin = _open_log(path)
        self._output_begin = 0
        """Size of the log before the first byte of the attempt's own output."""
        try:
            if self._begin:
                self._write_again_line(attempt, started)
                self._output_begin = os.fstat(self._fd).st_size
        except OSError:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Flush the text layer, and return the descriptor."""
        # So that text written before stands before what a command writes.
        if self._text is not None:
            self._text.flush()
        return self._fd

    def write(self, text: str) -> int:
        """Write text as UTF-8 with ``surrogateescape``; return its length."""
        return self._text_file().write(text)

    def flush(self) -> None:
        """Flush the text layer, if there is one."""
        if self._text is not None:
            self._text.flush()

    def append_killed_line(self, signum: int) -> None:
        """Append the line on a killed command; keep an error as `trouble`."""
        self.append_own_line(f"killed by signal {signum}{_signal_name(signum)}")

    def append_own_line(self, text: str) -> None:
        """Flush, then append mpifarm's own line; keep an error as `trouble`."""
        try:
            self.flush()
            self._write_line(text)
        except (OSError, ValueError) as error:
            self.note_trouble(error)

    def note_trouble(self, error: Exception, what: str = "write the end of") -> None:
        """Set `trouble` to a sentence about an error, unless there is one already.

        `what` is the verb of the sentence with its object.
        """
        if not self.trouble:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self.trouble = f"can't {what} {self.name}: {why}"

    def close(self) -> None:
        """Close the text layer, for runners; keep an error as `trouble`.

        The descriptor stays open until `end`.
        """
        try:
            self._text_file().close()
        except (OSError, ValueError) as error:
            self.note_trouble(error)

    def output_bytes(self) -> int:
        """Return how many bytes the attempt has written so far; 0 if unknown."""
        try:
            if self._text is not None:
                self._text.flush()
            # A third of what fstat takes; the log is only appended to.
            size = os.lseek(self._fd, 0, os.SEEK_END)
        except (OSError, ValueError):  # `end` reports it
            return 0
        return max(size - self._output_begin, 0)

    def read_end(self, most: int) -> bytes:
        """Return the last bytes, `most` at most, that this attempt has written.

        Return b"" if the log cannot be read.
        """
        try:
            with open(open_regular(self.name, os.O_RDONLY), "rb", 0) as written:
                size = written.seek(0, os.SEEK_END)
                written.seek(max(self._begin, size - most))
                return written.read(most)
        except OSError:
            return b""

    def end(self) -> None:
        """Write buffered text and close the descriptor; keep an error as `trouble`.

        A second call, or one after a runner's `close`, does no harm.
        """
        fd = self._fd
        if self._text is not None:
            self._end_text(self._text)
        self._text, self._fd = None, -1
        try:
            if fd >= 0:
                os.close(fd)
        except OSError as error:
            self.note_trouble(error)

    def _end_text(self, text: TextIO) -> None:
        try:
            if not text.closed:
                text.close()  # not the descriptor
        except (OSError, ValueError) as error:
            self.note_trouble(error)

    def __getattr__(self, name: str) -> Any:
        """Make the text layer if needed, and return its attribute `name`."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._text_file(), name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.flush()
        except (OSError, ValueError) as error:
            self.note_trouble(error)

    def _write_again_line(self, attempt: int, started: float | None) -> None:
        from mpifarm.output.records import encode_again  # a first attempt needs none

        farm = os.environ.get("MPIFARM_FARM", "")
        host = f"host {os.uname().nodename}"
        self._write_line(encode_again(attempt, farm, started, host))

    def _write_line(self, text: str) -> None:
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


# ---- opening ------------------------------------------------------------------------


def _open_log(path: str) -> tuple[int, int]:
    """Create a log, or open the one of an earlier attempt.

    Move or remove a file in its place that is not a log.  Return the log's descriptor
    and its size in bytes, 0 for a new log.  Raises OSError, also if other processes
    keep getting in the way.
    """
    for _ in range(_MAX_RACES):
        try:
            # First: nearly every log is new.
            return os.open(path, _NEW, 0o666), 0
        except FileExistsError:
            found = _find_log(path)
            if found is not None:
                return found
    raise OSError(errno.EAGAIN, "it comes and goes", path)


def _find_log(path: str) -> tuple[int, int] | None:
    """Open the log of an earlier attempt for appending.

    Return its descriptor and its size in bytes, None if there is no such log.  A file
    that is not a log, or that this user cannot open, is moved or removed.
    """
    try:
        descriptor = open_regular(path, _APPEND)
    except FileNotFoundError:
        return None
    except (OddFileError, PermissionError) as error:
        _make_way(path, error)
        return None
    status = os.fstat(descriptor)
    if status.st_nlink > 1:
        # It may be a second name, made by another user, of a file that is not a log.
        os.close(descriptor)
        os.unlink(path)
        return None
    # `open_regular` does not block; a command's write must.
    os.set_blocking(descriptor, True)
    return descriptor, status.st_size


def _make_way(path: str, error: OSError) -> None:
    """Move a directory or an unreadable file away from a log's place; remove others.

    Raises `error` if that fails.
    """
    try:
        if isinstance(error, PermissionError) or os.path.isdir(path):
            # It may be another user's output: keep it.
            os.rename(path, f"{path}.before-{time.strftime('%Y%m%d-%H%M%S')}")
        else:
            os.unlink(path)
    except OSError:
        raise error from None


def blames_one_task(path: str) -> bool:
    """Return whether only this log cannot be opened: it exists, others can be made.

    Make and remove a file beside it to find out.
    """
    beside = os.path.join(os.path.dirname(path), f".log.{os.getpid()}")
    try:
        os.lstat(path)
        os.close(os.open(beside, _NEW, 0o666))
        os.unlink(beside)
    except OSError:
        return False
    return True


# ---- who has the logs ---------------------------------------------------------------


class LogKeeper:
    """Keeper of a worker's logs: a file ``log_<id>`` in `directory` for each task."""

    is_shared = False
    """Whether tasks share the keeper's files: one that can't be written is not the
    fault of the task that was to begin."""

    def __init__(self, directory: str) -> None:
        self._prefix = f"{directory}/{LOG_PREFIX}"

    def path_of(self, taskid: int) -> str:
        """Return the path of the file to name in a message about a task's log."""
        return f"{self._prefix}{taskid}"

    def begin(self, taskid: int, attempt: int) -> TaskLog:
        """Open the log of an attempt that begins; raises OSError."""
        return TaskLog(self.path_of(taskid), attempt)

    def end(self, log: TaskLog, *, failed: bool) -> None:
        """Close the log of an ended attempt; an error becomes the log's `trouble`.

        `failed`: whether the attempt's output has to be kept in any case.
        """
        log.end()

    def close(self) -> None:
        """Clean up at the end of the worker, when no attempt runs."""


def time_limit_line(seconds: float) -> str:
    """Return the text of the line on a run that took too long."""
    return f"ended after {seconds:g} s, the limit of --task-timeout"


CANCELLED_LINE = "ended because a user has cancelled the task (mpifarm cancel)"
"""The text of the line on a run that was cancelled."""


def append_own_line(path: str, text: str, flags: int = 0) -> bool:
    """Append a line to the log of a dead worker's task.  Return whether it was opened.

    `flags` are further flags of `os.open`, such as O_CREAT.  Raises OSError for a write
    that fails.
    """
    try:
        fd = open_regular(path, _APPEND | flags)
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
    """Return whether a log is empty or ends with a newline; False if unreadable."""
    size = os.fstat(fd).st_size
    if not size:
        return True
    try:
        with open(open_regular(path, os.O_RDONLY), "rb", 0) as written:
            written.seek(size - 1)
            return written.read(1) == b"\n"
    except OSError:  # not readable for this user, or not a plain file
        return False


def _signal_name(signum: int) -> str:
    try:
        return f" ({signal.Signals(signum).name})"
    except ValueError:  # a real-time signal
        return ""
