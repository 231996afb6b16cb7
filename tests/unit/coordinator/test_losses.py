"""Ranks that are lost, hang or come back: the farm goes on, and nothing runs twice.

The farms are of `fakes`; each is a number (the seed) away from coming again.
"""

import random
from collections import deque
from signal import SIGTERM, SIGUSR1, SIGUSR2

import pytest

from mpifarm.coordinator.coordinator import (
    COMMIT_INTERVAL,
    MAX_LOST,
    Coordinator,
    Phase,
    RankChange,
    RankState,
)
from mpifarm.coordinator.failover import REJOIN_SECONDS
from mpifarm.coordinator.liveness import JOIN_SECONDS
from mpifarm.coordinator.state import TaskState
from mpifarm.model.messages import (
    Alive,
    Assign,
    Join,
    Ping,
    PoolLost,
    RankUnusable,
    Rejoin,
    Report,
    Shutdown,
    Stopped,
)
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, Outcome
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.fakes import (
    Commands,
    SimulatedFarm,
    define_farm,
    rank_set_of,
    sure_report,
)
from tests.unit.virtual_rank import START, result_of

HOUR = 3600.0


def assert_all_is_accounted_for(farm: SimulatedFarm) -> None:
    assert farm.ended_at is not None
    assert farm.counts.ends == 1
    assert farm.disk.held == set()
    assert farm.disk.find_unaccounted() == []


# ---- ranks that MPI says are dead ---------------------------------------------------


def test_the_farm_goes_on_without_a_rank_that_died():
    farm = SimulatedFarm(100, ranks=3, workers=4, seconds=1.0)
    farm.at(START + 2.5, lambda: farm.kill(2))
    farm.run()
    assert_all_is_accounted_for(farm)
    assert sorted(farm.disk.records) == [*range(100)]
    assert farm.coordinator.reason == ""
    assert farm.coordinator.lost_ranks() == [2]
    assert not farm.coordinator.must_leave_alone
    assert farm.counts.leaves == {0: 1, 1: 1}
    (told,) = farm.told
    assert told.startswith("rank 2 on node is lost (it was killed, or its node failed)")
    assert told.endswith("tasks run again elsewhere")


def test_what_a_dead_rank_held_is_handed_out_in_the_same_breath_as_attempts_lost():
    hand = Hand(size=3)
    hand.begin(0, 1, empty=False)
    for rank in (1, 2):
        hand.hear(rank, Join(f"node{rank}", rank, 2))
    hand.decide()
    hand.write(2, 3, 4, 5, empty=True)
    lost = hand.leases(1)
    hand.report(*hand.leases(0), *hand.leases(2)[:1], rank=0)
    hand.report(hand.leases(2)[0], rank=2)
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    again = hand.leases(2)[-1]
    assert again.taskid in {lease.taskid for lease in lost}
    assert again.attempt == 2
    assert {hand.coordinator.table.tasks[lease.taskid].lost for lease in lost} == {1}


def test_what_may_have_killed_a_rank_is_not_given_to_the_coordinators_own():
    farm = SimulatedFarm(40, ranks=4, workers=4, seconds=1.0)
    farm.at(START + 0.5, lambda: farm.kill(3))
    farm.run()
    suspects = {lease.taskid for lease in farm.ranks[3].told}
    assert suspects
    assert not suspects & {lease.taskid for lease in farm.ranks[0].told}
    assert sorted(farm.disk.records) == [*range(40)]


def test_the_coordinators_own_rank_leaves_it_to_one_that_is_still_busy():
    hand = Hand(size=3, workers=1)
    (own,) = hand.begin(0, workers=1, empty=False)
    for rank in (1, 2):
        hand.hear(rank, Join(f"node{rank}", rank, 1))
    hand.decide()
    hand.write(1, 2, empty=True)
    hand.report(own)
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    (suspect,) = hand.leases(1)
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    assert hand.leases(0) == [own]
    hand.report(*hand.leases(2), rank=2)
    hand.decide()
    assert hand.leases(2)[-1].taskid == suspect.taskid


def test_the_coordinators_own_rank_runs_it_only_when_all_results_are_on_disk():
    hand = Hand(size=2, workers=1)
    (own,) = hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node1", 1, 1))
    hand.decide()
    hand.write(1, empty=True)
    (suspect,) = hand.leases(1)
    hand.report(own)
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    hand.decide(COMMIT_INTERVAL)
    assert hand.recorded == [own.taskid]
    assert hand.leases(0) == [own]
    hand.write(empty=True)
    assert hand.leases(0)[-1].taskid == suspect.taskid


def test_the_coordinators_own_rank_runs_it_where_no_other_is_left():
    farm = SimulatedFarm(40, ranks=2, workers=4, seconds=20.0)
    farm.at(START + 0.5, lambda: farm.kill(1))
    farm.run()
    assert sorted(farm.disk.records) == [*range(40)]
    assert farm.ended_at is not None
    assert farm.ended_at < START + 10 * 20.0 + 5.0  # all workers run it


def poisoned_farm(ranks: int, poison: int) -> SimulatedFarm:
    """A task kills every rank on which it runs, 0.2 s after its start."""
    farm = SimulatedFarm(200, ranks=ranks, workers=4, seconds=1.0)
    starts = farm.note_start

    def note_start(lease, rank):
        starts(lease, rank)
        if lease.taskid == poison:
            farm.after(0.2, lambda: farm.kill(rank.rank))

    farm.note_start = note_start  # type: ignore[method-assign]
    return farm


@pytest.mark.parametrize("poison", [5, 6, 17, 60])
def test_a_task_that_kills_its_ranks_is_failed_and_its_company_is_not(poison):
    farm = poisoned_farm(8, poison)
    farm.run()
    if farm.ranks[0].killed:
        pytest.skip("the poison was handed to rank 0 first")
    assert_all_is_accounted_for(farm)
    assert sorted(farm.disk.records) == [*range(200)]
    failed = [r for r in farm.disk.records.values() if r.result.status]
    assert [(r.result.taskid, r.result.outcome) for r in failed] == [
        (poison, Outcome.LOST)
    ]
    assert len(farm.coordinator.lost_ranks()) == MAX_LOST
    assert f"task {poison} counts as failed: 3 times its rank was lost under it" in (
        farm.told
    )


def test_a_rank_that_dies_during_a_drain_gives_its_tasks_back():
    farm = SimulatedFarm(100, ranks=3, workers=4, seconds=5.0)
    farm.at(START + 1.0, lambda: farm.signal(SIGUSR2))
    farm.at(START + 2.0, lambda: farm.kill(1))
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.ended_at is not None
    assert farm.ended_at < START + 6.0
    assert len(farm.disk.records) == 8
    assert "its 4 tasks will run again" in farm.told[1]


def test_a_farm_ends_at_once_when_the_last_rank_that_runs_tasks_dies():
    hand = Hand(size=2)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.coordinator.on_drain("a file")
    hand.hear(0, Stopped())
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    hand.write()
    assert hand.ends == 1
    assert hand.given_back == [0]


# ---- ranks that are silent ----------------------------------------------------------


def test_a_rank_that_hangs_is_given_up_and_its_late_answers_do_not_count():
    policy = Policy(rank_timeout=4.0)
    farm = SimulatedFarm(60, ranks=3, workers=4, seconds=1.0, policy=policy)
    farm.at(START + 1.5, lambda: farm.hold_words_of(2, 8.0))
    farm.run()
    assert_all_is_accounted_for(farm)
    assert sorted(farm.disk.records) == [*range(60)]
    assert farm.coordinator.ranks[2].state is RankState.LOST
    assert farm.coordinator.must_leave_alone
    assert farm.coordinator.silent_ranks() == [2]
    late = [r for r in farm.disk.records.values() if r.rank == 2]
    assert all(record.at < START + 2.0 for record in late)
    assert "has not been heard for 4 s and is given up" in farm.told[0]
    changes = [change for rank, change in farm.changes if rank == 2]
    assert changes == [RankChange.JOINED, RankChange.LOST]


def test_a_rank_that_comes_back_after_it_was_given_up_is_told_to_leave_once():
    hand = Hand(size=2, policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.decide(5.0)
    hand.hear(1, sure_report(1.0))
    hand.hear(1, sure_report(1.0))
    hand.decide()
    left = [m for rank, m in hand.sent if rank == 1 and isinstance(m, Shutdown)]
    assert left == [Shutdown(ranks_lost=True, farm_goes_on=True)]


def test_a_rank_that_was_given_up_and_asks_is_told_that_the_farm_still_is():
    hand = Hand(size=2, policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.decide(5.0)
    told = len(hand.sent)
    hand.hear(1, Alive())
    hand.decide()
    assert hand.sent[told:] == [(1, Ping())]


def test_a_silent_rank_that_mpi_says_is_dead_does_not_hinder_the_end_of_mpi():
    hand = Hand(size=2, policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.decide(5.0)
    assert hand.coordinator.must_leave_alone
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    assert not hand.coordinator.must_leave_alone
    assert hand.coordinator.lost_ranks() == [1]


@pytest.mark.parametrize("timeout", [1.0, 4.0, 60.0])
def test_ranks_that_answer_are_not_given_up(timeout):
    policy = Policy(rank_timeout=timeout)
    farm = SimulatedFarm(8, ranks=4, workers=2, seconds=300.0, policy=policy)
    farm.run()
    assert len(farm.disk.records) == 8
    assert farm.coordinator.lost_ranks() == []


def test_a_rank_that_has_not_come_is_waited_for_longer_than_one_that_was_there():
    hand = Hand(size=2)
    hand.begin(0)
    for _ in range(20):
        hand.decide((JOIN_SECONDS - 1.0) / 20)
        hand.hear(0, sure_report(1.0))
    assert hand.coordinator.lost_ranks() == []
    hand.decide(2.0)
    assert hand.coordinator.silent_ranks() == [1]


def test_a_pause_of_the_coordinator_is_not_counted_as_silence():
    hand = Hand(size=2)
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.clock.advance(500.0)
    hand.coordinator.forgive_pause(500.0)
    hand.decide()
    assert hand.coordinator.lost_ranks() == []


# ---- ranks in trouble ---------------------------------------------------------------


def test_a_rank_in_trouble_is_put_out_of_use_and_the_others_go_on():
    farm = SimulatedFarm(60, ranks=3, workers=2, seconds=1.0)
    farm.at(START + 2.2, lambda: farm.ranks[2].say(RankUnusable("no licence")))
    farm.run()
    assert sorted(farm.disk.records) == [*range(60)]
    assert farm.coordinator.reason == ""
    assert [*farm.coordinator.quarantined.values()] == [(2, "node", "no licence")]
    assert farm.told == ["rank 2 on node is put out of use: no licence"]
    assert farm.counts.leaves == {0: 1, 1: 1, 2: 1}


def test_the_farm_stops_with_the_reason_when_the_last_rank_is_in_trouble():
    hand = Hand(size=3)
    hand.begin(0, 1)
    for rank in (1, 2):
        hand.hear(rank, Join("node", rank, 2))
    for rank in range(3):
        assert hand.coordinator.phase is Phase.WORKING
        hand.hear(rank, RankUnusable(f"no logs on {rank}"))
    hand.decide()
    assert hand.coordinator.phase is Phase.STOPPING
    assert hand.coordinator.reason == "no logs on 2"


# ---- messages that were lost --------------------------------------------------------


def mended_hand(*taken: int) -> Hand:
    hand = Hand(size=2, survives_rank_loss=True)
    hand.begin(empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.hear(0, Stopped())  # it runs nothing
    hand.coordinator.on_transacted(taken, hand.clock.now, empty=True, cost=0.0)
    hand.decide()
    hand.coordinator.on_mended(hand.clock.now)
    return hand


def rejoin(*leases: tuple[int, int], report: Report | None = None) -> Rejoin:
    return Rejoin("node", 2, 2, True, leases, report or sure_report(1.0))


def test_a_lease_that_never_reached_its_rank_is_handed_out_as_the_same_attempt():
    hand = mended_hand(0, 1)
    assert len(hand.leases(1)) == 2
    hand.hear(1, rejoin((0, 1)))
    hand.decide()
    assert hand.leases(1)[2:] == [Lease(1, 1, "run 1")]


def test_a_rank_gets_no_lease_before_it_has_said_what_is_true_there():
    hand = mended_hand(0, 1, 2)
    hand.decide()
    assert [lease.taskid for lease in hand.leases(1)] == [0, 1]
    hand.hear(1, rejoin((0, 1)))
    hand.decide()
    assert [lease.taskid for lease in hand.leases(1)] == [0, 1, 1]


def test_a_result_that_was_lost_on_its_way_is_recorded_once():
    hand = mended_hand(0)
    (lease,) = hand.leases(1)
    report = sure_report(5.0, (result_of(lease, 4.0),))
    hand.hear(1, rejoin(report=report))
    hand.coordinator.on_mended(hand.clock.now)
    hand.hear(1, rejoin(report=report))
    hand.decide(0.3)
    hand.write(empty=True)
    assert hand.recorded == [0]


def test_a_rank_that_does_not_say_where_it_is_is_given_up():
    hand = mended_hand(0)
    hand.decide(REJOIN_SECONDS - 0.1)
    assert hand.coordinator.lost_ranks() == []
    assert hand.coordinator.wake_at(hand.clock.now) <= hand.clock.now + 0.11
    hand.decide(0.2)
    assert hand.coordinator.silent_ranks() == [1]


def test_a_rank_whose_welcome_was_lost_is_welcomed_with_the_same_number():
    hand = Hand(size=2)
    hand.begin(empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.coordinator.on_mended(hand.clock.now)
    hand.hear(1, Rejoin("node", 2, 2, False, (), sure_report(1.0)))
    hand.decide()
    welcomes = [m for rank, m in hand.sent if rank == 1 and hasattr(m, "node_worker")]
    assert [welcome.node_worker for welcome in welcomes] == [2, 2]


def test_a_stop_that_was_lost_is_said_again():
    hand = mended_hand(0)
    hand.coordinator.on_signal(SIGUSR1, hand.clock.now)
    hand.decide()
    before = len(hand.sent)
    hand.hear(1, rejoin((0, 1)))
    hand.decide()
    assert [type(m).__name__ for _, m in hand.sent[before:]] == ["Welcome", "Stop"]


@pytest.mark.parametrize("seed", range(10))
def test_messages_may_be_lost_at_any_time_and_no_task_runs_at_two_places(seed):
    luck = random.Random(seed)
    farm = SimulatedFarm(
        300,
        4,
        3,
        lambda t: 0.05 + t % 7 / 10,
        seed=seed,
        delay=0.05,
        survives_rank_loss=True,
    )
    farm.status = lambda taskid: taskid % 5 == 0
    for _ in range(4):
        farm.at(START + luck.uniform(0, 6), farm.lose_messages)
    farm.at(START + luck.uniform(0, 6), lambda: farm.kill(3))
    farm.run(600.0)
    assert_all_is_accounted_for(farm)
    assert sorted(farm.disk.records) == [*range(300)]
    assert farm.counts.spins == 0


# ---- the coordinator itself is lost -------------------------------------------------


@pytest.mark.parametrize("seed", range(15))
def test_another_rank_leads_on_and_what_had_ended_or_runs_does_not_run_again(seed):
    luck = random.Random(seed)
    farm = SimulatedFarm(
        300,
        5,
        3,
        lambda t: 0.05 + t % 7 / 10,
        seed=seed,
        delay=luck.choice([0.001, 0.05]),
        disk_seconds=luck.choice([0.0, 0.2]),
        survives_rank_loss=True,
        policy=Policy(retries=luck.choice([0, 2])),
    )
    farm.status = lambda taskid: taskid % 5 == 0
    for moment in sorted(luck.uniform(0, 5) for _ in range(luck.choice([1, 2]))):
        farm.at(START + moment, farm.lose_coordinator)
    farm.run(600.0)
    assert_all_is_accounted_for(farm)
    assert sorted(farm.disk.records) == [*range(300)]
    assert farm.counts.spins == 0
    died = {t.taskid for rank in farm.ranks if rank.killed for t in rank.told}
    lived = {t.taskid for rank in farm.ranks if not rank.killed for t in rank.told}
    once = [taskid for taskid in lived - died if taskid % 5]
    starts = dict.fromkeys(once, 0)
    for (taskid, _), times in farm.started.items():
        if taskid in starts:
            starts[taskid] += times
    assert set(starts.values()) <= {0, 1}


@pytest.mark.parametrize("signum", [SIGUSR1, SIGUSR2])
@pytest.mark.parametrize("seed", range(5))
def test_what_a_lost_coordinator_was_told_by_a_signal_holds_on(signum, seed):
    farm = SimulatedFarm(60, 3, 2, seconds=1.0, seed=seed, survives_rank_loss=True)
    farm.at(START + 1.5, lambda: farm.signal(signum, rank=2))
    farm.at(START + 1.6, farm.lose_coordinator)
    farm.run(60.0)
    assert_all_is_accounted_for(farm)
    assert farm.disk.left > 40


def adopting(*adopted: int, size: int = 3) -> Hand:
    hand = Hand(size=size)
    hand.coordinator = Coordinator(
        Commands(100),
        define_farm(),
        rank_set_of(size, 2, survives_rank_loss=True),
        START,
        adopted=adopted,
    )
    return hand


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_of_two_ranks_that_name_a_task_the_later_attempt_is_the_truth(order):
    hand = adopting(7)
    old = result_of(Lease(7, 1, ""), 4.0, status=1)
    said = [rejoin(), rejoin(report=sure_report(5.0, (old,))), rejoin((7, 2))]
    for rank in order:
        hand.hear(rank, said[rank])
    hand.decide(1.0)
    assert hand.coordinator.ranks[2].leases == {7}
    assert hand.recorded == []
    hand.hear(2, sure_report(9.0, (result_of(Lease(7, 2, ""), 8.0),)))
    hand.decide()
    hand.write()
    assert [(r, x.attempt) for t in hand.transactions for r, x in t.results] == [(2, 2)]


def test_nothing_is_handed_out_or_taken_while_tasks_are_in_limbo():
    hand = adopting(7, 8)
    hand.hear(0, rejoin())
    hand.hear(1, rejoin((7, 1)))
    hand.decide()
    assert hand.transactions == []
    assert not [m for _, m in hand.sent if isinstance(m, Assign)]
    hand.decide(REJOIN_SECONDS + 0.1)
    assert hand.coordinator.lost_ranks() == [2]
    hand.decide()
    # not the own rank as long as another works
    assert [lease.taskid for lease in hand.leases(1)] == [8]


def test_results_that_another_coordinator_has_recorded_are_forgotten():
    hand = adopting(7)
    done = result_of(Lease(3, 1, ""), 4.0)
    hand.hear(1, rejoin((7, 1), report=sure_report(5.0, (done,))))
    hand.decide()
    noted = [m.results for rank, m in hand.sent if hasattr(m, "results")]
    assert noted == [((3, 1),)]


@pytest.mark.parametrize("signum", [SIGTERM, SIGUSR1])
def test_a_stop_gives_back_what_is_in_limbo_when_the_ranks_are_still(signum):
    hand = adopting(7, 8, 9)
    hand.hear(0, rejoin())
    hand.hear(1, rejoin((7, 1)))
    hand.coordinator.on_signal(signum, hand.clock.now)
    hand.decide()
    assert hand.given_back == []
    for rank in range(3):
        hand.hear(rank, Stopped())
    hand.decide()
    assert sorted(hand.given_back) == [7, 8, 9]
    hand.write()
    assert hand.ends == 1


def test_a_drain_gives_back_what_no_rank_has():
    hand = adopting(7, 8)
    hand.coordinator.on_drain("a file")
    hand.hear(0, rejoin())
    hand.hear(1, rejoin((7, 1)))
    hand.hear(2, rejoin())
    hand.decide()
    assert hand.given_back == [8]
    hand.write()
    assert hand.ends == 0
    hand.hear(1, sure_report(9.0, (result_of(Lease(7, 1, ""), 8.0),)))
    hand.decide(2.0)
    hand.write()
    assert hand.ends == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_ranks_are_told_what_is_on_disk_where_another_may_take_over(retries):
    policy = Policy(retries=retries)
    farm = SimulatedFarm(50, 3, 2, seconds=0.3, survives_rank_loss=True, policy=policy)
    farm.status = lambda taskid: taskid % 2
    farm.run()
    full = [rank.agent.reporter.create_full_report(0.0) for rank in farm.ranks]
    assert [report.results for report in full] == [(), (), ()]
    assert farm.ranks[1].told


def test_a_failure_that_a_lost_rank_was_not_sure_of_counts_for_no_limit():
    hand = Hand(size=2, workers=1, policy=Policy(max_failures=2))
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 1))
    hand.decide()
    hand.write(1, empty=True)
    (lease,) = hand.leases(1)
    left = hand.coordinator.limits.failures.left
    now = hand.clock.now
    failed = result_of(lease, now, 1.0, status=1)
    hand.hear(1, Report(now, (failed,), sure=now - 1.0))
    assert hand.coordinator.limits.failures.left == left - 1
    hand.coordinator.on_ranks_lost([1], now)
    assert hand.coordinator.limits.failures.left == left


def test_a_task_that_had_ended_on_lost_ranks_is_not_what_killed_them():
    hand = Hand(size=MAX_LOST + 2, workers=1)
    hand.begin(0, workers=1, empty=False)
    for rank in range(1, MAX_LOST + 1):
        hand.hear(rank, Join("node", rank, 1))
        hand.decide()
        if rank == 1:
            hand.write(1, empty=True)
        (lease,) = hand.leases(rank)
        assert (lease.taskid, lease.attempt) == (1, rank)
        now = hand.clock.now
        hand.hear(rank, Report(now, (result_of(lease, now),), sure=now - 1.0))
        hand.coordinator.on_ranks_lost([rank], now)
    task = hand.coordinator.table.tasks[1]
    assert (task.state, task.lost) == (TaskState.QUEUED, 0)
    assert not task.may_kill_ranks
    hand.decide()
    assert hand.told[-1].endswith("its 1 task runs again elsewhere")


def test_what_a_stopped_rank_was_not_sure_of_is_lost_to_a_new_coordinator():
    """It leaves limbo for the list, not for a rank that will never be sure."""
    coordinator = Coordinator(
        Commands(10),
        define_farm(),
        rank_set_of(2, 1, survives_rank_loss=True),
        START,
        adopted=[3],
    )
    result = result_of(Lease(3, 1, "run 3"), START, 1.0)
    unsure = Report(START, (result,), sure=START - 1.0)
    coordinator.on_message(1, Rejoin("node", 1, 1, True, (), unsure), START)
    coordinator.on_message(1, PoolLost(), START)
    coordinator.on_message(0, Rejoin("node", 0, 1, True, (), Report(START)), START)
    coordinator.decide(START)
    assert coordinator.find_violations() == []
    assert coordinator.ranks[1].unsure == deque()
    assert coordinator.table.tasks[3].result is None
    assert not coordinator.table.tasks[3].may_kill_ranks
