"""What a worker takes of its rank's CPUs and GPUs; no process is bound."""

from typing import Any

import pytest

from mpifarm.pool import Allotment, PoolDefinition
from mpifarm.pool.worker import _take_cpus, environment_of_worker


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shares to which a process would have been bound."""
    shares: list[tuple[int, ...]] = []
    monkeypatch.setattr("mpifarm.system.cpus.bind_to", shares.append)
    return shares


def define(
    node_worker: int = 0, environment: dict[bytes, bytes] | None = None, **parts: Any
) -> PoolDefinition:
    return PoolDefinition(
        2,
        0,
        "f",
        "/w",
        "/w/logs",
        environment=environment or {},
        node_worker=node_worker,
        allotment=Allotment(**parts),
    )


@pytest.mark.parametrize(("index", "share"), [(0, (0, 1)), (1, (2,))])
def test_a_bound_worker_has_as_many_threads_as_cpus(
    bound: list[tuple[int, ...]], index: int, share: tuple[int, ...]
) -> None:
    """Three CPUs for two workers: what is right for one is wrong for the other."""
    definition = define(threads=7, shares=((0, 1), (2,)))
    _take_cpus(definition, index)
    assert bound == [share]
    environment = environment_of_worker(definition, index)
    assert environment[b"OMP_NUM_THREADS"] == b"%d" % len(share)


def test_a_worker_that_is_not_bound_has_the_threads_of_its_rank(
    bound: list[tuple[int, ...]],
) -> None:
    definition = define(threads=3)
    _take_cpus(definition, 1)
    assert bound == []
    assert environment_of_worker(definition, 1)[b"OMP_NUM_THREADS"] == b"3"


def test_threads_that_the_user_has_set_stay() -> None:
    own = {b"OMP_NUM_THREADS": b"12"}
    definition = define(environment=own, shares=((0, 1), (2,)))
    assert environment_of_worker(definition, 0)[b"OMP_NUM_THREADS"] == b"12"
    assert own == {b"OMP_NUM_THREADS": b"12"}


def test_gpus_go_round_by_the_workers_number_on_the_node() -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": ("4", "5", "6")}
    environment = environment_of_worker(define(node_worker=4, gpus=gpus), 1)
    assert environment[b"CUDA_VISIBLE_DEVICES"] == b"6"
    assert environment[b"MPIFARM_NODE_WORKER"] == b"5"
