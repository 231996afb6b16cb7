"""Lines that are added to the end of a list in use, and who knows of them."""

import json
from contextlib import suppress

import pytest

from mpifarm.errors import InputError
from mpifarm.store.fingerprint import parse_fingerprint
from mpifarm.store.status_lines import TornLine, classify_odd
from tests.unit.store_fakes import (
    TASKS,
    Killed,
    PlainFarmer,
    Site,
    ended,
    interference,
)

KNOWN = len(TASKS)
LONGER_LIST = (
    "lines were added to the tasklist while this farm works: it does the first 12 "
    "tasks, others do the rest"
)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "workdir")


def begin(site: Site):
    """A farm that has run 0 to 2 and leaves the rest."""
    workdir = site.open()
    taken = workdir.transact((), (), 3).taken
    workdir.transact([ended(taskid) for taskid in taken], (), 0)
    return workdir


def begin_and_add(site: Site, *texts: str):
    assert begin(site).close()
    site.tasks += texts
    return site.open()


def work(workdir, *, at_once: int = 4) -> list[int]:
    """Do all that is left, and return it in order."""
    done = []
    while taken := workdir.transact((), (), at_once).taken:
        workdir.transact([ended(taskid) for taskid in taken], (), 0)
        done += taken
    return done


def first_added(site: Site) -> int:
    stored = parse_fingerprint((site.root / "fingerprint.json").read_bytes())
    assert stored is not None
    return stored.first_added


# ---- one farm after the other -------------------------------------------------------


def test_added_lines_run_behind_the_others_and_never_stand_in_toprocess(site):
    workdir = begin_and_add(site, "one more", "another")
    assert site.ids("toprocess") == list(range(3, 12))
    assert site.ids("added") == [12, 13]
    assert "2 tasks were added to the list since the last start: they run too" in (
        workdir.notes
    )
    assert first_added(site) == KNOWN
    assert work(workdir) == list(range(3, 14))
    assert workdir.counts(workdir.survey())[:3] == (14, 14, 0)
    assert workdir.close()


def test_they_are_told_once(site):
    assert begin_and_add(site, "one more").close()
    notes = site.open().notes
    assert not [note for note in notes if "added" in note]
    assert site.ids("added") == [12]


def test_one_is_told_as_one(site):
    notes = begin_and_add(site, "one more").notes
    assert "1 task was added to the list since the last start: it runs too" in notes


def test_lines_may_be_added_again_and_again(site):
    workdir = begin_and_add(site, "one more", "another")
    assert workdir.transact((), (), 10).taken[-1] == 12
    workdir.transact((), sorted(workdir.held), 0)
    assert workdir.close()
    site.tasks += ["third"]
    again = site.open()
    assert site.ids("added") == [12, 13, 14]
    assert first_added(site) == KNOWN
    assert work(again) == list(range(3, 15))


def test_duplicates_that_are_added_are_tasks_of_their_own(site):
    workdir = begin_and_add(site, *TASKS)
    assert work(workdir) == list(range(3, 24))


def test_a_take_goes_from_one_queue_into_the_other(site):
    workdir = begin_and_add(site, "one more", "another")
    workdir.transact((), (), 7)
    for prepared in (True, False):
        if prepared:
            workdir.prepare((), (), 3)
            assert len(list(site.root.glob("toprocess.*"))) == 2
        done = workdir.transact((), (), 3)
        assert (done.taken, done.empty) == ([10, 11, 12], False)
        workdir.transact((), done.taken, 0)
        assert site.ids("added") == [12, 13]
    done = workdir.transact((), (), 9)
    assert (done.taken, done.empty) == ([10, 11, 12, 13], True)
    assert not list(site.root.glob("toprocess.*"))


def test_what_is_given_back_goes_where_it_came_from(site):
    workdir = begin_and_add(site, "one more", "another")
    workdir.transact((), (), 20)
    done = workdir.transact((), [11, 12], 0)
    assert (done.taken, done.empty) == ([], False)
    assert (site.ids("toprocess"), site.ids("added")) == ([11], [12])
    workdir.transact((), (), 1)
    assert not workdir.transact((), (), 0).empty
    workdir.transact((), (), 1)
    assert workdir.transact((), (), 0).empty
    assert site.violations() == []


def test_what_a_dead_farm_held_goes_back_where_it_came_from(site):
    workdir = begin_and_add(site, "one more", "another")
    workdir.transact((), (), 11)
    workdir.transact([ended(13, 1)], (), 0)
    site.kill(workdir)
    after = site.open()
    assert site.ids("toprocess") == list(range(3, 12))
    assert site.ids("added") == [12]
    assert after.counts(after.survey())[:4] == (14, 3, 1, 10)
    assert site.violations() == []


def test_they_are_counted_wherever_they_are(site):
    workdir = begin_and_add(site, "one more", "another", "third")
    assert workdir.counts(workdir.survey())[:7] == (15, 3, 0, 12, 0, 0, 0)
    workdir.transact((), (), 11)
    assert workdir.counts(workdir.survey())[:7] == (15, 3, 0, 1, 11, 0, 0)
    workdir.transact([ended(13, 1), ended(12)], (), 0)
    assert workdir.counts(workdir.survey())[:7] == (15, 4, 1, 1, 9, 0, 0)


def test_a_list_that_had_not_begun_is_begun_anew(site):
    assert site.open().close()
    site.tasks += ["one more"]
    workdir = site.open()
    assert workdir.transact((), (), 13).taken == list(range(13))
    assert first_added(site) == 13
    assert not (site.root / "added").exists()


def test_a_workdir_whose_status_files_were_removed_is_begun_anew(site):
    assert begin_and_add(site, "one more", "another").close()
    for name in ("toprocess", "finished"):
        (site.root / name).unlink()
    workdir = site.open()
    assert work(workdir) == list(range(14))
    assert first_added(site) == 14


def test_without_toprocess_all_that_has_not_finished_runs(site):
    workdir = begin_and_add(site, "one more", "another", "third")
    taken = workdir.transact((), (), 11).taken
    workdir.transact([ended(taskid, taskid % 2) for taskid in taken], (), 0)
    assert workdir.close()
    (site.root / "toprocess").unlink()
    again = site.open()
    assert site.ids("toprocess") == [3, 5, 7, 9, 11]
    assert site.ids("added") == [13, 14]
    assert work(again) == [3, 5, 7, 9, 11, 13, 14]


def test_without_toprocess_failed_ones_run_again_whatever_kills_the_start(
    tmp_path, monkeypatch
):
    for at in range(1, 40):
        site = Site(tmp_path / f"site {at}")
        workdir = begin_and_add(site, "one more", "another")
        taken = workdir.transact((), (), 20).taken
        workdir.transact([ended(taskid, 1) for taskid in taken], (), 0)
        assert workdir.close()
        (site.root / "toprocess").unlink()
        with interference(monkeypatch, at, Killed(), half=False), suppress(Killed):
            site.kill(site.open())
        assert work(site.open()) == list(range(3, 14))


def test_without_toprocess_lines_may_be_added_as_well(site):
    assert begin(site).close()
    (site.root / "toprocess").unlink()
    site.tasks += ["one more"]
    workdir = site.open()
    assert site.ids("toprocess") == list(range(3, 12))
    assert work(workdir) == list(range(3, 13))


def test_failed_ones_that_the_user_puts_back_run_again(site):
    workdir = begin_and_add(site, "one more")
    taken = workdir.transact((), (), 20).taken
    workdir.transact([ended(taskid, 1) for taskid in taken], (), 0)
    assert workdir.close()
    (site.root / "failed").rename(site.root / "toprocess")
    assert work(site.open()) == list(range(3, 13))


def test_a_fingerprint_that_was_lost_does_not_lose_them(site):
    assert begin_and_add(site, "one more", "another").close()
    (site.root / "fingerprint.json").unlink()
    workdir = site.open()
    assert first_added(site) == KNOWN
    assert work(workdir) == list(range(3, 14))


@pytest.mark.parametrize("value", [-1, 15, "12", None, 1.5])
def test_a_fingerprint_with_an_odd_number_is_none(site, value):
    assert begin_and_add(site, "one more", "another").close()
    path = site.root / "fingerprint.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "first_added": value}))
    assert parse_fingerprint(path.read_bytes()) is None
    assert work(site.open()) == list(range(3, 14))


def test_an_edit_of_an_added_line_is_refused(site):
    assert begin_and_add(site, "one more", "another").close()
    site.tasks[13] = "something else"
    with pytest.raises(InputError, match=r"was edited .* had 14 tasks.*--remap"):
        site.open()


# ---- beside farms that know the shorter list ----------------------------------------


def test_a_farm_of_the_shorter_list_goes_on_and_says_one_sentence(site):
    old = begin(site)
    old.transact((), (), 2)
    site.tasks += [TASKS[2], "another", "third"]
    new = site.open()
    assert new.transact((), (), 20).taken == list(range(5, 15))
    new.transact([ended(12), ended(13, 1), ended(5)], (), 0)
    assert old.transact([ended(3)], (), 4).taken == []
    assert old.counts(old.survey())[:7] == (12, 5, 0, 0, 1, 6, 0)
    assert old.reclaim_dead() == 0
    told = [note for note in old.notes if "lines were added" in note]
    assert told == [LONGER_LIST]
    assert not [note for note in old.notes if "is of no task" in note]
    assert old.transact([ended(4)], (), 4).empty
    assert old.close()
    assert site.violations() == []


def test_a_farm_of_the_shorter_list_gives_back_only_what_it_knows_of_a_dead_one(site):
    old = begin(site)
    site.tasks += ["one more"]
    new = site.open()
    assert new.transact((), (), 20).taken == list(range(3, 13))
    site.kill(new)
    for _ in range(2):
        old.reclaim_dead()
        assert site.ids("toprocess") == list(range(3, 12))
    told = [note for note in old.notes if "holds tasks that were added" in note]
    assert len(told) == 1
    assert work(old) == list(range(3, 12))
    assert old.counts(old.survey())[:4] == (12, 12, 0, 0)
    assert old.close()
    assert work(site.open()) == [12]


def test_a_farm_leaves_what_was_added_after_its_start_in_its_place(site):
    middle = begin_and_add(site, "one more", "another")
    middle.transact((), (), 9)
    site.tasks += ["third"]
    last = site.open()
    done = middle.transact((), (), 9)
    assert (done.taken, done.empty) == ([12, 13], True)
    assert site.ids("added") == [14]
    middle.transact((), [12, 13], 0)
    assert site.ids("added") == [12, 13, 14]
    assert middle.transact((), (), 2).taken == [12, 13]
    middle.transact([ended(taskid) for taskid in sorted(middle.held)], (), 0)
    assert middle.transact((), (), 0).empty
    assert middle.counts(middle.survey())[:2] == (14, 14)
    assert work(last) == [14]


def test_a_vanished_toprocess_is_made_of_what_each_farm_may_put_there(site):
    old = begin(site)
    site.tasks += ["one more"]
    new = site.open()
    assert new.transact((), (), 20).taken[-1] == 12
    new.transact((), (3, 4), 0)
    (site.root / "toprocess").unlink()
    assert old.transact((), (), 9).taken == [3, 4]
    (site.root / "toprocess").unlink()
    assert new.transact((), [12], 9).taken == []
    assert (site.ids("toprocess"), site.ids("added")) == ([], [12])


def test_a_plain_farmer_of_the_shorter_list_never_meets_them(site):
    plain = PlainFarmer(site)
    site.root.mkdir()
    popped = [taskid for _ in range(3) if (taskid := plain.pop()) is not None]
    assert site.open().close()
    site.tasks += ["one more", "another"]
    workdir = site.open()
    taken = workdir.transact((), (), 5).taken
    popped += plain.hand - set(popped) if plain.pop() is not None else ()
    workdir.transact((), taken, 0)
    plain.requeue(popped[0])
    rest = work(workdir)
    assert sorted([*rest, *popped[1:]]) == list(range(14))
    assert plain.pop() is None
    assert site.violations(plain.hand) == []


def test_what_a_plain_farmer_of_the_longer_list_has_taken_up_is_not_added_again(site):
    assert site.open().close()
    site.write("finished", [0])
    site.tasks += ["one more", "another"]
    plain = PlainFarmer(site)
    plain.pop()
    workdir = site.open()
    assert site.ids("added") == []
    assert "lines were added to the list, and other farmers have them" in workdir.notes
    assert work(workdir) == sorted(set(range(1, 14)) - plain.hand)


def test_a_line_of_a_longer_list_is_not_taken_for_two_torn_ones(site):
    # "112 x" may be a torn "1" before "12 x", but it is the line of an added task.
    tasks = [*TASKS, "x"]
    assert classify_odd(b"112 x", tasks, may_be_torn=True) == TornLine((), None)
    workdir = site.open()
    workdir.transact((), (), 12)
    (site.root / "finished").write_text("110 echo task 10\n")
    workdir.transact((), (), 0)
    assert workdir.recorded == (0, 0)
