"""What the launcher's environment tells, and what of it a command must not inherit.

Rules of this file: it reads environments (mappings), nothing else.  The names are
those that mpirun of Open MPI 4 and 5, hydra of MPICH, and srun were seen to set.
"""

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

_RANKS_OWN = re.compile(
    rb"""(?: PMI_ | PMI2_ | PMIX_ | OMPI_ | OPAL_ | ORTE_ | PRTE_ | HYDI_ | HYDRA_
       | MPI_LOCAL | MPIR_ | PALS_ | MPI4PY_
       | SLURM_STEP | SLURM_CPU_BIND | SLURM_SRUN_COMM_
       ) .*
    | GFORTRAN_UNBUFFERED_PRECONNECTED
    | IPATH_NO_BACKTRACE | HFI_NO_BACKTRACE
    | SLURM_(?: PROCID | LOCALID | NODEID | GTIDS | TASK_PID | MPI_TYPE
              | LAUNCH_NODE_IPADDR | NTASKS | NPROCS )""",
    re.VERBOSE,
)
"""Variables that make a command believe that it is a rank of the farm's MPI job, or
describe the farm's own step and not the job.  ``SLURM_JOB_ID`` and its like stay."""

_USERS_OWN = re.compile(
    rb"""OMPI_MCA_(?! orte_ | ess | pmix | num_procs | initial_wdir | cpu_type
                  | mpi_ft_enable ) .*
    | (?: OMPI | PRTE )_ALLOW_RUN_AS_ROOT .*
    | MPIR_CVAR_ .*
    | MPI4PY_(?: LIBMPI | MPIABI )""",
    re.VERBOSE,
)
"""What users set for all their MPI programs; it makes nothing a rank."""


def was_launched(environ: Mapping[str, str]) -> bool:
    """Whether an MPI launcher (mpirun, mpiexec, srun, …) started this process."""
    return any(name in environ for name in _LAUNCHED)


def launched_size(environ: Mapping[str, str]) -> int:
    """The number of processes that the launcher says it started, 1 if it is silent.

    ``SLURM_NTASKS`` isn't asked: a plain batch script has it too.
    """
    for name in (*_SIZES, "SLURM_STEP_NUM_TASKS"):
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return 1


def launched_rank(environ: Mapping[str, str]) -> int:
    """The rank that the launcher gave to this process, 0 if it is silent."""
    if not was_launched(environ):
        return 0
    for name in _RANKS:
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return 0


def find_step(environ: Mapping[str, str]) -> str:
    """The job step whose ranks srun itself has started by PMI, as scancel names it.

    Empty under other launchers, be they in a Slurm job.  There, `MPI_Abort` ends all.
    """
    job, step = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", "")
    is_sruns = environ.get("SLURM_MPI_TYPE") in {"pmi2", "cray_shasta"}
    if not (job and step and is_sruns) or "HYDI_CONTROL_FD" in environ:
        return ""
    return f"{job}.{step}"


def command_environment(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The environment of the commands: the user's, less what makes them a rank."""
    return {
        name: value
        for name, value in environ.items()
        if not _RANKS_OWN.fullmatch(name) or _USERS_OWN.fullmatch(name)
    }
