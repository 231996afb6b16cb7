"""The fork server of a pool: forks the workers, and cleans up after each that dies.

Rules of this file:

- Forked by the rank before there is MPI in it; single-threaded; runs no task itself.
- It lives as long as the rank holds the control socket; at its end everything dies.
- What a dead worker's task has left is KILLed *before* the worker is reaped and the
  rank is told: only then may its pid, and the task, be used again.
- After `terminate`, `kill` or `close` it starts no worker any more, and enforces no
  limit of time and memory any more: a stop has its own grace time.
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

from mpifarm.model.task import Outcome
from mpifarm.output.keepers import note_in_log
from mpifarm.output.task_log import time_limit_line
from mpifarm.pool.definition import CreateRunner, PoolDefinition, parse_definition
from mpifarm.pool.framing import FrameReader, encode_frame
from mpifarm.pool.run_processes import orphans_below
from mpifarm.pool.shared_state import SharedState, WorkerRow
from mpifarm.pool.worker import (
    REMIND,
    TERMINATE,
    WorkerContext,
    run_worker,
)
from mpifarm.system import processes
from mpifarm.system.cgroups import name_of_task

if TYPE_CHECKING:  # imported where runs are ended
    from mpifarm.pool.cancelling import CancelKeeper
    from mpifarm.pool.memory_guard import MemoryGuard
    from mpifarm.pool.memory_watch import MemoryWatch
    from mpifarm.pool.time_limit import TimeKeeper
    from mpifarm.system.cgroups import TaskCgroups

_BACK_OFF = 0.1
"""Seconds before a worker is started in place of one that died before its first task;
twice as long after each further death."""
_MAX_BACK_OFF = 10.0
_DEATH_PATIENCE = 0.5
"""Seconds to wait, for each worker, until the KILLed processes are gone."""
_REMIND_SECONDS = 0.05
_EXIT_PATIENCE = 5.0
"""Seconds after which the fork server exits even if a worker does not die (NFS)."""

_ORPHAN_PAUSES = (0.001,) * 10 + (0.01,) * 10
"""Seconds between two looks for orphans: a look finds only those of that moment."""


class ServerState(Enum):
    """The state of the fork server; each change follows `_TRANSITIONS`."""

    SERVING = "serving"
    ENDING = "ending"
    """Workers that end are not replaced."""
    TERMINATING = "terminating"
    """As `ENDING`; workers have been told to end, and are reminded of it."""
    EXITING = "exiting"
    """The rank is gone; the fork server exits as soon as its workers are dead."""


_TRANSITIONS = {
    ServerState.SERVING: {
        ServerState.ENDING,
        ServerState.TERMINATING,
        ServerState.EXITING,
    },
    # A rank may order these again and in any order: KILL after the grace time, say.
    ServerState.ENDING: {
        ServerState.ENDING,
        ServerState.TERMINATING,
        ServerState.EXITING,
    },
    ServerState.TERMINATING: {
        ServerState.ENDING,
        ServerState.TERMINATING,
        ServerState.EXITING,
    },
    ServerState.EXITING: set(),
}


class _Origin(Enum):
    """The origin of an orphan."""

    TASK = "a task whose worker is dead"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"
    """The orphan is in the middle of its exec, or has an empty environment."""


@dataclass
class _Child:
    pid: int
    lifeline: int
    is_overdue: bool = False
    """KILLed by the fork server, since it was still at a run whose time was over."""


def run_fork_server(
    control: socket.socket, shared: SharedState, create_runner: CreateRunner
) -> None:
    """Be the fork server until the rank is gone; in a fresh fork.

    Takes a session of its own, and closes all descriptors but `control`.
    """
    processes.begin_session()
    processes.close_descriptors_except({control.fileno()})
    processes.drop_signal_stack()
    processes.ignore_signals()
    server = ForkServer(control, shared, create_runner, _watch_children())
    server.serve()
    server.close()


def _watch_children() -> int:
    """Handle SIGCHLD; return a descriptor that gets readable when a child has died."""
    notice, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.set_blocking(notice, False)
    signal.signal(signal.SIGCHLD, processes.ignore_signal)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return notice


class ForkServer:
    """The loop of the fork server."""

    def __init__(
        self,
        control: socket.socket,
        shared: SharedState,
        create_runner: CreateRunner,
        death_notice: int,
    ) -> None:
        self._control = control
        self._shared = shared
        self._create_runner = create_runner
        self._death_notice = death_notice
        self._orders = FrameReader()
        self._state = ServerState.SERVING
        self._definition: PoolDefinition | None = None
        self._children: dict[int, _Child] = {}
        """The living workers, by their index."""
        self._start_at: dict[int, float] = {}
        """When to start the worker `index`, monotonic."""
        self._back_off: dict[int, float] = {}
        self._exit_by = 0.0
        self._time: TimeKeeper | None = None
        self._memory: MemoryGuard | None = None
        self._cgroups: TaskCgroups | None = None
        self._cancels: CancelKeeper | None = None
        """The runs that users have cancelled; None before the first."""
        self._writers: set[int] = set()
        """Children that write into a log, and end."""

    def _enter(self, state: ServerState) -> None:
        """Set the state; raise RuntimeError if `_TRANSITIONS` has no such change."""
        if state not in _TRANSITIONS[self._state]:
            raise RuntimeError(f"a server that is {self._state} can't get {state}")
        self._state = state

    def serve(self) -> None:
        """Follow the rank's orders, and clean up after the dead, until it may exit."""
        while not self._may_exit():
            self._wait()
            self._reap_dead()
            self._start_due()
            self._enforce_time_limit()
            self._enforce_memory_limit()
            self._enforce_cancels()

    def close(self) -> None:
        """Remove the cgroups of tasks: no worker is left."""
        if self._cgroups is not None:
            self._cgroups.close()

    def _may_exit(self) -> bool:
        return self._state is ServerState.EXITING and (
            not self._children or time.monotonic() > self._exit_by
        )

    def _wait(self) -> None:
        """Sleep until an order, a death or a time that is due; follow the orders.

        While terminating, remind the workers whenever no order has come.
        """
        sources: list[Any] = [self._death_notice]
        if self._state is not ServerState.EXITING:
            sources.append(self._control)
        if self._memory is not None and self._memory.fileno() >= 0:
            sources.append(self._memory)
        ready, _, _ = select.select(sources, (), (), self._patience())
        if self._death_notice in ready:
            os.read(self._death_notice, 4096)
        if self._memory is not None and self._memory in ready:
            self._memory.hear()
        if self._control in ready:
            self._read_orders()
        elif self._state is ServerState.TERMINATING:
            # Python may miss a signal right before a call that blocks (`worker`).
            self._write_to_workers(REMIND)

    def _patience(self) -> float | None:
        """Return for how many seconds to sleep; None: until something happens."""
        if self._state is ServerState.EXITING:
            return 0.1
        if self._state is ServerState.TERMINATING and self._children:
            return _REMIND_SECONDS
        wake_at = [*self._start_at.values()]
        if self._time is not None and self._state is ServerState.SERVING:
            wake_at.append(self._time.look_at / 1e9)
        look_at = self._memory.look_at if self._memory is not None else 0
        if look_at and self._state is ServerState.SERVING:
            wake_at.append(look_at / 1e9)
        if self._cancels and self._state is ServerState.SERVING:
            wake_at.append(time.monotonic() + _REMIND_SECONDS)
        return max(0.0, min(wake_at) - time.monotonic()) if wake_at else None

    # ---- orders of the rank ---------------------------------------------------------

    def _read_orders(self) -> None:
        """Follow the orders that have come; begin to exit if the rank is gone."""
        try:
            piece = self._control.recv(65536)
        except ConnectionError:
            piece = b""
        if not piece:
            self._begin_exit()
        for order in self._orders.feed(piece):
            self._follow(order)

    def _follow(self, order: tuple[Any, ...]) -> None:
        match order:
            case ("start", definition):
                self._start(parse_definition(definition))
            case ("cancel", index, serial):
                self._cancel(index, serial)
            case ("terminate",):
                self._end(ServerState.TERMINATING)
                self._write_to_workers(TERMINATE)
            case ("kill",):
                self._end(ServerState.ENDING)
                self._kill_workers()
            case ("close",):
                self._end(ServerState.ENDING)
            case _:
                raise ValueError(f"unknown order {order!r}")

    def _start(self, definition: PoolDefinition) -> None:
        """Adopt orphans, and plan the start of all workers for now."""
        # Here and not at launch: the rank is in MPI_Init meanwhile.
        processes.adopt_orphans()
        self._definition = definition
        if definition.limits.timeout is not None:
            from mpifarm.pool.time_limit import TimeKeeper

            self._time = TimeKeeper(definition.limits.timeout, definition.grace)
        if definition.limits.memory is not None:
            from mpifarm.pool.memory_guard import MemoryGuard
            from mpifarm.system.cgroups import open_task_cgroups

            self._cgroups = open_task_cgroups(definition.limits.memory)
            self._memory = MemoryGuard(self._create_memory_watch)
        now = time.monotonic()
        self._start_at = dict.fromkeys(range(definition.workers), now)

    def _end(self, state: ServerState) -> None:
        """Enter `state`, and report workers that wait for their start as down."""
        self._enter(state)
        self._close_memory()
        # The rank counts a pool as stopped when it knows each worker to be down.
        for index in self._start_at:
            self._report_not_started(index)
        self._start_at = {}

    def _begin_exit(self) -> None:
        """KILL all workers; exit when they are dead, or `_EXIT_PATIENCE` s later."""
        self._enter(ServerState.EXITING)
        self._close_memory()
        self._start_at = {}
        self._exit_by = time.monotonic() + _EXIT_PATIENCE
        self._kill_workers()

    def _close_memory(self) -> None:
        """Look no more at the memory of runs."""
        if self._memory is not None:
            self._memory.close()

    def _write_to_workers(self, word: bytes) -> None:
        for child in self._children.values():
            self._write_to_worker(child, word)

    def _write_to_worker(self, child: _Child, word: bytes) -> None:
        with suppress(OSError):  # it is dead, or has not read for long
            os.write(child.lifeline, word)

    def _kill_workers(self) -> None:
        """KILL each worker, then its command."""
        for index, child in self._children.items():
            # The worker before its command, whose end would have it start the next.
            processes.kill_process(child.pid, signal.SIGKILL)
            command = self._shared.row(index).command
            if command > 0:
                processes.kill_group(command, signal.SIGKILL)

    # ---- birth ----------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, when in self._start_at.items() if when <= now]:
            del self._start_at[index]
            self._start_worker(index)

    def _start_worker(self, index: int) -> None:
        """Fork a worker; if that fails, report it as down and plan the next try."""
        try:
            self._fork_worker(index)
        except OSError:  # too many processes or descriptors: later, maybe
            self._report_not_started(index)
            self._plan_replacement(index, begun=0)

    def _fork_worker(self, index: int) -> None:
        """Fork a worker with its socket and lifeline; report it up.  Raises OSError."""
        assert self._definition is not None
        definition, row = self._definition, self._shared.row(index)
        # Before the fork: later it would wipe out what the worker has written.
        row.clear()
        rank_end, worker_end = socket.socketpair()
        with rank_end, worker_end:
            lifeline, held_end = os.pipe()
            try:
                cgroups = self._cgroups
                context = WorkerContext(index, row, worker_end, lifeline, cgroups)
                pid = processes.fork_child(
                    lambda: run_worker(definition, context, self._create_runner)
                )
            except OSError:
                os.close(held_end)
                raise
            finally:
                os.close(lifeline)
            os.set_blocking(held_end, False)
            self._children[index] = _Child(pid, held_end)
            self._report(("up", index, pid), rank_end)

    def _plan_replacement(self, index: int, begun: int) -> None:
        """Set when a worker starts in place of one that had `begun` so many tasks.

        At once, but later each time if it had begun none.
        """
        if begun:
            self._back_off.pop(index, None)
            self._start_at[index] = time.monotonic()
            return
        # It died before it ran anything, and so may the next.
        wait = self._back_off.get(index, _BACK_OFF)
        self._back_off[index] = min(2 * wait, _MAX_BACK_OFF)
        self._start_at[index] = time.monotonic() + wait

    # ---- runs that take too long ----------------------------------------------------

    def _enforce_time_limit(self) -> None:
        """Remind workers whose time is over; KILL those that don't end their runs."""
        if self._time is None or self._state is not ServerState.SERVING:
            return
        rows = {index: self._shared.row(index) for index in self._children}
        for index, action in self._time.look(rows, time.monotonic_ns()):
            child = self._children[index]
            if action is action.REMIND:
                self._write_to_worker(child, REMIND)
            else:
                child.is_overdue = True
                processes.kill_process(child.pid, signal.SIGKILL)

    def _enforce_memory_limit(self) -> None:
        """Have workers end runs whose processes have too much memory together."""
        if self._memory is None or self._state is not ServerState.SERVING:
            return
        rows = {index: self._shared.row(index) for index in self._children}
        for index, action in self._memory.look(rows, time.monotonic_ns()):
            child = self._children[index]
            if action is action.REMIND:
                self._write_to_worker(child, REMIND)
            else:
                self._kill_tree(rows[index], child.pid)

    def _kill_tree(self, row: WorkerRow, worker: int) -> None:
        """KILL a worker and what is below its command: all that counts for its run."""
        command = row.command
        below = processes.tree_of(command) if command > 0 else []
        processes.kill_together([worker, *below])

    def _create_memory_watch(self) -> "MemoryWatch":
        """Return what looks at the memory of runs, for a process of its own."""
        from mpifarm.pool.memory_watch import MemoryWatch
        from mpifarm.pool.run_processes import RunProcesses

        assert self._definition is not None
        definition, limit = self._definition, self._definition.limits.memory or 0
        rows = [self._shared.row(index) for index in range(definition.workers)]
        run_processes = RunProcesses(definition.farm, may_wait=False)
        return MemoryWatch(rows, limit, run_processes, self._cgroups)

    def _cancel(self, index: int, serial: int) -> None:
        """Begin to end the run of a lease that a user has cancelled."""
        if self._cancels is None:
            from mpifarm.pool.cancelling import CancelKeeper

            grace = self._definition.grace if self._definition else 0.0
            self._cancels = CancelKeeper(grace)
        self._cancels.add(index, serial, time.monotonic_ns())

    def _enforce_cancels(self) -> None:
        """Remind workers of cancelled runs; KILL those that don't end them."""
        if not self._cancels or self._state is not ServerState.SERVING:
            return
        rows = {index: self._shared.row(index) for index in self._children}
        for index, action in self._cancels.look(rows, time.monotonic_ns()):
            child = self._children[index]
            if action is action.REMIND:
                self._write_to_worker(child, REMIND)
            else:
                processes.kill_process(child.pid, signal.SIGKILL)

    def _find_end(self, index: int) -> tuple[str, float]:
        """Return the outcome and the seconds of a dead worker's run that was ended.

        It was beyond a limit: neither its attempt nor its worker counts as lost.
        ("", 0.0) for every other run.
        """
        row = self._shared.row(index)
        if row.task is None:
            return "", 0.0
        if row.verdict:
            return Outcome.TIMED_OUT.value, (time.monotonic_ns() - row.since) / 1e9
        running = row.find_running()
        if running is not None and (row.excess or self._has_kernel_killed(index)):
            seconds = max(0.001, time.time() - running[1])
            return Outcome.OUT_OF_MEMORY.value, seconds
        return "", 0.0

    def _has_kernel_killed(self, index: int) -> bool:
        """Return whether the kernel has killed processes in the cgroup of a run.

        The worker may be one of them: it is in there while it starts a command.
        """
        name = name_of_task(index, self._shared.row(index).serial)
        return self._cgroups is not None and self._cgroups.count_kills(name) > 0

    def _note_limit(self, index: int, task: int) -> None:
        """Append the line on the limit that a run met to its log, by a child."""
        assert self._definition is not None
        place, text = self._definition.log_place, self._limit_line(index)
        with suppress(OSError):
            # In a process of its own: the fork server must never wait for the disk.
            writer = processes.fork_child(lambda: note_in_log(place, index, task, text))
            self._writers.add(writer)

    def _limit_line(self, index: int) -> str:
        """Return the text of the line on the limit that a run met."""
        assert self._definition is not None
        limits, row = self._definition.limits, self._shared.row(index)
        if row.verdict:
            return time_limit_line(limits.timeout or 0.0)
        from mpifarm.pool.out_of_memory import JOB_LINE, excess_line, kernel_line

        if row.excess > 0:
            return excess_line(row.excess, limits.memory or 0)
        name = name_of_task(index, row.serial)
        is_own = self._cgroups is not None and self._cgroups.has_met_limit(name)
        return kernel_line(limits.memory or 0) if is_own else JOB_LINE

    # ---- death ----------------------------------------------------------------------

    def _reap_dead(self) -> None:
        """Reap all dead children; workers before orphans."""
        while (dead := processes.find_dead_child()) is not None:
            # Workers before orphans: an orphan may be the command of a worker that is
            # not reaped yet, and a row must not outlive the pid that stands in it.
            workers = {
                index: child
                for index, child in self._children.items()
                if processes.find_dead_child(child.pid) is not None
            }
            self._reap_workers(workers)
            if processes.find_dead_child(dead) is not None:
                processes.reap_child(dead)
                self._writers.discard(dead)
                if self._memory is not None:
                    self._memory.forget(dead, time.monotonic_ns())

    def _reap_workers(self, workers: dict[int, _Child]) -> None:
        """KILL what the tasks of these dead workers left, reap them, tell the rank."""
        tasks = {index: self._shared.row(index).task for index in workers}
        at_work = [index for index, task in tasks.items() if task is not None]
        # Before the workers are reaped: after that their pids, which are the ids of
        # their groups, may be another process's.
        for index in at_work:
            self._kill_groups(workers[index].pid, self._shared.row(index).command)
        if at_work:
            self._kill_orphans({task for task in tasks.values() if task is not None})
        for index, child in workers.items():
            status = processes.reap_child(child.pid)
            if tasks[index] is not None:
                _await_groups(child.pid, self._shared.row(index).command)
            self._end_child(index, child, status, tasks[index])

    def _end_child(
        self, index: int, child: _Child, status: int | None, task: int | None
    ) -> None:
        """Report a reaped worker's death, free its lifeline, plan its replacement."""
        outcome, seconds = self._find_end(index)
        if outcome and task is not None:
            self._note_limit(index, task)
        elif child.is_overdue:
            task = None  # it ended that run at the last moment, and hardly began this
        del self._children[index]
        os.close(child.lifeline)
        begun = self._shared.row(index).begun
        # Last: the rank gives the task to another worker as soon as it reads this.
        self._report(("down", index, status, task, begun, outcome, seconds))
        if self._state is ServerState.SERVING:
            self._plan_replacement(index, begun)

    def _kill_groups(self, worker: int, command: int) -> None:
        # The worker's group first: it holds the children of a user's runner, and a
        # command before its setsid.  Killed after the command's group, such a command
        # could have left for its own group in between, and would live on.
        processes.kill_group(worker, signal.SIGKILL)
        if command > 0:
            processes.kill_group(command, signal.SIGKILL)

    def _kill_orphans(self, tasks: set[int]) -> None:
        """KILL processes of these tasks that are in no group that is known.

        Such is a command whose pid its worker had no time to publish, and a process
        that has left its session.  Other orphans were left running by earlier tasks,
        and stay.
        """
        for pause in _ORPHAN_PAUSES:
            origins = {pid: self._find_origin(pid, tasks) for pid in self._orphans()}
            for orphan, origin in origins.items():
                if origin is _Origin.TASK:
                    processes.kill_group(orphan, signal.SIGKILL)
                    processes.kill_process(orphan, signal.SIGKILL)
            if set(origins.values()) <= {_Origin.ELSEWHERE}:
                return
            time.sleep(pause)

    def _orphans(self) -> list[int]:
        """Return the adopted children of the fork server, and their descendants."""
        ours = {child.pid for child in self._children.values()} | self._writers
        if self._memory is not None:
            ours.add(self._memory.pid)
        return orphans_below(os.getpid(), ours)

    def _find_origin(self, orphan: int, tasks: set[int]) -> _Origin:
        """Return whether an orphan is of one of these tasks, by its environment."""
        environment = processes.environment_of(orphan)
        if not environment:
            alive = processes.is_alive(orphan)
            return _Origin.UNKNOWN if alive else _Origin.ELSEWHERE
        # Between fork and exec a command still has the environment of this process.
        if environment == processes.environment_of(os.getpid()):
            return _Origin.TASK
        assert self._definition is not None
        words = set(environment.split(b"\0"))
        ours = b"MPIFARM_FARM=" + os.fsencode(self._definition.farm) in words
        named = any(b"MPIFARM_TASK_ID=%d" % task in words for task in tasks)
        return _Origin.TASK if ours and named else _Origin.ELSEWHERE

    # ---- to the rank ----------------------------------------------------------------

    def _report_not_started(self, index: int) -> None:
        self._report(("down", index, None, None, 0, "", 0.0))

    def _report(self, notice: tuple[Any, ...], fd: socket.socket | None = None) -> None:
        """Send a notice, with a descriptor if given; no effect if the rank is gone."""
        frame = encode_frame(notice)
        try:
            if fd is None:
                self._control.sendall(frame)
            else:
                socket.send_fds(self._control, [frame], [fd.fileno()])
        except OSError:
            # The rank is gone.  `_read_orders` finds its end of the control socket.
            return


def _await_groups(worker: int, command: int) -> None:
    processes.await_group_end(worker, _DEATH_PATIENCE)
    if command > 0:
        processes.await_group_end(command, _DEATH_PATIENCE)
