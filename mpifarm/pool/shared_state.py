"""Memory that a rank, its fork server and its workers share: one row for each worker.

Rules of this file: a living worker alone writes its row, except for the words named
below; the fork server clears a row before it forks the row's next worker.  The memory
is anonymous: it ends with the processes, and survives the SIGKILL of any of them.

Two words are for recalling leases that wait in a worker's socket.  Leases have serial
numbers, which never start again, so these words are never cleared.  The worker writes
the number of the lease that it begins and *then* reads which leases were recalled; the
rank writes which leases it recalls and *then* reads which lease has begun.  So at least
one of the two sees the other, and no lease is both run and recalled.

Two more are for tasks whose time is limited.  The worker writes when its run began; the
fork server copies that number to say that the time is over, and writes it negated to
say that the grace time is over too.  So a verdict holds for the run that it was meant
for, or for none.

One is for runs that users have cancelled: the fork server writes the serial number of
the lease there, negated once the grace time is over.

Two are for runs whose processes have too much memory together: the process that looks
(`memory_watch`) writes how many bytes it has seen, and then the serial number of the
lease.  For its looks, a worker writes its pid before its first task.
"""

import mmap
import time
from _thread import allocate_lock
from enum import IntEnum

CAPACITY = 4096
"""Workers that a pool can have.  Rows never touched cost no memory."""

_COMMAND, _TASK, _BEGUN, _SERIAL, _RECALLED = range(5)
_SINCE, _VERDICT, _STARTED, _CANCELLED, _TOO_LARGE, _SIZE, _WORKER, _ROW = range(5, 13)
_CLEARED = (_COMMAND, _TASK, _BEGUN, _SINCE, _VERDICT, _CANCELLED, _TOO_LARGE, _WORKER)

BY_KERNEL = -1
"""The excess of a run of which the kernel has killed a process for memory."""

_fence = allocate_lock()
"""Taken between a write and a read, so that no processor swaps the two."""


class TimeVerdict(IntEnum):
    """The fork server's verdict on the time of a run; a later one outweighs."""

    IN_TIME = 0
    TERMINATE = 1
    KILL = 2


class WorkerRow:
    """The words of one worker."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self.command_slot = words[_COMMAND : _COMMAND + 1]

    @property
    def command(self) -> int:
        """Return the pid of the command, `task_command.STARTING`, or 0 for none."""
        return int(self._words[_COMMAND])

    @property
    def task(self) -> int | None:
        """Return the id of the task that the worker runs; None if it runs none."""
        word = self._words[_TASK]
        return word - 1 if word else None

    @property
    def worker(self) -> int:
        """Return the pid of the worker, 0 while it begins."""
        return int(self._words[_WORKER])

    def publish_worker(self, pid: int) -> None:
        """Record the pid of the worker."""
        self._words[_WORKER] = pid

    @property
    def begun(self) -> int:
        """Return how many tasks the worker has begun."""
        return int(self._words[_BEGUN])

    def begin_task(self, taskid: int, started: float) -> None:
        """Count one more task begun, and record that the worker runs this one.

        `started` is in seconds since the epoch.
        """
        words = self._words
        words[_BEGUN] += 1
        words[_STARTED] = int(started * 1000)  # First: `find_running` reads it last.
        words[_TASK] = taskid + 1

    def end_task(self) -> None:
        """Record that the task has ended."""
        self._words[_TASK] = 0

    def find_running(self) -> tuple[int, float] | None:
        """Return the task that the worker runs, and its start (epoch, seconds).

        None if it runs none, or has begun another task during this look.
        """
        task = self._words[_TASK]
        started = self._words[_STARTED]
        if not task or self._words[_TASK] != task:
            return None
        return task - 1, started / 1000

    @property
    def since(self) -> int:
        """Return when the limited run began (monotonic, ns), 0 if there is none."""
        return int(self._words[_SINCE])

    def start_clock(self) -> None:
        """Record that a run begins now whose time is limited."""
        self._words[_SINCE] = time.monotonic_ns()

    def stop_clock(self) -> None:
        """Record that the run has ended, which voids a verdict on it."""
        self._words[_SINCE] = 0

    @property
    def verdict(self) -> TimeVerdict:
        """Return the verdict on the current run; IN_TIME if there is none."""
        since, word = self._words[_SINCE], self._words[_VERDICT]
        if not since or abs(word) != since:  # no run, or another than the one meant
            return TimeVerdict.IN_TIME
        return TimeVerdict.TERMINATE if word > 0 else TimeVerdict.KILL

    def pass_verdict(self, verdict: TimeVerdict, since: int) -> None:
        """Record a verdict on the run that began at `since`."""
        self._words[_VERDICT] = -since if verdict is TimeVerdict.KILL else since

    @property
    def serial(self) -> int:
        """Return the serial number of the lease that the worker has begun last."""
        return int(self._words[_SERIAL])

    @property
    def cancel_verdict(self) -> TimeVerdict:
        """Return whether the current run is to end since it was cancelled."""
        word = self._words[_CANCELLED]
        if not word or not self._words[_TASK] or abs(word) != self._words[_SERIAL]:
            return TimeVerdict.IN_TIME
        return TimeVerdict.TERMINATE if word > 0 else TimeVerdict.KILL

    def pass_cancel_verdict(self, verdict: TimeVerdict, serial: int) -> None:
        """Record that the run of a lease was cancelled."""
        self._words[_CANCELLED] = -serial if verdict is TimeVerdict.KILL else serial

    @property
    def excess(self) -> int:
        """Return the bytes that the current run had when they were too many, or 0.

        `BY_KERNEL` if that is not known.
        """
        serial = self._words[_TOO_LARGE]
        if not serial or not self._words[_TASK] or serial != self._words[_SERIAL]:
            return 0
        return int(self._words[_SIZE])

    def note_excess(self, size: int, serial: int) -> None:
        """Record that the run of a lease has too many bytes of memory."""
        self._words[_SIZE] = size  # First: `excess` reads it last.
        self._words[_TOO_LARGE] = serial

    def has_recalled(self, serial: int) -> bool:
        """Return whether the rank recalled this lease before the worker began it."""
        return serial <= self._words[_RECALLED]

    def begin_lease(self, serial: int) -> bool:
        """Record the lease as begun.  Return False if the rank is recalling it.

        Such a lease has to be returned, not run.
        """
        self._words[_SERIAL] = serial
        with _fence:
            pass
        return serial > self._words[_RECALLED]

    def recall(self, serial: int) -> int:
        """Recall the unbegun leases up to `serial`.  Return the last begun serial."""
        self._words[_RECALLED] = serial
        with _fence:
            pass
        return int(self._words[_SERIAL])

    def clear(self) -> None:
        """Make the row ready for a new worker; the serial numbers stay."""
        for word in _CLEARED:
            self._words[word] = 0


class SharedState:
    """The rows of all workers; create it before the first fork."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, CAPACITY * _ROW * 8)).cast("q")

    def row(self, index: int) -> WorkerRow:
        """Return the row of worker `index`."""
        return WorkerRow(self._words[index * _ROW : (index + 1) * _ROW])
