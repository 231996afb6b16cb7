"""What each rank does, rank 0 included.

Rules of this file: the agent takes messages of the coordinator in (`on_message`), and
says what happened through `send`.  Which leases go to workers when is `feeding`, what
is reported when is `reporting`; here is where the rank is on its way (`RankPhase`), and
events are handed on.  The one thing that a rank decides alone is to kill its commands
when rank 0 is not heard any more.
"""

import os
import signal
import time
from collections.abc import Callable
from enum import Enum
from typing import assert_never

from mpifarm.farm.feeding import REFUSED_SECONDS, Feeder
from mpifarm.farm.reporting import Reporter
from mpifarm.farm.running import RunningWatch
from mpifarm.farm.shared_directories import SharedDirectories
from mpifarm.model.messages import (
    Alive,
    Assign,
    Cancel,
    Committed,
    Drain,
    Join,
    Ping,
    PoolLost,
    RankUnusable,
    Recall,
    Rejoin,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
    Welcome,
    Withdraw,
    Withdrawn,
)
from mpifarm.model.settings import FarmDefinition
from mpifarm.model.task import Lease, Result
from mpifarm.pool import (
    Allotment,
    LeaseRefused,
    LeaseReturned,
    Pool,
    PoolDefinition,
    PoolGone,
    PoolUseless,
    WorkerLost,
)
from mpifarm.system.event_loop import Waiter

SILENCE_SECONDS = 30.0
"""Seconds without a word of the leading rank after which a rank kills its commands."""

JOINING_SECONDS = 1800.0
"""Seconds of silence before the first message: rank 0 may have to wait for the lock,
and a handler of the user's may look into thousands of files before it knows its
tasks."""

TAKING_OVER_SECONDS = 300.0
"""Seconds of silence before the first message of a rank that takes over: it reads the
list again, and may have to wait for the lock, twice."""

KILLING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class RankPhase(Enum):
    """The phase of a rank; each change goes forward, by `RANK_PHASES`."""

    JOINING = "joining"
    WORKING = "working"
    DRAINING = "draining"
    STOPPING = "stopping"
    """Its commands are being ended; results from before have yet to be sure."""
    STOPPED = "stopped"
    LOSING_POOL = "losing pool"
    """As stopping, but its pool is gone: nothing will ever run here again."""
    POOL_LOST = "pool lost"
    LEFT = "left"

    __hash__ = object.__hash__  # Enum's own is written in Python


_END = frozenset({RankPhase.STOPPING, RankPhase.LOSING_POOL, RankPhase.LEFT})

RANK_PHASES: dict[RankPhase, frozenset[RankPhase]] = {
    RankPhase.JOINING: _END | {RankPhase.WORKING},
    RankPhase.WORKING: _END | {RankPhase.DRAINING},
    RankPhase.DRAINING: _END,
    RankPhase.STOPPING: frozenset(
        {RankPhase.STOPPED, RankPhase.LOSING_POOL, RankPhase.LEFT}
    ),
    RankPhase.STOPPED: frozenset({RankPhase.LOSING_POOL, RankPhase.LEFT}),
    RankPhase.LOSING_POOL: frozenset({RankPhase.POOL_LOST, RankPhase.LEFT}),
    RankPhase.POOL_LOST: frozenset({RankPhase.LEFT}),
    RankPhase.LEFT: frozenset(),
}
"""Every change of phase that may happen."""

ENDING = frozenset({RankPhase.STOPPING, RankPhase.LOSING_POOL})
"""Nothing is begun, and something is still to be reported."""

ENDED = frozenset({RankPhase.STOPPED, RankPhase.POOL_LOST})
"""Nothing runs, and all is reported."""


class Agent:
    """The agent of one rank, which feeds its pool, reports, and has a phase."""

    def __init__(
        self,
        rank: int,
        host: str,
        workers: int,
        pool: Pool,
        environment: dict[bytes, bytes],
        send: Callable[[ToCoordinator], None],
        now: float,
        allotment: Allotment | None = None,
        first_worker: int = 0,
    ) -> None:
        self.rank = rank
        self.host = host
        self.workers = workers
        self.pool = pool
        self.phase = RankPhase.JOINING
        self.feeder = Feeder(pool, workers, now)
        self.reporter = Reporter(self.feeder, now)
        self.definition: FarmDefinition | None = None
        """The farm's definition; None until rank 0 has sent it."""
        self.shared_directories = SharedDirectories()
        """The directories that this host has to share with rank 0."""
        self.running = RunningWatch(pool)
        """What runs here, for rank 0."""
        self.leave = Shutdown()
        """The `Shutdown` of rank 0, once it has come."""
        self._environment = environment
        self._allotment = allotment or Allotment()
        self._first_worker = first_worker
        self._send = send
        self._heard_at = now
        self._silence_seconds = SILENCE_SECONDS
        """Seconds for which the leader may be silent."""
        self._kill_at = float("inf")
        self._unwanted: set[tuple[int, int]] = set()
        """(taskid, attempt) of leases that go back if their worker has not begun them.
        """

    def _enter(self, phase: RankPhase) -> None:
        """Set the phase; raise AssertionError for a change not in `RANK_PHASES`."""
        if phase is self.phase:
            return
        if phase not in RANK_PHASES[self.phase]:
            raise AssertionError(f"phase {self.phase} -> {phase}")
        self.phase = phase

    # ---- joining and leading ---------------------------------------------------------

    def join(self) -> None:
        """Send the coordinator a `Join`: this rank has come."""
        self._send(Join(self.host, os.getpid(), self.workers))

    def rejoin(self, now: float) -> None:
        """Send another coordinator all that this rank holds and knows, and its phase.

        The new leader may be silent for `TAKING_OVER_SECONDS`.
        """
        self._heard_at = now
        self._silence_seconds = TAKING_OVER_SECONDS
        report = self.reporter.create_full_report(now)
        self.running.forget()
        held = tuple(self.feeder.held)
        welcomed = self.phase is not RankPhase.JOINING
        self._send(Rejoin(self.host, os.getpid(), self.workers, welcomed, held, report))
        if self.shared_directories.fault:
            self._send(RankUnusable(self.shared_directories.fault))
        self._repeat_phase()

    def _repeat_phase(self) -> None:
        """Send messages by which a new coordinator learns the phase of this rank."""
        match self.phase:
            case RankPhase.LOSING_POOL | RankPhase.POOL_LOST:
                self._send(PoolLost())
            case RankPhase.DRAINING:
                self._send(SignalReceived(signal.SIGUSR2))
            case RankPhase.STOPPING:
                self._send(SignalReceived(signal.SIGUSR1))
            case RankPhase.STOPPED:
                self._send(SignalReceived(signal.SIGUSR1))
                self._send(Stopped())
            case RankPhase.JOINING | RankPhase.WORKING | RankPhase.LEFT:
                pass
            case _:
                assert_never(self.phase)

    def send_through(self, send: Callable[[ToCoordinator], None]) -> None:
        """Send all messages through `send` from now on."""
        self._send = send

    def lead(self) -> None:
        """Drop the results kept for another coordinator, and keep no more.

        The coordinator is on this rank now.
        """
        self.reporter.forget_kept()

    # ---- messages --------------------------------------------------------------------

    def on_message(self, message: ToRank, now: float) -> None:
        """Note that the leader was heard, and carry out its message."""
        self._heard_at = now
        self._silence_seconds = SILENCE_SECONDS
        match message:
            case Welcome():
                self._start(message, now)
            case Assign():
                self._on_assign(message, now)
            case Recall() | Withdraw() | Cancel():
                self._on_wanted_back(message, now)
            case Drain():
                self._on_drain()
            case Stop():
                self._on_told_to_stop(message, now)
            case Ping():
                self._send(Alive())
            case Committed():
                self.reporter.note_committed(message.results)
            case Shutdown():
                self.leave = message
                self.pool.close()
                self._enter(RankPhase.LEFT)
            case _:
                assert_never(message)

    def _start(self, welcome: Welcome, now: float) -> None:
        """Take in the farm's definition; start the pool unless a stop came first."""
        definition = self.definition = welcome.definition
        self.reporter.report_seconds = welcome.report_seconds
        if self.phase is not RankPhase.JOINING:
            return  # a signal came first, or another leads now
        self.pool.start(
            PoolDefinition(
                workers=self.workers,
                rank=self.rank,
                farm=definition.farm,
                workdir=definition.workdir,
                logs=os.path.join(definition.workdir, "logs"),
                runner=definition.runner,
                environment=self._environment,
                node_worker=self._first_worker + welcome.node_worker,
                allotment=self._allotment,
                limits=definition.limits,
                grace=definition.grace,
                kept_logs=definition.logs,
                id_variables=definition.id_variables,
            )
        )
        self.running.begin(welcome.running_seconds, welcome.max_running, now)
        self._enter(RankPhase.WORKING)

    def _on_assign(self, message: Assign, now: float) -> None:
        """Queue the leases, or return them if no task may begin here."""
        self.reporter.note_assigned()
        if self.phase is RankPhase.WORKING and not self.shared_directories.fault:
            self.feeder.accept(message.leases, now)
            self.running.note_change(now)
            self.reporter.sureness.note_leases(message.leases)
        else:
            self.reporter.note_returned(message.leases)

    def _on_wanted_back(self, message: Recall | Withdraw | Cancel, now: float) -> None:
        """Carry out a message by which rank 0 wants leases back."""
        match message:
            case Recall():
                self._on_recall(message.count)
            case Withdraw():
                self._on_withdraw(message, now)
            case Cancel():
                self._on_cancel(message)
            case _:
                assert_never(message)

    def _on_recall(self, count: int) -> None:
        """Return up to `count` waiting leases, maybe none: other workers are idle."""
        self.reporter.note_recall()
        if self.phase is RankPhase.WORKING:
            self.reporter.note_returned(self.feeder.pop_spare(count))

    def _on_withdraw(self, message: Withdraw, now: float) -> None:
        """Return the leases that no worker has begun; say which are kept."""
        wanted = {*message.leases} if message.leases else {*self.feeder.held}
        self._return_unbegun(wanted)
        self._report(now)
        self._send(Withdrawn(tuple(self.feeder.find_begun(wanted))))

    def _on_cancel(self, message: Cancel) -> None:
        """Return the leases that no worker has begun, and end the others.

        A stop ends all commands anyway.
        """
        if self.phase in (RankPhase.WORKING, RankPhase.DRAINING):
            wanted = {*message.leases}
            self._return_unbegun(wanted)
            for taskid, attempt in self.feeder.find_begun(wanted):
                self.pool.cancel(taskid, attempt)

    def _return_unbegun(self, wanted: set[tuple[int, int]]) -> None:
        """Return what waits of these leases, now and when a worker gives it back."""
        self.reporter.note_returned(self.feeder.pop_wanted(wanted))
        self._unwanted.update(self.feeder.find_begun(wanted))

    def _on_drain(self) -> None:
        """Return all leases that no worker has begun; no effect unless working."""
        if self.phase is RankPhase.WORKING:
            self._enter(RankPhase.DRAINING)
            self.feeder.recall()
            self._return_queue()

    def _return_queue(self) -> None:
        self.reporter.note_returned(self.feeder.pop_all())

    def _on_told_to_stop(self, message: Stop, now: float) -> None:
        """Void results that the signal of a stop may have caused, then stop."""
        if message.by_signal and message.grace == 0:
            self.reporter.void()  # the launcher's KILL may be close behind
        elif message.by_signal:
            self.reporter.void_launched()
        self._on_stop(message.grace, now)

    # ---- signals and stops -----------------------------------------------------------

    def on_signal(self, signum: int, now: float) -> None:
        """Send the signal to rank 0; drain, or end the commands, before rank 0 says so.

        USR2 drains; any other signal ends the commands.  These may have got the signal
        first: so a result that isn't sure by now never gets sure, and a later one is
        not reported.
        """
        self._send(SignalReceived(signum, self.reporter.sureness.until))
        if self.phase is RankPhase.LEFT:
            return
        if signum == signal.SIGUSR2:
            self._on_drain()
            return
        self.reporter.void()
        grace = self.definition.grace if self.definition else 0.0
        self._on_stop(0.0 if signum in KILLING_SIGNALS else grace, now)

    def _on_stop(self, grace: float, now: float) -> None:
        """Stop: drop the queue, count no later result, and end the commands.

        The first call with `grace` sends TERM and KILLs after so many seconds; a later
        one can only shorten that.  With 0 it KILLs at once.  A rank that has stopped
        says so again; one that has left does nothing.
        """
        if self.phase in ENDED:
            self._send(Stopped())
            return
        if self.phase is RankPhase.LEFT:
            return
        if self.phase is not RankPhase.LOSING_POOL:
            self._enter(RankPhase.STOPPING)
        is_first = self.reporter.stop_counting(now)
        self.feeder.queue.clear()
        if grace > 0:
            if is_first:  # again, it would disturb commands that clean up
                self.pool.terminate()
            self._kill_at = min(self._kill_at, now + grace)
        else:
            self._kill()

    def _kill(self) -> None:
        """KILL all commands and workers, once."""
        self._kill_at = float("inf")
        self.pool.kill()

    def forgive_pause(self, seconds: float) -> None:
        """Count the leader as heard `seconds` later: this process was suspended."""
        self._heard_at += seconds

    def is_forsaken(self, now: float) -> bool:
        """Return whether the leader has not been heard for too long."""
        is_joining = self.phase is RankPhase.JOINING
        limit = JOINING_SECONDS if is_joining else self._silence_seconds
        return now - self._heard_at > limit

    # ---- the loop's step -------------------------------------------------------------

    def step(self, now: float) -> None:
        """Take in the pool's events, then feed, recall, return, kill and report if due.

        `now` was read before the signals were looked for.  A signal that the kernel had
        for this process by then has had its handler run: such a look is a system call.
        So `on_signal` has told of it.
        """
        feeder = self.feeder
        self._collect(now)
        self.reporter.sureness.note_quiet(now)
        if feeder.is_fed_ahead and now > feeder.recall_at():
            feeder.recall()
        if now >= feeder.feed_at:
            feeder.feed_at = float("-inf")
            if self.shared_directories.is_sure or self._shares_all(now):
                feeder.feed()
        if feeder.queue and now > feeder.return_at():
            self._return_queue()
        if now >= self._kill_at:
            self._kill()
        if self.reporter.is_due(now):
            self._report(now)
        if now >= self.running.look_at:
            self._tell_running(now)
        if self.phase in ENDING and self.pool.stopped:
            self._finish_stop(now)

    def _tell_running(self, now: float) -> None:
        if news := self.running.find_news(now, time.time()):
            self._send(news)

    def _report(self, now: float) -> None:
        report = self.reporter.create_report(now)
        if report is not None:
            self._send(report)

    def _finish_stop(self, now: float) -> None:
        """Report, and enter the last phase once all results are sure; tell rank 0."""
        self._report(now)
        if self.reporter.sureness.is_waiting:
            return
        if self.phase is RankPhase.LOSING_POOL:
            self._enter(RankPhase.POOL_LOST)
            self._send(PoolLost())
        else:
            self._enter(RankPhase.STOPPED)
            self._send(Stopped())

    def _shares_all(self, now: float) -> bool:
        """Look at the shared directories; return whether tasks may begin.

        If they never may, return the queue and tell rank 0; else look again a little
        later.
        """
        if self.definition is None or self.shared_directories.fault:
            return False
        if self.shared_directories.check(self.definition, self.host, now):
            return True
        if self.shared_directories.fault:
            self._return_queue()
            self._send(RankUnusable(self.shared_directories.fault))
        else:
            self.feeder.feed_at = now + REFUSED_SECONDS
        return False

    # ---- the pool --------------------------------------------------------------------

    def _collect(self, now: float) -> None:
        """Hand each event of the pool to the reporter and the feeder."""
        for event in self.pool.collect():
            match event:
                case Result():
                    if self._unwanted:
                        self._unwanted.discard((event.taskid, event.attempt))
                    self.reporter.note_result(event)
                    self.feeder.note_end(event.seconds, now)
                    self.running.note_change(now)
                case WorkerLost():
                    if event.running is not None:
                        self._unwanted.discard(event.running[:2])
                        self.reporter.note_lost(event.running)
                    self._put_back(event.unstarted)
                case LeaseRefused():
                    self._on_lease_refused(event, now)
                case LeaseReturned():
                    self._put_back((event.lease,))
                case PoolUseless():
                    self._send(RankUnusable(event.reason))
                case PoolGone():
                    self.feeder.queue.clear()
                    self._enter(RankPhase.LOSING_POOL)
                case _:
                    assert_never(event)

    def _put_back(self, leases: tuple[Lease, ...]) -> None:
        """Queue unstarted leases again; while draining, return the whole queue.

        Those that are unwanted are returned.
        """
        if self._unwanted:
            unwanted = [lease for lease in leases if lease[:2] in self._unwanted]
            self._unwanted.difference_update(lease[:2] for lease in unwanted)
            self.reporter.note_returned(unwanted)
            leases = tuple(lease for lease in leases if lease not in unwanted)
        self.feeder.put_back(leases)
        if self.phase is RankPhase.DRAINING:
            self._return_queue()

    def _on_lease_refused(self, event: LeaseRefused, now: float) -> None:
        """Queue a refused lease again, for the grace time of the farm at most.

        After that, or unless working, return the lease, and tell rank 0 that nothing
        runs here.
        """
        if event.lease[:2] in self._unwanted:
            self._put_back((event.lease,))
            return
        patience = self.definition.grace if self.definition else 0.0
        if self.phase is not RankPhase.WORKING:
            patience = 0.0
        if not self.feeder.try_again(event.lease, now, patience):
            self.reporter.note_returned((event.lease,))
            self._send(RankUnusable(event.reason))

    # ---- sleeping --------------------------------------------------------------------

    def wait(self, waiter: Waiter, now: float, wake_at: float) -> None:
        """Sleep until a signal, a message, an event of the pool, or the time `wake_at`.

        While all workers have work ahead, sleep for half of that time, whatever the
        pool does.
        """
        if self.reporter.take_expectation():
            waiter.expect()
        work_ahead = self.work_ahead()
        if work_ahead > 0.0:
            waiter.coalesce(work_ahead / 2)
        else:
            waiter.wait(self.pool.read_fds(), wake_at - now)

    def work_ahead(self) -> float:
        """Return for how many seconds all workers have work; 0 unless working."""
        return self.feeder.work_ahead() if self.phase is RankPhase.WORKING else 0.0

    def wake_at(self) -> float:
        """Return when time alone makes `step` do something; `inf` if never."""
        feeder = self.feeder
        return min(
            self._kill_at,
            self.reporter.next_at(),
            feeder.recall_at() if feeder.is_fed_ahead else float("inf"),
            feeder.return_at() if feeder.queue else float("inf"),
            feeder.feed_at if feeder.feed_at > 0 else float("inf"),
            self.running.look_at if feeder.has_work else float("inf"),
        )
