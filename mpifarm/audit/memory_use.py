"""How full a host's memory was when a task failed there, as far as files tell.

Rules of this file: it reads, without the lock.
"""

import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from mpifarm.audit.failures import find_attempt
from mpifarm.causes.failure import Group
from mpifarm.causes.known import GPU, OUT_OF_MEMORY
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import LastAttempts, blocks_of, parse_time
from mpifarm.store.status_lines import cut_behind_lines
from mpifarm.system.time_of_day import encode_time


class MemoryUse(NamedTuple):
    """The memory of a host when an attempt ended there.

    `tasks` ran there then, this one too, as far as they have ended and stand near this
    attempt in ``attempts.tsv``; `peaks` is the sum of their peak memories in bytes.
    `total` is the host's memory, None unless it is this host.
    """

    taskid: int
    host: str
    tasks: int
    peaks: int
    total: int | None


def is_of_memory(group: Group) -> bool:
    """Return whether the memory of the host may be the cause."""
    words = group.cause.lower()
    return OUT_OF_MEMORY.tells(words) and not any(word in words for word in GPU)


def find_memory_use(
    paths: WorkdirPaths, taskid: int, attempts: LastAttempts
) -> MemoryUse | None:
    """Return the use of the host's memory when a task failed, None if unknown.

    Raises `StorageError`.
    """
    attempt = find_attempt(attempts, taskid)
    if attempt is None or not attempt.host or attempt.worker is None:
        return None
    ended = attempt.started + attempt.seconds
    peaks = [*_find_peaks(paths, attempts.lines[taskid], attempt.host, ended)]
    if not any(peaks):
        return None
    total = find_memory() if attempt.host == os.uname().nodename else None
    return MemoryUse(taskid, attempt.host, len(peaks), sum(peaks), total)


def _find_peaks(
    paths: WorkdirPaths, line: bytes, host: str, moment: float
) -> Iterator[int]:
    """Yield the peak memories of attempts that ran on a host at a moment."""
    pattern = re.compile(_ROW % re.escape(host.encode("utf-8", "surrogateescape")))
    latest = encode_time(moment).encode()
    for lines in _read_near(paths, line):
        for started, seconds, peak in pattern.findall(lines):
            # ISO 8601 in UTC: the texts stand in the order of the times.
            if started <= latest and _find_end(started, seconds) >= moment - MS:
                yield int(peak or 0)


def _find_end(started: bytes, seconds: bytes) -> float:
    """Return seconds since the epoch, 0 for a time that there is not."""
    with suppress(ValueError):
        return parse_time(started) + float(seconds)
    return 0.0


MS: Final = 0.001
"""The files have times to a ms."""

_ROW: Final = (
    rb"(?m)^[0-9]+\t[0-9]+\t[a-z ]+\t[0-9]+\t[0-9]+\t%b\t[0-9]+\t[0-9]*\t[0-9]+"
    rb"\t([0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z)\t([0-9]+(?:\.[0-9]+)?)\t[0-9.]*\t[0-9.]*"
    rb"\t([0-9]*)\t"
)
"""A line of format 2: its start, its seconds, its peak memory."""


def find_memory() -> int | None:
    """Return the bytes of this host's memory, None if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


NEAR_BLOCKS: Final = 4
"""MiB before and behind a line that are near it: some 25 000 attempts."""


def _read_near(paths: WorkdirPaths, line: bytes) -> Iterator[bytes]:
    """Yield blocks of whole lines of ``attempts.tsv`` before and behind a line.

    Nothing is yielded if the line is not there.  Raises `StorageError`.
    """
    before = deque[bytes](maxlen=NEAR_BLOCKS)
    left = 0
    for lines in cut_behind_lines(blocks_of(paths.attempts)):
        if left:
            yield lines
            left -= 1
            if not left:
                return
        elif line in lines:
            yield from before
            yield lines
            left = NEAR_BLOCKS
        else:
            before.append(lines)
