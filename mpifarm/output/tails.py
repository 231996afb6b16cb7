"""The ends of outputs, for those who want to see how tasks failed.

Rules of this file: it reads; an output that can't be read has no end.
"""

from contextlib import suppress
from typing import Final

from mpifarm.errors import StorageError
from mpifarm.output.reader import find_outputs, find_sources
from mpifarm.system.regular_files import read_end

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
            last = outputs[-1]
            return read_end(last.path, most, last.offset, last.length)
    return b""
