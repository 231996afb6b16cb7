"""A rank in virtual time: the real agent over a pool without processes.

Rules of this file:

* It is the one model of a rank in the tests.  Whoever wants ranks takes `VirtualRank`,
  and decides when time passes and what its messages go through.
* No process, no sleep, no real clock.
"""

import math
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple, Protocol, cast

from mpifarm.farm.agent import Agent, RankPhase
from mpifarm.farm.sureness import Sureness
from mpifarm.model.messages import ToCoordinator, ToRank
from mpifarm.model.task import Lease, Outcome, Result, RunningTask
from mpifarm.pool import (
    LeaseRefused,
    Pool,
    PoolDefinition,
    PoolEvent,
    PoolGone,
    WorkerLost,
)

START = 1000.0
"""The clock at the start: monotonic clocks don't start at 0."""

TICK = 1e-6
"""An agent that does something *after* a moment does it so much later."""

Seconds = Callable[[int], float]
"""The run time of a task."""


def never(_taskid: int) -> float:
    return math.inf


class HasNow(Protocol):
    """Something that knows the time."""

    now: float


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


def result_of(
    lease: Lease, ended: float, seconds: float = 1.0, status: int = 0
) -> Result:
    outcome = Outcome.COMPLETED if status == 0 else Outcome.FAILED
    return Result(
        *(lease.taskid, lease.attempt, outcome, status, 4711, 1.7e9, seconds, ended),
        worker_index=3,
    )


class _Run(NamedTuple):
    """A command that a worker runs."""

    ends: float
    number: int
    worker: int
    started: float
    status: int


_BEGINNING = _Run(math.inf, 0, 0, 0.0, 0)


class FakePool:
    """A pool without processes: its tasks take virtual time, or end when told.

    It is as strict as `mpifarm.pool.Pool`: leases only while it runs, and a worker
    loses all its leases with its life.
    """

    def __init__(
        self,
        clock: HasNow,
        seconds: Seconds = never,
        status: Callable[[Lease], int] = lambda _: 0,
    ) -> None:
        self.definition: PoolDefinition | None = None
        self.calls: list[str] = []
        self.hands: list[list[Lease]] = []
        self.busy = 0
        """Leases that the workers hold."""
        self.begun: list[Lease] = []
        """Leases whose commands were started, in order."""
        self.cancelled: set[tuple[int, int]] = set()
        """(taskid, attempt) of the runs that were cancelled."""
        self.cancel_seconds = 0.0
        """What a cancelled command takes to end."""
        self.running = False
        self.gone = False
        self._clock = clock
        self._seconds = seconds
        self._status = status
        self._idle: list[int] = []
        """A heap of the workers that hold nothing."""
        self._runs: dict[int, _Run] = {}
        self._ends: list[_Run] = []
        """A heap of runs; those that `_runs` does not know are over."""
        self._number = 0
        self._events: list[PoolEvent] = []

    def note_begin(self, lease: Lease, now: float) -> None:
        """Note that a command has begun."""
        self.begun.append(lease)

    def note_end(self, lease: Lease, now: float) -> None:
        """Note that a command has ended, whatever the agent will hear of it."""

    # ---- what the rank calls ---------------------------------------------------------

    def start(self, definition: PoolDefinition) -> None:
        assert not self.calls, f"started after {self.calls}"
        self.calls.append("start")
        self.definition = definition
        self.hands = [[] for _ in range(definition.workers)]
        self._idle = [*range(definition.workers)]
        self.running = True

    def vacancies(self, ahead: int) -> int:
        if not self.running:
            return 0
        if ahead == 0:
            return len(self._idle)
        return sum(max(0, 1 + ahead - len(hand)) for hand in self.hands)

    def least_ahead(self) -> int:
        if not self.running or self._idle:
            return 0
        return max(0, min(map(len, self.hands), default=0) - 1)

    def submit(self, leases: Iterable[Lease]) -> None:
        assert self.running, "a lease for a pool that doesn't run"
        waiting = iter(leases)
        while self._idle and (lease := next(waiting, None)):
            self._give(heappop(self._idle), lease)
        if rest := [*waiting]:
            loads = [(len(hand), worker) for worker, hand in enumerate(self.hands)]
            heapify(loads)
            for lease in rest:
                count, worker = loads[0]
                heapreplace(loads, (count + 1, worker))
                self._give(worker, lease)

    def _give(self, worker: int, lease: Lease) -> None:
        self.hands[worker].append(lease)
        self.busy += 1
        if len(self.hands[worker]) == 1:
            self._begin(worker, self._clock.now)

    def count_busy(self) -> int:
        return sum(map(bool, self.hands))

    def running_tasks(self) -> list[RunningTask]:
        return [
            RunningTask(hand[0].taskid, hand[0].attempt, worker, run.started)
            for worker, hand in enumerate(self.hands)
            if hand and (run := self._runs.get(worker)) is not None
        ]

    def recall(self) -> list[Lease]:
        return self._drop_waiting() if self.running else []

    def cancel(self, taskid: int, attempt: int) -> None:
        """End at once what a worker runs, with status -15, and as cancelled."""
        for worker, lease in self.at_work.items():
            if lease[:2] == (taskid, attempt):
                self.cancelled.add((taskid, attempt))
                self.end_after(worker, self.cancel_seconds, -15)

    def collect(self) -> list[PoolEvent]:
        now = self._clock.now
        while self.next_end() <= now:
            run = self._ends[0]
            self.finish(run.worker, ended=run.ends)
        events, self._events = self._events, []
        return events

    def terminate(self) -> None:
        self.calls.append("terminate")
        self._end_leases()

    def kill(self) -> None:
        self.calls.append("kill")
        self._end_leases()
        self._clear()

    def close(self) -> None:
        self.calls.append("close")
        self._end_leases()

    @property
    def stopped(self) -> bool:
        return self.gone or (bool(self.calls) and not self.running and not self.busy)

    @property
    def leases(self) -> list[Lease]:
        return [lease for hand in self.hands for lease in hand]

    # ---- what a test does ------------------------------------------------------------

    @property
    def at_work(self) -> dict[int, Lease]:
        """The lease that each worker runs."""
        return {worker: self.hands[worker][0] for worker in sorted(self._runs)}

    @property
    def runs(self) -> int:
        """How many commands run."""
        return len(self._runs)

    def next_end(self) -> float:
        """When the next command ends by itself."""
        ends = self._ends
        while ends and self._runs.get(ends[0].worker) is not ends[0]:
            heappop(ends)
        return ends[0].ends if ends else math.inf

    def finish(
        self, worker: int = 0, status: int | None = None, ended: float | None = None
    ) -> None:
        """The command that this worker runs ends, by its own status or another."""
        run = self._runs.pop(worker)
        now = self._clock.now if ended is None else ended
        status = run.status if status is None else status
        lease = self._pop(worker)
        self.note_end(lease, now)
        result = result_of(lease, now, now - run.started, status)
        if lease[:2] in self.cancelled:
            result = result._replace(outcome=Outcome.CANCELLED)
        self._events.append(result)
        if not self.running:
            self._drop(self.hands[worker])
        elif self.hands[worker]:
            self._begin(worker, now)

    def end_after(self, worker: int, seconds: float, status: int) -> None:
        """Let what this worker runs end so much later, whatever it was to take."""
        run = self._runs[worker]
        self._set_end(run._replace(ends=self._clock.now + seconds, status=status))

    def make_runner_again(self, worker: int = 0) -> None:
        """Let a worker not have begun its lease: it still makes its runner."""
        del self._runs[worker]
        self.begun.remove(self.hands[worker][0])

    def lose_worker(self, worker: int = 0) -> None:
        """Kill a worker; another takes its place."""
        leases = [*self.hands[worker]]
        if self._runs.pop(worker, None):
            self.note_end(leases[0], self._clock.now)
        self._drop(self.hands[worker])
        if leases:
            heappush(self._idle, worker)
        running = leases[0] if leases else None
        self._events.append(WorkerLost(running, tuple(leases[1:]), -9))

    def refuse(self, reason: str, worker: int = 0) -> None:
        """Let a worker refuse the task that it came to."""
        del self._runs[worker]
        self._events.append(LeaseRefused(self._pop(worker), reason))
        if self.hands[worker]:
            self._begin(worker, self._clock.now)

    def lose_fork_server(self) -> None:
        """Kill the fork server, and all workers with it."""
        leases = tuple(self.leases)
        self.running, self.gone = False, True
        self._clear()
        self._events.append(PoolGone(leases))

    # ---- its workers -----------------------------------------------------------------

    def _begin(self, worker: int, now: float) -> None:
        lease = self.hands[worker][0]
        self._runs[worker] = _BEGINNING  # `_seconds` may ask what runs here
        self.note_begin(lease, now)
        ends, status = now + self._seconds(lease.taskid), self._status(lease)
        self._number += 1
        self._set_end(_Run(ends, self._number, worker, now, status))

    def _set_end(self, run: _Run) -> None:
        self._runs[run.worker] = run
        if run.ends < math.inf:
            heappush(self._ends, run)

    def _pop(self, worker: int) -> Lease:
        """Take the first lease of a worker, who may be idle then."""
        lease = self.hands[worker].pop(0)
        self.busy -= 1
        if not self.hands[worker]:
            heappush(self._idle, worker)
        return lease

    def _drop(self, leases: list[Lease]) -> None:
        self.busy -= len(leases)
        leases.clear()

    def _drop_waiting(self) -> list[Lease]:
        dropped = []
        for worker, hand in enumerate(self.hands):
            begun = 1 if worker in self._runs else 0
            if hand and not begun:
                heappush(self._idle, worker)
            dropped += hand[begun:]
            del hand[begun:]
        self.busy -= len(dropped)
        return dropped

    def _end_leases(self) -> None:
        """Start nothing more, and drop what was not begun."""
        self.running = False
        self._drop_waiting()

    def _clear(self) -> None:
        """End all commands."""
        for worker, lease in self.at_work.items():
            del self._runs[worker]
            self.note_end(lease, self._clock.now)
        self.hands = [[] for _ in self.hands]
        self.busy = 0


class VirtualRank:
    """The agent of a rank with its fake pool; `wake_at` is when to `step` it again."""

    def __init__(
        self,
        rank: int,
        workers: int,
        pool: FakePool,
        clock: HasNow,
        say: Callable[[ToCoordinator], None],
        wait: float = 0.0,
        host: str = "node",
    ) -> None:
        self.rank = rank
        self.pool = pool
        self.clock = clock
        self.agent = Agent(
            rank=rank,
            host=host,
            workers=workers,
            pool=cast(Pool, pool),
            environment={b"HOME": b"/home/x"},
            send=say,
            now=clock.now,
        )
        self.agent.reporter.sureness = Sureness(wait)

    def hear(self, *messages: ToRank) -> None:
        for message in messages:
            self.agent.on_message(message, self.clock.now)

    def get_signal(self, signum: int) -> None:
        self.agent.on_signal(signum, self.clock.now)

    def step(self) -> None:
        self.agent.step(self.clock.now)

    @property
    def left(self) -> bool:
        return self.agent.phase is RankPhase.LEFT

    def wake_at(self) -> float:
        """Return when time alone makes a step do something."""
        now, due = self.clock.now, self.agent.wake_at()
        return min(self.pool.next_end(), due if due > now else now + TICK)
