"""Failed tasks go back to ``toprocess``, and a kill in between loses none."""

import os
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.audit import retry as module
from mpifarm.audit.audit import audit_contents
from mpifarm.audit.retry import Retried, Wanted, rehearse, retry, spread_status
from mpifarm.audit.snapshot import examine
from mpifarm.errors import InputError, StorageError
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.task_map import Location
from mpifarm.store.validate import EditedListError
from tests.unit.store_fakes import (
    TASKS,
    FakeLock,
    Killed,
    Site,
    ended,
    interference,
)
from tests.workdir_files import Attempt, format_attempts

ALL = list(range(len(TASKS)))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def site(tmp_path):
    """0 and 1 are finished; 2, 3 and 4 failed; all others are to be processed."""
    return create_site(Site(tmp_path / "site"))


def create_site(site: Site) -> Site:
    site.write("toprocess", ALL[5:])
    site.write("finished", [0, 1])
    site.write("failed", [4, 2, 3])
    ended = Attempt(2, status=137), Attempt(3, status=1), Attempt(3, 2, -9)
    torn = Attempt(2).line[:3]
    (site.root / "attempts.tsv").write_text(format_attempts(*ended) + torn)
    return site


def run_again(
    site: Site, ids: Iterable[int] | None = None, status: int | None = None
) -> Retried:
    wanted = Wanted(
        None if ids is None else frozenset(ids),
        None if status is None else spread_status(status),
    )
    lock = FakeLock(site.root / "lock")
    known = (str(site.root), site.tasks, lock, site.machine(0), wanted)
    return retry(*known, site.constraints)


def test_all_that_failed_go_back(site):
    assert run_again(site).moved == [2, 3, 4]
    assert site.ids("toprocess") == ALL[2:]
    assert (site.root / "failed").read_text() == ""
    assert site.violations() == []


def test_only_the_named_ones_go_back(site):
    assert run_again(site, [2, 4]).moved == [2, 4]
    assert site.ids("toprocess") == [2, 4, *ALL[5:]]
    assert site.ids("failed") == [3]


@pytest.mark.parametrize("status", [137, -9])
def test_a_status_of_a_shell_and_the_signal_itself_are_the_same(site, status):
    retried = run_again(site, status=status)
    assert retried.moved == [2, 3]
    assert retried.unknown == [4]
    assert site.ids("failed") == [4]


def test_the_last_attempt_counts(site):
    assert run_again(site, status=1).moved == []
    assert site.ids("failed") == [4, 2, 3]


def test_ids_and_status_together_narrow_it_down(site):
    assert run_again(site, [3, 4], status=137).moved == [3]


@pytest.mark.parametrize(
    ("taskid", "why"),
    [
        (0, "^nothing was put back: task 0 is finished, and a finished task never"),
        (0, "to start all tasks afresh: mpifarm LIST --again$"),
        (5, "task 5 is still to be run; name failed tasks alone$"),
        (12, "^nothing was put back: task 12 is not in the list, which has 12 tasks"),
        (11, "task 11 is in no file"),
    ],
)
def test_an_id_that_has_not_failed_is_named_and_nothing_is_done(site, taskid, why):
    site.write("toprocess", ALL[5:11])
    before = site.files()
    with pytest.raises(InputError, match=why):
        run_again(site, [2, taskid])
    assert site.files() == before


def test_several_ids_that_the_list_does_not_have_are_named(site):
    with pytest.raises(InputError, match=": tasks 12-14, 500 are not in the list"):
        run_again(site, [0, 2, 12, 13, 14, 500])


def test_what_failed_and_finished_later_is_finished(site):
    site.write("finished", [0, 1, 2])
    assert run_again(site).moved == [3, 4]
    with pytest.raises(InputError, match="task 2 is finished"):
        run_again(site, [2])


def test_nothing_failed_is_no_error(site):
    site.write("failed", [])
    before = site.files()
    assert run_again(site) == Retried([], [], [])
    assert site.files() == before


def test_a_workdir_without_toprocess_is_told(site):
    (site.root / "toprocess").unlink()
    with pytest.raises(InputError, match="there is no toprocess"):
        run_again(site)


def test_a_workdir_that_was_never_begun_is_told(tmp_path):
    site = Site(tmp_path / "new")
    site.root.mkdir()
    with pytest.raises(InputError, match="nothing was begun"):
        run_again(site)


@pytest.mark.parametrize("name", ["toprocess", "failed"])
@pytest.mark.parametrize(
    ("line", "match"),
    [("3 echo other", "the tasklist was edited"), ("of no task", "mpifarm check")],
)
def test_lines_of_another_list_are_told_and_nothing_is_done(site, name, line, match):
    with (site.root / name).open("a") as stream:
        stream.write(f"{line}\n")
    before = site.files()
    with pytest.raises(InputError, match=match):
        run_again(site)
    assert site.files() == before


def test_an_edited_list_is_told(site):
    assert site.open().close()
    site.tasks[7] = "echo other"
    with pytest.raises(EditedListError, match="edited"):
        run_again(site)


def test_a_farm_at_work_takes_them_up_and_reads_on(site):
    workdir = site.open()
    assert workdir.transact((), (), 9).taken == ALL[5:]
    size = (site.root / "failed").stat().st_size
    assert run_again(site, [2, 4]).moved == [2, 4]
    # A farm remembers how far it has read: nothing may move.
    assert (site.root / "failed").stat().st_size == size
    assert site.ids("failed") == [3]
    taken = workdir.transact([ended(5), ended(6, 1)], (), 9).taken
    assert taken == [2, 4]
    workdir.transact([ended(2, 1), ended(4)], (), 0)
    assert site.ids("failed") == [3, 6, 2]
    assert workdir.notes == []


def test_what_a_farm_that_dies_has_taken_again_is_not_taken_for_recorded(site):
    workdir = site.open()
    run_again(site)
    assert workdir.transact((), (), 3).taken == [2, 3, 4]
    workdir.transact([ended(2, 1)], (), 0)
    site.kill(workdir)
    site.open()
    assert site.ids("toprocess") == ALL[3:]
    assert site.ids("failed") == [2]


def test_what_a_farm_has_claimed_is_left_alone(site):
    site.write("toprocess", ALL[4:])
    workdir = site.open()
    assert workdir.transact((), (), 1).taken == [4]
    retried = run_again(site)
    assert retried.moved == [2, 3]
    assert retried.held == [4]
    with pytest.raises(InputError, match="task 4 is with a farm"):
        run_again(site, [4])


def test_a_task_that_was_added_to_the_list_goes_where_plain_farmers_dont_read(site):
    fingerprint = take_fingerprint(TASKS, 8)
    (site.root / "fingerprint.json").write_bytes(encode_fingerprint(fingerprint))
    site.write("toprocess", ALL[5:8])
    site.write("added", [8, 11])
    site.write("failed", [9, 2, 3, 4, 10])
    assert run_again(site, [3, 9]).moved == [3, 9]
    assert site.ids("toprocess") == [3, 5, 6, 7]
    assert site.ids("added") == [8, 9, 11]
    assert site.ids("failed") == [2, 4, 10]
    workdir = site.open()
    assert workdir.transact((), (), 20).taken == [3, 5, 6, 7, 8, 9, 11]


def test_an_interrupted_remap_is_told(site):
    (site.root / "remap.begun").mkdir()
    with pytest.raises(InputError, match="--remap"):
        run_again(site)


def test_the_next_retry_leaves_no_gaps(site):
    workdir = site.open()
    run_again(site, [4])
    assert (site.root / "failed").read_text().startswith("\n")
    assert workdir.close()
    run_again(site, [2])
    assert (site.root / "failed").read_text() == site.lines([3])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("at_work", [False, True])
def test_a_kill_at_any_step_loses_none_and_the_next_retry_completes_it(
    tmp_path, monkeypatch, half, at_work
):
    for at in range(1, 50):
        site = create_site(Site(tmp_path / f"site {at}"))
        if at_work:
            site.open()
        struck = False
        with interference(monkeypatch, at, Killed(), half=half):
            try:
                run_again(site)
            except Killed:
                struck = True
        audit = audit_contents(examine(str(site.root), site.machine(0)), site.tasks)
        assert audit.locations.count().nowhere == 0
        assert set(audit.failed.ids) | audit.queued == set(ALL[2:])
        run_again(site)
        assert site.ids("toprocess") == ALL[2:]
        assert site.ids("failed") == []
        if not struck:
            assert at > 4
            return
    pytest.fail("the retry never came to its end")


def test_a_retry_is_composed_anew_when_the_files_change_meanwhile(site, monkeypatch):
    from mpifarm.audit import retry as retrying

    calls: list[object] = []
    plain = retrying.plan_moves

    def plan(*args: object) -> object:
        if not calls:
            site.write("toprocess", ALL[7:])
            with (site.root / "failed").open("a") as stream:
                stream.write(site.lines([5]))
        calls.append(args)
        return plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(retrying, "plan_moves", plan)
    assert run_again(site).moved == [2, 3, 4, 5]
    assert site.ids("toprocess") == [2, 3, 4, 5, *ALL[7:]]


def test_what_cannot_be_read_is_told_and_nothing_is_moved(site):
    (site.root / "finished").unlink()
    (site.root / "finished").mkdir()
    with pytest.raises(InputError, match="finished"):
        run_again(site)
    assert site.ids("toprocess") == ALL[5:]


def test_a_disk_that_fails_is_no_mistake_of_the_user(site, monkeypatch):
    real = examine

    def fail(path, machine):
        return real(path, machine)._replace(unread=("the disk",), disk_failed=True)

    monkeypatch.setattr(module, "examine", fail)
    with pytest.raises(StorageError, match=r"^the disk$"):
        run_again(site)


def test_a_rehearsal_tells_the_mistake_and_moves_nothing(site):
    before = site.files()
    rehearse(str(site.root), site.tasks, site.machine(0), Wanted())
    wanted = Wanted(ids=frozenset([0]))
    with pytest.raises(InputError, match="task 0 is finished"):
        rehearse(str(site.root), site.tasks, site.machine(0), wanted)
    assert site.files() == before


@pytest.mark.parametrize(
    ("status", "same"),
    [(0, {0}), (1, {1}), (128, {128}), (129, {129, -1}), (-9, {-9, 137})],
)
def test_a_status_above_128_is_that_of_a_signal_too(status, same):
    assert spread_status(status) == same


# ---- lists with an order ------------------------------------------------------------


@pytest.fixture
def ordered(site):
    """4 and 5 were not run, since 2 had failed; 6 has failed by itself."""
    site.constraints.after.update({4: (2,), 5: (4,)})
    assert_fresh(site)
    site.write("toprocess", [])
    site.write("waiting", [])
    site.write("failed", [2, 4, 5, 6])
    why = "not run: task 2 failed"
    ends = (
        Attempt(2, status=1),
        Attempt(4, 0, status=1, outcome=why),
        Attempt(5, 0, status=1, outcome=why),
        Attempt(6, status=3),
    )
    (site.root / "attempts.tsv").write_text(format_attempts(*ends))
    return site


def assert_fresh(site: Site) -> None:
    fingerprint = take_fingerprint(site.tasks, constraints=site.constraints)
    (site.root / "fingerprint.json").write_bytes(encode_fingerprint(fingerprint))


@pytest.mark.parametrize(
    ("ids", "moved", "along"),
    [
        (None, [2, 4, 5, 6], ()),
        ([2], [2, 4, 5], (4, 5)),
        ([5], [2, 4, 5], (2, 4)),
        ([6], [6], ()),
    ],
)
def test_what_waits_for_each_other_goes_back_together(ordered, ids, moved, along):
    retried = run_again(ordered, ids)
    assert (retried.moved, retried.along) == (moved, along)
    waits = [each for each in moved if each in (4, 5)]
    assert ordered.ids("waiting") == waits
    assert ordered.ids("toprocess") == [each for each in moved if each not in waits]
    assert ordered.ids("failed") == [each for each in (2, 4, 5, 6) if each not in moved]


def test_what_a_farm_records_as_not_run_meanwhile_goes_back_too(ordered, monkeypatch):
    """By a farm that records very many while a retry looks."""
    from mpifarm.audit import retry as retrying

    calls: list[object] = []
    plain = retrying.plan_moves
    ordered.constraints.after[8] = (2,)
    assert_fresh(ordered)

    def plan(*args: object) -> object:
        if not calls:
            with (ordered.root / "failed").open("a") as stream:
                stream.write(ordered.lines([8]))
            with (ordered.root / "attempts.tsv").open("a") as stream:
                not_run = Attempt(8, 0, status=1, outcome="not run: task 2 failed")
                stream.write(not_run.line)
        calls.append(args)
        return plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(retrying, "plan_moves", plan)
    assert run_again(ordered, [2]).moved == [2, 4, 5, 8]


def test_what_was_not_run_has_no_status_of_its_own(ordered):
    assert run_again(ordered, status=1)[:3] == ([2, 4, 5], [], [])
    assert run_again(ordered, status=3).moved == [6]


# ---- which go back: the choice by itself ---------------------------------------------


def audit_of(failed: Iterable[int], places: dict[int, Location]) -> Any:
    """What is known of eight tasks, of which these stand in ``failed``."""
    places = dict.fromkeys(failed, Location.FAILED) | places
    find = lambda taskid: places.get(taskid, Location.QUEUED)  # noqa: E731
    return SimpleNamespace(
        failed=SimpleNamespace(ids=[*failed]),
        locations=SimpleNamespace(find=find),
        tasks=["x"] * 8,
    )


@pytest.mark.parametrize(
    ("wanted", "moved", "held", "unknown", "along"),
    [
        (Wanted(), [1, 2, 3, 4], [5], [], []),
        (Wanted(frozenset({1})), [1, 4], [], [], [4]),
        (Wanted(frozenset({4})), [1, 4], [], [], [1]),
        (Wanted(frozenset({2})), [2], [], [], []),
        (Wanted(statuses=frozenset({7})), [1, 3, 4], [5], [2], [4]),
        (Wanted(frozenset({1, 2}), frozenset({7})), [1, 4], [], [2], [4]),
        (Wanted(statuses=frozenset({9})), [], [], [2], []),
    ],
)
def test_what_goes_back_and_what_is_left(wanted, moved, held, unknown, along):
    places = {5: Location.CLAIMED, 6: Location.FINISHED}
    audit = audit_of([1, 2, 3, 4, 5, 6], places)
    ends = module.LastEnds({1: 7, 3: 7, 5: 7, 6: 7}, {4: 1})
    found = module.choose(wanted, audit, ends)
    assert (found.moved, found.held, found.unknown) == (moved, held, unknown)
    assert [*found.along] == along


def test_the_last_end_of_a_task_counts_whatever_came_before():
    content = format_attempts(
        Attempt(0, status=1),
        Attempt(0, 2, status=-9),
        Attempt(1, status=3),
        Attempt(1, 2, status=1, outcome="not run: task 0 failed"),
        Attempt(2, status=1, outcome="not run: task 0 failed"),
        Attempt(2, 2, status=5),
    )
    ends = module.read_last_ends(content.encode())
    assert ends.statuses == {0: -9, 2: 5}
    assert ends.not_run == {1: 0}
