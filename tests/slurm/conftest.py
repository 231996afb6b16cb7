"""A real Slurm for the tests of this directory: eighteen nodes on this machine.

Rules of this file: one cluster for all tests, and a small one for those that ask on
which node something runs; both end with this process, however that ends.  A test's jobs
are cancelled at its end, and what they have left is killed by pid.
"""

import getpass
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from tests import clusters, required
from tests.conftest import create_environment
from tests.farm_driver import FarmDriver
from tests.slurm.batch import DEADLINE, Job, Slurm
from tests.support import (
    clean_environment,
    kill_survivors,
    wait_until,
)

NODES = 18
CPUS = 4

NAMED_NODES = 8
"""A job on all of them; or one on four, and one on a single node beside it."""

QUICK = 10
"""Tasks that are done when a signal comes."""

ENDS_SOON = "sleep 0.2"
"""Not at once: what follows tasks of a millisecond may wait in line behind another."""

WAITS = "touch started.$PROC_NUMBER; until [ -e go ]; do sleep 0.5; done"
"""Runs for ever, until the test says go: that may be late, too."""

GAP_NODES = ("n15", "n16")
"""They have room for a job of a minute, and not for one of half an hour."""

SRUN = "srun --mpi=pmi2 python -m mpifarm tasks.txt -n 2"

PLAIN_JOB = ("-N", "2", "--ntasks-per-node=1", "--exclusive")

FORMS = {
    "none of these": ("-N", "2", "-c", "1"),
    "--until-done": ("-N", "2", "-c", "1", "--until-done"),
    "--chain": ("-N", "2", "-c", "1", "--chain"),
    "--array": ("--array", "2", "-c", "1"),
    "--backfill": ("--backfill", "-c", "2"),
    "--supervise": ("-N", "2", "-c", "1", "--supervise"),
    "--supervise --until-done": ("-N", "2", "-c", "1", "--supervise", "--until-done"),
}
"""The forms of ``mpifarm submit``, as its page names them, with two workers each."""

OF_FORMS = ("tasks.txt", "--rank-timeout", "8")
"""The list and the farm's options behind each form."""

HOLDS_ONCE = (
    "me=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}/$SLURM_RESTART_COUNT;"
    ' ln -s "$me" first 2>/dev/null; touch started.$PROC_NUMBER;'
    ' [ "$(readlink first)" != "$me" ] || until [ -e go ]; do sleep 0.5; done'
)
"""Runs for ever in the first of the jobs, and of the runs of a job, that begins one."""

HOLDS_ONCE_LIST = [ENDS_SOON] * 4 + [HOLDS_ONCE] * 6

SUBMISSIONS = {
    "signal to the ranks": ("-N", "2", "jobs/multinode.slurm", "tasks.txt", "-n", "2"),
    "signal to the shell": ("-c", "2", "jobs/array.slurm", "tasks.txt"),
    "by itself": (*PLAIN_JOB, "--wrap", SRUN),
    "no signal": (*PLAIN_JOB, "--wrap", f"{SRUN} --deadline none"),
    "requeue": (
        *("--time=30", "--time-min=1", f"--nodelist={','.join(GAP_NODES)}"),
        *("jobs/requeue.slurm", "tasks.txt", "-n", "2"),
    ),
}
"""What is submitted with a time limit of a minute, or shortened to that."""

EARLY_LIST = [ENDS_SOON] * QUICK + [f'[ "$SLURM_RESTART_COUNT" ] || {{ {WAITS}; }}'] * 8
"""The tasks that wait don't in a job that was requeued."""

PROGRAMS = (
    *("slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "squeue"),
    "sinfo",
)


def find_lack(programs: tuple[str, ...]) -> str:
    """What these tests want and this machine has not; "" if it has all."""
    slurm = "Slurm here (Debian's slurm-wlm)"
    return clusters.find_lack(programs, slurm, "srun --mpi=pmi2")


def skip_where_allowed(lack: str) -> NoReturn:
    """CI says that it wants these tests, so there they don't vanish unseen."""
    required.skip_where_allowed("slurm", lack)


@pytest.fixture(scope="session")
def slurm_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ``slurm.conf`` of the cluster."""
    errors = tmp_path_factory.mktemp("slurm") / "errors.txt"
    with hold_cluster(errors, NODES, CPUS) as conf:
        yield conf


@pytest.fixture(scope="session")
def named_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """That of a second cluster: eight nodes, each with a host name of its own."""
    if os.geteuid() != 0:
        skip_where_allowed("only root can give the nodes of a Slurm names of their own")
    errors = tmp_path_factory.mktemp("named") / "errors.txt"
    with hold_cluster(errors, NAMED_NODES, CPUS, "named") as conf:
        yield conf


@contextmanager
def hold_cluster(errors: Path, *words: str | int) -> Iterator[str]:
    """Run the script beside this file; yield the path of its ``slurm.conf``."""
    if lack := find_lack(PROGRAMS):
        skip_where_allowed(lack)
    script = Path(__file__).with_name("cluster")
    with clusters.hold(script, errors, "SLURM_CONF", *words) as variables:
        yield variables["SLURM_CONF"]


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


# ---- jobs that begin early -----------------------------------------------------------


class Early(NamedTuple):
    """A job that was submitted before the first test, and the farm in it."""

    farm: FarmDriver
    slurm: Slurm
    job: Job

    def is_busy(self) -> bool:
        """Whether a task is in the middle, and those before it are recorded."""
        done = [text for text in self.farm.tasks if text == ENDS_SOON]
        is_held = bool(self.farm.marks("started"))
        return is_held and len(self.farm.finished()) == len(done)

    def end(self) -> None:
        """Cancel what still runs, kill what that has left."""
        self.slurm.cancel_all()
        kill_survivors(self.farm.token)


@pytest.fixture(scope="session", autouse=True)
def begin_early(request):
    """They take more than a minute, so they begin before the first test."""
    wanted = {name for item in request.session.items for name in item.fixturenames}
    if "limited" in wanted:
        request.getfixturevalue("limited")


@pytest.fixture(scope="session")
def limited(slurm_conf, tmp_path_factory) -> Iterator[dict[str, Early]]:
    """The jobs of `SUBMISSIONS` and `FORMS`, all busy until something ends them."""
    base = tmp_path_factory.mktemp("limits")
    slurm = create_slurm(slurm_conf, clean_environment(os.environ), base)
    with reserved_soon(slurm, GAP_NODES):
        jobs = {
            name: submit_early(slurm_conf, base / name, EARLY_LIST, "--time=1", *argv)
            for name, argv in SUBMISSIONS.items()
        }
        jobs |= {
            form: submit_form(slurm_conf, base / form, form, "--time=1")
            for form in FORMS
        }
        for early in jobs.values():
            wait_until(early.is_busy, DEADLINE)
    yield jobs
    for early in jobs.values():
        early.end()


@contextmanager
def reserved_soon(slurm: Slurm, nodes: tuple[str, ...]) -> Iterator[None]:
    """The nodes are someone's from the third minute on."""
    when = ("StartTime=now+3minutes", "Duration=60", f"Users={getpass.getuser()}")
    where = ("ReservationName=soon", f"Nodes={','.join(nodes)}")
    slurm.ask("scontrol", "create", "reservation", *where, *when)
    yield
    slurm.ask("scontrol", "delete", "ReservationName=soon")


def submit_form(conf: str, directory: Path, form: str, *options: str) -> Early:
    """``mpifarm submit`` of a form; two of its tasks wait in its first job."""
    words = ("submit", *options, *FORMS[form], *OF_FORMS)
    return submit_early(conf, directory, HOLDS_ONCE_LIST, *words)


def submit_early(
    conf: str, directory: Path, commands: Iterable[str], *argv: str
) -> Early:
    """``sbatch`` with a list and a token of its own."""
    environment = create_environment(uuid.uuid4().hex)
    farm = FarmDriver(directory, start_nothing, environment)
    farm.write_list(commands)
    slurm = create_slurm(conf, environment, directory)
    return Early(farm, slurm, slurm.submit(*argv))


def start_nothing(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError("these farms run in jobs")
