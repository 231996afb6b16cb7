"""What keeps a farm from taking more tasks: the canary, and the failures so far.

Rules of this file: pure; tasks are counted, never named.
"""

from mpifarm.config import Policy
from mpifarm.decisions.state import tasks_in_words

FEWEST_FOR_SHARE = 20
"""Tasks that have ended before their share of failures says anything."""


class Canary:
    """The gate behind the first tasks: it opens when one of them has succeeded."""

    def __init__(self, count: int, taken: int) -> None:
        self.is_open = count == 0
        self._count = count
        self._left = max(0, count - taken)

    def limit(self, take: int) -> int:
        """How many of `take` tasks may be taken now."""
        return take if self.is_open else min(take, self._left)

    def note_taken(self, count: int) -> None:
        """So many were taken."""
        self._left = max(0, self._left - count)

    @property
    def is_exhausted(self) -> bool:
        """All that may be taken before the gate opens were."""
        return not self.is_open and self._left == 0

    def why(self) -> str:
        """The reason for the end, when all have ended and none succeeded."""
        if self._count == 1:
            return "the first task (--canary 1) failed"
        return f"none of the first {self._count} tasks (--canary) succeeded"


class FailureLimit:
    """How many tasks may fail before the farm stops."""

    def __init__(self, policy: Policy) -> None:
        self._most = policy.max_failures
        self._share = policy.max_failed_share
        self.counts = self._most is not None or self._share is not None
        """Whether there is any limit."""
        self._failed = 0
        self._ended = 0

    def note(self, *, failed: bool) -> None:
        """The result of a task is going to be recorded."""
        self._ended += 1
        self._failed += failed

    def why(self) -> str:
        """Why the farm has to stop; empty: it has not."""
        if self._failed and self._most is not None and self._failed >= self._most:
            verb = "has" if self._failed == 1 else "have"
            return (
                f"{tasks_in_words(self._failed)} {verb} failed, and --max-failures is "
                f"{self._most}"
            )
        if self._share is None or self._ended < FEWEST_FOR_SHARE:
            return ""
        if self._failed and self._failed >= self._share * self._ended:
            return (
                f"{self._failed} of {self._ended} tasks have failed, and "
                f"--max-failures is {100 * self._share:g}%"
            )
        return ""
