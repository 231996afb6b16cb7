"""`Store.transact_or_reclaim`: dead farms are looked for when nothing is left."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import StorageError
from mpifarm.store.store import Store
from mpifarm.store.types import Transacted


def carry_out(take: int, taken: list[int], *, empty: bool, reclaims: Any = 2) -> Any:
    """What is brought, how often dead farms were looked for, and the notes."""
    looks: list[int] = []

    def reclaim_dead() -> int:
        looks.append(1)
        if isinstance(reclaims, Exception):
            raise reclaims
        return int(reclaims)

    store: Any = SimpleNamespace(
        notes=[],
        transact=lambda *wanted: Transacted(taken, empty, 0.5),
        reclaim_dead=reclaim_dead,
        _more_may_come=False,
        _attempts=SimpleNamespace(append=lambda: None),
    )
    store._try_to_reclaim = lambda: Store._try_to_reclaim(store)
    done = Store.transact_or_reclaim(store, [], [], take)
    assert (done.taken, done.seconds) == (taken, 0.5)
    return done.empty, len(looks), store.notes


def test_what_dead_farms_held_is_more_to_take():
    assert carry_out(5, [], empty=True) == (False, 1, [])


def test_where_no_farm_is_dead_nothing_is_left():
    assert carry_out(5, [], empty=True, reclaims=0) == (True, 1, [])


@pytest.mark.parametrize(
    ("take", "taken", "empty"), [(0, [], True), (5, [3], True), (5, [], False)]
)
def test_nobody_is_looked_for_while_there_is_more_or_nothing_is_wanted(
    take, taken, empty
):
    assert carry_out(take, taken, empty=empty) == (empty, 0, [])


def test_a_disk_that_fails_there_costs_a_note_and_not_the_transaction():
    error = StorageError("can't read claims")
    end = carry_out(5, [], empty=True, reclaims=error)
    assert end == (True, 1, ["can't read claims"])
