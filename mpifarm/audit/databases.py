"""A workdir whose list is a database, as the contents that files would have.

Rules of this file: what is read is of one moment, under the lock.  So each command that
looks at a workdir of files looks at a database, too, and needs no second way.
"""

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from mpifarm.audit.audit import ClaimView, Contents
from mpifarm.audit.snapshot import glance
from mpifarm.database import tasks as statements
from mpifarm.database.errors import damaged_at
from mpifarm.database.farming import (
    PLAIN_FARMER,
    PlainAttempt,
    find_about,
    read_plain_attempts,
)
from mpifarm.database.schema import Connection, Scan, check_integrity
from mpifarm.database.tasks import TaskState
from mpifarm.store.attempts import parse_time
from mpifarm.store.database_reading import (
    DatabaseTasks,
    read_moment,
    tasks_of,
    used,
)
from mpifarm.store.farm_liveness import FarmLiveness, Machine
from mpifarm.store.status_lines import encode_lines
from mpifarm.store.target import Target, find_existing_lock
from mpifarm.system import files

IMPORTED_FROM = "imported_from"
"""The fact in ``about`` that names the workdir where the outputs stay of what had run
before an import."""


class DatabaseReading(NamedTuple):
    """The tasks of a database, and the contents that its workdir would have."""

    tasks: DatabaseTasks
    contents: Contents
    trouble: str
    """Why the lock was not held, "" if it was."""
    cancelled: frozenset[int]
    statuses: Mapping[int, int]
    """The status of each failed task by its row, -n for signal n."""
    plain: Mapping[int, PlainAttempt]
    """The last attempts of plain farmers, which are in no other file."""


def read_database(
    target: Target,
    environ: Mapping[str, str],
    machine: Machine,
    scan: Scan | None = None,
) -> DatabaseReading:
    """Read the database of a target and its workdir, which may not be there yet.

    `scan`: SQLite's own check of the whole database, which comes first.  Raises
    `InputError` for a database that is damaged or can't be used, `StorageError` if the
    disk fails.
    """
    path = target.tasklist or ""
    copy, found, trouble = read_moment(
        path,
        partial(find_existing_lock, target, environ),
        lambda: _read_workdir(target, machine),
    )
    with used(path, copy):
        faults = check_integrity(copy, scan) if scan else []
        if faults:
            raise damaged_at(path, faults)
        tasks = tasks_of(copy)
        texts = tasks.tasks
        ids = {
            state: statements.find_ids(copy, state)
            for state in TaskState
            if state is not TaskState.RUNNING
        }
        # What users have inserted stands as "to process", until a farm has seen it.
        shared = set(tasks.constraints.find_shared(ids[TaskState.TO_PROCESS]))
        early = {*ids[TaskState.TO_PROCESS]} - shared
        waiting = sorted(early.union(ids[TaskState.WAITING]))
        statuses = statements.read_failed_statuses(copy)
        plain = {each.taskid: _checked(each) for each in read_plain_attempts(copy)}
        claims = _share_out(found.claims, statements.find_holders(copy))
        contents = found._replace(
            toprocess=encode_lines(sorted(shared), texts),
            waiting=encode_lines(waiting, texts),
            finished=encode_lines(ids[TaskState.FINISHED], texts),
            failed=encode_lines(statements.find_failed(copy), texts),
            claims=tuple(claims),
            locked=not trouble,
        )
    cancelled = frozenset(ids[TaskState.CANCELLED])
    return DatabaseReading(tasks, contents, trouble, cancelled, statuses, plain)


def _checked(attempt: PlainAttempt) -> PlainAttempt:
    """Return an attempt without a start that is no time: users may write anything."""
    with suppress(ValueError):
        parse_time(attempt.started.encode())
        return attempt
    return attempt._replace(started="")


def _read_workdir(target: Target, machine: Machine) -> Contents:
    """Read what a workdir has beside the states of tasks."""
    if not files.is_directory(target.workdir):
        return Contents(None, None, None, None)
    return glance(os.path.abspath(target.workdir), machine)


def _share_out(
    claims: Sequence[ClaimView], holders: Iterator[tuple[str | None, int]]
) -> Iterator[ClaimView]:
    """Yield the claims, each with the tasks that it holds by the rows.

    A farm without a claim has died.  What a plain farmer has is in no claim.
    """
    held: dict[str, array[int]] = {}
    for farm, taskid in holders:
        if farm is not None and not farm.startswith(PLAIN_FARMER.rstrip()):
            held.setdefault(farm, array("Q")).append(taskid)
    for claim in claims:
        ids = frozenset(held.pop(claim.farm, ()))
        yield claim._replace(held=ids, kept=ids)
    for farm, left in held.items():
        ids = frozenset(left)
        yield ClaimView(farm, "", FarmLiveness.DEAD, ids, ids)


def find_earlier_workdir(target: Target, environ: Mapping[str, str]) -> str:
    """Return the workdir that was imported with a list, "" if there was none.

    Raises as `read_database` does.
    """
    with _copied(target, environ) as copy:
        return find_about(copy, IMPORTED_FROM) or ""


@contextmanager
def row_ends(
    target: Target, environ: Mapping[str, str]
) -> Iterator[Iterator[statements.LastEnd]]:
    """Give the ends of tasks by their rows, for a ``with`` block."""
    with _copied(target, environ) as copy:
        yield statements.read_ends(copy)


@contextmanager
def _copied(target: Target, environ: Mapping[str, str]) -> Iterator[Connection]:
    """Give a copy of the database of a target, for a ``with`` block."""
    path = target.tasklist or ""
    find_lock = partial(find_existing_lock, target, environ)
    moment = read_moment(path, find_lock, lambda: None)
    with used(path, moment.copy):
        yield moment.copy
