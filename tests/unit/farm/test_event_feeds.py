"""The queues of events: bounded, never waiting, each for itself."""

import json
from typing import Any

import pytest

from mpifarm.farm import event_feeds
from mpifarm.farm.event_feeds import EventFeeds
from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.hooks.helper import END_MARK
from mpifarm.model.events import FarmDraining, FarmState, RankLost, TaskNotRun

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


def test_an_event_is_wanted_if_one_hook_that_lives_gets_it(fed):
    assert fed.feeds.wants("task_failed")
    assert fed.feeds.wants("farm_began")
    numbers = EventFeeds(
        [METRICS], {}, "f00d", fed.said.append, lambda definition: fed.numbers
    )
    assert not numbers.wants("task_failed")
    assert numbers.wants("farm_ended")
    assert not EventFeeds([], {}, "f00d", fed.said.append).wants("farm_ended")


STATE = FarmState(9, 1, 1, 1, 0, False, 0.5, 1)


def test_a_hook_of_some_events_gets_just_these(fed):
    fed.feeds.post(RankLost(1, "n1", "it is gone"))
    fed.feeds.post(STATE)
    fed.feeds.post(FarmDraining("why"))
    fed.feeds.step(0.0)
    names = [each["event"] for each in fed.numbers.events()]
    assert names == ["farm_state"]


@pytest.mark.parametrize(("room", "dropped"), [(0, 0), (-1, 1)])
@pytest.mark.parametrize("event", [TaskNotRun(1, "no"), RankLost(1, "n1", "gone")])
def test_a_queue_takes_what_fits_to_the_byte(event, room, dropped, monkeypatch):
    line = b"x" * 100
    most = 100 if event.event == "task_not_run" else 50
    monkeypatch.setattr(event_feeds, "MAX_WAITING", most + room)
    if room and most == 50:
        line += b"x"
    said: list[str] = []
    feed = event_feeds.Feed(EVENTS, lambda definition: FakeHelper(0), said.append)
    feed.put(event.event, line)
    feed.tell_dropped()
    assert feed.dropped == dropped
    assert len(said) == dropped


def test_a_queue_of_others_than_tasks_is_twice_as_long(monkeypatch):
    monkeypatch.setattr(event_feeds, "MAX_WAITING", 100)
    feed = event_feeds.Feed(EVENTS, lambda definition: FakeHelper(0), print)
    for name, count, dropped in [
        ("task_not_run", 101, 1),
        ("task_not_run", 100, 1),
        ("task_failed", 1, 2),
        ("rank_lost", 100, 2),
        ("rank_lost", 1, 3),
    ]:
        feed.put(name, b"x" * count)
        assert feed.dropped == dropped, (name, count)


def test_a_hook_that_is_lost_leaves_nothing_that_waits(fed):
    feed = event_feeds.Feed(EVENTS, lambda definition: fed.all, fed.said.append)
    fed.all.is_dead = True
    feed.put("rank_lost", b"x")
    feed.flush()
    assert feed.is_empty
    assert not feed.is_open
    feed.put("rank_lost", b"x")
    assert feed.is_empty
    assert feed.has_ended()
    feed.kill()
    assert len(fed.said) == 1


def test_a_farm_whose_hooks_have_all_ended_need_not_look_at_them_again(fed):
    fed.feeds.step(0.0)
    assert fed.feeds.due_at == event_feeds.FLUSH_SECONDS
    fed.all.is_dead = True
    fed.feeds.post(FarmDraining("why"))
    fed.feeds.step(1.0)
    assert fed.feeds.due_at == 1.0 + event_feeds.FLUSH_SECONDS, "one lives"
    fed.numbers.is_dead = True
    fed.feeds.post(STATE)
    fed.feeds.step(2.0)
    assert fed.feeds.due_at == float("inf")


def test_what_a_hook_says_may_come_in_parts_and_its_mark_is_no_sentence(fed):
    for part in (b"on", b"e\ntw", b"o\n" + END_MARK):
        fed.all.says = part
        fed.feeds.step(float(fed.feeds.due_at == float("inf")))
        fed.feeds.step(100.0 + len(part))
    fed.feeds.step(1000.0)
    assert fed.said == ["one", "two"]


def test_a_long_sentence_of_a_hook_is_cut(fed):
    fed.all.says = b"x" * 2000 + b"\n"
    fed.feeds.step(0.0)
    assert fed.said == ["x" * 500]


def test_a_hook_that_ends_without_having_said_so_is_told(fed):
    fed.all.close_input = lambda: setattr(fed.all, "is_closed", True)
    fed.feeds.close(in_order=True)
    assert fed.said == [
        "the events file /e has ended before the farm: it did not get all events"
    ]


def test_what_a_hook_has_said_itself_is_not_said_again_when_it_ends(fed):
    fed.all.says = b"the disk is full\n"
    fed.feeds.step(0.0)
    fed.all.is_dead = True
    fed.feeds.post(FarmDraining("why"))
    fed.feeds.step(1.0)
    assert fed.said == ["the disk is full"]
    assert fed.all.is_killed


def test_the_end_waits_no_longer_than_the_hooks_take(fed, monkeypatch):
    monkeypatch.setattr(event_feeds, "END_SECONDS", 1000.0)
    monkeypatch.setattr(event_feeds, "_LOOK_SECONDS", 0.0)
    looks: list[int] = []
    has_ended = event_feeds.Feed.has_ended

    def end_at_third_look(feed: event_feeds.Feed) -> bool:
        looks.append(1)
        return len(looks) > 4 and has_ended(feed)

    monkeypatch.setattr(event_feeds.Feed, "has_ended", end_at_third_look)
    fed.feeds.close(in_order=True)
    assert len(looks) == 6
    assert fed.said == []
