"""``mpifarm.run`` and `Farm`: a farm that a script or a notebook starts.

Rules of this file: all that can be wrong with the arguments is told before anything is
made.  The farm keeps the list that it is given, as ``mpifarm :::: FILE`` does: so the
same tasks go on, and the subcommands find the list in the workdir.
"""

import json
import os
import re
import shlex
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Final, Self

from mpifarm.batch.launcher import launched_rank
from mpifarm.commands.options import parse_line
from mpifarm.commands.restart_policy import FarmResult, parse_result
from mpifarm.errors import ExitStatus, FarmError, InputError, StorageError
from mpifarm.interface.attempts import Attempt, AttemptReader, read_output
from mpifarm.interface.child import Child
from mpifarm.interface.options import Value, spell_options
from mpifarm.interface.results import Directory, Results
from mpifarm.interface.tasks import Task, list_tasks

POLL_SECONDS: Final = 0.1
"""Seconds between two looks for attempts, while there are none."""

SHOWN_LINES: Final = 10
"""Lines of what a process has printed that an error shows."""

_MPIFARMS = re.compile(r"(?:[-\d]+ [\d:+]+ )?mpifarm: (.*)")
"""A line that mpifarm prints, and not a launcher."""


def run(
    tasks: Iterable[Task],
    *,
    workdir: str | os.PathLike[str] | None = None,
    launcher: str | Sequence[str] | None = None,
    check: bool = False,
    progress: bool = False,
    **options: Value,
) -> Results:
    """Run each task once, and return the results of all.

    The arguments are those of `Farm`.  With `check`, raise `TasksFailedError` unless
    all tasks have completed.
    """
    with Farm(
        tasks, workdir=workdir, launcher=launcher, progress=progress, **options
    ) as farm:
        return farm.wait(check=check)


class Farm:
    """A farm that runs each task once: a context manager, and an iterator of attempts.

    `tasks` are commands for the shell, or pairs of a command and a name.  `launcher`
    is what starts the ranks, such as ``srun -N 4``; without one, the farm runs on this
    node alone.  The `options` are those of the command line, as ``proc=4,
    task_timeout=60``.  With `progress`, what the farm prints is printed here.

    The same tasks with the same `workdir` go on where the farm before has stopped.
    Without one, the workdir is a temporary directory (of the current directory, if
    there is a launcher), which stays unless all tasks complete.

    Raises `InputError` for arguments that are wrong, before anything is made.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        workdir: str | os.PathLike[str] | None = None,
        launcher: str | Sequence[str] | None = None,
        progress: bool = False,
        **options: Value,
    ) -> None:
        if launched_rank(os.environ) > 0:
            raise InputError(
                "this script is itself a rank of an MPI job, and not the first: start"
                " it once, without mpirun or srun, and name that as the launcher"
            )
        split = shlex.split(launcher) if isinstance(launcher, str) else launcher
        self._launcher = [*(split or ())]
        self._workdir = None if workdir is None else os.fspath(workdir)
        self._options = spell_options(options)
        parse_line(self._words_for(self._workdir or "DIR", "LIST"), os.environ).settle()
        self._list = list_tasks(tasks)
        self._prints = progress
        self._directory: Directory | None = None
        self._child: Child | None = None
        """None before the start, and where there is nothing to do."""
        self._results: Results | None = None
        self._last: dict[int, Attempt] = {}
        self._waiting = deque[Attempt]()
        """Attempts that were read, and not yielded yet."""
        if not self._launcher:
            _warn_of_nodes(os.environ)

    def __enter__(self) -> Self:
        if self._directory is not None:
            raise RuntimeError("a Farm starts once: make another one")
        # All nodes see the current directory, hardly ever /tmp.
        self._directory = Directory(self._workdir, "." if self._launcher else None)
        self._reader = AttemptReader(self._directory.paths, self._list.names)
        self._result_before = _find_result(self._directory)
        if self._list.names:
            self._child = self._start(self._directory)
        else:
            # An empty list would mean the tasks that the workdir has from before.
            self._results = Results(self._directory, ExitStatus.ALL_FINISHED, (), 0)
            self._directory.remove_when_unused()
        return self

    def _start(self, directory: Directory) -> Child:
        given = directory.give(self._list.content)
        words = self._words_for(directory.path, given)
        try:
            return Child(self._launcher, [sys.executable, "-m", "mpifarm", *words])
        except InputError:
            directory.take_back()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        child = self._child
        if child is None:
            return
        try:
            child.end()
            with nullcontext() if error is None else suppress(FarmError):
                self.wait()
        finally:
            child.close()

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts when they have ended, first those of earlier farms.

        A second iterator goes on where the first one is.  At the end, raise
        `InputError` if the farm has refused the tasks, `FarmError` if it could not run.
        """
        while self._results is None or self._waiting:
            if self._waiting:
                yield self._waiting.popleft()
            else:
                self._read_more()

    def wait(self, *, check: bool = False) -> Results:
        """Wait for the end of the farm, and return the results of all tasks.

        With `check`, raise `TasksFailedError` unless all tasks have completed.  Also
        raises as iterating does.
        """
        while self._results is None:
            self._read_more()
        if check:
            self._results.check()
        return self._results

    def stop(self) -> None:
        """Stop the farm: running tasks are ended and put back, then it ends.

        Go on iterating, or leave the block, to await that.
        """
        child = self._child
        if child is not None and not child.has_ended:
            child.stop()

    @property
    def workdir(self) -> str:
        """The workdir, from the start on."""
        return self._begun.path

    def read_output(self, taskid: int) -> str:
        """Return what the last attempt of a task has printed, "" if nothing is kept."""
        return read_output(self._begun.paths, taskid)

    def _words_for(self, workdir: str, tasklist: str) -> list[str]:
        return [*self._options, f"--workdir={workdir}", "::::", tasklist]

    @property
    def _begun(self) -> Directory:
        """The workdir of a farm that was started."""
        if self._directory is None:
            raise RuntimeError("the farm is not started: use it as `with Farm(...)`")
        return self._directory

    def _read_more(self) -> None:
        """Read the attempts that have come, or wait a moment; note the farm's end."""
        directory, child = self._begun, self._child
        assert child is not None  # or there would be results
        has_ended = child.has_ended  # Asked first: so all is read that came until then.
        attempts = self._reader.read()
        self._last.update((attempt.taskid, attempt) for attempt in attempts)
        self._waiting += attempts
        if self._prints:
            sys.stdout.write(child.read_output())
            sys.stdout.flush()
        if has_ended:
            self._results = self._conclude(directory, child)
        elif not attempts:
            child.wait(POLL_SECONDS)

    def _conclude(self, directory: Directory, child: Child) -> Results:
        """Return the results of a farm that has ended; raise for what was no farm."""
        total = len(self._list.names)
        status = self._find_status(directory, child)
        results = Results(directory, status, self._last.values(), total)
        if not (status or results.failed or results.left):
            directory.remove_when_unused()
        return results

    def _find_status(self, directory: Directory, child: Child) -> ExitStatus:
        """Return the exit status that the farm has recorded.

        The status of the process may be a launcher's.
        """
        result = _find_result(directory)
        if result is not None and result != self._result_before:
            return ExitStatus(result.status)
        if child.was_stopped and child.status != ExitStatus.BAD_INPUT:
            return ExitStatus.RUN_AGAIN  # before the farm had begun
        said = child.last_lines(SHOWN_LINES)
        directory.take_back()
        own = [found[1] for line in said if (found := _MPIFARMS.fullmatch(line))]
        if own and child.status in _ERRORS:
            raise _ERRORS[child.status](own[-1])
        program = (*self._launcher, sys.executable)[0]
        what = f"{program} started no farm (exit status {child.status})"
        raise FarmError("\n".join([what, *said]))


_ERRORS: Final[Mapping[int, type[FarmError]]] = {
    ExitStatus.BAD_INPUT: InputError,
    ExitStatus.RUN_AGAIN: StorageError,
}
"""What a farm that has not begun raises, by its exit status."""


def _find_result(directory: Directory) -> FarmResult | None:
    """Return the result of the last farm of a workdir, None without a whole one."""
    odd = (KeyError, TypeError, ValueError, AttributeError)
    with suppress(OSError, *odd), open(directory.paths.result, "rb") as file:
        return parse_result(json.load(file))
    return None


def _warn_of_nodes(environ: Mapping[str, str]) -> None:
    """Warn if the Slurm job has more nodes than a farm without a launcher uses."""
    nodes = environ.get("SLURM_JOB_NUM_NODES", "")
    if nodes.isdecimal() and int(nodes) > 1:
        warnings.warn(
            f"the job has {nodes} nodes, and the farm runs on this one alone: give"
            " launcher='srun --mpi=pmi2 -N"
            f" {nodes}' to use them all (pmix for Open MPI)",
            stacklevel=3,
        )
