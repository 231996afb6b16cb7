"""Lists with an order in a workdir: the queue `waiting`, and who begins what."""

import json
import os
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from mpifarm.audit.retry import Wanted, retry
from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result
from mpifarm.order.constraints import Constraints
from mpifarm.order.frontier import Frontier
from mpifarm.store import added_lines, waiting
from mpifarm.store.file_store import FileStore
from mpifarm.store.fingerprint import parse_fingerprint
from mpifarm.store.held_file import Held, replace_held
from mpifarm.store.queue import AlienTaskError, find_place, find_standing, scan_for
from mpifarm.store.status_lines import encode_lines
from mpifarm.store.types import Recorded
from mpifarm.store.waiting import MAX_DOOMED, ReadySearch, edit
from mpifarm.system import file_contents, files
from tests.unit.store_fakes import (
    SMALL_PARTS,
    FakeLock,
    Killed,
    PlainFarmer,
    Site,
    ended,
    interference,
)

UNHEEDED = "begun by a farmer that does not heed what the tasklist says of its order"


def stages(*firsts: int, checks: bool = False) -> Constraints:
    constraints = Constraints()
    for first in firsts:
        constraints.add_barrier(first, checks=checks)
    return constraints


@pytest.fixture
def site(tmp_path):
    """Twelve tasks: 4 to 7 behind a barrier, 8 on behind another, and 2 waits for 0."""
    site = Site(tmp_path / "workdir")
    site.constraints = stages(4, 8)
    site.constraints.after[2] = (0,)
    return site


def work(
    workdir: FileStore, *, at_once: int = 3, fails: tuple[int, ...] = ()
) -> tuple[list[int], list[int]]:
    """Do all that can be done; return the ids in order, those that were not run too."""
    done: list[int] = []
    not_run: list[int] = []
    results, back = list[Recorded](), list[int]()
    while True:
        workdir.prepare(results, back, at_once)
        got = workdir.transact(results, back, at_once)
        back = [*got.pulled]
        done += got.taken
        not_run += [taskid for taskid, _ in got.not_run]
        results = [ended(each, int(each in fails)) for each in got.taken]
        results += as_not_run(got.not_run)
        if got.empty and not (results or back):
            return done, not_run


def as_not_run(tasks: Sequence[tuple[int, str]]) -> list[Recorded]:
    return [
        ended(each, 1)._replace(
            result=Result(
                *(each, 0, Outcome.NOT_RUN, 1, 0, 0.0, 0.0, 9.0, f"not run: {why}")
            )
        )
        for each, why in tasks
    ]


def run_again(site: Site) -> list[int]:
    """Put back all that failed; return it."""
    lock = FakeLock(site.root / "lock")
    known = (str(site.root), site.tasks, lock, site.machine(99), Wanted())
    return retry(*known, site.constraints).moved


# ---- what stands where --------------------------------------------------------------


def test_a_start_divides_the_list_by_what_plain_farmers_may_run(site):
    site.open()
    assert site.ids("toprocess") == [0, 1, 3]
    assert site.ids("waiting") == [2, *range(4, 12)]
    assert not (site.root / "added").exists()
    stored = parse_fingerprint((site.root / "fingerprint.json").read_bytes())
    assert stored is not None
    assert stored.heeds_order
    assert not (site.root / stored.staging).exists()
    assert site.violations() == []


def test_without_an_order_there_is_no_such_file(tmp_path):
    site = Site(tmp_path / "workdir")
    workdir = site.open()
    workdir.transact((), (), 3)
    assert not (site.root / "waiting").exists()
    record = json.loads((site.root / "fingerprint.json").read_text())
    assert "toprocess" not in record


def test_of_a_list_in_a_dialect_toprocess_is_there_and_empty(site):
    site.constraints = Constraints(is_foreign=True)
    workdir = site.open()
    assert (site.root / "toprocess").read_bytes() == b""
    assert PlainFarmer(site).pop() is None
    assert work(workdir) == ([*range(12)], [])


def test_tasks_are_taken_when_they_are_ready_and_stay_where_they_stand_until_then(site):
    workdir = site.open()
    done = workdir.transact((), (), 12)
    assert (done.taken, done.empty, done.some_wait) == ([0, 1, 3], True, True)
    assert workdir.transact([ended(1)], (), 12).taken == []
    assert site.ids("waiting") == [2, *range(4, 12)]
    assert workdir.transact([ended(0)], (), 12).taken == [2]
    done = workdir.transact([ended(2), ended(3)], (), 3)
    assert (done.taken, done.empty) == ([4, 5, 6], False)
    assert workdir.transact((), (), 3).taken == [7]
    ends = [ended(each) for each in (4, 5, 6, 7)]
    assert workdir.transact(ends, (), 12).taken == [8, 9, 10, 11]
    assert workdir.transact([ended(each) for each in range(8, 12)], (), 1).empty
    assert workdir.close()


@pytest.mark.parametrize("prepared", [False, True])
def test_what_goes_back_goes_back_to_the_queue_of_its_id(site, prepared):
    workdir = site.open()
    work_until_second_stage(workdir)
    if prepared:
        workdir.prepare((), (5, 4, 6), 0)
    workdir.transact((), (5, 4, 6), 0)
    assert site.ids("toprocess") == []
    assert site.ids("waiting") == [4, 5, 6, *range(8, 12)]
    assert workdir.held == {7}
    assert site.violations() == []


def work_until_second_stage(workdir: FileStore) -> None:
    workdir.transact((), (), 12)
    workdir.transact([ended(0)], (), 12)
    assert workdir.transact(map_ended(1, 2, 3), (), 12).taken == [4, 5, 6, 7]


def map_ended(*taskids: int):
    return [ended(each) for each in taskids]


def test_what_a_prepared_taking_lacked_is_taken_if_others_have_let_it_start(site):
    """Between `prepare` and `transact` another farmer records a task."""
    site.constraints = Constraints(after={2: (0,), 5: (1,)})
    workdir = site.open()
    assert workdir.transact((), (), 1).taken == [0]
    site.write("toprocess", [])
    workdir.prepare(map_ended(0), (), 8)
    site.write("finished", [1])
    assert workdir.transact(map_ended(0), (), 8).taken == [2, 5]


def test_a_prepared_taking_of_what_must_wait_again_is_not_used(site):
    workdir = site.open()
    workdir.transact((), (), 12)
    workdir.transact([ended(0), ended(1, 1), ended(3)], (), 1)
    workdir.transact([ended(2)], (), 0)
    workdir.prepare((), (), 4)
    frontier = workdir._queues.frontier
    assert frontier is not None
    frontier.revive([1])
    assert workdir.transact((), (), 4).taken == []


# ---- tasks that are not run ---------------------------------------------------------


def test_what_waits_for_a_failed_task_is_handed_over_as_not_to_be_run(site):
    site.constraints.after[3] = (2,)
    workdir = site.open()
    assert workdir.transact((), (), 12).taken == [0, 1]
    done = workdir.transact([ended(0, 1)], (), 12)
    why = "task 0 failed"
    assert (done.taken, [*done.not_run]) == ([], [(2, why), (3, why)])
    assert workdir.held == {1, 2, 3}
    ends = [ended(1), ended(2, 1), ended(3, 1)]
    assert workdir.transact(ends, (), 12).taken == [4, 5, 6, 7]
    assert site.ids("failed") == [0, 2, 3]


def test_behind_a_barrier_that_checks_nothing_is_run_once_a_task_has_failed(site):
    site.constraints = stages(4, checks=True)
    site.constraints.add_barrier(8, checks=False)
    assert work(site.open(), fails=(1,)) == ([0, 1, 2, 3], [*range(4, 12)])
    assert site.ids("failed") == [1, *range(4, 12)]
    assert site.violations() == []


@pytest.mark.parametrize("words", ["#BARRIER", "#DISBATCH BARRIER"])
def test_a_barrier_that_opens_though_tasks_have_failed_is_warned_of_once(site, words):
    site.constraints = stages(4, 8)
    site.constraints.barrier_words = words
    workdir = site.open()
    assert work(workdir, fails=(1, 3)) == ([*range(12)], [])
    (warning,) = workdir.notes
    assert warning == (
        f"WARNING: 2 tasks in front of the {words} before task 4 have failed (1, 3),"
        f" and what is behind it starts all the same; {words} CHECK would keep it from"
        " that"
    )


def test_very_many_are_handed_over_in_parts(tmp_path):
    site = Site(tmp_path / "workdir", ["true"] * (MAX_DOOMED + 5))
    site.constraints = stages(1, checks=True)
    workdir = site.open()
    assert workdir.transact((), (), 5).taken == [0]
    done = workdir.transact([ended(0, 1)], (), 5)
    assert (len(done.not_run), done.empty) == (MAX_DOOMED, False)
    done = workdir.transact((), (), 5)
    assert (len(done.not_run), done.empty) == (4, True)


def test_a_farm_that_is_to_take_nothing_is_handed_over_nothing(site):
    site.constraints = stages(4, checks=True)
    workdir = site.open()
    workdir.transact((), (), 12)
    ends = [ended(0, 1), *map_ended(1, 2, 3)]
    assert not workdir.transact(ends, (), 0).not_run
    assert workdir.close()


def test_a_farm_at_work_notices_what_was_put_back_to_be_run_again(site):
    site.constraints = stages(4, checks=True)
    workdir = site.open()
    done = workdir.transact((), (), 12)
    ends = [ended(0), ended(1, 1), *map_ended(2, 3)]
    not_run = workdir.transact(ends, (), 12).not_run
    workdir.transact([ended(each, 1) for each, _ in not_run[1:]], (), 0)
    assert workdir.recorded == (3, 8)
    assert run_again(site) == [1, *range(5, 12)]
    done = workdir.transact((), (), 12)
    assert (done.taken, [*done.not_run]) == ([1], [])
    assert workdir.recorded == (3, 0)
    done = workdir.transact([ended(1), ended(4)], (), 12)
    assert done.taken == [*range(5, 12)]
    assert site.violations() == []


def test_a_task_that_failed_and_is_to_run_again_keeps_its_barrier_shut(site):
    """As after a retry that was killed between its two files."""
    workdir = site.open()
    work_until_second_stage(workdir)
    workdir.transact((), (4, 5, 6, 7), 0)
    assert workdir.close()
    site.write("failed", [3])
    site.write("finished", [0, 1, 2])
    site.write("toprocess", [3])
    workdir = site.open()
    assert workdir.transact((), (), 12).taken == [3]
    assert workdir.transact([ended(3)], (), 12).taken == [4, 5, 6, 7]


def test_so_does_one_that_another_farm_has_taken_again(site):
    one, two = site.open(), site.open()
    assert one.transact((), (), 12).taken == [0, 1, 3]
    one.transact([ended(1, 1), ended(3)], (), 0)
    assert run_again(site) == [1]
    assert two.transact((), (), 1).taken == [1]
    assert one.transact([ended(0)], (), 12).taken == [2]
    assert one.transact([ended(2)], (), 12).taken == []
    two.transact([ended(1, 1)], (), 0)
    assert one.transact((), (), 12).taken == [4, 5, 6, 7]


CHAIN: dict[int, tuple[int, ...]] = {taskid: (taskid - 1,) for taskid in range(2, 12)}


@pytest.mark.parametrize(
    "constraints", [Constraints(after=CHAIN), stages(2, 3, 4, checks=True)]
)
@pytest.mark.parametrize("prepared", [False, True])
def test_what_was_taken_as_not_to_run_goes_back_if_a_retry_comes_before_its_record(
    site, constraints, prepared
):
    site.constraints = constraints
    workdir = site.open()
    workdir.transact((), (), 12)
    not_run = workdir.transact([ended(0), ended(1, 1)], (), 12).not_run
    assert [taskid for taskid, _ in not_run] == [*range(2, 12)]
    workdir.transact(as_not_run(not_run[:4]), (), 0)
    results = as_not_run(not_run[4:])
    if prepared:
        workdir.prepare(results, (), 12)
    assert run_again(site) == [*range(1, 6)]
    done = workdir.transact(results, (), 12)
    assert (done.taken, {*done.reopened}) == ([1], {*range(6, 12)})
    assert site.ids("waiting") == [*range(2, 12)]
    assert site.ids("failed") == []
    workdir.transact([ended(1)], (), 0)
    assert work(workdir) == ([*range(2, 12)], [])


def test_what_still_waits_for_a_failed_task_is_recorded_though_another_runs_again(site):
    site.constraints = Constraints(after={4: (0,), 5: (1,), 6: (5,)})
    workdir = site.open()
    workdir.transact((), (), 12)
    not_run = workdir.transact([ended(0, 1), ended(1, 1)], (), 12).not_run
    assert [taskid for taskid, _ in not_run] == [4, 5, 6]
    lock = FakeLock(site.root / "lock")
    known = (str(site.root), site.tasks, lock, site.machine(9))
    retry(*known, Wanted(frozenset([0])), site.constraints)
    workdir.prepare(as_not_run(not_run), (), 12)
    assert {*workdir.transact(as_not_run(not_run), (), 12).reopened} == {4}
    assert site.ids("failed") == [1, 5, 6]


def test_so_does_what_a_cut_retry_has_put_back_if_another_farm_runs_its_root(site):
    """The retry was killed before it wrote `failed`."""
    site.constraints = Constraints(after=CHAIN)
    one, two = site.open(), site.open()
    assert one.transact((), (), 12).taken == [0, 1]
    not_run = one.transact([ended(0), ended(1, 1)], (), 12).not_run
    one.transact(as_not_run(not_run), (), 0)
    site.write("waiting", range(2, 12))
    site.write("toprocess", [1])
    assert two.transact((), (), 1).taken == [1]
    done = one.transact((), (), 12)
    assert (done.taken, [*done.not_run]) == ([], [])
    assert [*done.pulled] == [*range(2, 12)]
    one.transact((), sorted(one.held), 0)
    two.transact([ended(1)], (), 0)
    assert work(one) == ([*range(2, 12)], [])


@pytest.mark.parametrize("lives", [False, True])
def test_after_a_retry_that_was_cut_what_waits_has_the_fate_of_what_it_waits_for(
    tmp_path, monkeypatch, lives
):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for at in range(1, 50):
        site = Site(tmp_path / f"site {at}")
        site.constraints = Constraints(after=CHAIN)
        workdir = site.open()
        assert work(workdir, fails=(1,)) == ([0, 1], [*range(2, 12)])
        struck = False
        with interference(monkeypatch, at, Killed(), half=False):
            try:
                run_again(site)
            except Killed:
                struck = True
        if not lives:
            assert workdir.close()
            workdir = site.open()
        work(workdir)
        ends = site.ids("finished"), {*site.ids("failed")} - {*site.ids("finished")}
        is_whole = ends == ([*range(12)], set())
        assert is_whole or (struck and ends == ([0], {*range(1, 12)})), at
        if not struck:
            assert at > 4
            return
    pytest.fail("the retry never came to its end")


# ---- who else is there --------------------------------------------------------------


def test_more_may_come_as_long_as_a_farm_lives_that_holds_what_others_wait_for(site):
    one, two = site.open(), site.open()
    assert one.transact((), (), 2).taken == [0, 1]
    assert two.transact((), (), 2).taken == [3]
    done = two.transact_or_reclaim(map_ended(3), (), 2)
    assert (done.taken, done.empty, done.more_may_come) == ([], True, True)
    site.kill(one)
    done = two.transact_or_reclaim((), (), 2)
    assert (done.empty, done.more_may_come) == (False, False)
    assert two.transact((), (), 9).taken == [0, 1]
    assert not two.transact_or_reclaim((), (), 9).more_may_come


def test_a_farm_that_holds_what_nobody_waits_for_is_not_waited_for(site):
    site.constraints = Constraints(after={2: (1,)})
    one, two = site.open(), site.open()
    assert one.transact((), (), 1).taken == [0]
    site.write("toprocess", [])  # as a plain farmer that has taken all
    assert not two.transact_or_reclaim((), (), 2).more_may_come


def test_what_a_dead_farm_held_goes_back_to_the_queue_of_its_id(site):
    workdir = site.open()
    work_until_second_stage(workdir)
    site.kill(workdir)
    again = site.open()
    assert site.ids("waiting") == [*range(4, 12)]
    assert work(again) == ([*range(4, 12)], [])
    assert site.violations() == []


def test_a_farm_that_takes_over_knows_what_has_ended(site):
    workdir = site.open()
    work_until_second_stage(workdir)
    workdir.transact(map_ended(4, 5), (), 0)
    site.kill(workdir)
    leads = site.open(predecessor=workdir.farm)
    assert leads.held == {6, 7}
    assert leads.transact(map_ended(6, 7), (), 12).taken == [8, 9, 10, 11]


def test_a_farm_that_takes_over_holds_nothing_that_is_never_to_run(site):
    workdir = site.open()
    workdir.transact((), (), 12)
    assert [*workdir.transact([ended(0, 1)], (), 12).not_run] == [(2, "task 0 failed")]
    site.kill(workdir)
    leads = site.open(predecessor=workdir.farm)
    assert leads.held == {1, 3}
    assert site.ids("waiting") == [2, *range(4, 12)]
    assert site.violations() == []
    assert [*leads.transact((), (), 12).not_run] == [(2, "task 0 failed")]


def test_the_records_of_plain_farmers_open_a_barrier(site):
    plain = PlainFarmer(site)
    workdir = site.open()
    popped = [plain.pop() for _ in range(4)]
    assert popped == [0, 1, 3, None]
    assert workdir.transact((), (), 9).taken == []
    for taskid in (0, 1, 3):
        plain.record(taskid, 0)
    assert workdir.transact((), (), 9).taken == [2]
    assert work_on(workdir, [2]) == [*range(4, 12)]


def work_on(workdir: FileStore, held: list[int]) -> list[int]:
    workdir.transact(map_ended(*held), (), 0)
    return work(workdir)[0]


@pytest.mark.parametrize("at_work", [False, True])
def test_so_does_a_last_line_without_its_newline_once_that_is_written(site, at_work):
    workdir = site.open()
    assert workdir.transact((), (), 3).taken == [0, 1, 3]
    workdir.transact(map_ended(0, 1), (3,), 1)
    ends = map_ended(2)
    if not at_work:
        workdir.transact(ends, (), 0)
        ends = []
        assert workdir.close()
    site.write("toprocess", [])
    with (site.root / "finished").open("a") as stream:
        stream.write(site.lines([3])[:-1])
    workdir = workdir if at_work else site.open()
    assert workdir.transact(ends, (), 12).taken == [4, 5, 6, 7]


def test_what_is_in_no_file_keeps_the_barrier_shut_and_is_counted(site):
    plain = PlainFarmer(site)
    workdir = site.open()
    assert plain.pop() == 0
    assert work(workdir) == ([1, 3], [])
    counts = workdir.counts(workdir.survey())
    assert (counts.finished, counts.toprocess, counts.elsewhere) == (2, 9, 1)
    assert (counts.held_up, counts.lost, counts.barrier) == (9, (0,), 4)


def test_what_is_ready_and_was_not_taken_is_held_up_by_nobody(site):
    workdir = site.open()
    workdir.transact((), (), 9)
    workdir.transact(map_ended(0), (), 0)
    counts = workdir.counts(workdir.survey())
    assert (counts.toprocess, counts.held_up, counts.lost) == (9, 8, ())


# ---- workdirs that others have begun ------------------------------------------------


def test_a_workdir_that_a_plain_farmer_has_begun_is_refused_and_left_as_it_is(site):
    plain = PlainFarmer(site)
    plain.pop()
    before = site.files()
    with pytest.raises(InputError, match=UNHEEDED):
        site.open()
    assert site.files() == before


def test_so_is_one_from_which_a_plain_farmer_has_taken_all(site):
    plain = PlainFarmer(site)
    for taskid in range(12):
        assert plain.pop() == taskid
    with pytest.raises(InputError, match=UNHEEDED):
        site.open()


def test_one_that_has_taken_all_after_a_start_was_killed_is_seen(site):
    """Just before the first `toprocess` got its name."""
    assert site.open().close()
    stored = parse_fingerprint((site.root / "fingerprint.json").read_bytes())
    assert stored is not None
    (site.root / "toprocess").rename(site.root / stored.staging)
    plain = PlainFarmer(site)
    while plain.pop() is not None:
        pass
    with pytest.raises(InputError, match=UNHEEDED):
        site.open()


def test_so_is_one_of_an_mpifarm_that_read_the_list_without_its_order(site):
    constraints, site.constraints = site.constraints, Constraints()
    workdir = site.open()
    workdir.transact((), (), 2)
    workdir.transact(map_ended(0, 1), (), 0)
    assert workdir.close()
    path = site.root / "fingerprint.json"
    record = json.loads(path.read_text())
    del record["order"]
    path.write_text(json.dumps(record))
    site.constraints = constraints
    with pytest.raises(InputError, match=UNHEEDED):
        site.open()
    workdir = site.open(remap=True)
    assert site.ids("finished") == [0, 1]
    assert work(workdir) == ([3, 2, *range(4, 12)], [])


def test_constraints_behind_all_that_such_a_farm_knew_are_no_reason_to_refuse(site):
    constraints, site.constraints = site.constraints, Constraints()
    tasks, site.tasks = site.tasks, site.tasks[:4]
    workdir = site.open()
    workdir.transact((), (), 1)
    workdir.transact(map_ended(0), (), 0)
    assert workdir.close()
    path = site.root / "fingerprint.json"
    record = json.loads(path.read_text())
    del record["order"]
    path.write_text(json.dumps(record))
    del constraints.after[2]
    site.constraints, site.tasks = constraints, tasks
    workdir = site.open()
    assert (site.ids("toprocess"), site.ids("added")) == ([1, 2, 3], [])
    assert site.ids("waiting") == [*range(4, 12)]
    assert work(workdir) == ([*range(1, 12)], [])


def test_a_plain_farmer_that_found_no_toprocess_has_taken_up_what_it_may_not(site):
    workdir = site.open()
    assert workdir.close()
    (site.root / "toprocess").unlink()
    PlainFarmer(site).pop()
    with pytest.raises(InputError, match=UNHEEDED):
        site.open()


def test_one_that_begins_while_a_start_reads_the_workdir_is_seen(site, monkeypatch):
    plain = PlainFarmer(site)
    validate = FileStore._validate

    def validate_late(self, snapshot):
        validation = validate(self, snapshot)
        if not plain.hand:
            plain.pop()
        return validation

    monkeypatch.setattr(FileStore, "_validate", validate_late)
    with pytest.raises(InputError, match=UNHEEDED):
        site.open()


# ---- what a start does before it has the lock ----------------------------------------


@pytest.fixture
def before_the_lock(monkeypatch):
    """Let something happen between the work without the lock and the lock, once."""
    acts: list[Callable[[], object]] = []
    validate = FileStore._validate

    def validate_late(self, snapshot):
        validation = validate(self, snapshot)
        if acts:
            acts.pop()()
        return validation

    monkeypatch.setattr(FileStore, "_validate", validate_late)
    return acts.append


def staged(site: Site) -> list[str]:
    return sorted(path.name for path in site.root.glob("toprocess.*"))


def test_the_first_queues_are_written_before_the_lock_and_renamed_under_it(
    site, before_the_lock, monkeypatch
):
    def refuse_to_write():
        assert len(staged(site)) == 2
        monkeypatch.setattr(added_lines, "encode_blocks", None)

    before_the_lock(refuse_to_write)
    site.open()
    assert site.ids("toprocess") == [0, 1, 3]
    assert site.ids("waiting") == [2, *range(4, 12)]
    assert staged(site) == []


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("change", ["gone", "replaced", "written to", "emptied"])
def test_staged_queues_that_others_have_touched_are_written_anew(
    site, before_the_lock, number, change
):
    def touch():
        path = site.root / staged(site)[number]
        content = path.read_bytes()
        if change in ("gone", "replaced"):
            path.unlink()
        if change != "gone":
            path.write_bytes(b"" if change == "emptied" else content)

    before_the_lock(touch)
    workdir = site.open()
    assert site.ids("toprocess") == [0, 1, 3]
    assert site.ids("waiting") == [2, *range(4, 12)]
    assert staged(site) == []
    assert work(workdir) == ([0, 1, 3, 2, *range(4, 12)], [])


def test_what_is_recorded_before_the_lock_is_had_is_in_no_queue(site, before_the_lock):
    before_the_lock(lambda: site.write("finished", [0, 1, 5]))
    workdir = site.open()
    assert (site.ids("toprocess"), site.ids("waiting")) == ([3], [2, 4, *range(6, 12)])
    assert staged(site) == []
    assert workdir.transact((), (), 12).taken == [3, 2]


def test_what_users_hold_before_the_first_start_is_not_left_to_plain_farmers(site):
    site.root.mkdir()
    replace_held(WorkdirPaths(str(site.root)), Held(frozenset({1})))
    site.open()
    assert (site.ids("toprocess"), site.ids("waiting")) == (
        [0, 3],
        [1, 2, *range(4, 12)],
    )
    assert staged(site) == []


def test_queues_that_the_disk_has_no_room_for_are_not_left_by_half(site, monkeypatch):
    write, room = files.write_staging_file, [1]

    def write_while_there_is_room(path, *args, **more):
        if not room:
            raise StorageError("no room")
        room.pop()
        write(path, *args, **more)

    monkeypatch.setattr(files, "write_staging_file", write_while_there_is_room)
    with pytest.raises(StorageError, match="no room"):
        site.open()
    assert not room
    assert staged(site) == []


def test_another_farm_that_starts_before_the_lock_is_had_keeps_its_queues(
    site, before_the_lock
):
    others = []
    before_the_lock(lambda: others.append(site.open().transact((), (), 2).taken))
    workdir = site.open()
    assert others == [[0, 1]]
    assert workdir.transact((), (), 12).taken == [3]
    assert (site.ids("toprocess"), site.ids("waiting")) == ([], [2, *range(4, 12)])
    assert staged(site) == []
    assert site.violations() == []


def test_what_such_a_farm_has_done_lets_tasks_start(site, before_the_lock):
    def run_first():
        other = site.open()
        assert other.transact((), (), 2).taken == [0, 1]
        other.transact([ended(0), ended(1)], (), 0)

    before_the_lock(run_first)
    assert site.open().transact((), (), 12).taken == [3, 2]


def test_a_start_that_is_refused_under_the_lock_leaves_nothing_staged(
    site, before_the_lock
):
    elsewhere = Site(site.root.with_name("elsewhere"))
    elsewhere.farms = 5
    farm = elsewhere.open()

    def begin_under_another_lock():
        assert len(staged(site)) == 2
        (site.root / "claims").mkdir()
        claim = (elsewhere.root / "claims" / farm.farm).read_bytes()
        (site.root / "claims" / farm.farm).write_bytes(claim)

    before_the_lock(begin_under_another_lock)
    with pytest.raises(InputError, match="under other locks"):
        site.open()
    assert staged(site) == []


def test_what_ends_before_the_lock_is_had_lets_tasks_start(site, before_the_lock):
    workdir = site.open()
    assert workdir.transact((), (), 12).taken == [0, 1, 3]
    before_the_lock(lambda: workdir.transact([ended(0), ended(1, 1), ended(3)], (), 0))
    other = site.open()
    assert other.transact((), (), 12).taken == [2]
    assert other.transact(map_ended(2), (), 12).taken == [4, 5, 6, 7]


@pytest.mark.parametrize("order", [(0, 1, 3), (3, 0, 1)])
@pytest.mark.parametrize("late", [False, True])
def test_a_failed_task_in_a_large_toprocess_in_disorder_is_open(
    site, before_the_lock, monkeypatch, order, late
):
    monkeypatch.setattr("mpifarm.store.queue._LINES_OF_SEARCH", 0)
    for name, value in SMALL_PARTS.items():
        monkeypatch.setattr(file_contents, name, value)
    workdir = site.open()
    assert workdir.close()
    site.write("failed", [3])
    site.write("toprocess", [0, 1, 3] if late else order)
    if late:
        before_the_lock(lambda: site.write("toprocess", order))
    frontier = site.open()._queues.frontier
    assert frontier is not None
    assert frontier.find_failed() == []


@pytest.mark.parametrize("name", ["finished", "failed"])
def test_what_is_open_again_before_the_lock_is_had_keeps_its_barrier_shut(
    site, before_the_lock, name
):
    workdir = site.open()
    workdir.transact((), (), 12)
    workdir.transact([ended(0), ended(1, int(name == "failed")), ended(3)], (), 12)
    workdir.transact([ended(2)], (), 0)
    assert workdir.close()

    def put_back():
        site.write("toprocess", [1])
        path = site.root / name
        staging = site.root / "staging"
        line = site.lines([1])
        staging.write_text(path.read_text().replace(line, "\n" * len(line)))
        staging.rename(path)

    before_the_lock(put_back)
    other = site.open()
    assert other.transact((), (), 12).taken == [1]
    assert other.transact([ended(1)], (), 12).taken == [4, 5, 6, 7]


@pytest.mark.parametrize("change", ["barrier", "after", "kinds", "is_foreign"])
def test_another_order_is_another_list_and_remap_brings_the_workdir_in_line(
    site, change
):
    assert site.open().close()
    if change == "barrier":
        site.constraints.barriers[0] = site.constraints.barriers[0]._replace(first=3)
    elif change == "after":
        site.constraints.after[2] = (1,)
    elif change == "kinds":
        site.constraints.kinds[11] = "disk"
    else:
        site.constraints.is_foreign = True
    with pytest.raises(InputError, match="the tasklist was edited since"):
        site.open()
    workdir = site.open(remap=True)
    shared = [each for each in range(12) if site.constraints.is_shared(each)]
    assert site.ids("toprocess") == shared
    assert site.ids("waiting") == [each for each in range(12) if each not in shared]
    assert work(workdir) == (sorted_by_stages(site.constraints), [])


def sorted_by_stages(constraints: Constraints) -> list[int]:
    """All tasks, as one worker after the other runs them."""
    order: list[int] = []
    while len(order) < 12:
        finished = bytearray(each in order for each in range(12))
        frontier = Frontier(constraints, finished, bytearray(12))
        ready = [each for each in range(12) if frontier.is_ready(each)]
        shared = [each for each in ready if constraints.is_shared(each)]
        rest = [each for each in ready if each not in shared]
        left = [each for each in shared + rest if each not in order]
        order += left[:3]
    return order


def test_where_only_the_order_is_new_that_is_said(tmp_path):
    site = Site(tmp_path / "workdir")
    workdir = site.open()
    assert work(workdir) == ([*range(12)], [])
    assert workdir.close()
    site.constraints = stages(4, 8)
    with pytest.raises(InputError, match="the tasks are the same, but their order has"):
        site.open()


def test_an_order_that_was_taken_out_is_another_list_too(site):
    assert site.open().close()
    site.constraints = Constraints()
    with pytest.raises(InputError, match=r"tasks or their order .*ids 0 to 11;"):
        site.open()
    workdir = site.open(remap=True)
    assert not (site.root / "waiting").exists()
    assert work(workdir) == ([*range(12)], [])


def test_what_was_not_run_is_left_to_the_order_of_the_edited_list(site):
    site.constraints = stages(4, checks=True)
    workdir = site.open()
    taken = workdir.transact((), (), 12).taken
    ends = [ended(each, int(each == 1)) for each in taken]
    not_run = workdir.transact(ends, (), 12).not_run
    workdir.transact(as_not_run(not_run), (), 0)
    assert workdir.close()
    assert site.ids("failed") == [1, *range(4, 12)]
    assert [each.outcome for each in site.attempts()[4:]] == [
        "not run: task 1 failed"
    ] * 8
    assert len([each for each in site.events() if each["ph"] == "X"]) == 4
    site.constraints = stages(4)
    workdir = site.open(remap=True)
    assert site.ids("failed") == [1]
    assert work(workdir) == ([*range(4, 12)], [])


def test_a_fingerprint_that_is_damaged_costs_nothing(site):
    workdir = site.open()
    work_until_second_stage(workdir)
    workdir.transact((), sorted(workdir.held), 0)
    assert workdir.close()
    (site.root / "fingerprint.json").write_text("{")
    assert work(site.open()) == ([*range(4, 12)], [])


# ---- the search ---------------------------------------------------------------------


def search(
    frontier: Frontier, content, tasks, take: int, stays=(), blocked=(), *, shared=True
):
    if shared:
        frontier.expect_shared()
    candidates = frontier.find_candidates(doomed=take > 0)
    for taskid in stays:
        candidates[taskid] = 1
    found = ReadySearch(content, tasks, frontier, blocked.__contains__, candidates)
    found.run(len(content), take)
    return found


def test_a_task_that_is_not_to_run_hides_no_ready_one_in_front_of_it():
    tasks = [f"cmd {number}" for number in range(3)]
    constraints = Constraints()
    constraints.after[2] = (0,)
    frontier = Frontier(constraints, bytearray(3), bytearray([1, 0, 0]))
    frontier.expect_shared()
    assert frontier.is_ready(1)
    assert frontier.find_doomed(2)
    assert search(frontier, encode_lines([1, 2], tasks), tasks, 0).is_more


@pytest.mark.parametrize("seed", range(60))
def test_the_search_finds_what_a_look_at_each_line_finds(seed, monkeypatch):
    luck = random.Random(seed)
    monkeypatch.setattr("mpifarm.store.waiting.WINDOW", luck.choice([1, 40, 8192]))
    monkeypatch.setattr("mpifarm.store.waiting._NEAR_IDS", luck.choice([1, 3, 32]))
    monkeypatch.setattr("mpifarm.store.waiting._NEAR_BYTES", luck.choice([0, 40]))
    monkeypatch.setattr("mpifarm.store.queue._NEAR", luck.choice([1, 20, 256]))
    total = luck.randint(1, 60)
    tasks = [f"echo {luck.random()}" for _ in range(total)]
    constraints = Constraints()
    for taskid in range(1, total):
        if luck.random() < 0.05:
            constraints.add_barrier(taskid, checks=luck.random() < 0.5)
        if luck.random() < 0.5:
            constraints.after[taskid] = (luck.randrange(taskid),)
    done = {each for each in range(total) if luck.random() < 0.7}
    failed = {each for each in done if luck.random() < 0.1}
    ends = (done - failed, failed)
    flags = [bytearray(each in ids for each in range(total)) for ids in ends]
    frontier = Frontier(constraints, *flags)
    queued = [each for each in range(total) if each not in done]
    shared = luck.random() < 0.5
    if not shared:
        queued = [each for each in queued if not constraints.is_shared(each)]
    queued = [each for each in queued if luck.random() < 0.9]
    content = encode_lines(queued, tasks)
    blocked = {each for each in queued if luck.random() < 0.1}
    stays = {each for each in blocked if luck.random() < 0.3}
    take = luck.choice([0, 1, 3, 100])
    found = search(frontier, content, tasks, take, stays, blocked, shared=shared)
    free = [each for each in queued if each not in blocked]
    ready = [each for each in free if frontier.is_ready(each)]
    doomed = [(each, frontier.find_doomed(each)) for each in free]
    doomed = [each for each in doomed if each[1] and is_reached(frontier, each[0])]
    assert [*found.taken] == ready[:take]
    assert found.is_more == (len(ready) > take)
    if len(ready) <= take:
        assert found.doomed == (doomed if take else [])
    assert set(found.dropped) <= blocked - stays
    left = b"".join(
        map(file_contents.bytes_of, edit(content, found.removed, tasks, [*stays]))
    )
    gone = {*found.taken, *found.dropped, *(taskid for taskid, _ in found.doomed)}
    assert left == encode_lines([each for each in queued if each not in gone], tasks)
    assert all(one[1] < other[0] for one, other in pairwise(found.removed))


def is_reached(frontier: Frontier, taskid: int) -> bool:
    """Whether it is no barrier that waits that is in front of the task."""
    return taskid < frontier.horizon or taskid >= frontier.doomed_from


@pytest.mark.parametrize("near", [1, 16, 256])
@pytest.mark.parametrize("large", [False, True])
def test_a_line_is_found_wherever_the_search_for_it_begins(
    tmp_path, monkeypatch, near, large
):
    monkeypatch.setattr("mpifarm.store.queue._NEAR", near)
    luck = random.Random(near)
    tasks = ["x" * luck.choice([1, 9, 90]) for _ in range(60)]
    queued = [each for each in range(60) if luck.random() < 0.7]
    content = encode_lines(queued, tasks)
    begins = [0, *(place + 1 for place, byte in enumerate(content) if byte == 10)]
    (tmp_path / "queue").write_bytes(content)
    for name, value in SMALL_PARTS.items() if large else ():
        monkeypatch.setattr(file_contents, name, value)
    with file_contents.content_of(str(tmp_path / "queue")) as (_, found):
        assert found is not None
        for begin in begins:
            for taskid in range(60):
                place, is_there = find_place(found, begin, taskid)
                behind = queued[begins.index(begin) :]
                later = [each for each in behind if each >= taskid]
                assert is_there == (taskid in behind)
                assert content[place:] == encode_lines(later, tasks)
        assert find_standing(found, range(60)) == queued
        assert sorted(scan_for(found, range(60))) == queued


def test_a_lone_candidate_costs_its_own_line_and_no_look_at_those_around(monkeypatch):
    total, often = 10_000, 500
    tasks = ["true"] * total
    after: dict[int, tuple[int, ...]] = {
        taskid: (0,) for taskid in range(1, total) if taskid % often
    }
    constraints = Constraints(after=after, is_foreign=True)
    frontier = Frontier(constraints, bytearray(total), bytearray(total))
    looked_at = []
    look = ReadySearch._look_at

    def look_noted(self, lines: bytes, place: int, take: int) -> None:
        looked_at.append(lines.count(b"\n"))
        look(self, lines, place, take)

    monkeypatch.setattr(ReadySearch, "_look_at", look_noted)
    ids = (each for each in range(total) if each % 1000 or not each)
    content = encode_lines(ids, tasks)
    found = search(frontier, content, tasks, 100)
    assert [*found.taken] == [0, *range(often, total, 1000)]
    assert set(looked_at) == {1}


@pytest.mark.parametrize("is_shared", [False, True])
def test_tasks_that_are_not_in_the_queue_are_no_reason_to_look_at_its_lines(
    tmp_path, monkeypatch, is_shared
):
    """Between lines that stay are tasks that have ended, or run, or stand elsewhere."""
    total, often = 3000, 5
    site = Site(tmp_path / "workdir", [f"echo {number}" for number in range(total)])
    free = range(0, total, often)
    site.constraints.after = {each: (0,) for each in range(total) if each % often}
    if not is_shared:
        site.constraints.kinds = dict.fromkeys(free, "gpu")
    workdir, other = site.open(), site.open()
    assert workdir.transact((), (), 1).taken == [0]
    taken = other.transact((), (), 200).taken
    other.transact([ended(each, each % 2) for each in taken], (), 100)
    workdir.transact((), (), 100)
    take = 0 if is_shared else total
    workdir.transact((), (), take)
    looks = []
    monkeypatch.setattr(ReadySearch, "_look_at", lambda *look: looks.append(look))
    assert workdir.transact((), (), take).taken == []
    assert not looks


# ---- failed tasks that stand in the queue --------------------------------------------


@pytest.fixture
def cut_retry(site):
    """A farm at work beside which a retry of 4 to 7 was killed half-way."""
    site.constraints = Constraints(is_foreign=True)
    workdir = site.open()
    ends = [ended(each, int(each > 3)) for each in workdir.transact((), (), 8).taken]
    workdir.transact(ends, (), 0)
    return site, workdir, lambda: site.write("waiting", range(4, 12))


def test_a_failed_task_that_a_cut_retry_has_put_back_runs(cut_retry):
    _, workdir, cut = cut_retry
    cut()
    assert workdir.transact((), (), 12).taken == [*range(4, 12)]


def test_so_does_one_that_was_put_back_after_a_taking_was_prepared(cut_retry):
    site, workdir, cut = cut_retry
    workdir.prepare((), (), 12)
    cut()
    assert workdir.transact((), (), 12).taken == [*range(4, 12)]
    assert site.violations() == []


def test_failed_tasks_are_looked_for_some_at_a_time(cut_retry, monkeypatch):
    site, workdir, cut = cut_retry
    monkeypatch.setattr("mpifarm.store.waiting.MAX_LOOKED_FOR", 1)
    workdir.transact((), (), 4)
    workdir.transact((), (8, 9, 10, 11), 0)
    cut()
    site.write("waiting", range(5, 12))
    taken = []
    for _ in range(4):
        taken += workdir.transact((), (), 1).taken
        # Others go on writing the queue meanwhile.
        (site.root / "copy").write_bytes((site.root / "waiting").read_bytes())
        (site.root / "copy").rename(site.root / "waiting")
    assert sorted(taken[1:]) == [5, 6, 7]


def test_no_more_of_them_are_fetched_than_are_looked_for(cut_retry, monkeypatch):
    _, workdir, cut = cut_retry
    monkeypatch.setattr("mpifarm.store.waiting.MAX_LOOKED_FOR", 3)
    find_failed, fetched = Frontier.find_failed, []

    def note(*asked):
        fetched.append(find_failed(*asked))
        return fetched[-1]

    monkeypatch.setattr(Frontier, "find_failed", note)
    cut()
    assert workdir.transact((), (), 3).taken == [4, 5, 6]
    assert [*filter(None, fetched)] == [[4, 5, 6]]
    assert workdir.transact((), (), 1).taken == [7]
    assert [*filter(None, fetched)] == [[4, 5, 6], [7]]


def test_they_are_not_looked_for_in_a_queue_that_only_this_farm_writes(
    cut_retry, monkeypatch
):
    _, workdir, _ = cut_retry
    workdir.transact((), (), 1)
    monkeypatch.setattr(waiting, "find_standing", None)
    workdir.prepare((), (8,), 1)
    assert workdir.transact((), (8,), 1).taken == [9]
    workdir.transact((), (), 1)


def test_what_a_dead_farm_ran_again_is_open_for_the_farm_that_reclaims_it(site):
    site.constraints = Constraints(is_foreign=True)
    one = site.open()
    one.transact([], (), 12)
    one.transact([ended(5, 1)], (), 0)
    two = site.open()
    site.write("waiting", [5])
    assert two.transact((), (), 1).taken == [5]
    site.kill(two)
    assert one.reclaim_dead() == 1
    assert one.transact((), (), 12).taken == [5]


# ---- tasks that users hold -----------------------------------------------------------


def test_what_stands_there_of_a_list_without_an_order_runs(tmp_path):
    """Its users have held tasks; the file that says so is gone."""
    site = Site(tmp_path / "workdir")
    site.write("toprocess", [0, 1])
    site.write("waiting", [5, 7])
    site.write("finished", [2, 3, 4, 6, *range(8, 12)])
    assert site.open().transact((), (), 12).taken == [0, 1, 5, 7]


def test_what_stands_there_of_a_list_with_an_order_runs_too(site):
    """Users have held 1 and 3; the file that says so is gone."""
    site.open().close()
    site.write("toprocess", [0])
    site.write("waiting", [1, 2, 3, *range(4, 12)])
    done, not_run = work(site.open())
    assert (sorted(done), not_run) == ([*range(12)], [])


def test_released_tasks_of_other_queues_run_out_of_waiting(site):
    workdir = site.open()
    workdir.hold(Held(frozenset({1, 3})))
    done = workdir.transact((), (), 12, (1, 3))
    workdir.transact((), sorted(done.pulled), 0)
    assert (site.ids("toprocess"), site.ids("waiting")) == (
        [],
        [1, 2, 3, *range(4, 12)],
    )
    replace_held(workdir.paths, Held())
    other = site.open()
    workdir.hold(Held())
    assert workdir.transact((), (), 1).taken == [1]
    assert other.transact((), (), 12).taken == [3]


# ---- what was prepared ---------------------------------------------------------------


def test_ends_that_let_nothing_start_spare_a_prepared_taking(site, monkeypatch):
    site.constraints = Constraints(is_foreign=True, after={2: (0,), 5: (1, 4)})
    workdir, other = site.open(), site.open()
    assert other.transact((), (), 2).taken == [0, 1]
    workdir.transact((), (), 0)
    workdir.prepare((), (), 20)
    other.transact([ended(1)], (), 0)
    monkeypatch.setattr(files, "write_staging_file", None)
    assert workdir.transact((), (), 20).taken == [3, 4, *range(6, 12)]


@pytest.mark.parametrize("take", [2, 4, 20])
def test_what_a_claim_lets_go_of_after_a_taking_was_prepared_is_taken_too(site, take):
    """What others have put back is read at once, their claims under the lock."""
    site.tasks = site.tasks[:4]
    site.constraints = Constraints(is_foreign=True, after={2: (0,)})
    workdir, other = site.open(), site.open()
    assert other.transact((), (), 2).taken == [0, 1]
    workdir.transact((), (), 0)
    other.transact((), [1], 0)
    workdir.prepare((), (), take)
    done = workdir.transact((), (), take)
    assert (done.taken, done.empty) == ([1, 3], True)


@pytest.mark.parametrize("take", [0, 1])
def test_the_queue_is_not_empty_though_a_taking_was_prepared_that_left_none(site, take):
    site.tasks = site.tasks[:4]
    site.constraints = Constraints(is_foreign=True, after={2: (0,)})
    workdir, other = site.open(), site.open()
    assert other.transact((), (), 4).taken == [0, 1, 3]
    other.transact((), [1], 0)
    workdir.transact((), (), 0)
    other.transact((), [3], 0)
    workdir.prepare((), (), take)
    done = workdir.transact((), (), take)
    assert (done.taken, done.empty) == ([1][:take], False)


def test_a_line_of_another_list_is_told():
    frontier = Frontier(stages(1), bytearray(b"\1\0\0"), bytearray(3))
    with pytest.raises(AlienTaskError, match="1 other"):
        search(frontier, b"1 other\n2 b\n", ["a", "x", "b"], 2)


def test_long_stretches_that_have_to_stay_are_not_looked_at(tmp_path):
    """Of a million lines, of which the last may leave."""
    total = 50_000
    tasks = ["true"] * total
    after: dict[int, tuple[int, ...]] = dict.fromkeys(range(1, total - 1), (0,))
    constraints = Constraints(after=after, kinds={total - 1: "gpu"})
    frontier = Frontier(constraints, bytearray(total), bytearray(total))

    class Counted(bytes):
        read = 0

        def __getitem__(self, part):
            piece = super().__getitem__(part)
            Counted.read += len(piece)
            return piece

    content = Counted(encode_lines(range(1, total), tasks))
    found = search(frontier, content, tasks, 3)
    assert [*found.taken] == [total - 1]
    assert Counted.read < len(content) / 20


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_large_files_are_taken_from_in_the_same_way(site, monkeypatch, at_once):
    for name, value in SMALL_PARTS.items():
        monkeypatch.setattr(file_contents, name, value)
    done, not_run = work(site.open(), at_once=at_once, fails=(0,))
    assert sorted(done + not_run) == [*range(12)]
    assert not_run == [2]
    assert site.violations() == []


# ---- the search, to the bound --------------------------------------------------------


def doomed_list(count: int) -> tuple[list[str], Frontier, bytes]:
    """Task 0 has failed, tasks 1 to `count` wait for it, and one more is free."""
    total = count + 2
    tasks = [f"cmd {number}" for number in range(total)]
    constraints = Constraints()
    constraints.after = dict.fromkeys(range(1, count + 1), (0,))
    failed = bytearray(total)
    failed[0] = 1
    frontier = Frontier(constraints, bytearray(total), failed)
    return tasks, frontier, encode_lines(range(1, total), tasks)


@pytest.mark.parametrize(
    ("count", "found", "is_more"), [(2, 2, False), (3, 3, False), (4, 3, True)]
)
def test_so_many_that_are_not_to_run_are_handed_over_at_a_time(
    monkeypatch, count, found, is_more
):
    monkeypatch.setattr("mpifarm.store.waiting.MAX_DOOMED", 3)
    tasks, frontier, content = doomed_list(count)
    search_ = search(frontier, content, tasks, 5)
    assert len(search_.doomed) == found
    assert search_.is_more is is_more


@pytest.mark.parametrize(
    ("take", "taken", "is_more"), [(0, 0, True), (1, 1, True), (2, 2, False)]
)
def test_there_is_more_where_a_ready_task_was_not_taken(take, taken, is_more):
    tasks = ["a", "b", "c"]
    constraints = stages(2)
    frontier = Frontier(constraints, bytearray(3), bytearray(3))
    found = search(frontier, encode_lines(range(3), tasks), tasks, take)
    assert [*found.taken] == [*range(taken)]
    assert found.is_more is is_more


def test_what_is_blocked_is_dropped_if_looked_at_and_no_more_to_take():
    tasks = ["a", "b", "c"]
    frontier = Frontier(Constraints(), bytearray(3), bytearray(3))
    content = encode_lines(range(3), tasks)
    found = search(frontier, content, tasks, 3, set(), {1})
    assert ([*found.taken], found.dropped) == ([0, 2], [1])
    found = search(frontier, content, tasks, 1, set(), {1, 2})
    assert [*found.taken] == [0]
    assert not found.is_more


def test_lines_that_leave_together_are_one_range():
    tasks = ["a", "b", "c", "d"]
    frontier = Frontier(Constraints(), bytearray(4), bytearray(4))
    content = encode_lines(range(4), tasks)
    found = search(frontier, content, tasks, 4, {2}, set())
    size = len(content) // 4
    assert found.removed == [(0, 2 * size), (3 * size, 4 * size)]


def test_what_stands_in_waiting_and_may_run_at_once_is_run(site):
    """A killed farm has left there what users held, and have released since."""
    site.write("waiting", [1, 2, 5])
    site.write("toprocess", [0, 3])
    site.write("finished", [4, *range(6, 12)])
    done, _ = work(site.open())
    assert sorted(done) == [0, 1, 2, 3, 5]
