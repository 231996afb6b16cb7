"""How rank 0 waits for the lock of the workdir, which others may hold for long.

Rules of this file: pure; time is an argument (seconds, monotonic).
"""

from enum import Enum

POLL_SECONDS = 0.001
SLOW_POLL_SECONDS = 0.005
HASTE_SECONDS = 1.0
"""Seconds for which the lock is tried each millisecond, as plain farmers do; then less
often."""

WARNING_SECONDS = 30.0
"""Seconds between two warnings that another farmer holds the lock."""

SECONDS_AT_STOP = 3.0
"""Seconds for which a farm that stops waits: the launcher's KILL may be near, and the
claim on disk keeps the tasks of this farm."""


class LockVerdict(Enum):
    """The answer to a lock that could not be had."""

    TRY_AGAIN = "try again"
    WARN = "warn"
    """Try again, and tell the user."""
    GIVE_UP = "give up"


class LockWait:
    """The wait for the lock: its beginning, and its consequences."""

    def __init__(self) -> None:
        self._since = 0.0

    def begin(self, now: float) -> None:
        """Note that the lock is wanted from now on."""
        self._since = now

    def waited(self, now: float) -> float:
        """Return the seconds since `begin`, or since the last warning."""
        return now - self._since

    def assess(self, now: float, *, is_stopping: bool) -> LockVerdict:
        """Return what to do while another farmer holds the lock.

        With WARN, the time to the next warning, and to giving up, begins anew.
        """
        if is_stopping and self.waited(now) > SECONDS_AT_STOP:
            return LockVerdict.GIVE_UP
        if self.waited(now) > WARNING_SECONDS:
            self._since = now
            return LockVerdict.WARN
        return LockVerdict.TRY_AGAIN

    def poll_seconds(self, now: float) -> float:
        """Return how long to sleep before the next try."""
        if self.waited(now) > HASTE_SECONDS:
            return SLOW_POLL_SECONDS
        return POLL_SECONDS
