"""The fork server's decisions, in order; processes and their deaths are the test's."""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.model.settings import TaskLimits
from mpifarm.pool import fork_server
from mpifarm.pool.definition import PoolDefinition, encode_definition
from mpifarm.pool.fork_server import ForkServer, ServerState
from mpifarm.pool.framing import FrameReader, encode_frame
from mpifarm.pool.shared_state import BY_KERNEL, SharedState, TimeVerdict
from mpifarm.pool.worker import REMIND
from mpifarm.runners import BasicRunner
from mpifarm.system import processes
from tests.unit.pool.fake_tree import FakeTree

KILL = signal.SIGKILL
OURS = b"MPIFARM_FARM=f0\0MPIFARM_TASK_ID=%d\0"


class Site(FakeTree):
    """A fork server, its rank's end of the control socket, and made-up processes."""

    def __init__(self) -> None:
        self.shared = SharedState()
        self.rank, control = socket.socketpair()
        self.rank.setblocking(False)
        self.notice, self.deaths = os.pipe()
        self.server = ForkServer(
            control, self.shared, lambda _: BasicRunner(), self.notice
        )
        self.reader = FrameReader()
        self.calls: list[tuple[Any, ...]] = []
        self.now = 1000.0
        self.dead: list[int] = []
        """Children that have died and are not reaped, in the order of their deaths."""
        self.status = -9
        super().__init__()
        self.environments[os.getpid()] = b"OF=THE FORK SERVER"
        self.next_pid = 100
        self.fork_error: OSError | None = None
        self.on_sleep: Callable[[], object] = lambda: None
        self.written: list[bytes] = []
        """What workers would find in their lifelines, where a test looks at that."""
        self._pending: list[tuple[Any, ...]] = []
        self.control = control

    # ---- what `processes` and `time` are --------------------------------------------

    def kill_process(self, pid: int, signum: int) -> None:
        self.calls.append(("kill", pid, signum))

    def kill_group(self, pid: int, signum: int) -> None:
        self.calls.append(("kill group", pid, signum))

    def find_dead_child(self, pid: int | None = None) -> int | None:
        found = [each for each in self.dead if pid in (None, each)]
        return found[0] if found else None

    def reap_child(self, pid: int) -> int:
        self._read_notices()
        index = [i for i, c in self.server._children.items() if c.pid == pid]
        told = [notice[1] for notice in self._pending if notice[0] == "down"]
        assert not set(index) & set(told), "told before it was reaped"
        self.dead.remove(pid)
        self.calls.append(("reap", pid))
        return self.status

    def await_group_end(self, pid: int, seconds: float) -> None:
        self.calls.append(("await group", pid))

    def fork_child(self, main: object) -> int:
        if self.fork_error is not None:
            raise self.fork_error
        self.next_pid += 1
        self.calls.append(("fork", self.next_pid))
        return self.next_pid

    def is_alive(self, pid: int) -> bool:
        return pid in self.environments

    def adopt_orphans(self) -> None:
        self.calls.append(("adopt orphans",))

    def sleep(self, seconds: float) -> None:
        self.calls.append(("sleep", seconds))
        self.on_sleep()

    # ---- the rank -------------------------------------------------------------------

    def start(self, workers: int = 1, **definition: Any) -> None:
        whole = PoolDefinition(workers, 3, "f0", "/w", "/logs", **definition)
        self.order("start", encode_definition(whole))
        self.server._start_due()
        self.calls.clear()
        self.notices()

    def order(self, *order: Any) -> None:
        self.rank.sendall(encode_frame(order))
        self.server._read_orders()

    def notices(self) -> list[tuple[Any, ...]]:
        """All that the rank was told since the last call."""
        self._read_notices()
        found, self._pending = self._pending, []
        return found

    def _read_notices(self) -> None:
        with suppress(BlockingIOError):
            while True:
                piece, fds, _, _ = socket.recv_fds(self.rank, 65536, 16)
                for fd in fds:
                    os.close(fd)
                self._pending += self.reader.feed(piece)

    # ---- workers --------------------------------------------------------------------

    def begin(self, index: int, task: int, command: int = 0) -> None:
        row = self.shared.row(index)
        row.begin_task(task, 1.7e9)
        row.command_slot[0] = command

    def die(self, *pids: int) -> None:
        self.dead += pids
        self.server._reap_dead()

    def lifeline(self, index: int = 0) -> int:
        return self.server._children[index].lifeline

    def killed(self) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0].startswith("kill")]


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    site = Site()
    for name in (
        *("kill_process", "kill_group", "find_dead_child", "reap_child"),
        *("await_group_end", "fork_child", "children_of", "environment_of"),
        *("is_alive", "adopt_orphans"),
    ):
        monkeypatch.setattr(processes, name, getattr(site, name))
    monkeypatch.setattr(time, "sleep", site.sleep)
    monkeypatch.setattr(time, "monotonic", lambda: site.now)
    monkeypatch.setattr(*(time, "monotonic_ns", lambda: int(site.now * 10**9)))
    yield site
    for each in (site.rank, site.control):
        each.close()
    for fd in (site.notice, site.deaths):
        os.close(fd)
    for child in site.server._children.values():
        os.close(child.lifeline)


# ---- birth --------------------------------------------------------------------------


def test_the_workers_are_started_and_told_once_the_rank_says_what_they_are(site):
    definition = PoolDefinition(2, 3, "f0", "/w", "/logs")
    site.order("start", encode_definition(definition))
    assert site.calls == [("adopt orphans",)], "before the first worker is there"
    site.server._start_due()
    assert site.calls[1:] == [("fork", 101), ("fork", 102)]
    assert site.notices() == [("up", 0, 101), ("up", 1, 102)]
    site.server._start_due()
    assert site.notices() == []


def test_a_new_worker_finds_a_row_without_anything_of_the_one_before(site):
    row = site.shared.row(0)
    site.begin(0, task=5, command=555)
    site.start()
    assert (row.task, row.command, row.begun) == (None, 0, 0)


def test_a_worker_that_had_begun_a_task_is_replaced_at_once(site):
    site.start(2)
    row = site.shared.row(0)
    row.begin_task(7, 1.7e9)
    row.end_task()
    site.die(101)
    assert site.notices() == [("down", 0, -9, None, 1, "", 0.0)]
    site.server._start_due()
    assert site.notices() == [("up", 0, 103)]


def test_workers_that_die_before_a_task_are_replaced_at_growing_intervals(site):
    site.start()
    waits = []
    for _ in range(9):
        site.notices()
        site.die(site.next_pid)
        waits.append(site.server._start_at[0] - site.now)
        site.now += waits[-1] - 0.001
        site.server._start_due()
        assert site.server._children == {}, "not sooner"
        site.now += 0.002
        site.server._start_due()
    expected = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert waits == pytest.approx(expected)
    site.shared.row(0).begin_task(7, 1.7e9)
    site.shared.row(0).end_task()
    site.notices()
    site.die(site.next_pid)
    site.server._start_due()
    site.notices()
    site.die(site.next_pid)
    assert site.server._start_at[0] - site.now == pytest.approx(0.1), "from the start"


def test_a_worker_that_can_not_be_forked_is_told_and_tried_again(site):
    site.fork_error = BlockingIOError()
    before = set(os.listdir("/proc/self/fd"))
    site.start()
    site.now += 0.1
    site.server._start_due()
    assert site.notices() == [("down", 0, None, None, 0, "", 0.0)]
    assert set(os.listdir("/proc/self/fd")) == before, "no descriptor stays open"
    site.fork_error = None
    site.now += 0.2
    site.server._start_due()
    assert site.notices() == [("up", 0, 101)]


def test_a_worker_that_does_not_read_can_not_hold_the_fork_server(site):
    site.start()
    assert not os.get_blocking(site.lifeline())


# ---- death: the order of things -----------------------------------------------------


def test_what_a_dead_workers_task_left_is_killed_before_its_pid_is_free(site):
    site.start()
    site.begin(0, task=7, command=555)
    site.children[os.getpid()] = [101, 700]
    site.environments[700] = OURS % 7
    site.children[700] = [701]
    site.environments[701] = OURS % 7

    site.on_sleep = lambda: site.children.update({os.getpid(): [101]})
    site.die(101)
    assert [call for call in site.calls if call[0] != "sleep"] == [
        # the worker's group first: a command before its setsid is still in it
        ("kill group", 101, KILL),
        ("kill group", 555, KILL),
        ("kill group", 700, KILL),
        ("kill", 700, KILL),
        ("kill group", 701, KILL),
        ("kill", 701, KILL),
        # only now its pid, which names its group, may become another process's
        ("reap", 101),
        ("await group", 101),
        ("await group", 555),
    ]
    # and only now another worker may begin the task again
    assert site.notices() == [("down", 0, -9, 7, 1, "", 0.0)]


def test_workers_that_died_together_are_all_killed_for_before_one_is_reaped(site):
    site.start(2)
    site.begin(0, task=7, command=555)
    site.begin(1, task=8, command=0)
    site.die(102, 101)
    names = [call[:2] for call in site.calls]
    assert names[:3] == [("kill group", 101), ("kill group", 555), ("kill group", 102)]
    assert [name for name in names if name[0] == "reap"] == [
        ("reap", 101),
        ("reap", 102),
    ]
    assert [notice[1] for notice in site.notices()] == [0, 1]


def test_a_worker_that_was_idle_leaves_nothing_to_kill(site):
    site.start()
    site.begin(0, task=7, command=555)
    site.shared.row(0).end_task()
    site.status = 0
    site.die(101)
    assert site.calls == [("reap", 101)]


def test_a_command_that_is_just_being_started_has_no_group_to_kill(site):
    site.start()
    site.begin(0, task=7, command=-1)
    site.die(101)
    assert site.killed() == [("kill group", 101, KILL)]
    assert ("await group", -1) not in site.calls


def test_an_orphan_is_reaped_after_the_workers_that_died_before_it(site):
    site.start()
    site.begin(0, task=7, command=555)
    site.die(555, 101)  # the command of a worker that nobody has cleaned up after yet
    reaped = [call[1] for call in site.calls if call[0] == "reap"]
    assert reaped == [101, 555]


def test_an_orphan_that_dies_is_reaped(site):
    site.start()
    site.die(700)
    assert site.calls == [("reap", 700)]
    assert site.notices() == []


def test_the_lifeline_of_a_dead_worker_is_closed(site):
    site.start()
    lifeline = site.lifeline()
    site.die(101)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lifeline)


# ---- death: orphans -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "is_killed"),
    [
        (OURS % 7, True),
        (b"OF=THE FORK SERVER", True),  # between its fork and its exec
        (OURS % 77, False),
        (b"MPIFARM_FARM=f00\0MPIFARM_TASK_ID=7\0", False),
        (b"MPIFARM_TASK_ID=7\0", False),
        (b"HOME=/", False),
    ],
)
def test_of_the_orphans_those_of_the_dead_workers_task_are_killed(
    site, environment, is_killed
):
    site.start()
    site.begin(0, task=7)
    site.children[os.getpid()] = [101, 700]
    site.environments[700] = environment
    site.die(101)
    assert (("kill", 700, KILL) in site.calls) is is_killed


def test_what_earlier_tasks_have_left_delays_nothing(site):
    site.start()
    site.begin(0, task=7)
    site.children[os.getpid()] = [700]
    site.environments[700] = OURS % 6
    site.die(101)
    assert [call for call in site.calls if call[0] == "sleep"] == []


def test_living_workers_and_writers_are_no_orphans(site):
    site.start(2)
    site.begin(0, task=7)
    site.server._writers.add(700)
    site.children[os.getpid()] = [101, 102, 700]
    for pid in (101, 102, 700):
        site.environments[pid] = OURS % 7
    site.die(101)
    assert site.killed() == [("kill group", 101, KILL)]


def test_an_orphan_that_can_not_be_told_yet_is_looked_at_again(site):
    site.start()
    site.begin(0, task=7)
    site.children[os.getpid()] = [700]
    site.environments[700] = b""  # in the middle of its exec

    def go_on() -> None:
        looks = [call for call in site.calls if call[0] == "sleep"]
        if len(looks) == 3:
            site.environments[700] = OURS % 7
        if len(looks) == 4:
            site.children.clear()

    site.on_sleep = go_on
    site.die(101)
    names = [call[:2] for call in site.calls if call[0] in ("sleep", "kill")]
    assert names[2:5] == [("sleep", 0.001), ("kill", 700), ("sleep", 0.001)]
    assert len(names) == 5


def test_orphans_are_looked_for_a_limited_time(site):
    site.start()
    site.begin(0, task=7)
    site.children[os.getpid()] = [700]
    site.environments[700] = b""
    site.die(101)
    sleeps = [call[1] for call in site.calls if call[0] == "sleep"]
    assert len(sleeps) == 20
    assert sum(sleeps) == pytest.approx(0.11)


# ---- orders -------------------------------------------------------------------------


def test_kill_hits_a_worker_before_its_command(site):
    site.start(2)
    site.begin(0, task=7, command=555)
    site.begin(1, task=8, command=-1)
    site.order("kill")
    assert site.calls == [
        ("kill", 101, KILL),  # its command's end would have it start the next
        ("kill group", 555, KILL),
        ("kill", 102, KILL),
    ]


@pytest.mark.parametrize("order", ["terminate", "kill", "close"])
def test_after_the_end_no_worker_is_started(site, order):
    site.start(2)
    site.die(101)
    site.notices()
    site.order(order)
    assert site.notices() == [("down", 0, None, None, 0, "", 0.0)], "it will never come"
    site.begin(1, task=7)
    site.die(102)
    site.now += 100
    site.server._start_due()
    assert site.server._children == {}
    assert [notice[0] for notice in site.notices()] == ["down"]


def test_terminate_is_told_to_each_worker_which_are_then_reminded(site):
    site.start()
    site.server._patience()
    lifeline = os.dup(site.lifeline())
    read_end, write_end = os.pipe()
    os.dup2(write_end, site.lifeline())
    site.order("terminate")
    assert os.read(read_end, 9) == b"T"
    assert site.server._patience() == 0.05
    site.server._control = site.rank  # on which nothing comes
    site.server._patience = lambda: 0.0
    site.server._wait()
    assert os.read(read_end, 9) == b"."
    for fd in (lifeline, read_end, write_end):
        os.close(fd)


def test_close_tells_workers_nothing(site, monkeypatch):
    site.start()
    monkeypatch.setattr(site.server, "_write_to_worker", None)
    site.order("close")
    assert site.calls == []


def test_the_end_of_the_rank_kills_all_and_ends_the_fork_server(site):
    site.start()
    site.begin(0, task=7, command=555)
    site.rank.shutdown(socket.SHUT_WR)
    site.server._read_orders()
    assert site.killed() == [("kill", 101, KILL), ("kill group", 555, KILL)]
    assert site.server._state is ServerState.EXITING
    assert not site.server._may_exit()
    site.now += 5.0
    assert not site.server._may_exit()
    site.now += 0.1
    assert site.server._may_exit(), "a worker may hang in a dead disk"
    site.server._exit_by += 100
    site.die(101)
    assert site.server._may_exit()
    assert site.server._start_at == {}


def test_what_no_rank_orders_is_a_defect(site):
    with pytest.raises(ValueError, match="unknown order"):
        site.order("jump")


# ---- runs that take too long --------------------------------------------------------


@pytest.fixture
def timed(site, monkeypatch):
    """A worker whose tasks have 10 s, and 2 s after TERM; the task's run begins."""
    site.start(limits=TaskLimits(timeout=10.0), grace=2.0)
    monkeypatch.setattr(
        *(site.server, "_write_to_worker", lambda _, word: site.written.append(word))
    )
    site.begin(0, task=7, command=555)
    site.shared.row(0).start_clock()
    site.server._enforce_time_limit()
    return site


def look_after(site: Site, seconds: float) -> TimeVerdict:
    """The verdict then, after all the looks that come before."""
    end = site.now + seconds
    while site.server._time and site.server._time.look_at < end * 1e9:
        site.now = max(site.now + 0.01, site.server._time.look_at / 1e9)
        site.server._enforce_time_limit()
    site.now = end
    site.server._enforce_time_limit()
    return site.shared.row(0).verdict


def test_a_worker_whose_runs_time_is_over_is_reminded_and_at_last_killed(timed):
    assert look_after(timed, 9.9) is TimeVerdict.IN_TIME
    assert (timed.written, timed.calls) == ([], [])
    assert look_after(timed, 0.2) is TimeVerdict.TERMINATE
    assert set(timed.written) == {b"."}
    assert look_after(timed, 2.0) is TimeVerdict.KILL
    assert timed.calls == [], "its worker does that"
    look_after(timed, 2.0)
    assert ("kill", 101, KILL) in timed.calls
    assert ("kill group", 555, KILL) not in timed.calls


def test_a_worker_that_died_at_a_run_whose_time_was_over_is_told_with_it(timed):
    look_after(timed, 14.5)
    timed.calls.clear()
    timed.die(101)
    assert timed.notices() == [("down", 0, -9, 7, 1, "timed out", pytest.approx(14.5))]
    assert [call for call in timed.calls if call[0] == "fork"] == [("fork", 102)]
    assert timed.server._writers == {102}, "which writes into the log"
    timed.die(102)
    assert timed.server._writers == set()


def test_a_worker_that_died_in_time_is_a_loss(timed):
    look_after(timed, 5)
    timed.die(101)
    assert timed.notices() == [("down", 0, -9, 7, 1, "", 0.0)]
    assert timed.server._writers == set()


def test_a_worker_that_was_killed_at_the_next_run_had_hardly_begun_it(timed):
    look_after(timed, 14.5)
    row = timed.shared.row(0)
    row.stop_clock()
    row.end_task()
    row.begin_task(8, 1.7e9)
    timed.die(101)
    assert timed.notices() == [("down", 0, -9, None, 2, "", 0.0)]
    assert timed.server._writers == set()


@pytest.mark.parametrize("order", ["terminate", "close"])
def test_a_stop_has_its_own_grace_time(timed, order):
    timed.order(order)
    timed.written.clear()
    timed.now += 100
    timed.server._enforce_time_limit()
    assert timed.shared.row(0).verdict is TimeVerdict.IN_TIME
    assert (timed.written, timed.killed()) == ([], [])


# ---- runs that have too much memory --------------------------------------------------


@pytest.fixture
def sized(site, monkeypatch):
    """A worker at task 7, whose limit is 1000 bytes."""
    monkeypatch.setattr(
        *(site.server, "_write_to_worker", lambda _, word: site.written.append(word))
    )
    site.start(limits=TaskLimits(memory=1000))
    site.shared.row(0).begin_lease(5)
    site.begin(0, task=7, command=555)
    monkeypatch.setattr(processes, "tree_of", site.tree_of)
    look(site)
    yield site
    site.server._close_memory()


def look(site: Site) -> list[bytes]:
    """Look once more, a second later; what the worker was told."""
    site.now += 1
    site.written.clear()
    site.server._enforce_memory_limit()
    return site.written


def test_a_process_of_its_own_looks_and_is_none_of_a_task(sized):
    assert sized.calls == [("fork", 102)], "after the workers"
    sized.children[os.getpid()] = [101, 102, 103]
    assert sized.server._orphans() == [103]
    sized.die(102)
    assert ("reap", 102) in sized.calls
    look(sized)
    assert sized.calls[-1] == ("fork", 103)
    sized.order("close")
    assert sized.calls[-1] == ("kill", 103, KILL)
    look(sized)
    assert sized.calls[-1] == ("kill", 103, KILL), "after a stop nobody looks"


def test_it_looks_at_the_rows_of_all_workers(site):
    site.start(2, limits=TaskLimits(memory=1000))
    site.shared.row(1).publish_worker(102)
    watch = site.server._create_memory_watch()
    assert [row.worker for row in watch._rows] == [0, 102]
    assert watch._limit == 1000
    assert not watch._run_processes.may_wait


def test_a_run_that_was_found_is_ended_by_its_worker(sized):
    assert look(sized) == []
    sized.shared.row(0).note_excess(1200, 5)
    assert look(sized) == [REMIND]


def excess_of(site: Site, monkeypatch: Any, size: int) -> str:
    """End a worker that does not end a run with so many bytes; what its log says."""
    noted: list[Any] = []
    monkeypatch.setattr(fork_server, "note_in_log", lambda *args: noted.append(args))
    fork_child = site.fork_child

    def fork(main: Callable[[], object]) -> int:
        main()
        return fork_child(main)

    monkeypatch.setattr(processes, "fork_child", fork)
    if size:
        site.children = {555: [556]}
        site.shared.row(0).note_excess(size, 5)
        for _ in range(4):
            look(site)
        kills = [("kill", pid, KILL) for pid in (101, 555, 556)]
        assert [call for call in site.killed() if call[2] == KILL][:3] == kills
    site.die(101)
    out = "out of memory", pytest.approx(time.time() - 1.7e9, 1e-3)
    assert site.notices() == [("down", 0, -9, 7, 1, *out)]
    assert site.server._writers == {103}, "which writes into the log"
    ((_, worker, task, text),) = noted
    assert (worker, task) == (0, 7)
    return str(text)


def test_a_worker_that_does_not_end_such_a_run_is_killed_and_told_with_it(
    sized, monkeypatch
):
    assert "its processes had 1 MB together" in excess_of(sized, monkeypatch, 1200)


@pytest.mark.parametrize("size", [BY_KERNEL, 0])
@pytest.mark.parametrize(
    ("met", "told"),
    [(True, "the limit is 1000 bytes for all"), (False, "the memory of the job ran")],
)
def test_a_worker_of_whose_task_the_kernel_has_killed_a_process_is_not_lost(
    sized, monkeypatch, size, met, told
):
    sized.server._cgroups = SimpleNamespace(
        count_kills=lambda name: int(name == "0-5"),
        has_met_limit=lambda name: met and name == "0-5",
    )
    assert told in excess_of(sized, monkeypatch, size)


def test_a_worker_that_dies_of_something_else_is_lost(sized):
    sized.server._cgroups = SimpleNamespace(count_kills=lambda name: int(name == "0-4"))
    sized.die(101)
    assert sized.notices() == [("down", 0, -9, 7, 1, "", 0.0)]


def test_the_server_wakes_for_what_is_due_and_for_what_was_found(sized, monkeypatch):
    assert sized.server._patience() is None
    sized.shared.row(0).note_excess(1200, 5)
    look(sized)
    assert sized.server._patience() == pytest.approx(0.05)
    heard: list[object] = []
    monkeypatch.setattr(sized.server._memory, "hear", lambda: heard.append(1))
    sized.server._wait()
    assert heard == [1], "the end of the fake process"
    sized.order("close")
    assert sized.server._patience() is None
    assert look(sized) == []


# ---- waiting ------------------------------------------------------------------------


def test_it_sleeps_until_the_next_thing_is_due(site):
    assert site.server._patience() is None
    site.start(limits=TaskLimits(timeout=10.0))
    site.server._enforce_time_limit()
    assert site.server._patience() == pytest.approx(10.0)
    site.die(101)
    assert site.server._patience() == pytest.approx(0.1)
    site.now += 5
    assert site.server._patience() == 0.0
    site.order("close")
    assert site.server._patience() is None


def test_a_notice_of_a_death_is_read_once(site, monkeypatch):
    os.write(site.deaths, b"x")
    monkeypatch.setattr(site.server, "_patience", lambda: 0.0)
    site.server._wait()
    assert select.select([site.notice], (), (), 0)[0] == []


def test_each_state_has_its_transitions(site):
    assert set(fork_server._TRANSITIONS) == {*ServerState}
    site.rank.close()
    site.server._read_orders()
    with pytest.raises(RuntimeError, match="can't get"):
        site.server._enter(ServerState.SERVING)


# ---- runs that users have cancelled --------------------------------------------------


def cancelled(site: Site, grace: float = 2.0) -> Any:
    """A worker that runs a cancelled task; its row."""
    site.start(grace=grace)
    row = site.shared.row(0)
    row.begin_lease(4)
    site.begin(0, task=7, command=555)
    site.order("cancel", 0, 4)
    return row


def read_lifeline(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    words: list[bytes] = []
    monkeypatch.setattr(
        site.server, "_write_to_worker", lambda child, word: words.append(word)
    )
    return words


def test_a_cancelled_run_is_ended_by_its_worker_and_then_with_it(site, monkeypatch):
    row = cancelled(site)
    words = read_lifeline(site, monkeypatch)
    site.server._enforce_cancels()
    verdicts = [row.cancel_verdict]
    assert (words, site.killed()) == ([REMIND], [])
    site.order("cancel", 0, 4)
    site.now += 2.0
    site.server._enforce_cancels()
    verdicts.append(row.cancel_verdict)
    assert verdicts == [TimeVerdict.TERMINATE, TimeVerdict.KILL]
    assert (len(words), site.killed()) == (2, [])
    site.now += 2.0
    site.server._enforce_cancels()
    assert (len(words), site.killed()) == (2, [("kill", 101, KILL)])


def test_a_cancelled_run_wakes_the_server_until_it_has_ended(site):
    site.start()
    assert site.server._patience() is None
    row = site.shared.row(0)
    row.begin_lease(4)
    site.begin(0, task=7)
    site.order("cancel", 0, 4)
    patience = site.server._patience()
    assert patience == pytest.approx(fork_server._REMIND_SECONDS)
    row.end_task()
    row.begin_lease(5)
    site.server._enforce_cancels()
    assert site.server._patience() is None


@pytest.mark.parametrize("order", ["terminate", "kill", "close"])
def test_once_a_pool_ends_no_run_is_cancelled(site, monkeypatch, order):
    row = cancelled(site)
    words = read_lifeline(site, monkeypatch)
    site.order(order)
    site.calls.clear()
    words.clear()
    site.now += 60.0
    site.server._enforce_cancels()
    assert row.cancel_verdict is TimeVerdict.IN_TIME
    assert (words, site.killed()) == ([], [])


def test_a_server_that_exits_waits_for_its_workers_but_not_for_ever(site):
    site.start()
    assert not site.server._may_exit()
    site.server._begin_exit()
    assert not site.server._may_exit()
    assert site.server._patience() == 0.1
    site.now += fork_server._EXIT_PATIENCE
    assert not site.server._may_exit()
    site.now += 0.001
    assert site.server._may_exit()


def test_a_server_without_workers_exits_at_once(site):
    site.start()
    site.server._begin_exit()
    site.die(101)
    assert site.server._may_exit()


def test_each_round_of_the_server_does_all_that_may_be_due(site, monkeypatch):
    done: list[str] = []
    steps = ("_wait", "_reap_dead", "_start_due", "_enforce_time_limit")
    for name in (*steps, "_enforce_cancels"):
        monkeypatch.setattr(site.server, name, lambda name=name: done.append(name))
    monkeypatch.setattr(site.server, "_may_exit", lambda: len(done) >= 5)
    site.server.serve()
    assert done == [*steps, "_enforce_cancels"]


def test_what_was_to_be_started_is_told_as_down_and_never_started(site):
    definition = PoolDefinition(2, 3, "f0", "/w", "/logs")
    site.order("start", encode_definition(definition))
    site.order("close")
    down = site.notices()
    assert [(notice[0], notice[1]) for notice in down] == [("down", 0), ("down", 1)]
    site.server._start_due()
    site.order("kill")
    assert site.notices() == [], "once"
    assert ("fork", 101) not in site.calls


def test_a_replacement_that_waits_is_not_started_by_a_server_that_exits(site):
    site.start()
    site.die(101)
    site.server._begin_exit()
    site.now += 1000.0
    site.server._start_due()
    assert ("fork", 102) not in site.calls


def test_the_death_of_a_child_is_noticed_by_a_descriptor():
    """In a process of its own: it changes how this one handles signals."""

    def watch() -> None:
        notice = fork_server._watch_children()
        assert not select.select([notice], [], [], 0.0)[0]
        processes.fork_child(lambda: None)
        assert select.select([notice], [], [], 10.0)[0]
        assert os.read(notice, 9) == bytes([signal.SIGCHLD])
        with suppress(BlockingIOError):
            os.read(notice, 9)
            raise AssertionError("it would block")

    assert processes.reap_child(processes.fork_child(watch)) == 0
