"""Whether a command failed because memory ran out: the evidence, and the detector.

Rules of this file: it is asked about failed tasks alone, and reads only.  Its evidence
stands in docs/when-tasks-fail.md, word by word.
"""

import signal
from contextlib import suppress

from mpifarm.model.settings import TaskLimits
from mpifarm.output.task_log import TaskLog
from mpifarm.system import task_command

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

PROC_CGROUP = "/proc/self/cgroup"
PROC_MOUNTS = "/proc/self/mounts"

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
    """Return the text of the line on a run that was ended: it had `size` bytes."""
    about = f"{size >> 20} MB" if size < 10 * 2**30 else f"{size / 2**30:.1f} GB"
    return (
        f"it was ended, because memory ran out: its processes had {about} together, and"
        f" the limit is {readable_size(limit)} (--task-memory)"
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


def parse_oom_kills(content: bytes) -> int | None:
    """Return the number behind ``oom_kill``; None on an old kernel, which has none."""
    for line in content.splitlines():
        name, _, number = line.partition(b" ")
        if name == b"oom_kill" and number.strip().isdigit():
            return int(number)
    return None


def find_oom_file() -> str | None:
    """Return the file of our own cgroup (version 2 or 1) that counts OOM kills.

    None if there is no such cgroup.
    """
    try:
        with open(PROC_CGROUP, encoding="utf-8", errors="surrogateescape") as file:
            cgroups = file.read()
        with open(PROC_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = file.read()
    except OSError:
        return None
    return parse_oom_file(cgroups, mounts)


def parse_oom_file(cgroups: str, mounts: str) -> str | None:
    """Return the file that counts OOM kills of our own cgroup; None if there is none.

    `cgroups` and `mounts` are the contents of /proc/self/cgroup and /proc/self/mounts.
    Where versions 1 and 2 are mounted, version 1 counts.
    """
    places = {}
    for line in mounts.splitlines():
        _, place, kind, options, *_ = [*line.split(" "), "", "", "", ""]
        if kind == "cgroup2":
            places["2"] = place
        elif kind == "cgroup" and "memory" in options.split(","):
            places["1"] = place
    own = {}
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            own["1"] = path
        elif not controllers:
            own["2"] = path
    # Where both are mounted, the older one controls memory.
    for version, name in (("1", "memory.oom_control"), ("2", "memory.events")):
        if version in places and version in own:
            return f"{places[version]}{own[version].rstrip('/')}/{name}"
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
            return "it was killed by the kernel, because the memory of the job ran out"
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
