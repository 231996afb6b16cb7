"""The statements by which farms take tasks of a database, and keep some apart."""

from contextlib import closing

import pytest

from mpifarm.database import farming, schema, tasks
from mpifarm.database.tasks import NewTask
from mpifarm.order.constraints import Barrier


@pytest.fixture
def connection(tmp_path):
    path = str(tmp_path / "tasks.db")
    with schema.creating(path) as new:
        tasks.insert(new, [NewTask(each, b"true") for each in range(8)])
    with closing(schema.connect(path)) as connection:
        connection.execute("BEGIN")
        yield connection
        connection.execute("ROLLBACK")


def waiting(connection):
    query = "SELECT id FROM tasks WHERE state = 'waiting' ORDER BY id"
    return [taskid for (taskid,) in connection.execute(query)]


def insist(connection, column, value, *taskids):
    for taskid in taskids:
        query = f'UPDATE tasks SET "{column}" = ? WHERE id = ?'
        connection.execute(query, (value, taskid))


@pytest.mark.parametrize(("column", "value"), [("after", "0"), ("kind", "gpu")])
def test_rows_with_an_order_or_a_kind_are_kept_apart(connection, column, value):
    insist(connection, column, value, 2, 5, 7)
    assert farming.keep_apart(connection, 2, 7, singly=True) == 2
    assert waiting(connection) == [2, 5]


def test_where_no_row_has_them_none_is_looked_at(connection):
    insist(connection, "kind", "gpu", 2)
    assert farming.keep_apart(connection, 0, 8, singly=False) == 0
    assert waiting(connection) == []


def test_all_rows_behind_the_first_barrier_are_kept_apart(connection):
    tasks.insert_barriers(connection, [Barrier(4, checks=False, since=0)])
    insist(connection, "state", "finished", 5)
    assert farming.keep_apart(connection, 0, 7, singly=False) == 2
    assert waiting(connection) == [4, 6]
    assert farming.keep_apart(connection, 7, 8, singly=False) == 1
    assert waiting(connection) == [4, 6, 7]


def test_a_plain_farmer_is_given_what_may_run_of_what_it_knows(connection):
    insist(connection, "state", "finished", 0)
    insist(connection, "state", "waiting", 1)
    assert farming.find_shared(connection, 8) == 2
    insist(connection, "state", "running", 2)
    assert farming.find_shared(connection, 3) is None
