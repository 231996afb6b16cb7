"""What becomes of an attempt that failed, and where a task waits for its next one.

Rules of this file: pure; time is an argument (seconds, monotonic).  `count_attempt`
alone says whether a task runs again; `RetryQueue` alone says on which rank.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Collection, Iterator
from enum import Enum

from mpifarm.coordinator.state import TaskRecord
from mpifarm.model.settings import Policy
from mpifarm.model.task import Outcome, Result
from mpifarm.model.wording import counted

MAX_LOST = 3
"""Attempts of one task that may lose their worker or rank before it is failed."""

MAX_CHECKPOINTS = 1000
"""Times in one farm that a task may ask to run again."""

MAX_FAST_CHECKPOINTS = 10
"""Times in a row that a task may ask after less than `FAST_CHECKPOINT_SECONDS`."""

FAST_CHECKPOINT_SECONDS = 1.0

PATIENCE_SECONDS = 10.0
"""Seconds for which a failed task waits for another rank to have room, before it may
run on the rank on which it failed."""


_FINAL = frozenset({Outcome.LOST, Outcome.CANCELLED})
"""Outcomes after which no policy has a task run again."""


class Sequel(Enum):
    """The fate of a task whose attempt did not complete."""

    FAILED = "failed"
    AGAIN = "again"
    """The task runs once more, for the attempt that failed."""
    GOES_ON = "goes on"
    """The task made a checkpoint, and goes on from there."""


def is_checkpoint(policy: Policy, result: Result) -> bool:
    """Return whether an attempt failed with the status that asks for another one."""
    return (
        policy.requeue_status is not None
        and result.outcome is Outcome.FAILED
        and result.status == policy.requeue_status
    )


def is_final(policy: Policy, task: TaskRecord, result: Result) -> bool:
    """Return whether `count_attempt` will say that the task failed; count nothing."""
    if result.outcome in _FINAL or task.past.is_final:
        return True
    if is_checkpoint(policy, result):
        past = task.past
        is_fast = result.seconds < FAST_CHECKPOINT_SECONDS
        return past.checkpoints + 1 >= MAX_CHECKPOINTS or (
            is_fast and past.fast_checkpoints + 1 >= MAX_FAST_CHECKPOINTS
        )
    return task.past.failures >= policy.retries


def count_attempt(
    policy: Policy, task: TaskRecord, result: Result
) -> tuple[Sequel, str]:
    """Count an attempt that did not complete; return (fate of its task, reason).

    The reason is a sentence for the user, or "" if the user need not know why.
    """
    if result.outcome in _FINAL or task.past.is_final:
        return Sequel.FAILED, ""
    if is_checkpoint(policy, result):
        return _count_checkpoint(task, result)
    if task.past.failures >= policy.retries:
        return Sequel.FAILED, ""
    task.past.failures += 1
    return Sequel.AGAIN, ""


def _count_checkpoint(task: TaskRecord, result: Result) -> tuple[Sequel, str]:
    """Count a checkpoint, and return as `count_attempt`: too many fail the task."""
    past = task.past
    past.checkpoints += 1
    is_fast = result.seconds < FAST_CHECKPOINT_SECONDS
    past.fast_checkpoints = past.fast_checkpoints + 1 if is_fast else 0
    asked = f"it ended with status {result.status}, which asks to run again,"
    if past.fast_checkpoints >= MAX_FAST_CHECKPOINTS:
        how = f"{MAX_FAST_CHECKPOINTS} times in a row within a second"
    elif past.checkpoints >= MAX_CHECKPOINTS:
        how = f"{MAX_CHECKPOINTS} times"
    else:
        return Sequel.GOES_ON, ""
    return Sequel.FAILED, f"task {task.taskid} counts as failed: {asked} {how}"


class RetryQueue:
    """The tasks that wait for another attempt, each with a rank that it avoids.

    Tasks that may kill ranks are kept apart: two of them are not given to one rank,
    since both would seem guilty when the rank is lost.
    """

    def __init__(self) -> None:
        self._delayed: list[tuple[float, int, TaskRecord]] = []
        self._avoiding: dict[int, deque[tuple[float, TaskRecord]]] = {}
        """By the rank to avoid: since when each waits, longest first."""
        self._deadly: deque[TaskRecord] = deque()
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._delayed or self._avoiding or self._deadly)

    def __iter__(self) -> Iterator[TaskRecord]:
        yield from (task for _, _, task in self._delayed)
        for waiting in self._avoiding.values():
            yield from (task for _, task in waiting)
        yield from self._deadly

    def add(self, task: TaskRecord) -> None:
        """Queue a task: until `History.waits_from`, then for another rank.

        One that was here before waits no longer than if it had stayed.  `ripen` has to
        come before it is taken.
        """
        self._number += 1
        heapq.heappush(self._delayed, (task.past.waits_from, self._number, task))

    def _await_rank(self, task: TaskRecord) -> None:
        if task.may_kill_ranks:
            self._deadly.append(task)
            return
        waiting = self._avoiding.setdefault(task.rank, deque())
        insort(waiting, (task.past.waits_from, task), key=_since_of)

    def clear(self) -> list[TaskRecord]:
        """Empty the queue, and return its tasks."""
        tasks = [*self]
        self._delayed, self._avoiding = [], {}
        self._deadly.clear()
        return tasks

    def remove(self, taskids: Collection[int]) -> None:
        """Remove these tasks, wherever they wait."""
        self._delayed = [
            each for each in self._delayed if each[2].taskid not in taskids
        ]
        heapq.heapify(self._delayed)
        for rank, waiting in [*self._avoiding.items()]:
            left = deque(each for each in waiting if each[1].taskid not in taskids)
            if left:
                self._avoiding[rank] = left
            else:
                del self._avoiding[rank]
        left_deadly = [each for each in self._deadly if each.taskid not in taskids]
        self._deadly = deque(left_deadly)

    def ripen(self, now: float) -> bool:
        """End the delays that are over; return whether any task may run."""
        while self._delayed and self._delayed[0][0] <= now:
            self._await_rank(heapq.heappop(self._delayed)[2])
        return bool(self._avoiding or self._deadly)

    def __len__(self) -> int:
        return len(self._delayed) + self.count()

    def count(self) -> int:
        """Return how many tasks may run now."""
        return len(self._deadly) + sum(map(len, self._avoiding.values()))

    def wake_at(self) -> float:
        """Return when time alone lets a task run that may not run now; `inf` if never.

        The time may be in the past: such a task waits for a rank with room.
        """
        times = [self._delayed[0][0]] if self._delayed else []
        times += [
            waiting[0][0] + PATIENCE_SECONDS for waiting in self._avoiding.values()
        ]
        return min(times, default=float("inf"))

    def take(
        self, rank: int, most: int, now: float, *, alone: bool
    ) -> list[TaskRecord]:
        """Remove and return up to `most` tasks that suit `rank`.

        A task that failed there waits `PATIENCE_SECONDS` for another rank, unless
        `alone`: no other rank works.
        """
        taken: list[TaskRecord] = []
        for avoided in [*self._avoiding]:
            waiting = self._avoiding[avoided]
            while len(taken) < most and waiting:
                patient = now - waiting[0][0] < PATIENCE_SECONDS
                if avoided == rank and patient and not alone:
                    break
                taken.append(waiting.popleft()[1])
            if not waiting:
                del self._avoiding[avoided]
        return taken

    def take_deadly(self, *, holds_one: bool, idle: bool) -> TaskRecord | None:
        """Remove and return a task that may kill its rank; None if none suits.

        `holds_one`: the rank has such a task already.  `idle`: there is nothing else to
        do, so a task that was lost once, maybe because of another task, may share a
        rank.
        """
        if not self._deadly:
            return None
        if not holds_one or (idle and self._deadly[0].past.ranks_lost == 1):
            return self._deadly.popleft()
        return None


def _since_of(waiting: tuple[float, TaskRecord]) -> float:
    return waiting[0]


def poison_in_words(task: TaskRecord, lost: int) -> str:
    """Return the sentence for a task that counts as failed, after `lost` losses."""
    ranks = task.past.ranks_lost
    what = "its rank" if ranks == lost else "its worker or its rank"
    return f"task {task.taskid} counts as failed: {lost} times {what} was lost under it"


def fate_in_words(count: int, *, is_working: bool) -> str:
    """Return the fate of the `count` tasks of a rank that is lost or out of use."""
    if count == 0:
        return "it had no task"
    if is_working:
        return f"its {counted(count, 'task runs', 'tasks run')} again elsewhere"
    return f"its {counted(count)} will run again"
