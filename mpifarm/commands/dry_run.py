"""``--dry-run``: what a farm would run, and how.

Rules of this file: it changes nothing, and runs nothing.  What a start would refuse is
refused with the same sentence and status.
"""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mpifarm.batch.launcher import command_environment
from mpifarm.commands.made_list import MadeList
from mpifarm.errors import InputError
from mpifarm.farm.directory import enter_directory
from mpifarm.farm.input_check import NoTasksError, check_input
from mpifarm.farm.standard_input import describe_no_tasks, is_standard_input
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import RunnerDefinition, Settings
from mpifarm.model.task import decode_text
from mpifarm.model.wording import counted
from mpifarm.plugins.loading import import_class
from mpifarm.plugins.registry import find_runner, find_search_path
from mpifarm.runners import BasicRunner
from mpifarm.system import files

MAX_SHOWN: Final = 10
"""Tasks that are shown."""

NOTHING_DONE: Final = "nothing was run, and nothing was changed"

GIVEN: Final = (
    "PROC_NUMBER and MPIFARM_TASK_ID (the task's id), MPIFARM_ATTEMPT, MPIFARM_RANK,"
    " MPIFARM_WORKER, MPIFARM_NODE_WORKER, MPIFARM_WORKDIR, MPIFARM_FARM"
)


def describe_dry_run(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return what a farm would run; raises what its start would raise.

    The current directory of this process changes to ``--chdir``.
    """
    settings, fault = enter_directory(settings)
    if fault:
        raise InputError(fault)
    if is_standard_input(settings):
        raise InputError(
            "--dry-run does not read standard input, because that can't be read again:"
            " write the list into a file"
        )
    if settings.arguments is None:
        lines = _describe(settings, environ, "", describe_no_tasks(settings))
        return "".join(f"{line}\n" for line in lines)
    made = MadeList(settings, environ)
    with made.as_file() as of_file:
        lines = _describe(of_file, environ, made.path, describe_no_tasks(settings))
        return "".join(f"{line}\n" for line in lines)


def _describe(
    settings: Settings, environ: Mapping[str, str], kept: str, no_tasks: str
) -> Iterator[str]:
    """Yield the lines.  `kept` names the list in the workdir, "" for a list of its own.

    `no_tasks` is the line about an empty list.  Raises as `check_input`.
    """
    try:
        checked = check_input(settings, environ)
    except NoTasksError:
        yield no_tasks
        yield NOTHING_DONE
        return
    tasks = checked.tasklist
    name = kept or settings.tasklist
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
    first: Sequence[int] = range(min(checked.tasks, MAX_SHOWN))
    if checked.chosen is not None:
        yield checked.chosen.sentence
        if (order := checked.chosen.order) is not None:
            first = order.find_first(range(checked.tasks), MAX_SHOWN)
    commands = {taskid: tasks[taskid] for taskid in first}
    yield from _describe_tasks(runner, commands, checked.tasks)
    yield from _describe_environment(settings)
    yield NOTHING_DONE


def _describe_tasks(
    definition: RunnerDefinition, commands: Mapping[int, str], count: int
) -> Iterator[str]:
    """Yield the first tasks, each with the words that its runner would start."""
    options = ", ".join(f"{key} = {value}" for key, value in definition.options.items())
    with_options = f" with {options}" if options else ""
    yield f"runner {definition.name}: {definition.python_class}{with_options}"
    runner = import_class(definition.python_class)(**definition.options)
    for taskid, command in commands.items():
        yield f"task {taskid}: {command}"
        if type(runner) is BasicRunner:
            words = [_as_text(word) for word in runner.words_of(command)]
            yield f"    starts {shlex.join(words)}"
    if count > len(commands):
        yield f"... and {counted(count - len(commands), 'task')} more"


def _as_text(word: str | bytes) -> str:
    return word if isinstance(word, str) else decode_text(word)


def _describe_environment(settings: Settings) -> Iterator[str]:
    """Yield how the environment of a command differs from that of this process."""
    before = os.environb
    after = command_environment(before, span_nodes=settings.span_nodes)
    if gone := sorted(decode_text(name) for name in before.keys() - after.keys()):
        yield f"variables that commands don't get: {', '.join(gone)}"
    for name in sorted(after):
        if before.get(name) != after[name]:
            yield f"variable set: {decode_text(name)}={decode_text(after[name])}"
    yield f"variables of each task: {GIVEN}"
