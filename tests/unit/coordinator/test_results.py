"""What a finished or lost attempt means: each branch, told to a coordinator by hand."""

from dataclasses import replace
from signal import SIGKILL, SIGUSR1, SIGUSR2

import pytest

from mpifarm.coordinator.coordinator import COMMIT_INTERVAL, MAX_LOST
from mpifarm.coordinator.quarantine import OutOfUse
from mpifarm.coordinator.results import died_of_drain
from mpifarm.coordinator.state import RankState, TaskRecord, TaskState
from mpifarm.model.messages import (
    Join,
    Report,
    Running,
    SignalReceived,
    Stopped,
    Withdrawn,
)
from mpifarm.model.requests import Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, Outcome, RunningTask
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import adopting, rejoin
from tests.unit.fakes import sure_report
from tests.unit.virtual_rank import START, result_of


def begun(*taken: int, policy: Policy | None = None, size: int = 1) -> Hand:
    hand = Hand(size=size, policy=policy)
    hand.begin(*taken)
    return hand


def state_of(hand: Hand, taskid: int = 0) -> TaskState:
    return hand.coordinator.table.tasks[taskid].state


# ---- results -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "state"), [(5.0, TaskState.ENDED), (5.1, TaskState.REQUEUING)]
)
def test_after_a_signal_that_stops_only_what_had_ended_before_it_counts(ended, state):
    hand = begun(0)
    (lease,) = hand.leases(0)
    hand.hear(0, SignalReceived(SIGUSR1, sure=5.0))
    hand.hear(0, Report(9.0, (result_of(lease, ended),), sure=5.0))
    assert state_of(hand) is state


@pytest.mark.parametrize("status", [-SIGUSR2, 128 + SIGUSR2])
@pytest.mark.parametrize("is_drained", [True, False])
def test_a_command_that_dies_of_usr2_has_failed_unless_its_rank_got_one(
    status, is_drained
):
    hand = begun(0)
    (lease,) = hand.leases(0)
    if is_drained:
        hand.hear(0, SignalReceived(SIGUSR2))
    hand.report(lease, status=status)
    assert state_of(hand) is (TaskState.REQUEUING if is_drained else TaskState.ENDED)


def test_another_status_of_a_drained_rank_is_a_failure():
    hand = begun(0)
    (lease,) = hand.leases(0)
    hand.hear(0, SignalReceived(SIGUSR2))
    hand.report(lease, status=SIGUSR2)
    assert state_of(hand) is TaskState.ENDED


def test_a_result_of_usr2_itself_is_known():
    task = TaskRecord(3, result=result_of(Lease(3, 1, ""), 1.0, status=SIGKILL))
    assert not died_of_drain(task)


@pytest.mark.parametrize(
    ("ago", "ended"), [(0.0, START), (2.0, START - 2.0), (-3.0, START)]
)
def test_a_command_ended_so_long_ago_as_its_rank_says(ago, ended):
    hand = begun(0)
    (lease,) = hand.leases(0)
    hand.hear(0, sure_report(50.0, (result_of(lease, 50.0 - ago),)))
    assert hand.coordinator.table.tasks[0].ended == ended


def test_a_task_that_a_user_has_ended_says_nothing_of_tasks_and_rank():
    hand = begun(0, policy=Policy(canary=1, quarantine=2, max_failures=5))
    (lease,) = hand.leases(0)
    ended = result_of(lease, START)._replace(outcome=Outcome.CANCELLED)
    hand.hear(0, sure_report(START, (ended,)))
    record = hand.coordinator.ranks[0]
    assert (record.ended, record.mean) == (0, 0.0)
    assert hand.coordinator.dispatcher.capacity.ended == 0
    assert not hand.coordinator.limits.canary.is_open
    assert hand.coordinator.quarantine.streaks == {}
    assert hand.coordinator.limits.failures.left == 5
    assert hand.coordinator.forecast._ended == 0
    assert state_of(hand) is TaskState.ENDED


def test_any_other_result_is_learnt_from():
    hand = begun(0, 1, policy=Policy(canary=1))
    hand.report(*hand.leases(0))
    record = hand.coordinator.ranks[0]
    assert (record.ended, record.mean) == (2, 1.0)
    assert hand.coordinator.dispatcher.capacity.ended == 2
    assert hand.coordinator.forecast._ended == 2
    assert hand.coordinator.dispatcher.capacity.rate == 2.0
    assert hand.coordinator.limits.canary.is_open


def test_a_failure_leaves_the_gate_of_the_first_tasks_shut():
    hand = begun(0, policy=Policy(canary=1))
    hand.report(*hand.leases(0), status=1)
    assert not hand.coordinator.limits.canary.is_open


@pytest.mark.parametrize("deadline", [None, START + 1e4])
def test_what_tasks_take_is_learnt_where_the_job_ends(deadline):
    hand = Hand(deadline=deadline)
    hand.begin(0, 1)
    first, second = hand.leases(0)
    hand.report(first)
    hand.report(second, status=1)
    walltime = hand.coordinator.limits.walltime
    assert walltime.expected() == (0.0 if deadline is None else 1.0)
    assert walltime._ended == (0 if deadline is None else 1), "of successes only"


def test_a_rank_is_sure_before_its_results_are_judged():
    hand = begun(0, 1)
    first, second = hand.leases(0)
    hand.hear(0, Report(9.0, (result_of(first, 5.0),), sure=4.0))
    assert hand.coordinator.table.unsure == 1
    hand.hear(0, Report(9.0, (result_of(second, 6.0),), sure=6.0))
    assert hand.coordinator.table.unsure == 0
    assert [task.taskid for task in hand.coordinator.table.ended] == [0, 1]


# ---- failures ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status", "left"),
    [
        (Policy(max_failures=5), 1, 4),
        (Policy(max_failures=5, retries=1), 1, 5),  # it runs again
        (Policy(max_failures=5, requeue_status=85), 85, 5),
        (Policy(max_failures=5, requeue_status=85), 1, 4),
    ],
)
def test_a_failure_counts_from_its_arrival_unless_its_task_runs_again(
    policy, status, left
):
    hand = begun(0, policy=policy)
    hand.report(*hand.leases(0), status=status)
    assert hand.coordinator.limits.failures.left == left


@pytest.mark.parametrize("drains", [True, False])
def test_a_fast_failure_is_held_back_unless_the_farm_drains(drains):
    hand = begun(0, size=2)
    hand.hear(1, Join("node", 2, 2))
    if drains:
        hand.coordinator.on_drain("because")
    now = hand.clock.now
    fast = result_of(hand.leases(0)[0], now, 0.1, status=1)
    hand.hear(0, sure_report(now, (fast,)))
    assert hand.coordinator.quarantine.held == (not drains)
    assert len(hand.coordinator.table.ended) == drains


def test_a_checkpoint_ends_a_streak():
    hand = begun(0, 1, policy=Policy(requeue_status=85), size=2)
    hand.hear(1, Join("node", 2, 2))
    first, second = hand.leases(0)
    now = hand.clock.now
    hand.hear(0, sure_report(now, (result_of(first, now, 0.1, status=1),)))
    assert hand.coordinator.quarantine.held == 1
    hand.hear(0, sure_report(now, (result_of(second, now, 0.1, status=85),)))
    assert hand.coordinator.quarantine.held == 0
    assert [task.taskid for task in hand.coordinator.table.ended] == [0, 1]


# ---- the first tasks in another directory --------------------------------------------


def tried(*, drains: bool = False) -> Hand:
    hand = Hand(policy=Policy(max_failures=5))
    hand.coordinator.try_place(str, "")
    hand.begin(0, 1)
    if drains:
        hand.coordinator.on_drain("because")
    return hand


@pytest.mark.parametrize(
    ("status", "is_open"), [(127, False), (126, False), (1, True), (0, True)]
)
def test_only_a_command_that_is_not_found_leaves_the_trial_open(status, is_open):
    hand = tried()
    first, second = hand.leases(0)
    hand.report(first, status=127)
    assert hand.coordinator.limits.failures.left == 5
    hand.report(second, status=status)
    trial = hand.coordinator.limits.trial
    assert trial.is_open is is_open
    assert len(trial.held) == (0 if is_open else 2)
    if is_open:
        failed = 1 if status == 0 else 2
        assert hand.coordinator.limits.failures.left == 5 - failed
        assert len(hand.coordinator.table.ended) == 2


def test_in_a_drain_a_command_that_is_not_found_has_failed():
    hand = tried(drains=True)
    hand.report(hand.leases(0)[0], status=127)
    assert hand.coordinator.limits.trial.held == []
    assert state_of(hand) is TaskState.ENDED
    assert hand.coordinator.limits.failures.left == 4


# ---- what comes back -----------------------------------------------------------------


def test_returned_leases_go_to_the_front_in_their_order_and_are_no_attempts():
    hand = begun(0, 1, 2, 3)
    hand.hear(0, Report(START, (), ((0, 1), (1, 1), (9, 1), (1, 7))))
    queue = hand.coordinator.table.queue
    assert [(task.taskid, task.attempt) for task in queue] == [
        *((0, 0), (1, 0), (2, 0), (3, 0))
    ]


@pytest.mark.parametrize("is_recall", [True, False])
def test_only_the_answer_to_a_recall_lets_a_rank_be_asked_again(is_recall):
    hand = begun(0)
    record = hand.coordinator.ranks[0]
    record.is_asked = True
    hand.hear(0, Report(START, (), (), (), is_recall))
    assert record.is_asked is not is_recall


@pytest.mark.parametrize(
    ("returned", "is_recall", "is_long"),
    [(((0, 1),), False, True), (((0, 1),), True, False), ((), False, False)],
)
def test_a_rank_that_returns_leases_unasked_has_long_tasks(
    returned, is_recall, is_long
):
    hand = begun(0)
    hand.hear(0, Report(START, (), returned, (), is_recall))
    assert (hand.coordinator.ranks[0].mean > 0) is is_long


def test_a_report_updates_what_the_rank_wants():
    hand = begun(0, 1)
    assert not hand.coordinator.dispatcher.demand
    hand.report(hand.leases(0)[0])
    assert hand.coordinator.dispatcher.demand.idle == 1


# ---- what was lost -------------------------------------------------------------------


def lose(hand: Hand, *, with_rank: bool, taskid: int = 0) -> TaskRecord:
    task = hand.coordinator.table.tasks[taskid]
    record = hand.coordinator.ranks[0]
    results = hand.coordinator.results
    results.on_lease_lost(record, task, hand.clock.now, with_rank=with_rank)
    return task


@pytest.mark.parametrize("with_rank", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
def test_a_lost_attempt_is_noted_unless_it_may_not_have_begun(with_rank, is_known):
    hand = begun(0)
    if is_known:
        hand.hear(0, Running((RunningTask(0, 1, 1, 1.7e9),)))
    task = lose(hand, with_rank=with_rank)
    assert (task.lost, task.may_kill_ranks) == (1, with_rank)
    assert task.state is TaskState.QUEUED
    hand.decide()
    assert len(hand.noted) == (is_known or not with_rank)


@pytest.mark.parametrize("lost", range(MAX_LOST))
def test_a_task_that_is_lost_three_times_has_failed(lost):
    hand = begun(0, policy=Policy(max_failures=5, retries=9))
    hand.coordinator.table.tasks[0].lost = lost
    task = lose(hand, with_rank=False)
    is_last = lost + 1 == MAX_LOST
    assert (task.state is TaskState.ENDED) is is_last
    hand.decide()
    assert len(hand.told) == is_last
    assert len(hand.noted) == (not is_last)
    if is_last:
        assert task.result is not None
        assert (task.result.outcome, task.result.status) == (Outcome.LOST, -SIGKILL)
        assert hand.coordinator.limits.failures.left == 4
        hand.decide(COMMIT_INTERVAL)
        assert hand.recorded == [0]


@pytest.mark.parametrize("why", ["a stop", "a drain", "a cancel", "nothing"])
def test_a_task_that_is_lost_for_the_last_time_in_a_stop_or_a_cancel_is_no_failure(why):
    hand = begun(0)
    if why == "a stop":
        hand.coordinator.ending.stop("because", 5.0, hand.clock.now)
    elif why == "a drain":
        hand.coordinator.on_drain("because")
    elif why == "a cancel":
        hand.coordinator.table.bars.cancel([0])
    hand.coordinator.table.tasks[0].lost = MAX_LOST - 1
    task = lose(hand, with_rank=True)
    outcome = task.result.outcome if task.result else None
    expected = {
        "a stop": None,
        "a drain": Outcome.LOST,
        "a cancel": Outcome.CANCELLED,
        "nothing": Outcome.LOST,
    }
    assert outcome is expected[why]
    hand.decide()
    assert hand.noted == []


def test_what_had_ended_on_a_lost_rank_did_not_kill_it():
    hand = begun(0, 1)
    first, _ = hand.leases(0)
    hand.hear(0, Report(9.0, (result_of(first, 5.0),), sure=4.0))
    record, table = hand.coordinator.ranks[0], hand.coordinator.table
    for task in table.pick_held(record):
        hand.coordinator.results.on_rank_lost(record, task, hand.clock.now)
    facts = {t: (table.tasks[t].lost, table.tasks[t].may_kill_ranks) for t in (0, 1)}
    assert facts == {0: (0, False), 1: (1, True)}


# ---- after a coordinator was lost ----------------------------------------------------


def test_a_rank_that_was_not_waited_for_keeps_leases_that_it_does_not_name():
    hand = begun(0)
    hand.hear(0, replace(rejoin(), report=Report(1.0)))
    assert hand.coordinator.ranks[0].leases == {0}


def test_a_rank_that_joins_anew_is_welcomed_as_any_other():
    hand = adopting(7)
    hand.hear(1, replace(rejoin(), is_welcomed=False))
    assert hand.coordinator.ranks[1].works
    assert hand.coordinator.unlocated.awaited == {0, 2}


def test_the_last_attempt_that_ranks_name_is_counted_on_in_any_order():
    hand = adopting(7)
    hand.hear(1, rejoin((7, 1), (8, 2)))
    hand.hear(2, rejoin((8, 1)))
    assert hand.coordinator.table.foreign_attempts == {8: 2}


@pytest.mark.parametrize("is_stopping", [True, False])
def test_tasks_that_no_rank_names_are_not_looked_for_in_a_stop(is_stopping):
    hand = adopting(7)
    if is_stopping:
        hand.coordinator.ending.stop("because", 60.0, hand.clock.now)
    for rank in range(3):
        hand.hear(rank, rejoin())
    hand.decide()
    assert hand.coordinator.unlocated.is_pending is is_stopping


def test_a_rank_that_has_lost_its_pool_has_nothing_of_what_it_held():
    hand = adopting(7)
    hand.hear(0, rejoin())
    hand.hear(1, rejoin((7, 2)))
    hand.hear(1, Stopped())
    hand.hear(2, rejoin())
    hand.coordinator.failover.locate(hand.clock.now)
    task = hand.coordinator.table.tasks[7]
    assert (task.state, task.lost) == (TaskState.QUEUED, 1)


def test_a_request_is_not_disturbed_by_a_word_on_another_task():
    hand = begun(0, 1)
    request = Request("r", RequestKind.HOLD, (0,), "eve")
    hand.coordinator.on_request(request, hand.clock.now)
    hand.hear(0, Withdrawn(((1, 1),)))
    assert hand.coordinator.requests.keep_the_farm


# ---- what follows --------------------------------------------------------------------


def test_outside_of_a_trial_a_command_that_is_not_found_has_failed():
    hand = begun(0, 1)
    hand.report(hand.leases(0)[0], status=127)
    assert hand.coordinator.limits.trial.held == []
    assert state_of(hand) is TaskState.ENDED


def test_once_the_trial_is_over_ranks_want_what_they_can_hold():
    hand = tried()
    hand.coordinator.dispatcher.demand.note(0, 99, 0)
    hand.coordinator.results.open_trial()
    assert hand.coordinator.dispatcher.demand.unmet < 99


def test_each_rank_that_is_lost_under_a_task_is_counted():
    hand = begun(0)
    task = lose(hand, with_rank=True)
    task.past.ranks_lost = 4
    hand.coordinator.table.retry_queue.clear()
    hand.coordinator.table.lease(hand.coordinator.ranks[0], [task])
    lose(hand, with_rank=True)
    assert (task.past.ranks_lost, task.lost) == (5, 2)


@pytest.mark.parametrize("works", [True, False])
def test_a_slow_failure_brings_back_only_a_rank_that_is_being_tried(works):
    hand = begun(0, size=2)
    hand.hear(1, Join("node", 2, 2))
    record, use = hand.coordinator.ranks[0], hand.coordinator.rank_use
    use.out_of_use[0] = OutOfUse(0, "node", "because")
    hand.coordinator.quarantine.pause(0, 0.1, hand.clock.now)
    if not works:
        use.leave(record, RankState.OUT_OF_USE)
    hand.report(hand.leases(0)[0], status=1)
    hand.decide()
    why = "a task that failed there did not fail fast"
    said = [f"rank 0 on node is in use again: {why}"]
    assert hand.told == (said if works else [])
    assert (0 in hand.coordinator.quarantined) is not works
