"""The settings of a farm, as checked once by the command line.

Rules of this file: frozen values only; whoever reads a setting may rely on it.
"""

from dataclasses import dataclass, field

LOG_KINDS = ("all", "packed", "failed")
"""What ``--logs`` may be: a file for each task; a few files for all tasks; a file for
each task that failed."""


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """What each command may take, and what it is told at a stop."""

    timeout: float | None = None
    """Seconds from its start to TERM; KILL comes the grace time later."""
    memory: int | None = None
    """Bytes of memory of its own that each process of it may have."""
    checkpoint_signal: int | None = None
    """What a stop sends to commands in place of TERM; KILL comes a grace time later."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What rank 0 makes of tasks that fail, of ranks that do, and of the time left."""

    retries: int = 0
    """Attempts beyond the first that a failed task gets."""
    retry_delay: float = 0.0
    """Seconds between a failure and the next attempt."""
    max_failures: int | None = None
    """Failed tasks at which the farm stops."""
    max_failed_share: float | None = None
    """The same as a share, 0 to 1, of the tasks that this farm has ended."""
    requeue_status: int | None = None
    """A task that ends with this status made a checkpoint and wants to run again."""
    quarantine: int = 10
    """Fast failures in a row at which a rank gets no more, while others succeed (0:
    never)."""
    canary: int = 0
    """Tasks to run before any other; one of them has to succeed (0: none)."""
    deadline: float | None = None
    """Seconds since the epoch at which the job ends."""
    task_time: float | None = None
    """Seconds that a task takes; None: as those that have ended took."""
    rank_timeout: float = 60.0
    """Seconds of silence after which a rank is given up."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line after checking.  Times are in seconds."""

    tasklist: str
    """Path of the tasklist as the user gave it."""
    workdir: str
    """Path of the workdir as the user gave it, or its default beside the tasklist."""
    workers: int = 8
    """Workers on this rank (``--proc``)."""
    timeout: float | None = None
    verbose: bool = False
    runner: str = "default"
    handler: str = "default"
    grace: float = 2.0
    lock_area: str | None = None
    mpi: str = "auto"
    config: str | None = None
    """Path of an INI file that names runners and handlers (``--config``)."""
    bind: bool = False
    """Each worker gets its own share of the rank's CPUs."""
    gpus: str = "none"
    """``none``, ``auto`` or a number: how many GPUs the workers share."""
    logs: str = "all"
    """What is kept of the commands' output: one of `LOG_KINDS`."""
    remap: bool = False
    """Whether what was done is found by the text of the lines in an edited list."""
    limits: TaskLimits = TaskLimits()
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class RunnerDefinition:
    """How a worker makes its runner; rank 0 reads it, all ranks use the same."""

    name: str = "default"
    python_class: str = "mpifarm.runners.BasicRunner"
    options: dict[str, str] = field(default_factory=dict)
    """Keyword arguments of the class."""
    source: str = ""
    """The INI file that it is from, for messages; empty for what is built in."""


@dataclass(frozen=True, slots=True)
class HandlerDefinition:
    """How rank 0 makes the tasklist."""

    name: str = "default"
    python_class: str = "mpifarm.tasklists.ListTaskList"
    options: dict[str, str] = field(default_factory=dict)
    """Keyword arguments of the class, behind `path` and `workdir`."""
    source: str = ""
    """The INI file that it is from, for messages; empty for what is built in."""


@dataclass(frozen=True, slots=True)
class FarmDefinition:
    """What rank 0 tells the other ranks before the first task."""

    farm: str
    """The farm's random id."""
    workdir: str
    """Absolute path."""
    runner: RunnerDefinition
    grace: float
    limits: TaskLimits = TaskLimits()
    logs: str = "all"
