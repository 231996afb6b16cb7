"""A database with its workdir, for tests of stores: farms come and go, and are killed.

Rules of this file: as those of `store_fakes`.  Rows are read by SQLite alone.
"""

import functools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from mpifarm import databases
from mpifarm.database import schema
from mpifarm.database import tasks as statements
from mpifarm.database.tasks import NewTask, TaskState
from mpifarm.databases import SqliteTaskList
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.database_store import DatabaseStore
from mpifarm.store.farm_liveness import Machine
from mpifarm.store.membership import FAMILY
from tests.unit.store_fakes import TASKS, FakeLock, Interference, instead_of_os

_connect = sqlite3.connect
ENDED = ("finished", "failed", "cancelled")


class DatabaseSite:
    """A database ``tasks.db``, and the farms that come and go in its workdir."""

    def __init__(
        self,
        directory: Path,
        commands: Sequence[str] = TASKS,
        constraints: Constraints = UNORDERED,
    ) -> None:
        self.root = directory / "tasks.db_workdir"
        self.path = directory / "tasks.db"
        self.now = 1000.0
        self.dead: set[int] = set()
        self.farms = 0
        self._stores: list[DatabaseStore] = []
        with schema.creating(str(self.path)) as connection:
            statements.insert(
                connection,
                (
                    NewTask(
                        taskid,
                        command.encode("utf-8", "surrogateescape"),
                        _state_of(constraints, taskid),
                        constraints.after.get(taskid, ()),
                        constraints.kinds.get(taskid),
                    )
                    for taskid, command in enumerate(commands)
                ),
            )
            statements.insert_barriers(connection, constraints.barriers)

    # ---- farms -----------------------------------------------------------------------

    def machine(self, pid: int, host: str = "node1") -> Machine:
        def find_start(of: int) -> int | None:
            return None if of in self.dead else 5000 + of

        return Machine(host, "boot1", pid, find_start, lambda _: self.now)

    def open(self, *, predecessor: str = "") -> DatabaseStore:
        self.farms += 1
        machine = self.machine(self.farms)
        with closing(schema.connect(str(self.path))) as connection:
            texts = statements.read_commands(connection)
            constraints = statements.read_constraints(connection)
        try:
            store = DatabaseStore.open(
                str(self.root),
                str(self.path),
                texts,
                constraints,
                FakeLock(self.root / "lock"),
                f"{predecessor[:FAMILY]}{self.farms:08x}".rjust(16, "0"),
                lambda: self.now,
                machine,
                predecessor=predecessor,
            )
        except BaseException:
            self.dead.add(machine.pid)
            raise
        self._stores.append(store)
        return store

    def kill(self, store: DatabaseStore) -> None:
        self.dead.add(store._machine.pid)
        store._member.claim.end()

    def kill_all(self) -> None:
        self.dead.update(range(self.farms + 1))
        for store in self._stores:
            store._member.claim.end()

    # ---- rows ------------------------------------------------------------------------

    def ask(self, query: str, *values: object) -> list[Any]:
        with closing(_connect(self.path)) as connection, connection:
            return connection.execute(query, values).fetchall()

    def ids(self, *states: str) -> list[int]:
        marks = ", ".join("?" * len(states))
        query = f"SELECT id FROM tasks WHERE state IN ({marks}) ORDER BY id"
        return [taskid for (taskid,) in self.ask(query, *states)]

    def held(self, farm: str) -> set[int]:
        query = "SELECT id FROM tasks WHERE state = 'running' AND farm = ?"
        return {taskid for (taskid,) in self.ask(query, farm)}

    def insert(self, *commands: str, after: str | None = None) -> None:
        """Insert tasks as a user does, who does not think of states."""
        with closing(_connect(self.path)) as connection, connection:
            connection.executemany(
                'INSERT INTO tasks (command, "after") VALUES (?, ?)',
                [(command, after) for command in commands],
            )

    def attempts(self) -> list[int]:
        """Return the task of each line of ``attempts.tsv``."""
        path = self.root / "attempts.tsv"
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        return [int(line.split("\t")[0]) for line in lines]

    def violations(self) -> list[str]:
        """Return what is wrong with the rows, whatever has happened before."""
        found = [
            f"task {taskid} is {state} and has the farm {farm}"
            for taskid, state, farm in self.ask("SELECT id, state, farm FROM tasks")
            if (state == "running") != (farm is not None)
        ]
        claims = [each.name for each in self.root.glob("claims/*")]
        running = self.ask("SELECT id, farm FROM tasks WHERE state = 'running'")
        found += [
            f"task {taskid} is with {farm}, which has no claim"
            for taskid, farm in running
            if farm not in claims and not str(farm).startswith("PyTaskFarmer ")
        ]
        ((verdict,),) = self.ask("PRAGMA integrity_check")
        return [*found, *([] if verdict == "ok" else [verdict])]

    def plain_farmer(self, pid: int) -> "PlainFarmer":
        return PlainFarmer(self, pid)


def _state_of(constraints: Constraints, taskid: int) -> TaskState:
    is_shared = constraints.is_shared(taskid)
    return TaskState.TO_PROCESS if is_shared else TaskState.WAITING


class PlainFarmer:
    """A worker of PyTaskFarmer, of the given pid, with the class that it would use."""

    def __init__(self, site: DatabaseSite, pid: int) -> None:
        site.root.mkdir(exist_ok=True)
        self.hand: set[int] = set()
        self.name = f"PyTaskFarmer node1 {pid}"
        self.tasks = SqliteTaskList(str(site.path), str(site.root))

    @contextmanager
    def _at_work(self) -> Iterator[SqliteTaskList]:
        name = mock.Mock(return_value=self.name)
        with mock.patch.object(databases, "name_of_process", name):
            yield self.tasks

    def pop(self) -> int | None:
        with self._at_work() as tasks:
            taskid = tasks.pop_task()
        if taskid is not None:
            self.hand.add(taskid)
        return taskid

    def record(self, taskid: int, status: int) -> None:
        with self._at_work() as tasks:
            tasks.record_done_task(taskid, status)
        self.hand.discard(taskid)

    def requeue(self, taskid: int) -> None:
        with self._at_work() as tasks:
            tasks.record_toprocess_task(taskid)
        self.hand.discard(taskid)


# ---- kills and full disks ------------------------------------------------------------


def full_database() -> sqlite3.OperationalError:
    """Return SQLite's error for a disk that is full."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


class FastConnection(sqlite3.Connection):
    """A connection that waits for no disk."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        sql = sql.replace("synchronous = FULL", "synchronous = OFF")
        return super().execute(sql, *values)


@contextmanager
def connecting_by(factory: type[sqlite3.Connection]) -> Iterator[None]:
    """Have mpifarm open databases by connections of a class."""
    connect = functools.partial(_connect, factory=factory)
    with mock.patch.object(sqlite3, "connect", connect):
        yield


class StruckConnection(FastConnection):
    """A connection of which each change is a step, and each end of a change another."""

    steps: Interference
    strike: BaseException

    def _step(self, sql: str) -> None:
        if sql.startswith(("BEGIN", "UPDATE", "INSERT", "COMMIT")):
            steps = type(self).steps
            steps.steps += 1
            if steps.steps == steps._at:
                raise type(self).strike

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self._step(sql)
        done = super().execute(sql, *values)
        self._step(sql)
        return done

    def executemany(self, sql: str, values: Iterable[Any]) -> sqlite3.Cursor:
        self._step(sql)
        done = super().executemany(sql, values)
        self._step(sql)
        return done


@contextmanager
def struck_at(
    at: int, of_files: BaseException, of_rows: BaseException
) -> Iterator[Any]:
    """Strike at the step `at` on files or rows; yield what counts the steps."""
    steps = Interference(at, of_files, half=False)
    factory = type("Struck", (StruckConnection,), {"steps": steps, "strike": of_rows})
    with instead_of_os(steps), connecting_by(factory):
        yield steps
