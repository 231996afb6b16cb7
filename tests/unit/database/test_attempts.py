"""The table of attempts of an exported database."""

import sqlite3
from collections.abc import Iterator

import pytest

from mpifarm.database import attempts
from mpifarm.database.attempts import write_attempts

ROW = b"3 1 failed 7 9 n1 0 2 77 2026 0.5 0.1 0.2 1000 9 f00d".split()


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    yield connection
    connection.close()


def test_attempts_have_types_and_empty_fields_are_null(connection):
    empty = [*ROW[:3], b"", b"", *ROW[5:13], b"", b"", ROW[15]]
    odd = [*ROW[:5], b"n\xff", *ROW[6:]]
    rows = [[*ROW, b"echo"], [*empty, b""], [*odd, b"echo \xff"]]
    assert write_attempts(connection, rows) == 3
    first, second, third = connection.execute("SELECT * FROM attempts")
    assert first == (
        *(3, 1, "failed", 7, 9, "n1", 0, 2, 77, "2026", 0.5, 0.1, 0.2, 1000, 9),
        *("f00d", "echo"),
    )
    assert second[3:5] == (None, None)
    assert second[13:] == (None, None, "f00d", None)
    assert third[5] == "n\ufffd"
    assert third[-1] == b"echo \xff"
    (names,) = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index'")
    assert "(taskid)" in names[0]


def test_many_are_written_in_parts(connection, monkeypatch):
    monkeypatch.setattr(attempts, "_AT_ONCE", 2)
    rows = [[b"%d" % number, *ROW[1:], b"x"] for number in range(5)]
    assert write_attempts(connection, iter(rows)) == 5
    found = connection.execute("SELECT taskid FROM attempts ORDER BY rowid")
    assert [taskid for (taskid,) in found] == [0, 1, 2, 3, 4]
