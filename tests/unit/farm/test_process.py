"""One rank of a farm: how it follows the leading rank, and how its process ends."""

import os
from collections.abc import Callable
from dataclasses import replace
from signal import SIGKILL, SIGUSR1
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mpifarm.errors import ExitStatus, InputError
from mpifarm.farm import process
from mpifarm.farm.agent import SILENCE_SECONDS, Agent, RankPhase
from mpifarm.farm.context import (
    TRACE_VARIABLE,
    Defaults,
    ProcessContext,
    RankContext,
)
from mpifarm.farm.finish import FarmEnd
from mpifarm.farm.process import _follow, _Followed
from mpifarm.model.messages import (
    Alive,
    Join,
    Ping,
    PoolLost,
    Rejoin,
    Shutdown,
    SignalReceived,
    Stop,
    Stopped,
    Welcome,
)
from mpifarm.model.settings import Default, Settings
from mpifarm.pool import Pool
from mpifarm.transport.mpi import BrokenLaunchError
from tests.unit.fakes import define_farm
from tests.unit.virtual_rank import START, Clock, FakePool

Messages = list[tuple[int, Any]]


class EndedError(Exception):
    """The process has ended with this status."""


class ScriptedComm:
    """The other ranks: each `receive` brings the next messages and losses."""

    def __init__(self, rank: int, size: int = 4, *, survives: bool = True) -> None:
        self.rank = rank
        self.size = size
        self.survives_rank_loss = survives
        self.lost: set[int] = set()
        self.script: list[tuple[Messages, set[int]]] = []
        self.sent: Messages = []
        self.calls: list[str] = []
        self.told: Any = ()

    def then(self, *messages: tuple[int, Any], lost: tuple[int, ...] = ()) -> None:
        self.script.append(([*messages], {*lost}))

    @property
    def first(self) -> int:
        return self.members[0]

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(sorted({*range(self.size)} - self.lost))

    def has_message(self) -> bool:
        return True

    def receive(self) -> Messages:
        if not self.script:
            return []
        messages, lost = self.script.pop(0)
        self.lost |= lost
        return messages

    def send(self, rank: int, message: Any) -> None:
        self.sent.append((rank, message))

    def flush(self, seconds: float) -> bool:
        self.calls.append("flush")
        return True

    def finalize(self) -> None:
        self.calls.append("finalize")

    def abort(self, status: int) -> None:
        self.calls.append(f"abort {status:d}")

    def said(self, kind: type) -> list[int]:
        """To whom messages of this kind were sent."""
        return [rank for rank, message in self.sent if isinstance(message, kind)]


class StepClock(Clock):
    """Each pass of the loop takes a second."""

    def step(self) -> float:
        self.advance(1.0)
        assert self.now < START + 5000.0, "it follows for ever"
        return 0.0


class SilentPool(FakePool):
    def read_fds(self) -> list[int]:
        return []


class FollowingRank:
    """A rank that follows others, which are scripted."""

    def __init__(self, rank: int) -> None:
        self.comm = ScriptedComm(rank)
        self.clock = StepClock()
        self.pool = SilentPool(self.clock)
        self.signals: list[int] = []
        self.early: Messages = []
        pool: Any = self.pool
        comm = self.comm
        self.agent = Agent(
            *(rank, "node", 2, pool, {}),
            *(lambda said: comm.send(comm.first, said), self.clock.now),
        )

    def follow(self) -> _Followed:
        read, write = os.pipe()
        signals = SimpleNamespace(fd=read, take=self._take_signals)
        context: Any = SimpleNamespace(process=SimpleNamespace(signals=signals))
        comm: Any = self.comm
        clock: Any = self.clock
        try:
            return _follow(self.agent, context, comm, clock, self.early)
        finally:
            os.close(read)
            os.close(write)

    def _take_signals(self) -> list[int]:
        signals, self.signals = self.signals, []
        return signals


WELCOME = Welcome(define_farm(), 0)


def test_a_rank_does_what_rank_0_says_until_it_is_told_to_leave():
    rank = FollowingRank(2)
    rank.comm.then((0, WELCOME))
    rank.comm.then((0, Ping()))
    rank.comm.then((0, Shutdown()))
    assert rank.follow() is _Followed.LEFT
    assert rank.comm.said(Join) == [0]
    assert rank.comm.said(Alive) == [0]
    assert rank.pool.calls == ["start", "close"]


def test_a_signal_is_told_to_the_leading_rank():
    rank = FollowingRank(2)
    rank.signals = [SIGUSR1]
    rank.comm.then((0, Shutdown()))
    rank.follow()
    assert rank.comm.said(SignalReceived) == [0]


def test_what_a_lost_rank_said_last_does_not_count():
    rank = FollowingRank(2)
    rank.comm.then((0, WELCOME))
    rank.comm.then((0, Stop(0.0)), (0, Shutdown()), lost=(0,))
    rank.comm.then((1, Shutdown()))
    assert rank.follow() is _Followed.LEFT
    assert rank.comm.said(Rejoin) == [1]
    assert rank.pool.calls == ["start", "close"]


def test_what_a_successor_says_before_the_loss_is_known_is_kept_until_then():
    rank = FollowingRank(3)
    rank.comm.then((0, WELCOME))
    rank.comm.then((1, Ping()), (2, Shutdown()))
    rank.comm.then()
    rank.comm.then(lost=(0,))
    rank.comm.then(lost=(1,))
    assert rank.follow() is _Followed.LEFT
    assert rank.comm.said(Rejoin) == [1, 2]
    assert rank.comm.said(Alive) == [1]


def test_a_rank_that_does_not_lead_is_not_obeyed():
    rank = FollowingRank(2)
    rank.comm.then((1, Shutdown()), (3, Shutdown()))
    rank.comm.then((0, WELCOME))
    rank.comm.then((0, Shutdown()))
    assert rank.follow() is _Followed.LEFT
    assert rank.pool.calls == ["start", "close"]


def test_the_lowest_rank_leads_and_knows_what_others_have_said_to_it():
    rank = FollowingRank(1)
    rank.comm.then((0, WELCOME), (3, Alive()))
    rank.comm.then((2, Alive()), (0, Stop(0.0)), lost=(0,))
    assert rank.follow() is _Followed.LEADS
    assert rank.early == [(3, Alive()), (2, Alive())]
    assert rank.agent.phase is RankPhase.WORKING
    assert rank.comm.said(Rejoin) == []


def test_a_rank_that_hears_nothing_for_long_kills_its_commands():
    rank = FollowingRank(2)
    rank.comm.then((0, WELCOME))
    assert rank.follow() is _Followed.FORSAKEN
    assert rank.pool.calls == ["start", "kill"]
    assert rank.clock.now - START == pytest.approx(SILENCE_SECONDS + 2.0)


def test_a_successor_gets_longer_to_say_its_first_word():
    rank = FollowingRank(2)
    rank.comm.then((0, WELCOME))
    rank.comm.then(lost=(0,))
    assert rank.follow() is _Followed.FORSAKEN
    assert rank.clock.now - START == pytest.approx(303.0)


def test_a_rank_whose_launcher_is_gone_kills_its_commands(monkeypatch):
    rank = FollowingRank(2)
    rank.comm.then((0, WELCOME))
    parents = iter([7, 7, 7])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))
    assert rank.follow() is _Followed.FORSAKEN
    assert rank.pool.calls == ["start", "kill"]
    assert rank.clock.now - START < 5.0


# ---- how a process ends -------------------------------------------------------------


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses with which a process has ended without more ado."""
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        raise EndedError

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(process, "_keep_for_good", lambda: None)
    return statuses


class EndingRank:
    """The context of a rank whose farm has ended."""

    def __init__(self, comm: ScriptedComm | None, environ: Any = None) -> None:
        self.said: list[str] = []
        self.pool = FakePool(Clock())
        pool: Any = self.pool
        said = self.said.append
        output: Any = SimpleNamespace(complain=said, refuse=said)
        surroundings: Any = SimpleNamespace(
            output=output, environ=environ or {}, defaults=Defaults()
        )
        any_comm: Any = comm
        self.context = RankContext(
            Settings("list", "list_workdir"), surroundings, pool, any_comm, {}
        )


def lead_to(monkeypatch: Any, end: FarmEnd | Exception) -> list[RankContext]:
    """Have the farm end like this; return the contexts that led one."""
    led: list[RankContext] = []

    def lead_farm(context: RankContext) -> FarmEnd:
        led.append(context)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr("mpifarm.farm.startup.lead_farm", lead_farm)
    return led


def test_rank_0_returns_the_status_after_all_have_left_mpi(exits, monkeypatch):
    comm = ScriptedComm(0)
    rank = EndingRank(comm)
    lead_to(monkeypatch, FarmEnd(ExitStatus.SOME_FAILED))
    assert process._run_rank_0(rank.context) == ExitStatus.SOME_FAILED
    assert comm.calls == ["flush", "finalize"]
    assert rank.pool.calls == ["close"]
    assert exits == []


def test_rank_0_alone_returns_the_status(exits, monkeypatch):
    rank = EndingRank(None)
    lead_to(monkeypatch, FarmEnd(ExitStatus.RUN_AGAIN))
    assert process._run_rank_0(rank.context) == ExitStatus.RUN_AGAIN
    assert rank.pool.calls == ["close"]


@pytest.mark.parametrize("told_by_mpi", [False, True])
def test_rank_0_waits_for_no_rank_that_was_lost(exits, monkeypatch, told_by_mpi):
    comm = ScriptedComm(0)
    lead_to(monkeypatch, FarmEnd(ExitStatus.ALL_FINISHED, lost=not told_by_mpi))
    comm.lost = {2} if told_by_mpi else set()
    with pytest.raises(EndedError):
        process._run_rank_0(EndingRank(comm).context)
    assert exits == [ExitStatus.ALL_FINISHED]
    assert comm.calls == ["flush"]


def test_rank_0_ends_ranks_that_only_hang(exits, monkeypatch):
    comm = ScriptedComm(0, survives=False)
    lead_to(monkeypatch, FarmEnd(ExitStatus.RUN_AGAIN, lost=True, silent=(3,)))
    with pytest.raises(EndedError):
        process._run_rank_0(EndingRank(comm).context)
    assert comm.calls == ["flush", "abort 75"]
    assert exits == [ExitStatus.RUN_AGAIN]


def test_a_mistake_of_the_user_is_told_and_sends_the_others_away(exits, monkeypatch):
    comm = ScriptedComm(0)
    comm.then((1, Join("node", 1, 2)), (2, Join("node", 2, 2)), (3, Alive()))
    rank = EndingRank(comm)
    lead_to(monkeypatch, InputError("no such list"))
    assert process._run_rank_0(rank.context) == ExitStatus.BAD_INPUT
    assert rank.said == ["no such list"]
    assert comm.said(Shutdown) == [1, 2, 3]
    assert comm.calls[-1] == "finalize"


def run_other_rank(
    monkeypatch: Any, comm: ScriptedComm, followed: _Followed, leave: Shutdown
) -> Callable[[], int]:
    """Return what runs a rank whose following ends like this."""
    monkeypatch.setattr(process, "_follow", lambda *args: followed)
    agent = SimpleNamespace(leave=leave, host="node")
    monkeypatch.setattr(RankContext, "create_agent", lambda *args: agent)
    monkeypatch.setattr(process, "ABORT_SECONDS", 0.0)
    any_comm: Any = comm
    return lambda: process._run_other_rank(EndingRank(comm).context, any_comm)


def test_another_rank_leaves_mpi_with_all_and_returns_0(exits, monkeypatch):
    comm = ScriptedComm(2)
    assert run_other_rank(monkeypatch, comm, _Followed.LEFT, Shutdown())() == 0
    assert comm.calls == ["flush", "finalize"]


@pytest.mark.parametrize(
    "leave", [Shutdown(ranks_lost=True), Shutdown(ranks_lost=True, aborts=True)]
)
def test_another_rank_waits_for_no_rank_that_was_lost(exits, monkeypatch, leave):
    comm = ScriptedComm(2)
    with pytest.raises(EndedError):
        run_other_rank(monkeypatch, comm, _Followed.LEFT, leave)()
    assert exits == [0]
    assert comm.calls == ["flush"]


def test_a_rank_that_knows_of_a_loss_does_not_finalize_either(exits, monkeypatch):
    comm = ScriptedComm(2)
    comm.lost = {1}
    with pytest.raises(EndedError):
        run_other_rank(monkeypatch, comm, _Followed.LEFT, Shutdown())()
    assert exits == [0]


def test_a_forsaken_rank_ends_with_75(exits, monkeypatch):
    comm = ScriptedComm(2)
    with pytest.raises(EndedError):
        run_other_rank(monkeypatch, comm, _Followed.FORSAKEN, Shutdown())()
    assert exits == [ExitStatus.RUN_AGAIN]
    assert comm.calls == []


def test_a_rank_with_a_defect_gives_its_tasks_back_and_answers_until_the_end(
    exits, monkeypatch
):
    comm = ScriptedComm(2, survives=False)
    comm.then((0, Ping()), (0, Stop(0.0)))
    comm.then((0, Shutdown()))
    run = run_other_rank(monkeypatch, comm, _Followed.LEFT, Shutdown())

    def fail(*args: Any) -> _Followed:
        raise ZeroDivisionError

    monkeypatch.setattr(process, "_follow", fail)
    assert run() == 0
    assert comm.sent == [(0, PoolLost()), (0, Alive()), (0, Stopped())]
    assert comm.calls[-1] == "finalize"


def test_of_ranks_that_see_no_other_the_first_alone_returns_a_status_and_waits(
    exits, monkeypatch
):
    led = lead_to(monkeypatch, FarmEnd(ExitStatus.SOME_FAILED))
    others = EndingRank(None, {"PMI_RANK": "3", "PMI_SIZE": "4"})
    assert process._run_alone(others.context, "a notice") == 0
    first = EndingRank(None, {"PMI_RANK": "0", "PMI_SIZE": "4"})
    assert process._run_alone(first.context, "a notice") == ExitStatus.SOME_FAILED
    assert (others.said, first.said) == ([], ["a notice"])
    assert [context.waits_for_others for context in led] == [False, True]


def test_a_defect_on_the_leading_rank_ends_all(exits):
    comm: Any = ScriptedComm(0, survives=False)
    with pytest.raises(EndedError):
        process._end_all(comm)
    assert comm.calls[0] == "abort 70"
    comm = ScriptedComm(1, survives=True)
    comm.lost = {0}
    with pytest.raises(EndedError):
        process._end_all(comm)
    assert comm.sent == [(rank, Shutdown(ranks_lost=True)) for rank in (2, 3)]
    assert exits == [ExitStatus.DEFECT, ExitStatus.DEFECT]


# ---- which part a process has --------------------------------------------------------


class Begun:
    """A process that begins: its pool, its MPI and its parts are stand-ins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.pool = FakePool(Clock())
        self.comm: Any = None
        self.notice = ""
        self.error: Exception | None = None
        self.ran: list[tuple[str, RankContext]] = []
        self.environ: dict[str, str] = {}
        self.defaults = Defaults()
        self.told: list[Any] = []
        """What rank 0 has told, and how this rank prints."""
        monkeypatch.setattr(Pool, "launch", lambda: self.pool)
        monkeypatch.setattr(process, "connect", self._connect)
        for name in ("_run_other_rank", "_run_alone", "_run_rank_0"):
            monkeypatch.setattr(process, name, self._part(name))

    def _connect(self, environ: Any, give_up: Any, tell: Any) -> Any:
        self.give_up = give_up
        self.told.append(tell)
        if self.error is not None:
            raise self.error
        return self.comm, self.notice

    def _part(self, name: str) -> Any:
        def run(context: RankContext, *others: Any) -> int:
            self.ran.append((name, context))
            if name == "_run_alone":
                assert others == (self.notice,)
            if isinstance(self.error, ZeroDivisionError):
                raise self.error
            return 7

        return run

    def run(self, **settings: Any) -> int:
        said, obey = self.said.append, self.told.append
        output: Any = SimpleNamespace(complain=said, refuse=said, obey=obey)
        surroundings: Any = ProcessContext(
            environ=self.environ,
            output=output,
            signals=cast(Any, None),
            defaults=self.defaults,
            environb={name.encode(): b"x" for name in self.environ},
        )
        return process.run_farm(
            Settings("list", "list_workdir", **settings), surroundings
        )


@pytest.fixture
def begun(exits, monkeypatch):
    return Begun(monkeypatch)


@pytest.mark.parametrize(
    ("rank", "environ", "part"),
    [
        (0, {}, "_run_rank_0"),
        (2, {}, "_run_other_rank"),
        (0, {"PMI_RANK": "0"}, "_run_rank_0"),
        (None, {}, "_run_rank_0"),
        (None, {"PMI_RANK": "0", "PMI_SIZE": "4"}, "_run_alone"),
    ],
)
def test_each_rank_has_its_part(begun, rank, environ, part):
    begun.comm = None if rank is None else ScriptedComm(rank)
    begun.environ, begun.notice = environ, "a notice"
    assert begun.run() == 7
    ((name, context),) = begun.ran
    assert name == part
    assert (context.comm, context.pool) == (begun.comm, begun.pool)
    assert (context.fault, context.trace) == ("", None)
    assert begun.pool.calls[-1] == "close"


FOUND = (Default("--proc", ("3",), "/etc/mpifarm/config.ini", 2),)


def settle(found: Any) -> Settings:
    """Stand in for the command line: relative paths, as they were typed."""
    (default,) = found
    return Settings("list", "list_workdir", workers=int(default.words[0]), chdir="sub")


def test_rank_0_tells_the_defaults_and_has_them_already(begun):
    begun.comm, begun.defaults = ScriptedComm(0), Defaults(FOUND, settle=settle)
    begun.run(workers=9)
    assert begun.told == [FOUND]
    assert begun.ran[0][1].settings.workers == 9


def test_another_rank_takes_the_defaults_of_rank_0_and_prints_as_they_say(
    begun, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    begun.comm, begun.defaults = ScriptedComm(2), Defaults(settle=settle)
    begun.comm.told = FOUND
    begun.run(chdir="sub", span_nodes=True)
    settings = begun.ran[0][1].settings
    assert settings.workers == 3
    # --chdir was obeyed before rank 0 could tell: what was typed counts from there.
    assert settings.workdir == f"{tmp_path}/list_workdir"
    assert begun.told == [(), settle(FOUND)]


def test_without_defaults_another_rank_goes_on_with_what_was_typed(begun):
    begun.comm, begun.defaults = ScriptedComm(2), Defaults(settle=settle)
    begun.run(workers=9)
    assert begun.ran[0][1].settings.workers == 9
    assert begun.told == [()]


@pytest.mark.parametrize(("rank", "finds"), [("0", 0), ("1", 1)])
def test_a_rank_that_sees_no_other_finds_the_defaults_itself(begun, rank, finds):
    found: list[int] = []

    def find() -> Any:
        found.append(1)
        return FOUND

    begun.environ = {"PMI_RANK": rank, "PMI_SIZE": "2"}
    begun.defaults = Defaults(find=find, settle=settle)
    begun.run()
    assert len(found) == finds
    assert begun.ran[0][1].settings.workers == (3 if finds else 8)


def test_of_ranks_that_see_no_other_one_tells_the_fault_of_a_file(monkeypatch):
    error = InputError("a wrong file")
    for rank, led in (("0", 1), ("1", 0)):
        ending = EndingRank(None, {"PMI_RANK": rank, "PMI_SIZE": "2"})
        cast(Any, ending.context.process).defaults = Defaults(fault=error)
        contexts = lead_to(monkeypatch, error)
        status = process._run_alone(ending.context, "")
        assert (len(contexts), len(ending.said)) == (led, led)
        assert status == (ExitStatus.BAD_INPUT if led else 0)


def test_a_fault_of_an_option_that_nobody_typed_names_its_file(monkeypatch):
    ending = EndingRank(None)
    settings = Settings("list", "list_workdir", defaults=FOUND)
    lead_to(monkeypatch, InputError("--proc 3 is odd, and --processes, too"))
    process._run_rank_0(replace(ending.context, settings=settings))
    (said,) = ending.said
    assert said == (
        "--proc 3 is odd, and --processes, too (--proc is set in"
        " /etc/mpifarm/config.ini, line 2)"
    )


def test_without_mpi_nothing_is_connected(begun):
    begun.error = AssertionError("asked for MPI")
    assert begun.run(mpi="off") == 7
    assert begun.ran[0][0] == "_run_rank_0"


def test_a_trace_is_of_this_farm_alone_and_where_mpifarm_was_started(
    begun, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    begun.environ = {TRACE_VARIABLE: "trace", "HOME": "x"}
    begun.comm = ScriptedComm(2)
    opened: list[str] = []
    monkeypatch.setattr("mpifarm.farm.trace.Trace", opened.append)
    begun.run()
    context = begun.ran[0][1]
    assert opened == [f"{tmp_path}/trace.rank2"]
    assert context.environment == {b"HOME": b"x"}


def test_a_trace_that_can_not_be_written_is_the_ranks_fault(begun, tmp_path):
    begun.environ = {TRACE_VARIABLE: f"{tmp_path}/no/trace"}
    begun.run()
    context = begun.ran[0][1]
    assert context.trace is None
    assert context.fault.startswith(f"can't write the trace {tmp_path}/no/trace.rank0")


def test_a_directory_that_is_not_there_comes_before_the_fault_of_a_trace(
    begun, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    begun.environ = {TRACE_VARIABLE: f"{tmp_path}/no/trace"}
    begun.run(chdir="nowhere")
    assert begun.ran[0][1].fault.startswith("can't run commands in nowhere")


def test_a_process_that_can_not_be_started_is_told_with_the_remedy(begun, monkeypatch):
    def fail() -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(Pool, "launch", fail)
    assert begun.run() == ExitStatus.RUN_AGAIN
    assert begun.said[0].startswith("can't start a process (Resource temporarily")
    assert begun.ran == []


@pytest.mark.parametrize(("rank", "is_told"), [(0, True), (1, True), (2, False)])
def test_a_broken_launch_is_told_by_two_ranks_and_ends_all(begun, exits, rank, is_told):
    begun.environ = {"PMI_RANK": f"{rank}", "PMI_SIZE": "4"}
    begun.error = BrokenLaunchError()
    with pytest.raises(EndedError):
        begun.run()
    assert begun.said == [str(BrokenLaunchError())] * is_told
    assert exits == [begun.error.exit_status]
    assert begun.pool.calls == ["kill", "close"]


def test_a_rank_that_gives_mpi_up_kills_its_pool_first(begun, exits):
    begun.run()
    with pytest.raises(EndedError):
        begun.give_up(InputError("no MPI"))
    assert begun.said == ["no MPI"]
    assert exits == [ExitStatus.BAD_INPUT]
    assert begun.pool.calls == ["close", "kill"]


@pytest.mark.parametrize("has_comm", [True, False])
def test_a_defect_is_told_and_is_70_and_ends_the_others(begun, monkeypatch, has_comm):
    ended: list[Any] = []
    monkeypatch.setattr(process, "_end_all", ended.append)
    begun.error = None
    begun.comm = ScriptedComm(2) if has_comm else None

    def fail(context: RankContext, *others: Any) -> int:
        raise ZeroDivisionError("here")

    for name in ("_run_other_rank", "_run_rank_0"):
        monkeypatch.setattr(process, name, fail)
    assert begun.run() == ExitStatus.DEFECT
    assert begun.said[0].startswith("a defect of mpifarm:\n")
    assert "ZeroDivisionError: here" in begun.said[0]
    assert ended == [begun.comm] * has_comm
    assert begun.pool.calls == ["kill", "close"]


# ---- ranks that hang, and ranks with a defect ----------------------------------------


@pytest.fixture
def seconds(monkeypatch):
    """The virtual time of this module, which passes in sleeps alone."""
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += max(seconds, 0.01)

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(process, "time", clock)
    return lambda: now[0] - 1000.0


def test_the_departures_of_all_but_the_silent_are_awaited(seconds):
    comm: Any = ScriptedComm(0, size=4)
    comm.then(lost=(1,))
    comm.then()
    comm.then(lost=(2,))
    process._await_departures(comm, [3])
    assert comm.lost == {1, 2}
    assert seconds() < process.FLUSH_SECONDS
    process._await_departures(comm, [])
    assert seconds() >= process.FLUSH_SECONDS, "3 does not leave"


def test_where_mpi_tells_of_no_loss_none_is_awaited(seconds):
    comm: Any = ScriptedComm(0, survives=False)
    process._await_departures(comm, [3])
    assert seconds() == 0.0


@pytest.mark.parametrize(
    ("step", "starts", "waits"),
    [("7.0", True, True), ("7.0", False, False), ("", True, False)],
)
def test_a_step_with_ranks_that_hang_is_killed(
    seconds, monkeypatch, step, starts, waits
):
    started: list[Any] = []

    def start(argv: list[str], environ: Any) -> bool:
        started.append((argv, environ))
        return bool(starts)

    monkeypatch.setattr(process, "find_step", lambda _: step)
    monkeypatch.setattr(process, "start_unattended", start)
    process._cancel_step(EndingRank(None, {"A": "b"}).context)
    command = ["scancel", "--signal=KILL", step]
    assert started == ([(command, {"A": "b"})] if step else [])
    assert (seconds() > 0) is waits


def test_a_rank_with_a_defect_that_hears_no_more_ends_with_70(seconds, exits):
    comm: Any = ScriptedComm(2, survives=False)
    comm.then((0, Ping()))
    rank = EndingRank(comm)
    with pytest.raises(EndedError):
        process._withdraw(rank.context, comm)
    assert exits == [ExitStatus.DEFECT]
    assert rank.pool.calls == ["kill", "close"]
    assert seconds() >= SILENCE_SECONDS
    (said,) = rank.said
    assert said.startswith("a defect of mpifarm on rank 2, which runs nothing more:")


def test_a_rank_with_a_defect_is_not_left_waiting_for_lost_ranks(seconds, exits):
    comm: Any = ScriptedComm(2, survives=False)
    comm.then((0, Shutdown(ranks_lost=True)))
    with pytest.raises(EndedError):
        process._withdraw(EndingRank(comm).context, comm)
    assert exits == [0]


def test_a_rank_with_a_defect_dies_where_others_are_told_of_it(
    seconds, exits, monkeypatch
):
    def kill(pid: int, signum: int) -> None:
        assert (pid, signum) == (os.getpid(), SIGKILL)
        raise EndedError

    comm: Any = ScriptedComm(2, survives=True)
    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(EndedError):
        process._withdraw(EndingRank(comm).context, comm)
    assert comm.sent == []


def test_what_is_there_by_now_is_never_collected(monkeypatch):
    frozen: list[int] = []
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(1))
    process._keep_for_good()
    assert frozen == [1]
