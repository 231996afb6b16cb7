"""Why a farm stops or drains by itself: each reason at its bound, and how it stops."""

from math import inf
from typing import Any

import pytest

from mpifarm.coordinator.coordinator import COMMIT_INTERVAL, Phase
from mpifarm.coordinator.ending import ANSWER_SECONDS, ANSWER_SECONDS_AT_ONCE
from mpifarm.coordinator.limits import TRIAL_SECONDS, TRIAL_TASKS
from mpifarm.model.messages import Drain, Join, RankUnusable, Report, Stop, Stopped
from mpifarm.model.settings import Policy
from mpifarm.model.task import LAUNCHED_WAIT
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.virtual_rank import START, result_of


def stops(hand: Hand) -> list[Stop]:
    return [m for rank, m in hand.sent if isinstance(m, Stop) and rank == 0]


# ---- time ----------------------------------------------------------------------------


def test_the_timeout_stops_the_farm_with_its_grace_and_once():
    hand = Hand(timeout=100.0, grace=7.0)
    hand.begin(0)
    assert hand.coordinator.stop_reasons.wake_at() == START + 100.0
    hand.decide(99.9)
    assert hand.coordinator.phase is Phase.WORKING
    hand.decide(0.1)
    assert stops(hand) == [Stop(7.0, by_signal=False)]
    assert hand.coordinator.reason == "the timeout of 100 s is over"
    assert hand.coordinator.stop_reasons.wake_at() == inf
    hand.decide(1.0)
    assert len(stops(hand)) == 1


def test_the_timeout_stops_a_farm_that_drains():
    hand = Hand(timeout=100.0)
    hand.begin(0)
    hand.coordinator.on_drain("because")
    hand.decide(100.0)
    assert hand.coordinator.phase is Phase.STOPPING


@pytest.mark.parametrize("is_draining", [False, True])
def test_near_the_jobs_end_what_runs_is_stopped(is_draining):
    hand = Hand(deadline=START + 100.0, grace=2.0)
    hand.begin(0)
    if is_draining:
        hand.coordinator.on_drain("because")
    assert hand.coordinator.stop_reasons.wake_at() == START + 94.0
    hand.decide(93.9)
    assert hand.coordinator.phase is not Phase.STOPPING
    hand.decide(0.1)
    assert stops(hand) == [Stop(2.0, by_signal=False)]
    assert hand.coordinator.reason == "the job ends in 6 s"
    assert hand.coordinator.stop_reasons.wake_at() == inf


def test_a_stop_under_way_keeps_its_reason_at_the_jobs_end():
    hand = Hand(deadline=START + 100.0, grace=50.0)
    hand.begin(0)
    hand.coordinator.ending.stop("because", 50.0, hand.clock.now)
    hand.decide(45.0)
    assert (hand.coordinator.reason, len(stops(hand))) == ("because", 1)


def waiting_in(place: str) -> Hand:
    """Two tasks that take 20 s each, and one that waits there, if any."""
    policy = Policy(
        task_time=20.0,
        retries=1,
        retry_delay=1e4,
        seats=(("gpu", 1),) if place == "for a seat" else (),
    )
    hand = Hand(deadline=START + 100.0, policy=policy)
    if place == "for a seat":
        hand.coordinator.share_seats({0: "gpu", 1: "gpu"})
    tasks = 2 if place in {"nowhere", "on disk", "for a retry"} else 3
    hand.begin(*range(tasks), empty=place != "on disk")
    if place == "for a retry":
        hand.report(hand.leases(0)[0], status=1)
        hand.decide(COMMIT_INTERVAL)
    return hand


@pytest.mark.parametrize(
    ("place", "drains"),
    [
        ("in the queue", True),
        ("for a retry", True),
        ("for a seat", True),
        ("on disk", True),
        ("nowhere", False),
    ],
)
def test_a_farm_drains_when_what_waits_would_not_finish(place, drains):
    hand = waiting_in(place)
    latest = START + 94.0 - 20.0 - 0.5
    hand.decide(latest - hand.clock.now)
    assert Drain() not in [m for _, m in hand.sent]
    hand.decide(0.1)
    assert (Drain() in [m for _, m in hand.sent]) is drains


# ---- failures ------------------------------------------------------------------------


@pytest.mark.parametrize("is_draining", [False, True])
def test_a_farm_with_too_many_failures_stops_with_its_grace(is_draining):
    hand = Hand(policy=Policy(max_failures=2), grace=7.0)
    first, second, _ = hand.begin(0, 1, 2, workers=3)
    if is_draining:
        hand.coordinator.on_drain("because")
    hand.report(first, second, status=1)
    hand.decide(COMMIT_INTERVAL)
    hand.decide()
    assert hand.coordinator.too_many_failures
    assert stops(hand) == [Stop(7.0, by_signal=False)]
    assert hand.coordinator.stopped_because == "too many tasks failed"
    assert hand.coordinator.reason == "2 tasks have failed, and --max-failures is 2"


def test_too_many_failures_do_not_stop_a_farm_twice():
    hand = Hand(policy=Policy(max_failures=1))
    first, _ = hand.begin(0, 1)
    hand.coordinator.ending.stop("because", 60.0, hand.clock.now)
    hand.report(first, status=1)
    hand.decide(COMMIT_INTERVAL)
    hand.decide()
    assert hand.recorded == [0]
    assert not hand.coordinator.too_many_failures
    assert hand.coordinator.reason == "because"


def test_first_tasks_that_failed_stop_the_farm_once_all_of_them_are_on_disk():
    hand = Hand(policy=Policy(canary=2))
    leases = hand.begin(0, 1, empty=False)
    hand.report(leases[0], status=1)
    hand.decide(COMMIT_INTERVAL)
    hand.write()
    assert hand.coordinator.phase is Phase.WORKING, "one of them runs"
    hand.report(leases[1], status=1)
    hand.decide(COMMIT_INTERVAL)
    hand.decide()
    assert hand.coordinator.phase is Phase.WORKING, "its record is not on disk"
    hand.write()
    assert hand.coordinator.phase is not Phase.WORKING
    why = "none of the first 2 tasks (--canary) succeeded"
    assert hand.coordinator.reason == hand.coordinator.stopped_because == why
    assert hand.coordinator.too_many_failures


# ---- the first tasks in another directory --------------------------------------------


def tried(tasks: int = 2, *, workers: int = 2, empty: bool = True, **more: Any) -> Hand:
    hand = Hand(workers=workers, **more)
    hand.coordinator.try_place(lambda count: f"none of {count} found", "go there")
    hand.begin(*range(tasks), workers=workers, empty=empty)
    return hand


@pytest.mark.parametrize("status", [126, 127])
def test_where_no_command_is_found_the_farm_stops_at_once_and_records_nothing(status):
    hand = tried()
    hand.report(*hand.leases(0), status=status)
    hand.decide()
    assert stops(hand) == [Stop(0.0, by_signal=False)]
    assert hand.coordinator.reason == "none of 2 found"
    assert hand.coordinator.way_on == "go there"
    hand.hear(0, Stopped())
    hand.decide()
    assert (sorted(hand.given_back), hand.recorded) == ([0, 1], [])


def test_where_one_first_command_still_runs_the_others_are_held():
    hand = tried()
    hand.report(hand.leases(0)[0], status=127)
    hand.decide(1.0)
    assert hand.coordinator.phase is Phase.WORKING
    assert hand.recorded == []
    assert hand.coordinator.way_on == ""


def test_where_more_first_tasks_may_come_a_few_that_are_not_found_stop_nothing():
    hand = tried(empty=False)
    hand.report(*hand.leases(0), status=127)
    hand.decide(1.0)
    assert hand.coordinator.phase is Phase.WORKING


def test_commands_that_run_for_five_seconds_are_found():
    hand = tried(TRIAL_TASKS, workers=TRIAL_TASKS, empty=False)
    hand.report(hand.leases(0)[0], status=127)
    begun = hand.clock.now
    assert hand.coordinator.stop_reasons.wake_at() == begun + TRIAL_SECONDS
    hand.decide(TRIAL_SECONDS - 0.1)
    assert not hand.coordinator.limits.trial.is_open
    assert hand.recorded == []
    hand.decide(0.1)
    assert hand.coordinator.limits.trial.is_open
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [0]
    assert hand.coordinator.stop_reasons.wake_at() == inf


def test_a_farm_that_drains_is_not_woken_by_its_trial():
    hand = tried(TRIAL_TASKS, workers=TRIAL_TASKS, empty=False)
    hand.coordinator.on_drain("because")
    assert hand.coordinator.stop_reasons.wake_at() == inf


def test_a_list_of_which_nothing_is_left_ends_in_order_in_another_directory_too():
    hand = tried(0)
    assert (hand.coordinator.reason, hand.ends) == ("", 1)


def test_a_farm_on_trial_is_woken_for_its_timeout_if_that_is_sooner():
    hand = tried(TRIAL_TASKS, workers=TRIAL_TASKS, empty=False, timeout=3.0)
    assert hand.coordinator.stop_reasons.wake_at() == START + 3.0


# ---- ranks ---------------------------------------------------------------------------


def test_a_rank_that_can_run_nothing_stops_no_farm_whose_others_may_come():
    hand = Hand(size=3)
    hand.hear(1, Join("node", 2, 2))
    hand.hear(1, RankUnusable("no runner"))
    hand.decide()
    assert hand.coordinator.phase is Phase.WORKING
    assert hand.told == ["rank 1 on node is put out of use: no runner"]


@pytest.mark.parametrize("is_draining", [False, True])
def test_the_last_rank_that_can_run_nothing_stops_the_farm_with_its_grace(is_draining):
    hand = Hand(size=2, grace=7.0)
    hand.begin(0)
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    if is_draining:
        hand.coordinator.on_drain("because")
    hand.hear(0, RankUnusable("no runner"))
    hand.decide()
    assert hand.coordinator.reason == "no runner"
    assert stops(hand) == [Stop(7.0, by_signal=False)]


def test_in_a_stop_a_rank_that_can_run_nothing_changes_nothing():
    hand = Hand(size=2)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.coordinator.ending.stop("because", 60.0, hand.clock.now)
    hand.hear(1, RankUnusable("no runner"))
    hand.decide()
    assert hand.coordinator.quarantined == {}
    assert hand.coordinator.reason == "because"


def test_where_no_rank_is_left_the_farm_stops_without_grace():
    hand = Hand(size=2, grace=7.0)
    hand.hear(0, Stopped())
    hand.decide()
    assert hand.coordinator.phase is Phase.WORKING
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    assert hand.coordinator.reason == "no rank is left that can run tasks"


# ---- how it stops --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grace", "by_signal", "waits"),
    [
        (5.0, True, 5.0 + ANSWER_SECONDS),
        (0.0, True, ANSWER_SECONDS_AT_ONCE),
        (5.0, False, 5.0 + ANSWER_SECONDS),
        (0.0, False, LAUNCHED_WAIT + ANSWER_SECONDS),
        (1.0, False, LAUNCHED_WAIT + ANSWER_SECONDS),
    ],
)
def test_ranks_have_the_grace_and_a_moment_to_answer_a_stop(grace, by_signal, waits):
    hand = Hand()
    hand.begin(0)
    assert hand.coordinator.ending.wake_at() == inf
    now = hand.clock.now
    hand.coordinator.ending.stop("because", grace, now, by_signal=by_signal)
    assert hand.coordinator.ending.wake_at() == now + waits
    hand.decide(waits - 0.01)
    assert hand.ends == 0
    hand.decide(0.01)
    assert hand.given_back == [0]


@pytest.mark.parametrize(
    ("first", "second", "again"),
    [
        ((5.0, False), (5.0, True), [Stop(5.0, by_signal=True)]),
        ((5.0, False), (9.0, True), [Stop(5.0, by_signal=True)]),
        ((5.0, True), (9.0, True), []),
        ((5.0, True), (5.0, False), []),
        ((5.0, False), (5.0, False), []),
        ((5.0, True), (5.0, True), []),
        ((5.0, True), (1.0, False), [Stop(1.0, by_signal=True)]),
        ((5.0, False), (1.0, False), [Stop(1.0, by_signal=False)]),
    ],
)
def test_of_a_second_stop_a_shorter_grace_and_the_first_signal_are_passed_on(
    first, second, again
):
    hand = Hand()
    hand.begin(0)
    for number, (grace, by_signal) in enumerate((first, second)):
        hand.coordinator.ending.stop(
            f"{number}", grace, hand.clock.now, by_signal=by_signal
        )
    hand.decide()
    assert stops(hand) == [Stop(first[0], by_signal=first[1]), *again]
    assert hand.coordinator.reason == "0"


def test_a_farm_that_leaves_is_not_stopped():
    hand = Hand()
    hand.begin(empty=True)
    hand.coordinator.ending.stop("because", 0.0, hand.clock.now)
    hand.coordinator.on_drain("because")
    hand.decide()
    assert (stops(hand), hand.coordinator.reason) == ([], "")


def test_a_late_rank_has_lost_what_it_ran_and_the_others_keep_what_they_said():
    hand = Hand(size=2)
    (lease,) = hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.hear(0, Report(hand.clock.now, (result_of(lease, 1.0),), sure=2.0))
    hand.coordinator.ending.stop("because", 5.0, hand.clock.now)
    hand.hear(0, Stopped())
    hand.decide()
    assert hand.ends == 0, "rank 1 has not stopped"
    hand.decide(5.0 + ANSWER_SECONDS)
    hand.write()
    assert hand.recorded == [0]
    assert hand.coordinator.lost_ranks() == [1]
    assert hand.ends == 1
