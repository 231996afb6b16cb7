"""What goes into a workdir and what comes out of it.

Rules of this file: values only.
"""

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class HeldLock(Protocol):
    """What is asked of `mpifarm.lock.WorkdirLock`."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The lock files."""

    def hold(self, timeout: float) -> AbstractContextManager[object]:
        """Take the lock for a while; `timeout` in seconds."""


class Recorded(NamedTuple):
    """An attempt that has ended and is to be recorded.

    `started` is in seconds since the epoch, `pid` is the rank's process, `tid` the
    worker's.
    """

    taskid: int
    finished: bool
    started: float
    seconds: float
    pid: int
    tid: int
    attempt: int
    status: int
    rank: int


class Transacted(NamedTuple):
    """What a transaction brought.

    `empty`: ``toprocess`` has nothing left.  `seconds`: how long it took, under the
    lock.  `foreign`: others have recorded results since this farm started.
    `finished_by_others`: how many tasks they have finished since the last look.
    `prepare_seconds`: how long the preparing took, outside the lock.
    """

    taken: list[int]
    empty: bool
    seconds: float
    foreign: bool
    finished_by_others: int
    prepare_seconds: float


class ReclaimReport(NamedTuple):
    """What was done about the claims of other farms.

    `farms`: dead farms whose claims were taken back; `requeued`: how many of their
    tasks went to ``toprocess``; `others`: claims that were left alone.
    """

    farms: int
    requeued: int
    others: int


class Survey(NamedTuple):
    """The workdir at one moment under the lock; counting it takes no lock."""

    held: frozenset[int]
    claimed: frozenset[int]
    toprocess: bytes | None


class Counts(NamedTuple):
    """Where the tasks of the list are; `total` is the sum of the other numbers."""

    total: int
    finished: int
    failed: int
    """Failed, and not to be processed again."""
    toprocess: int
    held: int
    """Held by this farm."""
    claimed: int
    """Held by other farms."""
    elsewhere: int
    """In no file: with a plain farmer, or lost by one."""
    first_failed: tuple[int, ...]
    """The lowest ids among the failed, at most `MOST_FAILED_NAMED`."""
