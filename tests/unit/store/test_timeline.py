"""The timeline: valid at each write, PyTaskFarmer's fields, saved where damaged."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.store.timeline import (
    PAGE,
    Attempt,
    cut_pieces,
    encode_event,
    encode_timeline,
    ends_well,
    find_end,
    is_valid,
    salvage,
)
from mpifarm.system import files


def event(text: str = "echo") -> bytes:
    return encode_event(Attempt(text, 10, 11, 1_700_000_000.25, 0.5))


def test_an_event_has_pytaskfarmers_fields():
    assert json.loads(event("echo 'é' \udcff \"x\"")) == {
        "cat": "task",
        "name": "echo 'é' \udcff \"x\"",
        "pid": 10,
        "tid": 11,
        "ts": 1_700_000_000.25 * 1e6,
        "dur": 0.5e6,
        "ph": "X",
        "args": {},
    }


@given(
    st.integers(0, 40),
    st.lists(st.integers(0, 5000), min_size=1, max_size=60),
    st.integers(0, PAGE),
)
def test_the_array_is_valid_after_each_piece(before, lengths, blanks):
    content = encode_timeline([event()] * before)
    content = content[:1] + b" " * blanks + content[1:]
    events = [event("x" * length) for length in lengths]
    end = find_end(content, 0)
    assert end is not None
    crossings = 0
    offset = end.offset
    for piece in cut_pieces(end, events):
        crosses = offset // PAGE != (offset + len(piece) - 1) // PAGE
        assert not crosses or piece.count(b'"cat"') == 1
        crossings += crosses
        content = content[:offset] + piece
        offset += len(piece) - 1
        json.loads(content)
    assert json.loads(content)[before:] == [json.loads(each) for each in events]


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b"[1]", b'[{"a": 1', b"[{},", b"]", b"x]", b"[{}]\0"]
)
def test_what_does_not_end_as_an_array_of_events_has_no_end(content):
    assert find_end(content, 0) is None


@pytest.mark.parametrize("content", [b"[]", b"[ ]\n", b"[{}]", b'[{"a": {}}\n]\n \n'])
def test_an_array_of_events_has_an_end(content):
    end = find_end(content, 100)
    assert end is not None
    assert content[end.offset - 100 : end.offset - 99] == b"]"
    assert end.empty == (b"{" not in content)


def test_a_large_timeline_is_judged_by_its_ends():
    large = encode_timeline([event("x" * 100)] * 6000)
    assert len(large) > 1 << 20
    assert ends_well(large)
    assert is_valid(large)
    for damaged in (large[:-1], large[:-200], b"\0" + large, large + b"]"):
        assert not is_valid(damaged)


def test_a_torn_event_whose_text_ends_like_an_array_is_still_damage():
    torn = encode_timeline([event(), event("awk {a}]")])
    torn = torn[: torn.index(b"{a}]") + 4]
    assert find_end(torn, 0) is not None
    assert not is_valid(torn)
    assert not ends_well(torn)


@pytest.mark.parametrize(
    ("damage", "saved"),
    [
        (lambda whole: whole[:-1], 3),
        (lambda whole: whole[:-20], 2),
        (lambda whole: b"\0" * 40 + whole[40:], 2),
        (lambda whole: whole[:200] + b"\0" * 20 + whole[220:], 2),
        (lambda _: b"", 0),
        (lambda _: b"{" * 5000, 0),
        (lambda whole: whole + whole, 6),
    ],
)
def test_the_whole_events_of_a_damaged_timeline_are_saved(damage, saved):
    events = [event("one {} [x]"), event("two"), event("three")]
    found = salvage(damage(encode_timeline(events)))
    assert len(found) == saved
    for each in found:
        assert json.loads(each)["cat"] == "task"


def test_a_full_disk_leaves_the_timeline_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "timeline.json"
    path.write_bytes(b"[{}]")
    real = os.pwrite
    writes = []

    def pwrite(descriptor, content, offset):
        writes.append(offset)
        if len(writes) == 2:
            real(descriptor, content[:3], offset)
            raise OSError(28, "No space left on device")
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(StorageError):
        files.write_tail(str(path), 3, [b", {}]", b", {}]"], b"]")
    assert path.read_bytes() == b"[{}]"
