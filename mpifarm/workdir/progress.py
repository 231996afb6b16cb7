"""How far a transaction came that failed: it is given again, and goes on from there.

Rules of this file: values only.  A step is noted when all of it is on the disk, so a
step that failed half-way is done again; who writes the file sees to what is there.
"""

from collections.abc import Callable, Iterable, Sequence

from mpifarm.workdir.records import Recorded


class Progress:
    """Which steps of the transaction under way are done, and for which tasks."""

    def __init__(self) -> None:
        self._done: dict[str, set[int]] = {}

    def left(self, step: str, taskids: Iterable[int]) -> list[int]:
        """Those for which the step is not done yet."""
        done = self._done.get(step, ())
        return [taskid for taskid in taskids if taskid not in done]

    def note(self, step: str, taskids: Iterable[int]) -> None:
        """The step is done for these."""
        self._done.setdefault(step, set()).update(taskids)

    def once(
        self,
        step: str,
        results: Sequence[Recorded],
        write: Callable[[Sequence[Recorded]], object],
    ) -> None:
        """Have `write` called with those for which the step is not done yet."""
        left = set(self.left(step, [result.taskid for result in results]))
        if left:
            write([result for result in results if result.taskid in left])
            self.note(step, left)

    def forget(self) -> None:
        """The transaction is done."""
        self._done.clear()
