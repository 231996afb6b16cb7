"""``finished`` and ``failed`` as a farm reads and writes them beside others."""

import errno
import os
from unittest import mock

import pytest

from mpifarm.errors import StorageError
from mpifarm.store.ledger import Ledger, Ledgers, common_beginning
from mpifarm.system import files
from mpifarm.system.file_contents import KeptFile, version_of

TASKS = [f"task {each}" for each in range(12)]


def lines(*taskids: int) -> bytes:
    return b"".join(b"%d task %d\n" % (each, each) for each in taskids)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "finished"


@pytest.fixture
def ledger(path):
    return Ledger(str(path), TASKS)


def fail_append(monkeypatch, path, count, behind=b""):
    """Have the next append write `count` bytes of its own, others then `behind`."""

    def append(_path: str, content: bytes, *, sync: bool) -> int:
        there = path.read_bytes() if path.exists() else b""
        if there and not there.endswith(b"\n"):
            content = b"\n" + content
        path.write_bytes(there + content[:count] + behind)
        raise StorageError("the disk failed")

    monkeypatch.setattr(files, "append", append)


def append_in_vain(monkeypatch, path, ledger, taskids, count, behind=b""):
    ledger.poll()
    with monkeypatch.context() as patched:
        fail_append(patched, path, count, behind)
        with pytest.raises(StorageError, match="the disk failed"):
            ledger.append(taskids)


def known(ledger):
    return [each for each in range(len(TASKS)) if each in ledger]


# ---- reading ------------------------------------------------------------------------


def test_a_missing_file_is_empty(ledger, path):
    assert ledger.poll() == ([], [], [], [])
    assert ledger.count == 0
    assert ledger.size() == 0
    assert not path.exists()


def test_each_poll_reads_on_and_counts_each_task_once(ledger, path):
    path.write_bytes(lines(3, 1, 3))
    assert ledger.poll().ids == [3, 1, 3]
    assert ledger.count == 2
    with path.open("ab") as file:
        file.write(lines(0))
    assert ledger.poll().ids == [0]
    assert ledger.poll().ids == []
    assert known(ledger) == [0, 1, 3]
    assert ledger.count == 3
    assert [*ledger.missing()] == [2, 4, 5, 6, 7, 8, 9, 10, 11]


def test_a_torn_last_line_counts_once_its_newline_is_there(ledger, path):
    path.write_bytes(lines(1) + b"2 task 2")
    assert ledger.poll().ids == [1]
    assert ledger.tail == b"2 task 2"
    assert 2 not in ledger
    with path.open("ab") as file:
        file.write(b"\n")
    assert ledger.poll().ids == [2]
    assert ledger.tail == b""


def test_odd_lines_are_told_and_do_not_count(ledger, path):
    path.write_bytes(lines(1) + b"7 another text\n" + lines(2))
    polled = ledger.poll()
    assert polled.ids == [1, 2]
    assert polled.odd == [b"7 another text"]
    assert 7 not in ledger


def test_a_task_beyond_the_list_is_not_there(ledger, path):
    path.write_bytes(lines(1))
    ledger.poll()
    assert not ledger.has(len(TASKS))
    assert ledger.has(1)


def test_a_file_that_got_shorter_is_an_error_with_the_remedy(ledger, path):
    path.write_bytes(lines(1, 2))
    ledger.poll()
    path.write_bytes(lines(1))
    with pytest.raises(StorageError, match=r"got shorter .* mpifarm check"):
        ledger.poll()


def test_what_was_taken_out_of_the_file_counts_no_more(ledger, path):
    path.write_bytes(lines(1, 2, 3))
    ledger.poll()
    other = path.with_name("new")
    other.write_bytes(lines(1) + b" " * len(lines(2)[:-1]) + b"\n" + lines(3))
    other.replace(path)
    polled = ledger.poll()
    assert polled.gone == [2]
    assert known(ledger) == [1, 3]
    assert ledger.count == 2
    assert ledger.poll().gone == []


def replace(path, content):
    other = path.with_name("new")
    other.write_bytes(content)
    other.replace(path)


BLANKED = lines(1) + b"\n" * len(lines(2)) + lines(3)


def test_a_file_that_was_replaced_twice_and_appended_to_was_replaced(ledger, path):
    path.write_bytes(lines(1, 2, 3))
    ledger.poll()
    # On many file systems the second one would have the inode of the first.
    replace(path, BLANKED)
    replace(path, BLANKED)
    with path.open("ab") as file:
        file.write(lines(4))
    polled = ledger.poll()
    assert (polled.ids, polled.gone) == ([4], [2])
    assert known(ledger) == [1, 3, 4]
    assert ledger.poll() == ([], [], [], [])


def test_a_file_that_has_got_its_inode_again_all_the_same_was_replaced(
    ledger, path, monkeypatch
):
    def find(descriptor):
        return version_of(descriptor)._replace(inode=1)

    # As on NFS, when another host has replaced it.
    monkeypatch.setattr("mpifarm.system.file_contents.version_of", find)
    monkeypatch.setattr("mpifarm.store.ledger.version_of", find)
    path.write_bytes(lines(1, 2, 3))
    ledger.poll()
    replace(path, BLANKED + lines(4))
    assert ledger.poll().gone == [2]


def test_a_file_that_is_appended_to_is_not_read_again(ledger, path, monkeypatch):
    path.write_bytes(lines(1))
    ledger.poll()
    monkeypatch.setattr(files, "find_rest", mock.Mock(side_effect=AssertionError))
    for taskid in (2, 3):
        with path.open("ab") as file:
            file.write(lines(taskid))
        assert ledger.poll().ids == [taskid]
        ledger.append([taskid + 4])
    assert ledger.poll().ids == []
    assert known(ledger) == [1, 2, 3, 6, 7]


def test_a_ledger_has_one_file_open_and_closes_it(path):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    ledger = Ledger(str(path), TASKS)
    for taskid in range(4):
        replace(path, lines(*range(taskid + 1)))
        ledger.poll()
        assert count() == before + 1
    del ledger
    assert count() == before


def test_a_file_that_the_system_cannot_keep_open_is_read_all_the_same(
    ledger, path, monkeypatch
):
    def refuse(_descriptor):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", refuse)
    path.write_bytes(lines(1, 2, 3))
    assert ledger.poll().ids == [1, 2, 3]
    replace(path, BLANKED)
    assert ledger.poll().gone == [2]


def test_a_kept_file_that_its_server_has_removed_is_no_other(path, monkeypatch):
    def refuse(_descriptor):
        raise OSError(errno.ESTALE, "Stale file handle")

    path.touch()
    with files.opened(str(path), os.O_RDONLY) as descriptor:
        version, kept = version_of(descriptor), KeptFile(descriptor)
    assert kept.has(version)
    monkeypatch.setattr("mpifarm.system.file_contents.version_of", refuse)
    assert not kept.has(version)


def test_a_file_that_came_after_the_first_look_was_not_replaced(ledger, path):
    ledger.poll()
    path.write_bytes(lines(1))
    polled = ledger.poll()
    assert (polled.ids, polled.gone) == ([1], [])


def test_both_ledgers_have_what_either_has(tmp_path):
    ledgers = Ledgers(*(Ledger(str(tmp_path / each), TASKS) for each in "ab"))
    ledgers.finished.add([1])
    ledgers.failed.add([2])
    assert [each for each in range(4) if ledgers.have(each)] == [1, 2]


# ---- writing ------------------------------------------------------------------------


def test_what_is_appended_counts_and_is_not_read_as_that_of_others(ledger, path):
    ledger.poll()
    ledger.append([4, 2])
    assert path.read_bytes() == lines(4, 2)
    assert known(ledger) == [2, 4]
    assert ledger.poll().ids == []


def test_the_torn_line_of_another_is_ended_and_told_once(ledger, path):
    path.write_bytes(b"5 task 5")
    ledger.poll()
    ledger.append([2])
    assert path.read_bytes() == lines(5, 2)
    assert known(ledger) == [2, 5]
    assert ledger.take_ended_tail() == [5]
    assert ledger.take_ended_tail() == []
    assert ledger.poll().ids == []


def test_a_file_that_the_farm_made_may_be_replaced_later(ledger, path):
    ledger.poll()
    ledger.append([1, 2])
    other = path.with_name("new")
    other.write_bytes(lines(1) + b" " * len(lines(2)[:-1]) + b"\n")
    other.replace(path)
    assert ledger.poll().gone == [2]


@pytest.mark.parametrize("is_torn", [False, True])
@pytest.mark.parametrize("count", range(1, 19))
def test_an_append_that_left_a_part_is_completed(
    ledger, path, monkeypatch, count, is_torn
):
    before = lines(1) + (b"5 task 5" if is_torn else b"")
    path.write_bytes(before)
    append_in_vain(monkeypatch, path, ledger, [2, 3], count)
    polled = ledger.poll()
    assert polled.own == [2, 3]
    assert path.read_bytes() == lines(1, *([5] if is_torn else []), 2, 3)
    assert polled.ids == ([5] if is_torn else [])
    assert {2, 3} <= {*known(ledger)}


def test_an_append_of_which_nothing_is_there_is_forgotten(ledger, path, monkeypatch):
    path.write_bytes(lines(1))
    append_in_vain(monkeypatch, path, ledger, [2, 3], 0)
    assert ledger.poll() == ([], [], [], [])
    assert path.read_bytes() == lines(1)
    assert known(ledger) == [1]


def test_lines_that_others_wrote_instead_are_theirs(ledger, path, monkeypatch):
    path.write_bytes(lines(1))
    append_in_vain(monkeypatch, path, ledger, [2, 3], 0, behind=lines(7))
    polled = ledger.poll()
    assert (polled.ids, polled.own) == ([7], [])
    assert path.read_bytes() == lines(1, 7)


@pytest.mark.parametrize("count", range(1, 18))
def test_lines_that_others_wrote_behind_a_part_stay(ledger, path, monkeypatch, count):
    """What is whole of the part counts, the rest is for the farm to write again.

    A newline of theirs may end a line of ours.
    """
    path.write_bytes(lines(1))
    append_in_vain(monkeypatch, path, ledger, [2, 3], count, behind=b"\n" + lines(7, 8))
    there = path.read_bytes()
    polled = ledger.poll()
    assert path.read_bytes() == there
    assert polled.own == [2, 3][: (count >= 8) + (count >= 17)]
    assert {7, 8} <= {*polled.ids}


def test_bytes_in_common_are_those_before_the_first_difference():
    assert common_beginning(b"abc", b"abd") == b"ab"
    assert common_beginning(b"ab", b"abc") == b"ab"
    assert common_beginning(b"x", b"y") == b""
    assert common_beginning(b"", b"y") == b""


# ---- a list that grows --------------------------------------------------------------


def test_lines_beyond_the_list_count_once_it_has_grown(path):
    tasks = TASKS[:4]
    ledger = Ledger(str(path), tasks)
    path.write_bytes(lines(1, 6))
    polled = ledger.poll()
    assert (polled.ids, polled.odd) == ([1], [b"6 task 6"])
    tasks += TASKS[4:8]
    ledger.resize()
    assert [each for each in range(8) if each in ledger] == [1, 6]
    assert ledger.count == 2


def test_a_list_that_is_cut_again_knows_its_own_tasks_alone(path):
    tasks = TASKS[:8]
    ledger = Ledger(str(path), tasks)
    path.write_bytes(lines(1, 6))
    ledger.poll()
    del tasks[4:]
    ledger.resize()
    assert ledger.count == 1
    assert not ledger.has(6)
    tasks += TASKS[4:8]
    ledger.resize()
    assert ledger.has(6)
    assert ledger.count == 2


# ---- what a claim has recorded -------------------------------------------------------


def test_tasks_of_a_claim_count_as_recorded_behind_their_takes_alone(ledger, path):
    path.write_bytes(lines(1, 2))
    begin = len(lines(1))
    assert ledger.find_settled({1: begin, 2: begin}) == {2}
    assert ledger.find_settled({1: 0, 2: 0, 3: 0}) == {1, 2}
    assert ledger.find_settled({}) == set()
