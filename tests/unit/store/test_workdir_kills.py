"""A kill between any two steps loses no task, and runs none twice that is recorded."""

import os
from collections.abc import Callable

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.store.file_store import FileStore
from mpifarm.store.take_up import TakenUp
from mpifarm.system import file_contents
from tests.unit.store_fakes import (
    SMALL_PARTS,
    TASKS,
    Killed,
    PlainFarmer,
    Site,
    ended,
    full_disk,
    interference,
)

Operation = Callable[[Site], FileStore | None]
MAX_STEPS = 200
LONGER = 16
"""Tasks of the list after lines were added."""


def begin(site: Site) -> FileStore:
    """A farm that holds 0 to 5 of 12, while 6 and 7 are finished and failed."""
    site.write("toprocess", range(12))
    workdir = site.open()
    workdir.transact((), (), 8)
    workdir.transact([ended(6), ended(7, 1)], (), 0)
    return workdir


def first_take(site: Site) -> Operation:
    workdir = site.open()
    return lambda _: transacted(workdir, take=5)


def take(site: Site) -> Operation:
    workdir = begin(site)
    return lambda _: transacted(workdir, take=3)


def give_back(site: Site) -> Operation:
    workdir = begin(site)
    return lambda _: transacted(workdir, back=(1, 3, 5))


def record(site: Site) -> Operation:
    workdir = begin(site)
    return lambda _: transacted(workdir, results=[(0, 0), (1, 3), (2, 0)])


def everything(site: Site) -> Operation:
    workdir = begin(site)
    return lambda _: transacted(workdir, [(0, 0), (1, 3), (2, 0)], (3, 4), 2)


def everything_prepared(site: Site) -> Operation:
    workdir = begin(site)

    def operation(_: Site) -> FileStore:
        workdir.prepare((), (3, 4), 2)
        return transacted(workdir, [(0, 0), (1, 3), (2, 0)], (3, 4), 2)

    return operation


def leave_the_timeline(site: Site) -> Operation:
    workdir = begin(site)
    (site.root / "timeline.json").write_text("[" + " " * 300_000 + "]")
    site.write("finished", [6, 11])
    return lambda _: transacted(workdir, results=[(0, 0)])


def close(site: Site) -> Operation:
    workdir = begin(site)
    workdir.transact((), sorted(workdir.held), 0)

    def operation(_: Site) -> FileStore:
        assert workdir.close()
        return workdir

    return operation


def start(site: Site) -> Operation:
    site.write("toprocess", range(12))
    return Site.open


def start_behind_torn_lines(site: Site) -> Operation:
    site.write("toprocess", range(4, 12))
    for name, ids in (("toprocess", range(5, 12)), ("finished", [0, 1])):
        site.write(name, ids)
        path = site.root / name
        path.write_text(path.read_text()[:-1])
    site.write("failed", [2, 3, 4])
    (site.root / "timeline.json").write_text("[{}, {")
    return Site.open


def reclaim(site: Site) -> Operation:
    workdir = begin(site)
    site.write("failed", [7, 5])
    site.kill(workdir)
    return Site.open


def take_over(site: Site) -> Operation:
    """The lost coordinator's farm held tasks, and so did another one that is dead."""
    dead, lost = begin(site), site.open()
    lost.transact((), (), 3)
    site.write("failed", [7, 5])
    site.kill(lost)
    site.kill(dead)
    return lambda site: site.open(predecessor=lost.farm)


def add_lines(site: Site) -> None:
    site.tasks += [f"added {number}" for number in range(len(site.tasks), LONGER)]


def begin_with_added_lines(site: Site) -> FileStore:
    """A farm that holds 4, 5 and 12 to 15 of 16, while 0 to 3 are queued."""
    assert not begin(site).close()
    site.dead.add(site.farms)
    add_lines(site)
    workdir = site.open()
    taken = workdir.transact((), (), 20).taken
    workdir.transact([ended(t) for t in taken if t > 7 and t < 12], (0, 1, 2, 3), 0)
    return workdir


def start_with_added_lines(site: Site) -> Operation:
    workdir = begin(site)
    workdir.transact((), sorted(workdir.held), 0)
    assert workdir.close()
    add_lines(site)
    return Site.open


def start_with_added_lines_without_toprocess(site: Site) -> Operation:
    workdir = begin(site)
    site.kill(workdir)
    (site.root / "toprocess").unlink()
    add_lines(site)
    return Site.open


def start_without_toprocess_where_lines_were_added(site: Site) -> Operation:
    assert not begin_with_added_lines(site).close()
    site.dead.add(site.farms)
    (site.root / "toprocess").unlink()
    return Site.open


def start_with_more_added_lines(site: Site) -> Operation:
    workdir = begin_with_added_lines(site)
    workdir.transact((), (13, 14), 0)
    site.kill(workdir)
    site.tasks += ["added later", "added later"]
    return Site.open


def take_up(site: Site) -> Operation:
    """A farm that is at work takes up what was added."""
    site.grows = True
    workdir = begin(site)
    add_lines(site)
    return lambda _: taken_up(site, workdir)


def take_up_more(site: Site) -> Operation:
    """A farm that is at work takes up more, while added tasks are queued and held."""
    site.grows = True
    workdir = begin_with_added_lines(site)
    workdir.transact((), (13, 14), 0)
    site.tasks += ["added later", "added later"]
    return lambda _: taken_up(site, workdir)


def take_up_what_another_farm_has_taken_up(site: Site) -> Operation:
    site.grows = True
    workdir = begin(site)
    other = site.open()
    add_lines(site)
    assert site.take_up(other, 2) is TakenUp.YES
    site.kill(other)
    return lambda _: taken_up(site, workdir)


def take_up_in_parts(site: Site) -> Operation:
    site.grows = True
    workdir = begin(site)
    add_lines(site)

    def operation(_: Site) -> FileStore:
        for _part in range(2):
            taken_up(site, workdir, 2)
            transacted(workdir, take=3)
        return workdir

    return operation


def taken_up(site: Site, workdir: FileStore, most: int = 1000) -> FileStore:
    assert site.take_up(workdir, most) is TakenUp.YES
    return workdir


def take_from_both(site: Site) -> Operation:
    workdir = begin_with_added_lines(site)
    workdir.transact((), (12, 13, 14), 0)
    return lambda _: transacted(workdir, take=6)


def take_from_both_prepared(site: Site) -> Operation:
    workdir = begin_with_added_lines(site)
    workdir.transact((), (12, 13, 14), 0)

    def operation(_: Site) -> FileStore:
        workdir.prepare((), (4, 15), 6)
        return transacted(workdir, back=(4, 15), take=6)

    return operation


def give_back_to_both(site: Site) -> Operation:
    workdir = begin_with_added_lines(site)
    return lambda _: transacted(workdir, [(13, 0), (14, 1)], (4, 5, 12, 15), 0)


def reclaim_for_both(site: Site) -> Operation:
    workdir = begin_with_added_lines(site)
    site.kill(workdir)
    return Site.open


def order(site: Site) -> None:
    """Let 4 to 7 stand behind a barrier, 8 on behind another, and 2 wait for 0."""
    site.constraints.after[2] = (0,)
    for first in (4, 8):
        site.constraints.add_barrier(first, checks=False)


def begin_ordered(site: Site) -> FileStore:
    """A farm that holds 4 to 7 of 12, of which 0 to 3 have ended."""
    order(site)
    workdir = site.open()
    workdir.transact((), (), 12)
    workdir.transact([ended(0)], (), 12)
    workdir.transact([ended(1), ended(2), ended(3, 1)], (), 12)
    return workdir


def start_ordered(site: Site) -> Operation:
    order(site)
    return Site.open


def start_ordered_without_toprocess(site: Site) -> Operation:
    site.kill(begin_ordered(site))
    (site.root / "toprocess").unlink()
    return Site.open


def start_ordered_with_added_lines(site: Site) -> Operation:
    workdir = begin_ordered(site)
    workdir.transact((), (5, 6), 0)
    site.kill(workdir)
    add_lines(site)
    return Site.open


def start_with_an_order_behind_added_lines(site: Site) -> Operation:
    workdir = begin(site)
    workdir.transact((), sorted(workdir.held), 0)
    assert workdir.close()
    add_lines(site)
    site.constraints.after[13] = (12,)
    site.constraints.add_barrier(14, checks=True)
    return Site.open


def take_up_behind_barriers(site: Site) -> Operation:
    """A farm at work on a list with an order takes up what was added behind it."""
    site.grows = True
    workdir = begin_ordered(site)
    workdir.transact((), (5, 6), 0)
    add_lines(site)
    site.constraints.after[13] = (3,)
    site.constraints.add_barrier(14, checks=False)

    def operation(_: Site) -> FileStore:
        for _part in range(2):
            taken_up(site, workdir, 3)
            transacted(workdir, take=3)
        return workdir

    return operation


def take_up_the_first_order(site: Site) -> Operation:
    """What is added is the first that has an order."""
    site.grows = True
    workdir = begin(site)
    add_lines(site)
    site.constraints.after[13] = (6,)
    site.constraints.add_barrier(14, checks=False)
    return lambda _: transacted(taken_up(site, workdir), take=3)


def take_from_waiting(site: Site) -> Operation:
    workdir = begin_ordered(site)
    workdir.transact((), (4, 5, 6), 0)
    return lambda _: transacted(workdir, take=2)


def open_a_barrier(site: Site) -> Operation:
    workdir = begin_ordered(site)
    ends = [(4, 0), (5, 0), (6, 1), (7, 0)]

    def operation(_: Site) -> FileStore:
        workdir.prepare([ended(*each) for each in ends], (), 3)
        return transacted(workdir, ends, take=3)

    return operation


def give_back_to_waiting(site: Site) -> Operation:
    workdir = begin_ordered(site)

    def operation(_: Site) -> FileStore:
        workdir.prepare([ended(4)], (5, 6), 3)
        return transacted(workdir, [(4, 0)], (5, 6), 3)

    return operation


def reclaim_for_waiting(site: Site) -> Operation:
    site.kill(begin_ordered(site))
    return Site.open


def hand_over_what_is_not_run(site: Site) -> Operation:
    order(site)
    workdir = site.open()
    workdir.transact((), (), 12)

    def operation(_: Site) -> FileStore:
        done = workdir.transact([ended(0, 1)], (), 12)
        return transacted(workdir, [(taskid, 1) for taskid, _ in done.not_run], take=2)

    return operation


def take_over_what_is_not_run(site: Site) -> Operation:
    """The lost coordinator's farm held 2, which is never to run, and 1 and 3."""
    order(site)
    lost = site.open()
    lost.transact((), (), 12)
    assert lost.transact([ended(0, 1)], (), 12).not_run
    site.kill(lost)
    return lambda site: site.open(predecessor=lost.farm)


def transacted(
    workdir: FileStore,
    results: list[tuple[int, int]] | None = None,
    back: tuple[int, ...] = (),
    take: int = 0,
) -> FileStore:
    workdir.transact([ended(*result) for result in results or ()], back, take)
    return workdir


OPERATIONS = [
    first_take,
    take,
    give_back,
    record,
    everything,
    everything_prepared,
    leave_the_timeline,
    close,
    start,
    start_behind_torn_lines,
    reclaim,
    take_over,
    start_with_added_lines,
    start_with_added_lines_without_toprocess,
    start_without_toprocess_where_lines_were_added,
    start_with_more_added_lines,
    take_up,
    take_up_more,
    take_up_what_another_farm_has_taken_up,
    take_up_in_parts,
    take_up_behind_barriers,
    take_up_the_first_order,
    take_from_both,
    take_from_both_prepared,
    give_back_to_both,
    reclaim_for_both,
    start_ordered,
    start_ordered_without_toprocess,
    start_ordered_with_added_lines,
    start_with_an_order_behind_added_lines,
    take_from_waiting,
    open_a_barrier,
    give_back_to_waiting,
    reclaim_for_waiting,
    hand_over_what_is_not_run,
    take_over_what_is_not_run,
]
ADDING = [
    start_with_added_lines,
    start_with_added_lines_without_toprocess,
    start_without_toprocess_where_lines_were_added,
    start_with_more_added_lines,
    start_ordered_with_added_lines,
    start_with_an_order_behind_added_lines,
    take_up,
    take_up_more,
    take_up_what_another_farm_has_taken_up,
    take_up_in_parts,
    take_up_behind_barriers,
    take_up_the_first_order,
]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def sites(tmp_path):
    numbers = iter(range(10**6))
    return lambda: Site(tmp_path / f"site {next(numbers)}")


def interfered(prepared, site, strike, monkeypatch, at, half):
    """Run the operation with `strike` at one of its steps; whether it came so far."""
    before = site.farms
    operation = prepared(site)
    with interference(monkeypatch, at, strike, half=half):
        try:
            ended_well = operation(site)
        except (type(strike), InputError, StorageError):
            struck = True
        else:
            struck = False
            if ended_well is not None:
                ended_well._member.claim.end()
    for farm in range(before, site.farms + 1):
        site.dead.add(farm)
    closure = getattr(operation, "__closure__", None) or ()
    for cell in closure:
        if isinstance(cell.cell_contents, FileStore):
            cell.cell_contents._member.claim.end()
    return struck


def finish(site, plain):
    """A new farm does all that is left to it."""
    workdir = site.open()
    done = workdir.transact((), (), 5)
    while done.taken or done.not_run:
        results = [ended(taskid) for taskid in done.taken]
        results += [ended(taskid, 1) for taskid, _ in done.not_run]
        done = workdir.transact(results, (), 5)
    assert workdir.close()
    assert site.violations(plain.hand) == []
    return workdir


def broken_promises(site, operation, *, half):
    violations = site.violations()
    if half:
        # No kill splits a page; where that happens all the same, a start mends it.
        violations = [each for each in violations if "timeline" not in each]
    if operation in (take_over, take_over_what_is_not_run):
        # in the lost claim and in the new one: the next start counts them once
        violations = [each for each in violations if "in two claims" not in each]
    if operation in ADDING:
        # until a start has taken them up, they are nowhere
        new = range(len(TASKS), len(site.tasks))
        unknown = {f"task {taskid} is lost: in no file" for taskid in new}
        violations = [each for each in violations if each not in unknown]
    return violations


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_before_any_step_leaves_every_task_in_one_place(
    operation, half, sites, monkeypatch
):
    for at in range(1, MAX_STEPS):
        site = sites()
        struck = interfered(operation, site, Killed(), monkeypatch, at, half)
        violations = broken_promises(site, operation, half=half)
        assert violations == [] or operation is start_behind_torn_lines, at
        plain = PlainFarmer(site)
        finish(site, plain)
        done = {*site.ids("finished"), *site.ids("failed")}
        assert sorted(done) == list(range(len(site.tasks)))
        assert max(site.ids("toprocess"), default=0) < len(TASKS)
        assert not list((site.root / "claims").iterdir())
        assert not list(site.root.glob("toprocess.*"))
        if not struck:
            return
    pytest.fail("the operation never came to its end")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "operation",
    [
        *(first_take, everything, everything_prepared, give_back_to_both),
        *(start_behind_torn_lines, take_from_both_prepared, reclaim_for_both),
        *(take_up_more, take_up_in_parts),
        *(start_ordered, open_a_barrier, give_back_to_waiting),
    ],
)
def test_so_does_one_where_files_are_too_large_to_be_read_whole(
    operation, half, sites, monkeypatch
):
    for name, value in SMALL_PARTS.items():
        monkeypatch.setattr(file_contents, name, value)
    test_a_kill_before_any_step_leaves_every_task_in_one_place(
        operation, half, sites, monkeypatch
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_plain_farmers_may_move_between_the_kill_and_the_next_start(
    operation, sites, monkeypatch
):
    for at in range(1, MAX_STEPS):
        site = sites()
        struck = interfered(operation, site, Killed(), monkeypatch, at, half=False)
        plain = PlainFarmer(site, known=len(TASKS))
        takes_all = site.constraints and not (site.root / "toprocess").exists()
        if operation is not start_behind_torn_lines:
            popped = [plain.pop() for _ in range(3)]
            if popped[0] is not None:
                plain.record(popped[0], 0)
                # An idle worker puts its last task back at the end.
                plain.requeue(popped[0])
            if popped[1] is not None:
                plain.requeue(popped[1])
        held = set(plain.hand)
        if takes_all:
            with pytest.raises(InputError, match="that does not heed"):
                site.open()
            continue
        if site.constraints:  # else a barrier stays shut
            for taskid in held:
                plain.record(taskid, 0)
        finish(site, plain)
        known = {*site.ids("finished"), *site.ids("failed"), *held}
        assert sorted(known) == list(range(len(site.tasks)))
        assert len(set(site.ids("finished"))) == len(site.ids("finished"))
        if not struck:
            return
    pytest.fail("the operation never came to its end")


@pytest.mark.parametrize(
    ("operation", "half"),
    [
        *((reclaim, True), (everything, False), (reclaim_for_both, False)),
        *((start_ordered, False), (open_a_barrier, False)),
    ],
)
def test_a_second_kill_while_the_first_is_mended_changes_nothing(
    operation, half, sites, monkeypatch
):
    for at in range(1, MAX_STEPS):
        again = 0
        struck = struck_again = True
        while struck_again:
            again += 1
            site = sites()
            struck = interfered(operation, site, Killed(), monkeypatch, at, half)
            struck_again = interfered(
                lambda _: Site.open, site, Killed(), monkeypatch, again, half
            )
            assert broken_promises(site, operation, half=half) == []
            finish(site, PlainFarmer(site))
        if not struck:
            return
    pytest.fail("the operation never came to its end")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_disk_that_is_full_at_any_step_damages_nothing(operation, sites, monkeypatch):
    for at in range(1, MAX_STEPS):
        site = sites()
        struck = interfered(operation, site, full_disk(), monkeypatch, at, half=True)
        if operation is not start_behind_torn_lines:
            assert broken_promises(site, operation, half=True) == []
            for name in ("toprocess", "finished", "failed"):
                path = site.root / name
                assert not path.exists() or path.read_text()[-1:] in ("", "\n")
        finish(site, PlainFarmer(site))
        if not struck:
            return
    pytest.fail("the operation never came to its end")
