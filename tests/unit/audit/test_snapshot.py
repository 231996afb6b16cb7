"""The reading of a workdir: what is read in which order, and what can't be read."""

import os
from pathlib import Path
from typing import Any

import pytest

from mpifarm.audit import snapshot
from mpifarm.audit.snapshot import (
    TRIES,
    WorkdirAttempts,
    examine,
    examine_whole,
    glance,
    list_logs,
)
from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.claim_journal import Event, Head, encode_event, encode_head
from mpifarm.store.farm_liveness import HEARTBEAT_LIMIT, FarmLiveness, Machine
from mpifarm.system import files
from tests.unit.store_fakes import Site
from tests.workdir_files import Attempt, format_attempts

NOW = 1_790_000_000.0
HERE = Machine("n1", "boot1", 1, lambda _: None, lambda _: NOW)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "workdir")
    site.write("toprocess", [2, 3])
    site.write("finished", [0])
    site.write("failed", [1])
    (site.root / "claims").mkdir()
    return site


def paths_of(site: Site) -> WorkdirPaths:
    return WorkdirPaths(str(site.root))


def test_each_file_is_read_in_the_order_in_which_tasks_move_on(site, monkeypatch):
    asked: list[str] = []

    def find(path: str) -> bytes:
        asked.append(os.path.basename(path))
        return asked[-1].encode()

    monkeypatch.setattr(files, "find_content", find)
    names = files.find_names

    def find_names(path: str) -> list[str]:
        asked.append(f"{path[-6:]}/")
        return [*names(path)]

    monkeypatch.setattr(files, "find_names", find_names)
    found = glance(str(site.root), HERE)
    assert asked[:7] == [
        *("toprocess", "added", "waiting", "claims/"),
        *("failed", "finished", "orkdir/"),
    ]
    assert (found.toprocess, found.finished) == (b"toprocess", b"finished")
    assert (found.failed, found.added) == (b"failed", b"added")
    assert (found.waiting, found.fingerprint) == (b"waiting", b"fingerprint.json")


@pytest.mark.parametrize(
    ("changes", "locked", "reads"),
    [(0, False, 2), (1, False, 3), (99, False, TRIES + 1), (99, True, 1)],
)
def test_without_the_lock_all_is_read_until_nothing_changes(
    site, monkeypatch, changes, locked, reads
):
    done: list[int] = []
    read = snapshot._Reader.read

    def read_and_change(reader: Any) -> Any:
        contents = read(reader)
        done.append(1)
        if len(done) <= changes:
            site.write("finished", [0, *[2] * len(done)])
        return contents

    monkeypatch.setattr(snapshot._Reader, "read", read_and_change)
    examine(str(site.root), HERE, locked=locked)
    assert len(done) == reads


def test_a_drain_file_and_an_interrupted_remap_are_seen(site):
    found = examine(str(site.root), HERE)
    assert (found.drain, found.remap_begun) == (False, False)
    Path(paths_of(site).drain).touch()
    assert examine(str(site.root), HERE).drain
    Path(paths_of(site).remap).touch()
    assert examine(str(site.root), HERE).remap_begun


def test_what_can_not_be_read_is_told_and_only_a_disk_ends_the_rest(site, monkeypatch):
    find = files.find_content

    def fail(path: str) -> bytes | None:
        if path.endswith("/failed"):
            error = OSError(number, "why")
            raise files.storage_error("read", path, error) from error
        return find(path)

    monkeypatch.setattr(files, "find_content", fail)
    number = 13
    found = examine_whole(str(site.root), HERE)
    assert found.failed is None
    assert len(found.unread) == 1
    assert "/failed" in found.unread[0]
    number = 5
    with pytest.raises(StorageError, match="/failed"):
        examine_whole(str(site.root), HERE)


@pytest.mark.parametrize("name", ["finished.0123abcd", "queue.0123abcd.7"])
@pytest.mark.parametrize("locked", [True, False])
def test_what_is_no_temporary_file_of_ours_is_no_leftover(site, name, locked):
    (site.root / name).touch()
    assert examine(str(site.root), HERE, locked=locked).leftovers == ()


@pytest.mark.parametrize("locked", [True, False])
def test_a_queue_that_a_dead_farm_has_staged_is_left_over_under_the_lock(site, locked):
    staged = paths_of(site).queue_staging("0123abcd89ab", 7)
    Path(staged).touch()
    found = examine(str(site.root), HERE, locked=locked)
    assert found.leftovers == (os.path.basename(staged),) * locked
    claim = Path(paths_of(site).claim("0123abcd89ab"))
    claim.write_bytes(b"")
    assert examine(str(site.root), HERE, locked=locked).leftovers == ()


@pytest.mark.parametrize(
    ("age", "is_left"), [(HEARTBEAT_LIMIT, False), (HEARTBEAT_LIMIT + 1, True)]
)
@pytest.mark.parametrize("locked", [True, False])
def test_an_old_result_that_was_not_renamed_is_left_over(
    site, monkeypatch, age, is_left, locked
):
    name = "result.json.0123abcd89ab"
    monkeypatch.setattr(snapshot, "is_result_staging", name.__eq__)
    monkeypatch.setattr(snapshot, "parse_staging", lambda _: ["0123abcd89ab"])
    monkeypatch.setattr(snapshot, "parse_queue_staging", lambda _: None)
    (site.root / name).touch()
    os.utime(site.root / name, (NOW - age, NOW - age))
    found = examine(str(site.root), HERE, locked=locked)
    assert (name in found.leftovers) is is_left


def test_tasks_that_no_worker_had_need_no_log(site):
    attempts = (
        Attempt(0, status=1),
        Attempt(1, worker=-1, status=1, outcome="not run: task 0 failed"),
    )
    (site.root / "attempts.tsv").write_text(format_attempts(*attempts))
    (site.root / "logs").mkdir()
    (site.root / "logs" / "log_0").touch()
    assert [*WorkdirAttempts(paths_of(site)).find_never_run()] == [1]
    assert sorted(list_logs(str(site.root)) or []) == ["log_0", "log_1"]
    site.write("failed", [])
    assert WorkdirAttempts(paths_of(site)).find_never_run() == {}


def test_a_directory_of_logs_that_is_a_file_lists_nothing(site):
    (site.root / "logs").touch()
    assert list_logs(str(site.root)) is None


# ---- claims and timelines that can't be read -----------------------------------------


def claim_of(site: Site, *taken: int) -> Path:
    head = Head("0123abcd", "n1", "boot1", 7, 5007, 1.0, ())
    path = Path(paths_of(site).claim("0123abcd"))
    path.write_bytes(encode_head(head) + encode_event(Event(take=taken)))
    return path


def test_a_claim_that_is_no_file_is_damaged(site):
    os.mkfifo(paths_of(site).claim("0123abcd"))
    (claim,) = examine(str(site.root), HERE).claims
    assert (claim.farm, claim.liveness) == ("0123abcd", FarmLiveness.DAMAGED)
    assert claim.held == frozenset()


def test_a_claim_that_can_not_be_read_is_told_and_its_farm_is_uncertain(
    site, monkeypatch
):
    claim_of(site, 3)
    read = files.read_from

    def fail(path: str, *more: Any) -> bytes:
        if "/claims/" in path:
            raise PermissionError(13, "Permission denied")
        return read(path, *more)

    monkeypatch.setattr(files, "read_from", fail)
    found = examine(str(site.root), HERE)
    assert any("can't read" in each and "0123abcd" in each for each in found.unread)
    assert [each.farm for each in found.claims] == ["0123abcd"]


def test_a_claim_whose_lock_can_not_be_tried_is_uncertain(site, monkeypatch):
    claim_of(site, 3)

    def fail(*_: Any) -> Any:
        raise StorageError("stale file handle")

    monkeypatch.setattr(snapshot, "grasped", fail)
    found = examine(str(site.root), HERE, locked=True)
    assert found.claims[0].liveness is FarmLiveness.UNCERTAIN
    assert found.claims[0].held == {3}
    assert found.unread == ("stale file handle",)
    monkeypatch.setattr(snapshot, "assess_untaken", lambda *_: FarmLiveness.RUNNING)
    found = examine(str(site.root), HERE, locked=False)
    assert found.claims[0].liveness is FarmLiveness.RUNNING


def test_only_under_the_lock_a_timeline_is_judged(site, monkeypatch):
    timeline = site.root / "timeline.json"
    timeline.write_text("no timeline")
    assert examine(str(site.root), HERE, locked=False).invalid_timelines == ()
    found = examine(str(site.root), HERE, locked=True)
    assert found.invalid_timelines == ("timeline.json",)


@pytest.mark.parametrize(
    ("error", "unread"),
    [
        (FileNotFoundError(2, "gone"), ()),
        (PermissionError(13, "denied"), ("can't read timeline.json: denied",)),
    ],
)
def test_a_timeline_that_can_not_be_read_is_told_unless_it_is_gone(
    site, monkeypatch, error, unread
):
    (site.root / "timeline.json").touch()

    def fail(_: str) -> bool:
        raise error

    monkeypatch.setattr(snapshot, "is_valid_timeline", fail)
    found = examine(str(site.root), HERE)
    assert (found.invalid_timelines, found.unread) == ((), unread)
