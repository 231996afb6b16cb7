"""The statements on the tasks of a database."""

from contextlib import closing

import pytest

from mpifarm.database import schema, tasks
from mpifarm.database.errors import explained
from mpifarm.database.tasks import LastEnd, NewTask, TaskEnd, TaskState
from mpifarm.errors import InputError
from mpifarm.order.constraints import Barrier


@pytest.fixture
def connection(tmp_path):
    path = str(tmp_path / "tasks.db")
    with schema.creating(path) as new:
        tasks.insert(
            new,
            [
                NewTask(0, b"first"),
                NewTask(1, b"second"),
                NewTask(2, b"odd \xff", TaskState.WAITING, after=(0, 1)),
                NewTask(3, "ümlaut".encode(), TaskState.WAITING, kind="gpu"),
                NewTask(4, b"last"),
            ],
        )
        tasks.insert_barriers(new, [Barrier(4, checks=True, since=1)])
    with closing(schema.connect(path)) as connection:
        yield connection


def test_commands_are_read_as_they_were_inserted(connection):
    texts = tasks.read_commands(connection)
    assert texts == ["first", "second", "odd \udcff", "ümlaut", "last"]
    assert tasks.read_commands(connection, 3) == ["ümlaut", "last"]


def test_a_command_that_is_not_utf_8_is_a_blob(connection):
    query = "SELECT typeof(command) FROM tasks ORDER BY id"
    kinds = [kind for (kind,) in connection.execute(query)]
    assert kinds == ["text", "text", "blob", "text", "text"]


def test_a_text_of_a_user_that_is_not_utf_8_is_read(connection):
    connection.execute("INSERT INTO tasks (command) VALUES (CAST(x'61ff' AS TEXT))")
    assert tasks.read_commands(connection, 5) == ["a\udcff"]


def test_the_order_is_read_as_it_was_inserted(connection):
    constraints = tasks.read_constraints(connection)
    assert constraints.after == {2: (0, 1)}
    assert constraints.kinds == {3: "gpu"}
    assert constraints.barriers == [Barrier(4, checks=True, since=1)]


def test_the_order_of_a_part_is_read(connection):
    assert tasks.read_constraints(connection, 2, 3).after == {2: (0, 1)}
    part = tasks.read_constraints(connection, 3, 4)
    assert (part.after, part.kinds, part.barriers) == ({}, {3: "gpu"}, [])
    assert len(tasks.read_constraints(connection, 4, 5).barriers) == 1


OF_NO_TASK = """\
task 2 of t.db has an "after" that names no tasks ('x' is not the id of a task: write a
number, or 3,7-9): correct its "after", NULL for none (sqlite3 t.db 'UPDATE tasks SET
"after" = NULL WHERE id = 2')"""
OF_LATER = """\
task 2 of t.db waits for task 3, but a task can only wait for tasks with lower ids:
correct its "after", NULL for none (sqlite3 t.db 'UPDATE tasks SET "after" = NULL WHERE
id = 2')"""
OF_KIND = "task 2 of t.db has the kind 'a b': use letters, digits, _ . - in its name"
OUT_OF_PLACE = """\
the barrier in front of task 99 of t.db is out of place, because the tasks are 0 to 4:
correct its row in the table barriers, or delete it (sqlite3 t.db 'DELETE FROM barriers
WHERE "before" = 99')"""
FROM_BEHIND = """\
the barrier in front of task 4 of t.db checks the tasks from 5 on, and that is no id in
front of it: correct since in its row in the table barriers, 0 for all tasks (sqlite3
t.db 'UPDATE barriers SET since = 0 WHERE "before" = 4')"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE tasks SET \"after\" = 'x' WHERE id = 2", OF_NO_TASK),
        ("UPDATE tasks SET \"after\" = '0,3' WHERE id = 2", OF_LATER),
        ("UPDATE tasks SET \"after\" = '2' WHERE id = 2", "2 of t.db waits for task 2"),
        ("UPDATE tasks SET kind = 'a b' WHERE id = 2", OF_KIND),
        ("INSERT INTO barriers VALUES (99, 0, 0)", OUT_OF_PLACE),
        ("INSERT INTO barriers VALUES (0, 0, 0)", "task 0 of t.db is out of place"),
        ("DELETE FROM tasks", "is out of place, because there are no tasks: correct"),
        ("UPDATE barriers SET since = 5", FROM_BEHIND),
        ("UPDATE barriers SET since = 'x'", "checks the tasks from 'x' on, and"),
        ("UPDATE barriers SET since = -1", "checks the tasks from -1 on, and"),
    ],
)
def test_an_order_that_cannot_be_is_told_with_the_row_and_the_remedy(
    connection, change, words
):
    connection.execute(change)
    with pytest.raises(InputError) as caught, explained("t.db"):
        tasks.read_constraints(connection)
    assert words.replace("\n", " ") in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        'UPDATE barriers SET "before" = 5, since = 5',
        "UPDATE tasks SET \"after\" = '' WHERE id = 2",
        "UPDATE tasks SET \"after\" = '1' WHERE id = 2",
    ],
)
def test_an_order_up_to_each_bound_is_right(connection, change):
    connection.execute(change)
    tasks.read_constraints(connection)


MISSING = """\
task 1 of t.db is missing, in front of task 2: ids go from 0 without gaps; insert it, or
give the tasks behind it lower ids"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM tasks WHERE id = 1", MISSING),
        ("DELETE FROM tasks WHERE id < 3", "task 0 of t.db is missing, in front of ta"),
        (
            "UPDATE tasks SET command = 'a' || char(0) || 'b' WHERE id = 3",
            "the command of task 3 of t.db has a NUL in it, which no command can have:",
        ),
    ],
)
def test_tasks_that_cannot_be_run_are_told(connection, change, words):
    connection.execute(change)
    with pytest.raises(InputError) as caught, explained("t.db"):
        tasks.read_commands(connection)
    assert words.replace("\n", " ") in str(caught.value)


def test_a_row_of_a_database_without_a_name_is_told_as_well(connection):
    connection.execute("DELETE FROM tasks WHERE id = 1")
    with pytest.raises(InputError, match="task 1 of the database is missing"):
        tasks.read_commands(connection)


def test_a_first_row_that_sqlite_has_numbered_is_told_with_the_remedy(connection):
    connection.execute("DELETE FROM tasks")
    connection.execute("INSERT INTO tasks (command) VALUES ('x')")
    with pytest.raises(InputError) as caught, explained("my t.db"):
        tasks.read_commands(connection)
    remedy = "number them anew (sqlite3 'my t.db' 'UPDATE tasks SET id = id - 1')"
    assert str(caught.value).endswith(remedy)


def test_a_task_is_taken_requeued_and_recorded(connection):
    assert tasks.find_first(connection, 2) == [0, 1]
    tasks.take(connection, "f1", [0, 1, 4])
    assert tasks.find_first(connection, 2) == []
    assert tasks.find_held(connection, "f1") == [0, 1, 4]
    tasks.requeue(connection, [1], TaskState.TO_PROCESS)
    tasks.inherit(connection, "f1", "f2")
    end = TaskEnd(0, TaskState.FAILED, 2, "failed", 7, None, "n1", "2026", 1.5, 10)
    tasks.record(connection, [end])
    assert [*tasks.find_holders(connection)] == [("f2", 4)]
    assert [*tasks.read_states(connection)] == [
        *((0, "failed"), (1, "to process"), (2, "waiting")),
        *((3, "waiting"), (4, "running")),
    ]
    first = next(tasks.read_ends(connection))
    assert (first.attempt, first.status, first.host, first.farm) == (2, 7, "n1", None)
    assert tasks.count_states(connection)[TaskState.WAITING] == 2
    assert tasks.find_ids(connection, TaskState.FAILED) == [0]


def test_a_transaction_that_raises_changes_nothing(connection):
    def take_and_fail() -> None:
        with tasks.transaction(connection):
            tasks.take(connection, "f", [0])
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        take_and_fail()
    assert tasks.find_held(connection, "f") == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda connection: tasks.find_first(connection, 2),
        lambda connection: tasks.find_held(connection, "f"),
        lambda connection: [*tasks.find_holders(connection)],
        lambda connection: tasks.inherit(connection, "f", "g"),
    ],
)
def test_the_index_finds_what_has_not_finished(connection, ask):
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    ask(connection)
    connection.set_trace_callback(None)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}").fetchone()
    assert "unfinished" in plan[-1]


def test_only_what_has_failed_or_was_cancelled_goes_back(connection):
    for taskid, state in enumerate(("finished", "failed", "cancelled", "running")):
        values = (state, taskid)
        connection.execute("UPDATE tasks SET state = ? WHERE id = ?", values)
    tasks.requeue_failed(connection, range(4), TaskState.TO_PROCESS)
    states = [state for _, state in tasks.read_states(connection)]
    assert states[:4] == ["finished", "to process", "to process", "running"]


def test_only_what_plain_farmers_have_goes_back(connection):
    tasks.take(connection, "f1", [0])
    tasks.take(connection, "PyTaskFarmer n1 7", [1])
    connection.execute("UPDATE tasks SET state = 'running' WHERE id = 2")
    connection.execute("UPDATE tasks SET state = 'finished' WHERE id = 3")
    tasks.requeue_plain(connection, range(4), TaskState.WAITING)
    states = [state for _, state in tasks.read_states(connection)]
    assert states[:4] == ["running", "waiting", "waiting", "finished"]


def test_commands_are_read_in_blocks_up_to_a_number(connection, monkeypatch):
    monkeypatch.setattr(tasks, "_BLOCK", 2)
    everything = ["first", "second", "odd \udcff", "ümlaut", "last"]
    for begin in range(6):
        assert tasks.read_commands(connection, begin) == everything[begin:]
        for most in range(4):
            found = tasks.read_commands(connection, begin, most)
            assert found == everything[begin : begin + most]
    connection.execute("DELETE FROM tasks WHERE id = 3")
    with pytest.raises(InputError, match="task 3 of the database is missing"):
        tasks.read_commands(connection)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("UPDATE tasks SET id = id + 1", "number them anew"),
        ("UPDATE tasks SET id = id + 2", "insert it, or give the tasks behind it"),
        ("DELETE FROM tasks WHERE id = 1", "insert it, or give the tasks behind it"),
    ],
)
def test_the_remedy_for_a_gap_is_that_of_its_kind(connection, change, remedy):
    for taskid in range(4, -1, -1):  # one by one: no id is there twice
        if change.startswith("UPDATE"):
            connection.execute(f"{change} WHERE id = {taskid}")
    if not change.startswith("UPDATE"):
        connection.execute(change)
    with pytest.raises(InputError) as caught:
        tasks.read_commands(connection)
    assert remedy in str(caught.value)


def test_only_ends_that_the_database_lacks_are_filled_in(connection):
    tasks.take(connection, "f1", [0, 1])
    first = TaskEnd(0, TaskState.FAILED, 2, "failed", 7, None, "n1", "2026", 1.5, 10)
    tasks.record(connection, [first])
    connection.execute("UPDATE tasks SET state = 'failed' WHERE id IN (1, 4)")
    facts = (3, "failed", 9, None, "n2", "2027", 2.5, 20)
    ends = [
        LastEnd(0, TaskState.FAILED, "f", *facts),
        LastEnd(1, TaskState.FAILED, "f", *facts),
        LastEnd(3, TaskState.FAILED, "f", *facts),
        LastEnd(4, TaskState.FAILED, "f", 3, None, *facts[2:]),
    ]
    tasks.fill_ends(connection, ends)
    query = "SELECT id, attempt, outcome, status, host FROM tasks WHERE id IN (0,1,3,4)"
    assert connection.execute(query).fetchall() == [
        (0, 2, "failed", 7, "n1"),
        (1, 3, "failed", 9, "n2"),
        (3, 0, None, None, None),
        (4, 0, None, None, None),
    ]
