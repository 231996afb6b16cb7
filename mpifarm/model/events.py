"""What happens in a farm, for hooks to watch: a closed union, and its lines of JSON.

Rules of this file: frozen values.  The names of the classes' fields are the keys of the
lines, which docs/hooks.md lists: to rename one is to raise `SCHEMA`.  It is imported
only where somebody wants events.
"""

import json
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, get_args

from mpifarm.immutable import immutable

SCHEMA = 1
"""The version of the lines: it grows when a key changes its meaning, or goes."""


@immutable
class FarmBegan:
    """The farm has joined its workdir, and its ranks are on their way."""

    event: ClassVar = "farm_began"
    version: str
    user: str
    host: str
    pid: int
    job: str | None
    """Id of the batch system's job; None outside of one."""
    command: list[str]
    directory: str
    tasklist: str
    workdir: str
    ranks: int
    workers: int
    """Workers of each rank."""
    total: int
    finished: int
    failed: int
    takes_over: bool
    """Whether a farm goes on whose leading rank was lost."""


@immutable
class FarmState:
    """The state of the farm, each `STATE_SECONDS`."""

    event: ClassVar = "farm_state"
    total: int
    finished: int
    failed: int
    running: int
    held: int
    """Tasks that users hold by their ids."""
    holds_all: bool
    tasks_per_second: float
    ranks_working: int


@immutable
class FarmDraining:
    """The farm starts nothing more, and lets what runs end."""

    event: ClassVar = "farm_draining"
    reason: str


@immutable
class FarmStopping:
    """The farm ends what runs."""

    event: ClassVar = "farm_stopping"
    reason: str


@immutable
class FarmEnded:
    """The farm has ended in order, and its summary is known."""

    event: ClassVar = "farm_ended"
    exit_status: int
    meaning: str
    reason: str
    seconds: float
    total: int
    finished: int
    failed: int
    toprocess: int
    elsewhere: int
    failures: list[dict[str, object]]
    """The first failed tasks: ``task``, ``how`` and ``log``."""


@immutable
class RankJoined:
    """A rank has come, and gets tasks."""

    event: ClassVar = "rank_joined"
    rank: int
    host: str
    pid: int
    workers: int


@immutable
class _RankChanged:
    rank: int
    host: str
    why: str


@immutable
class RankLost(_RankChanged):
    """A rank is dead, or was given up."""

    event: ClassVar = "rank_lost"


@immutable
class RankQuarantined(_RankChanged):
    """A rank is put out of use: it gets no more tasks, for a time or for good."""

    event: ClassVar = "rank_quarantined"


@immutable
class RankBack(_RankChanged):
    """A rank that was put out of use is in use again."""

    event: ClassVar = "rank_back"


@immutable
class TaskBegan:
    """A task runs, and its rank has told so."""

    event: ClassVar = "task_began"
    task: int
    attempt: int
    rank: int
    host: str
    worker: int
    started: str


@immutable
class _AttemptEnded:
    task: int
    attempt: int
    outcome: str
    status: int
    rank: int
    host: str
    worker: int | None
    started: str
    seconds: float
    cpu_seconds: float | None
    peak_memory: int | None
    output_bytes: int | None
    note: str


@immutable
class TaskFinished(_AttemptEnded):
    """A task is recorded as finished."""

    event: ClassVar = "task_finished"


@immutable
class TaskFailed(_AttemptEnded):
    """A task is recorded as failed."""

    event: ClassVar = "task_failed"


@immutable
class TaskRetried(_AttemptEnded):
    """An attempt did not go well, and its task runs again."""

    event: ClassVar = "task_retried"


@immutable
class TaskCancelled(_AttemptEnded):
    """A task is recorded as failed, since a user has cancelled it."""

    event: ClassVar = "task_cancelled"


@immutable
class TaskNotRun:
    """A task is recorded as failed without a run: one failed that it waits for."""

    event: ClassVar = "task_not_run"
    task: int
    why: str


@immutable
class Asked:
    """A user has asked the farm to cancel, hold or release tasks, or to drain."""

    event: ClassVar = "asked"
    what: str
    by: str
    tasks: str | None
    """Ids as ``3,7-9``; None for all."""


Event = (
    FarmBegan
    | FarmState
    | FarmDraining
    | FarmStopping
    | FarmEnded
    | RankJoined
    | RankLost
    | RankQuarantined
    | RankBack
    | TaskBegan
    | TaskFinished
    | TaskFailed
    | TaskRetried
    | TaskCancelled
    | TaskNotRun
    | Asked
)

TASK_EVENTS = frozenset(
    {
        *(TaskBegan.event, TaskFinished.event, TaskFailed.event, TaskRetried.event),
        *(TaskCancelled.event, TaskNotRun.event),
    }
)
"""Events of which there may be very many."""

BROKE_OFF = "farm_broke_off"
"""The event that a hook's process raises itself, when rank 0 is gone without an end."""


@cache
def keys_of(name: str) -> tuple[str, ...]:
    """Return the keys of an event's own in its line, by the name of the event."""
    (found,) = (each for each in get_args(Event) if each.event == name)
    return tuple(each.name for each in fields(found))


def encode_event(event: Event, number: int, when: str, farm: str) -> bytes:
    """Return the line of an event, with its newline.

    `number` counts the events of a farm from 1, `when` is its time as ISO 8601 has it.
    """
    keys = keys_of(event.event)
    own: dict[str, Any] = {key: getattr(event, key) for key in keys}
    return encode_line(number, when, event.event, farm, own)


def encode_line(
    number: int, when: str, name: str, farm: str, own: dict[str, Any]
) -> bytes:
    """Return a line of JSON: what each has, then the event's `own` keys."""
    line = {"v": SCHEMA, "n": number, "time": when, "event": name, "farm": farm, **own}
    return json.dumps(line).encode() + b"\n"
