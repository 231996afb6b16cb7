"""Numbers and durations as words of a sentence."""

import pytest

from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.wording import (
    TimeLeft,
    agree,
    counted,
    duration_in_words,
    held_in_words,
    time_left_in_words,
)
from tests.pages import take_block


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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ((6600, 7800, 9600), *take_block("time-left.md", "about").lines),
        ((30, 41, 57), "about 40 s left, 30 to 55 s"),
        ((0.0, 0.01, 0.9), "about 1 s left"),
        ((50, 100, 200), "about 2 min left, 50 s to 3 min"),
        ((3000, 3570, 4800), "about 1 h left, 50 min to 1 h 20"),
        ((3540, 3600, 7200), "about 1 h left, 1 to 2 h"),
        ((35_000, 35_999, 40_000), "about 10 h left, 9 h 40 to 11 h"),
        ((104_000, 190_000, 1e6), "about 2 days left, 29 h to 12 days"),
    ],
)
def test_the_time_left_is_told_as_people_say_it(seconds, words):
    assert time_left_in_words(TimeLeft(*seconds)) == words


@pytest.mark.parametrize(
    ("count", "holds_all", "words"),
    [
        (0, False, ""),
        (3, False, "3 held"),
        (0, True, "all held"),
        (3, True, "all held"),
    ],
)
def test_what_users_hold_is_told_in_two_words(count, holds_all, words):
    assert held_in_words(count, holds_all) == words
