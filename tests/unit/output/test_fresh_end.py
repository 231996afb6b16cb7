"""The end of a fresh output, in a log of its own or packed; with odd files."""

import os

import pytest

from mpifarm.output.fresh_end import INDEX_BYTES, read_fresh_end
from mpifarm.output.records import Record, encode_record


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "packed").mkdir()
    return tmp_path


def read(logs, taskid=7, attempt=1, most=4):
    return read_fresh_end(str(logs), "f00d", 3, (taskid, attempt), most)


def test_a_log_of_its_own_is_read_at_its_end(logs):
    (logs / "log_7").write_bytes(b"0123456789")
    assert read(logs) == b"6789"
    assert read(logs, most=99) == b"0123456789"


def test_a_packed_output_is_read_where_the_newest_record_of_the_attempt_says(logs):
    records = [
        Record(7, 1, 0, 1.0, None, 0, 3),
        Record(70, 1, 0, 1.0, None, 0, 3),
        *[Record(8, 1, 0, 1.0, None, 0, 3)] * (INDEX_BYTES // 30),
        Record(7, 1, 1, 2.0, None, 3, 6),
        Record(7, 2, 1, 2.0, 0, 0, None),
    ]
    (logs / "packed/f00d.3.index").write_bytes(b"".join(map(encode_record, records)))
    (logs / "packed/f00d.3.pack").write_bytes(b"abcdefghijkl")
    (logs / "packed/f00d.3.1.0").write_bytes(b"a long one")
    assert read(logs) == b"fghi"
    assert read(logs, most=99) == b"defghi"
    assert read(logs, attempt=2) == b" one"
    assert read(logs, taskid=9) == b""


def test_what_is_no_file_or_is_not_there_has_no_end(logs):
    assert read(logs) == b""
    os.mkfifo(logs / "log_7")
    assert read(logs) == b""
    (logs / "log_8").symlink_to("/etc/passwd")
    assert read(logs, taskid=8) == b""
