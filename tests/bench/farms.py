"""One farm, watched: started in an empty folder, waited for, and what it wrote, read.

Rules of this file: standard library only.  Times of attempts come from attempts.tsv,
where the worker's own clock put them.
"""

import heapq
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.bench.contenders import Contender
from tests.bench.rounds import LONGEST_SECONDS, environment, prepare
from tests.support import (
    TOKEN_VARIABLE,
    Child,
    Launch,
    find_pids,
    kill_survivors,
    survivors,
)
from tests.workdir_files import Attempt, WorkdirFiles


@dataclass(frozen=True)
class Farmed:
    """A farm that has ended well."""

    folder: Path
    began: float
    """When its process (or its launcher's) was started, since the epoch."""
    ended: float
    """When that was gone."""
    attempts: Sequence[Attempt]

    @property
    def first_start(self) -> float:
        return min(attempt.started for attempt in self.attempts)

    @property
    def last_end(self) -> float:
        return max(attempt.ended for attempt in self.attempts)

    @property
    def makespan(self) -> float:
        """From the first start of a task to the last end of one."""
        return self.last_end - self.first_start

    def busy_share(self, workers: int) -> float:
        """Time in tasks / worker time, while there was work."""
        busy = sum(attempt.seconds for attempt in self.attempts)
        return busy / (workers * self.makespan)


@contextmanager
def farmed(
    contender: Contender, memory: Path, lines: Sequence[str] = ()
) -> Iterator[Farmed | None]:
    """Run it to its end; its folder is there until the block ends.

    `lines` is its tasklist, if not the contender's own.  None, and a word, where it
    did not end well.
    """
    folder = memory / "farm"
    prepare(contender, folder)
    if lines:
        (folder / "tasks.txt").write_text("".join(f"{line}\n" for line in lines))
    try:
        with started(contender, folder) as (process, _, began):
            status = process.wait(LONGEST_SECONDS)
            ended = time.time()
        if status:
            _tell_end(contender, folder, status)
            yield None
        else:
            attempts = WorkdirFiles(folder / "workdir").attempts()
            yield Farmed(folder, began, ended, attempts)
    finally:
        shutil.rmtree(folder)


@contextmanager
def running(
    contender: Contender, memory: Path, lines: Sequence[str]
) -> Iterator[str | None]:
    """Run it until the block ends; gives the token of its processes.

    None, and a word, where the tasks didn't come to run.  `lines` are of ``sleep``.
    """
    folder = memory / "farm"
    prepare(contender, folder)
    (folder / "tasks.txt").write_text("".join(f"{line}\n" for line in lines))
    try:
        with started(contender, folder) as (process, token, _):
            until = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < until:
                if _sleepers(token) >= len(lines):
                    yield token
                    return
                time.sleep(0.05)
            _tell_end(contender, folder, process.poll())
            yield None
    finally:
        shutil.rmtree(folder)


@contextmanager
def started(
    contender: Contender, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str, float]]:
    """Its process, the token of all its processes, and when it was started."""
    token = uuid.uuid4().hex
    env = {**environment(folder), **contender.variables, TOKEN_VARIABLE: token}
    began = time.time()
    child = Child(Launch(contender.argv, env), folder, folder / "said.txt")
    try:
        yield child.process, token, began
    finally:
        kill_survivors(token)
        child.end()


def _tell_end(contender: Contender, folder: Path, status: int | None) -> None:
    said = (folder / "said.txt").read_text(errors="replace")
    print(f"{contender.name}: exit status {status}; it said:\n{said[-500:]}")


def _sleepers(token: str) -> int:
    """Tasks that run."""
    commands = [process.command.partition(" ")[0] for process in survivors(token)]
    return sum(Path(program).name == "sleep" for program in commands)


def best_makespan(attempts: Sequence[Attempt], workers: int) -> float:
    """That of a schedule that gives each task, in order, to whoever is free first."""
    free = [0.0] * workers
    for attempt in sorted(attempts):
        heapq.heapreplace(free, free[0] + attempt.seconds)
    return max(free)


def gaps(attempts: Sequence[Attempt], of_rank: Callable[[int], bool]) -> list[float]:
    """Seconds from a task's end to the start of the next in the same worker."""
    by_worker: dict[tuple[int, int], list[Attempt]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.started):
        if of_rank(attempt.rank):
            place = attempt.rank, attempt.worker
            by_worker.setdefault(place, []).append(attempt)
    return [
        later.started - earlier.ended
        for line in by_worker.values()
        for earlier, later in pairwise(line)
    ]


# ---- CPU time -----------------------------------------------------------------------


def cpu_by_rank(token: str) -> dict[int, float]:
    """CPU seconds so far of each rank, all processes of its pool included."""
    pids = {pid for pid in find_pids(token) if program_of(pid).startswith("python")}
    parents = {pid: parent_of(pid) for pid in pids}
    seconds: dict[int, float] = {}
    for pid in pids:
        rank = pid
        while parents[rank] in pids:
            rank = parents[rank]
        seconds[rank] = seconds.get(rank, 0.0) + cpu_seconds(pid)
    return seconds


def cpu_seconds(pid: int) -> float:
    """Of all threads; 0 when the process is gone."""
    total = 0.0
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0
    return total


def program_of(pid: int) -> str:
    try:
        return Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(words[1])
