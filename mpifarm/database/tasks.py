"""The statements on the tasks of a database, as functions of a connection.

Rules of this file: all SQL on tasks is here.  A function is a part of the caller's
transaction, and begins and ends none.  Errors of SQLite pass: the caller gives them
their words (`errors.explained`).
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import groupby
from typing import Final, NamedTuple, NoReturn

from mpifarm.database.errors import RowError
from mpifarm.model.id_ranges import IdRangesError, encode_ids, parse_ids
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.order.directives import is_kind


class TaskState(StrEnum):
    """The state of a task in a database."""

    TO_PROCESS = "to process"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WAITING = "waiting"
    """It has an order or a kind: farms take it when it may start, plain farmers never.
    """


class NewTask(NamedTuple):
    """A task to be inserted; `command` is encoded, without the prefix of its kind."""

    taskid: int
    command: bytes
    state: TaskState = TaskState.TO_PROCESS
    after: Sequence[int] = ()
    kind: str | None = None


class Row(NamedTuple):
    """A whole row of the table; SQLite makes numbers of the texts of numbers."""

    taskid: int
    command: str | bytes
    state: str
    after: str | None = None
    kind: str | None = None
    farm: str | None = None
    attempt: int | str = 0
    outcome: str | None = None
    status: str | None = None
    signal: str | None = None
    host: str | None = None
    started: str | None = None
    seconds: str | None = None
    peak_memory: str | None = None


class TaskEnd(NamedTuple):
    """The end of a task's last attempt, with the words of ``attempts.tsv``."""

    taskid: int
    state: TaskState
    attempt: int
    outcome: str
    status: int | None = None
    signal: int | None = None
    host: str | None = None
    started: str | None = None
    seconds: float | None = None
    peak_memory: int | None = None


class LastEnd(NamedTuple):
    """What a row says of its task, with the end of its last attempt, if any."""

    taskid: int
    state: TaskState
    farm: str | None
    attempt: int
    outcome: str | None
    status: int | None
    signal: int | None
    host: str | None
    started: str | None
    seconds: float | None
    peak_memory: int | None


_UNFINISHED: Final = "state <> 'finished'"
"""The condition of the index, which SQLite uses for queries that repeat it."""

_RUNNING: Final = f"state = 'running' AND {_UNFINISHED}"

_NO_END: Final = 1 << 62
"""An id that no task has."""

_BLOCK: Final = 1000
"""Rows that are read at once."""


# ---- transactions --------------------------------------------------------------------


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make a ``with`` block one transaction; a block that raises changes nothing."""
    # IMMEDIATE: a program that is writing shows at once, not half-way through.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back after some errors, such as a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


# ---- reading -------------------------------------------------------------------------


def count(connection: sqlite3.Connection) -> int:
    """Return the number of tasks."""
    number: int = connection.execute("SELECT count(*) FROM tasks").fetchone()[0]
    return number


def find_total(connection: sqlite3.Connection) -> int:
    """Return the number of tasks by the greatest id, without a look at all of them."""
    (last,) = connection.execute("SELECT max(id) FROM tasks").fetchone()
    return 0 if last is None else last + 1


def count_states(connection: sqlite3.Connection) -> dict[TaskState, int]:
    """Return the number of tasks in each state that any task has."""
    query = "SELECT state, count(*) FROM tasks GROUP BY state"
    return {TaskState(state): number for state, number in connection.execute(query)}


def read_commands(
    connection: sqlite3.Connection, begin: int = 0, most: int = -1
) -> PackedTexts:
    """Return the commands of the tasks from the id `begin` on, up to `most` (-1: all).

    Raises `RowError` if an id is missing, or a command can't be run.
    """
    texts = PackedTexts()
    with _texts_as_bytes(connection):
        cursor = connection.execute(
            "SELECT id, command FROM tasks WHERE id >= ? ORDER BY id LIMIT ?",
            (begin, most),
        )
        while rows := cursor.fetchmany(_BLOCK):
            ids, commands = zip(*rows, strict=True)
            first = begin + len(texts)
            if ids[-1] != first + len(ids) - 1 or ids[0] != first:
                _refuse_gap(first, ids)
            joined = b"\n".join(commands)
            if joined.count(b"\n") >= len(ids) or b"\r" in joined or b"\0" in joined:
                _refuse_command(rows)
            texts.extend_encoded(commands)
    return texts


def _refuse_gap(first: int, ids: Sequence[int]) -> NoReturn:
    """Raise `RowError` for the first id that is missing."""
    missing = next(wanted for wanted, each in enumerate(ids, first) if wanted != each)
    after = ids[missing - first]
    remedy, change = "insert it, or give the tasks behind it lower ids", ""
    if missing == 0 and after == 1:
        remedy, change = "number them anew", "UPDATE tasks SET id = id - 1"
    raise RowError(
        f"task {missing}",
        f"is missing, in front of task {after}: ids go from 0 without gaps; {remedy}",
        change,
    )


def _refuse_command(rows: Iterable[tuple[int, bytes]]) -> None:
    """Raise `RowError` for the first command that no line can hold."""
    for taskid, command in rows:
        for byte, name in ((b"\n", "a line break"), (b"\r", "a CR"), (b"\0", "a NUL")):
            if byte in command:
                raise RowError(
                    f"the command of task {taskid}",
                    f"has {name} in it, which no command can have: update its row",
                )


def read_constraints(
    connection: sqlite3.Connection, begin: int = 0, end: int | None = None
) -> Constraints:
    """Return the order of the tasks from `begin` on (to `end`), and their kinds.

    Raises `RowError`.
    """
    end = _NO_END if end is None else end
    constraints = Constraints(read_barriers(connection, begin, end))
    query = (
        'SELECT id, "after", kind FROM tasks WHERE id >= ? AND id < ?'
        ' AND ("after" IS NOT NULL OR kind IS NOT NULL) ORDER BY id'
    )
    last: tuple[str | None, tuple[int, ...]] = (None, ())
    for taskid, after, kind in connection.execute(query, (begin, end)):
        if after is not None:
            if last[0] != after:
                last = (after, _parse_after(taskid, after))
            constraints.after[taskid] = last[1]
            if last[1] and last[1][-1] >= taskid:
                _refuse_after(
                    taskid,
                    f"waits for task {last[1][-1]}, but a task can only wait for tasks"
                    " with lower ids",
                )
        if kind is not None:
            if not is_kind(str(kind)):
                raise RowError(
                    f"task {taskid}",
                    f"has the kind {kind!r:.60}: use letters, digits, _ . - in its"
                    " name",
                )
            constraints.kinds[taskid] = kind
    _check_barriers(constraints.barriers, find_total(connection))
    return constraints


def read_barriers(
    connection: sqlite3.Connection, begin: int = 0, end: int = _NO_END
) -> list[Barrier]:
    """Return the barriers in front of tasks from `begin` to `end`."""
    query = (
        'SELECT "before", checks, since FROM barriers WHERE "before" >= ?'
        ' AND "before" < ? ORDER BY "before"'
    )
    rows = connection.execute(query, (begin, end))
    return [Barrier(first, bool(checks), since or 0) for first, checks, since in rows]


def _parse_after(taskid: int, after: object) -> tuple[int, ...]:
    try:
        return tuple(sorted({*parse_ids(str(after))}))
    except IdRangesError as error:
        _refuse_after(taskid, f'has an "after" that names no tasks ({error})')


def _refuse_after(taskid: int, what: str) -> NoReturn:
    raise RowError(
        f"task {taskid}",
        f'{what}: correct its "after", NULL for none',
        f'UPDATE tasks SET "after" = NULL WHERE id = {taskid}',  # noqa: S608 - told only
    )


def _describe_ids(total: int) -> str:
    return f"the tasks are 0 to {total - 1}" if total else "there are no tasks"


def _is_id(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _check_barriers(barriers: Iterable[Barrier], total: int) -> None:
    """Raise `RowError` for a barrier that does not fit so many tasks."""
    for first, _, since in barriers:
        subject, where = f"the barrier in front of task {first}", f'"before" = {first}'
        if not 0 < first <= total:
            raise RowError(
                subject,
                f"is out of place, because {_describe_ids(total)}: correct its row in"
                " the table barriers, or delete it",
                f"DELETE FROM barriers WHERE {where}",  # noqa: S608 - told only
            )
        if not _is_id(since) or since > first:
            raise RowError(
                subject,
                f"checks the tasks from {since!r:.60} on, and that is no id in front of"
                " it: correct since in its row in the table barriers, 0 for all tasks",
                f"UPDATE barriers SET since = 0 WHERE {where}",  # noqa: S608 - told only
            )


def read_states(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Yield id and state of each task, in order."""
    return connection.execute("SELECT id, state FROM tasks ORDER BY id")


def find_ids(connection: sqlite3.Connection, state: TaskState) -> list[int]:
    """Return the ids of the tasks in a state, in order."""
    query = "SELECT id FROM tasks WHERE state = ? ORDER BY id"
    return [taskid for (taskid,) in connection.execute(query, (state.value,))]


def find_failed(connection: sqlite3.Connection) -> list[int]:
    """Return the ids of failed and cancelled tasks, the last one last."""
    query = (
        "SELECT id FROM tasks WHERE state IN ('failed', 'cancelled')"
        " AND state <> 'finished'"
        " ORDER BY julianday(started) + coalesce(seconds, 0) / 86400, id"
    )
    return [taskid for (taskid,) in connection.execute(query)]


def read_failed_statuses(connection: sqlite3.Connection) -> dict[int, int]:
    """Return the status of each failed task that has one, -n for signal n."""
    query = (
        "SELECT id, status, signal FROM tasks WHERE state = 'failed'"
        " AND state <> 'finished' AND status IS NOT NULL"
    )
    rows = connection.execute(query)
    return {taskid: -signal if signal else status for taskid, status, signal in rows}


def fill_ends(connection: sqlite3.Connection, ends: Iterable[LastEnd]) -> None:
    """Write the ends of tasks of which the database has none."""
    known = connection.execute("SELECT id FROM tasks WHERE outcome IS NULL")
    missing = {taskid for (taskid,) in known}
    connection.executemany(
        "UPDATE tasks SET attempt = ?3, outcome = ?4, status = ?5, signal = ?6,"
        " host = ?7, started = ?8, seconds = ?9, peak_memory = ?10"
        " WHERE id = ?1 AND state = ?2",
        (
            (each.taskid, each.state, *each[3:])
            for each in ends
            if each.outcome is not None and each.taskid in missing
        ),
    )


def find_first(connection: sqlite3.Connection, most: int, begin: int = 0) -> list[int]:
    """Return the first ids to be processed from `begin` on, `most` at most."""
    query = (
        f"SELECT id FROM tasks WHERE state = 'to process' AND {_UNFINISHED}"  # noqa: S608 - constants
        " AND id >= ? ORDER BY id LIMIT ?"
    )
    return [taskid for (taskid,) in connection.execute(query, (begin, most))]


def find_held(connection: sqlite3.Connection, farm: str) -> list[int]:
    """Return the ids of the tasks that a farm has, in order."""
    query = f"SELECT id FROM tasks WHERE {_RUNNING} AND farm = ? ORDER BY id"  # noqa: S608 - constants
    return [taskid for (taskid,) in connection.execute(query, (farm,))]


def find_holders(connection: sqlite3.Connection) -> Iterator[tuple[str | None, int]]:
    """Yield who has each running task (None: nobody), and its id."""
    return connection.execute(
        f"SELECT farm, id FROM tasks WHERE {_RUNNING} ORDER BY farm, id"  # noqa: S608 - constants
    )


def read_ends(connection: sqlite3.Connection) -> Iterator[LastEnd]:
    """Yield what each row says of its task, in the order of the ids."""
    columns = ", ".join(("id", *LastEnd._fields[1:]))
    for row in connection.execute(f"SELECT {columns} FROM tasks ORDER BY id"):  # noqa: S608 - constants
        yield LastEnd(*row)


@contextmanager
def _texts_as_bytes(connection: sqlite3.Connection) -> Iterator[None]:
    # A command that is not UTF-8 is a BLOB; what a user inserts may be a TEXT of them.
    before, connection.text_factory = connection.text_factory, bytes
    try:
        yield
    finally:
        connection.text_factory = before


# ---- changing ------------------------------------------------------------------------


def insert(connection: sqlite3.Connection, tasks: Iterable[NewTask]) -> None:
    """Insert tasks."""
    connection.executemany(
        'INSERT INTO tasks (id, command, state, "after", kind) VALUES (?, ?, ?, ?, ?)',
        (
            (
                *(taskid, as_value(command), state.value),
                *(encode_ids(after) or None, kind),
            )
            for taskid, command, state, after, kind in tasks
        ),
    )


def insert_rows(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Insert tasks with all that is known of them."""
    marks = ", ".join("?" * len(Row._fields))
    connection.executemany(f"INSERT INTO tasks VALUES ({marks})", rows)  # noqa: S608 - constants


def insert_plain(
    connection: sqlite3.Connection, begin: int, commands: Iterable[bytes]
) -> None:
    """Insert tasks that wait for nothing, with ids from `begin` on."""
    connection.executemany(
        "INSERT INTO tasks (id, command) VALUES (?, ?)",
        enumerate(map(as_value, commands), begin),
    )


def insert_barriers(
    connection: sqlite3.Connection, barriers: Iterable[Barrier]
) -> None:
    """Insert barriers, or replace those at the same places."""
    connection.executemany(
        "INSERT OR REPLACE INTO barriers VALUES (?, ?, ?)",
        ((first, int(checks), since) for first, checks, since in barriers),
    )


def as_value(command: bytes) -> str | bytes:
    """Return a command as a row has it: a text, or bytes that are not UTF-8."""
    try:
        return command.decode()
    except UnicodeDecodeError:
        return command


def take(connection: sqlite3.Connection, farm: str, taskids: Iterable[int]) -> None:
    """Give tasks to a farm: they are running now."""
    _update_ranges(connection, "state = 'running', farm = ?", (farm,), taskids)


def requeue(
    connection: sqlite3.Connection, taskids: Iterable[int], state: TaskState
) -> None:
    """Put tasks back into a queue, that nobody has then."""
    _update_ranges(connection, "state = ?, farm = NULL", (state.value,), taskids)


def requeue_failed(
    connection: sqlite3.Connection, taskids: Iterable[int], state: TaskState
) -> None:
    """Put back those of some tasks that have failed, or were cancelled."""
    connection.executemany(
        "UPDATE tasks SET state = ?, farm = NULL WHERE id BETWEEN ? AND ?"
        " AND state IN ('failed', 'cancelled')",
        ((state.value, first, last) for first, last in ranges_of(taskids)),
    )


def requeue_plain(
    connection: sqlite3.Connection, taskids: Iterable[int], state: TaskState
) -> None:
    """Put back those of some tasks that a plain farmer has, or nobody."""
    connection.executemany(
        "UPDATE tasks SET state = ?, farm = NULL WHERE id BETWEEN ? AND ?"
        " AND state = 'running' AND (farm IS NULL OR farm LIKE 'PyTaskFarmer%')",
        ((state.value, first, last) for first, last in ranges_of(taskids)),
    )


def record(connection: sqlite3.Connection, ends: Iterable[TaskEnd]) -> None:
    """Record the ends of tasks, that nobody has then."""
    connection.executemany(
        "UPDATE tasks SET state = ?2, farm = NULL, attempt = ?3, outcome = ?4,"
        " status = ?5, signal = ?6, host = ?7, started = ?8, seconds = ?9,"
        " peak_memory = ?10 WHERE id = ?1",
        ends,
    )


def inherit(connection: sqlite3.Connection, farm: str, successor: str) -> None:
    """Give all tasks of a farm to another one."""
    connection.execute(
        f"UPDATE tasks SET farm = ? WHERE {_RUNNING} AND farm = ?",  # noqa: S608 - constants
        (successor, farm),
    )


def _update_ranges(
    connection: sqlite3.Connection,
    changes: str,
    values: tuple[str, ...],
    taskids: Iterable[int],
) -> None:
    """Change the rows of some tasks, by one statement for each range of ids."""
    connection.executemany(
        f"UPDATE tasks SET {changes} WHERE id BETWEEN ? AND ?",  # noqa: S608 - constants
        ((*values, first, last) for first, last in ranges_of(taskids)),
    )


def ranges_of(taskids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last id of each range in a set of ids."""
    for _, group in groupby(enumerate(sorted(taskids)), lambda each: each[1] - each[0]):
        ids = [taskid for _, taskid in group]
        yield ids[0], ids[-1]
