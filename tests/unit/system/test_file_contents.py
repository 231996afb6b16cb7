"""Contents of files in parts: the same as the bytes, and told when they change."""

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.system import file_contents
from mpifarm.system.file_contents import (
    ChangedError,
    LargeFile,
    Part,
    blocks_of,
    bytes_of,
    content_of,
    find_last_line,
    find_state,
    find_version,
    length_of,
    part_of,
)
from tests.unit.store_fakes import SMALL_PARTS

TEXT = b"one\ntwo three\n\nfour five six seven eight nine ten\neleven\n" * 3


@pytest.fixture
def small_parts(monkeypatch):
    for name, value in SMALL_PARTS.items():
        monkeypatch.setattr(file_contents, name, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    return path


Places = st.integers(0, 90)


@given(st.lists(st.sampled_from([b"a", b"\n"]), max_size=80), Places, Places)
def test_a_large_file_answers_as_its_bytes_do(letters, begin, end):
    content = b"".join(letters)
    descriptor = os.memfd_create("large")
    try:
        os.write(descriptor, content)
        large = LargeFile(descriptor, "large", len(content))
        last = min(end, len(content))
        with pytest.MonkeyPatch.context() as patch:
            for name, value in SMALL_PARTS.items():
                patch.setattr(file_contents, name, value)
            assert len(large) == len(content)
            for _ in range(2):  # again, from what is kept
                assert large[begin:end] == content[begin:end]
                assert large[:] == content
                assert large.find(b"\n", begin) == content.find(b"\n", begin)
                assert large.rfind(b"\n", begin, last) == content.rfind(
                    b"\n", begin, last
                )
            part = part_of(large, begin, max(begin, last))
            assert length_of(part) == max(begin, last) - begin
    finally:
        os.close(descriptor)


def test_no_more_blocks_are_kept_than_some_and_the_oldest_goes(small_parts, path):
    with content_of(str(path)) as (_, content):
        assert isinstance(content, LargeFile)
        reads: list[tuple[int, int]] = []
        read = content._read

        def note(begin: int, end: int) -> bytes:
            reads.append((begin, end))
            return read(begin, end)

        with mock.patch.object(content, "_read", note):
            for begin in (0, 16, 32, 48, 0, 48, 64, 16, 0):
                assert content[begin : begin + 1] == TEXT[begin : begin + 1]
    begins = [begin for begin, _ in reads]
    assert begins == [0, 16, 32, 48, 64, 0]
    assert {end - begin for begin, end in reads} == {16}


def test_a_part_larger_than_a_block_is_read_at_once_and_not_kept(small_parts, path):
    with content_of(str(path)) as (_, content):
        assert isinstance(content, LargeFile)
        assert content[1:34] == TEXT[1:34]
        assert content._kept == {}
        assert content[1:33] == TEXT[1:33]
        assert len(content._kept) == 3


def test_parts_are_copied_in_blocks_and_others_as_they_are(small_parts, path):
    with content_of(str(path)) as (_, content):
        assert content is not None
        chunks = [b"first", part_of(content, 3, 70), part_of(b"abcdef", 2, 4)]
        blocks = [bytes(each) for each in blocks_of(chunks)]
        assert [*map(len, blocks)] == [5, 32, 32, 3, 2]
        assert b"".join(blocks) == b"first" + TEXT[3:70] + b"cd"
        assert [*map(length_of, chunks)] == [5, 67, 2]
        assert [*map(bytes_of, chunks)] == [b"first", TEXT[3:70], b"cd"]
        assert [*blocks_of([part_of(content, 3, 3)])] == []


def test_a_file_is_large_above_a_size_alone(path, monkeypatch):
    for size, is_large in ((len(TEXT), False), (len(TEXT) - 1, True)):
        monkeypatch.setattr(file_contents, "LARGE", size)
        with content_of(str(path)) as (version, content):
            assert isinstance(content, LargeFile) is is_large
            assert version == find_version(str(path))
        state, whole = find_state(str(path)), find_state(str(path), whole=True)
        assert state is not None
        assert whole is not None
        assert (state.content is None) is is_large
        assert whole.content == TEXT
        assert (state.size, whole.size) == (len(TEXT), len(TEXT))


def test_what_is_not_there_has_no_version_and_no_content(tmp_path):
    path = str(tmp_path / "none")
    assert (find_version(path), find_state(path), find_last_line(path)) == (
        *(None, None),
        b"",
    )
    with content_of(path) as found:
        assert found == (None, None)
    for read in (find_version, find_state, find_last_line):
        with pytest.raises(StorageError):
            read(str(tmp_path))


def test_each_change_makes_another_version(path):
    def touch() -> None:
        os.utime(path, ns=(0, 1))

    def replace() -> None:
        other = path.with_name("other")
        other.write_bytes(TEXT)
        os.utime(other, ns=(0, 1))
        other.rename(path)

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"x")

    versions = [find_version(str(path))]
    for change in (touch, replace, grow, lambda: path.chmod(0o600)):
        change()
        versions.append(find_version(str(path)))
    assert all(before != after for before, after in pairwise(versions))
    assert len({*versions}) == 5
    assert versions[-1] == find_version(str(path))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more\n")


def write_in_place(path: Path) -> None:
    os.utime(path, ns=(0, 1))


def shrink(path: Path) -> None:
    os.truncate(path, len(TEXT) - 1)


def replace(path: Path) -> None:
    path.rename(path.with_name("old"))
    path.write_bytes(TEXT)


@pytest.mark.parametrize(
    ("change", "appended", "told"),
    [
        (grow, True, ""),
        (grow, False, "was changed"),
        (write_in_place, True, ""),
        (write_in_place, False, "was changed"),
        (shrink, True, "got shorter"),
        (shrink, False, "got shorter"),
        (replace, True, "was replaced"),
        (replace, False, "was replaced"),
        (Path.unlink, True, "was replaced"),
    ],
)
def test_a_change_since_the_moment_is_told_unless_it_is_an_append(
    small_parts, path, change: Callable[[Path], None], appended, told
):
    state = find_state(str(path))
    assert state is not None
    change(path)
    if told:
        with pytest.raises(ChangedError, match=told):
            [*state.blocks(appended=appended)]
    else:
        assert b"".join(state.blocks(appended=appended)) == TEXT


def test_what_is_in_memory_is_that_of_its_moment_whatever_comes(path):
    state = find_state(str(path))
    assert state is not None
    path.unlink()
    assert [*state.blocks(appended=False)] == [TEXT]


def test_a_file_that_gets_shorter_in_the_middle_is_told(small_parts, path):
    with content_of(str(path)) as (_, content):
        assert content is not None
        os.truncate(path, 40)
        assert content[:40] == TEXT[:40]
        with pytest.raises(ChangedError, match="file got shorter while it was read"):
            content[:60]
        assert isinstance(content, LargeFile)
        with pytest.raises(OSError, match="got shorter"):
            [*blocks_of([Part(content, 0, 60)])]


def test_a_part_that_cannot_be_read_is_an_error_of_the_disk(small_parts, path):
    with suppress(OSError), content_of(str(path)) as (_, content):
        assert isinstance(content, LargeFile)
        os.close(content.descriptor)
        with pytest.raises(StorageError) as caught:
            content[:5]
        assert not isinstance(caught.value, ChangedError)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "last"),
    [
        *((b"", b""), (b"\n", b"\n"), (b"a", b"a"), (b"a\n", b"a\n")),
        *((b"a\nb", b"b"), (b"a\nb\n", b"b\n"), (b"a\n\n", b"\n")),
        (b"x" * 50 + b"\n" + b"y" * 50 + b"\n", b"y" * 50 + b"\n"),
    ],
)
def test_the_last_line_is_found_from_the_end(tmp_path, monkeypatch, content, last):
    (tmp_path / "file").write_bytes(content)
    assert find_last_line(str(tmp_path / "file")) == last
    for name, value in SMALL_PARTS.items():
        monkeypatch.setattr(file_contents, name, value)
    assert find_last_line(str(tmp_path / "file")) == last
