"""A kill, or a full disk, at any step on files or rows loses no task and doubles none.

The steps are those on the files of the workdir, and each statement that changes rows:
before it, and behind it, when its answer is lost.
"""

import os
from collections.abc import Callable, Sequence

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.order.constraints import Barrier, Constraints
from mpifarm.store.database_store import DatabaseStore
from mpifarm.store.held_file import Held
from tests.unit.database_fakes import (
    ENDED,
    DatabaseSite,
    FastConnection,
    connecting_by,
    full_database,
    struck_at,
)
from tests.unit.store_fakes import TASKS, Killed, ended, full_disk

MAX_STEPS = 100
Operation = Callable[[], DatabaseStore]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with connecting_by(FastConnection):
        yield


@pytest.fixture
def make_directory(tmp_path):
    numbers = iter(range(10**6))

    def make():
        directory = tmp_path / f"site {next(numbers)}"
        directory.mkdir()
        return directory

    return make


ORDER = Constraints(barriers=[Barrier(6, checks=False)], after={2: (0,), 4: (1,)})


def begin(site: DatabaseSite) -> DatabaseStore:
    """A farm that holds 0 to 5, while 6 and 7 are finished and failed."""
    store = site.open()
    store.transact((), (), 8)
    store.transact([ended(6), ended(7, 1)], (), 0)
    return store


def transacted(
    store: DatabaseStore,
    results: Sequence[tuple[int, int]] = (),
    back: Sequence[int] = (),
    take: int = 0,
    pull: Sequence[int] = (),
) -> Operation:
    def operation():
        store.transact([ended(*each) for each in results], back, take, pull)
        return store

    return operation


def first_take(site: DatabaseSite) -> Operation:
    return transacted(site.open(), take=5)


def record(site: DatabaseSite) -> Operation:
    return transacted(begin(site), results=[(0, 0), (1, 3), (2, 0)])


def give_back(site: DatabaseSite) -> Operation:
    return transacted(begin(site), back=(1, 3, 5))


def everything(site: DatabaseSite) -> Operation:
    return transacted(begin(site), [(0, 0), (1, 3), (2, 0)], (3, 4), 2, (9,))


def give_back_held(site: DatabaseSite) -> Operation:
    store = begin(site)
    store.hold(Held(frozenset({1, 3})))
    return transacted(store, back=(1, 3, 5))


def open_a_barrier(site: DatabaseSite) -> Operation:
    store = site.open()
    for _ in range(3):
        taken = store.transact((), (), 12).taken
        store.transact([ended(each) for each in taken if each != 5], (), 0)
    return transacted(store, [(5, 0)], (), 3)


def doom(site: DatabaseSite) -> Operation:
    store = site.open()
    store.transact((), (), 12)
    return transacted(store, [(0, 1), (1, 1)], (), 12)


def close(site: DatabaseSite) -> Operation:
    store = begin(site)
    store.transact((), sorted(store.held), 0)

    def operation() -> DatabaseStore:
        assert store.close()
        return store

    return operation


def start(site: DatabaseSite) -> Operation:
    return site.open


def reclaim(site: DatabaseSite) -> Operation:
    site.kill(begin(site))
    return site.open


def take_over(site: DatabaseSite) -> Operation:
    lost = begin(site)
    site.kill(lost)
    return lambda: site.open(predecessor=lost.farm)


def take_up(site: DatabaseSite) -> Operation:
    store = begin(site)
    site.insert("echo new", "echo newer", after="3")

    def operation() -> DatabaseStore:
        assert store.take_up(10) == 2
        store.transact((), (), 12)
        return store

    return operation


PLAIN = [first_take, record, give_back, everything, close, start, reclaim, take_over]
ORDERED = [open_a_barrier, doom, start]
OPERATIONS = [
    *((each, Constraints()) for each in [*PLAIN, give_back_held, take_up]),
    *((each, ORDER) for each in ORDERED),
]


def name_of(value):
    return getattr(value, "__name__", "ordered" if value else "plain")


def run_struck(prepared, site, at, of_files, of_rows):
    """Run an operation with a strike at a step.  Return whether it came so far."""
    operation = prepared(site)
    with struck_at(at, of_files, of_rows) as steps:
        try:
            operation()
        except (Killed, StorageError, InputError, AssertionError):
            assert steps.steps >= at
    return steps.steps >= at


def finish(site: DatabaseSite) -> None:
    """A new farm does all that is left."""
    store = site.open()
    done = store.transact((), (), 5)
    while done.taken or done.not_run:
        results = [ended(taskid) for taskid in done.taken]
        results += [ended(taskid, 1) for taskid, _ in done.not_run]
        done = store.transact(results, (), 5)
    assert store.close()
    assert site.violations() == []
    total = len(TASKS) + len(site.ask("SELECT id FROM tasks WHERE id >= 12"))
    assert site.ids(*ENDED) == [*range(total)]
    assert os.listdir(site.root / "claims") == []


@pytest.mark.parametrize(("prepared", "order"), OPERATIONS, ids=name_of)
def test_a_kill_at_any_step_leaves_every_task_in_one_place(
    prepared, order, make_directory
):
    for at in range(1, MAX_STEPS):
        site = DatabaseSite(make_directory(), constraints=order)
        struck = run_struck(prepared, site, at, Killed(), Killed())
        assert site.violations() == [], at
        ended_before = site.ids(*ENDED)
        site.kill_all()
        finish(site)
        twice = [each for each in ended_before if site.attempts().count(each) > 1]
        assert twice == [], at
        if not struck:
            return
    pytest.fail("the operation never came to its end")


@pytest.mark.parametrize(("prepared", "order"), OPERATIONS, ids=name_of)
def test_a_full_disk_at_any_step_damages_nothing(prepared, order, make_directory):
    for at in range(1, MAX_STEPS):
        site = DatabaseSite(make_directory(), constraints=order)
        struck = run_struck(prepared, site, at, full_disk(), full_database())
        assert site.violations() == [], at
        site.kill_all()
        finish(site)
        if not struck:
            return
    pytest.fail("the operation never came to its end")


@pytest.mark.parametrize("order", [Constraints(), ORDER], ids=name_of)
def test_a_transaction_that_failed_goes_on_where_it_stopped(order, make_directory):
    for at in range(1, MAX_STEPS):
        site = DatabaseSite(make_directory(), constraints=order)
        store = site.open()
        first, second, third, *_ = store.transact((), (), 6).taken
        stays = set(store.held) - {first, second, third}
        results, back = [ended(first), ended(second, 1)], (third,)
        with struck_at(at, full_disk(), full_database()) as steps:
            try:
                store.transact(results, back, 3)
            except StorageError:
                pass
            else:
                assert steps.steps < at
                return
        done = store.transact(results, back, 3)
        new = [*done.taken, *(taskid for taskid, _ in done.not_run)]
        assert set(store.held) == site.held(store.farm) == {*stays, *new}
        assert third not in new
        assert len(new) == len({*new}) >= 1
        assert site.attempts() == [first, second]
        assert store.recorded == (1, 1)
        assert site.violations() == []
    pytest.fail("the transaction never came to its end")
