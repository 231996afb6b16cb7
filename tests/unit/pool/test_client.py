"""A rank's side of its pool; the fork server and the workers are the test's."""

import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from mpifarm.model.task import Lease, Outcome, Result, RunningTask
from mpifarm.pool import client, worker_link
from mpifarm.pool.client import Pool, PoolState
from mpifarm.pool.definition import (
    LeaseRefused,
    LeaseReturned,
    PoolDefinition,
    PoolGone,
    PoolUseless,
    WorkerLost,
)
from mpifarm.pool.framing import FrameReader, encode_frame
from mpifarm.pool.shared_state import SharedState
from mpifarm.pool.worker_link import WorkerState
from mpifarm.system import processes

FORK_SERVER = 4000
"""Pids are made up: nothing here is ever signalled."""


USAGE = (0.25, 0.125, 1 << 20, 77)
"""What a task has used: user and system time, peak memory, bytes of output."""


class Site:
    """A pool, and the other ends of its sockets."""

    def __init__(self, workers: int) -> None:
        self.shared = SharedState()
        ours, self.control = socket.socketpair()
        self.control.setblocking(False)
        self.pool = Pool(FORK_SERVER, ours, self.shared)
        self.definition = PoolDefinition(workers, 0, "f0", "/w", "/w/logs")
        self.pool.start(self.definition)
        self.sockets: dict[int, socket.socket] = {}
        """Of each worker that is there now."""
        self.made: list[socket.socket] = [self.control]
        self.readers: dict[int, FrameReader] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.now = 1000.0
        self._orders = FrameReader()

    # ---- as the fork server ---------------------------------------------------------

    def up(self, *indexes: int, generation: int = 0) -> None:
        """Workers are born; worker 1 has the pid 101, the next one there 201."""
        for index in indexes:
            rank_end, self.sockets[index] = socket.socketpair()
            self.made.append(self.sockets[index])
            self.readers[index] = FrameReader()
            self.sockets[index].setblocking(False)
            pid = 100 + index + 100 * generation
            frame = encode_frame(("up", index, pid))
            socket.send_fds(self.control, [frame], [rank_end.fileno()])
            rank_end.close()
            assert self.collect() == []

    def down(
        self, index, status=-9, task=None, begun=1, outcome="", seconds=0.0
    ) -> None:
        frame = encode_frame(("down", index, status, task, begun, outcome, seconds))
        self.control.sendall(frame)

    def orders(self) -> list[str]:
        return [order[0] for order in self.order_frames()]

    def order_frames(self) -> list[tuple[Any, ...]]:
        try:
            return [*self._orders.feed(self.control.recv(2**20))]
        except BlockingIOError:
            return []

    # ---- as a worker ----------------------------------------------------------------

    def received(self, index: int) -> list[int]:
        """The ids of the leases that have come since the last call."""
        frames = []
        with suppress(BlockingIOError):
            while piece := self.sockets[index].recv(2**20):
                frames += self.readers[index].feed(piece)
        return [lease[0] for frame in frames for lease in frame]

    def is_ended(self, index: int) -> bool:
        """Whether no lease can come any more."""
        try:
            return self.sockets[index].recv(2**20) == b""
        except BlockingIOError:
            return False

    def report(self, index: int, *values: object) -> None:
        self.sockets[index].sendall(encode_frame(values))

    def finish(self, index: int, taskid: int, status: int = 0) -> None:
        outcome = Outcome.FAILED if status else Outcome.COMPLETED
        self.report(
            index, taskid, 1, status, 1e9, 0.5, 990.0, outcome.value, "a note", *USAGE
        )

    # ---- as the rank ----------------------------------------------------------------

    def submit(self, *taskids: int) -> None:
        self.pool.submit([lease(taskid) for taskid in taskids])

    def collect(self) -> list[Any]:
        return self.pool.collect()

    def state_of(self, index: int) -> WorkerState:
        return self.pool._workers[index].state

    def held(self) -> list[int]:
        return [each.taskid for each in self.pool.leases]


def lease(taskid: int, command: str = "true") -> Lease:
    return Lease(taskid, 1, command)


def has_event(pool: Pool) -> bool:
    return bool(select.select(pool.read_fds(), (), (), 0)[0])


@pytest.fixture
def start(monkeypatch) -> Iterator[Any]:
    sites: list[Site] = []

    def start_site(workers: int = 2) -> Site:
        site = Site(workers)
        sites.append(site)

        def record(name: str, answer: object = None) -> Any:
            def call(*args: object) -> object:
                site.calls.append((name, *args))
                return answer

            return call

        for name in ("kill_process", "kill_group"):
            monkeypatch.setattr(processes, name, record(name))
        monkeypatch.setattr(processes, "reap_child_within", record("reap", True))
        monkeypatch.setattr(time, "monotonic", lambda: site.now)
        return site

    yield start_site
    for site in sites:
        monkeypatch.setattr(client, "_CLOSE_PATIENCE", 0.0)
        site.pool.close()
        for each in site.made:
            each.close()


# ---- feeding ------------------------------------------------------------------------


def test_leases_go_to_the_worker_that_holds_the_fewest(start):
    site = start(3)
    site.up(0, 1, 2)
    site.submit(0, 1, 2, 3)
    site.submit(4)
    assert [site.received(index) for index in range(3)] == [[0, 3], [1, 4], [2]]
    site.finish(2, 2)
    site.collect()
    site.submit(5, 6)
    assert [site.received(index) for index in range(3)] == [[], [], [5, 6]]


def test_a_worker_that_is_there_gets_a_lease_before_one_that_is_not(start):
    site = start(2)
    site.up(1)
    site.submit(0)
    assert site.received(1) == [0]


def test_leases_wait_for_their_worker_and_go_in_one_frame(start):
    site = start(1)
    site.submit(0, 1)
    site.submit(2)
    assert (site.held(), site.pool.vacancies(4)) == ([0, 1, 2], 2)
    site.up(0)
    frames = FrameReader().feed(site.sockets[0].recv(2**20))
    assert [[each[0] for each in frame] for frame in frames] == [[0, 1, 2]]
    assert [each[3] for frame in frames for each in frame] == [1, 2, 3], "serials"


def test_what_does_not_fit_into_the_pipe_follows_when_there_is_room(start):
    site = start(1)
    site.up(0)
    site.pool.submit([lease(0, "x" * 3_000_000), lease(1)])
    assert site.pool.least_ahead() == 0, "its pipe is full"
    site.submit(2)
    got: list[int] = []
    while len(got) < 3:
        got += site.received(0)
        assert site.collect() == []
    assert got == [0, 1, 2]
    assert site.pool.least_ahead() == 2
    assert not has_event(site.pool), "room is waited for no longer"


def test_a_pipe_that_is_full_is_an_event_as_soon_as_it_has_room(start):
    site = start(1)
    site.up(0)
    site.pool.submit([lease(0, "x" * 3_000_000)])
    site.collect()
    assert not has_event(site.pool)
    site.received(0)
    assert has_event(site.pool)


def test_the_pool_counts_idle_workers_and_vacancies(start):
    site = start(3)
    site.up(0, 1)
    site.submit(0, 1, 2, 3)
    pool = site.pool
    assert (pool.workers, pool.idle, pool.busy, pool.least_ahead()) == (3, 0, 4, 0)
    assert [pool.vacancies(ahead) for ahead in (0, 1, 2)] == [0, 2, 5]
    site.finish(1, 1)
    site.collect()
    assert (pool.idle, pool.busy) == (1, 3)


def test_what_the_workers_run_is_told_with_attempt_and_start(start):
    site = start(3)
    site.up(0, 1, 2)
    site.submit(5, 6)
    assert site.pool.count_busy() == 2
    assert site.pool.running_tasks() == []
    site.shared.row(1).begin_task(6, 1_700_000_000.5)
    assert site.pool.running_tasks() == [RunningTask(6, 1, 1, 1_700_000_000.5)]
    site.shared.row(0).begin_task(9, 1.0)  # the result of 5 is on its way
    site.shared.row(2).begin_task(4, 1.0)  # and that of 4 has come
    assert [each.taskid for each in site.pool.running_tasks()] == [6]
    site.pool.terminate()
    assert site.pool.running_tasks() == []


def test_a_worker_that_hung_up_gets_no_lease(start):
    site = start(2)
    site.up(0, 1)
    site.sockets[0].close()
    assert site.collect() == []
    assert site.state_of(0) is WorkerState.HUNG_UP
    assert (site.pool.idle, site.pool.vacancies(0)) == (1, 1)
    site.submit(0, 1)
    assert site.received(1) == [0, 1]


def test_leases_that_no_worker_can_take_wait_for_the_next_worker(start):
    site = start(1)
    site.up(0)
    site.down(0)
    assert site.collect() == [WorkerLost(None, (), -9)]
    site.submit(5)
    assert site.pool.recall() == [], "the fork server may start or bury it any moment"
    site.up(0, generation=1)
    assert site.received(0) == [5]


def test_what_is_sent_to_a_dead_worker_is_not_waited_with(start):
    site = start(1)
    site.up(0)
    site.sockets[0].close()
    site.submit(0, 1)
    assert site.pool.least_ahead() == 1
    site.down(0, task=None)
    assert WorkerLost(None, (lease(0), lease(1)), -9) in site.collect()


# ---- recalling ----------------------------------------------------------------------


def test_leases_that_a_worker_has_not_begun_are_recalled_in_their_order(start):
    site = start(1)
    site.up(0)
    site.submit(0, 1, 2, 3)
    row = site.shared.row(0)
    assert row.begin_lease(1)
    assert row.begin_lease(2)
    assert [each.taskid for each in site.pool.recall()] == [2, 3]
    assert site.held() == [0, 1]
    assert site.pool.recall() == []


def test_leases_of_a_worker_that_is_not_there_yet_are_never_sent(start):
    site = start(1)
    site.submit(0, 1)
    assert [each.taskid for each in site.pool.recall()] == [0, 1]
    site.submit(2)
    site.up(0)
    assert site.received(0) == [2]


def test_a_lease_that_its_worker_is_just_beginning_comes_back_as_returned(start):
    site = start(1)
    site.up(0)
    site.submit(0, 1)
    row = site.shared.row(0)
    row.begin_lease(1)
    row.begin_lease(2)
    assert site.pool.recall() == []
    site.finish(0, 0)
    site.report(0, 2)  # the worker saw the recall
    result, returned = site.collect()
    assert result.taskid == 0
    assert returned == LeaseReturned(lease(1))
    assert site.held() == []


def test_a_lease_that_was_recalled_before_its_worker_returned_it_counts_once(start):
    site = start(1)
    site.up(0)
    site.submit(0)
    assert len(site.pool.recall()) == 1
    site.report(0, 1)
    assert site.collect() == []


def test_a_return_of_a_lease_that_was_recalled_takes_no_later_lease(start):
    site = start(1)
    site.up(0)
    site.submit(0)
    assert len(site.pool.recall()) == 1
    site.submit(1)
    site.report(0, 1)
    assert site.collect() == []
    assert site.held() == [1]


# ---- cancelling ---------------------------------------------------------------------


def test_a_run_is_cancelled_though_results_of_earlier_leases_are_not_read_yet(start):
    site = start(1)
    site.up(0)
    site.submit(5, 6, 7)
    site.orders()
    site.finish(0, 5)
    site.finish(0, 6)
    site.pool.cancel(7, 1)
    site.pool.cancel(8, 1)  # not here
    assert site.order_frames() == [("cancel", 0, 3)]


# ---- collecting ---------------------------------------------------------------------


def test_a_result_is_told_with_all_that_the_worker_knows(start):
    site = start(1)
    site.up(0)
    site.submit(7)
    site.finish(0, 7, status=3)
    expected = Result(
        7, 1, Outcome.FAILED, 3, 100, 1e9, 0.5, 990.0, "a note", 0, *USAGE
    )
    assert site.collect() == [expected]


def test_a_refused_lease_is_told_with_its_reason(start):
    site = start(1)
    site.up(0)
    site.submit(7)
    site.report(0, 7, 1, "no log")
    assert site.collect() == [LeaseRefused(lease(7), "no log")]
    assert site.held() == []


@pytest.mark.parametrize("values", [(8, 1), (7, 2)])
def test_an_end_of_another_task_than_the_first_is_a_defect(start, values):
    site = start(1)
    site.up(0)
    site.submit(7)
    site.report(0, *values, "no log")
    with pytest.raises(RuntimeError, match="not of 7"):
        site.collect()


def test_results_that_came_before_a_workers_death_count(start):
    site = start(1)
    site.up(0)
    site.submit(0, 1, 2)
    site.finish(0, 0)
    site.down(0, task=1)
    result, lost = sorted(site.collect(), key=lambda e: isinstance(e, WorkerLost))
    assert result.taskid == 0
    assert lost == WorkerLost(lease(1), (lease(2),), -9)
    assert site.state_of(0) is WorkerState.DOWN
    assert site.held() == []


def test_many_results_of_a_dead_worker_are_read_to_the_last(start, monkeypatch):
    monkeypatch.setattr(worker_link, "_PIECE", 64)
    site = start(1)
    site.up(0)
    site.submit(*range(20))
    for taskid in range(20):
        site.finish(0, taskid)
    site.down(0)
    events = site.collect()
    assert [each.taskid for each in events if isinstance(each, Result)] == [*range(20)]
    assert events[-1] == WorkerLost(None, (), -9)


def test_a_death_ends_no_connection_early_though_a_child_holds_the_socket(start):
    site = start(1)
    site.up(0)
    site.submit(0)
    site.down(0, task=0)  # its end of the socket is still open
    assert site.collect() == [WorkerLost(lease(0), (), -9)]
    site.up(0, generation=1)
    site.submit(1)
    assert site.received(0) == [1]


def test_a_worker_that_was_idle_is_lost_without_a_running_lease(start):
    site = start(1)
    site.up(0)
    site.submit(0)
    site.down(0, status=9, task=None)
    assert site.collect() == [WorkerLost(None, (lease(0),), 9)]


def test_a_worker_killed_at_a_run_whose_time_was_over_costs_no_attempt(start):
    site = start(1)
    site.up(0)
    site.submit(0, 1)
    site.down(0, task=0, outcome="timed out", seconds=2.5)
    timed_out, lost = site.collect()
    assert timed_out[:5] == (0, 1, Outcome.TIMED_OUT, -signal.SIGKILL, 100)
    assert (timed_out.seconds, timed_out.ended) == (2.5, site.now)
    assert lost == WorkerLost(None, (lease(1),), -9)


def test_a_run_whose_time_was_over_but_that_has_ended_is_no_timeout(start):
    site = start(1)
    site.up(0)
    site.submit(0, 1)
    site.finish(0, 0)
    site.down(0, task=0, outcome="timed out", seconds=2.5)
    result, lost = sorted(site.collect(), key=lambda e: isinstance(e, WorkerLost))
    assert result.outcome is Outcome.COMPLETED
    assert lost == WorkerLost(None, (lease(1),), -9)


def test_a_worker_killed_at_a_run_with_too_much_memory_costs_no_attempt(start):
    site = start(1)
    site.up(0)
    site.submit(0)
    site.down(0, task=0, outcome="out of memory", seconds=2.5)
    ended, lost = site.collect()
    assert (ended.outcome, ended.status) == (Outcome.OUT_OF_MEMORY, -signal.SIGKILL)
    assert (ended.seconds, lost) == (2.5, WorkerLost(None, (), -9))


def test_the_next_worker_begins_with_nothing_of_the_one_before(start):
    site = start(1)
    site.up(0)
    site.sockets[0].sendall(encode_frame((0, 1, "no log"))[:-3])  # torn by its death
    site.pool.submit([lease(0, "x" * 3_000_000), lease(1)])
    site.down(0)
    site.collect()
    site.up(0, generation=1)
    site.submit(2)
    assert site.received(0) == [2]
    site.finish(0, 2)
    assert [each.worker for each in site.collect()] == [200]


def test_what_the_fork_server_never_says_is_a_defect(start):
    site = start(1)
    site.control.sendall(encode_frame(("sideways", 0)))
    with pytest.raises(RuntimeError, match="sideways"):
        site.collect()


# ---- workers that die early ---------------------------------------------------------


def die_early(site: Site, *indexes: int, status: int | None = 9) -> list[Any]:
    for index in indexes:
        site.down(index, status=status, begun=0)
    return [each for each in site.collect() if isinstance(each, PoolUseless)]


def test_a_pool_is_useless_when_each_worker_has_died_early_five_times(start):
    site = start(2)
    for _ in range(4):
        assert die_early(site, 0, 1) == []
    assert die_early(site, 0) == []
    (useless,) = die_early(site, 1)
    assert "die before their first task (exit status 9)" in useless.reason
    assert "the runner 'default'" in useless.reason


@pytest.mark.parametrize(
    ("status", "words"),
    [(None, "no worker can be started"), (-6, "killed by signal 6"), (1, "status 1")],
)
def test_a_useless_pool_says_how_its_workers_die(start, status, words):
    site = start(1)
    assert [die_early(site, 0, status=status) for _ in range(4)] == [[]] * 4
    (useless,) = die_early(site, 0, status=status)
    assert words in useless.reason


def test_a_task_that_was_begun_starts_the_count_anew(start):
    site = start(1)
    for _ in range(4):
        die_early(site, 0)
    site.down(0, begun=1)
    site.collect()
    assert [die_early(site, 0) for _ in range(4)] == [[]] * 4
    assert len(die_early(site, 0)) == 1


def test_a_pool_is_not_useless_while_one_worker_is_at_work(start):
    site = start(2)
    for _ in range(5):
        die_early(site, 0)
    for _ in range(4):
        die_early(site, 1)
    site.up(0)
    site.shared.row(0).begin_task(5, 1.7e9)
    assert die_early(site, 1) == []


# ---- the end ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["terminate", "kill"])
def test_an_end_stops_the_leases_and_orders_it_each_time(start, order):
    site = start(2)
    site.up(0)
    site.submit(0, 1, 2)
    assert site.received(0) == [0, 2]
    assert site.orders() == ["start"]
    getattr(site.pool, order)()
    assert site.is_ended(0)
    getattr(site.pool, order)()
    assert site.orders() == [order, order]
    assert (site.pool.idle, site.pool.vacancies(5), site.pool.least_ahead()) == (0,) * 3
    assert site.pool.recall() == []
    with pytest.raises(RuntimeError, match="ending"):
        site.submit(9)
    assert site.calls == [], "the fork server kills"


def test_what_a_full_pipe_holds_back_is_not_sent_after_the_end(start):
    site = start(1)
    site.up(0)
    site.pool.submit([lease(0, "x" * 3_000_000)])
    site.pool.terminate()
    assert site.received(0) == []
    site.collect()
    assert not has_event(site.pool) or site.collect() == []


def test_a_worker_that_is_born_after_the_end_gets_nothing(start):
    site = start(1)
    site.submit(0)
    site.pool.terminate()
    site.up(0)
    assert site.is_ended(0)


def test_a_pool_has_stopped_when_the_last_worker_is_down(start):
    site = start(2)
    assert not site.pool.stopped
    site.up(0, 1)
    site.submit(0)
    site.pool.terminate()
    site.down(0, status=0)
    assert site.collect() == [], "no loss: it was told to end"
    assert not site.pool.stopped
    site.sockets[1].close()
    site.collect()
    assert not site.pool.stopped, "it hung up: its command may still live"
    site.down(1, status=0)
    site.collect()
    assert site.pool.stopped
    assert site.held() == []


def test_a_result_after_the_end_is_told(start):
    site = start(1)
    site.up(0)
    site.submit(0)
    site.pool.terminate()
    site.finish(0, 0)
    assert [each.taskid for each in site.collect()] == [0]


def test_close_reaps_the_fork_server_and_says_so_once(start, monkeypatch):
    monkeypatch.setattr(client, "_CLOSE_PATIENCE", 0.0)
    site = start(1)
    site.up(0)
    site.pool.close()
    assert site.calls == [("reap", FORK_SERVER, 0.0)]
    assert site.orders() == ["start", "close"]
    assert site.control.recv(1) == b""
    assert (site.pool.stopped, site.pool.workers, site.collect()) == (True, 0, [])
    assert site.pool.read_fds() == []
    assert site.sockets[0].recv(1) == b""
    site.pool.close()
    assert len(site.calls) == 1


def test_close_kills_a_fork_server_that_does_not_end(start, monkeypatch):
    monkeypatch.setattr(client, "_CLOSE_PATIENCE", 0.0)
    site = start(1)
    monkeypatch.setattr(processes, "reap_child_within", lambda *args: False)
    site.pool.close()
    assert site.calls == [("kill_process", FORK_SERVER, signal.SIGKILL)]


def test_close_waits_until_the_workers_are_down(start):
    site = start(1)
    site.up(0)
    site.pool.terminate()
    site.down(0, status=0)
    site.pool.close()
    assert site.state_of(0) is WorkerState.DOWN


def test_close_kills_what_outlives_the_fork_server(start, monkeypatch):
    site = start(1)
    site.up(0)
    lose_fork_server(site)
    monkeypatch.setattr(client, "_CLOSE_PATIENCE", 0.0)
    site.pool.close()
    assert ("kill_process", 100, signal.SIGKILL) in site.calls


@pytest.mark.parametrize(("workers", "fits"), [(0, False), (4096, True), (4097, False)])
def test_a_pool_has_one_to_4096_workers(workers, fits):
    ours, theirs = socket.socketpair()
    pool = Pool(FORK_SERVER, ours, SharedState())
    definition = PoolDefinition(workers, 0, "f0", "/w", "/w/logs")
    with theirs, nullcontext() if fits else pytest.raises(ValueError, match="4096"):
        pool.start(definition)
    assert pool.workers == (workers if fits else 0)
    pool._epoll.close()
    ours.close()


# ---- loss of the fork server --------------------------------------------------------


def lose_fork_server(site: Site) -> list[Any]:
    site.control.close()
    return site.collect()


def test_the_loss_of_the_fork_server_is_told_when_its_workers_are_dead(start):
    site = start(3)
    site.up(0, 1)
    site.submit(0, 1, 2, 3, 4)
    assert lose_fork_server(site) == []
    assert not site.pool.stopped
    assert site.pool.workers == 0
    site.finish(0, 0)
    assert [each.taskid for each in site.collect()] == [0]
    for index in (0, 1):
        site.sockets[index].close()
    assert site.collect() == [PoolGone((lease(3), lease(1), lease(4), lease(2)))]
    assert (site.pool.stopped, site.held(), site.collect()) == (True, [], [])
    assert [call[0] for call in site.calls] == ["reap"], "nothing had to be killed"


def test_workers_that_outlive_the_fork_server_are_killed_before_their_commands(start):
    site = start(2)
    site.up(0, 1)
    site.submit(0)
    site.shared.row(0).command_slot[0] = 555
    site.shared.row(1).command_slot[0] = -1  # it is just being started
    lose_fork_server(site)
    site.calls.clear()
    site.now += 0.25
    assert (site.collect(), site.calls) == ([], [])
    site.now += 0.01
    assert site.collect() == []
    assert site.calls == [
        ("kill_process", 100, signal.SIGKILL),
        ("kill_group", 100, signal.SIGKILL),
        ("kill_group", 555, signal.SIGKILL),
        ("kill_process", 101, signal.SIGKILL),
        ("kill_group", 101, signal.SIGKILL),
    ]
    site.collect()
    assert len(site.calls) == 5, "once"
    site.now += 0.48
    assert site.collect() == []
    site.now += 0.02
    assert site.collect() == [PoolGone((lease(0),))], "even if one does not die (NFS)"


def test_a_kill_after_the_loss_kills_directly_and_does_not_wait(start):
    site = start(1)
    site.up(0)
    lose_fork_server(site)
    site.calls.clear()
    site.pool.kill()
    site.pool.kill()
    expected = [(name, 100, signal.SIGKILL) for name in ("kill_process", "kill_group")]
    assert site.calls == expected


@pytest.mark.parametrize(
    ("environment", "is_killed"),
    [
        (b"A=1\0MPIFARM_TASK_ID=7\0", True),
        (b"MPIFARM_TASK_ID=77\0", False),
        (b"", False),
    ],
)
def test_a_command_that_is_left_is_killed_if_it_is_of_the_task(
    start, monkeypatch, environment, is_killed
):
    site = start(1)
    site.up(0)
    site.submit(7)
    row = site.shared.row(0)
    row.begin_task(7, 1.7e9)
    row.command_slot[0] = 555
    monkeypatch.setattr(processes, "environment_of", lambda pid: environment)
    site.sockets[0].close()
    assert lose_fork_server(site) == [PoolGone((lease(7),))]
    assert (("kill_group", 555, signal.SIGKILL) in site.calls) is is_killed


def test_a_loss_during_the_end_is_told_too(start):
    site = start(1)
    site.up(0)
    site.pool.terminate()
    site.sockets[0].close()
    assert lose_fork_server(site) == [PoolGone(())]


def test_leases_may_be_submitted_until_the_loss_is_told(start):
    site = start(1)
    site.up(0)
    lose_fork_server(site)
    site.submit(3)
    site.sockets[0].close()
    assert site.collect() == [PoolGone((lease(3),))]
    with pytest.raises(RuntimeError, match="gone"):
        site.submit(4)


# ---- states -------------------------------------------------------------------------


def test_each_state_has_its_transitions_and_no_other_is_taken(start):
    assert set(client._TRANSITIONS) == {*PoolState}
    assert set(worker_link._TRANSITIONS) == {*WorkerState}
    site = start(1)
    with pytest.raises(RuntimeError, match="can't get"):
        site.pool.start(site.definition)
    site.up(0)
    with pytest.raises(RuntimeError, match="can't get"):
        site.pool._workers[0]._enter(WorkerState.STARTING)


def test_a_task_that_ended_with_its_worker_began_before_its_seconds(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    result = client._ended(lease(7), 101, 2, Outcome.TIMED_OUT, 12.5)
    assert (result.started, result.seconds, result.ended) == (987.5, 12.5, 50.0)
    assert (result.outcome, result.status) == (Outcome.TIMED_OUT, -9)
    assert (result.taskid, result.attempt) == (7, 1)
    assert (result.worker, result.worker_index) == (101, 2)
