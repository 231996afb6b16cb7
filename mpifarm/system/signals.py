"""The signals of a rank, kept until its loop asks for them.

Rules of this file: a handler only records the signal; the coordinator decides what
follows.  `install` is called before other modules are imported: until then, SIGUSR1
kills the process.
"""

import os
import signal
import time
from contextlib import suppress

SIGNALS = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
)

SECOND_INT_SECONDS = 0.2
"""Two INT within this time are one Ctrl-C, sent by the terminal and by the launcher."""

_EXIT_AT_SECOND_INT = 75


class SignalInbox:
    """Received signals in their order, and a descriptor to wait on."""

    def __init__(self) -> None:
        self.fd, self._wakeup_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._received: list[int] = []
        self._first_int = 0.0

    def install(self) -> None:
        """Record `SIGNALS` from now on, but not a HUP that is ignored (nohup)."""
        for signum in SIGNALS:
            ignored = signal.getsignal(signum) == signal.SIG_IGN
            if not (ignored and signum == signal.SIGHUP):
                signal.signal(signum, self._note)
        signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)

    def ignore(self) -> None:
        """Ignore `SIGNALS` from now on, at the end of the process."""
        # Python's shutdown resets handlers to the default action, which is death.
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    @property
    def any_noted(self) -> bool:
        """Whether `take` would return a signal."""
        return bool(self._received)

    def take(self) -> list[int]:
        """Return the signals since the last call; the descriptor is unreadable then."""
        # The descriptor first: a signal between the two lines then wakes once more.
        # The other way round, it would be in the list and wake nobody.
        self.clear_wakeup()
        received, self._received = self._received, []
        return received

    def clear_wakeup(self) -> None:
        """Make the descriptor unreadable until the next signal."""
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def _note(self, signum: int, _frame: object) -> None:
        """Keep a signal; the second Ctrl-C ends the process."""
        if signum == signal.SIGINT:
            self._note_int()
        self._received.append(signum)

    def _note_int(self) -> None:
        """End the process at a second Ctrl-C."""
        now = time.monotonic()
        if not self._first_int:
            self._first_int = now
        elif now - self._first_int > SECOND_INT_SECONDS:
            # The next start requeues everything, by the claim on disk, and the fork
            # server kills the commands.
            os._exit(_EXIT_AT_SECOND_INT)
