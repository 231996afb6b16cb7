"""Whether a command failed because memory ran out: what speaks for it.

Rules of this file: it reads; nothing is decided on the way of a task that succeeds.
What it goes by stands in docs/when-tasks-fail.md, word by word.
"""

import signal

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
"""In which programs and libraries say so, in small letters."""

OTHER_MEMORY = (b"cuda", b"gpu", b"hip out of", b"device memory")
"""Where these stand on the line as well, it was not the kernel's to give."""

PROC_CGROUP = "/proc/self/cgroup"
PROC_MOUNTS = "/proc/self/mounts"

KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Statuses of a command that was KILLed, or whose child was, as shells tell it."""


def has_met_limit(peak: int, limit: int, log_end: bytes) -> bool:
    """Whether a failed command has met its limit (both in bytes)."""
    return peak >= NEAR * limit or says_so(log_end)


def says_so(log_end: bytes) -> bool:
    """Whether a line says that memory ran out."""
    lines = log_end.lower().splitlines()
    return any(
        any(word in line for word in WORDS)
        and not any(word in line for word in OTHER_MEMORY)
        for line in lines
    )


def readable_size(size: int) -> str:
    """``500 MB``, ``4 GB``, of 1024 each; or bytes where it is no such number."""
    for unit, name in ((2**30, "GB"), (2**20, "MB"), (2**10, "KB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


class OomKills:
    """How often the kernel killed a process of our own cgroup for want of memory."""

    def __init__(self) -> None:
        self._path = find_oom_file()
        self._count = self._read()

    def has_grown(self) -> bool:
        """Whether it is more than when last asked."""
        before, self._count = self._count, self._read()
        return before is not None and self._count is not None and self._count > before

    def _read(self) -> int | None:
        if self._path is None:
            return None
        try:
            with open(self._path, "rb") as file:
                return parse_oom_kills(file.read())
        except OSError:
            return None


def parse_oom_kills(content: bytes) -> int | None:
    """The number behind ``oom_kill``; None where there is none (an old kernel)."""
    for line in content.splitlines():
        name, _, number = line.partition(b" ")
        if name == b"oom_kill" and number.strip().isdigit():
            return int(number)
    return None


def find_oom_file() -> str | None:
    """The file of our own cgroup that counts, of version 2 or 1; None: none is."""
    try:
        with open(PROC_CGROUP, encoding="utf-8", errors="surrogateescape") as file:
            cgroups = file.read()
        with open(PROC_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = file.read()
    except OSError:
        return None
    return parse_oom_file(cgroups, mounts)


def parse_oom_file(cgroups: str, mounts: str) -> str | None:
    """The same from the texts of /proc/self/cgroup and /proc/self/mounts."""
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
    # Where both are mounted, the memory is with the older one.
    for version, name in (("1", "memory.oom_control"), ("2", "memory.events")):
        if version in places and version in own:
            return f"{places[version]}{own[version].rstrip('/')}/{name}"
    return None
