"""A database's tables, and how it is created and opened.

Rules of this file: a database is opened only after its header was checked, so that
nothing of a file that is not ours is ever changed.  Its tables are not STRICT, so that
the SQLite of old systems (before 3.37) reads them too; CHECKs take the place of that.
"""

import os
import secrets
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote

from mpifarm import __version__
from mpifarm.database import record_locks
from mpifarm.database.errors import (
    busy,
    damaged,
    explained,
    journal_not_permitted,
    left_unended,
    not_permitted,
    primary_code,
)
from mpifarm.database.record_locks import has_record_locks
from mpifarm.errors import InputError, StorageError
from mpifarm.system import files
from mpifarm.system.new_files import staging_for
from mpifarm.system.regular_files import OddFileError, open_regular

APPLICATION_ID: Final = 0x6D706661
"""``mpfa``; file(1) and SQLite show it as the application of a database."""

VERSION: Final = 1
"""The version of the tables (SQLite's ``user_version``)."""

BUSY_SECONDS: Final = 5.0
"""Seconds for which a command waits until another program has committed."""

Connection: TypeAlias = sqlite3.Connection
"""A connection, for those who open none themselves."""

# No IN (…): SQLite would build a table of these words for each row, which takes three
# times as long as all the rest.
_TABLES: Final = """
CREATE TABLE tasks (
  id INTEGER PRIMARY KEY CHECK (id >= 0),
  command TEXT NOT NULL CHECK (typeof(command) IN ('text', 'blob')
    AND length(command) > 0
    AND instr(command, char(10)) = 0 AND instr(command, char(13)) = 0),
  state TEXT NOT NULL DEFAULT 'to process' CHECK (
    state = 'to process' OR state = 'running' OR state = 'finished'
    OR state = 'failed' OR state = 'cancelled' OR state = 'waiting'),
  "after" TEXT,
  kind TEXT,
  farm TEXT,
  attempt INTEGER NOT NULL DEFAULT 0 CHECK (typeof(attempt) = 'integer'),
  outcome TEXT,
  status INTEGER,
  signal INTEGER,
  host TEXT,
  started TEXT,
  seconds REAL,
  peak_memory INTEGER);
CREATE TABLE barriers (
  "before" INTEGER PRIMARY KEY,
  checks INTEGER NOT NULL CHECK (checks IN (0, 1)),
  since INTEGER NOT NULL DEFAULT 0);
CREATE TABLE changes (number INTEGER PRIMARY KEY, task INTEGER NOT NULL);
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT);
"""

_INDEXES: Final = """
CREATE INDEX unfinished ON tasks (state) WHERE state <> 'finished';
"""

# Whoever changes a row by SQL writes these too, and so tells farms where to look.  A
# REPLACE fires no trigger of an update, and those of a deletion only where the program
# wants that.  An insertion that leaves out the id has -1 until it is done.
_TRIGGERS: Final = (
    """
CREATE TRIGGER IF NOT EXISTS note_change AFTER UPDATE OF state ON tasks
  WHEN (new.state <> 'running' AND new.state <> 'waiting')
    OR old.state = 'finished' OR old.state = 'failed' OR old.state = 'cancelled'
  BEGIN INSERT INTO changes (task) VALUES (new.id); END
""",
    """
CREATE TRIGGER IF NOT EXISTS note_replacement BEFORE INSERT ON tasks
  WHEN new.id >= 0 AND new.id <= (SELECT max(id) FROM tasks)
  BEGIN INSERT INTO changes (task) VALUES (new.id); END
""",
    """
CREATE TRIGGER IF NOT EXISTS note_deletion AFTER DELETE ON tasks
  BEGIN INSERT INTO changes (task) VALUES (old.id); END
""",
)

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_WAL: Final = 2
"""The file format of a database with a write-ahead log, in its header."""


class Header(NamedTuple):
    """The facts in the header of a database that say whether it can be used."""

    is_sqlite: bool
    is_wal: bool = False
    size: int = 0
    """Bytes that the file has to have, 0 if the header does not say."""
    version: int = 0
    application_id: int = 0


def parse_header(content: bytes) -> Header:
    """Parse the first 100 bytes of a file (https://sqlite.org/fileformat.html)."""
    if len(content) < _HEADER_BYTES or not content.startswith(_MAGIC):
        return Header(is_sqlite=False)

    def number(begin: int, length: int = 4) -> int:
        return int.from_bytes(content[begin : begin + length])

    page = number(16, 2)
    # The number of pages counts only if it was written with the last change.
    pages = number(28) if number(24) == number(92) else 0
    return Header(
        is_sqlite=True,
        is_wal=_WAL in (content[18], content[19]),
        size=pages * (65536 if page == 1 else page),
        version=number(60),
        application_id=number(68),
    )


# ---- opening -------------------------------------------------------------------------


def check_header(path: str) -> None:
    """Raise `InputError` for a file that is not a database that can be used.

    Without the lock, and as long as nobody has to undo what a dead writer has begun:
    then the file is opened first.
    """
    if not _has_change(os.path.realpath(path)):
        _check_header(path, is_whole=True)


def connect(
    path: str,
    *,
    writes: bool = True,
    patience: float = BUSY_SECONDS,
    is_locked: bool = True,
) -> sqlite3.Connection:
    """Open a database.  The caller ends transactions itself.

    `patience`: seconds for which a statement waits until another program has committed.
    `is_locked`: the caller holds the lock, so a writer that has not ended is dead, and
    what it has begun is rolled back first.  Raises `InputError` for a file that is not
    a database of this version of mpifarm, or is damaged; `BusyError` if another program
    is writing it, or what it has begun can't be rolled back; `StorageError` if the disk
    fails.
    """
    real = os.path.realpath(path)
    has_change = _has_change(real)
    # What a dead writer has begun may have changed the header.
    _check_header(path, is_whole=not has_change)
    if writes:
        _check_permissions(path, real)
        has_change = _make_journal(path, real)
    may_undo = is_locked and _may_write(real)
    if has_change:
        if not may_undo:
            raise left_unended(path)
        _roll_back(path, real, patience)
        _check_header(path, is_whole=True)
    if writes:
        return _open_to_write(path, real, patience)
    # Another program may begin a change and die from here on: SQLite undoes it, too.
    return _open(path, real, "rw" if may_undo else "ro", patience)


@contextmanager
def reading(
    path: str, patience: float, *, is_locked: bool = True
) -> Iterator[sqlite3.Connection]:
    """Open a database for a ``with`` block in which no other program writes it.

    `patience`, `is_locked`, and what it raises: see `connect`.
    """
    with (
        closing(
            connect(path, writes=False, patience=patience, is_locked=is_locked)
        ) as connection,
        explained(path),
    ):
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield connection


def _has_change(real: str) -> bool:
    """Return whether the journal has a change that is not ended."""
    journal = _journal_of(real)
    try:
        # NFS asks its server for the state of a file that is opened, and of no other.
        descriptor = open_regular(journal, os.O_RDONLY)
        try:
            return _is_begun(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return False
    except PermissionError:
        return files.find_size(journal) > 0
    except OSError as error:
        raise files.storage_error("read", journal, error) from error


def _make_journal(path: str, real: str) -> bool:
    """Make an empty journal if there is none.  Lock held.

    Return whether it has a change that is not ended.  NFS remembers for a while that
    there was no such file, but not for those who would make it.
    """
    journal = _journal_of(real)
    try:
        database = os.stat(real)
        mode = database.st_mode & 0o777
        descriptor = open_regular(journal, os.O_RDWR | os.O_CREAT, mode)
        try:
            _share_as(descriptor, database)
            return _is_begun(descriptor)
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise journal_not_permitted(path, journal) from error
    except OSError as error:
        raise files.storage_error("write", journal, error) from error


def _share_as(descriptor: int, database: os.stat_result) -> None:
    """Let all write an empty journal who may write the database, as SQLite does."""
    status, user = os.fstat(descriptor), os.geteuid()
    if status.st_size:
        return
    with suppress(OSError):
        if status.st_uid == user and (status.st_mode ^ database.st_mode) & 0o777:
            os.fchmod(descriptor, database.st_mode & 0o777)
        owner, group = database.st_uid, database.st_gid
        if user == 0 and (status.st_uid, status.st_gid) != (owner, group):
            os.fchown(descriptor, owner, group)


def _is_begun(descriptor: int) -> bool:
    # SQLite has no other look: a journal that begins with a zero is ended.
    return os.pread(descriptor, 1, 0) not in (b"", b"\0")


def _journal_of(real: str) -> str:
    return f"{real}-journal"


def _may_write(path: str) -> bool:
    return files.is_permitted(path, os.W_OK)


def _check_permissions(path: str, real: str) -> None:
    """Raise `InputError` if a file that a change has to write may not be written."""
    if not all(map(_may_write, (real, os.path.dirname(real)))):
        raise not_permitted(path)
    journal = _journal_of(real)
    if files.is_there(journal) and not _may_write(journal):
        raise journal_not_permitted(path, journal)


def _roll_back(path: str, real: str, patience: float) -> None:
    """Let SQLite undo the transaction of a writer that died.

    Raises `BusyError` if the writer lives, `InputError` without permission to write.
    """
    _check_permissions(path, real)
    opened = _open_to_write(path, real, patience)
    with closing(opened) as connection, explained(path):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _open(path: str, real: str, mode: str, patience: float) -> sqlite3.Connection:
    """Open a database by SQLite, without its own locks where the system has none."""
    name = f"file:{quote(real)}?mode={mode}"
    if not has_record_locks(real):
        # The lock of the workdir is what counts.  Before it undoes anything, SQLite
        # asks for locks also with nolock, unless its file system is the one without.
        name += "&vfs=unix-none&nolock=1"
    with explained(path):
        try:
            return _open_at(name, patience)
        except sqlite3.OperationalError as error:
            if primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR):
                record_locks.forget()
            raise


def _open_at(name: str, patience: float) -> sqlite3.Connection:
    connection = sqlite3.connect(name, uri=True, timeout=patience, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _open_to_write(path: str, real: str, patience: float) -> sqlite3.Connection:
    connection = _open(path, real, "rw", patience)
    try:
        with explained(path):
            # As durable as DELETE with EXTRA, and without a sync of the directory.
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


class Scan(StrEnum):
    """The checks of a whole database that SQLite has; both take 1 s for 150 MB."""

    WHOLE = "integrity_check"
    QUICK = "quick_check"
    """Without a comparison of tables and indexes."""


def check_integrity(connection: sqlite3.Connection, scan: Scan) -> list[str]:
    """Return what SQLite finds wrong with a database, [] if it is whole."""
    try:
        rows = connection.execute(f"PRAGMA {scan.value}({_MAX_FAULTS})").fetchall()
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return [" ".join(text.split()) for (text,) in rows if text != "ok"]


_MAX_FAULTS: Final = 10
"""Faults that are told; after the first ones the others say little."""


def _check_header(path: str, *, is_whole: bool) -> None:
    """Raise `InputError` unless the file is a database that can be used.

    `is_whole`: no transaction is to be rolled back, which could correct the header.
    """
    content, size = _read_header(path)
    header = parse_header(content)
    if not header.is_sqlite:
        raise InputError(
            f"{path} is not a database of mpifarm: it is not one of SQLite; give a text"
            " list another name, or make a database of it: mpifarm import LIST NEW.db"
        )
    if header.application_id != APPLICATION_ID:
        raise InputError(
            f"{path} is a database of another program, not of mpifarm: name another"
            " file, or another handler with --tasklist"
        )
    if not is_whole:
        return
    if header.is_wal:
        raise InputError(
            f"the database {path} is in WAL mode, which fails on file systems that"
            " several hosts share: change it back with sqlite3"
            f" {shlex.quote(path)} 'PRAGMA journal_mode = DELETE'"
        )
    if header.version != VERSION:
        raise InputError(
            f"the database {path} has version {header.version}, and this mpifarm"
            f" ({__version__}) knows version {VERSION}: use the mpifarm that made it,"
            " or a newer one"
        )
    if size < header.size:
        _check_size(path)


def _check_size(path: str) -> None:
    """Raise `InputError` if a database is too short, also when it is read again.

    Raises `BusyError` if another program is writing it, which writes the header first.
    """
    if _has_change(os.path.realpath(path)):
        raise busy(path)
    content, size = _read_header(path)
    wanted = parse_header(content).size
    if size < wanted:
        raise damaged(path, f"it has {size} of {wanted} bytes")


def find_version(path: str) -> int:
    """Return a number that changes with each transaction on a database (0: no file).

    To be called while this process has no connection to it: the close of the file would
    drop SQLite's locks (fcntl(2)).
    """
    try:
        content, _ = _read_header(path)
    except (InputError, StorageError):
        return 0
    return int.from_bytes(content[24:28])


def _read_header(path: str) -> tuple[bytes, int]:
    """Return the first bytes of a file, and its size; raises `InputError`."""
    try:
        descriptor = open_regular(path, os.O_RDONLY, follow=True)
    except FileNotFoundError as error:
        raise InputError(
            f"no database {path}: to make one of a list: mpifarm import LIST"
            f" {shlex.quote(path)}"
        ) from error
    except OddFileError as error:
        raise InputError(f"{path} is not a database: {error.strerror}") from error
    except PermissionError as error:
        raise InputError(f"cannot read the database {path}: ask its owner") from error
    except OSError as error:
        raise files.storage_error("read", path, error) from error
    try:
        return os.pread(descriptor, _HEADER_BYTES, 0), os.fstat(descriptor).st_size
    except OSError as error:
        raise files.storage_error("read", path, error) from error
    finally:
        os.close(descriptor)


# ---- creating ------------------------------------------------------------------------


@contextmanager
def creating(path: str) -> Iterator[sqlite3.Connection]:
    """Give a new database for a ``with`` block, which gets its name at the end.

    It is in one transaction, which the block leaves open.  A block that raises leaves
    no file.  Raises `InputError` if there is a file of this name, or the journal of a
    database that had it; `StorageError` if the disk fails.
    """
    files.refuse_existing(path)
    _refuse_journal(path)
    with staging_for(path) as staging:
        with explained(path), closing(_open_new(staging)) as connection:
            _make_tables(connection)
            yield connection
            _execute_all(connection, _INDEXES)
            make_triggers(connection)
            connection.execute("COMMIT")
        _sync(staging)


def _refuse_journal(path: str) -> None:
    """Raise `InputError` for a journal that SQLite would play back over a new file."""
    journal = _journal_of(path)
    if _has_change(path):
        raise InputError(
            f"{journal} has a change of a database {path} that is gone, and would spoil"
            " a new one: remove it, or name another file"
        )


def _open_new(staging: str) -> sqlite3.Connection:
    """Open an empty file by SQLite."""
    # SQLite itself would let no group write a file that it creates, whatever the umask.
    # It takes no locks, which on NFS its process's own `flock` would refuse.
    name = f"file:{quote(os.path.realpath(staging))}?mode=rw&vfs=unix-none"
    return sqlite3.connect(name, uri=True, isolation_level=None)


def _make_tables(connection: sqlite3.Connection) -> None:
    """Begin a transaction with the empty tables."""
    # Nobody knows the file yet: if this fails, the file goes.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("BEGIN")
    _execute_all(connection, _TABLES)
    write_about(connection, "version", __version__)
    write_about(connection, "id", secrets.token_hex(8))


def make_triggers(connection: sqlite3.Connection) -> None:
    """Make the triggers that write the table ``changes``, but those that are there.

    An older mpifarm made a database with fewer of them.
    """
    for trigger in _TRIGGERS:
        connection.execute(trigger)


def _execute_all(connection: sqlite3.Connection, statements: str) -> None:
    # sqlite3's executescript would commit first.
    for statement in statements.split(";")[:-1]:
        connection.execute(statement)


def write_about(connection: sqlite3.Connection, key: str, value: str | None) -> None:
    """Write one fact about the database into its table ``about``; None removes it."""
    if value is None:
        connection.execute("DELETE FROM about WHERE key = ?", (key,))
        return
    connection.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))


def _sync(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise files.storage_error("write", path, error) from error
