"""The task table alone: its moves, the facts of a state, and what it finds wrong."""

from collections.abc import Callable
from math import inf

import pytest

from mpifarm.coordinator import task_table
from mpifarm.coordinator.limits import FailureLimit
from mpifarm.coordinator.seats import Seats
from mpifarm.coordinator.state import FarmState, Phase, TaskRecord, TaskState
from mpifarm.coordinator.task_table import TaskTable, result_of
from mpifarm.model.settings import Policy
from mpifarm.model.task import NOT_RUN_STATUS, Lease, Outcome
from tests.unit.fakes import rank_set_of
from tests.unit.virtual_rank import result_of as ended_as

POLICY = Policy(max_failures=5)


def create_table(*adopted: int) -> tuple[FarmState, TaskTable]:
    farm = FarmState.begin(rank_set_of(2, 2), POLICY)
    return farm, TaskTable(farm, FailureLimit(POLICY, 10), adopted)


def lease(table: TaskTable, farm: FarmState, *taskids: int) -> list[TaskRecord]:
    """Have rank 1 run these."""
    table.take(taskids)
    tasks = [table.queue.popleft() for _ in taskids]
    table.lease(farm.ranks[1], tasks)
    return tasks


def end(table: TaskTable, farm: FarmState, task: TaskRecord, status: int = 0) -> None:
    result = ended_as(Lease(task.taskid, task.attempt, "true"), 5.0, status=status)
    table.end(farm.ranks[1], task, result, 5.0)


def violations(table: TaskTable) -> list[str]:
    return table.find_violations([], ())


def test_a_task_that_is_taken_waits_for_a_rank():
    _, table = create_table()
    table.take([3, 4])
    assert [task.taskid for task in table.queue] == [3, 4]
    assert violations(table) == []


def test_a_task_that_is_taken_while_the_farm_stops_goes_back():
    farm, table = create_table()
    farm.phase = Phase.STOPPING
    table.take([3])
    assert table.begin_transaction((), 0).requeue == (3,)
    assert violations(table) == []


def test_a_lease_has_a_rank_an_attempt_and_a_turn():
    farm, table = create_table()
    first, second = lease(table, farm, 3, 4)
    assert farm.ranks[1].leases == {3, 4}
    assert (second.rank, second.attempt) == (1, 1)
    assert second.turn > first.turn
    assert table.find_leased(1, 4, 1) is second
    assert violations(table) == []


@pytest.mark.parametrize(
    ("rank", "taskid", "attempt"), [(0, 3, 1), (1, 3, 2), (1, 4, 1)]
)
def test_an_answer_of_another_rank_attempt_or_task_finds_no_lease(
    rank, taskid, attempt
):
    farm, table = create_table()
    lease(table, farm, 3)
    assert table.find_leased(rank, taskid, attempt) is None


def test_a_result_counts_when_its_rank_is_sure_of_it():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    end(table, farm, task)
    table.keep(task)
    assert (table.unsure, [*table.ended]) == (1, [])
    assert violations(table) == []
    table.note_sure(farm.ranks[1], 5.0, 7.0)
    assert (table.unsure, [*table.ended], task.due) == (0, [task], 7.0)
    assert violations(table) == []


@pytest.mark.parametrize(
    "move",
    [
        lambda table, task: table.go_on(task),
        lambda table, task: table.retry(task, 0.0, 5.0),
        lambda table, task: table.retry_first(task),
        lambda table, task: table.requeue(task),
    ],
)
def test_a_failure_is_forgotten_with_the_result_when_its_task_goes_elsewhere(move):
    farm, _ = create_table()
    failures = FailureLimit(POLICY, 10)
    table = TaskTable(farm, failures, ())
    (task,) = lease(table, farm, 3)
    end(table, farm, task, status=1)
    failures.expect(3)
    assert failures.left == 4
    move(table, task)
    assert failures.left == 5
    assert task.result is None
    assert violations(table) == []


def test_what_is_on_disk_is_here_no_more():
    farm, table = create_table()
    (task, other) = lease(table, farm, 3, 4)
    end(table, farm, task)
    table.write(task)
    table.release(farm.ranks[1], other)
    table.requeue_waiting()
    table.begin_transaction(((1, result_of(task)),), 0)
    assert violations(table) == []
    table.finish_transaction()
    assert table.tasks == {}


def test_a_lease_that_was_not_begun_is_no_attempt():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    table.release_unstarted(farm.ranks[1], task)
    assert (task.attempt, [*table.queue]) == (0, [task])
    assert violations(table) == []


def test_an_attempt_that_a_rank_still_runs_is_not_given_out_again():
    farm, table = create_table()
    table.foreign_attempts[3] = 2
    (task,) = lease(table, farm, 3)
    assert task.attempt == 3


@pytest.mark.parametrize("pulled", [False, True])
def test_a_task_that_went_back_since_it_is_held_keeps_its_misfortunes(pulled):
    farm, table = create_table()
    deadly, failed, _ = lease(table, farm, 3, 4, 5)
    deadly.past.ranks_lost = deadly.lost = 1
    failed.past.failures, failed.past.waits_from = 2, 30.0
    go_back(farm, table, 3, 4, 5)
    if pulled:  # it goes back again
        table.take_pulled([3, 4, 5])
        table.begin_transaction((), 0)
        table.finish_transaction()
    table.bars.release(None)
    table.take([3, 4, 5])
    assert [(task.taskid, task.attempt) for task in table.queue] == [(5, 1)]
    again, failed = sorted(table.retry_queue, key=lambda task: task.taskid)
    assert (again.taskid, again.past.ranks_lost, again.lost) == (3, 1, 1)
    assert (failed.taskid, failed.attempt, failed.past.failures) == (4, 1, 2)
    assert violations(table) == []


def test_on_its_release_such_a_task_waits_for_its_delay_and_for_another_rank():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    end(table, farm, task, status=1)
    task.past.failures = 1
    table.bars.hold([3])
    table.retry(task, 5.0, 30.0)
    table.begin_transaction((), 0)
    table.finish_transaction()
    table.bars.release([3])
    table.take([3])
    retries = table.retry_queue
    assert retries.wake_at() == 35.0
    assert not retries.ripen(34.9)
    assert retries.ripen(35.1)
    assert retries.take(1, 9, 35.2, alone=False) == []
    assert [each.taskid for each in retries.take(0, 9, 35.2, alone=False)] == [3]


def test_the_wait_for_another_rank_does_not_begin_anew_with_that_for_a_seat():
    farm, table = create_table()
    table.seats = Seats({"disk": 1})
    table.seats.name_kinds({3: "disk", 4: "disk", 5: "disk"}, ())
    older, newer, busy = lease(table, farm, 3, 4, 5)
    for task, now in (older, 5.0), (newer, 6.0):
        table.seats.free["disk"] = 2
        end(table, farm, task, status=1)
        task.past.failures = 1
        table.retry(task, now, 0.0)
    retries = table.retry_queue
    assert retries.ripen(6.0)
    assert [*retries.take(0, 9, 6.0, alone=False)] == [older, newer]
    table.seats.free["disk"] = 0
    assert not [*filter(table.seats.take, (older, newer))]
    table.seats.free["disk"] = 2
    table.call_to_seats()
    assert retries.ripen(14.9)
    assert retries.take(1, 9, 14.9, alone=False) == []
    assert retries.take(1, 9, 15.1, alone=False) == [older]
    assert retries.take(1, 9, 16.1, alone=False) == [newer]
    assert busy.state is TaskState.LEASED


def go_back(farm: FarmState, table: TaskTable, *taskids: int) -> None:
    """Have rank 1 give back these, which are held."""
    table.bars.hold(taskids)
    for taskid in taskids:
        table.release(farm.ranks[1], table.tasks[taskid])
    table.begin_transaction((), 0)
    table.finish_transaction()
    assert table.tasks == {}


def test_an_adopted_task_is_leased_though_no_rank_is_known_to_have_it():
    _, table = create_table(3)
    assert table.find_violations([], {3}) == []
    assert table.find_violations([], ()) != []


def test_when_the_storage_has_failed_results_without_a_record_are_named():
    farm, table = create_table()
    (task, _) = lease(table, farm, 3, 4)
    end(table, farm, task)
    table.write(task)
    table.begin_transaction(((1, result_of(task)),), 0)
    table.fail_storage()
    assert violations(table) == []
    assert table.abandon() == (3,)
    assert table.tasks == {}


# ---- what is wrong ------------------------------------------------------------------


def write_twice(_: FarmState, table: TaskTable, task: TaskRecord) -> None:
    table.write(task)
    table.write(task)


def end_twice(farm: FarmState, table: TaskTable, task: TaskRecord) -> None:
    end(table, farm, task)


def lease_what_has_ended(farm: FarmState, table: TaskTable, task: TaskRecord) -> None:
    table.lease(farm.ranks[0], [task])


def requeue_twice(_: FarmState, table: TaskTable, task: TaskRecord) -> None:
    table.requeue(task)
    table.requeue(task)


@pytest.mark.parametrize(
    "act", [write_twice, end_twice, lease_what_has_ended, requeue_twice]
)
def test_a_move_that_is_none_is_refused(act):
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    end(table, farm, task)
    with pytest.raises(AssertionError, match="task 3: "):
        act(farm, table, task)


def test_a_task_without_a_result_is_not_kept():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    with pytest.raises(AssertionError, match="without a result"):
        table.keep(task)


def test_two_transactions_are_not_finished():
    _, table = create_table()
    table.begin_transaction((), 1)
    table.finish_transaction()
    with pytest.raises(AssertionError, match="no transaction"):
        table.finish_transaction()


Break = Callable[[FarmState, TaskTable, TaskRecord], object]

BREAKS: list[Break] = [
    lambda farm, _, task: farm.ranks[1].leases.discard(task.taskid),
    lambda farm, _, task: farm.ranks[0].leases.add(task.taskid),
    lambda _farm, _table, task: setattr(task, "rank", 0),
    lambda _farm, _table, task: setattr(task, "state", TaskState.QUEUED),
    lambda _farm, _table, task: setattr(task, "state", TaskState.WRITING),
    lambda _farm, table, task: table.queue.append(task),
    lambda _farm, table, task: table.retry_queue.add(task),
    lambda _farm, table, task: table.ended.append(task),
    lambda _farm, table, task: table.requeuing.append(task),
    lambda farm, _, task: farm.ranks[1].unsure.append(task),
    lambda _farm, table, _task: setattr(table, "unsure", 1),
    lambda _farm, table, task: table.tasks.pop(task.taskid),
    lambda _farm, _table, task: setattr(
        task, "result", ended_as(Lease(3, 1, "true"), inf)
    ),
]


@pytest.mark.parametrize("damage", BREAKS)
def test_facts_that_disagree_are_found(damage):
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    assert violations(table) == []
    damage(farm, table, task)
    assert violations(table) != []


# ---- bounds and orders --------------------------------------------------------------


def seated(*taskids: int, free: int = 0) -> tuple[FarmState, TaskTable]:
    """A table whose tasks of these ids share seats."""
    farm = FarmState.begin(rank_set_of(2, 2), POLICY)
    table = TaskTable(farm, FailureLimit(POLICY, 10), (), Seats({"gpu": 9}))
    table.seats.name_kinds(dict.fromkeys(taskids, "gpu"), ())
    table.seats.free["gpu"] = free
    return farm, table


def test_a_task_that_has_ended_is_no_lease_any_more():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    end(table, farm, task)
    assert table.find_leased(1, 3, 1) is None


def test_what_is_leased_is_what_stands_in_no_list():
    farm, table = seated(7)
    tasks = lease(table, farm, *range(12))
    record = farm.ranks[1]
    for task in tasks[:7]:
        end(table, farm, task, status=1)
    recorded, retried, unsure, ended, held, requeued = tasks[:6]
    table.write(recorded)
    table.requeue(tasks[6])
    table.begin_transaction(((1, result_of(recorded)),), 0)
    table.retry(retried, 0.0, 5.0)
    table.keep(unsure)
    record.sure = 9.0
    table.keep(ended)
    table.requeue(requeued)
    table.release(record, tasks[8])
    table.release(record, tasks[7])
    table.seats.free["gpu"] = 0
    assert not table.seats.take(table.queue.popleft())
    assert (len(table.queue), len(table.retry_queue), len(table.seats)) == (1, 1, 1)
    assert table.find_violations([held], ()) == []
    assert table.count_leased(1) == 3 == len(record.leases)


@pytest.mark.parametrize(("sure", "counts"), [(4.9, False), (5.0, True)])
def test_a_result_counts_from_the_moment_on_until_which_its_rank_is_sure(sure, counts):
    farm, table = create_table()
    before, after = lease(table, farm, 3, 4)
    end(table, farm, before)
    table.keep(before)
    table.note_sure(farm.ranks[1], sure, 7.0)
    assert (before in table.ended) is counts
    end(table, farm, after)
    table.keep(after)
    assert (after in table.ended) is counts
    if counts:
        assert (before.due, after.due) == (7.0, 5.0)


def test_a_signal_voids_of_the_unsure_results_only_those_that_it_may_have_caused():
    farm, table = create_table()
    first, second = lease(table, farm, 3, 4)
    for task in (first, second):
        end(table, farm, task)
        table.keep(task)
    table.void_unsure(farm.ranks[1], lambda task: task is first)
    assert table.requeuing == [first]
    assert [*farm.ranks[1].unsure] == [second]
    assert table.unsure == 1
    assert violations(table) == []


def test_what_a_rank_gives_up_goes_before_all_others_in_its_order():
    farm, table = create_table()
    tasks = lease(table, farm, 3, 4, 5)
    end(table, farm, tasks[1])
    table.keep(tasks[1])
    table.take([9])
    table.release_all(farm.ranks[1])
    assert [task.taskid for task in table.queue] == [3, 4, 5, 9]
    assert farm.ranks[1].leases == set()
    assert table.unsure == 0
    assert violations(table) == []


def test_a_farm_that_ends_requeues_what_a_rank_gives_up():
    farm, table = create_table()
    lease(table, farm, 3)
    farm.phase = Phase.DRAINING
    table.release_all(farm.ranks[1])
    assert [task.taskid for task in table.requeuing] == [3]
    assert not table.queue


def test_a_task_that_may_kill_ranks_is_given_up_to_a_rank_that_suits_it():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    task.past.ranks_lost = 1
    table.release(farm.ranks[1], task)
    assert [*table.retry_queue] == [task]
    assert not table.queue


def test_a_task_goes_on_behind_all_others_and_a_suspect_one_before_them():
    farm, table = create_table()
    first, second = lease(table, farm, 3, 4)
    table.take([9])
    for task in (first, second):
        end(table, farm, task, status=1)
    table.go_on(first)
    table.retry_first(second)
    assert [task.taskid for task in table.queue] == [4, 9, 3]
    assert violations(table) == []


@pytest.mark.parametrize("move", ["go_on", "retry_first", "release"])
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_barred_task_is_not_queued_again(move, is_cancelled):
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    if is_cancelled:
        table.bars.cancel([3])
    else:
        table.bars.hold([3])
    if move == "release":
        table.release(farm.ranks[1], task)
    else:
        end(table, farm, task, status=1)
        getattr(table, move)(task)
    assert not table.queue
    assert [*table.ended] == ([task] if is_cancelled else [])
    assert table.requeuing == ([] if is_cancelled else [task])
    assert violations(table) == []


def test_a_task_that_is_failed_for_good_counts_at_once_though_its_rank_is_not_sure():
    farm, _ = create_table()
    failures = FailureLimit(POLICY, 10)
    table = TaskTable(farm, failures, ())
    (task,) = lease(table, farm, 3)
    result = ended_as(Lease(3, 1, "true"), 99.0, status=1)
    table.fail(farm.ranks[1], task, result, 50.0)
    assert [*table.ended] == [task]
    assert (task.due, task.ended, task.past.is_final) == (50.0, 50.0, True)
    assert failures.left == 4
    assert farm.ranks[1].leases == set()


def test_a_task_cancelled_before_it_ran_has_an_attempt_of_its_own_and_is_due_at_once():
    _, table = create_table()
    table.bars.cancel([3])
    table.take([3])
    (task,) = table.ended
    assert (task.rank, task.attempt, task.due, task.ended) == (0, 1, 0.0, 0.0)
    assert (result_of(task).attempt, result_of(task).worker_index) == (1, None)


def test_a_task_cancelled_between_its_attempts_is_recorded_on_its_last_rank():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    end(table, farm, task, status=1)
    table.bars.cancel([3])
    table.requeue(task)
    assert [*table.ended] == [task]
    assert (task.rank, result_of(task).attempt) == (1, 2)
    assert (task.ended, task.due) == (0.0, 0.0)
    assert violations(table) == []


def test_what_waits_goes_back_with_the_end_of_the_farm():
    farm, table = seated(5)
    (failed,) = lease(table, farm, 3)
    end(table, farm, failed, status=1)
    table.retry(failed, 0.0, 5.0)
    table.take([5, 6])
    assert not table.seats.take(table.queue.popleft())
    table.requeue_waiting()
    assert sorted(task.taskid for task in table.requeuing) == [3, 5, 6]
    assert [*table.queue, *table.retry_queue, *table.seats] == []
    assert violations(table) == []


def test_the_barred_among_what_waits_are_turned_back_and_the_others_wait_on():
    farm, table = seated(5, 6)
    failed = lease(table, farm, 3, 4)
    for task in failed:
        end(table, farm, task, status=1)
        table.retry(task, 0.0, 5.0)
    table.take([5, 6, 7, 8])
    for _ in range(2):
        assert not table.seats.take(table.queue.popleft())
    queue = table.queue
    table.bars.cancel([3, 5])
    table.bars.hold([7])
    table.turn_back_waiting()
    assert table.queue is queue, "others look at it, too"
    assert [task.taskid for task in table.queue] == [8]
    assert [task.taskid for task in table.retry_queue] == [4]
    assert [task.taskid for task in table.seats] == [6]
    assert [task.taskid for task in table.ended] == [3, 5]
    assert [task.taskid for task in table.requeuing] == [7]
    assert violations(table) == []


def test_a_seat_is_free_again_when_its_task_leaves_its_rank_and_not_before():
    farm, table = seated(3, free=1)
    table.take([3])
    (task,) = table.queue
    assert table.seats.take(task)
    table.queue.clear()
    table.lease(farm.ranks[1], [task])
    assert table.seats.free["gpu"] == 0
    end(table, farm, task, status=1)
    assert table.seats.free["gpu"] == 1
    table.write(task)
    assert table.seats.free["gpu"] == 1


def test_a_transaction_pulls_a_bounded_number_of_tasks_that_are_not_here(monkeypatch):
    monkeypatch.setattr(task_table, "MAX_AT_ONCE", 3)
    _, table = create_table()
    table.take([8])
    table.pull([9, 8, 7])
    table.pull([5, 6])
    assert table.begin_transaction((), 0).pull == (7, 9)
    assert table.begin_transaction((), 0).pull == (5, 6)
    assert table.to_pull == {}


def test_tasks_that_were_requeued_in_place_of_their_record_are_on_disk_as_well():
    farm, table = create_table()
    table.take_not_run(3, "because", 5.0)
    table.take_not_run(4, "because", 5.0)
    results = [(0, result_of(task)) for task in table.ended]
    for task in [*table.ended]:
        table.write(task)
    table.ended.clear()
    (gone,) = lease(table, farm, 6)
    table.requeue(gone)
    table.begin_transaction(tuple(results), 0)
    done = table.finish_transaction([4])
    assert [result.taskid for _, result in done.results] == [3]
    assert done.requeue == (6, 4)
    assert table.tasks == {}


def test_a_task_that_is_never_to_run_is_recorded_with_the_reason():
    _, table = create_table()
    table.take_not_run(3, "its task failed", 5.0)
    (task,) = table.ended
    result = result_of(task)
    assert (task.rank, task.due, task.ended, task.past.is_final) == (0, 5.0, 5.0, True)
    assert (result.outcome, result.status) == (Outcome.NOT_RUN, NOT_RUN_STATUS)
    assert (result.attempt, result.ended, result.note) == (0, 5.0, "its task failed")
    assert violations(table) == []


@pytest.mark.parametrize(
    ("attempts", "is_working", "kept"), [(1, True, 1), (0, True, 0), (1, False, 0)]
)
def test_attempts_of_what_went_back_are_kept_while_it_may_come_again(
    attempts, is_working, kept
):
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    task.attempt = attempts
    table.requeue(task)
    if not is_working:
        farm.phase = Phase.STOPPING
    table.begin_transaction((), 0)
    table.finish_transaction()
    assert table.foreign_attempts.get(3, 0) == kept


def test_when_the_storage_has_failed_nothing_is_left_in_any_list():
    farm, table = create_table()
    unsure, ended, requeued = lease(table, farm, 3, 4, 5)
    end(table, farm, unsure)
    table.keep(unsure)
    end(table, farm, ended)
    farm.ranks[1].sure = 9.0
    table.keep(ended)
    table.requeue(requeued)
    table.fail_storage()
    assert table.abandon() == (3, 4)
    assert (table.unsure, [*table.ended], table.requeuing) == (0, [], [])
    assert not farm.ranks[1].unsure


def test_an_adopted_task_is_located_with_its_rank_and_attempt():
    farm, table = create_table(3)
    table.locate(farm.ranks[1], table.tasks[3], 4)
    assert table.find_leased(1, 3, 4) is table.tasks[3]
    assert violations(table) == []


def test_a_barred_task_among_those_taken_keeps_no_other_from_the_queue():
    _, table = create_table()
    table.bars.hold([3])
    table.take([3, 4])
    assert [task.taskid for task in table.queue] == [4]
    assert [task.taskid for task in table.requeuing] == [3]


def test_a_cancelled_task_that_ran_before_ends_as_its_next_attempt():
    _, table = create_table()
    table.foreign_attempts[3] = 2
    table.bars.cancel([3])
    table.take_pulled([3])
    (task,) = table.ended
    assert result_of(task).attempt == 3
    assert table.foreign_attempts == {}


def test_all_unsure_results_that_a_signal_does_not_void_stay_unsure():
    farm, table = create_table()
    for task in lease(table, farm, 3, 4):
        end(table, farm, task)
        table.keep(task)
    table.void_unsure(farm.ranks[1], lambda _: False)
    assert table.unsure == 2
    assert violations(table) == []


def test_lost_attempts_of_a_task_that_went_back_are_remembered_without_a_failure():
    farm, table = create_table()
    (task,) = lease(table, farm, 3)
    task.lost = 2
    assert task.history is None
    go_back(farm, table, 3)
    table.bars.release(None)
    table.take([3])
    assert table.tasks[3].lost == 2
