"""The progress of a transaction that failed, from which a second try goes on.

Rules of this file: values only.  A step is noted when all of it is on the disk, so a
step that failed half-way is done again; its writer looks at what is there.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto

from mpifarm.store.types import Recorded


class TransactionStep(Enum):
    """The steps of a transaction for one task, in their order."""

    TIMELINE = auto()
    """An event in the timeline."""
    FINISHED = auto()
    """A line in ``finished``."""
    FAILED = auto()
    """A line in ``failed``."""
    RECORD = auto()
    """The record of a tasklist that keeps its own state."""
    REQUEUE = auto()
    """The return to a tasklist that keeps its own state."""
    ATTEMPTS = auto()
    """A line in ``attempts.tsv``."""
    RELEASE = auto()
    """The claim does not hold the task any more."""


class Progress:
    """The steps of the transaction under way that are done, with their tasks."""

    def __init__(self) -> None:
        self._done: dict[TransactionStep, set[int]] = {}

    def left(self, step: TransactionStep, taskids: Iterable[int]) -> list[int]:
        """Return the tasks for which the step is not done yet."""
        done = self._done.get(step)
        if not done:
            return list(taskids)
        return [taskid for taskid in taskids if taskid not in done]

    def note(self, step: TransactionStep, taskids: Iterable[int]) -> None:
        """Note that the step is done for these tasks."""
        self._done.setdefault(step, set()).update(taskids)

    def once(
        self,
        step: TransactionStep,
        results: Sequence[Recorded],
        write: Callable[[Sequence[Recorded]], object],
    ) -> None:
        """Call `write` with the results for which the step is not done, and note them.

        Nothing is called if the step is done for all, nor noted if `write` raises.
        """
        if done := self._done.get(step):
            results = [result for result in results if result.taskid not in done]
        if results:
            write(results)
            self.note(step, [result.taskid for result in results])

    def forget(self) -> None:
        """Forget all steps: the transaction is done."""
        self._done.clear()
