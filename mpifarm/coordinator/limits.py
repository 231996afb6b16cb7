"""What keeps a farm from taking more tasks: its first tasks fail, or too many do.

Rules of this file: pure; tasks are counted, and named only while they are held.
"""

import math
from collections.abc import Callable

from mpifarm.coordinator.state import TaskRecord
from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.settings import Policy
from mpifarm.model.wording import agree, counted

TRIAL_TASKS = 10
"""Tasks that tell whether a directory is the right one."""

TRIAL_SECONDS = 5.0
"""Seconds within which a command that is not found has ended."""

NOT_FOUND = frozenset({126, 127})
"""The statuses of a shell for a command that can't be run, or is not there."""


class Canary:
    """The gate behind the first `count` tasks: a success opens the gate.

    `taken` of the tasks were taken before this coordinator began.
    """

    def __init__(self, count: int, taken: int) -> None:
        self.is_open = count == 0
        self._count = count
        self._left = max(0, count - taken)

    def limit(self, take: int) -> int:
        """Return how many of `take` tasks may be taken now."""
        return take if self.is_open else min(take, self._left)

    def note_taken(self, count: int) -> None:
        """Count tasks that were taken: so many fewer may pass the closed gate."""
        self._left = max(0, self._left - count)

    def note_not_run(self) -> None:
        """Let another task pass in place of one that told nothing."""
        self._left += 1

    @property
    def is_exhausted(self) -> bool:
        """Return whether the gate is closed, and no task is left that may pass."""
        return not self.is_open and self._left == 0

    def why(self) -> str:
        """Return the reason for a stop because all of the first tasks failed."""
        if self._count == 1:
            return "the first task (--canary 1) failed"
        return f"none of the first {self._count} tasks (--canary) succeeded"


class DirectoryTrial:
    """The gate behind the first tasks in another directory than before.

    A task opens the gate if it runs on, or ends otherwise than a command that is not
    found, which ends at once.  Until then tasks that end so are held.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.explain: Callable[[int], str] = str
        """Returns the reason for a stop where none of so many could be started."""
        self.way_on = ""
        """How to go on after such a stop."""
        self.held: list[TaskRecord] = []
        """Tasks whose commands were not found; none of them is recorded yet."""
        self._left = 0
        self.opens_at = math.inf
        """When the commands that run by then count as found."""

    def arm(self, explain: Callable[[int], str], way_on: str) -> None:
        """Close the gate: let `TRIAL_TASKS` tasks out until a command is found."""
        self.is_open, self._left = False, TRIAL_TASKS
        self.explain, self.way_on = explain, way_on

    def limit(self, take: int) -> int:
        """Return how many of `take` tasks may be taken now."""
        return take if self.is_open else min(take, self._left)

    def note_taken(self, count: int, now: float) -> None:
        """Count tasks that were taken; with the last of the trial, set `opens_at`."""
        self._left = max(0, self._left - count)
        if self._left == 0:
            self.opens_at = now + TRIAL_SECONDS

    def note_not_run(self) -> None:
        """Let another task pass in place of one that told nothing."""
        self._left += 1

    def open(self) -> list[TaskRecord]:
        """Open the gate, hold no task any more, and return the tasks that were held."""
        self.is_open = True
        held, self.held = self.held, []
        return held

    @property
    def is_exhausted(self) -> bool:
        """Return whether the gate is closed, and no task is left that may pass."""
        return not self.is_open and self._left == 0


class FailureLimit:
    """The limit of tasks that fail, and the number of leases that the limit allows.

    The promise: at most the limit, and the tasks that ran at that moment, one for each
    worker.  So a failure counts from its arrival on (`expect`), though it is recorded
    later, or not at all, and all leases may fail without breaking the promise.
    """

    def __init__(self, policy: Policy, total: int) -> None:
        """`total` is the number of tasks of the list."""
        self._share, self._most = policy.max_failed_share, policy.max_failures or 0
        self._of_list = ""
        self.grow(total)
        self.counts = self._most > 0
        """Whether there is any limit."""
        self.failed_before = 0
        """Tasks that failed before this start; they don't count."""
        self._failed = 0
        self._expected: set[int] = set()
        """Tasks that have failed and have no record yet."""

    def grow(self, total: int) -> None:
        """Take a share of the `total` tasks that the list has now."""
        if self._share is not None:
            self._most = max(1, math.ceil(self._share * total))
            of_list = f"{self._most} of the list's {total}"
            self._of_list = f" {100 * self._share:g}%, {of_list}"

    def note_before(self, before: int, own: int) -> None:
        """Set how many tasks failed `before` this start, and how many since (`own`).

        `own` alone counts towards the limit: a rank that takes over goes on from there.
        """
        self.failed_before, self._failed = before, own

    def expect(self, taskid: int) -> None:
        """Count a task's failure from now on, though its record comes later."""
        self._expected.add(taskid)

    def forget(self, taskid: int) -> None:
        """Uncount the expected failure of a task, if any: the task runs again."""
        self._expected.discard(taskid)

    def note(self, taskid: int, *, failed: bool) -> None:
        """Count the result of a task that is recorded now, in place of `expect`."""
        self._failed += failed
        self._expected.discard(taskid)

    @property
    def left(self) -> int:
        """Return how many more tasks may fail; negative if too many did.

        Suspect failures, which may not count in the end, are counted.
        """
        return self._most - self._failed - len(self._expected)

    def allow(self, leased: int, workers: int, suspects: int) -> int:
        """Return how many more leases may go out, with `leased` out; may be negative.

        `suspects` of the failures so far may be their rank's fault and run again.
        """
        left = self.left
        if left + suspects <= 0:
            return 0
        return (max(left, workers) if left > 0 else workers + left) - leased

    def describe(self) -> str:
        """Return a sentence on the limit for the farm's start; "" if none is needed."""
        if not self.counts or not (self._of_list or self.failed_before):
            return ""
        most = counted(self._most, "task has", "tasks have")
        return (
            f"the farm stops when {most} failed"
            f" (--max-failures{self._of_list}){self._before()}"
        )

    def why(self) -> str:
        """Return why the farm has to stop, in words; "" below the limit.

        Only for a farm with a limit (`counts`).
        """
        if self._failed < self._most:
            return ""
        failed = counted(self._failed, "task has", "tasks have")
        limit = f" is{self._of_list or f' {self._most}'}"
        return f"{failed} failed, and --max-failures{limit}{self._before()}"

    def _before(self) -> str:
        count = self.failed_before
        if not count:
            return ""
        do = agree(count, "does", "do")
        return f"; {count} that failed before this start {do} not count"


class Limits:
    """The gates before the first tasks, the limit of failures, and the end of the job.

    `total` is the length of the list; `taken` tasks are held already.
    """

    def __init__(
        self, policy: Policy, total: int, taken: int, walltime: Walltime
    ) -> None:
        self.walltime = walltime
        self.canary = Canary(policy.canary, taken)
        self.trial = DirectoryTrial()
        self.failures = FailureLimit(policy, total)

    @property
    def is_shut(self) -> bool:
        """Return whether a gate lets no more tasks out for now."""
        return self.canary.is_exhausted or self.trial.is_exhausted

    def limit(self, take: int) -> int:
        """Return how many of `take` tasks may be taken now."""
        return self.trial.limit(self.canary.limit(take))

    def note_taken(self, count: int, now: float) -> None:
        """Count tasks that were taken, at each gate that is closed."""
        if not self.canary.is_open:
            self.canary.note_taken(count)
        if not self.trial.is_open and count:
            self.trial.note_taken(count, now)

    def note_not_run(self) -> None:
        """Count a task that was taken, and then cancelled or held, as not taken."""
        self.canary.note_not_run()
        self.trial.note_not_run()
