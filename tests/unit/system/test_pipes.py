"""Pipes that are read to their end while signals are heard."""

import os

import pytest

from mpifarm.system import pipes
from mpifarm.system.pipes import CheckingReader, checking, read_to_end


class StopError(Exception):
    """What a check raises after a signal."""


@pytest.fixture
def pipe(monkeypatch):
    monkeypatch.setattr(pipes, "CHECK_SECONDS", 0.001)
    out, end = os.pipe()
    yield out, end
    for each in (out, end):
        os.close(each)


def stop() -> None:
    raise StopError


def test_while_nothing_comes_the_check_is_called(pipe):
    out, end = pipe
    os.write(end, b"a\n")
    with pytest.raises(StopError):
        read_to_end(out, stop)


def test_all_is_read_to_the_end_though_nothing_comes_for_a_while(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    out = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    asked: list[int] = []

    def write() -> None:
        asked.append(0)
        end = os.open(path, os.O_WRONLY)
        os.write(end, b"x" * 3000)
        os.close(end)

    assert read_to_end(out, write) == b"x" * 3000
    os.close(out)
    assert asked == [0]


def test_a_pipe_that_is_opened_by_its_name_has_the_check_of_the_block(pipe):
    out, _ = pipe
    with (
        CheckingReader(f"/proc/self/fd/{out}") as reader,
        pytest.raises(StopError),
        checking(stop),
    ):
        reader.read()


def test_a_directory_is_told_as_such(tmp_path):
    out = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        read_to_end(out, stop)
    os.close(out)
