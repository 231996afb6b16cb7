"""Who has which task after messages or a coordinator were lost, told by hand."""

from dataclasses import replace
from math import inf

import pytest

from mpifarm.coordinator.coordinator import RankChange, RankState
from mpifarm.coordinator.effects import NoteRank
from mpifarm.coordinator.failover import REJOIN_SECONDS
from mpifarm.coordinator.state import TaskRecord, TaskState
from mpifarm.model.messages import Committed, Join, Report, Stopped
from mpifarm.model.task import Lease
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import adopting, mended_hand, rejoin
from tests.unit.fakes import sure_report
from tests.unit.virtual_rank import START, result_of


def all_rejoin(hand: Hand, *leases: tuple[int, int]) -> None:
    """Rank 1 says that it has these leases, and the others that they have none."""
    for rank in (0, 1, 2):
        hand.hear(rank, rejoin(*leases) if rank == 1 else rejoin())


# ---- who is waited for ---------------------------------------------------------------


def test_ranks_are_waited_for_ten_seconds_and_not_in_a_stop():
    hand = adopting(7)
    assert hand.coordinator.failover.wake_at() == START + REJOIN_SECONDS
    hand.coordinator.ending.stop("because", 60.0, hand.clock.now)
    assert hand.coordinator.failover.wake_at() == inf


def test_once_all_ranks_have_spoken_nothing_is_due():
    hand = adopting(7)
    all_rejoin(hand)
    assert not hand.coordinator.failover.awaits_ranks
    assert hand.coordinator.failover.wake_at() == inf


def test_a_rank_that_has_not_spoken_in_time_is_given_up():
    hand = adopting(7)
    for rank in (0, 1):
        hand.hear(rank, rejoin())
    hand.decide(REJOIN_SECONDS - 0.5)
    assert hand.coordinator.lost_ranks() == []
    hand.decide(0.5)
    assert hand.coordinator.lost_ranks() == [2]
    assert not hand.coordinator.unlocated.is_pending


def test_the_own_rank_is_late_without_being_given_up():
    hand = adopting(7)
    for rank in (1, 2):
        hand.hear(rank, rejoin())
    hand.decide(REJOIN_SECONDS)
    assert hand.coordinator.lost_ranks() == []
    assert not hand.coordinator.unlocated.is_pending


def test_the_time_to_speak_begins_anew_when_messages_are_lost_again():
    hand = mended_hand(0)
    hand.decide(7.0)
    now = hand.clock.now
    hand.coordinator.on_mended(now)
    assert hand.coordinator.failover.wake_at() == now + REJOIN_SECONDS


def test_of_the_ranks_that_live_all_but_the_own_are_waited_for():
    hand = Hand(size=4, survives_rank_loss=True)
    hand.begin(0)
    for rank in (1, 2):
        hand.hear(rank, Join("node", rank, 2))
    hand.decide()
    hand.coordinator.ranks[1].is_asked = True
    assert {1, 2} <= {*hand.coordinator.dispatcher.demand}
    hand.coordinator.on_ranks_lost([2], hand.clock.now)
    hand.coordinator.on_mended(hand.clock.now)
    assert hand.coordinator.unlocated.awaited == {1, 3}
    assert 1 not in hand.coordinator.dispatcher.demand
    assert not hand.coordinator.ranks[1].is_asked


# ---- what they say -------------------------------------------------------------------


@pytest.mark.parametrize("is_welcomed", [True, False])
def test_a_rank_that_another_coordinator_welcomed_is_not_noted_as_new(is_welcomed):
    hand = adopting(7)
    hand.hear(1, replace(rejoin(), is_welcomed=is_welcomed))
    noted = [each for each in hand.decide() if isinstance(each, NoteRank)]
    assert noted == ([] if is_welcomed else [NoteRank(1, RankChange.JOINED)])
    assert hand.coordinator.ranks[1].works


def test_a_rank_out_of_use_that_speaks_again_stays_so():
    hand = mended_hand(0)
    record = hand.coordinator.ranks[1]
    hand.coordinator.rank_use.leave(record, RankState.OUT_OF_USE)
    hand.hear(1, rejoin((0, 1)))
    assert record.state is RankState.OUT_OF_USE


def test_a_rank_that_was_not_waited_for_keeps_what_it_does_not_name():
    hand = Hand(size=2, survives_rank_loss=True)
    hand.begin(0, 1)
    hand.hear(0, rejoin())
    assert hand.coordinator.ranks[0].leases == {0, 1}


@pytest.mark.parametrize("adopted", [(), (7,)])
def test_a_task_of_an_earlier_coordinator_counts_as_leased(adopted):
    """At its end, the farm says whether it has started any task."""
    assert adopting(*adopted).coordinator.has_leased is bool(adopted)


def test_results_of_tasks_that_are_on_disk_are_acknowledged_and_no_others():
    hand = adopting(7)
    results = [result_of(Lease(taskid, 1, ""), 1.0) for taskid in (7, 9)]
    hand.hear(1, rejoin(report=sure_report(1.0, tuple(results))))
    hand.decide()
    told = [m for rank, m in hand.sent if rank == 1 and isinstance(m, Committed)]
    assert told == [Committed(((9, 1),))]


# ---- where the tasks are -------------------------------------------------------------


def located(*said: Report, stopped: bool = False) -> TaskRecord:
    """Return task 7 after rank 1 has said this, and the others nothing."""
    hand = adopting(7)
    hand.hear(0, rejoin())
    hand.hear(1, rejoin(report=said[0]))
    if stopped:
        hand.hear(1, Stopped())
    hand.hear(2, rejoin())
    hand.coordinator.failover.locate(hand.clock.now)
    return hand.coordinator.table.tasks[7]


def test_a_task_that_nobody_has_is_lost_with_the_coordinators_rank():
    task = located(Report(1.0))
    assert (task.state, task.rank, task.lost) == (TaskState.QUEUED, 0, 1)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_lost_attempt_counts_though_its_rank_has_stopped_since(stopped):
    task = located(Report(1.0, (), (), ((7, 2),)), stopped=stopped)
    assert (task.state, task.lost, task.attempt) == (TaskState.QUEUED, 1, 2)
    assert not task.may_kill_ranks


def test_what_had_ended_on_a_stopped_rank_that_was_not_sure_runs_again():
    result = result_of(Lease(7, 2, ""), 1.0)
    task = located(Report(1.0, (result,), sure=0.5), stopped=True)
    assert (task.state, task.lost) == (TaskState.QUEUED, 0)


def test_ranks_want_less_by_what_they_turn_out_to_have():
    hand = adopting(7)
    all_rejoin(hand, (7, 2))
    hand.coordinator.failover.locate(hand.clock.now)
    assert hand.coordinator.ranks[1].leases == {7}
    assert hand.coordinator.dispatcher.demand.unmet == 5


def test_in_a_stop_what_was_not_located_goes_back_when_all_ranks_have_stopped():
    hand = adopting(7)
    hand.coordinator.ending.stop("because", 60.0, hand.clock.now)
    for rank in (0, 1, 2):
        hand.hear(rank, Stopped())
    hand.decide()
    assert hand.given_back == [7]


def test_after_the_storage_failed_a_farm_leaves_without_locating_anything():
    hand = adopting(7)
    hand.coordinator.on_storage_failed("the disk is full", hand.clock.now)
    for rank in (0, 1, 2):
        hand.hear(rank, Stopped())
    hand.decide()
    assert hand.ends == 1
    assert hand.coordinator.unrecorded == ()
    assert not hand.coordinator.unlocated.is_pending
