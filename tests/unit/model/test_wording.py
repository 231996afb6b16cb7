"""Numbers and durations as words of a sentence."""

import pytest

from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.wording import agree, counted, duration_in_words


def test_one_is_not_many():
    assert [counted(number) for number in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]
    assert counted(1, "torn line") == "1 torn line"
    assert counted(3, "torn line") == "3 torn lines"
    assert counted(1, "task is", "tasks are") == "1 task is"
    assert counted(0, "task is", "tasks are") == "0 tasks are"
    assert [agree(number, "it", "they") for number in (0, 1, 2)] == [
        "they",
        "it",
        "they",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (0.25, "0.25 s"),
        (4.2, "4.2 s"),
        (9.99, "10 s"),
        (59.6, "60 s"),
        (100.0, "1:40 min"),
        (187.4, "3:07 min"),
        (3599.7, "1:00:00 h"),
        (43205.0, "12:00:05 h"),
        (400000.0, "111:06:40 h"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration_in_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([5.006], "the only task that has finished took 5 s"),
        ([7200.0] * 20, "90 % of the 20 tasks that have finished took up to 2:00:00 h"),
    ],
)
def test_the_time_that_tasks_take_is_told_as_people_say_it(seconds, told):
    walltime = Walltime(10_000.0, 1.0, None)
    for each in seconds:
        walltime.note(each)
    said = walltime.why_drain(6_400.0)
    assert said == f"the job ends in 1:00:00 h, and {told}"
