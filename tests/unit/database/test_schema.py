"""Creating and opening a database: what is refused, in which words, and untouched."""

import errno
import fcntl
import os
import shutil
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from mpifarm.database import errors, record_locks, schema, tasks
from mpifarm.database.copy import copy_unlocked, find_place, read_copy, settle
from mpifarm.database.errors import BusyError
from mpifarm.database.farming import PLACE
from mpifarm.database.names import is_database_name
from mpifarm.errors import ExitStatus, InputError, StorageError
from mpifarm.system.regular_files import open_regular


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tasks.db"
    with schema.creating(str(path)) as connection:
        tasks.insert_plain(connection, 0, [b"echo 0", b"echo 1", b"echo 2"])
    return path


def connect(path: Path) -> closing[sqlite3.Connection]:
    return closing(schema.connect(str(path)))


def refusal(path: Path) -> str:
    """Return the sentence that refuses a file, which stays as it is."""
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        schema.connect(str(path)).close()
    assert path.read_bytes() == before
    return str(caught.value)


def sqlite(path: Path, *statements: str) -> None:
    """Execute statements as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# ---- creating ------------------------------------------------------------------------


def test_a_new_database_has_its_tables_and_is_marked_as_ours(path):
    with closing(sqlite3.connect(path)) as connection:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        rows = connection.execute("SELECT id, command, state, attempt FROM tasks")
        assert (mark, version) == (schema.APPLICATION_ID, schema.VERSION)
        assert [*rows] == [(i, f"echo {i}", "to process", 0) for i in range(3)]
        about = dict(connection.execute("SELECT key, value FROM about"))
    assert about.keys() == {"id", "version"}


def test_a_new_database_is_the_only_new_file(path):
    assert [each.name for each in path.parent.iterdir()] == ["tasks.db"]


def test_a_new_database_has_the_mode_of_other_new_files(path, tmp_path):
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_database_is_never_written_over(path):
    before = path.read_bytes()
    with (
        pytest.raises(InputError, match="exists, and is not written over"),
        schema.creating(str(path)),
    ):
        raise AssertionError("unreachable")
    assert path.read_bytes() == before


def test_a_file_that_came_meanwhile_is_not_written_over(tmp_path):
    path = tmp_path / "tasks.db"
    with pytest.raises(InputError, match="exists"), schema.creating(str(path)):
        path.write_text("mine")
    assert path.read_text() == "mine"
    assert [*tmp_path.iterdir()] == [path]


def test_no_new_database_is_spoilt_by_the_journal_of_an_old_one(path):
    leave_hot_journal(path)
    path.unlink()
    with (
        pytest.raises(InputError, match=r"tasks\.db-journal has a change .* remove it"),
        schema.creating(str(path)),
    ):
        raise AssertionError("unreachable")
    assert [each.name for each in path.parent.iterdir()] == ["tasks.db-journal"]


def test_a_creation_that_fails_leaves_no_file(tmp_path):
    with (
        pytest.raises(ValueError, match="x"),
        schema.creating(str(tmp_path / "tasks.db")),
    ):
        raise ValueError("x")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tasks SET state = 'done' WHERE id = 1",
        "UPDATE tasks SET command = '' WHERE id = 1",
        "UPDATE tasks SET command = 'a' || char(10) || 'b' WHERE id = 1",
        "UPDATE tasks SET id = -1 WHERE id = 1",
        "UPDATE tasks SET attempt = 'two' WHERE id = 1",
    ],
)
def test_a_row_that_no_farm_could_use_is_refused_by_the_database(path, change):
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        sqlite(path, change)


# ---- opening -------------------------------------------------------------------------


def test_a_connection_keeps_a_rollback_journal_and_syncs(path):
    with connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_missing_database_is_told_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(InputError, match=r"no database .*: mpifarm import LIST"):
        schema.connect(str(tmp_path / "tasks.db"))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("content", [b"", b"echo 1\n", b"x" * 200])
def test_a_text_file_is_not_ours(tmp_path, content):
    path = tmp_path / "tasks.db"
    path.write_bytes(content)
    assert "is not one of SQLite" in refusal(path)


def test_a_directory_is_not_a_database(tmp_path):
    with pytest.raises(InputError, match="it is a directory"):
        schema.connect(str(tmp_path))


def test_a_database_of_another_program_is_not_ours(tmp_path):
    path = tmp_path / "bookmarks.sqlite"
    sqlite(path, "CREATE TABLE tasks (id INTEGER PRIMARY KEY, command TEXT)")
    assert "is a database of another program" in refusal(path)


def test_another_version_is_told(path):
    sqlite(path, f"PRAGMA user_version = {schema.VERSION + 1}")
    assert f"has version {schema.VERSION + 1}" in refusal(path)


def test_wal_mode_is_told_with_the_command_that_ends_it(path):
    sqlite(path, "PRAGMA journal_mode = WAL")
    assert "PRAGMA journal_mode = DELETE" in refusal(path)
    sqlite(path, "PRAGMA journal_mode = DELETE")
    schema.connect(str(path)).close()


def test_a_truncated_database_is_damaged(path):
    os.truncate(path, path.stat().st_size - 4096)
    assert "is damaged (it has" in refusal(path)


def test_a_database_without_its_table_is_damaged(path):
    sqlite(path, "DROP TABLE tasks")
    with (
        connect(path) as connection,
        pytest.raises(InputError, match="is damaged"),
        errors.explained(str(path)),
    ):
        tasks.count(connection)


def test_a_page_that_was_overwritten_is_damage(path):
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 4096)
    with (
        pytest.raises(InputError, match="is damaged") as caught,
        errors.explained(str(path)),
        connect(path) as connection,
    ):
        tasks.read_commands(connection)
    assert "mpifarm check" in str(caught.value)


def test_a_defect_of_mpifarm_is_not_called_damage(path):
    with (
        connect(path) as connection,
        pytest.raises(sqlite3.OperationalError),
        errors.explained(str(path)),
    ):
        connection.execute("SELEKT 1")


def test_a_database_that_another_program_writes_is_busy(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError, match="is open in another program") as caught:
            schema.connect(str(path), patience=0.01)
        assert caught.value.exit_status is ExitStatus.BAD_INPUT
        other.execute("ROLLBACK")
    schema.connect(str(path)).close()


def test_a_transaction_beside_another_program_is_busy(path):
    ours = schema.connect(str(path), patience=0.01)
    with closing(ours), closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE tasks SET kind = 'x'")
        with (
            pytest.raises(BusyError),
            errors.explained(str(path)),
            tasks.transaction(ours),
        ):
            raise AssertionError("unreachable")


def test_a_full_disk_is_a_storage_error_that_changes_nothing(path):
    with connect(path) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with (
            pytest.raises(StorageError, match="No space left") as caught,
            errors.explained(str(path)),
            tasks.transaction(connection),
        ):
            tasks.insert_plain(connection, 3, [b"x" * 1000] * 100)
        assert caught.value.exit_status is ExitStatus.RUN_AGAIN
        assert tasks.count(connection) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_database_that_may_not_be_written_is_told(path):
    path.chmod(0o444)
    with pytest.raises(InputError, match="ask its owner"):
        schema.connect(str(path))
    schema.connect(str(path), writes=False).close()


# ---- after a writer's death ----------------------------------------------------------


def leave_hot_journal(path: Path) -> None:
    """Make files as a writer leaves them that is killed in a transaction."""
    source = path.with_name("source.db")
    path.rename(source)
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE tasks SET state = 'finished'")
        for each in range(3, 400):
            connection.execute(
                "INSERT INTO tasks VALUES (?, ?, 'to process', '', '', '', 0, '', 0,"
                " '', '', '', 0, 0)",
                (each, "x" * 100),
            )
        connection.execute("UPDATE tasks SET state = 'failed'")
        shutil.copy(source, path)
        shutil.copy(f"{source}-journal", f"{path}-journal")
        connection.execute("ROLLBACK")
    source.unlink()


def test_what_a_killed_writer_has_begun_is_undone(path):
    leave_hot_journal(path)
    assert b"failed" in path.read_bytes()
    with closing(read_copy(str(path), nullcontext())) as copy:
        assert tasks.count_states(copy) == {tasks.TaskState.TO_PROCESS: 3}
    with connect(path) as connection:
        assert tasks.count_states(connection) == {tasks.TaskState.TO_PROCESS: 3}


def test_the_lock_is_held_while_a_copy_is_taken_and_something_is_undone(path):
    leave_hot_journal(path)
    states = []

    class Lock(nullcontext[None]):
        def __enter__(self) -> None:
            states.append((b"failed" in path.read_bytes(), "taken"))

        def __exit__(self, *_: object) -> None:
            states.append((b"failed" in path.read_bytes(), "released"))

    read_copy(str(path), Lock()).close()
    assert states[0] == (True, "taken")
    assert states[1][1] == "released"


def test_a_copy_stays_as_it_was(path):
    with closing(read_copy(str(path), nullcontext())) as copy:
        sqlite(path, "UPDATE tasks SET state = 'finished'")
        assert tasks.count_states(copy) == {tasks.TaskState.TO_PROCESS: 3}


def test_without_the_lock_nothing_is_undone(path):
    leave_hot_journal(path)
    before = path.read_bytes()
    for read in (read_copy, lambda name, _, is_locked: settle(name, is_locked=False)):
        with pytest.raises(BusyError, match="a program which died has begun"):
            read(str(path), nullcontext(), is_locked=False)
    assert path.read_bytes() == before


def test_what_only_its_owner_can_undo_is_busy(path, monkeypatch):
    leave_hot_journal(path)
    monkeypatch.setattr(schema, "_may_write", lambda name: name.endswith("-journal"))
    with pytest.raises(BusyError, match="let its owner undo it by sqlite3"):
        schema.connect(str(path), writes=False)


def test_a_change_that_begins_as_a_reader_opens_is_undone_with_the_lock(
    path, monkeypatch
):
    leave_hot_journal(path)
    monkeypatch.setattr(schema, "_has_change", lambda _: False)
    monkeypatch.setattr(schema, "_check_header", lambda *_, **__: None)
    with pytest.raises(BusyError, match="a program which died has begun"):
        schema.connect(str(path), writes=False, is_locked=False)
    with closing(schema.connect(str(path), writes=False)) as connection:
        assert tasks.count_states(connection) == {tasks.TaskState.TO_PROCESS: 3}


def test_a_change_that_begins_behind_a_reader_is_undone_with_the_lock(path):
    clean = path.read_bytes()
    leave_hot_journal(path)
    journal = path.with_name("tasks.db-journal")
    torn, begun = path.read_bytes(), journal.read_bytes()
    path.write_bytes(clean)
    journal.unlink()
    with closing(schema.connect(str(path), writes=False)) as connection:
        path.write_bytes(torn)
        journal.write_bytes(begun)
        assert tasks.count_states(connection) == {tasks.TaskState.TO_PROCESS: 3}


@pytest.mark.parametrize("is_hot", [True, False])
def test_the_journal_of_another_user_is_named(path, monkeypatch, is_hot):
    if is_hot:
        leave_hot_journal(path)
    else:
        path.with_name("tasks.db-journal").touch()
    may_write = schema._may_write
    monkeypatch.setattr(
        schema, "_may_write", lambda name: "-journal" not in name and may_write(name)
    )
    with pytest.raises(InputError, match=r"can't write .*tasks\.db-journal, the"):
        schema.connect(str(path))
    if is_hot:
        with pytest.raises(InputError, match=r"can't write .*tasks\.db-journal, the"):
            schema.connect(str(path), writes=False)


def test_the_size_of_the_journal_is_asked_of_the_open_file(path, monkeypatch):
    leave_hot_journal(path)
    # As NFS answers from its cache.
    monkeypatch.setattr("mpifarm.system.files.find_size", lambda _: 0)
    with pytest.raises(BusyError, match="which died has begun"):
        schema.connect(str(path), is_locked=False)


def test_a_journal_that_is_believed_missing_is_found_by_a_writer(path, monkeypatch):
    leave_hot_journal(path)
    monkeypatch.setattr(schema, "_has_change", lambda _: False)
    checked = []
    monkeypatch.setattr(
        schema, "_check_header", lambda _, *, is_whole: checked.append(is_whole)
    )
    with connect(path) as connection:
        assert tasks.count_states(connection) == {tasks.TaskState.TO_PROCESS: 3}
    assert checked == [True, True]


def test_a_writer_makes_the_journal_as_the_database_is(path):
    path.chmod(0o664)
    with connect(path):
        journal = path.with_name("tasks.db-journal")
        assert (journal.stat().st_size, journal.stat().st_mode & 0o777) == (0, 0o664)


def test_a_reader_makes_no_journal(path):
    read_copy(str(path), nullcontext()).close()
    assert not path.with_name("tasks.db-journal").exists()


def test_a_journal_that_is_ended_has_no_change(path):
    path.with_name("tasks.db-journal").write_bytes(b"\0" * 600)
    schema.connect(str(path), writes=False, is_locked=False).close()


def test_a_header_that_was_written_before_the_size_is_no_damage(path, monkeypatch):
    read, sizes = schema._read_header, [1, path.stat().st_size]
    monkeypatch.setattr(
        schema, "_read_header", lambda name: (read(name)[0], sizes.pop(0))
    )
    schema.check_header(str(path))
    assert sizes == []


def test_a_header_beside_a_change_that_is_written_is_busy(path, monkeypatch):
    changes = [False, True]
    monkeypatch.setattr(schema, "_has_change", lambda _: changes.pop(0))
    os.truncate(path, path.stat().st_size - 4096)
    with pytest.raises(BusyError, match="is open in another program"):
        schema.check_header(str(path))


# ---- a disk that fails, and files that may not be read -------------------------------


def fail_to_open(monkeypatch, error: OSError, *names: str) -> None:
    """Let the opening of files with these ends of names fail."""
    opened = open_regular

    def open_or_fail(path: str, *how: Any, **more: Any) -> int:
        if path.endswith(names):
            raise error
        return opened(path, *how, **more)

    monkeypatch.setattr(schema, "open_regular", open_or_fail)


IO_ERROR = OSError(errno.EIO, "Input/output error")


def test_a_database_that_may_not_be_read_or_cannot_be_is_told(path, monkeypatch):
    fail_to_open(monkeypatch, PermissionError(errno.EACCES, "denied"), ".db")
    with pytest.raises(InputError, match=r"cannot read the database .*: ask its owner"):
        schema.check_header(str(path))
    assert schema.find_version(str(path)) == 0
    fail_to_open(monkeypatch, IO_ERROR, ".db")
    with pytest.raises(StorageError, match="Input/output error"):
        schema.check_header(str(path))
    assert schema.find_version(str(path)) == 0


def test_a_header_that_cannot_be_read_leaves_nothing_open(path, monkeypatch):
    def fail(*_: object) -> bytes:
        raise IO_ERROR

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        schema.check_header(str(path))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("size", "has_change"), [(0, False), (1, True), (600, True)])
def test_a_journal_that_may_not_be_read_is_judged_by_its_size(
    path, monkeypatch, size, has_change
):
    path.with_name("tasks.db-journal").write_bytes(b"\0" * size)
    fail_to_open(monkeypatch, PermissionError(errno.EACCES, "denied"), "-journal")
    assert schema._has_change(str(path)) is has_change


def test_a_journal_on_a_disk_that_fails_is_told(path, monkeypatch):
    fail_to_open(monkeypatch, IO_ERROR, "-journal")
    with pytest.raises(StorageError, match=r"tasks\.db-journal.*Input/output error"):
        schema._has_change(str(path))
    with pytest.raises(StorageError, match=r"tasks\.db-journal.*Input/output error"):
        schema._make_journal(str(path), str(path))
    fail_to_open(monkeypatch, PermissionError(errno.EACCES, "denied"), "-journal")
    with pytest.raises(InputError, match=r"can't write .*tasks\.db-journal, the"):
        schema._make_journal(str(path), str(path))


def test_a_journal_with_a_change_keeps_its_mode(path):
    journal = path.with_name("tasks.db-journal")
    path.chmod(0o660)
    for content, mode in ((b"", 0o660), (b"x", 0o600)):
        journal.write_bytes(content)
        journal.chmod(0o600)
        with journal.open("rb") as file:
            schema._share_as(file.fileno(), path.stat())
        assert journal.stat().st_mode & 0o777 == mode


def test_a_version_is_that_of_the_last_transaction(path):
    before = schema.find_version(str(path))
    sqlite(path, "UPDATE tasks SET state = 'failed' WHERE id = 1")
    assert schema.find_version(str(path)) == before + 1
    assert schema.find_version(str(path) + "no") == 0


def test_a_fact_about_a_database_is_written_over_and_removed(path):
    with connect(path) as connection:
        for value in ("one", "two", None, None):
            schema.write_about(connection, "key", value)
            query = "SELECT value FROM about WHERE key = 'key'"
            found = [each for (each,) in connection.execute(query)]
            assert found == ([] if value is None else [value])


# ---- copies without a lock -----------------------------------------------------------


def test_a_copy_without_a_lock_has_all_rows_or_is_none(path):
    copy = copy_unlocked(str(path))
    assert copy is not None
    with closing(copy):
        assert tasks.count_states(copy) == {tasks.TaskState.TO_PROCESS: 3}
    path.write_bytes(path.read_bytes()[:5000])
    assert copy_unlocked(str(path)) is None
    path.write_bytes(b"no database" * 99)
    assert copy_unlocked(str(path)) is None
    path.unlink()
    assert copy_unlocked(str(path)) is None


def test_the_workdir_that_a_database_names_stands_beside_it(path):
    assert find_place(str(path)) is None
    with connect(path) as connection:
        schema.write_about(connection, PLACE, "its_workdir")
    assert find_place(str(path)) == str(path.parent / "its_workdir")
    link = path.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    assert find_place(str(link)) == str(path.parent / "its_workdir")
    path.write_bytes(b"")
    assert find_place(str(path)) is None


# ---- file systems without record locks -----------------------------------------------


def test_record_locks_are_there_even_if_another_program_has_one(path):
    assert record_locks.ask(str(path))


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOLCK, False), (errno.EAGAIN, True)]
)
def test_a_file_system_without_record_locks_is_known(
    path, monkeypatch, number, expected
):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert record_locks.ask(str(path)) is expected


def test_without_record_locks_the_lock_of_the_workdir_is_enough(path, monkeypatch):
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(schema, "has_record_locks", lambda _: False)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        # As SQLite calls an fcntl that fails with ENOLCK.
        other.execute("BEGIN EXCLUSIVE")
        with connect(path) as connection:
            assert tasks.count(connection) == 3
        other.execute("ROLLBACK")


def test_without_record_locks_what_a_dead_writer_has_begun_is_undone(path, monkeypatch):
    monkeypatch.setattr(schema, "has_record_locks", lambda _: False)
    clean = path.read_bytes()
    leave_hot_journal(path)
    torn, journal = path.read_bytes(), path.with_name("tasks.db-journal")
    begun = journal.read_bytes()
    path.write_bytes(clean)
    journal.unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        # What an fcntl that fails answers: the lock is not to be had.
        other.execute("BEGIN IMMEDIATE")
        path.write_bytes(torn)
        journal.write_bytes(begun)
        with connect(path) as connection:
            assert tasks.count_states(connection) == {tasks.TaskState.TO_PROCESS: 3}
        assert not journal.exists()


def test_without_record_locks_sqlite_never_waits_for_one(path, monkeypatch):
    names: list[str] = []
    asked: list[str] = []

    def open_(name: str, **options: Any) -> sqlite3.Connection:
        names.append(name)
        connection: sqlite3.Connection = sqlite_connect(name, **options)
        return connection

    sqlite_connect = sqlite3.connect
    monkeypatch.setattr(record_locks, "_answers", {})
    monkeypatch.setattr(record_locks, "ask", asked.append)
    monkeypatch.setattr(sqlite3, "connect", open_)
    for _ in range(3):
        schema.connect(str(path)).close()
    assert (asked, len(names)) == ([str(path)], 3)
    assert all(name.endswith("&vfs=unix-none&nolock=1") for name in names)


def test_record_locks_are_asked_for_again_when_they_have_failed(path, monkeypatch):
    monkeypatch.setattr(record_locks, "_answers", {})
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError):
            schema.connect(str(path), patience=0.01)
        monkeypatch.setattr(record_locks, "ask", lambda _: False)
        schema.connect(str(path)).close()


# ---- the header ----------------------------------------------------------------------


def test_a_header_is_parsed(path):
    header = schema.parse_header(path.read_bytes()[:100])
    assert header == schema.Header(
        is_sqlite=True,
        is_wal=False,
        size=path.stat().st_size,
        version=schema.VERSION,
        application_id=schema.APPLICATION_ID,
    )


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"\0" * 100])
def test_what_is_no_header_is_of_no_database(content):
    assert not schema.parse_header(content).is_sqlite


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.db", True), ("a.sqlite", True), ("a.sqlite3", True), ("a.txt", False)],
)
def test_the_name_of_a_list_says_whether_it_is_a_database(name, expected):
    assert is_database_name(name) is expected
