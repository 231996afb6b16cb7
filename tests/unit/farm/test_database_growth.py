"""Rank 0 and its database: what users insert is taken up, told and answered."""

import sqlite3
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from mpifarm.coordinator.coordinator import Phase
from mpifarm.databases import SqliteTaskList
from mpifarm.errors import InputError, StorageError
from mpifarm.farm.database_growth import DatabaseGrowth
from mpifarm.farm.growth import (
    Left,
    explain_left,
    has_changed,
    leave_unended,
    may_grow,
)
from mpifarm.lists.growth import LOOK_SECONDS, Odd, Oddity
from mpifarm.model.settings import Settings
from tests.unit.database_fakes import DatabaseSite, FastConnection, connecting_by


class Grown:
    """A database of 12 tasks, and its farm at work."""

    def __init__(self, directory: Any) -> None:
        self.site = DatabaseSite(directory)
        self.store = self.site.open()
        self.is_free = True
        self.told: list[str] = []
        self.events: list[str] = []
        self.now = 0.0
        coordinator: Any = SimpleNamespace(
            phase=Phase.WORKING,
            on_list_grown=lambda now: self.events.append("grown"),
            on_list_seen=lambda: self.events.append("seen"),
            commands=self.store._packed,
        )
        self.coordinator = coordinator
        self.store.unlimited.name_limits(["gpu"])
        lock: Any = SimpleNamespace(
            try_acquire=lambda: self.is_free, release=lambda: None
        )
        tasks: Any = SimpleNamespace(
            path="tasks.db", constraints=self.store._constraints
        )
        say = self.told.append
        farm = self.store, lock, coordinator, say, say
        self.growth = DatabaseGrowth(tasks, *farm, self.now)

    def run(self, seconds: float = LOOK_SECONDS) -> None:
        """Let the loop go on for so long."""
        until = self.now + seconds
        while True:
            if not self.growth.step(self.now):
                wake_at = max(self.growth.wake_at(), self.now + 0.001)
                if wake_at > until:
                    self.now = until
                    return
                self.now = wake_at


@pytest.fixture
def grown(tmp_path):
    with connecting_by(FastConnection):
        yield Grown(tmp_path)


def test_what_is_inserted_is_taken_up_within_two_seconds_and_told(grown):
    grown.run(5)
    grown.site.insert("echo new")
    grown.run(2)
    assert grown.events == ["grown"]
    assert grown.told == ["1 task was added to tasks.db: it runs too"]
    assert grown.store.transact((), (), 20).taken[-1] == 12


def test_a_database_that_nobody_writes_is_not_opened(grown, monkeypatch):
    grown.run(2)
    monkeypatch.setattr(grown.store, "take_up", None)
    grown.run(10)


def test_a_lock_that_others_hold_delays_the_taking_up(grown):
    grown.site.insert("echo new")
    grown.is_free = False
    grown.run(3)
    assert grown.events == []
    grown.is_free = True
    grown.run(0.1)
    assert grown.events == ["grown"]


def test_a_row_that_can_be_no_task_is_told_once(grown):
    grown.site.insert("echo new", after="nobody")
    grown.run(10)
    (sentence,) = grown.told
    begin = f'WARNING: task 12 of {grown.site.path} has an "after" that names no tasks'
    assert sentence.startswith(begin)
    left = grown.growth.find_left(grown.now)
    assert (left.added, left.odd.why) == (1, Oddity.WRONG)
    grown.site.ask('UPDATE tasks SET "after" = NULL WHERE id = 12')
    grown.run(2)
    assert grown.events == ["grown"]


def test_a_disk_that_fails_is_tried_again_and_told_by_others(grown):
    grown.site.insert("echo new")
    with sqlite3.connect(grown.site.path, isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        grown.run(2)
        connection.execute("ROLLBACK")
    connection.close()
    assert grown.told == []
    grown.run(2)
    assert grown.events == ["grown"]


def test_the_coordinator_hears_that_nothing_more_was_inserted(grown):
    grown.run(2)
    grown.growth.look_at_end()
    grown.run(0.1)
    assert grown.events == ["seen"]


def test_what_was_inserted_last_is_taken_up_before_the_coordinator_hears(grown):
    grown.growth.look_at_end()
    grown.site.insert("echo new")
    grown.run(0.1)
    assert grown.events[0] == "grown"


def test_a_farm_that_drains_takes_nothing_up(grown):
    grown.coordinator.phase = Phase.DRAINING
    grown.site.insert("echo new")
    grown.run(5)
    assert grown.events == []
    left = grown.growth.find_left(grown.now)
    assert explain_left("tasks.db", left).startswith(
        "1 task was added to tasks.db last"
    )


def test_a_kind_without_a_limit_is_told(grown):
    grown.site.ask("INSERT INTO tasks (command, kind) VALUES ('echo new', 'disk')")
    grown.run(2)
    assert "WARNING: tasks of the kind 'disk' were added" in grown.told[-1]


def test_a_task_of_a_kind_without_a_limit_is_left_to_farms_with_one(grown):
    for kind in ("disk", "gpu"):
        grown.site.ask("INSERT INTO tasks (command, kind) VALUES ('x', ?)", kind)
    grown.run(2)
    assert grown.store.transact((), (), 20).taken == [*range(12), 13]
    assert grown.store.transact((), (), 20).empty
    assert not grown.store._more_may_come
    other = grown.site.open()
    other.unlimited.name_limits(["disk", "gpu"])
    assert other.transact((), (), 20).taken == [12]


def test_a_database_may_grow_and_has_no_unended_line(grown):
    site = grown.site
    tasks: Any = SqliteTaskList(str(site.path), str(site.root))
    assert may_grow(tasks)
    assert not has_changed(tasks)
    leave_unended(tasks, Settings("tasks.db", str(site.root)))

    class OfAUser(SqliteTaskList):
        pass

    assert not may_grow(OfAUser(str(site.path), str(site.root)))  # type: ignore[arg-type]


def test_the_coordinator_hears_once_for_each_time_that_it_asks(grown):
    grown.growth.look_at_end()
    grown.run(3 * LOOK_SECONDS)
    assert grown.events == ["seen"]
    grown.run(3 * LOOK_SECONDS)
    assert grown.events == ["seen"]
    grown.growth.look_at_end()
    grown.run()
    assert grown.events == ["seen", "seen"]


def test_the_lock_is_given_back_also_where_nothing_can_be_taken_up(grown, monkeypatch):
    released: list[int] = []
    monkeypatch.setattr(grown.growth._lock, "release", lambda: released.append(1))
    for error in (StorageError("the disk"), InputError("a row")):
        fails = mock.Mock(side_effect=error)
        monkeypatch.setattr(grown.store, "take_up", fails)
        grown.growth.look_at_end()
        grown.growth.step(grown.now)
    assert released == [1, 1]
    assert grown.events == ["seen", "seen"]


def test_what_is_left_at_the_end_is_told_with_its_fault(grown, monkeypatch):
    monkeypatch.setattr(grown.store, "find_left", lambda: 2)
    assert grown.growth.find_left(0.0) == Left(2)
    grown.growth._fault = "task 12 has no command"
    left = grown.growth.find_left(0.0)
    fault = Odd(Oddity.WRONG, "task 12 has no command", "an inserted row")
    assert left == Left(2, fault)
    monkeypatch.setattr(grown.store, "find_left", lambda: 0)
    assert grown.growth.find_left(0.0) == Left(0)
    fails = mock.Mock(side_effect=StorageError("the disk"))
    monkeypatch.setattr(grown.store, "find_left", fails)
    left = grown.growth.find_left(0.0)
    assert left == Left(0, Odd(Oddity.WRONG, "the disk", grown.growth.path))
