"""What rank 0 does before the first task: the commands of a handler, and its waits."""

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.batch.arrays import find_array
from mpifarm.commands.options import parse_arguments
from mpifarm.database.names import DATABASE_CLASS
from mpifarm.databases import SqliteTaskList
from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.farm import opening
from mpifarm.farm.growth import explain_unended
from mpifarm.farm.opening import (
    TELL_SECONDS,
    CheckedCommands,
    ListCommands,
    OpenedFarm,
    StartSleep,
    check_not_begun,
    find_commands,
)
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import (
    FarmDefinition,
    RunnerDefinition,
    Settings,
    TaskLimits,
)
from mpifarm.plugins.registry import find_search_path
from mpifarm.store import adding
from mpifarm.store.custom_store import CustomStore
from mpifarm.store.database_store import DatabaseStore
from mpifarm.store.file_store import FileStore
from mpifarm.store.membership import FAMILY
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.tasklists import UNENDED
from tests.unit.database_fakes import DatabaseSite


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


def test_each_rank_is_to_tell_of_tasks_that_begin_if_a_hook_hears_of_them():
    for heard, verbose in (([], False), ([False], False), ([False, True], True)):
        context = context_of()
        context.hooks = [SimpleNamespace(watches_tasks=each) for each in heard]
        start = opening.Opening(context)
        assert start._sleep.may_end_start
        assert start._define("f00d", RunnerDefinition()).verbose is verbose


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
    opening.refuse_workdir(Settings(path, "w", handler="mine"))
    opening.refuse_workdir(Settings(f"{tmp_path}/list", "w"))
    assert refused == []
    opening.refuse_workdir(Settings(path, "w"))
    assert refused == [path]


def test_standard_input_as_it_was_kept_is_the_list_of_its_own_workdir_alone(
    tmp_path, monkeypatch
):
    path, refused = f"{tmp_path}/w/stdin.txt", list[str]()
    monkeypatch.setattr("mpifarm.store.target.refuse_as_list", refused.append)
    opening.refuse_workdir(Settings(path, f"{tmp_path}/w/"))
    assert refused == []
    opening.refuse_workdir(Settings(path, f"{path}_workdir"))
    assert refused == [path]


def write_farm_file(workdir: Path, **state: object) -> None:
    (workdir / "farms").mkdir(parents=True)
    content = json.dumps({"format": 1, "tasklist": "gone", **state})
    (workdir / "farms" / "0123456789abcdef.json").write_text(content)


@pytest.mark.parametrize(
    ("before", "now", "is_refused"),
    [
        ("disbatch", [], True),
        ("disbatch", ["--remap"], True),
        ("disbatch", ["--again"], False),
        ("disbatch", ["-t", "disbatch"], False),
        ("disbatch", ["-t", "default"], False),
        ("disbatch", ["list.db"], True),
        ("sqlite", ["list.db"], False),
        ("default", [], False),
    ],
)
def test_a_list_that_a_handler_has_read_is_not_run_as_it_stands_by_mistake(
    tmp_path, before, now, is_refused
):
    write_farm_file(tmp_path / "w", handler=before)
    argv = ["--workdir", f"{tmp_path}/w", *now]
    argv += [] if "list.db" in now else ["tasks"]
    remedy = "add -t disbatch, or -t default if each line is a command"
    with pytest.raises(InputError, match=remedy) if is_refused else nullcontext():
        opening.refuse_other_handler(parse_arguments(argv, {}))


def test_the_handler_of_another_list_or_of_no_farm_does_not_count(tmp_path):
    settings = Settings(f"{tmp_path}/mine", f"{tmp_path}/w")
    opening.refuse_other_handler(settings)
    for name in ("mine", "other"):
        (tmp_path / name).touch()
    write_farm_file(tmp_path / "w", handler="x", tasklist=f"{tmp_path}/other")
    opening.refuse_other_handler(settings)
    (tmp_path / "other").unlink()
    with pytest.raises(InputError, match=f"read {tmp_path}/mine by the handler x: add"):
        opening.refuse_other_handler(settings)


def test_of_the_files_of_a_job_array_of_thousands_some_are_looked_at(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(opening, "MAX_FARM_FILES", 2)
    write_farm_file(tmp_path, handler="x")
    for number in range(3):
        name = f"{number:016x}.json"
        shutil.copy(tmp_path / "farms" / "0123456789abcdef.json", tmp_path / name)
        (tmp_path / name).rename(tmp_path / "farms" / name)
    with pytest.raises(InputError, match="add -t x"):
        opening.refuse_other_handler(Settings("list", str(tmp_path)))


def test_a_handler_with_its_own_state_can_not_be_remapped():
    own: Any = SimpleNamespace(pop_task=None)
    start = opening.Opening(context_of(remap=True, handler="mine"))
    nothing: Any = None
    with pytest.raises(InputError, match="the handler 'mine' keeps its own state"):
        start._join(own, nothing, "")


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


def test_what_is_told_of_the_lock_names_it_and_the_time(monkeypatch):
    monkeypatch.setattr(opening, "time", SimpleNamespace(monotonic=lambda: 100.0))
    said, shown = list[str](), list[str]()
    context = context_of()
    context.process.output = SimpleNamespace(say=said.append, show=shown.append)
    context.begun = 35.0
    start = opening.Opening(context)
    start._lock_names = "/here/lock"
    start._tell_of_lock()
    start._show_wait()
    assert said == ["the lock (/here/lock) is held by another farmer; waiting for it"]
    assert shown == ["waiting for the lock, 65 s so far"]


# ---- a list and its workdir, as they are ---------------------------------------------


@pytest.fixture
def list_context(tmp_path, monkeypatch):
    """A context of a list of three tasks, with other settings as they are given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("echo a\necho b\necho c\n")

    def create(environ: dict[str, str] | None = None, **settings: Any) -> Any:
        context = context_of(**settings)
        context.said = []
        context.process.output.say = context.said.append
        context.process.environ = environ or {}
        return context

    return create


def join(context: Any, *, takes_over: bool = False, inherits: str = "") -> OpenedFarm:
    start = opening.Opening(context, takes_over=takes_over)
    runner, tasks = start.read_definitions()
    opened = start.join(tasks, runner, inherits)
    opened.store.close()
    assert not start._sleep.may_end_start
    return opened


def test_a_list_is_joined_by_files(list_context, tmp_path):
    opened = join(list_context())
    assert isinstance(opened.store, FileStore)
    assert opened.definition.workdir == str(tmp_path / "list_workdir")
    assert (tmp_path / "list_workdir" / "fingerprint.json").exists()
    assert opened.lock.paths == tuple(lock_paths("list_workdir", {}, None))


def test_a_farm_of_a_job_array_is_known_as_one(list_context, monkeypatch):
    opened: dict[str, Any] = {}

    def note(*_: Any, **given: Any) -> Any:
        opened.update(given)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(FileStore, "open", note)
    environ = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "1"}
    Path("list").write_text("echo a\n#BARRIER\necho b\n")
    join(list_context(environ), inherits="f00df00d")
    assert opened["array"] == find_array(environ) != ""
    assert [each.first for each in opened["constraints"].barriers] == [1]
    assert opened["predecessor"] == "f00df00d"
    for remap, takes_over in ((True, False), (True, True), (False, False)):
        join(list_context(remap=remap), takes_over=takes_over)
        assert opened["remap"] == (remap and not takes_over)


def test_the_lock_is_probed_in_a_workdir_before_it_is_joined(list_context, monkeypatch):
    acts: list[str] = []
    monkeypatch.setattr(opening, "make_root", lambda _: acts.append("make"))
    monkeypatch.setattr(WorkdirLock, "probe", lambda _: acts.append("probe"))

    def open_store(*_: Any, **__: Any) -> Any:
        acts.append("open")
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(FileStore, "open", open_store)
    join(list_context())
    assert acts == ["make", "probe", "open"]


def test_a_start_waits_for_the_lock_by_its_own_sleep(list_context, monkeypatch):
    context = list_context()
    start = opening.Opening(context)
    made: list[Any] = []

    class Lock(WorkdirLock):
        def __init__(self, *given: Any, **more: Any) -> None:
            made.append(more.get("sleep"))
            super().__init__(*given, **more)

    monkeypatch.setattr(opening, "WorkdirLock", Lock)
    runner, tasks = start.read_definitions()
    start.join(tasks, runner).store.close()
    assert made == [start._sleep]
    assert start._lock_names == ", ".join(lock_paths("list_workdir", {}, None))


def test_a_database_is_joined_as_one_and_can_not_be_remapped(
    list_context, tmp_path, monkeypatch
):
    DatabaseSite(tmp_path)
    base: dict[str, Any] = {"tasklist": "tasks.db", "workdir": "tasks.db_workdir"}
    opened = join(list_context(**base))
    assert isinstance(opened.store, DatabaseStore)
    with pytest.raises(InputError, match="--remap is for a text list that was edited"):
        join(list_context(**base, remap=True))
    given: dict[str, Any] = {}

    def note(*_: Any, **more: Any) -> Any:
        given.update(more)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(DatabaseStore, "open", note)
    environ = {"SLURM_ARRAY_JOB_ID": "4711"}
    join(list_context(environ, **base), inherits="f00df00d")
    assert given == {"predecessor": "f00df00d", "array": find_array(environ)}


@pytest.mark.parametrize(
    ("handler", "name", "area", "options"),
    [
        ("default", "tasks.db", None, {}),
        ("default", "tasks.db", "/area", {"lock_area": "/area"}),
        ("sqlite", "any", "/area", {"lock_area": "/area"}),
        ("default", "list", "/area", None),
        ("disbatch", "tasks.db", "/area", None),
    ],
)
def test_a_database_is_known_by_its_name_and_gets_the_area_of_its_lock(
    list_context, handler, name, area, options
):
    context = list_context(handler=handler, tasklist=name, lock_area=area)
    found = opening._find_handler(context.settings, find_search_path({}, None))
    assert (found.python_class == DATABASE_CLASS) == (options is not None)
    assert found.options == (options or {})


class OwnState:
    """A list that keeps its own state, and has nothing to do."""

    is_database = False
    pop_task = get_finished = record_toprocess_task = record_done_task = None

    def __len__(self) -> int:
        return 3


def test_a_list_with_its_own_state_is_joined_by_that(list_context, monkeypatch):
    given: list[Any] = []

    def note(*words: Any, **more: Any) -> Any:
        given.extend((*words[:2], *more.items()))
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(CustomStore, "open", note)
    tasks: Any = OwnState()
    opened = opening.Opening(list_context()).join(tasks, RunnerDefinition(), "f00df00d")
    workdir = opened.definition.workdir
    assert given == [workdir, tasks, ("predecessor", "f00df00d")]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"runner": "no such"}, "no such"),
        ({"handler": "no such"}, "no such"),
        ({"tasklist": "no such"}, "no such"),
        ({"tasklist": "."}, "directory"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    list_context, tmp_path, wrong, why
):
    with pytest.raises(InputError, match=why):
        opening.Opening(list_context(**wrong)).read_definitions()
    assert [*tmp_path.iterdir()] == [tmp_path / "list"]


def test_the_places_of_list_and_workdir_are_asked_for(list_context, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(opening, "validate_place", lambda *of: asked.extend(of))
    opening.Opening(list_context()).read_definitions()
    assert asked == ["list_workdir", "list"]


def test_a_warning_about_gpus_is_told(list_context, monkeypatch):
    warned: list[Any] = []

    def warn(*words: Any) -> str:
        warned.extend(words)
        return "the GPUs are odd" if len(warned) < 3 else ""

    monkeypatch.setattr("mpifarm.system.gpus.check_gpus", warn)
    said = []
    for gpus in ("none", "2", "2"):
        context = list_context({"A": "b"}, gpus=gpus)
        opening.Opening(context).read_definitions()
        said.append(context.said)
    assert said == [[], ["the GPUs are odd"], []]
    assert warned == ["2", {"A": "b"}] * 2


def test_lines_that_a_killed_adder_was_adding_are_read_too(list_context, tmp_path):
    (tmp_path / "list_workdir").mkdir()
    paths = WorkdirPaths(str(tmp_path / "list_workdir"))
    end = adding.ListEnd(str(tmp_path / "list"))
    end.read()
    lines = adding.compose(end, [b"echo d"], "")
    Path(paths.adding).write_bytes(adding.encode_adding(lines))
    lock = Path(lock_paths("list_workdir", {}, None)[0])
    _, tasks = opening.Opening(list_context()).read_definitions()
    assert [*tasks.tasks] == ["echo a", "echo b", "echo c", "echo d"]
    assert lock.exists(), "it was held meanwhile"


# ---- a last line that may be half written --------------------------------------------


def read_begun(list_context, tmp_path, content: str, known: str, **settings: Any):
    """What a start reads of a list that was begun as `known`, "" for not begun."""
    path = tmp_path / "list"
    if known:
        path.write_text(known)
        join(list_context(**settings))
    path.write_text(known + content)
    return opening.Opening(list_context(**settings)).read_definitions()[1]


HALF = ["#AFTER", "#AFTER 9", "#BARRIER CH", "[limit=x", "[limit=x] ", "a\0"]
"""Beginnings of lines that would be wrong words."""


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize(
    ("known", "given"),
    [("a\nb\n", {}), ("", {"follow": 5.0}), ("a\n", {"follow": 5.0})],
)
def test_a_half_written_line_is_not_refused_where_its_newline_may_come(
    list_context, tmp_path, half, known, given
):
    content = f"#BARRIER\nc\n{half}"
    tasks = read_begun(list_context, tmp_path, content, known, **given)
    assert [*tasks.tasks] == [*known.split(), "c"]
    assert len(tasks.constraints.barriers) == bool(known)
    assert explain_unended(tasks) == (
        "the last line of list has no newline yet, so it may be half written: it counts"
        " once it has one"
    )


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize(("known", "given"), [("", {}), ("a\n", {"remap": True})])
def test_a_wrong_line_that_nothing_ends_is_refused_with_that_word(
    list_context, tmp_path, half, known, given
):
    with pytest.raises(InputError, match=r"line . of .*list .*half written") as caught:
        read_begun(list_context, tmp_path, f"c\n{half}", known, **given)
    whole = str(caught.value)
    with pytest.raises(InputError) as caught:
        read_begun(list_context, tmp_path, f"c\n{half}\n", known, **given)
    assert f"{caught.value}{UNENDED}" == whole


@pytest.mark.parametrize("end", ["\r", "\n"])
def test_a_wrong_line_that_another_follows_is_refused(list_context, tmp_path, end):
    with pytest.raises(InputError, match=r"line 2 of .*names no tasks after") as caught:
        read_begun(list_context, tmp_path, f"#AFTER{end}b", "a\n")
    assert UNENDED not in str(caught.value)


BEGUN = {"disbatch": "#DISBATCH PREFIX nice true\ntrue\n", "greasy": "true\n\n"}
"""Lists of other tools as they were begun, each of two lines and a task."""


@pytest.mark.parametrize("handler", BEGUN)
@pytest.mark.parametrize("half", ["tru", "#DISBATCH REPEAT 1", "[# 1 #] tru"])
def test_a_line_of_another_tool_is_not_run_by_half(
    list_context, tmp_path, handler, half
):
    if half == "#DISBATCH REPEAT 1" and handler == "greasy":
        return  # a comment there
    said = (
        "line 4 of list has no newline at its end, and was added since the list was"
        " begun, so it may be half written: end it by a newline, and give the same"
        " command again"
    )
    content, known = f"true\n{half}", BEGUN[handler]
    with pytest.raises(InputError, match=f"^{said}$"):
        read_begun(list_context, tmp_path, content, known, handler=handler)


@pytest.mark.parametrize("handler", BEGUN)
@pytest.mark.parametrize(
    ("known", "content", "given"),
    [
        (False, "true\ntrue", {}),
        (True, "true\n", {}),
        (True, "# true", {}),
        (True, "true", {"remap": True}),
    ],
)
def test_a_list_of_another_tool_is_read_if_it_is_new_or_its_lines_are_whole(
    list_context, tmp_path, handler, known, content, given
):
    begun = BEGUN[handler] if known else ""
    tasks = read_begun(list_context, tmp_path, content, begun, handler=handler, **given)
    assert len(tasks) == known + content.count("true") - content.count("#")


def test_a_start_that_waits_sleeps(monkeypatch):
    waiting = Waiting(monkeypatch)
    waiting.sleep(0.5)
    waiting.sleep.pause(0.25)
    assert waiting.now == 100.75


def test_the_commands_of_a_list_are_its_texts_without_their_kinds(list_context):
    Path("list").write_text("echo a\n[limit=disk] echo b\n")
    _, tasks = opening.Opening(list_context()).read_definitions()
    commands = find_commands(tasks, "default")
    assert isinstance(commands, ListCommands)
    assert len(commands) == 2
    assert [*commands] == ["echo a", "echo b"]


def test_the_commands_of_a_database_are_those_of_its_rows(list_context, tmp_path):
    DatabaseSite(tmp_path, ["echo a", "[limit=x] echo b"])
    base = {"tasklist": "tasks.db", "workdir": "tasks.db_workdir"}
    _, tasks = opening.Opening(list_context(**base)).read_definitions()
    assert isinstance(tasks, SqliteTaskList)
    commands = find_commands(tasks, "sqlite")
    assert commands is tasks.tasks


WRONG_AGAIN = """
[own]
TaskList = tests.unit.farm.test_opening.KeepsState
[picky]
TaskList = tests.unit.farm.test_opening.Picky
[gone]
TaskList = tests.no_such_module.Handler
[none]
Runner = tests.no_such_module.Runner
"""


class KeepsState(Handler):
    """A tasklist with a state of its own."""

    def __init__(self, path: str, workdir: str) -> None:
        super().__init__(Path(path).read_text())

    def pop_task(self) -> None:
        """Take a task."""


class Picky(Handler):
    """A tasklist for other files."""

    def __init__(self, path: str, workdir: str) -> None:
        raise ValueError(path)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"runner": "other"}, "'other'"),
        ({"runner": "none"}, "no_such_module"),
        ({"handler": "gone"}, "no_such_module"),
        ({"handler": "own"}, "keeps its own: begin again in the way"),
        ({"handler": "sqlite"}, "--again is for a list in a file"),
        ({"handler": "picky"}, ""),
        ({}, ""),
    ],
)
def test_what_is_wrong_with_a_kept_list_is_told_before_it_begins_again(
    tmp_path, monkeypatch, wrong, why
):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "stdin.txt").write_text("true\n")
    (tmp_path / "mpifarm.ini").write_text(WRONG_AGAIN)
    monkeypatch.chdir(tmp_path)
    context = context_of(
        tasklist="-",
        workdir="w",
        again=True,
        config="mpifarm.ini",
        **wrong,
    )
    context.process.environ = {}
    with pytest.raises(InputError, match=why) if why else nullcontext():
        opening.Opening(context).check_beginning_again()
