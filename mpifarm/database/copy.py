"""A copy of a database in memory, as it was at one moment.

Rules of this file: to copy 100 MB takes some 0.1 s.  Either the lock is held meanwhile,
or the copy counts only if the file is the same before and after.  What is read of the
copy keeps no farm waiting.
"""

import os
import sqlite3
from contextlib import AbstractContextManager, closing
from typing import NamedTuple
from urllib.parse import quote

from mpifarm.database.errors import explained
from mpifarm.database.farming import PLACE, find_about
from mpifarm.database.schema import BUSY_SECONDS, connect, find_version, reading
from mpifarm.errors import FarmError
from mpifarm.system import file_contents


def read_copy(
    path: str,
    lock: AbstractContextManager[object],
    patience: float = BUSY_SECONDS,
    *,
    is_locked: bool = True,
) -> sqlite3.Connection:
    """Return a copy of a database in memory, taken within `lock`.

    A transaction of a writer that died is rolled back in the file first, if it
    `is_locked`.  `patience`, and what it raises: see `connect`.
    """
    copy = sqlite3.connect(":memory:", isolation_level=None)
    try:
        # SQLite's own lock as well: a user may be writing by another program.
        with lock, reading(path, patience, is_locked=is_locked) as connection:
            # A backup that finds the file locked would try again without end.
            connection.backup(copy)
    except BaseException:
        copy.close()
        raise
    return copy


class FileState(NamedTuple):
    """The facts that change with each write to a database."""

    version: file_contents.Version | None
    """Size and times: they change with a transaction that is undone, too."""
    counter: int
    """SQLite's own, which changes with each transaction."""

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.version.size if self.version else 0


def settle(
    path: str, patience: float = BUSY_SECONDS, *, is_locked: bool = True
) -> FileState:
    """Undo what a writer that died has begun, if it `is_locked`.

    Return the file's state.  `patience`, and what it raises: see `connect`.
    """
    connect(path, writes=False, patience=patience, is_locked=is_locked).close()
    return state_of(path)


def is_as_it_was(
    path: str, before: FileState, patience: float, *, is_locked: bool = True
) -> bool:
    """Return whether a database has not changed, and nobody is writing it.

    `patience`, `is_locked`, and what it raises: see `connect`.
    """
    with reading(path, patience, is_locked=is_locked):
        pass  # `state_of` would drop SQLite's locks.
    return state_of(path) == before


def state_of(path: str) -> FileState:
    """Return the present state of a database's file; raises `StorageError`."""
    version = file_contents.find_version(os.path.realpath(path))
    return FileState(version, find_version(path))


def copy_unlocked(path: str) -> sqlite3.Connection | None:
    """Return a copy that was taken without any lock, None if it can't be taken.

    It counts only if `state_of` is the same before and after.
    """
    copy = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with explained(path), closing(_open_unlocked(path)) as connection:
            connection.backup(copy)
    except FarmError:
        copy.close()
        return None
    except BaseException:
        copy.close()
        raise
    return copy


def _open_unlocked(path: str) -> sqlite3.Connection:
    # Immutable: SQLite takes no lock, and looks for no journal.
    name = f"file:{quote(os.path.realpath(path))}?mode=ro&immutable=1"
    return sqlite3.connect(name, uri=True)


def find_place(path: str) -> str | None:
    """Return the workdir whose lock counts for a database, None if it names none.

    It is read without that lock: it changes only while nothing runs.
    """
    try:
        with closing(_open_unlocked(path)) as connection:
            place = find_about(connection, PLACE)
    except sqlite3.Error:
        return None
    if place is None:
        return None
    named = os.path.realpath(path) if os.path.islink(path) else path
    return os.path.join(os.path.dirname(named), place)
