"""A database as tasklist, with the interface of PyTaskFarmer's TaskList.

Rules of this file: it knows neither MPI nor the files of a workdir but its lock.  A
farm of mpifarm reads the list here, and works on it by `mpifarm.store.database_store`;
PyTaskFarmer works on it by the methods here.  Each method takes the lock of the workdir
for itself, opens the database under it, and closes it before the release.

A name of ``TaskList = mpifarm.databases.SqliteTaskList`` in an INI file::

    [sqlite]
    TaskList = mpifarm.databases.SqliteTaskList
"""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Final

from mpifarm.database import farming
from mpifarm.database import tasks as statements
from mpifarm.database.copy import (
    FileState,
    copy_unlocked,
    is_as_it_was,
    read_copy,
    state_of,
)
from mpifarm.database.errors import explained
from mpifarm.database.farming import PlainStart
from mpifarm.database.schema import Connection, check_header
from mpifarm.database.tasks import TaskEnd, TaskState
from mpifarm.database.waiting import (
    PATIENCE,
    opened_to_change,
    opened_to_read,
    wait_while_busy,
)
from mpifarm.errors import FarmError
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.model.task import Outcome
from mpifarm.order.constraints import Constraints
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.system.time_of_day import encode_time

LOCK_SECONDS: Final = 10.0
"""Seconds to wait for the lock, as PyTaskFarmer does."""


class SqliteTaskList:
    """The tasks of a database, each row of its table ``tasks`` one task.

    `lock_area` names the directory of the lock, as ``--lock-area`` does ("": as
    PyTaskFarmer finds it).  Raises `FarmError` for a file that is no such database.
    """

    is_database = True
    """Whether farms of mpifarm keep the states of the tasks in the list itself."""

    def __init__(self, path: str, workdir: str, lock_area: str = "") -> None:
        self.path = path
        self.workdir = workdir
        self._lock_area = lock_area
        self._lock: WorkdirLock | None = None
        texts, constraints = self._read()
        self._total = len(texts)
        self._texts: PackedTexts | None = texts
        self.constraints = constraints
        """What the database says of the order of its tasks."""

    def _read(self) -> tuple[PackedTexts, Constraints]:
        """Return the commands, and what the database says of their order.

        They are read before the lock's files are made, so that a database with a fault
        is refused with nothing made, and again under the lock if they have changed.
        """
        check_header(self.path)
        early = _read_unlocked(self.path, self.workdir)

        def read() -> tuple[PackedTexts, Constraints]:
            with self._held():
                if early and is_as_it_was(self.path, early[0], PATIENCE):
                    return early[1]
                copy = read_copy(self.path, nullcontext(), PATIENCE)
            return _read_contents(copy, self.path, self.workdir)

        return wait_while_busy(read)

    @property
    def tasks(self) -> PackedTexts:
        """The commands by id; a copy in a worker of PyTaskFarmer reads them again."""
        if self._texts is None:
            with opened_to_read(self.path, self._held) as connection:
                self._texts = statements.read_commands(connection)
        return self._texts

    def __len__(self) -> int:
        return self._total if self._texts is None else len(self._texts)

    def __getitem__(self, taskid: int, /) -> str:
        if self._texts is None:
            with opened_to_read(self.path, self._held) as connection:
                return farming.find_command(connection, taskid)
        return self._texts[taskid]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs: PyTaskFarmer sends it with each single task."""
        lean = {"_texts": None, "_lock": None, "constraints": Constraints()}
        return self.__dict__ | lean

    # ---- PyTaskFarmer's interface ----------------------------------------------------

    def lock(self) -> None:
        """Take the lock of the workdir, unless this object holds it."""
        lock = self._find_lock()
        if not lock.held:
            lock.acquire(LOCK_SECONDS)

    def unlock(self) -> None:
        """Release the lock, if this object holds it."""
        self._find_lock().release()

    def pop_task(self) -> int | None:
        """Take the first task that is to be processed; None if there is none.

        Tasks that were inserted since the start are left to others: PyTaskFarmer dies
        of an id that it does not know.
        """
        with self._changed() as connection:
            taskid = farming.find_shared(connection, self._total)
            if taskid is not None:
                now = encode_time(time.time())
                farming.take_as(connection, taskid, name_of_process(), now)
            return taskid

    def record_toprocess_task(self, taskid: int) -> None:
        """Put a task back that this process has; any other stays as it is."""
        with self._changed() as connection:
            start = farming.find_start(connection, taskid, name_of_process())
            if start is not None:
                statements.requeue(connection, [taskid], TaskState.TO_PROCESS)

    def record_done_task(self, taskid: int, returncode: int) -> None:
        """Record the end of a task that this process has; any other stays as it is."""
        with self._changed() as connection:
            start = farming.find_start(connection, taskid, name_of_process())
            if start is not None:
                end = _describe_end(taskid, returncode, start)
                statements.record(connection, [end])

    def get_finished(self) -> list[int]:
        """Return the ids of the finished tasks."""
        with opened_to_read(self.path, self._held) as connection:
            return statements.find_ids(connection, TaskState.FINISHED)

    # ---- the lock and the database ---------------------------------------------------

    def _find_lock(self) -> WorkdirLock:
        if self._lock is None:
            area = self._lock_area or None
            paths = lock_paths(self.workdir, os.environ, area)
            self._lock = WorkdirLock(paths)
            self._lock.probe()
        return self._lock

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock in a ``with`` block, unless the caller has it already."""
        was_held = self._find_lock().held
        self.lock()
        try:
            yield
        finally:
            if not was_held:
                self.unlock()

    @contextmanager
    def _changed(self) -> Iterator[Connection]:
        """Change the database in a ``with`` block, by one transaction.

        Raises `InputError` while tasks run under another workdir, and its lock.  A TERM
        waits until it is over: PyTaskFarmer's handler of it calls these methods.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            with (
                opened_to_change(self.path, self._held) as connection,
                statements.transaction(connection),
            ):
                place = farming.place_of(self.workdir, self.path)
                farming.claim_place(connection, place, self.path)
                yield connection
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _read_unlocked(
    path: str, workdir: str
) -> tuple[FileState, tuple[PackedTexts, Constraints]] | None:
    """Return commands and order, which count while the file is in the same state.

    None while others write the database, or if they have died of it.  Raises
    `FarmError` for one that has a fault.
    """
    before = state_of(path)
    copy = copy_unlocked(path)
    if copy is None:
        return None
    try:
        return before, _read_contents(copy, path, workdir)
    except FarmError:
        if _is_settled(path, before):
            raise
        return None


def _is_settled(path: str, before: FileState) -> bool:
    """Return whether a fault is one of the database, and not of a half written one."""
    try:
        return is_as_it_was(path, before, PATIENCE, is_locked=False)
    except FarmError:
        return False


def _read_contents(
    copy: Connection, path: str, workdir: str
) -> tuple[PackedTexts, Constraints]:
    """Return the commands and the order of a copy, which is closed.

    Raises `FarmError` for a fault, and while tasks run under another workdir.
    """
    with closing(copy), explained(path):
        farming.refuse_place(copy, farming.place_of(workdir, path), path)
        return statements.read_commands(copy), statements.read_constraints(copy)


def name_of_process() -> str:
    """Return the words by which a row names this PyTaskFarmer."""
    return f"{farming.PLAIN_FARMER}{socket.gethostname()} {os.getpid()}"


def _describe_end(taskid: int, returncode: int, start: PlainStart) -> TaskEnd:
    """Return the end of an attempt under PyTaskFarmer, in the words of mpifarm."""
    killed_by = max(-returncode, 0)
    outcome = Outcome.FAILED if returncode else Outcome.COMPLETED
    return TaskEnd(
        taskid,
        TaskState.FAILED if returncode else TaskState.FINISHED,
        attempt=start.attempt,
        outcome=outcome.value,
        status=128 + killed_by if killed_by else returncode,
        signal=killed_by,
        host=socket.gethostname(),
        started=start.started,
    )
