"""A database as tasklist, read for commands that look: its tasks, as of one moment.

Rules of this file: it changes nothing, but for what a writer that died has begun.  The
lock is held while the database is copied, and what is read is the copy.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Final, TypeAlias

from mpifarm.database import tasks as statements
from mpifarm.database.copy import read_copy
from mpifarm.database.errors import BusyError, explained
from mpifarm.database.schema import Connection
from mpifarm.errors import FarmError, InputError
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.order.constraints import Constraints
from mpifarm.system.lock import WorkdirLock
from mpifarm.tasklists import TaskList

LOCK_SECONDS: Final = 5.0
"""Seconds that a reader waits for the lock; then it goes by SQLite's own locks."""


class DatabaseTasks(TaskList):
    """The tasks of a database, without the methods that record their states."""

    def __init__(self, tasks: PackedTexts, constraints: Constraints) -> None:
        self.tasks = tasks
        self.constraints = constraints

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, taskid: int, /) -> str:
        return self.tasks[taskid]


FindLock: TypeAlias = Callable[[], WorkdirLock | None]
"""Finds the lock of a workdir, None if there is none to be taken."""


@contextmanager
def lock_to_read(path: str, find_lock: FindLock) -> Iterator[str]:
    """Hold the lock of the database `path` for a ``with`` block, if that can be had.

    Give the reason why it is not held, "" if it is, or if no farmer can have it.
    """
    lock, trouble = None, ""
    try:
        lock = find_lock()
        if lock is not None:
            lock.acquire(LOCK_SECONDS)
    except FarmError as error:
        # It is not ours to write, or others hold it for long.
        trouble = f"{path} was read without the lock: {error}"
    try:
        yield trouble
    finally:
        if lock is not None:
            lock.release()


def copy_database(path: str) -> Connection:
    """Return a copy in memory of a database; the caller holds the lock.

    Raises what `mpifarm.database.schema.connect` raises, but `InputError` if another
    program is writing it.
    """
    try:
        return read_copy(path, nullcontext())
    except BusyError as error:
        # It waited for seconds: to try again now would be in vain.
        raise InputError(str(error)) from error


@contextmanager
def used(path: str, connection: Connection) -> Iterator[None]:
    """Close a connection after a ``with`` block, in which damage becomes a sentence."""
    with closing(connection), explained(path):
        yield


def read_database_tasks(path: str, find_lock: FindLock) -> DatabaseTasks:
    """Read the tasks of a database.

    Raises `InputError`, and `StorageError` if the disk fails.
    """
    with lock_to_read(path, find_lock):
        copy = copy_database(path)
    with used(path, copy):
        return tasks_of(copy)


def tasks_of(connection: Connection) -> DatabaseTasks:
    """Return the tasks of a database; raises `InputError` for odd ones."""
    return DatabaseTasks(
        statements.read_commands(connection), statements.read_constraints(connection)
    )
