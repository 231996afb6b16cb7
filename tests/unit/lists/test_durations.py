"""``--durations FILE``."""

import pytest

from mpifarm.errors import InputError
from mpifarm.lists.durations import read_durations
from tests.workdir_files import OLD_ATTEMPTS_HEAD, Attempt, format_attempts


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "durations"
        path.write_text(content)
        return read_durations(str(path))

    return read


def test_lines_of_a_task_and_its_seconds(read):
    assert read("0 1.5\n\n# by hand\n7\t1e3\n3   0") == {0: 1.5, 7: 1000.0, 3: 0.0}


def test_the_attempts_of_another_workdir_count_where_they_completed(read):
    attempts = [
        Attempt(1, seconds=2.0),
        Attempt(2, status=3, seconds=9.0),
        Attempt(1, 2, seconds=4.0),
    ]
    assert read(format_attempts(*attempts) + "7\t1\tcomple") == {1: 4.0}


@pytest.mark.parametrize("line", ["x 1", "1", "1 2 3", "-1 2", "1 -2", "1 nan", "1 x"])
def test_a_wrong_line_is_named(read, line):
    with pytest.raises(InputError, match=r"durations line 2 \(--durations\) is not a"):
        read(f"0 1\n{line}\n")


def test_an_older_file_of_attempts_is_told(read):
    with pytest.raises(InputError, match="has no columns seconds and outcome"):
        read(OLD_ATTEMPTS_HEAD + Attempt(1).old_line)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"can't read .*nowhere.*No such file"):
        read_durations(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("0 0", True),
        ("0 1e11", True),
        ("0 1e12", False),
        ("0 999999999999", True),
        ("-0 1", True),
        ("0 inf", False),
        ("0 -0.5", False),
    ],
)
def test_seconds_are_no_more_than_a_clock_has(read, line, is_right):
    if is_right:
        assert len(read(line)) == 1
        return
    with pytest.raises(InputError, match="is not a task id and its seconds"):
        read(line)


def test_of_two_lines_of_a_task_the_last_counts(read):
    assert read("3 1\n3 2\n") == {3: 2.0}


def test_columns_count_by_their_names(read):
    head, row = "taskid\tseconds\toutcome", "5\t2.5\tcompleted"
    assert read(f"{head}\n{row}\n6\t1.0\tfailed\n7\t1.0") == {5: 2.5}
    with pytest.raises(InputError, match="has no columns seconds and outcome"):
        read("taskid\tseconds\n5\t2.5\n")
    with pytest.raises(InputError, match="has no columns seconds and outcome"):
        read("taskid\toutcome\n5\tcompleted\n")


@pytest.mark.parametrize("row", ["x\t1", "5\tsoon", "5\tnan", "5\tinf", "-1\t2"])
def test_a_damaged_attempt_teaches_nothing(read, row):
    head = "taskid\tseconds\toutcome\n"
    assert read(f"{head}{row}\tcompleted\n3\t2\tcompleted\n") == {3: 2.0}
