"""`RunningWatch`: what a rank tells rank 0 of the tasks that run there."""

import math

import pytest

from mpifarm.farm.running import RunningWatch
from mpifarm.model.messages import Running
from mpifarm.model.task import RunningTask

WALL = 1.7e9


class Pool:
    """What runs, as the watch sees it."""

    def __init__(self) -> None:
        self.tasks: list[RunningTask] = []
        self.beginning = 0

    def running_tasks(self) -> list[RunningTask]:
        return self.tasks

    def count_busy(self) -> int:
        return len(self.tasks) + self.beginning

    def begin(self, taskid: int, age: float, attempt: int = 1) -> RunningTask:
        task = RunningTask(taskid, attempt, taskid % 4, WALL - age)
        self.tasks.append(task)
        return task


@pytest.fixture
def pool():
    return Pool()


def begun(pool, seconds=5.0, most=100):
    watch = RunningWatch(pool)
    assert watch.find_news(math.nextafter(math.inf, 0), WALL) is None
    watch.begin(seconds, most, 10.0)
    return watch


def test_a_task_is_told_of_once_while_it_runs(pool):
    watch = begun(pool)
    old = pool.begin(1, 60.0)
    assert watch.find_news(10.9, WALL) is None
    assert watch.find_news(11.0, WALL) == Running((old,))
    watch.note_change(12.0)
    assert watch.look_at == 16.0
    assert watch.find_news(16.0, WALL) is None


def test_while_all_is_known_nobody_looks(pool):
    watch = begun(pool)
    pool.begin(1, 60.0)
    watch.find_news(11.0, WALL)
    assert watch.look_at == math.inf
    new = pool.begin(2, 0.0)
    watch.note_change(30.0)
    assert watch.look_at == 31.0
    watch.note_change(30.5)
    assert watch.look_at == 31.0
    assert watch.find_news(31.0, WALL + 1.1) == Running((new,))


def test_a_task_that_is_just_begun_by_its_worker_is_looked_for_again(pool):
    watch = begun(pool)
    pool.begin(1, 60.0)
    pool.beginning = 1
    watch.find_news(11.0, WALL)
    assert watch.look_at == 16.0


def test_a_task_that_has_just_begun_is_left_for_the_next_look(pool):
    watch = begun(pool)
    young = pool.begin(1, 0.9)
    assert watch.find_news(11.0, WALL) is None
    assert watch.look_at == 12.0  # nothing was told, so that needs no pause
    assert watch.find_news(12.0, WALL + 1) == Running((young,))
    assert watch.look_at == math.inf


def test_another_attempt_of_a_task_is_told_of_too(pool):
    watch = begun(pool)
    pool.begin(1, 60.0)
    watch.find_news(11.0, WALL)
    pool.tasks.clear()
    second = pool.begin(1, 10.0, attempt=2)
    watch.note_change(12.0)
    assert watch.find_news(16.0, WALL) == Running((second,))


def test_of_many_those_that_have_run_longest_are_told_of(pool):
    watch = begun(pool, most=2)
    first, second, third = (pool.begin(i, age) for i, age in enumerate((60, 70, 50)))
    assert watch.find_news(11.0, WALL) == Running((second, first))
    pool.tasks.remove(second)
    watch.note_change(12.0)
    assert watch.find_news(16.0, WALL) == Running((third,))


def test_another_coordinator_is_told_of_all_again(pool):
    watch = begun(pool)
    old = pool.begin(1, 60.0)
    watch.find_news(11.0, WALL)
    watch.forget()
    assert watch.find_news(16.0, WALL) == Running((old,))
