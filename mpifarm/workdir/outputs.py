"""What a task has written, wherever the farms have kept it (`mpifarm.logfiles`).

Rules of this file: it reads and changes nothing, while farms run or none does.  Who
looks at slots, indexes and ``log_<id>`` looks in this order, the one in which an output
moves: then it is seen at least once.  Among ours no link is followed and no fifo waited
for.
"""

import os
import stat
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mpifarm.logfiles import (
    DIRECTORIES,
    RankFiles,
    Record,
    encode_again,
    find_again_lines,
    find_rank_files,
    parse_records,
)
from mpifarm.workdir import files

MOST_READ = 1 << 20
_LONGEST_LINE = 4096
"""Bytes of a line of ours in a log, at most."""
_OURS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class Output(NamedTuple):
    """What one attempt has written, and where that is.

    `head` is the line of ours before it, unless it is the first.  `length` in bytes,
    None for all that the file has got.  `source` is None in a ``log_<id>``.
    """

    started: float
    attempt: int
    farm: str
    head: bytes
    path: str
    offset: int = 0
    length: int | None = None
    source: "Source | None" = None


class Source(NamedTuple):
    """The record that tells of an output.  `runs`: it is a slot's."""

    files: RankFiles
    record: Record
    runs: bool

    @property
    def key(self) -> tuple[object, ...]:
        """What is the same for slot and index."""
        return self.files.farm, self.files.rank, self.record.key


# ---- finding ------------------------------------------------------------------------


def find_outputs(
    logs: str, taskid: int, *, split: bool, sources: Iterable[Source] | None = None
) -> list[Output]:
    """The outputs of all attempts of a task, in the order of their starts.

    `split`: those in one ``log_<id>`` apart; else together, if there are no others.
    `sources`: what `find_sources` has just found of this task, where it was asked.
    """
    outputs = [
        _output_of(source)
        for source in (find_sources(logs, taskid) if sources is None else sources)
        if not has_moved(source)
    ]
    log = f"{logs}/log_{taskid}"
    if os.path.isfile(log):
        outputs += split_log(log) if split or outputs else [_whole_log(log)]
    return sorted(outputs, key=lambda output: output.started)


def has_moved(source: Source) -> bool:
    """Whether a slot names a scratch that was moved away since.

    What was in it is a ``log_<id>`` then, or in a pack.
    """
    return source.runs and not os.path.lexists(source.files.place_of(source.record))


def find_sources(logs: str, wanted: int | Container[int] | None = None) -> list[Source]:
    """What slots and indexes know, of one task, of some or of all; each attempt once.

    It reads all of them, whatever is wanted.
    """
    found: dict[tuple[object, ...], Source] = {}
    for directory in DIRECTORIES:
        for kind in ("running", "index"):
            for source in _read_sources(f"{logs}/{directory}", kind, wanted):
                found[source.key] = source
    return list(found.values())


def list_kept_ids(logs: str) -> set[int]:
    """The tasks whose output is in files that are not a task's own."""
    return {source.record.taskid for source in find_sources(logs)}


def find_record_files(logs: str) -> list[str]:
    """The names of all indexes and slots, below the directory of the logs."""
    found = []
    for directory in DIRECTORIES:
        try:
            names = sorted(os.listdir(f"{logs}/{directory}"))
        except OSError:
            continue
        found += [
            f"{directory}/{name}"
            for name in names
            if any(find_rank_files("", name, kind) for kind in ("running", "index"))
        ]
    return found


def _read_sources(
    directory: str, kind: str, wanted: int | Container[int] | None
) -> Iterator[Source]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in names:
        rank_files = find_rank_files(directory, name, kind)
        if rank_files is not None:
            content = read_own(f"{directory}/{name}")
            for record in parse_records(content, wanted):
                yield Source(rank_files, record, runs=kind == "running")


def read_own(path: str, offset: int = 0) -> bytes:
    """A file of ours from `offset` on; nothing where it can't be read."""
    try:
        with files.opened(path, _OURS) as descriptor:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return files.read_descriptor(descriptor, offset)
    except OSError:
        return b""
    return b""


def _output_of(source: Source) -> Output:
    record, its_files = source.record, source.files
    where = f"rank {its_files.rank}"
    text = encode_again(record.attempt, its_files.farm, record.started, where)
    return Output(
        *(record.started, record.attempt, its_files.farm, _own_line(text)),
        *(its_files.place_of(record), record.offset, record.length, source),
    )


def _own_line(text: str) -> bytes:
    return f"=== mpifarm: {text} ===\n".encode("utf-8", "surrogateescape")


def _whole_log(path: str) -> Output:
    return Output(os.stat(path).st_mtime, 0, "", _own_line("another attempt"), path)


def split_log(path: str) -> list[Output]:
    """The attempts in a ``log_<id>``.

    When the first one started nobody knows: before the second, and if it is alone,
    before the last change of the file.
    """
    first = _whole_log(path)
    attempts = [first]
    for output in _find_later_attempts(path):
        before = attempts.pop()
        if before is first:
            before = before._replace(started=output.started)
        begin = output.offset - len(output.head)
        attempts += [before._replace(length=begin - before.offset), output]
    return attempts


def _find_later_attempts(path: str) -> Iterator[Output]:
    """All but the first, each without its end."""
    done = 0
    for offset, piece in _overlapping_pieces(path):
        for line in find_again_lines(piece):
            begin, end = offset + line.begin, offset + line.end
            if begin < done or (line.begin == 0 and offset):
                continue  # it was seen in the piece before; or is the end of a line
            done = end
            head = piece[line.begin : line.end]
            yield Output(line.started, line.attempt, line.farm, head, path, end)


def _overlapping_pieces(path: str) -> Iterator[tuple[int, bytes]]:
    with files.opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        offset = 0
        while piece := os.pread(descriptor, MOST_READ, offset):
            yield offset, piece
            if len(piece) <= _LONGEST_LINE:
                return
            offset += len(piece) - _LONGEST_LINE


# ---- reading ------------------------------------------------------------------------


class OutputReader:
    """Reads the output of one attempt, while it may grow, and move.

    Raises FileNotFoundError where it has just moved: then look for it again.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self._at = 0
        self._index_read = 0
        self._descriptor = -1
        self._open()

    def close(self) -> None:
        """Give back what it has open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def reads(self, path: str) -> bool:
        """Whether the file of that name is the one that is being read."""
        try:
            named = os.stat(path)
        except OSError:
            return False
        return os.path.samestat(named, os.fstat(self._descriptor))

    def read(self) -> bytes:
        """What has come since; nothing if there is no more now."""
        source = self.output.source
        if source is not None and source.runs:
            return self._read_running(source)
        return self._read_piece()

    def _open(self) -> None:
        self.close()
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        if self.output.source is not None:
            flags |= os.O_NOFOLLOW
        # Where no task has printed anything there is no pack.
        path = self.output.path if self.output.length != 0 else os.devnull
        self._descriptor = os.open(path, flags)

    def _read_piece(self) -> bytes:
        most, length = MOST_READ, self.output.length
        if length is not None:
            most = min(most, length - self._at)
        if most <= 0:
            return b""
        piece = os.pread(self._descriptor, most, self.output.offset + self._at)
        self._at += len(piece)
        return piece

    # ---- an attempt that runs -------------------------------------------------------

    def _read_running(self, source: Source) -> bytes:
        """The scratch is another's as soon as the slot or the index says so."""
        before = self._at
        piece = self._read_piece()
        size = os.fstat(self._descriptor).st_size
        ended, record = self._look_for_end(source)
        if ended:
            self._at = before
            self._settle(source, record)
            return self.read()
        if not piece and size < before:
            self._at = 0  # the command itself has emptied it (> /dev/stderr)
            return self._read_running(source) if size else b""
        return piece

    def _look_for_end(self, source: Source) -> tuple[bool, Record | None]:
        key, taskid = source.record.key, source.record.taskid
        slots = parse_records(read_own(source.files.running), taskid)
        has_slot = any(record.key == key for record in slots)
        content = read_own(source.files.index, self._index_read)
        for record in parse_records(content, taskid):
            if record.key == key:
                return True, record
        self._index_read += content.rfind(b"\n") + 1
        return not has_slot, None

    def _settle(self, source: Source, record: Record | None) -> None:
        """The attempt has ended: go on where its output is now."""
        if record is not None:
            output = _output_of(Source(source.files, record, runs=False))
        elif not self.reads(self.output.path):
            # It was renamed, or removed; nobody else gets it any more.
            rest = source._replace(runs=False)
            self.output = self.output._replace(source=rest)
            return
        else:
            found = self._find_in_log(source)
            if found is None:
                self.output = self.output._replace(
                    length=0, source=source._replace(runs=False)
                )
                return
            output = found
        self.output = output
        self._open()
        if output.length is not None and self._at > output.length:
            self._at = 0

    def _find_in_log(self, source: Source) -> Output | None:
        logs = os.path.dirname(source.files.directory)
        log = f"{logs}/log_{source.record.taskid}"
        wanted = source.files.farm, source.record.attempt
        with suppress(OSError):
            for output in split_log(log):
                if (output.farm, output.attempt) == wanted:
                    return output
        return None
