"""What a user wants of a batch system, as data.

Rules of this file: pure.
"""

from enum import Enum
from typing import Final, NamedTuple

from mpifarm.immutable import immutable

DEFAULT_LEAD: Final = 60
"""Seconds before the end of a job at which the farm is told to stop."""


class GoingOn(Enum):
    """How a job goes on while tasks are left."""

    NOT = "not"
    """The user submits it again."""
    REQUEUE = "requeue"
    """The same job goes back into the queue."""
    CHAIN = "chain"
    """Each job submits its successor."""


class Launcher(Enum):
    """What starts the ranks of a farm."""

    NONE = "none"
    """Nothing: one node is farmed without MPI."""
    SRUN = "srun"
    MPIRUN = "mpirun"


class After(NamedTuple):
    """A job that has to end first; `is_any`: whatever its exit status."""

    job: str
    is_any: bool = False


class Source(NamedTuple):
    """The list of a submitted job, and how its farm is started.

    `words` are the list and the farm's options.  `directory` is where the job runs,
    `path` the script's own path, `command` what the user typed.  `modules` is a
    directory to be found by Python first, "" for none.
    """

    words: tuple[str, ...]
    directory: str
    workdir: str
    path: str
    command: str
    modules: str = ""


@immutable
class JobRequest:
    """A job: its size, its time, and what is to happen at its end.

    Without a `source` the script takes the list and the farm's options as arguments,
    and has `head` for its comment.  Of `nodes`, None leaves the number to whoever
    submits the script.  Of `cpus`, None means whole nodes.
    """

    seconds: int
    nodes: int | None = None
    cpus: int | None = None
    name: str = "farm"
    account: str = ""
    partition: str = ""
    """The partition of Slurm, or the queue."""
    qos: str = ""
    environment: str = ""
    """The parallel environment of Grid Engine."""
    array: int = 0
    """The number of jobs in an array, 0 for a single job."""
    going_on: GoingOn = GoingOn.NOT
    is_backfill: bool = False
    is_supervised: bool = False
    after: tuple[After, ...] = ()
    """The jobs that have to end first, all of them."""
    directives: tuple[str, ...] = ()
    """More options for the batch system, each as it stands."""
    lead: int = DEFAULT_LEAD
    launcher: Launcher = Launcher.NONE
    pmi: str = ""
    """The value of srun's ``--mpi``, "" if nothing tells which fits."""
    mpirun: tuple[str, ...] = ("mpirun",)
    """The program mpirun, and its options for one rank on each node."""
    python: tuple[str, ...] = ("python",)
    chooses_workers: bool = True
    """Whether the script gives ``--proc``; a file of the user's options may."""
    source: Source | None = None
    head: tuple[str, ...] = ()

    @property
    def dependency(self) -> str:
        """The jobs that have to end first, as Slurm and PBS name them; "" for none."""
        words = []
        for kind, is_any in (("afterok", False), ("afterany", True)):
            jobs = [each.job for each in self.after if each.is_any == is_any]
            words += [":".join([kind, *jobs])] if jobs else []
        return ",".join(words)

    @property
    def names_output(self) -> bool:
        """Whether the user names the output by ``-o``, for PBS and Grid Engine."""
        words = (word for line in self.directives for word in line.split())
        return any(word.startswith("-o") for word in words)
