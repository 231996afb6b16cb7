"""Tasks with an srun that would wait for CPUs that the farm's own step holds.

Rules of this file: pure; False in doubt.  Seen with Slurm 22.05: a step without
``--overlap`` waits until the CPUs that it asks for belong to no other step, even if it
asks for one.  A step with ``--overlap`` waits for no CPU, and no step waits for its.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from mpifarm.batch.launch_lines import find_own_line, is_by_mpirun
from mpifarm.batch.launcher import INTERACTIVE_STEP
from mpifarm.batch.slurm import read_srun

_CPUS_OF_FIRST_NODE = re.compile(r"([0-9]+)(?:\(x[0-9]+\))?(?:,|$)")
"""The first number of ``SLURM_JOB_CPUS_PER_NODE``, such as ``64(x2),32``."""

_WRAPPERS = frozenset(
    {"env", "timeout", "nice", "ionice", "nohup", "setsid", "stdbuf", "time", "command"}
    | {"exec", "taskset", "numactl", "chrt", "sudo"}
)
"""Programs that run the command that follows their own arguments."""
_WRAPPERS_OWN = re.compile(r"-.*|[0-9][0-9a-fA-Fx,.-]*[smhd]?|\w+=.*")
"""An argument of such a program: an option, a number or a time, a variable."""

_SHARING = frozenset({"overlap", "oversubscribe", "share", "s", "jobid"})
"""Options with which an srun may not wait for the farm's CPUs."""


def holds_all_cpus(environ: Mapping[str, str]) -> bool:
    """Return whether srun started this process in a step with all CPUs of the job.

    Return False for a step with ``SLURM_OVERLAP``, which holds no CPU for itself.
    """
    step = environ.get("SLURM_STEP_ID", "")
    if not step.isdecimal() or step == INTERACTIVE_STEP or is_by_mpirun(environ):
        return False
    nodes = environ.get("SLURM_STEP_NUM_NODES", "")
    cpus = _CPUS_OF_FIRST_NODE.match(environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return (
        "SLURM_OVERLAP" not in environ
        and cpus is not None
        and environ.get("SLURM_CPUS_ON_NODE") == cpus[1]
        and environ.get("SLURM_JOB_NUM_NODES") == nodes
    )


def is_overlapping(running: Iterable[Sequence[str]], words: Sequence[str]) -> bool:
    """Return whether srun started the farm of these `words` with ``--overlap``.

    `running` holds the command line of each srun on this node: no variable of the step
    tells that option.  Return False if the farm's srun is not on this node.
    """
    return "overlap" in read_srun(find_own_line(running, words)).options


def waits_for_cpus(words: Sequence[str]) -> bool:
    """Return whether a command is an srun that waits for CPUs that no step holds.

    `words` may begin with wrappers, such as ``env`` or ``timeout``.
    """
    words = _without_wrapper(words)
    if not words or words[0].rpartition("/")[2] != "srun":
        return False
    read = read_srun(words)
    return bool(
        read.program
        and not read.program.startswith(("$", '"$', "`"))  # it may be options
        and not read.options & _SHARING
    )


def _without_wrapper(words: Sequence[str]) -> Sequence[str]:
    """Return the words of a command without leading wrappers (``env``, ``timeout``)."""
    while words and words[0].rpartition("/")[2] in _WRAPPERS:
        own = takewhile(_WRAPPERS_OWN.fullmatch, words[1:])
        words = words[1 + len([*own]) :]
    return words
