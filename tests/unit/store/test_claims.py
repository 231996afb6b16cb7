"""Claims: the journal's format, and who counts as dead."""

import errno
import fcntl
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.model.id_ranges import IdRangesError, encode_ids, parse_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import claims
from mpifarm.store.claim_journal import (
    DamagedClaimError,
    Event,
    Head,
    Journal,
    LockFile,
    encode_event,
    encode_head,
    parse_event,
    parse_head,
)
from mpifarm.store.claims import OtherClaim, OwnClaim, share_a_lock
from mpifarm.store.farm_liveness import (
    ClaimEvidence,
    ClaimLock,
    FarmLiveness,
    Machine,
    assess_liveness,
    find_process_start,
    read_file_clock,
    this_machine,
)
from mpifarm.system import files

HEAD = Head("f1", "node1", "boot1", 42, 5042, 1000.5, (LockFile("/w/lock", 1, 2),))


def journal_of(*events: Event, pending: tuple[int, ...] = ()) -> Journal:
    journal = Journal(lambda step: step not in pending)
    journal.feed(encode_head(HEAD) + b"".join(map(encode_event, events)))
    return journal


@given(st.sets(st.integers(0, 300)))
def test_ids_come_back_from_their_ranges(taskids):
    assert parse_ids(encode_ids(taskids)) == sorted(taskids)


def test_ten_thousand_ids_in_a_row_are_a_short_line():
    assert encode_ids([*range(10_000), 10_005]) == "0-9999,10005"


@pytest.mark.parametrize(
    "text", ["1-", "-1", "1,,2", "a", "1 2", "0-99999999999", "9" * 40, 7, None, ["1"]]
)
def test_what_is_no_range_of_ids_is_refused(text):
    with pytest.raises(IdRangesError):
        parse_ids(text)


def test_a_head_comes_back_and_unknown_keys_are_ignored():
    assert parse_head(encode_head(HEAD)) == HEAD
    record = json.loads(encode_head(HEAD)) | {"colour": "red"}
    assert parse_head(json.dumps(record).encode()) == HEAD


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"pid": "x"}, {"locks": 3}, {"locks": [[1]]}]
)
def test_a_head_that_is_not_understood_is_damage(change):
    record = json.loads(encode_head(HEAD)) | change
    with pytest.raises(DamagedClaimError):
        parse_head(json.dumps(record).encode())


@pytest.mark.parametrize("line", [b"", b"{", b'{"take": "0-9", "via', b"12", b"\0\0"])
def test_a_torn_event_never_happened(line):
    assert parse_event(line) is None


@pytest.mark.parametrize(
    "line", [b'{"take": "x"}', b'{"put": 3}', b'{"via": "1"}', b'{"failed": null}']
)
def test_a_whole_event_that_is_not_understood_is_damage(line):
    with pytest.raises(DamagedClaimError):
        parse_event(line)


def test_an_event_comes_back_and_unknown_events_change_nothing():
    event = Event(take=[1, 2], put=[3], done=[4], giving=[5], step=7, failed=99)
    assert parse_event(encode_event(event)) == event
    assert parse_event(b'{"dance": "1-3"}') == Event([], [], [], [])


def test_a_journal_adds_up():
    journal = journal_of(
        Event(take=range(10), step=1, failed=5),
        Event(done=[0, 1]),
        Event(take=[20], put=[2, 3], step=2, failed=8),
    )
    assert journal.held == {4: 5, 5: 5, 6: 5, 7: 5, 8: 5, 9: 5, 20: 8}
    assert journal.last_step == 2


def test_a_step_whose_file_is_still_there_has_not_happened():
    events = (Event(take=[1, 2], step=1), Event(take=[3], put=[1], step=2))
    assert set(journal_of(*events, pending=(2,)).held) == {1, 2}
    assert set(journal_of(*events, pending=(1, 2)).held) == set()


def test_a_step_that_happens_later_is_seen_at_the_next_look():
    pending = {1}
    journal = Journal(lambda step: step not in pending)
    journal.feed(encode_head(HEAD) + encode_event(Event(take=[1], step=1)))
    assert not journal.held
    pending.clear()
    journal.feed(encode_event(Event(done=[9])))
    assert set(journal.held) == {1}


def test_a_step_that_happens_is_seen_though_nothing_was_appended_since():
    pending = {1}
    journal = Journal(lambda step: step not in pending)
    journal.feed(encode_head(HEAD) + encode_event(Event(take=[1], step=1)))
    journal.feed(b"")
    assert not journal.held
    pending.clear()
    journal.feed(b"")
    assert set(journal.held) == {1}


@given(st.integers(0, 400))
def test_a_journal_read_in_two_parts_is_the_same(cut):
    content = encode_head(HEAD) + encode_event(Event(take=[1, 2], step=1))
    content += encode_event(Event(done=[2]))
    journal = Journal(lambda _: True)
    journal.feed(content[:cut])
    journal.feed(content[cut:])
    assert (journal.head, set(journal.held)) == (HEAD, {1})


def test_what_follows_a_torn_line_counts():
    torn = encode_event(Event(take=[5], step=2))[:-6]
    journal = Journal(lambda _: True)
    journal.feed(encode_head(HEAD) + encode_event(Event(take=[1, 2], step=1)))
    journal.feed(torn + b"\n" + encode_event(Event(put=[2], step=3)))
    assert set(journal.held) == {1}


# ---- a step that fails ---------------------------------------------------------------


@pytest.mark.parametrize("is_taken_back", [True, False])
def test_a_step_that_fails_is_in_no_claim_or_its_file_stays_empty(
    tmp_path, monkeypatch, is_taken_back
):
    (tmp_path / "claims").mkdir()
    own = OwnClaim(WorkdirPaths(str(tmp_path)), HEAD)
    staging = tmp_path / "staging"
    staging.write_bytes(b"4\n5\n")

    def fail(*args: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    if not is_taken_back:
        monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(StorageError):
        own.append_step(Event(take=[1, 2, 3], step=1), str(staging))
    own.end()
    left = [path.read_bytes() for path in tmp_path.glob("staging")]
    assert left == ([] if is_taken_back else [b""])


# ---- dead or alive ------------------------------------------------------------------


def machine(start: int | None, boot: str = "boot1") -> Machine:
    return Machine("node9", boot, 1, lambda _: start, lambda _: 0.0)


def evidence(
    head: Head | None = HEAD,
    lock: ClaimLock = ClaimLock.TAKEN,
    *,
    is_damaged: bool = False,
    age: float = 0.0,
) -> ClaimEvidence:
    return ClaimEvidence(head, is_damaged, lock, lambda: age)


EACH_LOCK = pytest.mark.parametrize("lock", [ClaimLock.TAKEN, ClaimLock.UNTRIED])


@EACH_LOCK
def test_on_the_same_boot_the_process_decides_whatever_the_heartbeat(lock):
    assert assess_liveness(evidence(lock=lock), machine(None)) is FarmLiveness.DEAD
    old = evidence(lock=lock, age=1e9)
    assert assess_liveness(old, machine(5042)) is FarmLiveness.RUNNING


@EACH_LOCK
def test_a_process_of_the_same_number_that_started_later_is_another(lock):
    assert assess_liveness(evidence(lock=lock), machine(9999)) is FarmLiveness.DEAD


@EACH_LOCK
@pytest.mark.parametrize(
    ("age", "liveness"),
    [
        (59.0, FarmLiveness.UNCERTAIN),
        (60.0, FarmLiveness.UNCERTAIN),
        (60.5, FarmLiveness.DEAD),
    ],
)
def test_elsewhere_the_heartbeat_decides_whatever_processes_run_here(
    age, liveness, lock
):
    here = machine(None, boot="boot2")
    assert assess_liveness(evidence(lock=lock, age=age), here) is liveness


def test_without_a_boot_id_nothing_counts_as_the_same_machine():
    head = HEAD._replace(boot_id="")
    here = machine(None, boot="")
    assert assess_liveness(evidence(head), here) is FarmLiveness.UNCERTAIN


@pytest.mark.parametrize("is_damaged", [True, False])
@pytest.mark.parametrize("head", [HEAD, None])
def test_who_holds_the_lock_of_a_claim_lives_whatever_it_says(head, is_damaged):
    held = evidence(head, ClaimLock.HELD, is_damaged=is_damaged, age=1e9)
    assert assess_liveness(held, machine(None)) is FarmLiveness.HOLDS_LOCK


@EACH_LOCK
@pytest.mark.parametrize("boot", ["boot1", "boot2"])
@pytest.mark.parametrize("head", [HEAD, None])
def test_a_damaged_claim_is_never_that_of_a_dead_farm(head, boot, lock):
    damaged = evidence(head, lock, is_damaged=True, age=1e9)
    assert assess_liveness(damaged, machine(None, boot)) is FarmLiveness.DAMAGED
    if head is not None:
        fresh = damaged._replace(find_age=lambda: 0.0)
        assert assess_liveness(fresh, machine(5042, boot)).may_live


def test_a_claim_without_a_head_is_dead_only_under_its_lock():
    here = machine(5042)
    assert assess_liveness(evidence(None), here) is FarmLiveness.DEAD
    untried = evidence(None, ClaimLock.UNTRIED)
    assert assess_liveness(untried, here) is FarmLiveness.UNCERTAIN


def test_the_machine_of_this_process_knows_it():
    here = this_machine()
    assert here.find_process_start(here.pid) is not None
    assert find_process_start(2**22 + 1) is None


def test_the_clock_of_a_file_system_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    behind = (tmp_path / "file").stat().st_mtime
    assert abs(read_file_clock(str(tmp_path)) - behind) < 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("ours", "same_boot", "shared"),
    [
        (LockFile("/w/lock", 1, 2), True, True),
        (LockFile("/link/lock", 1, 2), True, True),
        (LockFile("/w/lock", 3, 2), True, False),
        (LockFile("/mnt/w/lock", 3, 2), False, True),
        (LockFile("/w/lock", 1, 7), False, False),
        (LockFile("/tmp/abc_lock", 1, 2), False, False),
    ],
)
def test_two_farms_need_one_lock_file_in_common(ours, same_boot, shared):
    assert share_a_lock([ours], HEAD, same_boot=same_boot) is shared


def test_a_claim_that_cannot_be_looked_at_is_a_storage_error(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(StorageError, match="can't open"):
            claims.is_at(descriptor, f"{tmp_path}/{'x' * 300}")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_a_lock_counts_as_ours(monkeypatch, code):
    def fail(error):
        def flock(_descriptor, _operation):
            raise error

        monkeypatch.setattr(fcntl, "flock", flock)

    fail(OSError(code, "no locks"))
    assert claims.take_flock(0)
    fail(BlockingIOError())
    assert not claims.take_flock(0)
    fail(OSError(errno.EIO, "broken"))
    with pytest.raises(OSError, match="broken"):
        claims.take_flock(0)


def create_claim(tmp_path):
    paths = WorkdirPaths(str(tmp_path))
    (tmp_path / "claims").mkdir(exist_ok=True)
    return OwnClaim(paths, HEAD)


@pytest.mark.parametrize("fault", ["flock", "held", "name", "write"])
def test_a_claim_that_can_not_be_made_leaves_no_file(tmp_path, monkeypatch, fault):
    if fault == "flock":

        def flock(_descriptor):
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(claims, "take_flock", flock)
    elif fault == "held":
        monkeypatch.setattr(claims, "take_flock", lambda _: False)
    elif fault == "name":
        monkeypatch.setattr(claims, "is_at", lambda *_: False)
    else:

        def write(*_, **__):
            raise StorageError("full")

        monkeypatch.setattr(files, "append_to", write)
    with pytest.raises(StorageError) as caught:
        create_claim(tmp_path)
    assert list((tmp_path / "claims").iterdir()) == []
    is_taken = "another farm has taken over" in str(caught.value)
    assert is_taken is (fault in ("held", "name"))


def test_a_heartbeat_is_the_time_of_the_claims_file(tmp_path):
    claim = create_claim(tmp_path)
    os.utime(claim.path, (5.0, 5.0))
    claim.beat()
    assert os.stat(claim.path).st_mtime > 5.0
    claim.end()
    claim.end()


def test_lock_files_that_are_missing_are_left_out(tmp_path):
    (tmp_path / "lock").touch()
    (found,) = claims.find_lock_files([str(tmp_path / "lock"), str(tmp_path / "none")])
    status = os.stat(tmp_path / "lock")
    assert found == LockFile(str(tmp_path / "lock"), status.st_dev, status.st_ino)


# ---- claims that can't be taken, read or found ---------------------------------------


@pytest.fixture
def claim(tmp_path) -> OtherClaim:
    """The claim of a farm on another machine, which beats."""
    path = tmp_path / "claims" / "f1"
    path.parent.mkdir()
    path.write_bytes(encode_head(HEAD))
    journal = journal_of()
    return OtherClaim("f1", str(path), journal)


OTHER_MACHINE = Machine("node2", "boot2", 1, lambda _: None, lambda _: 1000.0)


def fail_with(number: int):
    def raise_error(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return raise_error


def test_a_claim_on_a_disk_that_fails_is_told(claim, monkeypatch):
    monkeypatch.setattr(os, "open", fail_with(errno.EIO))
    with (
        pytest.raises(StorageError, match="claims/f1"),
        claims.grasped(claim, OTHER_MACHINE),
    ):
        pass


def test_what_can_not_be_asked_of_an_open_claim_is_told_and_it_is_closed(
    claim, monkeypatch
):
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(claims, "take_flock", fail_with(errno.EIO))
    with (
        pytest.raises(StorageError, match="claims/f1"),
        claims.grasped(claim, OTHER_MACHINE),
    ):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EISDIR])
def test_the_claim_of_another_user_is_read_if_it_can_not_be_written(
    claim, monkeypatch, number
):
    monkeypatch.setattr(os, "open", fail_with(number))
    seen: list[ClaimLock] = []

    def assess(_claim: object, _machine: object, lock: ClaimLock) -> FarmLiveness:
        seen.append(lock)
        return FarmLiveness.UNCERTAIN

    monkeypatch.setattr(claims, "assess_untaken", assess)
    with claims.grasped(claim, OTHER_MACHINE) as grasp:
        assert (grasp.liveness, grasp.descriptor) == (FarmLiveness.UNCERTAIN, -1)
        assert not grasp.is_reclaimable
    assert seen == [ClaimLock.UNTRIED], "it could not be opened at all"


def test_a_lock_that_another_user_holds_is_seen(claim):
    with open(claim.path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert claims._try_read_only(claim) is ClaimLock.HELD
    assert claims._try_read_only(claim) is ClaimLock.UNTRIED
    os.unlink(claim.path)
    assert claims._try_read_only(claim) is ClaimLock.UNTRIED


def test_a_claim_that_is_gone_is_uncertain(claim):
    assert claims.assess_untaken(claim, OTHER_MACHINE) is not FarmLiveness.DEAD
    os.unlink(claim.path)
    found = claims.assess_untaken(claim, OTHER_MACHINE)
    assert found is FarmLiveness.UNCERTAIN


def test_a_claim_that_was_replaced_since_it_was_opened_is_not_grasped(
    claim, monkeypatch
):
    monkeypatch.setattr(claims, "is_at", lambda *_: False)
    with claims.grasped(claim, OTHER_MACHINE) as grasp:
        assert grasp.descriptor == -1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_try_proves_nothing(monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", fail_with(number))
    assert claims.take_flock(0)
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        claims.take_flock(0)


def test_staging_files_are_found_by_farm_and_step(tmp_path):
    paths = WorkdirPaths(str(tmp_path / "workdir"))
    with pytest.raises(StorageError, match="workdir"):
        claims.find_leftovers(paths)
    (tmp_path / "workdir").mkdir()
    staged = [paths.queue_staging(farm, 7) for farm in ("00000002", "00000001")]
    for path in (*staged, paths.toprocess):
        open(path, "w").close()
    found = claims.find_leftovers(paths)
    assert found == [(staged[1], "00000001", 7), (staged[0], "00000002", 7)]
    assert claims.find_leftovers(paths, "00000002") == [(staged[0], "00000002", 7)]


# ---- this machine, and the clock of its files ----------------------------------------


def test_a_clock_that_can_not_be_read_leaves_nothing_behind(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="can't write"):
        read_file_clock(str(tmp_path / "none"))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "utime", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        read_file_clock(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_machine_without_a_boot_id_has_none(monkeypatch):
    assert this_machine().boot_id
    monkeypatch.setattr(files, "read_from", fail_with(errno.ENOENT))
    machine = this_machine()
    assert (machine.boot_id, machine.pid) == ("", os.getpid())


def test_a_head_of_a_job_array_that_hears_requests_comes_back():
    head = HEAD._replace(array="slurm  4711", requests=1)
    assert parse_head(encode_head(head)) == head
    record = json.loads(encode_head(head))
    for name in ("array", "requests"):
        del record[name]  # as an older farm has written it
    assert parse_head(json.dumps(record).encode()) == HEAD
