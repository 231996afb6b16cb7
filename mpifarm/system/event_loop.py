"""The waiting of a rank: one select, and a clock that detects suspensions.

Rules of this file: a rank sleeps only here.  A rank with MPI probes for messages
between selects, at most `MAX_SECONDS` apart.  A rank without MPI sleeps until a
descriptor is ready or the time is over.
"""

import select
import time
from collections.abc import Callable, Sequence

MAX_SECONDS = 0.006
"""Longest sleep of a rank between two probes for MPI messages."""

LONGEST_SECONDS = 1.0
"""Longest wait of the loop, whose periodic duties are done between two waits."""

MIN_SECONDS = MAX_SECONDS / 64

EAGER_SECONDS = MAX_SECONDS / 8
EAGER_LOOKS = 16
"""The longest sleep, and the number of sleeps it holds for, of a rank that has asked
rank 0 for something: the answer comes soon."""

COALESCE_SECONDS = 0.04
"""Longest sleep of a rank whose workers all have work ahead."""

PAUSE_SECONDS = 2.0
"""Duration of a step above which this process was suspended (Ctrl-Z)."""


class Waiter:
    """The sleeps of one rank; `signal_fd` ends every sleep.

    `probe` returns whether an MPI message is there; it is None on a rank without MPI.
    """

    def __init__(self, signal_fd: int, probe: Callable[[], bool] | None) -> None:
        self._signal_fd = signal_fd
        self._probe = probe
        self._backoff = 0.0
        self._eager = 0
        """Sleeps left that are not longer than `EAGER_SECONDS`."""

    def restart(self) -> None:
        """Begin with short sleeps again: after one event, more may follow at once."""
        self._backoff = 0.0

    def expect(self) -> None:
        """Keep the next sleeps short: rank 0 was asked for something."""
        self._backoff = 0.0
        self._eager = EAGER_LOOKS

    def wait(self, read: Sequence[int], seconds: float) -> None:
        """Sleep up to `seconds`, until a descriptor is ready or a message is there.

        Never longer than `LONGEST_SECONDS`.
        """
        fds = [self._signal_fd, *read]
        seconds = max(0.0, min(seconds, LONGEST_SECONDS))
        if self._probe is None:
            select.select(fds, (), (), seconds)
            return
        self._wait_and_probe(fds, seconds, self._probe)

    def _wait_and_probe(
        self, fds: Sequence[int], seconds: float, probe: Callable[[], bool]
    ) -> None:
        """Sleep as `wait`, with probes between ever longer sleeps.

        What a call here costs is paid 200 times a second.
        """
        until, backoff, nothing = time.monotonic() + seconds, self._backoff, ()
        while seconds >= 0.0:
            if select.select(fds, nothing, nothing, min(seconds, backoff))[0]:
                backoff = 0.0
                break
            if probe():
                break
            if self._eager and backoff >= EAGER_SECONDS:
                self._eager -= 1
            elif backoff < MAX_SECONDS:
                backoff = min(MAX_SECONDS, max(MIN_SECONDS, 2 * backoff))
            seconds = until - time.monotonic()
        self._backoff = backoff

    def coalesce(self, seconds: float) -> None:
        """Sleep up to `seconds`, `COALESCE_SECONDS` at most, whatever workers do.

        A signal ends the sleep.
        """
        select.select((self._signal_fd,), (), (), min(seconds, COALESCE_SECONDS))


class Clock:
    """The monotonic clock of a loop, which detects its suspensions."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def step(self) -> float:
        """Read the clock.  Return how many seconds the loop was suspended, else 0."""
        before, self.now = self.now, time.monotonic()
        gap = self.now - before
        return gap if gap > PAUSE_SECONDS else 0.0
