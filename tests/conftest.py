"""Fixtures of all tests.

Rules of this file: a test gets a clean environment, starts processes only through
`farm_processes`, and at its end all of them are gone, killed by pid.
"""

import importlib.metadata
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from tests.leavings import leavings, remove
from tests.support import (
    ROOT,
    TOKEN_VARIABLE,
    Child,
    Launch,
    Launcher,
    clean_environment,
    find_debian_openmpi,
    find_launcher,
    find_plain_python,
    kill_survivors,
    plain_missing,
)

# Under nohup or behind "&" some signals are ignored, here and in every child; the tests
# say themselves when one is to be.
for _signum in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_signum, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests play the same examples in every run: a red run comes from a change.
# RANDOM_EXAMPLES=20000 (`make test-long`) draws that many new ones.
settings.register_profile("fixed", derandomize=True)
settings.register_profile(
    "random", max_examples=int(os.environ.get("RANDOM_EXAMPLES", "100"))
)
settings.load_profile("random" if "RANDOM_EXAMPLES" in os.environ else "fixed")

Mpirun = Callable[..., Launch]
StartFarm = Callable[..., Child]


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
    env = clean_environment(os.environ)
    env[TOKEN_VARIABLE] = farm_token
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
    tmp_path: Path, farm_environment: dict[str, str], farm_token: str
) -> Iterator[StartFarm]:
    """Start a process in its own session: ``farm_processes(argv, env=..., cwd=...)``.

    Takes a `Launch` as well.  `env` is the whole environment, `farm_environment` when
    there is none.
    """
    started: list[Child] = []

    def start(
        command: Launch | list[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = tmp_path,
    ) -> Child:
        if not isinstance(command, Launch):
            command = Launch(command, dict(farm_environment if env is None else env))
        output = tmp_path / f"output-{len(started)}.txt"
        child = Child(command, cwd, output)
        started.append(child)
        return child

    yield start
    for child in started:
        child.end()
    # ranks and commands have sessions of their own
    kill_survivors(farm_token)


@pytest.fixture
def mpirun(farm_environment: dict[str, str]) -> Mpirun:
    """Put a command under the MPI of the running environment.

    ``mpirun(4, sys.executable, "-m", "mpifarm", ...)`` is a `Launch`: argv and env.
    """
    launcher = find_launcher()
    if launcher is None:
        pytest.skip(f"no MPI wheel in {sys.prefix}")
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
