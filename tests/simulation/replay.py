"""Farms replayed task by task: what a look at each moment sees, and the true end.

Rules of this file: the next task of the list goes to the first free worker; what a
lost rank ran is begun again, first of all.  Nothing here knows how the time left is
estimated.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

DISPATCH_SECONDS = 25e-6
"""Rank 0 hands out one task in so many seconds (docs/scale.md, the limit)."""

START_SECONDS = 1e-3
"""A worker is without a task for so long between two."""


@dataclass(frozen=True)
class Replayed:
    """A list, and the farm that runs it."""

    kind: str
    seconds: Sequence[float]
    """What each task takes."""
    workers: int
    losses: Sequence[tuple[float, int]] = ()
    """When so many workers are lost."""
    known: Sequence[float] = ()
    """What is known beforehand of each task."""
    done_before: int = 0
    """The first tasks of the list, which earlier farms have done."""


@dataclass(frozen=True)
class Look:
    """A farm as it is at one moment."""

    now: float
    waiting: int
    workers: int


class Listener:
    """Hears what happens in a replay."""

    def on_begun(self, now: float) -> None:
        """A task begins."""

    def on_gone(self, begun: float) -> None:
        """A task that began then has ended, or is lost with its rank."""

    def on_ended(self, place: int, seconds: float, now: float) -> None:
        """A task has ended."""


@dataclass
class Replay:
    """A run of one list.  Iterate over it for its looks; then `end` is known."""

    what: Replayed
    listener: Listener
    look_at: Sequence[float] = ()
    """When to look, rising."""
    share: float = 1.0
    """A share of the work, and"""
    reached: float = 0.0
    """the first end of a task at which so much of the work was done."""
    end: float = 0.0
    _running: list[tuple[float, int, float]] = field(default_factory=list)
    """(end, place, begin), a heap."""
    _queue: deque[int] = field(default_factory=deque)
    _now: float = 0.0
    _handed: float = 0.0
    """When the last task was handed out."""
    _free: int = 0
    _workers: int = 0
    _ended: float = 0.0
    """Seconds of the tasks that have ended."""
    _begins: float = 0.0
    """The sum of the begins of those that run."""

    def __iter__(self) -> Iterator[Look]:
        what = self.what
        self._queue.extend(range(what.done_before, len(what.seconds)))
        self._free = self._workers = what.workers
        wanted = self.share * sum(what.seconds[what.done_before :])
        losses, looks = deque(what.losses), deque(self.look_at)
        while self._queue or self._running:
            self._begin_tasks()
            due = self._running[0][0]
            loss = losses[0][0] if losses else due
            if looks and looks[0] <= min(due, loss):
                self._now = looks.popleft()
                yield Look(self._now, len(self._queue), self._workers)
            elif losses and loss <= due:
                self._lose(*losses.popleft())
            else:
                self._end_task()
                if not self.reached and self._work_done() >= wanted:
                    self.reached = self._now
        self.end = self._now

    def _begin_tasks(self) -> None:
        while self._free and self._queue:
            place = self._queue.popleft()
            self._handed = max(self._now, self._handed) + DISPATCH_SECONDS
            begun = self._handed + START_SECONDS
            heapq.heappush(
                self._running, (begun + self.what.seconds[place], place, begun)
            )
            self.listener.on_begun(begun)
            self._begins += begun
            self._free -= 1

    def _end_task(self) -> None:
        self._now, place, begun = heapq.heappop(self._running)
        seconds = self.what.seconds[place]
        self.listener.on_gone(begun)
        self.listener.on_ended(place, seconds, self._now)
        self._begins -= begun
        self._ended += seconds
        self._free += 1

    def _lose(self, now: float, workers: int) -> None:
        self._now = now
        # Tasks that began at any time.
        victims = sorted(self._running, key=lambda each: each[1] % 7)[:workers]
        for each in victims:
            self._running.remove(each)
            self._queue.appendleft(each[1])
            self.listener.on_gone(each[2])
            self._begins -= each[2]
        heapq.heapify(self._running)
        self._workers -= workers
        self._free -= workers - len(victims)

    def _work_done(self) -> float:
        return self._ended + len(self._running) * self._now - self._begins
