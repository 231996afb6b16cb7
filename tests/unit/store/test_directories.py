"""The directories of a workdir: made once, refused where they can't be used."""

import os

import pytest

from mpifarm.errors import InputError
from mpifarm.store.directories import make_root
from mpifarm.system import files


def test_a_workdir_is_made_once(tmp_path):
    root = str(tmp_path / "workdir")
    assert make_root(root)
    assert not make_root(root)


def test_a_workdir_below_nothing_is_told_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*/none, create it first"):
        make_root(str(tmp_path / "none" / "workdir"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"can't create the workdir|not a directory"):
        make_root(str(tmp_path / "file"))


def test_a_workdir_that_may_not_be_written_is_told(tmp_path, monkeypatch):
    asked: list[tuple[str, int]] = []

    def refuse(path: str, mode: int) -> bool:
        asked.append((path, mode))
        return False

    monkeypatch.setattr(files, "is_permitted", refuse)
    with pytest.raises(InputError, match="can't be written: check its permissions"):
        make_root(str(tmp_path))
    assert asked == [(str(tmp_path), os.R_OK | os.W_OK | os.X_OK)]
