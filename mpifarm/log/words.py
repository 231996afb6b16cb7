"""What is said of tasks whose output can't be shown, or is not all that there was.

Rules of this file: it reads the workdir without the lock, and prints nothing but
complaints.
"""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property

from mpifarm.console import Console
from mpifarm.errors import InputError
from mpifarm.log.gaps import Gap, Gaps, name_ids
from mpifarm.logfiles import UNKEPT
from mpifarm.place import Place, has_own_state, read_tasks
from mpifarm.tasklists import TaskList
from mpifarm.workdir import WorkdirPaths
from mpifarm.workdir.examining import examine, observer
from mpifarm.workdir.outputs import Output
from mpifarm.workdir.whereabouts import At, Sighting, TaskSurvey, survey_tasks

_WORDS = {
    At.FINISHED: "has finished, and nothing of what it has written is there",
    At.HELD: "has not started yet: {holder} has taken it",
    At.WAITING: "has not started yet: it waits in toprocess",
    At.FAILED: "has failed, and nothing of what it has written is there",
    At.NOWHERE: "is in no file (a PyTaskFarmer has it, or lost it), and has no log",
    At.UNTOLD: (
        "has written nothing that is there; whether it has run, only its tasklist knows"
    ),
}
NO_FARM = (
    ", and no farm is at work: give the farm's command again to run it"
    " (unless a PyTaskFarmer is at work, which can't be seen)"
)


class Words:
    """What is said of the tasks of one place; it knows the list and the workdir."""

    def __init__(
        self, place: Place, environ: Mapping[str, str], console: Console
    ) -> None:
        self.place = place
        self.logs = WorkdirPaths(os.path.abspath(place.workdir)).logs
        self._environ = environ
        self._console = console
        self._unkept = f"{self.logs}/{UNKEPT}"
        self._doubtful: dict[int, Output] = {}

    def complain(self, sentence: str) -> None:
        """Say it on standard error."""
        self._console.complain(sentence)

    def split_known(self, taskids: list[int]) -> tuple[list[int], str]:
        """Those that the tasklist has, where there is one; and a word on the others."""
        tasks = self._tasks
        if tasks is None or has_own_state(tasks, self.place):
            return taskids, ""
        known = [taskid for taskid in taskids if taskid < len(tasks)]
        if len(known) == len(taskids):
            return taskids, ""
        beyond = {*taskids}.difference(known)
        total = f"{self.place.tasklist} has {len(tasks)} tasks, from 0 on"
        if len(beyond) == 1:
            return known, f"there is no task {name_ids(beyond)}: {total}"
        return known, f"there are no tasks {name_ids(beyond)}: {total}"

    def find_gap(self, survey: TaskSurvey, taskid: int) -> Gap:
        """Why there is nothing of a task."""
        if survey.knows(taskid):
            return Gap("", f" {self.reason(survey.find(taskid))}")
        return Gap("", " has written nothing that is there, and no file knows it")

    def explain(self, taskid: int) -> str:
        """The same as a sentence; raises `InputError` where there is no such task."""
        return f"task {taskid} {self.reason(self.look_up(taskid))}"

    def reason(self, found: Sighting) -> str:
        """The same of a task that was found, as the rest of a sentence."""
        holder = found.holder
        if holder and not holder.may_live:
            return (
                f"has written nothing that is there: farm {holder.farm}"
                " had taken it and died; the next start takes it back"
            )
        farm = f"farm {holder.farm} {holder.where}" if holder else ""
        sentence = _WORDS[found.at].format(holder=farm)
        if found.at is At.HELD and self._keeps_little:
            sentence += "; or it has just completed (--logs failed keeps nothing then)"
        if found.at is At.FINISHED and self._keeps_little:
            sentence += " (--logs failed keeps nothing of what completed)"
        if found.at is At.WAITING and not found.may_start:
            sentence += NO_FARM
        return sentence

    def look_up(self, taskid: int) -> Sighting:
        """Raises `InputError` where there is no such task."""
        survey = self.survey()
        if not survey.knows(taskid):
            raise InputError(_no_such_task(taskid, survey.total, self.place))
        return survey.find(taskid)

    def survey(self) -> TaskSurvey:
        """Where all tasks are now."""
        tasks = self._tasks
        own = has_own_state(tasks, self.place)
        contents = examine(self.place.workdir, observer(), locked=False)
        texts = None if own or tasks is None else tasks.tasks
        return survey_tasks(contents, texts, has_own_state=own)

    @cached_property
    def _tasks(self) -> TaskList | None:
        try:
            return read_tasks(self.place, self._environ)
        except InputError:  # what is told of a task without its list will do
            return None

    # ---- what is there may be from before -------------------------------------------

    @cached_property
    def _keeps_little(self) -> bool:
        """Whether any farm here has had ``--logs failed``."""
        return os.path.isdir(self._unkept)

    def note_doubt(self, taskid: int, outputs: Iterable[Output]) -> None:
        """What is shown may be no output of the attempt that completed."""
        if not self._keeps_little:
            return
        shown = [*outputs]
        if shown and not any(
            each.source and each.source.files.directory != self._unkept
            for each in shown
        ):
            self._doubtful[taskid] = shown[-1]

    def remark(self) -> None:
        """Say of what finished that only what went wrong before is there."""
        if not self._doubtful:
            return
        survey = self.survey()
        live = {claim.farm for claim in survey.claims if claim.may_live}
        remarks = Gaps()
        for taskid, output in self._doubtful.items():
            if survey.find(taskid).at is not At.FINISHED or output.farm in live:
                continue
            # A log may be of another farm, which kept all.
            may_be = "may be" if output.source is None else "is"
            remark = (
                f" has finished; what is shown {may_be} from before: of an attempt that"
                " completed --logs failed keeps nothing"
            )
            remarks.note(Gap("", remark), taskid)
        for sentence in remarks.sentences():
            self._console.complain(sentence)


def _no_such_task(taskid: int, total: int, place: Place) -> str:
    if place.tasklist is None:
        return (
            f"task {taskid} has written nothing that is there, and no file of"
            f" {place.workdir} knows it (--list FILE names the tasklist)"
        )
    return f"there is no task {taskid}: {place.tasklist} has {total} tasks, from 0 on"
