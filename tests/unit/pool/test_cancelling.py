"""Which verdict a cancelled run gets when: pure, with a clock of the test's own."""

import pytest

from mpifarm.pool.cancelling import IDLE, CancelKeeper
from mpifarm.pool.shared_state import SharedState, TimeVerdict
from mpifarm.pool.time_limit import LATE, LONGEST, SECOND, TimeAction

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


@pytest.mark.parametrize(
    ("over", "action"),
    [(-1, TimeAction.REMIND), (0, TimeAction.KILL_WORKER), (1, TimeAction.KILL_WORKER)],
)
def test_a_worker_that_does_not_end_its_run_is_killed_to_the_instant(
    row, keeper, over, action
):
    begin(row)
    assert keeper.look({0: row}, START + GRACE + LATE + over) == [(0, action)]


def test_a_run_counts_as_ended_when_it_was_not_seen_for_long_enough(row, keeper):
    begin(row)
    keeper.look({0: row}, START + IDLE)
    row.end_task()
    assert keeper.look({0: row}, START + 2 * IDLE) == []
    assert keeper, "its worker may be about to begin it"
    keeper.look({0: row}, START + 2 * IDLE + 1)
    assert not keeper


def test_a_run_is_forgotten_with_its_worker(row, keeper):
    begin(row)
    assert keeper.look({1: row}, START) == []
    assert not keeper
    assert row.cancel_verdict is TimeVerdict.IN_TIME


def test_each_worker_has_its_own_cancelled_runs(keeper):
    state = SharedState()
    rows = {index: state.row(index) for index in range(3)}
    keeper.add(2, 5, START + SECOND)
    begin(rows[0], 1)
    begin(rows[1], 1)
    begin(rows[2], 5)
    due = keeper.look(rows, START + GRACE)
    assert due == [(0, TimeAction.REMIND), (2, TimeAction.REMIND)]
    assert [rows[index].cancel_verdict for index in range(3)] == [
        TimeVerdict.KILL,
        TimeVerdict.IN_TIME,
        TimeVerdict.TERMINATE,
    ]


def test_a_grace_time_that_no_clock_can_hold_is_one_of_years(row):
    keeper = CancelKeeper(float("inf"))
    keeper.add(0, 1, START)
    begin(row)
    verdicts = []
    for early in (1, 0):
        keeper.look({0: row}, START + int(LONGEST) * SECOND - early)
        verdicts.append(row.cancel_verdict)
    assert verdicts == [TimeVerdict.TERMINATE, TimeVerdict.KILL]
