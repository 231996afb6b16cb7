"""Other tools' variables for the number of a task, with the number of the first task.

Rules of this file: pure.  It is imported only if a list or an option names such a
variable.
"""

import re
from collections.abc import Mapping
from typing import Final

from mpifarm.batch.launcher import is_of_the_rank
from mpifarm.errors import InputError

KNOWN_NUMBERS: Final[Mapping[str, tuple[str, int]]] = {
    "LAUNCHER_JID": ("the TACC launcher", 1),
    "LAUNCHER_TSK_ID": ("the TACC launcher", 0),
    "SLURM_ARRAY_TASK_ID": ("a Slurm job array", 0),
    "SLURM_PROCID": ("srun", 0),
    "SGE_TASK_ID": ("a Grid Engine job array", 1),
    "PBS_ARRAY_INDEX": ("a PBS job array", 1),
    "PBS_ARRAYID": ("a Torque job array", 0),
    "MOAB_JOBARRAYINDEX": ("a Moab job array", 1),
    "LSB_JOBINDEX": ("an LSF job array", 1),
    "OAR_ARRAY_INDEX": ("an OAR job array", 1),
    "PJM_BULKNUM": ("a bulk job", 0),
    "DISBATCH_TASKID": ("disBatch", 0),
    "DISBATCH_REPEAT_INDEX": ("disBatch", 0),
    "PARALLEL_SEQ": ("GNU parallel", 1),
    "PARALLEL_JOBSLOT": ("GNU parallel", 1),
    "HQ_TASK_ID": ("HyperQueue", 0),
    "FLUX_JOB_CC": ("flux submit", 0),
    "AWS_BATCH_JOB_ARRAY_INDEX": ("AWS Batch", 0),
    "JOB_COMPLETION_INDEX": ("Kubernetes", 0),
    "CLOUD_RUN_TASK_INDEX": ("Cloud Run", 0),
    "BATCH_TASK_INDEX": ("Google Batch", 0),
}
"""The tool that sets each variable, and its number of the first task."""

_PATTERN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:=([0-9]{1,9}))?")


def parse_id_variable(word: str) -> tuple[str, int]:
    """Parse ``NAME`` or ``NAME=FIRST``.  Return the name and the first number.

    Without FIRST, the number is that of `KNOWN_NUMBERS`, 0 for any other name.  Raises
    InputError for another form, or a name that no task may get.
    """
    found = _PATTERN.fullmatch(word)
    if found is None:
        raise InputError(
            f"--id-variable takes NAME or NAME=FIRST, not {word!r}, as SGE_TASK_ID or"
            " SGE_TASK_ID=1"
        )
    name, first = found.groups()
    if name == "PROC_NUMBER" or name.startswith("MPIFARM_"):
        raise InputError(f"--id-variable can't be {name}: the farm sets that itself")
    if is_of_the_rank(name) and not name.startswith("SLURM_"):
        raise InputError(
            f"--id-variable can't be {name}: MPI programs would take themselves for a"
            " part of the farm; write $PROC_NUMBER in the list"
        )
    default = KNOWN_NUMBERS.get(name, ("", 0))[1]
    return name, default if first is None else int(first)
