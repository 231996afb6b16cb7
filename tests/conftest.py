"""Fixtures of all tests.

Rules of this file: a test gets a clean environment, starts processes only through
`farm_processes`, and at its end all of them are gone, killed by pid.
"""

import importlib.metadata
import json
import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.farm_driver import FarmDriver, Mpirun
from tests.leavings import leavings, remove
from tests.recorded_terminal import Recorder
from tests.required import need_launcher
from tests.support import (
    ROOT,
    TOKEN_VARIABLE,
    Launch,
    Launcher,
    Processes,
    clean_environment,
    find_debian_openmpi,
    find_plain_python,
    plain_missing,
)

# Under nohup or behind "&" some signals are ignored, here and in every child; the tests
# say themselves when one is to be.
for _signum in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_signum, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests play the same examples in every run: a red run comes from a change.
# RANDOM_EXAMPLES=20000 (`make test-long`) draws that many new ones.  How long one takes
# says nothing: a machine that stalls would fail any of them.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fixed", settings.get_profile("untimed"), derandomize=True)
settings.register_profile(
    "random",
    settings.get_profile("untimed"),
    max_examples=int(os.environ.get("RANDOM_EXAMPLES", "100")),
)
settings.load_profile("random" if "RANDOM_EXAMPLES" in os.environ else "fixed")


@pytest.fixture(scope="session", autouse=True)
def leave_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove what the ranks and launchers that were killed have left, when all is over.

    Where the tests run in ranks themselves, none of them kills any.
    """
    before = leavings()
    yield
    if not request.config.getoption("--with-mpi", default=False):
        remove(leavings() - before)


@pytest.fixture
def farm_token() -> str:
    """What tells this test's processes from all others: see `survivors`."""
    return uuid.uuid4().hex


@pytest.fixture
def farm_environment(farm_token: str) -> dict[str, str]:
    """A clean environment: no lock area but the workdir's, no launcher's variables."""
    return create_environment(farm_token)


def create_environment(token: str) -> dict[str, str]:
    """A clean environment, in which the package that is tested is found."""
    env = clean_environment(os.environ)
    env[TOKEN_VARIABLE] = token
    env["TERM"] = "xterm"
    if not _is_installed():
        env["PYTHONPATH"] = str(ROOT)
    return env


def _is_installed() -> bool:
    """Whether the package is found without the checkout as current directory.

    That of another checkout, installed to be edited, is not the one that is tested.
    """
    try:
        found = importlib.metadata.distribution("mpifarm")
    except importlib.metadata.PackageNotFoundError:
        return False
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    is_editable = origin.get("dir_info", {}).get("editable", False)
    return not is_editable or origin["url"] == ROOT.as_uri()


@pytest.fixture
def farm_processes(
    tmp_path: Path, farm_environment: dict[str, str]
) -> Iterator[Processes]:
    """Start a process: ``farm_processes(argv, env=..., cwd=...)``."""
    processes = Processes(tmp_path, farm_environment)
    yield processes
    processes.end()


@pytest.fixture
def farm(
    tmp_path: Path, farm_processes: Processes, farm_environment: dict[str, str]
) -> FarmDriver:
    """A directory for a tasklist, and farms of one process over it."""
    return FarmDriver(tmp_path / "a place", farm_processes, farm_environment)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A terminal of 80 columns that records what is written to it."""
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture
def mpirun(farm_environment: dict[str, str]) -> Mpirun:
    """Put a command under the MPI of the running environment.

    ``mpirun(4, sys.executable, "-m", "mpifarm", ...)`` is a `Launch`: argv and env.
    """
    launcher = need_launcher()
    return _bound(launcher, farm_environment)


@pytest.fixture
def debian_mpirun(farm_environment: dict[str, str]) -> Mpirun:
    """The same with Debian's Open MPI."""
    launcher = find_debian_openmpi()
    if launcher is None:
        pytest.skip("Debian's openmpi-bin is not installed")
    return _bound(launcher, farm_environment)


def _bound(launcher: Launcher, env: Mapping[str, str]) -> Mpirun:
    def launch(ranks: int, *args: str) -> Launch:
        return launcher(env, ranks, *args)

    return launch


@pytest.fixture(params=["0.0.1", "0.1.0"])
def plain_farmer(request: pytest.FixtureRequest) -> list[str]:
    """The first arguments of a PyTaskFarmer, one version after the other."""
    python = find_plain_python(request.param)
    if python is None:
        pytest.skip(plain_missing(request.param))
    return [str(python), str(python.parent / "pytaskfarmer.py")]
