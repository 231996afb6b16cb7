"""The watch over the ranks of this node while they connect, where MPI does not tell.

Under ``mpirun --with-ft ulfm`` the death of a rank does not end the others, and in
`MPI_Init` they would wait for it without end: the fault tolerance begins after that.

Rules of this file: it reads ``/proc`` and knows no MPI.  Each rank counts the children
of its node's daemon.  A rank that finds one missing ends: its status ends the launch on
all nodes, and becomes that of ``mpirun``.  A slow start is not a death: a count that
grows, or that has not been complete yet, means nothing for a while.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

LOOK_SECONDS = 0.5
"""Seconds between two counts."""

STALL_SECONDS = 10.0
"""Seconds without another rank on this node after which the missing are dead."""

MAX_SECONDS = 600.0
"""Seconds that the ranks may take to connect where a death here would be seen."""

BLIND_SECONDS = 120.0
"""Seconds that they may take where it would not: in a container, say.

Not less: a rank knows only how long it has waited there, and the first of thousands
that import from one cold file system waits for the last for a minute or more.
"""

_DAEMONS = ("prted", "prterun", "mpirun", "mpiexec")
"""Programs that start the ranks of a node under Open MPI 5 (``/proc/<pid>/comm``)."""

_TURN_SECONDS = 0.2
"""Seconds between the ends of two ranks, so that mostly one of them says why."""


class RankCount:
    """The ranks of a node, counted again and again; `expected` ranks should come.

    Times are in seconds.
    """

    def __init__(self, expected: int, now: float) -> None:
        self._expected = expected
        self._largest = 0
        self._grew_at = now
        self._missed = 0

    def is_broken(self, count: int, now: float) -> bool:
        """Record a count.  Return whether a rank has died.

        It has if no rank came for `STALL_SECONDS` before all were there, or if one is
        missing twice in a row after that.
        """
        if count > self._largest:
            self._largest, self._grew_at = count, now
        self._missed = self._missed + 1 if count < self._expected else 0
        if self._largest < self._expected:
            return now - self._grew_at > STALL_SECONDS
        # Twice: the first may have been read while the kernel's list changed.
        return self._missed > 1


def find_daemon(pid: int, proc: str = "/proc") -> int | None:
    """Return the nearest ancestor of `pid` in `_DAEMONS` (Open MPI 5), else None."""
    with suppress(OSError, ValueError, IndexError):
        while pid > 1:
            pid = _find_parent(pid, proc)
            with open(f"{proc}/{pid}/comm") as stream:
                if stream.read().strip() in _DAEMONS:
                    return pid
    return None


def _find_parent(pid: int, proc: str) -> int:
    """Return the parent of `pid`; raise OSError if the process is gone."""
    with open(f"{proc}/{pid}/stat") as stream:
        return int(stream.read().rpartition(")")[2].split()[1])


def count_children(pid: int, proc: str = "/proc") -> int | None:
    """Return how many children a process has; None where the kernel does not say.

    Threads that end meanwhile are left out.
    """
    found = 0
    try:
        for thread in os.listdir(f"{proc}/{pid}/task"):
            with (
                suppress(ProcessLookupError),
                open(_children(proc, pid, thread)) as file,
            ):
                found += len(file.read().split())
    except OSError:
        return None
    return found


def _children(proc: str, pid: int, thread: str) -> str:
    return f"{proc}/{pid}/task/{thread}/children"


class _Watch:
    """The count of this node's ranks, until all are connected or one is missing."""

    def __init__(self, environ: Mapping[str, str], give_up: Callable[[], None]) -> None:
        self._give_up = give_up
        self._begun = time.monotonic()
        self._daemon = find_daemon(os.getpid())
        expected = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "0"))
        self._turn = int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
        self._count = RankCount(expected, self._begun)
        self.connected = threading.Event()

    def run(self) -> None:
        """Count until all ranks are connected, or call `give_up`.

        That is called once a rank has died, or too much time has passed.
        """
        while not self.connected.wait(LOOK_SECONDS):
            if self._is_broken(time.monotonic()):
                if not self.connected.wait(self._turn * _TURN_SECONDS):
                    self._give_up()
                return

    def _is_broken(self, now: float) -> bool:
        """Count once.  Return whether a rank has died or too much time has passed."""
        count = None if self._daemon is None else count_children(self._daemon)
        if count is None:
            return now - self._begun > BLIND_SECONDS
        return self._count.is_broken(count, now) or now - self._begun > MAX_SECONDS


@contextmanager
def watched(environ: Mapping[str, str], give_up: Callable[[], None]) -> Iterator[None]:
    """Watch, in a thread, the ranks of this node while a ``with`` block connects them.

    The thread calls `give_up`, which ends the process, if they can't connect any more.
    The block must leave the interpreter to that thread.
    """
    watch = _Watch(environ, give_up)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.connected.set()
        thread.join()
