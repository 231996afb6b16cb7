"""What a user sees of a farm under srun: it can't know whether there is a terminal."""

import sys

import pytest

from tests.recorded_terminal import STATE
from tests.support import Launch

FARM = (sys.executable, "-m", "mpifarm", "tasks.txt", "-n", "2")


@pytest.fixture
def launch(farm, slurm):
    """Return the command line of a farm of 24 s on two nodes."""

    def create(*options):
        farm.write_list(["sleep 1"] * 96)
        words = ["srun", "-N", "2", "--mpi=pmi2", *FARM, *options]
        return Launch(words, {**slurm.environment, "TERM": "xterm"})

    return create


def test_a_terminal_has_a_line_at_least_each_ten_seconds(farm, launch, recorder):
    child = farm.start_command(recorder.put_before(launch()))
    assert recorder.record(child) == 0
    assert recorder.longest_gap() <= 10.5
    assert "\x1b" not in recorder.text
    assert len([line for line in recorder.screen() if STATE.search(line)]) >= 2


def test_a_terminal_has_a_live_line_where_it_is_wanted(farm, launch, recorder):
    child = farm.start_command(recorder.put_before(launch("--progress", "bar")))
    assert recorder.record(child) == 0
    assert recorder.longest_gap() < 5
    assert not [line for line in recorder.screen() if STATE.search(line)]
