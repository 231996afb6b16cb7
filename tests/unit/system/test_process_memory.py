"""How much memory processes have together: real processes, and texts of kernels."""

import mmap
import os
import signal
import time
from collections.abc import Callable

import pytest

from mpifarm.system import process_memory, processes
from mpifarm.system.process_memory import (
    anonymous,
    has_same_memory,
    measure_together,
    own_share,
    parse_share,
)

MB = 2**20

NEW = b"""55d0-7ffc ---p 00000000 00:00 0  [rollup]
Rss:              300000 kB
Pss:              200000 kB
Pss_Dirty:         90000 kB
Pss_Anon:         100000 kB
Pss_File:          80000 kB
Pss_Shmem:         20000 kB
Anonymous:        150000 kB
Swap:                  0 kB
"""
OLD = b"55d0-7ffc [rollup]\nRss: 300 kB\nPss: 200 kB\nAnonymous: %d kB\nSwap: 0 kB\n"


@pytest.mark.parametrize(
    ("rollup", "size"),
    [
        (NEW, 100_000 * 1024),
        (OLD % 120, 120 * 1024),
        (OLD % 250, 200 * 1024),
        (b"", None),
    ],
)
def test_pages_of_files_and_shared_memory_do_not_count(rollup, size):
    assert parse_share(rollup) == size


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until


class Forked:
    """Two processes that have 64 MB of this one, which has filled them."""

    def __init__(self) -> None:
        self.filled = bytearray(64 * MB)
        self.pids = [processes.fork_child(signal.pause) for _ in range(2)]


@pytest.fixture
def forked():
    forked = Forked()
    yield forked
    end(*forked.pids)


def end(*pids: int) -> None:
    for pid in pids:
        processes.kill_process(pid, signal.SIGKILL)
        processes.reap_child(pid)


def test_what_processes_share_by_a_fork_counts_once_if_a_quick_look_is_not_enough(
    forked,
):
    everyone = [os.getpid(), *forked.pids]
    quick = sum(map(anonymous, everyone))
    assert quick > 3 * 64 * MB
    assert measure_together(everyone, 2 * quick) >= 3 * 64 * MB
    assert 64 * MB < measure_together(everyone, 100 * MB) < quick - 100 * MB


def test_where_the_kernel_tells_no_shares_each_page_counts(forked, monkeypatch):
    monkeypatch.setattr(process_memory, "parse_share", lambda _: None)
    assert own_share(forked.pids[0]) > 64 * MB
    monkeypatch.setattr(process_memory, "parse_share", _denied)
    assert own_share(forked.pids[0]) > 64 * MB


def _denied(_: bytes) -> int:
    raise PermissionError


def test_memory_that_is_shared_for_good_does_not_count():
    shared = mmap.mmap(-1, 64 * MB)
    before = anonymous(os.getpid())
    shared.write(b"x" * (64 * MB))
    assert anonymous(os.getpid()) < before + 32 * MB
    assert own_share(os.getpid()) < before + 32 * MB


@pytest.fixture
def held(tmp_path):
    """A process of 128 MB that the kernel holds: its child waits for a fifo."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    def start_slowly() -> None:
        filled = bytearray(128 * MB)
        opening = [(os.POSIX_SPAWN_OPEN, 3, fifo, os.O_RDONLY, 0)]
        os.posix_spawn("/bin/true", ["true"], {}, file_actions=opening)
        del filled
        signal.pause()

    parent = processes.fork_child(start_slowly)
    wait_until(lambda: processes.children_of(parent))
    yield parent
    # The child, too: it may not have come to its open yet, and would wait for ever.
    processes.kill_together(processes.tree_of(parent))
    processes.reap_child(parent)


def test_a_process_that_is_held_counts_by_what_can_be_read_without_waiting(
    held, forked, monkeypatch
):
    wait_until(lambda: processes.is_held(held))
    asked: list[int] = []

    def note(pid: int) -> int:
        asked.append(pid)
        return 0

    monkeypatch.setattr(process_memory, "own_share", note)
    assert measure_together([held], 1) == anonymous(held) > 128 * MB
    # The other two may have all its pages, too: no task is ended for what it shares.
    assert measure_together([held, *forked.pids], 1) == anonymous(held) // 3
    assert sorted(asked) == sorted(forked.pids)
    os.kill(held, signal.SIGSTOP)  # which it does not hear
    assert processes.is_held(held)


def test_what_has_its_parents_memory_before_its_exec_counts_with_it(held):
    (child,) = processes.children_of(held)
    if not has_same_memory(held, held):
        pytest.skip("this kernel does not say which processes have one memory")
    assert has_same_memory(child, held)
    assert not has_same_memory(held, os.getpid())
    both = [held, child]
    assert sum(map(anonymous, both)) > 2 * 128 * MB
    # Not 128 MB alone: it has pages of the process of the tests, by the fork.
    most = anonymous(held) + MB
    assert 128 * MB < measure_together(both, 200 * MB) < most


def test_where_the_kernel_does_not_say_no_memory_is_that_of_another(monkeypatch):
    monkeypatch.setattr(process_memory, "_KCMP", {})
    assert not has_same_memory(os.getpid(), os.getpid())


def test_a_process_that_is_gone_has_no_memory():
    pid = processes.fork_child(lambda: None)
    processes.reap_child(pid)
    assert (anonymous(pid), own_share(pid)) == (0, 0)
    assert measure_together([pid], -1) == 0
