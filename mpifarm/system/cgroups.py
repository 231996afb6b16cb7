"""The cgroups of this process and of its tasks: the owner of their file system.

Rules of this file:

- A cgroup is made only in one that was *delegated* to us: systemd has marked it so, or
  it is the root of a container.  Every other belongs to systemd or to a batch system,
  even where this user may write to it: nothing is changed there.
- Version 2 lets a cgroup have either processes or children that are bounded.  So the
  processes of the delegated one are moved into a child, `PROCESSES`, which stays.
- A task's cgroup is made for its first command, and removed at its end.  The worker
  enters it, starts the command, and leaves: so no process of the task is ever outside.
- A cgroup that can't be removed has processes.  Those that dead farms have left are
  removed at the next start.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from mpifarm.system import processes

PROC_CGROUP = "/proc/self/cgroup"
PROC_MOUNTS = "/proc/self/mounts"

PROCESSES = "mpifarm-processes"
"""The child of a delegated cgroup that has its processes (version 2)."""

PID_NAMESPACE = "/proc/self/ns/pid"

_HOME = re.compile(r"mpifarm-([0-9]+)-([0-9]+)")
"""The name of the cgroup that has those of a rank's tasks: by the namespace of pids and
the fork server's pid in it.  Two containers may share a cgroup, and not their pids."""

_MARKS = ("trusted.delegate", "user.delegate")
"""The attributes by which systemd says that it leaves a cgroup to others."""

_MOVES = 100
"""Tries to move all processes of a cgroup, which may start others meanwhile."""
_PAUSE = 0.005
REMOVALS = 60
"""Tries to remove cgroups whose processes are just dying."""
_ASK_SECONDS = 3.0
_NEAR = 2**20
"""Bytes below its limit at which a cgroup may have met it: the kernel counts ahead."""


class NoCgroupError(Exception):
    """Raised where no cgroup can be made; the text says why."""


class OwnCgroup(NamedTuple):
    """The cgroup of this process that counts its memory."""

    version: int
    mount: str
    """Where the hierarchy is mounted."""
    path: str
    """Its path there, as in /proc/self/cgroup."""

    @property
    def directory(self) -> str:
        """Return its directory."""
        return f"{self.mount}{self.path.rstrip('/')}"


# ---- the own one ---------------------------------------------------------------------


def find_own() -> OwnCgroup | None:
    """Return this process's cgroup that counts memory, None if there is none."""
    try:
        with open(PROC_CGROUP, encoding="utf-8", errors="surrogateescape") as file:
            cgroups = file.read()
        with open(PROC_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = file.read()
    except OSError:
        return None
    return parse_own(cgroups, mounts)


def parse_own(cgroups: str, mounts: str) -> OwnCgroup | None:
    """Return the cgroup that counts memory; None if there is none.

    `cgroups` and `mounts` are the contents of /proc/self/cgroup and /proc/self/mounts.
    Where versions 1 and 2 are mounted, version 1 counts.
    """
    places = {}
    for line in mounts.splitlines():
        _, place, kind, options, *_ = [*line.split(" "), "", "", "", ""]
        if kind == "cgroup2":
            places[2] = place
        elif kind == "cgroup" and "memory" in options.split(","):
            places[1] = place
    own = {}
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            own[1] = path
        elif not controllers:
            own[2] = path
    # Where both are mounted, the older one controls memory.
    for version in (1, 2):
        if version in places and version in own:
            return OwnCgroup(version, places[version], own[version])
    return None


def find_oom_file() -> str | None:
    """Return the file of our own cgroup that counts OOM kills, None if none does."""
    own = find_own()
    return own and f"{own.directory}/{_OOM_FILES[own.version]}"


_OOM_FILES = {1: "memory.oom_control", 2: "memory.events"}


def parse_oom_kills(content: bytes) -> int | None:
    """Return the number behind ``oom_kill``; None on an old kernel, which has none."""
    return _parse_count(content, b"oom_kill")


def _parse_count(content: bytes, wanted: bytes) -> int | None:
    """Return the number behind a word at the beginning of a line; None if not there."""
    for line in content.splitlines():
        name, _, number = line.partition(b" ")
        if name == wanted and number.strip().isdigit():
            return int(number)
    return None


# ---- what was delegated --------------------------------------------------------------


class Delegated(NamedTuple):
    """A cgroup in which this process may make others."""

    version: int
    directory: str


def find_delegated() -> Delegated:
    """Return the cgroup that was delegated to us.  Raises `NoCgroupError`.

    It is that of this process, or the one above if its processes have been moved.
    """
    own = find_own()
    # A path with ".." is outside of the namespace, whose root is what is mounted.
    if own is None or "/.." in own.path or not os.path.isdir(own.directory):
        raise NoCgroupError("no cgroup counts the memory of this process")
    if os.path.basename(own.path) == PROCESSES:
        own = own._replace(path=os.path.dirname(own.path))
    directory = own.directory
    _check_writable(directory, own.version)
    if not _is_delegated(own):
        raise NoCgroupError(f"the cgroup {directory} was not delegated")
    _check_memory(directory, own.version)
    return Delegated(own.version, directory)


def _check_writable(directory: str, version: int) -> None:
    names = [".", "cgroup.procs", *["cgroup.subtree_control"] * (version == 2)]
    if not all(os.access(f"{directory}/{name}", os.W_OK) for name in names):
        raise NoCgroupError(f"this user may not write to the cgroup {directory}")


def _check_memory(directory: str, version: int) -> None:
    """Raise `NoCgroupError` where children of a cgroup could not bound memory."""
    name, word = {
        1: ("memory.use_hierarchy", b"1"),  # else a child is free of its parent's limit
        2: ("cgroup.controllers", b"memory"),
    }[version]
    try:
        if word in _read(f"{directory}/{name}").split():
            return
    except OSError:
        pass
    raise NoCgroupError(f"the cgroup {directory} has no memory controller")


def _is_delegated(own: OwnCgroup) -> bool:
    if own.path == "/":
        return _is_of_container(own)
    unit = os.path.basename(own.path)
    if unit.endswith(".service") and not unit.startswith("run-"):
        return False  # It was delegated to a daemon, such as slurmd, which is in it.
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(own.directory, mark) == b"1":
                return True
    return f"/user@{os.getuid()}.service/" in own.path and _is_users_unit(own.path)


def _is_of_container(own: OwnCgroup) -> bool:
    """Return whether a root is that of a namespace, and not the one of the machine."""
    if own.version == 1:
        return not os.path.exists(f"{own.directory}/release_agent")
    return os.path.exists(f"{own.directory}/cgroup.type")


def _is_users_unit(path: str) -> bool:
    """Return whether the user's systemd has delegated a cgroup, which it doesn't mark.

    Wait up to `_ASK_SECONDS` for its answer.
    """
    unit = os.path.basename(path)
    words = ["systemctl", "--user", "show", "--property=Delegate", "--", unit]
    try:
        inquiry = processes.Inquiry(words, os.environ)
    except OSError:
        return False
    until = time.monotonic() + _ASK_SECONDS
    while (answer := inquiry.collect()) is None:
        if time.monotonic() > until:
            inquiry.end()
            return False
        time.sleep(_PAUSE)
    return answer.strip() == "Delegate=yes"


# ---- those of tasks ------------------------------------------------------------------


def name_of_task(worker: int, serial: int) -> str:
    """Return the name of the cgroup of a task: its worker's index, its lease."""
    return f"{worker}-{serial}"


class TaskCgroups:
    """The cgroups of the tasks of a rank, below one that was delegated."""

    def __init__(self, delegated: Delegated, limit: int) -> None:
        """Prepare the delegated cgroup, and make one for those of the tasks.

        `limit` is in bytes.  Raises `NoCgroupError`.
        """
        self.version, above = delegated
        self.limit = limit
        self.outside = above
        """The cgroup of the workers between two tasks."""
        self._home = ""
        """The cgroup that has those of the tasks, "" if it is not made."""
        try:
            if self.version == 2:
                self.outside = f"{above}/{PROCESSES}"
                _let_children_bound(above, self.outside)
            namespace = os.stat(PID_NAMESPACE).st_ino
            _remove_stale(above, namespace)
            home = f"{above}/mpifarm-{namespace}-{os.getpid()}"
            os.mkdir(home)
            self._home = home
            if self.version == 2:
                _write(f"{self._home}/cgroup.subtree_control", "+memory")
            self.make("trial")
            os.rmdir(self.path_of("trial"))
        except OSError as error:
            self.close()
            raise NoCgroupError(f"{error.filename}: {error.strerror}") from error

    def path_of(self, name: str) -> str:
        """Return the directory of a task's cgroup."""
        return f"{self._home}/{name}"

    def make(self, name: str) -> str:
        """Make the cgroup of a task, with its limit.  Return its directory.

        Raises OSError.
        """
        directory = self.path_of(name)
        os.mkdir(directory)
        if self.version == 1:
            _write(f"{directory}/memory.limit_in_bytes", str(self.limit))
            _write_if_there(f"{directory}/memory.memsw.limit_in_bytes", str(self.limit))
        else:
            _write(f"{directory}/memory.max", str(self.limit))
            _write_if_there(f"{directory}/memory.swap.max", "0")
            _write_if_there(f"{directory}/memory.oom.group", "1")
        return directory

    def count_kills(self, name: str) -> int:
        """Return how many processes of a task the kernel killed for memory.

        0 where the task has no cgroup.
        """
        try:
            content = _read(f"{self.path_of(name)}/{_OOM_FILES[self.version]}")
        except OSError:
            return 0
        return parse_oom_kills(content) or 0

    def has_met_limit(self, name: str) -> bool:
        """Return whether a task met its own limit, and not one of the job."""
        directory = self.path_of(name)
        with suppress(OSError, ValueError):
            if self.version == 1:  # of which newer kernels count no failures
                peak = int(_read(f"{directory}/memory.max_usage_in_bytes"))
                return peak > self.limit - _NEAR
            return bool(_parse_count(_read(f"{directory}/memory.events"), b"oom"))
        return False

    def processes(self, name: str) -> list[int]:
        """Return the processes that a task has in its cgroup; [] if it has none."""
        try:
            return [*_processes_in(self.path_of(name))]
        except OSError:
            return []

    def close(self) -> None:
        """Remove all cgroups of the rank that have no processes any more."""
        for _ in range(REMOVALS if self._home else 0):
            if _remove_tree(self._home):
                return
            time.sleep(_PAUSE)


class TaskCgroup:
    """The cgroup of the task of one worker."""

    def __init__(self, cgroups: TaskCgroups) -> None:
        self._cgroups = cgroups
        self._name = ""
        self._is_made = False

    def begin(self, name: str) -> None:
        """Begin a task, without a cgroup until `enter`."""
        self._name, self._is_made = name, False

    def enter(self) -> None:
        """Put this process into the task's cgroup, made if need be.

        Where that can't be, the task has none.
        """
        with suppress(OSError):
            if not self._is_made:
                self._cgroups.make(self._name)
                self._is_made = True
            _move(os.getpid(), self._cgroups.path_of(self._name))

    def leave(self) -> None:
        """Take this process out of the task's cgroup."""
        with suppress(OSError):
            _move(os.getpid(), self._cgroups.outside)

    def count_kills(self) -> int:
        """Return how many processes of the task the kernel killed for memory."""
        return self._cgroups.count_kills(self._name) if self._is_made else 0

    def has_met_limit(self) -> bool:
        """Return whether the task met its own limit, and not one of the job."""
        return self._is_made and self._cgroups.has_met_limit(self._name)

    def processes(self) -> list[int]:
        """Return the processes that the task has now; this one, if stuck, is none."""
        found = self._cgroups.processes(self._name) if self._is_made else []
        return [pid for pid in found if pid != os.getpid()]

    def end(self, tries: int = 1) -> None:
        """Remove the task's cgroup, unless a process is left in it.

        Wait for processes that are dying in between so many `tries`.
        """
        if not self._is_made:
            return
        self._is_made = False
        for _ in range(tries):
            try:
                os.rmdir(self._cgroups.path_of(self._name))
            except OSError:
                time.sleep(_PAUSE if tries > 1 else 0)
            else:
                return


def open_task_cgroups(limit: int) -> TaskCgroups | None:
    """Return cgroups for tasks of `limit` bytes each, None where none can be made."""
    try:
        return TaskCgroups(find_delegated(), limit)
    except NoCgroupError:
        return None


# ---- files ---------------------------------------------------------------------------


def _let_children_bound(directory: str, outside: str) -> None:
    """Have the children of a cgroup bound memory (version 2).  Raises OSError.

    Other ranks of this node may do the same in the same moment.
    """
    with suppress(FileExistsError):
        os.mkdir(outside)
    for _ in range(_MOVES):
        for pid in _processes_in(directory):
            with suppress(ProcessLookupError):
                _move(pid, outside)
        try:
            _write(f"{directory}/cgroup.subtree_control", "+memory")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(_PAUSE)  # a process has started another
            continue
        return
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), directory)


def _remove_stale(above: str, namespace: int) -> None:
    """Remove what farms of this namespace of pids left whose fork server is dead."""
    for name in os.listdir(above):
        found = _HOME.fullmatch(name)
        is_ours = found and int(found[1]) == namespace
        if found and is_ours and not processes.is_alive(int(found[2])):
            _remove_tree(f"{above}/{name}")


def _remove_tree(directory: str) -> bool:
    """Remove a cgroup and its children as far as they are empty.

    Return whether it is gone.
    """
    try:
        children = [each.path for each in os.scandir(directory) if each.is_dir()]
    except OSError:
        return not os.path.exists(directory)
    for path in [*children, directory]:
        with suppress(OSError):
            os.rmdir(path)
    return not os.path.exists(directory)


def _processes_in(directory: str) -> Iterator[int]:
    """Yield the processes of a cgroup; 0, one of another namespace, is left out."""
    yield from filter(None, map(int, _read(f"{directory}/cgroup.procs").split()))


def _move(pid: int, directory: str) -> None:
    _write(f"{directory}/cgroup.procs", str(pid))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    """Write to a file of the kernel, which must be there, in one call."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _write_if_there(path: str, text: str) -> None:
    """Write to a file that not every kernel has."""
    with suppress(FileNotFoundError):
        _write(path, text)
