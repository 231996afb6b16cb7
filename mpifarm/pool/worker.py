"""A worker: takes leases, runs each by its runner, sends each result.

Rules of this file:

- One task at a time, in the order of the leases; a result is sent as soon as its task
  has ended.
- A lease that the rank has recalled is passed over (`shared_state`).
- The worker exits with 0 when the rank has closed its side of the socket.
- The *lifeline* is a pipe whose other end the fork server holds.  SIGIO tells that
  bytes have come: ``T`` means start nothing more and terminate what runs; a dot is a
  reminder, which has the worker look at the verdicts on its run as well (Python may
  miss a signal right before a call that blocks).  The end of the pipe means that
  the fork server is dead: the worker then dies with its command.
- A run whose time is over, or that is cancelled, is terminated, and at the end of the
  grace time its rest is KILLed.  One that has too much memory is KILLed at once.  A
  worker that can't do that any more is KILLed by the fork server.
- A task's failure is a status; nothing that a runner raises ends the worker.
- What a user's runner prints while it runs a task is in the task's log; mpifarm's own
  print nothing.
- Where no task can run at all (no log, no runner), leases are refused, not failed.
- A terminated task stays in the worker's row: once the worker has exited, the fork
  server KILLs what a user's runner has left of it, wherever that is.
- Signal handlers run between any two lines.  So each attribute has one writer: the stop
  is written by the handler alone, `_in_runner` by the loop alone.
"""

import fcntl
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, TextIO, cast

from mpifarm.errors import InputError
from mpifarm.immutable import immutable
from mpifarm.model.settings import RunnerDefinition
from mpifarm.model.task import LEFT_RUNNING, NOT_RUN, Outcome
from mpifarm.output.keepers import create_log_keeper
from mpifarm.output.task_log import (
    CANCELLED_LINE,
    TaskLog,
    blames_one_task,
    time_limit_line,
)
from mpifarm.pool.definition import CreateRunner, PoolDefinition
from mpifarm.pool.framing import FrameReader, encode_frame
from mpifarm.pool.out_of_memory import (
    JOB_LINE,
    OomDetector,
    excess_line,
    kernel_line,
)
from mpifarm.pool.run_processes import RunProcesses
from mpifarm.pool.shared_state import TimeVerdict, WorkerRow
from mpifarm.pool.usage import UNKNOWN, CommandMeter, ProcessMeter, Usage
from mpifarm.system import processes, task_command
from mpifarm.system.cgroups import REMOVALS, TaskCgroup, TaskCgroups, name_of_task
from mpifarm.system.patience import RETRY_SECONDS, is_of_the_disk

if TYPE_CHECKING:
    from mpifarm.runners import Runner

TERMINATE = b"T"
REMIND = b"."
PYTHONS_THRESHOLDS = (700, 10, 10)
"""Thresholds of the garbage collector in any Python: a user's runner may leave large
arrays in cycles."""
LOG_TRIES = 5
"""Attempts to open a log on a disk that fails, before its lease is refused."""
_PIECE = 65536
_GROUP_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Seconds between two looks at processes that a runner has left; the last repeats."""


@immutable
class WorkerContext:
    """The parts of a worker that the fork server makes for it."""

    index: int
    row: WorkerRow
    leases: socket.socket
    lifeline: int
    cgroups: TaskCgroups | None = None


class Stop(IntEnum):
    """Whether the farm's stop has come, and when; later runs are not begun."""

    NOT_ASKED = 0
    BETWEEN_RUNS = 1
    DURING_RUN = 2
    """The run was terminated, and its runner may have left processes."""


_TRANSITIONS = {
    Stop.NOT_ASKED: {Stop.BETWEEN_RUNS, Stop.DURING_RUN},
    # A stop that is repeated changes nothing.
    Stop.BETWEEN_RUNS: {Stop.BETWEEN_RUNS},
    Stop.DURING_RUN: {Stop.DURING_RUN},
}


def run_worker(
    definition: PoolDefinition, context: WorkerContext, create_runner: CreateRunner
) -> None:
    """Be a worker until the rank wants no more; in a fresh fork.

    Session, descriptors, signals and environment become the worker's own.  Without a
    runner, refuse each lease.
    """
    os.setsid()
    processes.close_descriptors_except({context.leases.fileno(), context.lifeline})
    processes.ignore_signals()
    context.row.publish_worker(os.getpid())
    task_command.publish_command_in(context.row.command_slot)
    _set_environment(environment_of_worker(definition, context.index))
    _take_cpus(definition, context.index)
    worker = Worker(definition, context)
    worker.watch_lifeline()
    try:
        worker.take_runner(create_runner(definition.runner))
        # Not before: the limit has to leave room for what the runner has loaded.
        worker.memory = OomDetector(definition.limits)
    except BaseException as error:  # noqa: BLE001 - the user's class raises it
        worker.refuse_all(_why_no_runner(definition.runner, error))
    else:
        worker.serve()
        worker.close()


def _set_environment(environment: Mapping[bytes, bytes]) -> None:
    os.environ.clear()
    os.environb.update(environment)


def _take_cpus(definition: PoolDefinition, index: int) -> None:
    """Take this worker's part of the rank's CPUs; its commands inherit it."""
    if definition.allotment.shares:
        from mpifarm.system.cpus import bind_to

        bind_to(definition.allotment.shares[index])


def environment_of_worker(definition: PoolDefinition, index: int) -> dict[bytes, bytes]:
    """Return the environment of a worker: that of the commands, and its own variables.

    A user's own OMP_NUM_THREADS stays.
    """
    node_worker = definition.node_worker + index
    variables = {
        "MPIFARM_RANK": str(definition.rank),
        "MPIFARM_WORKER": str(index),
        "MPIFARM_NODE_WORKER": str(node_worker),
        "MPIFARM_WORKDIR": definition.workdir,
        "MPIFARM_FARM": definition.farm,
    }
    allotment = definition.allotment
    if allotment.gpus:
        from mpifarm.system.gpus import Gpus

        variables |= Gpus(allotment.gpus).of_worker(node_worker)
    environment = dict(definition.environment)
    environment.update(
        (os.fsencode(name), os.fsencode(value)) for name, value in variables.items()
    )
    threads = len(allotment.shares[index]) if allotment.shares else allotment.threads
    environment.setdefault(b"OMP_NUM_THREADS", b"%d" % threads)
    return environment


def _why_no_runner(definition: RunnerDefinition, error: BaseException) -> str:
    """Return the sentence for a runner that can't be made, with the error in it."""
    from mpifarm.plugins.loading import in_one_line  # few workers need it

    what = str(error) if isinstance(error, InputError) else in_one_line(error)
    host = os.uname().nodename
    return f"the runner {definition.name!r} can't be made on host {host} ({what})"


class _RefusalError(Exception):
    """Raised where no task can run; the text says why."""


class _Ending(NamedTuple):
    """The end of an attempt, as its worker sees it."""

    status: int
    outcome: str
    """The value of an `Outcome`."""
    note: str = ""


_COMPLETED = Outcome.COMPLETED.value
_SUCCESS = _Ending(0, _COMPLETED)


class Worker:
    """The loop of a worker, and the handler that interrupts it."""

    runner: "Runner"
    memory: OomDetector

    def __init__(self, definition: PoolDefinition, context: WorkerContext) -> None:
        self._keeper = create_log_keeper(definition.log_place, context.index)
        self._name = b"MPIFARM_FARM=" + os.fsencode(definition.farm)
        self._run_processes = RunProcesses(definition.farm)
        self._numbers = [
            (os.fsencode(name), first) for name, first in definition.id_variables
        ]
        self._limits = definition.limits
        is_limited = definition.limits.timeout is not None
        self._execute = self._run_in_time if is_limited else self._run_with_log
        self._kernel_line = ""
        """Why the kernel has killed processes of the run, "" if it has not."""
        if context.cgroups is not None:
            self._execute_in_cgroup(TaskCgroup(context.cgroups), context.index)
        self._row = context.row
        self._leases = context.leases
        self._lifeline = context.lifeline
        self._is_own_runner = False
        """Whether the runner is mpifarm's: it prints nothing, and starts commands."""
        self._null = -1
        """The descriptor to which a user's runner prints between two tasks."""
        self._in_runner = False
        self._stop = Stop.NOT_ASKED
        self._enforced = TimeVerdict.IN_TIME
        """The verdict on the task's run that the worker has acted on; it only grows."""
        self._is_cancelled = False
        """Whether the worker has acted on the verdict that the run is cancelled."""
        self._excess = 0
        """The bytes for which the worker has KILLed the run, or 0."""
        self._missed = 0
        """The signal by which the runner was to end its task when it raised, or 0."""
        self._meter: CommandMeter | ProcessMeter = CommandMeter()
        self._usage: Usage | None = None
        """What the current task has used, once its run is over."""

    def take_runner(self, runner: "Runner") -> None:
        """Have this runner run the tasks.

        A user's runner gets Python's own thresholds of garbage collection, and prints
        into the null device between tasks.  With one that starts commands, waits are
        interrupted regularly.
        """
        from mpifarm.runners import CommandRunner, is_own  # the rank does without

        self.runner = runner
        self._is_own_runner = is_own(type(runner))
        if isinstance(runner, CommandRunner):
            runner.numbers = self._numbers
            # Not where a user's code may do without: its system calls would fail.
            task_command.wake_regularly()
        if not self._is_own_runner:
            self._meter = ProcessMeter()
            gc.set_threshold(*PYTHONS_THRESHOLDS)
            self._null = os.open(os.devnull, os.O_RDWR)

    def serve(self) -> None:
        """Run the leases that come, and send each result, until the stop or the end.

        The end is that of the socket.  Leases that can't be run are refused.
        """
        for taskid, attempt, command in self._each_lease():
            if self._stop:
                return
            started, begin = time.time(), time.monotonic()
            try:
                ending = self._run(taskid, attempt, command, started)
            except _RefusalError as refusal:
                self._row.end_task()
                self._refuse(taskid, attempt, str(refusal))
                continue
            if self._stop is Stop.DURING_RUN:
                _end_group()  # the task stays in the row: see the head of this file
            else:
                self._row.end_task()
            ended = time.monotonic()
            if ending is None:
                return
            status, outcome, note = ending
            self._leases.sendall(
                encode_frame(
                    (
                        *(taskid, attempt, status, started, ended - begin, ended),
                        *(outcome, note, *(self._usage or UNKNOWN)),
                    )
                )
            )

    def close(self) -> None:
        """Close the logs: the worker runs nothing more."""
        self._keeper.close()

    def refuse_all(self, reason: str) -> None:
        """Refuse each lease that comes: no task can run here."""
        for taskid, attempt, _ in self._each_lease():
            self._refuse(taskid, attempt, reason)

    def _refuse(self, taskid: int, attempt: int, reason: str) -> None:
        self._leases.sendall(encode_frame((taskid, attempt, reason)))

    def _each_lease(self) -> Iterator[tuple[int, int, str]]:
        """Yield the leases that come, until the socket ends; return those recalled."""
        reader = FrameReader()
        while piece := self._leases.recv(_PIECE):
            for leases in reader.feed(piece):
                for taskid, attempt, command, serial in leases:
                    if self._row.has_recalled(serial):
                        continue
                    if self._row.begin_lease(serial):
                        yield taskid, attempt, command
                    else:
                        self._leases.sendall(encode_frame((serial,)))

    def _run(
        self, taskid: int, attempt: int, command: str, started: float
    ) -> _Ending | None:
        """Run a task.  Return how it ended; None if the stop came before its start.

        A log that fails for this task alone fails the task.  Raises `_RefusalError`
        where the disk gives no log to any task.
        """
        self._row.begin_task(taskid, started)
        self._usage = None
        # Before the clock starts: a verdict on the last run must not count for this.
        self._enforced, self._is_cancelled = TimeVerdict.IN_TIME, False
        self._excess = self._missed = 0
        try:
            log = self._begin_log(taskid, attempt)
        except OSError as error:
            path = str(error.filename or self._keeper.path_of(taskid))
            if self._keeper.is_shared or not blames_one_task(path):
                raise _RefusalError(f"can't write {path}: {error.strerror}") from error
            note = f"{NOT_RUN}can't write {path}: {error.strerror}"
            return _Ending(1, Outcome.FAILED.value, note)
        self._name_task(taskid, attempt)
        self._meter.begin()
        status = self._execute(taskid, command, log)
        if (self._is_cancelled or self._excess) and not self._stop:
            self._end_rest(taskid)
        if status is None:
            self._keeper.end(log, failed=True)
            return None
        self._usage = self._meter.read(log)
        ending = _Ending(status, Outcome.FAILED.value) if status else _SUCCESS
        # A command that traps TERM and exits 0 after its time limit has not completed.
        # After a stop the status says nothing: the rank voids such results.
        if (status or self._enforced or self._kernel_line) and not self._stop:
            ending = _Ending(status, self._explain_failure(status, log).value)
        self._keeper.end(log, failed=ending is not _SUCCESS)
        if log.trouble:  # the disk's, which does not change how the run ended
            return _Ending(status, ending.outcome, log.trouble)
        if self._enforced or self._kernel_line or self._stop:
            return ending
        if task_command.has_left_processes():
            return _Ending(status, ending.outcome, LEFT_RUNNING)
        return ending

    def _begin_log(self, taskid: int, attempt: int) -> TaskLog:
        """Open the log of a task, in up to `LOG_TRIES` tries if the disk fails.

        Raises OSError.
        """
        for _ in range(LOG_TRIES - 1):
            try:
                return self._keeper.begin(taskid, attempt)
            except OSError as error:
                if not is_of_the_disk(error):
                    raise
            time.sleep(RETRY_SECONDS)
        return self._keeper.begin(taskid, attempt)

    def _execute_in_cgroup(self, cgroup: TaskCgroup, index: int) -> None:
        """Have each run's commands in a cgroup of their own, from now on."""
        execute = self._execute
        task_command.start_commands_in(cgroup)

        def execute_in_cgroup(taskid: int, command: str, log: TaskLog) -> int | None:
            cgroup.begin(name_of_task(index, self._row.serial))
            try:
                return execute(taskid, command, log)
            finally:
                self._kernel_line = self._end_cgroup(cgroup)

        self._execute = execute_in_cgroup

    def _end_cgroup(self, cgroup: TaskCgroup) -> str:
        """Remove the task's cgroup.  Return why the kernel has killed in it, or "".

        What it has not killed then (version 1) is killed here.
        """
        if not cgroup.count_kills():
            cgroup.end()
            return ""
        assert self._limits.memory is not None
        is_own = cgroup.has_met_limit()
        processes.kill_together(cgroup.processes())
        cgroup.end(REMOVALS)
        return kernel_line(self._limits.memory) if is_own else JOB_LINE

    def _name_task(self, taskid: int, attempt: int) -> None:
        """Tell the runner, and so the task, its number and attempt."""
        if self._is_own_runner:
            self.runner.attempt = attempt  # type: ignore[attr-defined]
            return
        number, variables = b"%d" % taskid, os.environb
        variables[b"PROC_NUMBER"] = variables[b"MPIFARM_TASK_ID"] = number
        variables[b"MPIFARM_ATTEMPT"] = b"%d" % attempt
        for name, first in self._numbers:
            variables[name] = b"%d" % (taskid + first)

    def _explain_failure(self, status: int, log: TaskLog) -> Outcome:
        """Append to a failed task's log why the command died; return the outcome."""
        if self._is_cancelled:
            log.append_own_line(CANCELLED_LINE)
            return Outcome.CANCELLED
        if self._kernel_line:
            log.append_own_line(self._kernel_line)
            return Outcome.OUT_OF_MEMORY
        if self._excess:
            assert self._limits.memory is not None
            log.append_own_line(excess_line(self._excess, self._limits.memory))
            return Outcome.OUT_OF_MEMORY
        if self._enforced:
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
        """Run a task with its clock on; if its time was over, end what it has left."""
        self._row.start_clock()
        try:
            status = self._run_with_log(taskid, command, log)
            if self._enforced and not self._stop:
                self._end_rest(taskid)
            return status
        finally:
            self._row.stop_clock()

    def _run_with_log(self, taskid: int, command: str, log: TaskLog) -> int | None:
        """Run a task; None: the stop came first.  A runner that raises is status 1."""
        task_command.forget_termination()
        self._in_runner = True
        try:
            # After `_in_runner` is set: a stop before that is seen here, a later one
            # finds a runner to terminate.
            if self._stop:
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
        """Run a task by a user's runner, and have all that it prints in the log.

        Python's own streams become the log itself, so that what is written to either
        keeps its order.  Descriptors 1 and 2 are for code that holds on to the old
        streams.
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
            troubles = list(_flush(streams))
            os.dup2(self._null, 1)
            os.dup2(self._null, 2)
            for trouble in troubles:
                log.note_trouble(trouble)
            if troubles:
                # Into the null device: the next task's log must not get the rest.
                list(_flush(streams))

    # ---- the lifeline ---------------------------------------------------------------

    def watch_lifeline(self) -> None:
        """Have SIGIO interrupt whatever this process is doing.

        Words that have come before are obeyed at once.
        """
        signal.signal(signal.SIGIO, self._on_lifeline)
        fcntl.fcntl(self._lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        # Bytes that came before that made no signal.
        self._on_lifeline(signal.SIGIO, None)

    def _on_lifeline(self, _signum: int, _frame: object) -> None:
        """Obey the words that have come; at the end of the lifeline, die.

        The words are a stop, or a reminder of the verdicts on the run.
        """
        try:
            words = os.read(self._lifeline, 64)
        except BlockingIOError:
            return
        if not words:
            task_command.exit_with_command()
            return
        if TERMINATE in words:
            self._on_stop()
            return
        if self._missed and self._in_runner:
            self._terminate_runner(self._missed)
        if not self._stop:
            self._enforce(self._row.verdict)
            if cancelled := self._row.cancel_verdict:
                before = self._enforced
                self._enforce(cancelled)
                self._is_cancelled |= before < self._enforced
            if (excess := self._row.excess) and self._enforced < TimeVerdict.KILL:
                is_reason = not self._enforced  # or it is in the grace time of another
                self._enforce(TimeVerdict.KILL)
                if is_reason and self._enforced:
                    self._excess = excess

    def _on_stop(self) -> None:
        """Note the stop, once; terminate the runner if it is running."""
        if not self._stop:
            self._enter(Stop.DURING_RUN if self._in_runner else Stop.BETWEEN_RUNS)
        if self._stop is Stop.DURING_RUN and self._in_runner:
            checkpoint = self._limits.checkpoint_signal
            self._terminate_runner(checkpoint or signal.SIGTERM)

    def _enter(self, stop: Stop) -> None:
        """Set the stop; raise RuntimeError if `_TRANSITIONS` has no such change."""
        if stop not in _TRANSITIONS[self._stop]:
            raise RuntimeError(f"a worker at {self._stop} can't get {stop}")
        self._stop = stop

    def _enforce(self, verdict: TimeVerdict) -> None:
        """Terminate or KILL the run by a verdict that is more than the last one."""
        if verdict <= self._enforced or not (self._in_runner or self._enforced):
            return  # or the run has just ended by itself
        self._enforced = verdict
        if verdict is TimeVerdict.TERMINATE:
            self._terminate_runner(signal.SIGTERM)
        else:
            self._kill_run()

    def _terminate_runner(self, signum: int) -> None:
        """Let the runner terminate its task, by `signum` if it starts commands.

        A user's runner that raises may be about to start its command: it is asked again
        at the next reminder.  A KILL follows at need.
        """
        task_command.choose_ending_signal(signum)
        self._missed = 0
        try:
            self.runner.terminate()
        except BaseException:  # noqa: BLE001 - the user's
            self._missed = signum

    # ---- a run whose time is over ---------------------------------------------------

    def _kill_run(self) -> None:
        """KILL the command, if it runs, all below it, and what bears the task's name.

        So all goes that counts for the memory of the run.
        """
        # Stopped first: what is below a process that has ended is not found any more.
        tree = processes.stop_all(self._find_tree)
        if self._in_runner:
            task_command.terminate_command(signal.SIGKILL)
        processes.kill_together(tree | self._rest_of(self._row.task))

    def _find_tree(self) -> set[int]:
        """Return the command, if it runs, and what is below it, or below the worker."""
        row, ours = self._row, os.getpid()
        return self._run_processes.tree_of(row.command, ours, row.task or 0) - {ours}

    def _end_rest(self, task: int) -> None:
        """Terminate what the run has left; KILL it when the grace time is over."""
        # In the order of their pids, so shells before their children: a shell whose
        # child ends first would start its next command.
        for pid in sorted(self._rest_of(task)):
            processes.kill_process(pid, signal.SIGTERM)
        pauses = iter(_GROUP_PAUSES)
        looks = 2  # a process in the middle of its exec has no name: look once more
        while looks:
            rest = self._rest_of(task)
            if rest and self._enforced is TimeVerdict.KILL:
                processes.kill_together(rest)
            looks = 2 if rest else looks - 1
            time.sleep(next(pauses, _GROUP_PAUSES[-1]))

    def _rest_of(self, task: int | None) -> set[int]:
        """Return the pids that bear the task's name, and nameless ones of its runner.

        A process that bears another task's name was left by that task, and stays.
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


def _flush(streams: Iterable[TextIO]) -> Iterator[Exception]:
    """Flush each stream; yield the errors."""
    for stream in streams:
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            yield error


def _checked(status: object, log: TaskLog) -> int:
    """Return the status of a user's runner; 1, with a line in the log, if no number."""
    if isinstance(status, int):
        return int(status)
    log.write(f"=== mpifarm: the runner returned {status!r}, not a number ===\n")
    return 1


def _end_group() -> None:
    """Terminate what a runner has left in the worker's group, and wait for its end.

    A process that ignores TERM is KILLed by the fork server after the grace time.
    """
    if processes.living_in_group(os.getpid()):
        # The worker is in this group, too; `ignore_signals` has it ignore the signal.
        processes.kill_group(os.getpid(), signal.SIGTERM)
    pauses = iter(_GROUP_PAUSES)
    while processes.living_in_group(os.getpid()):
        time.sleep(next(pauses, _GROUP_PAUSES[-1]))


def _write_traceback(log: TaskLog) -> None:
    """Write the traceback of the present exception into the log, if that can be."""
    import traceback  # most workers need none

    try:
        log.write(traceback.format_exc())
        log.flush()
    except (OSError, ValueError):
        return
