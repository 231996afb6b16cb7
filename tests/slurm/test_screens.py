"""What a user sees of a farm under srun: it can't know whether there is a terminal."""

import sys

import pytest

from tests.recorded_terminal import STATE
from tests.support import Launch

FARM = (sys.executable, "-m", "mpifarm", "tasks.txt", "-n", "2")


@pytest.fixture
def launch(farm, slurm):
    """Return the command line of a farm of so many seconds on two nodes."""

    def create(seconds, *options):
        farm.write_list(["sleep 1"] * (4 * seconds))
        words = ["srun", "-N", "2", "--mpi=pmi2", *FARM, *options]
        return Launch(words, {**slurm.environment, "TERM": "xterm"})

    return create


def test_a_terminal_has_lines_that_stay(farm, launch, recorder):
    """When, is told without Slurm: ``test_an_unknown_place_has_a_line_each_…``."""
    child = farm.start_command(recorder.put_before(launch(6)))
    assert recorder.record(child) == 0
    assert "\x1b" not in recorder.text
    assert [line for line in recorder.screen() if STATE.search(line)]


def test_a_terminal_has_a_live_line_where_it_is_wanted(farm, launch, recorder):
    child = farm.start_command(recorder.put_before(launch(3, "--progress", "bar")))
    assert recorder.record(child) == 0
    assert recorder.longest_gap() < 5
    assert not [line for line in recorder.screen() if STATE.search(line)]
