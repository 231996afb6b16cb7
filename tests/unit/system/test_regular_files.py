"""Files that are regular, and nothing else: what is opened, and which end is read."""

import os
import socket
import stat

import pytest

from mpifarm.system.regular_files import (
    OddFileError,
    kind_in_words,
    open_regular,
    read_end,
)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    return str(tmp_path / "file")


@pytest.mark.parametrize(
    ("most", "offset", "length", "end"),
    [
        (4, 0, None, b"6789"),
        (10, 0, None, b"0123456789"),
        (99, 0, None, b"0123456789"),
        (99, 8, None, b"89"),
        (1, 8, None, b"9"),
        (4, 2, 5, b"3456"),
        (99, 2, 5, b"23456"),
        (99, 8, 5, b"89"),
        (99, 10, None, b""),
        (99, 20, None, b""),
        (99, 20, 5, b""),
        (0, 0, None, b""),
        (4, 2, 0, b""),
    ],
)
def test_the_end_of_a_part_is_read_to_the_byte(path, most, offset, length, end):
    assert read_end(path, most, offset, length) == end


def test_a_reading_leaves_nothing_open(path, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    read_end(path, 4)
    for odd in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=r".*"):
            read_end(str(odd), 4)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (os.O_WRONLY, b"0123456789"),
        (os.O_WRONLY | os.O_TRUNC, b""),
        (os.O_RDONLY, b"0123456789"),
    ],
)
def test_a_file_is_emptied_only_if_that_is_wanted(path, flags, left):
    os.close(open_regular(path, flags))
    with open(path, "rb") as file:
        assert file.read() == left


def test_no_program_inherits_a_file(path):
    descriptor = open_regular(path, os.O_RDONLY)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_a_link_is_followed_only_if_that_is_wanted(path, tmp_path):
    os.symlink(path, tmp_path / "link")
    with pytest.raises(OddFileError, match="it is a link"):
        open_regular(str(tmp_path / "link"), os.O_RDONLY)
    os.close(open_regular(str(tmp_path / "link"), os.O_RDONLY, follow=True))


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("kind", ["a directory", "a fifo", "a socket", "a device"])
def test_what_is_no_file_is_told_by_its_kind_and_nobody_waits(
    tmp_path, monkeypatch, kind, flags, follow
):
    monkeypatch.chdir(tmp_path)
    odd = "odd"
    match kind:
        case "a directory":
            os.mkdir(odd)
        case "a fifo":
            os.mkfifo(odd)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(odd)
        case _:
            odd = "/dev/null"
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OddFileError) as caught:
        open_regular(odd, flags, follow=follow)
    assert caught.value.strerror == f"it is {kind}"
    assert caught.value.filename == odd
    assert caught.value.errno
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_not_there_is_no_odd_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_regular(str(tmp_path / "missing"), os.O_RDONLY)
    descriptor = open_regular(str(tmp_path / "new"), os.O_WRONLY | os.O_CREAT, 0o600)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    os.close(descriptor)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (stat.S_IFREG, ""),
        (stat.S_IFLNK, "a link"),
        (stat.S_IFDIR, "a directory"),
        (stat.S_IFIFO, "a fifo"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
        (0, "no file"),
    ],
)
def test_each_kind_has_its_word(mode, words):
    assert kind_in_words(mode | 0o644) == words
