"""Messages between live ranks: whole, in order, and nobody waits.

Rules of this file: every rank runs every test; the ranks meet in the barriers of a
communicator that is not the one under test.
"""

import time

import pytest

from mpifarm.model.messages import (
    Assign,
    Drain,
    Ping,
    Report,
    Shutdown,
    SignalReceived,
    Stopped,
)
from mpifarm.model.task import Lease, Outcome, Result

pytestmark = [pytest.mark.mpi(min_size=2), pytest.mark.timeout(60)]

LARGE = "x" * 1_000_000


@pytest.fixture
def world():
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.fixture
def comm(world):
    from mpi4py import MPI

    from mpifarm.transport.mpi import Comm

    comm = Comm(MPI, world.Dup())
    yield comm
    # a rank that leaves a test early would fail the others in the next one
    world.Barrier()


def others(comm):
    return [rank for rank in range(comm.size) if rank != comm.rank]


def receive_from(comm, counts, deadline=30.0):
    """Messages by sender, once there are `counts[sender]` of each."""
    received: dict[int, list[object]] = {rank: [] for rank in range(comm.size)}
    end = time.monotonic() + deadline
    while any(len(received[rank]) < count for rank, count in counts.items()):
        assert time.monotonic() < end, {rank: len(m) for rank, m in received.items()}
        for rank, message in comm.receive():
            received[rank].append(message)
        time.sleep(0.0005)
    return received


def assignment(number, text):
    return Assign((Lease(number, 1, text),))


def test_messages_between_all_ranks_arrive_whole_and_in_order(comm):
    sent = [assignment(n, f"{comm.rank} {n}" + "y" * (n % 40) ** 3) for n in range(300)]
    for message in sent:
        for rank in others(comm):
            comm.send(rank, message)
    received = receive_from(comm, dict.fromkeys(others(comm), len(sent)))
    for rank in others(comm):
        expected = [
            assignment(n, f"{rank} {n}" + "y" * (n % 40) ** 3) for n in range(300)
        ]
        assert received[rank] == expected
    assert received[comm.rank] == []


def test_a_small_message_does_not_overtake_a_large_one(comm):
    messages = [assignment(0, LARGE), Ping(), assignment(1, LARGE), Drain(), Shutdown()]
    if comm.rank == 0:
        for rank in others(comm):
            for message in messages:
                comm.send(rank, message)
        assert comm.flush(20)
    else:
        assert receive_from(comm, {0: len(messages)})[0] == messages


def test_every_kind_of_value_arrives_as_it_was_sent(comm):
    odd = "\udcff\udc80 no UTF-8, \u00a0, \x01, 𝄞 and ' \" \\ $HOME"
    result = Result(3, 2, Outcome.FAILED, -9, 4711, 1.7e9 + 0.25, 0.125, 12345.75)
    messages = [
        assignment(2**40, odd),
        assignment(0, ""),
        Report(1.5, (result,), ((1, 2),), ((3, 4),)),
        SignalReceived(10),
        Stopped(),
    ]
    for rank in others(comm):
        for message in messages:
            comm.send(rank, message)
    received = receive_from(comm, dict.fromkeys(others(comm), len(messages)))
    assert all(received[rank] == messages for rank in others(comm))


def test_send_never_waits_for_a_rank_that_does_not_receive_yet(comm, world):
    if comm.rank != 0:
        for number in range(10):
            comm.send(0, assignment(number, LARGE))
    # a send that waits for its receiver never comes here, since rank 0 waits here
    world.Barrier()
    if comm.rank == 0:
        received = receive_from(comm, dict.fromkeys(others(comm), 10))
        for rank in others(comm):
            assert received[rank] == [assignment(n, LARGE) for n in range(10)]
    else:
        assert comm.flush(20)


def test_ranks_that_all_send_before_they_receive_do_not_block_each_other(comm):
    for rank in others(comm):
        comm.send(rank, assignment(comm.rank, LARGE))
    received = receive_from(comm, dict.fromkeys(others(comm), 1))
    for rank in others(comm):
        assert received[rank] == [assignment(rank, LARGE)]


def test_receive_does_not_wait_when_there_is_nothing(comm, world):
    world.Barrier()
    for _ in range(1000):
        assert comm.receive() == []


def test_a_flood_of_messages_ends_a_look_and_loses_none(comm, world):
    flood = [SignalReceived(number) for number in range(2500)]
    if comm.rank == 1:
        for message in flood:
            comm.send(0, message)
    world.Barrier()
    if comm.rank == 0:
        # between two looks a loop serves signals and its own workers
        first = [message for _, message in comm.receive()]
        assert len(first) < len(flood)
        rest = receive_from(comm, {1: len(flood) - len(first)})[1]
        assert first + rest == flood
    elif comm.rank == 1:
        assert comm.flush(30)


def test_flush_gives_up_on_a_rank_that_does_not_receive(comm, world):
    if comm.rank == 1:
        comm.send(0, assignment(0, LARGE * 4))
        comm.flush(0.2)
    # a flush that waits for its receiver never comes here, since rank 0 waits here
    world.Barrier()
    if comm.rank == 0:
        assert receive_from(comm, {1: 1})[1] == [assignment(0, LARGE * 4)]
    elif comm.rank == 1:
        assert comm.flush(20)
