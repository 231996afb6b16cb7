"""The queues of events: bounded, never waiting, each for itself."""

import json
from typing import Any

import pytest

from mpifarm.farm import event_feeds
from mpifarm.farm.event_feeds import EventFeeds
from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.hooks.helper import END_MARK
from mpifarm.model.events import FarmDraining, RankLost, TaskNotRun

EVENTS = HookDefinition(HookKind.EVENTS, {"path": "/e"})
METRICS = HookDefinition(HookKind.METRICS, {"path": "/m"})


class FakeHelper:
    """Takes `room` bytes, and ends when its input does."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.room = room
        self.got = b""
        self.says = b""
        self.is_dead = self.is_closed = self.is_killed = False

    def write(self, content: memoryview) -> int:
        if self.is_dead:
            raise BrokenPipeError
        taken = min(self.room, len(content))
        self.room -= taken
        self.got += content[:taken]
        return taken

    def read(self) -> bytes | None:
        said, self.says = self.says, b""
        return said or (None if self.is_dead or self.is_closed else b"")

    def close_input(self) -> None:
        self.is_closed = self.room > 0
        self.says += END_MARK if self.is_closed else b""

    def end(self) -> None:
        self.is_killed = True

    def events(self) -> list[Any]:
        lines = self.got.split(b"\n")[:-1]
        return [json.loads(each) for each in lines if each + b"\n" != END_MARK]


class Fed:
    """Two feeds: of all events, and of the farm's alone."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.helpers = {EVENTS.title: FakeHelper(), METRICS.title: FakeHelper()}
        self.feeds = EventFeeds(
            *([EVENTS, METRICS], {}, "f00d", self.said.append),
            lambda definition: self.helpers[definition.title],
        )
        self.all, self.numbers = self.helpers.values()


@pytest.fixture
def fed(monkeypatch):
    monkeypatch.setattr(event_feeds, "END_SECONDS", 0.05)
    return Fed()


def test_each_hook_gets_its_events_in_their_order_with_their_numbers(fed):
    fed.feeds.post(FarmDraining("why"))
    fed.feeds.post(TaskNotRun(3, "no"))
    fed.feeds.step(0.0)
    first, second = fed.all.events()
    assert (first["v"], first["n"], first["event"]) == (1, 1, "farm_draining")
    assert (second["n"], second["task"], second["farm"]) == (2, 3, "f00d")
    assert fed.numbers.events() == []
    fed.feeds.close(in_order=True)
    assert fed.all.got.endswith(END_MARK)
    assert fed.said == []


def test_a_farm_that_breaks_off_gives_no_mark_of_the_end(fed):
    fed.feeds.close(in_order=False)
    assert fed.all.got == b""


def test_a_hook_that_reads_nothing_loses_tasks_first_and_is_killed(fed, monkeypatch):
    monkeypatch.setattr(event_feeds, "MAX_WAITING", 1000)
    fed.all.room = 0
    for taskid in range(100):
        fed.feeds.post(TaskNotRun(taskid, "no"))
        fed.feeds.step(float(taskid))
    fed.feeds.post(RankLost(1, "n1", "it is gone"))
    fed.all.room = 1300
    fed.feeds.step(1000.0)
    names = [each["event"] for each in fed.all.events()]
    assert names == ["task_not_run"] * (len(names) - 1) + ["rank_lost"]
    fed.all.room = 0
    fed.feeds.close(in_order=True)
    assert fed.all.is_killed
    assert fed.said == [
        "the events file /e had not ended 0.05 s after the farm: it was killed",
        f"the events file /e was too slow: {101 - len(names)} events were dropped",
    ]


def test_a_hook_whose_pipe_was_full_gets_more_with_the_next_passes(fed):
    fed.all.room = 10
    fed.feeds.post(FarmDraining("why"))
    fed.feeds.step(0.0)
    assert len(fed.all.got) == 10
    fed.all.room = 1 << 20
    fed.feeds.step(event_feeds.BEHIND_SECONDS)
    assert len(fed.all.events()) == 1
    fed.feeds.post(FarmDraining("why"))
    fed.feeds.step(2 * event_feeds.BEHIND_SECONDS)
    assert len(fed.all.events()) == 1, "nothing waited: there is time"
    fed.feeds.step(fed.feeds.due_at)
    assert len(fed.all.events()) == 2


def test_a_hook_that_hangs_wakes_the_farm_no_more_often(fed):
    fed.all.room = 0
    fed.feeds.post(FarmDraining("why"))
    fed.feeds.step(0.0)
    assert fed.feeds.due_at == event_feeds.FLUSH_SECONDS


def test_a_hook_that_dies_is_told_once_and_the_others_go_on(fed):
    fed.all.is_dead = True
    for number in range(3):
        fed.feeds.post(FarmDraining("why"))
        fed.feeds.step(float(number))
    assert fed.said == [
        "the events file /e has ended before the farm: it did not get all events"
    ]
    assert fed.all.is_killed
    assert not fed.feeds.wants("task_failed")
    fed.feeds.close(in_order=True)
    assert len(fed.said) == 1


def test_what_a_hook_says_is_told_and_no_more_than_a_few_times(fed):
    fed.all.says = b"a\nb\n" + b"x\n" * 100
    fed.feeds.step(0.0)
    assert fed.said[:2] == ["a", "b"]
    assert len(fed.said) == event_feeds.MAX_TOLD


def test_a_hook_that_cannot_be_started_is_left_out():
    said: list[str] = []

    def start(definition: HookDefinition) -> Any:
        raise OSError(11, "no more processes")

    feeds = EventFeeds([EVENTS], {}, "f00d", said.append, start)
    feeds.post(FarmDraining("why"))
    feeds.close(in_order=True)
    assert said == [
        "the events file /e can't be started (no more processes) and is left out"
    ]
