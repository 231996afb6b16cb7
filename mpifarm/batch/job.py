"""The job of this process, by the variables of its batch system."""

from collections.abc import Mapping
from typing import Final

_JOBS: Final = (
    ("slurm", "SLURM_JOB_ID"),
    ("slurm", "SLURM_JOBID"),
    ("lsf", "LSB_JOBID"),
    ("pbs", "PBS_JOBID"),
    ("flux", "FLUX_JOB_ID"),
    ("oar", "OAR_JOB_ID"),
    ("cobalt", "COBALT_JOBID"),
)

BATCH_SYSTEMS: Final = {
    "slurm": "Slurm",
    "lsf": "LSF",
    "pbs": "PBS",
    "flux": "Flux",
    "oar": "OAR",
    "cobalt": "Cobalt",
    "sge": "Grid Engine",
}
"""The batch systems of `find_job`, as users write them."""


def find_job(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return batch system and id of this process's job; None outside of a job.

    A member of a Slurm job array is ``123_4``, as squeue and scancel have it.
    """
    if array := environ.get("SLURM_ARRAY_JOB_ID", ""):
        return "slurm", f"{array}_{environ.get('SLURM_ARRAY_TASK_ID', '')}"
    for system, name in _JOBS:
        if job := environ.get(name, ""):
            return system, job
    if "SGE_TASK_ID" in environ and environ.get("JOB_ID"):
        return "sge", environ["JOB_ID"]
    return None
