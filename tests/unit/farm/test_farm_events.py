"""The events of a whole farm of one rank, in virtual time: order and completeness."""

from collections import Counter
from signal import SIGUSR1, SIGUSR2
from typing import Any

from mpifarm.coordinator.coordinator import NoteRank, RankChange
from mpifarm.farm.farm_events import STATE_SECONDS, FarmEvents
from mpifarm.model.events import (
    Asked,
    Event,
    RankBack,
    RankLost,
    RankQuarantined,
    TaskFailed,
    TaskFinished,
    TaskRetried,
)
from mpifarm.model.requests import Request, RequestKind
from mpifarm.model.settings import Policy
from mpifarm.model.task import Outcome
from tests.unit.farm.test_leader import LedFarm


class FakeFeeds:
    """Keeps the events, of which it wants all, or none on tasks."""

    due_at = float("inf")

    def __init__(self, *, wants_tasks: bool = True) -> None:
        self.events: list[Event] = []
        self._wants_tasks = wants_tasks

    def wants(self, name: str) -> bool:
        return self._wants_tasks

    def post(self, event: Event) -> None:
        self.events.append(event)

    def step(self, now: float) -> None:
        """There is no helper."""

    def names(self) -> list[str]:
        return [each.event for each in self.events]


def watch(farm: LedFarm, *, wants_tasks: bool = True) -> FakeFeeds:
    feeds: Any = FakeFeeds(wants_tasks=wants_tasks)
    store: Any = farm.store
    events = FarmEvents(farm.coordinator, store, feeds, lambda: 0.5)
    farm.leader.events = events
    return feeds  # type: ignore[no-any-return]


def fail(farm: LedFarm, attempts: int) -> None:
    """Let the first attempts of task 0 fail."""
    collect: Any = farm.pool.collect

    def fail_some() -> Any:
        return [
            each._replace(outcome=Outcome.FAILED, status=3)
            if each.taskid == 0 and each.attempt <= attempts
            else each
            for each in collect()
        ]

    farm.pool.collect = fail_some  # type: ignore[method-assign]


def test_each_task_has_its_end_once_after_its_rank_has_joined():
    farm = LedFarm(6, policy=Policy(retries=1))
    fail(farm, 1)
    feeds = watch(farm)
    farm.run()
    names = feeds.names()
    assert names[0] == "rank_joined"
    ends = [each for each in feeds.events if isinstance(each, TaskFinished)]
    assert sorted(each.task for each in ends) == [*range(6)]
    assert {each.host for each in ends} == {"node0"}
    (retried,) = (each for each in feeds.events if isinstance(each, TaskRetried))
    assert (retried.task, retried.attempt, retried.status) == (0, 1, 3)
    (last,) = (each for each in ends if each.task == 0)
    assert last.attempt == 2
    assert feeds.events.index(retried) < feeds.events.index(last)


def test_a_task_that_has_failed_is_told_also_where_finished_ones_are_not():
    farm = LedFarm(4)
    fail(farm, 9)
    feeds = watch(farm, wants_tasks=False)
    farm.run()
    assert Counter(feeds.names())["task_finished"] == 0
    (failed,) = (each for each in feeds.events if isinstance(each, TaskFailed))
    assert (failed.task, failed.outcome, failed.status) == (0, "failed", 3)


def test_a_drain_and_then_a_stop_are_told_with_their_reasons():
    farm = LedFarm(50, seconds=20.0)
    feeds = watch(farm)
    farm.signal_at(1.0, SIGUSR2)
    farm.signal_at(2.0, SIGUSR1)
    farm.run()
    phases = [each for each in feeds.events if each.event.startswith("farm_")]
    told = [(each.event, each.reason) for each in phases if hasattr(each, "reason")]
    assert told == [
        ("farm_draining", "SIGUSR2 was received"),
        ("farm_stopping", "SIGUSR1 was received"),
    ]


def test_the_state_is_told_every_ten_seconds():
    farm = LedFarm(2, seconds=3.5 * STATE_SECONDS)
    feeds = watch(farm)
    farm.run()
    assert Counter(feeds.names())["farm_state"] in (4, 5)


def test_what_users_ask_is_told_with_who_and_what():
    farm = LedFarm(6, seconds=3.0)
    feeds = watch(farm)
    request = Request("x", RequestKind.HOLD, (3, 4, 5), "eve on n1")
    release = Request("y", RequestKind.RELEASE, None, "eve on n1")
    farm.at(1.0, lambda: farm.store.requests.requests.append(request))
    farm.at(2.5, lambda: farm.store.requests.requests.append(release))
    farm.run()
    assert [each for each in feeds.events if isinstance(each, Asked)] == [
        Asked("hold", "eve on n1", "3-5"),
        Asked("release", "eve on n1", None),
    ]


def test_what_becomes_of_a_rank_is_told_with_the_reason():
    farm = LedFarm(1)
    feeds = watch(farm)
    events = farm.leader.events
    assert events is not None
    for change in (RankChange.OUT_OF_USE, RankChange.IN_USE, RankChange.LOST):
        events.note_rank(NoteRank(0, change, f"it is {change.value}"))
    assert feeds.events == [
        RankQuarantined(0, "node0", "it is out of use"),
        RankBack(0, "node0", "it is in use again"),
        RankLost(0, "node0", "it is lost"),
    ]
