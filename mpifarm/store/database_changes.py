"""Changes of a database by commands: tasks that go back, and tasks that are added.

Rules of this file: a change is one transaction under the lock of the workdir.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from mpifarm.database import tasks as statements
from mpifarm.database.farming import find_about
from mpifarm.database.schema import Connection, write_about
from mpifarm.database.tasks import NewTask, TaskState
from mpifarm.database.waiting import opened_to_change
from mpifarm.errors import InputError
from mpifarm.model.id_ranges import IdRangesError, encode_ids, parse_ids
from mpifarm.model.task import encode_text
from mpifarm.order.constraints import Constraints
from mpifarm.order.directives import command_of
from mpifarm.store.database_reading import told_if_busy
from mpifarm.store.types import HeldLock
from mpifarm.tasklists import ListReader

LOCK_SECONDS: Final = 60.0
"""Seconds that a change waits for the lock."""

_ADDING: Final = "adding"
"""The fact in ``about`` that tells of tasks whose ids were not told yet."""


@contextmanager
def opened(path: str, lock: HeldLock) -> Iterator[Connection]:
    """Open a database for changes in a ``with`` block, under the lock.

    The lock is let go while another program keeps a transaction open.
    Raises `InputError` for a database that can't be changed, `StorageError` if the disk
    fails.
    """
    hold = partial(lock.hold, LOCK_SECONDS)
    with told_if_busy(), opened_to_change(path, hold) as connection:
        yield connection


# ---- tasks that go back --------------------------------------------------------------


Requeue: TypeAlias = Callable[[Connection, Iterable[int], TaskState], None]
"""A statement that puts some tasks back into the queue of a state."""


def put_back(
    connection: Connection, requeue: Requeue, taskids: Sequence[int], order: Constraints
) -> None:
    """Put tasks back by a statement: those that have to wait apart from the others."""
    shared = set(order.find_shared(taskids))
    with statements.transaction(connection):
        requeue(connection, shared, TaskState.TO_PROCESS)
        requeue(connection, {*taskids} - shared, TaskState.WAITING)


# ---- tasks that are added ------------------------------------------------------------


class AddedRows(NamedTuple):
    """Tasks that are in the database now.

    `was_killed`: an earlier adder of the same commands was killed after it had added.
    """

    ids: list[int]
    was_killed: bool = False


def add_rows(
    connection: Connection, commands: Sequence[bytes], after: Sequence[int]
) -> AddedRows:
    """Append tasks that wait for the tasks `after`; `forget_added` has to follow.

    In between the caller tells their ids: who is killed before, and comes again with
    the same commands, gets the same ids.  Raises `InputError` for a mistake in them.
    """
    mark = hashlib.sha256(b"\n".join([*commands, *map(b"%d".__mod__, after)]))
    # All is read in the transaction: a user may insert rows by SQL's locks alone.
    with statements.transaction(connection):
        known = _find_added(connection, mark.hexdigest())
        if known is not None:
            return AddedRows(known, was_killed=True)
        total = statements.find_total(connection)
        _check_after(after, total)
        ids = [*range(total, total + len(commands))]
        has_barriers = bool(statements.read_barriers(connection))
        new = _compose(total, commands, after, has_barriers=has_barriers)
        statements.insert(connection, new)
        record = {"digest": mark.hexdigest(), "tasks": encode_ids(ids)}
        write_about(connection, _ADDING, json.dumps(record))
    return AddedRows(ids)


def _check_after(after: Sequence[int], total: int) -> None:
    """Raise `InputError` for an id that none of `total` tasks has."""
    if after and max(after) >= total:
        tasks = f"ids 0 to {total - 1}" if total else "no tasks yet"
        raise InputError(
            f"--after names task {max(after)}, and the database has {tasks}: a task can"
            " only wait for one that is in the list"
        )


def _find_added(connection: Connection, digest: str) -> list[int] | None:
    """Return the ids that an adder of the same has not told, None without one."""
    try:
        record: Any = json.loads(find_about(connection, _ADDING) or "{}")
        return parse_ids(record["tasks"]) if record["digest"] == digest else None
    except (ValueError, TypeError, KeyError, IdRangesError):
        return None


def _compose(
    total: int, commands: Sequence[bytes], after: Sequence[int], *, has_barriers: bool
) -> Iterable[NewTask]:
    reader = ListReader("what is added", tasks=total)
    reader.take(b"\n".join([*commands, b""]))
    for taskid, text in enumerate(reader.texts, total):
        kind = reader.constraints.kinds.get(taskid)
        waits = bool(after) or kind is not None or has_barriers
        state = TaskState.WAITING if waits else TaskState.TO_PROCESS
        command = encode_text(command_of(text) if kind else text)
        yield NewTask(taskid, command, state, after, kind)


def forget_added(connection: Connection) -> None:
    """Forget the ids that were told."""
    with statements.transaction(connection):
        write_about(connection, _ADDING, None)
