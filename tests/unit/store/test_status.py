"""Lines of status files: what counts, what is torn, what is fused, what is alien."""

from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import InputError
from mpifarm.store.ledger import Ledger
from mpifarm.store.status_lines import (
    AlienLine,
    TornLine,
    classify_odd,
    cut_behind_lines,
    encode_lines,
    parse_line,
    parse_status,
    scan_ids,
    scan_status,
)
from mpifarm.store.validate import validate_lines
from mpifarm.system import files
from mpifarm.system.file_contents import find_version
from tests.support import wait_until

TASKS = [
    "cmd",
    "cmd arg",
    "sleep 1",
    "echo é",
    "echo \udcff",
    "x",
    "a  b",
    "echo\x0bvt \u2028 ls",
    "x",
    "1 x",
    "ten",
    "eleven",
    "twelve",
]

texts = st.text(
    st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), min_size=1
).filter(lambda text: text.strip() == text)


def test_what_is_encoded_is_parsed_again():
    content = encode_lines(range(len(TASKS)), TASKS)
    ids, odd, tail = scan_status(content, TASKS)
    assert (list(ids), odd, tail) == (list(range(len(TASKS))), [], b"")
    assert list(chain(*scan_ids([content]))) == list(range(len(TASKS)))


@given(st.lists(texts, min_size=1, max_size=20))
def test_any_text_comes_back_as_its_id(tasks):
    content = encode_lines(range(len(tasks)), tasks)
    assert list(scan_status(content, tasks)[0]) == list(range(len(tasks)))
    for taskid, line in enumerate(content.split(b"\n")[:-1]):
        assert parse_line(line, tasks) == taskid


@pytest.mark.parametrize(
    "line",
    [
        b"0",
        b"0 ",
        b"0 cm",
        b"0  cmd",
        b"0 cmd ",
        b"00 cmd",
        b"+0 cmd",
        b"-1 twelve",
        b" 0 cmd",
        b"0\tcmd",
        b"0_0 cmd",
        "٠ cmd".encode(),
        b"13 twelve",
        b"99999999999999999999 x",
        b"cmd",
        b"3 echo e",
        b"4 echo \xfe",
        b"0 cmd\r",
        b"0 cmd\0",
    ],
)
def test_a_line_that_is_not_exactly_that_of_its_id_does_not_count(line):
    ids, odd, tail = scan_status(line + b"\n", TASKS)
    assert (list(ids), odd, tail) == ([], [line], b"")
    assert parse_line(line, TASKS) is None


def test_a_last_line_without_newline_does_not_count_and_blank_ones_are_nothing():
    ids, odd, tail = scan_status(b"\n0 cmd\n\n5 x", TASKS)
    assert (list(ids), odd, tail) == ([0], [], b"5 x")


def test_a_run_of_blank_lines_is_not_looked_at_line_by_line(monkeypatch):
    slow: list[bytes] = []
    monkeypatch.setattr(
        "mpifarm.store.status_lines._scan_lines", lambda lines, *_: slow.append(lines)
    )
    blank = b"\n" * 300_000
    ids, odd, tail = scan_status(b"0 cmd\n%b5 x\n%b2 sl" % (blank, blank), TASKS)
    assert (list(ids), odd, tail) == ([0, 5], [], b"2 sl")
    assert slow == []


def test_blank_lines_are_not_looked_at_for_when_tasks_were_recorded(
    tmp_path, monkeypatch
):
    looked_at: list[bytes] = []

    def classify(line: bytes, *args: Any, **named: Any) -> TornLine | AlienLine:
        looked_at.append(line)
        return classify_odd(line, *args, **named)

    monkeypatch.setattr("mpifarm.store.ledger.classify_odd", classify)
    begin = b"0 cmd\n" + b"\n" * 9
    (tmp_path / "failed").write_bytes(begin + b"\n5 x\n\n\n2 sleep 1\n5")
    ledger = Ledger(str(tmp_path / "failed"), TASKS)
    ends = len(begin) + 4, len(begin) + 16
    assert ledger.find_settled({5: len(begin), 2: len(begin), 0: len(begin)}) == {5, 2}
    assert ledger.find_settled({1: 0, 5: ends[0] - 1, 2: ends[1] - 1}) == {5, 2}
    assert ledger.find_settled({0: 0, 5: ends[0], 2: ends[1]}) == {0}
    assert {*looked_at} == {b"0 cmd", b"5 x", b"2 sleep 1"}


# ---- a file that is replaced while it is read on -------------------------------------


def replace_by_same_inode(path: Path, content: bytes) -> None:
    """Leave the file as if it had been replaced twice, and had got its inode again."""
    before = find_version(str(path))

    def replace() -> bool:
        path.write_bytes(content)
        return find_version(str(path)) != before

    wait_until(replace)


def blank(line: bytes, content: bytes) -> bytes:
    return content.replace(line, b"\n" * len(line))


@pytest.fixture
def read_whole(monkeypatch):
    """The places from which a ledger has read a file again."""
    places: list[int] = []

    def find_rest(path: str, begin: int) -> bytes:
        places.append(begin)
        return files.find_rest(path, begin)

    fake = SimpleNamespace(**{**vars(files), "find_rest": find_rest})
    monkeypatch.setattr("mpifarm.store.ledger.files", fake)
    return places


@pytest.mark.parametrize("writer", ["a start", "others", "this farm"])
def test_a_file_of_the_same_inode_and_size_may_be_another_one(
    tmp_path, read_whole, writer
):
    path = tmp_path / "failed"
    content = b"0 cmd\n5 x\n10 ten\n"
    ledger = Ledger(str(path), TASKS)
    if writer == "this farm":
        ledger.append([0, 5, 10])
        assert path.read_bytes() == content
    else:
        path.write_bytes(content)
    if writer == "a start":
        ledger.start_behind(len(content), [0, 5, 10], find_version(str(path)))
    elif writer == "others":
        assert ledger.poll().ids == [0, 5, 10]
    replace_by_same_inode(path, blank(b"5 x\n", content))
    assert ledger.poll().gone == [5]
    assert [*ledger.missing()] == [each for each in range(13) if each not in (0, 10)]
    assert ledger.count == 2
    assert ledger.poll().gone == []
    assert read_whole == [0], "once"


def test_a_file_to_which_others_append_is_read_once(tmp_path, read_whole):
    path = tmp_path / "failed"
    ledger = Ledger(str(path), TASKS)
    for taskid in range(8):
        if taskid % 2:
            ledger.append([taskid])
        else:
            with path.open("ab") as stream:
                stream.write(encode_lines([taskid], TASKS))
        assert ledger.poll().gone == []
    assert ledger.count == 8
    assert read_whole == []


@pytest.mark.parametrize(
    ("line", "ids", "begun"),
    [
        (b"1", (), None),
        (b"1 ", (), 1),
        (b"1 cmd a", (), 1),
        (b"3 echo \xc3", (), 3),
        (b"2 sleep 1", (2,), None),
        (b"\0\0\0\0", (), None),
        (b"0 cmd5 x", (0, 5), None),
        (b"1 cmd ar2 sleep 1", (2,), 1),
        (b"3 echo \xc30 cmd", (0,), 3),
        (b"12 twel12 twelve", (12,), 12),
    ],
)
def test_torn_and_fused_lines_give_what_is_beyond_doubt(line, ids, begun):
    assert classify_odd(line, TASKS, may_be_torn=True) == TornLine(ids, begun)


def test_a_fused_line_with_two_readings_counts_for_none():
    # A torn "1" before the line of 29, or a torn "12" before that of 9.
    tasks = ["same"] * 30
    assert classify_odd(b"129 same", tasks, may_be_torn=True) == TornLine((), None)
    assert classify_odd(b"1 sa29 same", tasks, may_be_torn=True) == TornLine((29,), 1)


@pytest.mark.parametrize(
    ("line", "taskid"),
    [
        (b"0 other", 0),
        (b"1 cmd argument", 1),
        (b"13 new", 13),
        (b"text", None),
        (b"-1 twelve", None),
        (b"0 cmdx", 0),
    ],
)
def test_a_line_of_another_list_is_alien(line, taskid):
    found = classify_odd(line, TASKS, may_be_torn=True)
    assert isinstance(found, AlienLine)
    assert found.taskid == taskid


def parse(content, tasks=TASKS, *, list_is_same=False, counts_begun=False):
    """What the file says, and the sentences on its torn lines; or `InputError`."""
    how = {"list_is_same": list_is_same, "counts_begun": counts_begun}
    parsed = parse_status(content, tasks, **how)
    return parsed, validate_lines("finished", parsed, tasks, **how)


def test_a_short_line_inside_the_file_is_torn_only_if_the_list_is_proven_the_same():
    content = b"1 cmd\n5 x\n"
    same, notes = parse(content, list_is_same=True)
    assert list(same.ids) == [5]
    assert same.torn == 1
    assert len(notes) == 1
    with pytest.raises(InputError, match=r"task 1 is 'cmd' in finished.*'cmd arg'"):
        parse(content)


def test_toprocess_keeps_a_torn_line_whose_id_is_whole():
    torn, _ = parse(b"5 x\n12 twe", counts_begun=True)
    assert (list(torn.ids), [*torn.tail_ids], torn.is_in_order) == ([5], [12], False)
    lost, _ = parse(b"5 x\n12", counts_begun=True)
    assert (list(lost.ids), [*lost.tail_ids], lost.is_in_order) == ([5], [], False)


def test_a_last_line_counts_when_it_is_ended_and_not_while_it_is_written():
    parsed, _ = parse(b"5 x\n2 sleep 1")
    assert (list(parsed.ids), list(parsed.ended().ids)) == ([5], [5, 2])
    assert (parsed.ended().torn, parsed.ended().tail) == (1, None)
    assert parsed.without_tail() == parse(b"5 x\n")[0]


@given(st.lists(texts, min_size=3, max_size=30, unique=True), st.data())
def test_a_list_torn_anywhere_is_never_taken_for_an_edited_one(tasks, data):
    content = encode_lines(range(len(tasks)), tasks)
    cut = data.draw(st.integers(0, len(content)))
    parsed, _ = parse(content[:cut], tasks)
    whole = content[:cut].count(b"\n")
    assert list(parsed.ids) == list(range(whole))
    assert {*parsed.tail_ids} <= {whole}


def test_blank_lines_stand_for_no_task_that_is_missing():
    assert list(chain(*scan_ids([b"1 a\n\n3 c\n"]))) == [1, 3]


@pytest.mark.parametrize(
    ("ids", "is_in_order"),
    [
        ([], True),
        ([3], True),
        ([0, 1, 7], True),
        ([0, 2, 1, 3], False),
        ([1, 1], False),
    ],
)
def test_ids_in_order_grow_from_each_line_to_the_next(ids, is_in_order):
    tasks = [f"t{number}" for number in range(8)]
    content = "".join(f"{taskid} t{taskid}\n" for taskid in ids).encode()
    assert parse_status(content, tasks, list_is_same=True).is_in_order is is_in_order


@pytest.mark.parametrize(("line", "ids"), [(b"7 x", [7]), (b"8 x", []), (b"x", [])])
def test_a_line_of_another_text_counts_in_toprocess_if_the_list_has_its_id(line, ids):
    tasks = [f"t{number}" for number in range(8)]
    for counts_begun in (True, False):
        parsed = parse_status(
            line + b"\n", tasks, list_is_same=True, counts_begun=counts_begun
        )
        assert [*parsed.ids] == (ids if counts_begun else [])


def test_a_line_that_may_be_fused_in_two_ways_proves_nothing():
    """``1`` and ``12 cmd``, or ``11`` and ``2 cmd``."""
    tasks = ["x"] * 120
    tasks[2] = tasks[12] = "cmd"
    assert classify_odd(b"112 cmd", tasks, may_be_torn=False) == TornLine((), None)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("content", [b"", b"a", b"a\n", b"a\nbc\n\nd", b"abcdef\ng\n"])
def test_a_content_is_cut_behind_its_lines_and_keeps_its_rest(content, size):
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    pieces = [*cut_behind_lines(blocks)]
    assert b"".join(pieces) == content
    assert all(pieces)
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    lines = content.rfind(b"\n") + 1
    assert pieces[-1:] == [content[lines:]] or content[lines:] == b""
