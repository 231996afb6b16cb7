"""Which tasks of a database a farm may take: those that are ready, and the doomed."""

from collections.abc import Iterable, Iterator
from contextlib import closing

import pytest

from mpifarm.database import schema
from mpifarm.order.constraints import Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store import row_search
from mpifarm.store.row_search import FoundTasks, find_tasks
from tests.unit.database_fakes import DatabaseSite

TOTAL = 12
CONSTRAINTS = Constraints(after={1: (0,), 2: (1,), 5: (4,), 7: (4,)})
READY = [0, 3, 4, 6, 8, 9, 10, 11]


class Rows:
    """A database of twelve tasks, of which 1, 2, 5 and 7 wait for others."""

    def __init__(self, site: DatabaseSite, connection: schema.Connection) -> None:
        self.site = site
        self.connection = connection
        self.frontier = Frontier(CONSTRAINTS, bytearray(TOTAL), bytearray(TOTAL))

    def end(self, state: str, *taskids: int) -> None:
        for taskid in taskids:
            self.site.ask("UPDATE tasks SET state = ? WHERE id = ?", state, taskid)
        ended = {"finished": (), "failed": (), state: taskids}
        self.frontier.note_ends(finished=ended["finished"], failed=ended["failed"])

    def find(
        self, take: int, *, stays: Iterable[int] = (), held: Iterable[int] = ()
    ) -> tuple[list[int], list[int], bool]:
        found = find_tasks(
            *(self.connection, take, TOTAL, self.frontier),
            stays=frozenset(stays),
            held=({*held},),
        )
        assert found.ids == [*found.taken, *[taskid for taskid, _ in found.doomed]]
        return found.taken, [taskid for taskid, _ in found.doomed], found.is_empty


@pytest.fixture
def rows(tmp_path) -> Iterator[Rows]:
    site = DatabaseSite(tmp_path, constraints=CONSTRAINTS)
    with closing(schema.connect(str(site.path))) as connection:
        yield Rows(site, connection)


def test_the_first_that_are_ready_are_taken(rows):
    assert rows.find(2) == ([0, 3], [], False)
    assert rows.find(8) == (READY, [], True)
    assert rows.find(7) == (READY[:7], [], False)
    assert rows.find(0) == ([], [], False)
    assert rows.find(-1) == ([], [], False)


@pytest.mark.parametrize("window", [1, 2, 1000])
def test_what_waited_and_may_start_comes_behind_the_others(rows, monkeypatch, window):
    monkeypatch.setattr(row_search, "WINDOW", window)
    rows.end("finished", 4)
    assert rows.find(20) == ([0, 3, 6, 8, 9, 10, 11, 5, 7], [], True)
    assert rows.find(8) == ([0, 3, 6, 8, 9, 10, 11, 5], [], False)
    assert rows.find(9) == ([0, 3, 6, 8, 9, 10, 11, 5, 7], [], True)


@pytest.mark.parametrize("window", [1, 2, 1000])
def test_what_is_never_to_run_comes_beside(rows, monkeypatch, window):
    monkeypatch.setattr(row_search, "WINDOW", window)
    rows.end("failed", 0)
    assert rows.find(20) == (READY[1:], [1, 2], True)
    rows.end("finished", *READY[1:])
    assert rows.find(20) == ([5, 7], [1, 2], True)
    assert rows.find(1) == ([5], [1, 2], False)
    rows.end("finished", 5, 7)
    assert rows.find(0) == ([], [], True), "who takes nothing leaves them to others"
    assert rows.find(1) == ([], [1, 2], True)


def test_so_many_doomed_are_recorded_at_once(rows, monkeypatch):
    monkeypatch.setattr(row_search, "MAX_DOOMED", 1)
    rows.end("failed", 0)
    rows.end("finished", 3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert rows.find(5) == ([], [1], False)


def test_what_stays_is_there_for_a_later_transaction(rows):
    rows.end("finished", *READY[1:])
    assert rows.find(5, stays=[0]) == ([5, 7], [], False)
    rows.end("finished", 0)
    assert rows.find(5, stays=[1, 5, 7]) == ([], [], False)
    assert rows.find(5, stays=[5]) == ([1, 7], [], False)


def test_what_is_held_is_there_for_nobody(rows):
    rows.end("finished", *READY)
    assert rows.find(5, held=[1, 5, 7]) == ([], [], True)
    assert rows.find(5, held=[5]) == ([1, 7], [], True)


def test_without_an_order_only_what_is_ready_is_looked_at(rows):
    parts = rows.connection, 20, TOTAL, None
    found = find_tasks(*parts, stays=frozenset(), held=())
    assert (found.taken, found.doomed, found.is_empty) == (READY, [], True)


def test_a_task_that_is_taken_already_is_to_run_or_doomed(rows):
    found = FoundTasks()
    found.add(1, None)
    rows.end("failed", 0)
    found.add(2, rows.frontier)
    found.add(5, rows.frontier)
    assert (found.taken, found.doomed) == ([1, 5], [(2, "task 0 failed")])
