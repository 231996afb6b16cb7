"""How a rank waits: one select, no spinning, and a clock that knows of pauses.

Rules of this file: the only place where a rank sleeps.  A rank with MPI looks for
messages between selects, backing off to `MOST_SECONDS`; without MPI it sleeps until
something happens or is due.
"""

import select
import time
from collections.abc import Callable, Sequence

MOST_SECONDS = 0.006
"""Longest sleep of a rank that has to look for MPI messages."""

LONGEST_SECONDS = 1.0
"""Longest wait; what is done now and then is done between two."""

LEAST_SECONDS = MOST_SECONDS / 64

EAGER_SECONDS = MOST_SECONDS / 8
EAGER_LOOKS = 16
"""How a rank waits that has asked for something: the answer is not to wait as long as
the question did."""

COALESCE_SECONDS = 0.02
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
        self._eager = 0
        """Looks until the pauses may get longer than `EAGER_SECONDS`."""

    def restart(self) -> None:
        """Something happened: more may follow at once."""
        self._backoff = 0.0

    def expect(self) -> None:
        """Something was asked of rank 0, which looks every `MOST_SECONDS`."""
        self._backoff = 0.0
        self._eager = EAGER_LOOKS

    def wait(self, read: Sequence[int], seconds: float) -> None:
        """Sleep until a descriptor is ready or a message there, at most `seconds`."""
        fds = [self._signal_fd, *read]
        seconds = max(0.0, min(seconds, LONGEST_SECONDS))
        if self._probe is None:
            select.select(fds, (), (), seconds)
            return
        self._wait_and_probe(fds, seconds, self._probe)

    def _wait_and_probe(
        self, fds: Sequence[int], seconds: float, probe: Callable[[], bool]
    ) -> None:
        """Two hundred times a second, where nothing happens: every call here counts."""
        until, backoff, nothing = time.monotonic() + seconds, self._backoff, ()
        while seconds >= 0.0:
            if select.select(fds, nothing, nothing, min(seconds, backoff))[0]:
                backoff = 0.0
                break
            if probe():
                break
            if self._eager and backoff >= EAGER_SECONDS:
                self._eager -= 1
            elif backoff < MOST_SECONDS:
                backoff = min(MOST_SECONDS, max(LEAST_SECONDS, 2 * backoff))
            seconds = until - time.monotonic()
        self._backoff = backoff

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
