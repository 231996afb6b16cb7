"""How workers are told apart on a node that several ranks share, and what each gets.

Rules of this file: as in test_farms.py; all ranks are on this machine, one node.
"""

import os

import pytest

from tests.farm_driver import FarmDriver, assert_ends
from tests.support import wait_until

RANKS = 4
WORKERS = 2
SLOTS = RANKS * WORKERS

TELLS = (
    "echo $MPIFARM_RANK $MPIFARM_WORKER $MPIFARM_NODE_WORKER $OMP_NUM_THREADS"
    " ${CUDA_VISIBLE_DEVICES-unset}"
    " $(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status) >> told;"
    " while [ ! -e go ]; do sleep 0.05; done"
)
"""Runs until the test says go, so that each worker gets one."""


@pytest.fixture
def farm(tmp_path, farm_processes, farm_token, farm_environment):
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        farm_environment.pop(name, None)
    return FarmDriver(tmp_path / "a place", farm_processes, farm_token)


def told_by_workers(farm, launch, count=SLOTS):
    """Of each worker: rank, worker, node worker, threads, GPU, CPUs."""
    farm.write_list([TELLS] * count)
    child = farm.start(launch)
    path = farm.directory / "told"
    wait_until(lambda: path.exists() and path.read_text().count("\n") == count)
    farm.allow()
    assert_ends(child, 0)
    return [line.split() for line in path.read_text().splitlines()]


def launch_of(farm, mpirun, *options, ranks=RANKS):
    workers = str(SLOTS // ranks)
    return mpirun(ranks, *farm.argv("-n", workers, *options))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_each_worker_of_a_node_has_a_number_of_its_own(farm, mpirun, ranks):
    told = told_by_workers(farm, launch_of(farm, mpirun, ranks=ranks))
    assert sorted(int(words[2]) for words in told) == list(range(SLOTS))


def test_the_workers_of_a_rank_are_numbered_one_after_the_other(farm, mpirun):
    told = told_by_workers(farm, launch_of(farm, mpirun))
    first = {int(rank): int(node) - int(worker) for rank, worker, node, *_ in told}
    assert sorted(first.values()) == list(range(0, SLOTS, WORKERS))
    for rank, worker, node, *_ in told:
        assert int(node) == first[int(rank)] + int(worker)


def test_ranks_that_have_the_same_gpus_share_them_evenly(farm, mpirun):
    launch = launch_of(farm, mpirun, "--gpus", "auto")
    launch.env["CUDA_VISIBLE_DEVICES"] = "3,5,6,7"
    told = told_by_workers(farm, launch)
    gpus = [words[4] for words in told]
    assert sorted(gpus) == sorted(["3", "5", "6", "7"] * (SLOTS // 4))


def test_ranks_that_have_the_same_cpus_share_them_evenly(farm, mpirun):
    # farms of these tests aren't bound by the launcher
    cpus = sorted(os.sched_getaffinity(0))[:2]
    launch = mpirun(RANKS, *farm.argv("-n", "1", "--bind"))
    bound = ["taskset", "-c", ",".join(map(str, cpus)), *launch.argv]
    told = told_by_workers(farm, launch._replace(argv=bound), count=RANKS)
    shares = [words[5] for words in told]
    assert sorted(shares) == sorted([str(cpu) for cpu in cpus] * (RANKS // len(cpus)))
    # a rank that took them for its own would have 2
    assert {words[3] for words in told} == {"1"}


# ---- ranks that the launcher has bound ----------------------------------------------

needs_two_cpus = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="there is nothing to leave out"
)


def bound_to_cores(launch):
    """The same launch, each rank bound to a core of its own."""
    argv = list(launch.argv)
    if "--bind-to" in argv:
        argv[argv.index("--bind-to") + 1] = "core"
    else:
        argv[1:1] = ["-bind-to", "core"]
    return launch._replace(argv=argv)


@needs_two_cpus
def test_a_farm_of_bound_ranks_is_told_the_remedy_once(farm, mpirun):
    farm.write_list(["true"])
    launch = mpirun(2, *farm.argv("-n", "64"))
    child = farm.start(bound_to_cores(launch))
    assert_ends(child, 0)
    warnings = [line for line in child.text().splitlines() if "WARNING" in line]
    assert len(warnings) == 1, child.text()
    assert "64 workers and may use only" in warnings[0]
    assert "-bind-to none" in warnings[0]


@needs_two_cpus
def test_workers_of_bound_ranks_share_what_their_own_rank_has(farm, mpirun):
    launch = launch_of(farm, mpirun, "--bind", ranks=2)
    told = told_by_workers(farm, bound_to_cores(launch))
    cpus = {rank: {w[5] for w in told if w[0] == rank} for rank in ("0", "1")}
    assert len(cpus["0"]) == len(cpus["1"]) == 1
    assert cpus["0"] != cpus["1"]


def test_ranks_that_farm_alone_number_their_workers_through_the_node(farm, mpirun):
    told = told_by_workers(farm, launch_of(farm, mpirun, "--mpi", "off"))
    assert sorted(int(words[2]) for words in told) == list(range(SLOTS))
