"""The ends of outputs, wherever they are kept."""

import os

import pytest

from mpifarm.output.tails import read_tail


@pytest.fixture
def logs(tmp_path):
    return tmp_path


def test_the_last_bytes_of_a_log_are_read(logs):
    (logs / "log_3").write_bytes(b"a" * 100 + b"end\n")
    assert read_tail(str(logs), 3) == b"a" * 100 + b"end\n"
    assert read_tail(str(logs), 3, 4) == b"end\n"


def test_a_packed_output_ends_where_the_next_begins(logs):
    packed = logs / "packed"
    packed.mkdir()
    (packed / "0123abcd.0.pack").write_bytes(b"first\nsecond\nthird\n")
    lines = "@3 1 0 1764000000.100000 - 0 6.\n@4 1 0 1764000001.100000 - 6 7.\n"
    (packed / "0123abcd.0.index").write_text(lines)
    assert read_tail(str(logs), 4) == b"second\n"
    assert read_tail(str(logs), 3, 3) == b"st\n"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: None])
def test_what_is_no_log_has_no_end(logs, make):
    make(logs / "log_3")
    assert read_tail(str(logs), 3) == b""


def test_of_several_attempts_the_last_one_ends_the_output(logs):
    packed = logs / "packed"
    packed.mkdir()
    (packed / "0123abcd.0.pack").write_bytes(b"second\nfirst\n")
    lines = "@3 2 0 1764000005.100000 - 0 7.\n@3 1 0 1764000001.100000 - 7 6.\n"
    (packed / "0123abcd.0.index").write_text(lines)
    assert read_tail(str(logs), 3) == b"second\n"
