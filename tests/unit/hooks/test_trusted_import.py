"""Which modules a hook may import, by who could have written them."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import InputError
from mpifarm.farm.find_hooks import check_hooks
from mpifarm.hooks import helper
from mpifarm.hooks.definitions import HookDefinition, HookKind
from mpifarm.hooks.own import import_hook
from mpifarm.hooks.site import find_site_hooks
from mpifarm.hooks.trusted_import import trusting_modules
from mpifarm.system import trust

WATCH = "class Watch:\n    def on_event(self, event): pass\n"


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A directory of modules in the path of Python, whose modules are forgotten."""
    directory = tmp_path / "modules"
    directory.mkdir()
    before = {*sys.modules}
    monkeypatch.syspath_prepend(directory)
    monkeypatch.chdir(tmp_path)
    yield directory
    for name in {*sys.modules} - before:
        if str(directory) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: Path, text: str = WATCH) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def hook_of(dotted: str, **more: Any) -> HookDefinition:
    return HookDefinition(HookKind.CLASS, {}, "watch", dotted, "ini", **more)


def why_not(hook: HookDefinition) -> str:
    """Return why a hook is refused, "" if it is imported."""
    try:
        with trusting_modules(hook):
            import_hook(hook)
    except InputError as error:
        return str(error)
    return ""


def refusal(name: str, path: Path) -> str:
    return (
        f"the module {name} is not used: everyone may write {path}, and it would run"
        f" as you: chmod go-w {path}"
    )


def test_a_module_of_ones_own_is_imported_and_nothing_of_python_stays_changed(modules):
    write(modules / "own_hooks.py")
    before = [*sys.path], [*sys.meta_path]
    assert why_not(hook_of("own_hooks.Watch")) == ""
    assert [*sys.meta_path] == before[1]
    assert sys.path == before[0]


def test_a_module_that_everyone_may_write_is_refused_before_it_runs(modules):
    ran = modules / "ran"
    path = write(modules / "open_hooks.py", f"open({str(ran)!r}, 'w').close()\n{WATCH}")
    path.chmod(0o666)
    assert why_not(hook_of("open_hooks.Watch")) == refusal("open_hooks", path)
    assert not ran.exists()
    path.chmod(0o644)
    modules.chmod(0o777)
    assert why_not(hook_of("open_hooks.Watch")) == refusal("open_hooks", modules)
    modules.chmod(0o1777)
    assert why_not(hook_of("open_hooks.Watch")) == ""


def test_a_module_of_a_stranger_is_refused(modules, monkeypatch):
    path = write(modules / "their_hooks.py")
    find_status = trust._find_status

    def find_status_with_a_stranger(each: str) -> Any:
        status = find_status(each)
        uid = 4_000_000 if each == str(path) else status.st_uid
        return SimpleNamespace(st_uid=uid, st_mode=status.st_mode)

    monkeypatch.setattr(trust, "_find_status", find_status_with_a_stranger)
    assert why_not(hook_of("their_hooks.Watch")) == (
        f"the module their_hooks is not used: {path} belongs to user 4000000, not to"
        " you or root, and it would run as you: use a copy of it that is yours, in a"
        " directory of yours"
    )


@pytest.mark.parametrize("name", ["__init__.py", "deep/__init__.py", "deep/hooks.py"])
def test_the_packages_of_a_module_are_judged_too(modules, name):
    top = modules / "site_package"
    for each in ("__init__.py", "deep/__init__.py"):
        write(top / each, "")
    write(top / "deep" / "hooks.py")
    path = top / name
    path.chmod(0o666)
    dotted = ".".join(path.relative_to(modules).with_suffix("").parts)
    why = why_not(hook_of("site_package.deep.hooks.Watch"))
    assert why == refusal(dotted.removesuffix(".__init__"), path)


def test_what_is_cached_is_judged_as_the_source_is(modules):
    write(modules / "cached_hooks.py")
    cache = modules / "__pycache__"
    cache.mkdir()
    cache.chmod(0o777)
    hook = hook_of("cached_hooks.Watch")
    assert why_not(hook) == refusal("cached_hooks", cache)


def test_what_the_module_imports_from_its_own_directory_is_judged(modules):
    write(modules / "using_hooks.py", f"import json, used_by_hooks\n{WATCH}")
    used = write(modules / "used_by_hooks.py", "")
    used.chmod(0o666)
    hook = hook_of("using_hooks.Watch")
    assert why_not(hook) == refusal("used_by_hooks", used)
    used.chmod(0o644)
    assert why_not(hook) == ""


def test_what_is_installed_elsewhere_is_trusted_as_the_farm_itself_is(
    modules, tmp_path, monkeypatch
):
    write(modules / "one_hooks.py", f"import installed_for_hooks\n{WATCH}")
    elsewhere = write(tmp_path / "elsewhere" / "installed_for_hooks.py", "")
    elsewhere.chmod(0o666)
    monkeypatch.syspath_prepend(elsewhere.parent)
    assert why_not(hook_of("one_hooks.Watch")) == ""
    del sys.modules["installed_for_hooks"]


def test_a_hook_of_the_site_is_not_looked_for_in_the_current_directory(
    modules, monkeypatch
):
    write(modules / "here_hooks.py")
    monkeypatch.chdir(modules)
    monkeypatch.setattr(sys, "path", [*sys.path, "", "."])
    hook = hook_of("here_hooks.Watch")
    assert "here_hooks" in why_not(replace(hook, by_site=True))
    assert str(modules) in sys.path
    assert why_not(hook) == ""


def test_the_directory_of_the_site_comes_first_and_is_judged(modules, tmp_path):
    write(modules / "both_hooks.py", "")
    path = write(tmp_path / "site" / "both_hooks.py")
    hook = hook_of("both_hooks.Watch", path=str(path.parent), by_site=True)
    path.chmod(0o666)
    assert why_not(hook) == refusal("both_hooks", path)
    path.chmod(0o644)
    assert why_not(hook) == ""
    del sys.modules["both_hooks"]


def test_a_hook_of_the_command_line_is_refused_at_the_start(modules):
    path = write(modules / "start_hooks.py")
    path.chmod(0o666)
    hook = hook_of("start_hooks.Watch")
    with pytest.raises(InputError) as refused:
        check_hooks([hook], dict(os.environb))
    assert str(refused.value) == f"--hook watch: {refusal('start_hooks', path)}"


def test_a_hook_of_the_site_is_left_out_with_a_warning(modules, monkeypatch):
    path = write(modules / "warned_hooks.py")
    path.chmod(0o666)
    told: list[str] = []
    monkeypatch.setattr(helper, "ignore_signals", lambda: None)
    monkeypatch.setattr(helper, "_watch_parent", lambda: None)
    monkeypatch.setattr(helper, "_open_reports", lambda: told.append)
    hook = hook_of("warned_hooks.Watch", path=str(modules), by_site=True)
    made: list[Any] = []
    monkeypatch.setattr(helper, "Companion", lambda argv, env: made.append(argv))
    helper.start_helper(hook, {})
    with pytest.raises(SystemExit):
        helper.main(made[0][-1])
    (warning,) = told
    assert warning == (
        "WARNING: the hook watch (warned_hooks.Watch) fails and is left out"
        f" ({refusal('warned_hooks', path)})"
    )


def test_a_relative_directory_of_the_site_would_be_the_users(tmp_path):
    site = write(tmp_path / "site.ini", "[hooks]\npath = python\n")
    hooks, (fault,) = find_site_hooks([str(site)], {})
    assert hooks == []
    assert fault.endswith("are left out: path = python has to begin with /")
