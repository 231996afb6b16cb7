"""What is due for runs with too much memory, and the process that looks for them."""

import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpifarm.pool import memory_guard
from mpifarm.pool.memory_guard import BACK_OFF, MemoryGuard
from mpifarm.pool.shared_state import SharedState, WorkerRow
from mpifarm.pool.time_limit import LATE, REMIND, SECOND, TimeAction
from mpifarm.system import processes

START = 1000 * SECOND
GB = 2**30


class Site:
    """A guard of two workers; its child is the test."""

    def __init__(self) -> None:
        shared = SharedState()
        self.rows: dict[int, WorkerRow] = {0: shared.row(0), 1: shared.row(1)}
        self.guard = MemoryGuard(lambda: self.watch)
        self.watch: Any = object()
        self.now = START
        self.calls: list[Any] = []
        self.child: socket.socket | None = None
        self.fork_error: OSError | None = None

    def fork_child(self, main: Callable[[], object]) -> int:
        if self.fork_error is not None:
            raise self.fork_error
        main()
        self.calls.append("fork")
        return 70 + self.calls.count("fork")

    def watch_memory(self, its: socket.socket, watch: object) -> None:
        assert watch is self.watch
        self.end_child()
        self.child = its.dup()

    def end_child(self) -> None:
        if self.child is not None:
            self.child.close()

    def begin(self, index: int, serial: int = 1) -> None:
        self.rows[index].begin_lease(serial)
        self.rows[index].begin_task(7, 1.7e9)

    def look(self, after: int = REMIND) -> list[tuple[int, TimeAction]]:
        self.now += after
        return self.guard.look(self.rows, self.now)


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    site = Site()
    monkeypatch.setattr(processes, "fork_child", site.fork_child)
    monkeypatch.setattr(
        *(processes, "kill_process", lambda *args: site.calls.append(args))
    )
    monkeypatch.setattr(memory_guard, "watch_memory", site.watch_memory)
    yield site
    site.guard.close()
    site.end_child()


def test_a_worker_is_reminded_of_a_run_that_was_found_and_killed_if_it_goes_on(site):
    site.begin(0)
    site.begin(1)
    assert (site.look(), site.guard.look_at) == ([], 0)
    site.rows[1].note_excess(5 * GB, 1)
    assert site.look() == [(1, TimeAction.REMIND)]
    assert site.guard.look_at == site.now + REMIND
    assert site.look(LATE - 1) == [(1, TimeAction.REMIND)]
    assert site.look(1) == [(1, TimeAction.KILL_WORKER)]
    site.rows[1].end_task()
    assert (site.look(), site.guard.look_at) == ([], 0)


def test_the_next_run_that_was_found_has_its_own_time(site):
    site.begin(0)
    site.rows[0].note_excess(5 * GB, 1)
    site.look()
    site.begin(0, serial=2)
    site.rows[0].note_excess(5 * GB, 2)
    assert site.look(LATE) == [(0, TimeAction.REMIND)]


def test_what_the_child_says_wakes_the_server_and_its_end_is_heard_once(site):
    assert site.guard.fileno() == -1
    site.look()
    assert site.guard.fileno() >= 0
    site.child.sendall(b".")
    site.guard.hear()
    assert site.guard.fileno() >= 0
    site.end_child()
    site.guard.hear()
    assert site.guard.fileno() == -1
    site.guard.hear()


def test_a_child_that_dies_is_replaced_a_little_later(site):
    site.look()
    assert site.guard.pid == 71
    site.guard.forget(99, site.now)
    assert site.guard.pid == 71
    site.guard.forget(71, site.now)
    assert (site.guard.pid, site.guard.fileno()) == (0, -1)
    site.look(BACK_OFF - 1)
    assert site.guard.pid == 0
    assert site.guard.look_at == site.now + 1
    site.look(1)
    assert (site.guard.pid, site.guard.look_at) == (72, 0)
    assert site.guard.fileno() >= 0


def test_where_no_child_can_be_forked_it_is_tried_again(site):
    site.fork_error = OSError("too many processes")
    site.look()
    assert (site.guard.pid, site.guard.fileno()) == (0, -1)
    assert site.guard.look_at == site.now + BACK_OFF
    site.fork_error = None
    site.look(BACK_OFF)
    assert site.guard.pid == 71


def test_at_a_stop_the_child_is_ended_and_never_replaced(site):
    site.look()
    site.guard.close()
    assert site.calls == ["fork", (71, signal.SIGKILL)]
    assert site.child.recv(1) == b"", "it ends by itself, too"
    assert site.guard.pid == 71, "it is no orphan until it is reaped"
    site.guard.forget(71, site.now)
    site.look(BACK_OFF)
    assert (site.guard.pid, site.guard.look_at) == (0, 0)
