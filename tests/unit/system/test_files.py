"""What the farm relies on and every local file system holds."""

import errno
import os
import pwd
import signal
import stat
from collections.abc import Callable
from contextlib import nullcontext
from typing import NoReturn

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.system import files, processes
from mpifarm.system.file_contents import LargeFile, content_of, find_last_line
from mpifarm.system.regular_files import (
    OddFileError,
    kind_in_words,
    open_regular,
    read_end,
)

READS = 200


def test_a_reader_without_the_lock_sees_the_old_or_the_new_file_whole(tmp_path):
    path = str(tmp_path / "toprocess")
    contents = [b"a" * 9000 + b"\n", b"b" * 9000 + b"\n"]
    files.replace(path, path + ".beside", contents[0])

    def replace_for_ever():
        while True:
            for content in contents:
                files.replace(path, path + ".beside", content)

    writer = processes.fork_child(replace_for_ever)
    try:
        assert {files.find_content(path) for _ in range(READS)} <= {*contents}
    finally:
        processes.kill_process(writer, signal.SIGKILL)
        processes.reap_child(writer)


def test_the_second_who_creates_a_file_is_told_that_it_exists(tmp_path):
    path = str(tmp_path / "claim")
    os.close(files.create_exclusively(path))
    with pytest.raises(FileExistsError):
        files.create_exclusively(path)


def test_a_file_that_is_to_replace_another_is_synced_when_it_is_whole(
    tmp_path, monkeypatch
):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda each: synced.append(os.fstat(each).st_size))
    files.write_staging_file(str(tmp_path / "beside"), (b"1\n", b"23\n"))
    assert synced == [5]


# ---- a change that the disk refuses -------------------------------------------------


def refuse(number: int) -> Callable[..., NoReturn]:
    """Return what stands for a system call that fails with this error."""

    def fail(*_args: object, **_named: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "; make room, then give the same command again"),
        (errno.EDQUOT, "; make room, then give the same command again"),
        (errno.ENOENT, "; was the workdir moved or removed?"),
        (errno.ESTALE, "; was it removed or replaced on the file server?"),
        (errno.EIO, ""),
    ],
)
def test_an_error_of_the_disk_names_the_action_the_file_and_the_remedy(number, remedy):
    error = files.storage_error("write", "/w/failed", OSError(number, "no"))
    assert str(error) == f"can't write /w/failed: no{remedy}"


@pytest.mark.parametrize(
    ("mode", "what", "remedy"),
    [
        (stat.S_IFLNK, "a link", "put the file itself in its place"),
        (stat.S_IFIFO, "a fifo", "remove it"),
        (stat.S_IFDIR, "a directory", "remove it"),
        (stat.S_IFSOCK, "a socket", "remove it"),
    ],
)
def test_what_is_no_file_is_told_with_its_kind_and_the_remedy(mode, what, remedy):
    error = files.unfit_file_error("/w/failed", f"it is {kind_in_words(mode)}")
    assert str(error) == (
        f"/w/failed can't be used: it is {what}, and has to be a file; {remedy}, or"
        " name another workdir"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"3\n"),
        (b"1\n", b"1\n3\n"),
        (b"2", b"2\n3\n"),
        (b"1\n2", b"1\n2\n3\n"),
        (b"\n", b"\n3\n"),
    ],
)
def test_a_torn_line_is_ended_before_others_are_appended(tmp_path, before, after):
    path = tmp_path / "finished"
    path.write_bytes(before)
    assert files.append(str(path), b"3\n", sync=False) == len(after)
    assert path.read_bytes() == after


def test_an_append_that_fails_takes_back_what_was_written(tmp_path, monkeypatch):
    path = tmp_path / "finished"
    path.write_bytes(b"1\n")
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(StorageError, match=f"can't write {path}"):
        files.append(str(path), b"2\n", sync=True)
    assert path.read_bytes() == b"1\n"


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """The names of what is synced."""
    names: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: names.append(os.readlink(f"/proc/self/fd/{fd}"))
    )
    return names


def test_the_directory_of_a_new_file_is_synced_and_of_no_other(tmp_path, synced):
    path = f"{tmp_path}/finished"
    files.append(path, b"1\n", sync=False)
    assert synced == []
    files.append(path, b"2\n", sync=True)
    assert synced == [path]
    os.unlink(path)
    files.append(path, b"1\n", sync=True)
    assert synced == [path, path, str(tmp_path)]


def test_a_new_directory_is_synced_in_its_parent_and_made_once(tmp_path, synced):
    assert files.make_directory(f"{tmp_path}/logs")
    assert synced == [str(tmp_path)]
    assert not files.make_directory(f"{tmp_path}/logs")
    assert synced == [str(tmp_path)]


@pytest.mark.parametrize(
    ("number", "fails"),
    [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)],
)
def test_a_file_system_that_syncs_no_directory_is_no_error(
    tmp_path, monkeypatch, number, fails
):
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(StorageError) if fails else nullcontext():
        files.sync_names(str(tmp_path))


def test_the_end_that_a_failed_write_has_spoilt_is_restored(tmp_path, monkeypatch):
    path = tmp_path / "timeline.json"
    path.write_bytes(b"[1,2]")
    write = files.write_at

    def write_one(descriptor, offset, content):
        if content == b",4]":
            raise OSError(errno.ENOSPC, "full")
        write(descriptor, offset, content)

    monkeypatch.setattr(files, "write_at", write_one)
    with pytest.raises(StorageError, match="make room"):
        files.write_tail(str(path), 4, [b",3]", b",4]"], b"]")
    assert path.read_bytes() == b"[1,2]"


def test_each_piece_of_an_end_overwrites_the_last_byte_of_the_one_before(tmp_path):
    path = tmp_path / "timeline.json"
    path.write_bytes(b"[1,2]")
    files.write_tail(str(path), 4, [b",3]", b",4]"], b"]")
    assert path.read_bytes() == b"[1,2,3,4]"
    files.cut_back(str(path), 4, b"]")
    assert path.read_bytes() == b"[1,2]"


# ---- a file that takes the place of another -----------------------------------------


def test_a_file_gets_the_permissions_of_the_one_whose_place_it_takes(tmp_path):
    path = tmp_path / "toprocess"
    path.write_bytes(b"1\n")
    path.chmod(0o664)
    files.replace(str(path), f"{path}.beside", b"2\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    assert path.read_bytes() == b"2\n"


def test_a_staging_file_that_could_not_be_written_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    with pytest.raises(StorageError, match="can't write"):
        files.write_staging_file(f"{tmp_path}/beside", [b"1\n"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("replace", [files.replace, files.replace_unsynced])
def test_a_rename_that_fails_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, replace
):
    path = tmp_path / "toprocess"
    path.write_bytes(b"1\n")
    monkeypatch.setattr(os, "rename", refuse(errno.EIO))
    with pytest.raises((StorageError, OSError)):
        replace(str(path), f"{path}.beside", b"2\n")
    assert os.listdir(tmp_path) == ["toprocess"]
    assert path.read_bytes() == b"1\n"


def test_a_rename_of_which_only_the_answer_was_lost_has_happened(tmp_path, monkeypatch):
    path = tmp_path / "toprocess"
    rename = os.rename

    def rename_unheard(source, target):
        rename(source, target)
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "rename", rename_unheard)
    files.replace(str(path), f"{path}.beside", b"2\n")
    assert path.read_bytes() == b"2\n"


# ---- what is there ------------------------------------------------------------------


def test_a_part_of_a_file_is_read(tmp_path):
    path = tmp_path / "claim"
    path.write_bytes(b"0123456789")
    assert files.find_start(str(path), 4) == b"0123"
    assert files.find_rest(str(path), 7) == b"789"
    assert files.find_size(str(path)) == 10


def test_a_file_that_is_not_there_has_no_content(tmp_path):
    path = f"{tmp_path}/claim"
    assert files.find_content(path) is None
    assert (files.find_start(path, 4), files.find_rest(path, 7)) == (b"", b"")
    assert (files.find_size(path), files.find_names(path)) == (0, [])
    assert not files.exists(path)
    files.remove(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP])
def test_a_file_that_may_not_be_opened_is_there_and_one_that_is_gone_is_unknown(
    tmp_path, monkeypatch, number
):
    path = tmp_path / "step"
    path.touch()
    monkeypatch.setattr(files, "open_regular", refuse(number))
    assert files.exists(str(path))
    path.unlink()
    with pytest.raises(StorageError):
        files.exists(str(path))


def test_the_owner_of_a_file_is_named_if_that_is_another(tmp_path, monkeypatch):
    uid = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert files.find_other_owner(str(tmp_path)) == ""
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    name = pwd.getpwuid(uid).pw_name
    assert files.find_other_owner(str(tmp_path)) == f"user {name}"
    assert files.find_other_owner("/nowhere") == ""

    def find_no_name(_uid):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", find_no_name)
    assert files.find_other_owner(str(tmp_path)) == f"user {uid}"


# ---- regular files ------------------------------------------------------------------


def test_a_link_is_followed_only_where_that_is_asked_for(tmp_path):
    (tmp_path / "file").write_bytes(b"1\n")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OddFileError, match="it is a link"):
        open_regular(f"{tmp_path}/link", os.O_RDONLY)
    os.close(open_regular(f"{tmp_path}/link", os.O_RDONLY, follow=True))


def test_only_a_file_that_is_regular_is_truncated(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"1\n")
    os.close(open_regular(str(path), os.O_WRONLY | os.O_TRUNC))
    assert path.read_bytes() == b""


def test_the_open_waits_for_a_lease_of_another_program(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"1\n")
    real_open = os.open

    def open_with_lease(name, flags, mode=0o777):
        if flags & os.O_NONBLOCK:
            raise BlockingIOError(errno.EAGAIN, "a lease")
        return real_open(name, flags, mode)

    monkeypatch.setattr(os, "open", open_with_lease)
    assert files.read_from(str(path)) == b"1\n"


@pytest.mark.parametrize(
    ("most", "offset", "length", "end"),
    [
        (4, 0, None, b"6789"),
        (99, 0, None, b"0123456789"),
        (4, 8, None, b"89"),
        (4, 2, 5, b"3456"),
        (4, 5, 2, b"56"),
        (4, 8, 99, b"89"),
        (4, 20, 3, b""),
    ],
)
def test_the_end_of_a_part_of_a_file_is_read(tmp_path, most, offset, length, end):
    path = tmp_path / "log"
    path.write_bytes(b"0123456789")
    assert read_end(str(path), most, offset, length) == end


# ---- contents -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "last"),
    [
        (b"", b""),
        (b"1\n", b"1\n"),
        (b"1\n2\n", b"2\n"),
        (b"1\n2", b"2"),
        (b"1\n\n", b"\n"),
    ],
)
def test_the_last_line_of_a_file_has_its_newline_if_any(tmp_path, content, last):
    (tmp_path / "finished").write_bytes(content)
    assert find_last_line(f"{tmp_path}/finished") == last
    assert find_last_line(f"{tmp_path}/nothing") == b""


def test_a_file_of_up_to_8_mb_is_kept_in_memory(tmp_path):
    path = tmp_path / "toprocess"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    with content_of(str(path)) as (_, content):
        assert isinstance(content, bytes)
    os.truncate(path, (8 << 20) + 1)
    with content_of(str(path)) as (_, content):
        assert isinstance(content, LargeFile)


# ---- what can't be asked is not taken for gone ---------------------------------------


def fail(number: int) -> Callable[..., NoReturn]:
    def raise_error(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return raise_error


def test_a_disk_that_does_not_answer_is_told_whatever_is_asked(tmp_path, monkeypatch):
    path = str(tmp_path / "file")
    (tmp_path / "file").touch()
    monkeypatch.setattr(files, "opened", fail(errno.EIO))
    for name in ("lstat", "stat", "listdir", "utime", "unlink"):
        monkeypatch.setattr(os, name, fail(errno.EIO))
    asks: list[Callable[[], object]] = [
        lambda: files.find_start(path, 9),
        lambda: files.find_size(path),
        lambda: files.exists(path),
        lambda: files.is_there(path),
        lambda: files.is_directory(path),
        lambda: files.find_names(path),
        lambda: files.touch(0, path),
        lambda: files.remove(path),
    ]
    for ask in asks:
        with pytest.raises(StorageError, match="Input/output error") as caught:
            ask()
        assert path in str(caught.value)


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG]
)
def test_what_this_user_may_not_look_at_is_not_there_for_him(
    tmp_path, monkeypatch, number
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "lstat", fail(number))
    assert not files.is_there(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("number", "is_there"),
    [(errno.EACCES, True), (errno.EPERM, True), (errno.ELOOP, True), (errno.EIO, None)],
)
def test_a_step_whose_file_may_not_be_opened_has_not_happened(
    tmp_path, monkeypatch, number, is_there
):
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(files, "opened", fail(number))
    if is_there:
        assert files.exists(str(path))
        path.unlink()
    with pytest.raises(StorageError):
        files.exists(str(path))


def test_a_step_file_of_any_kind_is_there(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    for name in ("fifo", "directory", "file"):
        assert files.exists(str(tmp_path / name))
    for name in ("none", "file/below", "none/below"):
        assert not files.exists(str(tmp_path / name))


def test_the_start_of_a_file_is_read(tmp_path):
    path = tmp_path / "file"
    assert files.find_start(str(path), 3) == b""
    path.write_bytes(b"abcdef")
    assert files.find_start(str(path), 3) == b"abc"
    assert files.find_start(str(path), 99) == b"abcdef"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_name_replaces_nothing(tmp_path, monkeypatch, has_links):
    synced: list[str] = []
    monkeypatch.setattr(files, "sync_names", synced.append)
    if not has_links:
        monkeypatch.setattr(os, "link", fail(errno.EPERM))
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    with pytest.raises(InputError, match=r"target exists, and is not written over"):
        files.rename_new(str(source), str(target))
    assert (source.read_text(), target.read_text()) == ("new", "old")
    target.unlink()
    synced.clear()
    files.rename_new(str(source), str(target))
    assert not source.exists()
    assert target.read_text() == "new"
    assert synced[-1] == str(tmp_path)
