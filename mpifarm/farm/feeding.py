"""The leases of a rank on their way to its workers, and those that go back unstarted.

Rules of this file: it decides by the times of the rank's own tasks how many leases a
worker gets ahead, when those come back out of the workers' pipes, and when those that
wait go back to rank 0.  It sends nothing.
"""

from collections import deque
from collections.abc import Collection, Iterable

from mpifarm.model.task import Lease
from mpifarm.pool import Pool

PIPE_SECONDS = 0.12
"""Seconds of work that a worker gets beyond what it runs, when its tasks are short.

Enough for the time in which a rank on a busy machine doesn't get a processor.
"""

MAX_IN_PIPE = 96

RECALL_SECONDS = 0.1
"""Seconds without a task's end after which a rank recalls leases from pipes."""

IDLE_SECONDS = 0.01
"""The same seconds where a worker is idle and the rank's queue is empty."""

RETURN_SECONDS = 0.5
"""Seconds without a task's end, at least, after which a rank returns waiting leases, if
by the tasks before some should have ended: the turn of these leases was to come
sooner."""

REFUSED_SECONDS = 0.2
"""Seconds between two tries of a task that got no log, or no runner."""


class Feeder:
    """The leases that wait on a rank, and how its workers are kept fed ahead."""

    def __init__(self, pool: Pool, workers: int, now: float) -> None:
        self.queue: deque[Lease] = deque()
        """Leases that no worker has."""
        self.is_fed_ahead = False
        """Whether leases may wait in the pipes of workers."""
        self.feed_at = float("-inf")
        """When workers may get leases again; `-inf`: now."""
        self._pool = pool
        self._workers = workers
        self._ended_at = now
        """When a task ended last, or work came to an idle rank."""
        self._refused_since: float | None = None
        """When leases began to be refused, with no task's end since."""
        self._mean, self._ended = 0.0, 0

    # ---- in ------------------------------------------------------------------------

    def accept(self, leases: Iterable[Lease], now: float) -> None:
        """Queue new leases.

        If none waited, the times after which leases are recalled and returned begin
        anew.
        """
        if not self.queue:
            self._ended_at = now
        self.queue.extend(leases)

    def note_end(self, seconds: float, now: float) -> None:
        """Take the `seconds` of a task that has ended into the mean time of tasks.

        It also ends a time in which leases were refused.
        """
        self._ended_at = now
        self._refused_since = None
        self._ended += 1
        self._mean += (seconds - self._mean) * max(0.05, 1 / self._ended)

    def put_back(self, leases: Iterable[Lease]) -> None:
        """Queue leases before all others again: their worker has not begun them."""
        self.queue.extendleft(reversed([*leases]))

    def try_again(self, lease: Lease, now: float, patience: float) -> bool:
        """Queue a refused lease again, and feed nothing for `REFUSED_SECONDS`.

        A disk that was full may not be so for long.  Return False, with the lease not
        queued, if leases have been refused for `patience` seconds without a task's end.
        """
        if self._refused_since is None:
            self._refused_since = now
        if now - self._refused_since >= patience:
            return False
        self.queue.appendleft(lease)
        self.feed_at = now + REFUSED_SECONDS
        return True

    # ---- to the workers --------------------------------------------------------------

    def feed(self) -> None:
        """Submit as many leases to the pool as its workers have room for."""
        if not self.queue:
            return
        ahead = self._ahead()
        count = min(len(self.queue), self._pool.vacancies(ahead))
        if count:
            self.is_fed_ahead = self.is_fed_ahead or ahead > 0
            self._pool.submit([self.queue.popleft() for _ in range(count)])

    def _ahead(self) -> int:
        """Return how many leases a pipe gets beyond the one that runs (0: none)."""
        if self._mean == 0.0 or 2 * self._mean > PIPE_SECONDS:
            return 0
        return min(MAX_IN_PIPE, 1 + int(PIPE_SECONDS / self._mean))

    def work_ahead(self) -> float:
        """Return for how many seconds each worker has work; 0 if none is fed ahead."""
        return self._pool.least_ahead() * self._mean if self.is_fed_ahead else 0.0

    def recall_at(self) -> float:
        """Return when to recall leases: another worker may be free for them then."""
        is_idle = not self.queue and self._pool.vacancies(0) > 0
        return self._ended_at + (IDLE_SECONDS if is_idle else RECALL_SECONDS)

    def recall(self) -> None:
        """Queue the leases in the workers' pipes again, before all others.

        Workers get none ahead until tasks are seen to be short again.
        """
        self.is_fed_ahead = False
        recalled = self._pool.recall()
        if recalled:
            self.put_back(recalled)
            self._mean = max(self._mean, PIPE_SECONDS)  # none ahead for now

    # ---- back to rank 0 --------------------------------------------------------------

    def return_at(self) -> float:
        """Return when the queue goes back; `inf` while that can't be known.

        By then tasks have got so long that other ranks will be free sooner.
        """
        if not self._ended:
            # Nothing is known of how long they take; but where a worker is missing,
            # what was for it waits in vain.
            is_short = self._refused_since is None and self._pool.busy < self._workers
            return self._ended_at + RETURN_SECONDS if is_short else float("inf")
        # Tasks that take equally long all end at once.
        expected = max(1.5 * self._mean, 4 * self._mean / self._workers)
        return self._ended_at + max(RETURN_SECONDS, expected)

    def pop_all(self) -> list[Lease]:
        """Remove all leases from the queue; return them."""
        return self._pop_last(len(self.queue))

    def pop_spare(self, count: int) -> list[Lease]:
        """Remove and return up to `count` leases that no worker can begin at once.

        If the queue has too few, leases are recalled from the pipes first.
        """
        if self.is_fed_ahead and count > len(self.queue):
            self.recall()
        spare = len(self.queue) - self._pool.vacancies(0)
        return self._pop_last(max(0, min(count, spare)))

    def pop_wanted(self, wanted: Collection[tuple[int, int]]) -> list[Lease]:
        """Remove and return the leases of `wanted` that wait in the queue.

        If the queue has not all, leases are recalled from the pipes first: a worker
        that still makes its runner has its first lease there, too.
        """
        here = sum(lease[:2] in wanted for lease in self.queue)
        if here < len(wanted):
            self.recall()
        popped = [lease for lease in self.queue if lease[:2] in wanted]
        if popped:
            kept = [lease for lease in self.queue if lease[:2] not in wanted]
            self.queue.clear()
            self.queue.extend(kept)
        return popped

    def find_begun(self, wanted: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return those of `wanted` that workers have, (taskid, attempt) of each.

        A worker may yet return one that it is just beginning.
        """
        return [key for lease in self._pool.leases if (key := lease[:2]) in wanted]

    def _pop_last(self, count: int) -> list[Lease]:
        """Remove and return the last `count` leases of the queue, in their order."""
        return [self.queue.pop() for _ in range(count)][::-1]

    # ---- what is ---------------------------------------------------------------------

    @property
    def is_starving(self) -> bool:
        """Whether a worker has nothing to do, and nothing waits for it."""
        return not self.queue and self._pool.vacancies(0) > 0

    @property
    def has_work(self) -> bool:
        """Whether something runs or waits here."""
        return bool(self._pool.busy or self.queue)

    @property
    def held(self) -> list[tuple[int, int]]:
        """(taskid, attempt) of each lease that has not ended."""
        leases = (*self.queue, *self._pool.leases)
        return [(lease.taskid, lease.attempt) for lease in leases]
