"""The errors of SQLite, each as what the user can do about it."""

import sqlite3

import pytest

from mpifarm.database import errors
from mpifarm.database.errors import BusyError, explain, explained
from mpifarm.errors import InputError, StorageError


def failure(code: int, words: str = "what SQLite says") -> sqlite3.Error:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_BUSY, BusyError, "is open in another program"),
        (sqlite3.SQLITE_LOCKED, BusyError, "is open in another program"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, BusyError, "is open in another program"),
        (sqlite3.SQLITE_READONLY_ROLLBACK, BusyError, "which died has begun"),
        (sqlite3.SQLITE_FULL, StorageError, "No space left on device"),
        (sqlite3.SQLITE_IOERR_READ, StorageError, "what SQLite says"),
        (sqlite3.SQLITE_CANTOPEN, StorageError, "what SQLite says"),
        (sqlite3.SQLITE_READONLY, InputError, "the permission to write it"),
        (sqlite3.SQLITE_PERM, InputError, "the permission to write it"),
        (sqlite3.SQLITE_AUTH, InputError, "the permission to write it"),
        (sqlite3.SQLITE_CORRUPT, InputError, r"is damaged \(what SQLite says\)"),
        (sqlite3.SQLITE_NOTADB, InputError, r"is damaged \(what SQLite says\)"),
    ],
)
def test_each_error_has_its_kind_and_its_remedy(code, kind, words):
    with pytest.raises(kind, match=words) as caught, explained("a b.db"):
        raise failure(code)
    assert type(caught.value) is kind
    assert "a b.db" in str(caught.value)


@pytest.mark.parametrize(
    "words", ["no such table: tasks", "no such column: kind", "malformed database"]
)
def test_what_is_gone_of_a_database_is_damage(words):
    with pytest.raises(InputError, match=words), explained("x.db"):
        raise failure(sqlite3.SQLITE_ERROR, words)


@pytest.mark.parametrize("error", [failure(sqlite3.SQLITE_ERROR), sqlite3.Error("x")])
def test_a_defect_of_mpifarm_stays_what_it_is(error):
    assert explain("x.db", error) is None
    with pytest.raises(sqlite3.Error) as caught, explained("x.db"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("count", "named"), [(1, "(f0)"), (3, "(f0; f1; f2)"), (5, "(f0; f1; f2, and 2 ")]
)
def test_up_to_three_faults_are_named(count, named):
    error = errors.damaged_at("x.db", [f"f{number}" for number in range(count)])
    assert f"the database x.db is damaged {named}" in str(error)
