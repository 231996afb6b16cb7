"""The variables of launchers, as seen, and those that a command gets."""

import pytest

from mpifarm.batch.launcher import (
    command_environment,
    find_step,
    is_in_job,
    is_of_the_rank,
    launched_rank,
    launched_size,
    names_launcher,
    was_launched,
)
from tests.pages import take_block

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
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_PER_TASK": "4",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_SUBMIT_DIR": "/home/x",
    "SLURM_TMPDIR": "/tmp/17",
    "SLURMD_NODENAME": "n2",
}
"""Of the job, not of the farm's step: scripts use it."""

OWN_NODE_ONLY = {
    name: value
    for line in take_block("cpus-and-gpus.md", "HYDRA_RMK").lines
    for name, _, value in [line.partition("=")]
}
"""What a task gets, so that its own mpirun asks no batch system."""

NODES = {
    "slurm": {
        "SLURM_NODELIST": "n[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_TASKS_PER_NODE": "1(x2)",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NTASKS_PER_SOCKET": "1",
        "SLURM_DISTRIBUTION": "plane",
        "SLURM_DIST_PLANESIZE": "2",
        "SLURM_HOSTFILE": "hosts",
    },
    "slurm 23.11": {
        "SLURM_NODELIST": "n[1-2]",
        "HYDRA_BOOTSTRAP": "slurm",
        "HYDRA_LAUNCHER_EXTRA_ARGS": "--external-launcher",
        "I_MPI_HYDRA_BOOTSTRAP": "slurm",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS": "--external-launcher",
    },
    "pbs": {"PBS_NODEFILE": "/var/spool/aux/17"},
    "lsf": {
        "LSB_HOSTS": "n1 n2",
        "LSB_MCPU_HOSTS": "n1 1 n2 1",
        "LSB_DJOB_HOSTFILE": "/tmp/hosts",
        "LSB_DJOB_RANKFILE": "/tmp/hosts",
        "LSB_AFFINITY_HOSTFILE": "/tmp/hosts",
    },
    "grid engine": {"PE_HOSTFILE": "/var/spool/pe_hostfile"},
    "cobalt": {"COBALT_NODEFILE": "/var/tmp/nodes"},
    "loadleveler": {"LOADL_HOSTFILE": "/tmp/h", "LOADL_PROCESSOR_LIST": "n1 n2"},
}
"""By which a launcher would take the whole farm's nodes, or reach them."""

JOBS = {
    "slurm": JOB,
    "slurm 23.11": {**JOB, "PRTE_MCA_plm_slurm_args": "--external-launcher"},
    "pbs": {"PBS_JOBID": "17.x", "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_O_HOST": "x"},
    "lsf": {"LSB_JOBID": "17", "LSB_JOBINDEX": "3", "LSF_BINDIR": "/opt/lsf/bin"},
    "grid engine": {"JOB_ID": "17", "SGE_TASK_ID": "undefined", "NSLOTS": "2"},
    "cobalt": {"COBALT_JOBID": "17"},
    "loadleveler": {"LOADL_STEP_ID": "17.0"},
}
"""Of the job, and stays."""

batch_systems = pytest.mark.parametrize("system", JOBS)

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
    "PRTE_SHARED_FS": "FALSE",
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
    "SLURM_EXTERNAL_LAUNCHER": "1",
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

PALS = {"PALS_RANKID": "1", "PALS_SIZE": "2", "PALS_NODEID": "0"}

LAUNCHERS = {
    "hydra": HYDRA,
    "pals": PALS,
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
    kept = command_environment(in_bytes({**USERS, **launcher}))
    assert kept == in_bytes(USERS)
    assert not was_launched({name.decode(): "" for name in kept})


def test_a_command_keeps_the_open_mpi_parameters_that_users_set():
    users = {
        "OMPI_MCA_btl": "self,vader",
        "OMPI_MCA_mtl": "^ofi",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
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


@pytest.mark.parametrize("spans", [False, True])
def test_a_command_is_not_mapped_as_the_farm_was_by_mpirun_of_open_mpi_4(spans):
    """Open MPI 4 hands its options on: with ``-N 1`` a task could start one rank."""
    mapping = {
        "OMPI_MCA_rmaps_ppr_n_pernode": "1",
        "OMPI_MCA_rmaps_base_mapping_policy": "ppr:1:node",
        "OMPI_MCA_rmaps_base_ranking_policy": "slot",
        "OMPI_MCA_rmaps_base_cpus_per_rank": "4",
        "OMPI_MCA_mpi_oversubscribe": "0",
    }
    allowed = {
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
    }
    environ = in_bytes({**OPENMPI_4, **mapping, **allowed})
    assert command_environment(environ, span_nodes=spans) == in_bytes(allowed)
    mapping.pop("OMPI_MCA_mpi_oversubscribe")
    users = in_bytes({**SRUN_PMI2, **mapping})
    assert command_environment(users, span_nodes=spans) == in_bytes(mapping)


# ---- tasks that are MPI programs ----------------------------------------------------


@batch_systems
@launchers
def test_a_launcher_in_a_command_knows_only_the_node_of_the_command(launcher, system):
    given = {**USERS, **JOBS[system], **NODES[system], **launcher}
    kept = command_environment(in_bytes(given))
    assert kept == in_bytes({**USERS, **JOBS[system], **OWN_NODE_ONLY})


@pytest.mark.parametrize("name", OWN_NODE_ONLY)
@batch_systems
def test_what_the_user_has_set_for_launchers_in_commands_stays(system, name):
    given = {**HYDRA, **JOBS[system], **NODES[system], name: "the user's"}
    kept = command_environment(in_bytes(given))
    assert kept == in_bytes({**JOBS[system], **OWN_NODE_ONLY, name: "the user's"})


@batch_systems
@launchers
def test_commands_that_span_nodes_know_all_that_the_farm_knows(launcher, system):
    given = {**USERS, **JOBS[system], **NODES[system]}
    kept = command_environment(in_bytes({**given, **launcher}), span_nodes=True)
    assert kept == in_bytes(given)


@batch_systems
def test_a_farm_that_nobody_launched_holds_no_nodes_and_changes_nothing(system):
    given = in_bytes({**USERS, **JOBS[system], **NODES[system]})
    assert command_environment(given) == given


def test_the_step_of_an_interactive_shell_is_no_launch_but_mpirun_in_it_is_one():
    shell = {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}
    given = {**JOB, **NODES["slurm"]}
    assert command_environment(in_bytes({**given, **shell})) == in_bytes(given)
    kept = command_environment(in_bytes({**given, **shell, **OPENMPI}))
    assert kept == in_bytes({**JOB, **OWN_NODE_ONLY})


def test_the_host_file_of_the_whole_farm_is_none_of_a_commands():
    hosts = {"PRTE_MCA_prte_default_hostfile": "hosts", "HYDRA_HOST_FILE": "hosts"}
    assert command_environment(in_bytes({**OPENMPI, **hosts})) == {}


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


@pytest.mark.parametrize(
    "command",
    [
        "srun -n 2 ./x",
        "cd d && mpirun ./x",
        "/opt/mpi/bin/mpiexec.hydra -n 2 ./x",
        "time jsrun ./x",
        "FOO=1 aprun ./x",
        "mpirun_rsh -np 2 ./x",
        *("$MPIRUN ./sim", "${SRUN} ./sim", "ccc_mprun ./x", "flux run -n2 ./x"),
    ],
)
def test_a_command_that_starts_ranks_is_known_by_its_text(command):
    assert names_launcher(command)


@pytest.mark.parametrize(
    "command", ["true", "./run.sh 7", "python train.py --runs 3", "prune d", "rerun x"]
)
def test_a_command_that_names_no_launcher_starts_no_ranks(command):
    assert not names_launcher(command)


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "SGE_TASK_ID", "PE_HOSTFILE"),
        *("FLUX_JOB_ID", "COBALT_JOBID", "OAR_JOB_ID", "_CONDOR_SLOT"),
        *("SLURM_JOBID", "PBS_NODEFILE", "LOADL_STEP_ID"),
    ],
)
def test_a_job_of_a_batch_system_is_known_by_its_variables(name):
    assert is_in_job({name: "1", "PATH": "/bin"})


def test_a_terminal_and_an_mpirun_without_a_batch_system_are_no_job():
    assert not is_in_job({"PATH": "/bin", "OMPI_COMM_WORLD_RANK": "0"})


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_MPI_TYPE"])
def test_a_step_without_one_of_its_variables_is_not_ended(name):
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_MPI_TYPE": "pmi2"}
    assert find_step(step) == "7.0"
    assert find_step({each: step[each] for each in step if each != name}) == ""


@pytest.mark.parametrize(
    ("name", "is_own"),
    [
        ("PMI_RANK", True),
        ("OMPI_COMM_WORLD_RANK", True),
        ("OMPI_MCA_btl", False),
        ("PATH", False),
        ("MY_PMI_RANK", False),
        ("PMI_RANKS\udcff", True),
    ],
)
def test_the_variables_of_a_rank_are_told_from_those_of_the_user(name, is_own):
    assert is_of_the_rank(name) is is_own
