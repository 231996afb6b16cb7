"""Which tasks the words of ``mpifarm export --state`` choose."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.audit.exporting import choose
from mpifarm.audit.view import State

IN = {
    State.FINISHED: [0, 9],
    State.FAILED: [1, 2, 3],
    State.RUNNING: [4],
    State.WAITING: [5],
    State.HELD: [6],
    State.ORPHANED: [7],
    State.CLAIMED: [8],
}


@pytest.fixture
def view() -> Any:
    """Tasks in all states; of the failed ones, 2 was cancelled."""
    return SimpleNamespace(
        total=10,
        ids_in=lambda *states: sorted(i for each in states for i in IN.get(each, ())),
        read_attempts=lambda taskids: taskids,
        find_cancelled=lambda attempts: {2} & {*attempts},
    )


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], [*range(10)]),
        (["failed"], [1, 3]),
        (["cancelled"], [2]),
        (["failed", "cancelled"], [1, 2, 3]),
        (["finished"], [0, 9]),
        (["waiting", "cancelled"], [2, 5, 6, 7]),
        (["running", "failed"], [1, 3, 4, 8]),
    ],
)
def test_cancelled_tasks_are_no_failed_ones(view, words, chosen):
    assert [*choose(view, words)] == chosen
