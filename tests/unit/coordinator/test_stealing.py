"""Leases that come back unstarted: no rank sits on them while workers are idle."""

import random
from signal import SIGUSR1

import pytest

from mpifarm.coordinator.ahead import share_ahead
from mpifarm.coordinator.pacing import AHEAD_SECONDS, ReportPacing
from mpifarm.coordinator.stealing import (
    PATIENCE_FOR_DISK_SECONDS,
    PATIENCE_SECONDS,
)
from mpifarm.model.messages import (
    Join,
    PoolLost,
    Recall,
    Rejoin,
    Report,
    SignalReceived,
    Stopped,
    Welcome,
)
from tests.simulation.costs import Costs
from tests.simulation.farm import BigFarm
from tests.simulation.tasks import best_makespan
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.fakes import SimulatedFarm, sure_report
from tests.unit.virtual_rank import result_of

COSTS = Costs(coordinator=10e-6)
"""The same at each run."""


def rich_and_poor(*, empty: bool = True, survives_rank_loss: bool = False) -> Hand:
    """Rank 1 does 200 tasks a second and has got all twelve; then rank 0 has come."""
    hand = Hand(size=2, workers=2, survives_rank_loss=survives_rank_loss)
    record = hand.coordinator.ranks[1]
    record.ended, record.mean = 100, 0.01
    hand.hear(1, Join("node1", 1, 2))
    hand.decide()
    hand.write(*range(12))
    assert len(hand.leases(1)) == 12
    hand.decide(0.2)
    hand.write(empty=empty)
    hand.hear(0, Join("node0", 2, 2))
    hand.decide()
    return hand


def recalls(hand: Hand) -> list[tuple[int, int]]:
    return [(rank, word.count) for rank, word in hand.sent if isinstance(word, Recall)]


def return_last(hand: Hand, rank: int, count: int) -> list[tuple[int, int]]:
    """The rank answers with its last leases."""
    record = hand.coordinator.ranks[rank]
    held = [lease for lease in hand.leases(rank) if lease.taskid in record.leases]
    returned = [(lease.taskid, lease.attempt) for lease in held[len(held) - count :]]
    said = sure_report(hand.clock.now, (), tuple(returned), is_recall=True)
    hand.hear(rank, said)
    return returned


def pairs(hand: Hand, rank: int) -> list[tuple[int, int]]:
    return [(lease.taskid, lease.attempt) for lease in hand.leases(rank)]


# ---- rank 0 -------------------------------------------------------------------------


def test_what_waits_on_a_rank_is_recalled_when_workers_of_another_are_idle():
    hand = rich_and_poor()
    assert hand.leases(0) == []
    assert recalls(hand) == []
    assert hand.coordinator.wake_at(hand.clock.now) <= hand.clock.now + PATIENCE_SECONDS
    hand.decide(1.01 * PATIENCE_SECONDS)
    # ten wait there; of ten, a rank with half of the workers may keep a fourth
    assert recalls(hand) == [(1, 8)]


def test_what_came_back_is_begun_by_the_idle_in_order_and_with_the_same_attempt():
    hand = rich_and_poor()
    hand.decide(1.01 * PATIENCE_SECONDS)
    returned = return_last(hand, 1, 8)
    hand.decide()
    assert returned == [(taskid, 1) for taskid in range(4, 12)]
    assert pairs(hand, 0) == returned[:2]


def test_a_rank_is_asked_again_only_when_it_has_answered():
    hand = rich_and_poor()
    for _ in range(10):
        hand.decide(2 * PATIENCE_SECONDS)
    assert len(recalls(hand)) == 1
    return_last(hand, 1, 0)
    for _ in range(10):
        hand.decide(2 * PATIENCE_SECONDS)
    assert len(recalls(hand)) == 2


def test_a_rank_is_asked_again_when_its_answer_was_lost():
    hand = rich_and_poor(survives_rank_loss=True)
    hand.decide(1.01 * PATIENCE_SECONDS)
    hand.coordinator.on_mended(hand.clock.now)
    empty = sure_report(hand.clock.now)
    held = tuple(pairs(hand, 1))
    hand.hear(1, Rejoin("node1", 1, 2, is_welcomed=True, leases=held, report=empty))
    for _ in range(3):
        hand.decide(1.01 * PATIENCE_SECONDS)
    assert len(recalls(hand)) == 2


def test_leases_that_come_after_a_look_in_vain_are_recalled_as_well():
    hand = Hand(tasks=1000, size=3, workers=2)
    for rank, workers in ((0, 2), (1, 4), (2, 30)):
        hand.hear(rank, Join(f"n{rank}", rank + 1, workers))
    hand.decide()
    hand.write(*range(5), empty=True)
    for record in hand.coordinator.ranks.values():
        record.ended, record.mean = 100, 0.5
    hand.decide(0.05)
    hand.decide(0.05)
    assert recalls(hand) == []
    hand.decide(1.1)  # another look at the list: tasks have come back to it
    hand.write(*range(100, 120), empty=False)
    for _ in range(20):
        hand.decide(0.05)
        if hand.coordinator.table.transaction:
            hand.write(empty=True)
    rich = [r for r in hand.coordinator.ranks.values() if len(r.leases) > r.workers]
    assert {rank for rank, _ in recalls(hand)} == {record.rank for record in rich}
    assert rich


def test_as_long_as_the_list_may_have_more_it_is_looked_at_first():
    hand = rich_and_poor(empty=False)
    hand.decide(1.01 * PATIENCE_SECONDS)
    assert recalls(hand) == []
    hand.decide(PATIENCE_FOR_DISK_SECONDS)
    assert len(recalls(hand)) == 1


def test_nothing_is_recalled_while_all_workers_have_something():
    hand = rich_and_poor(empty=False)
    hand.write(*range(20, 40), empty=True)
    for _ in range(10):
        hand.decide(2 * PATIENCE_SECONDS)
    assert recalls(hand) == []


def test_an_idle_farm_is_not_woken_for_leases_that_run():
    hand = Hand(size=2, workers=2)
    for rank in range(2):
        hand.hear(rank, Join(f"node{rank}", rank, 2))
    hand.decide()
    hand.write(1, 2, empty=True)
    hand.decide(2 * PATIENCE_FOR_DISK_SECONDS)
    assert hand.coordinator.wake_at(hand.clock.now) > hand.clock.now + 0.5


@pytest.mark.parametrize("lost", [PoolLost(), Stopped()])
def test_a_rank_that_holds_nothing_any_more_is_not_asked(lost):
    hand = rich_and_poor()
    hand.hear(1, lost)
    hand.decide()
    hand.decide(2 * PATIENCE_SECONDS)
    assert recalls(hand) == []
    assert len(hand.leases(0)) == 2


def test_the_less_is_left_the_fewer_are_handed_out_ahead():
    """What is left at the end is on rank 0, for whoever is free first."""
    shares = {left: share_ahead(left, 2, 8) for left in (800, 80, 8, 7, 0)}
    assert shares == {800: 100, 80: 10, 8: 1, 7: 0, 0: 0}
    farm = BigFarm(3000, 4, 2, lambda _: 0.01, COSTS)
    most = 0
    while not farm.ended:
        farm.run(farm.now + 0.02)
        if farm.handed_out_at < farm.now and len(farm.coordinator.table.queue) < 16:
            most = max(most, *(rank.waiting for rank in farm.ranks))
    assert 0 < most <= 4


def test_many_ranks_report_less_often_and_have_more_ahead():
    few, many = ReportPacing(100), ReportPacing(10_000)
    assert (few.report_seconds, few.ahead_seconds) == (0.02, AHEAD_SECONDS)
    assert many.report_seconds == 2.0
    assert many.ahead_seconds > 2 * many.report_seconds
    hand = Hand(size=1000)
    hand.hear(7, Join("node", 1, 2))
    hand.decide()
    ((_, welcome),) = [each for each in hand.sent if isinstance(each[1], Welcome)]
    assert isinstance(welcome, Welcome)
    assert welcome.report_seconds == ReportPacing(1000).report_seconds


# ---- pings ---------------------------------------------------------------------------


def test_a_rank_that_works_is_not_pinged_and_one_that_is_quiet_is():
    farm = SimulatedFarm(100_000, 2, 2, lambda _: 0.05, checked=False)
    farm.run(1.0)
    farm.ranks[1].silent = True
    farm.run(30.0)
    assert farm.ranks[0].pings == 0
    quiet = SimulatedFarm(4, ranks=2, workers=2, seconds=100.0)
    quiet.run(31.0)
    # six, but for the first: it has just got its tasks
    assert [rank.pings for rank in quiet.ranks] == [5, 5]


# ---- whole farms ---------------------------------------------------------------------


class WatchedFarm(BigFarm):
    """Knows for how long a lease waited anywhere while a worker was idle."""

    since: float | None = None
    longest = 0.0
    settle = 0.0

    def _step(self) -> bool:
        waits = any(rank.waiting for rank in self.ranks)
        if not (waits and any(rank.idle for rank in self.ranks)):
            self.since = None
        elif self.since is None:
            self.since = self.now  # rank 0 may have slept until just now
        else:
            self.longest = max(self.longest, self.now - self.since)
        return super()._step()


def random_list(seed: int) -> tuple[int, list[float]]:
    """Some short tasks, with some long ones anywhere among them."""
    chance = random.Random(seed)
    short = chance.choice([0.003, 0.01, 0.05, 0.2])
    lengths = [chance.expovariate(1 / short) for _ in range(chance.randint(50, 1500))]
    for _ in range(chance.randint(0, 12)):
        lengths[chance.randrange(len(lengths))] = chance.uniform(0.5, 8.0)
    return chance.randint(2, 6), lengths


@pytest.mark.parametrize("seed", range(25))
def test_no_lease_waits_anywhere_while_a_worker_is_idle(seed):
    ranks, lengths = random_list(seed)
    farm = WatchedFarm(
        *(len(lengths), ranks, 2, lengths.__getitem__, COSTS),
        seed=seed,
    )
    farm.run(200.0)
    assert farm.ended
    assert set(farm.recorded) == {1}
    assert sum(rank.pool.tasks for rank in farm.ranks) == len(lengths), "one ran twice"
    assert farm.longest < 0.3
    best = best_makespan(lengths.__getitem__, len(lengths), 2 * ranks)
    assert farm.now < 1.05 * best + 1.5


@pytest.mark.parametrize("seed", range(10))
def test_leases_do_not_go_to_and_fro(seed):
    ranks, lengths = random_list(seed)
    farm = BigFarm(len(lengths), ranks, 2, lengths.__getitem__, COSTS, seed=seed)
    farm.run(200.0)
    returned = sum(rank.returned for rank in farm.ranks)
    assert returned <= len(lengths) / 2


def test_a_long_task_at_the_end_begins_as_soon_as_it_could():
    lengths = [0.01] * 2000 + [20.0]
    farm = BigFarm(len(lengths), 4, 2, lengths.__getitem__, COSTS)
    farm.run(100.0)
    best = best_makespan(lengths.__getitem__, len(lengths), 8)
    assert farm.now < 1.05 * best


# ---- reports that come late ----------------------------------------------------------


@pytest.mark.parametrize(("ago", "is_recorded"), [(1.5, True), (0.2, False)])
def test_what_ended_long_before_a_stop_counts_though_it_is_reported_after(
    ago, is_recorded
):
    """Of 10 000 ranks, one reports every two seconds."""
    hand = Hand(size=1)
    (lease,) = hand.begin(7)
    hand.decide(3.0)
    hand.write(empty=True)
    now = hand.clock.now
    hand.hear(0, SignalReceived(SIGUSR1, sure=now - 0.3))
    hand.decide()
    result = result_of(lease, now - ago, 1.0)
    hand.hear(0, Report(now, (result,), sure=now - 0.3))
    hand.hear(0, Stopped())
    hand.decide(0.01)
    assert hand.recorded == ([7] if is_recorded else [])
    assert hand.given_back == ([] if is_recorded else [7])
