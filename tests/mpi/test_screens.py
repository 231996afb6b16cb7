"""What a user sees of a farm under a launcher, on a terminal and in a log."""

import re

import pytest

from tests.farm_driver import MPIFARM
from tests.recorded_terminal import STATE

RANKS = 2

COUNT = 24

MOST = 4.0
"""Seconds between two states on a busy machine; a second apart on one that idles."""

TIMED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d mpifarm: .*")


@pytest.fixture(params=["mpirun", "debian_mpirun"])
def launcher(request):
    """Put a command under the MPI of the environment, and under Debian's."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def start(farm, launcher):
    """Start a farm of 6 s, all of it on a terminal or in a log."""
    farm.write_list(["sleep 1"] * COUNT)

    def start(*options, before=lambda launch: launch):
        launch = launcher(RANKS, *MPIFARM, "-n", "2", *options, str(farm.tasklist))
        return farm.start_command(before(launch))

    return start


def test_a_terminal_behind_the_launcher_has_a_live_line(start, recorder):
    child = start(before=recorder.put_before)
    assert recorder.record(child) == 0
    assert recorder.longest_gap() < MOST
    assert len(STATE.findall(recorder.text)) >= 4
    screen = recorder.screen()
    assert not [line for line in screen if STATE.search(line)]
    assert all(line.startswith("mpifarm: ") for line in screen if line)
    assert screen[-2] == "mpifarm: exit status 0: all tasks of the list are finished"


def test_a_live_line_stays_within_a_terminal_that_gets_narrow(start, recorder):
    child = start(before=recorder.put_before)
    recorder.resize(30)
    assert recorder.record(child) == 0
    states = re.findall(r"\x1b\[K(\d+/\d+ done[^\x1b\r\n]*)", recorder.text)
    assert {len(state) for state in states} <= {*range(1, 30)}


def test_a_terminal_gets_lines_that_stay_where_they_are_wanted(start, recorder):
    child = start("--progress", "lines", before=recorder.put_before)
    assert recorder.record(child) == 0
    assert "\x1b" not in recorder.text
    assert [line for line in recorder.screen() if STATE.search(line)]


@pytest.mark.parametrize("options", [(), ("--progress", "bar")])
def test_a_log_gets_lines_with_the_time_and_no_control_character(start, options):
    child = start(*options)
    assert child.wait() == 0
    text = child.text()
    assert text.replace("\n", "").isprintable()
    assert all(TIMED.fullmatch(line) for line in text.splitlines()), text
    assert STATE.search(text)


def test_a_quiet_farm_that_finishes_all_prints_nothing(start, recorder):
    child = start("--quiet", before=recorder.put_before)
    assert recorder.record(child) == 0
    assert recorder.text == ""
