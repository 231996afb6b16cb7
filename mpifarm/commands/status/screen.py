"""Standard output for states that follow one another.

Rules of this file: a terminal shows the last state in place of the one before; a log
gets one behind the other.  Nothing is to be undone when the process is killed.
"""

import os
import time
from collections.abc import Sequence
from typing import Final

from mpifarm.commands.sink import Sink
from mpifarm.commands.table import find_width

_HOME: Final = "\x1b[H\x1b[J"
"""Clears the screen, and begins at its top."""


class Screen:
    """The output of one command; `is_live`: states follow one another."""

    def __init__(self, sink: Sink, *, is_live: bool) -> None:
        self._sink = sink
        self._is_live = is_live
        self._is_first = True

    @property
    def width(self) -> int | None:
        """The columns of the terminal now, None where there is none."""
        return find_width()

    def show(self, lines: Sequence[str], now: float, *, is_last: bool) -> None:
        """Print a state; raises BrokenPipeError if nobody reads any more."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        if not self._is_live:
            text = "\n".join(lines)
        elif self.width is None:
            before = "" if self._is_first else "\n"
            text = "\n".join([f"{before}== {stamp} ==", *lines])
        else:
            body = lines if is_last else _cut_to_rows(lines, _find_rows() - 2)
            text = _HOME + "\n".join([f"{stamp}  (Ctrl-C ends this)", *body])
        self._is_first = False
        self._sink.write(f"{text}\n".encode("utf-8", "backslashreplace"))


def _find_rows() -> int:
    try:
        return os.get_terminal_size(1).lines or 24
    except OSError:
        return 24


def _cut_to_rows(lines: Sequence[str], rows: int) -> Sequence[str]:
    if len(lines) <= rows:
        return lines
    return [*lines[: max(1, rows - 1)], f"… {len(lines) - rows + 1} lines more"]
