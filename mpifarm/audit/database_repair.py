"""Tasks of a database go back to be run: those that failed, and those that were lost.

Rules of this file: what to change is chosen by a reading, and changed in one
transaction under the lock; rows that have changed meanwhile stay.
"""

import os
from collections.abc import Mapping

from mpifarm.audit.audit import audit_contents
from mpifarm.audit.databases import DatabaseReading, read_database
from mpifarm.audit.retry import Retried, Wanted, choose, read_last_ends
from mpifarm.audit.snapshot import observer
from mpifarm.database import tasks as statements
from mpifarm.database.schema import Scan
from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import read_attempts_content
from mpifarm.store.database_changes import Requeue, opened, put_back
from mpifarm.store.target import Target, find_lock
from mpifarm.store.task_map import Location


def retry_rows(target: Target, environ: Mapping[str, str], wanted: Wanted) -> Retried:
    """Put the wanted tasks back.  Return the moved and left ones.

    Raises `InputError`, with nothing changed, if tasks cannot be put back;
    `StorageError` if the disk fails.
    """
    reading = _read(target, environ)
    paths = WorkdirPaths(os.path.abspath(target.workdir))
    ends = read_last_ends(read_attempts_content(paths))
    # A plain farmer writes no attempts, and its rows have the status.
    ends.statuses.update(
        (taskid, status)
        for taskid, status in reading.statuses.items()
        if taskid not in ends.not_run
    )
    audit = audit_contents(
        reading.contents, reading.tasks.tasks, constraints=reading.tasks.constraints
    )
    retried = choose(wanted, audit, ends)
    if retried.moved:
        _put_back(target, environ, retried.moved, reading, statements.requeue_failed)
    return retried


def repair_rows(target: Target, environ: Mapping[str, str]) -> list[int]:
    """Put back what plain farmers have; the user knows that none runs.

    What dead farms had, the next start takes back.  Return the ids.  Raises
    `InputError` while a farm lives.
    """
    reading = _read(target, environ)
    for claim in reading.contents.claims:
        if claim.may_live:
            raise InputError(
                f"cannot use --assume-idle: farm {claim.farm} runs in"
                f" {target.workdir} ({claim.where}); wait until it ends"
            )
    audit = audit_contents(
        reading.contents, reading.tasks.tasks, constraints=reading.tasks.constraints
    )
    lost = [*audit.locations.ids_at(Location.NOWHERE)]
    if lost:
        _put_back(target, environ, lost, reading, statements.requeue_plain)
    return lost


def _read(target: Target, environ: Mapping[str, str]) -> DatabaseReading:
    return read_database(target, environ, observer(), Scan.QUICK)


def _put_back(
    target: Target,
    environ: Mapping[str, str],
    taskids: list[int],
    reading: DatabaseReading,
    requeue: Requeue,
) -> None:
    lock = find_lock(target, environ)
    lock.probe()
    with opened(target.tasklist or "", lock) as connection:
        put_back(connection, requeue, taskids, reading.tasks.constraints)
