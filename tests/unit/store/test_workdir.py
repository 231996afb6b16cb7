"""What a farm does to its workdir, and what it refuses to touch."""

import json
import os
from pathlib import Path
from shlex import quote

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.model.task import NOT_RUN, Outcome, Result
from mpifarm.order.constraints import Constraints
from mpifarm.store.claim_journal import Event
from mpifarm.store.directories import make_directories
from mpifarm.store.file_store import FileStore
from mpifarm.store.fingerprint import (
    ListMatch,
    compare,
    encode_fingerprint,
    find_edited_block,
    parse_fingerprint,
    take_fingerprint,
)
from mpifarm.system import files
from tests.invariants import find_violations
from tests.unit.store_fakes import (
    TASKS,
    FakeLock,
    Killed,
    PlainFarmer,
    Site,
    ended,
    interference,
)
from tests.workdir_files import ATTEMPTS_HEAD, Attempt


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "a workdir, with 'quotes' é")


# ---- taking, giving back, recording -------------------------------------------------


def test_without_toprocess_everything_is_to_be_processed_front_first(site):
    workdir = site.open()
    assert workdir.transact((), (), 3).taken == [0, 1, 2]
    assert site.ids("toprocess") == list(range(3, 12))
    assert workdir.held == {0, 1, 2}


def test_what_is_finished_is_left_out_of_the_first_toprocess_and_failed_runs_again(
    site,
):
    site.write("finished", [0, 5])
    site.write("failed", [1])
    workdir = site.open()
    assert workdir.transact((), (), 2).taken == [1, 2]
    assert site.ids("toprocess") == [3, 4, 6, 7, 8, 9, 10, 11]


def test_finished_ids_in_toprocess_are_dropped_and_never_taken(site):
    site.write("finished", [0, 1, 3])
    site.write("toprocess", range(5))
    workdir = site.open()
    done = workdir.transact((), (), 5)
    assert (done.taken, done.empty) == ([2, 4], True)
    assert (site.root / "toprocess").read_bytes() == b""


def test_an_absent_toprocess_is_not_made_before_something_is_taken(site):
    workdir = site.open()
    workdir.transact((), (), 0)
    assert not (site.root / "toprocess").exists()
    assert workdir.close()


@pytest.mark.parametrize("prepared", [False, True])
def test_what_is_given_back_stands_at_its_place_once(site, prepared):
    workdir = site.open()
    workdir.transact((), (), 9)
    PlainFarmer(site).requeue(4)
    if prepared:
        workdir.prepare((), [0, 8, 3, 4, 5], 0)
    assert workdir.transact((), [0, 8, 3, 4, 5], 0).taken == []
    assert site.ids("toprocess") == [0, 3, 4, 5, 8, 9, 10, 11]
    assert workdir.held == {1, 2, 6, 7}
    assert site.violations() == []


def test_what_is_given_back_stands_in_a_toprocess_that_was_removed_too(site):
    workdir = site.open()
    workdir.transact((), (), 6)
    (site.root / "toprocess").unlink()
    assert workdir.transact([ended(5)], [4, 1], 2).taken == [6, 7]
    assert site.ids("toprocess") == [1, 4, 8, 9, 10, 11]
    assert workdir.held == {0, 2, 3, 6, 7}
    assert site.violations() == []


def test_what_is_given_back_is_not_taken_in_the_same_step(site):
    workdir = site.open()
    workdir.transact((), (), 3)
    assert workdir.transact((), [0, 1], 2).taken == [3, 4]
    assert site.ids("toprocess") == [0, 1, 5, 6, 7, 8, 9, 10, 11]


def test_a_farm_knows_what_has_failed_under_it_when_another_rank_led_it(site):
    before = site.open()
    before.transact((), (), 2)
    before.transact([ended(0, 1), ended(1, 1)], (), 0)
    assert before.close()
    first = site.open()
    first.transact((), (), 4)
    first.note_attempts([ended(4, 3)])  # and it runs again
    first.transact([ended(2, 1), ended(3)], (), 0)
    with (site.root / "attempts.tsv").open("a") as torn:
        attempt = Attempt(99, status=1, farm=first.farm)
        torn.write(attempt.line + Attempt(5).line[:3])
    site.kill(first)
    second = site.open(predecessor=first.farm)
    second.transact([ended(5, 1)], (), 0)
    site.kill(second)
    third = site.open(predecessor=second.farm)
    assert third.count_failed_here(len(TASKS)) == 2
    assert third.recorded == (1, 4)


def test_so_it_does_at_whatever_step_that_rank_was_killed(tmp_path, monkeypatch):
    """Some of its records have no attempt yet."""
    for at in range(1, 50):
        site = Site(tmp_path / f"site {at}")
        site.constraints = Constraints(after={5: (0,)})
        before = site.open()
        before.transact((), (), 1)
        before.transact([ended(0, 1)], (), 0)
        assert before.close()
        first = site.open()
        assert first.transact((), (), 9).taken == [1, 2, 3, 4, *range(6, 11)]
        [(doomed, _)] = first.transact((), (), 9).not_run
        result = Result(doomed, 0, Outcome.NOT_RUN, 1, 0, 0.0, 0.0, 9.0, NOT_RUN)
        not_run = ended(doomed, 1)._replace(result=result)
        struck = False
        with interference(monkeypatch, at, Killed(), half=False):
            try:
                ends = [ended(1, 1), ended(2), ended(3, 1)]
                first.transact([*ends, not_run], (), 0)
            except Killed:
                struck = True
        site.kill(first)
        second = site.open(predecessor=first.farm)
        failed = {*site.ids("failed")}
        assert second.count_failed_here(len(TASKS)) == len(failed - {0, doomed}), at
        if not struck:
            assert len(failed) == 4
            return
    pytest.fail("the records never came to their end")


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed", "attempts.tsv"])
def test_a_file_that_others_made_unwritable_is_told_before_anything_begins(
    site, monkeypatch, name
):
    workdir = site.open()
    workdir.transact((), (), 2)
    workdir.transact([ended(0), ended(1, 1)], (), 0)
    assert workdir.close()
    access = os.access
    monkeypatch.setattr(  # root may write everywhere
        os,
        "access",
        lambda path, mode: (
            not (path.endswith(f"/{name}") and mode & os.W_OK) and access(path, mode)
        ),
    )
    with pytest.raises(InputError, match=f"{name} can't be read and written"):
        site.open()


def interfere_while_validated(monkeypatch, change):
    """Call `change` once, when a start has read the workdir and not yet joined it."""
    validate = FileStore._validate
    changes = iter([change])

    def validate_slowly(self, snapshot):
        validation = validate(self, snapshot)
        next(changes, lambda: None)()
        return validation

    monkeypatch.setattr(FileStore, "_validate", validate_slowly)


def test_a_list_that_another_farm_begins_meanwhile_is_looked_at_again(
    site, monkeypatch
):
    workdir = site.open()
    workdir.transact((), (), 1)
    workdir.transact([ended(0)], (), 0)
    assert workdir.close()
    others = [f"other {task}" for task in TASKS]
    interfere_while_validated(
        monkeypatch,
        lambda: (site.root / "fingerprint.json").write_bytes(
            encode_fingerprint(take_fingerprint(others))
        ),
    )
    with pytest.raises(InputError, match="edited"):
        site.open()


def test_a_toprocess_that_is_written_meanwhile_is_not_replaced_by_a_mended_one(
    site, monkeypatch
):
    site.write("toprocess", [3, 1, 2])
    interfere_while_validated(monkeypatch, lambda: site.write("toprocess", [2, 3]))
    workdir = site.open()
    assert site.ids("toprocess") == [2, 3]
    assert workdir.close()


def test_results_are_on_the_disk_before_the_claim_forgets_the_tasks(site, monkeypatch):
    workdir = site.open()
    workdir.transact((), (), 2)
    calls = []
    sync, write = os.fsync, os.pwrite

    def note(what, descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append((what, path.parent.name if "claims" in path.parts else path.name))

    def noted_sync(descriptor):
        note("sync", descriptor)
        sync(descriptor)

    def noted_write(descriptor, *rest):
        note("write", descriptor)
        return write(descriptor, *rest)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "pwrite", noted_write)
    workdir.transact([ended(0), ended(1, 1)], (), 0)
    release = calls.index(("write", "claims"))
    assert {("sync", "finished"), ("sync", "failed")} <= {*calls[:release]}


def test_a_step_whose_rename_failed_has_not_happened_for_a_reader_of_its_claim(
    site, monkeypatch
):
    workdir = site.open()
    workdir.transact((), (), 2)
    with monkeypatch.context() as broken:

        def fail(_source, _target):
            raise StorageError("the rename failed")

        broken.setattr("mpifarm.system.files.rename", fail)
        with pytest.raises(StorageError):
            workdir.transact((), (), 3)
    assert workdir.transact((), (0,), 0).taken == []
    site.kill(workdir)
    assert site.violations() == []
    again = site.open()
    assert site.ids("toprocess") == list(range(len(TASKS)))
    assert again.close()


def test_what_this_farm_holds_is_not_requeued_from_a_dead_claim(site):
    """A rank that was killed as it took over has left its ids in two claims."""
    workdir, dead = site.open(), site.open()
    assert workdir.transact((), (), 3).taken == [0, 1, 2]
    dead._member.claim.append(Event(take=[1, 2], failed=0))
    assert dead.transact((), (), 1).taken == [3]
    site.kill(dead)
    assert workdir.reclaim_dead() == 1
    assert site.ids("toprocess") == list(range(3, len(TASKS)))
    assert sorted(workdir.held) == [0, 1, 2]


def test_a_takeover_takes_the_claim_of_its_own_farm_alone(site):
    another = site.open()
    another.transact((), (), 2)
    lost = site.open()
    lost.transact((), (), 3)
    site.kill(lost)
    leads = site.open(predecessor=lost.farm)
    assert sorted(leads.held) == [2, 3, 4]
    assert sorted(another.held) == [0, 1]
    assert len(list((site.root / "claims").iterdir())) == 2


def test_results_go_to_finished_and_failed_with_their_events_and_attempts(site):
    workdir = site.open()
    workdir.transact((), (), 3)
    workdir.transact([ended(0), ended(2, -9), ended(1)], (), 0)
    assert (site.root / "finished").read_text() == site.lines([0, 1])
    assert (site.root / "failed").read_text() == site.lines([2])
    events = site.timeline()
    assert [event["name"] for event in events] == [TASKS[0], TASKS[2], TASKS[1]]
    assert site.content("attempts.tsv").startswith(ATTEMPTS_HEAD.encode())
    attempts = [(each.taskid, each.status) for each in site.attempts()]
    assert attempts == [(0, 0), (2, -9), (1, 0)]
    assert not workdir.held


def test_a_prepared_toprocess_is_used_only_if_nothing_has_changed(site):
    workdir = site.open()
    workdir.transact((), (), 2)
    plain = PlainFarmer(site)
    workdir.prepare((), (), 2)
    taken = plain.pop()
    assert (
        workdir.transact((), (), 2).taken
        == [taskid for taskid in range(2, 6) if taskid != taken][:2]
    )
    workdir.prepare((), (), 2)
    before = site.files()
    leftovers = [name for name in before if name.startswith("toprocess.")]
    assert len(leftovers) == 1
    assert workdir.transact((), (), 2).taken
    assert not [name for name in site.files() if name.startswith("toprocess.")]
    assert site.violations(plain.hand) == []


def test_a_prepared_take_of_what_others_finish_meanwhile_is_made_anew(site):
    workdir = site.open()
    workdir.transact((), (), 2)
    workdir.prepare((), (), 2)
    PlainFarmer(site).record(2, 0)
    done = workdir.transact((), (), 2)
    assert done.taken == [3, 4]


def test_an_id_that_another_farm_gives_back_while_we_prepare_is_not_dropped(site):
    first, second = site.open(), site.open()
    first.transact((), (), 2)
    second.transact((), (), 1)
    first.transact((), [0], 0)
    # The second farm has not looked since, and takes 0 for held by the first.
    second.prepare((), (), 3)
    assert second.transact((), (), 3).taken == [0, 3, 4]
    assert site.violations() == []


def test_what_others_finished_meanwhile_is_not_recorded_twice(site):
    workdir = site.open()
    workdir.transact((), (), 4)
    for taskid in (0, 1, 2):
        PlainFarmer(site).record(taskid, 0)
    workdir.transact([ended(0), ended(1, 1)], [2], 0)
    assert site.ids("finished") == [0, 1, 2]
    assert not (site.root / "failed").exists()
    assert 2 not in site.ids("toprocess")
    assert workdir.held == {3}


def test_ids_that_the_farm_does_not_hold_are_a_defect(site):
    workdir = site.open()
    workdir.transact((), (), 1)
    before = site.files()
    for results, back in (([ended(5)], []), ([], [5]), ([ended(0)], [0])):
        with pytest.raises(ValueError, match="not held"):
            workdir.transact(results, back, 0)
    assert site.files() == before


def test_a_farm_never_takes_what_another_holds(site):
    first, second = site.open(), site.open()
    first.transact((), (), 3)
    site.write("toprocess", range(12))
    assert second.transact((), (), 3).taken == [3, 4, 5]
    assert site.ids("toprocess") == [6, 7, 8, 9, 10, 11]


def test_a_torn_toprocess_of_a_plain_farmer_is_read_as_far_as_it_goes(site):
    workdir = site.open()
    site.write("toprocess", range(4))
    path = site.root / "toprocess"
    path.write_text(path.read_text()[:-4])
    done = workdir.transact((), (), 9)
    assert (done.taken, done.empty) == ([0, 1, 2, 3], True)


def test_a_list_that_was_edited_under_way_stops_the_farm_and_leaves_toprocess(site):
    workdir = site.open()
    (site.root / "toprocess").write_text("0 other\n1 thing\n")
    with pytest.raises(StorageError, match="not of this tasklist"):
        workdir.transact((), (), 1)
    assert (site.root / "toprocess").read_text() == "0 other\n1 thing\n"


def test_a_farm_whose_claim_was_taken_over_writes_nothing_more(site):
    workdir = site.open()
    workdir.transact((), (), 3)
    site.kill(workdir)
    site.open().close()
    before = site.files()
    workdir._member.claim._descriptor = os.open(site.root / "lock", os.O_RDONLY)
    with pytest.raises(StorageError, match="took its tasks over"):
        workdir.transact([ended(0)], (), 1)
    assert site.files() == before
    workdir._member.claim.end()


def test_a_finished_that_gets_shorter_stops_the_farm(site):
    site.write("finished", [0, 1])
    workdir = site.open()
    site.write("finished", [0])
    with pytest.raises(StorageError, match="got shorter") as caught:
        workdir.transact((), (), 1)
    assert str(caught.value).endswith(f": mpifarm check {quote(str(site.root))}")


def test_after_a_failed_rename_the_next_try_goes_on(site, monkeypatch):
    workdir = site.open()
    workdir.transact((), (), 3)

    def rename(_source: str, _target: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        with pytest.raises(StorageError, match="can't replace"):
            workdir.transact((), [0], 2)
    workdir.transact([ended(1)], [0], 2)
    assert site.violations() == []
    assert not workdir.close()
    site.kill(workdir)
    site.open()
    assert site.ids("toprocess") == [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert site.violations() == []


def test_after_a_rename_that_failed_but_happened_the_next_try_has_its_tasks(
    site, monkeypatch
):
    """NFS may lose the answer of a server that has renamed."""
    workdir = site.open()
    workdir.transact((), (), 3)
    rename = os.rename

    def rename_unheard(source: str, target: str) -> None:
        rename(source, target)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename_unheard)
        with pytest.raises(StorageError, match="can't replace"):
            workdir.transact((), [0], 2)
    assert [*workdir.transact([ended(1)], [0], 2).taken] == [3, 4]
    assert site.ids("toprocess") == [0, 5, 6, 7, 8, 9, 10, 11]
    assert site.violations() == []


# ---- timeline -----------------------------------------------------------------------


def test_a_farm_alone_leaves_a_complete_timeline(site):
    workdir = site.open()
    for _ in range(4):
        taken = workdir.transact((), (), 3).taken
        workdir.transact([ended(taskid) for taskid in taken], (), 0)
    assert len(site.timeline()) == 12
    assert len(site.events()) == 12 + 3
    assert not list(site.root.glob("timeline.*.json"))


@pytest.mark.parametrize("large", [False, True])
def test_once_others_record_the_events_go_to_a_file_of_the_farms_own(site, large):
    workdir = site.open()
    workdir.transact((), (), 3)
    workdir.transact([ended(0)], (), 0)
    path = site.root / "timeline.json"
    if large:
        path.write_text(path.read_text().replace("[", "[" + " " * 300_000))
    PlainFarmer(site).record(9, 0)
    workdir.transact([ended(1)], (), 0)
    workdir.transact([ended(2)], (), 0)
    own = f"timeline.{workdir.farm}.json"
    names = [event["name"] for event in site.timeline(own)]
    assert names == TASKS[0 if large else 1 : 3]
    assert len(site.timeline()) == (0 if large else 1)
    kinds = {event["name"] for event in site.events(own) if event["ph"] == "M"}
    assert kinds == {"process_name", "process_sort_index", "thread_name"}


def test_attempts_whose_tasks_run_again_are_in_the_timeline(site):
    workdir = site.open()
    workdir.transact((), (), 2)
    workdir.note_attempts([ended(0, 7)])
    workdir.transact([ended(1)], (), 0)
    workdir.note_attempts([ended(0, 8)])
    workdir.close()
    statuses = [event["args"]["status"] for event in site.timeline()]
    assert statuses == [7, 0, 8]


def test_running_and_waiting_tasks_are_counted_once_a_second_and_at_the_end(site):
    def counters():
        return [each["args"] for each in site.events() if each["ph"] == "C"]

    workdir = site.open()
    running = 3
    workdir.count_in_timeline(lambda: running)
    workdir.transact((), (), 5)
    for taskid in (0, 1):
        workdir.transact([ended(taskid)], (), 0)
    assert counters() == [{"running": 3, "waiting": 8}]
    site.now += 1
    workdir.transact([ended(2)], (), 0)
    running = 0
    workdir.transact((), [3, 4], 0)
    workdir.close()
    last = {"running": 0, "waiting": 9}
    assert counters()[1:] == [{"running": 3, "waiting": 6}, last]


def test_a_farm_that_records_nothing_leaves_the_timeline_as_it_is(site):
    workdir = site.open()
    workdir.count_in_timeline(lambda: 0)
    workdir.close()
    assert not (site.root / "timeline.json").exists()


def test_an_invalid_timeline_is_moved_aside_and_its_events_are_saved(site):
    site.root.mkdir()
    (site.root / "timeline.json").write_text('[{"name":"a","ph":"X","ts":1}, {"na')
    workdir = site.open()
    assert len(json.loads((site.root / "timeline.json").read_text())) == 1
    aside = site.root / f"timeline.invalid.{workdir.farm}.json"
    assert aside.read_text().endswith('{"na')
    assert any("not valid JSON" in note for note in workdir.notes)


# ---- opening ------------------------------------------------------------------------


def refused(site: Site, match: str) -> None:
    before = site.files() if site.root.is_dir() else {}
    names = set(os.listdir(site.root)) if site.root.is_dir() else set()
    with pytest.raises(InputError, match=match):
        site.open()
    if site.root.is_dir():
        assert site.files() == before
        assert set(os.listdir(site.root)) - {"lock"} == names - {"lock"}


def test_a_file_in_the_place_of_the_workdir_is_refused(site):
    site.root.write_text("file")
    refused(site, "is not a directory")


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    refused(Site(tmp_path / "no" / "such"), "can't create the workdir")


@pytest.mark.parametrize("name", ["toprocess", "finished", "failed"])
def test_an_edited_list_is_refused_and_nothing_is_touched(site, name):
    site.write(name, [2, 3])
    site.tasks[3] = "echo new"
    refused(site, rf"task 3 is 'echo task 3' in .*{name}.* it is 'echo new'.*--workdir")


def test_an_edited_list_is_refused_after_a_start_of_our_own_too(site):
    assert site.open().close()
    site.write("finished", [2])
    site.tasks[3] = "echo new"
    refused(site, "was edited .* had 12 tasks, it has 12 now.* ids 0 to 11")


def test_a_shorter_list_is_refused(site):
    site.write("finished", [11])
    del site.tasks[10:]
    refused(site, "task 11 is 'echo task 11' .* has only 10 tasks")


def test_an_edited_list_with_lines_added_too_is_refused(site):
    workdir = site.open()
    workdir.transact((), (), 1)
    workdir.transact((), [0], 0)
    assert workdir.close()
    site.tasks[5:6] = ["one", "more"]
    refused(site, r"task 5 is .* it is 'one'; .*--remap")


def test_a_list_may_change_as_long_as_nothing_was_begun(site):
    assert site.open().close()
    site.tasks[0] = "echo new"
    workdir = site.open()
    assert workdir.transact((), (), 1).taken == [0]


def test_torn_lines_are_mended_and_told(site):
    site.root.mkdir()
    (site.root / "finished").write_text("0 echo task 0\n1 echo ta")
    (site.root / "failed").write_text("2 echo task 2")
    (site.root / "toprocess").write_text("10 echo task 10\n11 ec")
    workdir = site.open()
    assert len(workdir.notes) == 3
    assert (site.root / "finished").read_text() == "0 echo task 0\n1 echo ta\n"
    assert (site.root / "failed").read_text() == "2 echo task 2\n"
    assert site.ids("toprocess") == [10, 11]
    assert workdir.counts(workdir.survey())[:7] == (12, 1, 1, 2, 0, 0, 8)
    assert workdir.close()
    again = site.open()
    assert again.counts(again.survey()).finished == 1


def test_a_fused_line_counts_as_the_two_that_it_is(site):
    site.root.mkdir()
    (site.root / "finished").write_text("0 echo tas5 echo task 5\n")
    workdir = site.open()
    assert workdir.counts(workdir.survey()).finished == 1
    assert workdir.transact((), (), 12).taken == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_an_unsorted_toprocess_is_sorted_at_the_start(site):
    site.write("toprocess", [5, 3, 9, 3])
    workdir = site.open()
    assert site.ids("toprocess") == [3, 5, 9]
    assert workdir.transact((), (), 2).taken == [3, 5]


def test_a_damaged_fingerprint_is_as_good_as_none(site):
    assert site.open().close()
    (site.root / "fingerprint.json").write_text('{"version": 1, "cou')
    site.write("finished", [1])
    assert site.open().close()
    assert parse_fingerprint((site.root / "fingerprint.json").read_bytes())


# ---- other farms --------------------------------------------------------------------


def test_the_claims_of_dead_farms_are_taken_back_at_the_start(site):
    workdir = site.open()
    workdir.transact((), (), 6)
    workdir.transact([ended(0), ended(1, 1)], (), 0)
    site.write("failed", [1, 2])
    site.kill(workdir)
    site.write("finished", [0, 3])
    after = site.open()
    assert site.ids("toprocess") == list(range(4, 12))
    assert after.counts(after.survey())[:7] == (12, 2, 2, 8, 0, 0, 0)
    assert any("2 tasks reclaimed from the dead farm" in n for n in after.notes)


def test_a_failed_line_older_than_the_take_does_not_strike_the_task(site):
    site.write("failed", [0, 1])
    workdir = site.open()
    workdir.transact((), (), 3)
    site.kill(workdir)
    site.open()
    assert site.ids("toprocess") == list(range(12))


def test_a_live_farm_is_left_alone_and_told_once(site):
    first = site.open()
    first.transact((), (), 3)
    second = site.open()
    for _ in range(3):
        assert second.reclaim_dead() == 0
    assert len([note for note in second.notes if "at work" in note]) == 1
    assert second.counts(second.survey())[:7] == (12, 0, 0, 9, 0, 3, 0)


def test_a_farm_of_another_host_is_dead_only_when_its_heartbeat_stops(site):
    far = site.open(site.machine(1, "node2", "boot2"))
    far.transact((), (), 3)
    os.utime(site.root / "claims" / far.farm, (1000, 1000))
    # a lock that is local to a node can be taken from elsewhere
    far._member.claim.end()
    site.now = 1050.0
    near = site.open()
    assert near.reclaim_dead() == 0
    assert any("not certain" in note for note in near.notes)
    site.now = 1061.0
    assert near.reclaim_dead() == 3
    assert site.ids("toprocess") == list(range(12))


def test_a_heartbeat_moves_the_claims_time(site):
    workdir = site.open()
    claim = site.root / "claims" / workdir.farm
    os.utime(claim, (1000, 1000))
    workdir.heartbeat()
    assert claim.stat().st_mtime > 1000


def test_a_farm_without_a_lock_in_common_with_a_live_one_is_refused(site):
    first = site.open()
    first.transact((), (), 1)
    other = FakeLock(site.root.parent / "elsewhere_lock")
    before = site.files()
    with pytest.raises(InputError, match=r"other locks.*elsewhere_lock.*SCRATCH"):
        FileStore.open(
            str(site.root), site.tasks, other, "ffffffff", machine=site.machine(99)
        )
    assert site.files() == before


@pytest.mark.parametrize("head", [b"", b'{"version": 1, "far'])
def test_a_claim_that_was_never_whole_is_removed(site, head):
    assert site.open().close()
    (site.root / "claims" / "deadbeef").write_bytes(head)
    site.open()
    assert not (site.root / "claims" / "deadbeef").exists()


@pytest.mark.parametrize("head", [b'{"version": 9}\n', b"garbage\n"])
def test_a_claim_that_is_not_understood_is_left_alone_and_told(site, head):
    assert site.open().close()
    (site.root / "claims" / "deadbeef").write_bytes(head)
    workdir = site.open()
    assert (site.root / "claims" / "deadbeef").read_bytes() == head
    assert any("can't be understood" in note for note in workdir.notes)


def test_temporary_files_whose_claim_is_gone_are_removed(site):
    assert site.open().close()
    (site.root / "toprocess.deadbeef.3").write_text("0 echo task 0\n")
    (site.root / "toprocess.my.1").write_text("kept")
    site.open()
    assert [path.name for path in site.root.glob("toprocess.*")] == ["toprocess.my.1"]


# ---- the rest -----------------------------------------------------------------------


def test_a_farm_that_holds_something_leaves_its_claim(site):
    workdir = site.open()
    workdir.transact((), (), 1)
    assert not workdir.close()
    assert (site.root / "claims" / workdir.farm).exists()


def test_what_no_file_has_is_elsewhere(site):
    plain = PlainFarmer(site)
    site.root.mkdir()
    plain.pop()
    workdir = site.open()
    workdir.transact((), (), 2)
    assert workdir.counts(workdir.survey())[:7] == (12, 0, 0, 9, 2, 0, 1)


def test_what_a_farm_holds_and_toprocess_has_too_is_counted_once(site):
    workdir = site.open()
    workdir.transact((), (), 3)
    workdir.transact([ended(2, 1)], (), 0)
    PlainFarmer(site).requeue(1)
    assert workdir.counts(workdir.survey())[:7] == (12, 0, 1, 9, 2, 0, 0)


def test_drain_is_a_file_and_the_result_is_replaced_whole(site):
    workdir = site.open()
    assert not workdir.drain_requested()
    (site.root / "drain").touch()
    assert workdir.drain_requested()
    workdir.write_result({"exit_status": 0, "failed": [1]})
    result = json.loads(Path(workdir.paths.result).read_text())
    assert result == {"exit_status": 0, "failed": [1]}


def test_a_shared_toprocess_keeps_its_permissions(site):
    site.write("toprocess", range(12))
    (site.root / "toprocess").chmod(0o664)
    site.open().transact((), (), 1)
    assert (site.root / "toprocess").stat().st_mode & 0o777 == 0o664


def test_violations_are_found(site):
    site.write("finished", [0, 0, 1])
    site.write("failed", [2])
    workdir = site.open()
    workdir.transact((), (), 2)
    site.write("toprocess", [3, 7])
    (site.root / "timeline.json").write_text("[")
    (site.root / "failed").write_text("2 echo task 2\n5 alien\n")
    found = find_violations(str(site.root), site.tasks, {7})
    assert [text for text in found if text.startswith("task")] == [
        "task 0 is in finished more than once",
        "task 3 is in toprocess and a claim, or in two claims",
        "task 7 is with two farmers",
        *(f"task {taskid} is lost: in no file" for taskid in (4, 5, 6, 8, 9, 10, 11)),
    ]
    assert len(found) == 12


def test_a_fingerprint_tells_added_lines_from_edited_ones():
    tasks = [f"task {number}" for number in range(3500)]
    stored = parse_fingerprint(encode_fingerprint(take_fingerprint(tasks)))
    assert stored is not None
    assert compare(stored, tasks) is ListMatch.SAME
    assert compare(stored, [*tasks, "x"]) is ListMatch.LINES_ADDED
    assert compare(stored, tasks[:-1]) is ListMatch.EDITED
    edited = [*tasks[:2345], "other", *tasks[2346:]]
    assert compare(stored, edited) is ListMatch.EDITED
    assert find_edited_block(stored, edited) == range(2000, 3000)
    assert find_edited_block(stored, tasks[:-1]) == range(3000, 3500)
    assert compare(stored, [*edited, "x"]) is ListMatch.EDITED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 2}',
        b'{"version": 1, "count": 5, "block": 1000}',
    ],
)
def test_a_broken_fingerprint_is_none(content):
    assert parse_fingerprint(content) is None


# ---- directories made before the tasklist is read -----------------------------------


def test_directories_that_were_made_are_taken_back(tmp_path):
    path = tmp_path / "workdir"
    take_back = make_directories(str(path))
    assert (path / "logs").is_dir()
    take_back()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["logs/log_0", "toprocess"])
def test_what_is_not_empty_stays(tmp_path, inside):
    path = tmp_path / "workdir"
    take_back = make_directories(str(path))
    (path / inside).touch()
    take_back()
    assert (path / inside).exists()


def test_directories_that_were_there_stay(tmp_path):
    (tmp_path / "logs").mkdir()
    make_directories(str(tmp_path))()
    assert (tmp_path / "logs").is_dir()
    (tmp_path / "logs").rmdir()
    make_directories(str(tmp_path))()
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.is_dir()


def test_a_workdir_whose_logs_can_not_be_made_is_not_left_behind(tmp_path, monkeypatch):
    def refuse(path):
        if path.endswith("logs"):
            raise OSError(28, "No space left on device")
        os.mkdir(path)
        return True

    monkeypatch.setattr(files, "make_directory", refuse)
    with pytest.raises(InputError, match=r"can't create .*/logs: No space left"):
        make_directories(str(tmp_path / "workdir"))
    assert list(tmp_path.iterdir()) == []
