"""Which runs are found to have too much memory: with made-up sizes, and no time."""

import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from mpifarm.pool import memory_watch
from mpifarm.pool.memory_watch import AGAIN, PERIOD, REST, SOON, MemoryWatch
from mpifarm.pool.run_processes import RunProcesses
from mpifarm.pool.shared_state import BY_KERNEL, SharedState, WorkerRow
from mpifarm.system import processes
from tests.unit.pool.fake_tree import FakeTree

GB = 2**30


class FakeProcesses:
    """Worker 100 has below it command 200, and 101 has 201; both have orphans."""

    def __init__(self) -> None:
        self.orphans: dict[int, set[int]] = {}
        self.rounds: list[tuple[int, set[int]]] = []

    def orphans_of(self, parent: int, ours: set[int]) -> dict[int, set[int]]:
        self.rounds.append((parent, ours))
        return self.orphans

    def tree_of(self, command: int, worker: int, task: int) -> set[int]:
        return {command or worker}


class FakeCgroups:
    def __init__(self) -> None:
        self.kills: set[str] = set()
        self.members: dict[str, list[int]] = {}

    def count_kills(self, name: str) -> int:
        return int(name in self.kills)

    def processes(self, name: str) -> list[int]:
        return self.members.get(name, [])


class Site:
    """A watch over two workers with a limit of 4 GB."""

    def __init__(self, cgroups: FakeCgroups | None = None) -> None:
        shared = SharedState()
        self.rows: list[WorkerRow] = [shared.row(0), shared.row(1)]
        self.sizes: dict[int, int] = {}
        """Bytes by the pid."""
        self.measured: list[set[int]] = []
        self.on_measure: Callable[[], object] = lambda: None
        self.processes = FakeProcesses()
        self.pauses: list[float] = []
        self.on_pause: Callable[[], object] = lambda: None
        fakes: Any = self.processes, cgroups, self._measure
        self.watch = MemoryWatch(self.rows, 4 * GB, *fakes)
        for index, row in enumerate(self.rows):
            row.publish_worker(100 + index)

    def _measure(self, pids: set[int], limit: int) -> int:
        assert limit == 4 * GB
        self.measured.append(set(pids))
        self.on_measure()
        return sum(self.sizes.get(pid, 0) for pid in pids)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.on_pause()

    def begin(self, index: int, serial: int = 1, task: int = 7) -> None:
        self.rows[index].begin_lease(serial)
        self.rows[index].begin_task(task, 1.7e9)
        self.rows[index].command_slot[0] = 200 + index


@pytest.fixture
def create(monkeypatch) -> Callable[..., Site]:
    def create_site(cgroups: FakeCgroups | None = None) -> Site:
        site = Site(cgroups)
        monkeypatch.setattr("time.sleep", site.sleep)
        return site

    return create_site


@pytest.fixture
def site(create) -> Site:
    return cast(Site, create())


def test_a_run_that_has_more_than_its_limit_is_noted(site):
    site.begin(0)
    site.begin(1, task=8)
    site.sizes = {200: 4 * GB, 201: 4 * GB + 1}
    assert site.watch.look()
    assert [row.excess for row in site.rows] == [0, 4 * GB + 1]
    assert site.pauses == [AGAIN]


def test_what_is_too_much_in_one_look_alone_is_not(site):
    site.begin(0)
    site.sizes = {200: 3 * GB, 300: 3 * GB}
    site.processes.orphans = {7: {300}}
    site.on_pause = lambda: site.sizes.pop(300)  # it has come to its exec
    assert not site.watch.look()
    assert (site.rows[0].excess, len(site.measured)) == (0, 2)


def test_a_run_that_is_being_ended_is_not_measured_again(site):
    site.begin(0)
    site.sizes = {200: 5 * GB}
    assert site.watch.look()
    site.measured.clear()
    assert not site.watch.look()
    assert site.measured == []


def test_the_next_run_of_the_worker_is_none_with_too_much(site):
    site.begin(0)
    site.sizes = {200: 5 * GB}
    site.watch.look()
    site.rows[0].end_task()
    assert (site.rows[0].excess, site.watch.look()) == (0, False)
    site.sizes = {200: GB}
    site.begin(0, serial=2)
    assert (site.rows[0].excess, site.watch.look()) == (0, False)
    site.sizes = {200: 6 * GB}
    assert site.watch.look()
    assert site.rows[0].excess == 6 * GB


def test_a_run_that_begins_while_the_last_is_measured_is_not_meant(site):
    site.begin(0)
    site.sizes = {200: 5 * GB}
    site.on_measure = lambda: site.begin(0, serial=2)
    site.watch.look()
    assert site.rows[0].excess == 0


def test_the_orphans_of_all_runs_are_looked_for_once(site):
    site.begin(0)
    site.begin(1, task=8)
    site.processes.orphans = {8: {300}, 9: {301}}
    site.watch.look()
    assert site.measured == [{200}, {201, 300}]
    ours = {100, 101, os.getpid()}
    assert site.processes.rounds == [(os.getppid(), ours)]


def test_without_a_command_the_worker_counts_and_idle_workers_do_not(site):
    site.watch.look()
    assert site.measured == []
    site.begin(1)
    site.rows[1].command_slot[0] = 0
    site.watch.look()
    assert site.measured == [{101}]


def test_what_the_kernel_bounds_is_not_measured(create):
    site = create(cgroups := FakeCgroups())
    site.begin(0, serial=5)
    cgroups.members["0-5"] = [200]
    site.processes.orphans = {7: {300}}  # of Podman, in a cgroup elsewhere
    assert not site.watch.look()
    assert site.measured == [{300}]


def test_a_run_of_which_the_kernel_has_killed_a_process_is_noted_without_a_size(create):
    site = create(cgroups := FakeCgroups())
    site.begin(0, serial=5)
    cgroups.kills = {"0-4"}  # another lease's
    assert not site.watch.look()
    cgroups.kills = {"0-5"}
    assert site.watch.look()
    assert site.rows[0].excess == BY_KERNEL


def test_a_run_near_its_limit_is_looked_at_sooner_and_long_looks_are_rare(site):
    site.begin(0)
    site.sizes = {200: 2 * GB}
    site.watch.look()
    assert site.watch.find_rest(0.0) == PERIOD
    site.sizes = {200: 3 * GB}
    site.watch.look()
    assert site.watch.find_rest(0.0) == SOON
    assert site.watch.find_rest(2.0) == 2.0 * REST


class FakeWatch:
    """What it finds, look for look; then the fork server ends."""

    def __init__(self, fork_server: socket.socket, *found: bool) -> None:
        self._fork_server, self._found = fork_server, [*found]
        self.took: list[float] = []

    def look(self) -> bool:
        found = self._found.pop(0)
        if not self._found:
            self._fork_server.shutdown(socket.SHUT_WR)
        return found

    def find_rest(self, took: float) -> float:
        self.took.append(took)
        return 0.0


def test_what_is_found_is_told_until_the_fork_server_ends(monkeypatch):
    monkeypatch.setattr(processes, "ignore_signals", lambda: None)
    kept: list[set[int]] = []
    monkeypatch.setattr(processes, "close_descriptors_except", kept.append)
    fork_server, its = socket.socketpair()
    with fork_server, its:
        watch: Any = FakeWatch(fork_server, False, True, False, True)
        memory_watch.watch_memory(its, watch)
        assert fork_server.recv(99) == b".."
        assert kept == [{its.fileno()}], "the end of the fork server is the rank's, too"
    assert len(watch.took) == 4


# ---- the processes of a run ----------------------------------------------------------


class Kernel(FakeTree):
    """Made-up processes: their children, and the task whose name they bear."""

    def __init__(self, monkeypatch: Any) -> None:
        super().__init__()
        for name in ("children_of", "tree_of", "environment_of", "is_held"):
            monkeypatch.setattr(processes, name, getattr(self, name))

    def name(self, pid: int, task: int, farm: str = "f0") -> None:
        text = f"A=1\0MPIFARM_FARM={farm}\0MPIFARM_TASK_ID={task}\0"
        self.environments[pid] = text.encode()


@pytest.fixture
def kernel(monkeypatch) -> Kernel:
    return Kernel(monkeypatch)


def test_a_run_has_all_below_its_command_or_else_below_its_worker(kernel):
    kernel.children = {100: [200], 200: [201], 201: [202]}
    run = RunProcesses("f0")
    assert run.tree_of(200, 100, 7) == {200, 201, 202}
    assert run.tree_of(0, 100, 7) == {100, 200, 201, 202}


def test_what_earlier_tasks_of_a_users_runner_have_left_is_not_the_runs(kernel):
    kernel.children = {100: [200, 300, 400], 200: [201], 300: [301]}
    kernel.name(200, 6)  # and 201, which is below it, has no name
    kernel.name(300, 7)
    kernel.name(400, 6, farm="within")  # a farm that the task has started
    assert RunProcesses("f0").tree_of(0, 100, 7) == {100, 300, 301, 400}


def test_orphans_are_of_the_task_whose_name_they_bear(kernel):
    kernel.children = {1: [100, 70, 80, 90, 0], 70: [71, 72], 100: [200]}
    kernel.name(71, 7)
    kernel.name(80, 8)
    kernel.name(90, 7, farm="another")
    kernel.name(200, 7)
    assert RunProcesses("f0").orphans_of(1, {100}) == {7: {71}, 8: {80}}


def test_a_process_that_is_held_is_not_asked_for_its_task_by_who_may_not_wait(kernel):
    kernel.children = {1: [70, 80], 100: [200, 300], 300: [301]}
    for pid, task in ((70, 7), (80, 8), (200, 7), (300, 7)):
        kernel.name(pid, task)
    kernel.held = {80, 300}
    looks = RunProcesses("f0", may_wait=False)
    assert looks.orphans_of(1, set()) == {7: {70}}
    assert looks.tree_of(0, 100, 7) == {100, 200}
    assert looks.tree_of(300, 100, 7) == {300, 301}
