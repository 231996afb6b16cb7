"""The end of the output of an attempt that has just ended.

Rules of this file: it reads a bounded number of bytes, whatever farms keep, and raises
nothing.
"""

from mpifarm.model.paths import PACKED, log_path
from mpifarm.output.records import RankFiles, Record, parse_records
from mpifarm.system.regular_files import read_end

INDEX_BYTES = 1 << 16
"""Bytes at the end of an index in which the record of a fresh attempt stands."""


def read_fresh_end(
    logs: str, farm: str, rank: int, attempt: tuple[int, int], most: int
) -> bytes:
    """Return the last bytes, `most` at most, that an attempt of this farm has printed.

    `attempt` is (taskid, attempt).  b"" if there are none, or they can't be read.
    """
    try:
        end = _read_end(log_path(logs, attempt[0]), 0, None, most)
        if end is not None:
            return end
        its_files = RankFiles(f"{logs}/{PACKED}", farm, rank)
        record = _find_record(its_files, attempt)
        if record is None:
            return b""
        place = its_files.place_of(record)
        return _read_end(place, record.offset, record.length, most) or b""
    except OSError:
        return b""


def _find_record(its_files: RankFiles, attempt: tuple[int, int]) -> Record | None:
    index = _read_end(its_files.index, 0, None, INDEX_BYTES) or b""
    # A record is one line, and the newest one counts.
    begin = index.rfind(b"@%d %d " % attempt)
    if begin < 0:
        return None
    line = index[begin : index.find(b"\n", begin) + 1]
    return next(parse_records(line, attempt[0]), None)


def _read_end(path: str, offset: int, length: int | None, most: int) -> bytes | None:
    """Return the last bytes of a part of a file; None if there is no such file."""
    try:
        return read_end(path, most, offset, length)
    except FileNotFoundError:
        return None
