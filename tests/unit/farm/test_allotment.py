"""What a worker takes of its rank's CPUs and GPUs; no process is bound."""

import os
from typing import Any

import pytest

from mpifarm.pool import Allotment, PoolDefinition
from mpifarm.pool.worker import _take_allotment


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shares to which a process would have been bound."""
    shares: list[tuple[int, ...]] = []
    monkeypatch.setattr("mpifarm.system.cpus.bind_to", shares.append)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        # set first, so that what the code under test sets goes away as well
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return shares


def define(node_worker: int = 0, **allotment: Any) -> PoolDefinition:
    return PoolDefinition(
        2,
        0,
        "f",
        "/w",
        "/w/logs",
        node_worker=node_worker,
        allotment=Allotment(**allotment),
    )


@pytest.mark.parametrize(("index", "share"), [(0, (0, 1)), (1, (2,))])
def test_a_bound_worker_has_as_many_threads_as_cpus(
    bound: list[tuple[int, ...]], index: int, share: tuple[int, ...]
) -> None:
    """Three CPUs for two workers: what is right for one is wrong for the other."""
    _take_allotment(define(threads=7, shares=((0, 1), (2,))), index)
    assert bound == [share]
    assert os.environ["OMP_NUM_THREADS"] == str(len(share))


def test_a_worker_that_is_not_bound_has_the_threads_of_its_rank(
    bound: list[tuple[int, ...]],
) -> None:
    _take_allotment(define(threads=3), 1)
    assert bound == []
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_threads_that_the_user_has_set_stay(
    bound: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "12")
    _take_allotment(define(shares=((0, 1), (2,))), 0)
    assert bound == [(0, 1)]
    assert os.environ["OMP_NUM_THREADS"] == "12"


def test_gpus_go_round_by_the_workers_number_on_the_node(
    bound: list[tuple[int, ...]],
) -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": ("4", "5", "6")}
    _take_allotment(define(node_worker=4, gpus=gpus), 1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
