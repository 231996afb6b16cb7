"""Files and lists of millions of lines: taken in parts, with the same result."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.model.packed_texts import PackedTexts
from mpifarm.store import file_store as workdir
from mpifarm.store import optimistic
from mpifarm.store.fingerprint import take_fingerprint
from mpifarm.store.queue import AlienTaskError, mend_tail, plan_toprocess
from mpifarm.store.status_lines import (
    encode_blocks,
    encode_lines,
    scan_ids,
    scan_status,
)
from mpifarm.store.validate import Snapshot, validate_snapshot
from mpifarm.system import file_contents, files
from tests.unit.store_fakes import SMALL_PARTS, PlainFarmer, Site, ended

TASKS = [f"echo é {number} \udcff" for number in range(40)]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "workdir", [f"echo {number}" for number in range(40)])


@pytest.fixture
def small_parts(monkeypatch):
    for name, value in SMALL_PARTS.items():
        monkeypatch.setattr(file_contents, name, value)


@contextmanager
def as_large_file(content: bytes) -> Iterator[file_contents.LargeFile]:
    descriptor = os.memfd_create("large")
    try:
        os.write(descriptor, content)
        yield file_contents.LargeFile(descriptor, "large", len(content))
    finally:
        os.close(descriptor)


# ---- a large file -------------------------------------------------------------------


contents = st.lists(st.sampled_from([b"\n", b"x", b"x" * 20, b"x" * 50])).map(b"".join)


@given(contents, st.integers(0, 210), st.integers(0, 210))
@example(b"x" * 20 + b"\n" + b"x" * 40 + b"\n", 0, 40)
def test_a_large_file_is_read_as_its_bytes_would_be(content, begin, end):
    with pytest.MonkeyPatch.context() as patched:
        for name, value in SMALL_PARTS.items():
            patched.setattr(file_contents, name, value)
        with as_large_file(content) as large:
            assert len(large) == len(content)
            assert large[begin:end] == content[begin:end]
            assert large[begin:] == content[begin:]
            assert large.find(b"\n", begin) == content.find(b"\n", begin)
            last = min(end, len(content))
            assert large.rfind(b"\n", begin, last) == content.rfind(b"\n", begin, last)


def test_a_part_that_is_gone_is_an_error_and_no_end():
    with as_large_file(b"0 echo\n" * 10_000) as large:
        os.ftruncate(large.descriptor, 100)
        with pytest.raises(StorageError, match="got shorter"):
            large.find(b"x", 0)


queues = st.sets(st.integers(0, len(TASKS) - 1)).map(sorted)


@given(queues, queues, st.integers(0, 12), st.sets(st.integers(0, 39)), st.integers(0))
def test_a_queue_is_composed_of_a_large_file_as_of_its_bytes(
    queued, back, take, blocked, cut
):
    whole = encode_lines(queued, TASKS)
    content = whole[: len(whole) - cut % 12]

    def compose(content: file_contents.Content) -> object:
        try:
            mended = mend_tail(content, TASKS)
            plan = plan_toprocess(mended, TASKS, blocked.__contains__, back, take)
        except AlienTaskError as error:
            return str(error)
        return plan._replace(
            chunks=[b"".join(map(file_contents.bytes_of, plan.chunks))]
        )

    with as_large_file(content) as large:
        assert compose(large) == compose(content)


def test_a_part_is_copied_byte_by_byte(tmp_path, small_parts):
    content = bytes(range(256)) * 3
    with as_large_file(content) as large:
        part = file_contents.part_of(large, 5, 700)
        blocks = file_contents.blocks_of([b"front", part, b"end"])
        files.write_staging_file(str(tmp_path / "copy"), blocks)
    assert (tmp_path / "copy").read_bytes() == b"front" + content[5:700] + b"end"


# ---- a large file that others change ------------------------------------------------


def read(found: file_contents.FileState | None, *, appended: bool) -> bytes:
    assert found is not None
    assert found.content is None
    return b"".join(found.blocks(appended=appended))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("appended", [False, True])
@pytest.mark.parametrize("change", [replaced, shortened, removed])
def test_what_is_not_any_more_what_it_was_is_told(
    tmp_path, small_parts, change, appended
):
    path = tmp_path / "file"
    path.write_bytes(b"0 echo\n" * 30)
    found = file_contents.find_state(str(path))
    change(path)
    with pytest.raises(file_contents.ChangedError):
        read(found, appended=appended)


def test_what_is_appended_meanwhile_is_left_out_or_told(tmp_path, small_parts):
    path = tmp_path / "file"
    path.write_bytes(b"0 echo\n" * 30)
    found = file_contents.find_state(str(path))
    with path.open("ab") as stream:
        stream.write(b"1 echo\n")
    assert read(found, appended=True) == b"0 echo\n" * 30
    with pytest.raises(file_contents.ChangedError):
        read(found, appended=False)


@pytest.mark.parametrize("moment", [2, 8, 20])
def test_a_start_reads_again_what_got_shorter_under_its_hands(
    site, small_parts, monkeypatch, moment
):
    site.write("toprocess", range(40))
    read_part, reads = file_contents._read_part, []

    def read(descriptor, begin, end):
        reads.append(begin)
        if len(reads) == moment:
            site.write("toprocess", range(20))  # in place, as a PyTaskFarmer does
        return read_part(descriptor, begin, end)

    monkeypatch.setattr(file_contents, "_read_part", read)
    site.open()
    assert len(reads) >= moment
    assert site.ids("toprocess") == [*range(20)]


def test_a_queue_that_had_to_be_read_in_one_piece_is_put_in_order(
    site, small_parts, monkeypatch
):
    site.write("toprocess", reversed(range(40)))

    def judge(snapshot, tasks, paths, *more):
        if snapshot.toprocess.content is None:
            raise file_contents.ChangedError("it changes whenever it is read in parts")
        return validate_snapshot(snapshot, tasks, paths)

    monkeypatch.setattr(workdir, "validate_snapshot", judge)
    site.open()
    assert site.ids("toprocess") == [*range(40)]


@pytest.mark.parametrize(("tries", "needed"), [(10, 6), (3, 4)])
def test_a_start_judges_again_what_changed_while_it_was_read(
    site, small_parts, monkeypatch, tries, needed
):
    site.write("toprocess", range(40))
    plain = PlainFarmer(site)
    judged: list[Snapshot] = []

    def judge(snapshot, tasks, paths, *more):
        if len(judged) < 5:
            plain.pop()
        judged.append(snapshot)
        return validate_snapshot(snapshot, tasks, paths)

    monkeypatch.setattr(workdir, "validate_snapshot", judge)
    monkeypatch.setattr(optimistic, "TRIES_WITHOUT_LOCK", tries)
    farm = site.open()
    assert len(judged) == needed
    assert farm.counts(farm.survey()).elsewhere == len(plain.hand) > 3


def test_a_large_queue_that_changed_since_the_survey_is_counted_again_under_the_lock(
    site, small_parts
):
    farm = site.open()
    taken = farm.transact((), (), 8).taken
    farm.transact([ended(0), ended(1, 1)], (), 0)
    survey = farm.survey()
    assert farm.counts(survey)[:4] == (40, 1, 1, 40 - len(taken))
    farm.close()
    PlainFarmer(site).pop()
    with pytest.raises(file_contents.ChangedError):
        farm.counts(survey)
    counts = farm.counts(farm.survey())
    assert counts[:4] == (40, 1, 1, 40 - len(taken) - 1)
    assert (counts.held, counts.claimed, counts.elsewhere) == (6, 0, 1)


def test_a_queue_that_is_cut_off_while_it_is_copied_is_composed_anew(
    site, small_parts, monkeypatch
):
    farm = site.open()
    farm.transact((), (), 2)
    whole = (site.root / "toprocess").read_bytes()
    read_blocks = file_contents._read_blocks

    def cut_off(part):
        os.truncate(site.root / "toprocess", 100)
        yield from read_blocks(part)

    with monkeypatch.context() as patched:
        patched.setattr(file_contents, "_read_blocks", cut_off)
        farm.prepare((), (), 3)
    (site.root / "toprocess").write_bytes(whole)
    assert farm.transact((), (), 3).taken == [2, 3, 4]
    assert site.ids("toprocess") == list(range(5, 40))
    assert site.violations() == []


# ---- a long list --------------------------------------------------------------------


def packed(texts: list[str]) -> PackedTexts:
    tasks = PackedTexts()
    half = len(texts) // 2
    tasks.extend(texts[:half])
    tasks.extend(texts[half:])
    return tasks


texts = st.lists(
    st.text(
        st.one_of(
            st.characters(codec="utf-8", exclude_characters="\r\n\0"),
            st.sampled_from("\udc80\udcc3\udcff "),
        ),
        min_size=1,
        max_size=6,
    ).map(lambda text: text.encode("utf-8", "surrogateescape")),
    max_size=12,
).map(lambda found: [each.decode("utf-8", "surrogateescape") for each in found])


@given(texts, st.integers(-15, 15), st.integers(-15, 15))
def test_packed_texts_are_the_sequence_that_was_packed(found, begin, end):
    tasks = packed(found)
    assert list(tasks) == found
    assert tasks == found
    assert tasks != [*found, "more"]
    assert [tasks[taskid] for taskid in range(len(found))] == found
    assert tasks[begin:end] == found[begin:end]
    if -len(found) <= begin < len(found):
        assert tasks[begin] == found[begin]
    else:
        with pytest.raises(IndexError):
            tasks[begin]


@given(texts, st.data())
def test_lines_and_fingerprints_of_packed_texts_are_those_of_a_list(found, data):
    tasks = packed(found)
    ids = data.draw(st.permutations(range(len(found))))
    content = encode_lines(ids, found)
    assert encode_lines(ids, tasks) == content
    assert encode_lines(range(len(found)), tasks) == encode_lines(
        range(len(found)), found
    )
    cut = data.draw(st.integers(0, len(content)))
    junk = data.draw(st.binary(max_size=4))
    damaged = content[:cut] + junk + content[cut:]
    assert scan_status(damaged, tasks) == scan_status(damaged, found)
    assert take_fingerprint(tasks) == take_fingerprint(found)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_a_status_file_says_the_same_in_blocks_cut_anywhere(junk, cuts):
    content = encode_lines([*range(5, 15), 3, 2], TASKS) + junk
    places = [0, *sorted(cuts), len(content)]
    blocks = [content[begin:end] for begin, end in pairwise(places)]
    assert scan_status(blocks, TASKS) == scan_status(content, TASKS)


def test_the_lines_of_many_tasks_come_in_blocks_and_are_counted_by_their_ids():
    tasks = [f"echo {number}" for number in range(5_000)]
    ids = [each for each in range(5_000) if each != 2_500]
    blocks = list(encode_blocks(ids, tasks))
    assert len(blocks) > 2
    found = list(scan_ids(blocks))
    assert [taskid for run in found for taskid in run] == ids
    assert any(isinstance(run, range) for run in found)
    assert any(isinstance(run, list) for run in found)
    assert list(scan_status(b"".join(blocks), tasks)[0]) == ids
