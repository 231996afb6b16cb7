"""A task handed to a rank, and the ends of an attempt.

Rules of this file: vocabulary only; it imports nothing of mpifarm.  The place of a task
in a farm (`mpifarm.coordinator.state.TaskState`) is another thing than its `Outcome`.
"""

from enum import Enum
from typing import NamedTuple

LAUNCHED_WAIT = 1.35
"""Seconds after which a rank is sure of a command that starts processes through a
launcher.  Another daemon than the rank's may signal such processes, and does so at
another moment, even on the same node."""


class Outcome(Enum):
    """The end of an attempt."""

    COMPLETED = "completed"
    """The command ended with status 0."""
    FAILED = "failed"
    """The command ended with another status, by a signal, or could not be started."""
    TIMED_OUT = "timed out"
    """The command took longer than ``--task-timeout``."""
    OUT_OF_MEMORY = "out of memory"
    """The command failed, and had reached the limit of ``--task-memory``, or was ended
    because its processes together had more."""
    INTERRUPTED = "interrupted"
    """The farm's own stop ended the command."""
    LOST = "lost"
    """The worker or the rank died while the command ran."""
    CANCELLED = "cancelled"
    """A user has cancelled the task, before or while its command ran."""
    NOT_RUN = "not run"
    """The command was never started, since a task failed that it waits for."""


def encode_text(text: str) -> bytes:
    """Return the bytes from which the text of a task was read."""
    return text.encode("utf-8", "surrogateescape")


def decode_text(text: bytes | bytearray) -> str:
    """Return the text of a task; bytes that are not UTF-8 become lone surrogates."""
    return text.decode("utf-8", "surrogateescape")


class Lease(NamedTuple):
    """A task handed to a rank.

    `taskid` is the task's place in the tasklist, from 0.  `attempt` counts from 1 in
    each farm.  `command` is the text of the task; bytes that are not UTF-8 stand in it
    as lone surrogates (``surrogateescape``).
    """

    taskid: int
    attempt: int
    command: str


class RunningTask(NamedTuple):
    """A task that a worker runs, since `started` (seconds since the epoch)."""

    taskid: int
    attempt: int
    worker_index: int
    started: float


NOT_RUN = f"{Outcome.NOT_RUN.value}: "
"""The beginning of the note of a task that was not started."""

CANCELLED_STATUS = -15
"""The status of a task that was cancelled before it ran: what TERM would have made."""
NOT_RUN_STATUS = 1
"""The status of a task that was not run, since others wait for what failed."""

LEFT_RUNNING = "processes that it has started still ran when it ended"
"""The note of a task that left processes in the background."""


class Result(NamedTuple):
    """The outcome of one attempt.

    `status` is the exit status, or ``-n`` for a command killed by signal n, as in
    `subprocess`.  `worker` is the pid of the worker process, 0 where no worker had the
    task.  `started` is wall clock in seconds since the epoch, `seconds` the run time,
    and `ended` the monotonic clock of the worker's machine in seconds.
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
    """Facts that are not in the log, such as why there is no log; "" if there are none.
    """
    worker_index: int | None = None
    """The index of the worker on its rank; None where no worker had the task."""
    user_seconds: float | None = None
    """CPU time of the command and of the processes that it has waited for; None, as
    for the next three, if nobody saw the command end."""
    system_seconds: float | None = None
    peak_memory: int | None = None
    """Bytes of the command's largest process; 0 if it was not larger than its
    worker."""
    output_bytes: int | None = None


def has_not_run(result: Result) -> bool:
    """Return whether no worker ever had the attempt: it was cancelled, or not run."""
    return result.worker_index is None and result.outcome in _WITHOUT_RUN


_WITHOUT_RUN = frozenset({Outcome.CANCELLED, Outcome.NOT_RUN})
