"""Which ranks are there: pings, silence and loss, at their exact bounds."""

import pytest

from mpifarm.coordinator.coordinator import Coordinator, RankChange
from mpifarm.coordinator.effects import Effect, NoteRank, Tell
from mpifarm.coordinator.liveness import JOIN_SECONDS, PING_SECONDS
from mpifarm.coordinator.state import RankSet, RankState
from mpifarm.model.messages import (
    Alive,
    Join,
    Ping,
    Report,
    Shutdown,
    Stopped,
    ToRank,
    Welcome,
)
from mpifarm.model.settings import Policy
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import rejoin
from tests.unit.fakes import Commands, define_farm
from tests.unit.virtual_rank import START

LEAVE = Shutdown(ranks_lost=True, farm_goes_on=True)


def joined(size: int = 2, timeout: float = 300.0, **more: bool) -> Hand:
    """Ranks 0 and 1 have come, and rank 0 runs a task."""
    hand = Hand(size=size, policy=Policy(rank_timeout=timeout), **more)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    return hand


def said_to(hand: Hand, rank: int, before: int = 0) -> list[ToRank]:
    return [message for each, message in hand.sent[before:] if each == rank]


# ---- ranks come ----------------------------------------------------------------------


def test_a_rank_that_joins_again_keeps_the_numbers_of_its_workers():
    hand = joined(size=3)
    hand.hear(1, Join("node", 2, 2))
    hand.hear(2, Join("node", 3, 2))
    hand.decide()
    numbers = [(rank, m.node_worker) for rank, m in hand.sent if isinstance(m, Welcome)]
    assert numbers == [(0, 0), (1, 2), (1, 2), (2, 4)]


@pytest.mark.parametrize("state", [RankState.OUT_OF_USE, RankState.STOPPED])
def test_a_rank_that_works_no_more_is_not_put_to_work_by_a_join(state):
    hand = joined()
    record = hand.coordinator.ranks[1]
    hand.coordinator.rank_use.leave(record, state)
    before = len(hand.sent)
    hand.hear(1, Join("other", 7, 3))
    hand.decide()
    assert (record.state, said_to(hand, 1, before)) == (state, [])
    assert (record.host, record.pid, record.workers) == ("other", 7, 3)


def test_a_rank_that_joins_is_noted():
    hand = Hand(size=2)
    hand.hear(1, Join("node", 2, 2))
    noted = [each for each in hand.decide() if isinstance(each, NoteRank)]
    assert noted == [NoteRank(1, RankChange.JOINED)]


# ---- pings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_addressed", "heard_ago", "is_pinged"),
    [(True, 1.0, False), (True, PING_SECONDS, True), (False, 1.0, True)],
)
def test_a_rank_that_was_sent_leases_and_was_heard_needs_no_ping(
    is_addressed, heard_ago, is_pinged
):
    hand = joined()
    record = hand.coordinator.ranks[1]
    record.is_addressed = is_addressed
    record.heard_at = hand.clock.now + PING_SECONDS - heard_ago
    hand.decide(PING_SECONDS)
    assert (Ping() in said_to(hand, 1)) is is_pinged
    assert not record.is_addressed


def test_a_ping_comes_each_interval_and_not_before():
    hand = Hand()
    for after, count in ((4.9, 0), (0.1, 1), (4.9, 1), (0.1, 2)):
        hand.decide(after)
        assert said_to(hand, 0).count(Ping()) == count
        assert hand.coordinator.liveness.ping_at > hand.clock.now


def test_a_lost_rank_is_not_pinged():
    hand = joined()
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide(2 * PING_SECONDS)
    assert Ping() in said_to(hand, 0)
    assert Ping() not in said_to(hand, 1)


def test_a_farm_that_leaves_pings_nobody():
    hand = Hand()
    hand.begin(empty=True)
    assert hand.ends == 1
    hand.decide(2 * PING_SECONDS)
    assert Ping() not in said_to(hand, 0)


# ---- silence -------------------------------------------------------------------------


@pytest.mark.parametrize(("timeout", "waits"), [(4.0, JOIN_SECONDS), (3600.0, 3600.0)])
def test_a_rank_that_has_not_come_has_ten_minutes_or_the_timeout(timeout, waits):
    hand = Hand(size=2, policy=Policy(rank_timeout=timeout))
    hand.decide()
    hand.decide(waits)
    assert hand.coordinator.lost_ranks() == []
    hand.decide(2.0)
    assert hand.coordinator.lost_ranks() == [1]


def test_a_rank_is_silent_for_too_long_only_beyond_the_timeout():
    hand = joined(timeout=4.0)
    hand.decide(4.0)
    assert hand.coordinator.lost_ranks() == []
    hand.decide(1.0)
    assert hand.coordinator.lost_ranks() == [1]


def test_silent_ranks_are_looked_for_four_times_a_ping():
    hand = joined(timeout=4.0)
    hand.decide(3.9)
    hand.decide(0.2)  # it is silent for 4.1 s, but the last look was just now
    assert hand.coordinator.lost_ranks() == []
    hand.decide(0.05)
    assert hand.coordinator.lost_ranks() == [1]


def test_a_rank_that_has_stopped_may_be_silent():
    hand = joined(timeout=4.0)
    hand.hear(1, Stopped())
    hand.decide(100.0)
    assert hand.coordinator.lost_ranks() == []


@pytest.mark.parametrize("is_stopping", [False, True])
def test_silent_ranks_are_given_up_in_a_drain_and_not_by_a_stop(is_stopping):
    hand = joined(timeout=4.0)
    if is_stopping:
        hand.coordinator.ending.stop("because", 60.0, hand.clock.now)
    else:
        hand.coordinator.on_drain("because")
    hand.decide(10.0)
    assert hand.coordinator.lost_ranks() == ([] if is_stopping else [1])


def test_after_a_pause_ranks_have_as_much_longer():
    hand = joined(timeout=4.0)
    hand.coordinator.forgive_pause(60.0)
    hand.decide(64.0)
    assert hand.coordinator.lost_ranks() == []
    hand.decide(1.0)
    assert hand.coordinator.lost_ranks() == [1]


def test_the_own_rank_may_be_silent():
    hand = Hand(policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    hand.decide(100.0)
    assert hand.coordinator.ranks[0].works


@pytest.mark.parametrize("is_working", [True, False])
def test_a_rank_that_comes_while_the_farm_ends_is_not_put_to_work(is_working):
    hand = Hand(size=2)
    hand.begin(0)
    if not is_working:
        hand.coordinator.on_drain("because")
    hand.hear(1, Join("node", 2, 2))
    assert hand.coordinator.ranks[1].works is is_working


# ---- loss ----------------------------------------------------------------------------


def test_a_silence_is_told_in_its_seconds_if_it_is_shorter_than_the_timeout():
    hand = joined(timeout=60.0)
    hand.clock.advance(3.0)
    record = hand.coordinator.ranks[1]
    hand.coordinator.liveness.lose(record, RankState.LOST, hand.clock.now)
    hand.decide()
    assert hand.told == [
        "rank 1 on node has not been heard for 3 s and is given up; it had no task"
    ]


def test_a_rank_given_up_that_mpi_says_is_dead_is_told_once():
    hand = joined(timeout=4.0)
    hand.decide(10.0)
    assert hand.coordinator.silent_ranks() == [1]
    assert hand.coordinator.must_leave_alone
    told = [*hand.told]
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    effects = hand.decide()
    assert hand.told == told
    assert not [each for each in effects if isinstance(each, NoteRank)]
    assert hand.coordinator.lost_ranks() == [1]
    assert hand.coordinator.silent_ranks() == []
    assert not hand.coordinator.must_leave_alone


def led_by_rank_1() -> Coordinator:
    rank_set = RankSet((0, 1, 2), 1, 2, survives_rank_loss=True)
    return Coordinator(Commands(9), define_farm(), rank_set, START)


def what_is_told(effects: list[Effect]) -> list[Effect]:
    return [each for each in effects if isinstance(each, Tell | NoteRank)]


@pytest.mark.parametrize(
    ("state", "has_come", "count"),
    [
        (RankState.DEAD, False, 0),
        (RankState.DEAD, True, 2),
        (RankState.LOST, False, 2),
    ],
)
def test_only_a_death_before_another_rank_led_was_told_before(state, has_come, count):
    coordinator = led_by_rank_1()
    if has_come:
        coordinator.on_message(2, Join("node", 2, 2), START)
        coordinator.decide(START)
    coordinator.liveness.lose(coordinator.ranks[2], state, START)
    assert len(what_is_told(coordinator.decide(START))) == count


def test_only_the_tasks_that_run_again_are_told_of_a_lost_rank():
    hand = Hand(size=2)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(0, 1, empty=True)
    hand.coordinator.table.tasks[0].lost = 2  # it is failed with the third loss
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    assert hand.told[-1] == (
        "rank 1 on node is lost (it was killed, or its node failed); its 1 task runs "
        "again elsewhere"
    )


def test_a_dead_rank_is_not_told_to_leave():
    hand = joined()
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    before = len(hand.sent)
    hand.hear(1, Alive())
    hand.hear(1, rejoin())
    hand.decide()
    assert said_to(hand, 1, before) == []
    assert not hand.coordinator.ranks[1].is_dismissed


def test_the_coordinators_own_rank_is_never_lost_to_mpi():
    hand = joined()
    hand.coordinator.on_ranks_lost([0, 9], hand.clock.now)
    hand.decide()
    assert hand.coordinator.ranks[0].works
    assert hand.coordinator.lost_ranks() == []


@pytest.mark.parametrize(
    ("message", "answer"),
    [(Alive(), [Ping()]), (Report(1.0), []), (rejoin(), [LEAVE])],
)
def test_a_rank_that_was_told_to_leave_is_answered_what_it_asks(message, answer):
    hand = joined(timeout=4.0)
    hand.decide(10.0)
    assert said_to(hand, 1)[-1] == LEAVE
    before = len(hand.sent)
    hand.hear(1, message)
    hand.decide()
    assert said_to(hand, 1, before) == answer


@pytest.mark.parametrize("message", [Alive(), Report(1.0)])
def test_a_rank_that_was_given_up_at_a_stop_is_told_to_leave_once(message):
    hand = joined()
    record = hand.coordinator.ranks[1]
    hand.coordinator.rank_use.settle(record, RankState.LOST)
    before = len(hand.sent)
    hand.hear(1, message)
    hand.hear(1, Report(1.0))
    hand.decide()
    assert said_to(hand, 1, before) == [LEAVE]


def test_the_own_rank_and_one_that_is_not_known_are_told_nothing():
    hand = joined()
    hand.coordinator.rank_use.settle(hand.coordinator.ranks[0], RankState.LOST)
    before = len(hand.sent)
    for rank in (0, 9):
        hand.hear(rank, Alive())
    hand.decide()
    assert said_to(hand, 0, before) == []
    assert said_to(hand, 9, before) == []
    assert hand.coordinator.lost_ranks() == []
    assert not hand.coordinator.must_leave_alone


def test_messages_for_a_dead_rank_are_dropped_and_those_for_others_are_not():
    hand = joined(size=3)
    hand.hear(2, Join("node", 3, 2))
    for rank in (1, 2):
        hand.coordinator.liveness.welcome(hand.coordinator.ranks[rank])
    before = len(hand.sent)
    hand.coordinator.on_ranks_lost([2], hand.clock.now)
    hand.decide()
    assert said_to(hand, 2, before) == []
    assert [type(m) for m in said_to(hand, 1, before)] == [Welcome]
