"""The time left, as rank 0 tells it: what a look costs, and who holds what is left."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.coordinator.state import Phase
from mpifarm.errors import StorageError
from mpifarm.farm import time_left
from mpifarm.farm.time_left import MIN_SECONDS, TimeLeftLook
from mpifarm.model.wording import TimeLeft
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.store.held_file import Held
from mpifarm.store.unlimited import Unlimited

NOW = 100.0


class Farm:
    """A farm of ten tasks, of which some are done, and its finder."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.earlier: list[tuple[int, float]] = []
        self.answer: TimeLeft | None = TimeLeft(5.0, 10.0, 20.0)
        self.coordinator: Any = SimpleNamespace(
            phase=Phase.WORKING,
            commands=range(10),
            definition=SimpleNamespace(farm="f00d"),
            forecast=SimpleNamespace(
                estimate=self._estimate,
                note_earlier=lambda *of: self.earlier.append(of),
            ),
        )
        self.store: Any = SimpleNamespace(
            recorded=(3, 1),
            held_by_users=Held(),
            unlimited=Unlimited(UNORDERED),
            has_record_of=range(4).__contains__,
            paths="paths",
        )
        self.tally: Any = SimpleNamespace(done_before=0, share=lambda done: done / 8)
        parts: tuple[Any, ...] = (self.coordinator, self.store, self.tally)
        self.finder = TimeLeftLook(*parts)

    def _estimate(self, *given: Any) -> TimeLeft | None:
        self.asked.append(given)
        return self.answer


@pytest.fixture
def farm(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1e9)
    return Farm()


def test_looks_take_a_small_share_of_the_time(farm, monkeypatch):
    clock = iter([0.0, 3.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    farm.finder.find(NOW)
    assert farm.finder._due_at == NOW + 3.0 / time_left.MAX_SHARE
    assert farm.finder._due_at > NOW + MIN_SECONDS


@pytest.mark.parametrize(
    ("held", "is_known"),
    [
        (Held(), True),
        (Held(holds_all=True), False),
        (Held(frozenset(range(4, 10))), False),
        (Held(frozenset(range(3, 10))), False),
        (Held(frozenset(range(5, 10))), True),
        (Held(frozenset(range(4))), True),
    ],
)
def test_who_holds_all_that_is_left_alone_knows_until_when(farm, held, is_known):
    assert farm.finder.find(NOW) is not None
    farm.store.held_by_users = held
    found = farm.finder.find(NOW + MIN_SECONDS)
    assert (found is not None) is is_known
    assert len(farm.asked) == 1 + is_known


def test_tasks_that_wait_for_another_farms_limit_have_no_time(farm):
    kinds = dict.fromkeys(range(6, 10), "zz")
    farm.store.unlimited = Unlimited(Constraints(kinds=kinds))
    farm.store.unlimited.name_limits(())
    assert farm.finder.find(NOW) is not None
    farm.store.held_by_users = Held(frozenset({4, 5}))
    assert farm.finder.find(NOW + MIN_SECONDS) is None


def test_a_list_that_is_done_takes_no_time(farm):
    farm.store.recorded = (9, 1)
    farm.store.held_by_users = Held(frozenset({3}))
    assert farm.finder.find(NOW) is not None


def test_a_disk_that_does_not_give_them_is_no_reason_to_say_nothing(farm, monkeypatch):
    def fail(*_: object) -> None:
        raise StorageError("Input/output error")

    monkeypatch.setattr(time_left, "read_last_rows", fail)
    farm.tally.done_before = 4
    assert farm.finder.find(NOW) is not None
    assert farm.earlier == []
