"""Vocabulary of the pool: its definition, and the events that its rank gets.

Rules of this file: vocabulary only.
"""

from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mpifarm.immutable import immutable
from mpifarm.model.settings import RunnerDefinition, TaskLimits
from mpifarm.model.task import Lease, Result
from mpifarm.output.task_log import LogPlace

if TYPE_CHECKING:  # the fork server imports it; the rank does without
    from mpifarm.runners import Runner

T = TypeVar("T")

CreateRunner = Callable[[RunnerDefinition], "Runner"]


@immutable
class Allotment:
    """The CPUs and GPUs of a rank's workers (`system.cpus`, `system.gpus`)."""

    threads: int = 1
    """``OMP_NUM_THREADS`` of an unbound worker, unless the user has set it."""
    shares: tuple[tuple[int, ...], ...] = ()
    """The CPUs of each worker; empty where no worker is bound."""
    gpus: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """GPU ids by the variable that names them; workers take them in turn."""


@immutable
class PoolDefinition:
    """All that the fork server needs before it forks the workers."""

    workers: int
    rank: int
    farm: str
    workdir: str
    logs: str
    """Directory of the task logs."""
    runner: RunnerDefinition = field(default_factory=RunnerDefinition)
    environment: dict[bytes, bytes] = field(default_factory=dict)
    """The environment of a command, without the variables of the farm itself."""
    node_worker: int = 0
    """Number of the first worker among all workers of the node."""
    allotment: Allotment = field(default_factory=Allotment)
    limits: TaskLimits = field(default_factory=TaskLimits)
    grace: float = 2.0
    """Seconds from the TERM at the end of a task's time limit to the KILL."""
    kept_logs: str = "all"
    """Which outputs are kept: one of `settings.LOG_KINDS`."""
    id_variables: tuple[tuple[str, int], ...] = ()
    """More variables that hold the task's number, each with its first number."""

    @property
    def log_place(self) -> LogPlace:
        """Return where the workers keep the outputs of tasks."""
        return LogPlace(self.logs, self.farm, self.rank, self.kept_logs)


def encode_definition(definition: PoolDefinition) -> tuple[Any, ...]:
    """Encode a definition, with all fields of its dataclasses, as values of a frame."""
    return cast(tuple[Any, ...], _encode(definition))


def parse_definition(values: tuple[Any, ...]) -> PoolDefinition:
    """Parse the values that `encode_definition` has encoded."""
    return _parse(PoolDefinition, values)


# By the fields of the classes: a list of names here would forget the next field.


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        return tuple(_encode(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, Mapping):
        return dict(value)
    # `marshal` takes no signal, which is an int as well.
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return int(value) if is_number else value


def _parse(kind: type[T], values: tuple[Any, ...]) -> T:
    parts = zip(fields(cast(Any, kind)), values, strict=True)
    return kind(
        *(
            _parse(each.type, value)
            if isinstance(each.type, type) and is_dataclass(each.type)
            else value
            for each, value in parts
        )
    )


@immutable
class WorkerLost:
    """Death of a worker that had leases; the fork server starts another worker.

    `running` had been started, `unstarted` had not.  `status` is the exit status as in
    `subprocess`; None if the worker could not be forked.
    """

    running: Lease | None
    unstarted: tuple[Lease, ...]
    status: int | None


@immutable
class PoolUseless:
    """Every worker has died before its first task, several times in a row.

    The fork server goes on starting workers.
    """

    reason: str


@immutable
class PoolGone:
    """Death of the fork server and with it of all workers; nothing runs any more."""

    leases: tuple[Lease, ...]
    """The leases that workers held; each worker's running lease stands first."""


@immutable
class LeaseRefused:
    """A lease that could not start: the disk gives no log, or there is no runner."""

    lease: Lease
    reason: str


@immutable
class LeaseReturned:
    """A lease that was recalled at the moment at which its worker came to it."""

    lease: Lease


PoolEvent = Result | WorkerLost | LeaseRefused | LeaseReturned | PoolUseless | PoolGone
