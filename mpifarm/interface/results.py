"""The results of a farm that a script has started.

Rules of this file: values, and the directory that they stand in.
"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import overload

from mpifarm.errors import ExitStatus, FarmError, StorageError
from mpifarm.interface.attempts import Attempt, read_output
from mpifarm.model.paths import WorkdirPaths, copy_staging_of
from mpifarm.model.wording import counted
from mpifarm.store.directories import make_root
from mpifarm.store.strangers import validate_contents, validate_place
from mpifarm.system import files


class Directory:
    """The workdir of a farm, with the list that it is given.

    Without a `path`, it is a temporary one in `where` (None: where such ones are).
    """

    def __init__(self, path: str | None, where: str | None = None) -> None:
        self._is_temporary = path is None
        self.path = path or tempfile.mkdtemp(prefix="mpifarm-", dir=where)
        self.paths = WorkdirPaths(os.path.abspath(self.path))
        self._is_new = self._is_temporary
        self._before: bytes | None = None
        """The list that was given before, None if there was none."""

    def give(self, content: bytes) -> str:
        """Write the list, and return its path; make the workdir if it is missing.

        Raises `InputError` and `StorageError`.
        """
        validate_place(self.path, None)
        self._is_new |= make_root(self.paths.root)
        validate_contents(self.paths)
        path = self.paths.given_list
        self._before = files.find_content(path)
        if content != self._before:
            files.replace(path, copy_staging_of(path), content)
        return WorkdirPaths(self.path.rstrip("/") or "/").given_list

    def take_back(self) -> None:
        """Undo `give`, because no farm has taken the list."""
        path = self.paths.given_list
        with suppress(StorageError, OSError):
            if self._before is not None:
                files.replace(path, copy_staging_of(path), self._before)
            else:
                files.remove(path)
            if self._is_new:
                os.rmdir(self.paths.root)  # unless something else is in it

    def remove_when_unused(self) -> None:
        """Remove a temporary workdir when nothing in the script refers to it."""
        if self._is_temporary:
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Results(Sequence[Attempt]):
    """The last attempts of all tasks that have one, in the order of the tasks."""

    def __init__(
        self,
        directory: Directory,
        exit_status: ExitStatus,
        attempts: Iterable[Attempt],
        total: int,
    ) -> None:
        self._directory = directory
        self._attempts = sorted(attempts, key=lambda attempt: attempt.taskid)
        self.exit_status = exit_status
        """The farm's exit status; `ALL_FINISHED` is 0."""
        self.total = total
        """The number of tasks that were given."""

    @property
    def workdir(self) -> str:
        """The workdir.

        A temporary one, in which all tasks have completed, is removed with the results.
        """
        return self._directory.path

    @property
    def failed(self) -> list[Attempt]:
        """The last attempts of the tasks that failed."""
        return [attempt for attempt in self._attempts if attempt.has_failed]

    @property
    def left(self) -> list[int]:
        """The ids of the tasks that have not ended: the same call runs them."""
        ended = {
            attempt.taskid
            for attempt in self._attempts
            if attempt.has_completed or attempt.has_failed
        }
        return [taskid for taskid in range(self.total) if taskid not in ended]

    def read_output(self, taskid: int) -> str:
        """Return what the last attempt of a task has printed, "" if nothing is kept."""
        return read_output(self._directory.paths, taskid)

    def check(self) -> None:
        """Raise `TasksFailedError` unless all tasks have completed."""
        if self.exit_status or self.failed or self.left:
            raise TasksFailedError(self)

    @overload
    def __getitem__(self, place: int) -> Attempt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Attempt]: ...
    def __getitem__(self, place: int | slice) -> Attempt | list[Attempt]:
        return self._attempts[place]

    def __len__(self) -> int:
        return len(self._attempts)

    def __repr__(self) -> str:
        return f"<mpifarm.Results: {describe(self)}>"


def describe(results: Results) -> str:
    """Return in words how many tasks have completed, failed and are left."""
    failed, left = len(results.failed), len(results.left)
    completed = sum(attempt.has_completed for attempt in results)
    return (
        f"{counted(results.total, 'task')}, {completed} completed, {failed} failed,"
        f" {left} left; exit status {results.exit_status:d}, workdir {results.workdir}"
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
