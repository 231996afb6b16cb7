"""``attempts.tsv``: its lines, its two formats, and the way from one to the other."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result, encode_text
from mpifarm.store.attempts import (
    AttemptsFile,
    escape,
    last_outcomes,
    parse_time,
    read_attempts,
    read_last_rows,
    unescape,
)
from mpifarm.store.types import Recorded
from mpifarm.system.time_of_day import encode_time
from tests.unit.store_fakes import interference
from tests.workdir_files import (
    ATTEMPTS_HEAD,
    OLD_ATTEMPTS_HEAD,
    Attempt,
    format_attempts,
    split_attempts,
)

FARM = "0123456789abcdef"
TEXTS = [f"echo {taskid}" for taskid in range(20)]


class Site:
    """A directory with the files of attempts alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = WorkdirPaths(str(root))

    def write(self, content: str, name: str = "attempts.tsv") -> None:
        (self.root / name).write_text(content)

    def read(self, name: str = "attempts.tsv") -> str:
        return (self.root / name).read_text()

    def names(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}

    def begin(self, *, beside_others: bool = False) -> AttemptsFile:
        file = AttemptsFile(self.paths, FARM, TEXTS)
        file.begin(beside_others=beside_others)
        return file

    def ids(self) -> list[int]:
        return [each.taskid for each in read_attempts(self.paths)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def recorded(taskid: int, status: int = 0, **more: Any) -> Recorded:
    outcome = Outcome.FAILED if status else Outcome.COMPLETED
    result = Result(taskid, 1, outcome, status, 4711, 1.7e9 + 0.25, 0.5, 9.0)
    return Recorded(taskid, not status, result._replace(**more), 3, 77, "n7")


OLD = OLD_ATTEMPTS_HEAD + Attempt(1).old_line + Attempt(2, status=-9).old_line


# ---- lines --------------------------------------------------------------------------


def test_a_line_has_all_that_is_known_of_the_attempt(site):
    usage = {"user_seconds": 0.5, "system_seconds": 0.25, "peak_memory": 1 << 20}
    site.begin().append([recorded(4, -15, worker_index=2, output_bytes=9, **usage)])
    head, line = site.read().splitlines()
    assert f"{head}\n" == ATTEMPTS_HEAD
    assert line.split("\t") == [
        *("4", "1", "failed", "143", "15", "n7", "3", "2", "4711"),
        *("2023-11-14T22:13:20.250Z", "0.500000", "0.500000", "0.250000"),
        *("1048576", "9", FARM, "echo 4"),
    ]


def test_what_is_unknown_is_empty_and_not_zero(site):
    no_time: dict[str, Any] = {"user_seconds": 0.0, "system_seconds": 0.0}
    site.begin().append([recorded(1), recorded(2, peak_memory=0, **no_time)])
    unseen, small = split_attempts(site.read().encode())[0]
    assert (unseen.user_seconds, unseen.output_bytes, unseen.worker) == ("", "", -1)
    assert (small.user_seconds, small.peak_memory) == ("0.000000", "")


def test_attempts_whose_tasks_run_again_stand_before_the_next_results(site):
    file = site.begin()
    file.note([recorded(1, 3), recorded(1, 3, attempt=2)])
    assert site.names() == set()
    file.append([recorded(1, attempt=3)])
    file.append([])
    attempts, _ = split_attempts(site.read().encode())
    assert [(each.attempt, each.status) for each in attempts] == [
        (1, 3),
        (2, 3),
        (3, 0),
    ]


def test_what_a_failing_disk_did_not_take_is_written_later(site, monkeypatch):
    file = site.begin()
    file.note([recorded(1, 3), recorded(2, 3)])

    def fail(*_: object, **__: object) -> int:
        raise StorageError("the disk failed")

    with monkeypatch.context() as patched:
        patched.setattr("mpifarm.system.files.append", fail)
        with pytest.raises(StorageError):
            file.append()
    file.append()
    file.append()
    assert site.ids() == [1, 2]


def test_noted_attempts_can_be_written_alone(site):
    file = site.begin()
    file.note([recorded(1, 3)])
    file.append()
    assert site.ids() == [1]


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=20))
def test_a_field_is_one_field_and_its_text_comes_back(text):
    text = re.sub("[\ud800-\udbff\udc00-\udc7f\udd00-\udfff]", "", text)
    field = escape(text)
    assert not re.search("[\x00-\x1f\x7f\ud800-\udfff]", field)
    assert field[:1] not in ('"', "'")
    assert unescape(field.encode()) == encode_text(text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("a\tb\n", r"a\tb\n"),
        (r"a\tb", r"a\\tb"),
        ("\udcff", r"\xff"),
        ('"a b" "c"', r'\x22a b" "c"'),
        ("'a'", r"\x27a'"),
        ("\x1b[31m", r"\x1b[31m"),
        ("ünï 'x'", "ünï 'x'"),
    ],
)
def test_fields_as_the_page_describes_them(text, field):
    assert escape(text) == field


@given(st.floats(0, 4e9))
def test_times_are_right_to_the_ms(seconds):
    assert abs(parse_time(encode_time(seconds).encode()) - seconds) < 0.00101


# ---- reading ------------------------------------------------------------------------


def test_both_formats_are_read_the_older_file_first(site):
    site.write(OLD, "attempts.1.tsv")
    site.write(format_attempts(Attempt(3, status=2, seconds=1.5, command="x\\ty")))
    first, killed, last = read_attempts(site.paths)
    assert (first.taskid, first.outcome, first.command) == (1, "completed", None)
    assert (killed.status, killed.signal, killed.outcome) == (137, 9, "failed")
    assert (killed.pid, killed.host, killed.worker) == (1, "", None)
    assert (last.status, last.seconds, last.command) == (2, 1.5, b"x\ty")


def test_lines_of_an_older_farm_among_newer_ones_are_read(site):
    lines = [Attempt(1).line, Attempt(2).old_line, Attempt(3).line]
    site.write(ATTEMPTS_HEAD + "".join(lines))
    assert site.ids() == [1, 2, 3]


def test_torn_and_odd_lines_are_passed_over(site):
    whole = Attempt(1).line
    odd = ["x\n", "\n", "1\t2\n", whole.replace("\t0\t", "\tzero\t", 1), whole[:-9]]
    site.write(ATTEMPTS_HEAD + Attempt(0).line + "".join(odd))
    assert site.ids() == [0]


# ---- from one format to the other ---------------------------------------------------


def test_a_farm_that_begins_alone_moves_the_lines_of_the_older_format(site):
    site.write(OLD)
    site.begin().append([recorded(3)])
    assert site.read("attempts.1.tsv") == OLD
    assert site.read().startswith(ATTEMPTS_HEAD)
    assert site.ids() == [1, 2, 3]
    assert site.names() == {"attempts.tsv", "attempts.1.tsv"}


def test_beside_another_farm_the_older_format_goes_on(site):
    site.write(OLD)
    site.begin(beside_others=True).append([recorded(3, -9)])
    assert site.names() == {"attempts.tsv"}
    assert site.read().startswith(OLD)
    assert site.read().splitlines()[-1].startswith("3\t1\t-9\t3\t4711\t1700000000.25")
    assert site.ids() == [1, 2, 3]


def test_lines_that_an_older_farm_has_added_are_moved_behind_those_before(site):
    site.write(OLD, "attempts.1.tsv")
    new = ATTEMPTS_HEAD + Attempt(3).line
    site.write(new + Attempt(4).old_line + Attempt(5).old_line)
    site.begin()
    assert (
        site.read("attempts.1.tsv") == OLD + Attempt(4).old_line + Attempt(5).old_line
    )
    assert site.read() == new
    assert site.ids() == [1, 2, 4, 5, 3]


def test_a_file_of_the_newer_format_stays_as_it_is(site):
    site.write(format_attempts(Attempt(1)))
    before = (site.root / "attempts.tsv").stat()
    site.begin()
    after = (site.root / "attempts.tsv").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_older_file_without_lines_leaves_none_behind(site):
    site.write(OLD_ATTEMPTS_HEAD)
    site.begin()
    assert (site.read(), site.names()) == (ATTEMPTS_HEAD, {"attempts.tsv"})


@pytest.mark.parametrize("at", range(40))
def test_a_kill_at_any_call_of_the_move_loses_and_doubles_no_line(
    site, at, monkeypatch
):
    site.write(OLD_ATTEMPTS_HEAD + Attempt(0).old_line, "attempts.1.tsv")
    site.write(format_attempts(Attempt(3)) + Attempt(4).old_line)
    try:
        with interference(monkeypatch, at, KeyboardInterrupt(), half=True):
            site.begin()
    except KeyboardInterrupt:
        pass
    site.begin()
    assert site.read("attempts.1.tsv").count("\n") == 3
    assert sorted(site.ids()) == [0, 3, 4]


def test_the_last_rows_begin_at_a_whole_line(site):
    lines = [Attempt(taskid).line for taskid in range(3)]
    site.write(ATTEMPTS_HEAD + "".join(lines))
    for most, taskids in (
        (len(lines[2]), []),
        (len(lines[2]) + 1, [2]),
        (len(lines[1] + lines[2]) + 1, [1, 2]),
        (10**6, [0, 1, 2]),
    ):
        rows = read_last_rows(site.paths, most)
        assert [int(fields[0]) for fields in rows] == taskids


def test_each_task_s_last_outcome_is_that_of_its_last_row():
    rows = [[b"1", b"1", b"failed"], [b"x", b"1", b"lost"], [b"1", b"2", b"completed"]]
    assert last_outcomes(rows) == {1: b"completed"}
