"""The ends of outputs: of the last attempt, wherever farms have kept it."""

import os
from pathlib import Path

import pytest

from mpifarm.errors import StorageError
from mpifarm.output.ends import read_ends
from mpifarm.output.records import (
    RankFiles,
    Record,
    encode_again,
    encode_record,
    encode_slot,
)


def ends(logs: Path, *taskids: int, most: int = 4096) -> dict[int, bytes]:
    return dict(read_ends(str(logs), taskids, most))


def pack(logs: Path, *records: tuple[int, float, bytes]) -> RankFiles:
    """Write outputs of tasks, with their starts, into the pack of a rank."""
    (logs / "packed").mkdir(exist_ok=True)
    files = RankFiles(f"{logs}/packed", "f0", 3)
    whole = b""
    with open(files.index, "ab") as index:
        for taskid, started, content in records:
            place = (None, len(whole), len(content))
            index.write(encode_record(Record(taskid, 1, 0, started, *place)))
            whole += content
    Path(files.pack).write_bytes(whole)
    return files


def test_the_last_bytes_of_a_log_are_read(tmp_path):
    (tmp_path / "log_3").write_bytes(b"x" * 10_000 + b"end\n")
    (tmp_path / "log_4").write_bytes(b"short")
    found = ends(tmp_path, 3, 4, 5, most=10)
    assert found == {3: b"xxxxxxend\n", 4: b"short", 5: b""}


def test_an_output_in_a_pack_is_read_without_those_around_it(tmp_path):
    pack(tmp_path, (1, 1e9, b"one\n"), (2, 1e9, b"the second\n"), (3, 1e9, b"three\n"))
    assert ends(tmp_path, 2) == {2: b"the second\n"}
    assert ends(tmp_path, 2, 1, most=4) == {2: b"ond\n", 1: b"one\n"}


def test_the_last_of_several_attempts_in_packs_counts(tmp_path):
    pack(tmp_path, (1, 1e9 + 5, b"later\n"), (1, 1e9, b"earlier\n"))
    assert ends(tmp_path, 1) == {1: b"later\n"}


@pytest.mark.parametrize(("packed_at", "found"), [(5e8, b"log\n"), (2e9, b"packed\n")])
def test_the_later_of_pack_and_log_counts(tmp_path, packed_at, found):
    pack(tmp_path, (1, packed_at, b"packed\n"))
    log = tmp_path / "log_1"
    log.write_bytes(b"log\n")
    os.utime(log, (1e9, 1e9))
    assert ends(tmp_path, 1) == {1: found}


def test_the_line_before_an_attempt_says_when_it_began(tmp_path):
    pack(tmp_path, (1, 1.5e9, b"packed\n"))
    again = encode_again(2, "f1", 1e9, "host n1")
    # The time of its last change is now.
    (tmp_path / "log_1").write_text(f"log\n=== mpifarm: {again} ===\nlog\n")
    assert ends(tmp_path, 1) == {1: b"packed\n"}


def test_an_attempt_that_died_with_its_farm_is_read_in_its_scratch(tmp_path):
    files = RankFiles(f"{tmp_path}/unkept", "f0", 0)
    (tmp_path / "unkept").mkdir()
    slot = encode_slot(Record(7, 1, 0, 1e9, 0, 2, None))
    Path(files.running).write_bytes(slot)
    Path(files.scratch(0, 0)).write_bytes(b"x\nlast words\n")
    assert ends(tmp_path, 7) == {7: b"last words\n"}
    assert ends(tmp_path, 7, most=6) == {7: b"words\n"}
    Path(files.scratch(0, 0)).unlink()
    assert ends(tmp_path, 7) == {7: b""}


def test_what_is_no_file_is_no_output(tmp_path):
    (tmp_path / "log_1").mkdir()
    os.mkfifo(tmp_path / "log_2")
    (tmp_path / "log_3").symlink_to("/etc/passwd")
    found = ends(tmp_path, 1, 2, 3)
    assert {*found.values()} == {b""}
    assert ends(tmp_path / "nowhere", 1) == {1: b""}


def test_a_disk_that_fails_is_told(tmp_path, monkeypatch):
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mpifarm.output.ends.open_regular", fail)
    with pytest.raises(StorageError, match="log_1"):
        ends(tmp_path, 1)


def test_the_last_of_several_attempts_counts_in_whatever_order_they_stand(tmp_path):
    pack(tmp_path, (1, 1e9, b"earlier\n"), (1, 1e9 + 5, b"later\n"))
    assert ends(tmp_path, 1) == {1: b"later\n"}


def test_no_file_stays_open_behind_the_ends_of_many_logs(tmp_path):
    for taskid in range(20):
        (tmp_path / f"log_{taskid}").write_bytes(b"end\n")
    before = os.listdir("/proc/self/fd")
    assert [*ends(tmp_path, *range(20)).values()] == [b"end\n"] * 20
    assert os.listdir("/proc/self/fd") == before
