"""`RunningTasks`: what rank 0 knows of the tasks that run."""

from mpifarm.coordinator.running import Located, RunningTasks
from mpifarm.model.messages import MAX_RUNNING, RUNNING_SECONDS, Running
from mpifarm.model.task import RunningTask
from tests.unit.coordinator.test_task_table import create_table, end, lease


def running(taskid, attempt=1, started=100.0):
    return RunningTask(taskid, attempt, 0, started)


def test_the_longest_running_come_first():
    farm, table = create_table()
    lease(table, farm, 1, 2)
    known = RunningTasks(table, 2, verbose=False)
    told = running(1, started=50.0), running(2, started=40.0)
    assert known.note(farm.ranks[1], Running(told)) == told
    assert known.find_longest() == [Located(1, told[1]), Located(1, told[0])]


def test_a_task_that_has_ended_or_is_elsewhere_is_not_running():
    farm, table = create_table()
    first, second, third = lease(table, farm, 1, 2, 3)
    known = RunningTasks(table, 2, verbose=False)
    known.note(farm.ranks[1], Running((running(1), running(2), running(3))))
    end(table, farm, first)
    table.release(farm.ranks[1], second)
    assert [each.task.taskid for each in known.find_longest()] == [third.taskid]


def test_what_a_rank_tells_too_late_is_not_noted():
    farm, table = create_table()
    lease(table, farm, 1)
    known = RunningTasks(table, 2, verbose=False)
    assert known.note(farm.ranks[1], Running((running(1, attempt=2), running(7)))) == ()
    assert known.note(farm.ranks[0], Running((running(1),))) == ()
    assert known.find_longest() == []


def test_where_an_attempt_ran_is_known_after_it_was_lost():
    farm, table = create_table()
    [task] = lease(table, farm, 1)
    known = RunningTasks(table, 2, verbose=False)
    known.note(farm.ranks[1], Running((running(1),)))
    table.release(farm.ranks[1], task)
    assert known.find(1, 1) == Located(1, running(1))
    assert known.find(1, 2) is None
    assert known.find(2, 1) is None


def test_many_ranks_tell_less_often_and_of_fewer_tasks():
    _, table = create_table()
    small = RunningTasks(table, 4, verbose=False)
    large = RunningTasks(table, 10_000, verbose=False)
    assert (small.seconds, small.most) == (RUNNING_SECONDS, MAX_RUNNING // 4)
    assert (large.seconds, large.most) == (100.0, 1)
    assert RunningTasks(table, 4, verbose=True).seconds < 1.0


def test_each_rank_of_very_many_tells_of_one_task():
    _, table = create_table()
    assert RunningTasks(table, 10**6, verbose=False).most == 1
