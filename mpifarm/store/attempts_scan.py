"""Cheap questions to a long ``attempts.tsv``: a million lines in half a second.

Rules of this file: it reads, without the lock.  `store.attempts` has the formats.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.attempts import (
    BYTES_AT_ONCE,
    COMPLETED,
    LastAttempts,
    LastReader,
    blocks_of,
)
from mpifarm.store.status_lines import cut_behind_lines
from mpifarm.system import file_contents, files

_COMPLETED: Final = re.compile(rb"\n(\d+)\t\d+\t(?:" + COMPLETED + rb"|0)\t")
"""A completed attempt: its outcome in format 2, its status in format 1."""


def find_without_attempt(
    paths: WorkdirPaths, finished: Iterable[int], *, wait: Callable[[], object] | None
) -> set[int]:
    """Return the finished tasks that have no completed attempt in the files.

    Other farmers have run them.  `wait` lets farms write the attempts of tasks that
    they have just called finished; then what has come since is read.  Raises
    `StorageError`.
    """
    missing, whole = set(finished), 0
    for lines in _read_blocks(paths.first_attempts):
        missing.difference_update(map(int, _COMPLETED.findall(lines)))
    for lines in _read_blocks(paths.attempts):
        missing.difference_update(map(int, _COMPLETED.findall(lines)))
        if lines.endswith(b"\n"):
            whole += len(lines) - 1
    if missing and wait is not None:
        wait()
        rest = files.find_rest(paths.attempts, whole)
        missing.difference_update(map(int, _COMPLETED.findall(b"\n" + rest)))
    return missing


def count_completed_lines(paths: WorkdirPaths) -> int:
    """Return the number of lines of completed attempts; raises `StorageError`.

    A task that completed twice counts twice, and lines of format 1 that are still in
    ``attempts.tsv`` do not count.
    """
    first = _read_blocks(paths.first_attempts)
    outcome = b"\t" + COMPLETED + b"\t"
    count = sum(len(_COMPLETED.findall(lines)) for lines in first)
    return count + sum(lines.count(outcome) for lines in _read_blocks(paths.attempts))


def _read_blocks(path: str) -> Iterator[bytes]:
    """Yield the whole lines of a file, each with a newline before it."""
    for lines in cut_behind_lines(blocks_of(path)):
        yield b"\n" + lines


def find_last_attempts(paths: WorkdirPaths, wanted: Iterable[int]) -> LastAttempts:
    """Read the last attempts of a few tasks, from the end of the files on.

    It reads no further back than needed: what ended lately is found at once.  Raises
    `StorageError`.
    """
    missing, last = {*wanted}, dict[int, bytes]()
    for path in (paths.attempts, paths.first_attempts):
        for lines in _read_backwards(path):
            if not missing:
                break
            reader = LastReader(missing)
            reader.feed(lines)
            last.update(reader.last)
            missing.difference_update(reader.last)
    return LastAttempts(last)


def _read_backwards(path: str) -> Iterator[bytes]:
    """Yield the whole lines of a file in blocks, the last block first."""
    with file_contents.content_of(path) as (_, content):
        rest, end = b"", len(content or b"")
        while content and end:
            begin = max(0, end - BYTES_AT_ONCE)
            block = content[begin:end] + rest
            cut = block.find(b"\n") + 1 if begin else 0
            rest, end = block[:cut], begin
            yield block[cut:]
