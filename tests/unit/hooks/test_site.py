"""Which files may say what watches a farm, and what they may say."""

import json
import os
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import InputError
from mpifarm.farm.context import RankContext
from mpifarm.farm.find_hooks import check_hooks, with_hooks
from mpifarm.hooks import helper
from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.hooks.site import find_site_hooks
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import HookSettings, Settings
from mpifarm.store.strangers import is_of_workdir
from mpifarm.system import processes, trust
from mpifarm.system.trust import find_stranger

SITE = """\
[hooks]
events = {directory}/{{user}}-{{job}}.jsonl
on-end = true

[watch]
Hook = site.Watch
url = http://here
"""


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site.ini"
    path.write_text(SITE.format(directory=tmp_path))
    path.chmod(0o644)
    return path


def test_a_file_of_ones_own_is_trusted(site):
    assert find_stranger(str(site)) == ""


def test_a_file_that_everyone_may_write_is_not(site):
    site.chmod(0o666)
    assert find_stranger(str(site)) == f"everyone may write {site}"


def test_a_file_in_a_directory_that_everyone_may_write_is_not(tmp_path, site):
    tmp_path.chmod(0o777)
    assert find_stranger(str(site)) == f"everyone may write {tmp_path}"
    tmp_path.chmod(0o1777)
    assert find_stranger(str(site)) == ""


def test_a_link_is_as_good_as_its_target_and_both_their_directories(tmp_path, site):
    link = tmp_path / "open" / "link.ini"
    link.parent.mkdir()
    link.symlink_to(site)
    assert find_stranger(str(link)) == ""
    link.parent.chmod(0o777)
    assert find_stranger(str(link)) == f"everyone may write {link.parent}"
    link.parent.chmod(0o755)
    site.chmod(0o666)
    assert find_stranger(str(link)) == f"everyone may write {site}"


def test_a_link_of_a_stranger_is_not_trusted_wherever_it_leads(
    tmp_path, site, monkeypatch
):
    first, second = tmp_path / "first.ini", tmp_path / "second.ini"
    first.symlink_to("second.ini")
    second.symlink_to(site)
    assert find_stranger(str(first)) == ""
    find_status = trust._find_status

    def find_status_with_a_stranger(path):
        status = find_status(path)
        if path != str(second):
            return status
        return SimpleNamespace(st_uid=4_000_000, st_mode=status.st_mode)

    monkeypatch.setattr(trust, "_find_status", find_status_with_a_stranger)
    why = f"{second} belongs to user 4000000, not to you or root"
    assert find_stranger(str(second)) == why
    assert find_stranger(str(first)) == why
    assert find_stranger(str(site)) == ""


def test_the_directory_of_each_link_is_looked_at(tmp_path, site):
    middle = tmp_path / "middle"
    middle.mkdir()
    (middle / "b.ini").symlink_to("../site.ini")
    first = tmp_path / "a.ini"
    first.symlink_to("middle/b.ini")
    assert find_stranger(str(first)) == ""
    middle.chmod(0o777)
    assert find_stranger(str(first)) == f"everyone may write {middle}"


def test_a_file_of_a_stranger_is_not_trusted(site, monkeypatch):
    stranger = SimpleNamespace(st_uid=4_000_000, st_mode=0o100644)
    monkeypatch.setattr(trust, "_find_status", lambda path: stranger)
    assert "belongs to user 4000000, not to you or root" in find_stranger(str(site))


def test_a_site_switches_hooks_on_by_a_file_or_a_directory(tmp_path, site):
    for place in (site, tmp_path):
        hooks, faults = find_site_hooks([str(place)], {"SLURM_JOB_ID": "17"})
        assert faults == []
        events, commands, own = hooks
        assert all(each.by_site for each in hooks)
        assert events.options["path"].endswith("-17.jsonl")
        assert f"switched on by {site}" in events.describe()
        assert (commands.kind, commands.options["on_end"]) == (
            HookKind.COMMANDS,
            "true",
        )
        assert (own.name, own.python_class) == ("watch", "site.Watch")
        assert dict(own.options) == {"url": "http://here"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[hooks]\nevnets = /x\n", "section [hooks] has evnets, and takes only events"),
        ("[hooks]\nevents = x\n", "events = x has to begin with /"),
        (
            "[hooks]\non-end = x\n[watch]\nHook = a.B\nurl = 5%\n",
            "section [watch], key url: a % there begins a reference such as",
        ),
        ("hooks\n", "line 1: 'hooks' is before the first [section]; correct the file"),
    ],
)
def test_a_faulty_file_of_the_site_is_told_and_ends_no_farm(site, text, why):
    site.write_text(text)
    hooks, (fault,) = find_site_hooks([str(site)], {})
    assert hooks == []
    assert fault.startswith(f"WARNING: the hooks of {site} are left out: ")
    assert why in fault


def test_a_percent_sign_in_a_command_of_the_site_stands_as_it_is(site):
    site.write_text("[hooks]\non-end = date +%F >> x; date +%%s\n")
    (commands,), faults = find_site_hooks([str(site)], {})
    assert faults == []
    assert commands.options["on_end"] == "date +%F >> x; date +%%s"


def test_a_directory_of_the_site_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert find_site_hooks([str(tmp_path)], {}) == (
        [],
        [f"WARNING: the hooks of {tmp_path} are left out: Permission denied"],
    )


def test_a_file_that_a_stranger_could_have_written_is_told_and_not_read(site):
    site.chmod(0o666)
    hooks, (fault,) = find_site_hooks([str(site)], {})
    assert hooks == []
    assert fault.endswith(f"everyone may write {site}, and they run as you")


def context_of(tmp_path, place="", **hooks):
    said: list[str] = []
    settings = Settings("list", "dir", config=None, hooks=HookSettings(**hooks))
    environ = {"MPIFARM_SITE_CONFIG": place, "HOME": str(tmp_path)}
    output = SimpleNamespace(say=said.append)
    process = SimpleNamespace(environ=environ, output=output)
    return SimpleNamespace(settings=settings, process=process), said


def test_without_hooks_the_context_stays_the_same(tmp_path):
    context, said = context_of(tmp_path, str(tmp_path / "nothing"))
    assert with_hooks(context) is context
    assert said == []


@pytest.mark.parametrize("option", ["events", "metrics"])
def test_a_file_that_cannot_be_written_is_refused(tmp_path, option):
    for path in (tmp_path / "none" / "file", tmp_path):
        context, _ = context_of(tmp_path, **{option: str(path)})
        with pytest.raises(InputError, match=f"--{option} {path} "):
            with_hooks(context)


@pytest.mark.parametrize("option", ["events", "metrics"])
def test_a_file_that_the_farm_itself_uses_is_refused(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("list").write_text("true\n")
    tmp_path.joinpath("link").symlink_to("list")
    tmp_path.joinpath("dir", "logs").mkdir(parents=True)
    for name, why in (
        ("list", "is the tasklist itself: name another file"),
        ("link", "is the tasklist itself: name another file"),
        ("dir/finished", "is a file that mpifarm keeps in the workdir"),
        ("dir/logs/log_3", "is a file that mpifarm keeps in the workdir"),
    ):
        context, _ = context_of(tmp_path, **{option: name})
        with pytest.raises(InputError, match=f"--{option} {tmp_path}/{name} {why}"):
            with_hooks(context)
    assert not is_of_workdir(WorkdirPaths("dir"), "dir/events.jsonl")


def test_a_hook_of_a_file_that_everyone_may_write_is_refused(tmp_path):
    path = tmp_path / ".config" / "mpifarm" / "mine.ini"
    path.parent.mkdir(parents=True)
    path.write_text("[watch]\nHook = mine.Watch\n")
    path.chmod(0o666)
    context, _ = context_of(tmp_path, names=("watch",))
    with pytest.raises(InputError, match=f"the hook .watch. .* may write {path}"):
        with_hooks(context)
    context, _ = context_of(tmp_path, names=("other",))
    with pytest.raises(InputError, match="there is no hook 'other' for --hook"):
        with_hooks(context)


HOOKS = """\
class Good:
    def __init__(self, out): open(out, "w").close()
    def on_event(self, event): pass
class Deaf: pass
"""


@pytest.mark.parametrize(
    ("named", "options", "why"),
    [
        ("Good", {"out": "made"}, ""),
        ("Good", {}, "--hook watch: misses the option out: its_hooks.Good takes out"),
        ("Deaf", {}, "--hook watch: its_hooks.Deaf has no method on_event"),
        ("God", {}, "--hook watch: the class its_hooks.God can't be imported: "),
    ],
)
def test_a_class_that_cannot_be_a_hook_is_refused_before_anything_begins(
    tmp_path, monkeypatch, named, options, why
):
    (tmp_path / "its_hooks.py").write_text(HOOKS)
    monkeypatch.syspath_prepend(tmp_path)
    hook = HookDefinition(HookKind.CLASS, options, "watch", f"its_hooks.{named}")
    environment = dict(os.environb)
    if why:
        with pytest.raises(InputError, match=why):
            check_hooks([hook], environment)
        hook = replace(hook, by_site=True)
    check_hooks([hook], environment)
    assert not (tmp_path / "made").exists()
    assert "its_hooks" not in sys.modules


# ---- a farm with hooks of both kinds -------------------------------------------------


def rank_context(context: Any) -> RankContext:
    pool: Any = None
    return RankContext(context.settings, context.process, pool, None, {})


def test_hooks_of_the_command_line_come_before_those_of_the_site(tmp_path, site):
    site.write_text("[hooks]\non-end = date\n")
    own = tmp_path / "mine.ini"
    own.write_text("[watch]\nHook = mine.Watch\nout = x\n")
    own.chmod(0o600)
    events = str(tmp_path / "events.jsonl")
    context, said = context_of(tmp_path, str(site), events=events, names=("watch",))
    context.settings = replace(context.settings, config=str(own))
    hooks = with_hooks(rank_context(context)).hooks
    assert [each.kind for each in hooks] == [
        *(HookKind.EVENTS, HookKind.CLASS, HookKind.COMMANDS),
    ]
    _, watch, of_site = hooks
    assert (watch.name, watch.python_class, watch.source) == (
        *("watch", "mine.Watch"),
        str(own),
    )
    assert watch.options == {"out": "x"}
    assert (watch.by_site, of_site.by_site) == (False, True)
    assert said == []


def test_a_user_leaves_each_hook_of_the_site_out_by_the_option_of_its_kind(
    tmp_path, site
):
    text = f"[hooks]\nevents = {tmp_path}/e\nmetrics = {tmp_path}/m\non-end = date\n"
    site.write_text(f"{text}on-failure = ls\n[watch]\nHook = site.Watch\n")

    def values(*left_out: str) -> list[str]:
        context, said = context_of(tmp_path, str(site), left_out=left_out)
        found = with_hooks(rank_context(context)).hooks
        assert said == []
        assert all(each.by_site and each.source == str(site) for each in found)
        return [
            each.name or "; ".join(filter(None, each.options.values()))
            for each in found
        ]

    events, metrics = f"{tmp_path}/e", f"{tmp_path}/m"
    assert values() == [events, metrics, "date; ls", "watch"]
    assert values("--events") == [metrics, "date; ls", "watch"]
    assert values("--metrics", "--on-end") == [events, "ls", "watch"]
    assert values("--on-failure") == [events, metrics, "date", "watch"]
    assert values("--hook") == [events, metrics, "date; ls"]
    assert values("--on-end", "--on-failure") == [events, metrics, "watch"]


def test_what_is_wrong_at_the_site_is_told_and_the_rest_is_there(tmp_path, site):
    site.write_text("[hooks]\nodd = x\n")
    context, said = context_of(tmp_path, str(site))
    assert with_hooks(rank_context(context)).hooks == ()
    (warning,) = said
    assert warning.startswith("WARNING: the hooks of ")


# ---- the process of a hook -----------------------------------------------------------


def words_of(hook: HookDefinition) -> str:
    words = {"kind": hook.kind.value, "options": dict(hook.options)}
    more = {name: getattr(hook, name) for name in ("name", "python_class", "source")}
    return json.dumps(words | more)


@pytest.mark.parametrize("kind", [*HookKind])
def test_each_kind_of_hook_has_its_sink(monkeypatch, tmp_path, kind):
    made: list[Any] = []

    def stand_in(name: str) -> Any:
        def create(*given: Any) -> Any:
            made.append(name)
            return given

        return create

    for name in (
        *("events_file.EventsFile", "metrics.MetricsFile"),
        *("shell_commands.ShellCommands", "own.OwnHook"),
    ):
        monkeypatch.setattr(f"mpifarm.hooks.{name}", stand_in(name))
    sinks = {
        HookKind.EVENTS: "events_file.EventsFile",
        HookKind.METRICS: "metrics.MetricsFile",
        HookKind.COMMANDS: "shell_commands.ShellCommands",
        HookKind.CLASS: "own.OwnHook",
    }
    hook, report = HookDefinition(kind, {}), print
    sink: Any = helper._create_sink(hook, report)
    assert sink == (hook, report)
    assert made == [sinks[kind]]


def test_a_class_that_can_not_be_imported_is_reported_alone(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(helper, "_open_reports", lambda: said.append)
    hook = HookDefinition(HookKind.CLASS, {}, "watch", "no_such_module.Watch")
    helper.check(words_of(hook))
    (why,) = said
    assert why.startswith("the class no_such_module.Watch can't be imported")
    said.clear()
    monkeypatch.setattr("mpifarm.hooks.own.import_hook", lambda _: None)
    helper.check(words_of(hook))
    assert said == []


def test_what_a_hook_prints_is_dropped_and_its_reports_are_lines(tmp_path):
    told, reader = os.pipe()[::-1]

    def talk() -> None:
        os.dup2(told, 1)
        report = helper._open_reports()
        os.write(1, b"to standard output")
        os.write(2, b"to standard error")
        report("two\nlines \udcff")

    child = processes.fork_child(talk)
    os.close(told)
    with open(reader, "rb") as said:
        assert said.read() == b"two lines \\udcff\n"
    assert processes.reap_child(child) == 0


def test_a_helper_whose_rank_is_gone_ends_some_time_later(monkeypatch):
    acts: list[Any] = []
    parents = iter([5, 5, 5, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr("time.sleep", acts.append)
    monkeypatch.setattr(helper, "kill_group", lambda *of: acts.append(of))
    watches: list[Any] = []

    def create(*, target: Any, daemon: bool) -> Any:
        assert daemon
        watches.append(target)
        return SimpleNamespace(start=lambda: acts.append("start"))

    monkeypatch.setattr("threading.Thread", create)
    helper._watch_parent()
    (watch,) = watches
    watch()
    group = (os.getpid(), signal.SIGKILL)
    assert acts == ["start", 1.0, 1.0, helper.ORPHAN_SECONDS, group]
