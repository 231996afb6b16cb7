"""What another user may have put where a workdir is to be, and how it is refused."""

import os
import pwd
import stat
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import InputError, UnfitFileError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import strangers
from mpifarm.store.directories import make_root
from mpifarm.store.strangers import user_name, validate_contents, validate_place
from mpifarm.system import files

STRANGER = 4_000_001


@pytest.fixture
def owners(monkeypatch):
    """Give files to other users; all others are this user's."""
    given: dict[str, int] = {}
    modes: dict[str, int] = {}

    def changed(real):
        def look(path):
            found = real(path)
            mode = found.st_mode | modes.get(str(path), 0)
            return SimpleNamespace(
                st_mode=mode, st_uid=given.get(str(path), found.st_uid)
            )

        return look

    stand_in = SimpleNamespace(
        **{
            **vars(os),
            "stat": changed(os.stat),
            "lstat": changed(os.lstat),
            "geteuid": lambda: 1000,
        }
    )
    monkeypatch.setattr(strangers, "os", stand_in)
    return given, modes


def test_a_strangers_workdir_where_everyone_may_write_is_refused(tmp_path, owners):
    given, modes = owners
    root, tasklist = tmp_path / "w", tmp_path / "list"
    root.mkdir()
    tasklist.touch()
    given |= {str(root): STRANGER, str(tasklist): 1000}
    validate_place(str(root), str(tasklist))
    modes[str(tmp_path)] = stat.S_IWOTH
    with pytest.raises(InputError) as caught:
        validate_place(str(root), str(tasklist))
    assert str(caught.value).startswith(
        f"the workdir {root} belongs to user {STRANGER}, who is neither you, root nor"
        " the owner of the tasklist, and stands where everyone may write"
    )
    with pytest.raises(InputError):
        validate_place(str(root), None)
    given[str(tasklist)] = STRANGER
    validate_place(str(root), str(tasklist))


@pytest.mark.parametrize("owner", [0, 1000])
def test_roots_workdir_and_ones_own_are_used(tmp_path, owners, owner):
    given, modes = owners
    modes[str(tmp_path)] = stat.S_IWOTH
    given[str(tmp_path / "w")] = owner
    validate_place(str(tmp_path / "w"), None)
    (tmp_path / "w").mkdir()
    validate_place(str(tmp_path / "w"), None)


@pytest.mark.parametrize("name", ["logs", "claims", "farms", "logs/packed"])
def test_a_strangers_link_in_a_workdir_is_not_followed(tmp_path, owners, name):
    given, _ = owners
    root = tmp_path / "w"
    (root / "logs").mkdir(parents=True)
    link = root / name
    if link.exists():
        link.rmdir()
    link.symlink_to(tmp_path)
    given |= {str(link): 1000, str(link.parent): 1000}
    validate_contents(WorkdirPaths(str(root)))
    given[str(link)] = STRANGER
    with pytest.raises(InputError) as caught:
        validate_contents(WorkdirPaths(str(root)))
    assert str(caught.value).startswith(
        f"the directory {link} is a link of user {STRANGER}, who is neither you, root"
        f" nor the owner of {link.parent}: it is not followed"
    )
    given[str(link.parent)] = STRANGER
    validate_contents(WorkdirPaths(str(root)))


def test_a_link_that_leads_to_a_strangers_link_is_not_followed(tmp_path, owners):
    given, _ = owners
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to("second")
    second.symlink_to(tmp_path)
    given |= {str(first): 1000, str(second): STRANGER, str(tmp_path): 1000}
    with pytest.raises(InputError, match=r"the workdir .*/second is a link of"):
        validate_place(str(first), None)


def test_a_user_is_named_if_there_is_a_name():
    assert user_name(0) == f"user {pwd.getpwuid(0).pw_name}"
    assert user_name(STRANGER) == f"user {STRANGER}"


@pytest.mark.parametrize("name", ["logs", "claims", "farms"])
def test_a_file_where_a_directory_has_to_be_is_told(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name} is not a directory: remove it"):
        validate_contents(WorkdirPaths(str(tmp_path)))


@pytest.mark.parametrize(
    "name",
    [
        *("toprocess", "added", "finished", "failed", "timeline.json", "attempts.tsv"),
        *("attempts.1.tsv", "fingerprint.json", "result.json", "drain", "lock"),
    ],
)
def test_a_directory_where_a_file_has_to_be_is_told(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UnfitFileError, match=f"{name} can't be used: it is a dir"):
        validate_contents(WorkdirPaths(str(tmp_path)))


def test_a_workdir_that_may_not_be_written_is_told(tmp_path, monkeypatch):
    asked: list[Any] = []

    def refuse(path, mode):
        asked.append((path, mode))
        return False

    monkeypatch.setattr(files, "is_permitted", refuse)
    with pytest.raises(InputError, match="can't be written: check its permissions"):
        make_root(str(tmp_path))
    assert asked == [(str(tmp_path), os.R_OK | os.W_OK | os.X_OK)]


def test_a_workdir_in_no_directory_is_told_with_the_remedy(tmp_path):
    with pytest.raises(InputError) as caught:
        make_root(str(tmp_path / "a" / "b"))
    assert str(caught.value).endswith(
        f"there is no {tmp_path}/a, create it first (mkdir -p)"
    )


def test_whether_a_workdir_is_new_is_told(tmp_path):
    assert make_root(str(tmp_path / "w"))
    assert not make_root(str(tmp_path / "w"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory"):
        make_root(str(tmp_path / "file"))
