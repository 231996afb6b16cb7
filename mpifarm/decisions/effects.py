"""What the coordinator wants done: a closed union, taken apart by the conductor.

Rules of this file: frozen values that say all they mean; nothing here decides.
"""

from dataclasses import dataclass

from mpifarm.messages import ToRank
from mpifarm.task import Result


@dataclass(frozen=True, slots=True)
class Send:
    """A message to a rank."""

    rank: int
    message: ToRank


@dataclass(frozen=True, slots=True)
class Transact:
    """Under one taking of the lock: record `results`, give back, take up to `take`."""

    results: tuple[tuple[int, Result], ...]
    """(rank, result) of each attempt to record."""
    give_back: tuple[int, ...]
    take: int


@dataclass(frozen=True, slots=True)
class NoteInLog:
    """Write a sentence of our own into the log of a task."""

    taskid: int
    sentence: str


@dataclass(frozen=True, slots=True)
class NoteAttempt:
    """An attempt on `rank` that failed, or made a checkpoint; the task runs again."""

    rank: int
    result: Result


@dataclass(frozen=True, slots=True)
class Tell:
    """Say a sentence to the user."""

    sentence: str


@dataclass(frozen=True, slots=True)
class End:
    """All is on disk; every rank is told to leave in the same breath."""


Effect = Send | Transact | NoteInLog | NoteAttempt | Tell | End
