"""What becomes of an attempt that failed, and where a task waits for its next one.

Rules of this file: pure; time is an argument (seconds, monotonic).  `judge` alone says
whether a task runs again; `Reruns` alone says on which rank.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from enum import Enum

from mpifarm.config import Policy
from mpifarm.decisions.state import RankRecord, TaskRecord, tasks_in_words
from mpifarm.task import Outcome, Result

MOST_LOST = 3
"""Attempts of one task that may lose their worker or rank before it is failed."""

MOST_CHECKPOINTS = 1000
"""Times in one farm that a task may ask to run again."""

MOST_FAST_CHECKPOINTS = 10
"""The same in a row, of attempts that took less than `FAST_CHECKPOINT_SECONDS`."""

FAST_CHECKPOINT_SECONDS = 1.0

PATIENCE_SECONDS = 10.0
"""How long a failed task waits for another rank to have room, before it may run on
the rank on which it failed."""


class Sequel(Enum):
    """What becomes of a task whose attempt did not complete."""

    FAILED = "failed"
    AGAIN = "again"
    """It runs once more, for the attempt that failed."""
    GOES_ON = "goes on"
    """It made a checkpoint, and goes on from there."""


def is_checkpoint(policy: Policy, result: Result) -> bool:
    """Whether the task has ended so as to run again."""
    return (
        policy.requeue_status is not None
        and result.outcome is Outcome.FAILED
        and result.status == policy.requeue_status
    )


def judge(policy: Policy, task: TaskRecord, result: Result) -> tuple[Sequel, str]:
    """What becomes of the task, and a sentence if the user has to know why."""
    if result.outcome is Outcome.LOST or task.past.is_final:
        return Sequel.FAILED, ""
    if is_checkpoint(policy, result):
        return _judge_checkpoint(task, result)
    if task.past.failures >= policy.retries:
        return Sequel.FAILED, ""
    task.past.failures += 1
    return Sequel.AGAIN, ""


def _judge_checkpoint(task: TaskRecord, result: Result) -> tuple[Sequel, str]:
    past = task.past
    past.checkpoints += 1
    is_fast = result.seconds < FAST_CHECKPOINT_SECONDS
    past.fast_checkpoints = past.fast_checkpoints + 1 if is_fast else 0
    asked = f"it ended with status {result.status}, which asks to run again,"
    if past.fast_checkpoints >= MOST_FAST_CHECKPOINTS:
        how = f"{MOST_FAST_CHECKPOINTS} times in a row within a second"
    elif past.checkpoints >= MOST_CHECKPOINTS:
        how = f"{MOST_CHECKPOINTS} times"
    else:
        return Sequel.GOES_ON, ""
    return Sequel.FAILED, f"task {task.taskid} counts as failed: {asked} {how}"


class Reruns:
    """Tasks that wait for another attempt, each with a rank that it had better avoid.

    What may kill ranks is kept apart: it is never given to the coordinator's own rank
    as long as another works, and not together with others of its kind, which would all
    seem guilty when the rank is lost.
    """

    def __init__(self, own: int) -> None:
        self._own = own
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

    def add(self, task: TaskRecord, now: float, delay: float = 0.0) -> None:
        """It waits for `delay` seconds, then for a rank other than its last."""
        if delay > 0:
            self._number += 1
            heapq.heappush(self._delayed, (now + delay, self._number, task))
        elif task.may_kill_ranks:
            self._deadly.append(task)
        else:
            self._avoiding.setdefault(task.rank, deque()).append((now, task))

    def clear(self) -> list[TaskRecord]:
        """All of them, which wait no longer."""
        tasks = [*self]
        self._delayed, self._avoiding = [], {}
        self._deadly.clear()
        return tasks

    def ripen(self, now: float) -> bool:
        """Those whose delay is over may run; whether any may."""
        while self._delayed and self._delayed[0][0] <= now:
            self.add(heapq.heappop(self._delayed)[2], now)
        return bool(self._avoiding or self._deadly)

    def count(self) -> int:
        """Tasks whose delay is over."""
        return len(self._deadly) + sum(map(len, self._avoiding.values()))

    def count_deadly(self) -> int:
        """Those that may kill ranks."""
        return len(self._deadly)

    def wake_at(self) -> float:
        """When time alone lets one of them run."""
        times = [self._delayed[0][0]] if self._delayed else []
        times += [
            waiting[0][0] + PATIENCE_SECONDS for waiting in self._avoiding.values()
        ]
        return min(times, default=float("inf"))

    def take(
        self, rank: int, most: int, now: float, *, alone: bool
    ) -> list[TaskRecord]:
        """Up to `most` for this rank; all suit it when it works `alone`."""
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

    def take_deadly(
        self, record: RankRecord, *, holds_one: bool, alone: bool, idle: bool
    ) -> TaskRecord | None:
        """One that may kill the rank, or None.

        `holds_one`: it has such a task already.  `idle`: there is nothing else to do,
        so what was lost with a rank once, maybe with its company, goes in company.
        """
        if not self._deadly:
            return None
        if alone:
            return None if holds_one else self._deadly.popleft()
        if record.rank == self._own:
            return None
        if not holds_one:
            return self._deadly.popleft()
        if idle and self._deadly[0].past.ranks_lost == 1:
            return self._deadly.popleft()
        return None


def poison_in_words(task: TaskRecord, lost: int) -> str:
    """Why a task is failed that was lost so often."""
    ranks = task.past.ranks_lost
    what = "its rank" if ranks == lost else "its worker or its rank"
    return f"task {task.taskid} counts as failed: {lost} times {what} was lost under it"


def fate_in_words(count: int, *, is_working: bool) -> str:
    """What becomes of the tasks of a lost rank."""
    if count == 0:
        return "it had no task"
    verb = "runs" if count == 1 else "run"
    if is_working:
        return f"its {tasks_in_words(count)} {verb} again elsewhere"
    return f"its {tasks_in_words(count)} will run again"
