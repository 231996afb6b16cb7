"""Where each task is, at one moment, as the files of a workdir tell it.

Rules of this file: pure; contents in (`checking.Contents`), places out, and no words
about them.  A task is at one place alone: where several name it, ``finished`` comes
first, then a claim, then ``toprocess``, then ``failed``.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from mpifarm.workdir.checking import ClaimView, Contents, Judged, judge, learn_tasks


class At(Enum):
    """Where a task is."""

    FINISHED = "finished"
    HELD = "held"
    """By a farm that lives, or by one that has died."""
    WAITING = "waiting"
    """In ``toprocess`` or ``added``; or no farmer has begun yet."""
    FAILED = "failed"
    NOWHERE = "nowhere"
    """In no file: a plain farmer has it, or lost it."""
    UNTOLD = "untold"
    """Its tasklist keeps its own state."""


class Sighting(NamedTuple):
    """Where one task is, at one moment; `holder` has it."""

    at: At
    holder: ClaimView | None
    may_start: bool
    """Whether any farm is at work."""


class TaskSurvey:
    """Where all tasks are, at one moment; `total` is how many the list has."""

    def __init__(
        self, contents: Contents, judged: Judged, total: int, *, has_own_state: bool
    ) -> None:
        self.total = total
        self._contents = contents
        self._has_own_state = has_own_state
        self._finished = {*judged.finished.ids}
        self._queued = {*judged.queued}
        self._failed = {*judged.failed.ids}

    @property
    def claims(self) -> tuple[ClaimView, ...]:
        """Those of all farms."""
        return self._contents.claims

    def knows(self, taskid: int) -> bool:
        """Whether there may be such a task."""
        return self._has_own_state or taskid < self.total

    def find(self, taskid: int) -> Sighting:
        """Where a task is."""
        claims = self._contents.claims
        holder = next((each for each in claims if taskid in each.held), None)
        at = At.NOWHERE
        if taskid in self._finished:
            at, holder = At.FINISHED, None
        elif holder:
            at = At.HELD
        elif self._has_own_state:
            at = At.UNTOLD
        elif taskid in self._queued or self._contents.toprocess is None:
            at = At.WAITING
        elif taskid in self._failed:
            at = At.FAILED
        return Sighting(at, holder, any(each.may_live for each in claims))


def survey_tasks(
    contents: Contents, texts: Sequence[str] | None, *, has_own_state: bool
) -> TaskSurvey:
    """Where all tasks are; `texts` are the tasklist's, where that is known.

    `has_own_state`: the tasklist keeps it, and the status files say nothing.
    """
    if has_own_state:
        contents = contents._replace(toprocess=None, finished=None, failed=None)
    tasks = learn_tasks(contents) if texts is None else texts
    judged = judge(contents, tasks, list_is_known=texts is not None)
    return TaskSurvey(contents, judged, len(tasks), has_own_state=has_own_state)
