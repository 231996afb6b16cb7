"""Claims: the journal's format, and who counts as dead."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import StorageError
from mpifarm.workdir import claims
from mpifarm.workdir.claims import (
    DamagedClaimError,
    Event,
    Head,
    Journal,
    Life,
    LockFile,
    Machine,
    encode_event,
    encode_head,
    encode_ids,
    find_process_start,
    judge,
    parse_event,
    parse_head,
    parse_ids,
    read_file_clock,
    share_a_lock,
    this_machine,
)

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
def test_what_is_no_range_of_ids_is_damage(text):
    with pytest.raises(DamagedClaimError):
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
    event = Event(take=[1, 2], put=[3], done=[4], giving=[5], via=7, failed=99)
    assert parse_event(encode_event(event)) == event
    assert parse_event(b'{"dance": "1-3"}') == Event([], [], [], [])


def test_a_journal_adds_up():
    journal = journal_of(
        Event(take=range(10), via=1, failed=5),
        Event(done=[0, 1]),
        Event(take=[20], put=[2, 3], via=2, failed=8),
    )
    assert journal.held == {4: 5, 5: 5, 6: 5, 7: 5, 8: 5, 9: 5, 20: 8}
    assert journal.last_step == 2


def test_a_step_whose_file_is_still_there_has_not_happened():
    events = (Event(take=[1, 2], via=1), Event(take=[3], put=[1], via=2))
    assert set(journal_of(*events, pending=(2,)).held) == {1, 2}
    assert set(journal_of(*events, pending=(1, 2)).held) == set()


def test_a_step_that_happens_later_is_seen_at_the_next_look():
    pending = {1}
    journal = Journal(lambda step: step not in pending)
    journal.feed(encode_head(HEAD) + encode_event(Event(take=[1], via=1)))
    assert not journal.held
    pending.clear()
    journal.feed(encode_event(Event(done=[9])))
    assert set(journal.held) == {1}


@given(st.integers(0, 400))
def test_a_journal_read_in_two_parts_is_the_same(cut):
    content = encode_head(HEAD) + encode_event(Event(take=[1, 2], via=1))
    content += encode_event(Event(done=[2]))
    journal = Journal(lambda _: True)
    journal.feed(content[:cut])
    journal.feed(content[cut:])
    assert (journal.head, set(journal.held)) == (HEAD, {1})


def test_what_follows_a_torn_line_counts():
    torn = encode_event(Event(take=[5], via=2))[:-6]
    journal = Journal(lambda _: True)
    journal.feed(encode_head(HEAD) + encode_event(Event(take=[1, 2], via=1)))
    journal.feed(torn + b"\n" + encode_event(Event(put=[2], via=3)))
    assert set(journal.held) == {1}


# ---- dead or alive ------------------------------------------------------------------


def machine(start: int | None, boot: str = "boot1", now: float = 0.0) -> Machine:
    return Machine("node9", boot, 1, lambda _: start, lambda _: now)


def test_on_the_same_boot_the_process_decides_whatever_the_heartbeat():
    assert judge(HEAD, 0.0, "/w", machine(None, now=1.0)) is Life.DEAD
    assert judge(HEAD, 0.0, "/w", machine(5042, now=1e9)) is Life.UNPROVEN


def test_a_process_of_the_same_number_that_started_later_is_another():
    assert judge(HEAD, 0.0, "/w", machine(9999)) is Life.DEAD


@pytest.mark.parametrize(
    ("age", "life"), [(59.0, Life.UNPROVEN), (60.0, Life.UNPROVEN), (60.5, Life.DEAD)]
)
def test_elsewhere_the_heartbeat_decides_whatever_processes_run_here(age, life):
    here = machine(None, boot="boot2", now=1000.0 + age)
    assert judge(HEAD, 1000.0, "/w", here) is life


def test_without_a_boot_id_nothing_counts_as_the_same_machine():
    head = HEAD._replace(boot_id="")
    assert judge(head, 0.0, "/w", machine(None, boot="")) is Life.UNPROVEN


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
