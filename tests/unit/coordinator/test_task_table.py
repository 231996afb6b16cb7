"""The task table alone: its moves, the facts of a state, and what it finds wrong."""

from collections.abc import Callable
from math import inf

import pytest

from mpifarm.coordinator.limits import FailureLimit
from mpifarm.coordinator.seats import Seats
from mpifarm.coordinator.state import FarmState, Phase, TaskRecord, TaskState
from mpifarm.coordinator.task_table import TaskTable, result_of
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease
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
