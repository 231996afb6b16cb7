"""The rank's side of its pool: leases to workers, events from them, their lifetime.

Rules of this file:

- Nothing here blocks but `close`, which is bounded.  One descriptor (an epoll) becomes
  readable when `collect` has something to do.
- The fork server forks the workers and reports their births and deaths; leases and
  results pass between rank and worker directly (`worker_link`).
- When the fork server dies, its workers follow.  The rank waits for that, then kills
  the rest itself and reports `PoolGone`.
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
from typing import Any

from mpifarm.model.task import Lease, Outcome, Result, RunningTask
from mpifarm.pool.definition import (
    CreateRunner,
    PoolDefinition,
    PoolEvent,
    PoolGone,
    PoolUseless,
    WorkerLost,
    encode_definition,
)
from mpifarm.pool.fork_server import run_fork_server
from mpifarm.pool.framing import FrameReader, encode_frame
from mpifarm.pool.shared_state import CAPACITY, SharedState
from mpifarm.pool.worker_link import WorkerLink, WorkerState
from mpifarm.system import processes

_PIECE = 65536
_ORPHAN_PATIENCE = 0.25
"""Seconds in which workers should notice that the fork server is dead."""
_CLOSE_PATIENCE = 2.0
"""Seconds for each step of an orderly end."""


class PoolState(Enum):
    """The state of a pool; each change follows `_TRANSITIONS`."""

    LAUNCHED = "launched"
    """The fork server is there, and no worker yet."""
    RUNNING = "running"
    ENDING = "ending"
    """After `terminate`, `kill` or `close`: no worker begins another lease."""
    ORPHANED = "orphaned"
    """The fork server is dead, some workers maybe not yet."""
    KILLED = "killed"
    """As `ORPHANED`, and the rank has KILLed the workers that still lived."""
    GONE = "gone"
    """The fork server is dead, and `PoolGone` has been reported."""
    CLOSED = "closed"


_TRANSITIONS = {
    PoolState.LAUNCHED: {PoolState.RUNNING, PoolState.ENDING, PoolState.ORPHANED},
    PoolState.RUNNING: {PoolState.ENDING, PoolState.ORPHANED},
    PoolState.ENDING: {PoolState.ORPHANED, PoolState.CLOSED},
    PoolState.ORPHANED: {PoolState.KILLED, PoolState.GONE, PoolState.CLOSED},
    PoolState.KILLED: {PoolState.GONE, PoolState.CLOSED},
    PoolState.GONE: {PoolState.CLOSED},
    PoolState.CLOSED: set(),
}

_BEFORE_THE_END = (PoolState.LAUNCHED, PoolState.RUNNING)
_WITHOUT_FORK_SERVER = (PoolState.ORPHANED, PoolState.KILLED)
_WITH_WORKERS = (*_BEFORE_THE_END, PoolState.ENDING)
_TAKES_LEASES = (PoolState.RUNNING, *_WITHOUT_FORK_SERVER)
"""`PoolGone` names the leases that a rank submits before it knows of the loss."""


class Pool:
    """A rank's pool of worker processes."""

    def __init__(
        self, fork_server: int, control: socket.socket, shared: SharedState
    ) -> None:
        self._fork_server = fork_server
        self._control = control
        self._shared = shared
        self._state = PoolState.LAUNCHED
        self._workers: list[WorkerLink] = []
        self._by_fd: dict[int, WorkerLink] = {}
        """Workers by their last socket; one that is closed makes no events."""
        self._reader = FrameReader()
        self._passed_fds: deque[int] = deque()
        """Descriptors that came with the control socket's bytes, in their order."""
        self._runner = ""
        """The name of the runner's definition."""
        self._orphaned_at = 0.0
        self._epoll = select.epoll()
        self._epoll.register(control, select.EPOLLIN)

    @classmethod
    def launch(cls, create_runner: CreateRunner | None = None) -> "Pool":
        """Fork the fork server: before MPI is there, from a single-threaded rank.

        `create_runner` is called in each worker; the default is that of
        `mpifarm.runners`.  Raises OSError if the fork fails.
        """
        shared = SharedState()
        ours, theirs = socket.socketpair()
        fork_server = processes.fork_child(
            lambda: run_fork_server(theirs, shared, create_runner or _default_runner())
        )
        theirs.close()
        return cls(fork_server, ours, shared)

    def start(self, definition: PoolDefinition) -> None:
        """Have the workers forked.  Return at once; leases wait for the workers.

        Raises ValueError for a wrong number of workers, RuntimeError at a second call.
        """
        if not 1 <= definition.workers <= CAPACITY:
            raise ValueError(f"a pool has 1 to {CAPACITY} workers")
        self._enter(PoolState.RUNNING)
        self._workers = [
            WorkerLink(index, self._shared.row(index), self._epoll)
            for index in range(definition.workers)
        ]
        self._runner = definition.runner.name
        self._order("start", encode_definition(definition))

    def _enter(self, state: PoolState) -> None:
        """Set the state; raise RuntimeError if `_TRANSITIONS` has no such change."""
        if state not in _TRANSITIONS[self._state]:
            raise RuntimeError(f"a pool that is {self._state} can't get {state}")
        self._state = state

    # ---- what the rank may know -----------------------------------------------------

    @property
    def fork_server(self) -> int:
        """Return the pid of the fork server."""
        return self._fork_server

    @property
    def workers(self) -> int:
        """Return the number of workers; 0 once the pool is lost or closed."""
        return len(self._workers) if self._state in _WITH_WORKERS else 0

    @property
    def idle(self) -> int:
        """Return how many workers hold no lease; 0 unless the pool is running."""
        if self._state is not PoolState.RUNNING:
            return 0
        return sum(worker.takes_leases and not worker.held for worker in self._workers)

    @property
    def busy(self) -> int:
        """Return how many leases the workers hold, also those not sent yet."""
        return sum(len(worker.held) for worker in self._workers)

    @property
    def leases(self) -> list[Lease]:
        """Return the leases that the workers hold, each worker's in their order."""
        return [each.lease for worker in self._workers for each in worker.held]

    def vacancies(self, ahead: int) -> int:
        """Return how many more leases fit if each worker may hold ``1 + ahead``.

        0 unless the pool is running.
        """
        if self._state is not PoolState.RUNNING:
            return 0
        return sum(
            max(0, 1 + ahead - len(worker.held))
            for worker in self._workers
            if worker.takes_leases
        )

    def least_ahead(self) -> int:
        """Return how many leases each worker has, at least, beyond the one it runs.

        A worker whose pipe is full counts as one without: its leases are still here.  0
        unless the pool is running.
        """
        if self._state is not PoolState.RUNNING:
            return 0
        held = [
            0 if worker.outgoing else len(worker.held)
            for worker in self._workers
            if worker.takes_leases
        ]
        return max(0, min(held, default=0) - 1)

    @property
    def stopped(self) -> bool:
        """Return whether all workers and commands are dead for good."""
        match self._state:
            case PoolState.LAUNCHED | PoolState.RUNNING:
                return False
            case PoolState.ENDING:
                return all(w.state is WorkerState.DOWN for w in self._workers)
            case PoolState.ORPHANED | PoolState.KILLED:
                return not self._connected
            case PoolState.GONE | PoolState.CLOSED:
                return True

    @property
    def _connected(self) -> list[WorkerLink]:
        return [each for each in self._workers if each.state is WorkerState.UP]

    def read_fds(self) -> list[int]:
        """Return descriptors that get readable when `collect` has something to do.

        Room to send is something to do, too.  [] once the pool is closed.
        """
        return [] if self._state is PoolState.CLOSED else [self._epoll.fileno()]

    # ---- feeding --------------------------------------------------------------------

    def submit(self, leases: Iterable[Lease]) -> None:
        """Give each lease to the worker that holds the fewest, and send them.

        Workers that take no leases get some only if there are no others.  Raises
        RuntimeError before `start`, and once the pool is ending, gone or closed.
        """
        if self._state not in _TAKES_LEASES:
            raise RuntimeError(f"a lease for a pool that is {self._state.value}")
        workers = self._workers
        able = [worker for worker in workers if worker.takes_leases] or workers
        loads = [worker.load for worker in able]
        heapify(loads)
        for lease in leases:
            count, is_late, index = loads[0]
            workers[index].give(lease)
            heapreplace(loads, (count + 1, is_late, index))
        # One write for all leases of a worker: each write wakes the worker, and on a
        # busy machine takes the processor from this rank.
        for worker in workers:
            if worker.unsent and worker.state is WorkerState.UP:
                worker.send()

    def recall(self) -> list[Lease]:
        """Take back the leases that no worker has begun, in their order.

        A lease that a worker is just beginning comes back as `LeaseReturned`.  []
        unless the pool is running.
        """
        if self._state is not PoolState.RUNNING:
            return []
        return [lease for worker in self._workers for lease in worker.recall()]

    def cancel(self, taskid: int, attempt: int) -> None:
        """Have the run of a lease ended: TERM, and KILL after the grace time.

        Its result is CANCELLED unless it ends before.  A run that has yet to begin is
        ended when it has.
        """
        if self._state is not PoolState.RUNNING:
            return
        for worker in self._workers:
            serial = worker.find_serial(taskid, attempt)
            if serial is not None:
                self._order("cancel", worker.index, serial)

    # ---- collecting -----------------------------------------------------------------

    def collect(self) -> list[PoolEvent]:
        """Return the events since the last call, and send what has waited for room.

        Does not block.  Settles the loss of the fork server, too.
        """
        events: list[PoolEvent] = []
        if self._state is PoolState.CLOSED:
            return events
        for fd, mask in self._epoll.poll(0):
            if fd == self._control.fileno():
                events.extend(self._read_control())
            elif worker := self._by_fd.get(fd):
                if mask & select.EPOLLOUT:
                    worker.send_more()
                if mask & ~select.EPOLLOUT:
                    events.extend(worker.receive())
        if self._state in _WITHOUT_FORK_SERVER:
            events.extend(self._settle_loss(time.monotonic()))
        return events

    def _read_control(self) -> Iterator[PoolEvent]:
        """Yield the events of the fork server's notices; at the end, note its loss."""
        try:
            piece, fds, _, _ = socket.recv_fds(
                self._control,
                _PIECE,
                16,
                socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
            )
        except BlockingIOError:
            return
        except ConnectionError:
            piece, fds = b"", []
        self._passed_fds.extend(fds)
        if not piece:
            self._lose_fork_server()
        for values in self._reader.feed(piece):
            yield from self._on_notice(values)

    def _on_notice(self, notice: tuple[Any, ...]) -> Iterator[PoolEvent]:
        match notice:
            case ("up", index, pid):
                self._on_up(self._workers[index], pid, self._passed_fds.popleft())
            case ("down", index, status, task, begun, outcome, seconds):
                worker = self._workers[index]
                ending = (Outcome(outcome), seconds) if outcome else None
                yield from self._on_down(worker, status, task, ending)
                yield from self._on_early_death(worker, status, begun)
            case _:
                raise RuntimeError(f"the fork server said {notice!r}")

    def _on_up(self, worker: WorkerLink, pid: int, fd: int) -> None:
        """Connect to a new worker; send its leases, or their end if the pool ends."""
        worker.connect(pid, fd)
        self._by_fd[fd] = worker
        if self._state is not PoolState.RUNNING:
            worker.send_no_more()
        elif worker.unsent:
            worker.send()

    def _on_down(
        self,
        worker: WorkerLink,
        status: int | None,
        task: int | None,
        ending: tuple[Outcome, float] | None,
    ) -> Iterator[PoolEvent]:
        """Take down a worker that died at this task.

        `ending`: the outcome and the seconds of a run that was beyond a limit.
        """
        # It is dead, so all that it sent is there: results that are read to the last
        # byte now do not count as lost.  (There may be no end of the socket: a child of
        # a user's runner may still hold it open.)
        yield from worker.receive(to_end=True)
        leases = worker.take_down()
        if self._state is not PoolState.RUNNING:
            return
        if ending and leases and leases[0].taskid == task:
            yield _ended(leases[0], worker.pid, worker.index, *ending)
            leases = leases[1:]
            task = None
        yield _worker_lost(leases, status, task)

    def _on_early_death(
        self, worker: WorkerLink, status: int | None, begun: int
    ) -> Iterator[PoolUseless]:
        """Count the death; report the pool useless if all workers die early."""
        worker.count_death(begun)
        is_running = self._state is PoolState.RUNNING
        if is_running and all(each.dies_early for each in self._workers):
            yield PoolUseless(_why_useless(status, self._runner))

    def count_busy(self) -> int:
        """Return how many workers hold leases, and so run a task or begin one."""
        return sum(1 for worker in self._workers if worker.held)

    def running_tasks(self) -> list[RunningTask]:
        """Return what the workers run; costs about a microsecond for each worker."""
        if self._state is not PoolState.RUNNING:
            return []
        return [
            running
            for worker in self._workers
            if (running := worker.find_running()) is not None
        ]

    # ---- the end --------------------------------------------------------------------

    def terminate(self) -> None:
        """Have workers start nothing more, terminate their runners, report, and exit.

        A second call terminates again what still runs.  Leases not sent yet are
        dropped.
        """
        self._end_leases()
        self._order("terminate")

    def kill(self) -> None:
        """KILL all commands and workers, now; leases not sent yet are dropped."""
        self._end_leases()
        self._order("kill")
        self._kill_orphans()

    def close(self) -> None:
        """Let idle workers and the fork server exit, then kill what still runs.

        Blocks for a moment; for three times `_CLOSE_PATIENCE` at most.
        """
        if self._state is PoolState.CLOSED:
            return
        self._end_leases()
        self._order("close")
        self._await_stop(time.monotonic() + _CLOSE_PATIENCE)
        self._kill_orphans()
        # At the end of the control socket the fork server kills the rest and exits.
        self._control.close()
        if not processes.reap_child_within(self._fork_server, _CLOSE_PATIENCE):
            processes.kill_process(self._fork_server, signal.SIGKILL)
            processes.reap_child_within(self._fork_server, _CLOSE_PATIENCE)
        self._enter(PoolState.CLOSED)
        for worker in self._workers:
            worker.hang_up()
        self._epoll.close()

    def _await_stop(self, deadline: float) -> None:
        """Collect, and drop, events until the pool has stopped, or until `deadline`."""
        while not self.stopped and (left := deadline - time.monotonic()) > 0:
            select.select(self.read_fds(), (), (), min(left, 0.1))
            self.collect()

    def _end_leases(self) -> None:
        """Enter ENDING from an earlier state: workers exit after what they run."""
        if self._state in _BEFORE_THE_END:
            self._enter(PoolState.ENDING)
            for worker in self._workers:
                worker.send_no_more()

    def _order(self, *order: Any) -> None:
        """Send the fork server an order; no effect if it is dead."""
        try:
            self._control.sendall(encode_frame(order))
        except OSError:
            return  # the fork server is dead, which `collect` finds out

    # ---- loss of the fork server ----------------------------------------------------

    def _lose_fork_server(self) -> None:
        """Enter ORPHANED, and reap the fork server: its control socket has ended."""
        self._epoll.unregister(self._control)
        self._orphaned_at = time.monotonic()
        self._enter(PoolState.ORPHANED)
        processes.reap_child_within(self._fork_server, 0.0)

    def _settle_loss(self, now: float) -> Iterator[PoolGone]:
        """Report `PoolGone` once the workers are dead as well; KILL those that live on.

        Nothing happens before that, for three times `_ORPHAN_PATIENCE` at most.
        """
        waited = now - self._orphaned_at
        if self._connected and waited > _ORPHAN_PATIENCE:
            self._kill_orphans()
        if self._connected and waited < 3 * _ORPHAN_PATIENCE:
            return
        for worker in self._workers:
            worker.hang_up()
        self._kill_left_commands()
        self._enter(PoolState.GONE)
        yield PoolGone(tuple(self.leases))
        for worker in self._workers:
            worker.held.clear()

    def _kill_orphans(self) -> None:
        """KILL, once, workers that outlive the fork server, and their commands' groups.

        They may be in native code, say.  No effect unless the pool is ORPHANED.
        """
        if self._state is not PoolState.ORPHANED:
            return
        self._enter(PoolState.KILLED)
        # Only the connected: as long as its socket is open, a pid is its worker's.
        for worker in self._connected:
            command = worker.row.command
            # The worker before its command, whose end would have it start the next.
            processes.kill_process(worker.pid, signal.SIGKILL)
            processes.kill_group(worker.pid, signal.SIGKILL)
            if command > 0:
                processes.kill_group(command, signal.SIGKILL)

    def _kill_left_commands(self) -> None:
        """KILL the commands of workers that were killed together with the fork server.

        Nobody clears the row of a dead worker, so its pid may be another process's by
        now: that of the command names its task.
        """
        for worker in self._workers:
            command, task = worker.row.command, worker.row.task
            if command > 0 and task is not None:
                words = processes.environment_of(command).split(b"\0")
                if b"MPIFARM_TASK_ID=%d" % task in words:
                    processes.kill_group(command, signal.SIGKILL)


def _default_runner() -> CreateRunner:
    # Imported by the fork server: the rank itself goes on into MPI meanwhile.
    from mpifarm.runners import create_runner

    return create_runner


def _why_useless(status: int | None, runner: str) -> str:
    """Return why no worker begins a task; without `status`, none can be forked."""
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


def _ended(
    lease: Lease, worker: int, index: int, outcome: Outcome, seconds: float
) -> Result:
    """Return the result of a task that had to be ended together with its worker."""
    return Result(
        *(lease.taskid, lease.attempt, outcome, -signal.SIGKILL),
        *(worker, time.time() - seconds, seconds, time.monotonic()),
        worker_index=index,
    )


def _worker_lost(
    leases: tuple[Lease, ...], status: int | None, task: int | None
) -> WorkerLost:
    """Return the event of a worker's death; `task` is the task that it ran, if any."""
    if leases and leases[0].taskid == task:
        return WorkerLost(leases[0], leases[1:], status)
    return WorkerLost(None, leases, status)
