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
