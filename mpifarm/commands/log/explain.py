"""The reasons why a task has no output, or why its output may not be all.

Rules of this file: it reads the workdir without the lock, and prints on standard error
alone.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TypeVar

from mpifarm.audit.locate import LocatedTask, TaskLocator, locate_tasks
from mpifarm.audit.snapshot import WorkdirAttempts, examine_whole, observer
from mpifarm.commands.held_words import name_release
from mpifarm.commands.log.gaps import MAX_NAMES, Gap, Gaps
from mpifarm.commands.target import patience_of
from mpifarm.errors import FarmError, InputError
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import agree, counted
from mpifarm.order.constraints import UNORDERED
from mpifarm.output.reader import Output
from mpifarm.store.held_file import Held, find_held
from mpifarm.store.target import Target, has_own_state, is_database, read_tasks
from mpifarm.store.task_map import Location
from mpifarm.system import files
from mpifarm.system.console import Console
from mpifarm.system.patience import try_again
from mpifarm.tasklists import TaskList, find_constraints

T = TypeVar("T")

_WORDS = {
    Location.FINISHED: "has finished, and has no output",
    Location.CLAIMED: "has not started yet: {holder} has taken it",
    Location.QUEUED: "has not started yet: it waits to be run",
    Location.FAILED: "has failed, and has no output",
    Location.NOWHERE: (
        "has no log, and is in no file (a PyTaskFarmer may have taken it)"
    ),
    Location.UNKNOWN: (
        "has no output here; only its tasklist knows whether it has run"
    ),
}
_ENDED = {Location.FINISHED, Location.FAILED}
HELD = "has not started yet: it is held, and {} lets it start"
HELD_UP = "has not started yet: it waits for others, by the order of the list"
NO_FARM = ", and no farm is running: give the farm's command again to run it"


class Explainer:
    """An explainer of missing outputs, by the list and the workdir of `target`.

    Its methods raise `StorageError` if the disk goes on failing.
    """

    def __init__(
        self, target: Target, environ: Mapping[str, str], console: Console
    ) -> None:
        self.target = target
        paths = WorkdirPaths(os.path.abspath(target.workdir))
        self.logs = paths.logs
        self._environ = environ
        self._console = console
        self._patience = patience_of(console.print_error)
        self._unkept = paths.unkept_logs
        self._doubtful: dict[int, Output] = {}

    def patiently(self, act: Callable[[], T]) -> T:
        """Call `act`, again for a while if the disk fails.  Return its value."""
        return try_again(act, self._patience)

    def complain(self, sentence: str) -> None:
        """Print a sentence on standard error."""
        self._console.print_error(sentence)

    def split_known(self, taskids: list[int]) -> tuple[list[int], str]:
        """Return the ids that the tasklist has, and a sentence about the other ids.

        Return all ids and "" if there are no others, or if the list is unknown or keeps
        its own state.
        """
        tasks = self._tasks
        if tasks is None or has_own_state(tasks, self.target):
            return taskids, ""
        known = [taskid for taskid in taskids if taskid < len(tasks)]
        if len(known) == len(taskids):
            return taskids, ""
        beyond = {*taskids}.difference(known)
        total = f"{self.target.tasklist} has {counted(len(tasks))}, from 0 on"
        is_no = agree(len(beyond), "is no task", "are no tasks")
        return known, f"there {is_no} {name_ids(beyond, MAX_NAMES)}: {total}"

    def find_gap(self, locator: TaskLocator, taskid: int) -> Gap:
        """Return the reason why a task has no output, without its id."""
        if locator.knows(taskid):
            return Gap("", f" {self.reason(taskid, locator.locate(taskid))}")
        return Gap("", " has no output, and no file of the workdir knows it")

    def explain(self, taskid: int) -> str:
        """Read the workdir, and return a sentence about a task without output.

        Raises `InputError` for an unknown task.
        """
        return f"task {taskid} {self.reason(taskid, self.locate(taskid))}"

    def reason(self, taskid: int, found: LocatedTask) -> str:
        """Return the reason why a task has no output, as the rest of a sentence."""
        if found.location is Location.FAILED and taskid in self._never_run:
            return f"was {self._never_run[taskid]}"
        holder = found.holder
        if holder and not holder.may_live:
            return (
                f"has no output here: farm {holder.farm}"
                " had taken it and died; the next start takes it back"
            )
        farm = f"farm {holder.farm} {holder.where}" if holder else ""
        sentence = _WORDS[found.location].format(holder=farm)
        if found.location is Location.QUEUED and self._held.holds(taskid):
            return HELD.format(name_release(self.target))
        if found.is_held_up:
            sentence = HELD_UP
        if found.location is Location.CLAIMED and self._keeps_little:
            sentence += "; or it has just completed (--logs failed keeps nothing then)"
        if found.location is Location.FINISHED and self._keeps_little:
            sentence += " (--logs failed keeps nothing of what completed)"
        if found.location is Location.QUEUED and not found.may_start:
            sentence += NO_FARM
        if found.location in _ENDED and self._earlier_workdir:
            sentence += f" here; what ran before the import: {self._earlier_log}"
        return sentence

    def locate(self, taskid: int) -> LocatedTask:
        """Read the workdir, and return the location of a task.

        Raises `InputError` if there is no such task.
        """
        locator = self.locator()
        if not locator.knows(taskid):
            raise InputError(_no_such_task(taskid, locator.total, self.target))
        return locator.locate(taskid)

    def locate_anew(self) -> TaskLocator:
        """Read the list, which may have grown, and the workdir, as `locator`."""
        self.__dict__.pop("_tasks", None)
        return self.locator()

    def locator(self) -> TaskLocator:
        """Read the workdir, and return the locations of all tasks."""
        if is_database(self.target, self._environ):
            return self.patiently(lambda: locate_rows(self.target, self._environ))
        tasks = self._tasks
        own = has_own_state(tasks, self.target)
        contents = self.patiently(
            lambda: examine_whole(self.target.workdir, observer(), locked=False)
        )
        texts = None if own or tasks is None else tasks.tasks
        constraints = UNORDERED if tasks is None else find_constraints(tasks)
        return locate_tasks(contents, texts, has_own_state=own, constraints=constraints)

    @cached_property
    def _held(self) -> Held:
        """What users hold."""
        paths = WorkdirPaths(self.target.workdir)
        held, _ = self.patiently(lambda: find_held(paths)) or (Held(), "")
        return held

    @cached_property
    def _never_run(self) -> dict[int, str]:
        """For tasks that no worker ever had, why that is so."""
        attempts = WorkdirAttempts(WorkdirPaths(self.target.workdir))
        return self.patiently(attempts.find_never_run)

    @cached_property
    def _earlier_workdir(self) -> str:
        """The workdir that was imported with a list into a database, else ""."""
        if not is_database(self.target, self._environ):
            return ""
        from mpifarm.audit.databases import find_earlier_workdir  # imports sqlite3

        return self.patiently(lambda: find_earlier_workdir(self.target, self._environ))

    @property
    def _earlier_log(self) -> str:
        """The command that prints the outputs of the imported workdir."""
        return shlex.join(["mpifarm", "log", self._earlier_workdir])

    @cached_property
    def _tasks(self) -> TaskList | None:
        try:
            return self.patiently(lambda: read_tasks(self.target, self._environ))
        except FarmError:  # Without the list, the files still tell enough of a task.
            return None

    # ---- an output may be of an earlier attempt --------------------------------------

    @cached_property
    def _keeps_little(self) -> bool:
        """Whether any farm of this workdir has had ``--logs failed``."""
        return self.patiently(lambda: files.is_directory(self._unkept))

    def note_doubt(self, taskid: int, outputs: Iterable[Output]) -> None:
        """Keep a task for `report_doubts` if only failed attempts may have outputs.

        `outputs` are the shown ones.  Without any ``--logs failed``, do nothing.
        """
        if not self._keeps_little:
            return
        shown = [*outputs]
        if shown and not any(
            each.source and each.source.files.directory != self._unkept
            for each in shown
        ):
            self._doubtful[taskid] = shown[-1]

    def report_doubts(self) -> None:
        """Print a warning for each noted task that has finished.

        Its output may be of failed attempts alone.
        """
        if not self._doubtful:
            return
        locator = self.locator()
        live = {claim.farm for claim in locator.claims if claim.may_live}
        remarks = Gaps()
        for taskid, output in self._doubtful.items():
            if (
                locator.locate(taskid).location is not Location.FINISHED
                or output.farm in live
            ):
                continue
            # A log may be of another farm, which kept all.
            may_be = "may be" if output.source is None else "is"
            remark = (
                f" has finished; what is shown {may_be} from before: of an attempt that"
                " completed --logs failed keeps nothing"
            )
            remarks.note(Gap("", remark), taskid)
        for sentence in remarks.sentences():
            self._console.print_error(sentence)


def locate_rows(target: Target, environ: Mapping[str, str]) -> TaskLocator:
    """Read a database, and return the locations of all tasks.

    Raises `InputError`, and `StorageError` if the disk fails.
    """
    from mpifarm.audit.databases import read_database  # imports sqlite3

    tasks, contents, *_ = read_database(target, environ, observer())
    return locate_tasks(
        contents, tasks.tasks, has_own_state=False, constraints=tasks.constraints
    )


def _no_such_task(taskid: int, total: int, target: Target) -> str:
    if target.tasklist is None:
        return (
            f"task {taskid} has no output, and no file of {target.workdir} knows it (to"
            " name the tasklist, add --list FILE)"
        )
    return (
        f"there is no task {taskid}: {target.tasklist} has {counted(total)}, from 0 on"
    )
