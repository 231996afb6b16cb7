"""``--dry-run``: what a farm would run, and how.

Rules of this file: it changes nothing, and runs nothing.  What a start would refuse is
refused with the same sentence and status.
"""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from mpifarm.commands.made_list import MadeList
from mpifarm.commands.sample_worker import SampleWorker
from mpifarm.errors import InputError
from mpifarm.farm.directory import enter_directory
from mpifarm.farm.input_check import CheckedInput, NoTasksError, check_input
from mpifarm.farm.opening import find_commands
from mpifarm.farm.standard_input import describe_no_tasks, is_standard_input
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import RunnerDefinition, Settings
from mpifarm.model.wording import counted
from mpifarm.plugins.registry import find_runner, find_search_path
from mpifarm.system import files

MAX_SHOWN: Final = 10
"""Tasks that are shown."""

NOTHING_DONE: Final = "nothing was run, and nothing was changed"

CreateWorker = Callable[[Settings, RunnerDefinition], SampleWorker]


def describe_dry_run(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return what a farm would run; raises what its start would raise.

    The current directory of this process changes to ``--chdir``.
    """
    create_worker = partial(
        SampleWorker, before=dict(os.environb), started_in=os.getcwd()
    )
    settings, fault = enter_directory(settings)
    if fault:
        raise InputError(fault)
    if is_standard_input(settings):
        raise InputError(
            "--dry-run does not read standard input, because that can't be read again:"
            " write the list into a file"
        )
    no_tasks = describe_no_tasks(settings)
    if settings.arguments is None:
        lines = _describe(settings, environ, settings.tasklist, no_tasks, create_worker)
        return "".join(f"{line}\n" for line in lines)
    made = MadeList(settings, environ)
    with made.as_file() as of_file:
        lines = _describe(of_file, environ, made.path, no_tasks, create_worker)
        return "".join(f"{line}\n" for line in lines)


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
        checked = check_input(settings, environ)
    except NoTasksError:
        yield no_tasks
        yield NOTHING_DONE
        return
    yield f"{counted(checked.tasks)} of {name}, workdir {settings.workdir}"
    is_begun = files.is_there(
        WorkdirPaths(os.path.abspath(settings.workdir)).fingerprint
    )
    if is_begun and settings.again:
        workdir = settings.workdir.rstrip("/")
        yield f"--again: {workdir} would be moved to {workdir}.before-<time> first"
    elif is_begun:
        yield (
            f"the list was begun before: mpifarm ls {shlex.quote(settings.workdir)}"
            " --waiting lists the tasks that are left"
        )
    yield from checked.warnings
    search_path = find_search_path(environ, settings.config)
    runner = find_runner(settings.runner, search_path, settings.setup)
    if checked.chosen is not None:
        yield checked.chosen.sentence
    commands = _find_first(settings, checked)
    worker = create_worker(settings, runner)
    yield from worker.describe(commands)
    if checked.tasks > len(commands):
        yield f"... and {counted(checked.tasks - len(commands), 'task')} more"
    yield from worker.describe_environment()
    yield NOTHING_DONE


def _find_first(settings: Settings, checked: CheckedInput) -> Mapping[int, str]:
    """Return the commands of the tasks that start first, by id."""
    first: Sequence[int] = range(min(checked.tasks, MAX_SHOWN))
    if checked.chosen is not None and (order := checked.chosen.order) is not None:
        first = order.find_first(range(checked.tasks), MAX_SHOWN)
    commands = find_commands(checked.tasklist, settings.handler)
    return {taskid: commands[taskid] for taskid in first}
