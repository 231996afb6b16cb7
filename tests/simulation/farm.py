"""A farm of thousands of ranks in virtual time, around the real coordinator.

Rules of this file: rank 0 has a clock of its own, and all that it does is charged to
it: its decisions by what they really take, messages and disk by measured constants
(`costs`).  What comes in while it is busy waits.  Ranks cost nothing: they are other
machines.
"""

import gc
import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mpifarm.coordinator.coordinator import (
    Conclude,
    Coordinator,
    Effect,
    NoteRank,
    NoteRunning,
    RankSet,
    Send,
    Transact,
)
from mpifarm.model.messages import Assign, Report, ToCoordinator, ToRank
from mpifarm.model.settings import FarmDefinition, RunnerDefinition
from mpifarm.transport.mpi import MAX_AT_ONCE
from tests.simulation.busy import BusyTime
from tests.simulation.costs import Costs
from tests.simulation.ranks import BigFarmRank, CountingPool
from tests.simulation.tasks import OneCommand
from tests.unit.virtual_rank import Clock

NEVER = float("inf")


@dataclass
class Ledger:
    """The work of rank 0 until now."""

    busy: float = 0.0
    """Seconds of work."""
    coordinator: float = 0.0
    """Seconds of work in the coordinator."""
    received: int = 0
    sent: int = 0
    results: int = 0
    transactions: int = 0
    takes: int = 0
    recalls: int = 0

    def less(self, other: "Ledger") -> "Ledger":
        """Return the work since `other`."""
        mine, its = vars(self), vars(other)
        return Ledger(**{name: mine[name] - its[name] for name in mine})


class BigFarm:
    """A farm: `tasks` of `seconds(taskid)` on `ranks` of `workers` each."""

    def __init__(
        self,
        tasks: int,
        ranks: int,
        workers: int,
        seconds: Callable[[int], float],
        costs: Costs | None = None,
        *,
        slot: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.costs = costs or Costs()
        self.now = 0.0
        """Rank 0's clock."""
        self.ledger = Ledger()
        self.history: list[tuple[float, Ledger]] = []
        """What rank 0 had done at the end of each slot."""
        self.handed_out_at = NEVER
        """When ``toprocess`` was empty."""
        self.filled_at = NEVER
        """When each worker had got a task."""
        self.recorded: list[int] = [0] * tasks
        """How often each task was recorded."""
        self.busy = BusyTime(slot)
        self.ended = False
        self._has_begun = False
        self._slot = slot
        self._tasks, self._taken = tasks, 0
        self._back: deque[int] = deque()
        """Ids that were put back into ``toprocess``."""
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, int, ToRank | None]] = []
        self._inbox: deque[tuple[float, int, ToCoordinator]] = deque()
        self._number = 0
        self._world = Clock(0.0)
        """The time of the rank that is at work."""
        self._heard_at = [0.0] * ranks
        self._wakes = [NEVER] * ranks
        self.ranks = [
            self._create_rank(each, workers, seconds) for each in range(ranks)
        ]
        self.coordinator = Coordinator(
            OneCommand(tasks),
            FarmDefinition("f00d", "/workdir", RunnerDefinition(), 2.0),
            RankSet(tuple(range(ranks)), workers=workers),
            0.0,
        )
        self._workers = ranks * workers

    def _create_rank(
        self, rank: int, workers: int, seconds: Callable[[int], float]
    ) -> BigFarmRank:
        way, world = self.costs.way if rank else 0.0, self._world

        def say(message: ToCoordinator) -> None:
            self._inbox.append((world.now + way, rank, message))

        pool = CountingPool(world, seconds, self.busy)
        return BigFarmRank(rank, workers, pool, world, say)

    # ---- the run -----------------------------------------------------------------

    def run(self, until: float = NEVER) -> None:
        """Run until the farm has ended, or `until`."""
        gc.disable()  # the ranks' objects are not rank 0's affair
        try:
            if not self._has_begun:
                self._begin()
            while not self.ended and self.now < until:
                self._run_world(self.now)
                if not self._step():
                    self._sleep()
        finally:
            gc.enable()

    def _begin(self) -> None:
        self._has_begun = True
        for number, rank in enumerate(self.ranks):
            rank.agent.join()
            self._set_alarm(number)

    def _set_alarm(self, rank: int) -> None:
        wake_at = self.ranks[rank].wake_at()
        if wake_at != self._wakes[rank]:
            self._wakes[rank] = wake_at
            if wake_at < NEVER:
                self._push(wake_at, rank, None)

    def _push(self, moment: float, rank: int, message: ToRank | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, rank, message))

    def _run_world(self, until: float) -> None:
        """Let the ranks do what they do until then."""
        events = self._events
        while events and events[0][0] <= until:
            self._run_rank()

    def _run_rank(self) -> None:
        moment, _, number, message = heapq.heappop(self._events)
        self._world.now = moment
        rank = self.ranks[number]
        if message is not None:
            rank.hear(message)
            rank.step()
        elif moment == self._wakes[number]:
            self._wakes[number] = NEVER
            rank.step()
        else:
            return  # it was to be woken at another time
        self._set_alarm(number)

    def _sleep(self) -> None:
        """Sleep until a message is there, or time alone makes rank 0 do something."""
        wake_at = self.coordinator.wake_at(self.now)
        events = self._events
        while not self._inbox and events and events[0][0] <= wake_at:
            self._run_rank()
        if self._inbox:
            late = self._random.random() * self.costs.poll
            came = max(self.now, self._inbox[0][0]) + late
            self.now = min(came, max(wake_at, self.now + 1e-5))
        elif wake_at < NEVER:
            self.now = max(wake_at, self.now + 1e-5)
        else:
            raise AssertionError("nothing will ever happen any more")

    # ---- rank 0 ------------------------------------------------------------------

    def _step(self) -> bool:
        """Do one round of rank 0's loop; return whether anything was done."""
        before = self.now
        self._charge(self.costs.step)
        received = self._receive()
        effects: list[Effect] = []
        self._time(lambda: effects.extend(self.coordinator.decide(self.now)))
        for effect in effects:
            self._perform(effect)
        self._note(before)
        return bool(received or effects)

    def _charge(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.busy += seconds

    def _time(self, act: Callable[[], None], events: int = 1) -> None:
        """Charge what the coordinator takes for this."""
        begun = time.thread_time()
        act()
        taken = time.thread_time() - begun
        if self.costs.coordinator is not None:
            taken = events * self.costs.coordinator
        self.ledger.coordinator += taken
        self._charge(taken)

    def _receive(self) -> int:
        came: list[tuple[int, ToCoordinator]] = []
        inbox, costs, ledger = self._inbox, self.costs, self.ledger
        while inbox and inbox[0][0] <= self.now and len(came) < MAX_AT_ONCE:
            _, rank, message = inbox.popleft()
            came.append((rank, message))
            results = len(message.results) if isinstance(message, Report) else 0
            ledger.results += results
            if rank:
                ledger.received += 1
                self._charge(costs.receive + results * costs.receive_result)
            else:
                self._charge(results * costs.own_task)
        if came:
            self._time(lambda: self._hear(came), len(came))
        return len(came)

    def _hear(self, came: list[tuple[int, ToCoordinator]]) -> None:
        hear, now = self.coordinator.on_message, self.now
        for rank, message in came:
            hear(rank, message, now)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect.rank, effect.message)
            case Transact():
                self._transact(effect)
            case Conclude():
                self.ended = True
            case NoteRunning() | NoteRank():
                pass
            case _:
                raise AssertionError(f"{effect} is no part of this simulation")

    def _send(self, rank: int, message: ToRank) -> None:
        costs = self.costs
        leases = len(message.leases) if isinstance(message, Assign) else 0
        self.ledger.recalls += type(message).__name__ == "Recall"
        heard = self.now
        if rank:
            self.ledger.sent += 1
            self._charge(costs.send + leases * costs.send_lease)
            heard = self.now + costs.way + self._random.random() * costs.poll
        heard = self._heard_at[rank] = max(heard, self._heard_at[rank])
        self._push(heard, rank, message)

    def _transact(self, wanted: Transact) -> None:
        costs, left = self.costs, self._left
        for _, result in wanted.results:
            self.recorded[result.taskid] += 1
        self._back.extend(wanted.requeue)
        taken = [self._take_one() for _ in range(min(wanted.take, self._left))]
        rewritten = left if wanted.take or wanted.requeue else 0
        taking = len(taken) * costs.take + rewritten * costs.rewrite_line
        self._charge(costs.transaction + taking + len(wanted.results) * costs.record)
        self.ledger.transactions += 1
        self.ledger.takes += wanted.take > 0
        empty = self._left == 0
        if empty and self.handed_out_at == NEVER:
            self.handed_out_at = self.now
        if self._taken >= self._workers and self.filled_at == NEVER:
            self.filled_at = self.now
        self._time(
            lambda: self.coordinator.on_transacted(
                taken, self.now, empty=empty, cost=costs.transaction + taking
            )
        )

    @property
    def _left(self) -> int:
        return self._tasks - self._taken + len(self._back)

    def _take_one(self) -> int:
        if self._back:
            return self._back.popleft()
        self._taken += 1
        return self._taken - 1

    def _note(self, before: float) -> None:
        if int(self.now / self._slot) > int(before / self._slot):
            self.history.append((self.now, Ledger(**vars(self.ledger))))

    # ---- what came of it ---------------------------------------------------------

    def done_between(self, begin: float, end: float) -> tuple[float, Ledger]:
        """Return the seconds in that time, and the work of rank 0 in them."""
        inside = [each for each in self.history if begin <= each[0] <= end]
        if len(inside) < 2:
            return self.now, self.ledger
        (first, before), (last, after) = inside[0], inside[-1]
        return last - first, after.less(before)
