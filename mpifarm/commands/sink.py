"""Standard output for commands that print much, and whose reader may be slow.

Rules of this file: nothing is dropped.  (`system.console` drops lines rather than let a
farm wait.)
"""

import os
import select
from collections.abc import Iterable, Iterator
from contextlib import suppress

from mpifarm.errors import InputError


class Sink:
    """Standard output, for bytes."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self.ends_line = True
        """Whether what was written ends with a line's end."""

    def write(self, content: bytes) -> None:
        """Write all bytes, however long the reader takes.

        Raises BrokenPipeError if nobody reads any more, InputError for another error.
        """
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._write_some(rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"can't write the output: {error.strerror}") from error
        if content:
            self.ends_line = content.endswith(b"\n")

    def write_line(self, line: bytes) -> None:
        """Write a line, after a newline if the last output has no newline."""
        self.write(line if self.ends_line else b"\n" + line)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`; raises BrokenPipeError as soon as nobody reads."""
        poll = select.poll()
        poll.register(self._descriptor, 0)
        if poll.poll(seconds * 1000):
            raise BrokenPipeError

    def _write_some(self, content: memoryview) -> int:
        try:
            return os.write(self._descriptor, content)
        except BlockingIOError:  # another program has made the terminal or pipe so
            select.select((), (self._descriptor,), ())
            return 0


def write_all(pieces: Iterable[bytes]) -> None:
    """Write all pieces to standard output, until its reader has closed it.

    Raises `InputError`.
    """
    sink = Sink()
    with suppress(BrokenPipeError):
        for block in _joined(pieces):
            sink.write(block)


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in larger pieces: each is written by one system call."""
    kept, size = list[bytes](), 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size >= _BYTES_AT_ONCE:
            yield b"".join(kept)
            kept, size = [], 0
    yield b"".join(kept)


_BYTES_AT_ONCE = 1 << 16
