"""How long a rank sleeps, and what ends its sleep.  Nothing here really sleeps."""

from collections.abc import Iterator, Sequence

import pytest

from mpifarm.system import event_loop
from mpifarm.system.event_loop import (
    COALESCE_SECONDS,
    EAGER_LOOKS,
    EAGER_SECONDS,
    LONGEST_SECONDS,
    MAX_SECONDS,
    PAUSE_SECONDS,
    Clock,
    Waiter,
)
from tests.unit.virtual_rank import Clock as VirtualClock

SIGNAL_FD, POOL_FD = 7, 8


class Sleeper:
    """The machine's select: it notes each sleep, and the clock moves by it."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.slept: list[float] = []
        self.watched: list[tuple[int, ...]] = []
        self.ready_at_sleep = 0
        """The number of the sleep that a descriptor ends at once; 0: none."""

    def select(
        self, read: Sequence[int], _write: object, _odd: object, seconds: float
    ) -> tuple[list[int], list[int], list[int]]:
        self.watched.append(tuple(read))
        self.slept.append(seconds)
        if len(self.slept) == self.ready_at_sleep:
            return [read[0]], [], []
        self.clock.advance(max(seconds, 1e-6))  # a look takes time, too
        return [], [], []


@pytest.fixture
def sleeper(monkeypatch) -> Sleeper:
    clock = VirtualClock()
    sleeper = Sleeper(clock)
    monkeypatch.setattr(event_loop, "select", sleeper)
    monkeypatch.setattr(event_loop, "time", type("time", (), {"monotonic": clock}))
    return sleeper


def probing(answers: Iterator[bool] | None = None) -> Waiter:
    """Return the waiter of a rank with MPI; no message comes by default."""
    return Waiter(SIGNAL_FD, lambda: next(answers, False) if answers else False)


@pytest.mark.parametrize(
    ("asked", "slept"), [(0.25, 0.25), (-3.0, 0.0), (3600.0, LONGEST_SECONDS)]
)
def test_without_mpi_a_rank_sleeps_once_and_a_second_at_most(sleeper, asked, slept):
    Waiter(SIGNAL_FD, None).wait([POOL_FD], asked)
    assert sleeper.slept == [slept]
    assert sleeper.watched == [(SIGNAL_FD, POOL_FD)]
    assert LONGEST_SECONDS == 1.0


def test_with_mpi_the_sleeps_between_two_probes_double_up_to_6_ms(sleeper):
    probing().wait([POOL_FD], 0.1)
    first, *rest = sleeper.slept
    assert first == 0.0
    assert rest[:3] == [MAX_SECONDS / 64, MAX_SECONDS / 32, MAX_SECONDS / 16]
    assert max(rest) == MAX_SECONDS == 0.006
    assert sum(rest) == pytest.approx(0.1, abs=0.001)
    assert set(sleeper.watched) == {(SIGNAL_FD, POOL_FD)}


def test_a_farm_with_mpi_sleeps_a_second_at_most_too(sleeper):
    probing().wait([], 3600.0)
    assert sum(sleeper.slept) == pytest.approx(LONGEST_SECONDS, abs=0.01)


def test_a_message_ends_the_sleep_at_the_next_probe(sleeper):
    probing(iter([False, False, True])).wait([], 1.0)
    assert len(sleeper.slept) == 3


def test_a_rank_goes_on_with_long_sleeps_until_something_happened(sleeper):
    waiter = probing()
    waiter.wait([], 0.1)
    sleeper.slept.clear()
    waiter.wait([], 0.01)
    assert sleeper.slept[0] == MAX_SECONDS
    sleeper.slept.clear()
    waiter.restart()
    waiter.wait([], 0.01)
    assert sleeper.slept[0] == 0.0


def test_a_descriptor_ends_the_sleep_and_the_next_ones_are_short(sleeper):
    waiter = probing()
    waiter.wait([], 0.1)
    sleeper.ready_at_sleep = len(sleeper.slept) + 1
    waiter.wait([POOL_FD], 1.0)
    assert len(sleeper.slept) == sleeper.ready_at_sleep
    waiter.wait([], 0.01)
    assert sleeper.slept[sleeper.ready_at_sleep] == 0.0


def test_who_has_asked_rank_0_sleeps_shortly_for_some_looks(sleeper):
    waiter = probing()
    waiter.wait([], 0.1)
    sleeper.slept.clear()
    waiter.expect()
    waiter.wait([], 0.2)
    long = [n for n, each in enumerate(sleeper.slept) if each > EAGER_SECONDS]
    short = [each for each in sleeper.slept[: long[0]] if each == EAGER_SECONDS]
    assert len(short) == EAGER_LOOKS + 1
    assert max(sleeper.slept) == MAX_SECONDS


@pytest.mark.parametrize(("asked", "slept"), [(0.01, 0.01), (5.0, COALESCE_SECONDS)])
def test_while_workers_have_work_ahead_only_a_signal_ends_a_sleep(
    sleeper, asked, slept
):
    probing(iter([True])).coalesce(asked)
    assert (sleeper.slept, sleeper.watched) == ([slept], [(SIGNAL_FD,)])
    assert COALESCE_SECONDS == 0.04


def test_a_step_that_takes_seconds_is_a_suspension(sleeper):
    clock = Clock()
    begun = clock.now
    sleeper.clock.advance(PAUSE_SECONDS)
    assert clock.step() == 0.0
    sleeper.clock.advance(PAUSE_SECONDS + 0.5)
    assert clock.step() == pytest.approx(2.5)
    assert clock.now - begun == pytest.approx(4.5)
    assert clock.step() == 0.0
