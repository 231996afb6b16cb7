"""The workdir that a script names, and the list that it gives there."""

import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from mpifarm.errors import InputError
from mpifarm.interface.directory import (
    Directory,
    find_place,
    find_workdir,
    refuse_other,
)


def names_in(place):
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("workdir", [Path("w"), b"w", "w"])
def test_any_kind_of_path_is_a_workdir(workdir):
    assert find_workdir(workdir) == "w"
    assert find_workdir(None) is None


@pytest.mark.parametrize(
    ("workdir", "sentence"),
    [
        ("", "workdir is an empty text: name a directory, or leave it out"),
        (b"", "workdir is an empty text"),
        (3, "workdir is 3: give the name of a directory"),
        (True, "workdir is True: give the name of a directory"),
        ("a\0b", "has a NUL byte in it"),
        ("~/w", "begins with ~, which means a home to a shell alone: give '/"),
    ],
)
def test_what_is_no_name_of_a_workdir_is_refused(workdir, sentence):
    with pytest.raises(InputError, match=sentence):
        find_workdir(workdir)


def test_a_workdir_that_is_a_file_or_has_no_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is not a directory"):
        Directory(str(tmp_path / "file")).give(b"true\n")
    with pytest.raises(InputError, match="create it first"):
        Directory(str(tmp_path / "none" / "w")).give(b"true\n")
    with pytest.raises(InputError, match=r"can't use the workdir .*: File name too"):
        Directory(str(tmp_path / ("x" * 300))).give(b"true\n")
    assert names_in(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workdir_without_permission_to_write_is_refused(tmp_path):
    (tmp_path / "w").mkdir(0o555)
    with pytest.raises(InputError, match="can't be written: check its permissions"):
        Directory(str(tmp_path / "w")).give(b"true\n")


def test_what_begins_nowhere_leaves_nothing(tmp_path):
    new = Directory(str(tmp_path / "new"))
    assert Path(new.give(b"true\n")).read_bytes() == b"true\n"
    new.leave()
    assert names_in(tmp_path) == []


def test_what_another_start_has_made_is_left(tmp_path):
    first, second = Directory(str(tmp_path / "w")), Directory(str(tmp_path / "w"))
    first.give(b"true\n")
    given = second.give(b"false\n")
    first.leave()
    assert Path(given).read_bytes() == b"false\n"
    assert names_in(tmp_path / "w") == [Path(given).name]


def test_the_list_of_a_script_that_was_killed_is_removed(tmp_path):
    with subprocess.Popen(["true"]) as script:
        pid = script.pid
    host = socket.gethostname()
    (tmp_path / f"given-{host}-{pid}-0123abcd.txt").write_text("")
    others = [f"given-{host}-{os.getpid()}-0123abcd.txt", f"given-x-{pid}-0123abcd.txt"]
    for name in others:
        (tmp_path / name).write_text("")
    directory = Directory(str(tmp_path))
    directory.give(b"true\n")
    directory.leave()
    assert names_in(tmp_path) == sorted(others)


def test_a_temporary_workdir_is_found_after_a_change_of_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    directory = Directory(None, find_place(is_shared=True))
    assert os.path.isabs(directory.path)
    monkeypatch.chdir("/")
    directory.leave()
    assert names_in(tmp_path) == []


def test_a_place_without_temporary_directories_is_told(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"can't make a workdir in the directory .*/no"
    ):
        Directory(None, str(tmp_path / "no"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    with pytest.raises(InputError, match="name one, as workdir='DIR'"):
        Directory(None)


def test_the_same_tasks_and_more_go_on():
    refuse_other("w", b"", b"a\n")
    refuse_other("w", b"a\n", b"a\n")
    refuse_other("w", b"a\n", b"a\nb\n")


FEWER = (
    "w has 3 tasks, and only the first 1 of them is given: give all, as"
    " mpifarm.run(open('w/stdin.txt'), …), or name another workdir"
)
OTHER = (
    "w was begun with other tasks: task 1 is 'b' there, and 'x' here; give the same"
    " tasks, with new ones behind them, or name another workdir"
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a\n", FEWER),
        (b"a\nx\nc\n", OTHER),
    ],
)
def test_fewer_or_other_tasks_are_refused(content, sentence):
    with pytest.raises(InputError) as refused:
        refuse_other("w", b"a\nb\nc\n", content)
    assert str(refused.value) == sentence
