"""The coordinator and the agents of its ranks under any order of events.

Hypothesis finds the order.  Ranks are slow, silent, die or repeat themselves; messages
are under way and get lost, the coordinator too; the disk is the ledger (`FakeDisk`
raises at a task recorded or given back that isn't held).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mpifarm.coordinator.coordinator import (
    Conclude,
    Coordinator,
    Effect,
    NoteAttempt,
    Phase,
    RankSet,
    RankState,
    Reply,
    Send,
    Transact,
)
from mpifarm.model.messages import (
    Alive,
    Assign,
    RankUnusable,
    Report,
    Shutdown,
    Stop,
    ToCoordinator,
    ToRank,
)
from mpifarm.model.requests import Fate, Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, Outcome
from tests.unit.fakes import (
    WAIT,
    Commands,
    FakeDisk,
    define_farm,
    rank_set_of,
)
from tests.unit.virtual_rank import START, Clock, FakePool, VirtualRank

TASKS = 30
WORKERS = 2

ranks = st.integers(0, 3)
counts = st.integers(1, 3)
sometimes = st.integers(0, 3).map(lambda number: number == 2)
rarely = st.integers(0, 7).map(lambda number: number == 5)
"""What ends the farm is rare: else no farm gets to anything."""

seconds = st.sampled_from([0.0, 0.001, 0.05, 0.1, 0.25, 0.3, 0.6, 1.1, 6.0, 31.0])
statuses = st.sampled_from([0, 1, 75, -SIGTERM])

signals = st.sampled_from([SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGHUP])

policies = st.builds(
    Policy,
    retries=st.sampled_from([0, 0, 1, 3]),
    retry_delay=st.sampled_from([0.0, 0.5, 40.0]),
    max_failures=st.sampled_from([None, None, 2]),
    requeue_status=st.sampled_from([None, 75]),
    quarantine=st.sampled_from([0, 1, 2, 10]),
    canary=st.sampled_from([0, 0, 2]),
    rank_timeout=st.sampled_from([1.0, 4.0, 60.0]),
)


few_tasks = st.lists(st.integers(0, TASKS - 1), min_size=1, max_size=6, unique=True)


class Pace(Enum):
    """What happens before the next event."""

    PROMPT = "messages arrive, rank 0 acts, the disk is done, results get sure"
    FAST = "messages arrive"
    SLOW = "nothing"


Note = Callable[[Lease, float], None]


class LedgerPool(FakePool):
    """A pool that tells when a command begins and ends."""

    def __init__(self, clock: Clock, note: Note, note_begin: Note) -> None:
        super().__init__(clock)
        self._note = note
        self._note_begin = note_begin

    def note_begin(self, lease: Lease, now: float) -> None:
        self._note_begin(lease, now)

    def note_end(self, lease: Lease, now: float) -> None:
        self._note(lease, now)


class Rank(VirtualRank):
    """A rank, with the messages that are under way to it and from it."""

    pool: LedgerPool

    def __init__(self, rank: int, clock: Clock, note: Note, note_begin: Note) -> None:
        self.inbox: deque[ToRank] = deque()
        self.outbox: deque[ToCoordinator] = deque()
        pool = LedgerPool(clock, note, note_begin)
        super().__init__(rank, WORKERS, pool, clock, self.outbox.append, WAIT)
        self.has_joined = False
        self.is_told_to_leave = False
        self.killed = False
        self.mute = False
        """It hangs: it neither hears nor says anything."""
        self.signalled_at = float("inf")
        """When a signal came to it that stops the farm."""

    @property
    def is_alive(self) -> bool:
        return not self.killed and not self.mute and not self.left

    @property
    def sure(self) -> float:
        """Until when no command that ended was ended by a signal."""
        return min(self.clock.now, self.signalled_at) - WAIT

    @property
    def taskids(self) -> set[int]:
        """The tasks that run or wait here, or are on their way."""
        held = {taskid for taskid, _ in self.agent.feeder.held}
        coming = [m.leases for m in self.inbox if isinstance(m, Assign)]
        return held | {lease.taskid for leases in coming for lease in leases}

    def hear(self, *messages: ToRank) -> None:
        for message in messages:
            if isinstance(message, Stop) and message.by_signal and not message.grace:
                self.signalled_at = min(self.signalled_at, self.clock.now)
        super().hear(*messages)

    def finish_some(self, count: int, status: int) -> None:
        for worker in [*self.pool.at_work][:count]:
            self.pool.finish(worker, status)


class CoordinatorMachine(RuleBasedStateMachine):
    """Ranks, disk and signals as rules; what must hold as invariants."""

    coordinator: Coordinator

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.disk = FakeDisk(TASKS)
        self.pending: Transact | None = None
        self.ranks: list[Rank] = []
        self.pace = Pace.PROMPT
        self.said: list[tuple[int, Report]] = []
        self.ends = 0
        self.asked = 0
        self.last_effects: list[Effect] = []
        self.ended: dict[tuple[int, int], float] = {}
        self.attempts: dict[int, int] = {}
        self.ended_since: set[tuple[int, int]] = set()
        """Attempts that ended under this coordinator."""
        self.requests: dict[str, Request] = {}
        """The requests that are not answered yet, by name."""
        self.cancelled: set[int] = set()
        """Tasks that were cancelled: none of them may be handed out any more."""
        self.barred: set[int] = set()
        """Tasks of which was answered that they wait, or are cancelled."""

    @initialize(
        size=st.sampled_from([3, 2, 4, 1]),
        timeout=st.sampled_from([None, None, None, 5.0]),
        grace=st.sampled_from([0.0, 2.0]),
        policy=policies,
        deadline=st.sampled_from([None, None, None, START + 60.0]),
        survives_rank_loss=st.booleans(),
        pace=st.sampled_from([Pace.PROMPT, Pace.FAST, Pace.SLOW]),
        joined=st.sampled_from([4, 2, 1, 0]),
    )
    def begin(
        self,
        size: int,
        timeout: float | None,
        grace: float,
        policy: Policy,
        deadline: float | None,
        survives_rank_loss: bool,
        pace: Pace,
        joined: int,
    ) -> None:
        self.pace = pace
        self.ranks = [
            Rank(each, self.clock, self.note_end, self.note_begin)
            for each in range(size)
        ]
        self.coordinator = Coordinator(
            Commands(TASKS),
            define_farm(grace),
            rank_set_of(size, WORKERS, survives_rank_loss=survives_rank_loss),
            START,
            policy=policy,
            timeout=timeout,
            deadline=deadline,
        )
        for rank in self.ranks[1:]:
            rank.agent.reporter.keeps_results = survives_rank_loss
        for rank in self.ranks[:joined]:
            self.a_rank_joins(rank.rank)

    def note_begin(self, lease: Lease, began: float) -> None:
        assert lease.taskid not in self.barred

    def note_end(self, lease: Lease, ended: float) -> None:
        self.ended[lease.taskid, lease.attempt] = ended
        self.ended_since.add((lease.taskid, lease.attempt))

    # ---- the link --------------------------------------------------------------------

    def pick(self, rank: int) -> Rank:
        """Let arrive what does before the next event, and return the rank."""
        if self.pace is not Pace.SLOW:
            self.carry()
        if self.pace is Pace.PROMPT:
            for _ in range(3):
                self.clock.advance(WAIT)
                self.carry()
                self.act()
                self.write()
            self.carry()
        return self.ranks[rank % len(self.ranks)]

    def carry(self) -> None:
        """Let everything arrive."""
        while any(self.move(rank, 100) for rank in self.ranks):
            pass

    def move(self, rank: Rank, count: int) -> bool:
        """Let up to `count` messages each way arrive; return whether there were any."""
        if rank.killed or rank.mute:
            return False
        is_some = bool(rank.inbox or rank.outbox)
        for _ in range(min(count, len(rank.inbox))):
            rank.hear(rank.inbox.popleft())
        rank.step()
        for _ in range(min(count, len(rank.outbox))):
            self.hear(rank.rank, rank.outbox.popleft())
        return is_some

    def hear(self, rank: int, message: ToCoordinator) -> None:
        if self.ends == 0:
            if isinstance(message, Report):
                self.said.append((rank, message))
            self.coordinator.on_message(rank, message, self.clock.now)

    @rule(rank=ranks, count=counts)
    def some_messages_arrive(self, rank: int, count: int) -> None:
        self.move(self.pick(rank), count)

    @property
    def own(self) -> Rank:
        return self.ranks[self.coordinator.rank_set.own]

    # ---- what befalls ranks ----------------------------------------------------------

    @rule(rank=ranks)
    def a_rank_joins(self, rank: int) -> None:
        joining = self.pick(rank)
        if joining.is_alive and not joining.has_joined:
            joining.has_joined = True
            joining.agent.join()

    @rule(rank=ranks, count=counts, status=statuses)
    def commands_end(self, rank: int, count: int, status: int) -> None:
        self.pick(rank).finish_some(count, status)

    @rule(rank=ranks, count=counts)
    def workers_are_lost(self, rank: int, count: int) -> None:
        losing = self.pick(rank)
        if losing.pool.running:
            for worker in [*losing.pool.at_work][:count]:
                losing.pool.lose_worker(worker)

    @rule(rank=ranks, happens=sometimes)
    def a_task_is_refused(self, rank: int, happens: bool) -> None:
        pool = self.pick(rank).pool
        if happens and pool.running and pool.at_work:
            pool.refuse("no room", min(pool.at_work))

    @precondition(lambda self: self.said)
    @rule(number=st.integers(0, 50), rank=ranks)
    def a_report_comes_again_or_from_another_rank(self, number: int, rank: int) -> None:
        speaking = self.pick(rank)
        _, report = self.said[number % len(self.said)]
        record, tasks = self.coordinator.ranks[speaking.rank], self.coordinator.table
        if self.coordinator.unlocated.tasks or record.is_gone:
            return
        if {(t, tasks.tasks[t].attempt) for t in record.leases} & pairs_in(report):
            return  # returned unstarted, and leased again under the same attempt
        before = self.standing()
        again = replace(report, sure=record.sure, is_recall=False)
        self.coordinator.on_message(speaking.rank, again, self.clock.now)
        assert self.standing() == before

    def standing(self) -> object:
        records = self.coordinator.table.tasks.values()
        return [(t.taskid, t.state, t.attempt, t.lost, t.rank) for t in records]

    @rule(rank=ranks, happens=rarely)
    def a_pool_is_lost(self, rank: int, happens: bool) -> None:
        losing = self.pick(rank)
        if happens and losing.is_alive and not losing.pool.gone:
            losing.pool.lose_fork_server()

    @rule(rank=ranks, signum=signals, happens=rarely)
    def a_signal_comes(self, rank: int, signum: int, happens: bool) -> None:
        signalled = self.pick(rank)
        if happens and signalled.is_alive:
            if signum != SIGUSR2:
                signalled.signalled_at = min(signalled.signalled_at, self.clock.now)
            signalled.get_signal(signum)

    @rule(rank=ranks, happens=rarely)
    def a_rank_is_in_trouble(self, rank: int, happens: bool) -> None:
        troubled = self.pick(rank)
        if happens and troubled.is_alive:
            troubled.outbox.append(RankUnusable("no licence"))

    # ---- losses ----------------------------------------------------------------------

    @rule(rank=ranks, happens=sometimes, seconds=seconds)
    def a_rank_hangs(self, rank: int, happens: bool, seconds: float) -> None:
        hanging = self.pick(rank)
        if happens and hanging is not self.own:
            hanging.mute = True
            self.time_passes(seconds)
            self.decide()  # others have answered, and are not given up

    @rule(rank=ranks, happens=sometimes)
    def a_rank_that_hung_speaks_again(self, rank: int, happens: bool) -> None:
        """It runs on if it wasn't given up, and else it is told to leave."""
        late = self.pick(rank)
        is_gone = self.coordinator.ranks[late.rank].is_gone
        if not late.mute or late.killed or self.ends or not (happens or is_gone):
            return
        before = self.standing()
        late.mute = False
        if is_gone:
            late.outbox.append(Alive())
            self.move(late, 100)
            assert self.standing() == before
            late.mute = True

    @rule(rank=ranks, happens=rarely)
    def a_rank_dies(self, rank: int, happens: bool) -> None:
        dying = self.pick(rank)
        if not happens or dying is self.own or self.ends or dying.killed:
            return
        self.kill(dying)
        self.coordinator.on_ranks_lost([dying.rank], self.clock.now)

    def kill(self, rank: Rank) -> None:
        rank.pool.kill()
        rank.killed = True

    @rule(rank=ranks, count=counts)
    def messages_are_lost(self, rank: int, count: int) -> None:
        """What is under way, and so what has just happened on a rank."""
        if self.ends or not self.coordinator.rank_set.survives_rank_loss:
            return
        self.ranks[rank % len(self.ranks)].finish_some(count, 0)
        for each in self.ranks:
            if each.is_alive and each is not self.own:
                each.step()
        self.coordinator.on_mended(self.clock.now)
        self.rejoin([each for each in self.ranks if each is not self.own])

    def rejoin(self, ranks: list[Rank]) -> None:
        """Have all messages lost, and these ranks say what is true there."""
        for rank in ranks:
            rank.inbox.clear()
            rank.outbox.clear()
            if rank.is_alive and rank.has_joined:
                rank.agent.rejoin(self.clock.now)

    @rule(happens=sometimes, pace=st.sampled_from(Pace))
    def the_coordinator_dies(self, happens: bool, pace: Pace) -> None:
        """Together with all that hang; the lowest that lives takes over."""
        old = self.coordinator
        heirs = [
            rank
            for rank in self.ranks
            if rank.is_alive
            and rank is not self.own
            and not old.ranks[rank.rank].is_gone
        ]
        can = self.ends == 0 and heirs and old.rank_set.survives_rank_loss
        if not (happens and can):
            return
        dead = [rank for rank in self.ranks if rank not in heirs]
        for rank in dead:
            self.kill(rank)
        self.pending = None
        self.said.clear()
        self.attempts.clear()
        self.ended_since.clear()
        rank_set = RankSet(
            old.rank_set.ranks, heirs[0].rank, WORKERS, survives_rank_loss=True
        )
        self.coordinator = Coordinator(
            old.commands,
            old.definition,
            rank_set,
            self.clock.now,
            policy=old.policy,
            adopted=sorted(self.disk.held),
        )
        self.coordinator.on_ranks_lost([rank.rank for rank in dead], self.clock.now)
        self.coordinator.on_mended(self.clock.now)
        self.pace = pace
        self.rejoin(heirs)
        heirs[0].agent.lead()
        self.coordinator.hold_from_start(
            self.disk.held_by_users, holds_all=old.holds_all
        )
        for request in self.requests.values():
            self.coordinator.on_request(request, self.clock.now)

    # ---- what users ask --------------------------------------------------------------

    @rule(taskids=few_tasks)
    def a_user_cancels(self, taskids: list[int]) -> None:
        if self.ask(RequestKind.CANCEL, taskids):
            self.cancelled.update(taskids)

    @rule(taskids=few_tasks)
    def a_user_holds_some(self, taskids: list[int]) -> None:
        if self.ask(RequestKind.HOLD, taskids):
            self.disk.held_by_users.update(taskids)

    @rule(taskids=few_tasks)
    def a_user_releases_some(self, taskids: list[int]) -> None:
        self.release(set(taskids))
        self.ask(RequestKind.RELEASE, taskids)

    @rule()
    def a_user_holds_all(self) -> None:
        self.ask(RequestKind.HOLD)

    @rule()
    def a_user_releases_all(self) -> None:
        self.release({*range(TASKS)})
        self.ask(RequestKind.RELEASE)

    @rule(happens=rarely)
    def a_user_drains(self, happens: bool) -> None:
        if happens:
            self.ask(RequestKind.DRAIN)

    def release(self, taskids: set[int]) -> None:
        self.disk.held_by_users -= taskids
        self.barred -= taskids - self.cancelled

    def ask(self, kind: RequestKind, taskids: list[int] | None = None) -> bool:
        """Return whether there is a farm to be asked."""
        if self.ends or self.coordinator.storage_failed:
            return False
        self.asked += 1
        ids = None if taskids is None else tuple(taskids)
        request = Request(f"r{self.asked}", kind, ids)
        self.requests[request.name] = request
        self.coordinator.on_request(request, self.clock.now)
        return True

    def judge_answer(self, reply: Reply) -> None:
        request = self.requests.pop(reply.answer.request)
        waited = [
            taskid
            for fate, _, taskids in reply.answer.fates
            for taskid in taskids
            if fate is Fate.WAITED
        ]
        if request.kind is RequestKind.CANCEL:
            self.barred.update(waited)
            assert self.cancelled.issuperset(waited)
        elif request.tasks is not None:
            # Released since, maybe.
            self.barred |= self.disk.held_by_users.intersection(waited)

    @rule(happens=rarely)
    def a_drain_file_is_found(self, happens: bool) -> None:
        if happens and self.ends == 0:
            self.coordinator.on_drain("a file")

    # ---- time and disk ---------------------------------------------------------------

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for rank in self.ranks:
            if rank.is_alive:
                rank.step()
        self.decide()

    @rule()
    def decide(self) -> None:
        self.pick(0)
        self.act()

    def act(self) -> None:
        if self.ends == 0:
            self.last_effects = self.coordinator.decide(self.clock.now)
            for effect in self.last_effects:
                self.perform(effect)
            if self.ends:
                self.judge_leave()

    @rule(count=counts, status=statuses)
    def all_goes_well(self, count: int, status: int) -> None:
        """Commands end everywhere, and what follows has the time that it needs."""
        for rank in self.ranks:
            if rank.is_alive:
                rank.finish_some(count, status)
        for _ in range(4):
            self.time_passes(WAIT)
            self.write()

    @precondition(lambda self: self.pending is not None)
    @rule()
    def the_transaction_is_on_disk(self) -> None:
        self.write()

    def write(self) -> None:
        if self.pending is None:
            return
        wanted, self.pending = self.pending, None
        taken, empty = self.disk.transact(wanted, self.clock.now)
        self.coordinator.on_transacted(
            *(taken, self.clock.now),
            empty=empty,
            cost=0.01,
            pulled=self.disk.pulled,
            reopened=self.disk.reopened,
            order=self.disk.news,
        )

    @precondition(lambda self: self.pending is not None)
    @rule(happens=rarely)
    def the_transaction_fails(self, happens: bool) -> None:
        if happens:
            self.pending = None
            self.coordinator.on_storage_failed("the disk is full", self.clock.now)

    @precondition(lambda self: self.disk.left)
    @rule(count=st.integers(1, 20))
    def other_farmers_take_some(self, count: int) -> None:
        for _ in range(min(count, self.disk.left)):
            self.disk.toprocess.pop()

    @rule()
    def another_farmer_puts_one_back(self) -> None:
        known = self.disk.held | self.disk.records.keys() | {*self.disk.toprocess}
        self.disk.toprocess.extend(sorted({*range(TASKS)} - known)[:1])

    # ---- what the coordinator wants --------------------------------------------------

    def perform(self, effect: Effect) -> None:
        says_leave = isinstance(effect, Send) and isinstance(effect.message, Shutdown)
        assert self.ends == 0 or says_leave, f"{effect} after Conclude"
        match effect:
            case Send():
                self.send(effect.rank, effect.message)
            case Reply():
                self.judge_answer(effect)
            case NoteAttempt():
                assert effect.result.outcome is not Outcome.COMPLETED
            case Transact():
                assert self.pending is None, "two transactions at once"
                self.judge_results(effect)
                self.pending = effect
            case Conclude():
                self.judge_end()
                self.ends += 1

    def send(self, number: int, message: ToRank) -> None:
        rank = self.ranks[number]
        state = self.coordinator.ranks[number].state
        assert state is not RankState.DEAD
        last = isinstance(message, Shutdown) or state is RankState.LOST
        assert last or not rank.is_told_to_leave, f"{message} after Shutdown"
        if isinstance(message, Assign):
            for lease in message.leases:
                self.judge_lease(lease)
        rank.is_told_to_leave |= isinstance(message, Shutdown)
        rank.inbox.append(message)

    def judge_lease(self, lease: Lease) -> None:
        assert lease.taskid not in self.cancelled
        assert lease.taskid not in self.disk.held_by_users
        assert not self.coordinator.holds_all
        assert lease.attempt >= self.attempts.get(lease.taskid, 1)
        again = (lease.taskid, lease.attempt) in self.ended_since
        assert not again, "an attempt comes again"
        places = [rank.rank for rank in self.ranks if self.runs(rank, lease)]
        assert places == [], f"{lease} is on {places}"
        self.attempts[lease.taskid] = lease.attempt

    def runs(self, rank: Rank, lease: Lease) -> bool:
        """Whether a rank that lives, and was not given up, has the task."""
        gone = self.coordinator.ranks[rank.rank].is_gone or not rank.is_alive
        return not gone and lease.taskid in rank.taskids

    def judge_results(self, wanted: Transact) -> None:
        for rank, result in wanted.results:
            has_run = result.worker_index is not None
            if result.outcome is not Outcome.LOST and has_run:
                ended = self.ended[result.taskid, result.attempt]
                assert ended <= self.ranks[rank].sure

    def judge_end(self) -> None:
        assert self.pending is None
        assert self.coordinator.phase is Phase.LEAVING
        assert not self.own.is_told_to_leave
        if not self.coordinator.storage_failed:
            assert self.disk.held == set()
            assert self.disk.find_unaccounted() == []
            asked_for = {*self.requests} - {
                each.answer.request
                for each in self.last_effects
                if isinstance(each, Reply)
            }
            assert asked_for == set(), "a request without an answer"

    def judge_leave(self) -> None:
        ranks = self.coordinator.ranks.values()
        here = [r.rank for r in ranks if r.state is not RankState.DEAD]
        assert all(self.ranks[rank].is_told_to_leave for rank in here)

    # ---- what must hold --------------------------------------------------------------

    @invariant()
    def nothing_is_wrong_with_the_state(self) -> None:
        if self.ranks:
            assert self.coordinator.find_violations() == []

    @invariant()
    def the_coordinator_knows_what_the_disk_knows(self) -> None:
        if self.ranks and not self.coordinator.storage_failed:
            assert self.coordinator.table.tasks.keys() == self.disk.held

    @invariant()
    def nobody_is_woken_in_the_past(self) -> None:
        if self.ranks:
            assert self.coordinator.wake_at(self.clock.now) >= self.clock.now

    def teardown(self) -> None:
        """Whatever came before, a signal ends the farm though nobody answers."""
        if self.ranks and self.ends == 0:
            self.end_by_signal()

    def end_by_signal(self) -> None:
        for rank in self.ranks:
            rank.mute = True
        self.coordinator.on_signal(SIGTERM, self.clock.now)
        for _ in range(20):
            self.time_passes(0.2)
            self.write()
        assert self.ends == 1
        assert Conclude() in self.last_effects


def pairs_in(report: Report) -> set[tuple[int, int]]:
    results = {(result.taskid, result.attempt) for result in report.results}
    return results | {*report.returned} | {*report.lost}


CoordinatorMachine.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=60,
)


TestTheCoordinatorUnderAnyOrderOfEvents = CoordinatorMachine.TestCase

pytestmark = pytest.mark.timeout(400)
"""Of 15 s on a machine of its own: what fails is made as small as it can be."""
