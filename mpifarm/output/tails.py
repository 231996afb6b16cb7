"""The ends of outputs, for those who want to see how tasks failed.

Rules of this file: it reads; an output that can't be read has no end.
"""

import os
from contextlib import suppress
from typing import Final

from mpifarm.errors import StorageError
from mpifarm.output.reader import Output, find_outputs, find_sources
from mpifarm.system.regular_files import open_regular

MAX_TAIL: Final = 8192
"""Bytes at the end of an output that are read."""


def read_tail(logs: str, taskid: int, most: int = MAX_TAIL) -> bytes:
    """Return the last bytes of what a task's last attempt has written.

    Return b"" if there is none, or if it can't be read.
    """
    with suppress(OSError, StorageError):
        sources = find_sources(logs, taskid)
        outputs = find_outputs(logs, taskid, split=False, sources=sources)
        if outputs:
            return _read_end(outputs[-1], most)
    return b""


def _read_end(output: Output, most: int) -> bytes:
    if output.length == 0:
        return b""
    descriptor = open_regular(output.path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size - output.offset
        length = size if output.length is None else min(size, output.length)
        begin = max(0, length - most)
        return os.pread(descriptor, max(0, length - begin), output.offset + begin)
    finally:
        os.close(descriptor)
