"""Lines on the start and the end of each task (``--verbose``).

Rules of this file: a rank tells of a task when it has run for a moment.  A task that
ends before gets its line on the start together with that on the end.
"""

import re
import time
from collections.abc import Callable, Sequence

from mpifarm.errors import InputError
from mpifarm.farm.summary import failed_in_words
from mpifarm.model.task import Outcome, Result, RunningTask
from mpifarm.model.wording import duration_in_words

MAX_COMMAND = 100
"""Characters of a command that are shown."""

_find_variables = re.compile(r"export DISBATCH_TASKID=[^;]*; ").match
"""Finds what `dialects.DisBatchTaskList` puts in front: it would fill the line."""


class TaskLines:
    """The lines of one farm; `find_host` names the host of a rank."""

    def __init__(
        self,
        commands: Sequence[str],
        find_host: Callable[[int], str],
        say: Callable[[str], None],
    ) -> None:
        self._commands = commands
        self._find_host = find_host
        self._say = say
        self._told: set[tuple[int, int]] = set()
        """(taskid, attempt) of the running tasks whose start was told."""

    def note_running(self, rank: int, tasks: Sequence[RunningTask]) -> None:
        """Tell of tasks that have begun."""
        for task in tasks:
            self._tell_start(rank, task)

    def note_end(self, rank: int, result: Result) -> None:
        """Tell how an attempt ended, and of its start if that was not told.

        A task that was not run had no start.
        """
        if result.outcome is Outcome.NOT_RUN:
            self._say(f"task {result.taskid} is {result.note}")
            return
        worker = result.worker_index
        if worker is None:
            where = ""
        else:
            where = f" on {self._find_host(rank)}, worker {worker}"
            begun = RunningTask(result.taskid, result.attempt, worker, result.started)
            self._tell_start(rank, begun)
        self._told.discard((result.taskid, result.attempt))
        if result.outcome is Outcome.COMPLETED:
            how = f"finished after {duration_in_words(result.seconds)}"
        else:
            how = failed_in_words(result)
        self._say(f"task {result.taskid} {how}{where}")

    def _tell_start(self, rank: int, task: RunningTask) -> None:
        key = (task.taskid, task.attempt)
        if key in self._told:
            return
        self._told.add(key)
        begun = time.strftime("%H:%M:%S", time.localtime(task.started))
        again = f", attempt {task.attempt}" if task.attempt > 1 else ""
        self._say(
            f"task {task.taskid} began at {begun} on {self._find_host(rank)}, worker "
            f"{task.worker_index}{again}: {show_command(self._commands, task.taskid)}"
        )


def show_command(commands: Sequence[str], taskid: int) -> str:
    """Return the command of a task, shortened, without disBatch's variables."""
    try:
        text = commands[taskid]
    except InputError:
        return "(no command)"
    if found := _find_variables(text):
        text = text[found.end() :]
    return text if len(text) <= MAX_COMMAND else f"{text[: MAX_COMMAND - 1]}…"
