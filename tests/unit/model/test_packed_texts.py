"""The texts of a long list in one piece of memory: as a sequence, part by part."""

import pytest

from mpifarm.model import packed_texts
from mpifarm.model.packed_texts import PackedTexts

TEXTS = ["a", "", "größe", "\udcff x", "last"]


def pack(*parts: list[str]) -> PackedTexts:
    packed = PackedTexts()
    for part in parts:
        packed.extend(part)
    return packed


def test_packed_texts_are_those_that_were_added():
    packed = pack(TEXTS[:2], [], TEXTS[2:])
    assert len(packed) == 5
    assert [*packed] == TEXTS
    assert [packed[place] for place in range(5)] == TEXTS
    assert [packed[place] for place in range(-5, 0)] == TEXTS
    more = ["more"]
    assert packed + more == [*TEXTS, "more"]


@pytest.mark.parametrize("place", [5, -6])
def test_there_is_no_text_beyond_the_list(place):
    with pytest.raises(IndexError):
        pack(TEXTS)[place]


@pytest.mark.parametrize(
    "part",
    [
        *(slice(None), slice(1, 3), slice(-2, None), slice(3, 1), slice(2, 99)),
        *(slice(None, None, 2), slice(None, None, -1), slice(5, 5)),
    ],
)
def test_parts_of_packed_texts_are_lists(part):
    assert pack(TEXTS)[part] == TEXTS[part]


def test_many_texts_are_decoded_block_by_block(monkeypatch):
    monkeypatch.setattr(packed_texts, "_BLOCK", 2)
    assert [*pack(TEXTS)] == TEXTS


@pytest.mark.parametrize(
    ("other", "is_equal"),
    [
        (TEXTS, True),
        ([*TEXTS, "x"], False),
        (TEXTS[:-1], False),
        (["b", *TEXTS[1:]], False),
        (5, False),
    ],
)
def test_packed_texts_equal_a_sequence_of_the_same_texts(other, is_equal):
    assert (pack(TEXTS) == other) is is_equal


@pytest.mark.parametrize("count", range(6))
def test_what_is_cut_off_leaves_the_texts_before_and_more_can_be_added(count):
    packed = pack(TEXTS[:2], TEXTS[2:])
    copy = packed.copy_from(count)
    packed.cut(count)
    assert (len(packed), [*packed]) == (count, TEXTS[:count])
    assert [*copy] == TEXTS[count:]
    packed.extend(["new"])
    assert (len(packed), packed[count]) == (count + 1, "new")
    assert [*packed] == [*TEXTS[:count], "new"]


def test_the_bytes_of_some_texts_have_their_newlines():
    packed = pack(TEXTS)
    assert bytes(packed.encoded_texts(0, 2)) == b"a\n\n"
    assert bytes(packed.encoded_texts(4, 5)) == b"last\n"
    assert packed.encoded_text(2) == "größe".encode()


def test_marks_are_found_in_their_part():
    packed = pack(["a", "b $x"], ["c"], ["d & $", "e"])
    assert packed.has_mark(b"&")
    assert not packed.has_mark(b"\\")
    assert packed.has_any(b"\\&")
    assert not packed.has_any(b"\\<")
    assert [*packed.blocks_with(b"$")] == [(0, b"a\nb $x\n"), (3, b"d & $\ne\n")]
    packed.extend(["plain"])
    assert not packed.has_mark(b"&"), "of the last part only"
    assert not PackedTexts().has_mark(b"&")


def test_marks_of_a_part_that_was_cut_off_are_gone():
    packed = pack(["a"], ["b $x"], ["c"])
    packed.cut(2)
    assert packed.has_any(b"$")
    packed.cut(1)
    assert not packed.has_any(b"$")
    assert [*packed.blocks_with(b"$")] == []
