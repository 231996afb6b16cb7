"""A terminal that records when it was written to, and what its screen shows.

Rules of this file: standard library only.  The screen knows the sequences that mpifarm
writes, and no others.
"""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

from tests.support import Launch

ROWS = 24

_PIECES = re.compile(r"\r|\n|\x1b\[K|\x1b\[A|[^\x00-\x1f\x7f]")

WITH_STDOUT_ON = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
os.dup2(terminal, 1)
os.dup2(terminal, 2)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Runs a command on the terminal that the first argument names."""

STATE = re.compile(r"\d+/\d+ done, ")


class Program(Protocol):
    """What is recorded until it ends."""

    def has_ended(self) -> bool: ...

    def wait(self) -> int: ...


class Recorder:
    """A pseudo-terminal, and all that was written to it."""

    def __init__(self, columns: int = 80) -> None:
        self._master, self._slave = pty.openpty()
        self.name = os.ttyname(self._slave)
        self.columns = columns
        self.resize(columns)
        self._begun = time.monotonic()
        self._pieces: list[tuple[float, bytes]] = []

    def resize(self, columns: int) -> None:
        """Change the width, as a user does who pulls at the window."""
        size = struct.pack("HHHH", ROWS, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def put_before(self, launch: Launch) -> Launch:
        """Return a command line of which all output goes to this terminal."""
        before = (sys.executable, "-c", WITH_STDOUT_ON, self.name)
        return Launch([*before, *launch.argv], launch.env)

    def record(
        self, child: Program, meanwhile: Callable[[], None] | None = None
    ) -> int:
        """Record until `child` ends, calling `meanwhile`; return the exit status."""
        while not child.has_ended():
            self._read(0.05)
            if meanwhile is not None:
                meanwhile()
        self._read(0.1)
        return child.wait()

    def record_states(
        self, child: Program, states: int, then: Callable[[], None]
    ) -> int:
        """Record a farm, and call `then` from so many states on, as `record`."""

        def look() -> None:
            if len(STATE.findall(self.text)) >= states:
                then()

        return self.record(child, look)

    def _read(self, seconds: float) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            piece = os.read(self._master, 1 << 16)
            self._pieces.append((time.monotonic() - self._begun, piece))
            seconds = 0.0

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)

    @property
    def text(self) -> str:
        """All that was written."""
        return b"".join(piece for _, piece in self._pieces).decode()

    @property
    def pieces(self) -> list[tuple[float, str]]:
        """What was written, and how many seconds after the terminal was opened."""
        return [(moment, piece.decode()) for moment, piece in self._pieces]

    def longest_gap(self) -> float:
        """Return the longest time between two states, in seconds."""
        moments = [
            moment for moment, piece in self._pieces if STATE.search(piece.decode())
        ]
        assert len(moments) > 1, self.text
        return max(later - before for before, later in pairwise(moments))

    def screen(self) -> list[str]:
        """Return the lines that the screen shows, and those that have left it."""
        lines, row, column = [""], 0, 0
        text = self.text
        assert not _PIECES.sub("", text), text
        for piece in _PIECES.findall(text):
            match piece:
                case "\r":
                    column = 0
                case "\n":
                    row += 1
                    if row == len(lines):
                        lines.append("")
                case "\x1b[K":
                    lines[row] = lines[row][:column]
                case "\x1b[A":
                    row = max(0, row - 1)
                case _:
                    line = lines[row].ljust(column)
                    lines[row] = line[:column] + piece + line[column + 1 :]
                    column += 1
        return [line.rstrip() for line in lines]
