"""Standard output for much: all of it is written, in its order, and in few calls."""

import errno
import os
import select
import time

import pytest

from mpifarm.commands import sink
from mpifarm.commands.sink import Sink
from mpifarm.errors import InputError


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_line_begins_behind_a_newline(pipe):
    read_end, write_end = pipe
    out = Sink(write_end)
    out.write_line(b"a\n")
    out.write_line(b"b")
    out.write_line(b"c\n")
    out.write(b"")
    out.write(b"d")
    out.write_line(b"e\n")
    assert os.read(read_end, 100) == b"a\nb\nc\nd\ne\n"


def test_what_a_reader_takes_in_parts_is_written_to_the_end(monkeypatch):
    written: list[bytes] = []

    def write(_descriptor, content):
        written.append(bytes(content[:3]))
        return min(len(content), 3)

    monkeypatch.setattr(os, "write", write)
    Sink(1).write(b"abcdefgh")
    assert written == [b"abc", b"def", b"gh"]


def test_a_full_pipe_that_does_not_block_is_waited_for(monkeypatch):
    tries: list[bytes] = []

    def write(_descriptor, content):
        tries.append(bytes(content))
        if len(tries) == 1:
            raise BlockingIOError
        return len(content)

    waited: list[object] = []
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(select, "select", lambda *fds: waited.append(fds))
    Sink(7).write(b"abc")
    assert tries == [b"abc", b"abc"]
    assert waited == [((), (7,), ())]


def test_an_error_of_the_output_is_one_sentence(monkeypatch):
    def fail(_descriptor, _content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(InputError) as caught:
        Sink(1).write(b"a")
    assert str(caught.value) == "can't write the output: No space left on device"


def test_a_wait_ends_early_where_nobody_reads(pipe):
    read_end, write_end = pipe
    Sink(write_end).wait(0.0)
    spare = os.dup(read_end)
    os.close(read_end)
    os.close(spare)
    try:
        with pytest.raises(BrokenPipeError):
            Sink(write_end).wait(60.0)
        with pytest.raises(BrokenPipeError):
            Sink(write_end).write(b"a")
    finally:
        os.dup2(write_end, read_end)


def test_a_wait_lasts_so_many_seconds(pipe):
    begun = time.monotonic()
    Sink(pipe[1]).wait(0.05)
    assert time.monotonic() - begun > 0.045


def test_a_reader_that_has_enough_ends_the_output_silently(monkeypatch):
    def fail(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", fail)
    sink.write_all([b"a\n"])


def test_small_pieces_are_written_together(monkeypatch):
    blocks: list[bytes] = []
    monkeypatch.setattr(sink, "_BYTES_AT_ONCE", 4)
    monkeypatch.setattr(Sink, "write", lambda _, block: blocks.append(block))
    sink.write_all([b"a", b"b", b"cd", b"efghi", b"j"])
    assert blocks == [b"abcd", b"efghi", b"j"]
