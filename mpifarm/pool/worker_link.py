"""One worker as its rank sees it: its state, the leases that it holds, its socket.

Rules of this file:

- Nothing here blocks.
- A worker reports its leases in the order in which it got them; it holds every lease
  that it has not reported.
- A worker is `DOWN` when the fork server says so, *after* it has killed the rest of the
  worker's task; the end of the worker's socket alone means nothing yet.
"""

import select
import socket
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from mpifarm.model.task import Lease, Outcome, Result, RunningTask
from mpifarm.pool.definition import LeaseRefused, LeaseReturned
from mpifarm.pool.framing import FrameReader, encode_frame
from mpifarm.pool.shared_state import WorkerRow

_PIECE = 65536
_RETURN = 1
"""Fields of the frame by which a worker returns a recalled lease: its serial number."""
_REFUSAL = 3
"""Fields of the frame by which a worker refuses a lease; a result has twelve."""
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_MAX_EARLY_DEATHS = 5
"""Deaths in a row before a first task after which a worker counts as useless.

The pauses of the fork server between them make that 1.5 seconds.
"""


class WorkerState(Enum):
    """The state of a worker; it is connected exactly while it is `UP`."""

    STARTING = "starting"
    UP = "up"
    HUNG_UP = "hung up"
    """Its socket has ended; the fork server has not reported its death yet."""
    DOWN = "down"


_TRANSITIONS = {
    WorkerState.STARTING: {WorkerState.UP, WorkerState.DOWN},
    WorkerState.UP: {WorkerState.HUNG_UP, WorkerState.DOWN},
    WorkerState.HUNG_UP: {WorkerState.DOWN},
    # Down again: the fork server could not fork the next worker.
    WorkerState.DOWN: {WorkerState.UP, WorkerState.DOWN},
}


class _HeldLease(NamedTuple):
    serial: int
    lease: Lease


class WorkerLink:
    """A rank's link to one worker, and to the workers that take its place."""

    def __init__(self, index: int, row: WorkerRow, epoll: select.epoll) -> None:
        self.index = index
        self.row = row
        self.state = WorkerState.STARTING
        self.pid = 0
        self.held: deque[_HeldLease] = deque()
        """Leases that the worker has not reported, in the order of their sending."""
        self.unsent: list[tuple[int, int, str, int]] = []
        """Leases with their serial numbers, for the next frame."""
        self.outgoing = bytearray()
        """Frames that the socket had no room for; then the epoll waits for room."""
        self._epoll = epoll
        self._socket: socket.socket | None = None
        self._reader = FrameReader()
        self._serial = 0
        """The serial number of the last lease that the worker was given."""
        self._early_deaths = 0
        """Deaths in a row before a first task."""

    def _enter(self, state: WorkerState) -> None:
        """Set the state; raise RuntimeError if `_TRANSITIONS` has no such change."""
        if state not in _TRANSITIONS[self.state]:
            raise RuntimeError(f"a worker that is {self.state} can't get {state}")
        self.state = state

    @property
    def takes_leases(self) -> bool:
        """Return whether a lease for this worker will be sent."""
        return self.state in (WorkerState.STARTING, WorkerState.UP)

    @property
    def load(self) -> tuple[int, bool, int]:
        """Return a sort key: the worker with the least gets the next lease.

        By leases held, then connected workers first, then by index.
        """
        return len(self.held), self.state is not WorkerState.UP, self.index

    @property
    def dies_early(self) -> bool:
        """Return whether the worker dies again and again before a first task."""
        is_at_work = self.state is WorkerState.UP and self.row.begun > 0
        return self._early_deaths >= _MAX_EARLY_DEATHS and not is_at_work

    # ---- life -----------------------------------------------------------------------

    def connect(self, pid: int, fd: int) -> None:
        """Begin the life of a worker that the fork server has forked."""
        self._enter(WorkerState.UP)
        self.pid = pid
        self._reader = FrameReader()
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._epoll.register(fd, select.EPOLLIN)

    def hang_up(self) -> None:
        """Close the socket of a worker, and enter HUNG_UP, if it is connected."""
        if self._socket is not None:
            self._disconnect(self._socket)
            self._enter(WorkerState.HUNG_UP)

    def take_down(self) -> tuple[Lease, ...]:
        """End the life of a dead worker.  Return, and drop, the leases that it held."""
        if self._socket is not None:
            self._disconnect(self._socket)
        self._enter(WorkerState.DOWN)
        leases = tuple(each.lease for each in self.held)
        self.held.clear()
        self.forget_unsent()
        return leases

    def count_death(self, begun: int) -> None:
        """Count a death before a first task; one after `begun` tasks ends the count."""
        self._early_deaths = 0 if begun else self._early_deaths + 1

    def _disconnect(self, connection: socket.socket) -> None:
        self._epoll.unregister(connection)
        connection.close()
        self._socket = None

    def find_running(self) -> RunningTask | None:
        """Return the task that the worker runs; None if none, or not known now."""
        running = self.row.find_running() if self.held else None
        if running is None:
            return None
        taskid, started = running
        lease = self.held[0].lease
        if lease.taskid != taskid:
            return None  # its result is in the socket
        return RunningTask(taskid, lease.attempt, self.index, started)

    def find_serial(self, taskid: int, attempt: int) -> int | None:
        """Return the serial number of a lease if it is held, else None.

        The one that runs need not be the first: results may be in the socket.
        """
        for serial, lease in self.held:
            if lease[:2] == (taskid, attempt):
                return serial
        return None

    # ---- leases out -----------------------------------------------------------------

    def give(self, lease: Lease) -> None:
        """Add a lease to the held ones, for the next `send`."""
        serial = self._serial = self._serial + 1
        self.held.append(_HeldLease(serial, lease))
        self.unsent.append((*lease, serial))

    def send(self) -> None:
        """Send the unsent leases, behind the bytes that the socket had no room for.

        Bytes that the socket has no room for now wait for `send_more`.
        """
        is_first = not self.outgoing
        self.outgoing += encode_frame(tuple(self.unsent))
        self.unsent = []
        if is_first:
            self._flush()
            if self.outgoing:
                self._watch(select.EPOLLIN | select.EPOLLOUT)

    def send_more(self) -> None:
        """Go on sending: the socket has room again."""
        self._flush()
        if not self.outgoing:
            # Else the epoll would report this room again and again.
            self._watch(select.EPOLLIN)

    def recall(self) -> list[Lease]:
        """Take back the leases that the worker has not begun, in their order.

        A lease that it is just beginning comes back as `LeaseReturned`.  [] for a
        worker that is dead or hung up.
        """
        if self.state is WorkerState.STARTING:
            begun = 0  # nothing was sent to it yet
            self.forget_unsent()
        elif self.state is WorkerState.UP and self.held:
            begun = self.row.recall(self._serial)
        else:
            return []  # `take_down` returns the leases of a dead worker
        recalled: deque[Lease] = deque()
        while self.held and self.held[-1].serial > begun:
            recalled.appendleft(self.held.pop().lease)
        return list(recalled)

    def send_no_more(self) -> None:
        """End the stream of leases, at which the worker exits; drop the unsent."""
        self.forget_unsent()
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:  # the worker is dead
                return

    def forget_unsent(self) -> None:
        """Drop the leases that have not left this process."""
        self.unsent = []
        self.outgoing.clear()

    def _flush(self) -> None:
        """Send as much as the socket takes; drop all of it if the worker is dead."""
        assert self._socket is not None
        try:
            sent = self._socket.send(self.outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:  # the worker is dead, which the fork server will report
            sent = len(self.outgoing)
        del self.outgoing[:sent]

    def _watch(self, mask: int) -> None:
        if self._socket is not None:
            self._epoll.modify(self._socket, mask)

    # ---- results in -----------------------------------------------------------------

    def receive(
        self, *, to_end: bool = False
    ) -> Iterator[Result | LeaseRefused | LeaseReturned]:
        """Yield the events that have come; hang up at the end of the socket.

        `to_end`: the worker is dead, so read on until nothing is left.
        """
        while self._socket is not None:
            try:
                piece = self._socket.recv(_PIECE)
            except BlockingIOError:
                return
            except ConnectionError:
                piece = b""
            for values in self._reader.feed(piece):
                if len(values) == _RETURN:
                    yield from self._on_return(values[0])
                else:
                    yield self._on_end(values)
            if not piece:
                self.hang_up()
            elif len(piece) < _PIECE and not to_end:
                return

    def _on_return(self, serial: int) -> Iterator[LeaseReturned]:
        # Else `recall` has taken it back before the worker came to it.
        if self.held and self.held[0].serial == serial:
            yield LeaseReturned(self.held.popleft().lease)

    def _on_end(self, values: tuple[Any, ...]) -> Result | LeaseRefused:
        """Return the event of a lease that has ended or was refused; hold it no more.

        Raises RuntimeError if the worker names another lease than the first that it
        holds.
        """
        lease = self.held.popleft().lease
        if (lease.taskid, lease.attempt) != values[:2]:
            raise RuntimeError(f"an end of task {values[0]}, not of {lease.taskid}")
        if len(values) == _REFUSAL:
            return LeaseRefused(lease, values[2])
        taskid, attempt, status, started, seconds, ended, outcome, note, *usage = values
        return Result(
            *(taskid, attempt, _OUTCOMES[outcome], status),
            *(self.pid, started, seconds, ended, note, self.index, *usage),
        )
