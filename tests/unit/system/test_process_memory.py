"""How much memory processes have together: real processes, and texts of kernels."""

import mmap
import os
import signal
import time

import pytest

from mpifarm.system import process_memory, processes
from mpifarm.system.process_memory import measure_together, own_share, parse_share

MB = 2**20

NEW = b"""55d0-7ffc ---p 00000000 00:00 0  [rollup]
Rss:              300000 kB
Pss:              200000 kB
Pss_Dirty:         90000 kB
Pss_Anon:         100000 kB
Pss_File:          80000 kB
Pss_Shmem:         20000 kB
Swap:                  0 kB
"""
OLD = (
    b"55d0-7ffc ---p 00000000 00:00 0  [rollup]\nRss: 300 kB\nPss: 200 kB\nSwap: 0 kB\n"
)


@pytest.mark.parametrize(
    ("rollup", "size"), [(NEW, 120_000 * 1024), (OLD, 200 * 1024), (b"", 0)]
)
def test_pages_of_files_do_not_count_where_the_kernel_sets_them_apart(rollup, size):
    assert parse_share(rollup) == size


class Sharers:
    """Two processes that share 64 MB, which one of them alone has filled."""

    def __init__(self) -> None:
        self.shared = mmap.mmap(-1, 64 * MB)
        self.shared.write(b"x" * (64 * MB))
        self.pids = [processes.fork_child(self._hold) for _ in range(2)]

    def _hold(self) -> None:
        sum(self.shared[place] for place in range(0, 64 * MB, mmap.PAGESIZE))
        signal.pause()

    def have_it(self) -> bool:
        return all(process_memory.resident(pid) > 64 * MB for pid in self.pids)


@pytest.fixture
def sharers():
    sharers = Sharers()
    until = time.monotonic() + 20
    while not sharers.have_it():
        assert time.monotonic() < until
    yield sharers
    for pid in sharers.pids:
        processes.kill_process(pid, signal.SIGKILL)
        processes.reap_child(pid)


def test_what_processes_share_counts_once_if_a_quick_look_is_not_enough(sharers):
    everyone = [os.getpid(), *sharers.pids]
    quick = sum(map(process_memory.resident, everyone))
    assert quick > 3 * 64 * MB
    assert measure_together(everyone, 2 * quick) >= 3 * 64 * MB
    assert 64 * MB < measure_together(everyone, 100 * MB) < quick - 64 * MB


def test_where_the_kernel_tells_no_shares_each_page_counts(sharers, monkeypatch):
    monkeypatch.setattr(process_memory, "parse_share", _denied)
    assert own_share(sharers.pids[0]) > 64 * MB


def _denied(_: bytes) -> int:
    raise PermissionError


def test_a_process_that_is_gone_has_no_memory():
    pid = processes.fork_child(lambda: None)
    processes.reap_child(pid)
    assert (process_memory.resident(pid), own_share(pid)) == (0, 0)
