"""What a hook is told to do, in which words, and how its process is given it."""

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import InputError
from mpifarm.hooks import definitions, helper
from mpifarm.hooks.definitions import (
    HookDefinition,
    HookKind,
    define_by_options,
    define_commands,
    fill_in,
    name_user,
)
from mpifarm.hooks.events_file import EventsFile
from mpifarm.hooks.metrics import MetricsFile
from mpifarm.hooks.shell_commands import ShellCommands
from mpifarm.model.settings import HookSettings

FARM = {"farm_began", "farm_state", "farm_ended", "farm_broke_off"}

EVENTS = HookDefinition(HookKind.EVENTS, {"path": "/a/events"})
METRICS = HookDefinition(HookKind.METRICS, {"path": "/a/metrics"})
BOTH = HookDefinition(HookKind.COMMANDS, {"on_end": "mail", "on_failure": "beep"})
END = HookDefinition(HookKind.COMMANDS, {"on_end": "mail", "on_failure": ""})
FAILURE = HookDefinition(HookKind.COMMANDS, {"on_end": "", "on_failure": "beep"})
OWN = HookDefinition(HookKind.CLASS, {}, "watch", "a.Watch", "/etc/a.ini", "/etc/site")


@pytest.mark.parametrize(
    ("hook", "names"),
    [
        (EVENTS, None),
        (METRICS, FARM),
        (END, FARM),
        (FAILURE, FARM | {"task_failed"}),
        (BOTH, FARM | {"task_failed"}),
        (OWN, None),
    ],
)
def test_a_hook_gets_no_event_that_it_has_no_use_for(hook, names):
    assert hook.events == names
    assert hook.watches_tasks == (names is None)


@pytest.mark.parametrize(
    ("hook", "title", "described"),
    [
        (
            EVENTS,
            "the events file /a/events",
            "each task, rank and request of this farm is written to /a/events",
        ),
        (
            METRICS,
            "the metrics file /a/metrics",
            "the numbers of this farm are kept in /a/metrics",
        ),
        (END, "the command of --on-end", "at the end runs: mail"),
        (FAILURE, "the command of --on-failure", "after failures runs: beep"),
        (
            BOTH,
            "the command of --on-end and --on-failure",
            "at the end runs: mail; after failures runs: beep",
        ),
        (
            OWN,
            "the hook watch (a.Watch)",
            "the hook watch (a.Watch) hears of each task, rank and request",
        ),
    ],
)
def test_the_user_is_told_what_is_recorded_and_by_whom(hook, title, described):
    assert (hook.title, hook.describe()) == (title, described)
    values = (hook.kind, hook.options, hook.name, hook.python_class, "/etc/a.ini")
    of_site = HookDefinition(*values, by_site=True)
    assert of_site.describe() == f"{described}, switched on by /etc/a.ini"


def test_commands_of_a_site_are_its_own():
    assert define_commands(None, "") == []
    assert define_commands("mail", None) == [END]
    assert define_commands(None, "beep") == [FAILURE]
    (own,) = define_commands("mail", "beep", "/etc/a.ini")
    assert (own.by_site, own.source) == (True, "/etc/a.ini")


def test_the_options_make_hooks_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = HookSettings(events="e-{job}", metrics="m", on_end="x", on_failure=None)
    events, metrics, commands = define_by_options(settings, {"SLURM_JOB_ID": "7"})
    assert (events.kind, events.options["path"]) == (
        HookKind.EVENTS,
        str(tmp_path / "e-7"),
    )
    assert (metrics.kind, metrics.options["path"]) == (
        HookKind.METRICS,
        str(tmp_path / "m"),
    )
    assert commands.options == {"on_end": "x", "on_failure": ""}
    assert not any(each.by_site for each in (events, metrics, commands))


def test_a_path_names_user_host_and_job(monkeypatch):
    monkeypatch.setattr(definitions, "name_user", lambda: "eve/x")
    host = os.uname().nodename
    assert fill_in("/{user}/{host}/{job}", {"SLURM_JOB_ID": "12"}) == (
        f"/eve_x/{host}/12"
    )
    assert fill_in("{job}-{job}", {}) == f"pid{os.getpid()}-pid{os.getpid()}"


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no entry")])
def test_a_user_without_a_name_is_a_number(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr("getpass.getuser", fail)
    assert name_user() == str(os.getuid())


@pytest.mark.parametrize("is_there", [False, True])
def test_who_may_not_write_the_file_is_told_at_once(tmp_path, monkeypatch, is_there):
    path = tmp_path / "events"
    if is_there:
        path.touch()
    asked = []

    def refuse(path, mode):
        asked.append((path, mode))
        return False

    monkeypatch.setattr("os.access", refuse)
    with pytest.raises(InputError, match=f"--events {path} can't be .* no permission"):
        define_by_options(HookSettings(events=str(path)), {})
    assert asked == [(str(path if is_there else tmp_path), os.W_OK)]


# ---- the process of a hook -----------------------------------------------------------


class Companion:
    """Notes how the process of a hook would be started."""

    def __init__(self, argv: list[str], env: Any) -> None:
        self.argv, self.env = argv, env


@pytest.mark.parametrize("hook", [EVENTS, BOTH, OWN])
def test_a_helper_is_given_the_whole_hook_and_the_modules_of_its_site(
    monkeypatch, hook
):
    monkeypatch.setattr(helper, "Companion", Companion)
    monkeypatch.setattr("sys.path", ["/here"])
    started: Any = helper.start_helper(hook, {b"A": b"b"})
    assert started.env == {b"A": b"b"}
    path, words = started.argv[-2:]
    assert json.loads(path) == ["/here"]
    assert helper._parse_definition(words) == hook
    assert "-P" in started.argv
    assert any("helper.main(sys.argv[2])" in word for word in started.argv)


@pytest.mark.parametrize(
    ("hook", "kind"),
    [(EVENTS, EventsFile), (METRICS, MetricsFile), (BOTH, ShellCommands)],
)
def test_a_helper_does_what_its_kind_says(hook, kind):
    assert type(helper._create_sink(hook, print)) is kind


def test_what_cannot_be_started_has_no_fault_of_its_own(monkeypatch):
    def fail(argv, env):
        raise OSError(11, "no more processes")

    monkeypatch.setattr(helper, "Companion", fail)
    assert helper.find_fault(OWN, {}) == ""


class Checker:
    """A helper that answers piece by piece; None is the end of its answer."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = [*pieces]
        self.is_ended = False

    def read(self) -> bytes | None:
        return self.pieces.pop(0) if self.pieces else b""

    def end(self) -> None:
        self.is_ended = True


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ((b"", b"no ", b"", b"class\n", None), "no class"),
        ((None,), ""),
        ((b"slow",), "slow"),
    ],
)
def test_a_fault_is_what_the_check_says_until_its_time_is_over(
    monkeypatch, pieces, fault
):
    checker = Checker(*pieces)
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(helper, "time", clock)
    monkeypatch.setattr(helper, "Companion", lambda argv, env: checker)
    assert helper.find_fault(OWN, {}) == fault
    assert checker.is_ended
    assert (now[0] >= helper.CHECK_SECONDS) == (None not in pieces)


class ExitError(Exception):
    """The exit of a helper."""


def run_main(monkeypatch, sink, last):
    """Run the helper of a sink, whose input ends with `last`; return its reports."""
    told: list[str] = []

    def leave(status):
        raise ExitError(status)

    for name, fake in (
        ("ignore_signals", lambda: None),
        ("_watch_parent", lambda: None),
        ("_open_reports", lambda: told.append),
        ("_create_sink", lambda definition, report: sink),
        ("_pump", lambda sink: last),
        ("sys", SimpleNamespace(exit=leave)),
    ):
        monkeypatch.setattr(helper, name, fake)
    words = {"kind": "events", "options": {"path": "/a/events"}}
    try:
        helper.main(json.dumps(words))
    except ExitError as ended:
        told.append(f"exit {ended.args[0]}")
    return told


def test_a_helper_says_that_it_has_ended_in_order(monkeypatch):
    acts: list[Any] = []
    sink = SimpleNamespace(take=acts.append, end=lambda: acts.append("end"))
    assert run_main(monkeypatch, sink, None) == ["end\n"]
    assert acts == ["end"]


def test_a_farm_that_broke_off_is_told_before_the_end(monkeypatch):
    acts: list[Any] = []
    sink = SimpleNamespace(take=acts.append, end=lambda: acts.append("end"))
    last = b'{"n": 7, "farm": "f00d"}\n'
    assert run_main(monkeypatch, sink, last) == ["end\n"]
    (taken,), end = acts
    assert (json.loads(taken)["event"], json.loads(taken)["n"]) == ("farm_broke_off", 8)
    assert end == "end"


@pytest.mark.parametrize(
    ("error", "why"),
    [(ValueError("odd"), "ValueError: odd"), (InputError("no such file"), "no such")],
)
def test_a_hook_that_fails_is_told_and_its_process_ends(monkeypatch, error, why):
    def fail():
        raise error

    sink = SimpleNamespace(end=fail)
    told = run_main(monkeypatch, sink, None)
    assert told[-1] == "exit 1"
    assert told[0].startswith("the events file /a/events fails and is left out (")
    assert why in told[0]
    assert len(told) == 2
