"""Which verdict a cancelled run gets when: pure, with a clock of the test's own."""

import pytest

from mpifarm.pool.cancelling import IDLE, CancelKeeper
from mpifarm.pool.shared_state import SharedState, TimeVerdict
from mpifarm.pool.time_limit import LATE, SECOND, TimeAction

START = 1000 * SECOND
GRACE = 2 * SECOND


@pytest.fixture
def row():
    return SharedState().row(0)


@pytest.fixture
def keeper():
    keeper = CancelKeeper(2.0)
    keeper.add(0, 1, START)
    return keeper


def begin(row, serial=1):
    row.begin_lease(serial)
    row.begin_task(7, 1.7e9)


def test_a_run_is_terminated_and_killed_at_the_end_of_the_grace_time(row, keeper):
    begin(row)
    seen = []
    for after in (0, GRACE - 1, GRACE, GRACE + LATE):
        ((index, action),) = keeper.look({0: row}, START + after)
        assert index == 0
        seen.append((row.cancel_verdict, action))
    assert seen == [
        (TimeVerdict.TERMINATE, TimeAction.REMIND),
        (TimeVerdict.TERMINATE, TimeAction.REMIND),
        (TimeVerdict.KILL, TimeAction.REMIND),
        (TimeVerdict.KILL, TimeAction.KILL_WORKER),
    ]


def test_a_run_that_has_yet_to_begin_is_awaited(row, keeper):
    assert keeper.look({0: row}, START) == []
    begin(row)
    keeper.look({0: row}, START + SECOND)
    assert row.cancel_verdict is TimeVerdict.TERMINATE


def test_the_next_run_of_the_worker_has_no_verdict(row, keeper):
    begin(row)
    keeper.look({0: row}, START)
    row.end_task()
    assert row.cancel_verdict is TimeVerdict.IN_TIME
    begin(row, serial=2)
    assert row.cancel_verdict is TimeVerdict.IN_TIME
    assert keeper.look({0: row}, START + SECOND) == []
    assert not keeper


def test_a_run_that_has_ended_is_forgotten(row, keeper):
    begin(row)
    keeper.look({0: row}, START)
    row.end_task()
    assert keeper.look({0: row}, START + IDLE + 1) == []
    assert not keeper


def test_an_order_that_is_repeated_does_not_begin_the_grace_time_anew(row, keeper):
    begin(row)
    keeper.add(0, 1, START + GRACE)
    keeper.look({0: row}, START + GRACE)
    assert row.cancel_verdict is TimeVerdict.KILL


def test_a_run_that_its_worker_comes_to_late_is_ended_with_all_its_grace_time(row):
    keeper = CancelKeeper(2.0)
    row.begin_lease(1)
    keeper.add(0, 2, START)
    assert keeper.look({0: row}, START + 10 * IDLE) == []
    begin(row, serial=2)
    assert len(keeper.look({0: row}, START + 10 * IDLE + GRACE - 1)) == 1
    assert row.cancel_verdict is TimeVerdict.TERMINATE


def test_two_runs_of_a_worker_are_ended_one_after_the_other(row, keeper):
    keeper.add(0, 2, START)
    for serial in (1, 2):
        begin(row, serial)
        keeper.look({0: row}, START + serial)
        assert row.cancel_verdict is TimeVerdict.TERMINATE
    row.end_task()
    keeper.look({0: row}, START + IDLE + SECOND)
    assert not keeper
