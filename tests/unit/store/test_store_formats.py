"""The small readers of the workdir's files, to the byte.

Rules of this file: contents are bytes; a file is there only where one is read on.
"""

import json
import os

import pytest

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result
from mpifarm.store import attempts, requests
from mpifarm.store.attempts import (
    HEADER,
    LastAttempts,
    outcome_in_words,
    parse_row,
    read_last_attempts,
    read_last_of_all,
    read_last_rows,
    split_rows,
    why_never_run,
)
from mpifarm.store.fingerprint import (
    BLOCK,
    Fingerprint,
    ListMatch,
    compare,
    encode_fingerprint,
    find_edited_block,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.store.ledger import _flagged, common_beginning
from mpifarm.store.requests import LinesRead
from mpifarm.store.status_lines import (
    cut_behind_lines,
    find_id,
    find_run,
    is_beyond,
    parse_id,
    parse_line,
    scan_ids,
)
from tests.workdir_files import Attempt, format_attempts

TASKS = ["a", "b", "c d", "e"]

# ---- lines of ids --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("digits", "taskid"),
    [
        (b"0", 0),
        (b"7", 7),
        (b"10", 10),
        (b"00", None),
        (b"07", None),
        (b"", None),
        (b"-1", None),
        (b"1x", None),
        (b"9" * 18, 10**18 - 1),
        (b"1" + b"0" * 18, None),
    ],
)
def test_an_id_is_written_in_one_way(digits, taskid):
    assert parse_id(digits) == taskid
    assert find_id(digits + b" x") == taskid
    assert find_id(digits) is None


@pytest.mark.parametrize(
    ("line", "taskid", "beyond"),
    [
        (b"0 a", 0, False),
        (b"2 c d", 2, False),
        (b"2 c", None, False),
        (b"0 a ", None, False),
        (b"3 e", 3, False),
        (b"4 e", None, True),
        (b"a", None, False),
        (b"", None, False),
    ],
)
def test_a_line_counts_with_its_id_and_text(line, taskid, beyond):
    assert parse_line(line, TASKS) == taskid
    assert is_beyond(line, TASKS) is beyond


@pytest.mark.parametrize(
    ("lines", "run"),
    [
        (b"0 a\n", range(1)),
        (b"1 b\n2 c d\n3 e\n", range(1, 4)),
        (b"1 b\n3 e\n", None),
        (b"1 b\n2 x\n", None),
        (b"3 e\n4 f\n", None),
        (b"2 c d\n1 b\n", None),
        (b"x\n", None),
        (b"1 b\n\n", None),
    ],
)
def test_ids_that_follow_one_another_are_a_run(lines, run):
    assert find_run(lines, TASKS) == run


@pytest.mark.parametrize(
    ("blocks", "pieces"),
    [
        ([], []),
        ([b"a\nb"], [b"a\n", b"b"]),
        ([b"a\nb", b"c\n"], [b"a\n", b"bc\n"]),
        ([b"a", b"b", b"c\nd\n"], [b"abc\nd\n"]),
        ([b"a\n", b"b\n"], [b"a\n", b"b\n"]),
        ([b"\n"], [b"\n"]),
    ],
)
def test_blocks_are_cut_behind_lines(blocks, pieces):
    assert [*cut_behind_lines(blocks)] == pieces


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"3 a\n4 b\n5 c\n", [3, 4, 5]),
        (b"3 a\n5 c\n", [3, 5]),
        (b"3 a\n5 c\n7 d\n", [3, 5, 7]),
        (b"3 a\n\n5 c\n", [3, 5]),
        (b"3 a\n4 b", [3, 4]),
        (b"x\n4 b\n", [4]),
    ],
)
def test_ids_are_counted_without_a_look_at_texts(content, ids):
    assert [each for part in scan_ids([content]) for each in part] == ids


# ---- ledgers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "ids"), [(b"", []), (b"\0\1\1\0\1", [1, 2, 4]), (b"\1", [0]), (b"\0", [])]
)
def test_flagged_tasks_come_in_order(flags, ids):
    assert [*_flagged(bytearray(flags))] == ids


@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        (b"abc", b"abc", b"abc"),
        (b"abc", b"abcd", b"abc"),
        (b"abcd", b"abc", b"abc"),
        (b"abx", b"aby", b"ab"),
        (b"x", b"y", b""),
        (b"", b"y", b""),
    ],
)
def test_two_contents_begin_alike_up_to_the_first_difference(left, right, common):
    assert common_beginning(left, right) == common


# ---- the fingerprint -----------------------------------------------------------------

STORED = take_fingerprint(TASKS)
STAGED = os.path.basename(WorkdirPaths("/w").queue_staging("0123abcd89ab", 1))


@pytest.mark.parametrize(
    ("tasks", "match"),
    [
        (TASKS, ListMatch.SAME),
        ([*TASKS, "f"], ListMatch.LINES_ADDED),
        (TASKS[:-1], ListMatch.EDITED),
        (["x", *TASKS[1:]], ListMatch.EDITED),
        (["x", *TASKS[1:], "f"], ListMatch.EDITED),
    ],
)
def test_a_list_is_the_same_or_longer_or_another(tasks, match):
    assert compare(STORED, tasks) is match


@pytest.mark.parametrize(
    ("total", "edited", "block"),
    [
        (BLOCK + 5, None, range(2 * BLOCK, 2 * BLOCK)),
        (BLOCK + 5, 0, range(BLOCK)),
        (BLOCK + 5, BLOCK - 1, range(BLOCK)),
        (BLOCK + 5, BLOCK, range(BLOCK, BLOCK + 5)),
        (5, 4, range(5)),
    ],
)
def test_the_block_of_the_first_edit_is_found(total, edited, block):
    tasks = ["x"] * total
    stored = take_fingerprint(tasks)
    if edited is not None:
        tasks[edited] = "y"
    assert find_edited_block(stored, tasks) == block


@pytest.mark.parametrize(
    "stored",
    [
        STORED,
        STORED._replace(first_added=2),
        STORED._replace(staging=STAGED),
        take_fingerprint([]),
    ],
)
def test_a_fingerprint_is_read_as_it_was_written(stored):
    assert parse_fingerprint(encode_fingerprint(stored)) == stored


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"block": BLOCK + 1},
        {"count": "4"},
        {"count": -1},
        {"prefixes": [1]},
        {"prefixes": None},
        {"first_added": "x"},
        {"toprocess": 7},
    ],
)
def test_a_fingerprint_with_odd_values_is_none(change):
    record = {**json.loads(encode_fingerprint(STORED)), **change}
    assert parse_fingerprint(json.dumps(record).encode()) is None


def test_a_fingerprint_of_before_lists_grew_has_all_tasks_in_toprocess():
    record = json.loads(encode_fingerprint(STORED))
    del record["first_added"]
    found = parse_fingerprint(json.dumps(record).encode())
    assert found is not None
    assert (found.first_added, found.staging) == (4, "")
    assert isinstance(found, Fingerprint)
    assert parse_fingerprint(b"[]") is None


def test_what_is_no_staging_file_stands_for_none():
    stored = STORED._replace(staging="x")
    assert parse_fingerprint(encode_fingerprint(stored)) == STORED


# ---- attempts ------------------------------------------------------------------------


def test_rows_of_both_formats_are_read_and_odd_ones_left_out():
    old = [
        Attempt(1, status=-9, started=1e9, seconds=2.5).old_line,
        Attempt(2, status=3, started=1e9).old_line,
        Attempt(3, started=1e9).old_line,
    ]
    odd = ["x" + Attempt(4).line, Attempt(5).line.replace("\t", " ", 1), "7\n"]
    content = "".join([*old, *odd, Attempt(6, host="n7").line, "8\t1"]).encode()
    rows = [parse_row(fields) for fields in split_rows(content)]
    assert [(row.taskid, row.outcome) for row in rows] == [
        *((1, "failed"), (2, "failed"), (3, "completed"), (6, "completed"))
    ]
    assert [(row.status, row.signal) for row in rows[:3]] == [(137, 9), (3, 0), (0, 0)]
    assert (rows[0].host, rows[0].worker, rows[0].command) == ("", None, None)
    assert (rows[3].host, rows[3].worker, rows[3].command) == ("n7", 0, b"true")


def test_the_fields_of_last_attempts_are_read_one_by_one_or_by_columns():
    line = Attempt(3, host="n7").line.rstrip("\n").encode()
    last = LastAttempts({3: line})
    assert last.field(3, attempts.Column.HOST) == b"n7"
    assert last.field(4, attempts.Column.HOST) == b""
    assert last.fields(4) == []
    taskids, outcomes, *_ = last.columns([4, 3])[::2]
    assert taskids == [b"", b"3"]
    assert outcomes == [attempts.NO_OUTCOME, b"completed"]
    whole = last.columns([4, 3])
    assert [fields[1] for fields in whole] == line.split(b"\t")


def test_the_last_attempts_of_all_tasks_are_those_of_the_list_alone(tmp_path):
    lines = [Attempt(n, status=n % 3) for n in (7, 2, 0, 10**17, 2)]
    (tmp_path / "attempts.tsv").write_text(format_attempts(*lines))
    paths = WorkdirPaths(str(tmp_path))
    last, known = read_last_of_all(paths, 8), read_last_attempts(paths, range(8))
    assert last.lines == known.lines
    assert len(last.lines) == 3
    assert [*last.lines] == [0, 2, 7]
    assert last.columns([1, 2, 7]) == known.columns([1, 2, 7])
    assert [last.find(taskid) for taskid in (-1, 1, 8)] == [None] * 3


@pytest.mark.parametrize("started", ["inf", "nan", "1e30", "1e18", "soon"])
def test_a_line_of_the_older_format_without_a_time_is_passed_over(started):
    line = f"1\t1\t0\t3\t77\t{started}\t0.5\t0123abcd\n"
    assert [*split_rows(line.encode())] == []


def test_a_last_attempt_of_the_older_format_has_the_fields_of_the_newer(tmp_path):
    odd = Attempt(2).old_line.replace("\t0\t", "\tx\t", 1)
    content = format_attempts(Attempt(2)) + Attempt(1, status=-9).old_line + odd
    (tmp_path / "attempts.tsv").write_text(content)
    last = read_last_attempts(WorkdirPaths(str(tmp_path)))
    assert last.columns([1, 2])[2:5] == [
        [b"failed", attempts.NO_OUTCOME],
        [b"137", b""],
        [b"9", b""],
    ]
    assert last.find(2) is None


@pytest.mark.parametrize(("most", "taskids"), [(1 << 20, [0, 1, 2]), (1, []), (0, [])])
def test_the_last_rows_begin_behind_a_cut_line(tmp_path, most, taskids):
    content = format_attempts(*map(Attempt, range(3)))
    (tmp_path / "attempts.tsv").write_text(content)
    paths = WorkdirPaths(str(tmp_path))
    assert [int(row[0]) for row in read_last_rows(paths, most)] == taskids
    size = len(Attempt(2).line)
    for cut, ids in ((size, []), (size + 1, [2]), (len(content), [0, 1, 2])):
        assert [int(row[0]) for row in read_last_rows(paths, cut)] == ids


@pytest.mark.parametrize(
    ("outcome", "note", "words"),
    [
        (Outcome.COMPLETED, "odd", "completed"),
        (Outcome.NOT_RUN, "not run: task 3 failed", "not run: task 3 failed"),
        (Outcome.TIMED_OUT, "", "timed out"),
    ],
)
def test_an_outcome_in_words_has_the_reason_of_what_was_not_run(outcome, note, words):
    result = Result(1, 1, outcome, 0, 7, 1.0, 1.0, 9.0, note)
    assert outcome_in_words(result) == words


def test_why_a_task_never_ran_is_known_by_its_missing_worker():
    assert why_never_run(b"not run: x", b"")
    assert why_never_run(b"cancelled", b"")
    assert why_never_run(b"cancelled", b"3") == ""
    assert why_never_run(b"lost", b"") == ""
    assert HEADER.startswith(b"taskid\t")


# ---- files that are read on ----------------------------------------------------------


def test_lines_are_read_on_whole_and_each_once(tmp_path):
    path = tmp_path / "requests"
    read = LinesRead(str(path))
    assert read.poll() == []
    path.write_bytes(b"one\ntw")
    assert read.poll() == [b"one"]
    assert read.poll() == []
    path.write_bytes(b"one\ntwo\nthree\n")
    assert read.poll() == [b"two", b"three"]
    assert read.poll() == []


def test_another_or_a_shorter_file_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "requests"
    path.write_bytes(b"one\ntwo\n")
    read = LinesRead(str(path))
    read.poll()
    path.write_bytes(b"1\n")
    assert read.poll() == [b"1"]
    (tmp_path / "new").write_bytes(b"1\n2\n")
    os.replace(tmp_path / "new", path)
    assert read.poll() == [b"1", b"2"]
    path.write_bytes(b"x\n2\n3\n")  # the same inode, and longer, but another beginning
    assert read.poll() == [b"x", b"2", b"3"]


def test_a_long_file_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "MAX_AT_ONCE", 5)
    path = tmp_path / "requests"
    path.write_bytes(b"one\ntwo\n3\n")
    read = LinesRead(str(path))
    assert [read.poll() for _ in range(4)] == [[b"one"], [b"two"], [b"3"], []]
