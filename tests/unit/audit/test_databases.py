"""A database that is read as a workdir: each row counts as a line of a file would."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpifarm.audit import database_rows
from mpifarm.audit.audit import audit_contents
from mpifarm.audit.databases import read_database
from mpifarm.audit.locate import locate_tasks
from mpifarm.audit.snapshot import observer
from mpifarm.audit.view import State, read_view
from mpifarm.database import schema, tasks
from mpifarm.database.tasks import Row, TaskState
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.target import Target
from mpifarm.store.task_map import Location
from tests.farm_states import write_claim

LIVE, DEAD, GONE = "abcd0001", "abcd0002", "abcd0003"

HOLDERS = {
    LIVE: State.CLAIMED,
    DEAD: State.ORPHANED,
    GONE: State.ORPHANED,
    "PyTaskFarmer n1 7": State.NOWHERE,
    None: State.NOWHERE,
}
"""The states of running tasks, by who has them; `GONE` has no claim."""

STATES = {
    TaskState.TO_PROCESS: State.WAITING,
    TaskState.WAITING: State.WAITING,
    TaskState.FINISHED: State.FINISHED,
    TaskState.FAILED: State.FAILED,
    TaskState.CANCELLED: State.FAILED,
}

LOCATIONS = {
    State.WAITING: Location.QUEUED,
    State.FINISHED: Location.FINISHED,
    State.FAILED: Location.FAILED,
    State.CLAIMED: Location.CLAIMED,
    State.ORPHANED: Location.CLAIMED,
    State.NOWHERE: Location.NOWHERE,
}

ROWS = st.lists(
    st.one_of(
        st.sampled_from([*STATES]).map(lambda state: (state, None)),
        st.sampled_from([*HOLDERS]).map(lambda farm: (TaskState.RUNNING, farm)),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A directory with the claims of a farm that lives, and of a dead one."""
    directory: Path = tmp_path_factory.mktemp("rows")
    root = directory / "tasks.db_workdir"
    root.mkdir()
    paths = WorkdirPaths(str(root))
    write_claim(paths, LIVE, [])
    write_claim(paths, DEAD, [], is_dead=True)
    return directory


def create(directory: Path, rows: Sequence[tuple[TaskState, str | None]]) -> Target:
    path = directory / "tasks.db"
    path.unlink(missing_ok=True)
    with schema.creating(str(path)) as connection:
        tasks.insert_rows(
            connection,
            (
                Row(taskid, f"echo {taskid}", state.value, farm=farm)
                for taskid, (state, farm) in enumerate(rows)
            ),
        )
    return Target(f"{path}_workdir", str(path))


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=ROWS)
def test_all_readers_agree_with_the_rows(directory, rows):
    target = create(directory, rows)
    wanted = [
        HOLDERS[farm] if state is TaskState.RUNNING else STATES[state]
        for state, farm in rows
    ]
    view = read_view(target, {"HOME": "/"})
    assert [*view.states(range(len(rows)))] == wanted
    assert [*map(view.state, range(len(rows)))] == wanted
    for state in {*wanted}:
        assert view.counts[state] == wanted.count(state)
        ids = [taskid for taskid, each in enumerate(wanted) if each is state]
        assert view.ids_in(state) == ids
    assert view.find_cancelled(view.read_attempts()) == {
        i for i, (state, _) in enumerate(rows) if state is TaskState.CANCELLED
    }
    texts, contents, *_ = read_database(target, {"HOME": "/"}, observer())
    locator = locate_tasks(contents, texts.tasks, has_own_state=False)
    audit = audit_contents(contents, texts.tasks)
    for taskid, state in enumerate(wanted):
        assert locator.locate(taskid).location is LOCATIONS[state]
        assert audit.locations.find(taskid) is LOCATIONS[state]
    assert all(view.holder(i) is not None for i in view.ids_in(State.ORPHANED))


def test_what_failed_last_is_by_its_end(directory):
    target = create(directory, [(TaskState.FAILED, None)] * 3)
    ends = [("2026-01-01T10:00:00.000Z", 7200.0), ("2026-01-01T11:00:00.000Z", 1.0)]
    with closing(schema.connect(target.tasklist or "")) as connection:
        connection.executemany(
            "UPDATE tasks SET started = ?, seconds = ? WHERE id = ?",
            [(*end, taskid) for taskid, end in enumerate(ends)],
        )
    assert read_view(target, {"HOME": "/"}).last_failed(3) == [0, 1, 2]


def test_an_attempt_has_its_end_where_the_state_is_of_it_and_empty_fields_are_none():
    line = b"3\t1\tfailed\t7\t\tn1\t0\t2\t77\t2026\t\t0.1\t0.2\t\t9\tf00d\techo"
    fields = line.split(b"\t")
    expected = ("1", "failed", "7", None, "n1", "2026", None, None)
    assert database_rows._describe_end(State.FAILED, fields) == expected
    none = database_rows._NO_END
    assert database_rows._describe_end(State.FINISHED, fields) == none
    assert database_rows._describe_end(State.FAILED, []) == none
