"""The writer of transactions and the heartbeat: what is tried, when, and told."""

from contextlib import suppress
from typing import Any

import pytest

from mpifarm.coordinator.effects import Transact
from mpifarm.errors import InUseError, StorageError
from mpifarm.farm.transactions import (
    HEARTBEAT_SECONDS,
    IN_USE_SECONDS,
    Heartbeat,
    StoreWriter,
    Written,
)
from mpifarm.system.patience import RETRY_SECONDS

GRACE = 2.0


DONE: Any = "transacted"


class Disk:
    """A store and its lock, which note what is asked of them."""

    paths = ("/here/lock", "/here/a lock")

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.is_free = True
        self.fails = False
        self.is_used = False

    def prepare(self, *arguments: Any) -> None:
        self.calls.append(("prepare", *arguments))

    def transact_or_reclaim(self, *arguments: Any) -> Any:
        self.calls.append(("transact", *arguments))
        if self.fails:
            raise StorageError("can't write")
        if self.is_used:
            raise InUseError("it is open: commit, then give it again")
        return DONE

    def heartbeat(self) -> None:
        if self.fails:
            raise StorageError("can't touch")

    def try_acquire(self) -> bool:
        return self.is_free

    def release(self) -> None:
        self.calls.append("release")


@pytest.fixture
def disk() -> Any:
    return Disk()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def writer(disk: Any, said: list[str]) -> StoreWriter:
    return StoreWriter(disk, disk, GRACE, said.append)


RECORDS: Any = ["a record"]
CHANGE = Transact((), (4,), 3, (7,))


def write(writer: StoreWriter, now: float, *, is_stopping: bool = False) -> Any:
    return writer.write(now, is_stopping=is_stopping)


def test_a_transaction_is_prepared_at_once_and_written_whole_with_the_lock(
    writer, disk
):
    assert not writer.is_waiting
    assert write(writer, 100.0) is None
    writer.begin(CHANGE, RECORDS, 100.0)
    assert disk.calls == [("prepare", RECORDS, (4,), 3)]
    assert writer.is_waiting
    assert write(writer, 100.0) == Written(CHANGE, DONE)
    assert disk.calls[1:] == [("transact", RECORDS, (4,), 3, (7,)), "release"]
    assert not writer.is_waiting
    assert write(writer, 100.0) is None
    assert len(disk.calls) == 3


def test_a_transaction_that_is_to_take_nothing_keeps_all_else(writer, disk):
    writer.take_nothing()
    assert not writer.is_waiting
    writer.begin(CHANGE, RECORDS, 100.0)
    writer.take_nothing()
    write(writer, 100.0)
    assert ("transact", RECORDS, (4,), 0, (7,)) in disk.calls


def test_a_transaction_that_was_dropped_is_not_written(writer, disk):
    writer.begin(CHANGE, RECORDS, 100.0)
    writer.drop()
    assert write(writer, 100.0) is None
    assert len(disk.calls) == 1


def test_a_lock_in_use_is_tried_on_told_of_and_given_up_in_a_stop(writer, disk, said):
    disk.is_free = False
    writer.begin(CHANGE, RECORDS, 100.0)
    assert write(writer, 130.0) is None
    assert said == []
    assert write(writer, 131.0) is None
    assert said == [
        (
            "the lock (/here/lock, /here/a lock) has been held by another farmer for"
            " 30 s; still trying: if it hangs, end it (to find it, on its host: fuser"
            " -v /here/lock '/here/a lock')"
        )
    ]
    assert write(writer, 134.0, is_stopping=True) is None
    error = write(writer, 134.1, is_stopping=True)
    assert str(error) == (
        "the lock (/here/lock, /here/a lock) was held by another farmer for 3 s; the"
        " next start puts this farm's tasks back"
    )
    assert not writer.is_waiting
    assert "release" not in disk.calls


def test_what_another_program_writes_is_waited_for_beyond_the_grace_time(
    writer, disk, said
):
    disk.is_used = True
    writer.begin(CHANGE, RECORDS, 100.0)
    assert write(writer, 100.0) is None
    assert [call[0] for call in disk.calls] == ["prepare", "transact", "r", "prepare"]
    assert write(writer, 100.0 + IN_USE_SECONDS - 0.01) is None
    assert len(disk.calls) == 4, "it is not time"
    assert writer.poll_seconds(100.0) == pytest.approx(IN_USE_SECONDS)
    assert write(writer, 103.0) is None
    assert said == []
    for now in (104.0, 105.0, 131.0):
        assert write(writer, now) is None
    assert said == ["it is open: commit; this farm waits for it"] * 2
    disk.is_used = False
    assert write(writer, 132.0) == Written(CHANGE, DONE)
    assert said[2:] == ["the database can be written again"]
    writer.begin(CHANGE, RECORDS, 133.0)
    write(writer, 133.0)
    assert len(said) == 3


def test_a_stop_gives_up_what_another_program_writes(writer, disk, said):
    disk.is_used = True
    writer.begin(CHANGE, RECORDS, 100.0)
    assert write(writer, 103.0, is_stopping=True) is None
    error = write(writer, 104.0, is_stopping=True)
    assert str(error) == "it is open: commit, then give it again"
    assert not writer.is_waiting


def test_a_failing_disk_is_tried_again_each_time_prepared_anew(writer, disk, said):
    disk.fails = True
    writer.begin(CHANGE, RECORDS, 100.0)
    assert write(writer, 100.0) is None
    assert said == ["can't write; trying again for 2 s"]
    assert [call[0] for call in disk.calls] == ["prepare", "transact", "r", "prepare"]
    assert write(writer, 100.0 + RETRY_SECONDS - 0.001) is None
    assert len(disk.calls) == 4, "it is not time"
    assert writer.poll_seconds(100.0) == pytest.approx(RETRY_SECONDS)
    disk.fails = False
    assert write(writer, 100.0 + RETRY_SECONDS) == Written(CHANGE, DONE)
    assert said[1:] == ["the workdir can be written again"]


def test_a_disk_that_fails_for_the_grace_time_costs_the_transaction(writer, disk):
    disk.fails = True
    writer.begin(CHANGE, RECORDS, 100.0)
    assert write(writer, 100.0) is None
    assert write(writer, 101.9) is None
    assert str(write(writer, 102.0)) == "can't write"
    assert not writer.is_waiting
    assert disk.calls[-1] == "release"


def test_a_wait_without_a_fault_polls_as_often_as_the_lock_is_tried(writer, disk):
    disk.is_free = False
    writer.begin(CHANGE, RECORDS, 100.0)
    assert writer.poll_seconds(100.5) == 0.001
    assert writer.poll_seconds(101.5) == 0.005


def test_a_claim_is_touched_each_time_and_a_failure_is_tried_again_soon(disk, said):
    heartbeat = Heartbeat(disk, 100.0, GRACE, said.append)
    assert heartbeat.due_at == 100.0 + HEARTBEAT_SECONDS
    assert heartbeat.beat(110.0) is None
    assert heartbeat.due_at == 110.0 + HEARTBEAT_SECONDS
    disk.fails = True
    assert heartbeat.beat(120.0) is None
    assert heartbeat.due_at == 120.0 + RETRY_SECONDS
    disk.fails = False
    assert heartbeat.beat(121.9) is None
    assert said == [
        "can't touch; trying again for 2 s",
        "the claim can be written again",
    ]
    disk.fails = True
    assert heartbeat.beat(130.0) is None, "the time begins anew"
    assert str(heartbeat.beat(132.0)) == "can't touch"


def test_the_lock_is_given_back_whatever_goes_wrong(writer, disk, monkeypatch):
    def break_off(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(disk, "transact_or_reclaim", break_off)
    writer.begin(CHANGE, RECORDS, 100.0)
    with suppress(ZeroDivisionError):
        write(writer, 100.0)
    assert disk.calls[-1] == "release"
