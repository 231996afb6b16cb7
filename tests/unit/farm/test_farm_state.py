"""What a farm says of itself while it runs, and the time left that it shows."""

import os
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm import __version__
from mpifarm.coordinator.coordinator import Phase
from mpifarm.errors import StorageError
from mpifarm.farm import time_left
from mpifarm.farm.farm_state import FarmStates
from mpifarm.farm.summary import Tally
from mpifarm.farm.time_left import TimeLeftLook
from mpifarm.model.messages import Running
from mpifarm.model.settings import Arguments, ArgumentSource, Settings
from mpifarm.model.task import RunningTask
from mpifarm.model.wording import TimeLeft
from mpifarm.order.constraints import UNORDERED
from mpifarm.store.attempts import Column
from mpifarm.store.held_file import Held
from mpifarm.store.unlimited import Unlimited
from mpifarm.system.time_of_day import encode_time
from tests.unit.coordinator.test_coordinator import Hand

# ---- the state -----------------------------------------------------------------------


@pytest.fixture
def hand():
    """A farm of 100 tasks, of two ranks, of which one has joined and runs a task."""
    hand = Hand(size=2)
    hand.begin(7)
    hand.hear(0, Running((RunningTask(7, 1, 1, 1.7e9),)))
    return hand


def states_of(
    hand: Hand,
    settings: Settings | None = None,
    started_in: str = "",
    **environ: str,
) -> FarmStates:
    store: Any = SimpleNamespace(recorded=(3, 2), has_record_of={11}.__contains__)
    context: Any = SimpleNamespace(
        settings=settings or Settings("list", "list_workdir"),
        process=SimpleNamespace(environ=environ, started_in=started_in),
        begun=time.monotonic() - 3600.0,
    )
    return FarmStates(hand.coordinator, store, context)


def test_a_farm_says_who_it_is_and_where(hand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/bin/mpifarm", "list", "-n", "2"])
    state = states_of(hand, SLURM_JOB_ID="7").describe(1.5, None)
    named = ("farm", "version", "command", "directory", "tasklist", "workdir", "job")
    assert [state[name] for name in named] == [
        *("f00d", __version__, ["mpifarm", "list", "-n", "2"], str(tmp_path)),
        *(f"{tmp_path}/list", f"{tmp_path}/list_workdir"),
        {"system": "slurm", "id": "7"},
    ]
    assert (state["host"], state["pid"]) == (os.uname().nodename, os.getpid())
    assert state["started"] < encode_time(time.time() - 3590.0) < state["written"]
    assert states_of(hand).describe(0.0, None)["job"] is None


def test_a_farm_says_where_it_was_started_and_not_where_its_commands_run(hand):
    state = states_of(hand, started_in="/my data").describe(1.5, None)
    assert state["directory"] == "/my data"


@pytest.mark.parametrize("source", ["-", "a pipe", "a file", "arguments"])
def test_a_farm_names_a_command_that_can_be_given_again(
    hand, tmp_path, monkeypatch, source
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    os.mkfifo(tmp_path / "a pipe")
    separator = ":::" if source == "arguments" else "::::"
    words = ["-n", "2", "x {}", separator, source]
    monkeypatch.setattr(sys, "argv", ["/bin/mpifarm", *words])
    made = ArgumentSource((source,), is_file=separator == "::::")
    arguments = Arguments(("x {}",), (made,), 3)
    settings = Settings("w/stdin.txt", "w", arguments=arguments)
    command = states_of(hand, settings).describe(1.5, None)["command"]
    again = words
    if source in ("-", "a pipe"):
        again = ["-n", "2", "--workdir", "w", "w/stdin.txt"]
    assert command == ["mpifarm", *again]


@pytest.mark.parametrize("option", ["--again", "--remap"])
def test_to_go_on_is_not_to_begin_again(hand, monkeypatch, option):
    monkeypatch.setattr(sys, "argv", ["mpifarm", option, "-n", "2", "list"])
    command = states_of(hand).describe(1.5, None)["command"]
    assert command == ["mpifarm", "-n", "2", "list"]
    words = [option, "-n", "2", f"x {option}", ":::", option]
    monkeypatch.setattr(sys, "argv", ["mpifarm", *words])
    made = ArgumentSource((option,), is_file=False)
    arguments = Arguments((f"x {option}",), (made,), 3)
    settings = Settings("w/stdin.txt", "w", arguments=arguments)
    command = states_of(hand, settings).describe(1.5, None)["command"]
    assert command == ["mpifarm", *words[1:]]


def test_a_farm_says_what_is_done_and_what_runs_where(hand):
    state = states_of(hand).describe(1.5, TimeLeft(1.0, 2.0, 3.0))
    assert state["counts"] == {"total": 100, "finished": 3, "failed": 2, "running": 1}
    assert state["seatless"] == {}
    assert state["limits"] == []
    assert (state["rate"], state["phase"], state["exit_status"]) == (
        1.5,
        "working",
        None,
    )
    assert state["time_left"] == {"low": 1.0, "likely": 2.0, "high": 3.0}
    assert state["outruns"] is False
    hand.coordinator.forecast.outruns = True
    assert states_of(hand).describe(1.5, None)["outruns"] is True
    assert state["ranks"] == [
        {"rank": 0, "host": "node", "pid": 1, "workers": 2, "state": "working"},
        {"rank": 1, "host": "", "pid": 0, "workers": 0, "state": "joining"},
    ]
    assert state["running"] == [
        {
            "task": 7,
            "attempt": 1,
            "rank": 0,
            "worker": 1,
            "started": encode_time(1.7e9),
        }
    ]


def test_a_farm_that_ends_says_why_and_with_which_status(hand):
    hand.coordinator.on_drain("a file")
    state = states_of(hand).describe(0.0, None)
    assert (state["phase"], state["reason"]) == ("draining", "a file")
    for status in (0, 75):
        state = states_of(hand).describe(0.0, None, exit_status=status)
        assert (state["phase"], state["exit_status"]) == ("ended", status)
    assert state["time_left"] is None


# ---- the time left -------------------------------------------------------------------


class Looked:
    """A look at the time left of a farm, in time that a test moves."""

    def __init__(self, monkeypatch: Any, *, cost: float = 0.0, before: int = 0) -> None:
        self.looks: list[tuple[float, int, float]] = []
        self.earlier: list[tuple[int, float]] = []
        self.answer: TimeLeft | None = TimeLeft(5.0, 10.0, 20.0)
        self.coordinator: Any = SimpleNamespace(
            phase=Phase.WORKING,
            commands=range(8),
            definition=SimpleNamespace(farm="f00d"),
            forecast=SimpleNamespace(
                estimate=self._estimate,
                note_earlier=lambda *earlier: self.earlier.append(earlier),
            ),
        )
        ticks = iter(range(10_000))
        clock = SimpleNamespace(
            perf_counter=lambda: next(ticks) * cost, time=lambda: 1.7e9
        )
        monkeypatch.setattr(time_left, "time", clock)
        store: Any = SimpleNamespace(
            recorded=(3, 2),
            paths=None,
            held_by_users=Held(),
            unlimited=Unlimited(UNORDERED),
            has_record_of=lambda taskid: taskid < 5,
        )
        tally = Tally(0.0, done_before=before)
        coordinator: Any = self.coordinator
        self.look = TimeLeftLook(coordinator, store, tally)
        self.store = store

    def _estimate(
        self,
        now: float,
        wall: float,
        done: int,
        share: float,
        has_ended: Callable[[int], bool],
    ) -> TimeLeft | None:
        assert wall == 1.7e9
        assert [*filter(has_ended, range(8))] == [0, 1, 2, 3, 4]
        self.looks.append((now, done, share))
        return self.answer


def test_between_two_looks_the_time_left_is_the_last_less_the_time_since(monkeypatch):
    looked = Looked(monkeypatch)
    assert looked.look.find(100.0) == TimeLeft(5.0, 10.0, 20.0)
    assert looked.look.find(100.9) == pytest.approx((4.1, 9.1, 19.1))
    assert looked.looks == [(100.0, 5, 1.0)]
    looked.look.find(101.0)
    assert [now for now, _, _ in looked.looks] == [100.0, 101.0]


def test_no_time_left_is_negative(monkeypatch):
    looked = Looked(monkeypatch, cost=0.1)
    looked.look.find(100.0)
    assert looked.look.find(107.0) == TimeLeft(0.0, 3.0, 13.0)


def test_looks_take_half_a_percent_of_the_time_at_most(monkeypatch):
    looked = Looked(monkeypatch, cost=0.1)
    for now in range(100, 161):
        looked.look.find(float(now))
    assert [now for now, _, _ in looked.looks] == [100.0, 120.0, 140.0, 160.0]


def test_where_nothing_is_known_or_the_farm_ends_there_is_no_time_left(monkeypatch):
    looked = Looked(monkeypatch)
    looked.coordinator.phase = Phase.DRAINING
    assert looked.look.find(100.0) is None
    looked.coordinator.phase, looked.answer = Phase.WORKING, None
    assert looked.look.find(100.0) is None


@pytest.mark.parametrize(
    ("held", "is_known"),
    [
        (Held(holds_all=True), False),
        (Held(frozenset({5, 6, 7})), False),
        (Held(frozenset({4, 5, 6})), True),
        (Held(frozenset({5, 6, 8})), True),
    ],
)
def test_as_long_as_all_that_is_left_is_held_there_is_no_time_left(
    monkeypatch, held, is_known
):
    looked = Looked(monkeypatch)
    looked.store.held_by_users = held
    assert (looked.look.find(100.0) is not None) is is_known
    looked.store.held_by_users = Held()
    assert looked.look.find(200.0) is not None


def row(taskid: int, farm: str, outcome: str, seconds: float) -> list[bytes]:
    fields = [b""] * len(Column)
    fields[0], fields[Column.FARM] = b"%d" % taskid, farm.encode()
    fields[Column.OUTCOME] = outcome.encode()
    fields[Column.SECONDS] = b"%.1f" % seconds
    return fields


def test_tasks_that_earlier_farms_have_finished_teach_once(monkeypatch):
    looked = Looked(monkeypatch, before=3)
    rows = [
        row(1, "beef", "completed", 2.5),
        row(2, "beef", "failed", 3.5),
        row(3, "f00d", "completed", 4.5),
        row(4, "cafe", "completed", 5.5),
        row(5, "beef", "completed", float("inf")),
        row(6, "beef", "completed", float("nan")),
        row(7, "beef", "completed", 6.5),
    ]
    rows[-1][Column.SECONDS] = b"soon"
    monkeypatch.setattr(time_left, "read_last_rows", lambda _paths, _most: rows)
    looked.look.find(100.0)
    looked.look.find(200.0)
    assert looked.earlier == [(1, 2.5), (4, 5.5)]


def test_a_farm_that_begins_a_list_reads_nothing_and_a_bad_disk_is_no_matter(
    monkeypatch,
):
    def fail(_paths: object, _most: int) -> list[list[bytes]]:
        raise StorageError("no")

    monkeypatch.setattr(time_left, "read_last_rows", fail)
    looked = Looked(monkeypatch, before=1)
    assert looked.look.find(100.0) is not None
    monkeypatch.setattr(time_left, "read_last_rows", None)
    assert Looked(monkeypatch).look.find(100.0) is not None
