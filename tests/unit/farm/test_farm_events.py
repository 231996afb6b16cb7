"""The events of a whole farm of one rank, in virtual time: order and completeness."""

import os
import sys
from collections import Counter
from dataclasses import replace
from signal import SIGUSR1, SIGUSR2
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm import __version__
from mpifarm.coordinator.coordinator import NoteRank, NoteRunning, RankChange
from mpifarm.farm.farm_events import STATE_SECONDS, FarmEvents
from mpifarm.farm.summary import FailedTask, ListCounts
from mpifarm.hooks.definitions import name_user
from mpifarm.model.events import (
    Asked,
    Event,
    FarmBegan,
    FarmEnded,
    FarmState,
    RankBack,
    RankJoined,
    RankLost,
    RankQuarantined,
    TaskBegan,
    TaskCancelled,
    TaskFailed,
    TaskFinished,
    TaskNotRun,
    TaskRetried,
)
from mpifarm.model.requests import Request, RequestKind
from mpifarm.model.settings import Policy, Settings
from mpifarm.model.task import Lease, Outcome, RunningTask
from mpifarm.store.types import Recorded
from mpifarm.system.time_of_day import encode_time
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.farm.test_leader import LedFarm
from tests.unit.farm.test_summary import summary
from tests.unit.virtual_rank import result_of


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


# ---- each event by itself ------------------------------------------------------------


class Watched:
    """A farm of 100 tasks and one rank, of which 3 are finished and 2 have failed."""

    def __init__(self, *, wants_tasks: bool = True) -> None:
        self.hand = Hand(size=2)
        self.hand.begin(7)
        self.feeds = FakeFeeds(wants_tasks=wants_tasks)
        store: Any = SimpleNamespace(recorded=(3, 2), has_record_of=lambda _: False)
        feeds: Any = self.feeds
        self.events = FarmEvents(self.hand.coordinator, store, feeds, lambda: 0.12345)


def context_of(**environ: str) -> Any:
    return SimpleNamespace(
        settings=Settings("list", "list_workdir", workers=5),
        process=SimpleNamespace(environ=environ, started_in=""),
        size=2,
    )


def test_the_beginning_says_who_runs_which_list_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/bin/mpifarm", "list", "-n", "2"])
    watched = Watched()
    watched.events.note_began(context_of(SLURM_JOB_ID="7"))
    watched.events.note_began(context_of())
    first, second = watched.feeds.events
    assert first == FarmBegan(
        version=__version__,
        user=name_user(),
        host=os.uname().nodename,
        pid=os.getpid(),
        job="7",
        command=["mpifarm", "list", "-n", "2"],
        directory=str(tmp_path),
        tasklist=f"{tmp_path}/list",
        workdir=f"{tmp_path}/list_workdir",
        ranks=2,
        workers=5,
        total=100,
        finished=3,
        failed=2,
        takes_over=False,
    )
    assert isinstance(second, FarmBegan)
    assert second.job is None


def test_a_farm_that_goes_on_without_its_first_rank_says_so(monkeypatch):
    watched = Watched()
    coordinator = watched.hand.coordinator
    monkeypatch.setattr(coordinator, "rank_set", replace(coordinator.rank_set, own=1))
    watched.events.note_began(context_of())
    (began,) = watched.feeds.events
    assert isinstance(began, FarmBegan)
    assert began.takes_over


def test_the_state_says_what_is_done_what_runs_and_how_many_ranks_work():
    watched = Watched()
    watched.events.look(0.0)
    assert watched.feeds.events == [
        FarmState(
            total=100,
            finished=3,
            failed=2,
            running=1,
            held=0,
            holds_all=False,
            tasks_per_second=0.123,
            ranks_working=1,
        )
    ]


def test_the_next_look_is_due_with_the_next_state_or_the_next_flush():
    watched = Watched()
    watched.events.look(100.0)
    assert watched.events.due_at() == 100.0 + STATE_SECONDS
    watched.feeds.due_at = 100.2
    assert watched.events.due_at() == 100.2
    watched.events.look(100.0 + STATE_SECONDS - 0.001)
    assert watched.feeds.names() == ["farm_state"]
    watched.events.look(100.0 + STATE_SECONDS)
    assert watched.feeds.names() == ["farm_state"] * 2


def test_the_end_says_what_the_summary_says():
    watched = Watched()
    assert not watched.events.has_ended
    ended = summary(
        seconds=3.00049,
        reason="why",
        counts=ListCounts(15, 5, 4, 3, 2),
        failed=[FailedTask(4, "exit status 1", "log_4")],
    )
    watched.events.note_ended(ended)
    assert watched.events.has_ended
    assert watched.feeds.events == [
        FarmEnded(
            exit_status=1,
            meaning=ended.meaning,
            reason="why",
            seconds=3.0,
            total=15,
            finished=5,
            failed=4,
            toprocess=3,
            elsewhere=2,
            failures=[{"task": 4, "how": "exit status 1", "log": "log_4"}],
        )
    ]


def test_a_rank_that_joins_is_told_with_its_process_and_workers():
    watched = Watched()
    watched.events.note_rank(NoteRank(0, RankChange.JOINED, ""))
    assert watched.feeds.events == [RankJoined(0, "node", 1, 2)]


@pytest.mark.parametrize("wants_tasks", [True, False])
def test_what_runs_is_told_where_tasks_are_wanted(wants_tasks):
    watched = Watched(wants_tasks=wants_tasks)
    watched.events.note_running(NoteRunning(0, (RunningTask(7, 2, 1, 1.7e9),)))
    began = TaskBegan(7, 2, 0, "node", 1, encode_time(1.7e9))
    assert watched.feeds.events == [began] * wants_tasks


LEASE = Lease(7, 2, "x")


@pytest.mark.parametrize(
    ("user", "system", "cpu"),
    [(0.12345, 1.0, 1.123), (None, 1.0, None), (1.0, None, None)],
)
def test_an_end_is_told_with_all_that_was_measured(user, system, cpu):
    watched = Watched()
    result = result_of(LEASE, 0.0, seconds=2.00049)._replace(
        user_seconds=user,
        system_seconds=system,
        peak_memory=5,
        output_bytes=6,
        note="odd",
    )
    watched.events.note_recorded(0, result)
    started = encode_time(1.7e9)
    assert watched.feeds.events == [
        TaskFinished(
            *(7, 2, "completed", 0, 0, "node", 3, started, 2.0, cpu, 5, 6, "odd")
        )
    ]


@pytest.mark.parametrize(
    ("outcome", "event"),
    [
        (Outcome.COMPLETED, TaskFinished),
        (Outcome.CANCELLED, TaskCancelled),
        (Outcome.NOT_RUN, TaskNotRun),
        (Outcome.FAILED, TaskFailed),
        *((each, TaskFailed) for each in Outcome if each.name.startswith("TIME")),
    ],
)
def test_each_outcome_has_its_event_and_only_once(outcome, event):
    watched = Watched()
    result = result_of(LEASE, 0.0)._replace(outcome=outcome, note="why")
    watched.events.note_recorded(0, result)
    assert [type(each) for each in watched.feeds.events] == [event]
    if outcome is Outcome.NOT_RUN:
        assert watched.feeds.events == [TaskNotRun(7, "why")]


@pytest.mark.parametrize("wants_tasks", [True, False])
def test_an_attempt_that_runs_again_is_told_with_its_host_where_wanted(wants_tasks):
    watched = Watched(wants_tasks=wants_tasks)
    result = result_of(LEASE, 0.0, status=3)
    watched.events.note_retried(Recorded(7, False, result, 4, 99, "n4"))
    told = [
        (each.task, each.rank, each.host)
        for each in watched.feeds.events
        if isinstance(each, TaskRetried)
    ]
    assert told == [(7, 4, "n4")] * wants_tasks
