"""The inbox of signals.  No process: this one raises its own signals."""

import os
import select
import signal
from collections.abc import Iterator

import pytest

from mpifarm.system import signals
from mpifarm.system.signals import SECOND_INT_SECONDS, SIGNALS, SignalInbox
from tests.unit.virtual_rank import Clock


class Exited(BaseException):
    """An exception in place of the end of this process."""


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(signals, "time", type("time", (), {"monotonic": clock}))
    return clock


@pytest.fixture
def inbox(monkeypatch, clock) -> Iterator[SignalInbox]:
    """Install an inbox, and restore this process afterwards."""

    def leave(status: int) -> None:
        raise Exited(status)

    monkeypatch.setattr(os, "_exit", leave)
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    inbox = SignalInbox()
    inbox.install()
    yield inbox
    signal.set_wakeup_fd(-1)
    for signum, handler in before.items():
        signal.signal(signum, handler)
    os.close(inbox.fd)
    os.close(inbox._wakeup_fd)


def is_readable(inbox: SignalInbox) -> bool:
    return bool(select.select([inbox.fd], [], [], 0)[0])


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_kept_until_it_is_asked_for(inbox, signum):
    signal.raise_signal(signum)
    assert inbox.take() == [signum]
    assert inbox.take() == []


def test_signals_come_in_their_order_and_repeated_ones_each(inbox):
    for signum in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP):
        signal.raise_signal(signum)
    assert inbox.take() == [
        signal.SIGUSR2,
        signal.SIGUSR1,
        signal.SIGUSR1,
        signal.SIGHUP,
    ]


def test_a_signal_ends_a_wait_on_the_descriptor_and_taking_it_quiets_it(inbox):
    assert not is_readable(inbox)
    signal.raise_signal(signal.SIGUSR1)
    assert is_readable(inbox)
    inbox.take()
    assert not is_readable(inbox)


def test_a_signal_that_comes_while_others_are_taken_is_not_lost_nor_wakes_for_ever(
    inbox, monkeypatch
):
    """A descriptor that stays readable would make the rank's loop spin."""
    read = os.read
    late = [signal.SIGUSR2]

    def read_as_another_comes(fd: int, count: int) -> bytes:
        piece = read(fd, count)
        if late:
            signal.raise_signal(late.pop())
        return piece

    monkeypatch.setattr(os, "read", read_as_another_comes)
    signal.raise_signal(signal.SIGUSR1)
    taken = inbox.take() + inbox.take()
    assert taken == [signal.SIGUSR1, signal.SIGUSR2]
    inbox.take()
    assert not is_readable(inbox)


def test_thousands_of_signals_block_nothing(inbox):
    for _ in range(70_000):
        signal.raise_signal(signal.SIGUSR2)
    assert len(inbox.take()) == 70_000
    for _ in range(20):
        inbox.clear_wakeup()
    assert not is_readable(inbox)


def test_a_hup_that_nohup_has_ignored_stays_ignored_and_no_other_signal(inbox):
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    inbox.install()
    for signum in SIGNALS:
        signal.raise_signal(signum)
    assert {*inbox.take()} == {*SIGNALS} - {signal.SIGHUP}


def test_the_descriptors_are_not_inherited(inbox):
    assert not os.get_inheritable(inbox.fd)
    assert not os.get_inheritable(inbox._wakeup_fd)


def test_a_second_int_exits_at_once_with_the_status_of_run_me_again(inbox, clock):
    signal.raise_signal(signal.SIGINT)
    clock.advance(SECOND_INT_SECONDS + 0.01)
    with pytest.raises(Exited) as exited:
        signal.raise_signal(signal.SIGINT)
    assert exited.value.args == (75,)


def test_a_second_int_is_one_that_comes_after_a_fifth_of_a_second():
    assert SECOND_INT_SECONDS == 0.2


def test_at_the_end_of_the_process_no_signal_ends_it(inbox):
    inbox.ignore()
    for signum in SIGNALS:
        assert signal.getsignal(signum) is signal.SIG_IGN
        signal.raise_signal(signum)
    assert inbox.take() == []
    assert not inbox.any_noted


def test_that_a_signal_was_noted_is_known_before_it_is_taken(inbox):
    signal.raise_signal(signal.SIGTERM)
    assert inbox.any_noted
    inbox.take()
    assert not inbox.any_noted


def test_one_ctrl_c_that_comes_by_two_ways_is_one(inbox, clock):
    signal.raise_signal(signal.SIGINT)
    clock.advance(SECOND_INT_SECONDS - 0.01)
    signal.raise_signal(signal.SIGINT)
    assert inbox.take() == [signal.SIGINT, signal.SIGINT]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_other_signals_may_come_again(inbox, clock, signum):
    signal.raise_signal(signum)
    clock.advance(10.0)
    signal.raise_signal(signum)
    signal.raise_signal(signal.SIGINT)
    assert len(inbox.take()) == 3
