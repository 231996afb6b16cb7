"""Much output that two processes make at once, each one half.

Rules of this file: what comes out is the same with one process, in the same order.
"""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, Final

from mpifarm.system import processes

TASKS_AT_ONCE: Final = 250_000
"""Tasks of two halves: the output of one of these is held in memory."""

_MIN_TASKS: Final = 50_000
"""Tasks below which a second process gains nothing: to make it takes some 10 ms."""

_BYTES_AT_ONCE: Final = 1 << 20


def make_in_halves(
    make: Callable[[Sequence[int]], Iterator[bytes]], taskids: Sequence[int]
) -> Iterator[bytes]:
    """Yield what `make` yields for these tasks, in other pieces.

    `make` must yield the same for tasks in two parts, and only read.
    """
    is_alone = len(os.sched_getaffinity(0)) < 2
    for begin in range(0, len(taskids), TASKS_AT_ONCE):
        part = taskids[begin : begin + TASKS_AT_ONCE]
        if is_alone or len(part) < _MIN_TASKS:
            yield from make(part)
        else:
            yield from _make_both(make, part)


def _make_both(
    make: Callable[[Sequence[int]], Iterator[bytes]], taskids: Sequence[int]
) -> Iterator[bytes]:
    half = len(taskids) // 2
    first, second = taskids[:half], taskids[half:]
    with _create_file() as file:
        try:
            pid = processes.fork_child(lambda: _write(make(second), file))
        except OSError:  # no memory, or no more processes for this user
            yield from make(taskids)
            return
        is_reaped = False
        try:
            yield from make(first)
            status = processes.reap_child(pid)
            is_reaped = True
            yield from make(second) if status != 0 else _read(file)
        finally:
            if not is_reaped:
                processes.kill_process(pid, signal.SIGKILL)
                processes.reap_child(pid)


def _create_file() -> BinaryIO:
    """Return a file for one half, in memory where this Python knows of such files."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return os.fdopen(os.memfd_create("mpifarm"), "w+b")
    return tempfile.TemporaryFile()


def _write(pieces: Iterator[bytes], file: BinaryIO) -> None:
    file.writelines(pieces)
    file.flush()


def _read(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(_BYTES_AT_ONCE):
        yield block
