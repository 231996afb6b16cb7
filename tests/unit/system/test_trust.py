"""Whose files and directories are trusted, and what mends those that are not."""

import os
import stat
from types import SimpleNamespace

import pytest

import mpifarm
from mpifarm.system import trust
from mpifarm.system.trust import Stranger, find_stranger, judge_file

ME, SOFTWARE, STRANGER, OVERFLOW = 1000, 2000, 4_000_000, 65534
DIRECTORY, LINK, FILE = stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFREG | 0o644


class Disk:
    """The owners and modes of files that a test sets; others are root's, and right."""

    def __init__(self):
        self.statuses = {}

    def put(self, path, uid, mode=None):
        kept = DIRECTORY if os.path.isdir(path) else FILE
        mode = kept if mode is None else mode
        self.statuses[str(path)] = SimpleNamespace(st_uid=uid, st_mode=mode)

    def find_status(self, path):
        right = SimpleNamespace(st_uid=0, st_mode=os.lstat(path).st_mode)
        return self.statuses.get(path, right)


@pytest.fixture
def disk(monkeypatch, tmp_path):
    disk = Disk()
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    monkeypatch.setattr(trust, "_find_status", disk.find_status)
    set_uids(monkeypatch, tmp_path, "0 0 4294967295")
    return disk


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine" / "a.ini"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(0o644)
    return path


def set_uids(monkeypatch, tmp_path, lines):
    """Have a user namespace with the user ids of `lines`."""
    (tmp_path / "uid_map").write_text(f"{lines}\n")
    (tmp_path / "overflowuid").write_text(f"{OVERFLOW}\n")
    monkeypatch.setattr(trust, "UID_MAP", str(tmp_path / "uid_map"))
    monkeypatch.setattr(trust, "OVERFLOW_UID", str(tmp_path / "overflowuid"))


def own_mpifarm(monkeypatch, uid):
    monkeypatch.setattr(trust, "_find_owner_of_mpifarm", lambda: uid)


@pytest.mark.parametrize("lines", ["1000 1000 1", "0 1000 1\n 1 100000 65536"])
def test_root_without_an_id_in_a_container_may_own_directories_and_links(
    disk, file, tmp_path, monkeypatch, lines
):
    link = tmp_path / "link.ini"
    link.symlink_to(file)
    disk.put(file, ME)
    disk.put(file.parent, OVERFLOW)
    disk.put(link, OVERFLOW, LINK)
    told = f"{link} belongs to "
    assert find_stranger(str(link)).startswith(told)  # outside a container
    set_uids(monkeypatch, tmp_path, lines)
    assert find_stranger(str(link)) == ""
    disk.put(file, OVERFLOW)
    assert find_stranger(str(file)).startswith(f"{file} belongs to ")


def test_without_a_map_of_user_ids_no_directory_is_taken_for_roots(
    disk, file, monkeypatch
):
    disk.put(file.parent, OVERFLOW)
    for name in ("UID_MAP", "OVERFLOW_UID"):
        monkeypatch.setattr(trust, name, str(file / "nowhere"))
    assert find_stranger(str(file)).startswith(f"{file.parent} belongs to ")


def test_the_owner_of_mpifarm_is_trusted_as_root_is(disk, file, monkeypatch):
    disk.put(file, SOFTWARE)
    disk.put(file.parent, SOFTWARE)
    assert find_stranger(str(file)) == (
        f"{file} belongs to user {SOFTWARE}, not to you or root"
    )
    own_mpifarm(monkeypatch, SOFTWARE)
    assert find_stranger(str(file)) == ""
    disk.put(file, STRANGER)
    assert f"{file} belongs to user {STRANGER}" in find_stranger(str(file))


def test_what_everyone_could_have_written_is_told_before_a_directory_of_another_user(
    disk, file
):
    disk.put(file, ME)
    disk.put(file.parent, STRANGER)
    found = judge_file(str(file))
    why = f"{file.parent} belongs to user {STRANGER}, not to you or root"
    assert found == Stranger(str(file.parent), why, False, is_above=True)
    above = file.parent.parent
    disk.put(above, 0, stat.S_IFDIR | 0o777)
    assert judge_file(str(file)) == Stranger(
        str(above), f"everyone may write {above}", is_mendable=False
    )


@pytest.mark.parametrize("mode", [FILE, LINK, stat.S_IFDIR | 0o777])
def test_a_file_or_link_of_another_user_or_an_open_directory_is_not_only_above(
    disk, file, mode
):
    disk.put(file.parent if stat.S_ISDIR(mode) else file, STRANGER, mode)
    found = judge_file(str(file))
    assert found is not None
    assert not found.is_above


def test_of_a_file_of_another_user_that_everyone_may_write_the_owner_is_told(
    disk, file
):
    disk.put(file, STRANGER, stat.S_IFREG | 0o666)
    assert find_stranger(str(file)).startswith(f"{file} belongs to user {STRANGER}")


def test_an_owner_of_mpifarm_whose_id_is_not_shown_is_not_trusted(
    disk, file, tmp_path, monkeypatch
):
    disk.put(file, OVERFLOW)
    own_mpifarm(monkeypatch, OVERFLOW)
    for lines in ("0 0 4294967295", "1000 1000 1"):
        set_uids(monkeypatch, tmp_path, lines)
        assert find_stranger(str(file)).startswith(f"{file} belongs to ")


def test_who_owns_mpifarm_is_told_by_its_file(file, monkeypatch):
    owner = os.stat(mpifarm.__file__).st_uid
    assert trust._find_owner_of_mpifarm() == owner
    monkeypatch.setattr(mpifarm, "__file__", str(file / "nowhere"))
    assert trust._find_owner_of_mpifarm() is None


@pytest.mark.parametrize(
    ("user", "owner", "is_mendable"),
    [(ME, ME, True), (0, 0, True), (0, ME, False), (ME, 0, False)],
)
def test_only_a_mode_that_the_user_may_change_and_that_helps_is_mended(
    disk, file, monkeypatch, user, owner, is_mendable
):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    disk.put(file.parent, owner, stat.S_IFDIR | 0o777)
    found = judge_file(str(file))
    why = f"everyone may write {file.parent}"
    assert found == Stranger(str(file.parent), why, is_mendable)
    remedy = f"chmod go-w {file.parent}" if is_mendable else "move it"
    assert found.find_remedy("move it") == remedy
