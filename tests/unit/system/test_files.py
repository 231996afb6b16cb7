"""What the farm relies on and every local file system holds."""

import os
import signal

import pytest

from mpifarm.system import files, processes

READS = 200


def test_a_reader_without_the_lock_sees_the_old_or_the_new_file_whole(tmp_path):
    path = str(tmp_path / "toprocess")
    contents = [b"a" * 9000 + b"\n", b"b" * 9000 + b"\n"]
    files.replace(path, path + ".beside", contents[0])

    def replace_for_ever():
        while True:
            for content in contents:
                files.replace(path, path + ".beside", content)

    writer = processes.fork_child(replace_for_ever)
    try:
        assert {files.find_content(path) for _ in range(READS)} <= {*contents}
    finally:
        processes.kill_process(writer, signal.SIGKILL)
        processes.reap_child(writer)


def test_the_second_who_creates_a_file_is_told_that_it_exists(tmp_path):
    path = str(tmp_path / "claim")
    os.close(files.create_exclusively(path))
    with pytest.raises(FileExistsError):
        files.create_exclusively(path)


def test_a_file_that_is_to_replace_another_is_synced_when_it_is_whole(
    tmp_path, monkeypatch
):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda each: synced.append(os.fstat(each).st_size))
    files.write_staging_file(str(tmp_path / "beside"), (b"1\n", b"23\n"))
    assert synced == [5]
