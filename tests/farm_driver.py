"""A farm in a test: its list, its processes, and what it left on disk.

Rules of this file: a process is told by the test's token, its place in a farm by its
ancestry; nothing is ended but what carries the token.  Files are read as anyone can
read them, without mpifarm's own readers, but for the invariant checker.

All farms of tests are started here, but for those that a batch system starts
(`tests/slurm/batch.py`), those whose start is measured (`tests/bench`), and those on a
disk that fails, whose list must be reached around the faults (`disk_faults.Place`).
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from tests.invariants import find_violations
from tests.support import (
    TOKEN_VARIABLE,
    Child,
    Launch,
    find_pids,
    survivors,
    wait_until,
)
from tests.workdir_files import WorkdirFiles

NO_LAUNCH = "listener thread failed to start"
"""What Open MPI's mpirun says, once in some hundred times on a busy machine, before it
gives up without a rank."""

_RANK_VARIABLES = (b"OMPI_COMM_WORLD_RANK", b"PMI_RANK", b"PMIX_RANK")


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


def find_members(token: str, name: str = "") -> list[Member]:
    """The processes of the farms that carry `token`; of one, if it has a `name`."""
    seen = {pid: sight for pid in find_pids(token) if (sight := _see(pid))}
    return [
        Member(pid, sight.parent, _part_of(pid, seen), _rank_of(sight), _task_of(sight))
        for pid, sight in seen.items()
        if not name or sight.environ.get(NAME_VARIABLE.encode()) == name.encode()
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

MPIFARM = (sys.executable, "-m", "mpifarm")

NAME_VARIABLE = "FARM_TEST_NAME"
"""Tells the processes of one farm, its commands among them, from another's."""

StartProcess = Callable[..., Child]
Mpirun = Callable[..., Launch]
Command = str | bytes


class FarmDriver(WorkdirFiles):
    """A tasklist in a directory of its own, and the farms over it, one after another.

    `start_process` is the fixture `farm_processes`, `environment` what its children
    get.  `under` puts a farm under a launcher: it takes the number of ranks and the
    command line; without one a farm is one process.  `options` are those of each farm.
    """

    def __init__(
        self,
        directory: Path,
        start_process: StartProcess,
        environment: Mapping[str, str],
        under: Mpirun | None = None,
        ranks: int = 1,
        options: Sequence[str] = (),
    ) -> None:
        self.environment = dict(environment)
        self.token = environment[TOKEN_VARIABLE]
        self.under = under or self.alone
        self.ranks = ranks
        self.options = options
        self._start_process = start_process
        super().__init__(directory / "tasks.txt_workdir")
        self.move_to(directory)

    def move_to(self, directory: Path) -> None:
        """The next list is in this directory."""
        self.workdir = directory / "tasks.txt_workdir"
        self.directory = directory
        self.tasklist = directory / "tasks.txt"
        directory.mkdir(exist_ok=True)

    def write_list(self, commands: Iterable[Command]) -> None:
        """Each command is a line; it finds its task id in ``$PROC_NUMBER``."""
        lines = (
            each if isinstance(each, bytes) else os.fsencode(each) for each in commands
        )
        self.tasklist.write_bytes(b"".join(line + b"\n" for line in lines))

    @property
    def tasks(self) -> list[str]:
        """The texts of the tasks that are in the list now."""
        content = self.tasklist.read_text("utf-8", "surrogateescape")
        lines = [line for line in content.split("\n") if not line.startswith("#")]
        return [line.strip() for line in lines if line.strip()]

    def write_program(self, name: str, text: str) -> Path:
        """Write an executable that a command starts as ``./name``."""
        program = self.directory / name
        program.write_text(text)
        program.chmod(0o755)
        return program

    def script(self, name: str, *lines: str) -> Path:
        """Write a shell script that runs in the directory of the list."""
        text = "\n".join(["#!/bin/sh", f"cd {self.directory}", *lines, ""])
        return self.write_program(name, text)

    # ---- starting farms -------------------------------------------------------------

    def start(
        self,
        *options: str,
        under: Mpirun | None = None,
        ranks: int | None = None,
        before: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        name: str = "farm",
    ) -> Child:
        """Start a farm, and return at once.

        `before` is put in front of the command line of each rank, `env` is added to
        the environment, and `name` tells this farm from others.
        """
        argv = [*before, *MPIFARM, *self.options, *options, str(self.tasklist)]
        launch = (under or self.under)(ranks or self.ranks, *argv)
        return self.start_command(launch, env=env, name=name)

    def alone(self, _ranks: int, *argv: str) -> Launch:
        """The launcher of a farm of one process: none."""
        return Launch(list(argv), self.environment)

    def start_command(
        self,
        command: Launch | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        name: str = "",
    ) -> Child:
        """Start any command beside the list, and return at once."""
        if not isinstance(command, Launch):
            command = Launch(list(command), self.environment)
        environment = {**command.env, NAME_VARIABLE: name, **(env or {})}
        launch = Launch(command.argv, environment)
        return self._start_process(launch, cwd=self.directory)

    def start_plain(
        self, plain_farmer: list[str], *options: str, name: str = "plain"
    ) -> Child:
        """Start a PyTaskFarmer on the list."""
        argv = [*plain_farmer, *options, str(self.tasklist)]
        return self.start_command(argv, name=name)

    def launch(self, *options: str, **others: Any) -> Child:
        """Start a farm; return when it has a rank, or has ended."""
        return self.await_rank(lambda: self.start(*options, **others))

    def await_rank(self, start: Callable[[], Child]) -> Child:
        """Start, again if the launcher fails; return when there is a rank or an end."""
        while True:
            child = start()
            wait_until(lambda: child.has_ended() or self._has_rank(child.pid))  # noqa: B023 - called here alone
            if not (child.has_ended() and NO_LAUNCH in child.text()):
                return child

    def _has_rank(self, launcher: int) -> bool:
        members = self.members_under(launcher)
        return any(member.part is Part.RANK for member in members)

    def run(self, *options: str, **others: Any) -> int:
        """Return the exit status of a farm that runs to its end."""
        return self.start(*options, **others).wait()

    def run_words(self, *words: str) -> int:
        """Return the exit status of mpifarm with these words, a subcommand first."""
        return self.start_command([*MPIFARM, *words]).wait()

    def finish(self, *options: str, status: int = 0, **others: Any) -> None:
        """Run a farm to its end, which must be with `status`."""
        assert_ends(self.launch(*options, **others), status)

    # ---- its processes --------------------------------------------------------------

    def members(self, *parts: Part, name: str = "") -> list[Member]:
        """Return the processes that are one of `parts` (all, if none are given).

        With `name`, only those of this farm.
        """
        members = find_members(self.token, name)
        return [member for member in members if not parts or member.part in parts]

    def pids(self, *parts: Part, name: str = "") -> list[int]:
        """Return the pids of those."""
        return [member.pid for member in self.members(*parts, name=name)]

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

    def wait_until_gone(self, deadline: float = 30.0) -> None:
        """Until nothing is left of any farm, commands included."""
        try:
            wait_until(lambda: not survivors(self.token), deadline)
        except AssertionError:
            raise AssertionError(f"still alive: {survivors(self.token)}") from None

    def kill_all_but_commands(self) -> None:
        """KILL every process of the farms, launchers too, in one moment."""
        while pids := self.pids(Part.LAUNCHER, *FARM_PARTS):
            send_signal(pids, signal.SIGKILL)

    def kill(self, child: Child, name: str = "farm") -> None:
        """KILL all processes of a farmer and its commands, until none is left."""
        while pids := self.pids(name=name):
            send_signal(pids, signal.SIGKILL)
        child.wait()

    def signal_all(self, child: Child, signum: int, name: str = "farm") -> float:
        """The signal to them all, as a batch system sends it; the rank gets it last.

        Returns the seconds from the first to the last.
        """
        others = sorted({*self.pids(name=name)} - {child.pid}, reverse=True)
        begun = time.monotonic()
        send_signal(others, signum)
        child.send_signal(signum)
        return time.monotonic() - begun

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

    def notes(self, name: str) -> list[str]:
        """Return the lines of a file that commands have written beside the list."""
        with suppress(FileNotFoundError):
            return (self.directory / name).read_text().splitlines()
        return []

    def await_notes(self, name: str, count: int, deadline: float = 30) -> list[str]:
        """Wait until that file has so many lines."""
        wait_until(lambda: len(self.notes(name)) >= count, deadline)
        return self.notes(name)

    # ---- its workdir ----------------------------------------------------------------

    def ids(self, name: str, tasks: Sequence[str] | None = None) -> list[int]:
        """Return the ids of the lines of a status file that count, in their order."""
        return super().ids(name, self.tasks if tasks is None else tasks)

    def finished(self) -> list[int]:
        return sorted(self.ids("finished"))

    def failed(self) -> list[int]:
        return sorted(self.ids("failed"))

    def to_process(self) -> list[int]:
        """Return the ids in ``toprocess``; all, where there is none yet."""
        if not (self.workdir / "toprocess").exists():
            return self.all_ids()
        return sorted(self.ids("toprocess"))

    def all_ids(self) -> list[int]:
        return list(range(len(self.tasks)))

    def counts(self) -> Counter[int]:
        """Return how often each id stands in ``finished`` and ``failed`` together."""
        return Counter(self.ids("finished") + self.ids("failed"))

    def log(self, taskid: int) -> str:
        return self.content(f"logs/log_{taskid}").decode("utf-8", "surrogateescape")

    def has_result(self) -> bool:
        return (self.workdir / "result.json").exists()

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.content("result.json"))
        return result

    def lost_ranks(self) -> list[int]:
        """Return the ranks that ``result.json`` calls lost."""
        return [each["rank"] for each in self.result()["lost"]]

    def violations(self, *, alone: bool = True) -> list[str]:
        """Broken promises; `alone`: no plain farmer has had a hand in it."""
        return find_violations(str(self.workdir), self.tasks, () if alone else None)

    def assert_sound(self) -> None:
        """Nothing is lost, nothing is in two places: the invariant checker says so."""
        violations = self.violations()
        assert not violations, violations

    def assert_settled(
        self,
        finished: Iterable[int] = (),
        failed: Iterable[int] = (),
        to_process: Iterable[int] = (),
    ) -> None:
        """The ids of each file are these, and no farm holds a task."""
        self.assert_sound()
        found = self.finished(), self.failed(), self.to_process()
        expected = list(finished), list(failed), list(to_process)
        assert found == expected, found
        assert self.claims() == [], self.claims()

    def assert_all_finished(self) -> None:
        """Every task is recorded as finished, once, and nothing else is left."""
        self.assert_settled(finished=self.all_ids())


def assert_ends(child: Child, status: int, deadline: float = 60.0) -> None:
    """The process ends with this exit status."""
    assert child.wait(deadline) == status, child.text()
