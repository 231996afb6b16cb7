"""A worker that runs nothing: what it would start for a task, in which environment.

Rules of this file: words and variables are made by the code of a worker and by its
runner.  What is not known before a start has a sign in its place (`ANY`).
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mpifarm.containers import ANY
from mpifarm.farm.context import environment_of_commands, find_allotment
from mpifarm.model.settings import RunnerDefinition, Settings
from mpifarm.model.task import decode_text
from mpifarm.plugins.loading import import_class
from mpifarm.pool import PoolDefinition
from mpifarm.pool.worker import environment_of_worker
from mpifarm.runners import COULD_NOT_START, CommandRunner, create_runner, is_own
from mpifarm.system import task_command

_OF_TASK = {
    b"PROC_NUMBER": "the task's id",
    b"MPIFARM_TASK_ID": "the same",
    b"MPIFARM_ATTEMPT": "",
}
_OF_WORKER = {b"MPIFARM_RANK": "", b"MPIFARM_WORKER": "", b"MPIFARM_NODE_WORKER": ""}
_OF_FARM = {b"MPIFARM_FARM": ""}


class SampleTask(NamedTuple):
    """A task, and sentences about its start."""

    taskid: int
    command: str
    remarks: Sequence[str]
    is_run: bool = True


class SampleWorker:
    """The first worker of a farm of `settings` that is not started.

    `before` is the environment in which mpifarm was started, in `started_in`.  This
    process is in the directory of the commands.
    """

    def __init__(
        self,
        settings: Settings,
        runner: RunnerDefinition,
        before: Mapping[bytes, bytes],
        started_in: str,
    ) -> None:
        self._definition = _define_pool(settings, runner)
        self._before = before
        self._started_in = started_in
        python_class = import_class(runner.python_class)
        self._runner: CommandRunner | None = None
        """The runner; None for a class of the user's, which may start anything."""
        self._directory = os.getcwd()
        """The directory of the commands."""
        if is_own(python_class):
            with self._in_its_place():
                made = create_runner(runner)
                assert isinstance(made, CommandRunner)
                made.numbers = [
                    (os.fsencode(name), first) for name, first in settings.id_variables
                ]
                made.attempt = 1
                made.environment_of(0)  # It may change the directory.
                self._directory = os.getcwd()
            self._runner = made

    @contextmanager
    def _in_its_place(self) -> Iterator[None]:
        """Give this process environment and directory of the worker for a block."""
        kept, here = dict(os.environb), os.getcwd()
        os.chdir(self._directory)
        _set_environment(environment_of_worker(self._definition, 0))
        try:
            with task_command.as_if_limited(self._definition.limits.memory):
                yield
        finally:
            os.chdir(here)
            _set_environment(kept)

    # ---- words -----------------------------------------------------------------------

    def describe(self, tasks: Iterable[SampleTask]) -> Iterator[str]:
        """Yield the runner, and what it would do for each task."""
        yield self._describe_runner()
        has_signs = False
        for task in tasks:
            yield f"task {task.taskid}: {task.command}"
            yield from (f"    {remark}" for remark in task.remarks)
            if task.is_run:
                line = self._describe_start(task.taskid, task.command)
                has_signs = has_signs or ANY in line
                yield f"    {line}"
        if has_signs:
            yield f"{ANY} stands for what is chosen at the start"

    def _describe_runner(self) -> str:
        """Return the runner, where it is defined, and its options."""
        runner = self._definition.runner
        options = ", ".join(f"{key} = {text}" for key, text in runner.options.items())
        options = options.replace("\n", "\\n")
        source = f" of {runner.source}" if runner.source else ""
        own = ", a class of your own" if self._runner is None else ""
        return (
            f"runner {runner.name}{source}: {runner.python_class}{own}"
            f"{' with ' if options else ''}{options}"
        )

    def _describe_start(self, taskid: int, command: str) -> str:
        """Return what a worker would start for a task, or call."""
        if self._runner is None:
            name = self._definition.runner.python_class.rpartition(".")[2]
            return f"calls {name}.run({taskid}, {command!r}, the file of its output)"
        if fault := self._runner.find_fault(command):
            return f"fails with {COULD_NOT_START}: {fault}"
        with self._in_its_place():
            self._runner.environment_of(taskid)
            return f"starts {shlex.join(map(_as_text, self._runner.words_of(command)))}"

    # ---- the environment -------------------------------------------------------------

    def describe_environment(self) -> Iterator[str]:
        """Yield how the environment of a command differs from that of the user."""
        with self._in_its_place():
            after = self._find_environment()
        varying = self._find_varying(after)
        aliases = {} if self._runner is None else dict(self._runner.aliases)
        if self._directory != self._started_in:
            yield f"commands run in {self._directory}"
        if gone := sorted(map(decode_text, self._before.keys() - after.keys())):
            yield f"variables that commands don't get: {', '.join(gone)}"
        for name in sorted(after.keys() - varying.keys() - {*aliases.values()}):
            if self._before.get(name) != after[name]:
                yield f"variable set: {decode_text(name)}={decode_text(after[name])}"
        words = (_with_note(decode_text(each), note) for each, note in varying.items())
        yield f"variables of each task: {', '.join(words)}"
        if aliases:
            names = ", ".join(map(decode_text, aliases.values()))
            yield f"and once more, for the container: {names}"

    def _find_environment(self) -> Mapping[bytes, bytes]:
        """Return the environment of the first task's command."""
        if self._runner is None:
            return {**os.environb, **dict.fromkeys(_OF_TASK, b"")}
        return dict(self._runner.environment_of(0))

    def _find_varying(self, after: Mapping[bytes, bytes]) -> dict[bytes, str]:
        """Return the variables that differ between tasks, each with a note or "".

        `after` is the environment of the first task's command.
        """
        varying = _OF_TASK | _OF_WORKER | _OF_FARM
        for name, first in self._definition.id_variables:
            varying[os.fsencode(name)] = f"{first} in task 0"
        of_worker = environment_of_worker(self._definition, 0)
        for each, note in self._find_allotted().items():
            if after[each] == of_worker[each]:  # Else the runner has set another value.
                varying[each] = note
        return varying

    def _find_allotted(self) -> dict[bytes, str]:
        """Return the variables by which workers share CPUs and GPUs, with values."""
        allotment = self._definition.allotment
        allotted = {
            os.fsencode(name): f"here one of {', '.join(ids)}"
            for name, ids in allotment.gpus.items()
        }
        if b"OMP_NUM_THREADS" not in self._definition.environment:
            counts = sorted({*map(len, allotment.shares)}) or [allotment.threads]
            allotted[b"OMP_NUM_THREADS"] = f"here {' or '.join(map(str, counts))}"
        return allotted


def _define_pool(settings: Settings, runner: RunnerDefinition) -> PoolDefinition:
    """Return what the pool of the first rank would be."""
    workdir = os.path.abspath(settings.workdir)
    return PoolDefinition(
        workers=settings.workers,
        rank=0,
        farm=ANY,
        workdir=workdir,
        logs=os.path.join(workdir, "logs"),
        runner=runner,
        environment=environment_of_commands(settings, os.environb),
        allotment=find_allotment(settings, os.environ),
        limits=settings.limits,
        id_variables=settings.id_variables,
    )


def _set_environment(environment: Mapping[bytes, bytes]) -> None:
    os.environ.clear()
    os.environb.update(environment)


def _with_note(name: str, note: str) -> str:
    return f"{name} ({note})" if note else name


def _as_text(word: str | bytes) -> str:
    return word if isinstance(word, str) else decode_text(word)
