"""Lines that a farm takes up while it works, and who shares the workdir then."""

import pytest

from mpifarm.errors import StorageError
from mpifarm.store import fingerprint
from mpifarm.store.fingerprint import (
    ListMatch,
    compare,
    encode_fingerprint,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.store.status_lines import encode_texts
from mpifarm.store.take_up import TakenUp
from mpifarm.system import files
from tests.unit.store_fakes import (
    TASKS,
    PlainFarmer,
    Site,
    ended,
    full_disk,
    interference,
)

KNOWN = len(TASKS)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "workdir")
    site.grows = True
    return site


def begin(site: Site):
    """A farm that has run 0 to 2 and leaves the rest."""
    workdir = site.open()
    workdir.grows = True
    taken = workdir.transact((), (), 3).taken
    workdir.transact([ended(taskid) for taskid in taken], (), 0)
    return workdir


def work(workdir, *, at_once: int = 4) -> list[int]:
    """Do all that is left, and return it in order."""
    done = []
    while taken := workdir.transact((), (), at_once).taken:
        workdir.transact([ended(taskid) for taskid in taken], (), 0)
        done += taken
    return done


def stored(site: Site):
    return parse_fingerprint((site.root / "fingerprint.json").read_bytes())


def test_added_lines_run_behind_the_others_and_never_stand_in_toprocess(site):
    workdir = begin(site)
    site.tasks += ["one more", "another"]
    assert site.take_up(workdir) is TakenUp.YES
    assert site.ids("toprocess") == list(range(3, 12))
    assert site.ids("added") == [12, 13]
    assert stored(site) == take_fingerprint(site.tasks, KNOWN)
    assert workdir.counts(workdir.survey())[:4] == (14, 3, 0, 11)
    assert work(workdir) == list(range(3, 14))
    assert workdir.counts(workdir.survey())[:3] == (14, 14, 0)
    assert workdir.close()
    assert site.violations() == []


def test_a_farm_that_has_done_all_goes_on(site):
    workdir = begin(site)
    assert work(workdir) == list(range(3, 12))
    assert workdir.transact((), (), 4).empty
    for place in range(KNOWN, KNOWN + 3):
        site.tasks.append(f"added {place}")
        assert site.take_up(workdir) is TakenUp.YES
        assert work(workdir) == [place]


def test_they_are_taken_up_in_parts_as_large_as_is_wanted(site):
    workdir = begin(site)
    site.tasks += [f"added {number}" for number in range(5)]
    for known in (14, 16, 17, 17):
        assert site.take_up(workdir, 2) is TakenUp.YES
        assert stored(site) == take_fingerprint(site.tasks[:known], KNOWN)
        assert site.ids("added") == [*range(KNOWN, known)]


def test_the_next_start_knows_them(site):
    workdir = begin(site)
    site.tasks += ["one more", "another"]
    site.take_up(workdir)
    workdir.transact((), (), 20)
    site.kill(workdir)
    again = site.open()
    assert not [note for note in again.notes if "were added" in note]
    assert site.ids("added") == [12, 13]
    assert work(again) == list(range(3, 14))


def test_a_step_that_was_prepared_before_is_not_made_after_it(site):
    workdir = begin(site)
    site.tasks += ["one more", "another"]
    assert site.take_up(workdir) is TakenUp.YES
    workdir.transact((), (), 10)
    workdir.prepare((), (12,), 5)
    site.tasks += ["third"]
    assert site.take_up(workdir) is TakenUp.YES
    assert workdir.transact((), (12,), 5).taken == [13, 14]
    assert site.ids("added") == [12]
    assert site.violations() == []


def test_a_disk_that_fails_leaves_the_farm_with_what_it_knew(site, monkeypatch):
    workdir = begin(site)
    site.tasks += ["one more", "another"]
    taken_up, at = TakenUp.NO, 0
    while taken_up is not TakenUp.YES:
        at += 1
        with interference(monkeypatch, at, full_disk(), half=True):
            try:
                taken_up = site.take_up(workdir)
            except StorageError:
                assert len(workdir._tasks) == KNOWN
                assert not workdir.transact((), (), 0).empty
    assert at > 5
    assert work(workdir) == list(range(3, 14))
    assert site.violations() == []


def test_nothing_is_taken_up_while_the_absence_of_toprocess_means_all_tasks(site):
    workdir = site.open()
    site.tasks += ["one more"]
    assert site.take_up(workdir) is TakenUp.LATER
    assert not (site.root / "added").exists()
    assert work(workdir) == list(range(KNOWN))
    assert site.take_up(workdir) is TakenUp.YES
    assert work(workdir) == [12]


# ---- beside other farms -------------------------------------------------------------


def test_two_farms_add_them_once(site):
    first, second = begin(site), site.open()
    site.tasks += ["one more", "another"]
    assert site.take_up(first) is TakenUp.YES
    assert first.transact((), (), 20).taken == list(range(3, 14))
    assert site.take_up(second) is TakenUp.YES
    assert site.ids("added") == []
    first.transact((), (13,), 0)
    assert second.transact((), (), 5).taken == [13]
    second.transact([ended(13)], (), 0)
    assert first.counts(first.survey())[:2] == (14, 4)


def test_what_another_farm_has_done_of_them_is_known(site):
    first, second = begin(site), site.open()
    second.grows = True
    site.tasks += ["one more", "another", "third"]
    assert site.take_up(first) is TakenUp.YES
    first.transact((), (), 20)
    first.transact([ended(12), ended(13, 1)], (), 0)
    second.transact((), (), 0)
    assert second.recorded == (3, 0)
    assert site.take_up(second) is TakenUp.YES
    assert second.recorded == (4, 1)
    assert second.has_record_of(12)
    assert not second.has_record_of(14)
    assert not [note for note in second.notes if "added" in note or "of no" in note]


def test_what_another_farm_does_between_two_parts_is_known(site):
    first, second = begin(site), site.open()
    site.tasks += [f"added {number}" for number in range(6)]
    assert site.take_up(first) is TakenUp.YES
    first.transact((), (), 20)
    first.transact([ended(12), ended(17, 1)], (), 0)
    # The first knows all of them; of a list so short, only all can be compared.
    assert site.take_up(second, 3) is TakenUp.LATER
    first.transact([ended(13)], (), 0)
    assert site.take_up(second) is TakenUp.YES
    assert second.recorded == (5, 1)


def test_a_failed_taking_up_costs_no_second_reading_of_the_ledgers(site, monkeypatch):
    first, second = begin(site), site.open()
    site.tasks += ["one more", "another", "third"]
    assert site.take_up(first) is TakenUp.YES
    first.transact((), (), 20)
    second.transact((), (), 0)
    known = (site.root / "finished").stat().st_size
    first.transact([ended(12), ended(13, 1)], (), 0)
    second.transact((), (), 0)
    places = set()
    find_rest = files.find_rest

    def find_noted(path: str, offset: int) -> bytes:
        places.add((path.rpartition("/")[2], offset))
        return find_rest(path, offset)

    monkeypatch.setattr(files, "find_rest", find_noted)
    site.tasks[12] = "something else"
    for _ in range(2):
        assert site.take_up(second) is TakenUp.NO
        assert second.recorded == (3, 0)
    first.transact([ended(14)], (), 0)
    site.tasks[12] = "one more"
    assert site.take_up(second) is TakenUp.YES
    assert second.recorded == (5, 1)
    assert places == {("finished", known), ("failed", 0)}


def test_a_failed_taking_up_beside_nobody_reads_no_ledger_again(site, monkeypatch):
    workdir = begin(site)
    (site.root / "toprocess").rename(site.root / "elsewhere")
    site.tasks += ["one more"]
    monkeypatch.setattr(files, "find_rest", None)
    for _ in range(2):
        assert site.take_up(workdir) is TakenUp.LATER
    (site.root / "elsewhere").rename(site.root / "toprocess")
    assert site.take_up(workdir) is TakenUp.YES


def test_whole_blocks_of_what_another_farm_has_taken_up_are_enough(site):
    first, second = begin(site), site.open()
    site.tasks += [f"added {number}" for number in range(2500)]
    assert site.take_up(first, 10_000) is TakenUp.YES
    lengths = []
    for _ in range(3):
        assert site.take_up(second, 1200) is TakenUp.YES
        lengths.append(len(second._tasks))
    assert lengths == [1000, 2000, KNOWN + 2500]
    assert len(site.ids("added")) == 2500


def test_a_farm_that_has_read_less_than_another_waits_for_the_rest(site):
    first, second = begin(site), site.open()
    site.tasks += ["one more", "another"]
    assert site.take_up(first) is TakenUp.YES
    site.tasks.pop()
    assert site.take_up(second) is TakenUp.LATER
    assert second._tasks == TASKS


def test_lines_of_another_list_than_that_of_the_workdir_are_not_taken_up(site):
    first, second = begin(site), site.open()
    site.tasks += ["one more", "another"]
    assert site.take_up(first) is TakenUp.YES
    site.tasks[12:] = ["something else", "another", "third"]
    assert site.take_up(second) is TakenUp.NO
    assert second._tasks == TASKS
    assert stored(site).total == 14
    assert second.transact((), (), 20).taken == list(range(3, 12))
    site.tasks[12:] = ["one more", "another", "third"]
    assert site.take_up(second) is TakenUp.YES


def test_lines_that_were_refused_leave_no_hash_behind(site):
    first, second = begin(site), site.open()
    site.tasks += [f"added {number}" for number in range(1200)]
    assert site.take_up(first, 10_000) is TakenUp.YES
    right = site.tasks[KNOWN:]
    site.tasks[KNOWN:] = [f"other {number}" for number in range(1200)]
    assert site.take_up(second, 10_000) is TakenUp.NO
    site.tasks[KNOWN:] = [*right, "one more"]
    assert site.take_up(second, 10_000) is TakenUp.YES
    assert compare(stored(site), site.tasks) is ListMatch.SAME


def test_a_workdir_that_went_on_with_another_list_takes_nothing_up(site):
    workdir = begin(site)
    shorter = take_fingerprint(TASKS[:5])
    (site.root / "fingerprint.json").write_bytes(encode_fingerprint(shorter))
    site.tasks += ["one more"]
    assert site.take_up(workdir) is TakenUp.NO


def test_a_fingerprint_that_was_lost_is_written_again(site):
    workdir = begin(site)
    (site.root / "fingerprint.json").unlink()
    site.tasks += ["one more"]
    assert site.take_up(workdir) is TakenUp.YES
    assert stored(site) == take_fingerprint(site.tasks, KNOWN)


def test_what_a_farm_that_was_killed_has_put_into_added_is_not_there_twice(site):
    workdir = begin(site)
    site.tasks += ["one more", "another"]
    site.write("added", [12, 13])
    (site.root / "added").write_text(site.lines([12]) + "13 ano")
    assert site.take_up(workdir) is TakenUp.YES
    assert site.ids("added") == [12, 13]
    assert work(workdir) == list(range(3, 14))


# ---- beside plain farmers -----------------------------------------------------------


def test_a_plain_farmer_of_the_shorter_list_never_meets_them(site):
    workdir = begin(site)
    plain = PlainFarmer(site)
    popped = plain.pop()
    site.tasks += ["one more", "another"]
    assert site.take_up(workdir) is TakenUp.YES
    assert popped is not None
    plain.requeue(popped)
    workdir.transact((), (), 20)
    workdir.transact((), sorted(workdir.held), 0)
    assert max(site.ids("toprocess")) < KNOWN
    assert work(workdir) == list(range(3, 14))
    assert plain.pop() is None


@pytest.mark.parametrize("is_done", [False, True])
def test_what_a_plain_farmer_of_the_longer_list_has_taken_up_is_not_added(
    site, is_done
):
    workdir = begin(site)
    work(workdir)
    workdir.transact((), (), 4)
    site.tasks += ["one more", "another"]
    (site.root / "toprocess").unlink()
    plain = PlainFarmer(site)
    plain.write({12, 13})
    if is_done:
        for taskid in (12, 13):
            plain.hand.add(taskid)
            plain.record(taskid, 0)
        plain.write(set())
    assert site.take_up(workdir) is TakenUp.YES
    assert site.ids("added") == []
    assert work(workdir) == ([] if is_done else [12, 13])


def test_the_first_added_task_alone_tells_that_a_plain_farmer_has_them(site):
    workdir = begin(site)
    work(workdir)
    site.tasks += ["one more", "another"]
    PlainFarmer(site).write({12})  # it has popped 13
    assert site.take_up(workdir) is TakenUp.YES
    assert site.ids("added") == []
    assert work(workdir) == [12]


# ---- lists with an order ------------------------------------------------------------


def test_tasks_that_are_added_with_an_order_wait(site):
    workdir = begin(site)
    site.tasks += ["one more", "another", "third", "fourth"]
    site.constraints.after[13] = (4,)
    site.constraints.add_barrier(15, checks=False)
    assert site.take_up(workdir, 2) is TakenUp.YES
    assert (site.ids("added"), site.ids("waiting")) == ([12], [13])
    assert site.take_up(workdir) is TakenUp.YES
    assert (site.ids("added"), site.ids("waiting")) == ([12, 14], [13, 15])
    assert stored(site) == take_fingerprint(site.tasks, KNOWN, site.constraints)
    assert workdir.transact((), (), 20).taken == [*range(3, 13), 14]
    workdir.transact([ended(4)], (), 20)
    assert workdir.held >= {13}
    assert 15 not in workdir.held
    rest = sorted(workdir.held)
    workdir.transact([ended(taskid) for taskid in rest], (), 0)
    assert workdir.transact((), (), 20).taken == [15]
    again = site.open()
    assert not [note for note in again.notes if "were added" in note]


def test_added_tasks_of_a_kind_without_a_limit_are_left_to_farms_with_one(site):
    workdir = begin(site)
    workdir.unlimited.name_limits(["gpu"])
    site.tasks += ["[limit=zz] x", "one more", "[limit=gpu] x", "last"]
    site.constraints.kinds.update({12: "zz", 14: "gpu"})
    site.constraints.after[15] = (12,)
    assert site.take_up(workdir) is TakenUp.YES
    assert site.ids("waiting") == [12, 14, 15]
    assert work(workdir) == [*range(3, 12), 13, 14]
    # What is put back by a farm with the limit, or by a retry, stays there, too.
    other = site.open()
    other.unlimited.name_limits(["gpu", "zz"])
    assert other.transact((), (), 20).taken == [12]
    other.transact((), [12], 0)
    assert workdir.transact((), (), 20).taken == []
    assert workdir.transact((), (), 20).empty
    assert not workdir._more_may_come
    assert work(other) == [12, 15]
    assert workdir.close()
    assert other.close()
    assert site.violations() == []


def test_a_rank_that_takes_over_leaves_them_too(site):
    workdir = begin(site)
    site.tasks += ["[limit=zz] x", "one more"]
    site.constraints.kinds[12] = "zz"
    assert site.take_up(workdir) is TakenUp.YES
    site.kill(workdir)
    leads = site.open()
    leads.unlimited.name_limits([])
    assert work(leads) == [*range(3, 12), 13]
    assert site.ids("waiting") == [12]
    assert leads.close()


def test_a_queue_that_gets_none_of_the_added_tasks_is_not_written_again(site):
    site.constraints.after[5] = (3,)
    workdir = begin(site)
    before = (site.root / "waiting").stat()
    site.tasks += ["one more", "another"]
    assert site.take_up(workdir) is TakenUp.YES
    assert (site.root / "waiting").stat() == before
    before = (site.root / "added").stat()
    site.tasks += ["third"]
    site.constraints.after[14] = (3,)
    assert site.take_up(workdir) is TakenUp.YES
    assert (site.root / "added").stat() == before
    assert site.ids("added") == [12, 13]
    assert site.ids("waiting") == [5, 14]


def test_it_is_if_a_killed_farm_has_left_lines_of_them_there(site):
    site.constraints.after[5] = (3,)
    workdir = begin(site)
    site.tasks += ["one more", "another"]
    site.write("waiting", [5, 13])
    assert site.take_up(workdir) is TakenUp.YES
    assert site.ids("waiting") == [5]
    assert site.ids("added") == [12, 13]


def test_the_known_lines_are_not_hashed_again(site, monkeypatch):
    site.tasks += [f"known {number}" for number in range(2500)]
    site.constraints.after[5] = (3,)
    workdir = begin(site)
    known = len(site.tasks)
    begins: list[int] = []
    encode = encode_texts

    def encode_noted(begin: int, end: int, tasks):
        begins.append(begin)
        return encode(begin, end, tasks)

    monkeypatch.setattr(fingerprint, "encode_texts", encode_noted)
    site.tasks += ["one more"]
    assert site.take_up(workdir) is TakenUp.YES
    assert min(begins) == known // fingerprint.BLOCK * fingerprint.BLOCK
    assert compare(stored(site), site.tasks, site.constraints) is ListMatch.SAME


def test_what_others_have_done_of_them_lets_tasks_start(site):
    first, second = begin(site), site.open()
    work(first)
    site.tasks += ["one more", "another", "third"]
    site.constraints.after[14] = (12, 13)
    assert site.take_up(first) is TakenUp.YES
    assert first.transact((), (), 20).taken == [12, 13]
    first.transact([ended(12), ended(13)], (), 0)
    assert site.take_up(second) is TakenUp.YES
    assert second.transact((), (), 20).taken == [14]


def test_a_failed_one_among_them_dooms_what_waits_for_it(site):
    first, second = begin(site), site.open()
    work(first)
    site.tasks += ["one more", "another"]
    site.constraints.after[13] = (12,)
    assert site.take_up(first) is TakenUp.YES
    first.transact((), (), 20)
    first.transact([ended(12, 1)], (), 0)
    assert site.take_up(second) is TakenUp.YES
    assert second.transact((), (), 20).not_run == [(13, "task 12 failed")]


def test_what_another_farm_has_taken_up_in_part_is_not_put_into_the_queue_again(site):
    """It runs some of it already."""
    first = begin(site)
    second = site.open()
    second.grows = True
    site.tasks += [f"added {number}" for number in range(4)]
    assert site.take_up(first, 2) is TakenUp.YES
    taken = first.transact((), (), 20).taken
    assert {12, 13} <= {*taken}
    assert site.take_up(second) is TakenUp.YES
    assert site.ids("added") == [14, 15]
    assert work(second) == [14, 15]
    assert site.violations() == []
