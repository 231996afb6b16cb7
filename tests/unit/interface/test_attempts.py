"""Attempts read while a farm writes them."""

import pytest

from mpifarm.interface import attempts
from mpifarm.interface.attempts import AttemptReader
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import FIRST_HEADER, HEADER, AttemptsFile


def line(taskid, outcome="completed", status=0):
    return (
        f"{taskid}\t1\t{outcome}\t{status}\t0\tn1\t0\t0\t9\t2026-01-01T00:00:00.000Z"
        f"\t0.5\t\t\t\t\tabcd0123\techo \\t {taskid}\n"
    ).encode()


def first_line(taskid):
    return f"{taskid}\t1\t0\t0\t9\t1760000000.5\t0.5\tabcd0123\n".encode()


@pytest.fixture
def paths(tmp_path):
    return WorkdirPaths(str(tmp_path))


@pytest.fixture
def reader(paths):
    return AttemptReader(paths, ["zero", None])


def append(paths, content):
    with open(paths.attempts, "ab") as file:
        file.write(content)


def test_a_torn_line_waits_for_its_end(paths, reader):
    assert reader.read() == []
    append(paths, HEADER + line(0) + line(1)[:20])
    (first,) = reader.read()
    assert (first.taskid, first.name, first.command) == (0, "zero", "echo \t 0")
    assert reader.read() == []
    append(paths, line(1)[20:] + line(7))
    assert [(each.taskid, each.name) for each in reader.read()] == [
        (1, None),
        (7, None),
    ]
    assert reader.read() == []


@pytest.mark.parametrize("reads_before", [True, False])
def test_lines_of_format_1_come_once_though_a_farm_moves_them(
    paths, reader, reads_before
):
    append(paths, FIRST_HEADER + first_line(0))
    before = reader.read() if reads_before else []
    AttemptsFile(paths, "abcd0123", []).begin(beside_others=False)
    append(paths, line(1))
    found = [*before, *reader.read()]
    assert [each.taskid for each in found] == [0, 1]
    assert reader.read() == []


def test_an_interrupt_between_two_lines_loses_none(paths, reader, monkeypatch):
    append(paths, HEADER + line(0) + line(1))
    name_attempt = attempts.name_attempt

    def interrupt(row, names):
        if row.taskid == 1:
            raise KeyboardInterrupt
        return name_attempt(row, names)

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "name_attempt", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reader.read()
    assert [each.taskid for each in reader.read()] == [0, 1]
