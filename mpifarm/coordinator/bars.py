"""Which tasks must not start, because users have cancelled or held them.

Rules of this file: pure.  Without any request it costs a task one look at `is_set`.
"""

from collections.abc import Iterable


class Bars:
    """The tasks that are cancelled or held; `TaskTable` starts none of them."""

    def __init__(self) -> None:
        self.is_set = False
        """Whether any task may be barred: a false one tells that there is no bar."""
        self.cancelled: set[int] = set()
        """Tasks that are to be recorded as cancelled, until they are on disk."""
        self.held: set[int] = set()
        """Tasks that wait until they are released; all do with `holds_all`."""
        self.holds_all = False

    def cancel(self, taskids: Iterable[int]) -> None:
        """Bar tasks until `forget`: they are recorded in place of starting."""
        self.cancelled.update(taskids)
        self._note()

    def forget(self, taskids: Iterable[int]) -> None:
        """Bar cancelled tasks no longer: they are recorded, or not here."""
        self.cancelled.difference_update(taskids)
        self._note()

    def hold(self, taskids: Iterable[int] | None) -> None:
        """Bar tasks (None: all) until they are released."""
        if taskids is None:
            self.holds_all = True
        else:
            self.held.update(taskids)
        self._note()

    def release(self, taskids: Iterable[int] | None) -> None:
        """Hold tasks no longer; None: hold nothing."""
        if taskids is None:
            self.holds_all = False
            self.held.clear()
        else:
            self.held.difference_update(taskids)
        self._note()

    def holds(self, taskid: int) -> bool:
        """Return whether a task must wait until it is released."""
        return self.holds_all or taskid in self.held

    def _note(self) -> None:
        self.is_set = self.holds_all or bool(self.cancelled or self.held)
