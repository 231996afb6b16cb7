"""A queue as bytes: torn ends, lines of another list, and a disk that fails."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.store.queue import (
    AlienTaskError,
    end_of_line,
    find_lines_before,
    find_place,
    id_at,
    mend_tail,
    split_known,
)
from mpifarm.system import file_contents, files
from tests.unit.store_fakes import TASKS, Site


@pytest.mark.parametrize(
    ("content", "mended"),
    [
        (b"", b""),
        (b"0 echo task 0\n", b"0 echo task 0\n"),
        (b"0 echo task 0\n1 ec", b"0 echo task 0\n1 echo task 1\n"),
        (b"1 ", b"1 echo task 1\n"),
        (b"0 echo task 0\n1", b"0 echo task 0\n"),
        (b"0 echo task 0\n99 ec", b"0 echo task 0\n"),
        (b"12 ec", b""),
        (b"torn", b""),
    ],
)
def test_a_torn_last_line_is_completed_if_its_id_is_whole(content, mended):
    assert mend_tail(content, TASKS) == mended


def test_a_torn_line_of_another_list_is_refused():
    with pytest.raises(AlienTaskError, match=r"1 something \\xff"):
        mend_tail(b"0 echo task 0\n1 something \xff", TASKS)


def test_a_line_without_an_id_or_an_end_is_refused():
    content = b"7 x\nodd \xff\n8 torn"
    assert id_at(content, 0) == 7
    assert end_of_line(content, 0) == 3
    with pytest.raises(AlienTaskError, match=r"odd \\xff"):
        id_at(content, 4)
    with pytest.raises(AlienTaskError, match="its last line has no end"):
        id_at(content, 10)


def test_lines_are_parted_by_their_ids():
    content = b"1 a\n3 b\n5 c\n"
    assert split_known(content, 4) == (b"1 a\n3 b\n", b"5 c\n")
    assert split_known(content, 1) == (b"", content)
    assert split_known(content, 6) == (content, b"")
    for torn in (b"", b"7 to"):
        found = find_lines_before(content + torn, 4)
        assert file_contents.bytes_of(found) == b"1 a\n3 b\n"


@pytest.mark.parametrize(
    ("content", "is_empty"),
    [
        (b"", True),
        (b"3 x\n", False),
        (b"99 of a longer list\n", True),
        (b"odd\n", True),
    ],
)
def test_a_queue_is_empty_for_who_knows_none_of_its_lines(tmp_path, content, is_empty):
    site = Site(tmp_path / "workdir")
    added = site.open()._queues.added
    (site.root / "added").write_bytes(content)
    assert added.is_empty() is is_empty
    (site.root / "added").unlink()
    assert added.is_empty()


def test_a_queue_that_can_not_be_read_is_told(tmp_path, monkeypatch):
    added = Site(tmp_path / "workdir").open()._queues.added

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "opened", fail)
    with pytest.raises(StorageError, match="added"):
        added.is_empty()


def test_a_rank_that_leads_on_holds_once_what_two_before_it_held(tmp_path):
    """The second had begun to take over, and died before it removed the first claim."""
    site = Site(tmp_path / "workdir")
    first = site.open()
    first.transact((), (), 4)
    claim = site.root / "claims" / first.farm
    content = claim.read_bytes()
    site.kill(first)
    second = site.open(predecessor=first.farm)
    assert second.held == {0, 1, 2, 3}
    claim.write_bytes(content)
    site.kill(second)
    third = site.open(predecessor=second.farm)
    assert third.held == {0, 1, 2, 3}
    assert [path.name for path in (site.root / "claims").iterdir()] == [third.farm]
    assert site.violations() == []


@given(
    st.dictionaries(st.integers(0, 10**6), st.sampled_from([0, 1, 9, 70, 900])),
    st.integers(0, 10**6),
    st.integers(0, 5),
)
def test_a_line_is_found_wherever_it_stands_and_however_long_the_others_are(
    lengths, taskid, skipped
):
    lines = [b"%d %s\n" % (each, b"x" * lengths[each]) for each in sorted(lengths)]
    content = b"".join(lines)
    begin = len(b"".join(lines[:skipped]))
    for wanted in (taskid, *sorted(lengths)[skipped:]):
        smaller = sum(each < wanted for each in sorted(lengths)[skipped:])
        place = len(b"".join(lines[: skipped + smaller]))
        is_there = wanted in sorted(lengths)[skipped:]
        assert find_place(content, begin, wanted) == (place, is_there)
