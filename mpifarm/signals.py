"""The signals that this process gets, kept until the loop asks for them.

Rules of this file: a handler only notes the signal; what it means is decided on
rank 0.  `install` is called before anything else is imported, since the default
action of SIGUSR1 is death.
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
"""Two INT closer together than this are one Ctrl-C that came by two ways."""

_EXIT_AT_SECOND_INT = 75


class SignalInbox:
    """Signals in the order in which they came, and a descriptor to wait on."""

    def __init__(self) -> None:
        self.fd, self._wakeup_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._received: list[int] = []
        self._first_int = 0.0

    def install(self) -> None:
        """Note `SIGNALS` from now on."""
        for signum in SIGNALS:
            ignored = signal.getsignal(signum) == signal.SIG_IGN
            if not (ignored and signum == signal.SIGHUP):  # nohup
                signal.signal(signum, self._note)
        signal.set_wakeup_fd(self._wakeup_fd, warn_on_full_buffer=False)

    def ignore(self) -> None:
        """The end: the interpreter's shutdown would reset handlers to death."""
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    @property
    def any_noted(self) -> bool:
        """Whether `take` would return any."""
        return bool(self._received)

    def take(self) -> list[int]:
        """The signals since the last call."""
        # First the descriptor: a signal that comes between the two wakes once more.
        self.clear_wakeup()
        received, self._received = self._received, []
        return received

    def clear_wakeup(self) -> None:
        """Make the descriptor unreadable until the next signal."""
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def _note(self, signum: int, _frame: object) -> None:
        if signum == signal.SIGINT:
            self._note_int()
        self._received.append(signum)

    def _note_int(self) -> None:
        now = time.monotonic()
        if not self._first_int:
            self._first_int = now
        elif now - self._first_int > SECOND_INT_SECONDS:
            # The claim makes the next start requeue everything, and the pool's
            # parent kills the commands.
            os._exit(_EXIT_AT_SECOND_INT)
