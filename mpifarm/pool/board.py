"""The board: what each worker is at, in memory that rank, parent and workers share.

Rules of this file: a line a worker; the worker alone writes it while it lives, the
pool's parent clears it before it forks one.  Anonymous memory: it ends with the
processes, and survives the -9 of any of them.

Two words are for recalling leases that wait in a worker's socket.  Leases have serial
numbers, which never start again, so these words are never cleared.  The worker writes
the number of the lease that it begins and *then* looks what was recalled; the rank
writes what it recalls and *then* looks what has begun.  So at least one of them sees
the other, and no lease is both run and recalled.

Two more are for tasks whose time is limited.  The worker writes when its task's run
began; the parent writes that very number to say that the time is over, and the number
negated to say that the grace time is as well.  So a verdict hits the run that it was
meant for, or none.
"""

import mmap
import time
from _thread import allocate_lock
from enum import IntEnum

CAPACITY = 4096
"""Workers that a pool can have.  Lines never touched cost no memory."""

_COMMAND, _TASK, _BEGUN, _SERIAL, _RECALLED, _SINCE, _VERDICT, _LINE = range(8)
_CLEARED = (_COMMAND, _TASK, _BEGUN, _SINCE, _VERDICT)

_fence = allocate_lock()
"""Taken between a write and a look: no processor moves one past the other there."""


class Verdict(IntEnum):
    """What the pool's parent says of the time that a run has taken, in its order."""

    IN_TIME = 0
    TERMINATE = 1
    KILL = 2


class BoardLine:
    """The words of one worker."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self.command_slot = words[_COMMAND : _COMMAND + 1]

    @property
    def command(self) -> int:
        """The pid of the running command, 0 for none, `processes.STARTING`."""
        return int(self._words[_COMMAND])

    @property
    def task(self) -> int | None:
        """The id of the task that is being run."""
        word = self._words[_TASK]
        return word - 1 if word else None

    @property
    def begun(self) -> int:
        """How many tasks the worker has begun."""
        return int(self._words[_BEGUN])

    def begin_task(self, taskid: int) -> None:
        """The task is being run from here on."""
        words = self._words
        words[_BEGUN] += 1
        words[_TASK] = taskid + 1

    def end_task(self) -> None:
        """The task has ended."""
        self._words[_TASK] = 0

    @property
    def since(self) -> int:
        """When the run began whose time is limited, monotonic, in ns; or 0."""
        return int(self._words[_SINCE])

    def start_clock(self) -> None:
        """A run begins whose time is limited."""
        self._words[_SINCE] = time.monotonic_ns()

    def stop_clock(self) -> None:
        """The run has ended; a verdict over it is void."""
        self._words[_SINCE] = 0

    @property
    def verdict(self) -> Verdict:
        """What was said of the run that is under way."""
        since, said = self._words[_SINCE], self._words[_VERDICT]
        if not since or abs(said) != since:
            return Verdict.IN_TIME
        return Verdict.TERMINATE if said > 0 else Verdict.KILL

    def say(self, verdict: Verdict, since: int) -> None:
        """Say it of the run that began at `since`."""
        self._words[_VERDICT] = -since if verdict is Verdict.KILL else since

    def has_recalled(self, serial: int) -> bool:
        """Whether the rank has taken this lease back before it was begun."""
        return serial <= self._words[_RECALLED]

    def begin_lease(self, serial: int) -> bool:
        """Begin this lease; False if it is being recalled just now: give it back."""
        self._words[_SERIAL] = serial
        with _fence:
            pass
        return serial > self._words[_RECALLED]

    def recall(self, serial: int) -> int:
        """Take back all leases up to this one that aren't begun; the last that is."""
        self._words[_RECALLED] = serial
        with _fence:
            pass
        return int(self._words[_SERIAL])

    def clear(self) -> None:
        """A new worker will write here."""
        for word in _CLEARED:
            self._words[word] = 0


class Board:
    """The lines of all workers.  To be made before the first fork."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, CAPACITY * _LINE * 8)).cast("q")

    def line(self, index: int) -> BoardLine:
        """The line of worker `index`."""
        return BoardLine(self._words[index * _LINE : (index + 1) * _LINE])
