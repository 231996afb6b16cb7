"""The settings of a farm, as checked once by the command line.

Rules of this file: frozen values only; whoever reads a setting may rely on it.
"""

from dataclasses import dataclass, field


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
