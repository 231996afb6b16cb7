"""What the coordinator wants done: a closed union, taken apart by the leader.

Rules of this file: frozen values that say all they mean; nothing here decides.  The
members of the coordinator `Post` effects, and none of them sees what others posted.
"""

from collections.abc import Callable
from enum import Enum

from mpifarm.immutable import immutable
from mpifarm.model.messages import ToRank
from mpifarm.model.requests import Answer
from mpifarm.model.task import Result, RunningTask


@immutable
class Send:
    """A message to a rank."""

    rank: int
    message: ToRank


@immutable
class Transact:
    """Changes of the workdir to make under one taking of the lock.

    `results` are recorded, `requeue` go back into ``toprocess``, and then up to `take`
    tasks are taken out of it.  The tasks `pull` are taken out of whichever queue has
    them, if one has.
    """

    results: tuple[tuple[int, Result], ...]
    """(rank, result) of each attempt to record."""
    requeue: tuple[int, ...]
    take: int
    pull: tuple[int, ...] = ()


@immutable
class NoteInLog:
    """A sentence of our own to write into the log of a task."""

    taskid: int
    sentence: str


@immutable
class NoteAttempt:
    """An attempt on `rank` that failed, or made a checkpoint; the task runs again."""

    rank: int
    result: Result


@immutable
class NoteRunning:
    """Tasks that run on `rank`, of which it has told for the first time."""

    rank: int
    tasks: tuple[RunningTask, ...]


class RankChange(Enum):
    """What has become of a rank."""

    JOINED = "joined"
    LOST = "lost"
    OUT_OF_USE = "out of use"
    IN_USE = "in use again"


@immutable
class NoteRank:
    """A change of a rank's part in the farm, and why, in words."""

    rank: int
    change: RankChange
    why: str = ""


@immutable
class Tell:
    """A sentence for the user."""

    sentence: str


@immutable
class Reply:
    """The answer to a user's request, now that all is done about it."""

    answer: Answer


@immutable
class TakeNothing:
    """The order that the transaction under way take no tasks: the farm starts none."""


@immutable
class LookAtList:
    """The order to look at the list a last time: all of it that is known is done."""


@immutable
class Conclude:
    """The order to count the list, give the claim up, and tell the user the outcome.

    It comes once, before each rank is sent `Shutdown`: a rank that has got that waits
    for this one in MPI.
    """


Effect = (
    Send
    | Transact
    | TakeNothing
    | NoteInLog
    | NoteAttempt
    | NoteRunning
    | NoteRank
    | Tell
    | LookAtList
    | Reply
    | Conclude
)

Post = Callable[[Effect], None]
"""Adds an effect to those that `Coordinator.decide` returns next, in order."""
