"""The CPU time of the commands that look into a workdir.

    python -m tests.bench.looking [--tasks N ...] [--rounds K] [--only WORD ...]
        [--directory DIR]

Rules of this file: standard library, and mpifarm's own writers for the workdir: a list
of which some tasks have failed, some ran twice and some wait, in the order in which a
farm of 64 workers ends them.  CPU time, user and system, of one process with the start
of Python; the least of all rounds, so that modules are compiled.  The output goes to
/dev/null.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result
from mpifarm.store.attempts import AttemptsFile
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.status_lines import encode_lines
from mpifarm.store.timeline import EMPTY, SEPARATOR, encode_event
from mpifarm.store.tracks import Tracks
from mpifarm.store.types import Recorded
from tests.bench.goals import table

FARM: Final = "0123abcd" * 2
WORKERS: Final = 64
BEGAN: Final = 1_750_000_000.0
AT_ONCE: Final = 10_000
"""Attempts that are written at once."""

FAILED: Final = 0.03
AGAIN: Final = 0.05
"""The shares of tasks that failed for good, and that completed at the second try."""
WAITING: Final = 0.1

_ENDS: Final = (
    "ValueError: cell {0} has a negative volume: -{1:.3f}",
    "FileNotFoundError: [Errno 2] No such file or directory: 'data/{0:05}.nc'",
    "solver: no convergence after {0} iterations (residual {1:.2e})",
)

COMMANDS: Final = (
    *("status", "status --json", "ls", "ls --json", "ls --ids", "ls --failed"),
    *("ls --failed --json", "ls --failed --ids", "ls --slowest 10", "ls --host n1*"),
    *("ls --host n1* --ids", "ls --longer-than 60 --ids", "ls --status 1 --ids"),
    *("why", "why --json", "log --failed --last 5", "log 7", "joblog --gnu"),
    *("timeline -o -",),
)


# ---- the workdir --------------------------------------------------------------------


def make_workdir(tasklist: Path, total: int) -> None:
    """Write a list of `total` tasks, and its workdir."""
    texts = [f"./simulate --case {n:07} data/{n % 977:05}.nc" for n in range(total)]
    tasklist.write_text("".join(f"{text}\n" for text in texts))
    root = Path(f"{tasklist}_workdir")
    paths = WorkdirPaths(str(root))
    Path(paths.logs).mkdir(parents=True)
    ended = int(total * (1 - WAITING))
    Path(paths.fingerprint).write_bytes(encode_fingerprint(take_fingerprint(texts)))
    Path(paths.toprocess).write_bytes(encode_lines(range(ended, total), texts))
    attempts, tracks = AttemptsFile(paths, FARM, texts), Tracks(FARM)
    left = _run(ended)
    with (
        open(paths.finished, "wb") as finished,
        open(paths.failed, "wb") as failed,
        open(paths.timeline, "wb") as timeline,
    ):
        timeline.write(EMPTY[:1])
        separator = b""
        while block := list(islice(left, AT_ONCE)):
            attempts.append(block)
            last = [each for each in block if not each.result.note]
            for stream, is_finished in ((finished, True), (failed, False)):
                taskids = [each.taskid for each in last if each.finished == is_finished]
                stream.write(encode_lines(taskids, texts))
            events = [_event(each, texts, tracks) for each in block]
            timeline.write(separator + SEPARATOR.join([*tracks.names, *events]))
            tracks.names.clear()
            separator = SEPARATOR
        timeline.write(EMPTY[1:])
    _write_logs(paths, ended)


def _event(recorded: Recorded, texts: list[str], tracks: Tracks) -> bytes:
    return encode_event(texts[recorded.taskid], tracks.find(recorded), recorded)


def _run(ended: int) -> Iterator[Recorded]:
    """Yield the attempts of tasks 0 to `ended` - 1 as they end."""
    chance = random.Random(1)
    for begin in range(0, ended, WORKERS):
        taskids = list(range(begin, min(begin + WORKERS, ended)))
        chance.shuffle(taskids)
        for taskid in taskids:
            worker = chance.randrange(WORKERS)
            started = BEGAN + taskid * 0.02 + chance.random()
            if chance.random() < AGAIN and not has_failed(taskid):
                yield _record(taskid, 1, 1, worker, started, chance)
                yield _record(taskid, 2, 0, worker, started + 5, chance)
            else:
                status = _status_of(taskid) if has_failed(taskid) else 0
                yield _record(taskid, 1, status, worker, started, chance)


def has_failed(taskid: int) -> bool:
    """Return whether a task has failed for good."""
    return random.Random(taskid).random() < FAILED


def _status_of(taskid: int) -> int:
    return (1, 2, 1, -11)[taskid % 4]


def _record(
    taskid: int,
    attempt: int,
    status: int,
    worker: int,
    started: float,
    chance: random.Random,
) -> Recorded:
    rank, index = divmod(worker, 8)
    result = Result(
        taskid=taskid,
        attempt=attempt,
        outcome=Outcome.FAILED if status else Outcome.COMPLETED,
        status=status,
        worker=4000 + worker,
        started=started,
        seconds=chance.expovariate(0.1),
        ended=0.0,
        # Here: whether the task runs again, so that no status file has it.
        note="again" if status and not has_failed(taskid) else "",
        worker_index=index,
        user_seconds=chance.random(),
        system_seconds=chance.random() / 10,
        peak_memory=chance.randrange(20_000_000, 900_000_000),
        output_bytes=chance.randrange(10_000),
    )
    return Recorded(taskid, not status, result, rank, 3000 + rank, f"n{10 + rank // 2}")


def _write_logs(paths: WorkdirPaths, ended: int) -> None:
    """Write the outputs of all failed tasks, and of the first tasks."""
    for taskid in range(ended):
        if taskid < 100 or has_failed(taskid):
            lines = [f"reading data/{taskid % 977:05}.nc"]
            lines += [f"step {n}: residual {1 / (n + 1):.6f}" for n in range(30)]
            end = _ENDS[taskid % 4] if taskid % 4 < 3 else ""
            lines += [end.format(taskid * 7, taskid / 3)] if has_failed(taskid) else []
            Path(paths.log(taskid)).write_text("".join(f"{line}\n" for line in lines))


# ---- measuring ----------------------------------------------------------------------


def find_seconds(tasklist: Path, command: str, compiled: str) -> float:
    """Return the CPU seconds of a command, user and system.

    `compiled`: the directory of the compiled modules.
    """
    name, *options = command.split()
    words = [sys.executable, "-m", "mpifarm", name, str(tasklist), *options]
    actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    child = os.posix_spawn(words[0], words, environment, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"mpifarm {command} has failed")
    return usage.ru_utime + usage.ru_stime


def measure(
    tasklists: Iterable[Path], command: str, rounds: int, compiled: str
) -> Iterator[float]:
    """Yield the least CPU seconds of a command on each list."""
    for tasklist in tasklists:
        yield min(find_seconds(tasklist, command, compiled) for _ in range(rounds))


def main() -> int:
    """Measure all commands, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="commands that begin so")
    parser.add_argument(
        "--directory", help="where the workdirs are kept, or made if they are not there"
    )
    chosen = parser.parse_args()
    wanted = tuple(chosen.only or [""])
    with tempfile.TemporaryDirectory(dir="/dev/shm") as temporary:
        directory = Path(chosen.directory or temporary)
        tasklists = [directory / f"tasks-{total}" for total in chosen.tasks]
        for tasklist, total in zip(tasklists, chosen.tasks, strict=True):
            if not tasklist.exists():
                make_workdir(tasklist, total)
        rows = [("CPU seconds", *(f"{total:,} tasks" for total in chosen.tasks))]
        for command in COMMANDS:
            if command.startswith(wanted):
                found = measure(
                    tasklists, command, chosen.rounds, f"{temporary}/compiled"
                )
                row = (f"`{command}`", *(f"{seconds:.2f}" for seconds in found))
                print(*row, flush=True)
                rows.append(row)
    print(*table(rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
