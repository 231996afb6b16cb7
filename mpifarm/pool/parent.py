"""The pool's parent: forks the workers, and cleans up after each that dies.

Rules of this file:

- Forked by the rank before there is MPI in it; single-threaded; runs no task itself.
- It lives as long as the rank holds the control socket: at its end everything dies.
- A worker is *buried* before its pid is reaped: its task's processes are KILLed, then
  the rank is told.  Only then may the pid, and the task, be used again.
- After `terminate`, `kill` or `close` no worker is started any more, and no run's time
  is over any more: a stop has its own grace time.
"""

import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from mpifarm import processes
from mpifarm.pool.board import Board
from mpifarm.pool.definition import CreateRunner, PoolDefinition, parse_definition
from mpifarm.pool.log import note_in_log, time_limit_line
from mpifarm.pool.wire import FrameReader, encode_frame
from mpifarm.pool.worker import REMIND, TERMINATE, WorkerPlace, serve_as_worker

if TYPE_CHECKING:  # imported where there is a limit
    from mpifarm.pool.time_limit import TimeKeeper

_BACK_OFF = 0.1
_LONGEST_BACK_OFF = 10.0
_DEATH_PATIENCE = 0.5
"""Seconds to wait for what was KILLed to be gone, for each worker."""
_REMIND_EVERY = 0.05
_LEAVE_PATIENCE = 5.0
"""Seconds after which the parent leaves, be there workers that do not die (NFS)."""

_STRAY_PAUSES = (0.001,) * 10 + (0.01,) * 10
"""Seconds between two looks for strays: each look is only as good as its moment."""


class _Phase(Enum):
    SERVING = "serving"
    ENDING = "ending"
    """Workers that end are not replaced."""
    TERMINATING = "terminating"
    """They have also been told to end, and are reminded of it."""
    LEAVING = "leaving"
    """The rank is gone; so are we as soon as the workers are."""


class _Kinship(Enum):
    """What an orphan has to do with tasks whose workers are dead."""

    NONE = "none"
    OF_TASKS = "of the tasks"
    UNKNOWN = "unknown"
    """It is in the middle of its exec, or has an empty environment."""


@dataclass
class _Child:
    pid: int
    lifeline: int
    given_up: bool = False
    """KILLed by us, for it was still at a run whose time was over."""


def serve_as_parent(
    control: socket.socket, board: Board, create_runner: CreateRunner
) -> None:
    """Be the pool's parent until the rank is gone; in a fresh fork."""
    processes.leave_session()
    processes.close_descriptors_except({control.fileno()})
    processes.drop_signal_stack()
    processes.calm_signals()
    PoolParent(control, board, create_runner).serve()


class PoolParent:
    """The loop of the pool's parent."""

    def __init__(
        self, control: socket.socket, board: Board, create_runner: CreateRunner
    ) -> None:
        self._control = control
        self._board = board
        self._create_runner = create_runner
        self._orders = FrameReader()
        self._phase = _Phase.SERVING
        self._definition: PoolDefinition | None = None
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = {}
        """When to start the worker `index`, monotonic."""
        self._back_off: dict[int, float] = {}
        self._leave_by = 0.0
        self._time: TimeKeeper | None = None
        self._writers: set[int] = set()
        """Children that write into a log, and end."""
        self._death_notice = _watch_children()

    def serve(self) -> None:
        """Follow orders and bury the dead."""
        while not self._may_leave():
            self._wait()
            self._bury_dead()
            self._start_due()
            self._look_at_time()

    def _may_leave(self) -> bool:
        return self._phase is _Phase.LEAVING and (
            not self._children or time.monotonic() > self._leave_by
        )

    def _wait(self) -> None:
        sources: list[Any] = [self._death_notice]
        if self._phase is not _Phase.LEAVING:
            sources.append(self._control)
        ready, _, _ = select.select(sources, (), (), self._patience())
        if self._death_notice in ready:
            os.read(self._death_notice, 4096)
        if self._control in ready:
            self._read_orders()
        elif self._phase is _Phase.TERMINATING:
            self._tell_workers(REMIND)

    def _patience(self) -> float | None:
        if self._phase is _Phase.LEAVING:
            return 0.1
        if self._phase is _Phase.TERMINATING and self._children:
            return _REMIND_EVERY
        wake_at = [*self._due.values()]
        if self._time is not None and self._phase is _Phase.SERVING:
            wake_at.append(self._time.look_at / 1e9)
        return max(0.0, min(wake_at) - time.monotonic()) if wake_at else None

    # ---- orders of the rank ---------------------------------------------------------

    def _read_orders(self) -> None:
        try:
            piece = self._control.recv(65536)
        except ConnectionError:
            piece = b""
        if not piece:
            self._leave()
        for order in self._orders.feed(piece):
            self._follow(order)

    def _follow(self, order: tuple[Any, ...]) -> None:
        match order:
            case ("start", values):
                self._start(parse_definition(values))
            case ("terminate",):
                self._end(_Phase.TERMINATING)
                self._tell_workers(TERMINATE)
            case ("kill",):
                self._end(_Phase.ENDING)
                self._kill_workers()
            case ("close",):
                self._end(_Phase.ENDING)
            case _:
                raise ValueError(f"unknown order {order!r}")

    def _start(self, definition: PoolDefinition) -> None:
        # Here and not at launch: the rank is in MPI_Init meanwhile.
        processes.adopt_orphans()
        self._definition = definition
        if definition.limits.timeout is not None:
            from mpifarm.pool.time_limit import TimeKeeper

            self._time = TimeKeeper(definition.limits.timeout, definition.grace)
        now = time.monotonic()
        self._due = dict.fromkeys(range(definition.workers), now)

    def _end(self, phase: _Phase) -> None:
        self._phase = phase
        for index in self._due:
            self._tell_unborn(index)
        self._due = {}

    def _leave(self) -> None:
        self._phase = _Phase.LEAVING
        self._due = {}
        self._leave_by = time.monotonic() + _LEAVE_PATIENCE
        self._kill_workers()

    def _tell_workers(self, word: bytes) -> None:
        for child in self._children.values():
            self._tell_worker(child, word)

    def _tell_worker(self, child: _Child, word: bytes) -> None:
        with suppress(OSError):  # it is dead, or has not listened for long
            os.write(child.lifeline, word)

    def _kill_workers(self) -> None:
        # The worker before its command: one that sees that end would start the next.
        for index, child in self._children.items():
            processes.kill_process(child.pid, signal.SIGKILL)
            command = self._board.line(index).command
            if command > 0:
                processes.kill_group(command, signal.SIGKILL)

    # ---- birth ----------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, when in self._due.items() if when <= now]:
            del self._due[index]
            self._start_worker(index)

    def _start_worker(self, index: int) -> None:
        try:
            self._fork_worker(index)
        except OSError:  # too many processes or descriptors: later, maybe
            self._tell_unborn(index)
            self._plan_replacement(index, begun=0)

    def _fork_worker(self, index: int) -> None:
        assert self._definition is not None
        definition, line = self._definition, self._board.line(index)
        line.clear()
        rank_end, worker_end = socket.socketpair()
        with rank_end, worker_end:
            lifeline, held_end = os.pipe()
            try:
                place = WorkerPlace(index, line, worker_end, lifeline)
                pid = processes.fork_child(
                    lambda: serve_as_worker(definition, place, self._create_runner)
                )
            except OSError:
                os.close(held_end)
                raise
            finally:
                os.close(lifeline)
            os.set_blocking(held_end, False)
            self._children[index] = _Child(pid, held_end)
            self._tell(("up", index, pid), rank_end)

    # ---- runs that take too long ----------------------------------------------------

    def _look_at_time(self) -> None:
        if self._time is None or self._phase is not _Phase.SERVING:
            return
        lines = {index: self._board.line(index) for index in self._children}
        for index, measure in self._time.look(lines, time.monotonic_ns()):
            child = self._children[index]
            if measure is measure.REMIND:
                self._tell_worker(child, REMIND)
            else:
                child.given_up = True
                processes.kill_process(child.pid, signal.SIGKILL)

    def _time_of_death(self, index: int, task: int | None) -> tuple[int | None, int]:
        """The task that this dead worker was at, as the rank is to be told.

        And the run time in ns, if it was a run whose time was over; otherwise 0.
        """
        line = self._board.line(index)
        if task is not None and line.verdict:
            self._note_in_log(index, task)
            return task, time.monotonic_ns() - line.since
        # It had ended that run at the last moment: the next one has hardly begun.
        return None if self._children[index].given_up else task, 0

    def _note_in_log(self, index: int, task: int) -> None:
        """In a process of its own: nothing here may wait for the disk."""
        assert self._definition is not None
        definition = self._definition
        text = time_limit_line(definition.limits.timeout or 0.0)
        with suppress(OSError):
            writer = processes.fork_child(
                lambda: note_in_log(definition, index, task, text)
            )
            self._writers.add(writer)

    # ---- death ----------------------------------------------------------------------

    def _bury_dead(self) -> None:
        while (dead := processes.find_dead_child()) is not None:
            # Workers before orphans: an orphan may be the command of a worker not yet
            # buried, whose slot must not outlive its pid.
            workers = {
                index: child
                for index, child in self._children.items()
                if processes.find_dead_child(child.pid) is not None
            }
            self._bury(workers)
            if processes.find_dead_child(dead) is not None:
                processes.reap_child(dead)
                self._writers.discard(dead)

    def _bury(self, workers: dict[int, _Child]) -> None:
        """KILL what these dead workers were at, reap them, and tell the rank."""
        tasks = {index: self._board.line(index).task for index in workers}
        at_work = [index for index, task in tasks.items() if task is not None]
        for index in at_work:
            self._kill_groups(workers[index].pid, self._board.line(index).command)
        if at_work:
            self._kill_strays({task for task in tasks.values() if task is not None})
        for index, child in workers.items():
            status = processes.reap_child(child.pid)
            if tasks[index] is not None:
                _await_groups(child.pid, self._board.line(index).command)
            task, nanoseconds = self._time_of_death(index, tasks[index])
            del self._children[index]
            os.close(child.lifeline)
            begun = self._board.line(index).begun
            self._tell(("down", index, status, task, begun, nanoseconds / 1e9))
            if self._phase is _Phase.SERVING:
                self._plan_replacement(index, begun)

    def _kill_groups(self, worker: int, command: int) -> None:
        # The worker's group first: the children of a user's runner, and a command that
        # has not come to its setsid yet; after that it has, or is dead.
        processes.kill_group(worker, signal.SIGKILL)
        if command > 0:
            processes.kill_group(command, signal.SIGKILL)

    def _kill_strays(self, tasks: set[int]) -> None:
        """KILL what belongs to these tasks and is in no group that is known.

        A command that its worker had no time to tell of, and what has left its session.
        Other orphans here are what earlier tasks left running; they are left alone.
        """
        for pause in _STRAY_PAUSES:
            kinships = {pid: self._kinship(pid, tasks) for pid in self._orphans()}
            for orphan, kinship in kinships.items():
                if kinship is _Kinship.OF_TASKS:
                    processes.kill_group(orphan, signal.SIGKILL)
                    processes.kill_process(orphan, signal.SIGKILL)
            if set(kinships.values()) <= {_Kinship.NONE}:
                return
            time.sleep(pause)

    def _orphans(self) -> list[int]:
        """Children that became it when their parents died, and their descendants.

        The monitor of a Podman container, for one, bears no name of a task, but what
        runs in the container does.
        """
        ours = {child.pid for child in self._children.values()} | self._writers
        found = [pid for pid in _children_of(os.getpid()) if pid not in ours]
        for pid in found:  # which grows meanwhile
            found.extend(_children_of(pid))
        return found

    def _kinship(self, orphan: int, tasks: set[int]) -> "_Kinship":
        environment = processes.environment_of(orphan)
        if not environment:
            alive = processes.is_alive(orphan)
            return _Kinship.UNKNOWN if alive else _Kinship.NONE
        # Between fork and exec a command still has our own.
        if environment == processes.environment_of(os.getpid()):
            return _Kinship.OF_TASKS
        assert self._definition is not None
        words = set(environment.split(b"\0"))
        ours = b"MPIFARM_FARM=" + os.fsencode(self._definition.farm) in words
        named = any(b"MPIFARM_TASK_ID=%d" % task in words for task in tasks)
        return _Kinship.OF_TASKS if ours and named else _Kinship.NONE

    def _plan_replacement(self, index: int, begun: int) -> None:
        if begun:
            self._back_off.pop(index, None)
            self._due[index] = time.monotonic()
            return
        # It died before it ran anything, and so may the next.
        wait = self._back_off.get(index, _BACK_OFF)
        self._back_off[index] = min(2 * wait, _LONGEST_BACK_OFF)
        self._due[index] = time.monotonic() + wait

    # ---- to the rank ----------------------------------------------------------------

    def _tell_unborn(self, index: int) -> None:
        self._tell(("down", index, None, None, 0, 0.0))

    def _tell(self, values: tuple[Any, ...], end: socket.socket | None = None) -> None:
        frame = encode_frame(values)
        try:
            if end is None:
                self._control.sendall(frame)
            else:
                socket.send_fds(self._control, [frame], [end.fileno()])
        except OSError:
            # The rank is gone.  Its end of the control socket is seen by the loop.
            return


def _watch_children() -> int:
    """A descriptor that can be read when a child has died."""
    notice, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(notice, False)
    signal.signal(signal.SIGCHLD, processes.let_pass)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return notice


def _children_of(pid: int) -> list[int]:
    try:
        return processes.children_of(pid)
    except ProcessLookupError:  # it has just gone
        return []


def _await_groups(worker: int, command: int) -> None:
    processes.await_group_end(worker, _DEATH_PATIENCE)
    if command > 0:
        processes.await_group_end(command, _DEATH_PATIENCE)
