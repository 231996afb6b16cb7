"""``--dry-run``: what a farm would run, and how.

Rules of this file: it changes nothing, and runs nothing.  What a start would refuse is
refused with the same sentence and status.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from mpifarm.commands.made_list import MadeList
from mpifarm.commands.sample_worker import SampleTask, SampleWorker
from mpifarm.commands.tasks_left import (
    TasksLeft,
    describe_start,
    find_tasks_left,
)
from mpifarm.errors import InputError
from mpifarm.farm.default_words import describe_defaults
from mpifarm.farm.directory import (
    enter_directory,
    find_directory_of_commands,
    is_other,
    runs_anywhere,
    warn_of_other,
)
from mpifarm.farm.first_words import (
    holds_cpus_for_tasks,
    warn_of_binding,
    warn_of_unused,
)
from mpifarm.farm.growth import explain_unended
from mpifarm.farm.input_check import CheckedInput, NoTasksError, check_input
from mpifarm.farm.kinds import warn_of_kinds
from mpifarm.farm.opening import find_commands
from mpifarm.farm.standard_input import describe_no_tasks, is_kept
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import RunnerDefinition, Settings
from mpifarm.model.wording import counted
from mpifarm.plugins.registry import find_runner, find_search_path_of
from mpifarm.store.store import find_begun_in
from mpifarm.system import files
from mpifarm.system.gpus import check_gpus
from mpifarm.system.processes import find_directory
from mpifarm.tasklists import find_constraints

MAX_SHOWN: Final = 10
"""Tasks that are shown."""

NOTHING_DONE: Final = "nothing was run, and nothing was changed"

CreateWorker = Callable[[Settings, RunnerDefinition], SampleWorker]


def describe_dry_run(
    settings: Settings,
    environ: Mapping[str, str],
    say: Callable[[str], None] | None = None,
) -> str:
    """Return what a farm would run; raises what its start would raise.

    A list that is standard input is read to its end; if a user types it, `say` says
    how.  The current directory of this process changes to ``--chdir``.
    """
    create_worker = partial(
        SampleWorker, before=dict(os.environb), started_in=find_directory()
    )
    settings, fault = enter_directory(settings)
    if fault:
        raise InputError(fault)
    if not is_kept(settings):
        no_tasks = describe_no_tasks(settings)
        lines = _describe(settings, environ, settings.tasklist, no_tasks, create_worker)
        return "".join(f"{line}\n" for line in lines)
    appends = settings.arguments is None and settings.follow is not None
    made = MadeList(settings, environ, say, appends=appends)
    no_tasks = describe_no_tasks(settings, has_lines=not made.is_empty)
    with made.as_file() as of_file:
        lines = _describe(of_file, environ, made.path, no_tasks, create_worker)
        text = "".join(f"{line}\n" for line in lines)
        return text.replace(of_file.tasklist, made.path)


def _describe(
    settings: Settings,
    environ: Mapping[str, str],
    name: str,
    no_tasks: str,
    create_worker: CreateWorker,
) -> Iterator[str]:
    """Yield the lines about the list `name`, or `no_tasks` if it is empty.

    Raises as `check_input`.
    """
    try:
        checked = check_input(settings, environ, partial(holds_cpus_for_tasks, environ))
    except NoTasksError:
        yield no_tasks
        yield NOTHING_DONE
        return
    yield f"{counted(checked.tasks)} of {name}, workdir {settings.workdir}"
    paths = WorkdirPaths(os.path.abspath(settings.workdir))
    if settings.again and files.is_there(paths.fingerprint):
        workdir = settings.workdir.rstrip("/")
        yield f"--again: {workdir} would be moved to {workdir}.before-<time> first"
    left = find_tasks_left(settings, environ, checked)
    if left.sentence:
        yield left.sentence
    yield from checked.warnings
    search_path = find_search_path_of(settings, environ)
    runner = find_runner(settings.runner, search_path, settings.setup)
    yield from filter(None, _find_remarks(settings, environ, checked))
    yield from filter(None, _find_warnings(settings, environ, runner))
    worker = create_worker(settings, runner)
    yield from worker.describe(_find_first(settings, checked, left))
    if len(left.ids) > MAX_SHOWN:
        yield f"... and {counted(len(left.ids) - MAX_SHOWN, 'task')} more"
    yield from worker.describe_environment()
    yield NOTHING_DONE


def _find_remarks(
    settings: Settings, environ: Mapping[str, str], checked: CheckedInput
) -> Iterator[str]:
    """Yield what a start says of the list and of GPUs, "" for nothing.

    Raises `InputError` for more GPUs than there are.
    """
    yield describe_defaults(settings.defaults)
    if checked.chosen is not None:
        yield checked.chosen.sentence
    yield explain_unended(checked.tasklist)
    yield warn_of_kinds(settings, find_constraints(checked.tasklist))
    yield check_gpus(settings.gpus, environ)


def _find_warnings(
    settings: Settings, environ: Mapping[str, str], runner: RunnerDefinition
) -> Iterator[str]:
    """Yield what a start warns of, "" for nothing.

    Raises `InputError` if the commands can't run here.
    """
    yield from warn_of_unused(settings, environ, runner)
    yield warn_of_binding(settings, environ)
    if runs_anywhere(runner):
        return
    here = find_directory_of_commands(settings, environ)
    begun = find_begun_in(WorkdirPaths(os.path.abspath(settings.workdir)))
    if begun and not settings.again and is_other(begun, here):
        yield warn_of_other(begun, here)


def _find_first(
    settings: Settings, checked: CheckedInput, left: TasksLeft
) -> Iterator[SampleTask]:
    """Yield the tasks that start first, with what keeps them from it."""
    order = None if checked.chosen is None else checked.chosen.order
    commands = find_commands(checked.tasklist, settings.handler)
    for taskid in left.find_first(order, MAX_SHOWN):
        remarks = [*describe_start(left, checked.tasklist, taskid, settings.policy)]
        is_run = not left.frontier.find_doomed(taskid)
        yield SampleTask(taskid, commands[taskid], remarks, is_run=is_run)
