"""Output that two processes make is that of one, whatever becomes of the second."""

import os
from typing import Any

import pytest

from mpifarm.commands import halves
from mpifarm.commands.halves import make_in_halves
from mpifarm.system import processes

TASKS = [*range(0, 90, 2)]


def make(taskids):
    for taskid in taskids:
        yield b"%d\n" % taskid


EXPECTED = b"".join(make(TASKS))


@pytest.fixture(autouse=True)
def forks(monkeypatch):
    """Return the processes that were made: parts are small, and there are two CPUs."""
    made: list[int] = []
    fork = os.fork

    def noted() -> int:
        pid = fork()
        made.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", noted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(halves, "TASKS_AT_ONCE", 20)
    monkeypatch.setattr(halves, "_MIN_TASKS", 6)
    return made


def assert_none_is_left(forks):
    for pid in forks:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def test_both_halves_come_in_order(forks):
    pids = []

    def make_noted(taskids):
        pids.append(os.getpid())
        yield from make(taskids)

    assert b"".join(make_in_halves(make_noted, TASKS)) == EXPECTED
    assert len(forks) == 2  # and five tasks alone
    assert len(pids) == 3
    assert_none_is_left(forks)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_for_few_tasks_there_is_one_process(forks, count):
    assert b"".join(make_in_halves(make, TASKS[:count])) == b"".join(
        make(TASKS[:count])
    )
    assert forks == []


def test_with_one_cpu_there_is_one_process(forks, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert b"".join(make_in_halves(make, TASKS)) == EXPECTED
    assert forks == []


def test_what_the_second_process_could_not_make_is_made_here(forks):
    own = os.getpid()

    def make_here(taskids):
        if os.getpid() != own:
            raise MemoryError
        yield from make(taskids)

    assert b"".join(make_in_halves(make_here, TASKS)) == EXPECTED
    assert len(forks) == 2


def test_without_a_second_process_all_is_made_here(monkeypatch):
    def fail() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fail)
    before = os.listdir("/proc/self/fd")
    assert b"".join(make_in_halves(make, TASKS)) == EXPECTED
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_python_without_files_in_memory_takes_a_temporary_one(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert b"".join(make_in_halves(make, TASKS)) == EXPECTED


def test_a_second_process_of_which_nobody_knows_the_end_is_not_trusted(monkeypatch):
    reap = processes.reap_child

    def reap_unknown(pid: int) -> None:
        reap(pid)

    monkeypatch.setattr(processes, "reap_child", reap_unknown)
    assert b"".join(make_in_halves(make, TASKS)) == EXPECTED


def test_a_reader_that_stops_leaves_no_process(forks):
    before = os.listdir("/proc/self/fd")
    pieces: Any = make_in_halves(make, TASKS)
    assert next(pieces) == b"0\n"
    pieces.close()
    assert_none_is_left(forks)
    assert len(os.listdir("/proc/self/fd")) == len(before)
