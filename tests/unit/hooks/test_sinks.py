"""What the process of each kind of hook does with lines, with a fake clock.

Rules of this file: real files in temporary directories; commands are not started.
"""

import errno
import json
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import StorageError
from mpifarm.hooks import events_file, helper, shell_commands
from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.hooks.events_file import EventsFile
from mpifarm.hooks.metrics import MetricsFile
from mpifarm.hooks.own import OwnHook
from mpifarm.hooks.shell_commands import (
    FIRST_SECONDS,
    MAX_FAILURES,
    PAUSE_SECONDS,
    ShellCommands,
)
from mpifarm.model.events import encode_line


def line(number, name, **own):
    return encode_line(number, "2026-11-30T10:00:00.000Z", name, "f00d", own)


def failure(taskid):
    return line(taskid, "task_failed", task=taskid, outcome="failed", status=3, host="")


BEGAN = line(
    *(1, "farm_began"),
    user="eve",
    job=None,
    host="n1",
    workdir='/a/"b"\n',
    total=5,
    failed=1,
    finished=0,
)


@pytest.fixture
def told():
    return []


# ---- the events file -----------------------------------------------------------------


@pytest.fixture
def events(tmp_path, told):
    path = str(tmp_path / "events.jsonl")
    return EventsFile(HookDefinition(HookKind.EVENTS, {"path": path}), told.append)


def test_lines_are_appended_when_they_are_due_and_at_the_end(events, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"before\n")
    events.take([b"1\n"])
    events.step(events.wake_at() - 0.1)
    assert path.read_bytes() == b"before\n"
    events.step(events.wake_at())
    assert path.read_bytes() == b"before\n1\n"
    events.take([b"2\n"])
    events.end()
    assert path.read_bytes() == b"before\n1\n2\n"


def test_a_torn_line_of_a_killed_writer_does_not_swallow_the_next(events, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"v": 1, "n"')
    events.take([b"1\n"])
    events.end()
    assert path.read_bytes() == b'{"v": 1, "n"\n1\n'


def test_a_full_disk_is_told_once_and_what_is_missing_is_counted(
    events, tmp_path, told, monkeypatch
):
    is_full = [True]

    def append(path: str, content: bytes) -> None:
        if is_full[0]:
            raise StorageError("can't write it: No space left on device")
        with open(path, "ab") as file:
            file.write(content)

    monkeypatch.setattr(events_file, "append_beside_others", append)
    for number in range(3):
        events.take([b"%d\n" % number])
        events.step(events.wake_at())
    is_full[0] = False
    events.take([b"3\n"])
    events.end()
    assert (tmp_path / "events.jsonl").read_bytes() == b"3\n"
    first, last = told
    assert "No space left" in first
    assert last.startswith("3 events are missing in ")


# ---- metrics -------------------------------------------------------------------------


def test_the_metrics_are_replaced_whole_and_say_when_the_farm_is_gone(tmp_path, told):
    path = tmp_path / "farm.prom"
    options = {"path": str(path)}
    sink = MetricsFile(HookDefinition(HookKind.METRICS, options), told.append)
    state = {"total": 5, "finished": 2, "failed": 1, "running": 2}
    sink.take([BEGAN, line(2, "farm_state", **state, tasks_per_second=0.5)])
    text = path.read_text()
    assert 'mpifarm_up{farm="f00d",user="eve",job="",host="n1",' in text
    assert 'workdir="/a/\\"b\\"\\n"} 1\n' in text
    assert 'state="running"} 2\n' in text
    sink.take([line(3, "farm_broke_off")])
    text = path.read_text()
    assert 'workdir="/a/\\"b\\"\\n"} 0\n' in text
    assert 'state="finished"} 2\n' in text
    assert 'state="running"} 0\n' in text
    names = [each.split("{")[0] for each in text.splitlines() if each[0] != "#"]
    heads = [each.split()[2] for each in text.splitlines() if "# TYPE" in each]
    assert list(dict.fromkeys(names)) == heads
    assert [each.name for each in tmp_path.iterdir()] == ["farm.prom"]
    assert told == []


# ---- commands ------------------------------------------------------------------------


class Shell:
    """Starts nothing, and notes what would have been started."""

    def __init__(self, monkeypatch: Any) -> None:
        self.now = 1000.0
        self.started: list[tuple[float, str, dict[str, str]]] = []
        self.dead: dict[int, int] = {}
        self.killed: list[int] = []
        self.fails = False
        self.hangs = False
        """Whether a command ends only when it is killed."""
        time = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(shell_commands, "time", time)
        monkeypatch.setattr(shell_commands, "start_in_group", self._start)
        found = lambda pid: pid if pid in self.dead else None  # noqa: E731
        monkeypatch.setattr(shell_commands, "find_dead_child", found)
        monkeypatch.setattr(shell_commands, "reap_child", lambda pid: self.dead[pid])
        monkeypatch.setattr(shell_commands, "kill_group", self._kill)

    def _start(self, argv: list[str], env: dict[str, str]) -> int:
        if self.fails:
            raise OSError(errno.EAGAIN, "no more processes")
        self.started.append((self.now, argv[2], env))
        return len(self.started)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if not self.hangs:
            self.dead |= {pid + 1: 0 for pid in range(len(self.started))}

    def _kill(self, pid: int, signum: int) -> None:
        self.killed.append(pid)
        if self.hangs:
            self.dead[pid] = -signum


@pytest.fixture
def shell(monkeypatch):
    return Shell(monkeypatch)


def commands(told):
    options = {"on_end": "END", "on_failure": "FAILURE"}
    return ShellCommands(HookDefinition(HookKind.COMMANDS, options), told.append)


def test_failures_are_told_together_and_once_a_minute(shell, told):
    sink = commands(told)
    sink.take([BEGAN, *map(failure, range(30))])
    sink.step(shell.now)
    assert shell.started == []
    shell.now = sink.wake_at()
    assert shell.now == 1000.0 + FIRST_SECONDS
    sink.step(shell.now)
    ((_, command, env),) = shell.started
    assert (command, env["MPIFARM_EVENT"]) == ("FAILURE", "task_failed")
    assert (env["MPIFARM_NEW_FAILURES"], env["MPIFARM_FAILED"]) == ("30", "31")
    shown = env["MPIFARM_FAILURES"].split("\n")
    assert len(shown) == MAX_FAILURES
    assert shown[0] == "task 0: failed, status 3"
    sink.take([failure(30)])
    shell.now += PAUSE_SECONDS
    sink.step(shell.now)
    assert len(shell.started) == 1, "the first still runs"
    shell.dead[1] = 0
    sink.step(shell.now)
    assert [env["MPIFARM_NEW_FAILURES"] for *_, env in shell.started] == ["30", "1"]
    assert shell.started[1][0] - shell.started[0][0] >= PAUSE_SECONDS


def test_at_the_end_all_failures_are_told_and_the_summary_is_there(shell, told):
    sink = commands(told)
    failures = [{"task": 4, "how": "exit status 3", "log": ""}]
    ended = {"exit_status": 1, "failures": failures, "toprocess": 2}
    sink.take([BEGAN, failure(4), line(9, "farm_ended", **ended)])
    sink.end()
    assert [command for _, command, _ in shell.started] == ["END", "FAILURE"]
    env = shell.started[0][2]
    assert (env["MPIFARM_EXIT_STATUS"], env["MPIFARM_LEFT"]) == ("1", "2")
    assert env["MPIFARM_FAILURES"] == "task 4: exit status 3"
    assert (env["MPIFARM_JOB_ID"], env["MPIFARM_USER"]) == ("", "eve")


def test_a_command_that_hangs_is_killed_and_a_status_is_told_once(shell, told):
    sink = commands(told)
    sink.take([BEGAN, line(2, "farm_ended", exit_status=0, failures=[])])
    shell.now += shell_commands.COMMAND_SECONDS
    sink.step(shell.now)
    assert shell.killed == [1]
    shell.dead[1] = -9
    sink.step(shell.now)
    sink.end()
    assert told == ["the command of --on-end ended with status -9"]


def test_commands_that_hang_at_the_end_are_killed_while_somebody_looks(shell, told):
    shell.hangs = True
    sink = commands(told)
    sink.take([BEGAN, failure(1)])
    shell.now = sink.wake_at()
    sink.step(shell.now)
    sink.take([failure(2), line(9, "farm_broke_off")])
    begun = shell.now
    sink.end()
    assert [command for _, command, _ in shell.started] == ["FAILURE", "END", "FAILURE"]
    assert shell.killed == [1, 2, 3]
    assert shell.now - begun < helper.ORPHAN_SECONDS - 5.0


def test_a_command_that_cannot_be_started_is_told(shell, told):
    shell.fails = True
    sink = commands(told)
    sink.take([line(2, "farm_ended", exit_status=0, failures=[])])
    sink.end()
    assert told == ["the command of --on-end can't be started: no more processes"]


# ---- own classes ---------------------------------------------------------------------


def test_an_exception_of_a_class_is_told_once_and_it_hears_on(
    tmp_path, told, monkeypatch
):
    (tmp_path / "a_hook.py").write_text(
        "class Watch:\n"
        "    def __init__(self, out): self.out = open(out, 'a', buffering=1)\n"
        "    def on_event(self, event):\n"
        "        print(event['n'], file=self.out)\n"
        "        if event['n'] < 3: raise ValueError('no')\n"
        "    def close(self):\n"
        "        print('closed', file=self.out)\n"
        "        self.out.close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = {"out": str(tmp_path / "out")}
    definition = HookDefinition(HookKind.CLASS, options, "watch", "a_hook.Watch")
    sink = OwnHook(definition, told.append)
    sink.take([line(number, "farm_state") for number in (1, 2, 3)])
    sink.end()
    assert (tmp_path / "out").read_text().split() == ["1", "2", "3", "closed"]
    first, last = told
    assert first.startswith("the hook watch (a_hook.Watch) fails: ValueError: no")
    assert last == "the hook watch (a_hook.Watch) failed 2 times"


# ---- the loop ------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [helper.END_MARK, b""])
def test_a_farm_that_does_not_end_in_order_breaks_off(monkeypatch, mark):
    taken: list[bytes] = []
    pieces = [BEGAN[:20], BEGAN[20:] + mark, b""]
    fake_os = SimpleNamespace(read=lambda fd, most: pieces.pop(0))
    monkeypatch.setattr(helper, "os", fake_os)
    ready = SimpleNamespace(select=lambda *_: ([0], [], []))
    monkeypatch.setattr(helper, "select", ready)
    sink: Any = SimpleNamespace(
        take=taken.extend, wake_at=lambda: float("inf"), step=lambda now: None
    )
    last = helper._pump(sink)
    assert taken == [BEGAN]
    assert last == (None if mark else BEGAN)
    if last:
        event = json.loads(helper._describe_break(last))
        assert (event["event"], event["n"], event["farm"]) == (
            "farm_broke_off",
            2,
            "f00d",
        )


def test_a_helper_wakes_when_its_sink_has_something_to_do(monkeypatch):
    """Also without an event, and once an hour in any case."""
    waits: list[float] = []
    steps: list[float] = []
    times = iter([0.0, 4.0, 5.0, 1e9])
    answers = iter([False, False, False, True])

    def select(_r: Any, _w: Any, _x: Any, seconds: float) -> Any:
        waits.append(seconds)
        return ([0] if next(answers) else [], [], [])

    now = iter([3.0, 3.5, 3.0, 3.5, 3.0, 3.5, 3.0])
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr(helper, "time", clock)
    monkeypatch.setattr(helper, "select", SimpleNamespace(select=select))
    monkeypatch.setattr(helper, "os", SimpleNamespace(read=lambda fd, most: b""))
    sink: Any = SimpleNamespace(wake_at=lambda: next(times), step=steps.append)
    assert helper._pump(sink) is None, "no event, so there is nothing to break off"
    assert waits == [0.0, 1.0, 2.0, 3600.0]
    assert steps == [3.5, 3.5, 3.5]


def test_what_stands_behind_the_end_of_a_farm_is_not_read(monkeypatch):
    taken: list[bytes] = []
    pieces = [BEGAN + b"x\n" + helper.END_MARK + b"y\n"]
    fake_os = SimpleNamespace(read=lambda fd, most: pieces.pop(0))
    monkeypatch.setattr(helper, "os", fake_os)
    ready = SimpleNamespace(select=lambda *_: ([0], [], []))
    monkeypatch.setattr(helper, "select", ready)
    sink: Any = SimpleNamespace(take=taken.extend, wake_at=lambda: float("inf"))
    assert helper._pump(sink) is None
    assert taken == [BEGAN, b"x\n"]


# ---- events: when they are written ---------------------------------------------------


@pytest.fixture
def writes(monkeypatch):
    """What the events file would append, and a clock of its own."""
    found = SimpleNamespace(appended=[], now=100.0)
    clock = SimpleNamespace(monotonic=lambda: found.now)
    monkeypatch.setattr(events_file, "time", clock)
    append = lambda path, content: found.appended.append(content)  # noqa: E731
    monkeypatch.setattr(events_file, "append_beside_others", append)
    return found


def test_events_wait_a_second_for_others_and_no_longer(events, writes):
    assert events.wake_at() == float("inf")
    events.take([])
    assert events.wake_at() == float("inf")
    events.take([b"1\n"])
    writes.now += 0.5
    events.take([b"2\n"])
    assert events.wake_at() == 100.0 + events_file.SYNC_SECONDS
    events.step(100.9)
    assert writes.appended == []
    events.step(101.0)
    assert writes.appended == [b"1\n2\n"]
    assert events.wake_at() == float("inf")
    events.step(1000.0)
    events.end()
    assert writes.appended == [b"1\n2\n"], "nothing is written twice"


def test_many_events_are_written_at_once(events, writes):
    piece = b"x" * (events_file.MAX_KEPT // 2 - 1) + b"\n"
    events.take([piece[1:]])
    events.take([piece])
    assert writes.appended == []
    events.take([b"\n"])
    assert writes.appended == [piece[1:] + piece + b"\n"]
    events.take([piece])
    assert len(writes.appended) == 1, "the count begins again"


def test_the_file_is_made_for_its_user_alone_to_write(events, tmp_path, told):
    events.take([b"1\n"])
    events.end()
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o022 == 0
    assert told == []


# ---- metrics: what they say ----------------------------------------------------------


@pytest.fixture
def metrics(tmp_path, told):
    path = str(tmp_path / "farm.prom")
    return MetricsFile(HookDefinition(HookKind.METRICS, {"path": path}), told.append)


def read_metrics(tmp_path):
    lines = (tmp_path / "farm.prom").read_text().splitlines()
    return dict(each.rsplit(" ", 1) for each in lines if not each.startswith("#"))


LABELS = 'farm="f00d",user="eve",job="",host="n1",workdir="/a/\\"b\\"\\n"'


def test_the_metrics_follow_the_state_and_are_zero_at_the_end(metrics, tmp_path):
    metrics.take([])
    assert not (tmp_path / "farm.prom").exists()
    metrics.take([BEGAN])
    working = {"running": 3, "tasks_per_second": 2.5, "ranks_working": 2}
    metrics.take([line(2, "farm_state", finished=1, **working)])
    found = read_metrics(tmp_path)
    assert found[f"mpifarm_up{{{LABELS}}}"] == "1"
    assert found[f'mpifarm_tasks{{{LABELS},state="finished"}}'] == "1"
    assert found[f'mpifarm_tasks{{{LABELS},state="running"}}'] == "3"
    assert found[f"mpifarm_tasks_per_second{{{LABELS}}}"] == "2.5"
    assert f"mpifarm_exit_status{{{LABELS}}}" not in found
    for name, own in (("farm_ended", {"exit_status": 3}), ("farm_broke_off", {})):
        metrics.take([line(2, "farm_state", **working), line(3, name, **own)])
        found = read_metrics(tmp_path)
        assert found[f"mpifarm_up{{{LABELS}}}"] == "0"
        assert found[f'mpifarm_tasks{{{LABELS},state="running"}}'] == "0"
        assert found[f"mpifarm_tasks_per_second{{{LABELS}}}"] == "0.0"
        assert found[f"mpifarm_ranks_working{{{LABELS}}}"] == "0"
        assert found[f"mpifarm_exit_status{{{LABELS}}}"] == "3"
        assert found[f'mpifarm_tasks{{{LABELS},state="finished"}}'] == "1"


def test_metrics_that_cannot_be_written_are_told_once(metrics, told, monkeypatch):
    def fail(path: str, staging: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mpifarm.hooks.metrics.replace_unsynced", fail)
    for _ in range(2):
        metrics.take([BEGAN])
    (sentence,) = told
    assert sentence.startswith("the metrics file /")
    assert sentence.endswith("farm.prom can't be written: No space left on device")


def test_hooks_without_times_of_their_own_need_no_waking(metrics):
    assert metrics.wake_at() == float("inf")


# ---- commands: the exact times -------------------------------------------------------


def test_a_command_is_killed_when_its_time_is_over_and_not_before(shell, told):
    sink = commands(told)
    sink.take([line(2, "farm_ended", exit_status=0, failures=[])])
    assert sink.wake_at() == shell.now + 0.5, "what runs is looked after"
    sink.step(shell.now + shell_commands.COMMAND_SECONDS - 0.01)
    assert shell.killed == []
    sink.step(shell.now + shell_commands.COMMAND_SECONDS)
    assert shell.killed == [1]


def test_a_command_that_ends_well_is_not_told(shell, told):
    sink = commands(told)
    sink.take([line(2, "farm_ended", exit_status=0, failures=[])])
    shell.dead[1] = 0
    sink.step(shell.now)
    assert told == []
    assert sink.wake_at() == float("inf")


def test_failures_wait_for_the_pause_since_the_last_command(shell, told):
    sink = commands(told)
    sink.take([failure(1)])
    sink.step(shell.now + FIRST_SECONDS - 0.01)
    assert shell.started == []
    shell.now += FIRST_SECONDS
    sink.step(shell.now)
    shell.dead[1] = 0
    sink.step(shell.now)
    sink.take([failure(2), failure(3)])
    assert sink.wake_at() == shell.now + PAUSE_SECONDS
    shell.now += PAUSE_SECONDS
    sink.step(shell.now)
    new = [env["MPIFARM_NEW_FAILURES"] for *_, env in shell.started]
    assert new == ["1", "2"]
    told_of = shell.started[1][2]["MPIFARM_FAILURES"].split("\n")
    assert told_of == ["task 2: failed, status 3", "task 3: failed, status 3"]


def test_each_kind_of_end_of_a_command_is_told_once(shell, told):
    sink = commands(told)
    for status in (3, 3, 4):
        sink.take([line(2, "farm_ended", exit_status=0, failures=[])])
        shell.dead[len(shell.started)] = status
        sink.step(shell.now)
    assert told == [
        f"the command of --on-end ended with status {each}; to see why, put 'exec"
        " 2>>FILE;' in front of it"
        for each in (3, 4)
    ]


def test_the_command_of_a_site_is_told_with_its_file_to_who_cannot_change_it(
    shell, told
):
    options = {"on_end": "END", "on_failure": ""}
    hook = HookDefinition(HookKind.COMMANDS, options, source="/etc/mpifarm/a.ini")
    sink = ShellCommands(hook, told.append)
    sink.take([line(2, "farm_ended", exit_status=0, failures=[])])
    shell.dead[1] = 127
    sink.step(shell.now)
    assert told == [
        "the command of --on-end in /etc/mpifarm/a.ini ended with status 127"
    ]


def test_the_place_of_a_failure_is_told_where_it_is_known(shell, told):
    sink = commands(told)
    known = {"task": 5, "outcome": "lost", "status": 9, "host": "n7"}
    sink.take([line(1, "task_failed", **known)])
    sink.end()
    env = shell.started[0][2]
    assert env["MPIFARM_FAILURES"] == "task 5: lost, status 9 on n7"
    assert env["MPIFARM_FAILED"] == "1"


def test_without_a_command_for_the_end_none_runs_there(shell, told):
    options = {"on_end": "", "on_failure": "FAILURE"}
    sink = ShellCommands(HookDefinition(HookKind.COMMANDS, options), told.append)
    sink.take([line(2, "farm_ended", exit_status=1, failures=[])])
    sink.end()
    assert shell.started == []


def test_values_that_an_environment_cannot_hold_are_told_as_they_can(shell, told):
    sink = commands(told)
    sink.take([line(1, "farm_ended", failures=[], reason="a\0b", job=None, total=0)])
    env = shell.started[0][2]
    assert (env["MPIFARM_REASON"], env["MPIFARM_JOB_ID"]) == ("ab", "")
    assert (env["MPIFARM_TOTAL"], env["MPIFARM_EVENT"]) == ("0", "farm_ended")
    assert env["PATH"], "the rest of the environment stays"


# ---- own classes: the other ways to fail ---------------------------------------------


def own_hook(monkeypatch, told, **methods):
    made: Any = type("Watch", (), methods)
    monkeypatch.setattr("mpifarm.hooks.own.import_class", lambda name, **_: made)
    definition = HookDefinition(HookKind.CLASS, {}, "watch", "a.Watch")
    return OwnHook(definition, told.append)


def test_a_class_that_exits_fails_as_one_that_raises(monkeypatch, told):
    def leave(self: Any, event: Any) -> None:
        raise SystemExit(3)

    hook = own_hook(monkeypatch, told, on_event=leave)
    hook.take([BEGAN])
    hook.end()
    (sentence,) = told
    assert sentence.startswith("the hook watch (a.Watch) fails: SystemExit")


def test_a_class_needs_no_close_and_one_that_fails_is_told(monkeypatch, told):
    hook = own_hook(monkeypatch, told, on_event=lambda self, event: None)
    hook.end()
    assert told == []

    def fail(self: Any) -> None:
        raise OSError("disk")

    own = {"on_event": lambda self, event: None, "close": fail}
    hook = own_hook(monkeypatch, told, **own)
    hook.end()
    assert len(told) == 1
    assert hook.wake_at() == float("inf")
