"""What ranks say to each other.

Rules of this file: two closed unions, one for each direction; frozen values that say
all they mean, with no reference to anything of the sender.  Rank 0's own rank loop
gets and sends the same messages, without MPI.
"""

from dataclasses import dataclass

from mpifarm.config import FarmDefinition
from mpifarm.task import Lease, Result

REPORT_SECONDS = 0.02
"""Longest time for which a result waits for others before it is reported, where the
ranks are few."""

# ---- from the coordinator to a rank -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to `Join`: what the farm is.  The rank starts its pool."""

    definition: FarmDefinition
    node_worker: int
    """The number of the rank's first worker among all workers of its node."""
    report_seconds: float = REPORT_SECONDS
    """Longest time for which a result waits for others before it is reported; the more
    ranks there are, the longer."""


@dataclass(frozen=True, slots=True)
class Assign:
    """Run these."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """Give back up to `count` leases that no worker can begin at once.

    Each is answered by one `Report` with `is_recall`, which may name none.
    """

    count: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Start nothing more, give back what has not been started, finish what runs."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Kill what runs: TERM to the commands, KILL after `grace` seconds (0: at once)."""

    grace: float


@dataclass(frozen=True, slots=True)
class Ping:
    """Rank 0 is alive."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing more will come: end the pool, finalize, exit 0."""

    ranks_lost: bool = False
    """Ranks were lost: exit without `MPI_Finalize`, which would wait for them."""
    aborts: bool = False
    """Some of them may only hang: the coordinator's rank ends all that is left."""


@dataclass(frozen=True, slots=True)
class Noted:
    """These results are on disk: no coordinator will need them from this rank again.

    Sent where another rank can become the coordinator (`Comm.heals`).
    """

    results: tuple[tuple[int, int], ...]
    """(taskid, attempt) of each."""


# ---- from a rank to the coordinator -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Join:
    """The first message of a rank: it is there, and will have this many workers."""

    host: str
    pid: int
    """Of the rank's process."""
    workers: int


@dataclass(frozen=True, slots=True)
class Report:
    """What has happened on a rank since its last report.

    `sent` is the rank's monotonic clock as it sent this (the `ended` of the results
    are of the same clock).  `returned` are leases that were not started.  `lost` are
    leases whose worker died under them.
    """

    sent: float
    results: tuple[Result, ...] = ()
    returned: tuple[tuple[int, int], ...] = ()
    """(taskid, attempt) of each lease given back unstarted."""
    lost: tuple[tuple[int, int], ...] = ()
    """(taskid, attempt) of each lease whose worker was killed under it."""
    is_recall: bool = False
    """Whether it answers a `Recall`."""


@dataclass(frozen=True, slots=True)
class Rejoin:
    """The first message of a rank after ranks were lost: what is true there.

    All messages that were under way then are gone, in both directions, and the
    coordinator may be another one.
    """

    host: str
    pid: int
    workers: int
    is_welcomed: bool
    """Whether it knows what the farm is; if not, this is its `Join`."""
    leases: tuple[tuple[int, int], ...]
    """(taskid, attempt) of all that it holds and has not reported as ended."""
    report: Report
    """All that it can't know to be on disk, though it may have been reported before."""


@dataclass(frozen=True, slots=True)
class SignalSeen:
    """The rank got this signal; what it means is decided on rank 0."""

    signum: int


@dataclass(frozen=True, slots=True)
class Alive:
    """The answer to a ping."""


@dataclass(frozen=True, slots=True)
class RankTrouble:
    """The rank can run no task (no log, no runner): they would fail one by one."""

    reason: str


@dataclass(frozen=True, slots=True)
class PoolLost:
    """The rank's pool is gone (its parent was killed); it can run nothing more."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """All commands of the rank are dead; it runs nothing and holds nothing."""


ToRank = Welcome | Assign | Recall | Drain | Stop | Ping | Leave | Noted
ToCoordinator = (
    Join | Report | Rejoin | SignalSeen | Alive | RankTrouble | PoolLost | Stopped
)
