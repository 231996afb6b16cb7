"""The memory of a host when a task failed there, by the attempts beside it."""

import os

import pytest

from mpifarm.audit import memory_use
from mpifarm.audit.memory_use import MemoryUse, find_memory_use
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import attempts as attempts_module
from mpifarm.store.attempts import read_last_attempts
from tests.workdir_files import Attempt, format_attempts


def ran(taskid, begin, end, peak=1000, host="n1", **more):
    more |= {"peak_memory": str(peak), "host": host}
    return Attempt(taskid, started=1e9 + begin, seconds=end - begin, **more)


@pytest.fixture
def use(tmp_path):
    """Find the use of memory when task 5 failed."""

    def find(*attempts):
        (tmp_path / "attempts.tsv").write_text(format_attempts(*attempts))
        paths = WorkdirPaths(str(tmp_path))
        return find_memory_use(paths, 5, read_last_attempts(paths))

    return find


FAILED = ran(5, 10, 20, 500, status=-9)


@pytest.mark.parametrize(
    ("begin", "end", "counts"),
    [
        (0, 9, False),
        (0, 19.998, False),
        (0, 20, True),
        (0, 30, True),
        (20, 30, True),
        (20.001, 30, False),
        (25, 30, False),
    ],
)
def test_attempts_count_that_ran_at_that_moment(use, begin, end, counts):
    peaks = 500 + 1000 * counts
    found = use(ran(1, begin, end), FAILED)
    assert found == MemoryUse(5, "n1", 1 + counts, peaks, None)


def test_other_hosts_do_not_count_and_attempts_without_a_peak_do(use):
    other = ran(1, 0, 30, host="n11")
    silent = ran(2, 0, 30, peak="")
    assert use(other, silent, FAILED) == MemoryUse(5, "n1", 2, 500, None)


def test_nothing_is_known_without_a_peak_a_host_or_a_failure(use):
    assert use(ran(5, 10, 20, "", status=-9)) is None
    assert use(ran(5, 10, 20, 500, host="", status=-9)) is None
    assert use(ran(5, 10, 20, 500)) is None
    assert use(ran(4, 10, 20, 500, status=-9)) is None


def test_the_memory_of_this_host_is_known(use, monkeypatch):
    monkeypatch.setattr(memory_use, "find_memory", lambda: 77)
    here = os.uname().nodename
    assert use(ran(5, 10, 20, 500, host=here, status=-9)).total == 77


def test_a_host_whose_memory_is_not_told_has_none(monkeypatch):
    sizes = {"SC_PHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert memory_use.find_memory() == 3 * 4096

    def fail(_name):
        raise ValueError

    monkeypatch.setattr(os, "sysconf", fail)
    assert memory_use.find_memory() is None


def test_only_what_stands_near_is_looked_at(use, monkeypatch):
    size = len(ran(1, 0, 30).line.encode())
    monkeypatch.setattr(attempts_module, "BYTES_AT_ONCE", size)
    beside = [ran(100 + number, 0, 30) for number in range(20)]
    found = use(*beside[:10], FAILED, *beside[10:])
    near = memory_use.NEAR_BLOCKS
    assert 2 * near - 1 <= found.tasks <= 2 * near + 3
    assert use(*beside[:2], FAILED, *beside[2:4]).tasks == 5
