"""The loop's part that is the same on every rank, rank 0 included.

Rules of this file: it takes messages of the coordinator in (`RankLoop.on_message`),
keeps the pool fed a little ahead, and says what happened in batches through `send`.
It decides nothing about tasks; the one thing that it decides alone is to kill its
commands when rank 0 is not heard any more.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from mpifarm.comm import Comm
from mpifarm.config import FarmDefinition, Settings
from mpifarm.cpus import (
    cpus_of_rank,
    find_sharers,
    place_on_node,
    read_cores,
    share_out,
    threads_of_worker,
)
from mpifarm.messages import (
    REPORT_SECONDS,
    Alive,
    Assign,
    Drain,
    Join,
    Leave,
    Noted,
    Ping,
    PoolLost,
    RankTrouble,
    Recall,
    Rejoin,
    Report,
    SignalSeen,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
    Welcome,
)
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
from mpifarm.surroundings import Surroundings
from mpifarm.task import Lease, Result
from mpifarm.waiting import Waiter

PIPE_SECONDS = 0.08
"""Seconds of work that a worker gets beyond what it runs, when its tasks are short.

Enough for the time in which a rank on a busy machine doesn't get a processor.
"""

MOST_IN_PIPE = 64

RECALL_SECONDS = 0.1
"""A rank in which no task has ended for so long recalls what waits in pipes."""

IDLE_SECONDS = 0.01
"""The same where a worker has nothing to do and nothing else waits for it."""

RETURN_SECONDS = 0.5
"""A rank in which no task has ended for so long, though by what its tasks took before
some should have, gives back what waits for a worker: its turn was to come sooner."""

SILENCE_SECONDS = 30.0
"""A rank that has not heard of rank 0 for so long kills its commands."""

JOINING_SECONDS = 1800.0
"""The same before the first word: rank 0 may have to wait for the lock, and a handler
of the user's may look into thousands of files before it knows its tasks."""

TAKING_OVER_SECONDS = 300.0
"""The same before the first word of a rank that takes over: it reads the list again,
and may have to wait for the lock, twice."""

REFUSED_SECONDS = 0.2
"""Between two tries of a task that got no log, or no runner."""

DISMISS_SECONDS = 2.0

KILLING_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True, slots=True)
class RankParts:
    """What each rank has from the start."""

    settings: Settings
    around: Surroundings
    pool: Pool
    comm: Comm | None
    """None on a rank that farms alone."""
    environment: dict[bytes, bytes]
    """Of the commands."""
    waits_for_others: bool = False
    """Not to end while other farms hold tasks (of one launch that sees no ranks)."""
    begun: float = field(default_factory=time.monotonic)
    """When this process began, monotonic."""

    def create_loop(
        self, send: Callable[[ToCoordinator], None], now: float
    ) -> "RankLoop":
        """This rank's loop; `send` takes what it says to the coordinator."""
        loop = RankLoop(
            rank=self.comm.rank if self.comm else 0,
            host=os.uname().nodename,
            workers=self.settings.workers,
            pool=self.pool,
            environment=self.environment,
            send=send,
            now=now,
            allotment=find_allotment(self.settings, self.around.environ),
            first_worker=self._count_neighbours(),
        )
        loop.keeps_results = self.comm is not None and self.comm.heals
        return loop

    def _count_neighbours(self) -> int:
        """Workers that others of the launch have on this node, as they can't be asked.

        Where this rank is one of several, rank 0 numbers the workers (`Welcome`).
        """
        if self.comm is not None:
            return 0
        return place_on_node(self.around.environ) * self.settings.workers

    def dismiss(self) -> None:
        """On rank 0, when no farm comes about: the others wait for a first message.

        What they have said is received: some MPIs complain of messages left over.
        """
        if self.comm is None:
            return
        others = set(range(1, self.comm.size))
        for rank in others:
            self.comm.send(rank, Leave())
        until = time.monotonic() + DISMISS_SECONDS
        while others and time.monotonic() < until:
            others -= {rank for rank, _ in self.comm.receive()}
            time.sleep(0.001)


def find_allotment(settings: Settings, environ: Mapping[str, str]) -> Allotment:
    """What each worker of this rank gets; called when all ranks have started."""
    sharers = find_sharers(environ)
    cpus = cpus_of_rank()
    shares: tuple[tuple[int, ...], ...] = ()
    gpus: dict[str, tuple[str, ...]] = {}
    if settings.bind:
        shares = share_out(read_cores(cpus), settings.workers, sharers)
    if settings.gpus != "none":
        from mpifarm.gpus import find_gpus  # for those who ask for it

        gpus = find_gpus(settings.gpus, environ).lists
    threads = threads_of_worker(len(cpus), settings.workers, sharers)
    return Allotment(threads, shares, gpus)


class RankPhase(Enum):
    """Where a rank is on its way; it only goes forward."""

    JOINING = "joining"
    WORKING = "working"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    LEFT = "left"


class RankLoop:
    """One rank: its pool, the leases that wait for a worker, and what to report."""

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
        self.definition: FarmDefinition | None = None
        """What the farm is; None until rank 0 has said it."""
        self.keeps_results = False
        """Whether results are kept until they are on disk, for another coordinator."""
        self.ranks_lost = False
        """Whether MPI can't be left together with all the others."""
        self.aborts = False
        """Whether the coordinator's rank will end this process."""
        self._environment = environment
        self._allotment = allotment or Allotment()
        self._first_worker = first_worker
        self._send = send
        self._queue: deque[Lease] = deque()
        self._results: list[Result] = []
        self._returned: list[tuple[int, int]] = []
        self._lost: list[tuple[int, int]] = []
        self._unrecorded: dict[tuple[int, int], Result] = {}
        """Reported, and for all that is known not on disk yet."""
        self._reported_at = now
        self._report_seconds = REPORT_SECONDS
        self._has_asked = False
        """Whether rank 0 was told that a worker is idle, and has not answered."""
        self._expects_answer = False
        """Whether rank 0 may answer soon to what was said."""
        self._is_recalled = False
        """Whether rank 0 waits for the answer to a `Recall`."""
        self._ended_at = now
        self._fed_ahead = False
        """Whether leases may wait in the pipes of workers."""
        self._heard_at = now
        self._awaits_leader = False
        """Whether another rank leads now, of which nothing was heard yet."""
        self._kill_at = float("inf")
        self._pool_gone = False
        self._refused_since: float | None = None
        """When leases began to be refused, with no task's end since."""
        self._feed_at = float("-inf")
        """Not before are workers given more."""
        self._mean = 0.0
        self._ended = 0

    # ---- what happens --------------------------------------------------------------

    def join(self) -> None:
        """Tell the coordinator that this rank is there."""
        self._send(Join(self.host, os.getpid(), self.workers))

    def rejoin(self, now: float) -> None:
        """Tell another coordinator than before all that is true here."""
        self._heard_at = now
        self._has_asked = self._is_recalled = False
        self._awaits_leader = True
        report = Report(
            now,
            (*self._unrecorded.values(), *self._results),
            tuple(self._returned),
            tuple(self._lost),
        )
        self._keep(self._results)
        self._results, self._returned, self._lost = [], [], []
        held = tuple(
            (lease.taskid, lease.attempt) for lease in (*self._queue, *self.pool.leases)
        )
        welcomed = self.phase is not RankPhase.JOINING
        self._send(Rejoin(self.host, os.getpid(), self.workers, welcomed, held, report))
        self._repeat_phase()

    def _repeat_phase(self) -> None:
        """What the old coordinator had decided, in words that the new one knows."""
        if self._pool_gone:
            self._send(PoolLost())
            return
        if self.phase is RankPhase.DRAINING:
            self._send(SignalSeen(signal.SIGUSR2))
        if self.phase in {RankPhase.STOPPING, RankPhase.STOPPED}:
            self._send(SignalSeen(signal.SIGUSR1))
        if self.phase is RankPhase.STOPPED:
            self._send(Stopped())

    def send_through(self, send: Callable[[ToCoordinator], None]) -> None:
        """From now on, `send` takes what this rank says."""
        self._send = send

    def lead(self) -> None:
        """The coordinator is here: no other will need the results of this rank."""
        self.keeps_results = False
        self._unrecorded.clear()

    def on_message(self, message: ToRank, now: float) -> None:
        """Do what the coordinator says."""
        self._heard_at = now
        self._awaits_leader = False
        match message:
            case Welcome():
                self._start(message)
            case Assign():
                self._on_assign(message, now)
            case Recall():
                self._on_recall(message.count)
            case Drain():
                self._on_drain()
            case Stop():
                self._on_stop(message.grace, now)
            case Ping():
                self._send(Alive())
            case Noted():
                for each in message.results:
                    self._unrecorded.pop(each, None)
            case Leave():
                self.ranks_lost = message.ranks_lost
                self.aborts = message.aborts
                self.pool.close()
                self.phase = RankPhase.LEFT
            case _:
                assert_never(message)

    def on_signal(self, signum: int, now: float) -> None:
        """Tell rank 0; where every millisecond counts, kill before it answers."""
        self._send(SignalSeen(signum))
        if signum in KILLING_SIGNALS and self.phase is not RankPhase.LEFT:
            self._on_stop(0.0, now)

    def forgive_pause(self, seconds: float) -> None:
        """This process was suspended: it heard nothing because it could not."""
        self._heard_at += seconds

    def _start(self, welcome: Welcome) -> None:
        definition = self.definition = welcome.definition
        self._report_seconds = welcome.report_seconds
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
            )
        )
        self.phase = RankPhase.WORKING

    def _on_assign(self, message: Assign, now: float) -> None:
        self._has_asked = False
        if self.phase is RankPhase.WORKING:
            if not self._queue:
                self._ended_at = now
            self._queue.extend(message.leases)
        else:
            self._returned += [(t.taskid, t.attempt) for t in message.leases]

    def _on_recall(self, count: int) -> None:
        """Other ranks have idle workers for what waits here."""
        self._is_recalled = True
        if self.phase is not RankPhase.WORKING:
            return
        if self._fed_ahead and count > len(self._queue):
            self._recall()
        spare = len(self._queue) - self.pool.vacancies(0)
        self._return_last(max(0, min(count, spare)))

    def _on_drain(self) -> None:
        if self.phase is RankPhase.WORKING:
            self.phase = RankPhase.DRAINING
            self._recall()
            self._return_queue()

    def _recall_at(self) -> float:
        """When another worker of this rank may be free for what waits in a pipe."""
        is_idle = not self._queue and self.pool.vacancies(0) > 0
        return self._ended_at + (IDLE_SECONDS if is_idle else RECALL_SECONDS)

    def _recall(self) -> None:
        self._fed_ahead = False
        recalled = self.pool.recall()
        if recalled:
            self._queue.extendleft(reversed(recalled))
            self._mean = max(self._mean, PIPE_SECONDS)  # none ahead for now

    def _return_at(self) -> float:
        """When tasks have got so long that other ranks will be free sooner."""
        if not self._ended:
            # Nothing is known of how long they take; but where a worker is missing,
            # what was for it waits in vain.
            is_short = self._refused_since is None and self.pool.busy < self.workers
            return self._ended_at + RETURN_SECONDS if is_short else float("inf")
        # Tasks that take equally long all end at once.
        expected = max(1.5 * self._mean, 4 * self._mean / self.workers)
        return self._ended_at + max(RETURN_SECONDS, expected)

    def _return_queue(self) -> None:
        self._return_last(len(self._queue))

    def _return_last(self, count: int) -> None:
        last = [self._queue.pop() for _ in range(count)]
        self._returned += [(lease.taskid, lease.attempt) for lease in reversed(last)]

    def _on_stop(self, grace: float, now: float) -> None:
        if self.phase is RankPhase.STOPPED:
            self._send(Stopped())
            return
        self.phase = RankPhase.STOPPING
        self._queue.clear()
        if grace > 0:
            self.pool.terminate()
            self._kill_at = min(self._kill_at, now + grace)
        else:
            self._kill()

    def _kill(self) -> None:
        self._kill_at = float("inf")
        self.pool.kill()

    # ---- the loop's step -------------------------------------------------------------

    def step(self, now: float) -> None:
        """Look at the pool, feed it, report."""
        self._collect(now)
        if self._fed_ahead and now > self._recall_at():
            self._recall()
        if now >= self._feed_at:
            self._feed_at = float("-inf")
            self._feed()
        if self._queue and now > self._return_at():
            self._return_queue()
        if now >= self._kill_at:
            self._kill()
        self._report_if_due(now)
        if self.phase is RankPhase.STOPPING and self.pool.stopped:
            self.phase = RankPhase.STOPPED
            self._report(now)
            self._send(Stopped())

    def is_forsaken(self, now: float) -> bool:
        """Rank 0 has not been heard for too long."""
        limit = TAKING_OVER_SECONDS if self._awaits_leader else SILENCE_SECONDS
        if self.phase is RankPhase.JOINING:
            limit = JOINING_SECONDS
        return now - self._heard_at > limit

    def wait(self, waiter: Waiter, now: float, wake_at: float) -> None:
        """Sleep until this rank's pool has something, or until `wake_at`."""
        if self._expects_answer:
            self._expects_answer = False
            waiter.expect()
        work_ahead = self._work_ahead()
        if work_ahead > 0.0:
            waiter.coalesce(work_ahead / 2)
        else:
            waiter.wait(self.pool.read_fds(), wake_at - now)

    def _work_ahead(self) -> float:
        """Seconds for which each worker has work: nothing is lost by looking later."""
        if self.phase is not RankPhase.WORKING or not self._fed_ahead:
            return 0.0
        return self.pool.least_ahead() * self._mean

    def wake_at(self) -> float:
        """When time alone makes `step` do something."""
        report_at = self._reported_at + self._report_seconds
        return min(
            self._kill_at,
            report_at if self._has_news() else float("inf"),
            self._recall_at() if self._fed_ahead else float("inf"),
            self._return_at() if self._queue else float("inf"),
            self._feed_at if self._feed_at > 0 else float("inf"),
        )

    def _collect(self, now: float) -> None:
        for event in self.pool.collect():
            match event:
                case Result():
                    self._results.append(event)
                    self._ended_at = now
                    self._refused_since = None
                    self._note_duration(event.seconds)
                case WorkerLost():
                    self._on_worker_lost(event)
                case LeaseRefused():
                    self._on_lease_refused(event, now)
                case LeaseReturned():
                    self._queue.appendleft(event.lease)
                    if self.phase is RankPhase.DRAINING:
                        self._return_queue()
                case PoolUseless():
                    self._send(RankTrouble(event.reason))
                case PoolGone():
                    self._on_pool_gone(now)
                case _:
                    assert_never(event)

    def _note_duration(self, seconds: float) -> None:
        self._ended += 1
        self._mean += (seconds - self._mean) * max(0.05, 1 / self._ended)

    def _on_worker_lost(self, event: WorkerLost) -> None:
        if event.running is not None:
            self._lost.append((event.running.taskid, event.running.attempt))
        self._queue.extendleft(reversed(event.unstarted))
        if self.phase is RankPhase.DRAINING:
            self._return_queue()

    def _on_lease_refused(self, event: LeaseRefused, now: float) -> None:
        """A disk that was full may not be so for long: try again for the grace time."""
        since = self._refused_since = (
            now if self._refused_since is None else self._refused_since
        )
        patience = self.definition.grace if self.definition else 0.0
        if self.phase is RankPhase.WORKING and now - since < patience:
            self._queue.appendleft(event.lease)
            self._feed_at = now + REFUSED_SECONDS
            return
        self._returned.append((event.lease.taskid, event.lease.attempt))
        self._send(RankTrouble(event.reason))

    def _on_pool_gone(self, now: float) -> None:
        self._queue.clear()
        self._report(now)
        self.phase = RankPhase.STOPPED
        self._pool_gone = True
        self._send(PoolLost())

    def _feed(self) -> None:
        if not self._queue:
            return
        ahead = self._ahead()
        count = min(len(self._queue), self.pool.vacancies(ahead))
        if count:
            self._fed_ahead = self._fed_ahead or ahead > 0
            self.pool.submit([self._queue.popleft() for _ in range(count)])

    def _ahead(self) -> int:
        """Leases to put into a worker's pipe beyond the one that it runs."""
        if self._mean == 0.0 or 2 * self._mean > PIPE_SECONDS:
            return 0
        return min(MOST_IN_PIPE, 1 + int(PIPE_SECONDS / self._mean))

    def _has_news(self) -> bool:
        return bool(self._results or self._returned or self._lost)

    def _report_if_due(self, now: float) -> None:
        if self._is_recalled:
            self._report(now)
        elif self._has_news():
            due = self._reported_at + self._report_seconds <= now
            if self._asks() or due or self._returned:
                self._report(now)

    def _asks(self) -> bool:
        """Whether rank 0 should know at once that a worker is idle.

        Of many ranks, each asks once, and then tells of others at the usual times:
        rank 0 may have nothing for them, or much to do.
        """
        if self._queue or self._has_asked or self.pool.vacancies(0) == 0:
            return False
        self._has_asked = self._report_seconds > REPORT_SECONDS
        return True

    def _report(self, now: float) -> None:
        if not (self._has_news() or self._is_recalled):
            return
        report = Report(
            now,
            tuple(self._results),
            tuple(self._returned),
            tuple(self._lost),
            self._is_recalled,
        )
        self._keep(self._results)
        self._results, self._returned, self._lost = [], [], []
        self._is_recalled = False
        self._expects_answer = True
        self._reported_at = now
        self._send(report)

    def _keep(self, results: list[Result]) -> None:
        """For another coordinator, until this one says that they are on disk."""
        if self.keeps_results:
            self._unrecorded.update(
                ((result.taskid, result.attempt), result) for result in results
            )
