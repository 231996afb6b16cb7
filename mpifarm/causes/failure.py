"""Vocabulary: a failed attempt, and a group of attempts that failed alike.

Rules of this file: vocabulary only.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mpifarm.immutable import immutable

TAIL = 4096
"""Bytes at the end of a log that are read for the cause."""


class Failure(NamedTuple):
    """A failed attempt.

    `outcome` is that of ``attempts.tsv``, in words; `status` what a shell's ``$?``
    would be (128+n for signal n), 0 where nobody knows it; `signal` the number or 0;
    `tail` the last bytes of the task's log; `started` in seconds since the epoch;
    `peak_memory` in bytes; `attempt` counts from 1 in each farm, 0: not known.
    """

    taskid: int
    outcome: str
    status: int
    signal: int = 0
    host: str = ""
    command: str = ""
    tail: bytes = b""
    started: float = 0.0
    seconds: float = 0.0
    peak_memory: int | None = None
    attempt: int = 0


class Example(NamedTuple):
    """One attempt of a group: its task, its host, its last lines."""

    taskid: int
    host: str
    lines: tuple[str, ...]


@immutable
class Group:
    """Attempts that failed of one cause."""

    cause: str
    """The cause in one line, with the hosts if they are to blame."""
    tasks: tuple[int, ...]
    """Ids, sorted; one that failed twice of this cause stands here once."""
    count: int
    """Attempts."""
    hosts: Mapping[str, int]
    """Attempts on each host, the largest number first."""
    blamed: tuple[str, ...]
    """Hosts on which these failures are concentrated."""
    example: Example
    is_of_the_line: bool = False
    """Whether the command itself may be wrong, as its line has it."""
    attempts: str = ""
    """Of how many attempts these were the last, in words; "" if each was the only."""
    memory: str = ""
    """The limit of memory that they have met, and the largest seen; "" for none."""

    @property
    def title(self) -> str:
        """The cause with what is known of memory, in one line."""
        return f"{self.cause} ({self.memory})" if self.memory else self.cause
