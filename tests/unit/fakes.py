"""A farm in virtual time: real agents, and fakes of what is between and below them.

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
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, assert_never, overload

from mpifarm.coordinator.coordinator import (
    Conclude,
    Coordinator,
    Effect,
    LookAtList,
    NoteAttempt,
    NoteInLog,
    NoteRank,
    NoteRunning,
    OrderNews,
    Phase,
    RankChange,
    RankSet,
    Reply,
    Send,
    TakeNothing,
    Tell,
    Transact,
)
from mpifarm.model.messages import (
    Assign,
    Ping,
    Report,
    Shutdown,
    ToCoordinator,
    ToRank,
)
from mpifarm.model.requests import Answer
from mpifarm.model.settings import FarmDefinition, Policy, RunnerDefinition
from mpifarm.model.task import Lease, Outcome, Result
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.order.frontier import Frontier
from tests.unit.virtual_rank import START, FakePool, Seconds, VirtualRank

WAIT = 0.05
"""How long ranks wait until they are sure of a result."""


def define_farm(grace: float = 2.0) -> FarmDefinition:
    return FarmDefinition("f00d", "/scratch/list_workdir", RunnerDefinition(), grace)


def rank_set_of(
    size: int, workers: int, *, survives_rank_loss: bool = False
) -> RankSet:
    """Return ranks 0 to `size` - 1; the coordinator lives on rank 0."""
    return RankSet(
        tuple(range(size)), workers=workers, survives_rank_loss=survives_rank_loss
    )


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

    def grow(self, count: int) -> None:
        self._count += count


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

    def __init__(self, count: int, constraints: Constraints = UNORDERED) -> None:
        self.toprocess = deque(range(count))
        self.frontier: Frontier | None = None
        if constraints:
            self.frontier = Frontier(constraints, bytearray(count), bytearray(count))
        self.others: FakeDisk | None = None
        """The same disk, for the other farm that works here."""
        self.news = OrderNews()
        """What the last transaction means for a list with an order."""
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
        self.held_by_users: set[int] = set()
        """Tasks that users hold: nobody takes them."""
        self.pulled: list[int] = []
        """What the last transaction has pulled."""
        self.reopened: set[int] = set()
        """What the last transaction was to record as not run, and has requeued."""

    def transact(self, wanted: Transact, now: float) -> tuple[list[int], bool]:
        """Returns what was taken, and whether nothing is left."""
        wanted = self._reopen(wanted)
        for rank, result in wanted.results:
            self._release(result.taskid)
            assert result.taskid not in self.records, f"{result.taskid} recorded twice"
            self.records[result.taskid] = Record(now, rank, result)
        for taskid in wanted.requeue:
            self._release(taskid)
            self.given_back[taskid] += 1
        self.toprocess.extend(wanted.requeue)
        if self.frontier is not None:
            return self._take_ready(self.frontier, wanted, now)
        taken = self._take(wanted.take, now)
        self._pull(wanted.pull)
        free = {*self.toprocess} - self.held_by_users
        held = len(free) < len(self.toprocess)
        self.news = self.news._replace(more_may_come=held)
        return taken, not free

    def _reopen(self, wanted: Transact) -> Transact:
        """Requeue what was not to run and may run now, as a store does."""
        not_run = {r.taskid for _, r in wanted.results if r.outcome is Outcome.NOT_RUN}
        doomed = self.frontier.find_doomed if self.frontier else bool
        self.reopened = {taskid for taskid in not_run if not doomed(taskid)}
        left = [each for each in wanted.results if each[1].taskid not in self.reopened]
        back = (*wanted.requeue, *self.reopened)
        return replace(wanted, results=tuple(left), requeue=back)

    def _pull(self, taskids: Iterable[int]) -> None:
        """Take tasks out whatever the order says, as a store does."""
        self.pulled = [each for each in taskids if each in self.toprocess]
        for taskid in self.pulled:
            self.toprocess.remove(taskid)
        self._hold(self.pulled)

    def find_adopted(self) -> list[int]:
        """Return the tasks of a coordinator that was lost, as a store takes them over.

        Those that are never to run go back.
        """
        doomed = filter(self.frontier.find_doomed, self.held) if self.frontier else ()
        for taskid in [*doomed]:
            self._release(taskid)
            self.given_back[taskid] += 1
            self.toprocess.append(taskid)
        return sorted(self.held)

    def for_another_farm(self) -> "FakeDisk":
        """Return the same disk, for a second farm."""
        self.others = other = FakeDisk(0)
        other.toprocess, other.frontier = self.toprocess, self.frontier
        other.records, other.others = self.records, self
        return other

    def _take(self, count: int, now: float) -> list[int]:
        if count:
            self.takes.append(now)
        free = self.toprocess
        if self.held_by_users:
            held = self.held_by_users
            free = deque(each for each in self.toprocess if each not in held)
        taken = [free.popleft() for _ in range(min(count, len(free)))]
        if free is not self.toprocess:
            for taskid in taken:
                self.toprocess.remove(taskid)
        self._hold(taken)
        if count and not self.toprocess:
            self.emptied_at.append(now)
        return taken

    def _hold(self, taken: Iterable[int]) -> None:
        self.taken.update(taken)
        self.held.update(taken)

    def _take_ready(
        self, frontier: Frontier, wanted: Transact, now: float
    ) -> tuple[list[int], bool]:
        """As a store does with a list that has an order."""
        for _, result in wanted.results:
            is_finished = result.outcome is Outcome.COMPLETED
            ids = [result.taskid], ()
            finished, failed = ids if is_finished else ids[::-1]
            frontier.note_ends(finished=finished, failed=failed)
        not_run: list[tuple[int, str]] = []
        held = self.held_by_users
        free = [each for each in self.toprocess if each not in held]
        some_held = len(free) < len(self.toprocess)
        ready = [*filter(frontier.is_ready, free)]
        taken = ready[: wanted.take]
        if wanted.take:
            self.takes.append(now)
            doomed = ((each, frontier.find_doomed(each)) for each in free)
            not_run = [each for each in doomed if each[1]]
        self._hold([*taken, *(taskid for taskid, _ in not_run)])
        for taskid in self.held & {*self.toprocess}:
            self.toprocess.remove(taskid)
        self._pull(wanted.pull)
        theirs = self.others.held if self.others else ()
        more = some_held or (not taken and any(map(frontier.holds_up, theirs)))
        self.news = OrderNews(not_run, more, frontier.some_wait)
        return taken, len(taken) == len(ready)

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


class FarmPool(FakePool):
    """The pool of a rank of a simulated farm, whose ledger it keeps."""

    def __init__(self, farm: "SimulatedFarm", rank: "FakeRank") -> None:
        super().__init__(farm, self._find_seconds, self._find_status)
        self._farm = farm
        self._rank = rank

    def _find_seconds(self, taskid: int) -> float:
        broken = self._rank.fails_all_in
        return self._farm.seconds(taskid) if broken is None else broken

    def _find_status(self, lease: Lease) -> int:
        is_broken = self._rank.fails_all_in is not None
        return 1 if is_broken else self._farm.status_of(lease)

    def note_begin(self, lease: Lease, now: float) -> None:
        self._farm.note_start(lease, self._rank)

    def note_end(self, lease: Lease, now: float) -> None:
        self._farm.ends[lease.taskid, lease.attempt] = now

    def terminate(self) -> None:
        """Some end at TERM, whatever their status, some must be killed."""
        super().terminate()
        luck = self._farm.random
        for worker in self.at_work:
            if luck.random() < 0.5:
                self.end_after(worker, luck.uniform(1e-4, 0.01), luck.choice([0, -15]))


class FakeRank(VirtualRank):
    """A rank of a simulated farm: what it was told, and what befalls it."""

    pool: FarmPool

    def __init__(self, farm: "SimulatedFarm", rank: int, workers: int) -> None:
        self.farm = farm
        self.silent = False
        """Whether it neither hears nor says anything any more."""
        self.killed = False
        self.fails_all_in: float | None = None
        """Seconds in which every task fails here, on a node that is broken."""
        self.told: list[Lease] = []
        """All leases that it got."""
        self.most_leases = 0
        self.pings = 0
        self._alarm = math.inf
        super().__init__(rank, workers, FarmPool(farm, self), farm, self.say, farm.wait)
        rank_set = farm.coordinator.rank_set
        self.agent.reporter.keeps_results = (
            rank_set.survives_rank_loss and rank != rank_set.own
        )

    def say(self, message: ToCoordinator) -> None:
        if not self.silent:
            self.farm.post(self.rank, message)

    def hear(self, *messages: ToRank) -> None:
        assert not self.left, f"rank {self.rank} got {messages} after Shutdown"
        if self.silent:
            return
        for message in messages:
            if isinstance(message, Assign):
                self.told += message.leases
            self.pings += isinstance(message, Ping)
        super().hear(*messages)
        self.step()
        held = len(self.agent.feeder.queue) + self.pool.busy
        self.most_leases = max(self.most_leases, held)

    def get_signal(self, signum: int) -> None:
        """The launcher signals this rank."""
        if not self.silent:
            super().get_signal(signum)
            self.step()

    def step(self) -> None:
        if self.silent or self.left:
            return
        super().step()
        wake_at = self.wake_at()
        if wake_at != self._alarm:
            self._alarm = wake_at
            if wake_at < math.inf:
                self.farm.at(wake_at, lambda: self._wake(wake_at))

    def _wake(self, due: float) -> None:
        if due == self._alarm:  # else it was to be woken at another time
            self._alarm = math.inf
            self.step()

    @property
    def running(self) -> list[Lease]:
        return [*self.pool.at_work.values()]

    # ---- what befalls it ---------------------------------------------------------

    def rejoin(self) -> None:
        """Say all that is true here, after messages were lost."""
        self.agent.rejoin(self.farm.now)
        if self.rank == self.farm.coordinator.rank_set.own:
            self.agent.lead()
        self.step()

    def lose_worker(self) -> None:
        """A worker is killed under its task; another takes its place."""
        if self.pool.running and self.running and not self.silent:
            self.pool.lose_worker(min(self.pool.at_work))
            self.step()

    def lose_pool(self) -> None:
        if not (self.pool.gone or self.silent or self.left):
            self.pool.lose_fork_server()
            self.step()

    def die(self) -> None:
        """Kill the rank, and its commands with it."""
        self.pool.kill()
        self.silent = self.killed = True

    def signal_commands(self, signum: int, share: float) -> None:
        """Let the signal reach commands as well as the rank, as under Slurm."""
        luck = self.farm.random
        for worker in self.pool.at_work:
            if luck.random() < share and not self.silent:
                trapped = luck.random() < 0.3
                self.pool.finish(worker, status=0 if trapped else -signum)


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
        disk: FakeDisk | None = None,
        constraints: Constraints = UNORDERED,
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
        self.changes: list[tuple[int, RankChange]] = []
        self.told: list[str] = []
        """What the user was told."""
        self.replies: list[Answer] = []
        """What the farm has answered to users."""
        self.noted: list[NoteAttempt] = []
        self.disk = disk or FakeDisk(tasks, constraints)
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
        self.commands = Commands(tasks)
        self.constraints = constraints
        self.unseen = 0
        """Lines at the end of the list that nobody has taken up."""
        self.looks: list[float] = []
        """When the coordinator has asked for a look at the list."""
        self.coordinator = Coordinator(
            self.commands,
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
            self.at(START, rank.agent.join)

    # ---- time --------------------------------------------------------------------

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now + seconds, event)

    def at(self, moment: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, event))

    def add_lines(self, count: int) -> None:
        """Lines are appended to the list; a second later, they are seen."""
        self.unseen += count
        self.after(1.0, self.take_up)

    def take_up(self) -> None:
        """Take up what was added, as the leader does while the farm works."""
        if not self.unseen or self.coordinator.phase is not Phase.WORKING:
            return
        before, count, self.unseen = len(self.commands), self.unseen, 0
        self.commands.grow(count)
        self.disk.toprocess.extend(range(before, before + count))
        if self.disk.frontier is not None:
            self.disk.frontier.grow(len(self.commands))
        self.coordinator.on_list_grown(self.now)

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

    def _note(self, effect: NoteInLog | NoteRunning | NoteRank | NoteAttempt) -> None:
        if isinstance(effect, NoteRank):
            self.changes.append((effect.rank, effect.change))
        elif isinstance(effect, NoteAttempt):
            self.noted.append(effect)

    def _perform(self, effect: Effect) -> None:
        says_leave = isinstance(effect, Send) and isinstance(effect.message, Shutdown)
        assert self.counts.ends == 0 or says_leave, f"{effect} after Conclude"
        self.counts.effects += 1
        match effect:
            case Send():
                self._send(effect.rank, effect.message)
            case Transact():
                self._transact(effect)
            case NoteInLog() | NoteRunning() | NoteRank() | NoteAttempt():
                self._note(effect)
            case TakeNothing():
                pass
            case Tell():
                self.told.append(effect.sentence)
            case LookAtList():
                self.looks.append(self.now)
                self.take_up()
                self.coordinator.on_list_seen()
            case Reply():
                self.replies.append(effect.answer)
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
                pulled=self.disk.pulled,
                reopened=self.disk.reopened,
                order=self.disk.news,
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
            runs = [each.taskid for each in other.running]
            assert lease.taskid not in runs, f"{lease} runs on {other.rank} too"

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
            adopted=self.disk.find_adopted(),
        )
        self.coordinator.note_failed_before(0, self.disk.count_failed())
        self.coordinator.on_ranks_lost({*rank_set.ranks} - {*alive}, self.now)
        self.lose_messages()
        self.ranks[alive[0]].rejoin()
        self.check()

    def hold_words_of(self, rank: int, seconds: float) -> None:
        """Let what this rank says from now on arrive only after so many seconds."""
        self._arrivals[rank, False] = self.now + seconds
