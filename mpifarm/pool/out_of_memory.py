"""Whether a command failed because memory ran out: the evidence, and the detector.

Rules of this file: it is asked about failed tasks alone, and reads only.  Its evidence
stands in docs/when-tasks-fail.md, word by word.
"""

import signal
from contextlib import suppress

from mpifarm.model.settings import TaskLimits
from mpifarm.output.task_log import TaskLog
from mpifarm.pool.shared_state import BY_KERNEL
from mpifarm.system import task_command
from mpifarm.system.cgroups import find_oom_file, parse_oom_kills

NEAR = 0.9
"""A process whose peak was this share of its limit has met it."""

LOG_END = 16384
"""Bytes at the end of a log in which a program may say that memory ran out."""

WORDS = (
    b"out of memory",  # Perl, Julia, Go, many others
    b"outofmemory",  # Java, .NET, Julia
    b"memoryerror",  # Python
    b"bad_alloc",  # C++
    b"cannot allocate",  # libc, bash, R
    b"can't allocate",
    b"unable to allocate",  # NumPy
    b"could not allocate",
    b"failed to allocate",
    b"error allocating",  # Fortran of GCC
    b"memory allocation of",  # Rust
    b"allocation failed",
    b"memory exhausted",  # GNU's tools
    b"insufficient memory",  # Java
    b"insufficient virtual memory",  # Fortran of Intel
    b"not enough memory",
)
"""Words by which programs and libraries say so, in small letters."""

OTHER_MEMORY = (b"cuda", b"gpu", b"hip out of", b"device memory")
"""A line that names one of these as well is about memory that is not the kernel's."""

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Statuses of a command that was KILLed, or (by its shell) whose child was."""


def has_met_limit(peak: int, limit: int, log_end: bytes) -> bool:
    """Return whether a failed command has met its limit (both in bytes)."""
    return peak >= NEAR * limit or tells_of_memory(log_end)


def tells_of_memory(log_end: bytes) -> bool:
    """Return whether a line says that memory ran out, and not a GPU's."""
    lines = log_end.lower().splitlines()
    return any(
        any(word in line for word in WORDS)
        and not any(word in line for word in OTHER_MEMORY)
        for line in lines
    )


def readable_size(size: int) -> str:
    """Return ``500 MB``, ``4 GB`` (of 1024 each), or bytes where that is not exact."""
    for unit, name in ((2**30, "GB"), (2**20, "MB"), (2**10, "KB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def excess_line(size: int, limit: int) -> str:
    """Return the text of the line on a run that was ended: it had `size` bytes.

    With `BY_KERNEL` the size is not known.
    """
    if size == BY_KERNEL:
        return kernel_line(limit)
    from mpifarm.model.wording import size_in_words  # most workers never need it

    return (
        "it was ended, because memory ran out: its processes had"
        f" {size_in_words(size)} together, and the limit is {readable_size(limit)}"
        " (--task-memory)"
    )


JOB_LINE = "it was killed by the kernel, because the memory of the job ran out"
"""The text of the line on a run that met a limit which is not its own."""


def kernel_line(limit: int) -> str:
    """Return the text of the line on a run that met the limit of its cgroup."""
    return (
        "it was ended by the kernel, because memory ran out: the limit is"
        f" {readable_size(limit)} for all its processes together (--task-memory)"
    )


class OomKills:
    """The count of processes of our own cgroup that the kernel killed for memory."""

    def __init__(self) -> None:
        self._path = find_oom_file()
        self._count = self._read()

    def has_grown(self) -> bool:
        """Count anew.  Return whether the count has grown since the last call.

        False where the kernel does not say.
        """
        before, self._count = self._count, self._read()
        return before is not None and self._count is not None and self._count > before

    def _read(self) -> int | None:
        """Return the count, or None where the kernel does not say."""
        if self._path is None:
            return None
        try:
            with open(self._path, "rb") as file:
                return parse_oom_kills(file.read())
        except OSError:
            return None


class OomDetector:
    """The limit of the commands' memory, and the evidence of those that met it.

    Creating one sets the limit on this process, and raises InputError if the limit is
    too little for the worker itself.
    """

    def __init__(self, limits: TaskLimits) -> None:
        self._kills = OomKills()
        self._limit: int | None = None
        self._option = "--task-memory"
        if limits.memory is not None:
            self._limit = task_command.limit_memory(limits.memory)
            if self._limit < limits.memory:
                self._option = "ulimit -d"

    def find_reason(self, status: int, log: TaskLog) -> str | None:
        """Flush the log; return the line for it if memory ran out, otherwise None.

        `status` is that of a failed command, as in `subprocess`.
        """
        if status in KILLED and self._kills.has_grown():
            return JOB_LINE
        limit = self._limit
        if limit is None:
            return None
        with suppress(OSError, ValueError):  # `TaskLog.end` reports it
            log.flush()
        end = log.read_end(LOG_END)
        if not has_met_limit(task_command.peak_memory(), limit, end):
            return None
        return (
            "it failed, and memory ran out: the limit is "
            f"{readable_size(limit)} for each process ({self._option})"
        )
