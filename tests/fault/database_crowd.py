"""Many at work on one database that grows and has an order; a seed is a scenario.

    python -m tests.fault.database_crowd --seed 17 --runs 1 -v

As `tests.fault.crowd`, whose actors and judges these are: two MPI farms, PyTaskFarmer
0.1.0 by its INI file, ``mpifarm add``, who cancels, holds and releases.  The user
inserts rows by SQL, in transactions that are open for a while and written before their
commit, so that a kill leaves a hot journal; and somebody reads all the time.  All of
them are killed at some moment.

Rules of this file: as there.  The database is looked at under the lock, its integrity
each time.
"""

import json
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import cycle
from pathlib import Path

from tests.farm_driver import MPIFARM
from tests.fault import crowd
from tests.fault.crowd import Actor, Adding, CommandActor, Crowd, Play, Scenario
from tests.fault.database_evidence import DatabaseScene
from tests.fault.harness import Outcome, play_command_line
from tests.support import Child, is_asleep

BUSY = "is open in another program, which is writing it"
"""What is told of a database while a program's transaction is open."""

LONG_HOLD = 0.5
"""Seconds for which a reader that has the lock never waits."""

LOOK_GRAIN = 0.02
READ_PAUSE = 0.2

INSERT = """
import json, sqlite3, sys, time
path, pause, rows = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])
connection = sqlite3.connect(path, timeout=40, isolation_level=None)
# More than the cache holds is written, under SQLite's lock, before the commit.
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
insert = (
    'INSERT INTO tasks (command, "after", kind) SELECT ?1, ?2, ?3'
    " WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE command = ?1)"
)
for row in rows:
    connection.execute(insert, row)
connection.execute("INSERT INTO about VALUES ('ballast', zeroblob(100000))")
connection.execute("DELETE FROM about WHERE key = 'ballast'")
time.sleep(pause)
connection.execute("COMMIT")
"""


# ---- the plan ------------------------------------------------------------------------


@dataclass(frozen=True)
class DatabaseScenario(Scenario):
    """All that a seed decides."""

    pauses: tuple[float, ...] = ()
    """How long each transaction of the user is open."""
    reader_kills: tuple[float, ...] = ()
    """When the reader is killed."""

    def __str__(self) -> str:
        more = f"    pauses {self.pauses}, the reader is killed at {self.reader_kills}"
        return f"{super().__str__()}\n{more}"


def plan(seed: int) -> DatabaseScenario:
    """What the seed stands for."""
    rng = random.Random(f"database {seed}")
    base = crowd.plan(seed)
    values = {each.name: getattr(base, each.name) for each in fields(base)}
    return DatabaseScenario(
        **values
        | {
            "plain": tuple(
                each._replace(
                    version="0.1.0", killed_after=_sometimes(rng, 0.5, 0.3, 3.0)
                )
                for each in base.plain
            ),
            "appended": tuple(_plan_insert(rng, each) for each in base.appended),
        },
        pauses=tuple(rng.choice([0.0, 0.1, 0.5]) for _ in base.appended),
        reader_kills=tuple(
            sorted(rng.uniform(0.0, crowd.ACTS) for _ in range(rng.randint(1, 3)))
        ),
    )


def _plan_insert(rng: random.Random, adding: Adding) -> Adding:
    count = rng.choice([0, 0, 1, 3])
    return adding._replace(
        after=tuple(rng.random() for _ in range(count)),
        killed_after=_sometimes(rng, 0.4, 0.05, 0.6),
    )


def _sometimes(
    rng: random.Random, share: float, least: float, most: float
) -> float | None:
    return rng.uniform(least, most) if rng.random() < share else None


# ---- who acts ------------------------------------------------------------------------


class SqlUser(CommandActor):
    """Inserts rows by a program of its own, which has SQLite's locks alone."""

    name = "user"

    def __init__(
        self, crowd: Crowd, plans: Sequence[Adding], pauses: Sequence[float]
    ) -> None:
        super().__init__(crowd)
        self._plans = [*zip(plans, pauses, strict=True)]

    @property
    def has_acts(self) -> bool:
        return bool(self._plans) or super().has_acts

    def step(self) -> None:
        super().step()
        if self._child is None and self._plans:
            its, pause = self._plans[0]
            if self.crowd.now >= its.moment:
                del self._plans[0]
                self.begin(self._compose(its, pause), its.killed_after)

    def _compose(self, its: Adding, pause: float) -> list[str]:
        after = self.crowd.pick(its.after) or None
        rows = [
            (task._replace(prefix="").line, after, "seat" if task.prefix else None)
            for task in its.tasks
        ]
        return [self.crowd.list, str(pause), json.dumps(rows)]

    def start(self, *words: str) -> Child:
        argv = [sys.executable, "-c", INSERT, *words]
        return self.crowd.stage.farm.start_command(argv, name=self.name)

    def on_end(self, child: Child) -> None:
        if child.wait() == -signal.SIGKILL:
            self.begin(self._words, None)
        elif child.wait():
            self.crowd.find(f"the user's SQL ended with {child.wait()}")


class Reader(CommandActor):
    """Reads in a loop, by subcommands and by SQL; each kill hits what reads then."""

    name = "reader"

    def __init__(self, crowd: Crowd, scene: DatabaseScene, kills: Sequence[float]):
        super().__init__(crowd)
        self._scene = scene
        self._kills = [*kills]
        self._commands = cycle((("ls", "--json"), ("status", "--json"), ("export",)))
        self._finished: set[int] = set()
        self._begin_at = 0.0
        self._holds = HoldWatch(scene.workdir / "lock")
        self.readings = 0

    @property
    def has_acts(self) -> bool:
        return bool(self._kills)

    def step(self) -> None:
        super().step()
        crowd = self.crowd
        if self._child is not None:
            self._look_at_lock(self._child)
        elif not crowd.is_closing and crowd.now >= self._begin_at:
            self._read_by_sql()
            command, *options = next(self._commands)
            is_due = bool(self._kills) and crowd.now >= self._kills[0] - 0.3
            delay = max(0.0, self._kills.pop(0) - crowd.now) if is_due else None
            self.begin([command, crowd.list, *options], delay)

    def _look_at_lock(self, child: Child) -> None:
        if self._holds.find_time(child.pid) > LONG_HOLD:
            self.crowd.find(f"{self._words} waits with the lock for {LONG_HOLD} s")

    def _read_by_sql(self) -> None:
        query = "SELECT id, state FROM tasks"
        try:
            rows = self._scene.ask(query, 0.0)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                self.crowd.find(f"a query failed: {error}")
            return
        self._judge([*map(str, dict(rows))], len(rows))
        self._note_finished({i for i, state in rows if state == "finished"})

    def on_end(self, child: Child) -> None:
        self._begin_at = self.crowd.now + READ_PAUSE
        status, text = child.wait(), child.text()
        if status == -signal.SIGKILL or (status == 2 and BUSY in text):
            return
        if status:
            self.crowd.find(f"{self._words} ended with {status}: {text}")
            return
        self.readings += 1
        if self._words[0] == "status":
            told = json.loads(text)
            self._judge_counts(told["counts"], told["total"])
        elif self._words[0] == "ls":
            told = json.loads(text)
            tasks = {each["id"]: each["state"] for each in told["tasks"]}
            self._judge([*map(str, tasks)], len(told["tasks"]))
            self._judge_counts(told["counts"], told["total"])
            self._note_finished({i for i, at in tasks.items() if at == "finished"})
        else:
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            self._judge(lines, len(lines))

    def _judge(self, distinct: Sequence[str], count: int) -> None:
        if len({*distinct}) != count:
            self.crowd.find(f"{self._words} shows a task twice")

    def _judge_counts(self, counts: dict[str, int], total: int) -> None:
        if sum(counts.values()) != total:
            self.crowd.find(f"{self._words} counts {counts} of {total}")

    def _note_finished(self, finished: set[int]) -> None:
        if gone := self._finished - finished:
            self.crowd.find(f"the reader saw {gone} finished, and then not")
        self._finished = finished


class HoldWatch:
    """Sums up how long a process waits while it has a lock, by looking often.

    One that the machine keeps still is ready to run, and does not wait.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = 0
        self._seconds = 0.0
        self._seen = 0.0

    def find_time(self, pid: int) -> float:
        """Return how long this process has waited with the lock by now; looks that are
        late count for as long as those that are not."""
        now = time.monotonic()
        if not self._has(pid):
            self._seconds = 0.0
        elif self._seconds and pid == self._pid:
            self._seconds += min(now - self._seen, LOOK_GRAIN) * is_asleep(pid)
        else:
            self._seconds = 1e-6
        self._pid, self._seen = pid, now
        return self._seconds

    def _has(self, pid: int) -> bool:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            return False
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1:2] == ["FLOCK"] and words[4] == str(pid):
                return words[5].endswith(f":{inode}")
        return False


# ---- the play ------------------------------------------------------------------------


class DatabasePlay(Play):
    """One scenario on a database."""

    scenario: DatabaseScenario
    scene: DatabaseScene

    def write_list(self, text: str) -> None:
        (self.scene.directory / "list.txt").write_text(text)
        argv = [*MPIFARM, "import", "list.txt", self.scene.list_name]
        child = self.stage.farm.start_command(argv, name="import")
        assert child.wait() == 0, child.text()

    def create_others(self) -> list[Actor]:
        its = self.scenario
        self.reader = Reader(self.crowd, self.scene, its.reader_kills)
        return [SqlUser(self.crowd, its.appended, its.pauses), self.reader]

    def _judge_lost(self) -> None:
        super()._judge_lost()
        if "was killed as it had" not in self.stage.outputs():
            self.crowd.find("no farm names the plain farmer that was killed")

    def _judge(self, status: int) -> Iterator[str]:
        yield from super()._judge(status)
        kills, stalled = self.crowd.kills, self.crowd.asked.stalled
        yield from self.scene.judge_agreement(kills, stalled)
        yield from self.scene.judge_repeats(kills, stalled)
        if not self.reader.readings:
            yield "the reader has read nothing"


def play(scenario: DatabaseScenario, directory: Path) -> Outcome:
    """Play it in this directory, which must not exist."""
    return crowd.play_on(scenario, DatabaseScene(directory, ()), DatabasePlay)


if __name__ == "__main__":
    what = "Play many at work on one database, some of whom are killed."
    sys.exit(play_command_line(what, plan, crowd.missing, play))
