"""What rank 0 does before the first task: the commands of a handler, and its waits."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.farm import opening
from mpifarm.farm.opening import TELL_SECONDS, CheckedCommands, StartSleep
from mpifarm.model.settings import RunnerDefinition, Settings
from mpifarm.store.membership import FAMILY


class Text(str):
    """A string of a class of the user's own, which is shown in another way."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"


class Handler:
    """A tasklist of one task."""

    def __init__(self, command: object) -> None:
        self._command = command

    def __len__(self) -> int:
        return 1

    def __getitem__(self, taskid: int) -> Any:
        if isinstance(self._command, BaseException):
            raise self._command
        return self._command


def command_of(given: object) -> object:
    handler: Any = Handler(given)
    return CheckedCommands(handler, "mine")[0]


def test_a_command_of_a_class_of_its_own_becomes_a_plain_string():
    # pipes and messages take no other
    command = command_of(Text("true"))
    assert command == "true"
    assert type(command) is str


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (17, "it is a int, not a text"),
        (b"true", "it is a bytes, not a text"),
        (KeyError("no line"), "no line"),
        (SystemExit(3), "3"),
    ],
    ids=repr,
)
def test_what_is_no_command_is_told_with_handler_and_task(given, why):
    with pytest.raises(InputError) as told:
        command_of(given)
    assert "the handler 'mine' gave no command for task 0" in str(told.value)
    assert why in str(told.value)


# ---- how the start waits ------------------------------------------------------------


class Waiting:
    """A start that waits in virtual time."""

    def __init__(self, monkeypatch: Any, timeout: float | None = None) -> None:
        self.now = 100.0
        self.told = 0
        self.signals = SimpleNamespace(any_noted=False)
        clock = SimpleNamespace(sleep=self._sleep, monotonic=lambda: self.now)
        monkeypatch.setattr(opening, "time", clock)
        signals: Any = self.signals
        self.sleep = StartSleep(signals, 100.0, timeout, self._tell)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _tell(self) -> None:
        self.told += 1


@pytest.fixture
def waiting(monkeypatch):
    return Waiting(monkeypatch)


def test_a_long_wait_for_the_lock_is_told_once(waiting):
    while waiting.now < 100.0 + TELL_SECONDS - 0.5:
        waiting.sleep(0.5)
    assert waiting.told == 0
    for _ in range(20):
        waiting.sleep(0.5)
    assert waiting.told == 1


def test_a_signal_ends_the_wait_for_the_lock(waiting):
    waiting.sleep(0.1)
    waiting.signals.any_noted = True
    with pytest.raises(FutileError, match="by a signal while waiting for the lock"):
        waiting.sleep(0.1)


def test_a_signal_ends_the_wait_for_the_disk(waiting):
    waiting.signals.any_noted = True
    with pytest.raises(FutileError, match="by a signal while the disk could not"):
        waiting.sleep.pause(0.1)


def test_the_timeout_counts_from_the_start_of_the_process(monkeypatch):
    waiting = Waiting(monkeypatch, timeout=2.0)
    waiting.sleep(2.0)
    with pytest.raises(FutileError, match="--timeout was over while waiting"):
        waiting.sleep(0.1)
    assert math.isclose(waiting.now, 102.1)


def test_a_rank_that_takes_over_is_ended_by_nothing_in_its_start(monkeypatch):
    waiting = Waiting(monkeypatch, timeout=1.0)
    waiting.sleep.may_end_start = False
    waiting.signals.any_noted = True
    for _ in range(20):
        waiting.sleep(0.5)
        waiting.sleep.pause(0.5)
    assert waiting.told == 0


@pytest.mark.parametrize("takes_over", [False, True])
def test_signals_may_end_the_start_of_a_farm_and_not_a_taking_over(takes_over):
    output = SimpleNamespace(say=lambda sentence: None)
    context: Any = SimpleNamespace(
        settings=Settings("list", "list_workdir"),
        process=SimpleNamespace(signals=None, output=output),
        begun=0.0,
    )
    start = opening.Opening(context, takes_over=takes_over)
    assert start._sleep.may_end_start is not takes_over


def test_each_try_to_join_takes_over_the_claim_that_the_one_before_it_left(monkeypatch):
    output = SimpleNamespace(say=lambda sentence: None)
    context: Any = SimpleNamespace(
        settings=Settings("list", "list_workdir", grace=5.0),
        process=SimpleNamespace(
            signals=SimpleNamespace(any_noted=False), output=output, environ={}
        ),
        begun=0.0,
    )
    tries: list[tuple[str, str]] = []

    def join(self: Any, tasks: Any, definition: Any, inherits: str) -> Any:
        tries.append((definition.farm, inherits))
        if len(tries) < 3:
            raise StorageError("input/output error")
        return "joined"

    monkeypatch.setattr(opening.Opening, "_join", join)
    tasks: Any = []
    joined: Any = opening.Opening(context).join(tasks, RunnerDefinition(), "0123456789")
    assert joined == "joined"
    farms = [farm for farm, _ in tries]
    assert [inherits for _, inherits in tries] == ["0123456789", *farms[:2]]
    assert len({*farms}) == 3
    assert {farm[:FAMILY] for farm in farms} == {"0123456789"[:FAMILY]}
