"""What rank 0 does before the first task: the commands of a handler, and its waits."""

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.farm import opening
from mpifarm.farm.opening import (
    TELL_SECONDS,
    CheckedCommands,
    StartSleep,
    check_not_begun,
    find_commands,
)
from mpifarm.model.settings import (
    FarmDefinition,
    RunnerDefinition,
    Settings,
    TaskLimits,
)
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
        hooks=(),
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


# ---- the input -----------------------------------------------------------------------


def context_of(**settings: Any) -> Any:
    return SimpleNamespace(
        settings=Settings(
            **{"tasklist": "list", "workdir": "list_workdir", **settings}
        ),
        process=SimpleNamespace(
            signals=SimpleNamespace(any_noted=False),
            output=SimpleNamespace(say=lambda _: None),
            environ={},
        ),
        hooks=(),
        begun=0.0,
    )


def test_each_rank_is_sent_what_it_needs_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limits, given = TaskLimits(timeout=3.0), (("NUMBER", 1),)
    context = context_of(
        grace=7.0, limits=limits, logs="failed", id_variables=given, verbose=True
    )
    runner = RunnerDefinition(options={"shell": "/bin/zsh"})
    assert opening.Opening(context)._define("f00d", runner) == FarmDefinition(
        farm="f00d",
        workdir=f"{tmp_path}/list_workdir",
        runner=runner,
        grace=7.0,
        limits=limits,
        logs="failed",
        id_variables=given,
        verbose=True,
        directory=str(tmp_path),
    )
    elsewhere = RunnerDefinition(options={"cwd": "/data"})
    assert opening.Opening(context)._define("f00d", elsewhere).directory == ""


def test_a_directory_that_is_gone_is_told_with_the_remedy(monkeypatch):
    def fail() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("os.getcwd", fail)
    with pytest.raises(InputError, match=r"\(No such file or directory\): go to one"):
        opening._find_directory(context_of())


def test_a_directory_that_slurm_could_not_enter_is_refused_unless_one_is_named(
    monkeypatch,
):
    monkeypatch.setattr(opening, "find_not_entered", lambda *_: "/home/x")
    with pytest.raises(InputError, match="/home/x: Slurm could not enter it"):
        opening._find_directory(context_of())
    assert opening._find_directory(context_of(chdir="/data"))


def test_a_list_that_has_lost_its_tasks_is_not_taken_for_done(tmp_path):
    settings = Settings("list", str(tmp_path))
    check_not_begun(settings)
    (tmp_path / "fingerprint.json").touch()
    with pytest.raises(InputError, match=r"list has no tasks, but .* was begun with"):
        check_not_begun(settings)


@pytest.mark.parametrize("name", ["", "/toprocess", "/finished", "/failed"])
def test_a_workdir_in_place_of_a_list_is_refused(tmp_path, monkeypatch, name):
    path, refused = f"{tmp_path}{name}", list[str]()
    monkeypatch.setattr("mpifarm.store.target.refuse_as_list", refused.append)
    opening._refuse_workdir(Settings(path, "w", handler="mine"))
    opening._refuse_workdir(Settings(f"{tmp_path}/list", "w"))
    assert refused == []
    opening._refuse_workdir(Settings(path, "w"))
    assert refused == [path]


def test_standard_input_as_it_was_kept_is_the_list_of_its_own_workdir_alone(
    tmp_path, monkeypatch
):
    path, refused = f"{tmp_path}/w/stdin.txt", list[str]()
    monkeypatch.setattr("mpifarm.store.target.refuse_as_list", refused.append)
    opening._refuse_workdir(Settings(path, f"{tmp_path}/w/"))
    assert refused == []
    opening._refuse_workdir(Settings(path, f"{path}_workdir"))
    assert refused == [path]


def test_a_handler_with_its_own_state_can_not_be_remapped():
    start = opening.Opening(context_of(remap=True, handler="mine"))
    nothing: Any = None
    with pytest.raises(InputError, match="the handler 'mine' keeps its own state"):
        start._join_custom(nothing, nothing, nothing, "")


def test_the_commands_of_a_handler_are_as_many_as_its_tasks():
    handler: Any = Handler("true")
    commands = find_commands(handler, "mine")
    assert isinstance(commands, CheckedCommands)
    assert commands[0] == "true"
    assert len(commands) == 1


def test_the_wait_for_the_lock_is_shown_once_it_was_told(monkeypatch):
    now, shown, told = [100.0], [], []
    clock = SimpleNamespace(
        sleep=lambda s: now.__setitem__(0, now[0] + s), monotonic=lambda: now[0]
    )
    monkeypatch.setattr(opening, "time", clock)
    signals: Any = SimpleNamespace(any_noted=False)
    sleep = StartSleep(
        *(signals, 100.0, None),
        *(lambda: told.append(now[0]), lambda: shown.append(now[0])),
    )
    for _ in range(5):
        sleep(1.0)
    assert (told, shown) == ([104.0], [105.0])
    assert TELL_SECONDS == 3.0


def test_what_is_told_of_the_lock_names_it_and_the_time():
    said, shown = list[str](), list[str]()
    context = context_of()
    context.process.output = SimpleNamespace(say=said.append, show=shown.append)
    context.begun = time.monotonic() - 65.0
    start = opening.Opening(context)
    start._lock_names = "/here/lock"
    start._tell_of_lock()
    start._show_wait()
    assert said == ["the lock (/here/lock) is held by another farmer; waiting for it"]
    assert shown == ["waiting for the lock, 65 s so far"]
