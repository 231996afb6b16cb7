"""A new database, made of a list and of what its workdir says.

Rules of this file: the database gets its name when all of it is on the disk.  The
attempts are copied before, so that whoever has the database has them, too.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from mpifarm.audit.database_rows import (
    Commands,
    commands_of,
    write_new,
    write_view,
)
from mpifarm.audit.databases import IMPORTED_FROM
from mpifarm.audit.view import View, read_view
from mpifarm.database import tasks as statements
from mpifarm.database.schema import creating, write_about
from mpifarm.database.tasks import TaskState
from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import blocks_of as blocks_of_file
from mpifarm.store.farm_liveness import Machine
from mpifarm.store.target import SUFFIX, Target, is_database, read_tasks
from mpifarm.system import files
from mpifarm.system.new_files import sole_maker
from mpifarm.tasklists import find_constraints


class Imported(NamedTuple):
    """What a new database has."""

    total: int
    states: Mapping[TaskState, int]
    has_state: bool
    """Whether a workdir said which tasks have ended."""


def import_list(
    target: Target,
    environ: Mapping[str, str],
    path: str,
    machine: Machine | None = None,
) -> Imported:
    """Make a database at `path` of the list of a target and the state in its workdir.

    Raises `InputError` if there is such a file, if the list can't be used, or while
    farms work on it, or another import makes the same database; `StorageError` if the
    disk fails.
    """
    refusal = (
        f"{path} is being imported by another mpifarm import: let that end, or name"
        " another file"
    )
    # One that were not alone would take the other's attempts for those of a killed one.
    with sole_maker(path, refusal):
        return _import_list(target, environ, path, machine)


def _import_list(
    target: Target, environ: Mapping[str, str], path: str, machine: Machine | None
) -> Imported:
    files.refuse_existing(path)
    _refuse_workdir(path)
    if is_database(target, environ):
        raise InputError(
            f"{target.tasklist} is a database already: copy it while no farm runs,"
            f" after mpifarm status {target.tasklist}, which undoes what a killed farm"
            " had begun"
        )
    if not files.is_directory(target.workdir):
        tasks = read_tasks(target, environ)
        assert tasks is not None
        commands = Commands(tasks)
        with creating(path) as connection:
            write_new(connection, commands, find_constraints(tasks))
            write_about(connection, "list", os.path.abspath(target.tasklist or ""))
            states = statements.count_states(connection)
        return Imported(len(commands), states, has_state=False)
    view = read_view(target, environ, machine)
    _refuse_view(view, target)
    return _import_view(view, target, path)


def _refuse_workdir(path: str) -> None:
    """Raise `InputError` for the workdir of an earlier database of the same name.

    One that an import has left that was killed is removed.
    """
    workdir = path + SUFFIX
    if files.is_directory(workdir) and _has_attempts_alone(workdir):
        _remove_attempts(workdir)
    if os.path.lexists(workdir):
        raise InputError(
            f"{path}{SUFFIX} exists, and is of another list: move it away, or name"
            " another file"
        )


def _refuse_view(view: View, target: Target) -> None:
    if view.has_own_state:
        raise InputError(
            f"the tasklist handler {target.handler!r} keeps the state of the tasks"
            " itself: mpifarm can't tell which have ended"
        )
    if live := view.live_farms:
        raise InputError(
            f"farm {live[0].farm} {live[0].where} works on {target.tasklist}: wait"
            " until it has ended, or a task would run both there and by the database"
        )
    for warning in view.warnings():
        raise InputError(f"{warning}; mpifarm check {target.workdir} tells more")


def _import_view(view: View, target: Target, path: str) -> Imported:
    commands = commands_of(view, target)
    try:
        _copy_attempts(view.paths, path + SUFFIX)
        with creating(path) as connection:
            write_view(connection, view, commands)
            write_about(connection, "list", os.path.abspath(target.tasklist or ""))
            write_about(connection, IMPORTED_FROM, view.paths.root)
            states = statements.count_states(connection)
    except BaseException:
        _remove_attempts(path + SUFFIX)
        raise
    return Imported(view.total, states, has_state=True)


def _copy_attempts(source: WorkdirPaths, workdir: str) -> None:
    """Copy the attempts, if there are any, into a new workdir."""
    copies = WorkdirPaths(workdir)
    pairs = [
        (source.first_attempts, copies.first_attempts),
        (source.attempts, copies.attempts),
    ]
    pairs = [pair for pair in pairs if files.find_size(pair[0])]
    if not pairs:
        return
    try:
        files.make_directory(os.path.abspath(workdir))
    except OSError as error:
        raise files.storage_error("make", workdir, error) from error
    for old, new in pairs:
        files.write_staging_file(new, blocks_of_file(old), like=old)


def _has_attempts_alone(workdir: str) -> bool:
    """Return whether a directory has what `_copy_attempts` makes, and nothing else."""
    paths = WorkdirPaths(workdir)
    names = {*map(os.path.basename, (paths.first_attempts, paths.attempts))}
    return names.issuperset(files.find_names(workdir))


def _remove_attempts(workdir: str) -> None:
    paths = WorkdirPaths(workdir)
    for path in (paths.first_attempts, paths.attempts):
        with suppress(OSError):
            os.unlink(path)
    with suppress(OSError):
        os.rmdir(workdir)


def count_words(states: Mapping[TaskState, int]) -> str:
    """Return the numbers of tasks in each state: ``3 finished, 4 to process``."""
    return ", ".join(
        f"{states[each]} {each.value}" for each in TaskState if states.get(each)
    )
