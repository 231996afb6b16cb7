"""The disk that fails on purpose does what its faults say, and nothing else.

Rules of this file: no farm; what farms make of such a disk stands in
``test_disk_faults.py``.
"""

import errno
import fcntl
import os

import pytest

from tests.fault.faulty_disk import Call, Fault

pytestmark = pytest.mark.timeout(30)


def test_what_is_written_appended_renamed_and_removed_is_so_below(disk):
    (disk.root / "a").mkdir()
    file = disk.root / "a" / "f"
    file.write_text("one\n")
    with file.open("a") as stream:
        stream.write("two\n")
    assert file.stat().st_ino == (disk.backing / "a" / "f").stat().st_ino
    file.rename(disk.root / "g")
    assert (disk.backing / "g").read_text() == "one\ntwo\n"
    assert os.listdir(disk.root / "a") == []
    (disk.root / "g").unlink()
    assert sorted(os.listdir(disk.root)) == ["a"]


def test_a_removed_file_that_is_open_can_still_be_read(disk):
    file = disk.root / "f"
    file.write_text("text")
    with file.open() as stream:
        file.unlink()
        assert not file.exists()
        assert stream.read() == "text"


def test_a_lock_of_one_holder_keeps_the_other_out(disk):
    file = disk.root / "lock"
    file.touch()
    with file.open() as one, file.open() as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_time_of_a_file_is_set_to_now_or_to_what_is_said(disk):
    file = disk.root / "f"
    file.touch()
    os.utime(file, (5, 6))
    assert file.stat().st_mtime == 6.0
    os.utime(file)
    assert file.stat().st_mtime > 1e9


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EROFS", "EACCES"])
def test_a_fault_strikes_the_call_that_it_names_and_no_other(disk, name):
    file = disk.root / "f"
    disk.inject(Fault("write", "/f$", name, first=2))
    with file.open("wb", buffering=0) as stream:
        stream.write(b"1")
        with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
            stream.write(b"2")
        stream.write(b"3")
    assert disk.struck() == [["write", "/f", name]]
    assert file.read_bytes() == b"13"


def test_a_fault_lasts_as_long_as_it_says(disk):
    file = disk.root / "f"
    file.touch()
    disk.inject(Fault("open", "/f$", "ESTALE", count=0))
    for _ in range(3):
        with pytest.raises(OSError, match="Stale"):
            file.read_bytes()
    disk.heal()
    assert file.read_bytes() == b""


def test_a_rename_may_happen_and_be_said_to_have_failed(disk):
    (disk.root / "f").touch()
    disk.inject(Fault("rename", "/g$", "done:EIO"))
    with pytest.raises(OSError, match="Input/output error"):
        (disk.root / "f").rename(disk.root / "g")
    assert os.listdir(disk.root) == ["g"]


def test_a_write_may_be_cut_short(disk):
    disk.inject(Fault("write", "/f$", "short"))
    with (disk.root / "f").open("wb", buffering=0) as stream:
        assert stream.write(b"12345678") == 4
        assert stream.write(b"5678") == 4
    assert (disk.root / "f").read_bytes() == b"12345678"


def test_each_call_is_counted_since_the_last_fault_was_set(disk):
    (disk.root / "before").touch()
    disk.inject()
    (disk.root / "f").write_bytes(b"1")
    calls = disk.calls()
    assert Call("create", "/f") in calls
    assert calls.count(Call("write", "/f")) == 1
    assert not any(call.path == "/before" for call in calls)
