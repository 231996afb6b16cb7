"""A rank that was given up stays, since most launchers end all ranks with the first."""

import os
import time
from typing import cast

import pytest

from mpifarm.errors import ExitStatus
from mpifarm.farm import process
from mpifarm.model.messages import Alive, Ping
from mpifarm.system.event_loop import Clock
from mpifarm.transport.mpi import Comm


class EndedError(Exception):
    pass


class FakeComm:
    first = 0

    def __init__(self, answers):
        self.answers = answers
        self.asked_at = []
        self.inbox = []

    def send(self, rank, message):
        assert (rank, message) == (0, Alive())
        self.asked_at.append(time.monotonic())
        if len(self.asked_at) <= self.answers:
            self.inbox.append((0, Ping()))

    def receive(self):
        received, self.inbox = self.inbox, []
        return received


@pytest.fixture
def ends(monkeypatch):
    statuses = []

    def end(status):
        statuses.append(status)
        raise EndedError

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(process, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.005)
    return statuses


def test_it_stays_while_rank_0_answers_and_then_ends_with_75(ends):
    comm = FakeComm(answers=20)
    with pytest.raises(EndedError):
        process._stay_idle(cast("Comm", comm), Clock())
    assert ends == [ExitStatus.RUN_AGAIN]
    assert len(comm.asked_at) > 20
    assert time.monotonic() - comm.asked_at[20] < 10


def test_it_ends_with_its_launcher(ends, monkeypatch):
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    # So long that nothing is asked before, however busy the machine is.
    monkeypatch.setattr(process, "SILENCE_SECONDS", 600.0)
    comm = FakeComm(answers=10**6)
    with pytest.raises(EndedError):
        process._stay_idle(cast("Comm", comm), Clock())
    assert ends == [ExitStatus.RUN_AGAIN]
    assert comm.asked_at == []


def test_a_pause_of_the_whole_farm_is_no_silence(ends):
    pauses = iter([10.0, 1000.0])

    class Suspended(Clock):
        paused = 0.0

        def step(self):
            self.now -= self.paused
            super().step()
            pause = next(pauses, 0.0)
            self.paused += pause
            self.now += self.paused
            return pause

    comm = FakeComm(answers=3)
    with pytest.raises(EndedError):
        process._stay_idle(cast("Comm", comm), Suspended())
    assert len(comm.asked_at) > 3
