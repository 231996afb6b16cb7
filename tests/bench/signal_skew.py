"""How much later a rank gets a signal than the commands that it runs.

    python -m tests.bench.signal_skew [--signals 20] [--commands 64] [--way scancel]

A real Slurm on this machine runs farms whose commands trap the signal.  ``--way kill``
is a farm in no job: one ``kill`` sends it to all processes, the rank last, which is the
worst order.  The kernel's own tracepoints (tracefs, as root) tell when each process got
it.  Two times count: when a signal was *generated* for a process (from then on, its
next return from a system call runs the handler), and when it was *delivered* there.
What makes a half-done command look finished is a rank that is later than a command of
its own: that is the skew told.

Rules of this file: the machine is made busy by loops of ours, which end with us; the
trace is an instance of its own; the cluster ends at the end of our stdin.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TRACING = Path("/sys/kernel/tracing")
NODES = 3
TRAP = "trap 'exit 0' USR1 TERM; : > started.$PROC_NUMBER; "
BODY = TRAP + "sleep 300 & wait"
KINDS = {
    "plain commands": BODY,
    "steps on the rank's node": "srun --overlap --mpi=none -N1 -n1 -w {own} bash steps",
    "steps on another node": "srun --overlap --mpi=none -N1 -n1 -w {other} bash steps",
}
BY_HAND = "kill"
WAYS = ("scancel --signal=USR1", "scancel", "time limit", BY_HAND)
START_SECONDS = 90.0
END_SECONDS = 60.0

EVENT = re.compile(
    r"^\s*(?P<comm>.{1,16})-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+(?P<at>\d+\.\d+):"
    r" signal_(?P<what>generate|deliver): sig=(?P<sig>\d+) .*"
)
TARGET = re.compile(r" pid=(\d+) ")


class Process(NamedTuple):
    """A process of a farm: a rank itself, or part of a task."""

    rank: int
    task: int | None


class Event(NamedTuple):
    """A signal came to a process, seconds of the monotonic clock."""

    what: str
    pid: int
    signum: int
    at: float
    sender: str


# ---- the kernel's account -----------------------------------------------------------


@contextmanager
def tracing() -> Iterator[Path]:
    """An instance of the kernel's trace that notes signals alone."""
    if not (TRACING / "instances").is_dir():
        subprocess.run(["mount", "-t", "tracefs", "nodev", str(TRACING)], check=True)
    instance = TRACING / "instances" / f"mpifarm-{os.getpid()}"
    instance.mkdir()
    try:
        (instance / "trace_clock").write_text("mono")
        (instance / "buffer_size_kb").write_text("8192")
        signals = f"sig == {int(signal.SIGUSR1)} || sig == {int(signal.SIGTERM)}"
        for event in ("signal_generate", "signal_deliver"):
            (instance / "events/signal" / event / "filter").write_text(signals)
            (instance / "events/signal" / event / "enable").write_text("1")
        yield instance
    finally:
        instance.rmdir()


def read_events(instance: Path) -> list[Event]:
    """What has been noted since the trace was cleared."""
    events = []
    for line in (instance / "trace").read_text().splitlines():
        match = EVENT.match(line)
        if match is None:
            continue
        pid = int(match["pid"])
        if match["what"] == "generate" and (target := TARGET.search(line)):
            pid = int(target[1])
        at, signum = float(match["at"]), int(match["sig"])
        events.append(Event(match["what"], pid, signum, at, match["comm"].strip()))
    return events


def first_times(
    events: list[Event], what: str, signum: int, sender: str = "slurmstepd"
) -> dict[int, float]:
    """When each process got the signal from `sender`, the first time."""
    times: dict[int, float] = {}
    theirs = {e.pid for e in events if e.sender == sender}
    for event in events:
        wanted = event.what == what and event.signum == signum
        is_theirs = event.sender == sender or what == "deliver"
        if wanted and is_theirs and event.pid in theirs:
            times.setdefault(event.pid, event.at)
    return times


# ---- the farm's processes -----------------------------------------------------------


def find_processes(farm: str) -> dict[int, Process]:
    """The ranks of a farm and all processes of its tasks, by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError):
                process = find_process(int(name), farm)
                if process is not None:
                    found[int(name)] = process
    return found


def find_process(pid: int, farm: str) -> Process | None:
    """What the process is to the farm whose environment has the token `farm`."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    variables = dict(w.split(b"=", 1) for w in words if b"=" in w)
    if variables.get(b"SKEW_FARM") != farm.encode():
        return None
    if b"MPIFARM_TASK_ID" in variables:
        task = int(variables[b"MPIFARM_TASK_ID"])
        return Process(int(variables[b"MPIFARM_RANK"]), task)
    if b"SLURM_PROCID" not in variables:
        return None
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    if Path(f"/proc/{parent}/comm").read_text().strip() != "slurmstepd":
        return None
    return Process(int(variables[b"SLURM_PROCID"]), None)


def skews(times: dict[int, float], processes: dict[int, Process]) -> list[float]:
    """For each process of a task, by how much its rank was later (seconds)."""
    ranks = {
        p.rank: times[pid]
        for pid, p in processes.items()
        if p.task is None and pid in times
    }
    return [
        ranks[process.rank] - times[pid]
        for pid, process in processes.items()
        if process.task is not None and pid in times and process.rank in ranks
    ]


# ---- one signal ---------------------------------------------------------------------


class Cluster(NamedTuple):
    """Where the farms run."""

    environ: dict[str, str]
    directory: Path
    commands: int
    instance: Path

    def ask(self, *argv: str) -> str:
        """Run a program of Slurm's; its words."""
        done = subprocess.run(
            argv,
            env=self.environ,
            cwd=self.directory,
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout.strip()


def measure(
    cluster: Cluster, kind: str, way: str, number: int
) -> dict[str, list[float]]:
    """Start a farm, have a signal sent to it; the skews that there were."""
    name = f"{number}.{time.monotonic_ns()}"
    place = cluster.directory / name
    place.mkdir()
    (place / "steps").write_text(BODY)
    job = submit(cluster, kind, place, name)
    marks = place.glob
    await_true(lambda: len([*marks("started.*")]) >= cluster.commands, START_SECONDS)
    processes = find_processes(name)
    (cluster.instance / "trace").write_text("")
    signum = send(cluster, way, job)
    await_true(
        lambda: not cluster.ask("squeue", "-h", "-t", "R,CG", "-j", job),
        END_SECONDS + 120 * (way == "time limit"),
    )
    refuse_booked(place)
    events = read_events(cluster.instance)
    return {
        what: skews(first_times(events, what, signum), processes)
        for what in ("generate", "deliver")
    }


def refuse_booked(place: Path) -> None:
    """Raise AssertionError if a half-done command is recorded as finished."""
    booked = place / "list_workdir" / "finished"
    if booked.exists() and booked.read_text():
        raise AssertionError(f"booked as finished: {booked.read_text()!r}")


def measure_by_hand(cluster: Cluster, number: int) -> dict[str, list[float]]:
    """Start a farm in no job, signal all of it; the skews that there were."""
    name = f"{number}.{time.monotonic_ns()}"
    place = cluster.directory / name
    place.mkdir()
    (place / "list").write_text(f"{BODY}\n" * cluster.commands)
    argv = (sys.executable, "-m", "mpifarm", "list", "-n", str(cluster.commands))
    environ = {**cluster.environ, "SKEW_FARM": name, "PYTHONPATH": str(ROOT)}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, cwd=place, env=environ, stdout=quiet) as f:
        marks = place.glob
        await_true(lambda: len([*marks("started.*")]) == cluster.commands, 90.0)
        processes = find_processes(name)
        (cluster.instance / "trace").write_text("")
        pids = [*map(str, processes), str(f.pid)]
        subprocess.run(["/bin/kill", "-USR1", *pids], check=True)
        f.wait(END_SECONDS)
    refuse_booked(place)
    processes[f.pid] = Process(0, None)
    events = read_events(cluster.instance)
    return {
        what: skews(first_times(events, what, signal.SIGUSR1, "kill"), processes)
        for what in ("generate", "deliver")
    }


def submit(cluster: Cluster, kind: str, place: Path, name: str) -> str:
    """A job with a farm of as many commands on its first node as are wanted."""
    other = kind == "steps on another node"
    line = KINDS[kind].format(own="$SLURMD_NODENAME", other="$OTHER")
    (place / "list").write_text(f"{line}\n" * cluster.commands)
    farm = (
        f"{sys.executable} -m mpifarm list -n {cluster.commands} --grace 2 2>farm.err"
    )
    script = (
        "#!/bin/bash\n" + f"export SKEW_FARM={name} PYTHONPATH={ROOT}\n"
        "export OTHER=$(scontrol show hostnames | tail -n 1)\n"
        f"srun --overlap --mpi=none -N1 -n1 {farm}\n"
    )
    (place / "job").write_text(script)
    nodes = "2" if other else "1"
    return cluster.ask(
        "sbatch",
        "--parsable",
        "-N",
        nodes,
        "--exclusive",
        "-D",
        str(place),
        "--time=10",
        str(place / "job"),
    )


def send(cluster: Cluster, way: str, job: str) -> int:
    """Have Slurm send the signal."""
    if way == "time limit":
        cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=1")
        return signal.SIGTERM
    cluster.ask(*way.split(), job)
    return signal.SIGUSR1 if "USR1" in way else signal.SIGTERM


def await_true(condition: Callable[[], bool], seconds: float) -> None:
    """Look until it is so."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("it has not come about")
        time.sleep(0.1)


# ---- all of them --------------------------------------------------------------------


@contextmanager
def running_cluster(cpus: int) -> Iterator[str]:
    """The ``slurm.conf`` of a Slurm of our own."""
    script = ROOT / "tests/slurm/cluster"
    with subprocess.Popen(
        [str(script), "hold", str(NODES), str(cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().partition("=")[2].strip()
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Make the machine busy."""
    loops = [
        subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def tell(kind: str, way: str, found: list[dict[str, list[float]]]) -> None:
    """One line of the table."""
    words = []
    for what in ("generate", "deliver"):
        late = sorted(x for each in found for x in each[what])
        if late:
            words.append(
                f"{what}: n={len(late)} least {1e3 * late[0]:.1f}"
                f" median {1e3 * late[len(late) // 2]:.1f}"
                f" largest {1e3 * late[-1]:.1f} ms"
            )
    print(f"{kind} | {way} | {len(found)} signals | {' | '.join(words)}", flush=True)


def main() -> None:
    """Measure all kinds of commands and ways of signals, or the named ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--commands", type=int, default=64)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--kind", choices=[*KINDS], action="append")
    parser.add_argument("--way", choices=WAYS, action="append")
    options = parser.parse_args()
    with ExitStack() as stack:
        instance = stack.enter_context(tracing())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        conf = stack.enter_context(running_cluster(2 * options.commands))
        stack.enter_context(busy_loops(options.busy))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {**os.environ, "SLURM_CONF": conf, "PATH": path}
        cluster = Cluster(environ, directory, options.commands, instance)
        for kind in options.kind or KINDS:
            for way in options.way or WAYS:
                count = options.signals if way != "time limit" else options.signals // 5
                if way != BY_HAND:
                    found = [measure(cluster, kind, way, n) for n in range(count)]
                elif kind == "plain commands":
                    found = [measure_by_hand(cluster, n) for n in range(count)]
                else:
                    continue
                tell(kind, way, found)


if __name__ == "__main__":
    main()
