"""The errors of SQLite as sentences of mpifarm.

Rules of this file: it opens nothing.  What it raises names the file and the remedy.
"""

import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from mpifarm.errors import (
    ExitStatus,
    FarmError,
    InputError,
    InUseError,
    StorageError,
)


class BusyError(InUseError):
    """The error of a database that another program is writing, or has open for it."""

    exit_status = ExitStatus.BAD_INPUT


class RowError(InputError):
    """The error of a row that farms can't use; `explained` gives it the path.

    `subject` is what the row has, and `what` its fault with the remedy.  `change` is a
    statement that mends the row.
    """

    def __init__(self, subject: str, what: str, change: str = "") -> None:
        super().__init__(f"{subject} of the database {what}")
        self._parts = subject, what, change

    def name(self, path: str) -> InputError:
        """Return the error with the path of the database."""
        subject, what, change = self._parts
        command = f" (sqlite3 {shlex.quote(path)} {shlex.quote(change)})"
        return InputError(f"{subject} of {path} {what}{command if change else ''}")


_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_MISSING: Final = ("no such table", "no such column", "malformed")
"""The beginnings of errors that tell of a table or a column that is gone."""

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

_DENIED: Final = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
)

_OF_THE_DISK: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code of an error, 0 if it has none."""
    # sqlite_errorcode is the extended code: the primary one and a detail.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Raise errors of SQLite in a ``with`` block as sentences about the database.

    A full or failing disk becomes a `StorageError`, another program at work a
    `BusyError`, damage an `InputError`, and so does a `RowError`, with the path.
    Defects of mpifarm pass.
    """
    try:
        yield
    except RowError as error:
        raise error.name(path) from error
    except sqlite3.Error as error:
        explanation = explain(path, error)
        if explanation is None:
            raise
        raise explanation from error


def explain(path: str, error: sqlite3.Error) -> FarmError | None:
    """Return the sentence of mpifarm for an error of SQLite; None for a defect."""
    code = primary_code(error)
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
        return left_unended(path)
    if code in _BUSY:
        return busy(path)
    if code == sqlite3.SQLITE_FULL:
        return StorageError(
            f"can't write {path}: No space left on device; make room, then give the"
            " same command again"
        )
    if code in _OF_THE_DISK:
        return StorageError(f"can't read or write {path}: {error}")
    if code in _DENIED:
        return not_permitted(path)
    is_damaged = code in _DAMAGED or str(error).startswith(_MISSING)
    return damaged(path, str(error)) if is_damaged else None


def busy(path: str) -> BusyError:
    """Return the error of a database that another program is writing."""
    return BusyError(
        f"the database {path} is open in another program, which is writing it: let that"
        " program commit or end, then give the same command again"
    )


def not_permitted(path: str) -> InputError:
    """Return the error of a database that the user may not write."""
    return InputError(
        f"can't write the database {path}: ask its owner for the permission to write it"
        " and its directory"
    )


def journal_not_permitted(path: str, journal: str) -> InputError:
    """Return the error of a journal that the user may not write."""
    return InputError(
        f"can't write {journal}, the journal of the database {path}: ask its owner for"
        " the permission to write it"
    )


def left_unended(path: str) -> BusyError:
    """Return the error of a change that is not ended, and not this program's to undo.

    While its writer lives, it will end soon.
    """
    return BusyError(
        f"the database {path} has a change that a program which died has begun: let its"
        f" owner undo it by sqlite3 {shlex.quote(path)} 'BEGIN IMMEDIATE'"
    )


def damaged(path: str, why: str) -> InputError:
    """Return the error of a damaged database; `why` says what is wrong with it."""
    name = shlex.quote(path)
    return InputError(
        f"the database {path} is damaged ({why}): restore a copy, or save what can be"
        f" read (sqlite3 {name} .recover | sqlite3 new.db); mpifarm check {name} names"
        " the damage"
    )


MAX_FAULTS: Final = 3
"""Faults that a sentence names: after the first ones the others say little."""


def damaged_at(path: str, faults: Sequence[str]) -> InputError:
    """Return the error of a database in which SQLite has found these faults."""
    more = f", and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
    first = "; ".join(faults[:MAX_FAULTS])
    return InputError(
        f"the database {path} is damaged ({first}{more}): restore a copy, or save what"
        f" can be read (sqlite3 {shlex.quote(path)} .recover | sqlite3 new.db)"
    )
