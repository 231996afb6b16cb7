"""``--task-memory``: the process that looks which runs have too much memory.

Rules of this file:

- A child of the fork server runs this, so that nobody waits for a look: to count the
  pages that processes share takes 10 ms for each GB.  It does not wait for a process
  that a dead file server holds either: the other runs grow meanwhile.
- It writes the runs that have too much into their rows, and a byte to the fork server,
  which has their workers end them (`memory_guard`).  It signals nobody.
- It ends with the fork server: that is the end of its socket.
"""

import os
import select
import socket
import time
from collections.abc import Callable, Sequence

from mpifarm.pool.run_processes import RunProcesses
from mpifarm.pool.shared_state import BY_KERNEL, WorkerRow
from mpifarm.system import processes
from mpifarm.system.cgroups import TaskCgroups, name_of_task
from mpifarm.system.process_memory import measure_together

PERIOD = 1.0
"""Seconds between two rounds."""

SOON = 0.2
"""The same where a run has more than half its limit."""

REST = 4
"""A round is followed by so many times the time that it took."""

AGAIN = 0.05
"""Seconds to a second look at a run that has too much: what a process shares with its
parent between fork and exec may have been counted twice."""

Measure = Callable[[set[int], int], int]
"""Returns the bytes that processes have together; if at most the second, roughly."""


def watch_memory(fork_server: socket.socket, watch: "MemoryWatch") -> None:
    """Be the process that looks, until the fork server ends; in a fresh fork."""
    processes.ignore_signals()
    # The rank and the workers must see the end of the fork server, too.
    processes.close_descriptors_except({fork_server.fileno()})
    rest = 0.0
    while not select.select([fork_server], (), (), rest)[0]:
        begin = time.monotonic()
        if watch.look():
            fork_server.sendall(b".")
        rest = watch.find_rest(time.monotonic() - begin)


class MemoryWatch:
    """The memory of all workers' runs; `limit` is in bytes."""

    def __init__(
        self,
        rows: Sequence[WorkerRow],
        limit: int,
        run_processes: RunProcesses,
        cgroups: TaskCgroups | None = None,
        measure: Measure = measure_together,
    ) -> None:
        self._rows = rows
        self._limit = limit
        self._run_processes = run_processes
        self._cgroups = cgroups
        self._measure = measure
        self._orphans: dict[int, set[int]] = {}
        """Those of this round, by their task."""
        self._largest = 0
        """The bytes of the largest run of this round."""

    def look(self) -> bool:
        """Look at all runs, and note those that have too much.

        Return whether one was found.
        """
        ours = {row.worker for row in self._rows} | {os.getpid()}
        self._orphans = self._run_processes.orphans_of(os.getppid(), ours)
        self._largest = 0
        found = [self._check(index, row) for index, row in enumerate(self._rows)]
        return any(found)

    def find_rest(self, took: float) -> float:
        """Return the seconds to the next round, after one that `took` so many."""
        return max(SOON if 2 * self._largest > self._limit else PERIOD, REST * took)

    def _check(self, index: int, row: WorkerRow) -> bool:
        """Note a run if it has too much.  Return whether it has."""
        serial = row.serial  # First: a run that begins meanwhile is not meant.
        task = row.task
        if task is None or row.excess:
            return False
        size = self._find_excess(name_of_task(index, serial), row, task)
        if size:
            row.note_excess(size, serial)
        return bool(size)

    def _find_excess(self, name: str, row: WorkerRow, task: int) -> int:
        """Return the bytes of a run if they are too many, or `BY_KERNEL`, or 0."""
        if self._cgroups is not None and self._cgroups.count_kills(name):
            return BY_KERNEL  # the rest of its processes is to follow
        pids = self._run_processes.tree_of(row.command, row.worker, task)
        pids |= self._orphans.get(task, set())
        if self._cgroups is not None:
            # Those the kernel bounds.  Podman moves its containers elsewhere.
            pids.difference_update(self._cgroups.processes(name))
        size = self._measure(pids, self._limit)
        if size > self._limit:
            time.sleep(AGAIN)
            size = self._measure(pids, self._limit)
        self._largest = max(self._largest, size)
        return size if size > self._limit else 0
