"""Where the CPU time of a task goes, in microseconds.

    python -m tests.bench.ledger [--seconds 8] [--only ROW ...] [--page FILE]

Rules of this file: standard library, and mpifarm's own parts.  CPU time, not wall time:
it hardly depends on what else the machine does.  First whole farms, in the middle of
their work: what each kind of process uses between two looks, for each task recorded
meanwhile.  Then the parts, each alone in a loop; their sum leaves out what they cost
each other (caches, wake-ups).
"""

import argparse
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.bench import contenders
from tests.bench.bench import TMPFS, clean_up_at_term
from tests.bench.contenders import DISPATCH_INI, SHELL_LINE, Contender
from tests.bench.farms import cpu_seconds, parent_of, program_of, started
from tests.bench.goals import table
from tests.bench.report import replace_between_marks
from tests.support import ROOT, find_launcher, find_pids, wait_until

BEGIN = "<!-- ledger: written by tests/bench/ledger.py -->"
END = "<!-- end of the ledger -->"

ENOUGH_TASKS = 1000
"""A farm that has recorded so many is in the middle of its work."""

LINES = 1_000_000
"""More than any of them gets done, at 40 000 a second."""

TICK = 1 / os.sysconf("SC_CLK_TCK")

# ---- whole farms --------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """CPU seconds so far by kind of process, and tasks recorded so far."""

    used: dict[str, float]
    recorded: int


KINDS = ("rank 0", "other ranks", "fork servers", "workers", "commands")


def look(token: str, finished: Path) -> Look:
    found = {pid for pid in find_pids(token) if program_of(pid).startswith("python")}
    parents = {pid: parent_of(pid) for pid in found}
    used = dict.fromkeys(KINDS, 0.0)
    for pid in found:
        depth, above = 0, pid
        while parents.get(parents[above]):
            depth, above = depth + 1, parents[above]
        # A command is a Python below a worker until its exec, and may be gone by now.
        if depth > 2 or not parents[pid]:
            continue
        used[_kind(pid, depth)] += cpu_seconds(pid)
        if depth == 2:
            used["commands"] += _cpu_of_reaped(pid)
    return Look(used, count_lines(finished))


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _kind(pid: int, depth: int) -> str:
    if depth:
        return "fork servers" if depth == 1 else "workers"
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    rank = next((word for word in environ if word.startswith(b"PMI_RANK=")), b"=0")
    return "rank 0" if rank.endswith(b"=0") else "other ranks"


def _cpu_of_reaped(pid: int) -> float:
    """Of the children that it has waited for."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[13]) + int(words[14])) * TICK


def microseconds_by_kind(
    farm: Contender, folder: Path, seconds: float
) -> dict[str, float]:
    """CPU µs for each task, while it works."""
    folder.mkdir()
    (folder / "tasks.txt").write_text(f"{farm.line}\n" * LINES)
    (folder / "nothing.ini").write_text(DISPATCH_INI)
    finished = folder / "workdir" / "finished"
    try:
        with started(farm, folder) as (process, token, _):
            wait_for_more(process, finished, ENOUGH_TASKS)
            before = look(token, finished)
            time.sleep(seconds)
            # A stall of a busy machine may be longer than the time to watch.
            wait_for_more(process, finished, before.recorded)
            after = look(token, finished)
            has_ended = process.poll() is not None
            said = (folder / "said.txt").read_text(errors="replace")
    finally:
        shutil.rmtree(folder)
    if after.recorded == LINES:  # its processes are gone, and their CPU time
        raise SystemExit(f"{farm.name} did all {LINES} lines: give --seconds less")
    if has_ended:
        raise SystemExit(f"{farm.name} has ended; it said:\n{said[-500:]}")
    tasks = after.recorded - before.recorded
    return {
        # what has ended meanwhile may have been in the first look alone
        kind: max(0.0, after.used[kind] - before.used[kind]) / tasks * 1e6
        for kind in KINDS
    }


def wait_for_more(process: subprocess.Popen[bytes], finished: Path, count: int) -> None:
    """Until the farm has recorded more than `count` tasks, or has ended."""
    wait_until(lambda: process.poll() is not None or count_lines(finished) > count)


def farms() -> Iterator[tuple[str, Contender | str]]:
    site = contenders.find_mpich()
    yield "`true`, 1 rank x 8", contenders.mpifarm("", 1, 8)
    shell = contenders.mpifarm("", 1, 8, line=SHELL_LINE)
    yield "a line for a shell, 1 rank x 8", shell
    yield "`true`, 4 ranks x 2", contenders.mpifarm_ranks(site, 1, 4)
    yield "a runner that does nothing, 4 ranks x 2", contenders.dispatch(site, 1, "all")
    packed = contenders.dispatch(site, 1, "packed")
    yield "the same, `--logs packed`", packed


def table_of_farms(folder: Path, seconds: float, wanted: tuple[str, ...]) -> list[str]:
    rows: list[tuple[str, ...]] = [("CPU µs for each task, in a farm", *KINDS, "sum")]
    for name, farm in farms():
        if not name.startswith(wanted):
            continue
        if isinstance(farm, str):
            print(f"skipped  {farm}")
            continue
        print(f"{name} ...", flush=True)
        used = microseconds_by_kind(farm, folder / "farm", seconds)
        numbers = [*used.values(), sum(used.values())]
        rows.append((name, *(f"{number:.0f}" for number in numbers)))
    return table(rows)


# ---- parts, each alone --------------------------------------------------------------


class Part(NamedTuple):
    """`repeat` does it as often as it is told."""

    name: str
    times: int
    repeat: Callable[[int], object]


def microseconds(part: Part, tries: int = 5) -> tuple[float, float]:
    """CPU µs of one, here and in children that were waited for: the least of all."""
    found = []
    for _ in range(tries):
        here, children = time.process_time(), _cpu_of_children()
        part.repeat(part.times)
        here, children = time.process_time() - here, _cpu_of_children() - children
        found.append((here / part.times * 1e6, children / part.times * 1e6))
    return min(found, key=sum)


def _cpu_of_children() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def spawn(words: list[str]) -> Callable[[int], None]:
    """Start and wait for it, as in the limit, without its log."""
    program = shutil.which(words[0]) or words[0]

    def spawn_often(count: int) -> None:
        for _ in range(count):
            os.waitpid(os.posix_spawn(program, words, os.environ), 0)

    return spawn_often


def open_logs(folder: Path) -> Callable[[int], None]:
    """A new empty file for each, as a worker opens it."""

    def open_often(count: int) -> None:
        place = folder / "logs"
        place.mkdir()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        for number in range(count):
            os.close(os.open(f"{place}/log_{number}", flags, 0o666))
        shutil.rmtree(place)

    return open_often


def frame_both_ways(count: int) -> None:
    """A lease to a worker and its result back, encoded and taken apart."""
    from mpifarm.pool.framing import FrameReader, encode_frame

    reader = FrameReader()
    result = (1, 1, 0, 1.7e9, 0.001, 1.7e4, "completed", "")
    for number in range(count):
        reader.feed(encode_frame((number, 1, "true", number)))
        reader.feed(encode_frame(result))


def cross_socket(count: int) -> None:
    """60 bytes through a socket and back, without the wake-up of who reads."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(count):
            ours.send(b"x" * 60)
            theirs.send(theirs.recv(65536))
            ours.recv(65536)


def append_to_files(folder: Path) -> Callable[[int], None]:
    """What a commit of 200 results writes to four files, two of them synced."""

    def append_often(count: int) -> None:
        for _ in range(count // 200):
            for name in ("timeline", "attempts", "finished", "claim"):
                with (folder / name).open("ab", buffering=0) as file:
                    file.write(b"17 true 1 0 0 1700000000.123456 0.001234\n" * 200)
                    if name in {"finished", "claim"}:
                        os.fsync(file.fileno())

    return append_often


def encode_events(count: int) -> None:
    """An event of the timeline for each."""
    from mpifarm.model.task import Outcome, Result
    from mpifarm.store.timeline import encode_event
    from mpifarm.store.tracks import Tracks
    from mpifarm.store.types import Recorded

    tracks = Tracks("0123abcd")
    times = (1.7e9, 0.001234, 1.0)
    for number in range(count):
        result = Result(number, 1, Outcome.COMPLETED, 0, 4711, *times, worker_index=0)
        recorded = Recorded(number, True, result, 0, 4710, "n1")
        encode_event("true", tracks.find(recorded), recorded)


def coordinate(count: int) -> None:
    """All that the coordinator decides about so many tasks, on 8 ranks of 8 workers."""
    from mpifarm.coordinator.coordinator import (
        Coordinator,
        Phase,
        RankSet,
        Send,
        Transact,
    )
    from mpifarm.model.messages import Assign, Join, Report
    from mpifarm.model.settings import FarmDefinition, RunnerDefinition
    from mpifarm.model.task import Lease, Outcome, Result

    ranks, now, left = range(8), 1000.0, count
    definition = FarmDefinition("f00d", "/w", RunnerDefinition(), 2.0)
    crew = RankSet(tuple(ranks), 0, 8, False)
    coordinator = Coordinator(["true"] * count, definition, crew, now)
    held: dict[int, list[Lease]] = {rank: [] for rank in ranks}
    for rank in ranks:
        coordinator.on_message(rank, Join(f"n{rank}", rank + 1, 8), now)
    while coordinator.phase is not Phase.LEAVING:
        for effect in coordinator.decide(now):
            if isinstance(effect, Send) and isinstance(effect.message, Assign):
                held[effect.rank] += effect.message.leases
            elif isinstance(effect, Transact):
                taken = range(count - left, count - left + min(effect.take, left))
                left -= len(taken)
                coordinator.on_transacted(list(taken), now, empty=not left, cost=0.001)
        for rank, leases in held.items():
            ended = tuple(
                Result(e.taskid, e.attempt, Outcome.COMPLETED, 0, 7, 1.7e9, 0.01, now)
                for e in leases
            )
            leases.clear()
            if ended:
                said = Report(now, ended, sure=now)
                coordinator.on_message(rank, said, now)
        now += 0.02


def parts(folder: Path) -> Iterable[Part]:
    yield Part("start and wait: `true`", 1000, spawn(["true"]))
    yield Part("start and wait: `bash -c`", 500, spawn(["bash", "-c", SHELL_LINE]))
    yield Part(
        "a new log file on a tmpfs: open, close, remove", 5000, open_logs(folder)
    )
    yield Part("frames: a lease there, a result back", 20_000, frame_both_ways)
    yield Part("a socket: there and back", 20_000, cross_socket)
    yield Part("an event of the timeline, encoded", 20_000, encode_events)
    files = append_to_files(folder)
    yield Part("appends to four files, 200 results at a time", 20_000, files)
    yield Part("coordinator, 8 ranks x 8 workers", 10_000, coordinate)


def table_of_parts(folder: Path, wanted: tuple[str, ...]) -> list[str]:
    rows = [("part, alone", "CPU µs", "of children")]
    for part in parts(folder):
        if not part.name.startswith(wanted):
            continue
        print(f"{part.name} ...", flush=True)
        here, children = microseconds(part)
        shown = f"{children:.0f}" if children else ""
        rows.append((part.name, f"{here:.1f}", shown))
    name = "a report of 20 results at rank 0, waiting included"
    tries = 3 if name.startswith(wanted) else 0
    said = [float(each) for each in map(_exchanged, range(tries)) if each]
    if said:
        rows.append((name, f"{min(said):.1f}", ""))
    return table(rows)


# ---- MPI ----------------------------------------------------------------------------

MESSAGES = 5000
WINDOW = 50


def _exchanged(_turn: int) -> str:
    """CPU µs of rank 0; nothing where there is no MPI."""
    launcher = find_launcher()
    if launcher is None:
        return ""
    program = [sys.executable, "-m", "tests.bench.ledger", "--exchange"]
    launch = launcher({**os.environ, "PYTHONPATH": str(ROOT)}, 2, *program)
    with subprocess.Popen(
        launch.argv, env=launch.env, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.terminate()  # the launcher ends its ranks
            return ""
    return said.strip()


def exchange() -> None:
    """In both of two ranks: reports to rank 0, in windows that it answers."""
    from mpifarm.model.messages import Alive, Ping, Report
    from mpifarm.model.task import Outcome, Result
    from mpifarm.transport.mpi import connect

    comm, _ = connect(os.environ)
    assert comm is not None
    result = Result(17, 1, Outcome.COMPLETED, 0, 7, 1.7e9, 0.01, 1.7e4)
    report = Report(1.7e4, (result,) * 20)

    came = 0

    def receive(count: int) -> None:
        nonlocal came
        while came < count:  # what has come too early is for the next time
            came += len(comm.receive())
        came -= count

    other = 1 - comm.rank
    comm.send(other, Ping() if comm.rank == 0 else Alive())
    receive(1)
    began = time.process_time()
    for _ in range(MESSAGES // WINDOW):
        if comm.rank == 0:
            receive(WINDOW)
            comm.send(other, Ping())
        else:
            for _ in range(WINDOW):
                comm.send(other, report)
            receive(1)
    used = (time.process_time() - began) / MESSAGES * 1e6
    comm.flush(2.0)
    comm.finalize()
    if comm.rank == 0:
        print(f"{used:.1f}")


# ---- the command --------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="to watch each farm, at least"
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help="those that begin so")
    parser.add_argument("--page", type=Path, help="write the tables between its marks")
    parser.add_argument("--exchange", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.exchange:
        exchange()
        return
    clean_up_at_term()
    with ExitStack() as places:
        made = tempfile.TemporaryDirectory(prefix="mpifarm-ledger-", dir=TMPFS)
        folder = Path(places.enter_context(made))
        wanted = tuple(args.only or [""])
        lines = table_of_farms(folder, args.seconds, wanted)
        lines += ["", *table_of_parts(folder, wanted)]
    print("\n" + "\n".join(lines))
    if args.page:
        page = args.page.read_text(encoding="utf-8")
        page = replace_between_marks(page, BEGIN, END, ["", *lines, ""])
        args.page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
