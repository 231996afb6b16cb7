"""What a long list costs: memory, time to the first command, CPU, and the lock.

    python -m tests.bench.big_lists [--tasks N ...] [--directory DIR] [--rounds K]
        [--stop SECONDS]

Rules of this file: standard library only.  A farm runs in a process of its own, which
also notes how long it holds the lock (`watch`), and for whom.  Memory is the peak of
rank 0, less that of a farm of one task; CPU is that of all processes.  Each phase says
one line; they follow one another on the same workdir, as a list that long is used.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LINE = 80
"""Bytes of a line of the list, its newline included."""

SHORT_LIST = 10_000
"""With which the cost for each task is compared."""

MB = 1e6


# ---- the farm's own process ---------------------------------------------------------


class Hold(NamedTuple):
    """The longest time that the lock was held, and by which function."""

    seconds: float = 0.0
    where: str = ""


def watch(report: str, argv: list[str]) -> int:
    """Run mpifarm here; write how long it held the lock at most."""
    from mpifarm.commands.main import main
    from mpifarm.system.lock import WorkdirLock

    longest, since = Hold(), 0.0
    take, release = WorkdirLock._take_more, WorkdirLock.release

    def watched_take(lock: WorkdirLock) -> bool:
        nonlocal since
        taken = take(lock)
        since = time.perf_counter() if taken else since
        return taken

    def watched_release(lock: WorkdirLock) -> None:
        nonlocal longest
        was_held = lock.held
        release(lock)
        hold = Hold(time.perf_counter() - since, _user_of_lock())
        if was_held and hold.seconds > longest.seconds:
            longest = hold
            Path(report).write_text(json.dumps(longest))

    lock_class: Any = WorkdirLock
    lock_class._take_more = watched_take
    lock_class.release = watched_release
    sys.argv[1:] = argv
    main()
    return 0


def _user_of_lock() -> str:
    frame = sys._getframe(2)
    passed = ("contextlib.py", "lock.py")
    while frame.f_back and frame.f_code.co_filename.endswith(passed):
        frame = frame.f_back
    return frame.f_code.co_qualname


# ---- from outside -------------------------------------------------------------------


class Run(NamedTuple):
    """What a farm took."""

    status: int
    seconds: float
    cpu: float
    peak: int
    """Bytes of memory of the largest of its processes: rank 0."""
    hold: Hold
    done: int
    """Tasks that it has brought to ``finished``."""
    first: float
    """Seconds from the start to the first command; 0 where there was none."""


class Yard:
    """A directory with a list of N lines and its workdir."""

    def __init__(self, directory: Path, total: int, command: str) -> None:
        self.tasklist = directory / f"tasks-{total}"
        self.workdir = directory / f"workdir-{total}"
        self.total = total
        with self.tasklist.open("w") as stream:
            stream.writelines(lines(total, command))

    def farm(self, *options: str, kill_after: float | None = None) -> Run:
        """Run a farm to its end."""
        return self.end(self.start(*options), kill_after)

    def start(self, *options: str, name: str = "farm") -> "Started":
        """Let one begin."""
        report = self.workdir.with_name(name + ".hold")
        report.unlink(missing_ok=True)
        argv = [sys.executable, __file__, "--watch", str(report), "--mpi", "off"]
        argv += ["--workdir", str(self.workdir), *options, str(self.tasklist)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done, wall, begun = self.count_done(), time.time(), time.perf_counter()
        with open(report.with_suffix(".out"), "wb") as out:
            child = subprocess.Popen(argv, stdout=out, stderr=out, env=environment)
        return Started(child, report, done, wall, begun)

    def end(self, started: "Started", kill_after: float | None = None) -> Run:
        """Wait for its end; or kill its rank, which its pool does not outlive."""
        child, report = started.child, started.report
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child.pid, signal.SIGKILL)  # kill() of Popen might wait for it
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        return Run(
            child.returncode,
            time.perf_counter() - started.begun,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * 1024,
            Hold(*json.loads(report.read_text())) if report.exists() else Hold(),
            self.count_done() - started.done,
            max(0.0, self.find_first_log() - started.wall),
        )

    def begin_anew(self, done: int) -> None:
        """A workdir in which the first `done` tasks have finished."""
        shutil.rmtree(self.workdir, ignore_errors=True)
        if not done:
            return
        self.workdir.mkdir()
        with (
            self.tasklist.open() as tasks,
            open(self.workdir / "finished", "w") as finished,
            open(self.workdir / "toprocess", "w") as toprocess,
        ):
            for number, line in enumerate(tasks):
                stream = finished if number < done else toprocess
                stream.write(f"{number} {line}")

    def count_done(self) -> int:
        """The lines of ``finished``."""
        try:
            with open(self.workdir / "finished", "rb") as stream:
                blocks = iter(lambda: stream.read(1 << 20), b"")
                return sum(block.count(b"\n") for block in blocks)
        except FileNotFoundError:
            return 0

    def find_first_log(self) -> float:
        """When the first of the commands of a list that was begun here began."""
        paths = [self.workdir / "logs" / f"log_{number}" for number in range(8)]
        return min(
            (path.stat().st_mtime for path in paths if path.exists()), default=0.0
        )


class Started(NamedTuple):
    """A farm at work, and how things were when it began."""

    child: "subprocess.Popen[bytes]"
    report: Path
    done: int
    wall: float
    begun: float


def lines(total: int, command: str) -> Iterator[str]:
    """The list: the command, and a comment that makes each line as long."""
    for number in range(total):
        yield f"{command} {number:08d} ".ljust(LINE - 1, "x") + "\n"


# ---- the phases ---------------------------------------------------------------------


LAST = 2000
"""Tasks that are left where the end of a farm is looked at."""


def measure(directory: Path, total: int, rounds: int, stop: str) -> None:
    """`stop`: the seconds after which a farm is stopped."""
    empty = Yard(directory, 1, "true").farm().peak
    say(f"{total:,} lines of {LINE} bytes; an empty farm takes {empty / MB:.0f} MB")
    yard = Yard(directory, total, "true")
    stopped = ("--timeout", stop)
    tell("first start, stopped", yard.farm(*stopped), empty)
    tell("next start, stopped", yard.farm(*stopped), empty)
    yard.begin_anew(total // 2)
    tell("half done, stopped", yard.farm(*stopped), empty)
    tell("killed", yard.farm(kill_after=float(stop)), empty)
    tell("what it held taken back, stopped", yard.farm(*stopped), empty)
    first = yard.start(*stopped)
    time.sleep(float(stop) / 2)
    second = yard.start(*stopped, name="second")
    tell("the first of two farms", yard.end(first), empty)
    tell("the second, which joins later", yard.end(second), empty)
    yard.begin_anew(total - LAST)
    tell(f"the last {LAST}, to the end", yard.farm(), empty)
    tell("start with all done", yard.farm(), empty)
    for _ in range(rounds):
        compare_costs(directory, yard)


def compare_costs(directory: Path, yard: Yard) -> None:
    """CPU for each task, here and on a short list, less what a start takes."""
    short = Yard(directory, SHORT_LIST, "true")
    costs = []
    for each, seconds in ((short, ("1", "3")), (yard, ("4", "12"))):
        runs = []
        for limit in seconds:
            each.begin_anew(0)
            runs.append(each.farm("--timeout", limit))
        few, many = runs
        costs.append((many.cpu - few.cpu) / max(1, many.done - few.done))
    figures = ", ".join(f"{cost * 1e6:.0f}" for cost in costs)
    say(
        f"  CPU for each task of {SHORT_LIST:,} and of these: {figures} us, ratio "
        f"{costs[1] / costs[0]:.2f}"
    )


def tell(what: str, run: Run, empty: int) -> None:
    first = f", first command after {run.first:.2f} s" if run.first else ""
    say(
        f"  {what}: status {run.status}, {run.done:,} done in {run.seconds:.1f} s, CPU "
        f"{run.cpu:.1f} s, memory {(run.peak - empty) / MB:.0f} MB above empty{first}; "
        f"lock held {run.hold.seconds:.3f} s at most ({run.hold.where})"
    )


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    if sys.argv[1:2] == ["--watch"]:
        return watch(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--directory", default="/dev/shm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stop", default="4", help="seconds until a farm is stopped")
    chosen = parser.parse_args()
    for total in chosen.tasks:
        with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
            measure(Path(directory), total, chosen.rounds, chosen.stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
