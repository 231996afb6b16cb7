"""Which tasks of a view a user means: the running ones among them."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.audit.selection import Conditions, select
from mpifarm.audit.view import State
from mpifarm.store.attempts import LastAttempts
from tests.workdir_files import Attempt

NOW = 1000.0


@pytest.fixture
def view() -> Any:
    """Three tasks that run: for 10 s on n1, for 20 s on n2, for 30 s on n2.site."""
    hosts = ("n1", "n2", "n2.site")
    running = {
        taskid: SimpleNamespace(started=NOW - 10 * (taskid + 1), host=host)
        for taskid, host in enumerate(hosts)
    }
    return SimpleNamespace(
        running=running,
        plain={},
        total=3,
        counts=dict.fromkeys(State, 0) | {State.RUNNING: 3},
        ids_in=lambda *states: [*running] if State.RUNNING in states else [],
        read_attempts=lambda _taskids: LastAttempts({}),
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Conditions(longer_than=20.0), [1, 2]),
        (Conditions(longer_than=20.5), [2]),
        (Conditions(longer_than=0.0), [0, 1, 2]),
        (Conditions(host="n2"), [1, 2]),
        (Conditions(host="n2.site"), [2]),
        (Conditions(host="n*"), [0, 1, 2]),
        (Conditions(host="n2", longer_than=25.0), [2]),
        (Conditions(statuses=frozenset([0])), []),
        (Conditions(slowest=2), [2, 1]),
        (Conditions(), [0, 1, 2]),
    ],
)
def test_tasks_that_run_are_chosen_by_host_and_age(view, wanted, found):
    wanted = wanted._replace(states=frozenset([State.RUNNING]))
    assert select(view, wanted, NOW, with_attempts=False).taskids == found


# ---- tasks that have ended -----------------------------------------------------------

PLACES = {
    State.FINISHED: [0, 1],
    State.FAILED: [2, 3, 4, 5],
    State.WAITING: [6, 7],
}
LINES = {
    each.taskid: each.line.rstrip("\n").encode()
    for each in (
        Attempt(0, seconds=5.0),
        Attempt(1, status=1, seconds=9.0),  # of before a plain farmer finished it
        Attempt(2, status=1, seconds=5.0),
        Attempt(3, seconds=9.0),  # of before it failed elsewhere
        Attempt(4, outcome="not run: waits", status=1, seconds=9.0),
        Attempt(6, status=3, seconds=7.0, host="n2"),
        Attempt(7, seconds=1234.5),
    )
}
LINES[7] = LINES[7].replace(b"\t1234.5", b"\tsoon")


def ended_view() -> Any:
    return SimpleNamespace(
        running={},
        plain={},
        total=8,
        counts=dict.fromkeys(State, 0) | {key: len(ids) for key, ids in PLACES.items()},
        ids_in=lambda *states: sorted(
            taskid for state in states for taskid in PLACES.get(state, ())
        ),
        read_attempts=lambda _taskids: LastAttempts(LINES),
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Conditions(statuses=frozenset([1])), [2]),
        (Conditions(statuses=frozenset([0])), [0, 7]),
        (Conditions(statuses=frozenset([1, 3])), [2, 6]),
        (Conditions(host="n*"), [0, 2, 6, 7]),
        (Conditions(host="n2"), [6]),
        (Conditions(longer_than=5.0), [0, 2, 6]),
        (Conditions(longer_than=5.001), [6]),
        (Conditions(slowest=3), [6, 0, 2]),
        (Conditions(slowest=1), [6]),
        (Conditions(slowest=1, host="n1", statuses=frozenset([1])), [2]),
        (Conditions(frozenset([State.FAILED]), host="n1"), [2]),
        (Conditions(frozenset([State.FINISHED]), host="n1"), [0]),
        (Conditions(frozenset([State.WAITING, State.FINISHED])), [0, 1, 6, 7]),
        (Conditions(), [*range(8)]),
    ],
)
def test_tasks_that_ended_are_chosen_by_attempts_that_fit_their_state(wanted, found):
    assert select(ended_view(), wanted, NOW, with_attempts=False).taskids == found


@pytest.mark.parametrize(
    ("states", "with_attempts", "read"),
    [
        (frozenset([State.FINISHED]), False, []),
        (frozenset([State.FINISHED]), True, [[0, 1]]),
        (frozenset([State.FAILED]), True, [None]),
        (frozenset(), True, [None]),
    ],
)
def test_attempts_are_read_where_they_are_wanted_and_of_few_tasks_alone(
    states, with_attempts, read
):
    view = ended_view()
    asked: list[Any] = []

    def note(taskids: Any) -> LastAttempts:
        asked.append(taskids)
        return LastAttempts({})

    view.read_attempts = note
    select(view, Conditions(states), NOW, with_attempts=with_attempts)
    assert asked == read


@pytest.mark.parametrize("odd", [b"nan", b"inf", b"1e999"])
def test_a_time_that_is_not_finite_is_none(monkeypatch, odd):
    monkeypatch.setitem(LINES, 7, LINES[7].replace(b"\tsoon", b"\t" + odd))
    for wanted, found in (
        (Conditions(slowest=3), [6, 0, 2]),
        (Conditions(longer_than=5.0), [0, 2, 6]),
    ):
        assert select(ended_view(), wanted, NOW, with_attempts=False).taskids == found
