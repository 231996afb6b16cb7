"""How a rank waits: one select, no spinning, and a clock that knows of pauses.

Rules of this file: the only place where a rank sleeps.  A rank with MPI looks for
messages between selects, backing off to `MOST_SECONDS`; without MPI it sleeps until
something happens or is due.
"""

import select
import time
from collections.abc import Callable, Sequence

MOST_SECONDS = 0.005
"""Longest sleep of a rank that has to look for MPI messages."""

LONGEST_SECONDS = 1.0
"""Longest wait; what is done now and then is done between two."""

LEAST_SECONDS = MOST_SECONDS / 64

COALESCE_SECONDS = 0.01
"""Longest sleep of a rank whose workers all have work ahead."""

PAUSE_SECONDS = 2.0
"""A step that took longer than this was a suspension (Ctrl-Z) of this process."""


class Waiter:
    """Sleeps for one rank; `signal_fd` ends every sleep.

    `probe` says whether an MPI message is there; None on a rank without MPI.
    """

    def __init__(self, signal_fd: int, probe: Callable[[], bool] | None) -> None:
        self._signal_fd = signal_fd
        self._probe = probe
        self._backoff = 0.0

    def restart(self) -> None:
        """Something happened: more may follow at once."""
        self._backoff = 0.0

    def wait(self, read: Sequence[int], seconds: float) -> None:
        """Sleep until a descriptor is ready or a message there, at most `seconds`."""
        fds = [self._signal_fd, *read]
        seconds = max(0.0, min(seconds, LONGEST_SECONDS))
        if self._probe is None:
            select.select(fds, (), (), seconds)
            return
        until = time.monotonic() + seconds
        while seconds >= 0.0:
            readable, _, _ = select.select(fds, (), (), min(seconds, self._backoff))
            if readable:
                self.restart()
            if readable or self._probe():
                return
            self._backoff = min(MOST_SECONDS, max(LEAST_SECONDS, 2 * self._backoff))
            seconds = until - time.monotonic()

    def coalesce(self, seconds: float) -> None:
        """Sleep a little whatever the workers do; a signal ends it."""
        select.select((self._signal_fd,), (), (), min(seconds, COALESCE_SECONDS))


class Clock:
    """The monotonic clock of a loop, and how long the loop was suspended."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def step(self) -> float:
        """Read the clock; returns the seconds for which the loop was suspended."""
        before, self.now = self.now, time.monotonic()
        gap = self.now - before
        return gap if gap > PAUSE_SECONDS else 0.0
