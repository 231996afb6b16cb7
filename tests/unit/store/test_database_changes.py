"""Tasks that a command adds to a database, beside a user who inserts some."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mpifarm.database import schema, tasks
from mpifarm.errors import InputError
from mpifarm.store.database_changes import AddedRows, add_rows


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tasks.db"
    with schema.creating(str(path)) as connection:
        tasks.insert_plain(connection, 0, [b"echo"] * 3)
    return path


def add_beside_a_user(
    path: Path, monkeypatch: pytest.MonkeyPatch, after: list[int]
) -> AddedRows:
    """Add a task; a user inserts one just before the transaction begins."""
    transaction = tasks.transaction

    def begin(connection: sqlite3.Connection) -> Any:
        with closing(sqlite3.connect(path)) as user, user:
            user.execute("INSERT INTO tasks (command) VALUES ('echo user')")
        return transaction(connection)

    monkeypatch.setattr(tasks, "transaction", begin)
    with closing(schema.connect(str(path))) as connection:
        return add_rows(connection, [b"echo new"], after)


@pytest.mark.parametrize("after", [[], [3]])
def test_a_row_that_a_user_inserts_meanwhile_keeps_its_id(path, monkeypatch, after):
    assert add_beside_a_user(path, monkeypatch, after) == AddedRows([4])


def test_a_task_to_wait_for_has_to_be_there(path, monkeypatch):
    with pytest.raises(InputError, match="names task 4, and the database has ids 0"):
        add_beside_a_user(path, monkeypatch, [4])
