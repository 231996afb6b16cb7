"""The outputs of a task, wherever farms have kept them (`mpifarm.output.records`).

Rules of this file: it reads, and changes nothing; farms may run meanwhile.  It looks at
slots, then at indexes, then at ``log_<id>``: an output moves in this order, so it is
seen at least once.  Among mpifarm's own files it follows no link and waits for no fifo.
"""

import errno
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.model.paths import log_path
from mpifarm.output.records import (
    DIRECTORIES,
    RankFiles,
    Record,
    encode_again,
    find_again_lines,
    find_rank_files,
    parse_records,
)
from mpifarm.system import files
from mpifarm.system.patience import is_of_the_disk
from mpifarm.system.regular_files import OddFileError, kind_in_words, open_regular

MAX_READ = 1 << 20
"""Bytes that are read at once."""
_LONGEST_LINE = 4096
"""Bytes that mpifarm's own line in a log has at most."""


class Output(NamedTuple):
    """The output of one attempt, as a place in a file.

    `started` is in seconds since the epoch.  `head` is mpifarm's line before the
    output, empty before the first of a log.  `length` is in bytes, None for the rest of
    the file.  `source` is None in a ``log_<id>``.
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
    """The record that names an output; `is_slot`: the attempt still runs."""

    files: RankFiles
    record: Record
    is_slot: bool

    @property
    def key(self) -> tuple[object, ...]:
        """The farm, rank and key of the record, the same in slot and index."""
        return self.files.farm, self.files.rank, self.record.key


# ---- finding ------------------------------------------------------------------------


def find_outputs(
    logs: str, taskid: int, *, split: bool, sources: Iterable[Source] | None = None
) -> list[Output]:
    """Return the outputs of all attempts of a task, in the order of their starts.

    `split`: return the attempts of a ``log_<id>`` one by one; else as one output, if
    there are no outputs elsewhere.  `sources`: the answer of `find_sources`, if the
    caller has it already.

    Raises `OddFileError` if ``log_<id>`` is not a file and there is no other output,
    OSError if the log cannot be read, `StorageError` if the disk fails.
    """
    outputs = [
        _output_of(source)
        for source in (find_sources(logs, taskid) if sources is None else sources)
        if not has_moved(source)
    ]
    log = log_path(logs, taskid)
    what = find_kind_of_log(logs, taskid)
    if what and not outputs:
        raise OddFileError(errno.EINVAL, f"it is {what}", log)
    if what == "":
        outputs += split_log(log) if split or outputs else [_whole_log(log)]
    return sorted(outputs, key=lambda output: output.started)


def find_kind_of_log(logs: str, taskid: int) -> str | None:
    """Return the kind of an irregular ``log_<id>`` ("a link"), "" if it is regular.

    Return None if nothing has that name.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        return kind_in_words(os.lstat(log_path(logs, taskid)).st_mode)
    return None


def has_moved(source: Source) -> bool:
    """Return whether a slot names a scratch that is gone: the output has moved.

    The output is in a ``log_<id>`` then, or in a pack.  The place of a record in an
    index stays.  Raises `StorageError`.
    """
    return source.is_slot and not files.is_there(source.files.place_of(source.record))


def find_sources(logs: str, wanted: int | Container[int] | None = None) -> list[Source]:
    """Return the sources of the wanted tasks (None: of all), each attempt once.

    All slots and indexes are read, however few tasks are wanted.  Raises `StorageError`
    if the disk fails.
    """
    found: dict[tuple[object, ...], Source] = {}
    for directory in DIRECTORIES:
        # Slots first: an attempt that ends between the two looks is seen in the index,
        # which then takes the place of its slot.
        for kind in ("running", "index"):
            for source in _read_sources(f"{logs}/{directory}", kind, wanted):
                found[source.key] = source
    return list(found.values())


def list_kept_ids(logs: str) -> set[int]:
    """Return the tasks with outputs in shared files; raises `StorageError`."""
    return {source.record.taskid for source in find_sources(logs)}


def find_record_files(logs: str) -> list[str]:
    """Return the paths of all indexes and slots, relative to the directory `logs`.

    Raises `StorageError` if the disk fails.
    """
    found = []
    for directory in DIRECTORIES:
        names = _find_names(f"{logs}/{directory}")
        found += [
            f"{directory}/{name}"
            for name in names
            if any(find_rank_files("", name, kind) for kind in ("running", "index"))
        ]
    return found


def _read_sources(
    directory: str, kind: str, wanted: int | Container[int] | None
) -> Iterator[Source]:
    for name in _find_names(directory):
        rank_files = find_rank_files(directory, name, kind)
        if rank_files is not None:
            content = read_own(f"{directory}/{name}")
            for record in parse_records(content, wanted):
                yield Source(rank_files, record, is_slot=kind == "running")


def _find_names(directory: str) -> list[str]:
    """Return the sorted names in a directory, [] if it cannot be listed.

    Raises `StorageError` if the disk fails.
    """
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        if is_of_the_disk(error):
            raise files.storage_error("read", directory, error) from error
        return []


def read_own(path: str, offset: int = 0) -> bytes:
    """Return one of mpifarm's own files from `offset` on; b"" if it can't be read.

    Raises `StorageError` if the disk fails.
    """
    try:
        return files.read_from(path, offset)
    except OSError as error:
        if is_of_the_disk(error):
            raise files.storage_error("read", path, error) from error
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
    return Output(os.lstat(path).st_mtime, 0, "", _own_line("another attempt"), path)


def split_log(path: str) -> list[Output]:
    """Return the attempts in a ``log_<id>``; raises OSError.

    The start of the first attempt is not recorded.  It gets the start of the second, or
    the time of the file's last change if it is the only one.
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
    """Yield all attempts in a log but the first, each with `length` None."""
    done = 0
    for offset, piece in _overlapping_pieces(path):
        for line in find_again_lines(piece):
            begin, end = offset + line.begin, offset + line.end
            if begin < done or (line.begin == 0 and offset):
                continue  # seen in the piece before, or not at the start of a line
            done = end
            head = piece[line.begin : line.end]
            yield Output(line.started, line.attempt, line.farm, head, path, end)


def _overlapping_pieces(path: str) -> Iterator[tuple[int, bytes]]:
    with files.opened(path, os.O_RDONLY) as descriptor:
        offset = 0
        while piece := os.pread(descriptor, MAX_READ, offset):
            yield offset, piece
            if len(piece) <= _LONGEST_LINE:
                return
            offset += len(piece) - _LONGEST_LINE


# ---- reading ------------------------------------------------------------------------


class OutputReader:
    """A reader of the output of one attempt, which may grow and move meanwhile.

    `output` has the present place of the output.  The constructor and `read` raise
    OSError: FileNotFoundError if the output has just moved, and has to be found again.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self._at = 0
        """Bytes of the output that were read."""
        self._index_read = 0
        """Bytes of the index without a record of this attempt."""
        self._descriptor = -1
        self._open()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def reads(self, path: str) -> bool:
        """Return whether the open file has the name `path`; False if that is gone."""
        try:
            named = os.lstat(path)
        except OSError:
            return False
        return os.path.samestat(named, os.fstat(self._descriptor))

    def read(self) -> bytes:
        """Return the bytes that have come since, at most `MAX_READ`; b"" if none have.

        If the attempt has ended, go on in the file that has its output now.
        """
        source = self.output.source
        if source is not None and source.is_slot:
            return self._read_running(source)
        return self._read_piece()

    def skip(self, most: int) -> None:
        """Pass over all but the last `most` bytes of the output of an ended attempt.

        The output of an attempt that runs may move at any moment: it is read whole.
        """
        source, length = self.output.source, self.output.length
        if source is not None and source.is_slot:
            return
        if length is None:
            length = os.fstat(self._descriptor).st_size - self.output.offset
        self._at = max(self._at, length - most)

    def _open(self) -> None:
        self.close()
        if self.output.length == 0:
            # An empty output has no pack, if no task of the rank has printed anything.
            self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._descriptor = open_regular(self.output.path, os.O_RDONLY)

    def _read_piece(self) -> bytes:
        most, length = MAX_READ, self.output.length
        if length is not None:
            most = min(most, length - self._at)
        if most <= 0:
            return b""
        piece = os.pread(self._descriptor, most, self.output.offset + self._at)
        self._at += len(piece)
        return piece

    # ---- an attempt that runs -------------------------------------------------------

    def _read_running(self, source: Source) -> bytes:
        """Read on in a scratch; settle an output that the attempt has left there.

        A scratch that its command has emptied is read from its beginning.
        """
        before = self._at
        piece = self._read_piece()
        try:
            # After the read: if slot and index still say now that the attempt runs, all
            # that was read is its own, not of the next attempt in this scratch.
            size = os.fstat(self._descriptor).st_size
            ended, record = self._look_for_end(source)
        except (OSError, StorageError):
            self._at = before  # these bytes are read again
            raise
        if ended:
            self._at = before
            self._settle(source, record)
            return self.read()
        if not piece and size < before:
            self._at = 0  # the command itself has emptied the file (> /dev/stderr)
            return self._read_running(source) if size else b""
        return piece

    def _look_for_end(self, source: Source) -> tuple[bool, Record | None]:
        """Return whether the attempt has ended, and its record in the index, if any.

        The index is read on from the place of the last call.
        """
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
        """Set `output` to the place of an ended attempt's output, and open its file.

        A scratch that no other attempt gets stays open.  Without any trace of the
        output, `output` becomes empty.
        """
        if record is not None:
            output = _output_of(Source(source.files, record, is_slot=False))
        elif not self.reads(self.output.path):
            # The scratch was renamed or removed, so no other attempt gets it: read on.
            rest = source._replace(is_slot=False)
            self.output = self.output._replace(source=rest)
            return
        else:
            found = self._find_in_log(source)
            if found is None:
                self.output = self.output._replace(
                    length=0, source=source._replace(is_slot=False)
                )
                return
            output = found
        self.output = output
        self._open()
        if output.length is not None and self._at > output.length:
            self._at = 0

    def _find_in_log(self, source: Source) -> Output | None:
        """Return the attempt in its ``log_<id>``, None if that does not have it."""
        logs = os.path.dirname(source.files.directory)
        log = log_path(logs, source.record.taskid)
        wanted = source.files.farm, source.record.attempt
        with suppress(OSError):
            for output in split_log(log):
                if (output.farm, output.attempt) == wanted:
                    return output
        return None
