"""What a task is on its way through a farm, and how an attempt can end.

Rules of this file: vocabulary only; it imports nothing of ours.  *Where a task is*
(`TaskState`) and *how an attempt ended* (`Outcome`) are two things.
"""

from enum import Enum
from typing import NamedTuple


class TaskState(Enum):
    """Where a task that this farm has taken out of ``toprocess`` is."""

    QUEUED = "queued"
    """Taken, and with no rank yet."""
    LEASED = "leased"
    """Handed to a rank."""
    ENDED = "ended"
    """Its command has ended; the result isn't on disk yet."""
    WRITING = "writing"
    """Its result is being written."""
    RETURNING = "returning"
    """It is being put back into ``toprocess``."""

    # Each task looks its states up six times, and Enum's own is written in Python.
    __hash__ = object.__hash__


TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.QUEUED: frozenset({TaskState.LEASED, TaskState.RETURNING}),
    TaskState.LEASED: frozenset(
        {TaskState.ENDED, TaskState.QUEUED, TaskState.RETURNING}
    ),
    TaskState.ENDED: frozenset(
        {TaskState.WRITING, TaskState.RETURNING, TaskState.QUEUED}
    ),
    TaskState.WRITING: frozenset(),
    TaskState.RETURNING: frozenset(),
}
"""Every change of state that may happen; a task on disk again is in no state here."""


class Outcome(Enum):
    """How an attempt ended."""

    COMPLETED = "completed"
    """The command ended with status 0."""
    FAILED = "failed"
    """The command ended with another status, by a signal, or could not be started."""
    TIMED_OUT = "timed out"
    """It took longer than ``--task-timeout``."""
    OUT_OF_MEMORY = "out of memory"
    """It failed, and it had met the limit of ``--task-memory``."""
    INTERRUPTED = "interrupted"
    """The farm's own stop ended it."""
    LOST = "lost"
    """Its worker or its rank died under it."""


class Lease(NamedTuple):
    """A task handed to a rank.

    `taskid` is its place in the tasklist from 0, `attempt` counts from 1 in this
    farm, `command` is the text of the task (bytes that are not UTF-8 stand in it as
    lone surrogates, ``surrogateescape``).
    """

    taskid: int
    attempt: int
    command: str


class Result(NamedTuple):
    """How an attempt ended.

    `status` is the exit status, or ``-n`` for a command killed by signal n, as in
    `subprocess`.  `worker` is the pid of the worker process.  `started` is wall clock
    in seconds since the epoch, `seconds` the run time, `ended` the monotonic clock of
    the machine on which it ran, in seconds.
    """

    taskid: int
    attempt: int
    outcome: Outcome
    status: int
    worker: int
    started: float
    seconds: float
    ended: float
    note: str = ""
    """What the user can't read in the log: why there is none, for one."""
