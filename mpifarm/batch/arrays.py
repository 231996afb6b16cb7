"""Names for job arrays.

Rules of this file: pure.  A name contains the batch system, and its cluster where that
is known, so that two arrays never have the same name.
"""

import re
from collections.abc import Mapping

_PBS_MEMBER = re.compile(r"([^\[]+)\[\d+\](.*)")


def find_array(environ: Mapping[str, str]) -> str:
    """Return a name for the job array of this process; "" outside of a job array.

    Return "", too, for a name that has 200 characters or cannot be printed.
    """
    found = _find_array(environ)
    return found if found.isprintable() and len(found) < 200 else ""


def _find_array(environ: Mapping[str, str]) -> str:
    if job := environ.get("SLURM_ARRAY_JOB_ID", ""):
        return f"slurm {environ.get('SLURM_CLUSTER_NAME', '')} {job}"
    if environ.get("LSB_JOBINDEX", "0") not in ("", "0") and "LSB_JOBID" in environ:
        return f"lsf {environ['LSB_JOBID']}"
    if member := _PBS_MEMBER.fullmatch(environ.get("PBS_JOBID", "")):
        return f"pbs {member[1]}[]{member[2]}"
    if environ.get("SGE_TASK_ID", "").isdecimal() and "JOB_ID" in environ:
        return f"sge {environ.get('SGE_CELL', '')} {environ['JOB_ID']}"
    return ""
