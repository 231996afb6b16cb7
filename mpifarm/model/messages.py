"""Messages between the coordinator and the ranks.

Rules of this file: two closed unions, one for each direction.  A message is a frozen
value and refers to no object of its sender.  Rank 0's own agent gets and sends the same
messages, without MPI.
"""

from mpifarm.immutable import immutable
from mpifarm.model.settings import FarmDefinition
from mpifarm.model.task import Lease, Result, RunningTask

REPORT_SECONDS = 0.02
"""Longest time for which a result waits for others before it is reported, where the
ranks are few."""

RUNNING_SECONDS = 5.0
"""Seconds between two looks of a rank at what runs there, where the ranks are few."""

MAX_RUNNING = 10_000
"""How many running tasks rank 0 knows of, those that have run longest."""

# ---- from the coordinator to a rank -------------------------------------------------


@immutable
class Welcome:
    """The answer to `Join`: the definition of the farm.  The rank starts its pool."""

    definition: FarmDefinition
    node_worker: int
    """The number of the rank's first worker among all workers of its node."""
    report_seconds: float = REPORT_SECONDS
    """Longest time for which a result waits for others before it is reported; the more
    ranks there are, the longer."""
    running_seconds: float = RUNNING_SECONDS
    """Seconds between two looks at what runs on the rank (`Running`)."""
    max_running: int = MAX_RUNNING
    """How many running tasks the rank tells of, those that have run longest."""


@immutable
class Assign:
    """New leases for the rank to run."""

    leases: tuple[Lease, ...]


@immutable
class Recall:
    """A request to return up to `count` leases that no worker can begin at once.

    The rank answers each recall by one `Report` with `is_recall`, even if it returns no
    lease.
    """

    count: int


@immutable
class Withdraw:
    """A request to return these leases unless a worker has begun them.

    The rank answers by a `Report` with the leases that it returns, and then by
    `Withdrawn`.
    """

    leases: tuple[tuple[int, int], ...]
    """(taskid, attempt) of each; () for all that the rank holds."""


@immutable
class Cancel:
    """An order to end these leases: a user has cancelled their tasks.

    What waits is returned unstarted.  What runs is ended as by a time limit, and its
    result is CANCELLED, whatever its status.  What has ended before keeps its result.
    """

    leases: tuple[tuple[int, int], ...]
    """(taskid, attempt) of each."""


@immutable
class Drain:
    """An order to start nothing more, return unstarted leases, and finish the rest."""


@immutable
class Stop:
    """An order to end all commands: TERM, then KILL after `grace` seconds (0: at once).

    `by_signal`: whether a signal to some rank caused the stop.
    """

    grace: float
    by_signal: bool = False


@immutable
class Ping:
    """A sign of life from the coordinator, to be answered by `Alive`."""


@immutable
class Shutdown:
    """The last message to a rank: end the pool, finalize MPI, exit with 0."""

    ranks_lost: bool = False
    """Ranks were lost: exit without `MPI_Finalize`, which would wait for them."""
    aborts: bool = False
    """A lost rank may only hang: the coordinator's rank ends by `MPI_Abort`."""
    farm_goes_on: bool = False
    """This rank alone was given up, and must stay until the others have ended.

    Most launchers end all ranks as soon as the first one exits.
    """


@immutable
class Committed:
    """Results that are on disk: the rank need not keep them for another coordinator.

    Sent only where another rank can become the coordinator
    (`Comm.survives_rank_loss`).
    """

    results: tuple[tuple[int, int], ...]
    """(taskid, attempt) of each."""


# ---- from a rank to the coordinator -------------------------------------------------


@immutable
class Join:
    """The first message of a rank: its host, its process, its number of workers."""

    host: str
    pid: int
    """The pid of the rank's process."""
    workers: int


@immutable
class Report:
    """Results, returned leases and lost leases of a rank since its last report.

    `sent` is the rank's monotonic clock at the moment of sending, in seconds; the
    `ended` of the results is of the same clock.

    A rank reports a result at once, so that it gets the next lease.  The result counts
    only when the `sure` of this or a later report has passed its `ended`.
    """

    sent: float
    results: tuple[Result, ...] = ()
    returned: tuple[tuple[int, int], ...] = ()
    """(taskid, attempt) of each lease that the rank returns unstarted."""
    lost: tuple[tuple[int, int], ...] = ()
    """(taskid, attempt) of each lease whose worker was killed under it."""
    is_recall: bool = False
    """Whether this report answers a `Recall`."""
    sure: float = float("-inf")
    """The time, by the rank's clock, up to which ends of commands count.

    No command that ended before was ended by a signal that stops the farm: the rank
    would have got that signal, too."""


@immutable
class Withdrawn:
    """The answer to `Withdraw`, after the report of the returned leases."""

    kept: tuple[tuple[int, int], ...]
    """(taskid, attempt) of the leases that workers have begun, or begin just now."""


@immutable
class Running:
    """Tasks that run on the rank and that it has not told of before."""

    tasks: tuple[RunningTask, ...]


@immutable
class Rejoin:
    """The first message of a rank after another rank was lost: its whole state.

    All messages that were under way at that moment are gone, in both directions, and
    the coordinator may be on another rank.
    """

    host: str
    pid: int
    workers: int
    is_welcomed: bool
    """Whether the rank has got its `Welcome`; if not, this message is its `Join`."""
    leases: tuple[tuple[int, int], ...]
    """(taskid, attempt) of each lease that the rank holds and has not reported."""
    report: Report
    """All results that may not be on disk yet, reported before or not."""


@immutable
class SignalReceived:
    """A signal that the rank got; the coordinator decides on the consequence.

    The rank's commands may have got the signal earlier.  If it stops the farm, results
    that ended after `sure` (as in `Report`) are void.
    """

    signum: int
    sure: float = float("-inf")


@immutable
class Alive:
    """The answer to a ping."""


@immutable
class RankUnusable:
    """The rank can run no task (no log, no runner): each one would fail there."""

    reason: str


@immutable
class PoolLost:
    """The rank's pool is gone (its fork server was killed): no task runs there."""


@immutable
class Stopped:
    """The answer to `Stop`: no command of the rank is alive, and it holds no lease."""


ToRank = (
    Welcome
    | Assign
    | Recall
    | Withdraw
    | Cancel
    | Drain
    | Stop
    | Ping
    | Shutdown
    | Committed
)
ToCoordinator = (
    Join
    | Report
    | Withdrawn
    | Running
    | Rejoin
    | SignalReceived
    | Alive
    | RankUnusable
    | PoolLost
    | Stopped
)
