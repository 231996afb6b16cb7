"""Ranks that are put out of use and come back, told to a coordinator by hand."""

from math import inf

import pytest

from mpifarm.coordinator.coordinator import COMMIT_INTERVAL, RankChange, RankState
from mpifarm.coordinator.effects import NoteRank
from mpifarm.coordinator.quarantine import (
    FIRST_PAUSE,
    STREAK_SECONDS,
    QuarantineVerdict,
    Streak,
)
from mpifarm.model.messages import Join, RankUnusable, Stopped
from mpifarm.model.settings import Policy
from mpifarm.model.task import Outcome
from tests.pages import take_block
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import adopting
from tests.unit.fakes import sure_report
from tests.unit.virtual_rank import result_of

TWO = Policy(quarantine=2)


def fail_fast(hand: Hand, rank: int = 1, seconds: float = 0.1) -> None:
    """All that was handed to the rank fails."""
    now = hand.clock.now
    leases = hand.leases(rank)
    results = tuple(result_of(each, now, seconds, status=1) for each in leases)
    hand.hear(rank, sure_report(now, results))


def suspect(policy: Policy = TWO, *, empty: bool = True) -> Hand:
    """Rank 0 runs task 0 on its only worker; tasks 1 and 2 failed fast on rank 1."""
    hand = Hand(size=2, workers=1, policy=policy)
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(1, 2, empty=empty)
    fail_fast(hand)
    return hand


def blamed() -> Hand:
    """Task 3 succeeds on rank 0, so rank 1 is put out of use."""
    hand = suspect(empty=False)
    hand.report(*hand.leases(0))
    hand.decide()
    hand.write(3, empty=False)
    hand.report(hand.leases(0)[-1])
    hand.coordinator.ranks[0].mean = 100.0  # so that it gets nothing ahead
    hand.decide()
    return hand


# ---- the verdict ---------------------------------------------------------------------


def test_a_rank_that_fails_everything_is_put_out_of_use_and_its_tasks_go_first():
    hand = blamed()
    assert hand.coordinator.ranks[1].state is RankState.OUT_OF_USE
    (told,) = hand.told
    shown = " ".join(take_block("when-tasks-fail.md", "rank 2 on n3").lines)
    assert told == shown.replace("rank 2 on n3", "rank 1 on node").replace("14", "2")
    assert [each.result.taskid for each in hand.noted] == [2, 1]
    assert [(each.taskid, each.attempt) for each in hand.leases(0)[2:]] == [(1, 2)]
    assert [each.taskid for each in hand.coordinator.table.queue] == [2]
    assert 1 not in hand.coordinator.dispatcher.demand


def test_failures_of_under_a_tenth_of_a_second_are_told_as_a_tenth():
    hand = suspect(empty=False)
    streak = hand.coordinator.quarantine.streaks[1]
    for longest, told in ((0.001, "0.1 s"), (0.25, "0.25 s")):
        streak.longest = longest
        record = hand.coordinator.ranks[1]
        hand.coordinator.rank_use._quarantine_rank(record, streak, hand.clock.now)
        hand.decide()
        assert f"within {told}," in hand.told[-1]


@pytest.mark.parametrize(
    ("policy", "goes_on"),
    [
        (TWO, False),
        (Policy(quarantine=2, retries=1), True),
        (Policy(quarantine=2, requeue_status=85), True),
    ],
)
@pytest.mark.parametrize("is_sure", [True, False])
def test_a_trial_ends_when_only_suspects_are_left_and_nothing_may_run_again(
    policy, goes_on, is_sure
):
    hand = suspect(policy)
    now = hand.clock.now
    (lease,) = hand.leases(0)
    ended = (result_of(lease, now, 1.0, status=85),)
    report = sure_report(now, ended)
    hand.hear(0, report if is_sure else hand.report_of().__class__(now, ended, sure=0))
    hand.decide()
    assert (1 in hand.coordinator.quarantine.streaks) is goes_on
    assert hand.coordinator.quarantine.held == (2 if goes_on else 0)


def test_a_trial_goes_on_while_another_task_runs():
    hand = suspect()
    hand.decide(STREAK_SECONDS + 1.0)
    assert 1 in hand.coordinator.quarantine.streaks
    assert hand.recorded == []


def test_a_trial_goes_on_while_more_tasks_may_come():
    hand = suspect(empty=False)
    hand.report(*hand.leases(0))
    hand.decide()
    assert 1 in hand.coordinator.quarantine.streaks


def test_failures_of_a_rank_that_has_become_quiet_are_recorded():
    hand = Hand(size=2, workers=1, policy=Policy(quarantine=9))
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(1, 2, empty=True)
    fail_fast(hand)
    assert hand.coordinator.rank_use.wake_at() == hand.clock.now + STREAK_SECONDS
    hand.decide(STREAK_SECONDS - 0.5)
    assert hand.recorded == []
    hand.decide(0.5)
    hand.write(empty=True)  # a look at the disk was under way
    hand.decide(COMMIT_INTERVAL)
    assert sorted(hand.recorded) == [1, 2]
    assert hand.coordinator.quarantine.streaks[1].count == 2
    assert hand.coordinator.rank_use.wake_at() == inf


def test_a_rank_on_trial_gets_a_task_when_its_probe_is_due():
    hand = suspect(empty=False)
    assert hand.coordinator.rank_use.wake_at() == hand.clock.now + 1.0
    hand.decide()
    hand.coordinator.table.take([3, 4])
    hand.decide()
    assert len(hand.leases(1)) == 2
    hand.decide(1.0)
    assert [each.taskid for each in hand.leases(1)[2:]] == [3]


def test_a_success_ends_the_streak_of_a_rank_in_silence():
    hand = Hand(size=2, workers=1, policy=Policy(quarantine=9))
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(1, 2, empty=True)
    first, second = hand.leases(1)
    now = hand.clock.now
    hand.hear(1, sure_report(now, (result_of(first, now, 0.1, status=1),)))
    assert hand.coordinator.quarantine.held == 1
    hand.report(second, rank=1)
    assert hand.coordinator.quarantine.streaks == {}
    assert hand.coordinator.rank_use.wake_at() == inf
    hand.decide(COMMIT_INTERVAL)
    assert hand.told == []
    assert sorted(hand.recorded) == [1, 2]


@pytest.mark.parametrize(
    ("outcome", "most_failures", "ends"),
    [
        (Outcome.COMPLETED, 2, True),
        (Outcome.COMPLETED, 3, False),
        (None, 2, False),
    ],
)
def test_a_trial_ends_when_the_limit_of_failures_allows_no_lease(
    outcome, most_failures, ends
):
    policy = Policy(quarantine=2, max_failures=most_failures)
    hand = suspect(policy, empty=False)
    if outcome is not None:
        hand.report(*hand.leases(0))
    allowed = 0 if most_failures == 2 else 1
    dispatcher = hand.coordinator.dispatcher
    object.__setattr__(dispatcher, "count_allowed", lambda: allowed)
    hand.coordinator.rank_use.end_streaks_without_end()
    assert (hand.coordinator.quarantine.streaks == {}) is ends


# ---- the way back --------------------------------------------------------------------


def test_a_rank_out_of_use_is_tried_with_one_task_when_its_time_is_over():
    hand = blamed()
    use = hand.coordinator.rank_use
    assert use.wake_at() == hand.clock.now + FIRST_PAUSE
    hand.decide(FIRST_PAUSE - 0.1)
    assert hand.coordinator.ranks[1].state is RankState.OUT_OF_USE
    effects = hand.decide(0.1)
    assert hand.coordinator.ranks[1].works
    assert [each.taskid for each in hand.leases(1)[2:]] == [2]
    assert not [each for each in effects if isinstance(each, NoteRank)]
    assert [*hand.coordinator.quarantined] == [1]
    assert use.wake_at() == inf or use.wake_at() > hand.clock.now


def test_a_rank_that_succeeds_then_is_in_use_again():
    hand = blamed()
    hand.decide(FIRST_PAUSE)
    hand.report(hand.leases(1)[-1], rank=1)
    effects = hand.decide()
    why = "a task succeeded there"
    assert hand.told[1:] == [f"rank 1 on node is in use again: {why}"]
    noted = [each for each in effects if isinstance(each, NoteRank)]
    assert noted == [NoteRank(1, RankChange.IN_USE, why)]
    assert hand.coordinator.quarantined == {}
    assert hand.coordinator.quarantine.pauses == {}


def test_a_rank_that_fails_then_is_out_for_longer_and_its_task_goes_first():
    hand = blamed()
    hand.decide(FIRST_PAUSE)
    again = hand.leases(1)[-1]
    now = hand.clock.now
    failed = (result_of(again, now, 0.1, status=1),)
    hand.hear(1, sure_report(now, failed))
    hand.decide()
    assert hand.coordinator.ranks[1].state is RankState.OUT_OF_USE
    assert len(hand.told) == 1
    assert hand.coordinator.rank_use.wake_at() == now + 2 * FIRST_PAUSE
    assert [each.taskid for each in hand.coordinator.table.queue] == [again.taskid]
    assert hand.noted[-1].result.attempt == again.attempt


@pytest.mark.parametrize("is_working", [True, False])
def test_a_farm_that_drains_tries_no_rank_again(is_working):
    hand = blamed()
    if not is_working:
        hand.coordinator.on_drain("because")
    hand.decide(FIRST_PAUSE)
    assert hand.coordinator.ranks[1].works is is_working


def test_a_rank_is_not_tried_without_a_task_for_it():
    hand = blamed()
    hand.coordinator.table.requeue_waiting()
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    hand.decide(FIRST_PAUSE)
    assert not hand.coordinator.ranks[1].works
    assert hand.coordinator.rank_use.wake_at() == inf


def test_a_rank_out_of_use_that_can_run_nothing_is_given_up_in_silence():
    hand = blamed()
    hand.hear(1, RankUnusable("no runner"))
    hand.decide()
    assert len(hand.told) == 1
    assert hand.coordinator.quarantine.pauses == {}
    hand.decide(2 * FIRST_PAUSE)
    assert not hand.coordinator.ranks[1].works


def test_a_rank_out_of_use_that_is_lost_is_not_tried_again():
    hand = blamed()
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    assert hand.coordinator.quarantine.pauses == {}
    assert [*hand.coordinator.quarantined] == [1]


# ---- states --------------------------------------------------------------------------


def test_a_rank_does_not_go_back_to_what_it_was():
    hand = suspect()
    record = hand.coordinator.ranks[1]
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    with pytest.raises(AssertionError, match="rank 1: "):
        hand.coordinator.rank_use.enter(record, RankState.WORKING)


def test_the_ranks_that_may_work_and_their_workers_are_counted():
    hand = Hand(size=3)
    capacity = hand.coordinator.dispatcher.capacity
    assert (capacity.can_work, capacity.workers) == (3, 0)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 5))
    assert (capacity.can_work, capacity.workers) == (3, 7)
    hand.hear(1, RankUnusable("no runner"))
    assert (capacity.can_work, capacity.workers) == (2, 2)
    hand.hear(1, Stopped())
    assert (capacity.can_work, capacity.workers) == (2, 2)


def test_the_failures_of_a_rank_that_stops_count_and_its_leases_go_elsewhere():
    hand = Hand(size=2, workers=1, policy=Policy(quarantine=9))
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(1, 2, empty=True)
    now, (first, _) = hand.clock.now, hand.leases(1)
    hand.hear(1, sure_report(now, (result_of(first, now, 0.1, status=1),)))
    hand.hear(1, Stopped())
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [1]
    assert [each.taskid for each in hand.coordinator.table.queue] == [2]
    assert 1 not in hand.coordinator.dispatcher.demand


def test_what_a_rank_that_is_lost_did_not_find_fails():
    """Another rank's task of the trial is still held."""
    hand = Hand(size=2, workers=1)
    hand.coordinator.try_place(str, "")
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(1, 2, empty=False)
    hand.report(*hand.leases(0), status=127)
    hand.report(hand.leases(1)[0], rank=1, status=127)
    trial = hand.coordinator.limits.trial
    assert [task.taskid for task in trial.held] == [0, 1]
    hand.coordinator.rank_use.leave(hand.coordinator.ranks[1], RankState.OUT_OF_USE)
    assert [task.taskid for task in trial.held] == [0]
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [1]


def test_a_rank_that_is_put_out_of_use_is_not_waited_for():
    hand = adopting(7)
    hand.hear(1, RankUnusable("no runner"))
    assert hand.coordinator.unlocated.awaited == {0, 2}


@pytest.mark.parametrize("how", ["drain", "stop"])
def test_failures_that_are_held_back_count_when_the_farm_ends(how):
    hand = suspect(Policy(quarantine=2, retries=1))
    if how == "drain":
        hand.coordinator.on_drain("because")
    else:
        hand.coordinator.ending.stop("because", 60.0, hand.clock.now)
    assert hand.coordinator.quarantine.held == 0
    assert [task.taskid for task in hand.coordinator.table.ended] == [1, 2]


def test_a_rank_that_leaves_wants_nothing_more():
    hand = Hand(size=2)
    hand.begin(0)
    assert 0 in hand.coordinator.dispatcher.demand
    record = hand.coordinator.ranks[0]
    hand.coordinator.rank_use.leave(record, RankState.OUT_OF_USE)
    assert 0 not in hand.coordinator.dispatcher.demand


def test_a_rank_that_is_put_out_of_use_is_noted_with_the_reason():
    hand = Hand(size=2)
    hand.begin(0)
    hand.hear(0, RankUnusable("no runner"))
    noted = [each for each in hand.decide() if isinstance(each, NoteRank)]
    assert noted == [NoteRank(0, RankChange.OUT_OF_USE, "no runner")]
    assert hand.coordinator.quarantined[0].why == "no runner"


def test_a_rank_tried_when_tasks_fail_everywhere_is_in_use_again(monkeypatch):
    hand = blamed()
    hand.decide(FIRST_PAUSE)
    verdict = QuarantineVerdict.TASKS_AT_FAULT
    monkeypatch.setattr(hand.coordinator.quarantine, "assess", lambda *_: verdict)
    hand.decide()
    why = "tasks fail on other ranks as well"
    assert hand.told[1:] == [f"rank 1 on node is in use again: {why}"]


def test_a_streak_wakes_before_a_rank_is_due_to_be_tried():
    hand = blamed()
    quarantine, now = hand.coordinator.quarantine, hand.clock.now
    quarantine.streaks[0] = Streak(0, 1)
    quarantine.wake_at = now + 1.0
    assert hand.coordinator.rank_use.wake_at() == now + 1.0
    quarantine.wake_at = now + 99.0
    assert hand.coordinator.rank_use.wake_at() == now + FIRST_PAUSE


def test_a_streak_that_has_ended_wakes_nobody_at_its_old_time():
    hand = Hand(size=3, workers=1, policy=Policy(quarantine=9))
    hand.begin(0, workers=1, empty=False)
    for rank in (1, 2):
        hand.hear(rank, Join("node", rank, 2))
    hand.decide()
    hand.write(1, 2, 3, 4, empty=True)
    begun = hand.clock.now
    for rank, after in ((1, 0.0), (2, 1.0)):
        now = hand.clock.advance(after)
        fast = result_of(hand.leases(rank)[0], now, 0.1, status=1)
        hand.hear(rank, sure_report(now, (fast,)))
    assert hand.coordinator.rank_use.wake_at() == begun + STREAK_SECONDS
    hand.report(hand.leases(1)[1], rank=1)
    hand.decide(STREAK_SECONDS - 1.0)
    assert hand.coordinator.rank_use.wake_at() == begun + 1.0 + STREAK_SECONDS
