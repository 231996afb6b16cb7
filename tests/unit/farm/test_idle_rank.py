"""A rank that was given up stays, since most launchers end all ranks with the first."""

import os
from types import SimpleNamespace
from typing import cast

import pytest

from mpifarm.errors import ExitStatus
from mpifarm.farm import process
from mpifarm.farm.agent import SILENCE_SECONDS
from mpifarm.farm.process import IDLE_SECONDS
from mpifarm.model.messages import Alive, Ping
from mpifarm.system.event_loop import Clock
from mpifarm.transport.mpi import Comm


class EndedError(Exception):
    pass


class FakeClock(Clock):
    """The clock of a rank that only its sleeps move."""

    def __init__(self):
        self.now = self.time = 100.0

    def sleep(self, seconds):
        self.time += seconds

    def step(self):
        self.now = self.time
        return 0.0


class FakeComm:
    first = 0

    def __init__(self, clock, answers):
        self.clock = clock
        self.answers = answers
        self.asked_at = []
        self.inbox = []

    def send(self, rank, message):
        assert (rank, message) == (0, Alive())
        self.asked_at.append(self.clock.now)
        if len(self.asked_at) <= self.answers:
            self.inbox.append((0, Ping()))

    def receive(self):
        received, self.inbox = self.inbox, []
        return received


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(process, "time", SimpleNamespace(sleep=clock.sleep))
    return clock


@pytest.fixture
def ends(monkeypatch):
    statuses = []

    def end(status):
        statuses.append(status)
        raise EndedError

    monkeypatch.setattr(os, "_exit", end)
    return statuses


def test_it_stays_while_rank_0_answers_and_then_ends_with_75(clock, ends):
    comm = FakeComm(clock, answers=20)
    with pytest.raises(EndedError):
        process._stay_idle(cast("Comm", comm), clock)
    assert ends == [ExitStatus.RUN_AGAIN]
    assert len(comm.asked_at) > 20
    heard_at = comm.asked_at[19] + IDLE_SECONDS
    assert clock.now == pytest.approx(heard_at + SILENCE_SECONDS, abs=IDLE_SECONDS)


def test_it_ends_with_its_launcher(clock, ends, monkeypatch):
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    comm = FakeComm(clock, answers=10**6)
    with pytest.raises(EndedError):
        process._stay_idle(cast("Comm", comm), clock)
    assert ends == [ExitStatus.RUN_AGAIN]
    assert comm.asked_at == []


def test_a_pause_of_the_whole_farm_is_no_silence(clock, ends):
    pauses = iter([10.0, 1000.0])

    def step():
        pause = next(pauses, 0.0)
        clock.time += pause
        clock.now = clock.time
        return pause

    clock.step = step
    comm = FakeComm(clock, answers=3)
    with pytest.raises(EndedError):
        process._stay_idle(cast("Comm", comm), clock)
    assert len(comm.asked_at) > 3
