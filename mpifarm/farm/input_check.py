"""The input of a farm that starts later, checked as a start would check it.

Rules of this file: it reads, and changes nothing.  What a start would refuse is an
`InputError` with the same sentence.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from mpifarm.batch.launcher import command_environment
from mpifarm.errors import InputError
from mpifarm.farm.again import check_again, refuse_at_work, refuse_place
from mpifarm.farm.directory import check_directory
from mpifarm.farm.expected import choose_order_of, read_durations_of
from mpifarm.farm.find_hooks import check_hooks, find_own_hooks
from mpifarm.farm.first_words import find_list_faults
from mpifarm.farm.growth import check_follow, leave_unended, read_beside_writer
from mpifarm.farm.kinds import check_kinds
from mpifarm.farm.opening import (
    refuse_other_handler,
    refuse_remap,
    refuse_workdir,
)
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Settings
from mpifarm.plugins.registry import find_runner, find_search_path_of
from mpifarm.runners import check_runner
from mpifarm.store.farm_liveness import this_machine
from mpifarm.store.membership import put_off
from mpifarm.store.strangers import validate_contents, validate_place
from mpifarm.store.target import (
    Target,
    find_handler_of,
    find_target_of,
    is_database,
    read_tasks,
)
from mpifarm.store.validate import EditedListError, check_not_edited
from mpifarm.system import files
from mpifarm.tasklists import (
    PLAIN_CLASS,
    TaskList,
    TasklistFileError,
    find_constraints,
    keeps_own_state,
)

if TYPE_CHECKING:
    from mpifarm.farm.start_order import ChosenOrder


class NoTasksError(InputError):
    """A list without tasks, with which a farm would end at once."""


class CheckedInput(NamedTuple):
    """A list that a farm can run, and what to tell of it."""

    tasklist: TaskList
    warnings: list[str]
    chosen: "ChosenOrder | None" = None
    """The order in which tasks start; None: that of the list."""

    @property
    def tasks(self) -> int:
        """The number of tasks."""
        return len(self.tasklist)


def check_input(
    settings: Settings,
    environ: Mapping[str, str],
    holds_all_cpus: Callable[[], bool] = lambda: False,
) -> CheckedInput:
    """Check runner, handler, list and workdir of a farm that is not to start now.

    `holds_all_cpus` says whether an srun in a task would wait for CPUs of this step.
    Raises `InputError`, which is a `NoTasksError` for an empty list, and `StorageError`
    if the disk fails.
    """
    check_directory(settings)
    check_hooks(find_own_hooks(settings, environ), command_environment(os.environb))
    search_path = find_search_path_of(settings, environ)
    runner = find_runner(settings.runner, search_path, settings.setup)
    check_runner(runner)
    refuse_workdir(settings)
    refuse_other_handler(settings)
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    _check_place(settings, paths)
    target = find_target_of(settings)
    tasks = _read_list(settings, target, environ)
    of_database = is_database(target, environ)
    refuse_remap(settings, tasks, of_database=of_database)
    check_again(settings, tasks, of_database=of_database)
    if settings.again:
        refuse_place(settings)
        refuse_at_work(settings, environ, len(tasks))
    check_follow(settings, tasks)
    if len(tasks) == 0 and settings.follow is None:
        raise NoTasksError(f"{settings.tasklist} has no tasks: there is nothing to do")
    check_kinds(settings, find_constraints(tasks))
    chosen = choose_order_of(
        settings, tasks, read_durations_of(settings), of_database=of_database
    )
    is_of_files = not (of_database or keeps_own_state(tasks, settings.workdir))
    if is_of_files and not (settings.remap or settings.again):
        _check_not_edited(paths, tasks)
    faults = find_list_faults(
        *(settings, runner, tasks),
        *(lambda: command_environment(os.environb), holds_all_cpus),
    )
    return CheckedInput(tasks, [*faults], chosen)


def _check_not_edited(paths: WorkdirPaths, tasks: TaskList) -> None:
    """Raise `InputError` if the workdir was begun with another list."""
    try:
        check_not_edited(paths, tasks.tasks, find_constraints(tasks))
    except EditedListError as error:
        raise put_off(error, paths, this_machine()) from None


def _read_list(
    settings: Settings, target: Target, environ: Mapping[str, str]
) -> TaskList:
    """Return the tasks, without a last line that another program may be writing."""
    try:
        tasks = read_tasks(target, environ)
    except TasklistFileError as error:
        if find_handler_of(target, environ).python_class != PLAIN_CLASS:
            raise
        tasks = read_beside_writer(settings, error)
    assert tasks is not None
    leave_unended(tasks, settings)
    return tasks


def _check_place(settings: Settings, paths: WorkdirPaths) -> None:
    """Raise `InputError` for a workdir that can't be made or used."""
    validate_place(settings.workdir, settings.tasklist)
    root, above = paths.root, os.path.dirname(paths.root)
    if files.is_there(root):
        if not files.is_directory(root):
            raise InputError(f"the workdir {root} is not a directory")
        if not files.is_permitted(root, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(
                f"the workdir {root} can't be written: check its permissions"
            )
        validate_contents(paths)
    elif not files.is_directory(above):
        raise InputError(
            f"can't create the workdir {root}: there is no {above}, create it first"
            " (mkdir -p)"
        )
    elif not files.is_permitted(above, os.W_OK | os.X_OK):
        raise InputError(
            f"can't create the workdir {root}: {above} can't be written, name another"
            " --workdir"
        )
