"""The CPUs of a rank and of its workers, on machines imitated by files."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.system.cpus import (
    ALONE,
    Sharers,
    bind_to,
    binding_warning,
    count_on_node,
    cpus_of_machine,
    cpus_of_rank,
    find_remedy,
    find_sharers,
    lacks_cpus,
    parse_cpu_list,
    place_on_node,
    read_cores,
    share_out,
    threads_of_worker,
)
from tests.pages import take_block

FOUR_CORES = [(0, 4), (1, 5), (2, 6), (3, 7)]
"""Of two hyperthreads each."""


# ---- shares -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "shares"),
    [
        (1, [(0, 1, 2, 3, 4, 5, 6, 7)]),
        (2, [(0, 1, 4, 5), (2, 3, 6, 7)]),
        (3, [(0, 4), (1, 5), (2, 3, 6, 7)]),
        (4, [(0, 4), (1, 5), (2, 6), (3, 7)]),
        (8, [(0,), (4,), (1,), (5,), (2,), (6,), (3,), (7,)]),
    ],
)
def test_workers_get_whole_cores_as_long_as_there_are_enough(workers, shares):
    assert share_out(FOUR_CORES, workers) == tuple(shares)


def test_the_cpus_go_round_where_they_are_too_few():
    assert share_out([(2,), (5,)], 5) == ((2,), (5,), (2,), (5,), (2,))


def test_ranks_that_have_the_same_cpus_share_them_without_an_overlap():
    first = share_out(FOUR_CORES, 2, Sharers(0, 2))
    second = share_out(FOUR_CORES, 2, Sharers(1, 2))
    assert (*first, *second) == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_where_ranks_have_too_few_together_no_cpu_gets_two_workers_more_than_another():
    shares = [s for i in range(3) for s in share_out([(0,), (1,)], 3, Sharers(i, 3))]
    counts = [shares.count((cpu,)) for cpu in (0, 1)]
    assert sorted(counts) == [4, 5]


def _numbered(sizes: list[int]) -> list[tuple[int, ...]]:
    numbers = iter(range(sum(sizes)))
    return [tuple(next(numbers) for _ in range(size)) for size in sizes]


cores_of_a_machine = st.lists(st.integers(1, 2), min_size=1, max_size=24).map(_numbered)


@given(cores_of_a_machine, st.integers(1, 30), st.integers(1, 4))
def test_shares_are_never_empty_and_use_all_cpus_evenly(cores, workers, ranks):
    cpus = sorted(cpu for core in cores for cpu in core)
    shares = [
        share
        for place in range(ranks)
        for share in share_out(cores, workers, Sharers(place, ranks))
    ]
    used = sorted(cpu for share in shares for cpu in share)
    assert len(shares) == workers * ranks
    assert all(shares)
    if len(cpus) >= len(shares):
        assert used == cpus
    else:
        counts = [used.count(cpu) for cpu in cpus]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("cpus", "workers", "sharers", "threads"),
    [
        (64, 8, ALONE, 8),
        (64, 8, Sharers(1, 4), 2),
        (7, 2, ALONE, 3),
        (1, 8, ALONE, 1),
        (2, 8, Sharers(0, 4), 1),
    ],
)
def test_the_threads_of_a_worker_are_its_part_of_the_cpus(
    cpus, workers, sharers, threads
):
    assert threads_of_worker(cpus, workers, sharers) == threads


# ---- cores --------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_machine(root: Path, cores: list[str], nodes: list[str]) -> str:
    """Make a /sys with cores and memory nodes, each a list of CPUs as in the kernel.

    Return its path.
    """
    for core in cores:
        for cpu in parse_cpu_list(core):
            path = root / f"cpu/cpu{cpu}/topology/thread_siblings_list"
            write(path, core + "\n")
    write(root / "node/has_cpu", ",".join(map(str, range(len(nodes)))) + "\n")
    for number, cpus in enumerate(nodes):
        write(root / f"node/node{number}/cpulist", cpus + "\n")
    return str(root)


def test_the_hyperthreads_of_a_core_are_one_core(tmp_path):
    system = make_machine(tmp_path, ["0,4", "1,5", "2,6", "3,7"], ["0-7"])
    assert read_cores(range(8), system) == FOUR_CORES


def test_cores_of_one_memory_node_stand_together(tmp_path):
    # numbered across the sockets, as some firmware does it
    system = make_machine(tmp_path, ["0", "1", "2", "3"], ["0,2", "1,3"])
    assert read_cores(range(4), system) == [(0,), (2,), (1,), (3,)]


def test_only_the_cpus_of_the_rank_count(tmp_path):
    system = make_machine(tmp_path, ["0-1", "2-3", "4-5"], ["0-5"])
    assert read_cores({1, 4, 5}, system) == [(1,), (4, 5)]


def test_a_machine_that_does_not_tell_has_cores_of_one_cpu(tmp_path):
    assert read_cores({3, 1}, str(tmp_path / "nothing")) == [(1,), (3,)]


def test_this_machine_has_all_cpus_of_this_process_in_its_cores():
    cores = read_cores(cpus_of_rank())
    assert sorted(c for core in cores for c in core) == sorted(cpus_of_rank())
    assert len(cpus_of_rank()) <= cpus_of_machine()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-2,8\n", [0, 1, 2, 8]),
        ("5", [5]),
        ("", []),
        ("\n", []),
        ("x", []),
        ("1-", [1]),
        ("-3", []),
    ],
)
def test_a_list_of_cpus_is_read_as_the_kernel_writes_it(text, numbers):
    assert parse_cpu_list(text) == numbers


# ---- ranks that have the same CPUs --------------------------------------------------

LAUNCHER = 10


class Node:
    """A /proc with a launcher of two threads, to which ranks are added."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put(1, 0, "0-7")
        self.put(LAUNCHER, 1, "0-7")
        self._children: dict[int, list[int]] = {}

    def put(self, pid: int, parent: int, cpus: str, **environ: str) -> None:
        fields = f"Name:\tx: y\nPPid:\t{parent}\nCpus_allowed_list:\t{cpus}\n"
        write(self.root / f"{pid}/status", fields)
        entries = "".join(f"{name}={value}\0" for name, value in environ.items())
        write(self.root / f"{pid}/environ", entries)

    def put_rank(
        self,
        pid: int,
        rank: int,
        cpus: str = "0-7",
        parent: int = LAUNCHER,
        size: int = 4,
    ) -> None:
        """Add a rank as a child of one of the launcher's threads."""
        self.put(pid, parent, cpus, PMI_RANK=str(rank), PMI_SIZE=str(size))
        self.add_child(parent, pid)

    def add_child(self, parent: int, pid: int) -> None:
        thread = parent + pid % 2
        path = self.root / f"{parent}/task/{thread}/children"
        before = path.read_text() if path.exists() else ""
        write(path, f"{before}{pid} ")

    def place_of(self, pid: int, rank: int, size: int = 4) -> int:
        environ = {"PMI_RANK": str(rank), "PMI_SIZE": str(size)}
        return place_on_node(environ, pid, str(self.root))

    def sharers_of(self, pid: int, rank: int, size: int = 4) -> Sharers:
        environ = {"PMI_RANK": str(rank), "PMI_SIZE": str(size), "HOME": "/"}
        return find_sharers(environ, pid, str(self.root))


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_ranks_that_nobody_bound_share_their_cpus_in_the_order_of_ranks(node):
    for rank, pid in enumerate([24, 21, 23, 22]):
        node.put_rank(pid, rank)
    found = [node.sharers_of(pid, rank) for rank, pid in enumerate([24, 21, 23, 22])]
    assert found == [Sharers(place, 4) for place in range(4)]


def test_bound_ranks_share_with_nobody(node):
    for rank in range(4):
        node.put_rank(20 + rank, rank, cpus=str(rank))
    assert node.sharers_of(22, 2) == ALONE


def test_ranks_that_are_bound_in_groups_share_within_theirs(node):
    for rank in range(4):
        node.put_rank(20 + rank, rank, cpus="0-3" if rank % 2 else "4-7")
    assert node.sharers_of(23, 3) == Sharers(1, 2)


def test_ranks_have_places_on_their_node_whatever_their_cpus(node):
    # the second node of two: its ranks are 2 and 3
    node.put_rank(20, 3, cpus="1")
    node.put_rank(21, 2, cpus="0")
    assert (node.place_of(21, 2), node.place_of(20, 3)) == (0, 1)
    assert place_on_node({}, 20, str(node.root)) == 0


def test_all_ranks_of_the_node_are_counted_whatever_their_cpus(node):
    node.put_rank(20, 3, cpus="1")
    node.put_rank(21, 2, cpus="0")
    environ = {"PMI_RANK": "2", "PMI_SIZE": "4"}
    assert count_on_node(environ, 21, str(node.root)) == 2
    assert count_on_node({}, 21, str(node.root)) == 1


def test_cpus_that_are_gone_bind_nobody(monkeypatch):
    asked: list[tuple[int, tuple[int, ...]]] = []

    def refuse(pid: int, share: tuple[int, ...]) -> None:
        asked.append((pid, share))
        raise OSError(errno.EINVAL, "no such CPU")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    bind_to((2, 5))
    assert asked == [(0, (2, 5))]


def test_the_cpus_of_the_machine_are_those_online(monkeypatch):
    known = {"SC_NPROCESSORS_ONLN": 64}
    monkeypatch.setattr(os, "sysconf", known.__getitem__)
    assert cpus_of_machine() == 64


def test_what_else_the_launcher_has_started_is_no_rank(node):
    node.put_rank(20, 0)
    node.put_rank(21, 1)
    # an ssh to another node, and an srun below a step of one task
    node.put(30, LAUNCHER, "0-7", HOME="/")
    node.put(31, LAUNCHER, "0-7", SLURM_STEP_NUM_TASKS="1", SLURM_PROCID="0")
    for pid in (30, 31):
        node.add_child(LAUNCHER, pid)
    assert node.sharers_of(20, 0) == Sharers(0, 2)


def test_a_script_between_launcher_and_rank_changes_nothing(node):
    for rank in range(2):
        node.put_rank(20 + rank, rank)
        node.put_rank(40 + rank, rank, parent=20 + rank)
    assert node.sharers_of(41, 1) == Sharers(1, 2)


def test_a_launcher_that_is_hidden_leaves_the_rank_alone(node):
    node.put(20, 99, "0-7", PMI_RANK="1", PMI_SIZE="4")
    assert node.sharers_of(20, 1) == ALONE


def test_a_proc_that_tells_nothing_leaves_the_rank_alone(tmp_path):
    environ = {"PMI_RANK": "1", "PMI_SIZE": "4"}
    assert find_sharers(environ, 20, str(tmp_path)) == ALONE


def test_a_process_that_no_launcher_started_is_alone(node):
    node.put_rank(20, 0)
    node.put_rank(21, 1)
    assert find_sharers({"SLURM_PROCID": "0"}, 20, str(node.root)) == ALONE


def test_this_process_is_found_in_its_own_proc():
    environ = {"PMI_RANK": "0", "PMI_SIZE": "7919"}
    assert find_sharers(environ) == ALONE
    assert find_sharers(environ, os.getpid()) == ALONE


# ---- what to say --------------------------------------------------------------------

OPENMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
HYDRA = {"MPI_LOCALNRANKS": "4", "PMI_RANK": "0", "PMI_SIZE": "4"}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("environ", "remedies"),
    [
        (OPENMPI, ["--bind-to none", "--map-by slot:PE=8"]),
        ({**SRUN, **OPENMPI}, ["--bind-to none", "--map-by slot:PE=8"]),
        (HYDRA, ["-bind-to none"]),
        ({**SRUN, **HYDRA}, ["-bind-to none"]),
        (SRUN, ["--cpus-per-task=8", "srun --cpu-bind=none"]),
        ({**SRUN, "PMI_RANK": "0", "PMI_SIZE": "4"}, ["srun --cpu-bind=none"]),
        (BATCH, ["sbatch --cpus-per-task=8"]),
        ({}, ["taskset"]),
    ],
)
def test_a_rank_with_too_few_cpus_is_told_with_the_remedy_of_its_launcher(
    environ, remedies
):
    warning = binding_warning(environ, cpus=2, workers=8, total=64)
    assert "8 workers" in warning
    assert "2 of the 64 CPUs" in warning
    assert "--proc 2 " in warning
    for remedy in remedies:
        assert remedy in warning


def test_the_page_shows_the_warning_of_a_rank_that_is_bound_to_one_cpu():
    (line,) = take_block("cpus-and-gpus.md", "mpifarm: WARNING").lines
    assert f"mpifarm: {binding_warning(OPENMPI, cpus=1, workers=8, total=64)}" == line


def test_a_remedy_asks_for_no_more_than_the_node_has():
    assert "PE=4 " in binding_warning(OPENMPI, cpus=1, workers=8, total=4)


def test_cpus_that_ranks_have_in_common_are_told_so():
    warning = binding_warning(SRUN, cpus=8, workers=4, total=64, sharers=Sharers(0, 4))
    assert "4 workers" in warning
    assert "8 of the 64 CPUs of its node, in common with 3 more" in warning
    assert "--proc 2 " in warning


@pytest.mark.parametrize(
    ("cpus", "workers", "total", "sharers"),
    [
        (64, 8, 64, ALONE),
        (8, 8, 64, ALONE),
        (2, 8, 2, ALONE),
        (2, 8, 2, Sharers(0, 4)),
        (64, 100, 64, ALONE),
        (32, 8, 64, Sharers(0, 4)),
    ],
)
def test_a_rank_that_has_enough_or_all_is_told_nothing(cpus, workers, total, sharers):
    assert binding_warning(OPENMPI, cpus, workers, total, sharers) == ""


@pytest.mark.parametrize(
    ("sharers", "word"), [(ALONE, "auto, here 2"), (Sharers(0, 4), "1")]
)
def test_a_rank_that_has_all_cpus_can_only_have_fewer_workers(sharers, word):
    assert lacks_cpus(2, 8, sharers)
    assert find_remedy(SRUN, 2, 8, 2, sharers) == (
        f"for tasks that compute give --proc {word}: more workers than CPUs are for"
        " tasks that wait"
    )
