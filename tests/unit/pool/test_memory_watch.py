"""Which run has too much memory, and what is due for it: with made-up sizes."""

from collections.abc import Callable
from typing import Any

import pytest

from mpifarm.pool.memory_watch import PERIOD, SOON, MemoryWatch
from mpifarm.pool.shared_state import SharedState, WorkerRow
from mpifarm.pool.time_limit import LATE, REMIND, SECOND, TimeAction

START = 1000 * SECOND
GB = 2**30


class Site:
    """A watch over two workers with a limit of 4 GB."""

    def __init__(self) -> None:
        shared = SharedState()
        self.rows: dict[int, WorkerRow] = {0: shared.row(0), 1: shared.row(1)}
        self.sizes = {0: 0, 1: 0}
        self.measured: list[int] = []
        self.on_measure: Callable[[], object] = lambda: None
        self.watch = MemoryWatch(4 * GB, self._measure)
        self.now = START

    def _measure(self, index: int) -> int:
        self.measured.append(index)
        self.on_measure()
        return self.sizes[index]

    def begin(self, index: int, serial: int = 1) -> None:
        self.rows[index].begin_lease(serial)
        self.rows[index].begin_task(7, 1.7e9)

    def look(self, after: int = PERIOD) -> list[tuple[int, TimeAction]]:
        self.now += after
        return self.watch.look(self.rows, self.now)


@pytest.fixture
def site(monkeypatch: Any) -> Site:
    # A look takes no time but what a test says.
    monkeypatch.setattr("time.perf_counter_ns", lambda: 0)
    return Site()


def test_a_run_that_has_more_than_its_limit_is_noted_and_its_worker_reminded(site):
    site.begin(0)
    site.begin(1)
    site.sizes = {0: 4 * GB, 1: 4 * GB + 1}
    assert site.look() == [(1, TimeAction.REMIND)]
    assert (site.rows[0].excess, site.rows[1].excess) == (0, 4 * GB + 1)


def test_a_worker_that_does_not_end_the_run_is_killed(site):
    site.begin(0)
    site.sizes[0] = 5 * GB
    assert site.look() == [(0, TimeAction.REMIND)]
    assert site.watch.look_at == site.now + REMIND
    site.sizes[0] = 0
    assert site.look(LATE - 1) == [(0, TimeAction.REMIND)]
    assert site.measured == [0], "it is to end whatever it has now"
    assert site.look(REMIND) == [(0, TimeAction.KILL_WORKER)]


def test_the_next_run_of_the_worker_is_none_with_too_much(site):
    site.begin(0)
    site.sizes[0] = 5 * GB
    site.look()
    site.rows[0].end_task()
    assert (site.rows[0].excess, site.look()) == (0, [])
    site.sizes[0] = GB
    site.begin(0, serial=2)
    assert (site.rows[0].excess, site.look()) == (0, [])
    site.sizes[0] = 6 * GB
    assert site.look() == [(0, TimeAction.REMIND)]
    assert site.rows[0].excess == 6 * GB


def test_a_run_that_begins_while_the_last_is_measured_is_not_meant(site):
    site.begin(0)
    site.sizes[0] = 5 * GB
    site.on_measure = lambda: site.begin(0, serial=2)
    site.look()
    assert site.rows[0].excess == 0


def test_idle_workers_are_not_measured_and_nothing_is_before_its_time(site):
    assert site.look() == []
    site.begin(0)
    assert site.look(PERIOD - 1) == []
    assert site.measured == []
    site.look(1)
    assert site.measured == [0]


def test_a_run_near_its_limit_is_looked_at_sooner(site):
    site.begin(0)
    site.sizes[0] = 2 * GB
    site.look()
    assert site.watch.look_at == site.now + PERIOD
    site.sizes[0] = 3 * GB
    site.look()
    assert site.watch.look_at == site.now + SOON


def test_looks_that_take_long_are_rare(site, monkeypatch):
    ticks = iter([0, 2 * SECOND])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(ticks))
    site.begin(0)
    site.look()
    assert site.watch.look_at == site.now + 8 * SECOND
