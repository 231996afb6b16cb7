"""How long the lock is waited for: exact bounds."""

import pytest

from mpifarm.farm.lock_wait import LockVerdict, LockWait


@pytest.fixture
def wait():
    wait = LockWait()
    wait.begin(100.0)
    return wait


@pytest.mark.parametrize(
    ("waited", "is_stopping", "verdict"),
    [
        (0.0, False, LockVerdict.TRY_AGAIN),
        (30.0, False, LockVerdict.TRY_AGAIN),
        (30.1, False, LockVerdict.WARN),
        (3.0, True, LockVerdict.TRY_AGAIN),
        (3.1, True, LockVerdict.GIVE_UP),
        (30.1, True, LockVerdict.GIVE_UP),
    ],
)
def test_what_to_do_depends_on_the_wait_and_on_whether_the_farm_stops(
    wait, waited, is_stopping, verdict
):
    assert wait.assess(100.0 + waited, is_stopping=is_stopping) is verdict


def test_a_warning_comes_once_in_thirty_seconds(wait):
    assert wait.assess(131.0, is_stopping=False) is LockVerdict.WARN
    assert wait.assess(132.0, is_stopping=False) is LockVerdict.TRY_AGAIN
    assert wait.assess(162.0, is_stopping=False) is LockVerdict.WARN


def test_the_lock_is_tried_less_often_after_a_second(wait):
    assert wait.poll_seconds(101.0) == 0.001
    assert wait.poll_seconds(101.1) == 0.005
