"""Output of a farm to a terminal with one live line, or to a plain log.

Rules of this file: nothing here raises, and only `Console.close` waits.  Text that a
stream does not take at once is kept, and written with the next text.  A reader that is
slow or gone costs lines, never the farm.  Texts may hold names of tasks and files that
strangers have chosen: each text passes `printable`, so that no control character but
our own reaches the terminal.
"""

import os
import select
import stat
import time

LIVE_SECONDS = 0.5
"""Seconds between two updates of the live line on a terminal."""

LOG_SECONDS = 30.0
"""Seconds between two progress lines in a log."""

FIRST_LOG_SECONDS = 5.0
"""Seconds until the first progress line in a log."""

PATIENCE_SECONDS = 1.0
"""Seconds for which the end of a farm waits for a slow reader."""

MAX_KEPT = 1 << 20
"""Bytes kept for a slow reader."""

PIPE_BUF = 4096
"""Bytes that a ready pipe takes without blocking: Linux's pipe(7).  POSIX guarantees
only 512 (`_POSIX_PIPE_BUF`)."""


def printable(text: str, keep: str = "") -> str:
    r"""Return `text` with unprintable characters, but `keep`, escaped (``\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in keep
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


_LINES = "\n\t"
"""Unprintable characters that stay in texts of several lines."""


class Stream:
    """A descriptor that is written to without blocking.

    After the first error it is broken: all later text is dropped.
    """

    def __init__(self, fd: int) -> None:
        self._fd = _reopen_without_blocking(fd)
        self._kept = b""
        self._broken = False

    def write(self, text: str) -> None:
        """Write as much as the reader takes at once, and keep the rest.

        Text beyond `MAX_KEPT` kept bytes is dropped.
        """
        if not self._broken and len(self._kept) < MAX_KEPT:
            self._kept += text.encode("utf-8", "backslashreplace")
        self.flush(0.0)

    def flush(self, patience: float) -> None:
        """Write kept text, waiting up to `patience` seconds for the reader."""
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
    """Return a non-blocking descriptor of the pipe or terminal `fd`, or `fd` itself."""
    # A terminal that is ready may take less than is written, and then block.  To make
    # `fd` itself non-blocking would change it for each process that shares it.
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return fd
    return fd


def _columns_of(fd: int) -> int:
    """Return the width of a terminal; 80 if it is unknown."""
    try:
        return os.get_terminal_size(fd).columns or 80
    except OSError:
        return 80


class Console:
    """The standard output and error of this process; only errors unless it `prints`.

    With `is_terminal` False there is no live line, even if `out` is a terminal.
    """

    def __init__(
        self, *, prints: bool, is_terminal: bool = True, out: int = 1, err: int = 2
    ) -> None:
        self._prints = prints
        self._out = Stream(out)
        self._err = Stream(err)
        self._is_terminal = prints and is_terminal and os.isatty(out)
        self._columns = _columns_of(out) if self._is_terminal else 0
        first = 0.0 if self._is_terminal else FIRST_LOG_SECONDS
        self._show_at = time.monotonic() + first
        self._live = False

    def unmute(self) -> None:
        """Print from now on: the rank that has printed so far is lost."""
        self._prints = True

    def print_line(self, line: str) -> None:
        """Remove the live line, and print a line that stays, after "mpifarm: "."""
        self._write(f"{self._clear()}mpifarm: {printable(line)}\n")

    def print_text(self, text: str) -> None:
        """Print a text of several lines, without a prefix."""
        self._write(printable(text, _LINES))

    def _write(self, text: str) -> None:
        if self._prints:
            self._out.write(text)

    def show_progress(self, line: str) -> None:
        """Print the state of the farm, if it is time: a live line, or a line in a log.

        Every `LIVE_SECONDS` on a terminal, every `LOG_SECONDS` in a log.
        """
        now = time.monotonic()
        if now < self._show_at:
            return
        self._show_at = now + (LIVE_SECONDS if self._is_terminal else LOG_SECONDS)
        if self._is_terminal:
            # Of a line that wraps, only the last part could be overwritten.
            self._write(f"\r\x1b[K{printable(line)[: self._columns - 1]}")
            self._live = True
        else:
            self.print_line(line)

    def print_error(self, line: str) -> None:
        """Print a mistake or a defect to standard error, on any rank.

        The live line is removed.  A defect has several lines, with a traceback.
        """
        if clear := self._clear():
            self._out.write(clear)
        self._err.write(f"mpifarm: {printable(line, _LINES)}\n")

    def close(self) -> None:
        """Write kept text, waiting up to `PATIENCE_SECONDS` for each slow reader."""
        self._out.flush(PATIENCE_SECONDS)
        self._err.flush(PATIENCE_SECONDS)

    def _clear(self) -> str:
        """Forget the live line; return the sequence that removes it, "" without one."""
        live, self._live = self._live, False
        return "\r\x1b[K" if live else ""
