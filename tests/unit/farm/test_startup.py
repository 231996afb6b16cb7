"""The order of things on rank 0: at a beginning, and where a rank takes over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.coordinator.coordinator import Coordinator, RankSet
from mpifarm.errors import ExitStatus, InputError
from mpifarm.farm import startup
from mpifarm.farm.context import Defaults
from mpifarm.farm.finish import FarmEnd
from mpifarm.farm.growth import check_follow
from mpifarm.farm.opening import OpenedFarm
from mpifarm.model.messages import Alive, Rejoin, Report
from mpifarm.model.settings import (
    Default,
    HookSettings,
    Policy,
    RunnerDefinition,
    Settings,
)
from mpifarm.order.constraints import UNORDERED
from mpifarm.store.aside import name_next
from mpifarm.store.held_file import Held
from mpifarm.store.unlimited import Unlimited
from tests.unit.fakes import define_farm

RUNNER = RunnerDefinition("of the user")
LIST = ["true"] * 6


class FakeLeader:
    """Stands in for the loop: what it was made of, and what was done with it."""

    made: "list[FakeLeader]"

    def __init__(
        self, coordinator: Coordinator, store: Any, lock: Any, *others: Any
    ) -> None:
        self.coordinator = coordinator
        self.store = store
        self.lock = lock
        self.calls: list[Any] = []
        self.made.append(self)

    def hear(self, message: Any) -> None:
        self.calls.append(message)

    def take_over(self, agent: Any, early: Any) -> None:
        self.calls.append(("take over", early))

    def tell_job_end(self) -> None:
        """There is no job."""

    def run(self, agent: Any, conclude: Callable[[], None]) -> None:
        self.calls.append("run")


class FakeOpening:
    """Stands in for the list and the workdir."""

    def __init__(self, start: "Started", *, takes_over: bool = False) -> None:
        self.start = start
        start.order.append(f"open, takes over: {takes_over}")

    def patiently(self, act: Callable[[], Any]) -> Any:
        return act()

    def read_definitions(self) -> Any:
        self.start.order.append("read")
        return RUNNER, self.start.tasks

    def choose_order(self, tasks: Any, durations: Any) -> str:
        return ""

    def join(self, tasks: Any, runner: Any, inherits: str = "") -> OpenedFarm:
        self.start.order.append(f"join after {inherits!r} with {runner.name}")
        store: Any = self.start.store
        lock: Any = None
        return OpenedFarm(store, lock, define_farm())


class Started:
    """A rank of which the list, the workdir and the loop are stand-ins."""

    def __init__(self, monkeypatch: Any, rank: int = 0, **policy: Any) -> None:
        self.order: list[str] = []
        self.tasks = LIST
        self.store = SimpleNamespace(
            held={3, 1},
            recorded=(2, 4),
            count_failed_here=lambda total: 3,
            held_by_users=Held(),
            unlimited=Unlimited(UNORDERED),
            frontier=None,
        )
        self.trace: Any = SimpleNamespace(watch_coordinator=self._watch)
        output = SimpleNamespace(
            say=self.order.append,
            mention=self.order.append,
            speak_up=lambda: self.order.append("speak up"),
        )
        self.comm: Any = SimpleNamespace(
            size=4,
            rank=rank,
            lost={*range(rank)},
            survives_rank_loss=True,
            take_losses=list,
        )
        self.context: Any = SimpleNamespace(
            settings=Settings("list", "list_workdir", policy=Policy(**policy)),
            process=SimpleNamespace(
                output=output, environ={}, defaults=Defaults(), started_in=""
            ),
            comm=self.comm,
            trace=self.trace,
            fault="",
            begun=0.0,
            waits_for_others=False,
            hooks=(),
            environment={},
            dismiss=lambda: self.order.append("dismiss"),
        )
        FakeLeader.made = []
        monkeypatch.setattr(startup, "Leader", FakeLeader)
        monkeypatch.setattr(
            *(startup, "Opening"), lambda context, **named: FakeOpening(self, **named)
        )
        monkeypatch.setattr(startup, "find_commands", lambda tasks, handler: tasks)
        monkeypatch.setattr(startup, "Conclusion", self._conclusion)

    def _watch(self, coordinator: Any) -> None:
        self.order.append("watch")

    def _conclusion(self, leader: Any, context: Any) -> Any:
        end = FarmEnd(ExitStatus.ALL_FINISHED)
        return SimpleNamespace(conclude=lambda: None, find_end=lambda: end)

    def create_agent(self, *, is_welcomed: bool = True) -> Any:
        return SimpleNamespace(
            host="node1",
            definition=define_farm() if is_welcomed else None,
            send_through=self._send_through,
        )

    def _send_through(self, send: Any) -> None:
        self.order.append("send through the leader")
        send(Alive())

    def take_over(self, *, is_welcomed: bool = True) -> FakeLeader:
        agent = self.create_agent(is_welcomed=is_welcomed)
        early: Any = [(2, Rejoin("node2", 7, 2, True, (), Report(1.0)))]
        end = startup.take_over(self.context, agent, early)
        assert end == FarmEnd(ExitStatus.ALL_FINISHED)
        (leader,) = FakeLeader.made
        assert leader.calls == [Alive(), ("take over", early), "run"]
        return leader


def test_a_rank_takes_over_in_this_order(monkeypatch):
    start = Started(monkeypatch, rank=1)
    start.take_over()
    assert start.order == [
        "speak up",
        "open, takes over: True",
        "read",
        f"join after '{define_farm().farm}' with {define_farm().runner.name}",
        "watch",
        (
            "rank 0 is lost: rank 1 on node1 leads from here, as farm f00d; what it"
            " ran runs again"
        ),
        "send through the leader",
    ]


def test_a_rank_whose_node_lacks_the_place_of_a_hook_leads_on_without(monkeypatch):
    start = Started(monkeypatch, rank=1)
    hooks = HookSettings(events="/only/on/the/first/node/events.jsonl")
    start.context.settings = replace(start.context.settings, hooks=hooks)
    start.take_over()
    (warning,) = [each for each in start.order if "hooks" in each]
    assert warning.startswith(
        "WARNING: from here on the farm has no hooks: --events /only/on/the/first/node/"
        "events.jsonl can't be written"
    )


def test_a_rank_that_knew_of_no_farm_yet_begins_one(monkeypatch):
    start = Started(monkeypatch, rank=2)
    start.take_over(is_welcomed=False)
    assert start.order[1:4] == [
        "open, takes over: False",
        "read",
        "join after '' with of the user",
    ]
    assert any(
        "ranks 0 and 1 are lost: rank 2 on node1" in each for each in start.order
    )


def test_what_the_lost_coordinator_held_is_where_its_ranks_say(monkeypatch):
    leader = Started(monkeypatch, rank=1).take_over()
    assert sorted(leader.coordinator.table.tasks) == [1, 3]
    assert leader.coordinator.lost_ranks() == [0]
    assert leader.coordinator.rank_set == RankSet((0, 1, 2, 3), 1, 8, True)


def test_failures_go_on_counting(monkeypatch):
    leader = Started(monkeypatch, rank=1, max_failures=3).take_over()
    assert leader.coordinator.limits_failures
    leader.coordinator.decide(1.0)
    assert leader.coordinator.too_many_failures, "three failed here, one before"


@pytest.mark.parametrize(
    ("finished", "failed", "canary"), [(0, 0, 2), (0, 3, 2), (1, 0, 0), (1, 3, 0)]
)
def test_a_canary_sings_until_a_task_has_finished(finished, failed, canary):
    settings = Settings("list", "list_workdir", policy=Policy(canary=2, retries=3))
    store: Any = SimpleNamespace(recorded=(finished, failed))
    policy = startup._policy_of_rest(settings, store)
    assert policy == Policy(canary=canary, retries=3)


# ---- a beginning --------------------------------------------------------------------


def test_a_fault_of_the_defaults_is_told_before_anything_is_read(monkeypatch):
    start = Started(monkeypatch)
    error = InputError("a wrong value")
    start.context.process.defaults = Defaults(fault=error)
    with pytest.raises(InputError, match="a wrong value"):
        startup.lead_farm(start.context)
    assert start.order == []


def test_a_fault_of_the_rank_is_told_before_anything_is_read(monkeypatch):
    start = Started(monkeypatch)
    start.context.fault = "can't run commands in /gone"
    with pytest.raises(InputError, match="/gone"):
        startup.lead_farm(start.context)
    assert start.order == []


def test_a_list_without_tasks_sends_the_others_away(monkeypatch):
    start = Started(monkeypatch)
    start.tasks = []
    monkeypatch.setattr(startup, "check_not_begun", lambda settings: None)
    end = startup.lead_farm(start.context)
    assert end == FarmEnd(ExitStatus.ALL_FINISHED)
    assert start.order[-2:] == ["list has no tasks", "dismiss"]
    assert FakeLeader.made == []


def test_a_farm_begins_in_this_order(monkeypatch):
    start = Started(monkeypatch)
    for name in ("check_list", "warn_of_unused"):
        monkeypatch.setattr(startup, name, lambda context, *others: [])
    for name in ("describe_limit", "warn_of_directory", "warn_of_binding"):
        monkeypatch.setattr(startup, name, lambda *of, name=name: name)
    monkeypatch.setattr(startup, "describe_farm", lambda *of: ["the farm", "the ranks"])
    monkeypatch.setattr(startup, "describe_memory", lambda settings: "the memory")
    start.context.settings = replace(
        start.context.settings, defaults=(Default("--proc", ("3",), "MPIFARM_PROC"),)
    )
    idle_nodes = SimpleNamespace(warn_at_start=lambda: "", warn_of_hosts="hosts")
    monkeypatch.setattr(startup, "IdleNodes", lambda context, tasks: idle_nodes)
    monkeypatch.setattr(
        *(FakeLeader, "watch_hosts"),
        lambda leader, describe, describe_ranks: start.order.append(
            f"watch {describe}"
        ),
        raising=False,
    )
    start.context.create_agent = lambda send, now: SimpleNamespace(
        lead=lambda: start.order.append("lead"), join=lambda: start.order.append("join")
    )
    end = startup.lead_farm(start.context)
    assert end == FarmEnd(ExitStatus.ALL_FINISHED)
    assert start.order == [
        "open, takes over: False",
        "read",
        "join after '' with of the user",
        "watch",
        "the farm",
        "the ranks",
        "set by default: --proc 3 (MPIFARM_PROC)",
        "the memory",
        "describe_limit",
        "warn_of_directory",
        "warn_of_binding",
        "watch hosts",
        "lead",
        "join",
    ]
    assert FakeLeader.made[0].calls == ["run"]


@pytest.mark.parametrize("tasklist", ["list", "-"])
def test_a_move_that_a_kill_has_left_is_finished_first(tmp_path, monkeypatch, tasklist):
    """A handler, or standard input, would make another workdir in its place."""
    monkeypatch.chdir(tmp_path)
    following = Path(name_next("w"))
    following.mkdir()
    (following / ".mpifarm-next").touch()
    (following / "stdin.txt").write_text("true\n")
    start = Started(monkeypatch)
    start.context.settings = Settings(tasklist, "w", again=True)

    def refuse(*_args: object) -> None:
        assert Path("w", "stdin.txt").read_text() == "true\n"
        raise InputError("seen")

    monkeypatch.setattr(FakeOpening, "read_definitions", refuse)
    if tasklist == "-":
        monkeypatch.setattr(startup, "take_standard_input", refuse)
    with pytest.raises(InputError, match="seen"):
        startup.lead_farm(start.context)
    assert "--again: all tasks are to run" in start.order


def test_all_but_the_list_is_checked_before_a_kept_list_begins_again(monkeypatch):
    start = Started(monkeypatch)
    start.context.settings = Settings("-", "w", again=True)

    def refuse(_opening: object) -> None:
        raise InputError("no such runner")

    monkeypatch.setattr(FakeOpening, "check_beginning_again", refuse, raising=False)
    monkeypatch.setattr(startup, "_begin_again", lambda *_: pytest.fail("too early"))
    monkeypatch.setattr(
        startup, "take_standard_input", lambda _context, begin_again, _: begin_again()
    )
    with pytest.raises(InputError, match="no such runner"):
        startup.lead_farm(start.context)


# ---- a list that grows while the farm starts ----------------------------------------


class GrowingOpening:
    """A workdir that knows more of the list than was read, so many times."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.read = 0

    def read_definitions(self) -> Any:
        self.read += 1
        return RUNNER, f"list {self.read}"

    def join(self, tasks: Any, runner: Any, inherits: str = "") -> Any:
        if self.behind > 0:
            self.behind -= 1
            raise InputError("the tasklist was edited")
        return f"joined with {tasks}"


def test_a_list_of_which_another_farm_knows_more_by_now_is_read_again(monkeypatch):
    monkeypatch.setattr(startup, "has_changed", lambda tasks: True)
    tasks: Any = LIST
    opening: Any = GrowingOpening(behind=2)
    found: Any = startup._join(opening, tasks, RUNNER)
    assert found == ("list 2", "joined with list 2")


def test_a_list_that_has_not_changed_is_another_one(monkeypatch):
    monkeypatch.setattr(startup, "has_changed", lambda tasks: False)
    tasks: Any = LIST
    opening: Any = GrowingOpening(behind=1)
    with pytest.raises(InputError, match="was edited"):
        startup._join(opening, tasks, RUNNER)
    assert opening.read == 0


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (1, "rank 0 is lost: rank 1 on node1 leads from here, as farm f00d; what it"),
        (2, "ranks 0 and 1 are lost: rank 2 on node2 leads from here, as farm f00d;"),
        (3, "ranks 0, 1 and 2 are lost: rank 3 on node3 leads from here, as farm"),
    ],
)
def test_a_loss_is_told_with_the_ranks_that_are_lost(rank, words):
    coordinator = SimpleNamespace(
        rank_set=SimpleNamespace(own=rank), definition=define_farm()
    )
    leader: Any = SimpleNamespace(coordinator=coordinator)
    told = startup._describe_loss(leader, f"node{rank}")
    assert told.startswith(words)
    who = "they" if rank > 1 else "it"
    assert told.endswith(f"; what {who} ran runs again")


@pytest.mark.parametrize(
    ("failed", "own", "before"), [(4, 3, 1), (4, 4, 0), (4, 5, 0), (0, 0, 0)]
)
def test_failures_of_earlier_farms_are_what_this_farm_has_not_counted(
    failed, own, before
):
    noted: list[tuple[int, int]] = []
    coordinator = SimpleNamespace(
        commands=LIST,
        limits_failures=True,
        note_failed_before=lambda *counts: noted.append(counts),
    )
    store = SimpleNamespace(
        recorded=(2, failed), count_failed_here=lambda total: own * (total == 6)
    )
    leader: Any = SimpleNamespace(coordinator=coordinator, store=store)
    startup._count_failures_on(leader)
    assert noted == [(before, own)]
    coordinator.limits_failures = False
    startup._count_failures_on(leader)
    assert len(noted) == 1


@pytest.mark.parametrize(
    ("comm", "ranks"),
    [
        (None, RankSet((0,), 0, 5)),
        (
            SimpleNamespace(size=3, rank=1, survives_rank_loss=True),
            RankSet((0, 1, 2), 1, 5, survives_rank_loss=True),
        ),
    ],
)
def test_the_ranks_of_a_farm_are_those_of_its_mpi_or_this_one(comm, ranks):
    context: Any = SimpleNamespace(
        comm=comm, settings=Settings("list", "list_workdir", workers=5)
    )
    assert startup._find_rank_set(context) == ranks


def test_a_list_that_does_not_grow_can_not_be_followed():
    for follow, is_refused in ((None, False), (0.0, True), (5.0, True)):
        settings = Settings("list", "list_workdir", follow=follow)
        tasks: Any = LIST
        if not is_refused:
            check_follow(settings, tasks)
            continue
        with pytest.raises(InputError, match="leave the option out"):
            check_follow(settings, tasks)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (Held(), None),
        (Held(frozenset({3})), "1 held"),
        (Held(frozenset({3}), holds_all=True), "held"),
    ],
)
def test_what_users_hold_is_held_from_the_start_and_told(monkeypatch, held, words):
    start = Started(monkeypatch, rank=1)
    start.store.held_by_users = held
    leader = start.take_over()
    coordinator = leader.coordinator
    assert coordinator.holds_all is held.holds_all
    told = [each for each in start.order if "mpifarm hold was given" in each]
    assert len(told) == (words is not None)
    assert all(words in each for each in told)


def test_a_list_that_never_fits_is_given_up(monkeypatch):
    monkeypatch.setattr(startup, "has_changed", lambda tasks: True)
    tasks: Any = LIST
    opening: Any = GrowingOpening(behind=1000)
    with pytest.raises(InputError, match="was edited"):
        startup._join(opening, tasks, RUNNER)
    assert opening.read == startup.READINGS
