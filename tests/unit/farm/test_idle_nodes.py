"""When a farm says that nodes of its job idle, and when it keeps silent.

Rules of this file: no process; the context of a rank are stand-ins.
"""

from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.farm.idle_nodes import IdleNodes, find_installed_mpi
from mpifarm.model.settings import Settings
from mpifarm.tasklists import ListTaskList

SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4"}
SRUN = {**SLURM, "SLURM_STEP_NUM_NODES": "4", "SLURM_STEP_NUM_TASKS": "4"}
MPIRUN = {**SLURM, "HYDI_CONTROL_FD": "8"}


@pytest.fixture
def create(tmp_path):
    """The `IdleNodes` of a farm of so many ranks (0: without MPI)."""

    def create(environ, ranks=0, tasks=("true",), **settings):
        path = tmp_path / "tasks"
        path.write_text("".join(f"{task}\n" for task in tasks))
        comm = SimpleNamespace(size=ranks, vendor="MPICH") if ranks else None
        context: Any = SimpleNamespace(
            process=SimpleNamespace(environ=environ),
            comm=comm,
            settings=Settings("tasks", "w", **settings),
        )
        return IdleNodes(context, ListTaskList(str(path), str(tmp_path / "w")))

    return create


def test_plain_mpifarm_in_a_job_of_four_nodes_is_told(create):
    warning = create(SLURM).warn_at_start()
    assert warning.startswith("WARNING: the job has 4 nodes, and this farm runs on 1;")
    assert "start it with srun --mpi=" in warning
    assert " -N 4 -n 4 " in warning


def test_a_step_on_two_of_four_nodes_is_told(create):
    environ = {**SRUN, "SLURM_STEP_NUM_NODES": "2"}
    assert "runs on 2; unless you keep the others" in create(environ, 2).warn_at_start()


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        (SRUN, 4),
        (SRUN, 0),
        ({}, 0),
        ({}, 4),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"}, 0),
        ({**SLURM, "MPIFARM_TASK_ID": "3"}, 0),
        ({**SLURM, "MPIFARM_LAUNCH": "x"}, 3),
    ],
    ids=["all", "alone on each", "no job", "mpirun", "one", "a task", "supervised"],
)
def test_where_all_is_as_it_should_be_there_is_no_word(create, environ, ranks):
    idle = create(environ, ranks)
    assert idle.warn_at_start() == ""
    assert idle.warn_of_hosts({"n1", "n2", "n3", "n4"}) == ""


def test_ranks_that_do_not_see_each_other_get_one_line_and_no_second(create):
    two = {**SRUN, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
    assert create(two).warn_at_start() == ""
    assert "runs on 2;" in create(two, mpi="off").warn_at_start()
    second = {**two, "SLURM_PROCID": "1"}
    assert create(second, mpi="off").warn_at_start() == ""
    assert "runs on 2;" in create(two, 2).warn_at_start()


def test_tasks_that_may_use_the_other_nodes_get_no_word(create):
    assert create(SLURM, tasks=["true", "srun -N 2 ./x"]).warn_at_start() == ""
    assert create(SLURM, span_nodes=True).warn_at_start() == ""


def test_ranks_that_mpirun_has_put_on_one_node_are_told_when_they_have_joined(create):
    idle = create(MPIRUN, 4)
    assert idle.warn_at_start() == ""
    warning = idle.warn_of_hosts({"n1"})
    assert "the job has 4 nodes, and this farm runs on 1;" in warning
    assert "start it with mpirun -n 4 -ppn 1 " in warning


def test_what_srun_has_started_is_not_told_by_its_hosts(create):
    """Nodes of a test cluster have one host name."""
    assert create(SRUN, 4).warn_of_hosts({"n1"}) == ""


def test_nodes_are_told_once(create):
    idle = create(MPIRUN, 2)
    assert "runs on 2" in idle.warn_at_start()
    assert idle.warn_of_hosts({"n1"}) == ""


def test_the_nodes_of_pbs_are_those_of_its_file(create, tmp_path):
    nodes = tmp_path / "nodes"
    nodes.write_text("n1\nn1\nn2\n")
    environ = {"PBS_JOBID": "7", "PBS_NODEFILE": str(nodes)}
    assert "the job has 2 nodes, and this farm runs on 1" in (
        create(environ).warn_at_start()
    )
    gone = {"PBS_JOBID": "7", "PBS_NODEFILE": str(tmp_path / "no such file")}
    assert create(gone).warn_at_start() == ""


@pytest.mark.parametrize(
    ("name", "vendor"),
    [("libmpi.so.12", "MPICH"), ("libmpi.so.40", "Open MPI"), ("libx.so", "")],
)
def test_the_mpi_of_an_environment_is_known_by_its_library(tmp_path, name, vendor):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / name).touch()
    assert find_installed_mpi(str(tmp_path)) == vendor
