"""When results go to disk, what is told of that, and which tasks run again, alone."""

from math import inf
from signal import SIGKILL, SIGTERM, SIGUSR1

import pytest

from mpifarm.coordinator import commits
from mpifarm.coordinator.commits import Commits
from mpifarm.coordinator.coordinator import COMMIT_INTERVAL
from mpifarm.coordinator.effects import Effect, NoteAttempt, Send, Tell
from mpifarm.coordinator.limits import FailureLimit
from mpifarm.coordinator.retries import (
    RetryQueue,
    Sequel,
    count_attempt,
    is_checkpoint,
    is_final,
)
from mpifarm.coordinator.state import (
    FarmState,
    Phase,
    RankRecord,
    RankState,
    TaskRecord,
)
from mpifarm.coordinator.task_table import TaskTable
from mpifarm.model.messages import (
    Committed,
    Join,
    PoolLost,
    Report,
    Running,
    Stopped,
)
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease, Outcome, RunningTask
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import adopting, mended_hand, rejoin
from tests.unit.coordinator.test_task_table import end, lease
from tests.unit.fakes import rank_set_of, sure_report
from tests.unit.virtual_rank import result_of

CHECKPOINT = Policy(requeue_status=75)


class Site:
    """A farm of two ranks, its tasks and the commits of its results."""

    def __init__(self, policy: Policy | None = None) -> None:
        policy = policy or Policy()
        self.farm = FarmState.begin(rank_set_of(2, 2), policy)
        failures = FailureLimit(policy, 10)
        self.table = TaskTable(self.farm, failures, ())
        self.posted: list[Effect] = []
        self.commits = Commits(self.farm, self.table, failures, self.posted.append)

    def end(self, task: TaskRecord, status: int = 0, *, sure_at: float = 7.0) -> None:
        """Let a result of rank 1 count from then on; its command ended at 5."""
        end(self.table, self.farm, task, status)
        self.table.keep(task)
        self.table.note_sure(self.farm.ranks[1], 5.0, sure_at)


def test_results_wait_a_tenth_of_a_second_for_others_once_they_are_sure():
    site = Site()
    first, second = lease(site.table, site.farm, 3, 4)
    assert site.commits.wake_at() == inf
    site.end(first)
    assert site.commits.wake_at() == site.commits.due_at() == 7.0 + COMMIT_INTERVAL
    site.commits.begin(7.0, 0)
    assert site.table.transaction is None
    site.end(second)
    assert site.commits.due_at() == -inf, "there are no others"
    site.commits.begin(7.0, 0)
    assert site.table.transaction is not None
    assert site.commits.wake_at() == inf


def test_results_that_are_too_many_for_a_transaction_are_due_for_the_next(monkeypatch):
    monkeypatch.setattr(commits, "MAX_AT_ONCE", 2)
    site = Site()
    for task in lease(site.table, site.farm, 3, 4, 5):
        site.end(task)
    recorded = []
    for _ in range(2):
        assert site.commits.is_due(7.0)
        site.commits.begin(7.0, 0)
        done = site.table.finish_transaction()
        recorded.append([result.taskid for _, result in done.results])
    assert recorded == [[3, 4], [5]]
    assert site.commits.wake_at() == inf


def test_a_taking_and_a_requeueing_take_all_results_along():
    site = Site()
    first, second = lease(site.table, site.farm, 3, 4)
    site.end(first)
    site.table.release(site.farm.ranks[1], second)
    site.table.requeue_waiting()
    site.commits.begin(7.0, 0)
    transaction = site.table.transaction
    assert transaction is not None
    assert [result.taskid for _, result in transaction.results] == [3]
    assert (transaction.requeue, transaction.take) == ((4,), 0)


def test_after_the_storage_failed_nothing_is_due():
    site = Site()
    (task,) = lease(site.table, site.farm, 3)
    site.end(task)
    site.table.fail_storage()
    assert site.commits.wake_at() == inf
    site.commits.begin(9.0, 5)
    assert site.table.transaction is None


@pytest.mark.parametrize("deadly", [False, True])
def test_a_task_that_goes_on_goes_to_any_rank_unless_it_may_kill_ranks(deadly):
    site = Site(CHECKPOINT)
    (task,) = lease(site.table, site.farm, 3)
    task.past.ranks_lost = int(deadly)
    site.end(task, 75)
    site.commits.begin(9.0, 0)
    assert [*site.table.queue] == ([] if deadly else [task])
    assert [*site.table.retry_queue] == ([task] if deadly else [])
    (noted,) = site.posted
    assert isinstance(noted, NoteAttempt)
    assert (noted.rank, noted.result.status) == (1, 75)


def test_a_failure_in_a_farm_that_ends_goes_back_for_its_next_attempt():
    site = Site(Policy(retries=1))
    (task,) = lease(site.table, site.farm, 3)
    site.farm.phase = Phase.DRAINING
    site.end(task, 1)
    site.commits.begin(9.0, 0)
    assert site.table.transaction is not None
    assert site.table.transaction.requeue == (3,)
    assert not [each for each in site.posted if isinstance(each, Tell)]


def test_only_other_ranks_that_live_are_told_what_is_on_disk():
    hand = Hand(size=2, workers=1, survives_rank_loss=True)
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 1))
    hand.decide()
    hand.write(1, empty=True)
    hand.report(*hand.leases(0))
    hand.report(*hand.leases(1), rank=1)
    hand.decide(COMMIT_INTERVAL)
    assert sorted(hand.recorded) == [0, 1]
    hand.write(empty=True)
    told = [(rank, m) for rank, m in hand.sent if isinstance(m, Committed)]
    assert told == [(1, Committed(((1, 1),)))]


def test_a_rank_that_is_gone_is_told_nothing():
    site = Site()
    site.farm.rank_set = rank_set_of(2, 2, survives_rank_loss=True)
    site.commits.acknowledge(1, [(3, 1)])
    assert site.posted == [Send(1, Committed(((3, 1),)))]
    site.farm.ranks[1].state = RankState.DEAD
    site.commits.acknowledge(1, [(3, 1)])
    assert len(site.posted) == 1


@pytest.mark.parametrize(("signum", "is_recorded"), [(SIGUSR1, True), (SIGTERM, False)])
def test_a_stop_with_grace_records_before_all_ranks_have_stopped(signum, is_recorded):
    hand = Hand(size=2)
    (task,) = hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    now = hand.clock.now
    hand.hear(0, sure_report(now, (result_of(task, now),)))
    hand.coordinator.on_signal(signum, now)
    hand.decide()
    assert hand.recorded == ([0] if is_recorded else [])


# ---- another attempt -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "status", "asks"),
    [
        (Outcome.FAILED, 75, True),
        (Outcome.FAILED, 1, False),
        (Outcome.TIMED_OUT, 75, False),
        (Outcome.OUT_OF_MEMORY, 75, False),
    ],
)
def test_only_a_command_that_ended_by_itself_asks_to_run_again(outcome, status, asks):
    result = result_of(Lease(3, 1, ""), 5.0, 1.0, status)._replace(outcome=outcome)
    assert is_checkpoint(CHECKPOINT, result) is asks
    assert not is_checkpoint(Policy(), result)


@pytest.mark.parametrize(("failures", "final"), [(0, False), (1, False), (2, True)])
def test_a_failure_is_final_after_all_retries(failures, final):
    task = TaskRecord(3)
    task.past.failures = failures
    result = result_of(Lease(3, 1, ""), 5.0, 1.0, 1)
    assert is_final(Policy(retries=2), task, result) is final
    task.past.is_final = True
    assert is_final(Policy(retries=2), task, result)


def waiting(rank: int, waits_from: float, ranks_lost: int = 0) -> TaskRecord:
    task = TaskRecord(7, rank=rank)
    task.past.waits_from, task.past.ranks_lost = waits_from, ranks_lost
    return task


def test_a_task_waits_ten_seconds_for_another_rank_than_that_on_which_it_failed():
    queue, task = RetryQueue(), waiting(1, 100.0)
    queue.add(task)
    assert queue.ripen(100.0)
    assert queue.wake_at() == 110.0
    assert queue.take(1, 9, 109.9, alone=False) == []
    assert queue.take(2, 0, 109.9, alone=False) == []
    assert (len(queue), queue.count()) == (1, 1)
    assert queue.take(1, 9, 110.0, alone=False) == [task]
    assert not queue
    for rank, alone in ((2, False), (1, True)):
        queue.add(task)
        assert queue.ripen(100.0)
        assert queue.take(rank, 9, 100.0, alone=alone) == [task]


def test_a_delay_comes_first():
    queue, task = RetryQueue(), waiting(1, 130.0)
    queue.add(task)
    assert (queue.wake_at(), len(queue), queue.count()) == (130.0, 1, 0)
    assert not queue.ripen(129.9)
    assert queue.ripen(130.0)
    assert (queue.wake_at(), queue.count()) == (140.0, 1)
    assert queue.clear() == [task]


@pytest.mark.parametrize(
    ("ranks_lost", "holds_one", "idle", "is_taken"),
    [
        (1, False, False, True),
        (2, False, False, True),
        (1, True, False, False),
        (1, True, True, True),
        (2, True, True, False),
    ],
)
def test_two_tasks_that_may_kill_share_a_rank_only_where_nothing_else_is_left(
    ranks_lost, holds_one, idle, is_taken
):
    queue, task = RetryQueue(), waiting(1, 100.0, ranks_lost)
    queue.add(task)
    assert queue.ripen(100.0)
    taken = queue.take_deadly(holds_one=holds_one, idle=idle)
    assert taken is (task if is_taken else None)
    assert len(queue) == (not is_taken)


def test_of_two_tasks_that_may_kill_a_rank_gets_one_at_a_time():
    hand = Hand(size=3)
    hand.begin(empty=False)
    hand.hear(2, Join("node2", 2, 2))
    hand.decide()
    hand.hear(0, Stopped())  # it runs nothing
    hand.write(0, 1, empty=False)
    assert len(hand.leases(2)) == 2
    hand.hear(1, Join("node1", 1, 2))
    hand.coordinator.on_ranks_lost([2], hand.clock.now)
    hand.decide()
    assert len(hand.leases(1)) == 1


def test_rank_0_runs_no_task_that_may_kill_it_while_a_result_is_not_sure():
    hand = Hand(size=2, workers=1)
    (own,) = hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node1", 1, 1))
    hand.decide()
    hand.write(1, empty=True)
    now = hand.clock.now
    hand.hear(0, Report(now, (result_of(own, now),), sure=now - 1.0))
    hand.coordinator.on_ranks_lost([1], now)
    hand.decide()
    assert hand.leases(0) == [own]
    hand.hear(0, sure_report(now))
    hand.decide(COMMIT_INTERVAL)
    hand.write(empty=True)
    assert [lease.taskid for lease in hand.leases(0)] == [0, 1]


# ---- attempts that nobody saw end ----------------------------------------------------


def test_a_lost_attempt_is_noted_with_what_was_known_of_it():
    hand = Hand()
    hand.begin(0)
    hand.hear(0, Running((RunningTask(0, 1, 1, 1.7e9),)))
    hand.hear(0, Report(hand.clock.now, (), (), ((0, 1),)))
    hand.decide()
    (noted,) = hand.noted
    result = noted.result
    assert (noted.rank, result.taskid, result.attempt) == (0, 0, 1)
    assert (result.outcome, result.status) == (Outcome.LOST, -SIGKILL)
    assert (result.started, result.worker_index, result.seconds) == (1.7e9, 1, 0.0)


@pytest.mark.parametrize("is_known", [False, True])
def test_of_a_lost_rank_only_what_is_known_to_have_run_is_noted(is_known):
    hand = Hand(size=2)
    hand.begin(empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.hear(0, Stopped())
    hand.write(0, 1)
    if is_known:
        hand.hear(1, Running((RunningTask(1, 1, 0, 1.7e9),)))
    hand.coordinator.on_ranks_lost([1], hand.clock.now)
    hand.decide()
    assert [each.result.taskid for each in hand.noted] == ([1] if is_known else [])


@pytest.mark.parametrize("is_recall", [False, True])
def test_a_rank_that_returns_leases_unasked_gets_none_ahead_for_now(is_recall):
    hand = Hand()
    hand.report(hand.begin(0, 1)[0])
    record = hand.coordinator.ranks[0]
    assert record.mean == 1.0
    hand.hear(0, Report(hand.clock.now, (), ((1, 1),), (), is_recall))
    assert (record.mean > 2.5) is not is_recall


def test_the_run_time_of_a_rank_follows_its_last_tasks():
    record = RankRecord(0, workers=4)
    for seconds in (1.0, 3.0):
        record.note_duration(seconds)
    assert (record.mean, record.rate) == (2.0, 2.0)
    for _ in range(12):
        record.note_duration(2.0)
    record.note_duration(17.0)
    assert record.mean == pytest.approx(3.0), "the plain mean of the first 20"
    for _ in range(5):
        record.note_duration(3.0)
    record.note_duration(13.0)
    assert record.mean == pytest.approx(3.5)
    assert record.ended == 21


# ---- where a coordinator was lost ----------------------------------------------------


def located(report: Report | None, *leases: tuple[int, int]) -> TaskRecord:
    """Return task 7 after rank 1 has said this of it, and others nothing."""
    hand = adopting(7)
    hand.hear(0, rejoin())
    hand.hear(1, rejoin(*leases, report=report or sure_report(1.0)))
    hand.hear(2, rejoin())
    hand.coordinator.failover.locate(hand.clock.now)
    return hand.coordinator.table.tasks[7]


def test_a_task_that_no_rank_has_may_have_killed_the_lost_one():
    task = located(None)
    assert (task.lost, task.may_kill_ranks) == (1, True)


def test_a_task_whose_worker_was_lost_has_killed_no_rank():
    task = located(Report(1.0, (), (), ((7, 2),)))
    assert (task.lost, task.may_kill_ranks, task.attempt) == (1, False, 2)


def test_a_task_that_was_returned_has_lost_no_attempt():
    task = located(Report(1.0, (), ((7, 2),)))
    assert (task.lost, task.attempt) == (0, 1)


def test_a_task_that_a_rank_holds_stays_there():
    task = located(None, (7, 2))
    assert (task.rank, task.attempt, task.lost) == (1, 2, 0)


@pytest.mark.parametrize(("ago", "counts"), [(0.0, True), (0.5, False)])
def test_of_a_rank_that_has_stopped_counts_what_it_was_sure_of(ago, counts):
    hand = adopting(7)
    now = hand.clock.now
    ended = Report(now, (result_of(Lease(7, 1, ""), now),), sure=now - ago)
    hand.hear(0, rejoin())
    hand.hear(1, rejoin(report=ended))
    hand.hear(1, PoolLost())
    hand.hear(2, rejoin())
    hand.coordinator.failover.locate(now)
    task = hand.coordinator.table.tasks[7]
    assert (task in hand.coordinator.table.ended) is counts


def test_leases_that_never_came_are_handed_out_in_their_order():
    hand = mended_hand(0, 1)
    hand.hear(1, rejoin())
    hand.decide()
    assert [lease.taskid for lease in hand.leases(1)[2:]] == [0, 1]


def test_a_rank_that_was_silent_before_messages_were_lost_gets_its_time_anew():
    hand = Hand(size=2, survives_rank_loss=True, policy=Policy(rank_timeout=4.0))
    hand.begin(0)
    hand.hear(1, Join("node", 2, 2))
    hand.decide(3.9)
    hand.coordinator.on_mended(hand.clock.now)
    hand.decide(3.9)
    assert hand.coordinator.lost_ranks() == []
    hand.decide(1.2)
    assert hand.coordinator.lost_ranks() == [1]


def test_attempts_of_tasks_that_others_hold_are_counted_on():
    hand = adopting(7)
    hand.hear(1, rejoin((7, 1), (8, 3)))
    hand.hear(2, rejoin((8, 2)))
    hand.coordinator.table.take([8, 9])
    attempts = {t: hand.coordinator.table.tasks[t].attempt for t in (8, 9)}
    assert attempts == {8: 3, 9: 0}


# ---- what is due, and what counts ----------------------------------------------------


def test_nothing_is_due_while_a_transaction_is_under_way():
    site = Site()
    first, second, _ = lease(site.table, site.farm, 3, 4, 5)
    site.end(first)
    site.commits.begin(9.0, 0)
    site.end(second)
    site.table.pull([9])
    assert site.table.transaction is not None
    assert site.commits.wake_at() == inf
    site.commits.begin(99.0, 5)
    assert [*site.table.ended] == [second]
    site.table.finish_transaction()
    assert site.commits.wake_at() == -inf, "tasks are to be pulled"
    site.commits.begin(9.0, 0)
    assert site.table.transaction.pull == (9,)


@pytest.mark.parametrize(
    ("outcome", "left"),
    [
        (Outcome.COMPLETED, 5),
        (Outcome.CANCELLED, 5),
        (Outcome.NOT_RUN, 5),
        (Outcome.FAILED, 4),
        (Outcome.TIMED_OUT, 4),
        (Outcome.LOST, 4),
    ],
)
def test_only_tasks_that_failed_by_themselves_count_towards_the_limit(outcome, left):
    site = Site(Policy(max_failures=5))
    (task,) = lease(site.table, site.farm, 3)
    site.end(task)
    assert task.result is not None
    task.result = task.result._replace(outcome=outcome)
    task.past.is_final = True
    site.commits.begin(9.0, 0)
    assert site.commits._failures.left == left


def test_a_task_that_asks_to_run_again_too_often_is_told_and_has_failed():
    site = Site(CHECKPOINT)
    (task,) = lease(site.table, site.farm, 3)
    task.past.fast_checkpoints = 9
    end(site.table, site.farm, task, 75)
    assert task.result is not None
    task.result = task.result._replace(seconds=0.1)
    site.farm.ranks[1].sure = inf
    site.table.keep(task)
    site.commits.begin(9.0, 0)
    told, _ = site.posted
    assert isinstance(told, Tell)
    assert told.sentence.endswith("10 times in a row within a second")
    assert site.table.transaction is not None
    assert [r.taskid for _, r in site.table.transaction.results] == [3]


def test_an_attempt_that_is_tried_again_is_acknowledged():
    site = Site(Policy(retries=1))
    site.farm.rank_set = rank_set_of(2, 2, survives_rank_loss=True)
    (task,) = lease(site.table, site.farm, 3)
    site.end(task, 1)
    site.commits.begin(9.0, 0)
    noted, told = site.posted
    assert isinstance(noted, NoteAttempt)
    assert told == Send(1, Committed(((3, 1),)))
    site.commits.acknowledge(1, [])
    site.commits.acknowledge(0, [(3, 1)])
    assert len(site.posted) == 2


@pytest.mark.parametrize(
    ("checkpoints", "fast", "seconds", "final"),
    [
        (0, 0, 5.0, False),
        (998, 0, 5.0, False),
        (999, 0, 5.0, True),
        (0, 8, 0.9, False),
        (0, 9, 0.9, True),
        (0, 9, 1.0, False),
    ],
)
def test_it_is_foreseen_when_a_task_asks_to_run_again_too_often(
    checkpoints, fast, seconds, final
):
    task = TaskRecord(3)
    task.past.checkpoints, task.past.fast_checkpoints = checkpoints, fast
    result = result_of(Lease(3, 1, ""), 5.0, seconds, 75)
    assert is_final(CHECKPOINT, task, result) is final
    sequel, why = count_attempt(CHECKPOINT, task, result)
    assert sequel is (Sequel.FAILED if final else Sequel.GOES_ON)
    assert bool(why) is final
    assert task.past.checkpoints == checkpoints + 1
    assert task.past.fast_checkpoints == (fast + 1 if seconds < 1.0 else 0)


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.CANCELLED])
def test_after_some_ends_no_policy_has_a_task_run_again(outcome):
    policy = Policy(retries=9, requeue_status=75)
    result = result_of(Lease(3, 1, ""), 5.0, 1.0, 75)._replace(outcome=outcome)
    task = TaskRecord(3)
    assert is_final(policy, task, result)
    assert count_attempt(policy, task, result) == (Sequel.FAILED, "")
    assert task.past.failures == 0


def test_each_failure_that_is_tried_again_is_counted():
    task, policy = TaskRecord(3), Policy(retries=2)
    result = result_of(Lease(3, 1, ""), 5.0, 1.0, 1)
    for failures in (1, 2):
        assert count_attempt(policy, task, result) == (Sequel.AGAIN, "")
        assert task.past.failures == failures
    assert count_attempt(policy, task, result) == (Sequel.FAILED, "")
    assert task.past.failures == 2


# ---- the tasks that wait for another attempt -----------------------------------------


def queued(*waits: tuple[int, int, float, bool]) -> RetryQueue:
    """Tasks by id, the rank that each avoids, when its wait began, and if it kills."""
    queue = RetryQueue()
    for taskid, rank, waits_from, kills in waits:
        task = TaskRecord(taskid, rank=rank)
        task.past.waits_from = waits_from
        task.past.ranks_lost = int(kills)
        queue.add(task)
    return queue


def ids(queue: RetryQueue) -> list[int]:
    return [task.taskid for task in queue]


MANY = (
    *((1, 0, 50.0, False), (2, 0, 30.0, False), (3, 5, 40.0, False)),
    *((4, 5, 45.0, True), (5, 0, 90.0, False), (6, 0, 80.0, False)),
)


def test_tasks_wait_until_their_delays_are_over_and_then_for_a_rank():
    queue = queued(*MANY)
    assert (len(queue), queue.count(), bool(queue)) == (6, 0, True)
    assert queue.wake_at() == 30.0
    assert not queue.ripen(29.9)
    assert queue.ripen(50.0)
    assert (len(queue), queue.count()) == (6, 4)
    assert sorted(ids(queue)) == [1, 2, 3, 4, 5, 6]
    assert queue.wake_at() == 40.0, "task 2 waits for another rank since 30"
    assert not queued(MANY[4]).ripen(80.0)


def test_of_a_rank_to_avoid_the_task_that_waits_longest_is_the_first():
    queue = queued(*MANY)
    queue.ripen(99.0)
    assert [task.taskid for task in queue.take(7, 9, 99.0, alone=False)] == [
        *(2, 1, 6, 5, 3)
    ]
    assert ids(queue) == [4]
    assert queue.wake_at() == inf


def test_on_the_rank_itself_only_those_run_that_have_waited_for_long():
    queue = queued(*MANY[:2])
    queue.ripen(50.0)
    taken = queue.take(0, 9, 55.0, alone=False)
    assert [task.taskid for task in taken] == [2]
    assert [task.taskid for task in queue.take(0, 9, 55.0, alone=True)] == [1]
    assert not queue


def test_no_more_tasks_are_taken_than_are_wanted():
    queue = queued(*MANY)
    queue.ripen(99.0)
    assert len(queue.take(7, 3, 99.0, alone=False)) == 3
    assert len(queue) == 3


@pytest.mark.parametrize("now", [0.0, 60.0, 99.0])
@pytest.mark.parametrize("gone", [{1}, {2, 3}, {4}, {2, 5, 6}, {1, 2, 3, 4, 5, 6}, {9}])
def test_tasks_are_removed_wherever_they_wait(now, gone):
    queue = queued(*MANY)
    queue.ripen(now)
    queue.remove(gone)
    left = {1, 2, 3, 4, 5, 6} - gone
    assert ({*ids(queue)}, len(queue), bool(queue)) == (left, len(left), bool(left))
    queue.ripen(99.0)
    taken = queue.take(7, 9, 99.0, alone=False)
    assert {task.taskid for task in taken} == left - {4}
    deadly = queue.take_deadly(holds_one=False, idle=False)
    assert (deadly is not None) is (4 in left)


def test_delays_stay_in_order_after_a_removal():
    waits = [(taskid, 0, float(100 - taskid), False) for taskid in range(20)]
    queue = queued(*waits)
    queue.remove({19, 10, 3})
    ends = []
    while queue.count() < 17:
        ends.append(queue.wake_at())
        queue.ripen(min(99.0 - taskid for taskid in range(20)) + len(ends) + 3)
    assert ends == sorted(ends)


def test_a_queue_that_is_cleared_is_empty():
    queue = queued(*MANY)
    queue.ripen(60.0)
    assert {task.taskid for task in queue.clear()} == {1, 2, 3, 4, 5, 6}
    assert (len(queue), bool(queue), queue.wake_at()) == (0, False, inf)
