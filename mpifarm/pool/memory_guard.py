"""``--task-memory``: the fork server's side of it, what is due for which run.

Rules of this file: a process of its own looks (`memory_watch`); it is started anew if
it dies.  Only the fork server uses this, and only where there is a limit; time is an
argument (monotonic, ns).
"""

import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from mpifarm.pool.memory_watch import MemoryWatch, watch_memory
from mpifarm.pool.shared_state import WorkerRow
from mpifarm.pool.time_limit import LATE, REMIND, SECOND, TimeAction
from mpifarm.system import processes

BACK_OFF = SECOND
"""Time until the process that looks is started anew."""


class MemoryGuard:
    """The process that looks, and the runs that it has found."""

    def __init__(self, create_watch: Callable[[], MemoryWatch]) -> None:
        self._create_watch = create_watch
        self._socket: socket.socket | None = None
        self.pid = 0
        """The process that looks, until it is reaped; 0 if there is none."""
        self._start_at: int | None = 0
        """When to start it; None: never again."""
        self._ending: dict[int, tuple[int, int]] = {}
        """The lease of the run that a worker is ending, and since when."""
        self.look_at = 0
        """When to call `look` again at the latest; 0: when something has come."""

    def fileno(self) -> int:
        """Return a descriptor that gets readable when a run was found; -1 if none."""
        return -1 if self._socket is None else self._socket.fileno()

    def hear(self) -> None:
        """Read what has come from the process that looks."""
        if self._socket is not None:
            heard = b""
            with suppress(ConnectionError):
                heard = self._socket.recv(4096)
            if not heard:
                self._hang_up()

    def forget(self, pid: int, now: int) -> None:
        """Plan another process that looks if the dead one that is reaped was that."""
        if pid == self.pid:
            self.pid = 0
            self._hang_up()
            if self._start_at is not None:
                self._start_at = now + BACK_OFF

    def close(self) -> None:
        """End the process that looks, for good."""
        self._start_at = None
        self._hang_up()
        if self.pid:
            processes.kill_process(self.pid, signal.SIGKILL)

    def look(
        self, rows: Mapping[int, WorkerRow], now: int
    ) -> list[tuple[int, TimeAction]]:
        """Start the process that looks if that is due.

        Return the actions that are due for runs, each with its worker's index, and set
        `look_at`.
        """
        if not self.pid and self._start_at is not None and now >= self._start_at:
            self._start(now)
        found = {index: row.serial for index, row in rows.items() if row.excess}
        self._ending = {
            index: self._ending[index]
            if self._ending.get(index, (0,))[0] == serial
            else (serial, now)
            for index, serial in found.items()
        }
        self.look_at = 0 if self.pid else self._start_at or 0
        if found:
            self.look_at = now + REMIND
        late, remind = TimeAction.KILL_WORKER, TimeAction.REMIND
        return [
            (index, late if now - since >= LATE else remind)
            for index, (_, since) in self._ending.items()
        ]

    def _start(self, now: int) -> None:
        """Fork the process that looks; if that fails, try again later."""
        watch = self._create_watch()
        try:
            ours, its = socket.socketpair()
            with its:
                self._socket = ours
                self.pid = processes.fork_child(lambda: watch_memory(its, watch))
        except OSError:  # too many processes or descriptors: later, maybe
            self._hang_up()
            self._start_at = now + BACK_OFF

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
