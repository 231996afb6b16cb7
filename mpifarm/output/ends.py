"""The ends of the outputs of many tasks, each of the task's last attempt.

Rules of this file: it reads, and changes nothing; farms may run meanwhile.  Indexes are
read once for all tasks, and of each output its end alone.
"""

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from mpifarm.model.paths import log_path
from mpifarm.output.reader import Source, find_sources
from mpifarm.output.records import find_again_lines
from mpifarm.system import files
from mpifarm.system.patience import is_of_the_disk
from mpifarm.system.regular_files import open_regular, read_end


class _LogEnd(NamedTuple):
    """The end of a ``log_<id>``, and when its last attempt began, as far as is known.

    `started` is in seconds since the epoch; where the end does not say it, it is the
    time of the file's last change.
    """

    content: bytes
    started: float


def read_ends(
    logs: str, taskids: Collection[int], most: int
) -> Iterator[tuple[int, bytes]]:
    """Yield each task with the last bytes, `most` at most, of its last attempt.

    They are b"" where there is no output, or none that can be read.  What stands in a
    ``log_<id>`` may begin with the attempt before; mpifarm's own line is between the
    two.  Raises `StorageError` if the disk fails.
    """
    last = dict[int, Source]()
    for source in find_sources(logs, {*taskids}):
        taskid, started = source.record.taskid, source.record.started
        if taskid not in last or started >= last[taskid].record.started:
            last[taskid] = source
    for taskid in taskids:
        log = _find_log_end(log_path(logs, taskid), most)
        kept = last.get(taskid)
        if kept is not None and (log is None or kept.record.started > log.started):
            yield taskid, _read_kept(kept, most)
        else:
            yield taskid, log.content if log else b""


def _find_log_end(path: str, most: int) -> _LogEnd | None:
    """Return the end of a log, None if it is not there or cannot be read."""
    try:
        descriptor = open_regular(path, os.O_RDONLY)
        try:
            status = os.fstat(descriptor)
            content = os.pread(descriptor, most, max(0, status.st_size - most))
        finally:
            os.close(descriptor)
    except OSError as error:
        _raise_of_disk(path, error)
        return None
    started = status.st_mtime
    if b"=== mpifarm: " in content:
        for line in find_again_lines(content):
            started = line.started
    return _LogEnd(content, started)


def _read_kept(source: Source, most: int) -> bytes:
    """Return the end of an output in a pack or in a worker's own file."""
    path, record = source.files.place_of(source.record), source.record
    try:
        return read_end(path, most, record.offset, record.length)
    except OSError as error:
        _raise_of_disk(path, error)
        return b""


def _raise_of_disk(path: str, error: OSError) -> None:
    """Raise `StorageError` if the disk has failed."""
    if is_of_the_disk(error):
        raise files.storage_error("read", path, error) from error
