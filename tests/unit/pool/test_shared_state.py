"""The words that a rank, its fork server and its workers share."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from mpifarm.pool.shared_state import SharedState, WorkerRow


@pytest.fixture
def row():
    return SharedState().row(3)


def test_a_lease_that_was_begun_is_not_recalled(row):
    assert row.begin_lease(7)
    assert row.recall(9) == 7


def test_a_lease_that_was_recalled_is_not_begun(row):
    assert row.recall(9) == 0
    assert row.has_recalled(9)
    assert not row.begin_lease(8)
    assert not row.has_recalled(10)
    assert row.begin_lease(10)


def test_the_next_worker_of_a_line_knows_what_was_recalled(row):
    row.begin_lease(7)
    row.begin_task(5, 1.7e9)
    row.recall(9)
    row.clear()
    assert (row.task, row.begun, row.command) == (None, 0, 0)
    assert not row.begin_lease(9)
    assert row.recall(12) == 9


def test_what_a_worker_runs_is_told_with_its_start(row):
    assert row.find_running() is None
    row.begin_task(0, 1_700_000_000.25)
    assert row.find_running() == (0, 1_700_000_000.25)
    assert (row.task, row.begun) == (0, 1)
    row.end_task()
    assert row.find_running() is None
    row.begin_task(7, 5.0)
    assert (row.find_running(), row.begun) == ((7, 5.0), 2)


def test_a_task_that_ends_during_the_look_is_not_told():
    words = Words(3, lambda words: WorkerRow(cast(Any, words)).end_task())
    row = WorkerRow(cast(Any, words))
    words[:] = [5] * 8
    assert row.find_running() is None


class Words(list[int]):
    """Words that let the other side in between any two looks at them."""

    def __init__(self, before: int, other: Callable[["Words"], object]) -> None:
        super().__init__([0] * 6)
        self._left = before
        self._other = other

    def _let_in(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._other(self)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, int):
            self._let_in()
        return super().__getitem__(place)

    def __setitem__(self, place: Any, value: Any) -> None:
        self._let_in()
        super().__setitem__(place, value)


@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_lease_is_not_both_begun_and_recalled_whenever_the_two_meet(before):
    def side(words: Any) -> WorkerRow:
        return WorkerRow(words)

    told: list[int] = []
    words = Words(before, lambda words: told.append(side(words).recall(4)))
    begun = side(words).begin_lease(4)
    begun_as_told = [last >= 4 for last in told] or [False]
    assert not (begun and not begun_as_told[0] and told)
    answers: list[bool] = []
    words = Words(before, lambda words: answers.append(side(words).begin_lease(4)))
    last = side(words).recall(4)
    # begun, and the rank takes it for recalled
    assert not (answers == [True] and last < 4)
