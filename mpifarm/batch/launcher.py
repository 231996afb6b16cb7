"""The variables of MPI launchers, and the environment that commands get.

Rules of this file: it reads mappings, nothing else.  The names were seen to be set by
mpirun of Open MPI 4 and 5, hydra of MPICH, and srun, and to be read by these and by
Intel MPI to choose nodes.
"""

import os
import re
from collections.abc import Mapping

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PALS_SIZE")
_RANKS = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "PALS_RANKID",
    "MV2_COMM_WORLD_RANK",
    "SLURM_PROCID",
)
_LAUNCHED = (*_SIZES, *_RANKS[:-1], "SLURM_STEP_NUM_TASKS")

INTERACTIVE_STEP = str(0xFFFFFFFA)
"""``SLURM_STEP_ID`` in the shell that salloc may start: that step holds no CPUs."""

_RANKS_OWN = re.compile(
    rb"""(?: PMI_ | PMI2_ | PMIX_ | OMPI_ | OPAL_ | ORTE_ | PRTE_ | HYDI_ | HYDRA_
       | MPI_LOCAL | MPIR_ | PALS_ | MPI4PY_
       | SLURM_STEP | SLURM_CPU_BIND | SLURM_SRUN_COMM_
       ) .*
    | GFORTRAN_UNBUFFERED_PRECONNECTED
    | IPATH_NO_BACKTRACE | HFI_NO_BACKTRACE
    | SLURM_(?: PROCID | LOCALID | NODEID | GTIDS | TASK_PID | MPI_TYPE
              | LAUNCH_NODE_IPADDR | NTASKS | NPROCS | EXTERNAL_LAUNCHER )""",
    re.VERBOSE,
)
"""Variables that make a command believe that it is a rank of the farm's MPI job, or
describe the farm's own step and not the job.  ``SLURM_JOB_ID`` and its like stay."""

_USERS_OWN = re.compile(
    rb"""OMPI_MCA_(?! orte_ | ess | pmix | num_procs | initial_wdir | cpu_type
                  | mpi_ft_enable | mpi_oversubscribe ) .*
    | PRTE_MCA_ .*
    | (?: OMPI | PRTE )_ALLOW_RUN_AS_ROOT .*
    | MPIR_CVAR_ .*
    | MPI4PY_(?: LIBMPI | MPIABI )
    | HYDRA_RMK""",
    re.VERBOSE,
)
"""Variables that users set for all their MPI programs; none makes a process a rank."""

_LAUNCHED_BY_ORTE = b"OMPI_MCA_orte_launch"

_ORTES_MAPPING = re.compile(rb"OMPI_MCA_rmaps_(?!base_(?:no_)?oversubscribe).*")
"""Variables by which mpirun of Open MPI 4 hands its own options on.  With its ``-N 1``,
no mpirun in a task could start two ranks.  The permission to oversubscribe holds for
the tasks as well."""

# ---- where a task's own launcher starts its ranks ------------------------------------

_FARMS_NODES = re.compile(
    rb"""SLURM_(?: NODELIST | NNODES | TASKS_PER_NODE | DISTRIBUTION | DIST_PLANESIZE
             | NTASKS_PER_(?: NODE | CORE | SOCKET | GPU | TRES )
             | HOSTFILE | ARBITRARY_NODELIST )
    | PBS_NODEFILE | PE_HOSTFILE | COBALT_NODEFILE
    | LSB_(?: HOSTS | MCPU_HOSTS | DJOB_HOSTFILE | DJOB_RANKFILE | AFFINITY_HOSTFILE )
    | LOADL_(?: HOSTFILE | PROCESSOR_LIST )
    | I_MPI_HYDRA_BOOTSTRAP (?: _EXEC | _EXEC_EXTRA_ARGS )?
    | PRTE_MCA_prte_default_hostfile""",
    re.VERBOSE,
)
"""Variables from which a launcher in a task would take the nodes of the whole farm, and
the way to reach them.  Slurm from 23.11 on sets those of Intel MPI itself."""

_JOBS = (
    "SLURM_JOB_ID",
    "SLURM_JOBID",
    "PBS_JOBID",
    "PBS_NODEFILE",
    "PE_HOSTFILE",
    "LSB_JOBID",
    "SGE_TASK_ID",
    "COBALT_JOBID",
    "LOADL_STEP_ID",
    "FLUX_JOB_ID",
    "OAR_JOB_ID",
    "_CONDOR_SLOT",
)
"""Variables of batch systems: in any job, at least one is set."""

_OWN_NODE_ONLY = {
    b"HYDRA_RMK": b"user",
    b"OMPI_MCA_plm": b"^slurm,tm,lsf,alps",
    b"OMPI_MCA_ras": b"^slurm,tm,lsf,gridengine,loadleveler,alps",
    b"PRTE_MCA_plm": b"^slurm,tm,lsf,pals",
    b"PRTE_MCA_ras": b"^slurm,pbs,tm,lsf,gridengine,flux",
}
"""Variables that keep the launchers of MPICH and of Open MPI 4 and 5 on their own node.

Else the launchers would ask the batch system for nodes, and start their daemons through
it, where the daemons wait for CPUs that the farm holds."""


_LAUNCHERS = re.compile(
    r"(?<!\w)(?:srun|mpirun|mpiexec|orterun|prterun|prun|jsrun|lrun|yhrun|aprun|ibrun"
    r"|ccc_mprun|flux\s+run|pbsdsh)(?![A-Za-z])",
    re.IGNORECASE,  # as $MPIRUN
)
_MAY_LAUNCH = re.compile(r"run|RUN|mpiexec|MPIEXEC|pbsdsh").search


def names_launcher(command: str) -> bool:
    """Return whether the text of a command names a program that starts MPI ranks."""
    if not _MAY_LAUNCH(command):
        return False  # Cheap: this is called with the text of each task.
    return _LAUNCHERS.search(command) is not None


def is_in_job(environ: Mapping[str, str]) -> bool:
    """Return whether this process is part of a job of a batch system."""
    return any(name in environ for name in _JOBS)


def was_launched(environ: Mapping[str, str]) -> bool:
    """Return whether an MPI launcher (mpirun, mpiexec, srun) started this process."""
    return any(name in environ for name in _LAUNCHED)


def launched_size(environ: Mapping[str, str]) -> int:
    """Return the number of processes that the launcher started, 1 if it is unknown."""
    # Not SLURM_NTASKS: a batch script without srun has it too.
    for name in (*_SIZES, "SLURM_STEP_NUM_TASKS"):
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return 1


def launched_rank(environ: Mapping[str, str]) -> int:
    """Return the rank that the launcher gave to this process, 0 if it is unknown."""
    if not was_launched(environ):
        return 0
    for name in _RANKS:
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return 0


def name_launcher(environ: Mapping[str, str]) -> str:
    """Return what started this rank, by the variables that it sets."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return "mpirun of Open MPI"
    if "MPI_LOCALNRANKS" in environ:
        return "mpiexec of MPICH (hydra)"
    if "SLURM_STEP_NUM_TASKS" in environ:
        return f"srun (--mpi={environ.get('SLURM_MPI_TYPE', '?')})"
    return "an MPI launcher"


def find_step(environ: Mapping[str, str]) -> str:
    """Return the job step that srun itself has started by PMI, in scancel's notation.

    Return "" under other launchers, even in a Slurm job: there, `MPI_Abort` ends all
    ranks, and no scancel is needed.
    """
    job, step = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", "")
    is_sruns = environ.get("SLURM_MPI_TYPE") in {"pmi2", "cray_shasta"}
    if not (job and step and is_sruns) or "HYDI_CONTROL_FD" in environ:
        return ""
    return f"{job}.{step}"


def command_environment(
    environ: Mapping[bytes, bytes], *, span_nodes: bool = False
) -> dict[bytes, bytes]:
    """Return `environ` without the variables that would make a command a rank.

    If the farm was launched, and not with `span_nodes`, also leave out the variables of
    the farm's nodes, and in a batch job add variables that keep a launcher in a command
    on the command's node.  A variable of that name that the user has set stays.
    """
    spans = span_nodes or not _holds_nodes(environ)
    kept = {
        name: value
        for name, value in environ.items()
        if not _RANKS_OWN.fullmatch(name)
        or _USERS_OWN.fullmatch(name)
        or (spans and name.startswith(b"HYDRA_"))
    }
    if _LAUNCHED_BY_ORTE in environ:
        kept = _without(_ORTES_MAPPING, kept)
    if spans:
        return kept
    return _without(_FARMS_NODES, {**_find_own_node_only(environ), **kept})


def environment_on_own_node(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return `environ` for a launcher that is to use this node alone, in any job."""
    return _without(_FARMS_NODES, {**_OWN_NODE_ONLY, **command_environment(environ)})


def _without(
    names: re.Pattern[bytes], environ: Mapping[bytes, bytes]
) -> dict[bytes, bytes]:
    return {name: value for name, value in environ.items() if not names.fullmatch(name)}


def _find_own_node_only(environ: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return `_OWN_NODE_ONLY` in a job of a batch system, {} outside of a job."""
    known = {os.fsdecode(name): "" for name in environ}
    return _OWN_NODE_ONLY if is_in_job(known) else {}


def _holds_nodes(environ: Mapping[bytes, bytes]) -> bool:
    """Return whether a launcher started the farm, which then holds CPUs of the job.

    The shell that salloc starts looks like a launched step, and holds no CPU.
    """
    known = {os.fsdecode(name): os.fsdecode(environ[name]) for name in environ}
    if known.get("SLURM_STEP_ID") == INTERACTIVE_STEP:
        del known["SLURM_STEP_ID"]
        known.pop("SLURM_STEP_NUM_TASKS", None)
    return was_launched(known)


def is_of_the_rank(name: str) -> bool:
    """Return whether a variable is the rank's own, so that commands do not get it."""
    encoded = name.encode("utf-8", "surrogateescape")
    return bool(_RANKS_OWN.fullmatch(encoded)) and not _USERS_OWN.fullmatch(encoded)
