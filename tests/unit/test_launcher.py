"""What launchers set, as they were seen to set it, and what a command gets of it."""

import pytest

from mpifarm.launcher import (
    command_environment,
    find_step,
    launched_rank,
    launched_size,
    was_launched,
)

USERS = {
    "HOME": "/home/x",
    "PATH": "/usr/bin",
    "LD_LIBRARY_PATH": "/opt/lib",
    "OMP_NUM_THREADS": "4",
    "SCRATCH": "/scratch/x",
    "PMIRACLE": "1",
    "MPICH_VERSION": "4.2",
    "MY_PMI_RANK": "1",
    "NTASKS": "4",
}

JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOBID": "17",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_PER_TASK": "4",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_SUBMIT_DIR": "/home/x",
    "SLURM_TMPDIR": "/tmp/17",
}
"""Of the job, not of the farm's step: scripts use it."""

BATCH = {"SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_PROCID": "0"}
"""What a batch script has too."""

HYDRA = {
    "GFORTRAN_UNBUFFERED_PRECONNECTED": "y",
    "HYDI_CONTROL_FD": "7",
    "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "9",
    "PMI_HOSTNAME": "node1",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}

OPENMPI = {
    "OMPI_ARGV": "",
    "OMPI_COMMAND": "env",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_FILE_LOCATION": "/tmp/ompi.1/1/1",
    "OMPI_MCA_cpu_type": "x86_64",
    "OMPI_MCA_initial_wdir": "/home/x",
    "OMPI_MCA_num_procs": "2",
    "OMPI_MCA_mpi_ft_enable": "1",
    "OMPI_UNIVERSE_SIZE": "2",
    "OPAL_PREFIX": "/opt/openmpi",
    "OPAL_USER_PARAMS_GIVEN": "1",
    "PMIX_NAMESPACE": "prterun-node1-4565@1",
    "PMIX_RANK": "1",
    "PMIX_SERVER_URI41": "prterun-node1-4565@0.0;tcp4://127.0.0.1:46241",
    "PRTE_LAUNCHED": "1",
}

OPENMPI_4 = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_MCA_ess": "^singleton",
    "OMPI_MCA_ess_base_jobid": "1",
    "OMPI_MCA_orte_ess_num_procs": "2",
    "OMPI_MCA_orte_launch": "1",
    "OMPI_MCA_pmix": "^s1,s2,cray,isolated",
    "ORTE_SCHIZO_DETECTION": "ORTE",
    "PMIX_RANK": "1",
}

SRUN = {
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_CPU_BIND_TYPE": "mask_cpu:",
    "SLURM_GTIDS": "0,1",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NPROCS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_SRUN_COMM_HOST": "10.0.0.1",
    "SLURM_SRUN_COMM_PORT": "34567",
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_TASK_PID": "4711",
}

SRUN_PMI2 = {
    **SRUN,
    "PMI_FD": "9",
    "PMI_JOBID": "17.0",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "SLURM_MPI_TYPE": "pmi2",
}

SRUN_PMIX = {
    **SRUN,
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "slurm.pmix.17.0",
    "SLURM_MPI_TYPE": "pmix_v4",
}

LAUNCHERS = {
    "hydra": HYDRA,
    "openmpi 5": OPENMPI,
    "openmpi 4": OPENMPI_4,
    "srun": SRUN,
    "srun pmi2": SRUN_PMI2,
    "srun pmix": SRUN_PMIX,
}

launchers = pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)


def in_bytes(environ: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in environ.items()}


@launchers
def test_a_launched_process_knows_its_rank_and_how_many_there_are(launcher):
    environ = {**USERS, **JOB, **launcher}
    assert was_launched(environ)
    assert launched_size(environ) == 2
    assert launched_rank(environ) == 1


@pytest.mark.parametrize(
    "environ", [{}, USERS, {**USERS, **JOB}, {**USERS, **JOB, **BATCH}]
)
def test_a_login_shell_and_a_batch_script_are_no_launch(environ):
    assert not was_launched(environ)
    assert launched_size(environ) == 1
    assert launched_rank(environ) == 0


def test_odd_values_are_no_size_and_no_rank():
    environ = {"PMI_RANK": "x", "PMI_SIZE": "", "OMPI_COMM_WORLD_SIZE": "-1"}
    assert launched_size(environ) == 1
    assert launched_rank(environ) == 0


def test_the_mpi_inside_a_slurm_step_says_the_rank():
    """mpirun that was started in a step of one task."""
    environ = {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", **HYDRA}
    assert launched_rank(environ) == 1
    assert launched_size(environ) == 2


@launchers
def test_a_command_gets_nothing_that_makes_it_a_rank(launcher):
    kept = command_environment(in_bytes({**USERS, **JOB, **launcher}))
    assert kept == in_bytes({**USERS, **JOB})
    assert not was_launched({name.decode(): "" for name in kept})


def test_a_command_keeps_the_open_mpi_parameters_that_users_set():
    users = {
        "OMPI_MCA_btl": "self,vader",
        "OMPI_MCA_mtl": "^ofi",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }
    kept = command_environment(in_bytes({**OPENMPI, **users}))
    assert kept == in_bytes(users)


def test_names_and_values_that_are_no_utf_8_pass():
    odd = {b"caf\xe9": b"\xff\xfe", b"A": b"line\nline"}
    assert command_environment({**odd, b"PMI_RANK": b"\xff"}) == odd


def test_the_environment_that_was_given_is_not_changed():
    environ = in_bytes(HYDRA)
    command_environment(environ)
    assert environ == in_bytes(HYDRA)


# ---- the step -----------------------------------------------------------------------

STEP = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "2", "SLURM_MPI_TYPE": "pmi2"}


def test_the_step_of_ranks_that_srun_has_started_is_known():
    assert find_step(STEP) == "17.2"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {**STEP, "HYDI_CONTROL_FD": "6"},
        {**STEP, "SLURM_MPI_TYPE": "pmix"},
        {"SLURM_JOB_ID": "17", "SLURM_MPI_TYPE": "pmi2"},
    ],
)
def test_a_step_in_which_another_launcher_runs_is_not_ended(environ):
    assert find_step(environ) == ""
