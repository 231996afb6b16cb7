"""Pipes that are read while signals are heard.

Rules of this file: Python goes on with a read after a signal, so no read here waits for
long: while nothing comes, a check is called, which may raise.
"""

import io
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

PART: Final = 1 << 16
"""Bytes that are read at once: what a pipe of Linux holds."""

CHECK_SECONDS: Final = 0.1
"""Seconds between two calls of the check."""


def _check_nothing() -> None:
    """Let the reader wait."""


_CHECK: ContextVar[Callable[[], None]] = ContextVar("check", default=_check_nothing)


@contextmanager
def checking(check: Callable[[], None]) -> Iterator[None]:
    """Have each `CheckingReader` of a block call `check` while nothing comes."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def read_to_end(descriptor: int, check: Callable[[], None]) -> bytes:
    """Return all that can be read; `check` is called while nothing comes.

    Raises OSError, and what `check` raises.
    """
    content = bytearray()
    while True:
        _wait(descriptor, check)
        try:
            part = os.read(descriptor, PART)
        except BlockingIOError:  # another reader of the pipe was faster
            continue
        if not part:
            return bytes(content)
        content += part


class CheckingReader(io.RawIOBase):
    """A pipe, opened by its name; reads raise what the check of the block raises.

    The constructor raises OSError.
    """

    def __init__(self, path: str) -> None:
        self._file = io.FileIO(path)

    def readable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._file.fileno()

    def readinto(self, buffer: Any, /) -> int | None:
        """Wait for some bytes, and read them."""
        _wait(self.fileno(), _CHECK.get())
        return self._file.readinto(buffer)

    def close(self) -> None:
        """Close the pipe; a second call does nothing."""
        self._file.close()
        super().close()


def _wait(descriptor: int, check: Callable[[], None]) -> None:
    """Wait until something can be read, or the end has come."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(1000 * CHECK_SECONDS):
        check()
