"""Output of a farm to a terminal with one live line, or to a plain log.

Rules of this file: nothing here raises, and only `Console.close` waits.  Text that a
stream does not take at once is kept, and written with the next text.  A reader that is
slow or gone costs lines, never the farm.  Texts may hold names of tasks and files that
strangers have chosen: each text passes `printable`, so that no control character but
our own reaches the terminal, and none at all a log.
"""

import os
import select
import stat
import time
from time import localtime, strftime

from mpifarm.system.destination import Destination, Place, find_destination

LIVE_SECONDS = 0.5
"""Seconds between two updates of the live line on a terminal."""

LOG_SECONDS = 30.0
"""Seconds between two progress lines in a log."""

LINE_SECONDS = 9.0
"""Seconds between two progress lines on a terminal, or where that is unknown.

A farm shows its state once a second, so that there are never more than 10 s between two
lines."""

LATER_SECONDS = 59.0
"""The same after `EARLY_SECONDS` where the place is unknown: it may be a log."""

EARLY_SECONDS = 600.0
"""Seconds for which an output of unknown place is taken for a terminal."""

FIRST_LOG_SECONDS = 5.0
"""Seconds until the first progress line where there is no live line."""

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

    @property
    def is_behind(self) -> bool:
        """Whether the reader has not taken all text; it is offered once more."""
        self.flush(0.0)
        return bool(self._kept)

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


def _fit(line: str, width: int) -> str:
    """Return the first parts of a line, separated by commas, that fit into `width`."""
    if len(line) <= width:
        return line
    end = line.rfind(", ", 0, width + 2)
    return line[: end if end > 0 else max(0, width)]


class Console:
    """The standard output and error of this process; only errors unless it `prints`.

    `place` is where `out` ends, by default as `find_destination` says.
    """

    def __init__(
        self,
        *,
        prints: bool,
        place: Destination | None = None,
        out: int = 1,
        err: int = 2,
    ) -> None:
        self._prints = prints
        self._out = Stream(out)
        self._err = Stream(err)
        self._destination = place or find_destination(out)
        self._progress = "auto"
        self._has_times = False
        self._errors_have_times = False
        self._begun = time.monotonic()
        self._show_at = self._begun + self._first_seconds()
        self._live = False

    def begin_farm(self, progress: str, errors: Destination) -> None:
        """Show the state as `progress` says from now on, and the time in a log.

        `progress`: "auto", "bar", "lines" or "off".  `errors` is where standard error
        ends.
        """
        self._progress = progress
        self._has_times = not self._destination.path
        self._errors_have_times = not errors.path
        self._show_at = self._begun + self._first_seconds()

    def unmute(self) -> None:
        """Print from now on: the rank that has printed so far is lost."""
        self._prints = True

    def print_line(self, line: str) -> None:
        """Remove the live line, and print a line that stays, after "mpifarm: ".

        In a log, a farm's line begins with the time of day.
        """
        when = f"{_describe_now()} " if self._has_times else ""
        self._write(f"{self._clear()}{when}mpifarm: {printable(line)}\n")

    def print_text(self, text: str) -> None:
        """Print a text of several lines, without a prefix."""
        self._write(printable(text, _LINES))

    def _write(self, text: str) -> None:
        if self._prints:
            self._out.write(text)

    def show_progress(self, line: str) -> None:
        """Print the state of the farm, if it is time: a live line, or one that stays.

        A live line is drawn again every `LIVE_SECONDS`.  Lines that stay come every
        `LOG_SECONDS` in a log, every `LINE_SECONDS` on a terminal.
        """
        now = time.monotonic()
        if now < self._show_at or self._progress == "off" or not self._prints:
            return
        self._show_at = now + self._pause(now)
        if self._has_bar:
            if not self._out.is_behind:
                self._draw(printable(line))
        else:
            self.print_line(line)

    def _draw(self, line: str) -> None:
        """Draw the live line, as wide as the terminal is now."""
        # Of a line that wraps, only the last part could be overwritten.
        fitting = _fit(line, self._destination.count_columns() - 1)
        self._out.write(f"\r\x1b[K{fitting}{self._stay()}")
        self._live = True

    def _stay(self) -> str:
        """Return what lets a launcher forward text, and the cursor stay on its line."""
        # Launchers may forward whole lines alone, so the line ends; the cursor goes up
        # before, and the newline takes it down again.
        return "" if self._destination.place is Place.TERMINAL else "\x1b[A\n"

    @property
    def _has_bar(self) -> bool:
        if self._progress == "auto":
            return bool(self._destination.path)
        return self._progress == "bar" and self._destination.place is not Place.LOG

    def _first_seconds(self) -> float:
        return 0.0 if self._has_bar else FIRST_LOG_SECONDS

    def _pause(self, now: float) -> float:
        """Return the seconds from one state to the next."""
        if self._has_bar:
            return LIVE_SECONDS
        if self._destination.place is Place.LOG:
            return LOG_SECONDS
        if self._destination.path or now - self._begun < EARLY_SECONDS:
            return LINE_SECONDS
        return LATER_SECONDS

    def print_error(self, line: str, *, has_time: bool = True) -> None:
        """Print a mistake or a defect to standard error, on any rank.

        The live line is removed.  A defect has several lines, with a traceback.  With
        `has_time`, a farm's line in a log begins with the time of day.
        """
        if clear := self._clear():
            self._out.write(f"{clear}{self._stay()}")
        has_time = has_time and self._errors_have_times
        when = f"{_describe_now()} " if has_time else ""
        self._err.write(f"{when}mpifarm: {printable(line, _LINES)}\n")

    def close(self) -> None:
        """Write kept text, waiting up to `PATIENCE_SECONDS` for each slow reader."""
        self._out.flush(PATIENCE_SECONDS)
        self._err.flush(PATIENCE_SECONDS)

    def _clear(self) -> str:
        """Forget the live line; return the sequence that removes it, "" without one."""
        live, self._live = self._live, False
        return "\r\x1b[K" if live else ""


def _describe_now() -> str:
    """Return the local time with its zone: ``2026-11-30 10:41:07+01:00`` (ISO 8601)."""
    now = localtime()
    zone = strftime("%z", now)
    return f"{strftime('%Y-%m-%d %H:%M:%S', now)}{zone[:3]}:{zone[3:]}"
