"""Where a farm's words go: a terminal, a file, a pipe, nowhere; it goes on anyway."""

import os
import re
import signal
import sys

import pytest

from tests.farm_driver import MPIFARM
from tests.recorded_terminal import STATE
from tests.support import survivors, wait_until

ON_A_TERMINAL = """
import os, pty, select, sys
keys = os.open(sys.argv[1], os.O_RDWR)
pid, master = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
while True:
    try:
        ready = select.select([master, keys], [], [])[0]
        if master in ready:
            os.write(1, os.read(master, 65536))
        if keys in ready:
            os.write(master, os.read(keys, 100))
    except OSError:
        break
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
"""
"""Runs a command on a terminal of its own: what it shows goes to stdout, what comes in
by the FIFO was typed."""

WITH_STDOUT_AT = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_NOCTTY), int(sys.argv[2]))
os.execv(sys.argv[3], sys.argv[3:])
"""

TIMED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d mpifarm: .*")

SLEEP = "echo $$ >> begun; exec sleep 1000"

WAITS = "until [ -e go ]; do sleep 0.02; done"


def shown(farm):
    """What it has printed, carriage returns and all."""
    return farm.output.read_bytes().decode()


@pytest.fixture
def start_on_terminal():
    """Start a farm on a terminal, and a function that types."""

    def start(place, *options, before=()):
        fifo = place.directory / "keys"
        os.mkfifo(fifo)
        wrapped = (sys.executable, "-c", ON_A_TERMINAL, str(fifo), *before)
        farm = place.start(*options, before=wrapped)

        def type_keys(keys):
            descriptor = os.open(fifo, os.O_WRONLY)
            os.write(descriptor, keys)
            os.close(descriptor)

        return farm, type_keys

    return start


# ---- a terminal ----------------------------------------------------------------------


def test_a_terminal_shows_one_live_line_that_gives_way_to_the_summary(
    create_place, start_on_terminal
):
    place = create_place([*["true"] * 4, *[WAITS] * 8])
    farm, _ = start_on_terminal(place, "--proc", "2")

    def find_states():
        live = r"\r\x1b\[K(\d+)/12 done, 0 failed, (\d+) running"
        return re.findall(live, shown(farm))

    wait_until(lambda: len({done for done, _ in find_states()}) >= 2)
    place.allow()
    assert farm.wait() == 0
    text, states = shown(farm), find_states()
    done = [int(state[0]) for state in states]
    assert done == sorted(done)
    assert max(int(state[1]) for state in states) >= 2
    assert "tasks/s" in text
    # as the terminal has it in the end: what was overwritten is gone
    lines = text.replace("\r\n", "\n").split("\n")
    left = [line.rpartition("\x1b[K")[2] for line in lines]
    assert not [line for line in left if "/12 done" in line]
    assert "exit status 0" in left[-2]


def test_the_live_line_fits_a_usual_terminal(create_place, start_on_terminal):
    place = create_place([*["exit 1"] * 40, *[f"{WAITS}; exit 1"] * 20])
    farm, _ = start_on_terminal(place, "--proc", "4")

    def find_lives():
        return re.findall(r"\r\x1b\[K(\d+/60 done[^\r\n]*)", shown(farm))

    wait_until(lambda: any(live.startswith("40/") for live in find_lives()))
    place.allow()
    assert farm.wait() == 1
    lives = find_lives()
    # a line that wraps can't be overwritten
    assert max(map(len, lives)) < 80


def test_ctrl_c_stops_the_farm_and_its_commands(
    create_place, start_on_terminal, farm_token
):
    place = create_place([SLEEP] * 4)
    farm, type_keys = start_on_terminal(place)
    place.await_notes("begun", 4)
    type_keys(b"\x03")
    assert farm.wait() == 75
    assert place.ids("toprocess") == [0, 1, 2, 3]
    place.assert_sound()
    wait_until(lambda: not survivors(farm_token))


def test_a_terminal_that_is_closed_stops_the_farm_in_order(
    create_place, start_on_terminal, farm_token
):
    place = create_place([SLEEP] * 4)
    terminal, _ = start_on_terminal(place)
    place.await_notes("begun", 4)
    terminal.send_signal(signal.SIGKILL)
    wait_until(lambda: not survivors(farm_token))
    assert place.ids("toprocess") == [0, 1, 2, 3]
    assert place.claims() == []
    assert place.result()["exit_status"] == 75


@pytest.fixture
def silent_terminal():
    """The name of a terminal that nobody reads (Ctrl-S, a window that hangs)."""
    master, slave = os.openpty()
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("descriptor", ["1", "2"])
def test_a_terminal_that_nobody_reads_does_not_hold_up_the_farm(
    create_place, silent_terminal, descriptor
):
    place = create_place(["true"] * 2000)
    before = (sys.executable, "-c", WITH_STDOUT_AT, silent_terminal, descriptor)
    farm = place.start("--verbose", before=before)
    assert farm.wait() == 0
    assert place.finished() == list(range(2000))


def test_a_terminal_is_told_of_the_state_each_second(create_place, recorder):
    place = create_place([WAITS] * 12)
    launch = place.alone(1, *MPIFARM, "-n", "2", str(place.tasklist))

    def await_states():  # a file gets one each half minute
        if len(STATE.findall(recorder.text)) >= 5:
            place.allow()

    child = place.start_command(recorder.put_before(launch))
    assert recorder.record(child, await_states) == 0
    screen = recorder.screen()
    assert all(line.startswith("mpifarm: ") for line in screen if line), screen
    assert "exit status 0" in screen[-2]


def test_a_quiet_farm_tells_of_what_failed_alone(create_place):
    place = create_place(["true", "exit 3"])
    assert place.run("--quiet") == 1
    farm = place.start("--quiet", "--retries", "0")
    assert farm.wait() == 1
    assert "exit status 1" in farm.text()
    assert "1 rank of" not in farm.text()


def test_quiet_and_verbose_contradict_each_other(create_place):
    place = create_place(["true"])
    farm = place.start("--quiet", "-v")
    assert farm.wait() == 2
    assert "leave one out" in farm.text()


# ---- a file --------------------------------------------------------------------------


def test_a_file_gets_plain_lines_only(create_place):
    place = create_place(["sleep 0.4"] * 4)
    farm = place.start("--proc", "1")
    assert farm.wait() == 0
    text = shown(farm)
    assert "\x1b" not in text
    assert "\r" not in text
    assert all(TIMED.fullmatch(line) for line in text.splitlines())


def test_verbose_gives_a_line_for_each_task(create_place):
    place = create_place(["true", "exit 3", "kill -9 $$"])
    farm = place.start("--verbose")
    assert farm.wait() == 1
    host = os.uname().nodename
    lines = [line for line in farm.text().splitlines() if f" on {host}, worker" in line]
    assert len(lines) == 6
    [begun, ended] = [line for line in lines if "task 1 " in line]
    assert re.search(r"task 1 began at \d\d:\d\d:\d\d on .*, worker \d: exit 3$", begun)
    assert re.search(
        r"task 1 failed \(exit status 3\) after .* s on .*, worker \d$", ended
    )


def test_a_command_with_control_characters_does_not_reach_the_terminal(create_place):
    place = create_place(["printf '\x1b[2Jx'; exit 1", "true \x07\x1b]0;title\x07"])
    farm = place.start("--verbose")
    assert farm.wait() == 1
    assert "\x1b" not in farm.text()


# ---- pipes ---------------------------------------------------------------------------


def through(shell):
    return ("/bin/bash", "-c", shell, "bash")


def test_a_reader_that_leaves_does_not_end_the_farm(create_place):
    place = create_place(["sleep 0.002"] * 400)
    before = through('"$@" --verbose | head -1; exit ${PIPESTATUS[0]}')
    farm = place.start(before=before)
    assert farm.wait() == 0
    assert farm.text().count("\n") == 1
    assert place.finished() == list(range(400))


def test_a_reader_that_was_never_there_does_not_end_the_farm(create_place):
    place = create_place(["sleep 0.01"] * 100)
    before = through('"$@" 2>&1 | true; exit ${PIPESTATUS[0]}')
    assert place.run("--verbose", before=before) == 0


@pytest.mark.parametrize("redirection", ["> pipe", "> pipe 2>&1", "2> pipe"])
def test_a_pipe_that_nobody_reads_does_not_hold_up_the_farm(create_place, redirection):
    place = create_place(["true"] * 1500)
    os.mkfifo(place.directory / "pipe")
    reader = os.open(place.directory / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        before = through(f'exec "$@" {redirection}')
        assert place.run("--verbose", before=before) == 0
        assert place.finished() == list(range(1500))
    finally:
        os.close(reader)


def test_a_slow_reader_gets_whole_lines(create_place):
    place = create_place(["true"] * 1500)
    before = through('"$@" --verbose | (sleep 1; cat); exit ${PIPESTATUS[0]}')
    farm = place.start(before=before)
    assert farm.wait() == 0
    lines = farm.text().splitlines()
    assert all(TIMED.fullmatch(line) for line in lines)
    assert "exit status 0" in lines[-1]
    assert len([line for line in lines if " finished after " in line]) == 1500


def test_a_full_disk_under_the_log_does_not_end_the_farm(create_place):
    place = create_place(["true"] * 5)
    assert place.run(before=through('exec "$@" > /dev/full 2>&1')) == 0
    assert place.finished() == list(range(5))


def test_an_error_is_told_on_stderr_though_stdout_is_gone(create_place):
    place = create_place(["true"])
    place.tasklist.unlink()
    farm = place.start(before=through('exec "$@" >&-'))
    assert farm.wait() == 2
    assert "no such file" in farm.text()
