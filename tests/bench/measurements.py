"""What is measured: a section is some rounds of contenders, or some single figures.

Rules of this file: standard library only.  All on a tmpfs, except for what is said to
be on disk.  `Plan` has the amounts; a section adds what it finds to the results.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench import contenders
from tests.bench.contenders import SHELL_LINE, Contender, Site
from tests.bench.farms import best_makespan, cpu_by_rank, farmed, gaps, running
from tests.bench.granularity import SHARES, find_metg, find_shares, tasks_for
from tests.bench.results import Results
from tests.bench.rounds import Scratch, choose, run_once, run_rounds

ONE_RANK = "mpifarm, 1 rank x 8"
FEW = (4_000, 1_000)
"""Tasks of short lists, at which start and end weigh."""
IDLE_SECONDS = 10.0
OUTPUT_BYTES = 100_000_000


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int
    tasks: int
    shell_tasks: int
    parallel_tasks: int
    hyperqueue_tasks: int
    hypershell_tasks: int
    disbatch_tasks: int
    pytaskfarmer_tasks: int
    dispatch_tasks: int
    busy_seconds: tuple[float, float]
    """How long a farm of 100 ms tasks, and one of 1 s tasks, shall take."""
    busy_runs: int
    starts: int
    granularity_seconds: float
    """How long a farm whose granularity is measured shall take."""
    outputs: int
    """Tasks that print 100 MB, in each round."""


SHORT = Plan(
    rounds=3,
    tasks=10_000,
    shell_tasks=5_000,
    parallel_tasks=2_000,
    hyperqueue_tasks=2_000,
    hypershell_tasks=1_000,
    disbatch_tasks=100,
    pytaskfarmer_tasks=1_000,
    dispatch_tasks=50_000,
    busy_seconds=(8.0, 16.0),
    busy_runs=1,
    starts=10,
    granularity_seconds=1.0,
    outputs=5,
)

FULL = Plan(
    rounds=5,
    tasks=20_000,
    shell_tasks=20_000,
    parallel_tasks=4_000,
    hyperqueue_tasks=2_000,
    hypershell_tasks=1_000,
    disbatch_tasks=500,
    pytaskfarmer_tasks=1_000,
    dispatch_tasks=200_000,
    busy_seconds=(30.0, 60.0),
    busy_runs=3,
    starts=20,
    granularity_seconds=4.0,
    outputs=10,
)


@dataclass(frozen=True)
class Bench:
    """What a section works with."""

    plan: Plan
    scratch: Scratch
    results: Results

    def rounds(self, section: str, asked: list[Contender | str]) -> None:
        run_rounds(section, asked, self.plan.rounds, self.scratch, self.results)

    def add(self, name: str, *values: float) -> None:
        self.results.add_figures(name, values)
        shown = ", ".join(f"{value:.4g}" for value in values)
        print(f"  {name:44} {shown}", flush=True)


def one_rank(
    tasks: int, *options: str, name: str = ONE_RANK, on_disk: bool = False
) -> Contender:
    return contenders.mpifarm(name, tasks, 8, *options, on_disk=on_disk)


def with_tasks(tasks: int) -> str:
    """The name of mpifarm on one rank with as many tasks as a peer has."""
    return f"{ONE_RANK}, {tasks} tasks"


def limit_with(tasks: int) -> str:
    """The name of the limit with other than the usual number of tasks."""
    return f"limit, {tasks} tasks"


def sites() -> Iterator[Site | str]:
    yield contenders.find_mpich()
    yield contenders.find_openmpi()


# ---- in rounds ----------------------------------------------------------------------


def measure_limit(bench: Bench) -> None:
    tasks = bench.plan.tasks
    ranks = [
        contenders.mpifarm_ranks(site, tasks, count)
        for site in sites()
        for count in (2, 4)
    ]
    bench.rounds("limit", [contenders.limit(tasks), one_rank(tasks), *ranks])


def measure_few(bench: Bench) -> None:
    """Short lists, each beside a limit of as many tasks."""
    asked: list[Contender | str] = []
    for tasks in FEW:
        asked += [
            contenders.limit(tasks, limit_with(tasks)),
            one_rank(tasks, name=with_tasks(tasks)),
        ]
    bench.rounds("few", asked)


def measure_peers(bench: Bench) -> None:
    plan = bench.plan
    peers = [
        contenders.xargs(plan.tasks),
        contenders.gnu_parallel(plan.parallel_tasks),
        contenders.hyperqueue(plan.hyperqueue_tasks),
        contenders.hypershell(plan.hypershell_tasks),
        contenders.disbatch(plan.disbatch_tasks),
        contenders.pytaskfarmer(plan.pytaskfarmer_tasks),
    ]
    counts = {peer.tasks for peer in peers if isinstance(peer, Contender)}
    same = [one_rank(n, name=with_tasks(n)) for n in sorted(counts - {plan.tasks})]
    bench.rounds("peers", [one_rank(plan.tasks), *same, *peers])


def measure_shell(bench: Bench) -> None:
    tasks = bench.plan.shell_tasks
    name = f"{ONE_RANK}, lines for a shell"
    farm = contenders.mpifarm(name, tasks, 8, line=SHELL_LINE)
    bench.rounds("shell", [contenders.shell_limit(tasks), farm])


def measure_disk(bench: Bench) -> None:
    tasks = bench.plan.tasks
    asked: list[Contender | str] = [one_rank(tasks)]
    if bench.scratch.disk is None:
        asked.append("disk: --disk is on a tmpfs, too")
    else:
        packed = f"{ONE_RANK}, --logs packed, on disk"
        asked += [
            one_rank(tasks, "--logs", "packed", name=packed, on_disk=True),
            one_rank(tasks, name=f"{ONE_RANK}, on disk", on_disk=True),
            contenders.limit(tasks, on_disk=True),
        ]
    bench.rounds("disk", asked)


def measure_dispatch(bench: Bench) -> None:
    site, tasks = contenders.find_mpich(), bench.plan.dispatch_tasks
    asked = [contenders.dispatch(site, tasks, logs) for logs in ("all", "packed")]
    bench.rounds("dispatch", asked)


# ---- figures ------------------------------------------------------------------------


def _ranks(bench: Bench, site: Site | str, ranks: int) -> Contender | None:
    """Eight workers on so many ranks; None, and a word, where that MPI isn't there."""
    chosen = choose([contenders.mpifarm_ranks(site, 1, ranks)], bench.results)
    return chosen[0] if chosen else None


def measure_busy(bench: Bench) -> None:
    """Time in tasks / worker time; with start and end of the farm as well."""
    farm = _ranks(bench, contenders.find_mpich(), 4)
    if farm is None:
        return
    for name, seconds, lasts in zip(
        ("100 ms", "1 s"), (0.1, 1.0), bench.plan.busy_seconds, strict=True
    ):
        lines = [f"sleep {seconds}"] * int(8 * lasts / seconds)
        for _ in range(bench.plan.busy_runs):
            with farmed(farm, bench.scratch.memory, lines) as done:
                if done is not None:
                    share = done.busy_share(8)
                    whole = share * done.makespan / (done.ended - done.began)
                    bench.add(f"busy, {name}", share)
                    bench.add(f"busy, {name}, with start and end", whole)


def measure_start(bench: Bench) -> None:
    """Start to first command, last result to exit, in turns.

    Each task is ``date``: it writes its own clock, so that the start of the command
    itself is in the time.
    """
    lines = ["date +%s.%N"] * 8
    farms = [("1 rank", one_rank(8))]
    for site in sites():
        farm = _ranks(bench, site, 4)
        if farm is not None and isinstance(site, Site):
            farms.append((f"4 ranks, {site.launcher.mpi}", farm))
    for _ in range(bench.plan.starts):
        for name, farm in farms:
            with farmed(farm, bench.scratch.memory, lines) as done:
                if done is not None:
                    logs = (done.folder / "workdir" / "logs").iterdir()
                    first = min(float(log.read_text()) for log in logs)
                    bench.add(f"start to first command, {name}", first - done.began)
                    bench.add(
                        f"last result to exit, {name}", done.ended - done.last_end
                    )
    _measure_one_task(bench)


def _measure_one_task(bench: Bench) -> None:
    """From the command line to its exit, with one task in between."""
    for _ in range(bench.plan.starts):
        with farmed(one_rank(1), bench.scratch.memory) as done:
            if done is not None:
                bench.add("one task in all", done.ended - done.began)


def measure_idle(bench: Bench) -> None:
    """CPU seconds a second of the busiest rank, pool included, while tasks sleep."""
    farms = [("1 rank that waits for 8 tasks", one_rank(8), 8)]
    for site in sites():
        farm = _ranks(bench, site, 4)
        if farm is not None and isinstance(site, Site):
            farms.append((f"4 ranks with 1 task, {site.launcher.mpi}", farm, 1))
    for name, farm, tasks in farms:
        lines = [f"sleep {IDLE_SECONDS * 6}"] * tasks
        with running(farm, bench.scratch.memory, lines) as token:
            if token is None:
                continue
            time.sleep(2)  # until starting up is over
            before, began = cpu_by_rank(token), time.monotonic()
            time.sleep(IDLE_SECONDS)
            wall = time.monotonic() - began
            after = cpu_by_rank(token)
        shares = [(after[rank] - before[rank]) / wall for rank in before]
        bench.add(f"idle, {name}", max(shares))


def measure_latency(bench: Bench) -> None:
    """From a task's end to the next one's start, in the one worker of a rank, not 0.

    The tasks are too long for one to be handed out ahead: each time the result goes to
    rank 0, and a lease comes back.  They end at different moments.
    """
    for site in sites():
        farm = _ranks(bench, site, 4)
        if farm is None or isinstance(site, str):
            continue
        farm.argv[farm.argv.index("--proc") + 1] = "1"
        lines = [f"sleep {2.7 + 0.07 * (number % 7):.2f}" for number in range(20)]
        with farmed(farm, bench.scratch.memory, lines) as done:
            if done is not None:
                found = gaps(done.attempts, lambda rank: rank > 0)
                bench.add(f"latency, {site.launcher.mpi}", *found)


def measure_output(bench: Bench) -> None:
    """A task that prints 100 MB beside the same command in a plain shell."""
    command = f"head -c {OUTPUT_BYTES} /dev/zero"
    count = bench.plan.outputs
    farm = contenders.mpifarm("output", count, 1, line=command)
    for _ in range(bench.plan.rounds):
        plain = _time_in_shell(command, count, bench.scratch.memory)
        with farmed(farm, bench.scratch.memory) as done:
            if done is not None:
                seconds = sum(attempt.seconds for attempt in done.attempts) / count
                bench.add("output, 100 MB, cmd > file", plain)
                bench.add("output, 100 MB, mpifarm", seconds)
                bench.add("output, cmd > file / mpifarm", plain / seconds)


def _time_in_shell(command: str, count: int, folder: Path) -> float:
    """Seconds for each of them."""
    loop = f"for i in {{1..{count}}}; do {command} > out.$i; done"
    began = time.perf_counter()
    subprocess.run(["bash", "-c", loop], cwd=folder, check=True)
    seconds = time.perf_counter() - began
    for each in folder.glob("out.*"):
        each.unlink()
    return seconds / count


def measure_skew(bench: Bench) -> None:
    """One task of 20 s behind thousands of 10 ms, against the best for that order."""
    farm = _ranks(bench, contenders.find_mpich(), 4)
    if farm is None:
        return
    lines = [*["sleep 0.01"] * 4000, "sleep 20"]
    for _ in range(bench.plan.rounds):
        with farmed(farm, bench.scratch.memory, lines) as done:
            if done is not None:
                best = best_makespan(done.attempts, 8)
                bench.add("skew, makespan / best", done.makespan / best)


def measure_granularity(bench: Bench) -> None:
    """METG of mpifarm and of two peers, each with eight workers."""
    for create in _create_granular():
        chosen = choose([create(1, "sleep 0")], bench.results)
        if chosen:
            shares = find_shares(_share_of_time(bench, create))
            for least in SHARES:
                name = f"METG({100 * least:.0f} %), {chosen[0].name}"
                bench.add(name, find_metg(shares, least))


def _create_granular() -> Iterator[Callable[[int, str], Contender | str]]:
    yield lambda tasks, line: contenders.mpifarm(ONE_RANK, tasks, 8, line=line)
    for site in sites():
        for ranks in (2, 4):
            yield partial(_create_ranks, site, ranks)
    yield contenders.gnu_parallel
    yield contenders.hyperqueue


def _create_ranks(
    site: Site | str, ranks: int, tasks: int, line: str
) -> Contender | str:
    return contenders.mpifarm_ranks(site, tasks, ranks, line=line)


def _share_of_time(
    bench: Bench, create: Callable[[int, str], Contender | str]
) -> Callable[[float], float]:
    def measure(seconds: float) -> float:
        count = tasks_for(seconds, 8, bench.plan.granularity_seconds)
        once, twice = (
            _time(bench, create(n, f"sleep {seconds:g}")) for n in (count, 2 * count)
        )
        share = count * seconds / (8 * (twice - once))
        print(f"  {1e3 * seconds:g} ms: {share:.1%}", flush=True)
        return share

    return measure


def _time(bench: Bench, contender: Contender | str) -> float:
    """Seconds of the whole program; nan where it failed."""
    assert isinstance(contender, Contender)
    folder = bench.scratch.folder_of(contender)
    try:
        run = run_once(contender, folder)
    finally:
        shutil.rmtree(folder)
    return run.seconds if run else float("nan")


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "limit": measure_limit,
    "few": measure_few,
    "peers": measure_peers,
    "shell": measure_shell,
    "disk": measure_disk,
    "dispatch": measure_dispatch,
    "busy": measure_busy,
    "start": measure_start,
    "idle": measure_idle,
    "latency": measure_latency,
    "output": measure_output,
    "granularity": measure_granularity,
    "skew": measure_skew,
}

ONLY_IN_FULL = ("skew",)
