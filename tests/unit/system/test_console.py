"""The output of a farm to pipes that are full, slow or closed, and to terminals.

Code that must not block runs in a thread of its own, so that a failure does not hang
the tests.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from mpifarm.system import console as console_module
from mpifarm.system.console import (
    LIVE_SECONDS,
    LOG_SECONDS,
    MAX_KEPT,
    PATIENCE_SECONDS,
    Console,
)
from mpifarm.system.destination import Destination, Place
from tests.unit.virtual_rank import Clock

DEADLINE = 30.0


class Ends:
    """Both ends of a pipe or terminal; closed by the fixture."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader = reader
        self.writer = writer

    def read(self) -> str:
        """Return all bytes that are there now."""
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
def terminal(monkeypatch) -> Iterator[Ends]:
    monkeypatch.setenv("TERM", "xterm")
    ends = Ends(*pty.openpty())
    tty.setraw(ends.writer)  # a newline is a newline
    yield ends
    ends.close()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console_module, "time", type("time", (), {"monotonic": clock}))
    return clock


def finishes(action: Callable[[], None]) -> bool:
    """Return whether `action` ends before the deadline."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return not thread.is_alive()


def open_console(out: Ends, err: Ends) -> Console:
    return Console(prints=True, out=out.writer, err=err.writer)


def test_what_is_said_comes_as_a_line_with_our_name(out, err):
    open_console(out, err).print_line("hello")
    assert out.read() == "mpifarm: hello\n"
    assert err.read() == ""


def test_a_text_of_several_lines_comes_as_it_is(out, err):
    open_console(out, err).print_text("a\n  b\n")
    assert out.read() == "a\n  b\n"


NASTY = "a\x1b]0;title\x07b\x9b31mc\rd\x7fe\u202ef\ud89bg"
PLAIN = r"a\x1b]0;title\x07b\x9b31mc\rd\x7fe\u202ef\ud89bg"


def test_no_control_character_of_what_is_said_reaches_the_terminal(terminal, err):
    console = open_console(terminal, err)
    console.print_line(f"{NASTY}\nmpifarm: forged")
    console.print_error(NASTY)
    console.print_text(f"{NASTY}\n")
    console.show_progress(NASTY)
    shown, told = terminal.read(), err.read()
    assert shown.count(PLAIN) == 3
    assert "\\nmpifarm: forged\n" in shown
    assert told == f"mpifarm: {PLAIN}\n"
    ours = shown.replace("\r\x1b[K", "").replace("\n", "")
    assert ours.isprintable()


def test_a_rank_that_does_not_speak_is_silent_but_for_complaints(out, err):
    quiet = Console(prints=False, out=out.writer, err=err.writer)
    quiet.print_line("a")
    quiet.print_text("b")
    quiet.show_progress("c")
    quiet.print_error("d")
    quiet.close()
    assert out.read() == ""
    assert err.read() == "mpifarm: d\n"


def test_lone_surrogates_and_other_scripts_can_be_said(out, err):
    open_console(out, err).print_line("caf\u00e9 \udce9")
    assert out.read() == "mpifarm: caf\u00e9 \\udce9\n"


def test_a_full_pipe_blocks_nobody_and_the_lines_come_in_order(out, err):
    console = open_console(out, err)
    lines = [f"line {number} {'x' * 90}" for number in range(5000)]

    def say_all() -> None:
        for line in lines:
            console.print_line(line)

    assert finishes(say_all)
    text = out.read()
    assert len(text) < len("".join(lines))
    while "line 4999 " not in text:
        console.print_text("")
        text += out.read()
    assert text.splitlines() == [f"mpifarm: {line}" for line in lines]


def test_a_reader_that_never_reads_costs_lines_not_memory(out, err):
    console = open_console(out, err)
    for _ in range(100):
        console.print_line("x" * (MAX_KEPT // 10))
    assert len(console._out._kept) < 1.2 * MAX_KEPT


def test_a_closed_pipe_raises_nothing_and_takes_no_memory(out, err):
    console = open_console(out, err)
    out.close_reader()
    for _ in range(100):
        console.print_line("x" * 10_000)
    console.close()
    assert console._out._kept == b""


def test_a_pipe_that_closes_while_it_is_full_raises_nothing(out, err):
    console = open_console(out, err)
    for _ in range(100):
        console.print_line("x" * 10_000)
    out.close_reader()
    console.print_line("y")
    console.print_error("z")
    console.close()
    assert err.read() == "mpifarm: z\n"


def test_a_refusal_has_no_time_in_a_log(out, err):
    console = open_console(out, err)
    console.begin_farm("auto", Destination(Place.LOG))
    console.print_error("a", has_time=False)
    console.print_error("b")
    console.close()
    refusal, error = err.read().splitlines()
    assert refusal == "mpifarm: a"
    assert error.endswith(" mpifarm: b")


def test_a_descriptor_that_is_not_open_raises_nothing(out, err):
    number = os.dup(out.writer)
    os.close(number)
    console = Console(prints=True, out=number, err=number)
    console.print_line("a")
    console.show_progress("b")
    console.print_error("c")
    console.close()


def test_the_end_gives_a_slow_reader_what_it_did_not_take_yet(out, err):
    console = open_console(out, err)
    expected = ""
    for number in range(30):
        console.print_line(str(number) * 5000)
        expected += f"mpifarm: {str(number) * 5000}\n"
    text = []

    def read() -> None:
        length = 0
        while length < len(expected):
            text.append(os.read(out.reader, 4096))
            length += len(text[-1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    console.close()
    reader.join(DEADLINE)
    assert b"".join(text).decode() == expected


def test_the_end_waits_for_a_slow_reader_no_longer_than_its_patience(
    out, err, clock, monkeypatch
):
    """The reader takes a piece each 0.9 s: no single wait is long, all together are."""
    console = open_console(out, err)
    while len(console._out._kept) < MAX_KEPT:
        console.print_line("x" * 10_000)

    def wait(read: list[int], write: list[int], _: list[int], seconds: float) -> object:
        if seconds < 0.9:
            clock.advance(max(0.0, seconds))
            return [], [], []
        clock.advance(0.9)
        os.read(out.reader, 4096)
        return [], write, []

    monkeypatch.setattr(console_module, "select", type("select", (), {"select": wait}))
    begun = clock.now
    console.close()
    assert clock.now - begun <= 2 * PATIENCE_SECONDS == 2.0


def test_a_log_gets_progress_now_and_then(out, err, clock):
    console = open_console(out, err)
    for _ in range(100):
        console.show_progress(f"at {clock.advance(1.0) - 1000:.0f}")
    lines = out.read().splitlines()
    assert lines == [f"mpifarm: at {second}" for second in (5, 35, 65, 95)]
    assert LOG_SECONDS == 30


# ---- on a terminal ------------------------------------------------------------------


def test_a_terminal_has_one_live_line_that_each_state_replaces(terminal, clock):
    console = open_console(terminal, terminal)
    console.show_progress("1 done")
    clock.advance(LIVE_SECONDS / 2)
    console.show_progress("not yet")
    clock.advance(LIVE_SECONDS / 2)
    console.show_progress("2 done")
    assert terminal.read() == "\r\x1b[K1 done\r\x1b[K2 done"


def test_a_line_that_stays_takes_the_place_of_the_live_line(terminal, clock):
    console = open_console(terminal, terminal)
    console.show_progress("1 done")
    console.print_line("task 1 failed")
    console.print_line("task 2 failed")
    text = terminal.read().removeprefix("\r\x1b[K1 done")
    assert text == "\r\x1b[Kmpifarm: task 1 failed\nmpifarm: task 2 failed\n"


def test_a_complaint_clears_the_live_line_and_a_file_gets_no_escapes(
    terminal, err, clock
):
    console = open_console(terminal, err)
    console.show_progress("1 done")
    terminal.read()
    console.print_error("a defect")
    assert err.read() == "mpifarm: a defect\n"
    assert terminal.read() == "\r\x1b[K"


def test_a_live_line_is_as_wide_as_the_terminal_is_now(terminal, clock):
    console = open_console(terminal, terminal)
    for columns in (20, 200, 10):
        set_columns(terminal, columns)
        console.show_progress("x" * 300)
        clock.advance(LIVE_SECONDS)
        assert terminal.read() == "\r\x1b[K" + "x" * (columns - 1)


def test_the_last_parts_are_left_out_where_a_live_line_is_too_long(terminal, clock):
    console = open_console(terminal, terminal)
    for columns, shown in ((20, "1 done, 2 min left"), (19, "1 done, 2 min left")):
        set_columns(terminal, columns)
        console.show_progress("1 done, 2 min left, 1 to 3 min")
        clock.advance(LIVE_SECONDS)
        assert terminal.read() == f"\r\x1b[K{shown}"
    set_columns(terminal, 18)
    console.show_progress("1 done, 2 min left, 1 to 3 min")
    assert terminal.read() == "\r\x1b[K1 done"


def set_columns(terminal: Ends, columns: int) -> None:
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(terminal.writer, termios.TIOCSWINSZ, size)


def test_a_terminal_that_is_not_read_is_offered_no_more_states(terminal, clock):
    console = open_console(terminal, terminal)
    termios.tcflow(terminal.writer, termios.TCOOFF)
    for number in range(2000):
        console.show_progress(f"state {number}")
        clock.advance(1.0)
    termios.tcflow(terminal.writer, termios.TCOON)
    shown = terminal.read().count("state")
    console.show_progress("state now")
    assert shown < 100
    assert terminal.read().endswith("state now")


# ---- behind a launcher ---------------------------------------------------------------

BEHIND = Destination(Place.FORWARDED, "/dev/null")


def test_a_launcher_gets_whole_lines_and_the_cursor_stays_on_the_live_line(out, clock):
    console = Console(prints=True, place=BEHIND, out=out.writer, err=out.writer)
    console.begin_farm("auto", BEHIND)
    console.show_progress("1 done")
    assert out.read() == "\r\x1b[K1 done\x1b[A\n"
    console.print_error("rank 3 is lost")
    assert out.read() == "\r\x1b[K\x1b[A\nmpifarm: rank 3 is lost\n"
    clock.advance(LIVE_SECONDS)
    console.show_progress("2 done")
    console.print_line("the end")
    assert out.read() == "\r\x1b[K2 done\x1b[A\n\r\x1b[Kmpifarm: the end\n"


# ---- when a state is shown, and how --------------------------------------------------

LOG, UNKNOWN = Destination(Place.LOG), Destination(Place.UNKNOWN)
TERMINAL = Destination(Place.TERMINAL, "/dev/null")


def shown_at(out: Ends, clock: Clock, place: Destination, progress: str) -> list[float]:
    """Show a state each second for 15 min; return when one was printed."""
    console = Console(prints=True, place=place, out=out.writer, err=out.writer)
    console.begin_farm(progress, place)
    begun, moments = clock.now, []
    for _ in range(900):
        console.show_progress("a state")
        if out.read():
            moments.append(clock.now - begun)
        clock.advance(1.0)
    return moments


def gaps(moments: list[float]) -> list[float]:
    return [later - before for before, later in pairwise([0.0, *moments])]


@pytest.mark.parametrize("progress", ["auto", "bar", "lines"])
def test_a_log_has_a_state_each_half_minute(out, clock, progress):
    moments = shown_at(out, clock, LOG, progress)
    assert moments[:3] == [5, 35, 65]
    assert set(gaps(moments)) == {5, 30}


@pytest.mark.parametrize("place", [TERMINAL, BEHIND])
def test_a_terminal_has_a_line_each_ten_seconds_where_lines_are_wanted(
    out, clock, place
):
    assert max(gaps(shown_at(out, clock, place, "lines"))) <= 10


def test_an_unknown_place_has_a_line_each_ten_seconds_and_later_each_minute(out, clock):
    moments = shown_at(out, clock, UNKNOWN, "auto")
    early = [moment for moment in moments if moment < 600]
    assert max(gaps(early)) <= 10
    assert set(gaps(moments)[len(early) + 1 :]) == {59}


@pytest.mark.parametrize("place", [TERMINAL, BEHIND, UNKNOWN])
def test_a_live_line_comes_each_second_where_it_is_wanted(out, clock, place):
    assert len(shown_at(out, clock, place, "bar")) == 900


@pytest.mark.parametrize("place", [TERMINAL, BEHIND, UNKNOWN, LOG])
def test_no_state_comes_where_none_is_wanted(out, clock, place):
    assert shown_at(out, clock, place, "off") == []


@pytest.mark.parametrize("place", [UNKNOWN, LOG])
def test_each_line_of_a_log_has_the_time_of_day_once_a_farm_has_begun(
    out, err, place, monkeypatch
):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    console = Console(prints=True, place=place, out=out.writer, err=err.writer)
    console.print_line("before")
    console.begin_farm("auto", place)
    console.print_line("a")
    console.print_error("b")
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+05:30"
    assert re.fullmatch(rf"mpifarm: before\n{moment} mpifarm: a\n", out.read())
    assert re.fullmatch(rf"{moment} mpifarm: b\n", err.read())
    monkeypatch.undo()
    time.tzset()


# ---- a terminal that does not read ---------------------------------------------------


@pytest.mark.parametrize("length", [10, 80, 1000, 4000])
def test_a_terminal_that_is_not_read_blocks_nobody(terminal, err, length):
    console = open_console(terminal, err)

    def say_much() -> None:
        for number in range(2000):
            console.print_line(f"{number} {'x' * length}")

    finished = finishes(say_much)
    terminal.close_reader()  # lets a thread that hangs go
    assert finished


def test_a_terminal_that_is_stopped_by_ctrl_s_blocks_nobody(terminal, err):
    console = open_console(terminal, err)
    termios.tcflow(terminal.writer, termios.TCOOFF)

    def say_much() -> None:
        for number in range(200):
            console.print_line(f"{number}")

    assert finishes(say_much)
    assert terminal.read() == ""
    termios.tcflow(terminal.writer, termios.TCOON)
    console.print_line("last")
    assert terminal.read().splitlines()[-1] == "mpifarm: last"


def test_a_terminal_that_hangs_up_raises_nothing(terminal, err):
    console = open_console(terminal, err)
    terminal.close_reader()
    for _ in range(100):
        console.print_line("x" * 1000)
    console.show_progress("y")
    console.close()


def test_the_flags_of_the_descriptors_are_left_alone(out, err):
    """The shell, the launcher and other commands of a pipeline share them."""
    before = fcntl.fcntl(out.writer, fcntl.F_GETFL)
    console = open_console(out, err)
    console.print_line("a")
    console.close()
    assert fcntl.fcntl(out.writer, fcntl.F_GETFL) == before


def test_python_ignores_sigpipe_as_the_console_relies_on():
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
