"""Tasks that start MPI programs, in jobs whose other nodes are out of reach.

Rules of this file: what a batch system sets is faked for the ranks of the farm, with
the names of nodes that don't exist: a launcher that asks for them fails.  The real
Slurm is in ``tests/slurm/test_mpi_tasks.py``.
"""

import sys
from pathlib import Path

import pytest

from tests.support import (
    OPENMPI_ENVIRONMENT,
    ROOT,
    find_debian_openmpi,
    find_launcher,
)

NODES = "no-node-1 no-node-2"

JOBS = {
    "PBS": "PBS_ENVIRONMENT=PBS_BATCH PBS_JOBID=17.x PBS_NODEFILE=nodes",
    "Grid Engine": "SGE_ROOT=/none ARC=none JOB_ID=17 PE_HOSTFILE=hosts",
    "LSF": "LSF_BINDIR=/none LSB_JOBID=17 LSB_MCPU_HOSTS=no-node-1:1 "
    "LSB_DJOB_HOSTFILE=nodes",
}
"""What the batch systems set, as far as launchers look at it."""

COUNT = "from mpi4py import MPI; print(MPI.COMM_WORLD.allreduce(1), flush=True)"


def find_starts() -> list[list[str]]:
    """Command lines that start two ranks, one by each MPI that is here."""
    starts = []
    for environment in (ROOT / ".venvs" / "mpich", ROOT / ".venvs" / "openmpi"):
        if launcher := find_launcher(environment):
            python = environment / "bin" / "python"
            starts.append(launcher({}, 2, str(python)).argv)
    if debian := find_debian_openmpi():
        library = f"MPI4PY_LIBMPI={debian.variables['MPI4PY_LIBMPI']}"
        starts.append(["env", library, *debian({}, 2, sys.executable).argv])
    return starts


def write_job(directory: Path, starts: list[list[str]]) -> list[str]:
    """A task for each start, and what the batch system would have written."""
    (directory / "count.py").write_text(COUNT)
    (directory / "nodes").write_text("\n".join(NODES.split()) + "\n")
    (directory / "hosts").write_text("no-node-1 2 main@no-node-1 UNDEFINED\n")
    # what the farm was told of its own library is not for the task of another MPI
    unset = "unset MPI4PY_LIBMPI"
    # Open MPI's mpirun now and then starts nothing, on a busy machine (NO_LAUNCH)
    again = "{{ {0} || {0}; }}"
    return [
        f"{unset}; {again.format(' '.join([*start, 'count.py']))}" for start in starts
    ]


def assert_each_task_has_two_ranks(farm, mpirun, job):
    starts = find_starts()
    farm.write_list(write_job(farm.directory, starts))
    job = ["env", *JOBS[job].split()]
    farm.finish("-n", "2", under=mpirun, ranks=2, before=job)
    logs = [farm.log(taskid) for taskid in farm.all_ids()]
    assert [log.split()[-2:] for log in logs] == [["2", "2"]] * len(starts), logs


@pytest.fixture(autouse=True)
def openmpi_runs(farm_environment):
    """Root may use Open MPI in the tasks, whichever MPI the farm has."""
    farm_environment.update(OPENMPI_ENVIRONMENT)


@pytest.mark.parametrize("job", JOBS)
def test_a_launcher_in_a_task_leaves_the_other_nodes_of_the_job_alone(
    farm, mpirun, job
):
    assert_each_task_has_two_ranks(farm, mpirun, job)


@pytest.mark.one_mpi
def test_it_does_so_under_debians_open_mpi_too(farm, debian_mpirun):
    assert_each_task_has_two_ranks(farm, debian_mpirun, "PBS")
