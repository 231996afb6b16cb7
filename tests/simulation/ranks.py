"""Ranks in virtual time: a cheap model of a rank's agent and pool, and the real agent.

Rules of this file: `ModelRank` does what `mpifarm.farm.agent` does with messages,
reports and recalls, at some microseconds a task: its workers are one heap of ends.
That it agrees with the real agent is a test's affair (see `test_simulation`), which
runs the same farm with `AgentRank`s.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import cast

from mpifarm.farm.agent import Agent
from mpifarm.farm.feeding import RETURN_SECONDS
from mpifarm.farm.sureness import Sureness, find_wait
from mpifarm.model.messages import (
    REPORT_SECONDS,
    Alive,
    Assign,
    Committed,
    Drain,
    Join,
    Ping,
    Recall,
    Report,
    Shutdown,
    Stop,
    ToCoordinator,
    ToRank,
    Welcome,
)
from mpifarm.model.task import Lease, Outcome, Result
from mpifarm.pool import Pool
from tests.simulation.busy import BusyTime
from tests.unit.virtual_rank import Clock, FakePool

Say = Callable[[ToCoordinator], None]
Seconds = Callable[[int], float]
Pairs = tuple[tuple[int, int], ...]

NEVER = float("inf")


class ModelRank:
    """One rank of `workers`; `say` takes what it says, `start_seconds` is what a worker
    needs between two tasks."""

    def __init__(
        self,
        workers: int,
        seconds: Seconds,
        say: Say,
        busy: BusyTime,
        start_seconds: float = 0.0,
    ) -> None:
        self.wake_at = NEVER
        self.left = False
        self.begun = 0
        """Tasks that its workers have begun."""
        self.returned = 0
        """Leases that it returned."""
        self._free = self._workers = workers
        self._seconds = seconds
        self._say = say
        self._busy = busy
        self._start_seconds = start_seconds
        self._running: list[tuple[float, float, Lease]] = []
        """(when it ends, its run time, lease)."""
        self._queue: deque[Lease] = deque()
        self._results: list[Result] = []
        self._reported_at = 0.0
        self._report_seconds = REPORT_SECONDS
        self._has_asked = False
        self._sureness = Sureness(find_wait(workers))
        self._ended_at = 0.0
        self._mean = 0.0
        self._ended = 0

    def join(self) -> None:
        """Say the first message."""
        self._say(Join("node", 1, self._workers))

    @property
    def waiting(self) -> int:
        """Leases that wait for a worker."""
        return len(self._queue)

    @property
    def idle(self) -> int:
        """Workers with nothing to do."""
        return self._free

    def hear(self, message: ToRank, now: float) -> None:
        """Do what the coordinator says."""
        self._advance(now)
        match message:
            case Assign():
                self._has_asked = False
                if not self._queue:
                    self._ended_at = now
                self._queue.extend(message.leases)
                self._feed(now)
            case Welcome():
                self._report_seconds = message.report_seconds
            case Recall():
                returned = self._pop(min(message.count, len(self._queue)))
                self._report(now, returned, is_recall=True)
            case Ping():
                self._say(Alive())
            case Shutdown():
                self.left = True
            case Drain() | Stop() | Committed():
                raise AssertionError(f"{message} is no part of this simulation")
        self._set_alarm()

    def wake(self, now: float) -> None:
        """Do that for which `wake_at` was set."""
        self._advance(now)
        if self._queue and now >= self._return_at():
            self._report(now, self._pop(len(self._queue)))
        if self._results:
            starving = self._free and not self._queue and not self._has_asked
            if starving or self._reported_at + self._report_seconds <= now:
                if starving:
                    self._has_asked = self._report_seconds > REPORT_SECONDS
                self._report(now)
        elif self._confirm_at() <= now:
            self._report(now)
        self._set_alarm()

    def _advance(self, now: float) -> None:
        """End what has ended until now, and begin what takes its place."""
        running = self._running
        while running and running[0][0] <= now:
            ended, seconds, lease = heapq.heappop(running)
            self._busy.end(ended)
            self._free += 1
            self._ended += 1
            self._ended_at = ended
            self._mean += (seconds - self._mean) * max(0.05, 1 / self._ended)
            self._results.append(
                Result(
                    *(lease.taskid, lease.attempt, Outcome.COMPLETED, 0),
                    *(1, 0.0, seconds, ended),
                )
            )
            if self._queue:
                self._feed(ended)

    def _feed(self, now: float) -> None:
        while self._free and self._queue:
            lease = self._queue.popleft()
            seconds = self._seconds(lease.taskid)
            begins = now + self._start_seconds
            self._busy.begin(begins)
            self._free -= 1
            self.begun += 1
            heapq.heappush(self._running, (begins + seconds, seconds, lease))

    def _return_at(self) -> float:
        if not self._ended:
            return NEVER
        expected = max(1.5 * self._mean, 4 * self._mean / self._workers)
        return self._ended_at + max(RETURN_SECONDS, expected)

    def _pop(self, count: int) -> Pairs:
        leases = [self._queue.pop() for _ in range(count)]
        self.returned += count
        return tuple((lease.taskid, lease.attempt) for lease in reversed(leases))

    def _report(
        self, now: float, returned: Pairs = (), *, is_recall: bool = False
    ) -> None:
        results, self._results = tuple(self._results), []
        self._reported_at = now
        self._sureness.note_quiet(now)
        self._sureness.note_reported(results)
        self._say(Report(now, results, returned, (), is_recall, self._sureness.until))

    def _confirm_at(self) -> float:
        """Return when to say that results are sure, as `Agent` does."""
        sureness = self._sureness
        if not sureness.is_waiting:
            return NEVER
        regular = self._reported_at + self._report_seconds
        if self._report_seconds > REPORT_SECONDS and (self._running or self._queue):
            return max(sureness.first_at(), regular)
        return min(max(sureness.first_at(), regular), sureness.last_at())

    def _set_alarm(self) -> None:
        ends = self._running[0][0] if self._running else NEVER
        if self._results:
            due = self._reported_at + self._report_seconds
            self.wake_at = min(due, ends)
        else:
            self.wake_at = min(ends, self._confirm_at())
        if self._queue:
            self.wake_at = min(self.wake_at, self._return_at())


class AgentRank:
    """The real agent of a rank with a pool without processes; it steps each `beat`."""

    def __init__(
        self, workers: int, seconds: Seconds, say: Say, beat: float = 0.001
    ) -> None:
        self._clock = Clock(0.0)
        self.pool = FakePool(self._clock, seconds)
        self.agent = Agent(1, "node", workers, cast(Pool, self.pool), {}, say, 0.0)
        self.agent.reporter.sureness = Sureness(find_wait(workers))
        self.wake_at = 0.0
        self._beat = beat

    def join(self) -> None:
        """Say the first message."""
        self.agent.join()

    @property
    def left(self) -> bool:
        """Whether it was told to leave."""
        return "close" in self.pool.calls

    @property
    def begun(self) -> int:
        """Tasks that its workers have begun."""
        return len(self.pool.begun)

    @property
    def waiting(self) -> int:
        """Leases that wait for a worker, in workers' pipes too."""
        held = len(self.agent.feeder.queue) + self.pool.busy
        return held - sum(bool(hand) for hand in self.pool.hands)

    @property
    def idle(self) -> int:
        """Workers with nothing to do."""
        return self.pool.vacancies(0)

    def hear(self, message: ToRank, now: float) -> None:
        """Do what the coordinator says."""
        self._clock.now = max(self._clock.now, now)
        self.agent.on_message(message, self._clock.now)

    def wake(self, now: float) -> None:
        """Do a step."""
        self._clock.now = max(self._clock.now, now)
        self.agent.step(self._clock.now)
        self.wake_at = now + self._beat


Rank = ModelRank | AgentRank
