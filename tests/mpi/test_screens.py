"""What a user sees of a farm under a launcher, on a terminal and in a log.

Rules of this file: whether the launcher passes a live line on, each launcher shows: a
farm's tasks end when enough of it was seen.  What is drawn, and when, is tested without
one (`tests/unit/system/test_console.py`).
"""

import re
import time

import pytest

from tests.farm_driver import MPIFARM
from tests.recorded_terminal import STATE
from tests.support import wait_until

RANKS = 2
WORKERS = 2

TIMED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d mpifarm: .*")

each_launcher = pytest.mark.parametrize(
    "launcher", ["mpirun", pytest.param("debian_mpirun", marks=pytest.mark.one_mpi)]
)


@pytest.fixture
def start(farm, request):
    """Start a farm whose tasks wait, all of it on a terminal or in a log."""

    def start(*options, launcher="mpirun", before=lambda launch: launch):
        farm.write_list(["until [ -e go ]; do sleep 0.05; done"] * 16)
        argv = [*MPIFARM, "-n", str(WORKERS), *options, str(farm.tasklist)]
        launch = request.getfixturevalue(launcher)(RANKS, *argv)
        return farm.start_command(before(launch))

    return start


@pytest.fixture
def record(farm, recorder):
    """Record a farm whose tasks end after so many states; return its exit status."""

    def record(child, *, states):
        return recorder.record_states(child, states, farm.allow)

    return record


@each_launcher
def test_a_terminal_behind_the_launcher_has_a_live_line(
    start, recorder, record, launcher
):
    child = start(launcher=launcher, before=recorder.put_before)
    assert record(child, states=3) == 0
    screen = recorder.screen()
    assert not [line for line in screen if STATE.search(line)]
    assert [line for line in screen if line and not line.startswith("mpifarm: ")] == []
    assert screen[-2] == "mpifarm: exit status 0: all tasks of the list are finished"


def test_a_live_line_stays_within_a_terminal_that_gets_narrow(start, recorder, record):
    child = start(before=recorder.put_before)
    recorder.resize(30)
    assert record(child, states=3) == 0
    states = re.findall(r"\x1b\[K(\d+/\d+ done[^\x1b\r\n]*)", recorder.text)
    assert states
    assert {len(state) for state in states} <= {*range(1, 30)}


@pytest.mark.one_mpi
def test_a_terminal_gets_lines_that_stay_where_they_are_wanted(start, recorder, record):
    child = start("--progress", "lines", before=recorder.put_before)
    assert record(child, states=1) == 0
    assert "\x1b" not in recorder.text
    assert [line for line in recorder.screen() if STATE.search(line)]


@each_launcher
def test_a_log_gets_lines_with_the_time_and_no_control_character(farm, start, launcher):
    child = start("--progress", "bar", launcher=launcher)
    wait_until(lambda: STATE.search(child.text()))
    farm.allow()
    assert child.wait() == 0
    text = child.text()
    assert text.replace("\n", "").isprintable()
    assert all(TIMED.fullmatch(line) for line in text.splitlines()), text
    assert STATE.search(text)


@pytest.mark.one_mpi
def test_a_quiet_farm_that_finishes_all_prints_nothing(farm, start, recorder):
    child = start("--quiet", before=recorder.put_before)
    time.sleep(1)  # more than a live line would wait for
    farm.allow()
    assert recorder.record(child) == 0
    assert recorder.text == ""


def test_a_dry_run_under_a_launcher_is_printed_once_and_names_its_variables(
    farm, mpirun
):
    farm.write_list(["env -0"])
    argv = [*MPIFARM, "-n", "1", str(farm.tasklist)]
    child = farm.start_command(mpirun(RANKS, *argv, "--dry-run"))
    assert child.wait() == 0, child.text()
    assert child.text().count("nothing was run") == 1
    assert not farm.workdir.exists()
    line = re.search(
        "^variables that commands don't get: (.*)$", child.text(), re.MULTILINE
    )
    assert line is not None
    names = set(line[1].split(", "))
    assert names & {"PMI_RANK", "OMPI_COMM_WORLD_RANK"}
    shown = dict(re.findall("^variable set: (.*?)=(.*)$", child.text(), re.MULTILINE))
    run = farm.start_command(mpirun(RANKS, *argv))
    assert run.wait() == 0, run.text()
    entries = farm.log(0).split("\0")
    environment = dict(entry.split("=", 1) for entry in entries if entry)
    assert not names & {*environment}
    assert shown.items() <= environment.items()
