"""``--remap``: what was done stays done, wherever its line stands now."""

import os
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.output.records import RankFiles, Record, encode_record, encode_slot
from mpifarm.store import remap
from mpifarm.store.held_file import Held, replace_held
from mpifarm.store.remap import (
    Moved,
    Old,
    OldTask,
    describe,
    read_old,
    read_tail,
    refuse_lost,
)
from mpifarm.store.task_map import Location
from tests.unit.store_fakes import (
    TASKS,
    Interference,
    Killed,
    PlainFarmer,
    Site,
    ended,
    full_disk,
    instead_of_os,
)
from tests.workdir_files import ATTEMPTS_HEAD

MAX_STEPS = 200


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "a workdir, with 'quotes' é")


def test_a_list_of_one_line_is_not_told_as_several():
    one, many = (Moved(bytearray([Location.QUEUED]) * n, {}, {}, 0) for n in (1, 1000))
    assert describe(one).startswith("--remap: of 1 line now, ")
    assert describe(many).startswith("--remap: of 1 000 lines now, ")


def begin(site: Site) -> None:
    """0 to 3 have finished, 4 and 5 failed, the rest is queued; each has its log."""
    workdir = site.open()
    workdir.transact((), (), 6)
    workdir.transact([ended(taskid, int(taskid > 3)) for taskid in range(6)], (), 0)
    for taskid in range(6):
        (site.root / "logs" / f"log_{taskid}").write_text(site.tasks[taskid])
    assert workdir.close()


def texts(site: Site, name: str) -> list[str]:
    return [site.tasks[taskid] for taskid in site.ids(name)]


def logs(site: Site) -> dict[int, str]:
    paths = (site.root / "logs").iterdir()
    return {int(path.name.removeprefix("log_")): path.read_text() for path in paths}


def kept(site: Site) -> Path:
    (directory,) = site.root.glob("before-remap-*")
    return directory


def assert_all_is_in_line(site: Site) -> None:
    for name in ("finished", "failed", "toprocess"):
        content = (site.root / name).read_text()
        assert content == site.lines(site.ids(name))
    assert site.violations() == []
    for taskid, content in logs(site).items():
        assert content == site.tasks[taskid]
    assert {each.taskid for each in site.attempts()} <= set(range(len(site.tasks)))


# ---- what becomes of it -------------------------------------------------------------


def test_finished_lines_stay_finished_wherever_they_stand_now(site):
    begin(site)
    site.tasks.insert(0, "new at the front")
    site.tasks.remove("echo task 1")
    site.tasks[5] = "changed"  # it was the failed 5
    site.tasks.append("new at the end")
    site.tasks[6], site.tasks[9] = site.tasks[9], site.tasks[6]
    workdir = site.open(remap=True)
    assert texts(site, "finished") == ["echo task 0", "echo task 2", "echo task 3"]
    assert texts(site, "failed") == ["echo task 4"]
    assert len(site.ids("toprocess")) == len(site.tasks) - 4
    assert_all_is_in_line(site)
    assert sorted(logs(site)) == sorted([*site.ids("finished"), *site.ids("failed")])
    assert workdir.notes[0].startswith(
        "--remap: of 13 lines now, 3 were finished before, 1 failed, 9 run; 1 that had "
        "finished is not in the list any more; the files as they were are in "
        f"{kept(site)}"
    )
    assert workdir.counts(workdir.survey())[:4] == (13, 3, 1, 9)


def test_what_was_held_is_held_no_more_for_its_id_means_another_task(site):
    begin(site)
    replace_held(WorkdirPaths(str(site.root)), Held(frozenset({7})))
    site.tasks.insert(0, "new at the front")
    workdir = site.open(remap=True)
    assert not (site.root / "held").exists()
    assert workdir.held_by_users == Held()


def test_what_was_is_kept_beside(site):
    begin(site)
    before = {
        name: (site.root / name).read_bytes()
        for name in ("finished", "failed", "toprocess", "attempts.tsv")
    }
    timeline = (site.root / "timeline.json").read_bytes()
    del site.tasks[1]
    site.open(remap=True)
    for name, content in before.items():
        assert (kept(site) / name).read_bytes() == content
    # its events name no ids: they are as true as before
    assert (site.root / "timeline.json").read_bytes() == timeline
    assert (kept(site) / "logs" / "log_1").read_text() == "echo task 1"
    names = {path.name for path in kept(site).iterdir()}
    assert names == {*before, "fingerprint.json", "logs", "claims", "plan.json"}


def test_attempts_follow_their_tasks(site):
    begin(site)
    site.tasks[0:2] = ["new"]
    site.open(remap=True)
    assert site.content("attempts.tsv").startswith(ATTEMPTS_HEAD.encode())
    assert [each.taskid for each in site.attempts()] == [1, 2, 3, 4]


def test_duplicates_are_matched_by_their_order(site):
    site.tasks = ["a", "b", "a", "a", "c"]
    site.write("toprocess", [0, 4])
    site.write("finished", [2, 1])
    site.write("failed", [3])
    site.tasks = ["c", "a", "new", "a", "b", "a", "a"]
    site.open(remap=True)
    assert (site.ids("finished"), site.ids("failed")) == ([3, 4], [5])
    assert site.ids("toprocess") == [0, 1, 2, 6]


def test_an_unedited_list_is_left_as_it_is_and_nothing_is_said(site):
    begin(site)
    before = site.files()
    workdir = site.open(remap=True)
    assert workdir.close()
    assert workdir.notes == []
    assert site.files() == before


def test_lines_that_were_only_added_need_no_remap_and_farms_may_be_at_work(site):
    begin(site)
    other = site.open()
    other.transact((), (), 1)
    site.tasks.append("new")
    workdir = site.open(remap=True)
    assert not [note for note in workdir.notes if "remap" in note]
    assert site.ids("added") == [12]


def test_after_it_the_list_is_as_if_begun_so(site):
    begin(site)
    site.tasks.append("added")
    assert site.open().close()
    assert site.ids("added") == [12]
    site.tasks.insert(0, "new")
    assert site.open(remap=True).close()
    assert not (site.root / "added").exists()
    assert site.ids("toprocess") == [0, *range(7, 14)]
    workdir = site.open()
    assert workdir.notes == []
    assert workdir.transact((), (), 9).taken == [0, *range(7, 14)]


def test_a_list_may_be_remapped_again(site):
    begin(site)
    for text in ("one", "another"):
        site.tasks.insert(0, text)
        assert site.open(remap=True).close()
    assert len(list(site.root.glob("before-remap-*"))) == 2
    assert texts(site, "finished") == TASKS[:4]
    assert_all_is_in_line(site)


def test_a_workdir_of_plain_farmers_alone_can_be_remapped(site):
    site.write("finished", [0, 3])
    site.write("failed", [1])
    site.write("toprocess", [2, *range(4, 12)])
    site.tasks.reverse()
    site.open(remap=True)
    assert (site.ids("finished"), site.ids("failed")) == ([8, 11], [10])
    assert site.violations() == []


def test_what_a_dead_farm_held_runs_again_even_if_it_failed_before(site):
    begin(site)
    site.write("toprocess", [4, *range(6, 12)])
    workdir = site.open()
    assert workdir.transact((), (), 3).taken == [4, 6, 7]
    workdir.transact([ended(7, 1)], (), 0)
    site.kill(workdir)
    del site.tasks[0]
    workdir = site.open(remap=True)
    assert texts(site, "failed") == ["echo task 5", "echo task 7"]
    assert texts(site, "toprocess")[:2] == ["echo task 4", "echo task 6"]
    assert list((site.root / "claims").iterdir()) == [
        site.root / "claims" / workdir.farm
    ]
    assert_all_is_in_line(site)


def test_without_toprocess_all_that_has_not_finished_runs(site):
    begin(site)
    (site.root / "toprocess").unlink()
    del site.tasks[0]
    site.open(remap=True)
    assert site.ids("finished") == [0, 1, 2]
    assert site.ids("toprocess") == list(range(3, 11))


def test_a_torn_line_records_nothing(site):
    site.tasks = ["run 0", "run 12", "run 13"]
    site.write("toprocess", [0, 1])
    (site.root / "finished").write_text("1 run 1\n2 run 13")
    site.tasks = ["run 13", "run 1", "run 0"]
    site.open(remap=True)
    assert site.ids("finished") == []
    assert site.ids("toprocess") == [0, 1, 2]


def test_a_list_that_a_plain_farmer_went_on_with_after_an_edit_is_matched(site):
    site.write("finished", [0, 1])
    site.tasks[1] = "changed"
    with (site.root / "finished").open("a") as stream:
        stream.write(site.lines([1, 2]))
    site.write("toprocess", range(3, 12))
    site.tasks.append(TASKS[1])
    site.open(remap=True)
    assert site.ids("finished") == [0, 1, 2, 12]


def test_bytes_that_are_no_text_stay_what_they_are(site):
    site.tasks = ["echo \udcff", "echo é", "x"]
    site.root.mkdir()
    (site.root / "finished").write_bytes(b"0 echo \xff\n1 echo \xc3\xa9\n")
    (site.root / "toprocess").write_bytes(b"2 x\n")
    site.tasks.insert(0, "new")
    site.open(remap=True)
    finished = (site.root / "finished").read_bytes()
    assert finished == b"1 echo \xff\n2 echo \xc3\xa9\n"


# ---- what is refused ----------------------------------------------------------------


def refused(site: Site, match: str, *, remap: bool = True) -> None:
    before = site.files()
    with pytest.raises(InputError, match=match):
        site.open(remap=remap)
    assert site.files() == before


def test_without_remap_an_edit_is_refused_and_the_option_is_named(site):
    begin(site)
    site.tasks.insert(0, "new")
    refused(site, r"edited .*add --remap", remap=False)


def test_a_farm_at_work_is_named(site):
    begin(site)
    other = site.open()
    site.tasks.insert(0, "new")
    refused(site, rf"farm {other.farm} on node1 \(pid 2\) is at work there: end it")
    # a lock that is local to a node can be taken, and proves nothing
    other._member.claim.end()
    refused(site, rf"farm {other.farm} on node1 \(pid 2\) may still be at work")


def test_a_claim_that_is_not_understood_is_named(site):
    begin(site)
    (site.root / "claims" / "deadbeef").write_bytes(b"garbage\n")
    site.tasks.insert(0, "new")
    refused(site, "farm deadbeef may still be at work")


def test_tasks_that_may_be_with_a_plain_farmer_are_named(site):
    begin(site)
    plain = PlainFarmer(site)
    popped = plain.pop()
    site.tasks.insert(0, "new")
    refused(site, rf"1 of the old list's tasks \({popped}\).* remove .*toprocess")
    (site.root / "toprocess").unlink()
    site.open(remap=True)
    assert site.violations() == []


# ---- kills --------------------------------------------------------------------------


@pytest.fixture
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def edited(site: Site) -> Site:
    """A begun workdir with a dead farm's claim, and a list with edits of all kinds."""
    begin(site)
    workdir = site.open()
    workdir.transact((), (), 2)
    site.kill(workdir)
    (site.root / f"toprocess.{workdir.farm}.9").write_text("")
    site.tasks[3:3] = ["new", "new"]
    del site.tasks[1]
    site.tasks[0], site.tasks[5] = site.tasks[5], site.tasks[0]
    return site


def assert_remapped(site: Site) -> None:
    done = sorted(["echo task 0", "echo task 2", "echo task 3"])
    assert sorted(texts(site, "finished")) == done
    assert sorted(texts(site, "failed")) == ["echo task 4", "echo task 5"]
    assert_all_is_in_line(site)
    assert len(logs(site)) == 5
    assert len(list(site.root.glob("before-remap-*"))) == 1
    assert not list(site.root.glob("remap*"))
    assert not list(site.root.glob("toprocess.*"))


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
@pytest.mark.parametrize("strike", [Killed, full_disk])
@pytest.mark.parametrize("half", [False, True])
def test_after_a_break_at_any_step_the_next_start_goes_on(tmp_path, strike, half):
    told = set()
    for at in range(1, MAX_STEPS):
        site = edited(Site(tmp_path / f"site {at}"))
        if not broken_at(site, at, strike(), half=half):
            break
        with pytest.raises(InputError, match=r"--remap") as refusal:
            site.open()
        told.add("was interrupted" in str(refusal.value))
        workdir = site.open(remap=True)
        assert_remapped(site)
        workdir.transact((), (), 20)
    else:
        pytest.fail("it never came to its end")
    assert told == {False, True}


def broken_at(site: Site, at: int, strike: BaseException, *, half: bool) -> bool:
    """Whether a start with --remap has come so far, and not to the end of it."""
    with instead_of_os(Interference(at, strike, half=half)):
        try:
            workdir = site.open(remap=True)
        except (Killed, StorageError):
            return not list(site.root.glob("before-remap-*"))
    site.kill(workdir)
    return False


@pytest.mark.usefixtures("_no_waiting_for_the_disk")
def test_a_second_kill_while_the_first_is_mended_changes_nothing(tmp_path):
    dice = random.Random(7)
    for number in range(40):
        site = edited(Site(tmp_path / f"site {number}"))
        for _ in range(3):
            broken_at(site, dice.randint(1, 50), Killed(), half=dice.random() < 0.5)
        site.open(remap=True)
        assert_remapped(site)


def test_a_list_that_is_edited_again_after_a_kill_is_remapped_again(tmp_path):
    for at in range(40, 60):
        site = edited(Site(tmp_path / f"site {at}"))
        broken_at(site, at, Killed(), half=False)
        site.tasks.insert(2, "edited again")
        del site.tasks[0]
        site.open(remap=True)
        assert_all_is_in_line(site)
        done = set(texts(site, "finished")) | {"echo task 4", "echo task 5"}
        assert {"echo task 2", "echo task 3"} < done


# ---- any list, any edit -------------------------------------------------------------

lines = st.lists(st.sampled_from(["a", "b", "a b", "c", "d"]), min_size=1, max_size=12)


@settings(max_examples=80)
@given(data=st.data(), old=lines, new=lines)
def test_any_edit_of_any_list_keeps_what_was_done(data, old, new):
    fates = st.sampled_from(["finished", "failed", "toprocess"])
    states = data.draw(st.lists(fates, min_size=len(old), max_size=len(old)))
    at = data.draw(st.integers(1, 60), label="killed at")
    with TemporaryDirectory() as directory, mock.patch.object(os, "fsync"):
        site = Site(Path(directory) / "w", old)
        for name in ("finished", "failed", "toprocess"):
            site.write(name, [i for i, state in enumerate(states) if state == name])
        assert site.open().close()
        site.tasks = list(new)
        broken_at(site, at, Killed(), half=False)
        workdir = site.open(remap=True)
        places = {}
        for name in ("finished", "failed"):
            places.update(dict.fromkeys(site.ids(name), name))
        seen: Counter[str] = Counter()
        for taskid, text in enumerate(new):
            of_that_text = [
                state for was, state in zip(old, states, strict=True) if was == text
            ]
            rank, seen[text] = seen[text], seen[text] + 1
            was = of_that_text[rank] if rank < len(of_that_text) else "toprocess"
            assert places.get(taskid, "toprocess") == was
        assert site.violations() == []
        site.kill(workdir)


# ---- what was, as it is read ---------------------------------------------------------


def old_of(site: Site) -> Old:
    return read_old(WorkdirPaths(str(site.root)), site.machine(99))


def test_a_task_is_where_the_surest_of_its_lines_says(site):
    site.root.mkdir()
    (site.root / "toprocess").write_text("0 a\n1 b\n2 c\n7 to")
    (site.root / "added").write_text("8 i\n")
    (site.root / "waiting").write_text("9 j\n")
    (site.root / "failed").write_text("1 b\n2 c\n3 d\n5 fa")
    (site.root / "finished").write_text("2 c\n4 e\n6 fi")
    old = old_of(site)
    assert {task.taskid: place for task, place in old.known.items()} == {
        **dict.fromkeys((0, 1, 8, 9), Location.QUEUED),
        3: Location.FAILED,
        **dict.fromkeys((2, 4), Location.FINISHED),
        **dict.fromkeys((5, 6, 7), Location.NOWHERE),
    }
    assert (old.total, old.has_queue, old.claimed, old.claims) == (
        *(10, True),
        *(frozenset(), ()),
    )
    (site.root / "toprocess").unlink()
    old = old_of(site)
    assert old.known[OldTask(3, "d")] is Location.QUEUED
    assert not old.has_queue


def test_the_old_list_was_as_long_as_its_fingerprint_says(site):
    site.open().close()
    assert old_of(site).total == len(TASKS)
    (site.root / "fingerprint.json").unlink()
    assert old_of(site).total == 0


@pytest.mark.parametrize(
    ("content", "taskids"),
    [(b"", []), (b"3 x\n", []), (b"3 x\n4 y", [4]), (b"5 z", [5]), (b"3 x\nodd", [])],
)
def test_a_last_line_without_its_newline_tells_its_task(content, taskids):
    assert [task.taskid for task in read_tail(content)] == taskids


@pytest.mark.parametrize(
    ("lost", "named"), [(5, "(0, 1, 2, 3, 4) are"), (6, "(0, 1, 2, 3, 4, …) are")]
)
def test_up_to_five_lost_tasks_are_named(site, lost, named):
    known = {OldTask(taskid, "x"): Location.QUEUED for taskid in range(lost, 8)}
    old = Old(known, frozenset({8}), ("f00d",), 9, has_queue=True)
    paths = WorkdirPaths(str(site.root))
    with pytest.raises(InputError) as caught:
        refuse_lost(paths, old)
    assert f"{lost} of the old list's tasks {named} in no file" in str(caught.value)
    refuse_lost(paths, old._replace(has_queue=False))
    refuse_lost(paths, old._replace(claimed=frozenset(range(9))))


def test_the_records_of_packed_outputs_follow_their_tasks(site):
    begin(site)
    packed = site.root / "logs" / "packed"
    packed.mkdir()
    rank_files = RankFiles(str(packed), "f00dcafe", 0)
    records = [Record(taskid, 1, 0, 1e9, None, 10 * taskid, 10) for taskid in (0, 7)]
    Path(rank_files.index).write_bytes(b"".join(map(encode_record, records)))
    Path(rank_files.pack).write_bytes(b"x" * 100)
    Path(rank_files.running).write_bytes(encode_slot(Record(3, 1, 0, 1e9, 0, 0, None)))
    before = Path(rank_files.index).read_bytes()
    site.tasks.insert(0, "new at the front")
    site.open(remap=True)
    moved = [records[0]._replace(taskid=1)]
    assert Path(rank_files.index).read_bytes() == b"".join(map(encode_record, moved))
    assert Path(rank_files.running).read_bytes() == encode_slot(
        Record(4, 1, 0, 1e9, 0, 0, None)
    )
    copy = kept(site) / "logs" / "packed" / Path(rank_files.index).name
    assert copy.read_bytes() == before
    assert Path(rank_files.pack).read_bytes() == b"x" * 100


def test_files_of_several_remaps_in_one_second_have_names_of_their_own(site):
    site.root.mkdir()
    paths = WorkdirPaths(str(site.root))
    names = []
    for _ in range(3):
        names.append(remap._find_free_name(paths, 1e9))
        Path(names[-1]).mkdir()
    assert names[1:] == [f"{names[0]}-2", f"{names[0]}-3"]
