"""Tasks of a kind that share seats: at most so many of them run (``--limit``).

Rules of this file: pure.  A task has a seat for as long as it is leased, and
`TaskTable` alone gives it back.  A task whose kind has no free seat waits here, so that
it does not block others.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping

from mpifarm.coordinator.state import TaskRecord

MAX_WAITING = 100_000
"""Tasks without a seat at which no more tasks are taken: each is in memory."""


class Seats:
    """The seats of each kind, `most` by the kind's name, and who waits for one.

    Kinds that `most` does not name, or gives 0 seats, are not limited.
    """

    def __init__(self, most: Mapping[str, int]) -> None:
        self.free = {name: count for name, count in most.items() if count}
        """The free seats of each limited kind."""
        self._kinds: Mapping[int, str] = {}
        self._waiting: dict[str, deque[TaskRecord]] = {}
        self._count = 0

    def name_kinds(self, kinds: Mapping[int, str], leased: Iterable[int]) -> None:
        """Set the kind of each task that has one, by its id; `kinds` may grow.

        Tasks that are `leased` already have their seats.
        """
        self._kinds = kinds
        for taskid in leased:
            if kinds.get(taskid) in self.free:
                self.free[kinds[taskid]] -= 1

    @property
    def is_limited(self) -> bool:
        """Return whether any kind has a limit."""
        return bool(self.free)

    def __len__(self) -> int:
        """Return how many tasks wait for a seat."""
        return self._count

    def __iter__(self) -> Iterator[TaskRecord]:
        for waiting in self._waiting.values():
            yield from waiting

    def count_waiting(self) -> dict[str, int]:
        """Return how many tasks of each kind wait for a seat, unless none does."""
        return {kind: len(each) for kind, each in self._waiting.items() if each}

    @property
    def is_crowded(self) -> bool:
        """Return whether so many tasks wait that no more are to be taken."""
        return self._count >= MAX_WAITING

    def take(self, task: TaskRecord) -> bool:
        """Give a task a seat, if its kind has one free or needs none; return whether.

        A task that gets none waits here until `call` returns it.
        """
        kind = self._kinds.get(task.taskid)
        if kind is None or kind not in self.free:
            return True
        if self.free[kind] > 0:
            self.free[kind] -= 1
            return True
        self._waiting.setdefault(kind, deque()).append(task)
        self._count += 1
        return False

    def give_back(self, taskid: int) -> None:
        """Free the seat of a task, if its kind has a limit."""
        kind = self._kinds.get(taskid)
        if kind in self.free:
            self.free[kind] += 1

    def call(self) -> list[TaskRecord]:
        """Return tasks that wait no more: of each kind, as many as have seats now.

        Each has yet to `take` its seat.
        """
        called = list[TaskRecord]()
        for kind, waiting in self._waiting.items():
            count = min(self.free[kind], len(waiting))
            called += [waiting.popleft() for _ in range(count)]
        self._count -= len(called)
        return called

    def remove(self, taskids: Collection[int]) -> None:
        """Let these tasks wait no more."""
        for kind, waiting in self._waiting.items():
            left = deque(each for each in waiting if each.taskid not in taskids)
            self._waiting[kind] = left
        self._count = sum(map(len, self._waiting.values()))

    def clear(self) -> list[TaskRecord]:
        """Return the tasks that wait; none of them waits any more."""
        waiting = [*self]
        self._waiting.clear()
        self._count = 0
        return waiting
