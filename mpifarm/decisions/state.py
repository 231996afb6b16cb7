"""What the coordinator knows of the farm, of each rank and of each task.

Rules of this file: what is, and the tables of what may become of it; what happens is in
`coordinator`.  A record costs little: a farm has a million tasks.
"""

from dataclasses import dataclass, field
from enum import Enum

from mpifarm.task import TRANSITIONS, Result, TaskState

AHEAD_SECONDS = 0.25
"""Seconds of work that a rank gets beyond what its workers run."""

ONE_AHEAD_SECONDS = 2.5
"""A rank that ends a task within so long gets one ahead at least."""

UNLIMITED = 1 << 30


class Phase(Enum):
    """Where the farm is on its way; it only goes forward, by `PHASES`."""

    WORKING = "working"
    DRAINING = "draining"
    STOPPING = "stopping"
    LEAVING = "leaving"

    __hash__ = object.__hash__  # Enum's own is written in Python


PHASES: dict[Phase, frozenset[Phase]] = {
    Phase.WORKING: frozenset({Phase.DRAINING, Phase.STOPPING, Phase.LEAVING}),
    Phase.DRAINING: frozenset({Phase.STOPPING, Phase.LEAVING}),
    Phase.STOPPING: frozenset({Phase.LEAVING}),
    Phase.LEAVING: frozenset(),
}

MOVES: dict[TaskState, frozenset[TaskState]] = {
    **TRANSITIONS,
    # the attempt has failed, and the task gets another
    TaskState.ENDED: TRANSITIONS[TaskState.ENDED] | {TaskState.QUEUED},
}
"""Every change of a task's state that may happen."""


class RankState(Enum):
    """Where a rank is."""

    JOINING = "joining"
    WORKING = "working"
    OUT_OF_USE = "out of use"
    """It lives and runs what it has, and gets no more."""
    STOPPED = "stopped"
    """Its commands are dead and it holds nothing."""
    LOST = "lost"
    """Given up because it was silent: nothing that it says counts."""
    DEAD = "dead"
    """MPI says so."""

    __hash__ = object.__hash__


GONE = frozenset({RankState.LOST, RankState.DEAD})
SETTLED = GONE | {RankState.STOPPED}


@dataclass(slots=True)
class History:
    """What befell a task whose attempts did not all go well."""

    failures: int = 0
    """Attempts that failed and were run again."""
    checkpoints: int = 0
    """Attempts that ended with the status that asks for another."""
    fast_checkpoints: int = 0
    """Of those, the last ones in a row that took no time."""
    ranks_lost: int = 0
    """Ranks that were lost while they held it."""
    is_final: bool = False
    """No other attempt can end otherwise."""


@dataclass(slots=True)
class TaskRecord:
    """What the coordinator knows of a task that this farm holds."""

    taskid: int
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    """The attempt that is or was last under way, from 1."""
    lost: int = 0
    """Attempts that lost their worker or their rank."""
    rank: int = -1
    turn: int = 0
    """Its place among all leases of the farm; later ones are greater."""
    result: Result | None = None
    ended: float = 0.0
    """When the command ended, by the coordinator's clock."""
    history: History | None = None
    """None as long as all is well."""

    @property
    def past(self) -> History:
        """Its history, which begins here if it has none."""
        if self.history is None:
            self.history = History()
        return self.history

    @property
    def may_kill_ranks(self) -> bool:
        """Whether a rank was lost that held it."""
        return self.history is not None and self.history.ranks_lost > 0


@dataclass(slots=True)
class RankRecord:
    """What the coordinator knows of a rank."""

    rank: int
    state: RankState = RankState.JOINING
    host: str = ""
    pid: int = 0
    heard_at: float = float("inf")
    """When it last said anything."""
    workers: int = 0
    node_worker: int | None = None
    """The number of its first worker on its node, once it was told."""
    ended: int = 0
    """Results that it has reported."""
    mean: float = 0.0
    """Moving mean of its tasks' run times, seconds; 0 until it has reported one."""
    most_leases: int = UNLIMITED
    """While it is on trial: none, or one."""
    is_dismissed: bool = False
    """It was given up, spoke again, and was told to leave."""
    is_asked: bool = False
    """It has not answered a `Recall` yet."""
    is_addressed: bool = False
    """It was given leases since the last ping."""
    counted: tuple[int, float] = (0, 0.0)
    """Its workers and its rate, as they stand in the census."""

    leases: set[int] = field(default_factory=set)

    @property
    def works(self) -> bool:
        """Whether it takes leases."""
        return self.state is RankState.WORKING

    @property
    def may_work(self) -> bool:
        """Whether it takes leases, now or when it has come."""
        return self.state in {RankState.JOINING, RankState.WORKING}

    @property
    def is_gone(self) -> bool:
        """Nothing that it says counts."""
        return self.state in GONE

    @property
    def settled(self) -> bool:
        """Nothing more will come from it at a stop."""
        return self.state in SETTLED

    @property
    def rate(self) -> float:
        """Tasks per second, as far as known."""
        return self.workers / self.mean if self.mean else 0.0

    @property
    def name(self) -> str:
        """For sentences."""
        return f"rank {self.rank} on {self.host}" if self.host else f"rank {self.rank}"

    def note_duration(self, seconds: float) -> None:
        """A task of its took `seconds`."""
        self.ended += 1
        weight = 0.05 if self.ended > 20 else 1 / self.ended
        least = seconds if seconds > 1e-4 else 1e-4  # noqa: FURB136 - max() takes longer
        self.mean += (least - self.mean) * weight

    def expect_long_tasks(self) -> None:
        """It gave leases back, since its tasks got longer: none ahead for now."""
        self.mean = max(self.mean, 1.01 * ONE_AHEAD_SECONDS * self.workers)

    def room(self, seconds: float = AHEAD_SECONDS, one_each_below: float = 0.0) -> int:
        """Leases that it could hold, with `seconds` of work ahead of what runs.

        It grows with what the rank has shown to get done.  Where tasks take less than
        `one_each_below` seconds, there is one for each worker at least.
        """
        ahead = 0
        if self.mean:
            rate = self.workers / self.mean
            ahead = int(rate * seconds) or int(rate * ONE_AHEAD_SECONDS >= 1.0)
            if ahead < self.workers and self.mean < one_each_below:
                ahead = self.workers
            ahead = min(ahead, 2 * self.ended)
        return min(self.workers + ahead, self.most_leases)

    @property
    def idle(self) -> int:
        """Leases that workers of it could begin at once, as far as known."""
        return max(0, min(self.workers, self.most_leases) - len(self.leases))


@dataclass(frozen=True, slots=True)
class Crew:
    """Who is there to run tasks."""

    ranks: tuple[int, ...]
    """The ids, in the launch, of the ranks that live."""
    own: int = 0
    """The rank on which the coordinator itself lives."""
    workers: int = 1
    """Workers that are expected on each."""
    heals: bool = False
    """Another rank can take over when this one is lost."""


def tasks_in_words(count: int) -> str:
    """1 task, 2 tasks."""
    return f"{count} {'task' if count == 1 else 'tasks'}"
