"""What each rank is given at its start, and how the others are sent away."""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.farm import context
from mpifarm.farm.context import RankContext
from mpifarm.farm.sureness import Sureness, find_wait
from mpifarm.model.messages import Alive, Join, Shutdown, Welcome
from mpifarm.model.settings import Settings
from tests.unit.fakes import define_farm
from tests.unit.virtual_rank import Clock, FakePool


def context_of(comm: Any = None, environ: Any = None, fault: str = "") -> RankContext:
    process: Any = SimpleNamespace(environ=environ or {})
    pool: Any = FakePool(Clock())
    settings = Settings("list", "list_workdir", workers=3)
    return RankContext(settings, process, pool, comm, {}, fault)


def comm_of(rank: int, *, survives: bool) -> Any:
    return SimpleNamespace(rank=rank, size=4, survives_rank_loss=survives)


@pytest.mark.parametrize("survives", [False, True])
def test_a_rank_keeps_results_where_another_may_have_to_know_them(survives):
    agent = context_of(comm_of(2, survives=survives)).create_agent(lambda _: None, 0.0)
    assert agent.reporter.keeps_results is survives
    assert (agent.rank, agent.workers) == (2, 3)


def test_a_rank_that_farms_alone_keeps_none_and_is_rank_0():
    agent = context_of().create_agent(lambda _: None, 0.0)
    assert not agent.reporter.keeps_results
    assert agent.rank == 0


def test_a_rank_that_farms_alone_numbers_its_workers_behind_those_of_its_neighbours(
    monkeypatch,
):
    monkeypatch.setattr(context, "place_on_node", lambda environ: 2)
    alone = context_of()
    alone.create_agent(lambda _: None, 0.0).on_message(Welcome(define_farm(), 0), 0.0)
    pool: Any = alone.pool
    assert pool.definition.node_worker == 2 * 3


def test_a_rank_is_sure_after_the_wait_of_its_commands():
    agent = context_of().create_agent(lambda _: None, 0.0)
    expected = Sureness(find_wait(3, in_job=False))
    for sureness in (agent.reporter.sureness, expected):
        sureness.note_quiet(100.0)
    assert agent.reporter.sureness.until == expected.until


def test_a_fault_of_the_rank_keeps_tasks_from_it():
    agent = context_of(fault="no such directory").create_agent(lambda _: None, 0.0)
    shared = agent.shared_directories
    assert not shared.check(define_farm(), "node", 0.0)
    assert not shared.check(define_farm(), "node", 100.0)
    assert shared.fault == "no such directory"


def test_the_others_are_sent_away_and_heard_out(monkeypatch):
    monkeypatch.setattr(context, "DISMISS_SECONDS", 1000.0)
    sent: list[tuple[int, Any]] = []
    heard: Any = iter([[(1, Join("node", 1, 2))], [], [(2, Alive()), (3, Alive())]])
    comm: Any = SimpleNamespace(
        size=4,
        send=lambda rank, message: sent.append((rank, message)),
        receive=lambda: next(heard),
    )
    context_of(comm).dismiss()
    assert sorted(sent, key=lambda each: each[0]) == [
        (rank, Shutdown()) for rank in (1, 2, 3)
    ]
    assert next(heard, None) is None, "none of their words is left over"
