"""What rank 0 decides: which rank runs what, when to write, when to end.

Rules of this file:

* Pure: events come in (``on_...``), effects go out (`Coordinator.decide`), time is an
  argument (seconds, monotonic).  No I/O, no clock, no MPI; a test plays a thousand
  ranks, lost ranks and signals in milliseconds.
* A task is here from the moment it is taken out of ``toprocess`` until it is on disk
  again; its state changes through `Coordinator._move` alone, by `task.TRANSITIONS`.
* At most one `Transact` is under way; what comes up meanwhile goes into the next.
* An answer counts only with the rank and the attempt that the task has now: a late or
  repeated one changes nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from signal import SIGUSR1, SIGUSR2, Signals
from typing import assert_never

from mpifarm.config import FarmDefinition, Policy
from mpifarm.errors import InputError
from mpifarm.messages import (
    Alive,
    Assign,
    Drain,
    Join,
    Leave,
    Ping,
    PoolLost,
    RankTrouble,
    Rejoin,
    Report,
    SignalSeen,
    Stop,
    Stopped,
    ToCoordinator,
    ToRank,
    Welcome,
)
from mpifarm.task import TRANSITIONS, Lease, Outcome, Result, TaskState

HOLD = 0.25
"""Seconds between the end of a command and the earliest record of it: a signal that
stops the farm may have reached the command first, whose result then doesn't count."""

COMMIT_INTERVAL = 0.1
"""Seconds for which a result that may be recorded waits for others."""

AHEAD_SECONDS = 0.25
"""Seconds of work that a rank gets beyond what its workers run."""

TAKE_SECONDS = 2.0
"""Seconds of work that one taking out of ``toprocess`` is worth."""

TAKE_COST_FACTOR = 20
"""A taking is worth at least this many times what it costs."""

TAKE_INTERVAL = 0.1
"""Seconds between two takings, as long as no worker waits for them."""

POLL_SECONDS = 1.0
"""Seconds between two looks at a ``toprocess`` that had nothing for us."""

MOST_STOCK = 8
"""Tasks taken ahead, at the most, for each that the farm has shown to get done."""

PING_SECONDS = 5.0

SILENCE_SECONDS = 60.0
"""A rank that has not even answered a ping for so long is dead or hangs."""

ANSWER_SECONDS = 0.5
"""Seconds beyond the grace time after which a silent rank is given up at a stop."""

ANSWER_SECONDS_AT_ONCE = 0.1
"""The same at a stop without grace, where the launcher's KILL is close behind."""

NO_COMMAND = 1
"""The status of a task for which the handler has no command."""

MOST_LOST = 3
"""Attempts of one task that may lose their worker before the task is failed."""


# ---- effects ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """A message to a rank."""

    rank: int
    message: ToRank


@dataclass(frozen=True, slots=True)
class Transact:
    """Under one taking of the lock: record `results`, give back, take up to `take`."""

    results: tuple[tuple[int, Result], ...]
    """(rank, result) of each attempt to record."""
    give_back: tuple[int, ...]
    take: int


@dataclass(frozen=True, slots=True)
class NoteInLog:
    """Write a sentence of our own into the log of a task."""

    taskid: int
    sentence: str


@dataclass(frozen=True, slots=True)
class NoteAttempt:
    """An attempt on `rank` that failed, or made a checkpoint; the task runs again."""

    rank: int
    result: Result


@dataclass(frozen=True, slots=True)
class Tell:
    """Say a sentence to the user."""

    sentence: str


@dataclass(frozen=True, slots=True)
class End:
    """All is on disk; every rank is told to leave in the same breath."""


Effect = Send | Transact | NoteInLog | NoteAttempt | Tell | End


# ---- what is ------------------------------------------------------------------------


class Phase(Enum):
    """Where the farm is on its way; it only goes forward, by `PHASES`."""

    WORKING = "working"
    DRAINING = "draining"
    STOPPING = "stopping"
    LEAVING = "leaving"


PHASES: dict[Phase, frozenset[Phase]] = {
    Phase.WORKING: frozenset({Phase.DRAINING, Phase.STOPPING, Phase.LEAVING}),
    Phase.DRAINING: frozenset({Phase.STOPPING, Phase.LEAVING}),
    Phase.STOPPING: frozenset({Phase.LEAVING}),
    Phase.LEAVING: frozenset(),
}


class RankState(Enum):
    """Where a rank is."""

    JOINING = "joining"
    WORKING = "working"
    STOPPED = "stopped"
    """Its commands are dead and it holds nothing."""
    LOST = "lost"
    """Given up: nothing that it says counts."""


@dataclass(slots=True)
class TaskRecord:
    """What the coordinator knows of a task that this farm holds."""

    taskid: int
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    """The attempt that is or was last under way, from 1."""
    lost: int = 0
    """Attempts that lost their worker."""
    rank: int = -1
    result: Result | None = None
    ended: float = 0.0
    """When the command ended, by the coordinator's clock."""


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
    ended: int = 0
    """Results that it has reported."""
    mean: float = 0.0
    """Moving mean of its tasks' run times, seconds; 0 until it has reported one."""

    leases: set[int] = field(default_factory=set)

    @property
    def works(self) -> bool:
        """Whether it takes leases."""
        return self.state is RankState.WORKING

    @property
    def settled(self) -> bool:
        """Nothing more will come from it at a stop."""
        return self.state in {RankState.STOPPED, RankState.LOST}

    @property
    def rate(self) -> float:
        """Tasks per second, as far as known."""
        return self.workers / self.mean if self.mean else 0.0

    def note_duration(self, seconds: float) -> None:
        """A task of its took `seconds`."""
        self.ended += 1
        weight = max(0.05, 1 / self.ended)
        self.mean += (max(seconds, 1e-4) - self.mean) * weight

    def expect_long_tasks(self) -> None:
        """It gave leases back, since its tasks got longer: none ahead for now."""
        self.mean = max(self.mean, 1.01 * AHEAD_SECONDS * self.workers)

    def room(self) -> int:
        """Leases that it could hold; grows with what it has shown to get done."""
        ahead = min(int(self.rate * AHEAD_SECONDS), 2 * self.ended)
        return self.workers + ahead


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


class Coordinator:
    """The decisions of rank 0.

    `commands` is the tasklist: ``commands[taskid]`` is the text of a task; it raises
    `InputError` where a handler of the user's has none.  `timeout` is the seconds
    after `now` at which the farm stops by itself, `deadline` the moment at which the
    job ends.  With `waits_for_others` it does not end while other farms hold tasks.
    `adopted` are tasks that this farm holds already, taken over from a coordinator
    that was lost: ranks that `Rejoin` may have them.
    """

    def __init__(
        self,
        commands: Sequence[str],
        definition: FarmDefinition,
        crew: Crew,
        now: float,
        *,
        policy: Policy = Policy(),
        timeout: float | None = None,
        deadline: float | None = None,
        waits_for_others: bool = False,
        adopted: Iterable[int] = (),
    ) -> None:
        self.commands = commands
        self.definition = definition
        self.crew = crew
        self.policy = policy
        self.phase = Phase.WORKING
        self.too_many_failures = False
        """Whether the farm stops because of the tasks that failed."""
        self.must_leave_alone = False
        """Whether a rank that was given up may still be a member of MPI's world."""
        self.quarantined: list[tuple[int, str, int]] = []
        self.ranks = {rank: RankRecord(rank) for rank in crew.ranks}
        self.tasks: dict[int, TaskRecord] = {}
        self.queue: deque[TaskRecord] = deque()
        self.ended: deque[TaskRecord] = deque()
        self.returning: list[TaskRecord] = []
        self.hungry: dict[int, None] = {}
        self.transaction: Transact | None = None
        self.storage_failed = False
        self.reason = ""
        """Why the farm stops or drains before the list is done, in words."""
        self.unrecorded: tuple[int, ...] = ()
        """Tasks whose results could not be recorded when the storage failed."""
        self._first_take = len(crew.ranks) * crew.workers
        self._stop_at = None if timeout is None else now + timeout
        self._timeout = timeout
        self._drain_at = float("-inf")
        self._waits_for_others = waits_for_others
        self._others_hold = False
        self._empty = False
        self._looked_last = False
        self._poll_at = now
        self._took_at = now - TAKE_INTERVAL
        self._ping_at = now + PING_SECONDS
        self._take_cost = 0.0
        self._grace = 0.0
        self._answer_by = 0.0
        self._node_workers: dict[str, int] = {}
        """Workers by host, of the ranks that have joined."""
        self._outbox: list[Effect] = []

    # ---- what happens: ranks -----------------------------------------------------

    def on_message(self, rank: int, message: ToCoordinator, now: float) -> None:
        """Take in what `rank` says; a rank that was given up is not heard."""
        record = self.ranks.get(rank)
        if record is None or record.state is RankState.LOST:
            return
        record.heard_at = now
        match message:
            case Alive():
                pass
            case Join():
                self._on_join(record, message)
            case Rejoin():
                pass
            case Report():
                self._on_report(record, message, now)
            case SignalSeen():
                self.on_signal(message.signum, now)
            case RankTrouble():
                grace = self.definition.grace
                self.on_stop(message.reason, grace, now, by_signal=False)
            case PoolLost():
                self._on_pool_lost(record)
            case Stopped():
                self._settle(record, RankState.STOPPED)
            case _:
                assert_never(message)

    def _on_join(self, record: RankRecord, message: Join) -> None:
        record.host = message.host
        record.pid = message.pid
        record.workers = message.workers
        if record.state is not RankState.JOINING or self.phase is not Phase.WORKING:
            return
        node_worker = self._node_workers.get(message.host, 0)
        self._node_workers[message.host] = node_worker + message.workers
        record.state = RankState.WORKING
        self._outbox.append(Send(record.rank, Welcome(self.definition, node_worker)))
        self._note_hunger(record)

    def _on_report(self, record: RankRecord, report: Report, now: float) -> None:
        for result in report.results:
            task = self._find_leased(record, result.taskid, result.attempt)
            if task is not None:
                ended = now - max(0.0, report.sent - result.ended)
                record.note_duration(result.seconds)
                self._on_result(record, task, result, ended)
        for taskid, attempt in report.returned:
            task = self._find_leased(record, taskid, attempt)
            if task is not None:
                task.attempt -= 1  # it wasn't started
                self._unlease(record, task)
        if report.returned:
            record.expect_long_tasks()
        for taskid, attempt in report.lost:
            task = self._find_leased(record, taskid, attempt)
            if task is not None:
                self._on_lease_lost(record, task, now)
        self._note_hunger(record)

    def _note_hunger(self, record: RankRecord) -> None:
        if record.works and record.room() > len(record.leases):
            self.hungry[record.rank] = None
        else:
            self.hungry.pop(record.rank, None)

    def _find_leased(
        self, record: RankRecord, taskid: int, attempt: int
    ) -> TaskRecord | None:
        task = self.tasks.get(taskid)
        if (
            task is None
            or task.state is not TaskState.LEASED
            or task.rank != record.rank
            or task.attempt != attempt
        ):
            return None
        return task

    def _on_result(
        self, record: RankRecord, task: TaskRecord, result: Result, ended: float
    ) -> None:
        record.leases.discard(task.taskid)
        self._move(task, TaskState.ENDED)
        task.result = result
        task.ended = ended
        # After our own TERM, or by the signal that stops us, or that says drain.
        if self.phase is Phase.STOPPING or self._died_of_drain(task):
            self._give_back(task)
        else:
            self.ended.append(task)

    def _on_lease_lost(self, record: RankRecord, task: TaskRecord, now: float) -> None:
        task.lost += 1
        if task.lost < MOST_LOST or self.phase is Phase.STOPPING:
            self._unlease(record, task)
            return
        lost = Result(
            task.taskid, task.attempt, Outcome.LOST, -9, 0, 0.0, 0.0, ended=now
        )
        self._on_result(record, task, lost, now)

    def _unlease(self, record: RankRecord, task: TaskRecord) -> None:
        """The task goes on at another place: another rank, or back on disk."""
        record.leases.discard(task.taskid)
        self._move(task, TaskState.QUEUED)
        if self.phase is Phase.WORKING:
            self.queue.appendleft(task)
        else:
            self._give_back(task)

    def _on_pool_lost(self, record: RankRecord) -> None:
        self._unlease_all(record)
        self._settle(record, RankState.STOPPED)

    def _settle(self, record: RankRecord, state: RankState) -> None:
        """The rank runs nothing any more; what it held goes on elsewhere."""
        record.state = state
        self.hungry.pop(record.rank, None)
        self._unlease_all(record)

    def _unlease_all(self, record: RankRecord) -> None:
        for taskid in sorted(record.leases, reverse=True):
            self._unlease(record, self.tasks[taskid])

    # ---- what happens: signals and time ------------------------------------------

    def on_signal(self, signum: int, now: float) -> None:
        """What a signal to any rank means (design.md, Signals)."""
        reason = f"{Signals(signum).name} was received"
        if signum == SIGUSR1:
            self.on_stop(reason, self.definition.grace, now)
        elif signum == SIGUSR2:
            self._drain_at = now
            self.on_drain(reason)
            self._give_back_recent(now - HOLD, self._died_of_drain)
        else:
            self.on_stop(reason, 0.0, now)

    def on_drain(self, reason: str) -> None:
        """Start nothing more, finish what runs."""
        if self.phase is not Phase.WORKING:
            return
        self._enter(Phase.DRAINING, reason)
        self._give_back_queue()
        self._send_all(Drain())

    def on_stop(
        self, reason: str, grace: float, now: float, *, by_signal: bool = True
    ) -> None:
        """Kill what runs and give it back.

        With `by_signal`, results of the last `HOLD` seconds don't count: the signal
        may have ended those commands.
        """
        if self.phase is Phase.LEAVING:
            return
        if by_signal:
            self._give_back_recent(now - HOLD, lambda _: True)
        if self.phase is Phase.STOPPING:
            self._hasten(grace, now)
            return
        self._enter(Phase.STOPPING, reason)
        self._set_answer_by(grace, now)
        self._give_back_queue()
        self._send_all(Stop(grace))

    def _hasten(self, grace: float, now: float) -> None:
        if grace < self._grace:
            self._set_answer_by(grace, now)
            self._send_all(Stop(grace))

    def _set_answer_by(self, grace: float, now: float) -> None:
        wait = ANSWER_SECONDS if grace > 0 else ANSWER_SECONDS_AT_ONCE
        self._grace = grace
        self._answer_by = now + grace + wait

    def _give_back_queue(self) -> None:
        while self.queue:
            self._give_back(self.queue.popleft())

    def _died_of_drain(self, task: TaskRecord) -> bool:
        """Whether the signal that said drain has ended the command (Slurm: it may)."""
        status = task.result.status if task.result else 0
        near = abs(task.ended - self._drain_at) <= HOLD
        return near and status in {-SIGUSR2, 128 + SIGUSR2}

    def _give_back_recent(
        self, since: float, is_void: Callable[[TaskRecord], bool]
    ) -> None:
        kept: deque[TaskRecord] = deque()
        for task in self.ended:
            if task.ended >= since and is_void(task):
                self._give_back(task)
            else:
                kept.append(task)
        self.ended = kept

    def _give_back(self, task: TaskRecord) -> None:
        self._move(task, TaskState.RETURNING)
        self.returning.append(task)

    def _enter(self, phase: Phase, reason: str) -> None:
        if phase not in PHASES[self.phase]:
            raise AssertionError(f"phase {self.phase} -> {phase}")
        self.phase = phase
        self.reason = reason

    # ---- what happens: the disk --------------------------------------------------

    def on_transacted(
        self,
        taken: Iterable[int],
        now: float,
        *,
        empty: bool,
        cost: float,
        others: bool = False,
    ) -> None:
        """The transaction is on disk; `taken` are ours now.

        `empty`: ``toprocess`` has nothing more for us.  `cost` is what the rewriting
        of it took, in seconds.  `others`: other farms hold tasks.
        """
        done, self.transaction = self._pending(), None
        for _, result in done.results:
            del self.tasks[result.taskid]
        for taskid in done.give_back:
            del self.tasks[taskid]
        if done.take:
            self._empty = empty
            self._take_cost = cost
            self._took_at = now
            self._poll_at = now + POLL_SECONDS
            self._others_hold = others and self._waits_for_others
            self._looked_last = empty and not self.tasks and not self._others_hold
        for taskid in taken:
            task = self.tasks[taskid] = TaskRecord(taskid)
            self._looked_last = False
            if self.phase is Phase.WORKING:
                self.queue.append(task)
            else:
                self._give_back(task)

    def on_storage_failed(self, reason: str, now: float) -> None:
        """Nothing can be recorded any more; the claim on disk keeps what is held."""
        self.transaction = None
        self.storage_failed = True
        self.on_stop(reason, self.definition.grace, now, by_signal=False)

    def _pending(self) -> Transact:
        if self.transaction is None:
            raise AssertionError("no transaction is under way")
        return self.transaction

    def on_ranks_lost(self, ranks: Iterable[int], now: float) -> None:
        """MPI says that these are dead."""

    def on_mended(self, now: float) -> None:
        """All messages under way were lost; each other rank will say `Rejoin`."""

    def silent_ranks(self) -> list[int]:
        """Those that were given up because they were silent, and may yet live."""
        return []

    def forgive_pause(self, seconds: float) -> None:
        """Rank 0 was suspended: it heard nothing because it could not."""
        for record in self.ranks.values():
            record.heard_at += seconds

    def _heed_silence(self, now: float) -> None:
        """A rank that died unseen must not leave the farm waiting for ever."""
        if self.phase not in {Phase.WORKING, Phase.DRAINING}:
            return
        for record in self.ranks.values():
            record.heard_at = min(record.heard_at, now)
            silent = now - record.heard_at > self.policy.rank_timeout
            if silent and record.rank != self.crew.own and not record.settled:
                where = f" on {record.host}" if record.host else ""
                self.on_stop(
                    f"rank {record.rank}{where} has not been heard for "
                    f"{self.policy.rank_timeout:g} s",
                    self.definition.grace,
                    now,
                    by_signal=False,
                )
                return

    # ---- the way out -------------------------------------------------------------

    def decide(self, now: float) -> list[Effect]:
        """All that is to be done now."""
        if self._stop_at is not None and now >= self._stop_at:
            self._stop_at = None
            reason = f"the timeout of {self._timeout:g} s is over"
            self.on_stop(reason, self.definition.grace, now, by_signal=False)
        self._heed_silence(now)
        match self.phase:
            case Phase.WORKING:
                self._work(now)
            case Phase.DRAINING:
                self._transact(now, take=0)
                self._leave_if_done()
            case Phase.STOPPING:
                self._stop(now)
            case Phase.LEAVING:
                pass
            case _:
                assert_never(self.phase)
        self._ping(now)
        effects, self._outbox = self._outbox, []
        return effects

    def wake_at(self, now: float) -> float:
        """The next moment at which time alone may make `decide` do something."""
        if self.phase is Phase.LEAVING:
            return float("inf")
        times = [self._ping_at]
        if self._stop_at is not None:
            times.append(self._stop_at)
        if self.ended and self.transaction is None and not self.storage_failed:
            times.append(self._commit_at())
        if self.phase is Phase.WORKING and self.hungry:
            times.append(self._poll_at)
        if self.phase is Phase.STOPPING:
            times.append(self._answer_by)
        return max(now, min(times))

    def _work(self, now: float) -> None:
        self._assign(now)
        if self._looked_last and not self.tasks:
            self._leave_if_done()
            return
        self._transact(now, self._take_count(now))
        if self._all_settled():
            self.on_stop("no rank is left that can run tasks", 0.0, now)

    def _stop(self, now: float) -> None:
        if now >= self._answer_by:
            for record in self.ranks.values():
                if not record.settled:
                    self._settle(record, RankState.LOST)
        settled = self._all_settled()
        if settled or self._grace > 0:
            self._transact(now, take=0)
        if settled:
            self._leave_if_done()

    def _all_settled(self) -> bool:
        return all(record.settled for record in self.ranks.values())

    def _leave_if_done(self) -> None:
        if self.storage_failed:
            self._abandon()
        if self.tasks or self.transaction is not None:
            return
        self._enter(Phase.LEAVING, self.reason)
        # Those given up too: they may only be late, and rank 0 itself may be one.
        leave = Leave(ranks_lost=bool(self.lost_ranks()))
        self._outbox += [Send(rank, leave) for rank in self.ranks]
        self._outbox.append(End())

    def _abandon(self) -> None:
        """What is held stays in the claim; results without a record are told."""
        self.unrecorded = tuple(
            sorted(task.taskid for task in self.tasks.values() if task.result)
        )
        self.tasks.clear()
        self.ended.clear()
        self.returning.clear()

    def _assign(self, now: float) -> None:
        """Hand out the queue; when it is short, in equal shares."""
        hungry = list(self.hungry)
        for place, rank in enumerate(hungry):
            if not self.queue:
                return
            record = self.ranks[rank]
            wanted = record.room() - len(record.leases) if record.works else 0
            share = -(-len(self.queue) // (len(hungry) - place))
            if wanted > 0:
                self._lease(record, min(wanted, share), now)
            if wanted <= share:
                del self.hungry[rank]

    def _lease(self, record: RankRecord, count: int, now: float) -> None:
        leases = []
        for _ in range(min(count, len(self.queue))):
            task = self.queue.popleft()
            self._move(task, TaskState.LEASED)
            task.attempt += 1
            task.rank = record.rank
            record.leases.add(task.taskid)
            try:
                command = self.commands[task.taskid]
            except InputError as error:
                self._on_no_command(record, task, str(error), now)
            else:
                leases.append(Lease(task.taskid, task.attempt, command))
        if leases:
            self._outbox.append(Send(record.rank, Assign(tuple(leases))))

    def _on_no_command(
        self, record: RankRecord, task: TaskRecord, why: str, now: float
    ) -> None:
        """The user's handler has no command for it: it has failed, before it ran."""
        failed = Result(
            task.taskid, task.attempt, Outcome.FAILED, NO_COMMAND, 0, 0.0, 0.0, now
        )
        self._outbox.append(NoteInLog(task.taskid, why))
        self._on_result(record, task, failed, now)

    def _take_count(self, now: float) -> int:
        """How many more to take out of ``toprocess`` (0: none now)."""
        if self._rests(now):
            return 0
        unmet, starving = self._hunger()
        if not starving and now < self._took_at + TAKE_INTERVAL:
            return 0
        rate = sum(record.rate for record in self.ranks.values() if record.works)
        shown = MOST_STOCK * sum(record.ended for record in self.ranks.values())
        if len(self.queue) > unmet + min(shown, int(rate * TAKE_SECONDS / 2)):
            return 0
        seconds = max(TAKE_SECONDS, TAKE_COST_FACTOR * self._take_cost)
        stock = min(shown, int(rate * seconds))
        first, self._first_take = self._first_take, 0
        return max(0, first, unmet + stock - len(self.queue))

    def _hunger(self) -> tuple[int, bool]:
        """How many leases more the ranks could hold; whether a worker has none."""
        unmet, starving = 0, False
        for rank in self.hungry:
            record = self.ranks[rank]
            if record.works:
                unmet += max(0, record.room() - len(record.leases))
                starving = starving or len(record.leases) < record.workers
        return unmet, starving and len(self.queue) < unmet

    def _rests(self, now: float) -> bool:
        """Whether ``toprocess`` was empty a moment ago, with no reason to look again.

        The last look comes together with the last record.
        """
        if not self._empty or now >= self._poll_at:
            return False
        if len(self.ended) < len(self.tasks) or self._others_hold:
            return True
        return bool(self.ended) and now < self.ended[-1].ended + HOLD

    def _transact(self, now: float, take: int) -> None:
        if self.transaction is not None or self.storage_failed:
            return
        due = self._commit_due(now)
        if not (due or self.returning or take):
            return
        results = tuple(self._matured(now))
        give_back = tuple(task.taskid for task in self.returning)
        self.returning = []
        self.transaction = Transact(results, give_back, take)
        self._outbox.append(self.transaction)

    def _commit_due(self, now: float) -> bool:
        return bool(self.ended) and self._commit_at() <= now

    def _commit_at(self) -> float:
        """When results will have waited for others long enough, or no others come."""
        enough = self.ended[0].ended + HOLD + COMMIT_INTERVAL
        if len(self.ended) < len(self.tasks):
            return enough
        return min(enough, self.ended[-1].ended + HOLD)

    def _matured(self, now: float) -> Iterable[tuple[int, Result]]:
        while self.ended and self.ended[0].ended + HOLD <= now:
            task = self.ended.popleft()
            self._move(task, TaskState.WRITING)
            if task.result is None:
                raise AssertionError(f"task {task.taskid} has ended without a result")
            yield task.rank, task.result

    def _ping(self, now: float) -> None:
        if now >= self._ping_at and self.phase is not Phase.LEAVING:
            self._ping_at = now + PING_SECONDS
            self._send_all(Ping())

    def _send_all(self, message: ToRank) -> None:
        for record in self.ranks.values():
            if record.state is not RankState.LOST:
                self._outbox.append(Send(record.rank, message))

    def _move(self, task: TaskRecord, state: TaskState) -> None:
        if state not in TRANSITIONS[task.state]:
            raise AssertionError(f"task {task.taskid}: {task.state} -> {state}")
        task.state = state

    def lost_ranks(self) -> list[int]:
        """Ranks that were given up: MPI can't be left together with them."""
        ranks = self.ranks.values()
        lost = (record.rank for record in ranks if record.state is RankState.LOST)
        return [rank for rank in lost if rank != self.crew.own]

    # ---- the invariants ------------------------------------------------------------

    def find_violations(self) -> list[str]:
        """What is wrong with this state, in words; used by tests after each step."""
        found = []
        places = [
            (TaskState.QUEUED, [task.taskid for task in self.queue]),
            (TaskState.ENDED, [task.taskid for task in self.ended]),
            (
                TaskState.LEASED,
                [i for record in self.ranks.values() for i in record.leases],
            ),
        ]
        for state, taskids in places:
            there = sorted(t.taskid for t in self.tasks.values() if t.state is state)
            if sorted(taskids) != there:
                found.append(f"{state.value}: listed {sorted(taskids)}, are {there}")
        moving = {t.taskid for t in self.tasks.values() if t.state in _MOVING}
        named = {task.taskid for task in self.returning}
        if self.transaction is not None:
            named |= set(self.transaction.give_back)
            named |= {result.taskid for _, result in self.transaction.results}
        if not self.storage_failed and moving != named:
            found.append(f"to the disk: {sorted(moving)}, listed {sorted(named)}")
        return found


_MOVING = frozenset({TaskState.WRITING, TaskState.RETURNING})
