"""A database as tasklist, read for commands that look: its tasks, as of one moment.

Rules of this file: it changes nothing, but for what a writer that died has begun.  It
reads a copy, taken under the lock, or of a file that was the same before and after.
Without the lock it undoes nothing: the writer may live, on a host whose SQLite locks
are not seen here.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from mpifarm.database import tasks as statements
from mpifarm.database.copy import copy_unlocked, read_copy, settle, state_of
from mpifarm.database.errors import BusyError, explained
from mpifarm.database.schema import Connection
from mpifarm.database.waiting import PATIENCE, wait_while_busy
from mpifarm.errors import FarmError, InputError
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.order.constraints import Constraints
from mpifarm.system.lock import WorkdirLock
from mpifarm.tasklists import TaskList

LOCK_SECONDS: Final = 5.0
"""Seconds that a reader waits for the lock; then it goes by SQLite's own locks."""

LARGE: Final = 32 * 1024 * 1024
"""Bytes above which a database is copied without the lock: a copy under it would keep
farms waiting for more than 50 ms."""

TRIES: Final = 3
"""Copies without the lock; then the database is copied under it."""

T = TypeVar("T")


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


@contextmanager
def told_if_busy() -> Iterator[None]:
    """Raise `InputError` where another program is writing the database."""
    try:
        yield
    except BusyError as error:
        # It waited for seconds: to try again now would be in vain.
        raise InputError(str(error)) from error


class Moment(NamedTuple, Generic[T]):
    """A copy of a database, and what was read `also` while it was the same."""

    copy: Connection
    also: T
    trouble: str
    """Why the lock was not held, "" if it was, or if no farmer can have it."""


def read_moment(path: str, find_lock: FindLock, also: Callable[[], T]) -> Moment[T]:
    """Copy a database in memory, and call `also` under the lock, as of one moment.

    A large one is copied without the lock, again if it was changed meanwhile.  Raises
    what `mpifarm.database.schema.connect` raises, but `InputError` if another program
    is writing the database.
    """
    with told_if_busy():
        return wait_while_busy(lambda: _read_moment(path, find_lock, also))


def _read_moment(path: str, find_lock: FindLock, also: Callable[[], T]) -> Moment[T]:
    for _ in range(TRIES):
        with lock_to_read(path, find_lock) as trouble:
            before = settle(path, PATIENCE, is_locked=not trouble)
            if before.size <= LARGE:
                return Moment(_copy(path, trouble), also(), trouble)
        copy = copy_unlocked(path)
        with lock_to_read(path, find_lock) as trouble:
            if copy is not None and state_of(path) == before:
                return Moment(copy, also(), trouble)
        if copy is not None:
            copy.close()
    with lock_to_read(path, find_lock) as trouble:
        return Moment(_copy(path, trouble), also(), trouble)


def _copy(path: str, trouble: str) -> Connection:
    return read_copy(path, nullcontext(), PATIENCE, is_locked=not trouble)


@contextmanager
def used(path: str, connection: Connection) -> Iterator[None]:
    """Close a connection after a ``with`` block, in which damage becomes a sentence."""
    with closing(connection), explained(path):
        yield


def read_database_tasks(path: str, find_lock: FindLock) -> DatabaseTasks:
    """Read the tasks of a database.

    Raises `InputError`, and `StorageError` if the disk fails.
    """
    moment = read_moment(path, find_lock, lambda: None)
    with used(path, moment.copy):
        return tasks_of(moment.copy)


def tasks_of(connection: Connection) -> DatabaseTasks:
    """Return the tasks of a database; raises `InputError` for odd ones."""
    return DatabaseTasks(
        statements.read_commands(connection), statements.read_constraints(connection)
    )
