"""The values that a store takes and returns.

Rules of this file: values only.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from mpifarm.model.task import Result
from mpifarm.system.file_contents import FileState


class HeldLock(Protocol):
    """The part of `mpifarm.system.lock.WorkdirLock` that a store needs."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The lock files."""

    def hold(self, timeout: float) -> AbstractContextManager[object]:
        """Hold the lock in a ``with`` block, for which this waits `timeout` seconds.

        Raises StorageError if the lock cannot be had in that time.
        """


class Recorded(NamedTuple):
    """An attempt that has ended and is to be recorded.

    `pid` is the process of the rank.
    """

    taskid: int
    finished: bool
    result: Result
    rank: int
    pid: int
    host: str


class Transacted(NamedTuple):
    """The result of a transaction.

    `taken` are the ids of the new tasks.  `empty`: no queue has a task left that may
    run now.  `seconds` is the time that the transaction took, with its preparation
    outside the lock.
    """

    taken: list[int]
    empty: bool
    seconds: float
    not_run: Sequence[tuple[int, str]] = ()
    """Ids that this farm holds too, of tasks that are never to run, and why."""
    pulled: Sequence[int] = ()
    """Ids that this farm holds too, of those that were to be pulled."""
    reopened: Collection[int] = ()
    """Ids that were to be recorded as not run, and were requeued: they may run."""
    more_may_come: bool = False
    """Whether tasks wait that may be ready later, by what other farms do."""
    some_wait: bool = False
    """Whether tasks wait for others, by the order of the list."""


class Survey(NamedTuple):
    """The workdir at one moment under the lock, to be counted without the lock.

    `held` are the ids of this farm's claim, `claimed` the ids of other claims.
    """

    held: frozenset[int]
    claimed: frozenset[int]
    toprocess: FileState | None
    added: FileState | None = None
    waiting: FileState | None = None
    in_array: frozenset[int] = frozenset()
    """Held by living farms of the same job array."""


class Counts(NamedTuple):
    """The numbers of tasks by their places.

    `total` is the sum of the numbers from `finished` to `elsewhere`.
    """

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
    """The lowest ids among the failed, at most `MAX_FAILED_NAMED`."""
    in_array: int = 0
    """The claimed tasks that living farms of the same job array hold."""
    held_up: int = 0
    """The tasks to be processed that have to wait for others, by the list's order."""
    lost: tuple[int, ...] = ()
    """The lowest ids of those that they wait for and that are in no file, at most
    `MAX_FAILED_NAMED`."""
    barrier: int | None = None
    """The first task behind a barrier that is shut."""
