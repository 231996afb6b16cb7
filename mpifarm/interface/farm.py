"""``mpifarm.run`` and `Farm`: a farm that a script or a notebook starts.

Rules of this file: all that can be wrong with the arguments is told before anything is
made.  The farm keeps the list that it is given, as ``mpifarm :::: FILE`` does: so the
same tasks go on, and the subcommands find the list in the workdir.
"""

import os
import shlex
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self

from mpifarm.batch.launcher import launched_rank
from mpifarm.commands.restart_policy import FarmResult
from mpifarm.errors import ExitStatus, FarmError, InputError, StorageError
from mpifarm.interface.attempts import Attempt, AttemptReader, read_output
from mpifarm.interface.child import POLL_SECONDS, Child
from mpifarm.interface.directory import Directory, find_place, find_workdir
from mpifarm.interface.ending import Ending, find_ending, find_result, has_begun
from mpifarm.interface.interrupts import HeldInterrupts
from mpifarm.interface.options import (
    Value,
    name_keywords,
    parse_options,
    spell_options,
)
from mpifarm.interface.results import NO_STATES, Results, read_states
from mpifarm.interface.speech import Speech, find_others, find_sentences, warn
from mpifarm.interface.tasks import ListedTasks, Task, list_tasks
from mpifarm.model.wording import agree, counted

STOPPED: Final = "the script stopped it"
"""Why a farm ended early that `Farm.stop`, the end of its block or Ctrl-C stopped."""

SHOWN_LINES: Final = 40
"""Lines of what a launcher has printed that an error shows."""


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


@dataclass(frozen=True, slots=True)
class _Start:
    """What there is from the start of a farm on."""

    directory: Directory
    reader: AttemptReader
    result_before: FarmResult | None
    child: Child | None
    """None where there is nothing to do."""


class Farm:
    """A farm that runs each task once: a context manager, and an iterator of attempts.

    `tasks` are commands for the shell, or pairs of a command and a name.  `launcher`
    is what starts the ranks, such as ``srun -N 4``; without one, the farm runs on this
    node alone.  The `options` are those of the command line, as ``proc=4,
    task_timeout=60``.  With `progress`, what the farm prints is printed here;
    else its warnings alone are told, as warnings of Python.

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
        self._launcher = split_launcher(launcher)
        self._workdir = find_workdir(workdir)
        self._options = spell_options(options)
        parse_options(self._words_for(self._workdir or "DIR", "LIST"))
        self._list = list_tasks(tasks)
        # No method of self: a temporary workdir goes with the last reference to it.
        self._reword = partial(_reword, self._list)
        self._speech = Speech(self._reword, prints=progress)
        self._start: _Start | None = None
        self._results: Results | None = None
        self._waiting = deque[Attempt]()
        """Attempts that were read, and not yielded yet."""
        if not self._launcher:
            _warn_of_nodes(os.environ)

    def __enter__(self) -> Self:
        if self._start is not None:
            raise RuntimeError("a Farm starts once: make another one")
        with HeldInterrupts() as interrupts:
            self._start = start = self._begin()
        if start.child is None:
            ending = Ending(ExitStatus.ALL_FINISHED, "")
            self._results = Results(start.directory, ending, self._list, NO_STATES)
            start.directory.leave()
        elif interrupts.count:
            self._end(start.directory, start.child)
            interrupts.pass_on()
        return self

    def _begin(self) -> _Start:
        """Make what there is from the start on; nothing is left where that fails."""
        directory = Directory(self._workdir, find_place(is_shared=bool(self._launcher)))
        try:
            reader = AttemptReader(directory.paths, self._list.names)
            before = find_result(directory.paths)
            return _Start(directory, reader, before, self._start_child(directory))
        except BaseException:
            directory.leave()
            raise

    def _start_child(self, directory: Directory) -> Child | None:
        # An empty list would mean the tasks that the workdir has from before.
        if not self._list.names:
            return None
        given = directory.give(self._list.content)
        words = self._words_for(directory.path, given)
        return Child(self._launcher, [sys.executable, "-m", "mpifarm", *words])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        directory, child = self._begun.directory, self._begun.child
        if child is None:
            return
        was_running = not child.has_ended
        interrupts = self._end(directory, child)
        if error is None:
            self.wait()
            interrupts.pass_on()
            return
        with suppress(FarmError):
            results = self.wait()
            if was_running:
                error.add_note(_describe_way_on(results))

    def _end(self, directory: Directory, child: Child) -> HeldInterrupts:
        """End the process, and what is there for it alone."""
        try:
            interrupts = child.end()
            self._speech.hear(child.read_output())
        finally:
            child.close()
            directory.leave()
        return interrupts

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts when they have ended, first those of earlier farms.

        A second iterator goes on where the first one is.  At the end, raise
        `InputError` if the farm has refused the tasks, `FarmError` if it could not run.
        """
        start = self._begun
        while start.child is not None:
            has_ended = self._results is not None  # Asked first: then all are read.
            self._waiting += start.reader.read()
            while self._waiting:
                yield self._waiting.popleft()
            if has_ended:
                return
            self._follow(start.directory, start.child)

    def wait(self, *, check: bool = False) -> Results:
        """Wait for the end of the farm, and return the results of all tasks.

        With `check`, raise `TasksFailedError` unless all tasks have completed.  Also
        raises as iterating does.
        """
        start = self._begun
        while self._results is None:
            assert start.child is not None  # or there would be results
            self._follow(start.directory, start.child)
        if check:
            self._results.check()
        return self._results

    def stop(self) -> None:
        """Stop the farm: running tasks are ended and put back, then it ends.

        Go on iterating, or leave the block, to await that.
        """
        child = self._begun.child
        if child is not None:
            child.stop()

    @property
    def workdir(self) -> str:
        """The workdir, from the start on."""
        return self._begun.directory.path

    def read_output(self, taskid: int) -> str:
        """Return what the last attempt of a task has printed, "" if nothing is kept.

        Raises `InputError` for a task that is not there, OSError, and `StorageError`.
        """
        total = len(self._list.names)
        return read_output(self._begun.directory.paths, taskid, total)

    def _words_for(self, workdir: str, tasklist: str) -> list[str]:
        return [*self._options, f"--workdir={workdir}", "::::", tasklist]

    @property
    def _begun(self) -> _Start:
        if self._start is None:
            raise RuntimeError("the farm has not begun: begin it by `with farm:`")
        return self._start

    def _follow(self, directory: Directory, child: Child) -> None:
        """Wait a moment for the end of the farm, and hear what it says."""
        child.wait(POLL_SECONDS)
        has_ended = child.has_ended  # Asked first: then all is heard.
        self._speech.hear(child.read_output())
        if has_ended:
            self._results = self._conclude(directory, child)

    def _conclude(self, directory: Directory, child: Child) -> Results:
        """Return the results of a farm that has ended; raise for what was no farm."""
        ending = self._find_ending(directory, child)
        now = read_states(directory.paths)
        results = Results(directory, ending, self._list, now)
        if not ending.exit_status and results.are_complete:
            directory.remove_when_unused()
        return results

    def _find_ending(self, directory: Directory, child: Child) -> Ending:
        """Return how the farm has ended; raise for what was no farm."""
        paths, mark = directory.paths, directory.mark
        ending = find_ending(paths, mark, self._begun.result_before)
        if ending is not None:
            is_by_us = child.was_stopped and ending.exit_status == ExitStatus.RUN_AGAIN
            return ending._replace(reason=STOPPED) if is_by_us else ending
        program = (*self._launcher, sys.executable)[0]
        said = child.last_lines()
        if has_begun(paths, mark):
            return _find_ending_of_killed(program, child.status, said)
        own = find_sentences(said)
        error = _ERRORS.get(child.status)
        if own and error and (error is InputError or not child.was_stopped):
            raise error(self._reword(own[-1]))
        if child.was_stopped:
            return Ending(ExitStatus.RUN_AGAIN, f"{STOPPED}, before it began")
        what = f"{program} started no farm (exit status {child.status})"
        raise FarmError("\n".join([what, *said[-SHOWN_LINES:]]))


def _reword(tasks: ListedTasks, sentence: str) -> str:
    """Return what the farm's process says, in terms of tasks and keywords."""
    return tasks.reword(name_keywords(sentence))


def split_launcher(launcher: object) -> list[str]:
    """Return the words of a launcher, [] for none; raise `InputError`."""
    if launcher is None:
        return []
    if isinstance(launcher, str):
        try:
            return shlex.split(launcher)
        except ValueError as error:
            raise InputError(
                f"launcher {launcher!r:.60} can't be split into words:"
                f" {str(error).lower()}; give the list of its words"
            ) from None
    if isinstance(launcher, Sequence):
        return [*map(str, launcher)]  # ["mpiexec", "-n", 4], too
    raise InputError(
        f"launcher is {launcher!r:.60}: give its command, as 'srun -N 4', or the list"
        " of its words"
    )


_ERRORS: Final[Mapping[int, type[FarmError]]] = {
    ExitStatus.BAD_INPUT: InputError,
    ExitStatus.RUN_AGAIN: StorageError,
}
"""What a farm that has not begun raises, by its exit status."""


def _find_ending_of_killed(program: str, status: int, said: Sequence[str]) -> Ending:
    """Return the ending of a farm that could not say anything itself.

    Raises `FarmError` for a defect of mpifarm, with what was printed of it.
    """
    if status == ExitStatus.DEFECT:
        what = f"a defect of mpifarm ended the farm (exit status {status})"
        raise FarmError("\n".join([what, *said[-SHOWN_LINES:]]))
    why = f"{program} ended before its farm, with status {status}"
    if others := find_others(said):
        why += f": {others[-1].strip()}"
    return Ending(ExitStatus.RUN_AGAIN, why)


def _describe_way_on(results: Results) -> str:
    """Return a note for an error that has ended a farm early."""
    ended = results.total - len(results.left)
    if ended == results.total:
        return f"mpifarm: all tasks have ended, in workdir={results.workdir!r}"
    return (
        f"mpifarm: the farm was stopped; {ended} of {counted(results.total, 'task')}"
        f" {agree(ended, 'has', 'have')} ended, and the same call with"
        f" workdir={results.workdir!r} runs the others"
    )


def _warn_of_nodes(environ: Mapping[str, str]) -> None:
    """Warn if the Slurm job has more nodes than a farm without a launcher uses."""
    nodes = environ.get("SLURM_JOB_NUM_NODES", "")
    if nodes.isdecimal() and int(nodes) > 1:
        warn(
            f"the job has {nodes} nodes, and the farm runs on this one alone: give"
            " launcher='srun --mpi=pmi2 -N"
            f" {nodes}' to use them all (pmix for Open MPI)"
        )
