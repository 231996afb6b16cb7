"""Files that get their names when they are whole, and what killed makers leave."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.system import new_files
from mpifarm.system.new_files import sole_maker, staging_for
from mpifarm.system.regular_files import open_regular


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def make(path: Path) -> None:
    with staging_for(str(path)) as staging:
        Path(staging).write_text("whole")


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    with staging_for(str(tmp_path / "out.db")) as staging:
        assert names_in(tmp_path) == [os.path.basename(staging)]
        Path(staging).write_text("whole")
    assert names_in(tmp_path) == ["out.db"]
    assert (tmp_path / "out.db").read_text() == "whole"


def test_a_name_without_a_directory_is_of_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.db.0123abcd.new").write_text("left by a killed maker")
    make(Path("out.db"))
    assert names_in(tmp_path) == ["out.db"]


def test_a_block_that_raises_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="x"), staging_for(str(tmp_path / "out.db")):
        raise ValueError("x")
    assert names_in(tmp_path) == []


def test_a_file_that_came_meanwhile_is_not_written_over(tmp_path):
    path = tmp_path / "out.db"
    with pytest.raises(InputError, match="exists"), staging_for(str(path)):
        path.write_text("mine")
    assert path.read_text() == "mine"
    assert names_in(tmp_path) == ["out.db"]


def test_a_directory_that_may_not_be_written_is_told(tmp_path):
    with (
        pytest.raises(StorageError, match=r"can't write .*out\.db\."),
        staging_for(str(tmp_path / "missing" / "out.db")),
    ):
        raise AssertionError("unreachable")


def test_what_a_killed_maker_has_left_goes_with_the_next_one(tmp_path):
    (tmp_path / "out.db.0123abcd.new").write_text("half of it")
    make(tmp_path / "out.db")
    assert names_in(tmp_path) == ["out.db"]


def test_what_another_maker_writes_stays(tmp_path):
    other = tmp_path / "out.db.0123abcd.new"
    with other.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print("half of it", file=file, flush=True)
        make(tmp_path / "out.db")
        assert names_in(tmp_path) == ["out.db", other.name]


def test_a_maker_has_the_lock_of_what_it_writes(tmp_path):
    with staging_for(str(tmp_path / "out.db")) as staging:
        Path(staging).write_text("half of it")
        make(tmp_path / "out.db")
        assert Path(staging).read_text() == "half of it"
        (tmp_path / "out.db").unlink()


def test_what_a_maker_is_about_to_lock_stays(tmp_path):
    other = tmp_path / "out.db.0123abcd.new"
    other.touch()
    make(tmp_path / "out.db")
    assert names_in(tmp_path) == ["out.db", other.name]


@pytest.mark.parametrize(
    "name",
    [
        *("out.db.mine.new", "out.db.0123abcd.news", "out.db.0123ABCD.new"),
        *("other.db.0123abcd.new", "out.db0123abcd.new", "out.db.0123abcde.new"),
    ],
)
def test_other_files_stay(tmp_path, name):
    (tmp_path / name).write_text("mine")
    make(tmp_path / "out.db")
    assert names_in(tmp_path) == sorted(["out.db", name])


def test_a_link_or_a_directory_of_that_name_stays(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out.db.0123abcd.new").symlink_to("precious")
    (tmp_path / "out.db.4567abcd.new").mkdir()
    make(tmp_path / "out.db")
    assert len(names_in(tmp_path)) == 4


# ---- one maker -----------------------------------------------------------------------


def test_a_second_maker_is_refused_until_the_first_has_ended(tmp_path):
    path = str(tmp_path / "out.db")
    with sole_maker(path, "no"):
        for _ in range(2):
            with pytest.raises(InputError, match="no"), sole_maker(path, "no"):
                raise AssertionError("unreachable")
    with sole_maker(path, "no"):
        assert len(names_in(tmp_path)) == 1
    assert names_in(tmp_path) == []


def test_a_maker_that_fails_or_was_killed_hinders_nobody(tmp_path):
    path = str(tmp_path / "out.db")
    with pytest.raises(ValueError, match="x"), sole_maker(path, "no"):
        raise ValueError("x")
    (tmp_path / "out.db.making.new").touch()
    with sole_maker(path, "no"):
        pass
    assert names_in(tmp_path) == []


def test_a_maker_that_ends_as_another_opens_its_mark_leaves_that_one_alone(
    tmp_path, monkeypatch
):
    path = str(tmp_path / "out.db")
    has_other = new_files._has_other_flock
    looks: list[int] = []

    def end_meanwhile(descriptor):
        if not looks:
            os.unlink(f"{path}.making.new")
        looks.append(descriptor)
        return has_other(descriptor)

    monkeypatch.setattr(new_files, "_has_other_flock", end_meanwhile)
    with sole_maker(path, "no"):
        assert len(looks) == 2
        with pytest.raises(InputError, match="no"), sole_maker(path, "no"):
            raise AssertionError("unreachable")


def test_the_mark_that_a_killed_maker_of_another_user_has_left_is_taken(
    tmp_path, monkeypatch
):
    (tmp_path / "out.db.making.new").touch()
    opened = open_regular

    def refuse_to_write(path, flags):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags)

    monkeypatch.setattr(new_files, "open_regular", refuse_to_write)
    path = str(tmp_path / "out.db")
    with sole_maker(path, "no"), pytest.raises(InputError), sole_maker(path, "no"):
        raise AssertionError("unreachable")
    with pytest.raises(StorageError, match="Permission denied"), sole_maker(path, "no"):
        raise AssertionError("unreachable")


def test_without_flocks_a_maker_goes_ahead(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = str(tmp_path / "out.db")
    with sole_maker(path, "no"), sole_maker(path, "no"):
        pass
    assert names_in(tmp_path) == []


def test_where_no_mark_can_be_made_the_disk_is_told(tmp_path):
    path = str(tmp_path / "missing" / "out.db")
    with (
        pytest.raises(StorageError, match=r"can't write .*out\.db\.making\.new"),
        sole_maker(path, "no"),
    ):
        raise AssertionError("unreachable")
