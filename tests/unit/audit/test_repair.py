"""A repair leads to a clean workdir, from anywhere, and loses nothing on the way.

Rules of this file: no process, no sleep; a repair is "killed" by an exception in place
of one of its steps on the disk.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpifarm.audit import repair as module
from mpifarm.audit.audit import (
    NOTICES,
    Audit,
    AuditFinding,
    ClaimView,
    FindingKind,
    audit_contents,
)
from mpifarm.audit.repair import Repair, Repairer, plan_repair
from mpifarm.audit.snapshot import examine, list_logs
from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import clock_file
from mpifarm.output.records import RankFiles, Record, encode_record
from mpifarm.store.claim_journal import Event, Head, encode_event, encode_head
from mpifarm.store.claims import find_lock_files
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.store.file_store import FileStore
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.system import files
from tests.unit.store_fakes import (
    TASKS,
    FakeLock,
    Killed,
    PlainFarmer,
    Site,
    ended,
    interference,
)

MAX_STEPS = 200
ALL = list(range(len(TASKS)))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def site(tmp_path):
    return create_site(tmp_path / "site")


def create_site(root: Path) -> Site:
    site = Site(root)
    site.write("toprocess", ALL)
    (root / "fingerprint.json").write_bytes(encode_fingerprint(take_fingerprint(TASKS)))
    (root / "claims").mkdir()
    (root / "logs").mkdir()
    (root / "lock").touch()
    return site


def check(site: Site) -> Audit:
    contents = examine(str(site.root), site.machine(0))
    return audit_contents(contents, site.tasks, constraints=site.constraints)


def found(site: Site, kind: FindingKind) -> AuditFinding:
    finding = check(site).find(kind)
    assert finding is not None
    return finding


def repair(site: Site, *, assume_idle: bool = False) -> list[str]:
    said: list[str] = []
    site.farms += 1
    Repairer(
        str(site.root),
        site.tasks,
        site.machine(site.farms),
        said.append,
        assume_idle=assume_idle,
        wall=lambda: site.now,
        farm=f"{site.farms:08x}",
        constraints=site.constraints,
    ).run(FakeLock(site.root / "lock"))
    return said


def kinds(audit: Audit) -> set[FindingKind]:
    return {finding.kind for finding in audit.findings}


def append(site: Site, name: str, content: str) -> None:
    with (site.root / name).open("a") as stream:
        stream.write(content)


def copies(site: Site, name: str) -> list[bytes]:
    return [path.read_bytes() for path in site.root.glob(f"{name}.before-repair-*")]


def write_claim(
    site: Site, pid: int, events: Sequence[Event], *, torn: bytes = b""
) -> Path:
    """The claim of a farm that is not this process: its lock is free."""
    locks = find_lock_files([str(site.root / "lock")])
    head = Head(f"{pid:08x}", "node1", "boot1", pid, 5000 + pid, 1.0, locks)
    path = site.root / "claims" / head.farm
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_head(head) + b"".join(map(encode_event, events)) + torn)
    return path


# ---- each kind ----------------------------------------------------------------------


def test_a_workdir_that_a_farm_has_left_is_clean(site):
    workdir = site.open()
    taken = workdir.transact((), (), 5).taken
    workdir.transact([ended(taken[0]), ended(taken[1], 1)], taken[2:], 0)
    assert workdir.close()
    assert check(site).findings == []
    assert repair(site) == []


def test_a_farm_at_work_is_no_finding(site):
    workdir = site.open()
    workdir.transact((), (), 5)
    workdir.prepare((), (1, 2), 2)
    audit = check(site)
    assert audit.findings == []
    assert audit.locations.count().claimed == 5
    assert repair(site) == []
    assert workdir.transact((), (1, 2), 2).taken == [5, 6]


def test_a_file_is_changed_only_once_its_copy_is_kept(tmp_path, monkeypatch):
    for at in range(1, MAX_STEPS):
        site = create_site(tmp_path / f"site {at}")
        site.write("toprocess", ALL[2:])
        site.write("finished", [0, 1, 1])
        before = (site.root / "finished").read_bytes()
        with interference(monkeypatch, at, Killed(), half=False):
            try:
                repair(site)
            except Killed:
                is_killed = True
            else:
                is_killed = False
        if (site.root / "finished").read_bytes() != before:
            assert copies(site, "finished") == [before]
        if not is_killed:
            return
    pytest.fail("the repair never came to its end")


def test_beside_a_farm_at_work_a_repair_moves_no_byte_of_what_the_farm_has_read(site):
    site.write("toprocess", ALL[3:])
    append(
        site, "finished", f"0 {TASKS[0]}\n\n0 {TASKS[0]}\n1 {TASKS[1]}\n2 {TASKS[2]}\n"
    )
    before = (site.root / "finished").read_bytes()
    workdir = site.open()
    assert not workdir.held
    repair(site)
    after = (site.root / "finished").read_bytes()
    assert after != before
    assert len(after) == len(before)
    assert after[-20:] == before[-20:]


def test_what_is_finished_goes_out_of_toprocess_and_a_copy_is_kept(site):
    site.write("finished", [3])
    before = (site.root / "toprocess").read_bytes()
    assert found(site, FindingKind.QUEUED_FINISHED).ids == (3,)
    (said,) = repair(site)
    assert "3" in said
    assert "toprocess" in said
    assert copies(site, "toprocess") == [before]
    assert site.ids("toprocess") == [each for each in ALL if each != 3]
    assert check(site).findings == []


def test_what_a_farm_at_work_has_claimed_goes_out_of_toprocess(site):
    workdir = site.open()
    workdir.transact((), (), 2)
    site.write("toprocess", ALL)
    assert found(site, FindingKind.QUEUED_HELD).ids == (0, 1)
    repair(site)
    assert site.ids("toprocess") == ALL[2:]
    workdir.transact([ended(0), ended(1)], (), 0)
    assert site.violations() == []


def test_a_line_that_stands_twice_in_finished_is_left_once(site):
    site.write("toprocess", ALL[3:])
    site.write("finished", [0, 1, 2, 1, 0])
    assert found(site, FindingKind.FINISHED_TWICE).ids == (0, 1)
    repair(site)
    assert site.ids("finished") == [0, 1, 2]
    assert check(site).findings == []


def test_of_two_lines_in_failed_the_later_one_stays(site):
    site.write("toprocess", ALL[3:])
    site.write("failed", [0, 1, 2, 0])
    audit = check(site)
    assert kinds(audit) == {FindingKind.FAILED_TWICE}
    assert audit.clean
    repair(site)
    assert site.ids("failed") == [1, 2, 0]


def test_what_failed_and_finished_later_is_worth_a_word_only(site):
    site.write("toprocess", ALL[2:])
    site.write("failed", [0, 1])
    site.write("finished", [1])
    audit = check(site)
    assert kinds(audit) == {FindingKind.FAILED_FINISHED}
    assert audit.clean
    assert audit.locations.count().failed == 1
    repair(site)
    assert site.ids("failed") == [0]


def test_what_failed_and_is_to_run_again_is_no_finding_until_a_repair_tidies_it(site):
    site.write("toprocess", ALL)
    site.write("failed", [0])
    assert check(site).clean
    assert kinds(check(site)) == {FindingKind.FAILED_QUEUED}
    repair(site)
    assert site.ids("failed") == []
    assert site.ids("toprocess") == ALL


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("0 echo task 0\n1 echo", [0]),  # the writer was killed
        ("0 echo task 0\n1 echo task 1", [0, 1]),  # before its newline
        ("1 ec\n0 echo task 0\n", [0]),  # mpifarm has ended it
        ("1 ec0 echo task 0\n", [0]),  # a plain farmer went on behind it
        ("1 echo task 10 echo task 0\n", [0, 1]),
        ("\0\0\0\n0 echo task 0\n", [0]),
    ],
)
@pytest.mark.parametrize("claimed", [False, True])
def test_torn_lines_are_mended_and_what_they_record_stays(site, content, ids, claimed):
    workdir = site.open() if claimed else None
    if workdir is not None:
        workdir.transact((), (), 4)
        workdir.transact((), (0, 1), 0)
    site.write(
        "toprocess", [each for each in ALL if each not in ids and each not in (2, 3)]
    )
    if not claimed:
        append(site, "toprocess", site.lines([2, 3]))
        site.write("toprocess", [each for each in ALL if each not in ids])
    (site.root / "finished").write_text(content)
    before = kinds(check(site))
    assert FindingKind.TORN in before
    repair(site)
    audit = check(site)
    if claimed and len(ids) == 2 and content.endswith("\n"):
        # There is no room for a newline between the two as long as nothing may move.
        assert FindingKind.TORN in kinds(audit)
    else:
        assert FindingKind.TORN not in kinds(audit)
        assert sorted(site.ids("finished")) == ids
    if workdir is not None:
        grown = len((site.root / "finished").read_bytes()) - len(content)
        assert grown == (not content.endswith("\n"))
        # The farm reads on, and nothing that it has read has moved.
        workdir.transact([ended(2)], (), 0)
        assert 2 in site.ids("finished")


def test_lines_of_another_list_are_taken_out_where_the_list_is_proven(site):
    site.write("toprocess", ALL[2:])
    (site.root / "finished").write_text("0 echo other\n99 echo\nfoo\n1 echo task 1\n")
    found = kinds(check(site))
    assert {
        FindingKind.OTHER_TEXT,
        FindingKind.UNKNOWN_ID,
        FindingKind.NO_TASK,
        FindingKind.NOWHERE,
    } <= found
    repair(site)
    assert site.ids("finished") == [1]
    assert kinds(check(site)) == {FindingKind.NOWHERE}
    repair(site, assume_idle=True)
    assert check(site).findings == []
    assert site.ids("toprocess") == [0, *ALL[2:]]


def test_they_stay_where_no_fingerprint_proves_it(site):
    (site.root / "fingerprint.json").unlink()
    (site.root / "finished").write_text("0 echo other\n99 echo\nfoo\n1 echo task 1\n")
    before = site.files()
    with pytest.raises(InputError, match="the tasklist was edited since"):
        repair(site)
    assert site.files() == before


def test_in_toprocess_the_id_counts_whatever_text_it_has(site):
    (site.root / "toprocess").write_text("0 echo other\n1 echo task 1\n")
    site.write("finished", ALL[2:])
    assert kinds(check(site)) == {FindingKind.OTHER_TEXT}
    repair(site)
    assert site.ids("toprocess") == [0, 1]
    assert check(site).findings == []


def test_toprocess_that_is_not_sorted_is_sorted(site):
    site.write("toprocess", reversed(ALL))
    assert kinds(check(site)) == {FindingKind.UNSORTED}
    repair(site)
    assert site.ids("toprocess") == ALL


def test_a_task_in_no_file_needs_the_users_word(site):
    site.write("toprocess", ALL[2:])
    assert found(site, FindingKind.NOWHERE).ids == (0, 1)
    assert repair(site) == []
    repair(site, assume_idle=True)
    assert site.ids("toprocess") == ALL
    assert check(site).findings == []


def test_without_toprocess_nothing_is_lost(site):
    (site.root / "toprocess").unlink()
    site.write("finished", [0])
    assert check(site).findings == []
    assert check(site).locations.count().queued == len(ALL) - 1
    assert repair(site, assume_idle=True) == []
    assert not (site.root / "toprocess").exists()


def test_the_users_word_does_not_count_against_a_farm_at_work(site):
    workdir = site.open()
    workdir.transact((), (), 2)
    site.write("toprocess", ALL[4:])
    before = site.files()
    with pytest.raises(InputError, match=r"00000001 on node1 \(pid 1\) is running"):
        repair(site, assume_idle=True)
    assert site.files() == before


def test_the_tasks_of_a_dead_farm_go_back(site):
    workdir = site.open()
    workdir.transact((), (), 4)
    workdir.transact([ended(0), ended(1, 1)], (), 0)
    site.kill(workdir)
    assert kinds(check(site)) == {FindingKind.CLAIM_DEAD}
    said = repair(site)
    assert any("2 tasks reclaimed from the dead farm" in line for line in said)
    assert site.ids("toprocess") == ALL[2:]
    assert site.ids("failed") == [1]
    assert check(site).findings == []
    assert list((site.root / "claims").iterdir()) == []


def test_a_damaged_claim_needs_the_users_word(site):
    site.dead.add(77)
    path = write_claim(site, 77, [Event(take=[0, 1])], torn=b'{"take": "x"}\n')
    content = path.read_bytes()
    site.write("toprocess", ALL[4:])
    repair(site)
    assert kinds(check(site)) == {FindingKind.CLAIM_DAMAGED, FindingKind.NOWHERE}
    repair(site, assume_idle=True)
    assert check(site).findings == []
    assert site.ids("toprocess") == ALL
    assert copies(site, "claim-*") == [content]


def test_a_farm_elsewhere_is_left_alone_as_long_as_its_heart_beats(site):
    head = Head("abcdef01", "node2", "boot2", 5, 5, 1.0, ())
    path = site.root / "claims" / head.farm
    path.write_bytes(encode_head(head) + encode_event(Event(take=[0, 1])))
    os.utime(path, (site.now - 50, site.now - 50))
    site.write("toprocess", ALL[2:])
    assert kinds(check(site)) == {FindingKind.CLAIM_UNSURE}
    assert check(site).clean
    repair(site)
    with pytest.raises(InputError, match="the last minute"):
        repair(site, assume_idle=True)
    assert path.exists()
    site.now += 20
    assert kinds(check(site)) == {FindingKind.CLAIM_DEAD}
    repair(site)
    assert check(site).findings == []
    assert site.ids("toprocess") == ALL


def test_temporary_files_of_farms_that_are_gone_are_removed(site):
    names = [
        *("toprocess.abcdef01.7", "fingerprint.json.abcdef01", "failed.repair"),
        *("timeline.json.abcdef01", "finished.before-repair-20260101T000000.new"),
    ]
    for name in (*names, "toprocess.backup.1", "result.json.abcdef01", "my.new"):
        (site.root / name).write_text("")
    os.utime(site.root / "result.json.abcdef01", (site.now, site.now))
    assert set(found(site, FindingKind.LEFTOVER).names) == set(names)
    repair(site)
    assert check(site).findings == []
    assert (site.root / "toprocess.backup.1").exists()
    assert (site.root / "my.new").exists()
    site.now += 50
    assert check(site).findings == []
    site.now += 11  # By now no farm can be writing its result any more.
    assert found(site, FindingKind.LEFTOVER).names == ("result.json.abcdef01",)


def test_a_timeline_is_rebuilt_of_its_whole_events(site):
    event = '{"cat": "task", "name": "x", "ph": "X", "ts": 1.0}'
    content = f"[{event},\n{event[:20]}"
    for name in ("timeline.json", "timeline.abcdef01.json"):
        (site.root / name).write_text(content)
    (site.root / "timeline.invalid.abcdef01.json").write_text(content)
    assert found(site, FindingKind.TIMELINE).names == (
        "timeline.abcdef01.json",
        "timeline.json",
    )
    repair(site)
    assert check(site).findings == []
    assert (site.root / "timeline.json").read_text() == f"[{event}]"
    assert copies(site, "timeline.json") == [content.encode()]


def test_a_damaged_fingerprint_is_written_anew(site):
    whole = (site.root / "fingerprint.json").read_bytes()
    (site.root / "fingerprint.json").write_text("{")
    assert kinds(check(site)) == {FindingKind.FINGERPRINT}
    repair(site)
    assert check(site).findings == []
    assert (site.root / "fingerprint.json").read_bytes() == whole


def test_a_list_that_was_edited_is_found_and_nothing_is_repaired_by_it(site):
    site.write("finished", [0])
    site.tasks[0] = "echo something else"
    assert FindingKind.LIST_EDITED in kinds(check(site))
    before = site.files()
    with pytest.raises(InputError, match="edited"):
        repair(site)
    assert site.files() == before


def test_lines_that_were_added_are_worth_a_word_and_left_to_the_next_farm(site):
    site.tasks.append("echo more")
    site.write("finished", [0])
    audit = check(site)
    assert kinds(audit) == {FindingKind.LINES_ADDED, FindingKind.QUEUED_FINISHED}
    assert found(site, FindingKind.LINES_ADDED).names == ("12 tasks before, 13 now",)
    repair(site)
    assert kinds(check(site)) == {FindingKind.LINES_ADDED}
    assert site.ids("toprocess") == ALL[1:]


def test_missing_logs_and_a_drain_file_are_worth_a_word(site):
    site.write("toprocess", ALL[2:])
    site.write("finished", [0, 1])
    (site.root / "logs" / "log_1").touch()
    (site.root / "drain").touch()
    contents = examine(str(site.root), site.machine(0))
    audit = audit_contents(contents, site.tasks, logs=list_logs(str(site.root)))
    assert kinds(audit) == {FindingKind.LOG, FindingKind.DRAIN}
    assert audit.find(FindingKind.LOG) == AuditFinding(FindingKind.LOG, 1, (0,))
    assert audit.clean


def test_a_file_that_cannot_be_read_is_told_and_the_rest_is_judged(site):
    (site.root / "failed").mkdir()  # 1 may stand in it
    site.write("toprocess", [0, *ALL[2:]])
    site.write("finished", [0])
    audit = check(site)
    assert kinds(audit) == {FindingKind.UNREAD, FindingKind.QUEUED_FINISHED}
    assert not audit.clean
    with pytest.raises(InputError, match="failed"):
        repair(site)


# ---- lists to which lines were added ------------------------------------------------


@pytest.fixture
def grown(tmp_path):
    """The last 4 of 12 tasks were added after the workdir was begun."""
    site = create_site(tmp_path / "grown")
    fingerprint = take_fingerprint(TASKS, 8)
    (site.root / "fingerprint.json").write_bytes(encode_fingerprint(fingerprint))
    site.write("toprocess", ALL[:8])
    site.write("added", ALL[8:])
    return site


def test_what_was_added_to_a_list_is_not_lost(grown):
    assert check(grown).findings == []
    assert check(grown).locations.count().queued == 12


def test_an_added_task_in_no_file_goes_back_to_the_queue_that_plain_farmers_dont_read(
    grown,
):
    grown.write("toprocess", ALL[1:8])
    grown.write("added", ALL[9:])
    assert found(grown, FindingKind.NOWHERE).ids == (0, 8)
    repair(grown, assume_idle=True)
    assert check(grown).findings == []
    assert grown.ids("toprocess") == ALL[:8]
    assert grown.ids("added") == ALL[8:]


def test_an_added_task_that_is_finished_or_in_toprocess_too_goes_out_of_added(grown):
    grown.write("toprocess", ALL[:9])
    grown.write("finished", [9])
    assert {FindingKind.QUEUED_TWICE, FindingKind.QUEUED_FINISHED} == kinds(
        check(grown)
    )
    repair(grown)
    assert check(grown).findings == []
    assert grown.ids("toprocess") == ALL[:9]
    assert grown.ids("added") == [10, 11]


def test_an_interrupted_remap_is_found_and_nothing_is_touched(site):
    (site.root / "remap.begun").mkdir()
    site.write("finished", [3])
    assert FindingKind.REMAP_BEGUN in kinds(check(site))
    before = site.files()
    with pytest.raises(InputError, match="--remap"):
        repair(site)
    assert site.files() == before


# ---- from anywhere ------------------------------------------------------------------

WHOLE_LINES = st.sampled_from(
    [f"{i} {text}\n".encode() for i, text in enumerate(TASKS)]
)
LINES = st.one_of(
    WHOLE_LINES,
    st.builds(lambda line, cut: line[:cut], WHOLE_LINES, st.integers(0, 14)),
    st.sampled_from(
        [b"\n", b"\0\0", b"99 x\n", b"3 echo other\n", b"-1 x\n", b"\xff\n", b"01 x\n"]
    ),
    st.binary(max_size=6),
)
STATUS = st.none() | st.lists(LINES, max_size=12).map(b"".join)
IDS = st.lists(st.sampled_from(ALL), max_size=5, unique=True)


MESSES = st.fixed_dictionaries(
    {
        "toprocess": STATUS,
        "finished": STATUS,
        "failed": STATUS,
        "added": st.none() | st.lists(WHOLE_LINES, max_size=6).map(b"".join),
        "first_added": st.sampled_from([9, 12]),
        "waiting": st.none() | st.lists(WHOLE_LINES, max_size=6).map(b"".join),
        "behind": st.sampled_from([12, 12, 5, 10]),
        "timeline.json": st.none()
        | st.sampled_from([b"[]", b"[", b"", b"{}", b"\xff"]),
        "alive": IDS,
        "dead": IDS,
        "damaged": st.none() | st.binary(max_size=8),
        "leftover": st.booleans(),
    }
)


@contextmanager
def messy_site(mess: dict[str, object]) -> Iterator[Site]:
    root = Path(tempfile.mkdtemp(prefix="mess"))
    try:
        site = create_site(root)
        if mess["behind"] != 12:
            site.constraints.add_barrier(mess["behind"], checks=False)  # type: ignore[arg-type]
        fingerprint = take_fingerprint(TASKS, mess["first_added"], site.constraints)  # type: ignore[arg-type]
        (root / "fingerprint.json").write_bytes(encode_fingerprint(fingerprint))
        names = ("toprocess", "finished", "failed", "added", "waiting", "timeline.json")
        for name in names:
            content = mess[name]
            (root / name).unlink(missing_ok=True)
            if isinstance(content, bytes):
                (root / name).write_bytes(content)
        site.dead |= {70, 71}
        if mess["alive"]:
            write_claim(site, 72, [Event(take=mess["alive"])])  # type: ignore[arg-type]
        if mess["dead"]:
            write_claim(site, 70, [Event(take=mess["dead"])])  # type: ignore[arg-type]
        if isinstance(mess["damaged"], bytes):
            write_claim(site, 71, [Event(take=[1])], torn=mess["damaged"] + b"\n[1]\n")
        if mess["leftover"]:
            (root / "toprocess.abcdef01.1").write_bytes(b"1 x")
        yield site
    finally:
        shutil.rmtree(root)


WITHOUT_THE_USERS_WORD = {FindingKind.NOWHERE, FindingKind.CLAIM_DAMAGED}
WHILE_A_CLAIM_IS_THERE = {
    FindingKind.TORN,
    FindingKind.FINISHED_TWICE,
    FindingKind.HELD_TWICE,
}


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(mess=MESSES)
def test_a_repair_leads_to_a_clean_workdir_from_anywhere(mess):
    with messy_site(mess) as site:
        before = check(site)
        repair(site)
        after = check(site)
        assert_nothing_is_lost(before, after)
        left = WITHOUT_THE_USERS_WORD
        if FindingKind.CLAIM_DAMAGED in kinds(after) or mess["alive"]:
            left = left | WHILE_A_CLAIM_IS_THERE
        assert kinds(after) - NOTICES <= left
        if mess["alive"]:
            with pytest.raises(InputError, match="is running"):
                repair(site, assume_idle=True)
            assert held_by(site, 72) == set(mess["alive"])
            site.dead.add(72)
        repair(site, assume_idle=True)
        idle = check(site)
        assert_nothing_is_lost(after, idle)
        assert idle.findings == []
        assert idle.locations.count().nowhere == 0
        farm_the_rest(site)


def held_by(site: Site, pid: int) -> set[int]:
    claims = examine(str(site.root), site.machine(0)).claims
    (claim,) = [each for each in claims if each.farm == f"{pid:08x}"]
    return set(claim.held)


def assert_nothing_is_lost(before: Audit, after: Audit) -> None:
    assert set(before.finished.ids) <= set(after.finished.ids)
    assert after.nowhere <= before.nowhere


def farm_the_rest(site: Site) -> None:
    workdir = site.open()
    while taken := workdir.transact((), (), 5).taken:
        workdir.transact([ended(taskid) for taskid in taken], (), 0)
    assert workdir.close()
    assert site.violations() == []
    audit = check(site)
    assert sorted({*audit.finished.ids, *audit.failed.ids}) == ALL
    assert len(set(audit.finished.ids)) == len(audit.finished.ids)


# ---- killed -------------------------------------------------------------------------


def mess_up(site: Site) -> None:
    """Something of everything."""
    workdir = site.open()
    workdir.transact((), (), 6)
    workdir.transact([ended(0), ended(1, 1), ended(2)], (), 0)
    site.kill(workdir)
    site.dead.add(71)
    write_claim(site, 71, [Event(take=[1])], torn=b'{"take": 1}\n')
    queued = [each for each in ALL[6:] if each != 9]
    site.write("toprocess", [2, *queued])  # 9 is nowhere, 2 is finished
    append(site, "finished", "99 x\n2 echo task 2\n11 ec")
    append(site, "failed", "6 echo task 6\n0 echo task 0")
    (site.root / "timeline.json").write_text("[{")
    (site.root / "toprocess.abcdef99.3").write_text("")


@pytest.mark.parametrize(
    ("half", "assume_idle"), [(False, True), (True, True), (True, False)]
)
def test_a_repair_killed_at_any_step_loses_nothing_and_the_next_one_completes_it(
    tmp_path, monkeypatch, half, assume_idle
):
    expected = None
    for at in range(MAX_STEPS):
        site = create_site(tmp_path / f"site {at}")
        mess_up(site)
        before = check(site)
        struck = False
        with interference(monkeypatch, at, Killed(), half=half):
            try:
                repair(site, assume_idle=assume_idle)
            except Killed:
                struck = True
        site.dead.add(site.farms)
        between = check(site)
        assert_nothing_is_lost(before, between)
        if assume_idle and not struck:
            assert between.findings == []
        repair(site, assume_idle=True)
        assert check(site).findings == []
        states = [
            sorted(site.ids(name)) for name in ("toprocess", "finished", "failed")
        ]
        expected = expected or states
        assert states == expected
        farm_the_rest(site)
        if at and not struck:
            assert at > 20
            return
    pytest.fail("the repair never came to its end")


def test_what_a_killed_repair_leaves_a_start_can_go_on_with(tmp_path, monkeypatch):
    for at in range(1, MAX_STEPS):
        site = create_site(tmp_path / f"site {at}")
        workdir = site.open()
        workdir.transact((), (), 6)
        workdir.transact([ended(0), ended(1, 1), ended(2)], (), 0)
        site.kill(workdir)
        site.write("toprocess", [2, *ALL[6:]])
        append(site, "failed", "0 echo task 0")
        struck = False
        with interference(monkeypatch, at, Killed(), half=False):
            try:
                repair(site)
            except Killed:
                struck = True
        site.dead.add(site.farms)
        farm_the_rest(site)
        if not struck:
            return
    pytest.fail("the repair never came to its end")


# ---- while farms are at work --------------------------------------------------------


def test_a_farm_goes_on_over_a_repair_at_any_moment(tmp_path):
    for moment in range(4):
        site = create_site(tmp_path / f"site {moment}")
        workdir = site.open()
        taken = workdir.transact((), (), 6).taken
        append(site, "finished", "99 alien\n")
        append(site, "failed", site.lines([8, 8]))
        steps = [
            lambda w: w.transact([ended(0), ended(1, 1)], (), 0),
            lambda w: w.transact((), (2,), 0),
            lambda w: w.transact([ended(3)], (), 2),
        ]
        for number, step in enumerate([*steps, lambda w: None]):
            if number == moment:
                repair(site)
                append(site, "finished", site.lines([10, 10]))
                repair(site)
            step(workdir)
        held = sorted(workdir.held)
        workdir.transact([ended(taskid) for taskid in held], (), 0)
        assert taken[0] == 0
        assert workdir.close()
        repair(site)
        assert check(site).findings == []
        farm_the_rest(site)


def test_a_repair_is_composed_anew_when_the_files_change_meanwhile(site, monkeypatch):
    site.write("finished", [3])
    plans: list[object] = []
    plain = Repairer._plan
    farmer = PlainFarmer(site)

    def plan(self: Repairer, contents: object) -> object:
        if not plans:
            assert farmer.pop() == 0
        plans.append(contents)
        return plain(self, contents)  # type: ignore[arg-type]

    monkeypatch.setattr(Repairer, "_plan", plan)
    repair(site)
    assert site.ids("toprocess") == [each for each in ALL if each not in (0, 3)]


def test_how_old_a_failure_is_stays_told_as_long_as_a_dead_farms_claim_is_there(site):
    """A plain farmer may take the task between the two steps of a repair."""
    workdir = site.open()
    workdir.transact((), (), 2)
    site.kill(workdir)
    site.write("failed", [1])  # recorded, and the farm was killed before it struck it
    site.write("toprocess", ALL[1:])
    contents = examine(str(site.root), site.machine(0))
    planned = plan_repair(
        contents, audit_contents(contents, site.tasks), assume_idle=False
    )
    assert planned.start_needed
    assert planned.changes == ()
    assert kinds(check(site)) == {FindingKind.CLAIM_DEAD}
    repair(site)
    assert check(site).findings == []
    assert site.ids("toprocess") == ALL


def test_files_that_never_stay_the_same_are_repaired_all_the_same(site, monkeypatch):
    site.write("finished", [3])
    plain = Repairer._plan
    writes = iter(range(100))

    def plan(self: Repairer, contents: object) -> object:
        planned = plain(self, contents)  # type: ignore[arg-type]
        if not self._lock.held:  # type: ignore[attr-defined]
            append(site, "failed", site.lines([next(writes) % 3]))
        return planned

    monkeypatch.setattr(Repairer, "_plan", plan)
    repair(site)
    assert 3 not in site.ids("toprocess")


def test_a_farm_opens_what_was_repaired(site):
    site.write("finished", [3, 3])
    repair(site)
    workdir = FileStore.open(
        str(site.root), site.tasks, FakeLock(site.root / "lock"), "0000abcd"
    )
    assert workdir.notes == []
    assert workdir.close()


def test_a_start_that_is_impossible_is_told_once(site, monkeypatch):
    write_claim(site, 900, [Event(take=[0, 1])])
    site.dead.add(900)
    site.write("toprocess", ALL[2:])

    def refuse(*_, **__):
        raise InputError("the lock area is gone")

    monkeypatch.setattr(FileStore, "open", refuse)
    assert repair(site) == ["no farm can start here yet: the lock area is gone"]


def test_a_disk_that_fails_during_a_repair_is_told_as_such(site, monkeypatch):
    real = examine

    def fail(path, machine):
        return real(path, machine)._replace(unread=("the disk",), disk_failed=True)

    monkeypatch.setattr(module, "examine", fail)
    with pytest.raises(StorageError, match=r"^the disk$"):
        repair(site)


def test_what_cannot_be_read_is_for_its_owner_to_repair(site):
    (site.root / "finished").mkdir()
    with pytest.raises(InputError, match="so have its owner do it"):
        repair(site)


def test_blank_lines_go_unless_a_claim_counts_bytes(site):
    site.write("toprocess", ALL[3:])
    for content in (
        "\n0 echo task 0\n1 echo task 1\n",
        "0 echo task 0\n\n1 echo task 1\n",
    ):
        (site.root / "finished").write_text(content + "2 echo task 2\n")
        path = write_claim(site, 900, [])
        repair(site)
        assert (site.root / "finished").read_text() == content + "2 echo task 2\n"
        path.unlink()
        (said,) = repair(site)
        assert said.startswith("finished: blank lines taken out (as it was: finished.")
        assert (site.root / "finished").read_text() == site.lines([0, 1, 2])
    assert repair(site) == []


def test_a_second_repair_in_the_same_second_keeps_both_copies(site):
    for _ in range(3):
        (site.root / "toprocess").write_text(site.lines(reversed(ALL)))
        repair(site)
    names = sorted(path.name for path in site.root.glob("toprocess.before-repair-*"))
    assert [name.rpartition("-")[2] for name in names][1:] == ["2", "3"]


def test_a_claim_that_the_audit_passes_by_is_no_claim(site):
    (site.root / "claims" / ".nfs0001").touch()
    assert check(site).findings == []


def test_a_clock_file_that_was_left_is_removed(site):
    path = Path(clock_file(str(site.root / "claims"), 77))
    path.touch()
    name = os.path.relpath(path, site.root)
    assert found(site, FindingKind.LEFTOVER).names == (name,)
    unlocked = examine(str(site.root), site.machine(0), locked=False)
    assert unlocked.leftovers == ()
    assert repair(site) == [f"{name}: removed, nobody needed it any more"]
    assert not path.exists()


def test_logs_in_packs_are_logs(site):
    (site.root / "logs" / "log_3").touch()
    assert list_logs(str(site.root)) == ["log_3"]
    packed = site.root / "logs" / "packed"
    packed.mkdir()
    rank_files = RankFiles(str(packed), "f00dcafe", 0)
    Path(rank_files.pack).write_bytes(b"abc")
    record = Record(5, 1, 0, 1e9, None, 0, 3)
    Path(rank_files.index).write_bytes(encode_record(record))
    assert sorted(list_logs(str(site.root)) or []) == ["log_3", "log_5", "packed"]


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_logs_that_cannot_be_listed_are_unknown_unless_the_disk_fails(
    site, monkeypatch, code
):
    def fail(_path):
        error = OSError(code, os.strerror(code))
        raise files.storage_error("read", "logs", error) from error

    monkeypatch.setattr(files, "find_names", fail)
    if code == errno.EIO:
        with pytest.raises(StorageError):
            list_logs(str(site.root))
    else:
        assert list_logs(str(site.root)) is None


# ---- lists with an order ------------------------------------------------------------


@pytest.fixture
def ordered(site):
    """Tasks from 8 on are behind a barrier."""
    site.constraints.add_barrier(8, checks=False)
    fingerprint = take_fingerprint(TASKS, constraints=site.constraints)
    (site.root / "fingerprint.json").write_bytes(encode_fingerprint(fingerprint))
    site.write("toprocess", range(8))
    site.write("waiting", range(8, 12))
    return site


def test_a_workdir_with_an_order_is_clean(ordered):
    assert check(ordered).findings == []
    assert repair(ordered) == []


def test_what_waits_and_was_lost_goes_back_behind_its_barrier(ordered):
    ordered.write("toprocess", range(1, 8))
    ordered.write("waiting", range(8, 11))
    assert found(ordered, FindingKind.NOWHERE).ids == (0, 11)
    repair(ordered, assume_idle=True)
    assert ordered.ids("toprocess") == [*range(8)]
    assert ordered.ids("waiting") == [8, 9, 10, 11]


def test_what_stands_in_front_of_its_barrier_is_moved_behind_it(ordered):
    ordered.write("toprocess", [*range(8), 9, 10])
    ordered.write("waiting", [8, 10, 11])
    assert found(ordered, FindingKind.QUEUED_EARLY).ids == (9, 10)
    said = repair(ordered)
    assert "waiting: put in what plain farmers may not run: 9" in said[0]
    assert ordered.ids("toprocess") == [*range(8)]
    assert ordered.ids("waiting") == [8, 9, 10, 11]
    assert check(ordered).clean


def test_with_lines_added_what_stands_in_front_of_its_barrier_is_not_lost(ordered):
    ordered.write("toprocess", [*range(8), 9, 10])
    ordered.write("waiting", [8, 11])
    ordered.write("finished", [0])
    ordered.tasks.append("echo more")
    assert FindingKind.LINES_ADDED in kinds(check(ordered))
    repair(ordered)
    assert ordered.ids("toprocess") == [*range(1, 8)]
    assert ordered.ids("waiting") == [8, 9, 10, 11]


def test_a_kill_while_it_is_moved_loses_nothing(ordered, monkeypatch):
    for at in range(1, MAX_STEPS):
        ordered.write("toprocess", [*range(8), 9])
        ordered.write("waiting", [8, 10, 11])
        with interference(monkeypatch, at, Killed(), half=False):
            try:
                repair(ordered)
            except Killed:
                struck = True
            else:
                struck = False
        assert {*ordered.ids("toprocess"), *ordered.ids("waiting")} == {*ALL}
        if not struck:
            return
    pytest.fail("the repair never came to its end")


def test_what_has_ended_or_is_held_is_taken_out_of_waiting(ordered):
    ordered.write("finished", range(9))
    ordered.write("toprocess", [])
    write_claim(ordered, 72, [Event(take=[9])])
    assert found(ordered, FindingKind.QUEUED_FINISHED).ids == (8,)
    assert found(ordered, FindingKind.QUEUED_HELD).ids == (9,)
    repair(ordered)
    assert ordered.ids("waiting") == [10, 11]


# ---- the plan of one round -----------------------------------------------------------


def plan(
    site: Site,
    claims: Mapping[str, FarmLiveness] = MappingProxyType({}),
    *,
    assume_idle: bool = False,
) -> Repair:
    """Plan as if there were claims of these farms, each of which holds nothing."""
    views = tuple(
        ClaimView(farm, "on n1", liveness, frozenset(), frozenset())
        for farm, liveness in claims.items()
    )
    contents = examine(str(site.root), site.machine(0))._replace(claims=views)
    audit = audit_contents(contents, site.tasks, constraints=site.constraints)
    return plan_repair(contents, audit, assume_idle=assume_idle)


def reasons(repair: Repair) -> dict[str, str]:
    return {change.name: change.why for change in repair.changes}


def test_only_claims_that_are_not_understood_are_moved_and_with_the_users_word(site):
    claims = {
        "odd": FarmLiveness.DAMAGED,
        "dead": FarmLiveness.DEAD,
        "alive": FarmLiveness.RUNNING,
    }
    assert plan(site, claims).damaged == ()
    assert plan(site, claims, assume_idle=True).damaged == ("odd",)
    for farm, needed in (("odd", False), ("dead", True), ("alive", False)):
        assert plan(site, {farm: claims[farm]}).start_needed is needed


def test_each_change_of_a_queue_says_why(site):
    site.write("toprocess", [5, 1, 2, 3, 4, *ALL[6:-1]])
    site.write("finished", [2])
    assert reasons(plan(site)) == {
        "toprocess": "taken out what has finished: 2, lines put in order"
    }
    assert reasons(plan(site, assume_idle=True)) == {
        "toprocess": (
            "put back what was in no file: 0, 11, taken out what has finished: 2, lines"
            " put in order"
        )
    }


def test_each_change_of_a_ledger_says_why(site):
    site.write("finished", [0, 0, 1])
    append(site, "finished", "2 ec\n99 echo\n\n3 echo task 3\n")
    site.write("failed", [1, 4])
    site.write("toprocess", [4, *ALL[5:]])
    assert reasons(plan(site)) == {
        "finished": (
            "tasks that stood there twice left once, 1 torn line mended, taken out 1"
            " line of no task, blank lines taken out"
        ),
        "failed": "taken out what has finished or is to be run: 1, 4",
    }


def test_a_ledger_that_is_right_is_left_alone(site):
    site.write("finished", [0, 1])
    site.write("failed", [2])
    site.write("toprocess", ALL[3:])
    assert plan(site).changes == ()
    append(site, "finished", "\n3 echo task 3\n")
    site.write("toprocess", ALL[4:])
    assert reasons(plan(site)) == {"finished": "blank lines taken out"}
    claims = {"alive": FarmLiveness.RUNNING}
    assert plan(site, claims).changes == (), "it knows how far it has read"


def test_a_queue_for_added_tasks_waits_where_more_were_added(grown):
    grown.write("finished", [0, 9])
    assert reasons(plan(grown)).keys() == {"toprocess", "added"}
    grown.tasks.append("echo more")
    assert reasons(plan(grown)).keys() == {"toprocess"}


def test_without_constraints_nothing_belongs_into_waiting(site):
    site.write("waiting", [])
    assert plan(site).changes == ()
    site.constraints.after[3] = (1,)
    changes = reasons(plan(site))
    assert changes["waiting"] == "put in what plain farmers may not run: 3"
    assert changes["toprocess"] == "taken out what is in another queue: 3"
