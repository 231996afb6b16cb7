"""Which tasks can still finish before the end of the job, at exact bounds."""

from math import inf

import pytest

from mpifarm.coordinator.walltime import Walltime, margin


@pytest.mark.parametrize(
    ("grace", "seconds"),
    [(0.0, 2.0), (1.0, 3.0), (2.0, 6.0), (5.0, 15.0), (6.0, 16.0), (60.0, 70.0)],
)
def test_the_margin_is_the_grace_and_twice_that_from_two_to_ten_seconds(grace, seconds):
    assert margin(grace) == seconds


def test_without_a_deadline_nothing_is_learnt_until_one_may_come():
    walltime = Walltime(None, 2.0, None)
    assert (walltime.deadline, walltime.stop_at, walltime.learns) == (inf, inf, False)
    walltime.expect_deadline()
    assert walltime.learns
    walltime.set_deadline(100.0)
    assert (walltime.stop_at, walltime.learns) == (94.0, True)
    walltime.set_deadline(inf)
    assert (walltime.stop_at, walltime.learns) == (inf, False)


def test_where_the_user_has_said_what_tasks_take_nothing_is_learnt():
    walltime = Walltime(None, 2.0, 20.0)
    walltime.expect_deadline()
    assert not walltime.learns
    walltime.set_deadline(100.0)
    assert not walltime.learns
    walltime.note(90.0)
    assert walltime.expected() == 20.0


def test_nothing_is_too_late_while_it_is_not_known_what_tasks_take():
    walltime = Walltime(100.0, 2.0, None)
    assert walltime.expected() == 0.0
    assert not walltime.is_too_late(93.9)
    assert not walltime.is_too_late(200.0)


def test_a_task_is_too_late_if_nine_in_ten_would_not_finish_any_more():
    walltime = Walltime(100.0, 2.0, None)
    for seconds in [10.0] * 9 + [80.0]:
        walltime.note(seconds)
    expected = walltime.expected()
    assert expected == pytest.approx(10.0, rel=0.1)
    assert expected >= 10.0
    latest = walltime.start_until()
    assert latest == 94.0 - 0.5 - expected
    assert not walltime.is_too_late(latest)
    assert walltime.is_too_late(latest + 0.001)


def test_no_task_is_expected_to_take_longer_than_the_longest():
    walltime = Walltime(100.0, 2.0, None)
    walltime.note(10.05)
    assert walltime.expected() == 10.05


def test_more_than_one_in_ten_long_tasks_are_expected():
    walltime = Walltime(100.0, 2.0, None)
    for seconds in [10.0] * 8 + [40.0] * 2:
        walltime.note(seconds)
    assert walltime.expected() == 40.0


def test_what_tasks_take_is_found_anew_once_a_hundredth_more_have_ended():
    walltime = Walltime(1e6, 2.0, None)
    for _ in range(100):
        walltime.note(10.0)
    assert walltime.expected() == 10.0
    for _ in range(1000):
        walltime.note(100.0)
    assert walltime.expected() == 100.0
    for _ in range(11):
        walltime.note(0.5)
        assert walltime.expected() == 100.0


def test_tasks_of_no_time_at_all_are_counted():
    walltime = Walltime(100.0, 2.0, None)
    walltime.note(0.0)
    assert walltime.expected() == 0.0
    walltime.note(5.0)
    assert walltime.expected() == 5.0


@pytest.mark.parametrize(
    ("finished", "told"),
    [
        ([], "the job ends in 40 s, and 90 % of the 0 tasks"),
        ([30.0], "the job ends in 40 s, and the only task that has finished took 30 s"),
        ([30.0] * 2, "and 90 % of the 2 tasks that have finished took up to 30 s"),
    ],
)
def test_a_drain_is_told_with_how_many_tasks_have_shown_it(finished, told):
    walltime = Walltime(100.0, 2.0, None)
    for seconds in finished:
        walltime.note(seconds)
    assert told in walltime.why_drain(60.0)


def test_the_longest_task_is_remembered():
    walltime = Walltime(100.0, 2.0, None)
    for seconds in (50.0, 10.0):
        walltime.note(seconds)
    assert walltime.expected() == 50.0
    assert walltime.is_too_late(43.6)


def test_a_task_that_would_end_with_the_farm_is_not_too_late():
    walltime = Walltime(100.0, 2.0, 20.0)
    assert not walltime.is_too_late(94.0 - 20.0 - 0.5)
