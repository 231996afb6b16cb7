"""What users ask of a running farm: every task ends in one state, and all is answered.

Any order of requests, losses and signals is `test_machine`'s affair; here is what each
single request does to a task in each state.
"""

from signal import SIGUSR1

import pytest

from mpifarm.coordinator import task_table
from mpifarm.model.requests import Fate, Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import Outcome
from mpifarm.order.constraints import Constraints
from tests.unit.fakes import SimulatedFarm

HOUR = 3600.0


def ask(farm, kind, *taskids, everything=False):
    """Ask for something, and let the farm act for a moment."""
    number = len(farm.replies)
    tasks = None if everything else taskids
    request = Request(f"r{number}", kind, tasks, "eve on login1")
    farm.coordinator.on_request(request, farm.now)
    return number


def cancel(farm, *taskids):
    ask(farm, RequestKind.CANCEL, *taskids)


def hold(farm, *taskids):
    ask(farm, RequestKind.HOLD, *taskids, everything=not taskids)
    farm.disk.held_by_users.update(taskids)


def release(farm, *taskids):
    ask(farm, RequestKind.RELEASE, *taskids, everything=not taskids)
    if taskids:
        farm.disk.held_by_users.difference_update(taskids)
    else:
        farm.disk.held_by_users.clear()


def fates(farm, place=-1):
    answer = farm.replies[place]
    return {taskid: fate for fate, _, ids in answer.fates for taskid in ids}


def outcomes(farm):
    return {
        taskid: record.result.outcome for taskid, record in farm.disk.records.items()
    }


def begun(tasks=8, *, seconds=HOUR, until=5.0, status=0, **more):
    """A farm of two ranks of two workers, at work."""
    farm = SimulatedFarm(tasks, ranks=2, workers=2, seconds=seconds, **more)
    farm.status = lambda _: status
    farm.run(until)
    return farm


# ---- cancel --------------------------------------------------------------------------


def test_what_runs_is_ended_and_what_waits_never_starts():
    farm = begun()
    running = {lease.taskid for rank in farm.ranks for lease in rank.running}
    waiting = {*range(8)} - running
    cancel(farm, *range(8))
    farm.run()
    assert {*outcomes(farm).values()} == {Outcome.CANCELLED}
    assert fates(farm) == {
        **dict.fromkeys(running, Fate.ENDED_NOW),
        **dict.fromkeys(waiting, Fate.WAITED),
    }
    assert {taskid for taskid, _ in farm.started} == running


def test_a_task_that_ends_by_itself_before_the_order_comes_keeps_its_result():
    farm = begun(1, seconds=6.0, delay=1.0)
    while not farm.ends:
        farm.run(0.01)
    assert farm.coordinator.count_running() == 1, "its report is under way"
    cancel(farm, 0)
    farm.run()
    assert outcomes(farm) == {0: Outcome.COMPLETED}
    assert fates(farm) == {0: Fate.ENDED_BEFORE}


def test_a_task_that_is_in_no_queue_is_said_to_be_elsewhere():
    farm = begun(3)
    farm.disk.toprocess.clear()
    cancel(farm, 0)
    farm.run(1.0)
    cancel(farm, 0)  # it has failed, as cancelled
    farm.run(1.0)
    assert fates(farm, 0) == {0: Fate.ENDED_NOW}
    assert fates(farm, 1) == {0: Fate.NOT_HERE}


def test_a_cancelled_task_is_never_tried_again():
    farm = begun(1, seconds=1.0, status=1, policy=Policy(retries=3, retry_delay=50.0))
    assert len(farm.started) == 1, "it waits for its next attempt"
    cancel(farm, 0)
    farm.run()
    assert outcomes(farm) == {0: Outcome.CANCELLED}
    assert fates(farm) == {0: Fate.WAITED}
    assert len(farm.started) == 1


def test_a_worker_that_dies_under_a_cancelled_task_changes_nothing():
    farm = begun(1)
    (rank,) = (rank for rank in farm.ranks if rank.running)
    rank.pool.cancel_seconds = HOUR
    cancel(farm, 0)
    farm.run(1.0)
    rank.lose_worker()
    farm.run()
    assert outcomes(farm) == {0: Outcome.CANCELLED}
    assert len(farm.started) == 1


@pytest.mark.parametrize("loss", ["rank", "stop"])
def test_a_cancelled_task_is_recorded_though_its_rank_is_lost_or_a_stop_comes(loss):
    farm = begun(4)
    (lease,) = farm.ranks[1].running[:1]
    farm.ranks[1].pool.cancel_seconds = HOUR
    cancel(farm, lease.taskid)
    farm.run(1.0)
    if loss == "rank":
        farm.kill(1)
    else:
        farm.signal(SIGUSR1)
    farm.run(10.0)
    assert outcomes(farm)[lease.taskid] is Outcome.CANCELLED
    assert farm.disk.given_back[lease.taskid] == 0
    assert fates(farm)[lease.taskid] in (Fate.WAITED, Fate.ENDED_NOW)


def test_an_order_that_was_lost_with_all_messages_is_given_again():
    farm = begun(4, survives_rank_loss=True, delay=0.1)
    (lease,) = farm.ranks[1].running[:1]
    cancel(farm, lease.taskid)
    farm.run(0.001)
    farm.lose_messages()
    farm.run(20.0)
    assert outcomes(farm) == {lease.taskid: Outcome.CANCELLED}
    assert fates(farm) == {lease.taskid: Fate.ENDED_NOW}


def test_cancelled_tasks_count_by_no_limit_of_failures():
    farm = begun(6, policy=Policy(max_failures=1, canary=2))
    cancel(farm, *range(5))
    farm.run(5.0)
    assert farm.coordinator.phase.value == "working"
    assert [*outcomes(farm)] != []
    (last,) = {*range(6)} - outcomes(farm).keys()
    assert last in {lease.taskid for rank in farm.ranks for lease in rank.running}


@pytest.mark.parametrize("kind", [RequestKind.CANCEL, RequestKind.HOLD])
def test_many_tasks_are_pulled_in_transactions_of_a_bounded_size(kind, monkeypatch):
    monkeypatch.setattr(task_table, "MAX_AT_ONCE", 10)
    farm = begun(40)
    transactions = []
    transact = farm.disk.transact

    def note(wanted, now):
        transactions.append(wanted)
        return transact(wanted, now)

    farm.disk.transact = note
    ask(farm, kind, *range(40))
    farm.run(5.0)
    assert max(len(each.pull) for each in transactions) == 10
    assert {*fates(farm)} == {*range(40)}
    running = {lease.taskid for rank in farm.ranks for lease in rank.running}
    left = {*range(40)} - outcomes(farm).keys() - {*farm.disk.toprocess}
    assert left == running


# ---- hold, release, drain ------------------------------------------------------------


def test_held_tasks_go_to_the_disk_and_wait_there():
    farm = begun(8, seconds=10.0)
    running = {lease.taskid for rank in farm.ranks for lease in rank.running}
    hold(farm, *range(8))
    farm.run(HOUR)
    assert fates(farm) == {
        taskid: Fate.RUNS_ON if taskid in running else Fate.WAITED
        for taskid in range(8)
    }
    assert outcomes(farm).keys() == running
    assert {*farm.disk.toprocess} == {*range(8)} - running
    assert farm.ended_at is None, "they may be released"
    assert farm.disk.held == set()


def test_while_all_is_held_the_ranks_are_kept_and_nothing_starts():
    farm = begun(8, seconds=10.0)
    running = {lease.taskid for rank in farm.ranks for lease in rank.running}
    hold(farm)
    spins = farm.counts.spins
    farm.run(HOUR)
    assert outcomes(farm).keys() == running
    assert farm.ended_at is None
    assert farm.counts.spins == spins
    assert len(farm.disk.takes) < 10, "nothing is looked for meanwhile"
    release(farm)
    farm.run()
    assert {*outcomes(farm).values()} == {Outcome.COMPLETED}
    assert outcomes(farm).keys() == {*range(8)}


def test_released_tasks_run_as_attempts_that_go_on_from_the_last():
    farm = begun(4, seconds=10.0, policy=Policy(retries=5), status=1)
    hold(farm)
    farm.run(20.0)  # each has failed once, and would run again
    release(farm)
    farm.run()
    assert {attempt for _, attempt in farm.started} >= {1, 2}
    assert max(farm.started.values()) == 1


def test_a_hold_gives_a_task_that_failed_no_more_attempts():
    policy = Policy(retries=1, retry_delay=50.0)
    farm = begun(1, seconds=10.0, policy=policy, status=1)
    for _ in range(2):
        hold(farm, 0)
        farm.run(20.0)
        release(farm, 0)
        farm.run(1.0)
    farm.run(HOUR)
    assert farm.started == {(0, 1): 1, (0, 2): 1}
    assert outcomes(farm) == {0: Outcome.FAILED}


def test_a_hold_does_not_shorten_the_delay_of_a_retry():
    policy = Policy(retries=1, retry_delay=50.0)
    farm = begun(1, seconds=10.0, policy=policy, status=1, until=11.0)
    hold(farm, 0)
    farm.run(5.0)
    release(farm, 0)
    farm.run()
    assert farm.ends[0, 2] - farm.ends[0, 1] == pytest.approx(60.0, abs=1.0)
    assert farm.counts.spins == 0


def test_a_task_that_was_just_added_is_held_before_the_farm_takes_it_up():
    farm = begun(4)
    farm.add_lines(2)
    hold(farm, 3, 5)
    farm.run(0.5)
    assert fates(farm)[5] is Fate.WAITED, "nobody waits for the lines to be taken up"
    farm.run(2 * HOUR)
    assert {*outcomes(farm)} == {0, 1, 2, 3, 4}
    assert farm.disk.given_back[5] == 1, "it was pulled, to where others don't find it"
    release(farm, 5)
    farm.run()
    assert outcomes(farm)[5] is Outcome.COMPLETED


def test_a_task_that_was_just_added_is_cancelled_as_soon_as_it_is_taken_up():
    farm = begun(4)
    farm.coordinator.expect_growth(None)
    farm.add_lines(2)
    cancel(farm, 3, 5, 9)
    farm.run(0.5)
    assert fates(farm) == {
        3: Fate.ENDED_NOW,
        5: Fate.WAITED,
        9: Fate.NOT_HERE,
    }, "the list is looked at for them at once"
    assert farm.disk.records[5].result.outcome is Outcome.CANCELLED
    farm.run()
    assert farm.ended_at is not None
    assert (5, 1) not in farm.started


def test_a_cancel_of_a_task_that_is_never_taken_up_is_answered_when_the_farm_drains():
    farm = begun(4, seconds=10.0)
    farm.coordinator.expect_growth(None)
    farm.coordinator.on_drain("enough")
    cancel(farm, 9)
    farm.run(1.0)
    assert fates(farm) == {}
    farm = begun(4, seconds=10.0)
    farm.coordinator.expect_growth(None)
    farm.take_up = farm.coordinator.on_list_seen = lambda: None
    cancel(farm, 9)
    farm.run(1.0)
    assert not farm.replies
    farm.coordinator.on_drain("enough")
    farm.run(1.0)
    assert fates(farm) == {9: Fate.NOT_HERE}


def test_a_farm_whose_list_does_not_grow_knows_of_no_more_tasks():
    farm = begun(4)
    cancel(farm, 9)
    farm.run(0.1)
    assert fates(farm) == {}


def test_a_task_that_was_held_and_released_before_it_is_taken_up_starts():
    farm = begun(4)
    farm.add_lines(1)
    hold(farm, 4)
    release(farm, 4)
    farm.run()
    assert outcomes(farm)[4] is Outcome.COMPLETED
    assert farm.disk.given_back[4] == 0


def test_a_drain_ends_the_farm_when_what_runs_has_ended():
    farm = begun(8, seconds=10.0)
    ask(farm, RequestKind.DRAIN, everything=True)
    farm.run(1.0)
    (answer,) = farm.replies
    assert answer.running == 4
    farm.run()
    assert farm.ended_at is not None
    assert len(farm.disk.records) == 4


def test_a_held_farm_drains():
    farm = begun(8, seconds=10.0)
    hold(farm)
    farm.run(HOUR)
    ask(farm, RequestKind.DRAIN, everything=True)
    farm.run()
    assert farm.ended_at is not None
    assert [answer.request for answer in farm.replies] == ["r0", "r1"]


def test_a_task_behind_a_barrier_that_is_held_and_released_at_once_waits_on():
    constraints = Constraints()
    constraints.add_barrier(3, checks=False)
    farm = begun(8, seconds=30.0, constraints=constraints)
    hold(farm, 7)
    release(farm, 7)
    farm.run(20.0)
    assert {taskid for taskid, _ in farm.started} == {0, 1, 2}
    farm.run()
    assert {*outcomes(farm).values()} == {Outcome.COMPLETED}


def test_a_release_just_after_tasks_were_taken_does_not_keep_rank_0_busy():
    """While all workers are busy, it may look only a tenth of a second later."""
    farm = SimulatedFarm(60, ranks=2, workers=2, seconds=0.05)
    for number in range(60):
        farm.after(0.002 + 0.013 * number, lambda: release(farm, 5))
    farm.run()
    assert {*outcomes(farm).values()} == {Outcome.COMPLETED}
    assert farm.counts.spins == 0
