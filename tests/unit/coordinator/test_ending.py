"""How a farm drains and leaves: who is told what, and what it waits for."""

import pytest

from mpifarm.coordinator.coordinator import COMMIT_INTERVAL, Phase, RankState
from mpifarm.coordinator.effects import TakeNothing
from mpifarm.coordinator.ending import ANSWER_SECONDS
from mpifarm.model.messages import Join, Shutdown, Stopped
from mpifarm.model.settings import Policy
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import rejoin


def shutdowns(hand: Hand) -> dict[int, Shutdown]:
    return {
        rank: m
        for rank, m in hand.sent
        if isinstance(m, Shutdown) and not m.farm_goes_on
    }


def test_a_phase_never_goes_back():
    hand = Hand()
    hand.coordinator.on_drain("because")
    with pytest.raises(AssertionError, match="phase"):
        hand.coordinator.ending._enter(Phase.WORKING, "no")


def test_a_transaction_that_takes_nothing_is_left_alone():
    hand = Hand()
    hand.begin(0, 1)
    hand.report(hand.leases(0)[0])
    hand.decide(COMMIT_INTERVAL)
    assert (hand.transactions[-1].take, hand.recorded) == (0, [0])
    hand.coordinator.on_drain("because")
    assert TakeNothing() not in hand.decide()


def test_a_late_rank_is_lost_and_one_that_has_stopped_is_not():
    hand = Hand(size=3)
    hand.begin(0)
    for rank in (1, 2):
        hand.hear(rank, Join("node", rank, 2))
    hand.coordinator.ending.stop("because", 5.0, hand.clock.now)
    hand.hear(0, Stopped())
    hand.hear(2, Stopped())
    hand.decide(5.0 + ANSWER_SECONDS)
    assert hand.coordinator.lost_ranks() == [1]


def test_results_that_the_failed_storage_did_not_take_are_named():
    hand = Hand()
    hand.begin(0, 1)
    hand.report(hand.leases(0)[0])
    hand.decide(COMMIT_INTERVAL)
    hand.coordinator.on_storage_failed("the disk is full", hand.clock.now)
    assert hand.coordinator.storage_failed
    hand.hear(0, Stopped())
    hand.decide()
    assert (hand.ends, hand.coordinator.unrecorded) == (1, (0,))
    assert hand.coordinator.reason == "the disk is full"


def test_a_farm_that_drains_waits_for_ranks_that_have_yet_to_speak():
    hand = Hand(size=2, survives_rank_loss=True)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.coordinator.on_mended(hand.clock.now)
    hand.coordinator.on_drain("because")
    hand.report(*hand.leases(0))
    hand.decide(COMMIT_INTERVAL)
    hand.write()
    assert hand.recorded == [0]
    assert hand.ends == 0
    hand.hear(1, rejoin())
    hand.decide()
    assert hand.ends == 1


def test_all_are_told_to_leave_but_the_dead_and_those_told_before():
    hand = Hand(size=4, policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    for rank in (1, 2, 3):
        hand.hear(rank, Join("node", rank, 2))
    hand.decide()
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    ranks, now = hand.coordinator.ranks, hand.clock.now
    hand.coordinator.liveness.lose(ranks[2], RankState.LOST, now)
    hand.coordinator.rank_use.settle(ranks[3], RankState.LOST)
    hand.coordinator.ending.stop("because", 5.0, now)
    hand.hear(0, Stopped())
    hand.decide()
    hand.write()
    aborts = Shutdown(ranks_lost=True, aborts=True)
    assert shutdowns(hand) == {0: aborts, 3: aborts}
    assert [*shutdowns(hand)] == [3, 0], "the own rank is last"


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (None, Shutdown()),
        (RankState.DEAD, Shutdown(ranks_lost=True)),
        (RankState.LOST, Shutdown(ranks_lost=True, aborts=True)),
    ],
)
def test_only_a_rank_that_may_live_makes_the_others_leave_mpi_alone(state, told):
    hand = Hand(size=2)
    if state is not None:
        hand.coordinator.rank_use.settle(hand.coordinator.ranks[1], state)
    hand.begin(empty=True)
    assert shutdowns(hand)[0] == told
