"""The results of a farm that a script has started.

Rules of this file: what has become of a task is in the status files.  Attempts only say
how: a plain farmer writes none, and a task may run again after one that failed.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, overload

from mpifarm.audit.view import State, is_of, read_view
from mpifarm.errors import ExitStatus, FarmError, StorageError
from mpifarm.interface.attempts import Attempt, name_attempt, read_output
from mpifarm.interface.directory import Directory
from mpifarm.interface.ending import Ending
from mpifarm.interface.tasks import ListedTasks
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome
from mpifarm.model.wording import counted
from mpifarm.store.attempts import LastAttempts
from mpifarm.store.target import Target
from mpifarm.system import files


class TaskStates(NamedTuple):
    """What has become of tasks, at one moment."""

    ended: Mapping[int, State]
    """The tasks that have finished or failed."""
    attempts: LastAttempts


NO_STATES: Final = TaskStates({}, LastAttempts({}))


def read_states(paths: WorkdirPaths) -> TaskStates:
    """Read what has become of the tasks of a workdir; raise `StorageError`."""
    kept = paths.stdin_list if files.is_file(paths.stdin_list) else None
    view = read_view(Target(paths.root, kept), os.environ)
    if view.unread:
        raise StorageError(view.unread[0])
    ended = dict.fromkeys(view.ids_in(State.FINISHED), State.FINISHED)
    ended |= dict.fromkeys(view.ids_in(State.FAILED), State.FAILED)
    return TaskStates(ended, view.read_attempts())


class Results(Sequence[Attempt]):
    """The last attempts of all tasks that have one, in the order of the tasks.

    They are of the moment at which the farm ended.
    """

    def __init__(
        self, directory: Directory, ending: Ending, tasks: ListedTasks, now: TaskStates
    ) -> None:
        self._directory = directory
        self._tasks = tasks
        self._ended, self._lines = now
        self.exit_status: ExitStatus = ending.exit_status
        """The farm's exit status; `ALL_FINISHED` is 0."""
        self.reason: str = ending.reason
        """Why the farm ended early, "" if it did not."""
        self.total = len(tasks.names)
        """The number of tasks that were given."""
        known = range(self.total)
        self._taskids = sorted({*now.ended, *now.attempts.lines}.intersection(known))

    @property
    def workdir(self) -> str:
        """The workdir.

        A temporary one, in which all tasks have completed, is removed with the results.
        """
        return self._directory.path

    @property
    def completed(self) -> list[Attempt]:
        """The last attempts of the tasks that have completed."""
        return self._find_in(State.FINISHED)

    @property
    def failed(self) -> list[Attempt]:
        """The last attempts of the tasks that failed, and have no retry left."""
        return self._find_in(State.FAILED)

    @property
    def left(self) -> list[int]:
        """The ids of the tasks that have not ended: the same call runs them."""
        return [taskid for taskid in range(self.total) if taskid not in self._ended]

    def read_output(self, taskid: int) -> str:
        """Return what the last attempt of a task has printed, "" if nothing is kept.

        Raises `InputError` for a task that is not there, OSError, and `StorageError`.
        """
        return read_output(self._directory.paths, taskid, self.total)

    def check(self) -> None:
        """Raise `TasksFailedError` unless all tasks have completed."""
        if self.exit_status or not self.are_complete:
            raise TasksFailedError(self)

    @property
    def are_complete(self) -> bool:
        """Whether all tasks have completed."""
        return self.count_in(State.FINISHED) == self.total

    def count_in(self, state: State) -> int:
        """Return the number of tasks that have finished, or that failed."""
        return sum(self._ended.get(taskid) is state for taskid in self._taskids)

    def _find_in(self, state: State) -> list[Attempt]:
        return [
            self._find(each) for each in self._taskids if self._ended.get(each) is state
        ]

    def _find(self, taskid: int) -> Attempt:
        """Return the last attempt of a task, or what stands for it.

        The last line may be of an attempt before that of a plain farmer.
        """
        line, state = self._lines.find(taskid), self._ended.get(taskid)
        if line is None or (state and not is_of(state, line.outcome.encode())):
            return self._stand_in(taskid, is_finished=state is State.FINISHED)
        attempt = name_attempt(line, self._tasks.names)
        if attempt.command:
            return attempt
        return attempt._replace(command=self._tasks.commands[taskid])  # Format 1.

    def _stand_in(self, taskid: int, *, is_finished: bool) -> Attempt:
        """Return an attempt in place of one that mpifarm has not seen."""
        outcome = Outcome.COMPLETED if is_finished else Outcome.FAILED
        return Attempt(
            taskid=taskid,
            name=self._tasks.names[taskid],
            attempt=0,
            outcome=outcome.value,
            status=0 if is_finished else 1,
            signal=0,
            host="",
            rank=0,
            worker=None,
            pid=0,
            started=0.0,
            seconds=0.0,
            user_seconds=None,
            system_seconds=None,
            peak_memory=None,
            output_bytes=None,
            farm="",
            command=self._tasks.commands[taskid],
        )

    @overload
    def __getitem__(self, place: int) -> Attempt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Attempt]: ...
    def __getitem__(self, place: int | slice) -> Attempt | list[Attempt]:
        if isinstance(place, slice):
            return [self._find(taskid) for taskid in self._taskids[place]]
        return self._find(self._taskids[place])

    def __len__(self) -> int:
        return len(self._taskids)

    def __repr__(self) -> str:
        return f"<mpifarm.Results: {describe(self)}>"


def describe(results: Results) -> str:
    """Return in words how many tasks have completed, failed and are left."""
    completed = results.count_in(State.FINISHED)
    failed = results.count_in(State.FAILED)
    left = results.total - completed - failed
    why = f" ({results.reason})" if results.reason else ""
    return (
        f"{counted(results.total, 'task')}, {completed} completed, {failed} failed,"
        f" {left} left; exit status {results.exit_status:d}{why}, workdir"
        f" {results.workdir}"
    )


class TasksFailedError(FarmError):
    """An error that says which tasks failed, or that tasks are left."""

    exit_status = ExitStatus.SOME_FAILED

    def __init__(self, results: Results) -> None:
        first = "".join(map(_describe_failure, results.failed[:1]))
        super().__init__(describe(results) + first)
        self.results = results
        self.failed = results.failed
        """The last attempts of the tasks that failed."""


def _describe_failure(attempt: Attempt) -> str:
    name = "" if attempt.name is None else f" ({attempt.name})"
    return (
        f"; the first that failed: task {attempt.taskid}{name}, {attempt.outcome},"
        f" status {attempt.status}: {attempt.command:.60}"
    )
