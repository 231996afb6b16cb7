"""Copies of databases: of one moment, whoever writes meanwhile."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mpifarm.database import schema, tasks, waiting
from mpifarm.database.copy import FileState, copy_unlocked, settle
from mpifarm.database.errors import left_unended
from mpifarm.errors import InputError
from mpifarm.store import database_reading
from mpifarm.store.database_reading import read_moment
from mpifarm.system.lock import WorkdirLock

COPY = "mpifarm.store.database_reading.copy_unlocked"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tasks.db"
    with schema.creating(str(path)) as connection:
        tasks.insert_plain(connection, 0, [b"echo"] * 3)
    return path


@pytest.fixture
def lock(tmp_path) -> WorkdirLock:
    (tmp_path / "lock").touch()
    return WorkdirLock([str(tmp_path / "lock")])


@pytest.fixture
def large(monkeypatch):
    """Each database is a large one."""
    monkeypatch.setattr(database_reading, "LARGE", 0)


def change(path: Path, statement: str = "UPDATE tasks SET state = 'failed'") -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute(statement)
        connection.execute("COMMIT")


def failed(path: Path, lock: WorkdirLock, also: Callable[[], object] = list) -> int:
    """Return how many tasks have failed, by a copy."""
    moment = read_moment(str(path), lambda: lock, also)
    with closing(moment.copy):
        return tasks.count_states(moment.copy).get(tasks.TaskState.FAILED, 0)


def test_a_small_database_is_copied_under_the_lock(path, lock, monkeypatch):
    monkeypatch.setattr(COPY, None)
    assert failed(path, lock, lambda: lock.held) == 0
    assert not lock.held


@pytest.mark.usefixtures("large")
def test_a_large_database_is_copied_without_the_lock(path, lock, monkeypatch):
    held = []

    def copy(name: str) -> sqlite3.Connection | None:
        held.append(lock.held)
        return copy_unlocked(name)

    monkeypatch.setattr(COPY, copy)
    assert failed(path, lock, lambda: held.append(lock.held)) == 0
    assert held == [False, True]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("writes", [1, 3, 99])
def test_a_database_that_is_written_meanwhile_is_copied_again(
    path, lock, monkeypatch, writes
):
    copies = []

    def copy(name: str) -> sqlite3.Connection | None:
        found = copy_unlocked(name)
        copies.append(found)
        if len(copies) <= writes:
            change(path)
        return found

    monkeypatch.setattr(COPY, copy)
    assert failed(path, lock) == 3
    assert len(copies) == min(writes + 1, database_reading.TRIES)


@pytest.mark.usefixtures("large")
def test_what_was_written_and_undone_meanwhile_is_seen(path, lock, monkeypatch):
    # As a large transaction is, whose pages go to the disk before its end.
    copies = []

    def copy(name: str) -> sqlite3.Connection | None:
        found = copy_unlocked(name)
        copies.append(found)
        if len(copies) == 1:
            path.write_bytes(path.read_bytes())
            os.utime(path, (1, 1))
        return found

    monkeypatch.setattr(COPY, copy)
    assert failed(path, lock) == 0
    assert len(copies) == 2


def test_a_reader_waits_for_a_change_that_it_may_not_undo(path, lock, monkeypatch):
    tries = []

    def busy(name: str, *values: float, is_locked: bool) -> FileState:
        tries.append(is_locked)
        if len(tries) < 3:
            raise left_unended(name)
        return settle(name, *values, is_locked=is_locked)

    monkeypatch.setattr("mpifarm.store.database_reading.settle", busy)
    assert failed(path, lock) == 0
    assert tries == [True] * 3


def test_who_has_not_got_the_lock_undoes_nothing(path, lock, monkeypatch):
    monkeypatch.setattr(database_reading, "LOCK_SECONDS", 0)
    monkeypatch.setattr(waiting, "BUSY_SECONDS", 0.01)
    path.with_name("tasks.db-journal").write_bytes(b"\xd9" * 600)
    other = WorkdirLock(lock.paths)
    with other.hold(5), pytest.raises(InputError, match="which died has begun"):
        failed(path, lock)
    assert path.with_name("tasks.db-journal").read_bytes() == b"\xd9" * 600


def test_what_is_no_whole_database_gives_no_copy(path):
    path.write_bytes(path.read_bytes()[:100])
    assert copy_unlocked(str(path)) is None
