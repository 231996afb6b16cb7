"""Where is a task?  All who answer say the same of any workdir.

Those are the audit (`check`, repair), the view (`ls`), `retry`, `log`, a farm
at its start and at its end, `--remap`, and the invariants of the tests.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.audit.audit import Audit, FindingKind, audit_contents
from mpifarm.audit.locate import locate_tasks
from mpifarm.audit.retry import Wanted, retry
from mpifarm.audit.snapshot import examine
from mpifarm.audit.view import State, read_view
from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.order.constraints import Constraints
from mpifarm.store.claim_journal import Event, Head, encode_event, encode_head
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.remap import remap_workdir
from mpifarm.store.target import Target
from mpifarm.store.task_map import Location
from tests.invariants import find_violations
from tests.unit.store_fakes import FakeLock, Site

TASKS = [f"echo task {number}" for number in range(8)]
ALL = range(len(TASKS))
ids = st.lists(st.sampled_from(ALL), max_size=6)


class Claimed(NamedTuple):
    """A claim: what it took before and after the first `failed_before` failures."""

    take: set[int]
    done: set[int]
    failed_before: int


class Workdir(NamedTuple):
    """What stands in the files; None for no ``toprocess``.

    `torn` is the task of a torn line at the end of ``finished``; `behind` is the first
    task behind a barrier.
    """

    finished: list[int]
    failed: list[int]
    toprocess: list[int] | None
    claims: list[Claimed]
    first_added: int
    added: list[int]
    torn: int | None
    behind: int = 8
    waiting: list[int] = []  # noqa: RUF012 - no one changes it

    @property
    def constraints(self) -> Constraints:
        constraints = Constraints()
        if self.behind < len(TASKS):
            constraints.add_barrier(self.behind, checks=False)
        return constraints

    def queue_of(self, taskid: int) -> list[int]:
        """What stands in the queue to which a task belongs."""
        if taskid >= self.behind:
            return self.waiting
        queue = self.toprocess if taskid < self.first_added else self.added
        return queue or []


workdirs = st.builds(
    Workdir,
    finished=ids,
    failed=ids,
    toprocess=st.one_of(st.none(), ids),
    claims=st.lists(
        st.builds(Claimed, st.sets(st.sampled_from(ALL)), st.sets(st.sampled_from(ALL)),
                  st.integers(0, 6)),
        max_size=2,
    ),
    first_added=st.sampled_from([6, 8]),
    added=ids,
    torn=st.one_of(st.none(), st.sampled_from(ALL)),
    behind=st.sampled_from([8, 3, 7]),
    waiting=ids,
)  # fmt: skip


def line(taskid: int) -> str:
    return f"{taskid} {TASKS[taskid]}\n"


def write(site: Site, given: Workdir) -> None:
    paths = WorkdirPaths(str(site.root))
    site.write("finished", given.finished)
    if given.torn is not None:
        with open(paths.finished, "a") as stream:
            stream.write(line(given.torn)[:-2])
    site.write("failed", given.failed)
    if given.toprocess is not None:
        first, behind = given.first_added, given.behind
        for name, queue, belong in (
            ("toprocess", given.toprocess, range(min(first, behind))),
            ("added", given.added, range(first, behind)),
            ("waiting", given.waiting, range(behind, 8)),
        ):
            site.write(name, sorted({*queue} & {*belong}))
    fingerprint = take_fingerprint(TASKS, given.first_added, given.constraints)
    Path(paths.fingerprint).write_bytes(encode_fingerprint(fingerprint))
    Path(paths.claims).mkdir()
    (site.root / "lock").touch()
    for number, claim in enumerate(given.claims):
        pid = 100 + number
        head = Head(f"c1a1{number:04x}", "node1", "boot1", pid, 5000 + pid, 1.0, ())
        size = sum(len(line(each)) for each in given.failed[: claim.failed_before])
        events = [Event(take=sorted(claim.take), failed=size)] if claim.take else []
        events += [Event(done=sorted(claim.done))] if claim.done else []
        content = encode_head(head) + b"".join(map(encode_event, events))
        Path(paths.claim(head.farm)).write_bytes(content)
        site.dead.add(pid)


def expected_location(given: Workdir, taskid: int) -> Location:
    """By the table of docs/protocol.md, line by line."""
    if taskid in given.finished:
        return Location.FINISHED
    if any(taskid in claim.take - claim.done for claim in given.claims):
        return Location.CLAIMED
    if given.toprocess is None or taskid in given.queue_of(taskid):
        return Location.QUEUED
    return Location.FAILED if taskid in given.failed else Location.NOWHERE


def expected_after_start(given: Workdir, taskid: int) -> Location:
    """The same when the claims, of dead farms all, are reclaimed."""
    location = expected_location(given, taskid)
    if location is not Location.CLAIMED:
        return location
    open_claims = [
        claim
        for claim in given.claims
        if taskid in claim.take - claim.done
        and taskid not in given.failed[claim.failed_before :]
    ]
    is_queued = given.toprocess is None or taskid in given.queue_of(taskid)
    if open_claims or is_queued:
        return Location.QUEUED
    return Location.FAILED


def audit(site: Site) -> Audit:
    contents = examine(str(site.root), site.machine(1))
    return audit_contents(contents, TASKS, constraints=site.constraints)


def locations_of(each: Audit) -> list[Location]:
    return [each.locations.find(taskid) for taskid in ALL]


@pytest.fixture(autouse=True, scope="module")
def no_syncs():
    with mock.patch.object(os, "fsync", return_value=None):
        yield


def sites(given: Workdir, directory: str) -> Site:
    site = Site(Path(directory) / "w", TASKS)
    site.constraints = given.constraints
    write(site, given)
    return site


calm = settings(max_examples=150)


@calm
@given(workdirs)
def test_the_audit_and_the_log_follow_the_table(given):
    with tempfile.TemporaryDirectory() as directory:
        site = sites(given, directory)
        expected = [expected_location(given, taskid) for taskid in ALL]
        found = audit(site)
        assert locations_of(found) == expected
        assert found.nowhere == {i for i in ALL if expected[i] is Location.NOWHERE}
        contents = examine(str(site.root), site.machine(1))
        locator = locate_tasks(
            contents, TASKS, has_own_state=False, constraints=given.constraints
        )
        located = [locator.locate(taskid) for taskid in ALL]
        assert [each.location for each in located] == expected
        for each in located:
            assert (each.holder is not None) is (each.location is Location.CLAIMED)
        unlocked = examine(str(site.root), site.machine(1), locked=False)
        found = audit_contents(unlocked, TASKS, constraints=given.constraints)
        assert locations_of(found) == expected


@calm
@given(workdirs)
def test_retry_moves_what_failed_unless_it_is_finished_or_claimed(given):
    with tempfile.TemporaryDirectory() as directory:
        site = sites(given, directory)
        before = locations_of(audit(site))
        lock = FakeLock(site.root / "lock")
        try:
            given_to = (str(site.root), TASKS, lock, site.machine(1), Wanted())
            done = retry(*given_to, given.constraints)
        except InputError:
            assert given.toprocess is None
            return
        failed = {*given.failed}
        assert done.held == [
            i for i in ALL if i in failed and before[i] is Location.CLAIMED
        ]
        runs = (Location.FAILED, Location.QUEUED)
        assert done.moved == [i for i in ALL if i in failed and before[i] in runs]
        after = locations_of(audit(site))
        for taskid in ALL:
            is_moved = taskid in done.moved
            assert after[taskid] is (Location.QUEUED if is_moved else before[taskid])


STATES = {
    Location.FINISHED: State.FINISHED,
    Location.FAILED: State.FAILED,
    Location.QUEUED: State.WAITING,
    Location.CLAIMED: State.ORPHANED,
    Location.NOWHERE: State.NOWHERE,
}
"""The farms of all claims are dead."""


@calm
@given(workdirs)
def test_the_view_follows_the_table(given):
    with tempfile.TemporaryDirectory() as directory:
        site = sites(given, directory)
        tasklist = Path(directory) / "list"
        lines = [f"{text}\n" for text in TASKS]
        if given.behind < len(TASKS):
            lines.insert(given.behind, "#BARRIER\n")
        tasklist.write_text("".join(lines))
        target = Target(str(site.root), str(tasklist))
        view = read_view(target, {}, site.machine(1))
        expected = [STATES[expected_location(given, taskid)] for taskid in ALL]
        assert [view.state(taskid) for taskid in ALL] == expected
        for state in State:
            ids = [taskid for taskid in ALL if expected[taskid] is state]
            assert view.ids_in(state) == ids
            assert view.counts[state] == len(ids)


def is_removed_queue(given: Workdir) -> bool:
    """Whether the user has removed ``toprocess`` while a claim had a settled task.

    Then a start that makes two queues leaves the task failed, and others run it.
    """
    return given.toprocess is None and any(
        claim.take - claim.done & {*given.failed[claim.failed_before :]}
        for claim in given.claims
    )


@calm
@given(workdirs.filter(lambda given: not is_removed_queue(given)))
def test_a_farm_that_starts_counts_what_the_audit_counts(given):
    with tempfile.TemporaryDirectory() as directory:
        site = sites(given, directory)
        farm = site.open()
        counts = farm.counts(farm.survey())
        found = audit(site)
        assert locations_of(found) == [expected_after_start(given, i) for i in ALL]
        audited = found.locations.count()
        assert (counts.finished, counts.failed) == (audited.finished, audited.failed)
        assert (counts.toprocess, counts.elsewhere) == (audited.queued, audited.nowhere)
        assert (counts.held, counts.claimed) == (0, audited.claimed)
        failed = found.locations.ids_at(Location.FAILED)
        assert counts.first_failed == tuple(failed)
        runs = {i for i in ALL if found.locations.find(i) is Location.QUEUED}
        is_shut = any(
            found.locations.find(each) not in (Location.FINISHED, Location.FAILED)
            for each in range(given.behind)
        )
        waits = {each for each in runs if is_shut and each >= given.behind}
        assert counts.held_up == len(waits)
        assert {*farm.transact((), (), 99).taken} == runs - waits
        held = farm.counts(farm.survey())
        assert (held.held, held.toprocess) == (len(runs - waits), len(waits))


@calm
@given(workdirs.filter(lambda given: not is_removed_queue(given)))
def test_remap_to_the_same_list_leaves_each_task_where_a_start_would(given):
    with tempfile.TemporaryDirectory() as directory:
        site = sites(given, directory)
        paths = WorkdirPaths(str(site.root))
        lost = audit(site).nowhere
        if given.toprocess is not None and lost - {given.torn}:
            with pytest.raises(InputError, match="are in no file"):
                remap_workdir(paths, TASKS, site.machine(1), site.now)
            return
        remap_workdir(paths, TASKS, site.machine(1), site.now, given.constraints)
        expected = [expected_after_start(given, taskid) for taskid in ALL]
        # The task of a last line without newline is known, and runs.
        runs = {i for i in lost if expected[i] is Location.NOWHERE}
        assert runs <= {given.torn}
        after = locations_of(audit(site))
        assert after == [Location.QUEUED if i in runs else expected[i] for i in ALL]


@calm
@given(workdirs)
def test_the_invariants_find_what_the_audit_finds(given):
    with tempfile.TemporaryDirectory() as directory:
        site = sites(given._replace(first_added=8, behind=8), directory)
        found = audit(site)
        violations = find_violations(str(site.root), TASKS, ())

        def told(what: str) -> set[int]:
            pattern = re.compile(rf"task (\d+) {what}")
            return {int(m[1]) for each in violations if (m := pattern.match(each))}

        def ids_of(kind: FindingKind) -> set[int]:
            finding = found.find(kind)
            return set(finding.ids) if finding else set()

        assert told("is lost") == found.nowhere
        assert told("is in finished more") == ids_of(FindingKind.FINISHED_TWICE)
        twice = told("is in toprocess and a claim, or in two claims")
        assert ids_of(FindingKind.HELD_TWICE) <= twice
        claims = [claim.take - claim.done for claim in given.claims]
        queued = set(given.toprocess or ())
        both = {
            i for i in ALL if sum(i in claim for claim in claims) + (i in queued) > 1
        }
        assert twice == both - {*given.finished}


def test_a_copy_of_a_workdir_has_the_same_locations(tmp_path):
    """What the tests above rely on: nothing but the files decides."""
    site = sites(Workdir([0], [1], [2], [], 8, [], None), str(tmp_path))
    shutil.copytree(site.root, tmp_path / "copy")
    copy = audit_contents(examine(str(tmp_path / "copy"), site.machine(1)), TASKS)
    assert locations_of(copy) == locations_of(audit(site))
