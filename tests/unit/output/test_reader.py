"""An output that is read while it grows and moves: its files are made by hand."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mpifarm.errors import StorageError
from mpifarm.output import reader as output_reader
from mpifarm.output.reader import (
    Output,
    OutputReader,
    find_outputs,
    find_sources,
    split_log,
)
from mpifarm.output.records import (
    NO_RECORD,
    RankFiles,
    Record,
    encode_again,
    encode_slot,
)
from mpifarm.output.records import encode_record as encode

RUNNING = Record(7, 1, 0, 1e9, 0, 0, None)
"""Task 7 runs, and has the first scratch of worker 0."""


class Site:
    """The files of one rank with one worker, which runs task 7."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        (logs / "packed").mkdir()
        self.files = RankFiles(f"{logs}/packed", "f0", 3)
        self.scratch = Path(self.files.scratch(0, 0))
        self.running, self.index, self.pack = (
            Path(path)
            for path in (self.files.running, self.files.index, self.files.pack)
        )
        self.running.write_bytes(encode_slot(RUNNING))
        self.scratch.write_bytes(b"one\n")
        self.readers: list[OutputReader] = []

    def open(self) -> OutputReader:
        (output,) = find_outputs(str(self.logs), 7, split=True)
        self.readers.append(OutputReader(output))
        return self.readers[-1]

    def write(self, content: bytes) -> None:
        with self.scratch.open("ab") as scratch:
            scratch.write(content)

    def end(self, content: bytes, before: bytes = b"") -> Record:
        """The attempt ends: its output goes into the pack, and is recorded there."""
        self.pack.write_bytes(before + content)
        record = RUNNING._replace(file=None, offset=len(before), length=len(content))
        self.index.write_bytes(encode(record))
        self.scratch.write_bytes(b"")
        return record


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for reader in site.readers:
        reader.close()


def test_an_output_is_read_as_it_grows(site):
    reader = site.open()
    assert (reader.read(), reader.read()) == (b"one\n", b"")
    site.write(b"two\n")
    assert (reader.read(), reader.read()) == (b"two\n", b"")


def test_the_rest_of_an_output_that_moves_into_the_pack_is_read_there(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    site.end(b"one\ntwo\n", before=b"another's\n")
    assert (reader.read(), reader.read()) == (b"two\n", b"")


def test_a_record_that_is_only_half_there_is_read_when_it_is_whole(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    record = encode(RUNNING._replace(file=None, offset=0, length=8))
    earlier = encode(RUNNING._replace(taskid=6, file=None, offset=0, length=0))
    site.index.write_bytes(earlier + record[:20])
    assert reader.read() == b""
    site.pack.write_bytes(b"one\ntwo\n")
    site.index.write_bytes(earlier + record)
    assert reader.read() == b"two\n"


def test_what_the_next_attempt_writes_into_the_scratch_is_not_read(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    site.end(b"one\n")
    site.running.write_bytes(encode_slot(RUNNING._replace(taskid=8)))
    site.write(b"of task 8\n")
    assert (reader.read(), reader.read()) == (b"", b"")


def test_an_output_that_its_own_command_empties_is_read_from_its_beginning(site):
    reader = site.open()
    site.write(b"much\n")
    assert reader.read() == b"one\nmuch\n"
    site.scratch.write_bytes(b"new\n")  # > /dev/stderr
    assert reader.read() == b"new\n"


def test_what_was_read_while_the_disk_failed_is_read_again(site, monkeypatch):
    reader = site.open()

    def fail(path: str, offset: int = 0) -> bytes:
        raise StorageError("no answer")

    read_own = output_reader.read_own
    monkeypatch.setattr(output_reader, "read_own", fail)
    with pytest.raises(StorageError, match="no answer"):
        reader.read()
    monkeypatch.setattr(output_reader, "read_own", read_own)
    assert reader.read() == b"one\n"


def test_a_scratch_that_is_kept_as_it_is_is_read_on(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    site.index.write_bytes(encode(RUNNING))
    site.running.write_bytes(NO_RECORD)
    site.write(b"late\n")  # by what its command left running
    assert (reader.read(), reader.read()) == (b"late\n", b"")


def test_a_scratch_that_became_the_log_of_a_failed_task_is_read_on(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    site.write(b"two\n")
    site.scratch.rename(site.logs / "log_7")
    site.running.write_bytes(NO_RECORD)
    assert (reader.read(), reader.read()) == (b"two\n", b"")


def test_an_output_that_was_appended_to_an_older_log_is_read_on_there(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    again = f"=== mpifarm: {encode_again(1, 'f0', 1e9, 'host h')} ===\n"
    log = b"older\n" + again.encode() + b"one\ntwo\n"
    (site.logs / "log_7").write_bytes(log)
    site.scratch.write_bytes(b"")
    site.running.write_bytes(encode_slot(RUNNING._replace(taskid=8)))
    assert (reader.read(), reader.read()) == (b"two\n", b"")


def test_an_output_that_nobody_keeps_ends(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    site.scratch.write_bytes(b"")
    site.running.write_bytes(encode_slot(RUNNING._replace(taskid=8)))
    assert (reader.read(), reader.read()) == (b"", b"")


def test_an_output_that_ends_shorter_than_it_was_is_read_from_its_beginning(site):
    reader = site.open()
    assert reader.read() == b"one\n"
    site.end(b"x\n")  # its command has emptied it, and has written that
    assert (reader.read(), reader.read()) == (b"x\n", b"")


def test_a_reader_knows_the_file_that_it_reads(site):
    reader = site.open()
    assert reader.reads(str(site.scratch))
    assert not reader.reads(str(site.running))
    assert not reader.reads(str(site.logs / "missing"))


# ---- finding ------------------------------------------------------------------------


def test_an_attempt_that_slot_and_index_name_is_that_of_the_index(site):
    record = site.end(b"one\n")
    (source,) = find_sources(str(site.logs), 7)
    assert (source.is_slot, source.record) == (False, record)


def test_a_slot_whose_scratch_was_moved_names_no_output(site):
    site.scratch.unlink()
    assert find_outputs(str(site.logs), 7, split=True) == []


def test_outputs_are_in_the_order_of_their_starts(site):
    earlier = RUNNING._replace(started=5e8, file=None, offset=0, length=0)
    site.index.write_bytes(encode(earlier))
    (site.logs / "log_7").write_bytes(b"older\n")
    os.utime(site.logs / "log_7", (7e8, 7e8))
    outputs = find_outputs(str(site.logs), 7, split=True)
    assert [output.started for output in outputs] == [5e8, 7e8, 1e9]


def contents(outputs: list[Output]) -> list[bytes]:
    found = []
    for output in outputs:
        whole = Path(output.path).read_bytes()
        end = None if output.length is None else output.offset + output.length
        found.append(whole[output.offset : end])
    return found


@pytest.mark.parametrize("size", [0, 20, 4050, 4100, 8100, 8150, 8200])
def test_attempts_in_a_log_are_told_apart_wherever_its_pieces_end(
    tmp_path, monkeypatch, size
):
    monkeypatch.setattr(output_reader, "MAX_READ", 8192)
    again = f"=== mpifarm: {encode_again(2, 'f0', 1e9, 'host h')} ===\n".encode()
    first, second = b"x" * size + b"\n", b"y" * 5000
    log = tmp_path / "log_1"
    log.write_bytes(first + again + second + b" " + again)
    outputs = split_log(str(log))
    assert contents(outputs) == [first, second + b" " + again]


def test_what_only_looks_like_our_line_at_the_beginning_of_a_piece_is_a_tasks(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(output_reader, "MAX_READ", 8192)
    again = f"=== mpifarm: {encode_again(2, 'f0', 1e9, 'host h')} ===\n".encode()
    log = tmp_path / "log_1"
    log.write_bytes(b"x" * 4096 + again + b"y" * 5000)
    assert len(split_log(str(log))) == 1


@pytest.mark.parametrize(
    ("most", "left"),
    [(0, b""), (1, b"\n"), (4, b"two\n"), (8, b"one\ntwo\n"), (99, b"one\ntwo\n")],
)
def test_all_but_the_last_bytes_of_an_ended_attempt_are_passed_over(
    tmp_path, most, left
):
    (tmp_path / "log_7").write_bytes(b"one\ntwo\n")
    (output,) = find_outputs(str(tmp_path), 7, split=True)
    with closing(OutputReader(output)) as reader:
        reader.skip(most)
        assert reader.read() == left


def test_what_was_read_is_not_read_again_by_passing_over(tmp_path):
    (tmp_path / "log_7").write_bytes(b"one\ntwo\n")
    (output,) = find_outputs(str(tmp_path), 7, split=True)
    with closing(OutputReader(output)) as reader:
        assert reader.read() == b"one\ntwo\n"
        reader.skip(4)
        assert reader.read() == b""


def test_only_a_disk_that_fails_is_told_where_nothing_is_read(tmp_path, monkeypatch):
    path = str(tmp_path / "none")
    asks = output_reader._find_names, output_reader.read_own
    assert [ask(path) for ask in asks] == [[], b""]

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "listdir", fail)
    monkeypatch.setattr("mpifarm.system.files.read_from", fail)
    number = errno.EACCES
    assert [ask(path) for ask in asks] == [[], b""]
    number = errno.EIO
    for ask in asks:
        with pytest.raises(StorageError, match="none"):
            ask(path)
