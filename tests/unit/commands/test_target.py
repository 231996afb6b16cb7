"""What names a workdir where a list is asked for, and the list of a workdir."""

import json
import os
import re
import shlex
import sys

import pytest

from mpifarm.commands import target
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.errors import InputError
from mpifarm.model.paths import STATUS_FILES
from mpifarm.store.target import (
    Target,
    farm_words_of,
    is_database,
    look_at_tasks,
    read_tasks,
    refuse_as_list,
    words_of,
)
from mpifarm.system import files
from mpifarm.tasklists import TaskList


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A list, ``my list``, with its workdir, and a workdir with a list elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my list").touch()
    for name in ("my list_workdir", "else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fingerprint.json").touch()
    return tmp_path


def complaint(path):
    with pytest.raises(InputError) as caught:
        refuse_as_list(path)
    return str(caught.value)


def test_a_workdir_as_list_is_told_with_what_was_meant():
    assert complaint("my list_workdir") == (
        "my list_workdir is the workdir of a list, and no list: mpifarm 'my list' goes"
        " on with the list, mpifarm retry 'my list_workdir' puts back what failed"
    )


@pytest.mark.parametrize("name", STATUS_FILES)
def test_so_is_a_status_file_of_one(name):
    assert complaint(f"my list_workdir/{name}") == (
        f"my list_workdir/{name} is a file in the workdir of a list, and no list:"
        " mpifarm 'my list' goes on with the list, mpifarm retry 'my list_workdir' puts"
        " back what failed"
    )


def test_where_the_list_is_not_known_a_word_stands_for_it(here, monkeypatch):
    assert "mpifarm --workdir else FILE goes on" in complaint("else")
    assert "mpifarm retry else --list FILE puts back" in complaint("else/failed")
    monkeypatch.chdir(here / "else")
    assert complaint("failed").startswith("failed is a file in the workdir")


def test_another_directory_and_a_list_in_it_are_none_of_a_workdirs(here):
    (here / "failed").touch()
    refuse_as_list("failed")
    refuse_as_list(".")


def test_a_workdir_that_may_not_be_read_is_told(here, monkeypatch):
    asked = []

    def refuse(path, mode):
        asked.append((path, mode))
        return False

    monkeypatch.setattr(files, "is_permitted", refuse)
    with pytest.raises(InputError, match=r"cannot read the workdir .*: ask its owner"):
        target._check_workdir("else")
    assert asked == [("else", os.R_OK | os.X_OK)]


def test_a_status_file_is_told_as_one_to_a_subcommand(here):
    (here / "else" / "failed").touch()
    with pytest.raises(
        InputError, match=r"^else/failed is a file in the workdir else:"
    ):
        find("else/failed")
    (here / "failed").touch()
    with pytest.raises(InputError, match="no workdir failed_workdir"):
        find("failed")


# ---- the list of a workdir ----------------------------------------------------------


def find(*words):
    parser = SubcommandParser("ls", "")
    target.add_target_arguments(parser)
    return target.find_target(parser.parse_args(words), {"HOME": os.devnull})


def test_a_subcommand_has_the_lock_and_the_handler_of_the_farms_there(here):
    (here / "mpifarm.ini").write_text(
        "[options]\nlock-area = locks\ntasklist = greasy\nconfig = a.ini\nproc = 3\n"
    )
    found = find("else")
    assert found.lock_area == f"{here}/locks"
    assert (found.handler, found.config) == ("greasy", f"{here}/a.ini")
    assert not found.has_typed_config
    found = find("else", "--lock-area", "typed", "-t", "default", "--config", "b.ini")
    assert found[2:] == ("default", "b.ini", "typed", None, True, "")
    (here / "mpifarm.ini").write_text("[options]\nlock-area = $SCRATCH\n")
    with pytest.raises(InputError, match=r"line 2: lock-area has a \$"):
        find("else")


def leave_farm(here, **state):
    """Leave what a farm in the workdir of ``my list`` has said of itself."""
    farms = here / "my list_workdir" / "farms"
    farms.mkdir(exist_ok=True)
    told = {"format": 1, "directory": str(here), **state}
    (farms / "aaaaaaaa.json").write_text(json.dumps(told))


def test_a_handler_that_nobody_names_is_that_of_the_last_farm(here):
    (here / "my list").write_text("./run\n#TASK\n")
    assert find("my list").handler == "default"
    leave_farm(here, handler="greasy", config=f"{here}/a.ini")
    found = find("my list")
    assert (found.handler, found.config) == ("greasy", f"{here}/a.ini")
    assert words_of(found)[1:] == ["--config", f"{here}/a.ini", "-t", "greasy"]
    assert find("my list", "--config", "b.ini").config == "b.ini"
    assert find("my list", "-t", "default").handler == "default"
    assert find("my list", "-t", "disbatch").config is None
    for odd in ({"handler": 7}, {"handler": "default"}, {}):
        leave_farm(here, **odd)
        assert find("my list") == Target("my list_workdir", "my list")


def test_a_handler_that_is_not_defined_here_is_told_with_the_way_to_it(
    here, monkeypatch
):
    (here / "my list").write_text("3\n")
    (here / "own.ini").write_text(
        "[own]\nTaskList = mpifarm.templates.TemplateTaskList\ncommand = ./run {}\n"
    )
    leave_farm(here, handler="own")
    environ = {"HOME": os.devnull}
    tasks, fault = look_at_tasks(find("my list"), environ)
    assert (tasks is not None and tasks[0], fault) == ("./run 3", "")
    (here / "other place").mkdir()
    monkeypatch.chdir(here / "other place")
    found = find("../my list")
    assert not is_database(found, environ)
    fault = (
        "the last farm in ../my list_workdir read its list by -t own, which is not"
        f" defined here: give --config FILE, or first: cd {shlex.quote(str(here))}"
    )
    assert look_at_tasks(found, environ) == (None, fault)
    with pytest.raises(InputError, match=r"by -t own, which is not defined here: "):
        read_tasks(found, environ)
    for named in ("-t", "own"), ("-t", "gone"):
        with pytest.raises(InputError, match=r"^there is no tasklist handler"):
            look_at_tasks(find("../my list", *named), environ)
    monkeypatch.chdir(here)
    (here / "own.ini").unlink()
    assert "there is no tasklist handler 'own'" in look_at_tasks(found, environ)[1]


def test_a_farm_file_names_no_handler_that_a_stranger_could_have_written(
    here, monkeypatch
):
    """Whoever may write the workdir may write the farm file."""
    (here / "my list").write_text("3\n")
    config = here / "own.txt"
    config.write_text("[own]\nTaskList = evil.Evil\n")
    config.chmod(0o666)
    leave_farm(here, handler="own", config=str(config))
    environ = {"HOME": os.devnull}
    (here / "other").mkdir()
    for directory in (here, here / "other"):
        monkeypatch.chdir(directory)
        found = find(os.path.relpath(here / "my list"))
        _, fault = look_at_tasks(found, environ)
        assert f"--config {config} is not used: everyone may write {config}" in fault
        with pytest.raises(InputError, match=f"as you: chmod go-w {config}$"):
            read_tasks(found, environ)
    # What the user types is the user's own word.
    found = find("../my list", "--config", str(config))
    with pytest.raises(InputError, match=r"can't be imported"):
        read_tasks(found, environ)


def test_a_recalled_ini_file_that_is_wrong_is_told_from_anywhere(here, monkeypatch):
    (here / "my list").write_text("3\n")
    config = here / "own.txt"
    leave_farm(here, handler="own", config=str(config))
    environ = {"HOME": os.devnull}
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    read_by = "the last farm in ../my list_workdir read its list by -t own"

    def fault() -> str:
        return look_at_tasks(find("../my list"), environ)[1]

    assert fault() == (
        f"{read_by} and the --config {config}, which is not there: move it back, or"
        " give -t own --config FILE"
    )
    config.write_text("[own\n")
    assert fault().startswith(f"{read_by}: can't read the file of --config: {config}")
    assert "cd " not in fault()
    go = f" (or go first to where that farm began: cd {here})"
    config.write_text("[other]\nRunner = mpifarm.runners.BasicRunner\n")
    assert fault().endswith(f"{config} has no section [own] with TaskList{go}")
    config.write_text("[own]\nTaskList = own_in_recall.Own\n")
    assert fault().startswith(
        f"{read_by}: the tasklist handler 'own' in {config} can't"
    )
    assert fault().endswith(f"put its directory into PYTHONPATH{go}")
    monkeypatch.chdir(here)
    assert "PYTHONPATH" in look_at_tasks(find("my list"), environ)[1]
    assert "cd " not in look_at_tasks(find("my list"), environ)[1]
    # A wrong line is one of the list, wherever one stands.
    config.write_text("[own]\nTaskList = mpifarm.tasklists.ListTaskList\n")
    (here / "my list").write_text("#AFTER 7\n3\n")
    assert look_at_tasks(find("my list"), environ)[1].startswith("line 1 of my list ")


def test_a_built_in_handler_needs_no_ini_file_that_is_gone(here):
    leave_farm(here, handler="greasy", config=f"{here}/gone")
    fault = look_at_tasks(find("my list"), {"HOME": os.devnull})[1]
    assert fault.endswith("is not there: move it back, or give -t greasy")


MODULE = """\
from pathlib import Path
Path("ran").touch()

from mpifarm.tasklists import ListTaskList

class Own(ListTaskList):
    def __getitem__(self, taskid):
        if taskid == 0:  # that is tried at once
            return "run"
        from later_in_recall import name
        return name
"""


@pytest.fixture
def module(here, monkeypatch):
    """The module of a handler of the last farm's, in the current directory."""
    (here / "my list").write_text("3\n4\n")
    (here / "later_in_recall.py").write_text("name = 'later'\n")
    (here / "own.txt").write_text("[own]\nTaskList = own_in_recall.Own\n")
    leave_farm(here, handler="own", config=f"{here}/own.txt")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    path = here / "own_in_recall.py"
    path.write_text(MODULE)
    yield path
    for name in ("own_in_recall", "later_in_recall"):
        sys.modules.pop(name, None)


def read(found: Target) -> TaskList:
    tasks = read_tasks(found, {"HOME": os.devnull})
    assert tasks is not None
    return tasks


@pytest.mark.parametrize("name", ["farms/aaaaaaaa.json", "farms", "."])
def test_a_farm_file_that_a_stranger_could_have_written_chooses_no_class(
    here, module, name
):
    """Its INI file may be one that mpifarm brings, whose module anyone can write."""
    path = (here / "my list_workdir" / name).resolve()
    mode = path.stat().st_mode
    path.chmod(mode | 0o002)
    found = find("my list")
    fault = (
        "the last farm in my list_workdir read its list by -t own, which could be any"
        f" code, because everyone may write {path}: if it is right, give -t own"
        " --config FILE"
    )
    environ = {"HOME": os.devnull}
    assert look_at_tasks(found, environ) == (None, fault)
    assert not is_database(found, environ)
    with pytest.raises(InputError, match=f"^{re.escape(fault)}$"):
        read_tasks(found, environ)
    assert not (here / "ran").exists()
    leave_farm(here, handler="own", config=None)
    assert look_at_tasks(find("my list"), environ)[1].endswith("give -t own")
    # What mpifarm itself brings is no stranger's code.
    leave_farm(here, handler="disbatch", config=f"{here}/own.txt", directory="/x")
    found = find("my list")
    assert (found.handler, found.config) == ("disbatch", None)
    assert len(read(found)) == 2
    path.chmod(mode)
    leave_farm(here, handler="own", config=f"{here}/own.txt")
    assert read(find("my list"))[1] == "later"


def test_a_recalled_class_comes_from_no_module_here_that_a_stranger_could_have_written(
    here, module
):
    environ, finders = {"HOME": os.devnull}, [*sys.meta_path]
    module.chmod(0o666)
    with pytest.raises(InputError, match=f"everyone may write {module}, and it would"):
        read_tasks(find("my list"), environ)
    assert not (here / "ran").exists()
    assert sys.meta_path == finders
    # What the user types is the user's own word.
    typed = find("my list", "-t", "own", "--config", "own.txt")
    assert len(read(typed)) == 2


def test_a_recalled_class_imports_later_nothing_from_the_directory_of_a_stranger(
    here, module, tmp_path_factory, monkeypatch
):
    installed = tmp_path_factory.mktemp("installed")
    module.rename(installed / module.name)
    monkeypatch.syspath_prepend(installed)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "later_in_recall.py").write_text("name = 'strange'\n")
    elsewhere.chmod(0o777)
    monkeypatch.chdir(elsewhere)
    tasks = read(find(f"{here}/my list"))
    with pytest.raises(ModuleNotFoundError):
        tasks[1]
    elsewhere.chmod(0o755)
    tasks = read(find(f"{here}/my list"))
    assert tasks[1] == "strange"


@pytest.mark.parametrize("named", ["else", "else/", "else/stdin.txt"])
def test_the_list_of_a_workdir_is_standard_input_as_it_was_kept_there(here, named):
    (here / "else" / "stdin.txt").touch()
    found = find(named)
    assert found.workdir.rstrip("/") == "else"
    assert found.tasklist == "else/stdin.txt"
    assert words_of(found) == [found.workdir]
    assert farm_words_of(found) == ["--workdir", found.workdir, "else/stdin.txt"]


def test_a_list_that_is_named_is_the_list_all_the_same(here):
    (here / "else" / "stdin.txt").touch()
    assert find("else", "--list", "my list").tasklist == "my list"


def test_beside_the_file_that_a_workdir_is_named_after_what_was_kept_is_no_list(here):
    (here / "my list_workdir" / "stdin.txt").touch()
    assert find("my list_workdir").tasklist == "my list"
    kept = "my list_workdir/stdin.txt"
    assert words_of(Target("my list_workdir", kept))[1:] == ["--list", kept]


def test_a_list_of_that_name_is_a_list_like_any_other(here):
    (here / "stdin.txt").touch()
    (here / "stdin.txt_workdir" / "logs").mkdir(parents=True)
    assert find("stdin.txt") == Target("stdin.txt_workdir", "stdin.txt")
    refuse_as_list("stdin.txt")


def test_standard_input_as_it_was_kept_is_no_list_of_another_workdir(here):
    (here / "else" / "stdin.txt").touch()
    assert complaint("else/stdin.txt") == (
        "else/stdin.txt is a file in the workdir of a list, and no list: mpifarm"
        " --workdir else else/stdin.txt goes on with the list, mpifarm retry else puts"
        " back what failed"
    )


@pytest.mark.parametrize(
    ("workdir", "told", "way"),
    [
        ("else", "", ": add --list FILE"),
        ("else", "my list", ": add --list '{here}/my list'"),
        ("else", "gone", ", and {here}/gone is gone: move it back, or add --list FILE"),
        ("t_workdir/", "", ", and t is gone: move it back, or add --list FILE"),
        ("t_workdir", "t", ", and t is gone: move it back, or add --list FILE"),
    ],
)
def test_a_list_that_is_not_known_is_asked_for_by_its_name(here, workdir, told, way):
    farms = here / workdir / "farms"
    farms.mkdir(parents=True)
    if told:
        state = {"format": 1, "tasklist": str(here / told)}
        (farms / "0123456789abcdef.json").write_text(json.dumps(state))
    with pytest.raises(InputError) as caught:
        target.texts_of(None, Target(workdir, None), "a retry")
    assert str(caught.value) == f"a retry needs the tasklist{way.format(here=here)}"
