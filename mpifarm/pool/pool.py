"""The rank's side of its pool.

Rules of this file:

- Nothing here blocks but `close`, which is bounded.  One descriptor (an epoll) becomes
  readable when `collect` has something to do.
- A worker reports its leases in their order; what it has not reported is in its hands.
- A worker's death is what the pool's parent says it is, *after* it has killed what the
  worker left; the end of a worker's socket alone means nothing yet.
"""

import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from heapq import heapify, heapreplace
from typing import Any, NamedTuple

from mpifarm import processes
from mpifarm.pool.board import CAPACITY, Board
from mpifarm.pool.definition import (
    CreateRunner,
    LeaseRefused,
    LeaseReturned,
    PoolDefinition,
    PoolEvent,
    PoolGone,
    PoolUseless,
    WorkerLost,
    encode_definition,
)
from mpifarm.pool.parent import serve_as_parent
from mpifarm.pool.wire import FrameReader, encode_frame
from mpifarm.task import Lease, Outcome, Result

_PIECE = 65536
_RETURN = 1
"""Fields of a frame that tells of a lease that was recalled: its serial number."""
_REFUSAL = 3
"""Fields of a frame that tells of a lease that was refused; a result has eight."""
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_EARLY_DEATHS = 5
"""So many in a row, of each worker, and the pool is useless.

The pauses between the births of a worker (`parent`) make that 1.5 seconds.
"""
_ORPHAN_PATIENCE = 0.25
"""Seconds that workers get to notice that the pool's parent is dead."""
_CLOSE_PATIENCE = 2.0
"""Seconds for each step of an orderly end."""


class _State(Enum):
    LAUNCHED = "launched"
    RUNNING = "running"
    ENDING = "ending"
    """After terminate or kill."""
    LOST = "lost"
    """The parent is dead, some workers maybe not yet."""
    GONE = "gone"
    """The parent is dead and the rank has been told what that costs."""
    CLOSED = "closed"


class _Presence(Enum):
    """Where a worker is in its life."""

    COMING = "coming"
    UP = "up"
    HUNG_UP = "hung up"
    """Its socket has ended; the parent hasn't told its death yet."""
    DOWN = "down"


class _Given(NamedTuple):
    """A lease in a worker's hands."""

    serial: int
    lease: Lease


class _Worker:
    """What the rank knows of one worker."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.presence = _Presence.COMING
        self.pid = 0
        self.early_deaths = 0
        """In a row, before its first task."""
        self.given: deque[_Given] = deque()
        """What it has not told the end of, in its order."""
        self.serial = 0
        """Of the last lease that it was given."""
        self.socket: socket.socket | None = None
        self.reader = FrameReader()
        self.unsent: list[tuple[int, int, str, int]] = []
        """Leases, each with its serial number, for the next frame."""
        self.outgoing = bytearray()
        self.watched_for_room = False

    @property
    def takes_leases(self) -> bool:
        return self.presence in (_Presence.COMING, _Presence.UP)

    def give(self, lease: Lease) -> None:
        """Note it, and put it into what is to be sent."""
        serial = self.serial = self.serial + 1
        self.given.append(_Given(serial, lease))
        self.unsent.append((*lease, serial))

    def forget_unsent(self) -> None:
        """Nothing more is to be sent to it."""
        self.unsent = []
        self.outgoing.clear()

    @property
    def burden(self) -> tuple[int, bool, int]:
        """The smaller, the better to give it the next lease."""
        return len(self.given), self.presence is not _Presence.UP, self.index


class Pool:
    """A rank's pool of worker processes."""

    def __init__(self, parent: int, control: socket.socket, board: Board) -> None:
        self._parent = parent
        self._control = control
        self._board = board
        self._state = _State.LAUNCHED
        self._workers: list[_Worker] = []
        self._by_fd: dict[int, _Worker] = {}
        self._reader = FrameReader()
        self._ends: deque[int] = deque()
        """Descriptors that came with the control socket's bytes, still to be named."""
        self._runner = ""
        """The name of the definition."""
        self._lost_at = 0.0
        self._killed_directly = False
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)

    @classmethod
    def launch(cls, create_runner: CreateRunner | None = None) -> "Pool":
        """Fork the pool's parent: before MPI is there, from a single-threaded rank.

        `create_runner` is called in each worker; the default is that of
        `mpifarm.runners`.
        """
        board = Board()
        ours, theirs = socket.socketpair()
        parent = processes.fork_child(
            lambda: serve_as_parent(theirs, board, create_runner or _default_runner())
        )
        theirs.close()
        return cls(parent, ours, board)

    def start(self, definition: PoolDefinition) -> None:
        """Have the workers forked.  Returns at once; leases wait for them."""
        if not 1 <= definition.workers <= CAPACITY:
            raise ValueError(f"a pool has 1 to {CAPACITY} workers")
        self._workers = [_Worker(index) for index in range(definition.workers)]
        self._state = _State.RUNNING
        self._runner = definition.runner.name
        self._order("start", encode_definition(definition))

    # ---- what the rank may know -----------------------------------------------------

    @property
    def parent(self) -> int:
        """The pid of the pool's parent."""
        return self._parent

    @property
    def workers(self) -> int:
        """How many workers it was given; 0 once it is lost or closed."""
        lost = self._state in (_State.LOST, _State.GONE, _State.CLOSED)
        return 0 if lost else len(self._workers)

    @property
    def idle(self) -> int:
        """Workers with nothing in hand."""
        if self._state is not _State.RUNNING:
            return 0
        return sum(worker.takes_leases and not worker.given for worker in self._workers)

    @property
    def busy(self) -> int:
        """Leases in hand."""
        return sum(len(worker.given) for worker in self._workers)

    @property
    def leases(self) -> list[Lease]:
        """What its workers have in hand."""
        return [each.lease for worker in self._workers for each in worker.given]

    def vacancies(self, ahead: int) -> int:
        """How many more leases it takes if each worker may hold ``1 + ahead``."""
        if self._state is not _State.RUNNING:
            return 0
        return sum(
            max(0, 1 + ahead - len(worker.given))
            for worker in self._workers
            if worker.takes_leases
        )

    def least_ahead(self) -> int:
        """Leases that each worker has, at the least, beyond the one that it runs.

        What has not left this process entirely, since its pipe is full, counts as none.
        """
        if self._state is not _State.RUNNING:
            return 0
        able = [
            0 if worker.outgoing else len(worker.given)
            for worker in self._workers
            if worker.takes_leases
        ]
        return max(0, min(able, default=0) - 1)

    @property
    def stopped(self) -> bool:
        """All workers and their commands are dead, and there will be no others."""
        match self._state:
            case _State.LAUNCHED | _State.RUNNING:
                return False
            case _State.ENDING:
                return all(w.presence is _Presence.DOWN for w in self._workers)
            case _State.LOST:
                return not self._by_fd
            case _State.GONE | _State.CLOSED:
                return True

    def read_fds(self) -> list[int]:
        """Readable when `collect` has something to do, writing included."""
        return [] if self._state is _State.CLOSED else [self._epoll.fileno()]

    # ---- leases out, results in -----------------------------------------------------

    def submit(self, leases: Iterable[Lease]) -> None:
        """Give each lease to a worker with the fewest in hand.

        Each worker is written to once: a write wakes it, and on a busy machine takes
        the processor from the rank.
        """
        if self._state not in (_State.RUNNING, _State.LOST):
            raise RuntimeError(f"a lease for a pool that is {self._state.value}")
        workers = self._workers
        able = [worker for worker in workers if worker.takes_leases] or workers
        burdens = [worker.burden for worker in able]
        heapify(burdens)
        for lease in leases:
            count, is_late, index = burdens[0]
            workers[index].give(lease)
            heapreplace(burdens, (count + 1, is_late, index))
        for worker in workers:
            if worker.unsent and worker.presence is _Presence.UP:
                self._send(worker)

    def recall(self) -> list[Lease]:
        """Take back the leases that no worker has begun, in their order.

        One that a worker comes to at this moment comes back as `LeaseReturned`.
        """
        if self._state is not _State.RUNNING:
            return []
        recalled = [each for worker in self._workers for each in self._recall(worker)]
        return [each.lease for each in recalled]

    def _recall(self, worker: _Worker) -> list[_Given]:
        if worker.presence is _Presence.COMING:
            begun = 0  # nothing was sent to it yet
            worker.forget_unsent()
        elif worker.presence is _Presence.UP and worker.given:
            begun = self._board.line(worker.index).recall(worker.serial)
        else:
            return []  # the end of a dead one tells of its leases
        recalled: deque[_Given] = deque()
        while worker.given and worker.given[-1].serial > begun:
            recalled.appendleft(worker.given.pop())
        return list(recalled)

    def collect(self) -> list[PoolEvent]:
        """What has happened.  Never blocks."""
        events: list[PoolEvent] = []
        if self._state is _State.CLOSED:
            return events
        for fd, mask in self._epoll.poll(0):
            if fd == self._control.fileno():
                events.extend(self._read_control())
            elif worker := self._by_fd.get(fd):
                if mask & select.EPOLLOUT:
                    self._flush(worker)
                if mask & ~select.EPOLLOUT:
                    events.extend(self._read_worker(worker))
        if self._state is _State.LOST:
            events.extend(self._settle_loss(time.monotonic()))
        return events

    def _send(self, worker: _Worker) -> None:
        """Send what it was given, behind what it had no room for."""
        has_room = not worker.outgoing
        worker.outgoing += encode_frame(tuple(worker.unsent))
        worker.unsent = []
        if has_room:
            self._flush(worker)

    def _flush(self, worker: _Worker) -> None:
        assert worker.socket is not None
        try:
            sent = worker.socket.send(worker.outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:  # it is dead; the parent will tell
            sent = len(worker.outgoing)
        del worker.outgoing[:sent]
        self._watch_room(worker, wanted=bool(worker.outgoing))

    def _watch_room(self, worker: _Worker, *, wanted: bool) -> None:
        if wanted is worker.watched_for_room or worker.socket is None:
            return
        worker.watched_for_room = wanted
        mask = select.EPOLLIN | (select.EPOLLOUT if wanted else 0)
        self._epoll.modify(worker.socket.fileno(), mask)

    def _read_worker(self, worker: _Worker) -> Iterator[PoolEvent]:
        """The results that have come; all of them once the worker has hung up."""
        while worker.socket is not None:
            try:
                piece = worker.socket.recv(_PIECE)
            except BlockingIOError:
                return
            except ConnectionError:
                piece = b""
            for values in worker.reader.feed(piece):
                if len(values) == _RETURN:
                    yield from self._on_return(worker, values[0])
                else:
                    yield self._end_of_lease(worker, values)
            if not piece:
                self._hang_up(worker)
            elif len(piece) < _PIECE and worker.presence is _Presence.UP:
                return

    def _on_return(self, worker: _Worker, serial: int) -> Iterator[LeaseReturned]:
        # Else it was back before its worker came to it.
        if worker.given and worker.given[0].serial == serial:
            yield LeaseReturned(worker.given.popleft().lease)

    def _end_of_lease(
        self, worker: _Worker, values: tuple[Any, ...]
    ) -> Result | LeaseRefused:
        lease = worker.given.popleft().lease
        if (lease.taskid, lease.attempt) != values[:2]:
            raise RuntimeError(f"an end of task {values[0]}, not of {lease.taskid}")
        if len(values) == _REFUSAL:
            return LeaseRefused(lease, values[2])
        taskid, attempt, status, started, seconds, ended, outcome, note = values
        return Result(
            *(taskid, attempt, _OUTCOMES[outcome], status),
            *(worker.pid, started, seconds, ended, note),
        )

    def _hang_up(self, worker: _Worker) -> None:
        if worker.socket is None:
            return
        fd = worker.socket.fileno()
        self._epoll.unregister(fd)
        del self._by_fd[fd]
        worker.socket.close()
        worker.socket = None
        worker.presence = _Presence.HUNG_UP

    # ---- what the parent says -------------------------------------------------------

    def _read_control(self) -> Iterator[PoolEvent]:
        try:
            piece, ends, _, _ = socket.recv_fds(
                self._control,
                _PIECE,
                16,
                socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
            )
        except BlockingIOError:
            return
        except ConnectionError:
            piece, ends = b"", []
        self._ends.extend(ends)
        if not piece:
            self._lose_parent()
        for values in self._reader.feed(piece):
            yield from self._hear(values)

    def _hear(self, values: tuple[Any, ...]) -> Iterator[PoolEvent]:
        match values:
            case ("up", index, pid):
                self._take_up(self._workers[index], pid, self._ends.popleft())
            case ("down", index, status, task, begun, seconds):
                worker = self._workers[index]
                yield from self._take_down(worker, status, task, seconds)
                yield from self._note_early_death(worker, status, begun)
            case _:
                raise RuntimeError(f"the pool's parent said {values!r}")

    def _take_up(self, worker: _Worker, pid: int, fd: int) -> None:
        worker.pid = pid
        worker.presence = _Presence.UP
        worker.reader = FrameReader()
        worker.watched_for_room = False
        worker.socket = socket.socket(fileno=fd)
        worker.socket.setblocking(False)
        self._by_fd[fd] = worker
        self._epoll.register(fd, select.EPOLLIN)
        if self._state is not _State.RUNNING:
            _send_no_more(worker)
        elif worker.unsent:
            self._send(worker)

    def _take_down(
        self, worker: _Worker, status: int | None, task: int | None, seconds: float
    ) -> Iterator[PoolEvent]:
        """It died at this task; `seconds`: of a run whose time was over, or 0."""
        # It is dead: what it sent is all there, and read to the last byte before it
        # counts as lost.  (A child of a user's runner may still hold its socket.)
        worker.presence = _Presence.DOWN
        yield from self._read_worker(worker)
        self._hang_up(worker)
        worker.presence = _Presence.DOWN
        leases = tuple(each.lease for each in worker.given)
        worker.given.clear()
        worker.forget_unsent()
        if self._state is not _State.RUNNING:
            return
        if seconds and leases and leases[0].taskid == task:
            yield _timed_out(leases[0], worker.pid, seconds)
            leases = leases[1:]
            task = None
        yield _worker_lost(leases, status, task)

    def _note_early_death(
        self, worker: _Worker, status: int | None, begun: int
    ) -> Iterator[PoolUseless]:
        worker.early_deaths = 0 if begun else worker.early_deaths + 1
        if self._state is _State.RUNNING and all(map(self._dies_early, self._workers)):
            yield PoolUseless(_why_useless(status, self._runner))

    def _dies_early(self, worker: _Worker) -> bool:
        is_at_work = worker.presence is _Presence.UP and (
            self._board.line(worker.index).begun > 0
        )
        return worker.early_deaths >= _EARLY_DEATHS and not is_at_work

    # ---- the end --------------------------------------------------------------------

    def terminate(self) -> None:
        """Workers start nothing more, terminate their runners, report, and exit.

        Again, it terminates what still runs again.
        """
        self._end_leases()
        self._order("terminate")

    def kill(self) -> None:
        """KILL all commands and workers, now."""
        self._end_leases()
        self._order("kill")
        if self._state is _State.LOST:
            self._kill_directly()

    def close(self) -> None:
        """Let idle workers and the parent exit, and reap it; what still runs is killed.

        Blocks for a moment; never for long.
        """
        if self._state is _State.CLOSED:
            return
        self._end_leases()
        self._order("close")
        self._await_stop(time.monotonic() + _CLOSE_PATIENCE)
        if self._state is _State.LOST:
            self._kill_directly()
        # The end of the control socket makes the parent kill the rest and exit.
        self._control.close()
        if not processes.reap_child_within(self._parent, _CLOSE_PATIENCE):
            processes.kill_process(self._parent, signal.SIGKILL)
            processes.reap_child_within(self._parent, _CLOSE_PATIENCE)
        self._state = _State.CLOSED
        for worker in self._workers:
            if worker.socket is not None:
                worker.socket.close()
        self._epoll.close()

    def _await_stop(self, deadline: float) -> None:
        while not self.stopped and (left := deadline - time.monotonic()) > 0:
            select.select(self.read_fds(), (), (), min(left, 0.1))
            self.collect()

    def _end_leases(self) -> None:
        if self._state in (_State.LAUNCHED, _State.RUNNING):
            self._state = _State.ENDING
            for worker in self._workers:
                _send_no_more(worker)

    def _order(self, *order: Any) -> None:
        try:
            self._control.sendall(encode_frame(order))
        except OSError:
            return  # the parent is dead, which `collect` finds out

    def _lose_parent(self) -> None:
        self._epoll.unregister(self._control.fileno())
        self._lost_at = time.monotonic()
        for worker in self._workers:
            if worker.socket is None:
                worker.presence = _Presence.DOWN
        self._state = _State.LOST
        processes.reap_child_within(self._parent, 0.0)

    def _settle_loss(self, now: float) -> Iterator[PoolGone]:
        """Tell what the loss costs, once the workers are dead as well."""
        if self._by_fd and now > self._lost_at + _ORPHAN_PATIENCE:
            self._kill_directly()
        if self._by_fd and now < self._lost_at + 3 * _ORPHAN_PATIENCE:
            return
        for worker in self._workers:
            self._hang_up(worker)
        self._kill_left_commands()
        self._state = _State.GONE
        yield PoolGone(tuple(each.lease for w in self._workers for each in w.given))
        for worker in self._workers:
            worker.given.clear()

    def _kill_directly(self) -> None:
        """KILL workers that did not notice their parent's death (in native code, say).

        Their pids are theirs as long as their sockets are open.
        """
        if self._killed_directly:
            return
        self._killed_directly = True
        for worker in self._by_fd.values():
            command = self._board.line(worker.index).command
            processes.kill_process(worker.pid, signal.SIGKILL)
            processes.kill_group(worker.pid, signal.SIGKILL)
            if command > 0:
                processes.kill_group(command, signal.SIGKILL)

    def _kill_left_commands(self) -> None:
        """KILL the commands of workers that were killed together with the parent.

        Nobody clears the slot of a dead worker, so the process has to say that it is
        of the task.
        """
        for worker in self._workers:
            line = self._board.line(worker.index)
            command, task = line.command, line.task
            if command > 0 and task is not None:
                words = processes.environment_of(command).split(b"\0")
                if b"MPIFARM_TASK_ID=%d" % task in words:
                    processes.kill_group(command, signal.SIGKILL)


def _default_runner() -> CreateRunner:
    # Imported by the pool's parent: the rank itself goes on into MPI meanwhile.
    from mpifarm.runners import create_runner

    return create_runner


def _send_no_more(worker: _Worker) -> None:
    worker.forget_unsent()
    if worker.socket is not None:
        try:
            worker.socket.shutdown(socket.SHUT_WR)
        except OSError:  # it is dead
            return


def _why_useless(status: int | None, runner: str) -> str:
    host = os.uname().nodename
    if status is None:
        return (
            f"no worker can be started on host {host}: see how many processes and open "
            "files you may have there (ulimit -u, ulimit -n)"
        )
    manner = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return (
        f"the workers on host {host} die before their first task ({manner}): see what "
        f"the runner {runner!r} does there when it is made"
    )


def _timed_out(lease: Lease, worker: int, seconds: float) -> Result:
    """The result of a task that had to be ended together with its worker."""
    outcome, started = Outcome.TIMED_OUT, time.time() - seconds
    return Result(
        *(lease.taskid, lease.attempt, outcome, -signal.SIGKILL),
        *(worker, started, seconds, time.monotonic()),
    )


def _worker_lost(
    leases: tuple[Lease, ...], status: int | None, task: int | None
) -> WorkerLost:
    if leases and leases[0].taskid == task:
        return WorkerLost(leases[0], leases[1:], status)
    return WorkerLost(None, leases, status)
