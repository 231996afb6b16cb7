"""The lines of a trace: a scripted farm whose agents and coordinator are watched."""

import re
from contextlib import suppress
from pathlib import Path
from signal import SIGUSR2
from typing import cast

import pytest

from mpifarm.coordinator.coordinator import (
    NO_NEWS,
    Coordinator,
    OrderNews,
    Send,
    Transact,
)
from mpifarm.farm.agent import Agent
from mpifarm.farm.trace import Trace
from mpifarm.model.messages import Join, Rejoin, Report, Running, ToCoordinator
from mpifarm.model.task import RunningTask
from mpifarm.pool import Pool
from tests.unit.fakes import Commands, define_farm, rank_set_of
from tests.unit.virtual_rank import Clock, FakePool

TIMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} (.*)\n")


class TracedFarm:
    """A coordinator and the agents of two ranks, which hear each other at once."""

    def __init__(self, directory: Path, tasks: int = 4) -> None:
        self.clock = Clock()
        self.path = directory / "trace"
        rank_set = rank_set_of(2, 1, survives_rank_loss=True)
        self.coordinator = Coordinator(
            Commands(tasks), define_farm(), rank_set, self.clock.now
        )
        self.left = [*range(tasks)]
        self.news = NO_NEWS
        self.traces: list[Trace] = []
        self.pools = [FakePool(self.clock, lambda _: 1.0) for _ in range(2)]
        self.agents = [self._create_agent(rank) for rank in range(2)]
        for rank, agent in enumerate(self.agents):
            self.open(rank).watch_agent(agent, self._create_send(rank))
        self.open(0).watch_coordinator(self.coordinator)

    def open(self, rank: int) -> Trace:
        self.traces.append(Trace(f"{self.path}.rank{rank}"))
        return self.traces[-1]

    def _create_send(self, rank: int):
        def send(message: ToCoordinator) -> None:
            self.coordinator.on_message(rank, message, self.clock.now)

        return send

    def _create_agent(self, rank: int) -> Agent:
        pool = cast(Pool, self.pools[rank])
        return Agent(rank, "node", 1, pool, {}, lambda _: None, self.clock.now)

    def run(self, seconds: float) -> None:
        """Let time pass; the disk gives and takes what the coordinator wants."""
        until = self.clock.now + seconds
        while self.clock.advance(0.05) < until:
            for agent in self.agents:
                agent.step(self.clock.now)
            self.carry_out()

    def carry_out(self) -> None:
        now = self.clock.now
        while effects := self.coordinator.decide(now):
            for effect in effects:
                if isinstance(effect, Send):
                    self.agents[effect.rank].on_message(effect.message, now)
                if isinstance(effect, Transact):
                    got, self.left = self.left[: effect.take], self.left[effect.take :]
                    news, self.news = self.news, NO_NEWS
                    self.coordinator.on_transacted(
                        got, now, empty=not self.left, cost=0.0, order=news
                    )

    def lines(self, rank: int) -> list[str]:
        """The lines of a rank without their times."""
        written = Path(f"{self.path}.rank{rank}").read_text()
        lines = TIMED.findall(written)
        assert len(lines) == written.count("\n")
        return lines


@pytest.fixture
def farm(tmp_path):
    farm = TracedFarm(tmp_path)
    for agent in farm.agents:
        agent.join()
    yield farm
    for trace in farm.traces:
        trace.close()


def test_a_task_can_be_followed_by_its_name(farm):
    farm.run(2.0)
    lines = [line for line in farm.lines(0) if "task=0 attempt=1" in line]
    ways = [re.split(" rank=| task=", line)[0] for line in lines]
    assert ways[:9] == [
        "coordinator out Assign.leases",
        "agent in Assign.leases",
        "pool in Lease",
        "agent out Running.tasks",
        "coordinator in Running.tasks",
        "coordinator out NoteRunning.tasks",
        "pool out Result",
        "agent out Report.results",
        "coordinator in Report.results",
    ]
    assert "coordinator out Transact.results" in ways
    (ended,) = (line for line in lines if line.startswith("pool out"))
    assert "outcome=completed status=0 seconds=1.000" in ended


def test_what_the_order_of_a_list_means_is_told_with_its_names(farm):
    farm.news = OrderNews(((3, "task 1 failed"),), some_wait=True)
    farm.run(2.0)
    lines = farm.lines(0)
    (at,) = (number for number, line in enumerate(lines) if "not_run=1" in line)
    assert lines[at].endswith(" not_run=1 more_may_come=False some_wait=True")
    assert "coordinator in transacted.not_run task=3 why='task 1 failed'" in lines[at:]
    assert not [line for line in lines if "task=False" in line]


def test_a_task_that_runs_for_long_is_told_by_its_name(farm):
    farm.open(2)._write_value(
        "agent out", Running((RunningTask(4, 2, 0, 1.0),)), [("rank", 1)]
    )
    assert farm.lines(2) == [
        "agent out Running rank=1 tasks=1",
        "agent out Running.tasks rank=1 task=4 attempt=2",
    ]


def test_every_message_stands_on_both_sides(farm):
    farm.run(2.0)
    joins = [line for line in farm.lines(0) if " Join " in line]
    assert joins[0].startswith("agent out Join rank=0 host=node pid=")
    assert joins[1].startswith("coordinator in Join rank=0 host=node pid=")
    assert joins[2].startswith("coordinator in Join rank=1 host=node pid=")
    assigned = [line for line in farm.lines(1) if line.startswith("agent in Assign")]
    sent = [
        line
        for line in farm.lines(0)
        if line.startswith("coordinator out Assign") and "rank=1" in line
    ]
    assert [line.partition(" in ")[2] for line in assigned] == [
        line.partition(" out ")[2] for line in sent
    ]
    assert assigned


def test_phases_and_signals_are_told_once_each(farm):
    farm.run(0.2)
    farm.agents[1].on_signal(SIGUSR2, farm.clock.now)
    farm.run(2.0)
    of_agent = [line for line in farm.lines(1) if "phase" in line or "signal" in line]
    assert of_agent == [
        "agent phase rank=1 phase=working",
        "agent in signal rank=1 signum=12",
        "agent phase rank=1 phase=draining",
        "agent phase rank=1 phase=left",
    ]
    phases = [line for line in farm.lines(0) if line.startswith("coordinator phase")]
    assert phases == [
        "coordinator phase phase=draining",
        "coordinator phase phase=leaving",
    ]


def test_a_lost_rank_and_what_becomes_of_its_tasks_are_told(farm):
    farm.run(0.2)
    farm.coordinator.on_ranks_lost([1], farm.clock.now)
    farm.agents[1].on_message = lambda message, now: None
    farm.run(6.0)
    lines = farm.lines(0)
    at = lines.index("coordinator in ranks_lost ranks=1")
    told = [line for line in lines[at:] if "out Tell" in line]
    assert told[0].startswith("coordinator out Tell sentence='rank 1 on node is lost")
    assert any("Assign.leases rank=0 task=1 attempt=2" in line for line in lines[at:])


def test_a_rank_that_takes_over_goes_on_with_its_trace(farm):
    farm.run(0.2)
    said: list[ToCoordinator] = []
    farm.agents[1].send_through(said.append)
    farm.agents[1].rejoin(farm.clock.now)
    assert isinstance(said[0], Rejoin)
    lines = [line for line in farm.lines(1) if "Rejoin" in line]
    assert lines[0].startswith("agent out Rejoin rank=1 host=node pid=")
    assert "agent out Rejoin.leases rank=1 task=1 attempt=1" in lines
    assert any(line.startswith("agent out Rejoin.report rank=1") for line in lines)


def test_what_the_agent_says_goes_where_it_went(farm):
    said: list[ToCoordinator] = []
    agent = farm._create_agent(1)
    farm.open(2).watch_agent(agent, said.append)
    agent.join()
    assert isinstance(said[0], Join)
    agent.rejoin(0.0)
    assert isinstance(said[1], Rejoin)
    assert said[1].report == Report(0.0, sure=agent.reporter.sureness.until)


def test_a_file_that_cannot_be_written_is_an_error_at_once(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        Trace(str(tmp_path / "nowhere" / "trace.rank0"))


def test_a_disk_that_fails_later_costs_lines_and_nothing_else(capfd):
    trace = Trace("/dev/full")
    trace.write("agent phase", [("rank", 1)])
    with suppress(OSError):
        trace.close()
    assert capfd.readouterr() == ("", "")
