"""What lists cost that grow, that have an order, or that are a database.

    python -m tests.bench.list_kinds [--tasks N] [--lines N] [--rounds K]
        [--only WORD ...] [--directory DIR]

Rules of this file: standard library, and mpifarm's commands.  One rank; each figure is
of a whole farm, and a ratio is of two that took turns, the median of all rounds.

- growth: lines that are appended to the list of a farm that waits (``--follow``), in
  one write, until it has taken them all up.
- order: from the start of a farm to its first command, with a dependency for each ten
  tasks, beside the same list without one.
- database: tasks a second by a runner that starts nothing, and of a command, beside a
  text list; then the CPU time for each task of a long database, beside a short one.
"""

import argparse
import json
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.bench.big_lists import ROOT, Yard
from tests.bench.contenders import DISPATCH_INI
from tests.bench.goals import table
from tests.support import wait_until

Row = tuple[str, ...]

MANY = 100_000
"""Seconds that nobody waits for."""

SHORT = 50_000
"""Tasks of a database that is run to its end, beside a text list."""

COMMANDS = 5000
"""Tasks that are commands, of which a farm starts some thousand a second."""

TAKES_LONG = 600.0
"""Seconds that a farm may take for what is measured here."""


def measure_growth(directory: Path, lines: int, rounds: int) -> list[Row]:
    yard = Yard(directory, 1, "true")
    fingerprint = yard.workdir / "fingerprint.json"
    rates = []
    for _ in range(rounds):
        shutil.rmtree(yard.workdir, ignore_errors=True)
        yard.tasklist.write_text("true\n")
        farm = yard.start("--follow", str(MANY), "--proc", "2")
        try:
            wait_until(lambda: yard.count_done() == 1)
            with yard.tasklist.open("a") as stream:
                stream.write(f"exec sleep {MANY}\n" * lines)
            begun = time.perf_counter()
            wait_until(
                lambda: json.loads(fingerprint.read_bytes())["count"] == lines + 1,
                TAKES_LONG,
            )
            rates.append(lines / (time.perf_counter() - begun))
        finally:
            farm.child.send_signal(signal.SIGUSR1)
            yard.end(farm)
    return [(f"{lines:,} lines appended at once, taken up a second", _number(rates))]


def measure_order(directory: Path, tasks: int, rounds: int) -> list[Row]:
    plain = Yard(directory, tasks, "true")
    ordered = Yard(directory, tasks + 1, "true")
    with ordered.tasklist.open("w") as stream:
        for number in range(tasks):
            after = f"#AFTER {number - 5}\n" if number % 10 == 9 else ""
            stream.write(f"{after}true\n")
    firsts: dict[Yard, list[float]] = {ordered: [], plain: []}
    for _ in range(rounds):
        for yard, found in firsts.items():
            yard.begin_anew(0)
            found.append(yard.farm("--timeout", "10").first)
    what = f"{tasks:,} tasks, {tasks // 10:,} dependencies"
    return [
        (f"{what}: seconds to the first command", _seconds(firsts[ordered])),
        ("the same tasks without an order", _seconds(firsts[plain])),
    ]


class DatabaseYard(Yard):
    """A database with a list of N lines, and its workdir."""

    def __init__(self, directory: Path, total: int) -> None:
        super().__init__(directory, total, "true")
        self._new = self.tasklist.with_suffix(".new.db")
        words = ["import", str(self.tasklist), str(self._new)]
        argv = [sys.executable, "-m", "mpifarm", *words]
        subprocess.run(argv, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        self.tasklist = self.tasklist.with_suffix(".db")
        self.workdir = directory / f"workdir-{total}.db"

    def begin_anew(self, done: int) -> None:
        assert not done
        shutil.rmtree(self.workdir, ignore_errors=True)
        shutil.copy(self._new, self.tasklist)

    def count_done(self) -> int:
        if not self.tasklist.exists():
            return 0
        with closing(sqlite3.connect(self.tasklist)) as connection:
            query = "SELECT count(*) FROM tasks WHERE state = 'finished'"
            (count,) = connection.execute(query).fetchone()
            return int(count)


def measure_database(directory: Path, tasks: int, rounds: int) -> list[Row]:
    count, few = min(SHORT, tasks), min(COMMANDS, tasks)
    (directory / "nothing.ini").write_text(DISPATCH_INI)
    options = ("-r", "nothing", "--config", str(directory / "nothing.ini"))
    text, short = Yard(directory, count, "true"), DatabaseYard(directory, count)

    def speed_of(yard: Yard, *options: str) -> float:
        yard.begin_anew(0)
        run = yard.farm(*options)
        assert run.done == yard.total, run
        return run.done / run.seconds

    speeds = take_turns(
        rounds, lambda: speed_of(short, *options), lambda: speed_of(text, *options)
    )
    (directory / "few").mkdir()
    commands = Yard(directory / "few", few, "true")
    rows = DatabaseYard(directory / "few", few)
    real = take_turns(rounds, lambda: speed_of(rows), lambda: speed_of(commands))
    (directory / "long").mkdir()
    long = DatabaseYard(directory / "long", tasks)

    def cost_of(yard: Yard, *timeouts: str) -> float:
        """Return the CPU seconds of a task in mid-run, from two farms."""
        runs = []
        for timeout in timeouts:
            yard.begin_anew(0)
            runs.append(yard.farm(*options, "--timeout", timeout))
        few, many = runs
        return (many.cpu - few.cpu) / max(1, many.done - few.done)

    costs = take_turns(
        rounds, lambda: cost_of(long, "4", "9"), lambda: cost_of(short, "0.7", "1.4")
    )
    return [
        (f"database against text list: {count:,} tasks without a command", speeds),
        (f"the same, {few:,} times `true`", real),
        (f"database of {tasks:,} against {count:,}: CPU for each task", costs),
    ]


def take_turns(
    rounds: int, one: Callable[[], float], other: Callable[[], float]
) -> str:
    """Return the median of the ratios of two measurements that take turns."""
    ratios = [one() / other() for _ in range(rounds)]
    return f"{statistics.median(ratios):.2f}"


def _number(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f}"


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1_000_000, help="of long lists")
    parser.add_argument("--lines", type=int, default=100_000, help="that are appended")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[])
    parser.add_argument("--directory", default="/dev/shm")
    chosen = parser.parse_args()
    rounds = chosen.rounds
    kinds: dict[str, Callable[[Path], list[Row]]] = {
        "growth": lambda place: measure_growth(place, chosen.lines, rounds),
        "order": lambda place: measure_order(place, chosen.tasks, rounds),
        "database": lambda place: measure_database(place, chosen.tasks, rounds),
    }
    rows: list[Row] = [("what", "figure")]
    for name, measure in kinds.items():
        if chosen.only and name not in chosen.only:
            continue
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
            rows += measure(Path(directory))
    print("\n" + "\n".join(table(rows)))


if __name__ == "__main__":
    main()
