"""The coordinator under any order of events that hypothesis finds.

Ranks obey the protocol but are slow, silent, die or repeat themselves; messages are
lost, the coordinator too; the disk is the ledger (`FakeDisk` raises at a task recorded
or given back that isn't held).
"""

from collections.abc import Sequence
from dataclasses import replace
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
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
    Send,
    Transact,
)
from mpifarm.model.messages import (
    Alive,
    Assign,
    Committed,
    Drain,
    Join,
    Ping,
    PoolLost,
    RankUnusable,
    Recall,
    Rejoin,
    Report,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    Welcome,
)
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, Outcome, Result
from tests.unit.fakes import WAIT, Commands, FakeDisk, define_farm, rank_set_of
from tests.unit.virtual_rank import START, Clock, result_of

TASKS = 30
WORKERS = 2

ranks = st.integers(0, 3)
counts = st.integers(1, 3)
seconds = st.sampled_from([0.0, 0.001, 0.05, 0.1, 0.25, 0.3, 0.6, 1.1, 6.0, 31.0])
statuses = st.sampled_from([0, 1, 75, -SIGTERM])

policies = st.builds(
    Policy,
    retries=st.sampled_from([0, 0, 1, 3]),
    retry_delay=st.sampled_from([0.0, 0.5, 40.0]),
    max_failures=st.sampled_from([None, None, 2]),
    requeue_status=st.sampled_from([None, 75]),
    quarantine=st.sampled_from([0, 1, 2, 10]),
    canary=st.sampled_from([0, 0, 2]),
    rank_timeout=st.sampled_from([4.0, 60.0]),
)

Pairs = tuple[tuple[int, int], ...]


class FakeHand:
    """What one rank really holds, as the messages have told it."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.fresh: list[Lease] = []
        """Of those, the ones that a loss of messages would take."""
        self.unrecorded: dict[tuple[int, int], Result] = {}
        self.welcomed = False
        self.stopping = False
        self.left = False
        self.killed = False
        self.mute = False
        """It hangs: it neither hears nor says anything."""
        self.signalled_at = float("inf")
        """When a signal came to it that stops the farm."""
        self.ended_last = 0.0
        self.asked = 0
        """Leases that it was asked to give back, at the most."""

    def forget(self, results: Pairs) -> None:
        for each in results:
            self.unrecorded.pop(each, None)

    def take(self, count: int) -> list[Lease]:
        taken, self.leases = self.leases[:count], self.leases[count:]
        self.fresh = []
        return taken


class CoordinatorMachine(RuleBasedStateMachine):
    """Ranks, disk and signals as rules; what must hold as invariants."""

    coordinator: Coordinator

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.disk = FakeDisk(TASKS)
        self.pending: Transact | None = None
        self.hands: list[FakeHand] = []
        self.said: list[tuple[int, Report]] = []
        self.ends = 0
        self.last_effects: list[Effect] = []
        self.ended: dict[tuple[int, int], float] = {}
        self.attempts: dict[int, int] = {}
        self.ended_since: set[tuple[int, int]] = set()
        """Attempts that ended under this coordinator."""

    @initialize(
        size=st.integers(1, 4),
        timeout=st.sampled_from([None, None, 5.0]),
        grace=st.sampled_from([0.0, 2.0]),
        policy=policies,
        deadline=st.sampled_from([None, None, START + 60.0]),
        survives_rank_loss=st.booleans(),
    )
    def begin(
        self,
        size: int,
        timeout: float | None,
        grace: float,
        policy: Policy,
        deadline: float | None,
        survives_rank_loss: bool,
    ) -> None:
        self.hands = [FakeHand() for _ in range(size)]
        self.coordinator = Coordinator(
            Commands(TASKS),
            define_farm(grace),
            rank_set_of(size, WORKERS, survives_rank_loss=survives_rank_loss),
            START,
            policy=policy,
            timeout=timeout,
            deadline=deadline,
        )

    # ---- what ranks say --------------------------------------------------------------

    def hear(self, rank: int, message: Any) -> None:
        hand = self.hands[rank]
        if self.ends == 0 and not hand.killed and not hand.mute:
            self.coordinator.on_message(rank, message, self.clock.now)

    def sure(self, hand: FakeHand) -> float:
        """Until when a rank is sure of what has ended there."""
        return min(self.clock.now, hand.signalled_at) - WAIT

    def pick(self, rank: int) -> tuple[int, FakeHand]:
        rank %= len(self.hands)
        return rank, self.hands[rank]

    @rule(rank=ranks)
    def a_rank_joins(self, rank: int) -> None:
        rank, _ = self.pick(rank)
        if self.coordinator.ranks[rank].state is RankState.JOINING:
            self.hear(rank, Join("node", 100 + rank, WORKERS))

    def say(self, rank: int, report: Report) -> None:
        self.said.append((rank, report))
        self.hear(rank, report)

    @rule(rank=ranks, count=counts, status=statuses, age=st.sampled_from([0.0, 0.01]))
    def commands_end(self, rank: int, count: int, status: int, age: float) -> None:
        rank, hand = self.pick(rank)
        ended = self.clock.now - age
        results = self.end(hand, count, status, ended)
        self.say(rank, Report(self.clock.now, results, sure=self.sure(hand)))

    @rule(rank=ranks)
    def a_rank_gets_sure(self, rank: int) -> None:
        rank, hand = self.pick(rank)
        self.hear(rank, Report(self.clock.now, sure=self.sure(hand)))

    def end(
        self, hand: FakeHand, count: int, status: int, ended: float
    ) -> tuple[Result, ...]:
        leases = hand.take(count)
        for lease in leases:
            self.note_end(lease, ended)
        if hand.stopping:
            return ()
        hand.ended_last = max(hand.ended_last, ended)
        results = tuple(result_of(lease, ended, 0.1, status) for lease in leases)
        hand.unrecorded |= {(r.taskid, r.attempt): r for r in results}
        return results

    def note_end(self, lease: Lease, ended: float) -> None:
        self.ended[lease.taskid, lease.attempt] = ended
        self.ended_since.add((lease.taskid, lease.attempt))

    @rule(rank=ranks, count=counts)
    def leases_are_returned(self, rank: int, count: int) -> None:
        rank, hand = self.pick(rank)
        leases = hand.take(count)
        returned, sure = pairs_of(leases), self.sure(hand)
        self.say(rank, Report(self.clock.now, returned=returned, sure=sure))

    @precondition(lambda self: any(hand.asked for hand in self.hands))
    @rule(has=counts)
    def recalls_are_answered(self, has: int) -> None:
        """With what isn't begun: all but `has` leases, which may be nothing."""
        for rank, hand in enumerate(self.hands):
            if hand.asked and self.is_alive(rank):
                first = max(has, len(hand.leases) - hand.asked)
                returned = pairs_of(hand.leases[first:])
                hand.leases, hand.asked = hand.leases[:first], 0
                told = Report(self.clock.now, (), returned, is_recall=True)
                self.hear(rank, replace(told, sure=self.sure(hand)))

    @rule(rank=ranks, count=counts)
    def workers_are_lost(self, rank: int, count: int) -> None:
        rank, hand = self.pick(rank)
        leases = hand.take(count)
        for lease in leases:
            self.note_end(lease, self.clock.now)
        lost, sure = pairs_of(leases), self.sure(hand)
        self.say(rank, Report(self.clock.now, lost=lost, sure=sure))

    @precondition(lambda self: self.said)
    @rule(number=st.integers(0, 50), rank=ranks)
    def a_report_comes_again_or_from_another_rank(self, number: int, rank: int) -> None:
        _, report = self.said[number % len(self.said)]
        rank, hand = self.pick(rank)
        if self.coordinator.unlocated.tasks or self.coordinator.ranks[rank].is_gone:
            return
        if {(t.taskid, t.attempt) for t in hand.leases} & pairs_in(report):
            return  # returned unstarted, and leased again under the same attempt
        before = self.standing()
        self.hear(rank, replace(report, sure=self.sure(hand)))
        assert self.standing() == before

    def standing(self) -> object:
        records = self.coordinator.table.tasks.values()
        return [(t.taskid, t.state, t.attempt, t.lost, t.rank) for t in records]

    @rule(rank=ranks)
    def a_pool_is_lost(self, rank: int) -> None:
        rank, hand = self.pick(rank)
        if not hand.stopping:
            hand.stopping = True
            hand.leases.clear()
            self.hear(rank, PoolLost())

    @rule(rank=ranks)
    def a_rank_has_stopped(self, rank: int) -> None:
        rank, hand = self.pick(rank)
        is_sure = hand.ended_last <= self.sure(hand)
        if hand.stopping and (is_sure or hand.signalled_at <= self.clock.now):
            hand.leases.clear()
            self.hear(rank, Report(self.clock.now, sure=self.sure(hand)))
            self.hear(rank, Stopped())

    @rule(
        rank=ranks, signum=st.sampled_from([SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGHUP])
    )
    def a_signal_comes(self, rank: int, signum: int) -> None:
        rank, hand = self.pick(rank)
        if self.coordinator.ranks[rank].state is RankState.LOST:
            return
        if not self.is_alive(rank) or self.coordinator.ranks[rank].is_gone:
            return
        if signum != SIGUSR2:
            hand.signalled_at = min(hand.signalled_at, self.clock.now)
            hand.stopping = True
        self.hear(rank, SignalReceived(signum, self.sure(hand)))

    @rule(rank=ranks, luck=st.integers(0, 3))
    def a_rank_is_in_trouble(self, rank: int, luck: int) -> None:
        if luck == 0:
            self.hear(self.pick(rank)[0], RankUnusable("no licence"))

    # ---- losses ----------------------------------------------------------------------

    def is_alive(self, rank: int) -> bool:
        hand = self.hands[rank]
        return not hand.killed and not hand.mute and not hand.left

    @rule(rank=ranks, luck=st.integers(0, 2))
    def a_rank_hangs(self, rank: int, luck: int) -> None:
        rank, hand = self.pick(rank)
        hand.mute = hand.mute or (luck == 0 and rank != self.coordinator.rank_set.own)

    @rule(rank=ranks, luck=st.integers(0, 2))
    def a_rank_that_hung_speaks_again(self, rank: int, luck: int) -> None:
        """It runs on if it wasn't given up, and else it is told to leave."""
        rank, hand = self.pick(rank)
        if hand.mute and luck == 0 and self.ends == 0:
            hand.mute = False
            before = self.standing()
            self.hear(rank, Alive())
            if self.coordinator.ranks[rank].is_gone:
                assert self.standing() == before
                hand.mute = True

    @rule(rank=ranks, luck=st.integers(0, 2))
    def a_rank_dies(self, rank: int, luck: int) -> None:
        rank, hand = self.pick(rank)
        if luck or rank == self.coordinator.rank_set.own or self.ends or hand.killed:
            return
        self.kill(rank)
        self.coordinator.on_ranks_lost([rank], self.clock.now)

    def kill(self, rank: int) -> None:
        hand = self.hands[rank]
        for lease in hand.take(len(hand.leases)):
            self.note_end(lease, self.clock.now)
        hand.killed = True

    @rule(rank=ranks, count=counts, drops=st.booleans())
    def messages_are_lost(self, rank: int, count: int, drops: bool) -> None:
        """Reports of a rank, and what was last said to all others."""
        rank, hand = self.pick(rank)
        own = self.coordinator.rank_set.own
        if self.ends or not self.coordinator.rank_set.survives_rank_loss:
            return
        if rank != own and self.is_alive(rank):
            self.end(hand, count, 0, self.clock.now)
        self.coordinator.on_mended(self.clock.now)
        for each, other in enumerate(self.hands):
            if each != own:
                self.rejoin(each, other.fresh if drops else [])

    def rejoin(self, rank: int, dropped: Sequence[Lease] = ()) -> None:
        hand = self.hands[rank]
        if not self.is_alive(rank):
            return
        hand.leases = [lease for lease in hand.leases if lease not in dropped]
        hand.fresh, hand.asked = [], 0
        results, sure = tuple(hand.unrecorded.values()), self.sure(hand)
        report = Report(self.clock.now, results, sure=sure)
        held = pairs_of(hand.leases)
        said = Rejoin("node", 100 + rank, WORKERS, hand.welcomed, held, report)
        self.hear(rank, said)
        if hand.stopping:
            self.hear(rank, SignalReceived(SIGUSR1))

    @rule(luck=st.integers(0, 2))
    def the_coordinator_dies(self, luck: int) -> None:
        """Together with all that hang; the lowest that lives takes over."""
        old = self.coordinator
        alive = [r for r in range(len(self.hands)) if self.is_alive(r)]
        heirs = [r for r in alive if r != old.rank_set.own and not old.ranks[r].is_gone]
        if luck or self.ends or not heirs or not old.rank_set.survives_rank_loss:
            return
        for rank in {*range(len(self.hands))} - {*heirs}:
            self.kill(rank)
        self.pending = None
        self.said.clear()
        self.attempts.clear()
        self.ended_since.clear()
        rank_set = RankSet(
            old.rank_set.ranks, heirs[0], WORKERS, survives_rank_loss=True
        )
        self.coordinator = Coordinator(
            old.commands,
            old.definition,
            rank_set,
            self.clock.now,
            policy=old.policy,
            adopted=sorted(self.disk.held),
        )
        dead = {*rank_set.ranks} - {*heirs}
        self.coordinator.on_ranks_lost(sorted(dead), self.clock.now)
        self.coordinator.on_mended(self.clock.now)
        for rank in heirs:
            self.rejoin(rank)

    @rule()
    def a_drain_file_is_found(self) -> None:
        if self.ends == 0:
            self.coordinator.on_drain("a file")

    # ---- time and disk ---------------------------------------------------------------

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.decide()

    @rule()
    def decide(self) -> None:
        if self.ends == 0:
            self.last_effects = self.coordinator.decide(self.clock.now)
            for effect in self.last_effects:
                self.perform(effect)
            if self.ends:
                self.judge_leave()

    @precondition(lambda self: self.pending is not None)
    @rule()
    def the_transaction_is_on_disk(self) -> None:
        assert self.pending is not None
        wanted, self.pending = self.pending, None
        taken, empty = self.disk.transact(wanted, self.clock.now)
        self.coordinator.on_transacted(taken, self.clock.now, empty=empty, cost=0.01)

    @precondition(lambda self: self.pending is not None)
    @rule(luck=st.integers(0, 9))
    def the_transaction_fails(self, luck: int) -> None:
        if luck == 0:
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
                self.deliver(effect.rank, effect.message)
            case NoteAttempt():
                assert effect.result.outcome is not Outcome.COMPLETED
            case Transact():
                assert self.pending is None, "two transactions at once"
                self.judge_results(effect)
                self.pending = effect
            case Conclude():
                self.judge_end()
                self.ends += 1

    def deliver(self, rank: int, message: Any) -> None:
        hand = self.hands[rank]
        assert not hand.left or isinstance(message, Shutdown), (
            f"{message} after Shutdown"
        )
        assert self.coordinator.ranks[rank].state is not RankState.DEAD
        if isinstance(message, Shutdown):
            hand.left = True
        if not self.is_alive(rank):
            return
        match message:
            case Assign():
                for lease in message.leases:
                    self.judge_lease(lease)
                hand.leases += message.leases
                hand.fresh = [*message.leases]
            case Welcome():
                hand.welcomed = True
            case Committed():
                hand.forget(message.results)
            case Recall():
                assert hand.asked == 0, "asked again without an answer"
                hand.asked = message.count
            case Stop():
                self.stop(hand, message)
            case Ping():
                self.coordinator.on_message(rank, Alive(), self.clock.now)
            case Drain() | _:
                pass

    def stop(self, hand: FakeHand, message: Stop) -> None:
        hand.stopping = True
        if message.by_signal and message.grace == 0:
            hand.signalled_at = min(hand.signalled_at, self.clock.now)

    def judge_lease(self, lease: Lease) -> None:
        assert lease.attempt >= self.attempts.get(lease.taskid, 1)
        again = (lease.taskid, lease.attempt) in self.ended_since
        assert not again, "an attempt comes again"
        places = [
            rank for rank, hand in enumerate(self.hands) if self.runs(rank, lease)
        ]
        assert places == [], f"{lease} is on {places}"
        self.attempts[lease.taskid] = lease.attempt

    def runs(self, rank: int, lease: Lease) -> bool:
        """Whether a rank that lives, and was not given up, has the task."""
        gone = self.coordinator.ranks[rank].is_gone or not self.is_alive(rank)
        taskids = [each.taskid for each in self.hands[rank].leases]
        return not gone and lease.taskid in taskids

    def judge_results(self, wanted: Transact) -> None:
        for rank, result in wanted.results:
            if result.outcome is not Outcome.LOST:
                ended = self.ended[result.taskid, result.attempt]
                assert ended <= self.sure(self.hands[rank])

    def judge_end(self) -> None:
        assert self.pending is None
        assert self.coordinator.phase is Phase.LEAVING
        assert not self.hands[self.coordinator.rank_set.own].left
        if not self.coordinator.storage_failed:
            assert self.disk.held == set()
            assert self.disk.find_unaccounted() == []

    def judge_leave(self) -> None:
        ranks = self.coordinator.ranks.values()
        here = [r.rank for r in ranks if r.state is not RankState.DEAD]
        assert all(self.hands[rank].left for rank in here)

    # ---- what must hold --------------------------------------------------------------

    @invariant()
    def nothing_is_wrong_with_the_state(self) -> None:
        if self.hands:
            assert self.coordinator.find_violations() == []

    @invariant()
    def the_coordinator_knows_what_the_disk_knows(self) -> None:
        if self.hands and not self.coordinator.storage_failed:
            assert self.coordinator.table.tasks.keys() == self.disk.held

    @invariant()
    def nobody_is_woken_in_the_past(self) -> None:
        if self.hands:
            assert self.coordinator.wake_at(self.clock.now) >= self.clock.now

    def teardown(self) -> None:
        """Whatever came before, a signal ends the farm though nobody answers."""
        if self.hands and self.ends == 0:
            self.end_by_signal()

    def end_by_signal(self) -> None:
        self.coordinator.on_signal(SIGTERM, self.clock.now)
        for _ in range(20):
            self.time_passes(0.2)
            if self.pending is not None:
                self.the_transaction_is_on_disk()
        assert self.ends == 1
        assert Conclude() in self.last_effects


def pairs_of(leases: Sequence[Lease]) -> Pairs:
    return tuple((lease.taskid, lease.attempt) for lease in leases)


def pairs_in(report: Report) -> set[tuple[int, int]]:
    results = {(result.taskid, result.attempt) for result in report.results}
    return results | {*report.returned} | {*report.lost}


CoordinatorMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


TestTheCoordinatorUnderAnyOrderOfEvents = CoordinatorMachine.TestCase

pytestmark = pytest.mark.timeout(400)
"""Of 15 s on a machine of its own: what fails is made as small as it can be."""
