"""A farm in a test: its list, its processes, and what it left on disk.

Rules of this file: a process is told by the test's token, its place in a farm by its
ancestry; nothing is ended but what carries the token.  Files are read as anyone can
read them, without mpifarm's own readers, but for the invariant checker.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from tests.invariants import find_violations
from tests.support import Child, Launch, find_pids, survivors, wait_until
from tests.workdir_files import WorkdirFiles

SLACK = 2.0
"""Seconds that a launcher and a busy machine get beyond what is promised."""

NO_LAUNCH = "listener thread failed to start"
"""What Open MPI's mpirun says, once in some hundred times on a busy machine, before it
gives up without a rank."""

_RANK_VARIABLES = (b"OMPI_COMM_WORLD_RANK", b"PMI_RANK")


class Part(Enum):
    """What a process is in a farm."""

    LAUNCHER = "launcher"
    RANK = "rank"
    PARENT = "fork server"
    WORKER = "worker"
    COMMAND = "command"


FARM_PARTS = (Part.RANK, Part.PARENT, Part.WORKER)


class Member(NamedTuple):
    """A process of a farm."""

    pid: int
    parent: int
    part: Part
    rank: int
    task: int | None
    """Of a command: the task that it is or belongs to."""


# ---- processes ----------------------------------------------------------------------


class _Sighting(NamedTuple):
    parent: int
    environ: dict[bytes, bytes]
    argv: list[bytes]


def _see(pid: int) -> _Sighting | None:
    """The process; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        argv = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    entries = (entry.partition(b"=") for entry in environ.split(b"\0"))
    return _Sighting(
        int(stat.rpartition(b") ")[2].split()[1]),
        {name: value for name, _, value in entries},
        argv.split(b"\0"),
    )


def find_members(token: str) -> list[Member]:
    """The processes of the farms that carry `token`."""
    seen = {pid: sight for pid in find_pids(token) if (sight := _see(pid))}
    return [
        Member(pid, sight.parent, _part_of(pid, seen), _rank_of(sight), _task_of(sight))
        for pid, sight in seen.items()
    ]


def _rank_of(sight: _Sighting) -> int:
    # In the middle of its exec, a process has names without values.
    names = [name for name in _RANK_VARIABLES if sight.environ.get(name)]
    return int(sight.environ[names[0]]) if names else 0


def _task_of(sight: _Sighting) -> int | None:
    task = sight.environ.get(b"MPIFARM_TASK_ID")
    return None if task is None else int(task)


def _part_of(pid: int, seen: dict[int, _Sighting]) -> Part:
    if b"MPIFARM_TASK_ID" in seen[pid].environ:
        return Part.COMMAND
    if not _is_farm(seen[pid]):
        return Part.LAUNCHER
    depth = 0
    while (parent := seen[pid].parent) in seen and _is_farm(seen[parent]):
        pid, depth = parent, depth + 1
    # deeper than a worker: a command between its fork and its exec
    return (*FARM_PARTS, Part.COMMAND)[min(depth, 3)]


def _is_farm(sight: _Sighting) -> bool:
    is_mpifarm = sight.argv[1:3] == [b"-m", b"mpifarm"]
    return is_mpifarm and sight.argv[3:4] != [b"supervise"]


def send_signal(pids: Iterable[int], signum: int) -> None:
    """To each of them that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


# ---- the farm -----------------------------------------------------------------------


class FarmDriver(WorkdirFiles):
    """A tasklist in a directory of its own, and the farms over it, one after another.

    `start_process` is the fixture `farm_processes`, `token` what its children carry.
    """

    def __init__(
        self, directory: Path, start_process: Callable[..., Child], token: str
    ) -> None:
        self.token = token
        self.commands: list[str] = []
        self._start_process = start_process
        self.move_to(directory)

    def move_to(self, directory: Path) -> None:
        """The next list is in this directory."""
        self.directory = directory
        self.tasklist = directory / "tasks.txt"
        super().__init__(directory / "tasks.txt_workdir")

    def write_list(self, commands: Iterable[str]) -> None:
        """The tasklist; a command finds its task id in ``$PROC_NUMBER``."""
        self.directory.mkdir(exist_ok=True)
        self.commands = list(commands)
        self.tasklist.write_text("".join(f"{command}\n" for command in self.commands))

    def write_program(self, name: str, text: str) -> None:
        """An executable that a command starts as ``./name``."""
        program = self.directory / name
        program.write_text(text)
        program.chmod(0o755)

    def argv(self, *options: str) -> list[str]:
        """The command line of one process of a farm over the list."""
        return [sys.executable, "-m", "mpifarm", self.tasklist.name, *options]

    def start(self, launch: Launch | list[str], **kwargs: object) -> Child:
        """Start a farm; returns when it has a rank, or has ended."""
        child = self._start_until_seen(launch, **kwargs)
        while child.has_ended() and NO_LAUNCH in child.text():
            child = self._start_until_seen(launch, **kwargs)
        return child

    def _start_until_seen(self, launch: Launch | list[str], **kwargs: object) -> Child:
        child = self.start_unseen(launch, **kwargs)
        wait_until(lambda: child.has_ended() or self._has_rank(child.pid))
        return child

    def _has_rank(self, launcher: int) -> bool:
        members = self.members_under(launcher)
        return any(member.part is Part.RANK for member in members)

    def start_unseen(self, launch: Launch | list[str], **kwargs: object) -> Child:
        """Start a farm, and return at once."""
        return self._start_process(launch, cwd=self.directory, **kwargs)

    def run(self, launch: Launch | list[str], status: int) -> None:
        """A farm to its end, which must be with `status`."""
        assert_ends(self.start(launch), status)

    # ---- its processes --------------------------------------------------------------

    def members(self, *parts: Part) -> list[Member]:
        """Its processes that are one of `parts` (all, if none are given)."""
        members = find_members(self.token)
        return [member for member in members if not parts or member.part in parts]

    def pids(self, *parts: Part) -> list[int]:
        """The pids of those."""
        return [member.pid for member in self.members(*parts)]

    def members_under(self, pid: int) -> list[Member]:
        """A process and all that it has started, but for what has lost its parent."""
        members = self.members()
        found = {pid}
        while True:
            more = {m.pid for m in members if m.parent in found} - found
            if not more:
                return [member for member in members if member.pid in found]
            found |= more

    def find_rank(self, rank: int) -> int | None:
        """The pid of the rank's process; None while there is none."""
        ranks = self.members(Part.RANK)
        return next((member.pid for member in ranks if member.rank == rank), None)

    def signal_rank(self, rank: int, signum: int) -> float:
        """Signal one rank; returns the time (monotonic)."""
        pid = self.find_rank(rank)
        assert pid is not None, f"no rank {rank} among {self.members()}"
        os.kill(pid, signum)
        return time.monotonic()

    def wait_until_gone(self, deadline: float = 10.0) -> None:
        """Until nothing is left of any farm, commands included."""
        try:
            wait_until(lambda: not survivors(self.token), deadline)
        except AssertionError:
            raise AssertionError(f"still alive: {survivors(self.token)}") from None

    def kill_all_but_commands(self) -> None:
        """KILL every process of the farms, launchers too, in one moment."""
        while pids := self.pids(Part.LAUNCHER, *FARM_PARTS):
            send_signal(pids, signal.SIGKILL)

    # ---- what commands leave --------------------------------------------------------

    def marks(self, name: str) -> list[int]:
        """Task ids that commands have left as files ``<name>.<id>``."""
        return sorted(int(p.suffix[1:]) for p in self.directory.glob(f"{name}.*"))

    def wait_for_marks(self, name: str, count: int) -> list[int]:
        """Until that many commands have left theirs."""
        wait_until(lambda: len(self.marks(name)) >= count)
        return self.marks(name)

    def allow(self) -> None:
        """Let the commands end that wait for the file ``go``."""
        (self.directory / "go").touch()

    # ---- its workdir ----------------------------------------------------------------

    def finished(self) -> list[int]:
        return sorted(self.ids("finished"))

    def failed(self) -> list[int]:
        return sorted(self.ids("failed"))

    def to_process(self) -> list[int]:
        """The ids in ``toprocess``; all, where there is none yet."""
        if not (self.workdir / "toprocess").exists():
            return self.all_ids()
        return sorted(self.ids("toprocess"))

    def all_ids(self) -> list[int]:
        return list(range(len(self.commands)))

    def result(self) -> str:
        """``result.json``; empty while there is none."""
        return self.content("result.json").decode()

    def assert_sound(self) -> None:
        """Nothing is lost, nothing is in two places: the invariant checker says so."""
        assert find_violations(str(self.workdir), self.commands, in_hand=()) == []

    def assert_all_finished(self) -> None:
        """Every task is recorded as finished, once, and nothing else is left."""
        self.assert_sound()
        assert self.finished() == self.all_ids()
        assert self.failed() == []
        assert self.to_process() == []
        assert self.claims() == []


def assert_ends(child: Child, status: int, deadline: float = 60.0) -> None:
    """The process ends with this exit status."""
    assert child.wait(deadline) == status, child.text()
