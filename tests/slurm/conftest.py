"""A real Slurm for the tests of this directory: sixteen nodes on this machine.

Rules of this file: one cluster for all tests; it ends with this process, however that
ends.  A test's jobs are cancelled at its end, and what they have left is killed by pid.
"""

import getpass
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from tests.farm_driver import FarmDriver
from tests.slurm.batch import Job, Slurm
from tests.support import TOKEN_VARIABLE, clean_environment, kill_survivors

NODES = 16
CPUS = 4

QUICK = 10
"""Tasks that are done when a signal comes."""

ENDS_SOON = "sleep 0.2"
"""Not at once: what follows tasks of a millisecond may wait in line behind another."""

WAITS = "touch started.$PROC_NUMBER; [ -e go ] || sleep 1000"
"""Runs for ever, until the test says go."""

GAP_NODES = ("n15", "n16")
"""They have room for a job of a minute, and not for one of half an hour."""

SRUN = "srun --mpi=pmi2 python -m mpifarm tasks.txt -n 2"

SUBMISSIONS = {
    "signal to the ranks": ("-N", "2", "jobs/multinode.slurm", "tasks.txt", "-n", "2"),
    "signal to the shell": ("-c", "2", "jobs/array.slurm", "tasks.txt"),
    "no signal": ("-N", "2", "--ntasks-per-node=1", "--exclusive", "--wrap", SRUN),
    "requeue": (
        *("--time=30", "--time-min=1", f"--nodelist={','.join(GAP_NODES)}"),
        *("jobs/requeue.slurm", "tasks.txt", "-n", "2"),
    ),
}
"""What is submitted with a time limit of a minute, or shortened to that."""

LIMITED_LIST = [ENDS_SOON] * QUICK + [
    f'[ "$SLURM_RESTART_COUNT" ] || {{ {WAITS}; }}'
] * 8
"""The tasks that wait don't in a job that was requeued."""

PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "squeue")


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ``slurm.conf`` of the cluster."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"no Slurm here (Debian's slurm-wlm): no {', '.join(missing)}")
    if not Path(sys.prefix, "bin", "mpiexec.hydra").exists():
        pytest.skip(f"srun --mpi=pmi2 wants MPICH, which is not in {sys.prefix}")
    script = str(Path(__file__).with_name("cluster"))
    errors = tmp_path_factory.mktemp("slurm") / "errors.txt"
    with errors.open("wb") as stderr:
        cluster = subprocess.Popen(
            [script, "hold", str(NODES), str(CPUS)],
            env=clean_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    line = cluster.stdout.readline()
    assert line.startswith("export SLURM_CONF="), errors.read_text()
    yield line.partition("=")[2].strip()
    cluster.stdin.close()
    assert cluster.wait(60) == 0, errors.read_text()
    cluster.stdout.close()


@pytest.fixture
def farm(tmp_path, farm_processes, farm_token):
    """A tasklist, where jobs find it as ``tasks.txt``."""
    driver = FarmDriver(tmp_path / "a place", farm_processes, farm_token)
    driver.directory.mkdir()
    return driver


@pytest.fixture
def slurm(slurm_conf, farm_environment, farm) -> Iterator[Slurm]:
    """The cluster; jobs run beside the tasklist of `farm`."""
    slurm = create_slurm(slurm_conf, farm_environment, farm.directory)
    yield slurm
    slurm.cancel_all()


def create_slurm(conf: str, environment: dict[str, str], directory: Path) -> Slurm:
    """`python` is the running environment's, in jobs too."""
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    # Slurm sets TMPDIR, which would be the lock area
    own = {"SLURM_CONF": conf, "PATH": path, "SCRATCH": str(directory)}
    return Slurm({**environment, **own}, directory)


# ---- jobs with a time limit ----------------------------------------------------------


class Limited(NamedTuple):
    """A job with a time limit of a minute, and the farm in it."""

    farm: FarmDriver
    slurm: Slurm
    job: Job


@pytest.fixture(scope="session")
def limited(slurm_conf, tmp_path_factory) -> Iterator[dict[str, Limited]]:
    """The jobs of `SUBMISSIONS`, all busy until something ends them."""
    base = tmp_path_factory.mktemp("limits")
    slurm = create_slurm(slurm_conf, clean_environment(os.environ), base)
    with reserved_soon(slurm, GAP_NODES):
        jobs = {
            name: submit_limited(slurm_conf, base / name, argv)
            for name, argv in SUBMISSIONS.items()
        }
        for job in jobs.values():
            job.job.wait_until_running()
    yield jobs
    for job in jobs.values():
        job.slurm.cancel_all()
        kill_survivors(job.farm.token)


@pytest.fixture(scope="session", autouse=True)
def begin_early(request):
    """They take a minute and a half, so they begin before the first test."""
    if any("limited" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("limited")


@contextmanager
def reserved_soon(slurm: Slurm, nodes: tuple[str, ...]) -> Iterator[None]:
    """The nodes are someone's from the third minute on."""
    when = ("StartTime=now+3minutes", "Duration=60", f"Users={getpass.getuser()}")
    where = ("ReservationName=soon", f"Nodes={','.join(nodes)}")
    slurm.ask("scontrol", "create", "reservation", *where, *when)
    yield
    slurm.ask("scontrol", "delete", "ReservationName=soon")


def submit_limited(conf: str, directory: Path, argv: tuple[str, ...]) -> Limited:
    token = uuid.uuid4().hex
    farm = FarmDriver(directory, start_nothing, token)
    farm.write_list(LIMITED_LIST)
    environment = clean_environment(os.environ) | {TOKEN_VARIABLE: token}
    slurm = create_slurm(conf, environment, directory)
    return Limited(farm, slurm, slurm.submit("--time=1", *argv))


def start_nothing(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError("these farms run in jobs")
