"""Where commands run: --chdir, and what is said where a list was begun elsewhere."""

import os
import sys
from pathlib import Path

import pytest

from mpifarm.commands.options import parse_arguments
from mpifarm.errors import InputError
from mpifarm.farm import directory
from mpifarm.farm.directory import (
    enter_directory,
    explain_not_entered,
    explain_not_found,
    find_not_entered,
    go_on_there,
    is_other,
    runs_anywhere,
    warn_of_other,
)
from mpifarm.model.settings import Arguments, RunnerDefinition, Settings


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A directory to be started in; all that a farm changes is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "there").mkdir()
    (tmp_path / "tasks.txt").touch()
    return tmp_path


def entered(*words):
    return enter_directory(parse_arguments([*words], {}))


def test_without_chdir_nothing_changes(here):
    settings, fault = entered("tasks.txt")
    assert (settings.tasklist, fault) == ("tasks.txt", "")
    assert os.getcwd() == str(here)


def test_all_but_the_commands_is_named_from_where_mpifarm_was_started(here):
    files = ("--config", "a.ini", "--lock-area", "/l", "--durations", "before.tsv")
    settings, fault = entered("--chdir", "there", *files, "tasks.txt")
    assert fault == ""
    assert os.getcwd() == os.environ["PWD"] == f"{here}/there"
    assert settings.tasklist == f"{here}/tasks.txt"
    assert settings.workdir == f"{here}/tasks.txt_workdir"
    assert (settings.config, settings.lock_area) == (f"{here}/a.ini", "/l")
    assert settings.durations == f"{here}/before.tsv"
    assert str(here) in sys.path


def test_a_directory_that_is_not_there_is_told_and_not_entered(here):
    _, fault = entered("--chdir", "nowhere", "tasks.txt")
    assert fault == "can't run commands in nowhere: No such file or directory"
    assert os.getcwd() == str(here)


def test_another_spelling_of_a_directory_is_not_another(here):
    (here / "link").symlink_to("there")
    assert not is_other(f"{here}/there", f"{here}/link")
    assert not is_other(f"{here}/gone", f"{here}/there")
    assert is_other(f"{here}/there", str(here))


@pytest.mark.parametrize(
    ("cwd", "fixed"), [("/data", True), ("~/x", True), ("x", False)]
)
def test_a_runner_with_a_directory_of_its_own_runs_anywhere_the_same(cwd, fixed):
    assert runs_anywhere(RunnerDefinition("x", options={"cwd": cwd})) == fixed
    assert not runs_anywhere(RunnerDefinition())


SLURM = {"SLURM_JOB_ID": "7"}


@pytest.mark.parametrize("name", ["PWD", "SLURM_SUBMIT_DIR"])
@pytest.mark.parametrize("wanted", ["there/no", "closed"])
def test_a_directory_that_slurm_could_not_enter_is_known(here, name, wanted):
    (here / "closed").touch()  # nobody may enter it, root neither
    environ = {**SLURM, "PWD": "/tmp", name: f"{here}/{wanted}"}
    assert find_not_entered("/tmp", environ) == f"{here}/{wanted}"
    assert find_not_entered(str(here), environ) == ""
    del environ["SLURM_JOB_ID"]
    assert find_not_entered("/tmp", environ) == ""


def test_who_starts_in_tmp_is_where_he_wants_to_be(here):
    environ = {**SLURM, "PWD": "/tmp", "SLURM_SUBMIT_DIR": str(here)}
    assert find_not_entered("/tmp", environ) == ""
    assert find_not_entered("/tmp", SLURM) == ""
    said = explain_not_entered("/home/a", "n3")
    assert said.startswith(
        "can't run commands in /home/a: Slurm could not enter it on n3"
    )
    assert "--chdir" in said


def test_the_sentences_name_both_directories_and_the_option():
    said = warn_of_other("/a b", "/c")
    assert said.startswith("WARNING: this list was begun in /a b")
    assert "--chdir '/a b'" in said
    assert "\x1b" not in warn_of_other("/a\x1b[1m", "/c")
    why = explain_not_found(10, "/a")
    assert why.startswith("the first 10 commands could not be started")
    assert "no failure is recorded" in why
    assert why.endswith(go_on_there("/a"))
    assert explain_not_found(1, "/a").startswith("the first command could not be")
    assert go_on_there("/a b") == "give --chdir '/a b' with the same command"


def test_files_of_hooks_are_named_from_where_mpifarm_was_started(here):
    files = ("--events", "e.jsonl", "--metrics", "/m.prom")
    settings, _ = entered("--chdir", "there", *files, "tasks.txt")
    assert settings.hooks.events == f"{here}/e.jsonl"
    assert settings.hooks.metrics == "/m.prom"
    assert (settings.config, settings.durations, settings.lock_area) == (None,) * 3


def test_a_list_that_is_no_file_keeps_its_name_and_the_path_has_no_place_twice(here):
    settings, _ = entered("--chdir", "there", "--workdir", "w", "a name")
    assert settings.tasklist == "a name"
    assert settings.workdir == f"{here}/w"
    sys.path[:] = [str(here)]
    os.chdir(here)
    entered("--chdir", "there", "tasks.txt")
    assert sys.path == [str(here)]


# ---- the current directory -----------------------------------------------------------


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory was removed."""

    def fail() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", fail)


@pytest.mark.usefixtures("gone")
def test_no_command_runs_in_a_directory_that_is_gone() -> None:
    with pytest.raises(InputError, match="because it is gone: go to one"):
        directory.find_directory_of_commands(Settings("/l", "/w"), {})


@pytest.mark.usefixtures("gone")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (Settings("l", "/w"), "l"),
        (Settings("/l", "w"), "w"),
        (Settings("/l", "w", chdir="/"), "w"),
        (Settings(":::", "w", arguments=Arguments((), (), 0)), "w"),
        (Settings("-", "w"), "w"),
        (Settings("/l", "/w"), ""),
        (Settings(":::", "/w", arguments=Arguments((), (), 0)), ""),
        (Settings("-", "/w"), ""),
    ],
)
def test_what_is_named_from_a_directory_that_is_gone_is_told(
    settings: Settings, named: str
) -> None:
    fault = directory.enter_directory(settings)[1]
    assert fault.startswith(f"can't find {named}, because the current") is bool(named)
    if named:
        with pytest.raises(InputError, match="whole paths of list and workdir"):
            directory.check_directory(settings)
    else:
        directory.check_directory(settings)


def test_a_directory_that_slurm_could_not_enter_is_refused_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(directory, "find_not_entered", lambda *_: "/home/x")
    with pytest.raises(InputError, match="/home/x: Slurm could not enter it"):
        directory.find_directory_of_commands(Settings("/l", "/w"), {})
    assert directory.find_directory_of_commands(Settings("/l", "/w", chdir="/"), {})


def test_where_slurm_could_not_go_is_asked_for_this_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(directory, "find_not_entered", lambda *of: asked.extend(of))
    monkeypatch.chdir(tmp_path)
    here = directory.find_directory_of_commands(Settings("/l", "/w"), {})
    assert here == str(tmp_path)
    assert asked == [str(tmp_path), {}]
