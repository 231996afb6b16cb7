"""The statements by which farmers work on a database, beside those in `tasks`.

Rules of this file: a function is a part of the caller's transaction, and begins and
ends none.  Each reads rows by an index, never the whole table, so that a transaction
takes as long with a million tasks as with a thousand.
"""

import os
import sqlite3
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from mpifarm.database.schema import write_about
from mpifarm.database.tasks import TaskState, find_holders, ranges_of
from mpifarm.errors import InputError
from mpifarm.model.task import decode_text

PLAIN_FARMER: Final = "PyTaskFarmer "
"""The beginning of the name of a plain farmer in the column ``farm``."""


# ---- plain farmers -------------------------------------------------------------------


def find_command(connection: sqlite3.Connection, taskid: int) -> str:
    """Return the command of a task; raise `IndexError` if there is no such task."""
    query = "SELECT CAST(command AS BLOB) FROM tasks WHERE id = ?"
    row = connection.execute(query, (taskid,)).fetchone()
    if row is None:
        raise IndexError("there is no such task")
    return decode_text(row[0])


def find_shared(connection: sqlite3.Connection, total: int) -> int | None:
    """Return the first of `total` tasks that a plain farmer may run, None without one.

    A task that a user has inserted stands as "to process", though it waits for others,
    until a farm has seen it.
    """
    row = connection.execute(
        "SELECT id FROM tasks WHERE state = 'to process' AND state <> 'finished'"
        ' AND id < ? AND "after" IS NULL AND kind IS NULL'
        ' AND NOT EXISTS (SELECT 1 FROM barriers WHERE "before" <= id)'
        " ORDER BY id LIMIT 1",
        (total,),
    ).fetchone()
    return row[0] if row else None


def take_as(
    connection: sqlite3.Connection, taskid: int, farmer: str, started: str
) -> None:
    """Give a task to a plain farmer, which starts it now."""
    connection.execute(
        "UPDATE tasks SET state = 'running', farm = ?, started = ? WHERE id = ?",
        (farmer, started, taskid),
    )


class PlainStart(NamedTuple):
    """The start of an attempt under a plain farmer."""

    started: str
    attempt: int
    """The number of the attempt: it follows the last one that ended."""


def find_start(
    connection: sqlite3.Connection, taskid: int, farmer: str
) -> PlainStart | None:
    """Return how a plain farmer has started a task; None if it does not have it."""
    row = connection.execute(
        "SELECT started, attempt FROM tasks"
        " WHERE id = ? AND state = 'running' AND farm = ?",
        (taskid, farmer),
    ).fetchone()
    return PlainStart(row[0] or "", row[1] + 1) if row else None


class PlainAttempt(NamedTuple):
    """The last attempt of a task under a plain farmer; it has no end while it runs."""

    taskid: int
    farmer: str | None
    """Who runs it, None if it has ended."""
    attempt: int
    outcome: str
    status: int | None
    signal: int | None
    host: str
    started: str


def read_plain_attempts(connection: sqlite3.Connection) -> Iterator[PlainAttempt]:
    """Yield the attempts of plain farmers that run, or were the last ones to end."""
    rows = connection.execute(
        "SELECT id, NULL, attempt, coalesce(outcome, ''), CAST(status AS INTEGER),"
        " CAST(signal AS INTEGER), host, coalesce(started, '') FROM tasks"
        " WHERE seconds IS NULL AND host IS NOT NULL"
        " AND (state = 'finished' OR state = 'failed')"
        " UNION ALL "
        "SELECT id, farm, attempt + 1, '', NULL, NULL, '', coalesce(started, '')"
        " FROM tasks WHERE state = 'running' AND state <> 'finished'"
        " AND farm LIKE 'PyTaskFarmer %'"
    )
    for row in rows:
        attempt = PlainAttempt(*row)
        host = attempt.host or host_of(attempt.farmer or "")
        yield attempt._replace(host=host)


def host_of(farmer: str) -> str:
    """Return the host in the name of a plain farmer, "" if there is none."""
    return farmer.removeprefix(PLAIN_FARMER).rpartition(" ")[0]


# ---- queues --------------------------------------------------------------------------


def find_ready(connection: sqlite3.Connection, total: int, most: int) -> list[int]:
    """Return the first of `total` tasks that may run at once, `most` at the most."""
    return _ids_of(
        connection.execute(
            "SELECT id FROM tasks WHERE state = 'to process' AND state <> 'finished'"
            " AND id < ? ORDER BY id LIMIT ?",
            (total, most),
        )
    )


def find_waiting(
    connection: sqlite3.Connection, begin: int, total: int, most: int
) -> list[int]:
    """Return the first of `total` tasks that wait, from `begin` on."""
    return _ids_of(
        connection.execute(
            "SELECT id FROM tasks WHERE state = 'waiting' AND state <> 'finished'"
            " AND id >= ? AND id < ? ORDER BY id LIMIT ?",
            (begin, total, most),
        )
    )


def find_queued(connection: sqlite3.Connection, taskids: Collection[int]) -> list[int]:
    """Return which of these tasks nobody has, and have not ended, in order."""
    query = (
        "SELECT id FROM tasks WHERE id BETWEEN ? AND ?"
        " AND +state IN ('to process', 'waiting') ORDER BY id"
    )
    return [
        taskid
        for span in ranges_of(taskids)
        for taskid in _ids_of(connection.execute(query, span))
    ]


def keep_apart(
    connection: sqlite3.Connection, begin: int, end: int, *, singly: bool
) -> int:
    """Let tasks from `begin` to `end` wait that plain farmers may not run as they are.

    They are those that a user has inserted.  `singly`: some wait for single others, or
    have a kind.  Return the number of tasks.
    """
    changed = connection.execute(
        "UPDATE tasks SET state = 'waiting' WHERE state = 'to process'"
        " AND state <> 'finished' AND id >= max(?,"
        ' (SELECT coalesce(min("before"), 9223372036854775807) FROM barriers))'
        " AND id < ?",
        (begin, end),
    ).rowcount
    if singly:
        changed += connection.execute(
            "UPDATE tasks SET state = 'waiting' WHERE state = 'to process'"
            " AND state <> 'finished' AND id >= ? AND id < ?"
            ' AND ("after" IS NOT NULL OR kind IS NOT NULL)',
            (begin, end),
        ).rowcount
    return changed


def let_wait(connection: sqlite3.Connection, taskids: Collection[int]) -> None:
    """Let those of some tasks wait that are to be processed."""
    connection.executemany(
        "UPDATE tasks SET state = 'waiting' WHERE id = ? AND state = 'to process'",
        ((taskid,) for taskid in taskids),
    )


# ---- states --------------------------------------------------------------------------


def read_unfinished(
    connection: sqlite3.Connection, state: TaskState, total: int
) -> Iterator[range]:
    """Yield the ids of those of `total` tasks that are in a state, but for finished.

    All of them in one range, if none is missing in between: SQLite alone counts them
    ten times as fast as Python reads them.
    """
    condition = "FROM tasks WHERE state = ? AND state <> 'finished' AND id < ?"
    values = state.value, total
    count, first, last = connection.execute(
        f"SELECT count(*), min(id), max(id) {condition}",
        values,
    ).fetchone()
    if count and count == last - first + 1:
        yield range(first, last + 1)
    elif count:
        for (taskid,) in connection.execute(f"SELECT id {condition}", values):
            yield range(taskid, taskid + 1)


MAX_CHANGES: Final = 100_000
"""Changes that are kept for other farms; one that has missed more reads all rows."""


def find_changes(connection: sqlite3.Connection) -> range:
    """Return the numbers of the changes that are kept; the first one of all has 1."""
    first, last = connection.execute(
        "SELECT (SELECT min(number) FROM changes), (SELECT max(number) FROM changes)"
    ).fetchone()
    return range(1, 1) if last is None else range(first, last + 1)


_FEW_CHANGES: Final = 1000
"""Changes that are read in a millisecond, however few tasks there are."""


def are_worth_reading(changes: range, begin: int, total: int) -> bool:
    """Return whether to read the changes from `begin` on, in place of `total` rows.

    None of them must have been dropped.  A change costs as much as 3 rows, where the
    states are mixed, to 30 rows, where those that have finished come first.
    """
    is_kept = changes.start <= begin <= changes.stop
    return is_kept and changes.stop - begin <= max(_FEW_CHANGES, total // 5)


def read_changed(
    connection: sqlite3.Connection, begin: int, total: int
) -> list[tuple[int, str]]:
    """Return id and state of those of `total` tasks that changes from `begin` on name.

    A change is an end, a task that is opened again, or one that is to be processed.
    """
    return connection.execute(
        "SELECT id, state FROM tasks WHERE id < ?"
        " AND id IN (SELECT task FROM changes WHERE number >= ?)",
        (total, begin),
    ).fetchall()


def read_states(
    connection: sqlite3.Connection, begin: int, end: int
) -> list[tuple[int, str]]:
    """Return id and state of each task from `begin` to `end`."""
    query = "SELECT id, state FROM tasks WHERE id >= ? AND id < ?"
    return connection.execute(query, (begin, end)).fetchall()


def forget_changes(connection: sqlite3.Connection) -> None:
    """Drop the changes before the last `MAX_CHANGES`."""
    connection.execute(
        "DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?",
        (MAX_CHANGES,),
    )


def find_ran_and_failed(connection: sqlite3.Connection) -> list[int]:
    """Return the tasks whose last attempt ran under a farm of mpifarm, and failed."""
    return _ids_of(
        connection.execute(
            "SELECT id FROM tasks WHERE state = 'failed' AND state <> 'finished'"
            " AND seconds IS NOT NULL AND outcome NOT LIKE 'not run%'"
        )
    )


def find_about(connection: sqlite3.Connection, key: str) -> str | None:
    """Return a fact about the database, None if it is not there."""
    row = connection.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def _ids_of(rows: sqlite3.Cursor) -> list[int]:
    return [taskid for (taskid,) in rows]


# ---- the workdir ---------------------------------------------------------------------

PLACE: Final = "workdir"
"""The fact in ``about`` that names the workdir whose lock counts."""


def place_of(workdir: str, database: str) -> str:
    """Return the name of a workdir for a database: both may be moved together."""
    directory = os.path.dirname(os.path.realpath(database))
    return os.path.relpath(os.path.realpath(workdir), directory)


def claim_place(connection: sqlite3.Connection, place: str, database: str) -> None:
    """Write which workdir, and so which lock, counts for a database.

    Raises `InputError` while tasks run under another one.
    """
    if find_about(connection, PLACE) != place:
        refuse_place(connection, place, database)
        write_about(connection, PLACE, place)


def refuse_place(connection: sqlite3.Connection, place: str, database: str) -> None:
    """Raise `InputError` while tasks of a database run under another workdir."""
    before = find_about(connection, PLACE)
    if before in (None, place):
        return
    if next(find_holders(connection), None) is not None:
        directory = os.path.dirname(os.path.realpath(database))
        raise InputError(
            f"tasks of {database} run, or ran, under the workdir"
            f" {os.path.join(directory, before)}, which has a lock of its own: name it"
            " with --workdir"
        )
