"""What names a workdir where a list is asked for."""

import os

import pytest

from mpifarm.commands import target
from mpifarm.errors import InputError
from mpifarm.model.paths import STATUS_FILES
from mpifarm.store.target import refuse_as_list
from mpifarm.system import files


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
