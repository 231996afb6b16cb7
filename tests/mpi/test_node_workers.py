"""How workers are told apart on a node that several ranks share, and what each gets.

Rules of this file: as in test_farms.py; all ranks are on this machine, one node.
"""

import os

import pytest

from tests.farm_driver import assert_ends

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
def farm(farm, mpirun, farm_environment):
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        farm_environment.pop(name, None)
    farm.under, farm.ranks = mpirun, RANKS
    return farm


def told_by_workers(farm, *options, ranks=RANKS, count=SLOTS, **others):
    """Of each worker: rank, worker, node worker, threads, GPU, CPUs."""
    farm.write_list([TELLS] * count)
    child = farm.launch("-n", str(count // ranks), *options, ranks=ranks, **others)
    farm.await_notes("told", count)
    farm.allow()
    assert_ends(child, 0)
    return [line.split() for line in farm.notes("told")]


def test_the_workers_of_a_node_are_numbered_rank_by_rank(farm):
    told = told_by_workers(farm)
    assert sorted(int(words[2]) for words in told) == list(range(SLOTS))
    first = {int(rank): int(node) - int(worker) for rank, worker, node, *_ in told}
    assert sorted(first.values()) == list(range(0, SLOTS, WORKERS))
    for rank, worker, node, *_ in told:
        assert int(node) == first[int(rank)] + int(worker)


@pytest.mark.one_mpi
def test_ranks_that_have_the_same_gpus_share_them_evenly(farm):
    env = {"CUDA_VISIBLE_DEVICES": "3,5,6,7"}
    told = told_by_workers(farm, "--gpus", "auto", env=env)
    gpus = [words[4] for words in told]
    assert sorted(gpus) == sorted(["3", "5", "6", "7"] * (SLOTS // 4))


def test_ranks_that_have_the_same_cpus_share_them_evenly(farm, mpirun):
    # farms of these tests aren't bound by the launcher
    cpus = sorted(os.sched_getaffinity(0))[:2]

    def bound(ranks, *argv):
        launch = mpirun(ranks, *argv)
        taskset = ["taskset", "-c", ",".join(map(str, cpus))]
        return launch._replace(argv=[*taskset, *launch.argv])

    told = told_by_workers(farm, "--bind", count=RANKS, under=bound)
    shares = [words[5] for words in told]
    assert sorted(shares) == sorted([str(cpu) for cpu in cpus] * (RANKS // len(cpus)))
    # a rank that took them for its own would have 2
    assert {words[3] for words in told} == {"1"}


# ---- ranks that the launcher has bound ----------------------------------------------

needs_two_cpus = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="there is nothing to leave out"
)


@pytest.fixture
def bound_to_cores(mpirun):
    """An mpirun that binds each rank to a core of its own."""
    return lambda ranks, *words: bind_to_core(mpirun(ranks, *words))


def bind_to_core(launch):
    argv = list(launch.argv)
    if "--bind-to" in argv:
        argv[argv.index("--bind-to") + 1] = "core"
    else:
        argv[1:1] = ["-bind-to", "core"]
    return launch._replace(argv=argv)


@needs_two_cpus
def test_a_farm_of_bound_ranks_is_told_the_remedy_once(farm, bound_to_cores):
    farm.write_list(["true"])
    child = farm.launch("-n", "64", under=bound_to_cores, ranks=2)
    assert_ends(child, 0)
    warnings = [line for line in child.text().splitlines() if "WARNING" in line]
    assert len(warnings) == 1, child.text()
    assert "64 workers and may use only" in warnings[0]
    assert "-bind-to none" in warnings[0]


@needs_two_cpus
def test_workers_of_bound_ranks_share_what_their_own_rank_has(farm, bound_to_cores):
    told = told_by_workers(farm, "--bind", ranks=2, under=bound_to_cores)
    cpus = {rank: {w[5] for w in told if w[0] == rank} for rank in ("0", "1")}
    assert len(cpus["0"]) == len(cpus["1"]) == 1
    assert cpus["0"] != cpus["1"]


@pytest.mark.one_mpi
def test_ranks_that_farm_alone_number_their_workers_through_the_node(farm):
    told = told_by_workers(farm, "--mpi", "off")
    assert sorted(int(words[2]) for words in told) == list(range(SLOTS))
