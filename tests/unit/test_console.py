"""Where a farm's words go: pipes that are full, slow or closed, and terminals.

What must not block runs in a thread of its own, so that a failure is told and does
not hang the tests.
"""

import fcntl
import os
import pty
import select
import signal
import termios
import threading
import tty
from collections.abc import Callable, Iterator

import pytest

from mpifarm import console
from mpifarm.console import (
    LIVE_SECONDS,
    LOG_SECONDS,
    MOST_KEPT,
    PATIENCE_SECONDS,
    Console,
)
from tests.unit.fakes import Clock

DEADLINE = 3.0


class Ends:
    """Both ends of a pipe or terminal; closed by the fixture."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader = reader
        self.writer = writer

    def read(self) -> str:
        """All that is there now."""
        pieces = []
        while select.select([self.reader], [], [], 0)[0]:
            piece = os.read(self.reader, 1 << 16)
            if not piece:
                break
            pieces.append(piece)
        return b"".join(pieces).decode()

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)
        self.reader = self.writer = -1

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1


@pytest.fixture
def out() -> Iterator[Ends]:
    ends = Ends(*os.pipe())
    yield ends
    ends.close()


@pytest.fixture
def err() -> Iterator[Ends]:
    ends = Ends(*os.pipe())
    yield ends
    ends.close()


@pytest.fixture
def terminal() -> Iterator[Ends]:
    ends = Ends(*pty.openpty())
    tty.setraw(ends.writer)  # a newline is a newline
    yield ends
    ends.close()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", type("time", (), {"monotonic": clock}))
    return clock


def finishes(action: Callable[[], None]) -> bool:
    """Whether it returns before the deadline."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return not thread.is_alive()


def speaker(out: Ends, err: Ends) -> Console:
    return Console(speaks=True, out=out.writer, err=err.writer)


def test_what_is_said_comes_as_a_line_with_our_name(out, err):
    speaker(out, err).say("hello")
    assert out.read() == "mpifarm: hello\n"
    assert err.read() == ""


def test_a_text_of_several_lines_comes_as_it_is(out, err):
    speaker(out, err).say_whole("a\n  b\n")
    assert out.read() == "a\n  b\n"


def test_a_rank_that_does_not_speak_is_silent_but_for_complaints(out, err):
    quiet = Console(speaks=False, out=out.writer, err=err.writer)
    quiet.say("a")
    quiet.say_whole("b")
    quiet.show("c")
    quiet.complain("d")
    quiet.close()
    assert out.read() == ""
    assert err.read() == "mpifarm: d\n"


def test_lone_surrogates_and_other_scripts_can_be_said(out, err):
    speaker(out, err).say("caf\u00e9 \udce9")
    assert out.read() == "mpifarm: caf\u00e9 \\udce9\n"


def test_a_full_pipe_blocks_nobody_and_the_lines_come_in_order(out, err):
    speaks = speaker(out, err)
    lines = [f"line {number} {'x' * 90}" for number in range(5000)]

    def say_all() -> None:
        for line in lines:
            speaks.say(line)

    assert finishes(say_all)
    text = out.read()
    assert len(text) < len("".join(lines))
    while "line 4999 " not in text:
        speaks.say_whole("")
        text += out.read()
    assert text.splitlines() == [f"mpifarm: {line}" for line in lines]


def test_a_reader_that_never_reads_costs_lines_not_memory(out, err):
    speaks = speaker(out, err)
    for _ in range(100):
        speaks.say("x" * (MOST_KEPT // 10))
    assert len(speaks._out._kept) < 1.2 * MOST_KEPT


def test_a_closed_pipe_raises_nothing_and_takes_no_memory(out, err):
    speaks = speaker(out, err)
    out.close_reader()
    for _ in range(100):
        speaks.say("x" * 10_000)
    speaks.close()
    assert speaks._out._kept == b""


def test_a_pipe_that_closes_while_it_is_full_raises_nothing(out, err):
    speaks = speaker(out, err)
    for _ in range(100):
        speaks.say("x" * 10_000)
    out.close_reader()
    speaks.say("y")
    speaks.complain("z")
    speaks.close()
    assert err.read() == "mpifarm: z\n"


def test_a_descriptor_that_is_not_open_raises_nothing(out, err):
    number = os.dup(out.writer)
    os.close(number)
    speaks = Console(speaks=True, out=number, err=number)
    speaks.say("a")
    speaks.show("b")
    speaks.complain("c")
    speaks.close()


def test_the_end_gives_a_slow_reader_what_it_did_not_take_yet(out, err):
    speaks = speaker(out, err)
    expected = ""
    for number in range(30):
        speaks.say(str(number) * 5000)
        expected += f"mpifarm: {str(number) * 5000}\n"
    text = []

    def read() -> None:
        length = 0
        while length < len(expected):
            text.append(os.read(out.reader, 4096))
            length += len(text[-1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    speaks.close()
    reader.join(DEADLINE)
    assert b"".join(text).decode() == expected


def test_the_end_waits_for_a_slow_reader_no_longer_than_its_patience(
    out, err, clock, monkeypatch
):
    """The reader takes a piece each 0.9 s: no single wait is long, all together are."""
    speaks = speaker(out, err)
    while len(speaks._out._kept) < MOST_KEPT:
        speaks.say("x" * 10_000)

    def wait(read: list[int], write: list[int], _: list[int], seconds: float) -> object:
        if seconds < 0.9:
            clock.advance(max(0.0, seconds))
            return [], [], []
        clock.advance(0.9)
        os.read(out.reader, 4096)
        return [], write, []

    monkeypatch.setattr(console, "select", type("select", (), {"select": wait}))
    begun = clock.now
    speaks.close()
    assert clock.now - begun <= 2 * PATIENCE_SECONDS


def test_a_log_gets_progress_now_and_then(out, err, clock):
    speaks = speaker(out, err)
    for _ in range(100):
        speaks.show(f"at {clock.advance(1.0) - 1000:.0f}")
    lines = out.read().splitlines()
    assert lines == [f"mpifarm: at {second}" for second in (5, 35, 65, 95)]
    assert LOG_SECONDS == 30


# ---- on a terminal ------------------------------------------------------------------


def test_a_terminal_has_one_live_line_that_each_state_replaces(terminal, clock):
    speaks = speaker(terminal, terminal)
    speaks.show("1 done")
    clock.advance(LIVE_SECONDS / 2)
    speaks.show("not yet")
    clock.advance(LIVE_SECONDS / 2)
    speaks.show("2 done")
    assert terminal.read() == "\r\x1b[K1 done\r\x1b[K2 done"


def test_a_line_that_stays_takes_the_place_of_the_live_line(terminal, clock):
    speaks = speaker(terminal, terminal)
    speaks.show("1 done")
    speaks.say("task 1 failed")
    speaks.say("task 2 failed")
    text = terminal.read().removeprefix("\r\x1b[K1 done")
    assert text == "\r\x1b[Kmpifarm: task 1 failed\nmpifarm: task 2 failed\n"


def test_a_complaint_clears_the_live_line_and_a_file_gets_no_escapes(
    terminal, err, clock
):
    speaks = speaker(terminal, err)
    speaks.show("1 done")
    terminal.read()
    speaks.complain("a defect")
    assert err.read() == "mpifarm: a defect\n"
    assert terminal.read() == "\r\x1b[K"


def test_no_live_line_where_none_is_wanted(terminal, clock):
    speaks = Console(
        speaks=True, is_terminal=False, out=terminal.writer, err=terminal.writer
    )
    clock.advance(LOG_SECONDS)
    speaks.show("1 done")
    assert terminal.read() == "mpifarm: 1 done\n"


@pytest.mark.parametrize("length", [10, 80, 1000, 4000])
def test_a_terminal_that_is_not_read_blocks_nobody(terminal, err, length):
    speaks = speaker(terminal, err)

    def say_much() -> None:
        for number in range(2000):
            speaks.say(f"{number} {'x' * length}")

    finished = finishes(say_much)
    terminal.close_reader()  # lets a thread that hangs go
    assert finished


def test_a_terminal_that_is_stopped_by_ctrl_s_blocks_nobody(terminal, err):
    speaks = speaker(terminal, err)
    termios.tcflow(terminal.writer, termios.TCOOFF)

    def say_much() -> None:
        for number in range(200):
            speaks.say(f"{number}")

    assert finishes(say_much)
    assert terminal.read() == ""
    termios.tcflow(terminal.writer, termios.TCOON)
    speaks.say("last")
    assert terminal.read().splitlines()[-1] == "mpifarm: last"


def test_a_terminal_that_hangs_up_raises_nothing(terminal, err):
    speaks = speaker(terminal, err)
    terminal.close_reader()
    for _ in range(100):
        speaks.say("x" * 1000)
    speaks.show("y")
    speaks.close()


def test_the_flags_of_the_descriptors_are_left_alone(out, err):
    """Others share them: the shell, the launcher, the commands of a pipeline."""
    before = fcntl.fcntl(out.writer, fcntl.F_GETFL)
    speaks = speaker(out, err)
    speaks.say("a")
    speaks.close()
    assert fcntl.fcntl(out.writer, fcntl.F_GETFL) == before


def test_python_ignores_sigpipe_as_the_console_relies_on():
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
