"""A worker: takes leases, runs each by its runner, sends each result.

Rules of this file:

- One task at a time, in the order of the leases; a result is sent as it happens.
- A lease that the rank has recalled is passed over (`board`).
- It ends when the rank has closed its side of the socket, and then exits 0.
- The *lifeline* is a pipe whose other end the pool's parent holds.  SIGIO tells that
  something is in it: ``T`` means start nothing more and terminate what runs, a dot is
  a reminder to look at the board too, where the verdict over the run's time stands
  (Python may miss a signal right before a call that blocks), its end means that the
  parent is dead, and so are we, with our command.
- A run whose time is over is terminated, and what is left of it at the end of the grace
  time is KILLed; who can't do that any more is KILLed by the parent.
- A task's failure is a status; nothing that a runner raises ends the worker.
- What a user's runner prints while it runs a task is in the task's log; mpifarm's own
  print nothing.
- What can't run any task here (no log, no runner) is a lease's refusal, no failure.
- A task that was terminated stays on the board: when the worker has exited, the pool's
  parent KILLs what a user's runner has left of it, wherever that is.
"""

import errno
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TextIO, cast

from mpifarm import processes
from mpifarm.config import RunnerDefinition, TaskLimits
from mpifarm.errors import InputError
from mpifarm.pool import memory
from mpifarm.pool.board import BoardLine, Verdict
from mpifarm.pool.definition import CreateRunner, PoolDefinition
from mpifarm.pool.log import TaskLog, create_log_keeper, time_limit_line
from mpifarm.pool.wire import FrameReader, encode_frame
from mpifarm.task import Outcome

if TYPE_CHECKING:
    from mpifarm.runners import Runner

TERMINATE = b"T"
REMIND = b"."
_PIECE = 65536
_GROUP_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Seconds between two looks at what a runner has left; the last one again and again."""

_OF_THE_DISK = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
    }
)
"""Errors at the opening of a log that say nothing of the task."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """What a worker gets from the pool's parent."""

    index: int
    line: BoardLine
    leases: socket.socket
    lifeline: int


def serve_as_worker(
    definition: PoolDefinition, place: WorkerPlace, create_runner: CreateRunner
) -> None:
    """Be a worker until the rank wants no more; in a fresh fork."""
    os.setsid()
    processes.close_descriptors_except({place.leases.fileno(), place.lifeline})
    processes.calm_signals()
    processes.publish_command_in(place.line.command_slot)
    _set_environment(definition, place.index)
    worker = Worker(definition, place)
    worker.watch_lifeline()
    try:
        worker.take_runner(create_runner(definition.runner))
        # Now: it holds what the runner has loaded.
        worker.memory = MemoryWitness(definition.limits)
    except BaseException as error:  # noqa: BLE001 - the user's class raises it
        worker.refuse_all(_why_no_runner(definition.runner, error))
    else:
        worker.serve()
        worker.close()


def _set_environment(definition: PoolDefinition, index: int) -> None:
    os.environ.clear()
    os.environb.update(definition.environment)
    os.environ["MPIFARM_RANK"] = str(definition.rank)
    os.environ["MPIFARM_WORKER"] = str(index)
    os.environ["MPIFARM_NODE_WORKER"] = str(definition.node_worker + index)
    os.environ["MPIFARM_WORKDIR"] = definition.workdir
    os.environ["MPIFARM_FARM"] = definition.farm
    _take_allotment(definition, index)


def _take_allotment(definition: PoolDefinition, index: int) -> None:
    """This worker's part of the rank's CPUs and GPUs; its commands inherit it."""
    allotment, node_worker = definition.allotment, definition.node_worker + index
    if allotment.gpus:
        from mpifarm.gpus import Gpus

        os.environ.update(Gpus(allotment.gpus).of_worker(node_worker))
    threads = allotment.threads
    if allotment.shares:
        from mpifarm.cpus import bind_to

        share = allotment.shares[index]
        bind_to(share)
        threads = len(share)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _why_no_runner(definition: RunnerDefinition, error: BaseException) -> str:
    from mpifarm.classes import in_one_line  # for the few that need it

    what = str(error) if isinstance(error, InputError) else in_one_line(error)
    host = os.uname().nodename
    return f"the runner {definition.name!r} can't be made on host {host} ({what})"


class _RefusalError(Exception):
    """No task can run here; the text says why."""


class _Ending(NamedTuple):
    """How an attempt ended, as its worker sees it."""

    status: int
    outcome: str
    """The value of an `Outcome`."""
    note: str = ""


_COMPLETED = Outcome.COMPLETED.value
_SUCCESS = _Ending(0, _COMPLETED)


class Worker:
    """The loop of a worker, and what interrupts it."""

    runner: "Runner"
    memory: "MemoryWitness"

    def __init__(self, definition: PoolDefinition, place: WorkerPlace) -> None:
        self._logs = definition.logs
        self._keeper = create_log_keeper(definition, place.index)
        self._name = b"MPIFARM_FARM=" + os.fsencode(definition.farm)
        self._limits = definition.limits
        is_limited = definition.limits.timeout is not None
        self._execute = self._run_in_time if is_limited else self._run_with_log
        self._line = place.line
        self._leases = place.leases
        self._lifeline = place.lifeline
        self._is_own_runner = False
        """Whether the runner is mpifarm's: it prints nothing, and starts commands."""
        self._null = -1
        """Where a user's runner prints between two tasks."""
        self._ending = False
        self._in_runner = False
        self._was_terminated = False
        """By the farm's stop, while a runner ran."""
        self._heeded = Verdict.IN_TIME
        """What has been done about the time of the task's run."""

    def take_runner(self, runner: "Runner") -> None:
        """This one runs the tasks."""
        from mpifarm.runners import CommandRunner  # the rank does without

        self.runner = runner
        self._is_own_runner = type(runner).__module__.startswith("mpifarm.")
        if isinstance(runner, CommandRunner):
            # Not where a user's code may do without: its system calls would fail.
            processes.wake_regularly()
        if not self._is_own_runner:
            self._null = os.open(os.devnull, os.O_RDWR)

    def serve(self) -> None:
        """Run what comes, until told to end or nothing more can come."""
        for taskid, attempt, command in self._each_lease():
            if self._ending:
                return
            started, begin = time.time(), time.monotonic()
            try:
                ending = self._run(taskid, attempt, command)
            except _RefusalError as refusal:
                self._line.end_task()
                self._refuse(taskid, attempt, str(refusal))
                continue
            if self._was_terminated:
                _end_group()
            else:
                self._line.end_task()
            ended = time.monotonic()
            if ending is None:
                return
            status, outcome, note = ending
            self._leases.sendall(
                encode_frame(
                    (
                        *(taskid, attempt, status, started, ended - begin, ended),
                        *(outcome, note),
                    )
                )
            )

    def close(self) -> None:
        """Nothing more is run."""
        self._keeper.close()

    def refuse_all(self, reason: str) -> None:
        """Give back what comes: none of it can run here."""
        for taskid, attempt, _ in self._each_lease():
            self._refuse(taskid, attempt, reason)

    def _refuse(self, taskid: int, attempt: int, reason: str) -> None:
        self._leases.sendall(encode_frame((taskid, attempt, reason)))

    def _each_lease(self) -> Iterator[tuple[int, int, str]]:
        reader = FrameReader()
        while piece := self._leases.recv(_PIECE):
            for leases in reader.feed(piece):
                for taskid, attempt, command, serial in leases:
                    if self._line.has_recalled(serial):
                        continue
                    if self._line.begin_lease(serial):
                        yield taskid, attempt, command
                    else:
                        self._leases.sendall(encode_frame((serial,)))

    def _run(self, taskid: int, attempt: int, command: str) -> _Ending | None:
        """How the task ended; None if it was not started after all.

        Raises `_RefusalError` where the disk gives no log to any task.
        """
        self._line.begin_task(taskid)
        try:
            log = self._keeper.begin(taskid, attempt)
        except OSError as error:
            path = self._keeper.path_of(taskid)
            blameless = self._keeper.is_shared or error.errno in _OF_THE_DISK
            if blameless or not os.path.isdir(self._logs):
                raise _RefusalError(f"can't write {path}: {error.strerror}") from error
            note = f"not run: can't write {path}: {error.strerror}"
            return _Ending(1, Outcome.FAILED.value, note)
        self._name_task(taskid, attempt)
        status = self._execute(taskid, command, log)
        if status is None:
            self._keeper.end(log, failed=True)
            return None
        ending = _Ending(status, Outcome.FAILED.value) if status else _SUCCESS
        try:
            if (status or self._heeded) and not self._ending:
                ending = _Ending(status, self._tell_failure(status, log).value)
            self._keeper.end(log, failed=ending is not _SUCCESS)
        except (OSError, ValueError) as error:
            # The disk is full; the runner has closed it.
            note = f"can't write the end of {self._keeper.path_of(taskid)}: {error}"
            outcome = Outcome.FAILED.value if ending is _SUCCESS else ending.outcome
            return _Ending(status or 1, outcome, note)
        return ending

    def _name_task(self, taskid: int, attempt: int) -> None:
        """Say to the runner, and so to the task, which it is."""
        if self._is_own_runner:
            self.runner.attempt = attempt  # type: ignore[attr-defined]
            return
        number, variables = b"%d" % taskid, os.environb
        variables[b"PROC_NUMBER"] = variables[b"MPIFARM_TASK_ID"] = number
        variables[b"MPIFARM_ATTEMPT"] = b"%d" % attempt

    def _tell_failure(self, status: int, log: TaskLog) -> Outcome:
        """Why the task failed; a line in its log says so where it can't know."""
        if self._heeded:
            assert self._limits.timeout is not None
            log.append_own_line(time_limit_line(self._limits.timeout))
            return Outcome.TIMED_OUT
        if status < 0:
            log.append_killed_line(-status)
        reason = self.memory.find_reason(status, log)
        if reason is None:
            return Outcome.FAILED
        log.append_own_line(reason)
        return Outcome.OUT_OF_MEMORY

    def _run_in_time(self, taskid: int, command: str, log: TaskLog) -> int | None:
        self._heeded = Verdict.IN_TIME
        self._line.start_clock()
        try:
            status = self._run_with_log(taskid, command, log)
            if self._heeded and not self._ending:
                self._end_rest(taskid)
            return status
        finally:
            self._line.stop_clock()

    def _run_with_log(self, taskid: int, command: str, log: TaskLog) -> int | None:
        processes.forget_termination()
        self._in_runner = True
        try:
            # After `_in_runner` is set: a termination before is seen here, a later
            # one finds a runner to terminate.
            if self._ending:
                return None
            if self._is_own_runner:
                return self.runner.run(taskid, command, cast(TextIO, log))
            return self._run_users(taskid, command, log)
        except BaseException:  # noqa: BLE001 - the user's class raises it
            _write_traceback(log)
            return 1
        finally:
            self._in_runner = False

    def _run_users(self, taskid: int, command: str, log: TaskLog) -> int:
        """Have all that a user's runner and its children print in the log.

        Python's own streams are the log itself, so that what is written to either keeps
        its order; the others are for those who took hold of them before.
        """
        streams = sys.stdout, sys.stderr
        logfd, text = log.fileno(), cast(TextIO, log)
        os.dup2(logfd, 1)
        os.dup2(logfd, 2)
        sys.stdout = sys.stderr = text
        try:
            return _checked(self.runner.run(taskid, command, text), log)
        finally:
            sys.stdout, sys.stderr = streams
            try:
                for stream in streams:
                    stream.flush()
            finally:
                os.dup2(self._null, 1)
                os.dup2(self._null, 2)

    # ---- the lifeline ---------------------------------------------------------------

    def watch_lifeline(self) -> None:
        """Have SIGIO interrupt whatever this process is at."""
        signal.signal(signal.SIGIO, self._on_lifeline)
        fcntl.fcntl(self._lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        # What came before that made no signal.
        self._on_lifeline(signal.SIGIO, None)

    def _on_lifeline(self, _signum: int, _frame: object) -> None:
        try:
            told = os.read(self._lifeline, 64)
        except BlockingIOError:
            return
        if not told:
            processes.leave_with_command()
            return
        if TERMINATE in told:
            self._ending = True
            if self._in_runner:
                self._was_terminated = True
                checkpoint = self._limits.checkpoint_signal
                self._terminate_runner(checkpoint or signal.SIGTERM)
        elif self._limits.timeout is not None and not self._ending:
            self._heed(self._line.verdict)

    def _heed(self, verdict: Verdict) -> None:
        if verdict <= self._heeded or not (self._in_runner or self._heeded):
            return  # or it has just ended by itself
        self._heeded = verdict
        if verdict is Verdict.TERMINATE:
            self._terminate_runner(signal.SIGTERM)
        else:
            self._kill_run()

    def _terminate_runner(self, signum: int) -> None:
        processes.choose_ending_signal(signum)
        try:
            self.runner.terminate()
        except BaseException:  # noqa: BLE001 - the user's; a KILL follows if it must
            return

    # ---- a run whose time is over ---------------------------------------------------

    def _kill_run(self) -> None:
        if self._in_runner:
            processes.terminate_command(signal.SIGKILL)
        processes.kill_together(self._rest_of(self._line.task))

    def _end_rest(self, task: int) -> None:
        """TERM to what the run has left, and KILL when the grace time is over."""
        for pid in sorted(self._rest_of(task)):  # shells before what they started
            processes.kill_process(pid, signal.SIGTERM)
        pauses = iter(_GROUP_PAUSES)
        looks = 2  # what is in the middle of its exec has no name: one more look
        while looks:
            rest = self._rest_of(task)
            if rest and self._heeded is Verdict.KILL:
                processes.kill_together(rest)
            looks = 2 if rest else looks - 1
            time.sleep(next(pauses, _GROUP_PAUSES[-1]))

    def _rest_of(self, task: int | None) -> set[int]:
        """What bears the task's name, and what a user's runner has here without one.

        What bears another task's name was left by it, and is left alone.
        """
        name = b"MPIFARM_TASK_ID="
        bearers = processes.find_named([self._name, b"%b%d" % (name, task or 0)])
        if self._is_own_runner:
            return set(bearers)
        ours = os.getpid()
        others = {*processes.living_in_group(ours), *processes.children_of(ours)}
        nameless = {
            pid
            for pid in others
            if processes.is_alive(pid) and name not in processes.environment_of(pid)
        }
        return {*bearers, *nameless}


class MemoryWitness:
    """Limits the memory, and tells whether it was memory that a failed command lacked.

    Raises InputError if the limit is too little for the worker itself.
    """

    def __init__(self, limits: TaskLimits) -> None:
        self._kills = memory.OomKills()
        self._limit: int | None = None
        self._option = "--task-memory"
        if limits.memory is not None:
            self._limit = processes.limit_memory(limits.memory)
            if self._limit < limits.memory:
                self._option = "ulimit -d"

    def find_reason(self, status: int, log: TaskLog) -> str | None:
        """The line for the log if it was; otherwise None."""
        if status in memory.KILLED and self._kills.has_grown():
            return "it was killed by the kernel, because the memory of the job ran out"
        limit = self._limit
        if limit is None:
            return None
        log.flush()
        end = log.read_end(memory.LOG_END)
        if not memory.has_met_limit(processes.peak_memory(), limit, end):
            return None
        return (
            "it failed, and memory ran out: the limit is "
            f"{memory.readable_size(limit)} for each process ({self._option})"
        )


def _checked(status: object, log: TaskLog) -> int:
    if isinstance(status, int):
        return int(status)
    log.write(f"=== mpifarm: the runner returned {status!r}, not a number ===\n")
    return 1


def _end_group() -> None:
    """TERM to what a runner has left in our group, until nothing of it is left.

    What ignores that is KILLed by the pool's parent when the grace time is over.
    """
    if processes.living_in_group(os.getpid()):
        processes.kill_group(os.getpid(), signal.SIGTERM)  # lets us pass: calm_signals
    pauses = iter(_GROUP_PAUSES)
    while processes.living_in_group(os.getpid()):
        time.sleep(next(pauses, _GROUP_PAUSES[-1]))


def _write_traceback(log: TaskLog) -> None:
    import traceback  # for those who need it

    try:
        log.write(traceback.format_exc())
        log.flush()
    except (OSError, ValueError):
        return
