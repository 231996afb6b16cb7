"""Attempts read while a farm writes them, and the results made of them."""

import pytest

from mpifarm.errors import ExitStatus
from mpifarm.interface.attempts import AttemptReader
from mpifarm.interface.results import Directory, Results, TasksFailedError
from mpifarm.store.attempts import HEADER


def line(taskid, outcome="completed", status=0):
    return (
        f"{taskid}\t1\t{outcome}\t{status}\t0\tn1\t0\t0\t9\t2026-01-01T00:00:00.000Z"
        f"\t0.5\t\t\t\t\tabcd0123\techo \\t {taskid}\n"
    ).encode()


@pytest.fixture
def directory(tmp_path):
    return Directory(str(tmp_path))


@pytest.fixture
def reader(directory):
    return AttemptReader(directory.paths, ["zero", None])


def append(directory, content):
    with open(directory.paths.attempts, "ab") as file:
        file.write(content)


def test_a_torn_line_waits_for_its_end(directory, reader):
    assert reader.read() == []
    append(directory, HEADER + line(0) + line(1)[:20])
    (first,) = reader.read()
    assert (first.taskid, first.name, first.command) == (0, "zero", "echo \t 0")
    assert reader.read() == []
    append(directory, line(1)[20:] + line(7))
    assert [(each.taskid, each.name) for each in reader.read()] == [
        (1, None),
        (7, None),
    ]
    assert reader.read() == []


def test_a_file_that_was_replaced_is_read_from_its_beginning(
    directory, reader, tmp_path
):
    append(directory, HEADER + line(0))
    reader.read()
    (tmp_path / "other").write_bytes(HEADER + line(1))
    (tmp_path / "other").rename(directory.paths.attempts)
    assert [each.taskid for each in reader.read()] == [1]


def test_results_tell_what_failed_and_what_is_left(directory, reader):
    append(directory, line(3, "interrupted", 143) + line(1, "failed", 2) + line(0))
    results = Results(directory, ExitStatus.RUN_AGAIN, reader.read(), 4)
    assert [each.taskid for each in results] == [0, 1, 3]
    assert [each.taskid for each in results.failed] == [1]
    assert results.left == [2, 3]
    with pytest.raises(TasksFailedError, match=r"1 failed, 2 left.*task 1") as error:
        results.check()
    assert error.value.failed == results.failed


def test_results_of_tasks_that_have_all_completed_pass(directory, reader):
    append(directory, line(0))
    Results(directory, ExitStatus.ALL_FINISHED, reader.read(), 1).check()


def test_a_list_that_no_farm_takes_is_taken_back(tmp_path):
    new = Directory(str(tmp_path / "new"))
    new.give(b"true\n")
    new.take_back()
    assert not (tmp_path / "new").exists()
    (tmp_path / "given.txt").write_bytes(b"before\n")
    begun = Directory(str(tmp_path))
    begun.give(b"true\n")
    begun.take_back()
    assert (tmp_path / "given.txt").read_bytes() == b"before\n"
