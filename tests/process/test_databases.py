"""Databases as tasklists: whole farms, kills, users' SQL, and the real PyTaskFarmer."""

import shutil
import signal
import sqlite3
import sysconfig
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from mpifarm.database import schema
from mpifarm.database import tasks as statements
from tests.farm_driver import MPIFARM, FarmDriver
from tests.support import ROOT, wait_until

INI = """[sqlite]
TaskList = mpifarm.databases.SqliteTaskList
"""


class DatabasePlace:
    """A database with commands that note who runs them, and the farms over it."""

    def __init__(self, place: FarmDriver) -> None:
        self.place = place
        self.path = place.tasklist = place.directory / "tasks.db"
        self.workdir = place.workdir = Path(f"{self.path}_workdir")
        note = 'echo "$1 ${MPIFARM_FARM:-plain}" >> starts'
        self._script = place.script("mark", note, "shift", 'eval "$@"')

    def command(self, taskid: int, then: str = "true") -> str:
        """Return a command; PyTaskFarmer has no shell, and takes quotes for words."""
        is_plain = not any(sign in then for sign in "[;$")
        return f"{self._script} {taskid} " + (then if is_plain else f"'{then}'")

    def create(self, *commands: str) -> None:
        """Make the database, one task for each command."""
        encoded = [self.command(*each).encode() for each in enumerate(commands)]
        with schema.creating(str(self.path)) as connection:
            statements.insert_plain(connection, 0, encoded)

    def ask(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Ask, or change, as a user does with SQLite alone."""
        with closing(sqlite3.connect(self.path, timeout=10)) as connection, connection:
            return connection.execute(query, values).fetchall()

    def insert(self, then: str = "true") -> None:
        (total,) = self.ask("SELECT count(*) FROM tasks")[0]
        assert isinstance(total, int)
        command = self.command(total, then)
        self.ask("INSERT INTO tasks (command) VALUES (?)", command)

    def states(self) -> Counter[object]:
        return Counter(state for (state,) in self.ask("SELECT state FROM tasks"))

    def starts(self) -> Counter[int]:
        return Counter(int(line.split()[0]) for line in self.place.notes("starts"))

    def farmers(self) -> Counter[str]:
        return Counter(line.split()[1] for line in self.place.notes("starts"))

    def assert_whole(self) -> None:
        assert self.ask("PRAGMA integrity_check") == [("ok",)]
        left = self.ask("SELECT id FROM tasks WHERE farm IS NOT NULL")
        assert left == [] or self.states()["running"] == len(left)


@pytest.fixture
def create_database(create_place):
    made: list[DatabasePlace] = []

    def create(*commands: str) -> DatabasePlace:
        place = DatabasePlace(create_place())
        made.append(place)
        place.create(*commands)
        return place

    yield create
    for place in made:
        place.assert_whole()


def test_a_farm_does_a_database_and_its_rows_tell_how(create_database):
    at = create_database("true", "exit 3", "kill -9 $$")
    assert at.place.run("-n", "2") == 1
    rows = at.ask("SELECT id, state, outcome, status, signal, attempt FROM tasks")
    assert rows == [
        (0, "finished", "completed", 0, 0, 1),
        (1, "failed", "failed", 3, 0, 1),
        (2, "failed", "failed", 137, 9, 1),
    ]
    assert at.starts() == {0: 1, 1: 1, 2: 1}
    at.ask("UPDATE tasks SET state = 'to process', command = 'true' WHERE id > 0")
    at.place.finish()
    assert at.states() == {"finished": 3}
    assert not (at.workdir / "toprocess").exists()


def test_a_farm_that_was_killed_goes_on_where_it_was(create_database):
    at = create_database(*["sleep 0.02"] * 200)
    for share in (40, 90):
        farm = at.place.start("-n", "4")
        at.place.await_notes("starts", share)
        at.place.kill(farm)
        at.assert_whole()
    at.place.finish("-n", "8")
    assert at.states() == {"finished": 200}
    assert at.starts().keys() == {*range(200)}
    assert at.place.claims() == []


def test_two_farms_share_a_database(create_database):
    at = create_database(*["until [ -e go ]; do sleep 0.02; done"] * 100)
    farms = [at.place.start("-n", "2", name=name) for name in ("left", "right")]
    at.place.await_notes("starts", 4)
    at.place.allow()
    assert {farm.wait() for farm in farms} <= {0, 3}
    at.place.finish()
    assert at.starts() == dict.fromkeys(range(100), 1)
    assert len(at.farmers()) == 2


def test_what_a_user_inserts_runs_while_the_farm_works(create_database):
    at = create_database("until [ -e go ]; do sleep 0.02; done")
    farm = at.place.start("-n", "2")
    at.place.await_notes("starts", 1)
    at.insert()
    at.place.await_notes("starts", 2)
    at.place.allow()
    assert farm.wait() == 0
    assert "1 task was added to" in farm.text()
    assert at.states() == {"finished": 2}


def test_what_is_inserted_in_an_order_waits(create_database):
    at = create_database("until [ -e go ]; do sleep 0.02; done")
    farm = at.place.start("-n", "2")
    at.place.await_notes("starts", 1)
    last = at.command(1, "[ -e go ]")
    at.ask("INSERT INTO tasks (command, \"after\") VALUES (?, '0')", last)
    wait_until(lambda: at.states()["waiting"] == 1)
    at.place.allow()
    assert farm.wait() == 0
    assert at.states() == {"finished": 2}


def test_an_added_task_of_a_kind_without_a_limit_waits_for_a_farm_with_one(
    create_database,
):
    at = create_database("true")
    place = at.place
    farm = place.start("--follow")
    wait_until(lambda: at.states()["finished"] == 1)
    added = place.start_command([*MPIFARM, "add", str(at.path), "[limit=zz] true"])
    assert added.wait() == 0
    assert "it has no limit for the kind 'zz'" in added.text()
    wait_until(lambda: "which has no limit in this farm: they wait" in farm.text())
    place.finish("--limit", "zz=1")
    assert at.states() == Counter(finished=2)
    place.run_words("drain", str(at.path))
    assert farm.wait() == 0, farm.text()


def test_a_farm_waits_until_another_program_has_written(create_database):
    waits = "until [ -e {} ]; do sleep 0.02; done"
    at = create_database(*[waits.format("go")] * 2, *[waits.format("later")] * 4)
    farm = at.place.start("-n", "2", "--grace", "0.1")
    at.place.await_notes("starts", 1)
    with closing(sqlite3.connect(at.path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        at.place.allow()
        wait_until(lambda: "let that program commit or end; this" in farm.text())
        connection.execute("ROLLBACK")
        wait_until(lambda: "the database can be written again" in farm.text())
        connection.execute("BEGIN EXCLUSIVE")
        farm.send_signal(signal.SIGUSR1)
        assert farm.wait() == 75
    (at.place.directory / "later").touch()
    at.place.finish()
    assert at.states() == {"finished": 6}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--remap",), "--remap is for a text list that was edited, and in the"),
        (("--tasklist", "default"), "has a NUL byte in it"),
    ],
)
def test_what_makes_no_sense_for_a_database_is_refused(
    create_database, options, sentence
):
    at = create_database("true")
    if "default" in options:
        shutil.move(at.path, at.path.with_suffix(".list"))
        at.place.tasklist = at.path.with_suffix(".list")
    farm = at.place.start(*options)
    assert farm.wait() == 2
    assert sentence in farm.text()
    if "default" in options:
        shutil.move(at.place.tasklist, at.path)
    assert at.states() == {"to process": 1}


def change(path, statement):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda path: path.write_bytes(b"no database" * 100), "is not one of SQLite"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged"),
        (lambda path: path.unlink(), "no database"),
        (lambda path: change(path, "DROP TABLE barriers"), "no such table: barriers"),
        (lambda path: change(path, "UPDATE tasks SET \"after\" = '99'"), "task 99"),
    ],
    ids=["alien", "short", "missing", "table", "order"],
)
def test_a_database_that_cannot_be_used_is_told_and_nothing_is_made(
    create_place, break_it, sentence
):
    at = DatabasePlace(create_place())
    at.create("true")
    break_it(at.path)
    before = at.path.read_bytes() if at.path.exists() else b""
    farm = at.place.start()
    assert farm.wait() == 2
    assert sentence in farm.text()
    assert not at.workdir.exists()
    assert (at.path.read_bytes() if at.path.exists() else b"") == before


# ---- beside the real PyTaskFarmer ----------------------------------------------------


def start_plain(at: DatabasePlace, plain_farmer: list[str], *options: str):
    """Start PyTaskFarmer 0.1.0 with an INI file; its Python finds mpifarm."""
    (at.place.directory / "sqlite.ini").write_text(INI)
    argv = [*plain_farmer, "--tasklist", "sqlite", *options, str(at.path)]
    env = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    return at.place.start_command(argv, env=env, name="plain")


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_a_plain_farmer_and_a_farm_do_each_task_once(create_database, plain_farmer):
    at = create_database(*["sleep 0.02"] * 40, *["./waits"] * 80)
    at.place.script("waits", "until [ -e go ]; do sleep 0.02; done")
    plain = start_plain(at, plain_farmer, "--proc", "2")
    at.place.await_notes("starts", 4)
    farm = at.place.start("-n", "2")
    wait_until(lambda: len(at.farmers()) == 2)
    at.place.allow()
    assert farm.wait() in (0, 3), farm.text()
    assert plain.wait() == 0, plain.text()
    assert at.states() == {"finished": 120}
    assert at.starts() == dict.fromkeys(range(120), 1)
    assert len(at.farmers()) == 2, at.farmers()
    hosts = at.ask("SELECT count(*) FROM tasks WHERE host IS NULL OR status <> 0")
    assert hosts == [(0,)]
    at.place.finish()


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_what_a_killed_plain_farmer_had_stays_running_and_is_told(
    create_database, plain_farmer
):
    at = create_database("sleep 1000", *["true"] * 5)
    plain = start_plain(at, plain_farmer, "--proc", "1")
    at.place.await_notes("starts", 1)
    at.place.kill(plain, "plain")
    farm = at.place.start("-n", "2")
    assert farm.wait() == 3
    assert "was killed as it had 1 task of" in farm.text()
    assert at.states() == {"finished": 5, "running": 1}
    assert at.place.result()["tasks"]["elsewhere"] == 1
