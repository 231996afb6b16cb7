"""A database as PyTaskFarmer sees it: its TaskList, under the lock of the workdir."""

import copy
import os
import pickle
import shutil
import signal
import socket
import sqlite3
from contextlib import closing
from unittest.mock import Mock

import pytest

from mpifarm import databases
from mpifarm.database import schema
from mpifarm.database.waiting import opened_to_read
from mpifarm.databases import SqliteTaskList
from mpifarm.errors import InputError, StorageError
from mpifarm.model.settings import HandlerDefinition
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.tasklists import is_database, keeps_own_state, open_tasklist
from tests.unit.database_fakes import DatabaseSite, FastConnection, connecting_by


@pytest.fixture(autouse=True)
def _no_lock_area(monkeypatch):
    for name in ("SCRATCH", "TMP", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    with connecting_by(FastConnection):
        yield


@pytest.fixture
def site(tmp_path):
    return DatabaseSite(tmp_path, ["echo 0", "echo \udcff", "echo 2"])


def open_list(site, **options):
    site.root.mkdir(exist_ok=True)
    return SqliteTaskList(str(site.path), str(site.root), **options)


def test_a_list_has_the_commands_by_their_ids(site):
    tasks = open_list(site)
    assert [*tasks.tasks] == ["echo 0", "echo \udcff", "echo 2"]
    assert (len(tasks), tasks[1]) == (3, "echo \udcff")
    assert is_database(tasks)
    assert not keeps_own_state(tasks, str(site.root))


def test_a_copy_for_a_worker_is_small_and_knows_the_commands(site):
    tasks = copy.copy(open_list(site))
    content = pickle.dumps(tasks)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert (len(again), again[1], [*again.tasks]) == (3, "echo \udcff", [*tasks.tasks])
    with pytest.raises(IndexError):
        copy.copy(again)[3]


def test_tasks_are_popped_in_their_order_and_recorded(site, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "n1")
    tasks = open_list(site)
    assert [tasks.pop_task(), tasks.pop_task()] == [0, 1]
    who = f"PyTaskFarmer n1 {os.getpid()}"
    assert site.ask("SELECT id FROM tasks WHERE farm = ?", who) == [(0,), (1,)]
    tasks.record_done_task(0, 0)
    tasks.record_done_task(1, -9)
    columns = "state, attempt, outcome, status, signal, host, farm"
    assert site.ask(f"SELECT {columns} FROM tasks WHERE id < 2") == [
        ("finished", 1, "completed", 0, 0, "n1", None),
        ("failed", 1, "failed", 137, 9, "n1", None),
    ]
    assert tasks.get_finished() == [0]
    assert tasks.pop_task() == 2
    tasks.record_toprocess_task(2)
    tasks.record_toprocess_task(0)  # an idle worker puts back what it has finished
    assert (site.ids("to process"), site.ids("finished")) == ([2], [0])


def test_an_attempt_follows_those_that_the_row_tells_of(site):
    site.ask("UPDATE tasks SET attempt = 2")
    tasks = open_list(site)
    assert tasks.pop_task() == 0
    tasks.record_done_task(0, 3)
    assert site.ask("SELECT attempt FROM tasks WHERE id < 2") == [(3,), (2,)]


def test_what_plain_farmers_may_not_run_is_not_popped(tmp_path):
    constraints = Constraints(
        barriers=[Barrier(4, checks=False)], after={1: (0,)}, kinds={2: "disk"}
    )
    site = DatabaseSite(tmp_path, constraints=constraints)
    site.ask("UPDATE tasks SET state = 'to process'")
    tasks = open_list(site)
    assert [tasks.pop_task() for _ in range(3)] == [0, 3, None]


def test_a_task_that_was_inserted_since_is_left_to_others(site):
    tasks = open_list(site)
    site.insert("echo new")
    assert [tasks.pop_task() for _ in range(4)] == [0, 1, 2, None]


def test_each_method_takes_the_lock_that_plain_farmers_take(
    site, tmp_path, monkeypatch
):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setattr(databases, "LOCK_SECONDS", 0.01)
    tasks = open_list(site)
    other = WorkdirLock(lock_paths(str(site.root), os.environ, None))
    assert len(other.paths) == 2
    with other.hold(5), pytest.raises(Exception, match="was held by other farmers"):
        tasks.pop_task()
    tasks.lock()
    tasks.lock()
    assert tasks.pop_task() == 0
    assert not other.try_acquire()
    tasks.unlock()
    tasks.unlock()
    other.acquire(5)
    other.release()


def test_under_another_workdir_nothing_is_popped_while_tasks_run(site, tmp_path):
    first = open_list(site)
    other = tmp_path / "other"
    other.mkdir()
    second = SqliteTaskList(str(site.path), str(other))
    shutil.rmtree(other)
    assert first.pop_task() == 0
    with pytest.raises(InputError, match="which has a lock of its own: name it"):
        SqliteTaskList(str(site.path), str(other))
    assert not other.exists()
    other.mkdir()
    with pytest.raises(InputError, match="which has a lock of its own: name it"):
        second.pop_task()
    first.record_done_task(0, 0)
    assert second.pop_task() == 1


def test_the_lock_area_is_an_option(site, tmp_path):
    area = tmp_path / "area"
    area.mkdir()
    open_list(site, lock_area=str(area)).pop_task()
    assert len(os.listdir(area)) == 1


def test_a_term_waits_for_the_end_of_a_change(site, monkeypatch):
    tasks = open_list(site)
    states = []

    class TermError(Exception):
        pass

    def on_term(*_):
        states.append(site.ids("running"))
        raise TermError

    before = signal.signal(signal.SIGTERM, on_term)

    def name():
        signal.raise_signal(signal.SIGTERM)
        return "PyTaskFarmer n1 1"

    monkeypatch.setattr(databases, "name_of_process", name)
    try:
        with pytest.raises(TermError):
            tasks.pop_task()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert states == [[0]]
    assert tasks._lock is not None
    assert not tasks._lock.held


@pytest.mark.parametrize(
    "act",
    [
        *(open_list, lambda site: site.list.pop_task()),
        *(lambda site: site.list.get_finished(), lambda site: site.copy[1]),
        lambda site: site.copy.tasks,
    ],
)
def test_another_program_is_waited_for_without_the_lock(site, monkeypatch, act):
    site.list = open_list(site)
    site.copy = copy.copy(site.list)
    lock = WorkdirLock(lock_paths(str(site.root), os.environ, None))
    held = []
    with closing(sqlite3.connect(site.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        def sleep(_seconds):
            held.append(not lock.try_acquire())
            lock.release()
            if len(held) == 3:
                other.execute("COMMIT")

        monkeypatch.setattr("mpifarm.database.waiting.time.sleep", sleep)
        act(site)
    assert held == [False] * 3


def test_a_look_is_of_one_moment_and_makes_nobody_wait_behind_it(site):
    tasks = copy.copy(open_list(site))
    with closing(sqlite3.connect(site.path, timeout=0)) as other:
        with opened_to_read(str(site.path), tasks._held) as connection:
            assert connection.in_transaction
        other.execute("UPDATE tasks SET state = 'finished'")
        other.commit()
    assert tasks.get_finished() == [0, 1, 2]


def test_a_file_that_is_no_database_is_refused_and_nothing_made(site):
    site.path.write_bytes(b"echo 0\n" * 100)
    site.root.mkdir()
    with pytest.raises(InputError, match="is not one of SQLite"):
        open_list(site)
    assert os.listdir(site.root) == []


FAULTS = [
    "DROP TABLE barriers",
    "DELETE FROM tasks WHERE id = 1",
    "UPDATE tasks SET \"after\" = '99'",
    "UPDATE tasks SET \"after\" = 'x'",
    "UPDATE tasks SET kind = 'a b'",
    "INSERT INTO barriers VALUES (99, 0, 0)",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_database_with_a_fault_is_refused_and_nothing_made(site, fault):
    site.ask(fault)
    site.root.mkdir()
    with pytest.raises(InputError):
        open_list(site)
    assert os.listdir(site.root) == []


def test_a_fault_that_another_program_is_about_to_mend_is_none(site, monkeypatch):
    site.ask(FAULTS[1])
    with closing(sqlite3.connect(site.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("INSERT INTO tasks (id, command) VALUES (1, 'true')")
        commit = lambda _seconds: other.execute("COMMIT")  # noqa: E731
        monkeypatch.setattr("mpifarm.database.waiting.time.sleep", commit)
        assert open_list(site)[1] == "true"


def test_what_was_read_before_the_lock_is_read_again_if_it_has_changed(
    site, monkeypatch
):
    read = databases._read_unlocked

    def read_and_insert(*paths):
        found = read(*paths)
        site.insert("echo new")
        return found

    monkeypatch.setattr(databases, "_read_unlocked", read_and_insert)
    assert [*open_list(site).tasks][3:] == ["echo new"]


def test_a_database_of_another_version_is_refused(site):
    site.ask("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="version 9"):
        open_list(site)


def open_by_handler(site):
    definition = HandlerDefinition("sqlite", "mpifarm.databases.SqliteTaskList")
    make = site.root.mkdir
    paths = str(site.path), str(site.root)
    return open_tasklist(definition, *paths, lambda: make(exist_ok=True) or site.back)


def test_errors_of_the_disk_are_no_mistakes_of_the_user(site, monkeypatch):
    site.back = lambda: None
    assert len(open_by_handler(site)) == 3
    full = StorageError("No space left on device")
    monkeypatch.setattr(databases, "copy_unlocked", lambda _: None)
    monkeypatch.setattr(databases, "read_copy", Mock(side_effect=full))
    with pytest.raises(StorageError, match=r"^No space left"):
        open_by_handler(site)


def test_a_refused_database_is_told_without_its_handler_and_its_workdir_goes(site):
    site.back = site.root.rmdir
    site.path.write_bytes(b"echo 0\n" * 100)
    with pytest.raises(InputError, match=r"^.*tasks\.db is not a database of mpifarm"):
        open_by_handler(site)
    assert not site.root.exists()


def test_what_a_dead_writer_has_begun_is_undone_first(site, tmp_path):
    site.root.mkdir()
    with closing(schema.connect(str(site.path))) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE tasks SET state = 'running'")
        connection.execute("PRAGMA cache_spill = 1")
        connection.executemany(
            "INSERT INTO tasks (command) VALUES (?)", [["x" * 2000]] * 200
        )
        # As a kill leaves both files.
        for name in ("tasks.db", "tasks.db-journal"):
            (tmp_path / f"copy of {name}").write_bytes((tmp_path / name).read_bytes())
        connection.execute("ROLLBACK")
    for name in ("tasks.db", "tasks.db-journal"):
        (tmp_path / f"copy of {name}").rename(tmp_path / name)
    assert (tmp_path / "tasks.db-journal").stat().st_size > 0
    assert len(open_list(site)) == 3
    assert site.ids("to process") == [0, 1, 2]
