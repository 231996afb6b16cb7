"""Retries, checkpoints, limits of failures, broken nodes, the canary, the job's end."""

from collections.abc import Callable
from signal import SIGUSR1, SIGUSR2
from typing import Any

import pytest

from mpifarm.coordinator.coordinator import COMMIT_INTERVAL, MAX_LOST, Phase
from mpifarm.coordinator.retries import (
    MAX_CHECKPOINTS,
    MAX_FAST_CHECKPOINTS,
    PATIENCE_SECONDS,
    Sequel,
    count_attempt,
)
from mpifarm.coordinator.state import TaskRecord
from mpifarm.coordinator.walltime import Walltime, margin
from mpifarm.model.messages import Join, Stopped
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, Outcome, Result
from tests.unit.coordinator.test_coordinator import Hand, SomeCommands
from tests.unit.coordinator.test_losses import assert_all_is_accounted_for
from tests.unit.fakes import SimulatedFarm
from tests.unit.virtual_rank import START

HOUR = 3600.0


def policed(policy: Policy, tasks: int = 100, **how: Any) -> SimulatedFarm:
    how = {"ranks": 3, "workers": 4, "seconds": 1.0, **how}
    return SimulatedFarm(tasks, policy=policy, **how)


def attempts_of(farm: SimulatedFarm, taskid: int) -> list[int]:
    return sorted(attempt for each, attempt in farm.started if each == taskid)


def places_of(farm: SimulatedFarm, taskid: int) -> list[int]:
    """The rank of each attempt, in order."""
    places = [
        (lease.attempt, rank.rank)
        for rank in farm.ranks
        for lease in rank.told
        if lease.taskid == taskid
    ]
    return [rank for _, rank in sorted(places)]


# ---- retries ------------------------------------------------------------------------


def test_a_task_that_fails_gets_further_attempts_on_other_ranks():
    farm = policed(Policy(retries=2))
    farm.status = lambda taskid: taskid == 7
    farm.run()
    assert_all_is_accounted_for(farm)
    assert attempts_of(farm, 7) == [1, 2, 3]
    first, second, third = places_of(farm, 7)
    assert first != second != third
    assert [n.result.attempt for n in farm.noted] == [1, 2]
    assert farm.disk.records[7].result.attempt == 3
    assert farm.disk.records[7].result.outcome is Outcome.FAILED
    assert len(farm.disk.records) == 100


def test_a_task_that_succeeds_at_the_second_attempt_is_finished():
    farm = policed(Policy(retries=5))
    farm.status_of = lambda lease: int(lease.taskid % 10 == 3 and lease.attempt == 1)
    farm.run()
    assert {r.result.outcome for r in farm.disk.records.values()} == {Outcome.COMPLETED}
    assert len(farm.noted) == 10


def test_the_only_rank_tries_again_what_failed_there():
    farm = policed(Policy(retries=1), tasks=10, ranks=1)
    farm.status = lambda _: 1
    farm.run()
    assert_all_is_accounted_for(farm)
    assert {record.result.attempt for record in farm.disk.records.values()} == {2}
    assert farm.counts.spins == 0


def test_a_retry_waits_for_its_delay():
    farm = policed(Policy(retries=1, retry_delay=30.0), tasks=1, ranks=2)
    farm.status_of = lambda lease: int(lease.attempt == 1)
    farm.run()
    assert farm.disk.records[0].result.attempt == 2
    assert farm.disk.records[0].at == pytest.approx(START + 32.0, abs=1.0)
    assert farm.counts.spins == 0


def test_a_retry_does_not_wait_for_ever_for_a_rank_that_is_busy():
    farm = policed(
        Policy(retries=1), 3, ranks=2, workers=1, seconds=lambda t: HOUR * (t != 0)
    )
    farm.status_of = lambda lease: int(lease.taskid == 0 and lease.attempt == 1)
    farm.disk.toprocess.remove(2)
    farm.run()
    assert farm.disk.records[0].at < START + PATIENCE_SECONDS + 5.0
    assert len({*places_of(farm, 0)}) == 1


@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2])
def test_a_task_that_waits_for_its_retry_is_given_back_at_the_end(signum):
    farm = policed(Policy(retries=1, retry_delay=50.0), tasks=3)
    farm.status = lambda taskid: taskid == 0
    farm.at(START + 10.0, lambda: farm.signal(signum))
    farm.disk.toprocess.append(99)
    farm.seconds = lambda taskid: 20.0 if taskid == 99 else 1.0
    farm.run(100.0)
    assert_all_is_accounted_for(farm)
    assert 0 in farm.disk.toprocess
    assert {1, 2} <= farm.disk.records.keys()


def test_a_task_that_fails_while_the_farm_drains_is_given_back_for_its_retry():
    farm = policed(Policy(retries=1), tasks=3, seconds=5.0)
    farm.status = lambda taskid: taskid == 0
    farm.at(START + 1.0, lambda: farm.signal(SIGUSR2))
    farm.run(100.0)
    assert_all_is_accounted_for(farm)
    assert farm.ended_at is not None
    assert [*farm.disk.toprocess] == [0]
    assert farm.disk.records.keys() == {1, 2}


def test_a_task_without_a_command_is_not_tried_again():
    hand = Hand(policy=Policy(retries=3))
    hand.coordinator.dispatcher.commands = SomeCommands(10)
    hand.begin(1)
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [1]
    assert hand.noted == []


def test_a_task_that_loses_its_workers_is_not_tried_more_often_for_retries():
    farm = policed(Policy(retries=5), tasks=1, ranks=1, seconds=1.0)
    for moment in range(10):
        farm.at(START + 0.5 + moment, farm.ranks[0].lose_worker)
    farm.run()
    assert farm.disk.records[0].result.attempt == MAX_LOST


# ---- checkpoints --------------------------------------------------------------------


def test_a_task_that_made_a_checkpoint_runs_again_and_has_not_failed():
    farm = policed(Policy(requeue_status=75, retries=1), seconds=5.0, tasks=6)
    # the one failure among the checkpoints has its retry left
    farm.status_of = lambda lease: {10: 4, 20: 0}.get(lease.attempt, 75)
    farm.run()
    assert_all_is_accounted_for(farm)
    assert {r.result.attempt for r in farm.disk.records.values()} == {20}
    assert {r.result.outcome for r in farm.disk.records.values()} == {Outcome.COMPLETED}
    assert len(farm.noted) == 6 * 19


@pytest.mark.parametrize(
    ("seconds", "most"), [(0.5, MAX_FAST_CHECKPOINTS), (2.0, MAX_CHECKPOINTS)]
)
def test_a_task_that_asks_to_run_again_for_ever_is_failed(seconds, most):
    farm = policed(Policy(requeue_status=75), tasks=1, seconds=seconds, checked=False)
    farm.status = lambda _: 75
    farm.run()
    assert farm.disk.records[0].result.attempt == most
    (told,) = farm.told
    assert "task 0 counts as failed" in told
    assert "which asks to run again" in told


def test_fast_checkpoints_count_only_in_a_row():
    policy, task = Policy(requeue_status=75), TaskRecord(0)

    def ends_after(seconds: float) -> Sequel:
        result = Result(0, 1, Outcome.FAILED, 75, 0, 0.0, seconds, 0.0)
        return count_attempt(policy, task, result)[0]

    for _ in range(3):
        for _ in range(MAX_FAST_CHECKPOINTS - 1):
            assert ends_after(0.5) is Sequel.GOES_ON
        assert ends_after(2.0) is Sequel.GOES_ON
    for _ in range(MAX_FAST_CHECKPOINTS - 1):
        assert ends_after(0.5) is Sequel.GOES_ON
    assert ends_after(0.5) is Sequel.FAILED


def test_the_status_that_asks_to_run_again_is_a_failure_like_any_other_by_default():
    farm = policed(Policy(), tasks=2)
    farm.status = lambda _: 75
    farm.run()
    assert {r.result.attempt for r in farm.disk.records.values()} == {1}


def test_a_checkpoint_at_a_drain_goes_back_to_the_list():
    farm = policed(Policy(requeue_status=75), tasks=3, seconds=5.0)
    farm.status = lambda _: 75
    farm.at(START + 1.0, lambda: farm.signal(SIGUSR2))
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.disk.left == 3
    assert len(farm.noted) == 3


# ---- too many failures --------------------------------------------------------------


def test_the_farm_stops_at_so_many_failures():
    farm = policed(Policy(max_failures=5), tasks=1000)
    farm.status = lambda taskid: taskid % 10 == 0
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.coordinator.too_many_failures
    assert "have failed, and --max-failures is 5" in farm.coordinator.reason
    assert 5 <= failures_of(farm) <= 8
    assert farm.disk.left > 500


def failures_of(farm: SimulatedFarm) -> int:
    return farm.disk.count_failed()


@pytest.mark.parametrize("quarantine", [0, 3])
@pytest.mark.parametrize("seconds", [0.0005, 1.0])
@pytest.mark.parametrize(
    ("ranks", "workers", "most"),
    [(1, 8, 1), (1, 8, 20), (1, 4, 100), (4, 2, 20), (12, 2, 3)],
)
def test_at_most_the_limit_fails_and_what_was_running(
    ranks, workers, most, seconds, quarantine
):
    policy = Policy(max_failures=most, quarantine=quarantine)
    farm = policed(policy, tasks=600, ranks=ranks, workers=workers, seconds=seconds)
    farm.status = lambda _: 1
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.coordinator.too_many_failures
    assert most <= failures_of(farm) <= most + ranks * workers


@pytest.mark.parametrize("retries", [0, 1])
def test_the_limit_holds_where_most_tasks_succeed_and_where_they_are_tried_again(
    retries,
):
    policy = Policy(max_failures=20, retries=retries)
    farm = policed(policy, tasks=600, ranks=2, workers=4, seconds=0.001)
    farm.status = lambda taskid: taskid % 5 == 3
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.coordinator.too_many_failures
    assert 20 <= failures_of(farm) <= 20 + 8


def test_tasks_that_ask_to_run_again_too_often_count_from_then_on():
    policy = Policy(max_failures=5, requeue_status=75)
    farm = policed(policy, tasks=60, ranks=1, workers=8, seconds=0.001)
    farm.status = lambda _: 75
    farm.run()
    assert farm.coordinator.too_many_failures
    assert 5 <= failures_of(farm) <= 5 + 8


def test_a_share_is_one_of_the_tasks_of_the_list_and_rounded_up():
    farm = policed(Policy(max_failed_share=0.1), tasks=399, workers=2)
    farm.status = lambda taskid: taskid < 2 or taskid > 60
    assert farm.coordinator.note_failed_before(0) == (
        "the farm stops when 40 tasks have failed (--max-failures 10%, 40 of the"
        " list's 399)"
    )
    farm.run()
    assert farm.coordinator.too_many_failures
    assert "--max-failures is 10%, 40 of the list's 399" in farm.coordinator.reason
    assert 40 <= failures_of(farm) <= 40 + 6


def test_a_start_counts_its_own_failures_alone_and_says_how_many_there_were():
    farm = policed(Policy(max_failures=5), tasks=1000)
    farm.status = lambda taskid: taskid % 10 == 0
    told = farm.coordinator.note_failed_before(40)
    assert "stops when 5 tasks have failed" in told
    assert "40 that failed before this start do not count" in told
    farm.run()
    assert failures_of(farm) >= 5
    assert "40 that failed before this start do not count" in farm.coordinator.reason
    plain = policed(Policy(max_failures=5))
    assert plain.coordinator.note_failed_before(0) == ""
    assert policed(Policy()).coordinator.note_failed_before(40) == ""


def test_failures_go_on_counting_where_another_rank_leads():
    farm = policed(
        Policy(max_failures=20), tasks=600, workers=2, survives_rank_loss=True
    )
    farm.status = lambda taskid: taskid % 3 == 0
    farm.at(START + 3.5, farm.lose_coordinator)
    farm.run()
    assert farm.coordinator.rank_set.own == 1
    assert farm.coordinator.too_many_failures
    assert 20 <= failures_of(farm) <= 20 + 6


def test_a_bad_rank_is_put_out_of_use_though_the_limit_is_one():
    farm = policed(
        Policy(max_failures=1, quarantine=3), tasks=300, ranks=3, seconds=0.05
    )
    farm.ranks[1].fails_all_in = 0.01
    farm.run()
    assert not farm.coordinator.too_many_failures
    assert failures_of(farm) == 0
    assert [*farm.coordinator.quarantined] == [1]


def test_tries_that_failed_are_no_failures_as_long_as_another_may_succeed():
    farm = policed(Policy(max_failures=1, retries=1))
    farm.status_of = lambda lease: int(lease.attempt == 1)
    farm.run()
    assert not farm.coordinator.too_many_failures
    assert len(farm.disk.records) == 100


# ---- a node that fails everything ---------------------------------------------------


def broken_node(
    policy: Policy | None = None,
    seconds: Callable[[int], float] | float = 2.0,
    tasks: int = 400,
    **how: Any,
) -> SimulatedFarm:
    """Everything fails on rank 2, at once."""
    farm = policed(policy or Policy(), tasks, ranks=4, seconds=seconds, **how)
    farm.ranks[2].fails_all_in = 0.05
    return farm


@pytest.mark.parametrize("seconds", [0.05, 2.0, 100.0])
def test_a_rank_that_fails_everything_is_put_out_of_use_and_no_task_is_failed(seconds):
    farm = broken_node(seconds=seconds)
    farm.run()
    assert_all_is_accounted_for(farm)
    assert [r.result.status for r in farm.disk.records.values()] == [0] * 400
    (out,) = farm.coordinator.quarantined.values()
    assert (out.rank, out.host) == (2, "node")
    count = int(out.why.split()[0])
    assert 10 <= count <= len(farm.noted)
    known = f"{count} tasks in a row failed there within 0.1 s, while tasks succeeded"
    assert out.why == f"{known} on other ranks"
    (told,) = farm.told
    assert told == (
        f"rank 2 on node is put out of use: {out.why}; its {count} tasks run again "
        "elsewhere; a task is tried there in 10 s"
    )
    assert farm.counts.spins == 0


def test_failures_of_a_broken_node_cost_no_attempt():
    farm = broken_node(Policy(retries=1))
    farm.status = lambda taskid: taskid < 100
    farm.run()
    suspects = {note.result.taskid for note in farm.noted if note.rank == 2}
    assert len(suspects) >= 10
    tried = {t: r.result.attempt for t, r in farm.disk.records.items()}
    assert {tried[t] for t in suspects if t < 100} <= {3, 4}
    assert {tried[t] for t in suspects if t >= 100} <= {2, 3}


def test_a_broken_node_is_known_by_what_the_others_try_again():
    """At the end of the list all that could tell of the others has failed once."""
    policy = Policy(quarantine=2, retries=1)
    farm = broken_node(policy, tasks=6, seconds=3.0, workers=2)
    failed_once = set[int]()

    def status_of(lease: Lease) -> int:
        is_first = lease.taskid not in failed_once
        failed_once.add(lease.taskid)
        return int(is_first)

    farm.status_of = status_of
    farm.run()
    assert [r.result.status for r in farm.disk.records.values()] == [0] * 6
    assert [out.rank for out in farm.coordinator.quarantined.values()] == [2]


def test_while_others_say_nothing_a_broken_node_gets_few_tasks():
    farm = broken_node(seconds=HOUR, tasks=100)
    farm.run(HOUR / 2)
    assert len(farm.ranks[2].told) < 80
    assert farm.coordinator.quarantined == {}
    assert farm.disk.records == {}
    farm.run()
    assert [r.result.status for r in farm.disk.records.values()] == [0] * 100
    assert farm.coordinator.quarantined


def test_without_quarantine_a_broken_node_eats_the_list():
    farm = broken_node(Policy(quarantine=0))
    farm.run()
    assert farm.coordinator.quarantined == {}
    assert sum(r.result.status for r in farm.disk.records.values()) > 200


@pytest.mark.parametrize("ranks", [1, 2, 4, 30])
@pytest.mark.parametrize("seconds", [0.01, 0.4, 3.0])
def test_a_list_of_which_everything_fails_ends_with_all_failures_recorded(
    ranks, seconds
):
    farm = policed(Policy(), tasks=600, ranks=ranks, seconds=seconds, checked=False)
    farm.status = lambda _: 1
    farm.run()
    assert_all_is_accounted_for(farm)
    assert {r.result.status for r in farm.disk.records.values()} == {1}
    assert {r.result.attempt for r in farm.disk.records.values()} == {1}
    assert farm.coordinator.quarantined == {}
    assert farm.ended_at is not None
    assert farm.ended_at - START < 2.0 * 600 * seconds / (4 * ranks) + 3.0
    assert farm.counts.spins == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_list_whose_second_half_fails_does_not_put_ranks_out_of_use(seed):
    farm = policed(
        Policy(),
        2000,
        ranks=6,
        seed=seed,
        seconds=lambda t: 0.5 + t % 10 / 10 if t < 1000 else 0.02,
        checked=False,
    )
    farm.status = lambda taskid: taskid >= 1000
    farm.run()
    assert farm.coordinator.quarantined == {}
    assert len(farm.disk.records) == 2000


@pytest.mark.parametrize("seed", range(5))
def test_a_list_that_fails_in_part_does_not_put_ranks_out_of_use(seed):
    farm = policed(Policy(), 3000, ranks=4, seed=seed, checked=False)
    luck = farm.random
    bad = {taskid for taskid in range(3000) if luck.random() < 0.4}
    farm.seconds = lambda taskid: 0.02 if taskid in bad else 3.0
    farm.status = lambda taskid: taskid in bad
    farm.run()
    assert farm.coordinator.quarantined == {}
    assert sum(r.result.status for r in farm.disk.records.values()) == len(bad)


def test_a_rank_on_which_a_task_runs_on_is_not_to_blame_for_those_that_fail():
    hand = Hand(size=2, workers=4, policy=Policy(quarantine=3))
    hand.begin(*range(4), workers=4, empty=False)
    hand.hear(1, Join("node", 2, 4))
    hand.decide()
    hand.write(*range(4, 12), empty=True)
    results = [r._replace(seconds=0.01) for r in map(hand.failed_now, hand.leases(0))]
    hand.hear(0, hand.report_of(*results[:3]))
    hand.decide()
    assert len(hand.leases(0)) == 4
    hand.decide(2.0)
    assert len(hand.leases(0)) > 4
    assert hand.coordinator.quarantined == {}
    assert hand.recorded == [0, 1, 2]


def test_the_last_rank_that_works_is_never_put_out_of_use():
    farm = policed(Policy(quarantine=2), tasks=50, ranks=2)
    farm.ranks[1].fails_all_in = 0.01
    farm.at(START + 5.0, lambda: farm.kill(1))
    farm.at(START + 6.0, lambda: setattr(farm.ranks[0], "fails_all_in", 0.01))
    farm.run()
    assert_all_is_accounted_for(farm)
    assert [*farm.coordinator.quarantined] == [1]


@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2])
def test_failures_held_back_are_recorded_when_the_farm_ends_before_they_are_judged(
    signum,
):
    hand = Hand(size=2, workers=4)
    hand.begin(0, 1, 2, 3, workers=4)
    hand.hear(1, Join("node", 2, 4))
    now = hand.clock.now
    leases = hand.leases(0)
    results = tuple(r._replace(seconds=0.01) for r in map(hand.failed_now, leases[:2]))
    hand.hear(0, hand.report_of(*results))
    hand.decide(0.3)
    assert hand.recorded == []
    hand.coordinator.on_signal(signum, now + 0.3)
    hand.hear(0, Stopped())
    hand.hear(1, Stopped())
    hand.decide()
    if hand.coordinator.table.transaction:
        hand.write(empty=True)
    assert sorted(hand.recorded) == [leases[0].taskid, leases[1].taskid]


# ---- the canary ---------------------------------------------------------------------


def test_nothing_else_is_started_before_a_canary_has_succeeded():
    farm = policed(Policy(canary=2), seconds=lambda t: 5.0 + t)
    farm.run(4.9)
    assert {taskid for taskid, _ in farm.started} == {0, 1}
    farm.run(1.5)
    assert len(farm.started) > 10
    farm.run()
    assert len(farm.disk.records) == 100
    assert farm.counts.spins == 0


def test_when_all_canaries_fail_the_rest_stays_in_the_list():
    farm = policed(Policy(canary=3))
    farm.status = lambda _: 1
    farm.run()
    assert_all_is_accounted_for(farm)
    assert sorted(farm.disk.records) == [0, 1, 2]
    assert farm.disk.left == 97
    assert farm.coordinator.too_many_failures
    assert "none of the first 3 tasks (--canary) succeeded" in farm.coordinator.reason
    assert farm.coordinator.stopped_because == farm.coordinator.reason
    assert farm.counts.spins == 0


def test_a_canary_that_succeeds_at_its_second_attempt_lets_the_others_run():
    farm = policed(Policy(canary=1, retries=1))
    farm.status_of = lambda lease: int(lease.attempt == 1 and lease.taskid == 0)
    farm.run()
    assert [r.result.status for r in farm.disk.records.values()] == [0] * 100


@pytest.mark.parametrize("tasks", [1, 3, 4])
@pytest.mark.parametrize("status", [0, 1])
def test_a_list_shorter_than_the_canary_ends_as_any_other(tasks, status):
    farm = policed(Policy(canary=4), tasks=tasks)
    farm.status = lambda _: status
    farm.run()
    assert_all_is_accounted_for(farm)
    assert len(farm.disk.records) == tasks


# ---- the end of the job -------------------------------------------------------------


def test_no_task_is_started_that_would_not_finish():
    farm = policed(Policy(task_time=20.0), seconds=20.0, deadline=START + 100.0)
    farm.run()
    assert_all_is_accounted_for(farm)
    assert set(farm.disk.given_back.values()) <= {1}
    started = {taskid for taskid, _ in farm.started}
    assert started == set(farm.disk.records)
    assert len(started) == 4 * 12
    assert "a task takes 20 s (--task-time)" in farm.coordinator.reason
    assert farm.ended_at is not None
    assert farm.ended_at < START + 100.0 - margin(2.0)


def test_without_a_task_time_what_finished_tells():
    farm = policed(
        Policy(), 300, seconds=lambda t: 10.0 + t % 10, deadline=START + 100.0
    )
    farm.run()
    assert set(farm.disk.records) == {taskid for taskid, _ in farm.started}
    assert "tasks that have finished took up to 1" in farm.coordinator.reason


def test_the_only_task_that_has_finished_tells_as_well():
    farm = policed(Policy(), 5, ranks=1, workers=1, seconds=40.0, deadline=START + 60.0)
    farm.run()
    assert len(farm.started) == len(farm.disk.records) == 1
    said = "the only task that has finished took 40 s"
    assert said in farm.coordinator.reason


def test_what_runs_on_is_stopped_in_time_for_the_farm_to_end_by_itself():
    farm = policed(Policy(), seconds=HOUR, deadline=START + 100.0)
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.ended_at is not None
    assert START + 100.0 - margin(2.0) <= farm.ended_at < START + 100.0
    assert farm.disk.left == 100


def test_a_farm_with_too_little_time_starts_nothing_and_says_so():
    farm = policed(Policy(), deadline=START + 3.0)
    farm.run()
    assert farm.started == {}
    assert "the job ends in 3 s" in farm.coordinator.reason


def test_a_farm_that_finishes_in_time_does_not_mention_the_end_of_the_job():
    farm = policed(Policy(), tasks=10, seconds=50.0, deadline=START + 100.0)
    farm.run()
    assert len(farm.disk.records) == 10
    assert farm.coordinator.reason == ""


def test_the_last_tasks_are_not_drained_when_nothing_is_left_to_start():
    hand = Hand(deadline=START + 50.0, policy=Policy(task_time=10.0))
    hand.begin(0)
    hand.decide(40.0)
    assert hand.coordinator.phase is Phase.WORKING


@pytest.mark.parametrize(
    ("grace", "expected"), [(0.0, 2.0), (0.4, 2.4), (2.0, 6.0), (30.0, 40.0)]
)
def test_the_margin_for_the_end_grows_with_the_grace(grace, expected):
    assert margin(grace) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 9, 10, 1000])
def test_nine_in_ten_tasks_take_at_most_what_is_expected(count):
    walltime = Walltime(1e6, 2.0, None)
    for seconds in range(1, count + 1):
        walltime.note(float(seconds))
    exact = -(-9 * count // 10)
    assert exact <= walltime.expected() * 1.0001
    assert walltime.expected() <= min(1.1 * exact, count) * 1.0001


# ---- another directory than before ---------------------------------------------------


@pytest.mark.parametrize("status", [126, 127])
def test_a_farm_whose_first_ten_commands_are_not_found_there_stops(status):
    farm = policed(Policy(), tasks=300, seconds=0.01)
    farm.coordinator.try_place("go there, {}".format, "so")
    farm.status = lambda _: status
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.coordinator.reason == "go there, 10"
    assert not farm.coordinator.too_many_failures
    assert len(farm.started) == 10
    assert not farm.disk.records
    assert farm.disk.left == 300


def test_so_does_one_that_has_fewer_tasks_left_than_it_would_try():
    farm = policed(Policy(), tasks=4, seconds=0.01)
    farm.coordinator.try_place("go there, {}".format, "so")
    farm.status = lambda _: 127
    farm.run()
    assert farm.coordinator.reason == "go there, 4"
    assert farm.coordinator.way_on == "so"
    assert not farm.disk.records
    assert farm.disk.left == 4


def test_commands_that_run_on_there_let_all_others_run():
    seconds = [0.01, *[60.0] * 99]
    farm = policed(Policy(), tasks=100, seconds=seconds.__getitem__)
    farm.coordinator.try_place("go there, {}".format, "so")
    farm.status = lambda taskid: 127 * (taskid == 0)
    farm.run(4.0)
    assert len(farm.started) == 10
    farm.run(4.0)
    assert len(farm.started) == 12 + 1, "a task for each worker, and the one not found"
    farm.run()
    assert_all_is_accounted_for(farm)
    assert len(farm.disk.records) == 100


def test_a_drain_puts_back_what_was_not_found_there():
    seconds = [*[0.01] * 5, *[60.0] * 95]
    farm = policed(Policy(), tasks=100, seconds=seconds.__getitem__)
    farm.coordinator.try_place("go there, {}".format, "so")
    farm.status = lambda taskid: 127 * (taskid < 5)
    farm.run(1.0)
    assert len(farm.coordinator.limits.trial.held) == 5
    farm.coordinator.on_drain("enough")
    farm.run()
    assert_all_is_accounted_for(farm)
    assert len(farm.disk.records) == 5
    assert farm.disk.left == 95


@pytest.mark.parametrize("status", [0, 1, 9])
def test_one_command_that_is_found_lets_all_others_run(status):
    farm = policed(Policy(), tasks=100, seconds=0.01)
    farm.coordinator.try_place("go there, {}".format, "so")
    farm.status = lambda taskid: status if taskid == 9 else 127 * (taskid < 9)
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.coordinator.reason == farm.coordinator.way_on == ""
    assert len(farm.disk.records) == 100
