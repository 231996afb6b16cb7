"""Much output that two processes make at once, each one half.

Rules of this file: what comes out is the same with one process, in the same order.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from mpifarm.system import processes

TASKS_AT_ONCE: Final = 250_000
"""Tasks of two halves: their output takes some 60 MB of memory."""

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
    descriptor = os.memfd_create("mpifarm")
    try:
        pid = processes.fork_child(lambda: _write(make(second), descriptor))
    except OSError:  # no memory, or no more processes for this user
        os.close(descriptor)
        yield from make(taskids)
        return
    status: int | None = None
    try:
        yield from make(first)
        status = processes.reap_child(pid)
        yield from make(second) if status else _read(descriptor)
    finally:
        if status is None:
            processes.kill_process(pid, signal.SIGKILL)
            processes.reap_child(pid)
        os.close(descriptor)


def _write(pieces: Iterator[bytes], descriptor: int) -> None:
    with open(descriptor, "wb", _BYTES_AT_ONCE) as file:
        file.writelines(pieces)


def _read(descriptor: int) -> Iterator[bytes]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    while block := os.read(descriptor, _BYTES_AT_ONCE):
        yield block
