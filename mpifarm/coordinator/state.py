"""What the coordinator knows of the farm, of each rank and of each task.

Rules of this file: records, and the tables of the moves that their states may make.
`TaskTable` alone moves tasks, `RankUse.enter` ranks, `Ending` the farm.
A record costs little: a farm has a million tasks.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from mpifarm.immutable import immutable
from mpifarm.model.settings import Policy
from mpifarm.model.task import Result

UNLIMITED = 1 << 30


class Phase(Enum):
    """The phase of the farm; each change goes forward, by `PHASES`."""

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


class TaskState(Enum):
    """The place of a task that this farm has taken out of ``toprocess``."""

    QUEUED = "queued"
    """Taken, and with no rank."""
    LEASED = "leased"
    """Handed to the rank `TaskRecord.rank`, as the attempt `TaskRecord.attempt`."""
    ENDED = "ended"
    """Its command has ended with `TaskRecord.result`, which is not on disk yet."""
    WRITING = "writing"
    """On its way to disk, with `TaskRecord.result`."""
    REQUEUING = "requeuing"
    """On its way back into ``toprocess``."""

    # Enum's own hash is written in Python, and each task is looked up by state six
    # times.
    __hash__ = object.__hash__


MOVES: dict[TaskState, frozenset[TaskState]] = {
    # Ended: it was cancelled.
    TaskState.QUEUED: frozenset(
        {TaskState.LEASED, TaskState.REQUEUING, TaskState.ENDED}
    ),
    TaskState.LEASED: frozenset(
        {TaskState.ENDED, TaskState.QUEUED, TaskState.REQUEUING}
    ),
    # Queued again: the attempt failed, or its rank is gone and was not sure of it.
    TaskState.ENDED: frozenset(
        {TaskState.WRITING, TaskState.QUEUED, TaskState.REQUEUING}
    ),
    TaskState.WRITING: frozenset(),
    TaskState.REQUEUING: frozenset(),
}
"""All moves of a task; once the task is on disk again, it is in no state here."""


class RankState(Enum):
    """The part of a rank in the farm."""

    JOINING = "joining"
    WORKING = "working"
    OUT_OF_USE = "out of use"
    """The rank lives, runs what it has, and gets no more."""
    STOPPED = "stopped"
    """Its commands are dead and it holds nothing."""
    LOST = "lost"
    """Given up because it was silent: nothing that it says counts."""
    DEAD = "dead"
    """MPI says so."""

    __hash__ = object.__hash__


RANK_MOVES: dict[RankState, frozenset[RankState]] = {
    RankState.JOINING: frozenset(RankState) - {RankState.JOINING},
    RankState.WORKING: frozenset(RankState) - {RankState.JOINING},
    # Working again: a task is tried there.
    RankState.OUT_OF_USE: frozenset(RankState) - {RankState.JOINING},
    # Out of use: it has lost its pool, and says then that it can run nothing.
    RankState.STOPPED: frozenset(RankState) - {RankState.JOINING, RankState.WORKING},
    RankState.LOST: frozenset({RankState.LOST, RankState.DEAD}),
    RankState.DEAD: frozenset({RankState.DEAD}),
}
"""All moves of a rank.  A rank may say the same twice, so most states may repeat."""

GONE = frozenset({RankState.LOST, RankState.DEAD})
SETTLED = GONE | {RankState.STOPPED}


@dataclass(slots=True)
class History:
    """The misfortunes of a task whose attempts did not all go well."""

    failures: int = 0
    """Attempts that failed and were run again."""
    checkpoints: int = 0
    """Attempts that ended with the status that asks for another."""
    fast_checkpoints: int = 0
    """The last checkpoints in a row that took less than a second."""
    ranks_lost: int = 0
    """Ranks that were lost while they held the task."""
    is_final: bool = False
    """Whether the task fails whatever its policy of retries says."""
    waits_from: float = 0.0
    """When the delay before its next attempt is over: from then on it waits for a rank
    other than its last."""


@dataclass(slots=True)
class TaskRecord:
    """A task that this farm holds.

    `TaskTable` changes state, attempt, rank, turn, result and times together.
    """

    taskid: int
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    """The attempt that is or was last under way, from 1."""
    lost: int = 0
    """Attempts that lost their worker or their rank."""
    rank: int = -1
    """The rank that has the task, or had it last; -1: none yet."""
    turn: int = 0
    """The place of its lease among all leases of the farm; later ones are greater."""
    result: Result | None = None
    """How the attempt ended; None unless the task is ENDED or WRITING."""
    ended: float = 0.0
    """When the command ended, by the coordinator's clock."""
    due: float = 0.0
    """When the rank was sure of the result: since then it may be recorded."""
    history: History | None = None
    """None as long as all is well."""

    @property
    def past(self) -> History:
        """Create the history of the task if it has none, then return it."""
        if self.history is None:
            self.history = History()
        return self.history

    @property
    def waits_for_rank(self) -> bool:
        """Return whether the next attempt has to wait for a rank that suits it."""
        history = self.history
        return history is not None and (history.failures > 0 or history.ranks_lost > 0)

    @property
    def may_kill_ranks(self) -> bool:
        """Return whether a rank was lost that held the task."""
        return self.history is not None and self.history.ranks_lost > 0


@dataclass(slots=True)
class RankRecord:
    """A rank as the coordinator knows it."""

    rank: int
    state: RankState = RankState.JOINING
    host: str = ""
    pid: int = 0
    heard_at: float = float("inf")
    """When the rank last said anything; `inf` until `Liveness` first looks."""
    workers: int = 0
    node_worker: int | None = None
    """The number of its first worker on its node, once the rank was told."""
    ended: int = 0
    """Results that the rank has reported."""
    mean: float = 0.0
    """Moving mean of its tasks' run times, seconds; 0 until it has reported one."""
    most_leases: int = UNLIMITED
    """While the rank is on trial: none, or one."""
    is_dismissed: bool = False
    """Whether the rank was given up, spoke again, and was told to leave."""
    is_asked: bool = False
    """Whether the rank has yet to answer a `Recall`."""
    is_addressed: bool = False
    """Whether the rank was given leases since the last ping."""
    counted: tuple[int, float] = (0, 0.0)
    """(workers, rate) of the rank as they stand in the sums of `Capacity`."""
    sure: float = float("-inf")
    """Results that ended there until then, by its own clock, count (`Report.sure`)."""
    is_void: bool = False
    """Whether the rank got a signal that stops the farm: a result that isn't sure by
    then never will be."""
    is_drained: bool = False
    """Whether the rank got the signal that says drain; its commands may have died of
    it."""

    leases: set[int] = field(default_factory=set)
    """Ids of the tasks that the rank has and that have not ended."""
    unsure: deque[TaskRecord] = field(default_factory=deque)
    """Its tasks that have ended and don't count yet, in the order of their reports."""

    @property
    def works(self) -> bool:
        """Return whether the rank takes leases."""
        return self.state is RankState.WORKING

    @property
    def may_work(self) -> bool:
        """Return whether the rank takes leases, now or once it has joined."""
        return self.state in {RankState.JOINING, RankState.WORKING}

    @property
    def is_gone(self) -> bool:
        """Return whether the rank is lost or dead: nothing from it counts any more."""
        return self.state in GONE

    @property
    def settled(self) -> bool:
        """Return whether the rank has stopped or is gone: no stop awaits it."""
        return self.state in SETTLED

    @property
    def rate(self) -> float:
        """Tasks that the workers of the rank finish in a second; 0 while unknown."""
        return self.workers / self.mean if self.mean else 0.0

    @property
    def name(self) -> str:
        """The name of the rank in sentences, with its host once that is known."""
        return f"rank {self.rank} on {self.host}" if self.host else f"rank {self.rank}"

    @property
    def idle(self) -> int:
        """Leases that workers of the rank could begin at once, within `most_leases`."""
        return max(0, min(self.workers, self.most_leases) - len(self.leases))

    def note_duration(self, seconds: float) -> None:
        """Count a result of the rank, and move its `mean` towards `seconds`."""
        self.ended += 1
        # The plain mean of the first 20; then the mean follows tasks that change.
        weight = 0.05 if self.ended > 20 else 1 / self.ended
        least = seconds if seconds > 1e-4 else 1e-4  # noqa: FURB136 - max() takes longer
        self.mean += (least - self.mean) * weight


@immutable
class RankSet:
    """The ranks that are there to run tasks."""

    ranks: tuple[int, ...]
    """The ids, in the launch, of the ranks that live."""
    own: int = 0
    """The rank on which the coordinator itself lives."""
    workers: int = 1
    """Workers that are expected on each rank."""
    survives_rank_loss: bool = False
    """Whether another rank can take over when the coordinator's rank is lost."""


@dataclass(slots=True)
class FarmState:
    """The state of the farm that all members of the coordinator read."""

    rank_set: RankSet
    policy: Policy
    ranks: dict[int, RankRecord]
    phase: Phase = Phase.WORKING
    """`Ending` alone changes it."""

    @classmethod
    def begin(cls, rank_set: RankSet, policy: Policy) -> "FarmState":
        """Return the state of a working farm whose ranks have all yet to join."""
        ranks = {rank: RankRecord(rank) for rank in rank_set.ranks}
        return cls(rank_set, policy, ranks)

    def count_running(self) -> int:
        """Return how many tasks run: of each rank's leases, one for each worker."""
        ranks = self.ranks.values()
        return sum(min(len(rank.leases), rank.workers) for rank in ranks)

    @property
    def is_working(self) -> bool:
        """Return whether the farm still hands out tasks."""
        return self.phase is Phase.WORKING
