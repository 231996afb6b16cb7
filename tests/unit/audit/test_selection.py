"""Which tasks of a view a user means: the running ones among them."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.audit.selection import Conditions, select
from mpifarm.audit.view import State
from mpifarm.store.attempts import LastAttempts

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
