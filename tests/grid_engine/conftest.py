"""A real Grid Engine for the tests of this directory: one host, this machine.

Rules of this file: one cell for all tests, in a directory of its own; it ends with this
process, however that ends.  A test's jobs are deleted at its end, and what they have
left is killed by pid.
"""

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from tests import clusters, required
from tests.conftest import create_environment
from tests.farm_driver import FarmDriver
from tests.grid_engine.batch import DEADLINE, GridEngine, Job
from tests.support import kill_survivors, wait_until

PROGRAMS = ("qsub", "qstat", "qdel", "qconf", "qacct", "sge_qmaster", "sge_execd")

PACKAGES = "Debian's gridengine-master, gridengine-exec, gridengine-client"

QUICK = 4
"""Tasks that are done before a job is to end."""

HOLDS_ONCE = (
    'touch started.$PROC_NUMBER; [ "$RESTARTED" = 1 ] || until [ -e go ]; do sleep 0.5;'
    " done"
)
"""Runs for ever in the first run of a job, and not in the next."""


def find_lack(programs: tuple[str, ...]) -> str:
    """What these tests want and this machine has not; "" if it has all."""
    grid_engine = f"Grid Engine here ({PACKAGES})"
    return clusters.find_lack(programs, grid_engine, "the job of several ranks")


def skip_where_allowed(lack: str) -> NoReturn:
    """Skip the test, or fail it where Grid Engine is required."""
    required.skip_where_allowed("grid_engine", lack)


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables that make qsub and qstat use the test cell."""
    if lack := find_lack(PROGRAMS):
        skip_where_allowed(lack)
    script = Path(__file__).with_name("cluster")
    errors = tmp_path_factory.mktemp("grid-engine") / "errors.txt"
    with clusters.hold(script, errors, "SGE_ROOT", deadline=DEADLINE) as variables:
        yield variables


@pytest.fixture
def grid_engine(cell, farm_environment, farm) -> Iterator[GridEngine]:
    """The cell; jobs run beside the tasklist of `farm`."""
    grid_engine = create_grid_engine(cell, farm_environment, farm.directory)
    yield grid_engine
    grid_engine.delete_all()


def create_grid_engine(
    cell: dict[str, str], environment: dict[str, str], directory: Path
) -> GridEngine:
    """`python` and `mpifarm` are the running environment's, as users type them."""
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    # Grid Engine sets TMPDIR, which would be the lock area.
    own = {**cell, "PATH": path, "SCRATCH": str(directory)}
    return GridEngine({**environment, **own}, directory)


# ---- a job that begins early ---------------------------------------------------------


class Early(NamedTuple):
    """A job that was submitted before the first test, and the farm in it."""

    farm: FarmDriver
    job: Job

    def is_busy(self) -> bool:
        """Whether tasks are in the middle, and those before them are recorded."""
        return bool(self.farm.marks("started")) and len(self.farm.finished()) == QUICK


@pytest.fixture(scope="session", autouse=True)
def begin_early(request):
    """It takes more than a minute, so it begins before the first test."""
    wanted = {name for item in request.session.items for name in item.fixturenames}
    if "limited" in wanted and not find_lack(PROGRAMS):
        request.getfixturevalue("limited")


@pytest.fixture(scope="session")
def limited(cell, tmp_path_factory) -> Iterator[Early]:
    """A job of two minutes that is busy until its limit, and goes on by itself."""
    environment = create_environment(uuid.uuid4().hex)
    directory = tmp_path_factory.mktemp("limit")
    farm = FarmDriver(directory, start_nothing, environment)
    farm.write_list(["true"] * QUICK + [HOLDS_ONCE] * 2)
    grid_engine = create_grid_engine(cell, environment, directory)
    words = ("-t", "2", "-c", "2", "--until-done", "tasks.txt")
    early = Early(farm, grid_engine.submit(*words))
    wait_until(early.is_busy, DEADLINE)
    yield early
    grid_engine.delete_all()
    kill_survivors(farm.token)


def start_nothing(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError("this farm runs in a job")
