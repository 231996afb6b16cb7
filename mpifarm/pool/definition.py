"""What a pool is, and what it tells its rank.

Rules of this file: vocabulary only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpifarm.config import RunnerDefinition, TaskLimits
from mpifarm.task import Lease, Result

if TYPE_CHECKING:  # the pool's parent imports it, not the rank
    from mpifarm.runners import Runner

CreateRunner = Callable[[RunnerDefinition], "Runner"]


@dataclass(frozen=True)
class Allotment:
    """What the workers of a rank get of its CPUs and GPUs (`mpifarm.cpus`, `.gpus`)."""

    threads: int = 1
    """``OMP_NUM_THREADS`` of a worker that isn't bound, unless the user has set it."""
    shares: tuple[tuple[int, ...], ...] = ()
    """The CPUs of each worker; empty where none is bound."""
    gpus: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """For each variable that names GPUs, the ids that go round among the workers."""


@dataclass(frozen=True)
class PoolDefinition:
    """What the pool's parent needs to know before it forks the workers."""

    workers: int
    rank: int
    farm: str
    workdir: str
    logs: str
    """Directory of the tasks' logs."""
    runner: RunnerDefinition = field(default_factory=RunnerDefinition)
    environment: dict[bytes, bytes] = field(default_factory=dict)
    """All that a command gets, but for the variables of the farm itself."""
    node_worker: int = 0
    """The number of the first worker among all workers of the node."""
    allotment: Allotment = field(default_factory=Allotment)
    limits: TaskLimits = field(default_factory=TaskLimits)
    grace: float = 2.0
    """Seconds from the TERM at the end of a task's time limit to the KILL."""
    kept_logs: str = "all"
    """What is kept of the output, as in `config.LOG_KINDS`."""


def encode_definition(definition: PoolDefinition) -> tuple[Any, ...]:
    """Plain values, for a frame."""
    runner, allotment = definition.runner, definition.allotment
    limits = definition.limits
    return (
        definition.workers,
        definition.rank,
        definition.farm,
        definition.workdir,
        definition.logs,
        (runner.name, runner.python_class, dict(runner.options), runner.source),
        dict(definition.environment),
        definition.node_worker,
        (allotment.threads, allotment.shares, dict(allotment.gpus)),
        (limits.timeout, limits.memory, int(limits.checkpoint_signal or 0) or None),
        definition.grace,
        definition.kept_logs,
    )


def parse_definition(values: tuple[Any, ...]) -> PoolDefinition:
    """What `encode_definition` encoded."""
    *place, runner, environment, node_worker, allotment, limits, grace, logged = values
    workers, rank, farm, workdir, logs = place
    return PoolDefinition(
        workers,
        rank,
        farm,
        workdir,
        logs,
        RunnerDefinition(*runner),
        environment,
        node_worker,
        Allotment(*allotment),
        TaskLimits(*limits),
        grace,
        logged,
    )


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker died under its leases; it is being replaced.

    `running` had been started, `unstarted` had not.  `status` is how the worker died,
    as in `subprocess`; None if unknown (it could not be forked).
    """

    running: Lease | None
    unstarted: tuple[Lease, ...]
    status: int | None


@dataclass(frozen=True, slots=True)
class PoolUseless:
    """Each worker died before its first task, or could not be forked, again and again.

    They are still being replaced.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class PoolGone:
    """The pool's parent was killed, and all workers with it; nothing runs any more."""

    leases: tuple[Lease, ...]
    """What the workers had in hand, each worker's running one before its others."""


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """There was no log for this lease (the disk), or no runner; it did not start."""

    lease: Lease
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseReturned:
    """A lease that was recalled at the moment at which its worker came to it."""

    lease: Lease


PoolEvent = Result | WorkerLost | LeaseRefused | LeaseReturned | PoolUseless | PoolGone
