"""The gates before the first tasks and the limit of failures, at their exact bounds."""

from math import inf
from typing import Any

import pytest

from mpifarm.coordinator.limits import (
    TRIAL_SECONDS,
    TRIAL_TASKS,
    Canary,
    DirectoryTrial,
    FailureLimit,
    Limits,
)
from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.settings import Policy


def limit_of(most: int, *, failed: int = 0) -> FailureLimit:
    limit = FailureLimit(Policy(max_failures=most), 100)
    for taskid in range(failed):
        limit.note(taskid, failed=True)
    return limit


def limits_of(**policy: Any) -> Limits:
    return Limits(Policy(**policy), 100, 0, Walltime(None, 2.0, None))


# ---- failures -----------------------------------------------------------------------


def test_the_farm_stops_at_the_limit_and_not_before():
    assert limit_of(3, failed=2).why() == ""
    assert limit_of(3, failed=3).why() == "3 tasks have failed, and --max-failures is 3"


def test_no_limit_is_none_however_much_fails():
    limit = FailureLimit(Policy(), 100)
    assert not limit.counts
    assert limit.describe() == ""


@pytest.mark.parametrize(
    ("share", "total", "most"),
    [(0.01, 0, 1), (0.01, 1, 1), (0.01, 100, 1), (0.01, 101, 2), (1, 7, 7)],
)
def test_a_share_is_rounded_up_and_one_at_least(share, total, most):
    limit = FailureLimit(Policy(max_failed_share=share), total)
    assert limit.left == most


def test_a_failure_counts_once_from_its_arrival_to_its_record():
    limit = limit_of(3)
    limit.expect(7)
    assert limit.left == 2
    limit.note(7, failed=True)
    assert limit.left == 2
    assert limit.why() == ""


def test_a_success_that_is_recorded_is_no_failure():
    limit = limit_of(3)
    limit.note(7, failed=False)
    assert limit.left == 3


def test_what_failed_before_does_not_count_and_what_failed_since_does():
    limit = limit_of(3)
    limit.note_before(5, 1)
    assert limit.left == 2
    assert "5 that failed before this start do not count" in limit.describe()


@pytest.mark.parametrize(
    ("failed", "leased", "workers", "suspects", "allowed"),
    [
        (0, 0, 4, 0, 10),  # as many as may fail
        (8, 0, 4, 0, 4),  # one for each worker, which may run at that moment
        (8, 3, 4, 0, 1),
        (9, 4, 4, 0, 0),
        (10, 0, 4, 0, 0),
        (10, 0, 4, 1, 4),  # a suspect may run again
    ],
)
def test_leases_go_out_as_long_as_all_of_them_may_fail(
    failed, leased, workers, suspects, allowed
):
    limit = limit_of(10, failed=failed)
    assert limit.allow(leased, workers, suspects) == allowed


# ---- the canary ---------------------------------------------------------------------


def test_as_many_tasks_as_canaries_are_taken():
    canary = Canary(3, 0)
    assert (canary.limit(2), canary.limit(3), canary.limit(4)) == (2, 3, 3)
    canary.note_taken(2)
    assert (canary.limit(4), canary.is_exhausted) == (1, False)
    canary.note_taken(1)
    assert (canary.limit(4), canary.is_exhausted) == (0, True)


def test_canaries_of_a_coordinator_that_was_lost_count():
    assert Canary(3, 2).limit(10) == 1
    assert Canary(3, 5).is_exhausted


def test_without_canaries_the_gate_is_open():
    canary = Canary(0, 0)
    assert (canary.is_open, canary.is_exhausted, canary.limit(9)) == (True, False, 9)


def test_an_open_gate_is_never_exhausted():
    canary = Canary(1, 1)
    canary.is_open = True
    assert (canary.is_exhausted, canary.limit(9)) == (False, 9)


# ---- the trial of a directory -------------------------------------------------------


def test_the_trial_ends_some_seconds_after_its_last_task():
    trial = DirectoryTrial()
    trial.arm(str, "")
    trial.note_taken(TRIAL_TASKS - 1, 10.0)
    assert (trial.limit(9), trial.is_exhausted, trial.opens_at) == (1, False, inf)
    trial.note_taken(1, 20.0)
    assert (trial.limit(9), trial.is_exhausted) == (0, True)
    assert trial.opens_at == 20.0 + TRIAL_SECONDS


def test_a_trial_that_is_not_armed_limits_nothing():
    trial = DirectoryTrial()
    assert (trial.limit(99), trial.is_exhausted) == (99, False)


def test_all_gates_limit_together():
    limits = limits_of(canary=20)
    assert limits.limit(99) == 20
    limits.trial.arm(str, "")
    assert limits.limit(99) == TRIAL_TASKS
    limits.note_taken(TRIAL_TASKS, 0.0)
    assert limits.is_shut
    limits.trial.open()
    assert (limits.is_shut, limits.limit(99)) == (False, 20 - TRIAL_TASKS)


def test_a_look_that_took_nothing_does_not_prolong_the_trial():
    limits = limits_of()
    limits.trial.arm(str, "")
    limits.note_taken(TRIAL_TASKS, 1.0)
    limits.note_taken(0, 4.0)
    assert limits.trial.opens_at == 1.0 + TRIAL_SECONDS


def test_gates_that_more_tasks_have_passed_than_they_let_are_exhausted():
    limits = limits_of(canary=3)
    limits.trial.arm(str, "")
    limits.note_taken(TRIAL_TASKS + 1, 1.0)
    assert limits.canary.is_exhausted
    assert limits.trial.is_exhausted
    assert limits.trial.opens_at == 1.0 + TRIAL_SECONDS


def test_each_task_that_told_nothing_lets_another_pass():
    limits = limits_of(canary=3)
    limits.note_taken(3, 0.0)
    for count in (1, 2, 3):
        limits.note_not_run()
        assert limits.canary.limit(9) == count


@pytest.mark.parametrize(
    ("policy", "before", "told"),
    [
        ({}, 5, ""),
        ({"max_failures": 3}, 0, ""),
        ({"max_failures": 3}, 5, "the farm stops when 3 tasks have failed"),
        ({"max_failed_share": 0.05}, 0, "(--max-failures 5%, 5 of the list's 100)"),
    ],
)
def test_a_limit_is_told_where_it_is_not_what_the_user_wrote(policy, before, told):
    limit = FailureLimit(Policy(**policy), 100)
    limit.note_before(before, 0)
    assert (limit.describe() == "") is (told == "")
    assert told in limit.describe()
