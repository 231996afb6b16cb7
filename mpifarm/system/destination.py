"""Where an output of this process ends: on a terminal, in a log, or nobody knows.

Rules of this file: it looks at links in /proc, writes nothing, and raises nothing.

A launcher forwards the output of its ranks through a pipe, or a terminal of its own
(Open MPI 4).  Where the launcher runs on the same host, it is an ancestor of the rank,
and the output ends where that of the launcher does.  srun is no ancestor.
"""

import os
import stat
from enum import Enum
from typing import NamedTuple

_MAX_NAME = 15
"""Characters that the kernel keeps of a program's name."""

_LAUNCHERS = frozenset(
    name[:_MAX_NAME]
    for name in (
        *("mpiexec", "mpirun", "mpiexec.hydra", "mpirun.mpich", "mpiexec.mpich"),
        *("hydra_pmi_proxy", "hydra_bstrap_proxy", "pmi_proxy"),
        *("mpirun.openmpi", "mpiexec.openmpi", "orterun", "prterun", "prte"),
        *("orted", "prted"),
    )
)
"""Programs that forward the output of their children, by their names in /proc."""

_MAX_ANCESTORS = 16


class Place(Enum):
    """The kinds of places where an output ends."""

    TERMINAL = "terminal"
    FORWARDED = "terminal behind a launcher"
    LOG = "log"
    UNKNOWN = "unknown"


class Destination(NamedTuple):
    """The place where an output ends."""

    place: Place
    path: str = ""
    """The path in /proc of the terminal; "" without one."""

    def count_columns(self) -> int:
        """Return the width of the terminal now; 80 if it is unknown."""
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            fd = os.open(self.path, flags)
        except OSError:
            return 80
        try:
            return os.get_terminal_size(fd).columns or 80
        except OSError:
            return 80
        finally:
            os.close(fd)


def find_destination(fd: int, *, is_launched: bool = False) -> Destination:
    """Return where the descriptor `fd` ends; a launcher is looked for if `is_launched`.

    A terminal that can't show a live line (``TERM=dumb``) counts as a log.
    """
    found = _find(fd) if not is_launched else _find_behind_launcher(fd)
    if found.path and os.environ.get("TERM") == "dumb":
        return Destination(Place.LOG)
    return found


def _find(fd: int) -> Destination:
    if os.isatty(fd):
        return Destination(Place.TERMINAL, f"/proc/self/fd/{fd}")
    return Destination(Place.LOG)


def _find_behind_launcher(fd: int) -> Destination:
    own = _find(fd)
    if own.place is Place.LOG and not _is_pipe(fd):
        return own
    pid, sharing = os.getppid(), _read_output("self", fd)
    for _ in range(_MAX_ANCESTORS):
        # A script around the rank has the rank's own output.
        if _read_output(str(pid), fd) != sharing:
            break
        pid = _find_parent(pid)
    if _name(pid) not in _LAUNCHERS:
        # On a terminal: srun --pty, or a shell in a step.
        return own if own.path else Destination(Place.UNKNOWN)
    return _find_end_of_launcher(pid, fd)


def _find_end_of_launcher(pid: int, fd: int) -> Destination:
    """Return where the output of the launcher `pid` ends, or that of its own launcher.

    A proxy forwards to the launcher that has started it, if that is on this host.
    """
    output = ""
    for _ in range(_MAX_ANCESTORS):
        path = f"/proc/{pid}/fd/{fd}"
        output = _read_output(str(pid), fd)
        parent = _find_parent(pid)
        if output.startswith(("/dev/pts/", "/dev/tty")):
            return Destination(Place.FORWARDED, path)
        if _name(parent) not in _LAUNCHERS:
            break
        pid = parent
    is_proxy = _name(pid).startswith(("hydra_", "pmi_", "orted", "prted"))
    return Destination(Place.UNKNOWN if is_proxy or not output else Place.LOG)


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _read_output(pid: str, fd: int) -> str:
    """Return what descriptor `fd` of a process is, as /proc says it; "" if unknown."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""


def _find_parent(pid: int) -> int:
    """Return the parent of a process; 0 if it is unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _name(pid: int) -> str:
    """Return the name of a process's program; "" if it is unknown."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
