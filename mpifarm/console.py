"""Where a farm's words go: a terminal with one live line, or a plain log.

Rules of this file: nothing here raises, and nothing but `Console.close` waits.  What a
stream doesn't take at once is kept and tried again with the next words; a reader that
is slow or gone costs lines, never the farm.
"""

import os
import select
import stat
import time

LIVE_SECONDS = 0.5
"""Between two states of the live line on a terminal."""

LOG_SECONDS = 30.0
"""Between two progress lines in a log."""

FIRST_LOG_SECONDS = 5.0
"""Until the first of them."""

PATIENCE_SECONDS = 1.0
"""How long the end of a farm waits for a slow reader."""

MOST_KEPT = 1 << 20
"""Bytes kept for a slow reader."""

PIPE_BUF = 4096
"""What a pipe that is ready takes without blocking (POSIX has it at 512 or more)."""


class Stream:
    """A descriptor that is written to without ever blocking."""

    def __init__(self, fd: int) -> None:
        self._fd = _reopen_without_blocking(fd)
        self._kept = b""
        self._broken = False

    def write(self, text: str) -> None:
        """Write what the reader takes at once, and keep the rest."""
        if not self._broken and len(self._kept) < MOST_KEPT:
            self._kept += text.encode("utf-8", "backslashreplace")
        self.flush(0.0)

    def flush(self, patience: float) -> None:
        """Write what the reader takes, waiting for it at most `patience` seconds."""
        until = time.monotonic() + patience
        try:
            while (
                self._kept and select.select([], [self._fd], [], max(0.0, patience))[1]
            ):
                self._kept = self._kept[os.write(self._fd, self._kept[:PIPE_BUF]) :]
                patience = until - time.monotonic()
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._broken = True
            self._kept = b""


def _reopen_without_blocking(fd: int) -> int:
    """A descriptor of our own for the pipe or terminal `fd`, or `fd` itself.

    A terminal that says that it is ready may take less than is written and block; to
    make `fd` itself non-blocking would make it so for whoever shares it.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return fd
    return fd


def _columns_of(fd: int) -> int:
    try:
        return os.get_terminal_size(fd).columns or 80
    except OSError:
        return 80


class Console:
    """Standard output and error of this process; silent unless it `speaks`.

    `is_terminal` False: no live line, whatever `out` is.
    """

    def __init__(
        self, *, speaks: bool, is_terminal: bool = True, out: int = 1, err: int = 2
    ) -> None:
        self._speaks = speaks
        self._out = Stream(out)
        self._err = Stream(err)
        self._is_terminal = speaks and is_terminal and os.isatty(out)
        self._columns = _columns_of(out) if self._is_terminal else 0
        first = 0.0 if self._is_terminal else FIRST_LOG_SECONDS
        self._show_at = time.monotonic() + first
        self._live = False

    def speak_up(self) -> None:
        """Say things from now on: the rank that spoke is lost."""
        self._speaks = True

    def say(self, line: str) -> None:
        """A line that stays."""
        self.say_whole(f"{self._clear()}mpifarm: {line}\n")

    def say_whole(self, text: str) -> None:
        """A text of several lines, as it is."""
        if self._speaks:
            self._out.write(text)

    def show(self, line: str) -> None:
        """The state of things: live on a terminal, now and then in a log."""
        now = time.monotonic()
        if now < self._show_at:
            return
        self._show_at = now + (LIVE_SECONDS if self._is_terminal else LOG_SECONDS)
        if self._is_terminal:
            # A line that wraps can't be taken back.
            self.say_whole(f"\r\x1b[K{line[: self._columns - 1]}")
            self._live = True
        else:
            self.say(line)

    def complain(self, line: str) -> None:
        """A line about a mistake or a defect, on standard error, whichever rank."""
        if clear := self._clear():
            self._out.write(clear)
        self._err.write(f"mpifarm: {line}\n")

    def close(self) -> None:
        """Give a slow reader its last chance."""
        self._out.flush(PATIENCE_SECONDS)
        self._err.flush(PATIENCE_SECONDS)

    def _clear(self) -> str:
        """What removes the live line."""
        live, self._live = self._live, False
        return "\r\x1b[K" if live else ""
