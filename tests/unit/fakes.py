"""A farm in virtual time: a clock that tests move, fake ranks, disk and link.

Rules of this file:

* No process, no sleep, no real clock; random numbers only from the farm's seed, so that
  a failure comes again.
* The link serialises every message: it can't carry what the wire would not.
* `FakeDisk` is the judge: it raises at the first task that is recorded or given back
  without being held, or twice.  `SimulatedFarm` asks `find_violations` after each step.
"""

import heapq
import math
import pickle
import random
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, assert_never, overload

from mpifarm.coordinator.coordinator import (
    Conclude,
    Coordinator,
    Effect,
    NoteAttempt,
    NoteInLog,
    Phase,
    RankSet,
    Send,
    TakeNothing,
    Tell,
    Transact,
)
from mpifarm.model.messages import (
    REPORT_SECONDS,
    Alive,
    Assign,
    Committed,
    Drain,
    Join,
    Ping,
    PoolLost,
    Recall,
    Rejoin,
    Report,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
    Welcome,
)
from mpifarm.model.settings import FarmDefinition, Policy, RunnerDefinition
from mpifarm.model.task import Lease, Outcome, Result
from mpifarm.pool import LeaseRefused, PoolDefinition, PoolEvent, PoolGone, WorkerLost

START = 1000.0
"""The farm's clock at the start: monotonic clocks don't start at 0."""

WAIT = 0.05
"""How long ranks wait until they are sure of a result."""

KILLING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

Seconds = Callable[[int], float]
"""The run time of a task."""


def define_farm(grace: float = 2.0) -> FarmDefinition:
    return FarmDefinition("f00d", "/scratch/list_workdir", RunnerDefinition(), grace)


def rank_set_of(
    size: int, workers: int, *, survives_rank_loss: bool = False
) -> RankSet:
    """Return ranks 0 to `size` - 1; the coordinator lives on rank 0."""
    return RankSet(
        tuple(range(size)), workers=workers, survives_rank_loss=survives_rank_loss
    )


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


class Commands(Sequence[str]):
    """A tasklist of any length that takes no memory."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, taskid: int) -> str: ...
    @overload
    def __getitem__(self, taskid: slice) -> Sequence[str]: ...
    def __getitem__(self, taskid: int | slice) -> str | Sequence[str]:
        return f"run {taskid}"


def result_of(
    lease: Lease, ended: float, seconds: float = 1.0, status: int = 0
) -> Result:
    outcome = Outcome.COMPLETED if status == 0 else Outcome.FAILED
    return Result(
        lease.taskid, lease.attempt, outcome, status, 4711, 1.7e9, seconds, ended
    )


def sure_report(*told: Any, **more: Any) -> Report:
    """A report of results that count at once."""
    return replace(Report(*told, **more), sure=math.inf)


# ---- the disk -----------------------------------------------------------------------


class Record(NamedTuple):
    at: float
    rank: int
    result: Result


class FakeDisk:
    """A ``toprocess``, and the fate of its tasks; other farmers may change the list."""

    def __init__(self, count: int) -> None:
        self.toprocess = deque(range(count))
        self.held: set[int] = set()
        self.records: dict[int, Record] = {}
        self.given_back: Counter[int] = Counter()
        self.taken: Counter[int] = Counter()
        self.takes: list[float] = []
        """When each transaction that asked for tasks was done."""
        self.emptied_at: list[float] = []
        """When each such transaction found nothing more."""
        self.with_others = 0
        """Tasks that other farms hold."""

    def transact(self, wanted: Transact, now: float) -> tuple[list[int], bool]:
        """Returns what was taken, and whether nothing is left."""
        for rank, result in wanted.results:
            self._release(result.taskid)
            assert result.taskid not in self.records, f"{result.taskid} recorded twice"
            self.records[result.taskid] = Record(now, rank, result)
        for taskid in wanted.requeue:
            self._release(taskid)
            self.given_back[taskid] += 1
        self.toprocess.extend(wanted.requeue)
        return self._take(wanted.take, now), not self.toprocess

    def _take(self, count: int, now: float) -> list[int]:
        if count:
            self.takes.append(now)
        taken = [self.toprocess.popleft() for _ in range(min(count, self.left))]
        self.taken.update(taken)
        self.held.update(taken)
        if count and not self.toprocess:
            self.emptied_at.append(now)
        return taken

    def _release(self, taskid: int) -> None:
        assert taskid in self.held, f"task {taskid} isn't ours"
        self.held.remove(taskid)

    @property
    def left(self) -> int:
        return len(self.toprocess)

    def count_failed(self) -> int:
        return sum(record.result.status != 0 for record in self.records.values())

    def find_unaccounted(self) -> list[int]:
        """Return tasks that were not recorded or requeued as often as taken."""
        return [
            taskid
            for taskid, times in self.taken.items()
            if self.given_back[taskid] + (taskid in self.records) != times
        ]


# ---- the ranks ----------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    lease: Lease
    started: float
    fails: bool = False
    """Whether it was begun on a node that is broken."""


class FakeRank:
    """A rank as the messages describe it: workers that run leases, batched reports."""

    def __init__(self, farm: "SimulatedFarm", rank: int, workers: int) -> None:
        self.farm = farm
        self.rank = rank
        self.workers = workers
        self.running: dict[int, Running] = {}
        self.queue: deque[Lease] = deque()
        self.results: list[Result] = []
        self.lost: list[tuple[int, int]] = []
        self.reported_at = 0.0
        self.draining = False
        self.stopping = False
        self.dead = False
        """Whether its commands are killed, and it starts none."""
        self.signalled_at = math.inf
        """When a signal came that stops the farm."""
        self.unsure_until = 0.0
        """When all results are sure that have ended here."""
        self.silent = False
        """Whether it neither hears nor says anything any more."""
        self.killed = False
        self.pool_lost = False
        self.fails_all_in: float | None = None
        """Seconds in which every task fails here, on a node that is broken."""
        self.welcomed = False
        self.unrecorded: dict[tuple[int, int], Result] = {}
        """Results that it has reported, and that may not be on disk yet."""
        self.told: list[Lease] = []
        """All leases that it got."""
        self.left = False
        self.most_leases = 0
        self.pings = 0

    # ---- what it hears -----------------------------------------------------------

    def hear(self, message: ToRank) -> None:
        assert not self.left, f"rank {self.rank} got {message} after Shutdown"
        if self.silent:
            return
        match message:
            case Welcome():
                self.welcomed = True
            case Assign():
                self._on_assign(message.leases)
            case Recall():
                self._give_back(message.count)
            case Drain():
                self.draining = True
                self._return(self.queue)
                self.queue.clear()
            case Stop():
                self._on_told_to_stop(message)
            case Ping():
                self.pings += 1
                self.say(Alive())
            case Committed():
                self._forget(message.results)
            case Shutdown():
                self.left = True
            case _:
                assert_never(message)

    def _forget(self, results: Iterable[tuple[int, int]]) -> None:
        for each in results:
            self.unrecorded.pop(each, None)

    def _on_assign(self, leases: Sequence[Lease]) -> None:
        self.told += leases
        if self.draining or self.dead:
            self._return(leases)
            return
        self.queue.extend(leases)
        held = len(self.queue) + len(self.running) + len(self.results)
        self.most_leases = max(self.most_leases, held)
        self._feed()

    def _return(self, leases: Iterable[Lease]) -> None:
        returned = tuple((lease.taskid, lease.attempt) for lease in leases)
        if returned:
            self.say(Report(self.farm.now, returned=returned))

    def _give_back(self, count: int) -> None:
        given = [self.queue.pop() for _ in range(min(count, len(self.queue)))]
        self.report(tuple((lease.taskid, lease.attempt) for lease in given[::-1]))

    def _on_told_to_stop(self, message: Stop) -> None:
        if message.by_signal and message.grace == 0:
            self._void()
        self._on_stop(message.grace)

    def _on_stop(self, grace: float) -> None:
        if self.dead:
            self.say(Stopped())
            return
        self.queue.clear()
        self.draining = self.stopping = True
        if grace == 0:
            self._die()
            return
        for worker in list(self.running):
            # some end at TERM, whatever their status, some must be killed
            if self.farm.random.random() < 0.5:
                self._end(worker, status=self.farm.random.choice([0, -15]))
        if not self.running:
            self._finish_stop()
        self.farm.after(grace, self._die)

    def _die(self) -> None:
        if not self.dead:
            self.running.clear()
            self._finish_stop()

    def _finish_stop(self) -> None:
        if self.dead:
            return
        self.report()
        if self.farm.now < self.unsure_until and self.signalled_at == math.inf:
            self.farm.at(self.unsure_until, self._finish_stop)
            return
        self.dead = True
        self.confirm()
        self.say(Stopped())

    @property
    def sure(self) -> float:
        """Until when no signal has come within the wait after the end of a command."""
        return min(self.farm.now, self.signalled_at) - self.farm.wait

    def _expect_sureness(self, now: float) -> None:
        is_expected = self.unsure_until > now
        self.unsure_until = now + self.farm.wait + 1e-6
        if not is_expected:
            self.farm.at(self.unsure_until, self.confirm)

    def confirm(self) -> None:
        """Say that what was reported is sure, and again when more is."""
        if not self.silent and not self.left:
            self.say(Report(self.farm.now, sure=self.sure))
            if self.unsure_until > self.farm.now:
                self.farm.at(self.unsure_until, self.confirm)

    def _void(self) -> None:
        self.signalled_at = min(self.signalled_at, self.farm.now)
        self.results = [each for each in self.results if each.ended <= self.sure]

    def get_signal(self, signum: int) -> None:
        """The launcher signals this rank."""
        self.say(SignalReceived(signum, self.sure))
        if signum != signal.SIGUSR2 and not self.left and not self.silent:
            self._void()
            grace = 0.0 if signum in KILLING else self.farm.grace
            self._on_stop(grace)

    # ---- its workers -------------------------------------------------------------

    def _feed(self) -> None:
        for worker in range(self.workers):
            if not self.queue:
                return
            if worker not in self.running:
                self._start(worker, self.queue.popleft())

    def _start(self, worker: int, lease: Lease) -> None:
        broken = self.fails_all_in is not None
        running = self.running[worker] = Running(lease, self.farm.now, broken)
        self.farm.note_start(lease, self)
        seconds = self.fails_all_in
        if seconds is None:
            seconds = self.farm.seconds(lease.taskid)

        def end() -> None:
            if self.running.get(worker) is running and not self.silent:
                self._end(worker)

        self.farm.after(seconds, end)

    def _end(self, worker: int, status: int | None = None) -> None:
        running = self.running.pop(worker)
        if status is None:
            status = 1 if running.fails else self.farm.status_of(running.lease)
        now = self.farm.now
        self.farm.note_end(running.lease, now)
        seconds = now - running.started
        if not self.stopping:
            self.results.append(result_of(running.lease, now, seconds, status))
            self._expect_sureness(now)
        self._feed()
        if not self.queue:
            self.report()
        else:
            due = self.reported_at + REPORT_SECONDS - now
            self.farm.after(max(0.0, due), self.report)
        if self.stopping and not self.running:
            self._finish_stop()

    def report(self, returned: tuple[tuple[int, int], ...] | None = None) -> None:
        """Report what has happened; with `returned`, as the answer to a recall."""
        asked = returned is not None
        if self.silent or not (self.results or self.lost or asked):
            return
        told = tuple(self.results), returned or (), tuple(self.lost)
        report = Report(self.farm.now, *told, is_recall=asked, sure=self.sure)
        self._keep()
        self.reported_at = self.farm.now
        self.say(report)

    def _keep(self) -> None:
        if self.farm.coordinator.rank_set.survives_rank_loss:
            self.unrecorded |= {(r.taskid, r.attempt): r for r in self.results}
        self.results, self.lost = [], []

    def rejoin(self) -> None:
        """Say all that is true here, after messages were lost."""
        results = (*self.unrecorded.values(), *self.results)
        report = Report(self.farm.now, results, (), tuple(self.lost), sure=self.sure)
        self._keep()
        held = [*self.queue, *(each.lease for each in self.running.values())]
        leases = tuple((lease.taskid, lease.attempt) for lease in held)
        pid, welcomed = 100 + self.rank, self.welcomed
        self.say(Rejoin("node", pid, self.workers, welcomed, leases, report))
        self._repeat_phase()

    def _repeat_phase(self) -> None:
        """Say what was decided, in words that another coordinator knows."""
        if self.pool_lost:
            self.say(PoolLost())
        elif self.stopping or self.dead:
            self.say(SignalReceived(signal.SIGUSR1))
            if self.dead:
                self.say(Stopped())
        elif self.draining:
            self.say(SignalReceived(signal.SIGUSR2))

    # ---- what befalls it ---------------------------------------------------------

    def lose_worker(self) -> None:
        """A worker is killed under its task; another takes its place."""
        if self.running and not self.dead and not self.silent:
            lease = self.running.pop(min(self.running)).lease
            self.farm.note_end(lease, self.farm.now)
            self.lost.append((lease.taskid, lease.attempt))
            self._feed()
            self.report()

    def lose_pool(self) -> None:
        if self.dead or self.silent:
            return
        self.running.clear()
        self.queue.clear()
        self.dead = self.pool_lost = True
        self.report()
        self.say(PoolLost())

    def die(self) -> None:
        """Kill the rank, and its commands with it."""
        for running in self.running.values():
            self.farm.note_end(running.lease, self.farm.now)
        self.running.clear()
        self.queue.clear()
        self.silent = self.killed = True

    def join(self) -> None:
        self.say(Join("node", 100 + self.rank, self.workers))

    def say(self, message: ToCoordinator) -> None:
        if not self.silent:
            self.farm.post(self.rank, message)

    def signal_commands(self, signum: int, share: float) -> None:
        """Let the signal reach commands as well as the rank, as under Slurm."""
        for worker in list(self.running):
            if self.farm.random.random() < share and not self.silent:
                trapped = self.farm.random.random() < 0.3
                self._end(worker, status=0 if trapped else -signum)


# ---- the farm -----------------------------------------------------------------------


@dataclass(slots=True)
class Counts:
    events: int = 0
    decisions: int = 0
    effects: int = 0
    takes: int = 0
    transactions: int = 0
    ends: int = 0
    leaves: Counter[int] = field(default_factory=Counter)
    spins: int = 0
    """Decisions that had no effect and asked to be woken at once."""


class SimulatedFarm:
    """A coordinator with fake ranks and a fake disk, driven by events."""

    def __init__(
        self,
        tasks: int,
        ranks: int = 4,
        workers: int = 4,
        seconds: Seconds | float = 1.0,
        *,
        seed: int = 0,
        grace: float = 2.0,
        timeout: float | None = None,
        delay: float = 0.001,
        disk_seconds: float = 0.0,
        checked: bool = True,
        waits_for_others: bool = False,
        policy: Policy | None = None,
        deadline: float | None = None,
        survives_rank_loss: bool = False,
        wait: float = WAIT,
    ) -> None:
        self.now = START
        self.wait = wait
        """By how much a signal may come later to a rank than to its commands."""
        self.grace = grace
        self.random = random.Random(seed)
        self.seconds: Seconds = seconds if callable(seconds) else lambda _: seconds
        self.status: Callable[[int], int] = lambda _: 0
        """How a task ends, whichever attempt."""
        self.status_of: Callable[[Lease], int] = lambda t: self.status(t.taskid)
        """How an attempt ends."""
        self.told: list[str] = []
        """What the user was told."""
        self.noted: list[NoteAttempt] = []
        self.disk = FakeDisk(tasks)
        self.disk_seconds = disk_seconds
        self.disk_fails = False
        self.delay = delay
        self.checked = checked
        self.counts = Counts()
        self.started: Counter[tuple[int, int]] = Counter()
        self.ends: dict[tuple[int, int], float] = {}
        """When each attempt ended, really."""
        self.ended_at: float | None = None
        """When the coordinator said `Conclude`."""
        self.coordinator = Coordinator(
            Commands(tasks),
            define_farm(grace),
            rank_set_of(ranks, workers, survives_rank_loss=survives_rank_loss),
            START,
            policy=policy or Policy(),
            timeout=timeout,
            deadline=deadline,
            waits_for_others=waits_for_others,
        )
        self.ranks = [FakeRank(self, rank, workers) for rank in range(ranks)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._arrivals: dict[tuple[int, bool], float] = {}
        self._runs_on: dict[int, FakeRank] = {}
        """Where a task was started last."""
        self._age = 0
        """Messages of an earlier age are lost."""
        for rank in self.ranks:
            self.at(START, rank.join)

    # ---- time --------------------------------------------------------------------

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now + seconds, event)

    def at(self, moment: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, event))

    def run(self, seconds: float = 1e6) -> None:
        """Run until the farm has ended and all is quiet, at most `seconds`."""
        until = self.now + seconds
        wake_at = self._settle()
        while self.ended_at is None or self._events:
            moment = self._events[0][0] if self._events else float("inf")
            moment = min(moment, wake_at if self.ended_at is None else float("inf"))
            if moment > until:
                self.now = until
                return
            self.now = max(self.now, moment)
            if self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
                self.counts.events += 1
            wake_at = self._settle()

    def _settle(self) -> float:
        """Decide until nothing more is to be done; return when to be woken."""
        while self.ended_at is None:
            self.counts.decisions += 1
            effects = self.coordinator.decide(self.now)
            self.check()
            if not effects:
                return self._wake_at()
            for effect in effects:
                self._perform(effect)
        return float("inf")

    def _wake_at(self) -> float:
        wake_at = self.coordinator.wake_at(self.now)
        if wake_at > self.now:
            return wake_at
        if self.coordinator.table.transaction is None:
            self.counts.spins += 1
        return self.now + 0.001  # what a loop that spins takes at least

    def check(self) -> None:
        if self.checked:
            assert self.coordinator.find_violations() == []

    # ---- what the coordinator wants ----------------------------------------------

    def _perform(self, effect: Effect) -> None:
        says_leave = isinstance(effect, Send) and isinstance(effect.message, Shutdown)
        assert self.counts.ends == 0 or says_leave, f"{effect} after Conclude"
        self.counts.effects += 1
        match effect:
            case Send():
                self._send(effect.rank, effect.message)
            case Transact():
                self._transact(effect)
            case NoteInLog() | TakeNothing():
                pass
            case NoteAttempt():
                self.noted.append(effect)
            case Tell():
                self.told.append(effect.sentence)
            case Conclude():
                self.counts.ends += 1
                self.ended_at = self.now
                assert self.coordinator.table.transaction is None
                assert self.coordinator.phase is Phase.LEAVING
            case _:
                assert_never(effect)

    def _send(self, rank: int, message: ToRank) -> None:
        if isinstance(message, Shutdown):
            self.counts.leaves[rank] += 1
        wire = pickle.dumps(message)
        self._deliver((rank, True), lambda: self.ranks[rank].hear(pickle.loads(wire)))

    def _transact(self, wanted: Transact) -> None:
        assert self.coordinator.table.transaction is wanted, "two transactions at once"
        self.counts.transactions += 1
        self.counts.takes += wanted.take > 0
        if self.disk_seconds:
            self.after(self.disk_seconds, lambda: self._finish(wanted))
        else:
            self._finish(wanted)

    def _finish(self, wanted: Transact) -> None:
        if self.coordinator.table.transaction is not wanted:
            return  # who wanted it is dead
        if self.disk_fails:
            self.coordinator.on_storage_failed("the disk is full", self.now)
        else:
            taken, empty = self.disk.transact(wanted, self.now)
            self.coordinator.on_transacted(
                taken,
                self.now,
                empty=empty,
                cost=self.disk_seconds,
                others=self.disk.with_others > 0,
            )
        self.check()

    # ---- the link ----------------------------------------------------------------

    def post(self, rank: int, message: ToCoordinator) -> None:
        """Deliver what a rank says: later, in the order of its words."""
        wire = pickle.dumps(message)

        def arrive() -> None:
            if self.ended_at is None:
                said: Any = pickle.loads(wire)
                self.coordinator.on_message(rank, said, self.now)
                self.check()

        self._deliver((rank, False), arrive)

    def _deliver(self, way: tuple[int, bool], event: Callable[[], None]) -> None:
        arrival = self.now + self.random.uniform(0.1, 1.0) * self.delay
        arrival = max(arrival, self._arrivals.get(way, 0.0))
        self._arrivals[way] = arrival
        age, coordinator = self._age, self.coordinator

        def arrive() -> None:
            within = (
                way[0] == coordinator.rank_set.own and coordinator is self.coordinator
            )
            if age == self._age or within:
                event()

        self.at(arrival, arrive)

    # ---- the ledger --------------------------------------------------------------

    def note_start(self, lease: Lease, rank: FakeRank) -> None:
        self.started[lease.taskid, lease.attempt] += 1
        other = self._runs_on.get(lease.taskid, rank)
        self._runs_on[lease.taskid] = rank
        if other is not rank and not other.silent:
            runs = [each.lease.taskid for each in other.running.values()]
            assert lease.taskid not in runs, f"{lease} runs on {other.rank} too"

    def note_end(self, lease: Lease, now: float) -> None:
        self.ends[lease.taskid, lease.attempt] = now

    def age_at_record(self, record: Record) -> float:
        """Return the seconds between the end of a command and its record."""
        return record.at - self.ends[record.result.taskid, record.result.attempt]

    # ---- what befalls it ---------------------------------------------------------

    def signal(self, signum: int, rank: int = 0) -> None:
        self.ranks[rank].get_signal(signum)

    def kill(self, rank: int, told_after: float | None = 0.1) -> None:
        """Kill a rank; MPI says so after some seconds, or never (None)."""
        self.ranks[rank].die()
        if told_after is not None:
            self.after(told_after, lambda: self._tell_loss(rank))

    def _tell_loss(self, rank: int) -> None:
        if self.ended_at is None:
            self.coordinator.on_ranks_lost([rank], self.now)
            self.check()

    def lose_messages(self) -> None:
        """Lose all that is under way, and let the ranks know it."""
        self._age += 1
        self.coordinator.on_mended(self.now)
        self._rejoin_others()

    def _rejoin_others(self) -> None:
        for rank in self.ranks:
            is_own = rank.rank == self.coordinator.rank_set.own
            if not (is_own or rank.silent or rank.left):
                rank.rejoin()

    def lose_coordinator(self) -> None:
        """Kill the coordinator's rank; the lowest that lives leads from here."""
        old = self.coordinator
        self.ranks[old.rank_set.own].die()
        alive = [r.rank for r in self.ranks if not (r.silent or r.left)]
        rank_set = RankSet(
            tuple(range(len(self.ranks))), alive[0], old.rank_set.workers, True
        )
        self.coordinator = Coordinator(
            old.commands,
            old.definition,
            rank_set,
            self.now,
            policy=old.policy,
            adopted=sorted(self.disk.held),
        )
        self.coordinator.note_failed_before(0, self.disk.count_failed())
        self.coordinator.on_ranks_lost({*rank_set.ranks} - {*alive}, self.now)
        self.lose_messages()
        self.ranks[alive[0]].rejoin()
        self.check()

    def hold_words_of(self, rank: int, seconds: float) -> None:
        """Let what this rank says from now on arrive only after so many seconds."""
        self._arrivals[rank, False] = self.now + seconds


# ---- a pool -------------------------------------------------------------------------


class FakePool:
    """A pool without processes: its tasks take virtual time, or end when told.

    It is as strict as `mpifarm.pool.Pool`: leases only while it runs, and a worker
    loses all its leases with its life.
    """

    def __init__(self, clock: Clock, seconds: Seconds = lambda _: math.inf) -> None:
        self.definition: PoolDefinition | None = None
        self.calls: list[str] = []
        self.hands: list[deque[Lease]] = []
        self.begun: list[Lease] = []
        """Leases whose commands were started, in order."""
        self.running = False
        self.gone = False
        self._clock = clock
        self._seconds = seconds
        self._started: dict[int, float] = {}
        self._events: list[PoolEvent] = []

    # ---- what the rank calls ---------------------------------------------------------

    def start(self, definition: PoolDefinition) -> None:
        assert not self.calls, f"started after {self.calls}"
        self.calls.append("start")
        self.definition = definition
        self.hands = [deque() for _ in range(definition.workers)]
        self.running = True

    def vacancies(self, ahead: int) -> int:
        if not self.running:
            return 0
        return sum(max(0, 1 + ahead - len(hand)) for hand in self.hands)

    def least_ahead(self) -> int:
        if not self.running:
            return 0
        return max(0, min(map(len, self.hands), default=0) - 1)

    def submit(self, leases: Iterable[Lease]) -> None:
        assert self.running, "a lease for a pool that doesn't run"
        for lease in leases:
            self._give(lease)

    def _give(self, lease: Lease) -> None:
        worker = min(range(len(self.hands)), key=lambda w: len(self.hands[w]))
        self.hands[worker].append(lease)
        self._begin(worker, self._clock.now)

    def recall(self) -> list[Lease]:
        recalled: list[Lease] = []
        for hand in self.hands:
            waiting = [*hand][1:]
            recalled += waiting
            while len(hand) > 1:
                hand.pop()
        return recalled if self.running else []

    def collect(self) -> list[PoolEvent]:
        for worker in range(len(self.hands)):
            while (end := self._end_of(worker)) <= self._clock.now:
                self.finish(worker, ended=end)
        events, self._events = self._events, []
        return events

    def terminate(self) -> None:
        self.calls.append("terminate")
        self._end_leases()

    def kill(self) -> None:
        self.calls.append("kill")
        self._end_leases()
        self.hands = [deque() for _ in self.hands]

    def close(self) -> None:
        self.calls.append("close")
        self._end_leases()

    @property
    def stopped(self) -> bool:
        return self.gone or (bool(self.calls) and not self.running and not self.busy)

    @property
    def leases(self) -> list[Lease]:
        return [lease for hand in self.hands for lease in hand]

    # ---- what a test does ------------------------------------------------------------

    @property
    def busy(self) -> int:
        return sum(map(len, self.hands))

    def finish(
        self, worker: int = 0, status: int = 0, ended: float | None = None
    ) -> None:
        """The command that this worker runs ends."""
        lease = self.hands[worker].popleft()
        now = self._clock.now if ended is None else ended
        seconds = now - self._started.pop(worker)
        self._events.append(result_of(lease, now, seconds, status))
        if self.running:
            self._begin(worker, now)
        else:
            self.hands[worker].clear()

    def lose_worker(self, worker: int = 0) -> None:
        """Kill a worker; another takes its place."""
        leases = [*self.hands[worker]]
        self.hands[worker].clear()
        self._started.pop(worker, None)
        running = leases[0] if leases else None
        self._events.append(WorkerLost(running, tuple(leases[1:]), -9))

    def refuse(self, reason: str, worker: int = 0) -> None:
        """Let a worker refuse the task that it came to."""
        self._started.pop(worker, None)
        self._events.append(LeaseRefused(self.hands[worker].popleft(), reason))

    def lose_fork_server(self) -> None:
        """Kill the fork server, and all workers with it."""
        leases = tuple(lease for hand in self.hands for lease in hand)
        self.running, self.gone = False, True
        self.hands = []
        self._events.append(PoolGone(leases))

    def _begin(self, worker: int, now: float) -> None:
        if self.hands[worker] and worker not in self._started:
            self._started[worker] = now
            self.begun.append(self.hands[worker][0])

    def _end_of(self, worker: int) -> float:
        hand = self.hands[worker]
        if not hand or worker not in self._started:
            return math.inf
        return self._started[worker] + self._seconds(hand[0].taskid)

    def _end_leases(self) -> None:
        """Start nothing more, and drop what was not begun."""
        self.running = False
        for hand in self.hands:
            while len(hand) > 1:
                hand.pop()
