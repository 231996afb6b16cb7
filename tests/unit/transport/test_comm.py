"""Messages between ranks over an MPI of the test's own, which can lose ranks.

Rules of this file: the fake is as strict as MPI: a receive takes exactly the message
that was probed, a message arrives when its network delivers it, and a loss that nobody
has acknowledged fails each receive from any rank.
"""

# ruff: noqa: N802 - the fake has the names of mpi4py

import ctypes
import os
import signal
import sys
import time
from collections import deque
from contextlib import nullcontext
from typing import Any, cast

import pytest

from mpifarm.errors import ExitStatus
from mpifarm.model.messages import Alive, Assign, Drain, Ping, Report, Stopped
from mpifarm.model.task import Lease, Outcome, Result
from mpifarm.transport import connecting
from mpifarm.transport import mpi as transport
from mpifarm.transport.mpi import (
    FINALIZE_SECONDS,
    MAX_AT_ONCE,
    MAX_TESTED,
    BrokenLaunchError,
    Comm,
    Message,
    connect,
)


class MPIError(Exception):
    """What mpi4py raises."""


class Status:
    source = tag = count = -1


class Request:
    """A send that is complete when its message was delivered."""

    def __init__(self) -> None:
        self.is_complete = self.has_failed = False
        self.tests = 0

    def Test(self) -> bool:
        self.tests += 1
        if self.has_failed:
            raise MPIError
        return self.is_complete


class FakeGroup:
    def __init__(self, ranks: set[int]) -> None:
        self.ranks = sorted(ranks)
        self.size = len(ranks)


class World:
    """One rank's communicator."""

    group = FakeGroup(set())

    def __init__(self, network: "Network", rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.inbox: deque[tuple[int, int, bytes]] = deque()
        self.sends: list[Request] = []
        self.acknowledged: set[int] = set()
        self.calls: list[Any] = []
        self.missed_probes = 0
        """So many probes find nothing though a message is there."""
        self._network = network

    def Set_errhandler(self, handler: str) -> None:
        self.calls.append(("errors", handler))

    def Isend(self, buffer: list[Any], dest: int, tag: int) -> Request:
        content, kind = buffer
        assert kind == "BYTE"
        assert dest != self.rank
        if dest in self._network.dead:
            raise MPIError
        self.sends.append(Request())
        self._network.under_way.append(
            (self.rank, dest, tag, bytes(content), self.sends[-1])
        )
        return self.sends[-1]

    def Iprobe(self, source: int, tag: int, status: Status) -> bool:
        assert (source, tag) == (-1, -2), "of any rank"
        if self._network.dead - self.acknowledged:
            raise MPIError
        self.missed_probes -= 1
        if self.missed_probes >= 0 or not self.inbox:
            return False
        status.source, status.tag = self.inbox[0][:2]
        status.count = len(self.inbox[0][2])
        return True

    def Recv(self, buffer: list[Any], source: int, tag: int) -> None:
        target, kind = buffer
        sender, sent_tag, content = self.inbox.popleft()
        assert (sender, sent_tag, len(content)) == (source, tag, len(target))
        assert kind == "BYTE"
        target[:] = content

    def Get_failed(self) -> FakeGroup:
        self.calls.append("get failed")
        return FakeGroup(self._network.dead)

    def Ack_failed(self) -> None:
        self.calls.append("acknowledge")
        self.acknowledged |= self._network.dead

    def Dup(self) -> "World":
        if self._network.dead:
            raise MPIError
        self.calls.append("dup")
        return World(self._network, self.rank, self.size)

    def bcast(self, told: Any, root: int) -> Any:
        assert root == 0
        if self.rank == root:
            self._network.told = told
        return self._network.told

    def Abort(self, status: int) -> None:
        self.calls.append(("abort", status))


class FakeMPI:
    """The module."""

    ANY_SOURCE, ANY_TAG, BYTE, ERRORS_RETURN = -1, -2, "BYTE", "RETURN"
    THREAD_FUNNELED = 1
    Exception = MPIError
    Status = Status

    class Group:
        @staticmethod
        def Translate_ranks(group: FakeGroup, ranks: None, other: object) -> list[int]:
            assert ranks is None
            assert other is World.group
            return group.ranks

    def __init__(self, world: World | None = None, vendor: str = "MPICH") -> None:
        self.COMM_WORLD = world
        self.vendor = vendor
        self.version = "MPICH Version: 4.2"
        self.calls: list[str] = []

    def get_vendor(self) -> tuple[str, tuple[int, int, int]]:
        return self.vendor, (1, 2, 3)

    def Get_library_version(self) -> str:
        return self.version

    def Init_thread(self, level: int) -> None:
        assert level == self.THREAD_FUNNELED
        self.calls.append("init")

    def Finalize(self) -> None:
        self.calls.append("finalize")


class Network:
    """Ranks, and what is under way between them."""

    def __init__(self, size: int, *, survives: bool = True) -> None:
        self.under_way: deque[tuple[int, int, int, bytes, Request]] = deque()
        self.dead: set[int] = set()
        self.told: Any = None
        """What rank 0 has told all ranks."""
        self.worlds = [World(self, rank, size) for rank in range(size)]
        self.comms = [
            Comm(FakeMPI(), cast(Any, world), survives_rank_loss=survives)
            for world in self.worlds
        ]

    def deliver(self, count: int | None = None) -> None:
        while self.under_way and count != 0:
            source, dest, tag, content, send = self.under_way.popleft()
            self.worlds[dest].inbox.append((source, tag, content))
            send.is_complete = True
            count = None if count is None else count - 1

    def lose(self, rank: int) -> None:
        self.dead.add(rank)
        for _, dest, _, _, send in self.under_way:
            send.has_failed = dest == rank
        self.under_way = deque(
            each for each in self.under_way if rank not in (each[0], each[1])
        )


ASSIGN = Assign((Lease(2**40, 1, "echo \udcff"), Lease(0, 2, "")))
RESULT = Result(3, 2, Outcome.FAILED, -9, 4711, 1.7e9, 0.125, 12345.75, "a note")
REPORT = Report(1.5, (RESULT,), ((1, 2),), ((3, 4),), True, 1.25)


# ---- messages -----------------------------------------------------------------------


def test_messages_arrive_whole_in_order_and_with_their_sender():
    network = Network(3)
    first, second, third = network.comms
    messages: list[Message] = [ASSIGN, Ping(), Assign(()), Drain()]
    for message in messages:
        first.send(2, message)
    second.send(2, REPORT)
    network.deliver()
    expected = [*((0, message) for message in messages), (1, REPORT)]
    assert third.receive() == expected
    assert (first.receive(), third.receive()) == ([], [])


def test_errors_of_mpi_are_returned_and_not_fatal():
    assert Network(2).worlds[0].calls == [("errors", "RETURN")]


def test_a_look_probes_twice_since_the_first_may_only_drive_the_library():
    network = Network(2)
    network.comms[0].send(1, Ping())
    network.deliver()
    network.worlds[1].missed_probes = 1
    assert network.comms[1].has_message()
    network.worlds[1].missed_probes = 1
    assert network.comms[1].receive() == [(0, Ping())]
    assert not network.comms[1].has_message()


def test_a_call_takes_so_few_messages_that_signals_are_served():
    assert (MAX_AT_ONCE, MAX_TESTED) == (1000, 100)


def test_a_flood_of_messages_ends_a_call_and_loses_none():
    network = Network(2)
    for _ in range(MAX_AT_ONCE + 3):
        network.comms[0].send(1, Alive())
    network.deliver()
    counts = [len(network.comms[1].receive()) for _ in range(3)]
    assert counts == [MAX_AT_ONCE, 3, 0]


def test_a_call_of_receive_tests_a_limited_number_of_sends():
    network = Network(2)
    for _ in range(2 * MAX_TESTED):
        network.comms[0].send(1, Alive())
    network.comms[0].receive()
    tests = [send.tests for send in network.worlds[0].sends]
    assert tests == [1] * MAX_TESTED + [0] * MAX_TESTED
    network.comms[0].receive()
    assert [send.tests for send in network.worlds[0].sends] == [1] * (2 * MAX_TESTED)


def test_a_send_is_tested_until_it_is_complete_and_no_longer():
    network = Network(2)
    network.comms[0].send(1, Ping())
    network.comms[0].receive()
    network.deliver()
    network.comms[0].receive()
    network.comms[0].receive()
    assert network.worlds[0].sends[0].tests == 2


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleep moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def test_flush_returns_as_soon_as_all_is_sent(clock, monkeypatch):
    network = Network(2)
    network.comms[0].send(1, Ping())

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        network.deliver()

    monkeypatch.setattr(time, "sleep", sleep)
    assert network.comms[0].flush(10)
    assert clock[0] < 101


def test_flush_gives_up_on_a_rank_that_does_not_receive(clock):
    network = Network(2)
    network.comms[0].send(1, Ping())
    assert not network.comms[0].flush(10)
    assert clock[0] == pytest.approx(110, abs=0.01)
    assert network.comms[1].flush(10)
    assert clock[0] == pytest.approx(110, abs=0.01), "nothing was to be sent"


# ---- lost ranks ---------------------------------------------------------------------


def test_a_loss_costs_only_the_messages_of_the_lost_rank():
    network = Network(3)
    network.comms[1].send(0, Ping())
    network.comms[2].send(0, Stopped())
    network.lose(1)
    network.deliver()
    comm = network.comms[0]
    assert comm.has_message(), "the loss is something to receive"
    assert comm.receive() == []
    assert comm.receive() == [(2, Stopped())]
    assert (comm.lost, comm.members, comm.first) == ({1}, (0, 2), 0)
    assert network.comms[2].first == 0


def test_each_loss_is_told_once():
    network = Network(4)
    comm = network.comms[3]
    network.lose(2)
    comm.receive()
    network.lose(0)
    network.dead.add(1)
    comm.receive()
    assert comm.take_losses() == [2, 0, 1]
    assert comm.take_losses() == []
    assert (comm.members, comm.first) == ((3,), 3)
    calls = network.worlds[3].calls
    assert calls.count("acknowledge") == calls.count("get failed") == 2


def test_a_loss_is_acknowledged_only_after_it_was_noted():
    network = Network(2)
    network.lose(1)
    network.comms[0].receive()
    assert network.worlds[0].calls[1:] == ["get failed", "acknowledge"]
    network.comms[0].receive()
    assert network.worlds[0].calls[3:] == []


def test_nothing_is_sent_to_a_lost_rank():
    network = Network(2)
    network.lose(1)
    network.comms[0].receive()
    network.dead.clear()  # a send would not fail
    network.comms[0].send(1, Ping())
    assert network.worlds[0].sends == []


def test_a_send_that_fails_tells_of_the_loss():
    network = Network(2)
    network.lose(1)
    network.comms[0].send(1, Ping())
    assert network.comms[0].take_losses() == [1]
    assert network.comms[0].flush(0)


def test_a_send_under_way_to_a_rank_that_dies_is_not_waited_for():
    network = Network(3)
    comm = network.comms[0]
    comm.send(1, Ping())
    comm.send(2, Ping())
    comm.send(1, Ping())
    network.lose(1)
    comm.receive()
    assert comm.lost == {1}
    assert not comm.flush(0.002)
    network.deliver()
    assert comm.flush(1)
    assert comm.take_losses() == [1]


def test_a_send_to_a_lost_rank_that_neither_fails_nor_ends_is_not_waited_for():
    network = Network(2)
    network.comms[0].send(1, Ping())
    network.dead.add(1)
    network.comms[0].receive()
    assert network.comms[0].flush(1)
    assert [send.tests for send in network.worlds[0].sends] == [0]


def test_a_send_that_has_failed_is_not_tested_again():
    network = Network(2, survives=False)
    network.comms[0].send(1, Ping())
    network.lose(1)
    network.comms[0].receive()
    network.comms[0].receive()
    assert [send.tests for send in network.worlds[0].sends] == [1]


def test_a_failed_send_is_found_without_a_receive():
    network = Network(2)
    network.comms[0].send(1, Ping())
    network.lose(1)
    assert network.comms[0].flush(1)
    assert network.comms[0].take_losses() == [1]


def test_where_the_library_tells_of_no_loss_none_is_asked_for():
    network = Network(2, survives=False)
    network.lose(1)
    comm = network.comms[0]
    comm.send(1, Ping())
    assert (comm.receive(), comm.has_message(), comm.take_losses()) == ([], False, [])
    assert network.worlds[0].calls == [("errors", "RETURN")]
    assert comm.members == (0, 1)


# ---- the end ------------------------------------------------------------------------


def test_an_alarm_that_python_can_not_catch_bounds_the_end(monkeypatch):
    calls: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda *args: calls.append(args))
    monkeypatch.setattr(signal, "alarm", calls.append)
    comm = Network(2).comms[0]
    monkeypatch.setattr(comm._mpi, "Finalize", lambda: calls.append("finalize"))
    comm.finalize()
    armed = (signal.SIGALRM, signal.SIG_DFL)
    assert FINALIZE_SECONDS == 10
    assert calls == [armed, FINALIZE_SECONDS, "finalize", 0]


def test_abort_ends_all_ranks_with_the_status():
    network = Network(2)
    network.comms[0].abort(75)
    assert network.worlds[0].calls[-1] == ("abort", 75)


# ---- the beginning ------------------------------------------------------------------

OF_4 = {"PMI_RANK": "0", "PMI_SIZE": "4"}
ULFM = {
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_MCA_mpi_ft_enable": "1",
    "PRTE_LAUNCHED": "1",
}


@pytest.fixture
def load(monkeypatch):
    """Have this be the MPI that is found: ``load(size=4, vendor="MPICH")``."""

    def load(size: int = 4, vendor: str = "MPICH") -> FakeMPI:
        mpi = FakeMPI(World(Network(0), 0, size), vendor)
        monkeypatch.setattr(transport, "_load", lambda: mpi)
        return mpi

    return load


def test_without_a_launcher_no_mpi_is_looked_for(monkeypatch):
    monkeypatch.setattr(transport, "_load", None)
    assert connect({"SLURM_JOB_ID": "1"}) == (None, "")


def test_ranks_talk_over_a_communicator_of_their_own(load):
    mpi = load()
    comm, sentence = connect(OF_4)
    assert comm is not None
    assert (comm.size, comm.survives_rank_loss, sentence) == (4, False, "")
    assert (mpi.calls, mpi.COMM_WORLD.calls) == (["init"], ["dup"])
    assert comm._world is not mpi.COMM_WORLD
    assert comm.vendor == "MPICH"


def test_all_ranks_are_told_what_rank_0_has_to_tell(load):
    mpi = load()
    first, _ = connect(OF_4, tell=("words",))
    assert first is not None
    mpi.COMM_WORLD.rank = 2
    other, _ = connect(OF_4, tell=())
    assert other is not None
    assert first.told == other.told == ("words",)


def test_a_launch_of_one_rank_needs_no_other_communicator(load):
    mpi = load(size=1)
    comm, sentence = connect({"PMI_RANK": "0", "PMI_SIZE": "1"})
    assert comm is not None
    assert (comm.size, sentence) == (1, "")
    assert cast(Any, comm._world) is mpi.COMM_WORLD


def test_ranks_that_do_not_see_each_other_are_told_of_once(load):
    mpi = load(size=1)
    comm, sentence = connect(OF_4)
    assert comm is None
    assert sentence.startswith("WARNING: the launcher started 4 processes that don't")
    assert "(MPICH says that there is one rank)" in sentence
    assert mpi.calls == ["init", "finalize"]
    assert connect({**OF_4, "PMI_RANK": "1"}) == (None, "")


@pytest.mark.parametrize("has_mpiexec", [False, True])
def test_the_line_of_one_farm_by_mpiexec_stands_last(
    load, monkeypatch, tmp_path, has_mpiexec
):
    load(size=1)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mpiexec").touch(mode=0o755 if has_mpiexec else 0o644)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "mpifarm", "t"])
    monkeypatch.setattr(os, "access", lambda *_: has_mpiexec)
    two = {"PMI_RANK": "0", "PMI_SIZE": "2"}
    sentence = connect(two)[1]
    assert sentence.startswith("WARNING: the launcher started 2 processes that don't")
    line = f" One farm: {tmp_path}/bin/mpiexec -n 2 python -m mpifarm t"
    assert sentence.endswith(f"on purpose.{line if has_mpiexec else ''}")


@pytest.mark.parametrize(
    ("vendor", "pmi"), [("MPICH", "pmi2"), ("Open MPI", "pmix"), ("another", "pmi2")]
)
def test_the_line_of_one_farm_by_srun_stands_last(load, monkeypatch, vendor, pmi):
    load(size=1, vendor=vendor)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "mpifarm", "t"])
    monkeypatch.setattr("mpifarm.system.processes.command_lines", lambda _: [])
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4"}
    assert connect(step)[1].endswith(
        f" runs all tasks. One farm ('srun --mpi=list' should name {pmi}): srun "
        f"--mpi={pmi} -N 4 python -m mpifarm t"
    )


def test_without_a_library_a_launched_process_farms_alone(monkeypatch):
    def fail() -> None:
        raise ImportError("no libmpi.so\nand more")

    monkeypatch.setattr(transport, "_load", fail)
    comm, sentence = connect({"PMI_RANK": "0", "PMI_SIZE": "1"})
    expected = "no MPI library could be loaded (no libmpi.so); this process farms alone"
    assert (comm, sentence) == (None, expected)
    assert "Install an MPI library" in connect(OF_4)[1]


@pytest.mark.parametrize(
    ("vendor", "version", "environ", "would_abort"),
    [
        ("MPICH", "MPICH Version: 4.2", {"PMIX_RANK": "0"}, True),
        ("MPICH", "MPICH ... --with-PMIx", {"PMIX_RANK": "0"}, False),
        ("Open MPI", "Open MPI v5", {"PMIX_RANK": "0"}, False),
        ("MPICH", "MPICH", {"PMIX_RANK": "0", "PMI_FD": "5"}, False),
    ],
)
def test_an_mpich_that_would_abort_is_never_initialized(
    load, vendor, version, environ, would_abort
):
    mpi = load(vendor=vendor)
    mpi.version = version
    comm, sentence = connect({**environ, "SLURM_STEP_NUM_TASKS": "4"})
    assert (comm is None) is would_abort
    assert ("this MPICH speaks PMI, the launcher PMIx" in sentence) is would_abort
    assert ("init" in mpi.calls) is not would_abort


def test_a_rank_that_died_before_all_had_met_breaks_the_launch(load):
    mpi = load()
    mpi.COMM_WORLD._network.dead.add(1)
    with pytest.raises(BrokenLaunchError, match="give the same command again") as told:
        connect(OF_4)
    assert told.value.exit_status is ExitStatus.RUN_AGAIN


@pytest.mark.parametrize(
    ("vendor", "missing", "survives"),
    [
        ("Open MPI", "", True),
        ("MPICH", "", False),
        ("Open MPI", "PRTE_LAUNCHED", False),
        ("Open MPI", "OMPI_MCA_mpi_ft_enable", False),
    ],
)
def test_under_ulfm_the_ranks_are_watched_while_they_connect(
    load, monkeypatch, vendor, missing, survives
):
    mpi = load(vendor=vendor)
    monkeypatch.setattr(
        *(transport, "_initialize_unlocked"), lambda mpi: mpi.calls.append("unlocked")
    )
    gave_up: list[Any] = []
    watched: list[Any] = []

    class Watched:
        def __init__(self, environ: object, give_up: Any) -> None:
            self._give_up = give_up

        def __enter__(self) -> None:
            watched.append("begin")
            self._give_up()

        def __exit__(self, *args: object) -> None:
            watched.append([*mpi.calls, *mpi.COMM_WORLD.calls])

    monkeypatch.setattr(connecting, "watched", Watched)
    environ = {name: value for name, value in ULFM.items() if name != missing}
    comm, _ = connect(environ, gave_up.append)
    assert comm is not None
    assert comm.survives_rank_loss is survives
    assert watched == (["begin", ["unlocked", "dup"]] if survives else [])
    assert [type(error) for error in gave_up] == [BrokenLaunchError] * survives


@pytest.mark.parametrize("failed", [0, 1])
def test_mpi_initialized_without_mpi4py_returns_its_errors_too(
    load, monkeypatch, failed
):
    mpi = load(vendor="Open MPI")
    mpi.__file__ = "/mpi.so"
    mpi.COMM_SELF = World(Network(0), 0, 1)
    loaded: list[str] = []

    class Library:
        def __init__(self, path: str) -> None:
            loaded.append(path)

        def MPI_Init_thread(self, argc: None, argv: None, level: int, got: Any) -> Any:
            assert (argc, argv, level) == (None, None, mpi.THREAD_FUNNELED)
            return failed

    monkeypatch.setattr(ctypes, "CDLL", Library)
    with pytest.raises(BrokenLaunchError) if failed else nullcontext():
        transport._initialize_unlocked(mpi)
    errors = [] if failed else [("errors", "RETURN")]
    assert mpi.COMM_WORLD.calls == mpi.COMM_SELF.calls == errors
    assert loaded == ["/mpi.so"]
