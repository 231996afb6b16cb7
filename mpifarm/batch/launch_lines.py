"""Command lines that start a farm as it should have been started.

Rules of this file: of the machine, it looks only whether a program exists.  A line can
be pasted: it is quoted for a shell, and repeats the words that the user typed.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mpifarm.batch.launcher import names_launcher
from mpifarm.batch.slurm import set_option

PMI_OF = {"MPICH": "pmi2", "Intel MPI": "pmi2", "MVAPICH": "pmi2", "Open MPI": "pmix"}
"""The value of ``srun --mpi=`` for each MPI library, by the name in mpi4py."""

_BY_MPIRUN = ("HYDI_CONTROL_FD", "PRTE_LAUNCHED", "OMPI_COMM_WORLD_SIZE")
_ELSEWHERE = frozenset({"sbatch", "blaunch", "ssh", "parallel"})
"""Commands, apart from MPI launchers, by which a task may use other nodes."""
_WORD = re.compile(r"[\w./+-]+")
_SUPERVISED = re.compile(r"--job-name=mpifarm-[0-9a-f]+$")
"""The option that ``mpifarm supervise`` adds to a line."""


def find_farm_words(original: Sequence[str]) -> list[str]:
    """Return the words that the user typed for one rank, out of ``sys.orig_argv``.

    The words begin with the interpreter, or with the script ``mpifarm``.
    """
    # The kernel has put the interpreter before the script `mpifarm` (its #! line).
    if len(original) > 1 and os.path.basename(original[1]) == "mpifarm":
        return list(original[1:])
    return list(original)


# ---- srun with another --mpi ---------------------------------------------------------


def correct_srun(
    environ: Mapping[str, str],
    pmi: str,
    words: Sequence[str],
    running: Iterable[Sequence[str]],
) -> str:
    """Return the srun line of this step with ``--mpi=`` set to `pmi`.

    `words` is the command line of the farm; `running` holds the command line of each
    srun on this node.  The srun of this step runs only on the node of the batch script.
    Elsewhere the line is made from the variables of the step.  The line begins with
    ``mpifarm supervise --`` if that has started the farm.
    """
    typed = find_own_line(running, words)
    supervise = ["mpifarm", "supervise", "--"] if "MPIFARM_LAUNCH" in environ else []
    if typed:
        line = ["srun", *(each for each in typed[1:] if not _SUPERVISED.match(each))]
        return shlex.join([*supervise, *set_option(line, "mpi", pmi)])
    nodes = environ.get("SLURM_STEP_NUM_NODES", "1")
    tasks = environ.get("SLURM_STEP_NUM_TASKS", nodes)
    count = [] if tasks == nodes else ["-n", tasks]
    line = ["srun", f"--mpi={pmi}", "-N", nodes, *count, *words]
    return shlex.join([*supervise, *line])


def find_own_line(
    running: Iterable[Sequence[str]], words: Sequence[str]
) -> tuple[str, ...]:
    """Return the line of `running` that ends in `words`, or () unless exactly one does.

    The first of the words is not compared: it is the interpreter, under any name.
    """
    own = {
        tuple(line)
        for line in running
        if len(line) > len(words) and [*line[-len(words) :]][1:] == [*words][1:]
    }
    return own.pop() if len(own) == 1 else ()


def correct_mpirun(prefix: str, count: int, words: Sequence[str]) -> str:
    """Return the line with the mpiexec of `prefix`, "" if that has no mpiexec."""
    program = f"{prefix}/bin/mpiexec"
    if not os.access(program, os.X_OK):
        return ""
    return shlex.join([program, "-n", str(count), *words])


# ---- nodes without a rank ------------------------------------------------------------


class JobNodes(NamedTuple):
    """The number of nodes of a job, and of nodes that the farm can be on."""

    job: int
    used: int


def count_nodes(
    environ: Mapping[str, str], ranks: int, hosts: Iterable[str] = ()
) -> JobNodes | None:
    """Count the nodes of the job, and of a farm with that many `ranks`.

    `hosts` are the lines of ``PBS_NODEFILE``.  A farm that srun did not start counts as
    one rank on each node.  Return None if the nodes of the job are unknown.
    """
    job = _count_job_nodes(environ, hosts)
    if job is None:
        return None
    step = environ.get("SLURM_STEP_NUM_NODES", "")
    if step.isdecimal() and not is_by_mpirun(environ):
        return JobNodes(job, int(step))
    return JobNodes(job, min(ranks, job))


def is_by_mpirun(environ: Mapping[str, str]) -> bool:
    """Return whether mpirun, not srun, has started this process."""
    return any(name in environ for name in _BY_MPIRUN)


def _count_job_nodes(environ: Mapping[str, str], hosts: Iterable[str]) -> int | None:
    """Return the number of nodes of the job, None if no batch system tells it."""
    for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES", "NHOSTS"):
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    if counted := environ.get("LSB_MCPU_HOSTS", "").split():
        return len(set(counted[::2]))
    names = {line.strip() for line in hosts} - {""}
    return len(names) or None


def starts_programs_elsewhere(commands: Iterable[str]) -> bool:
    """Return whether a command names a program that may use other nodes (srun, ssh)."""
    return any(
        names_launcher(command)
        or any(os.path.basename(word) in _ELSEWHERE for word in _WORD.findall(command))
        for command in commands
    )


def describe_idle_nodes(nodes: JobNodes, line: str) -> str:
    """Return a warning of nodes without a rank, or "" if each node has one."""
    if nodes.used >= nodes.job:
        return ""
    return (
        f"WARNING: the job has {nodes.job} nodes, and this farm runs on {nodes.used}; "
        f"unless you keep the others for something else, start it with {line}"
    )


def line_over_all_nodes(
    environ: Mapping[str, str], nodes: int, vendor: str, words: Sequence[str]
) -> str:
    """Return the line that starts one rank on each node of the job.

    `vendor` is the MPI library's name in mpi4py, "" if it is unknown.
    """
    count, words = str(nodes), _without_mpi_off(words)
    if "SLURM_JOB_ID" in environ and not is_by_mpirun(environ):
        pmi = PMI_OF.get(vendor, "pmi2")
        options = [f"--mpi={pmi}", "-N", count, "-n", count, "--cpu-bind=none", "-K0"]
        return shlex.join(["srun", *options, *words])
    if vendor == "Open MPI":
        one_each = ["--map-by", "ppr:1:node", "--bind-to", "none"]
        return shlex.join(["mpirun", "-n", count, *one_each, *words])
    one_each = ["-ppn", "1"] if vendor == "MPICH" else []
    return shlex.join(["mpirun", "-n", count, *one_each, *words])


def _without_mpi_off(words: Sequence[str]) -> list[str]:
    """Return `words` without ``--mpi off``, by which each rank is a farm of its own."""
    kept = list[str]()
    for word in words:
        if word == "off" and kept[-1:] == ["--mpi"]:
            kept.pop()
        elif word != "--mpi=off":
            kept.append(word)
    return kept
