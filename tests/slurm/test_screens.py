"""What a user sees of a farm under srun: it can't know whether there is a terminal."""

import sys

import pytest

from tests.recorded_terminal import STATE
from tests.support import Launch

FARM = (sys.executable, "-m", "mpifarm", "tasks.txt", "-n", "2")


@pytest.fixture
def launch(farm, slurm):
    """Return the command line of a farm on two nodes whose tasks wait."""

    def create(*options):
        farm.write_list(["until [ -e go ]; do sleep 0.1; done"] * 8)
        words = ["srun", "-N", "2", "--mpi=pmi2", *FARM, *options]
        return Launch(words, {**slurm.environment, "TERM": "xterm"})

    return create


@pytest.fixture
def record(farm, recorder):
    """Record a farm whose tasks end after so many states; return its exit status."""

    def record(launch, *, states):
        child = farm.start_command(recorder.put_before(launch))
        return recorder.record_states(child, states, farm.allow)

    return record


def test_a_terminal_has_lines_that_stay(launch, recorder, record):
    """When, is told without Slurm: ``test_an_unknown_place_has_a_line_each_…``."""
    assert record(launch(), states=1) == 0
    assert "\x1b" not in recorder.text
    assert [line for line in recorder.screen() if STATE.search(line)]


def test_a_terminal_has_a_live_line_where_it_is_wanted(launch, recorder, record):
    assert record(launch("--progress", "bar"), states=4) == 0
    assert not [line for line in recorder.screen() if STATE.search(line)]
