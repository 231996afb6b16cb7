"""A farm among others: whose tasks are whose, what is said of them, and how it leaves.

Rules of this file: another farm is a claim that is written here; it lives as long as
`alive` holds its lock.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import membership
from mpifarm.store.claim_journal import Event, Head, encode_event, encode_head
from mpifarm.store.claims import ClaimLostError, OtherClaims, find_lock_files
from mpifarm.store.validate import EditedListError
from mpifarm.system import files
from tests.unit.store_fakes import TASKS, FakeLock, Site, ended

pytestmark = pytest.mark.usefixtures("nothing_stays_open")


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "list_workdir")


def paths_of(site: Site) -> WorkdirPaths:
    return WorkdirPaths(str(site.root))


def write_claim(
    site: Site, farm: str, taken, *, array="", boot="boot1", pid=900
) -> Path:
    locks = find_lock_files([str(site.root / "lock")])
    head = Head(farm, "node1", boot, pid, 5000 + pid, 1.0, locks, array)
    path = Path(paths_of(site).claim(farm))
    path.write_bytes(encode_head(head) + encode_event(Event(take=taken)))
    return path


@contextmanager
def alive(path: Path) -> Iterator[None]:
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_tasks_of_living_farms_of_the_same_array_are_told(site):
    farm = site.open()
    farm._member.array = "4711"
    mine = write_claim(site, "aa000001", [1, 2], array="4711")
    other = write_claim(site, "aa000002", [3], array="4712")
    none = write_claim(site, "aa000003", [4])
    silent = write_claim(site, "aa000004", [5], array="4711", boot="boot2", pid=901)
    with alive(mine), alive(other), alive(none):
        site.now = os.stat(silent).st_mtime
        assert farm.survey(in_array=True).in_array == {1, 2}
        assert farm.survey().in_array == frozenset()
        assert farm.counts(farm.survey(in_array=True)).in_array == 2
        assert farm.others_hold_tasks
        farm._member.array = ""
        assert farm.survey(in_array=True).in_array == frozenset()


def test_all_ranks_that_led_a_farm_before_are_its_predecessors(site):
    farm = site.open()
    later = "aa00000100000002"
    for taskid, name in enumerate(("aa000001", later, "aa000002")):
        write_claim(site, name, [taskid])
    write_claim(site, "aa00000100000003", [4]).write_bytes(b"damaged\n")
    farm.survey()
    for name in ("aa000001", later):
        found = farm._member.find_predecessors(name)
        assert sorted(claim.farm for claim in found) == ["aa000001", later]
    assert farm._member.find_predecessors("") == []


def test_only_tasks_of_the_list_count_as_held_by_others(site):
    farm = site.open()
    farm.survey()
    assert not farm.others_hold_tasks
    with alive(write_claim(site, "aa000001", [len(TASKS)])):
        farm.survey()
        assert not farm.others_hold_tasks
    with alive(write_claim(site, "aa000002", [len(TASKS) - 1])):
        farm.survey()
        assert farm.others_hold_tasks


def test_an_edited_list_is_told_to_wait_for_a_farm_that_lives(site):
    site.open().close()
    site.tasks[0] = "another"
    write_claim(site, "aa000001", [3])
    said = (
        r"; once the farm aa000001 on node1 \(pid 900\) has ended, add --remap to run"
    )
    with pytest.raises(EditedListError, match=said):
        site.open()
    site.dead.add(900)
    with pytest.raises(EditedListError, match="; add --remap to run"):
        site.open()
    (site.root / "remap.begun").mkdir()
    with pytest.raises(EditedListError, match=r"--remap of .* was interrupted"):
        site.open()


def test_a_claim_of_a_longer_list_is_told_at_the_start(site):
    site.open().close()
    write_claim(site, "aa000001", [0, len(TASKS)])
    with pytest.raises(InputError) as caught:
        site.open()
    assert f"aa000001 holds task {len(TASKS)}" in str(caught.value)
    said = f"has only {len(TASKS)} tasks; once that farm has ended, add --remap to run"
    assert said in str(caught.value)
    site.dead.add(900)
    with pytest.raises(InputError, match=f"has only {len(TASKS)} tasks; add --remap"):
        site.open()
    write_claim(site, "aa000001", [len(TASKS) - 1])
    site.open()


def test_what_is_said_of_another_farm_is_said_once(site, monkeypatch):
    site.open().close()
    there = write_claim(site, "aa000001", [1])
    with alive(there):
        farm = site.open()
        assert farm.notes == [
            "farm aa000001 on node1 (pid 900) is at work in this workdir too"
        ]
        farm.notes.clear()
        farm.reclaim_dead()
        assert farm.notes == []
    monkeypatch.setattr(files, "find_other_owner", lambda _path: "user you")
    farm.reclaim_dead()
    (said,) = farm.notes
    assert said == (
        "farm aa000001 on node1 (pid 900) belongs to user you: its tasks are left for a"
        " farm of that user"
    )
    farm.notes.clear()
    monkeypatch.setattr(files, "find_other_owner", lambda _path: "")
    farm.reclaim_dead()
    (said,) = farm.notes
    assert said == (
        "farm aa000001 on node1 (pid 900) may be dead, but that is not certain: its"
        " tasks are left alone"
    )
    farm.notes.clear()
    site.dead.add(900)
    farm.reclaim_dead()
    assert farm.notes == [
        "1 task reclaimed from the dead farm aa000001 on node1 (pid 900)"
    ]


def test_a_farm_that_leaves_takes_its_claim_and_its_staging_files_along(site):
    farm = site.open()
    farm.transact((), (), 2)
    left = Path(paths_of(site).queue_staging(farm.farm, 9))
    left.touch()
    assert not farm.close()
    assert os.path.exists(paths_of(site).claim(farm.farm))
    assert left.exists()
    site.dead.add(site.farms)
    farm = site.open()
    farm.transact((), (), 12)
    farm.transact([ended(taskid) for taskid in range(12)], (), 0)
    left = Path(paths_of(site).queue_staging(farm.farm, 99))
    left.touch()
    assert farm.close()
    assert not os.path.exists(paths_of(site).claim(farm.farm))
    assert not left.exists()


def test_a_farm_whose_claim_is_gone_is_told_so(site):
    farm = site.open()
    os.unlink(paths_of(site).claim(farm.farm))
    with pytest.raises(ClaimLostError, match="another farm took this one for dead"):
        farm.transact((), (), 1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EACCES, InputError),
        (errno.EPERM, InputError),
        (errno.EROFS, InputError),
        (errno.ENOTDIR, InputError),
        (errno.EIO, StorageError),
        (errno.ENOSPC, StorageError),
    ],
)
def test_a_directory_that_may_not_be_made_is_bad_input_and_a_full_disk_is_not(
    code, kind
):
    error = membership._unusable("/w/logs", OSError(code, "the reason"))
    assert type(error) is kind
    assert "/w/logs" in str(error)
    assert "the reason" in str(error)


@pytest.mark.parametrize("directory", ["logs", "claims"])
def test_a_directory_that_may_not_be_made_ends_the_start(site, monkeypatch, directory):
    make = files.make_directory

    def refuse(path: str) -> None:
        if path.endswith(f"/{directory}"):
            raise PermissionError(errno.EACCES, "Permission denied")
        make(path)

    monkeypatch.setattr(files, "make_directory", refuse)
    with pytest.raises(InputError, match=f"can't create .*/{directory}: Permission"):
        site.open()


def test_a_claim_that_is_another_file_now_is_read_anew(site):
    site.open()
    others = OtherClaims(paths_of(site), "ff000000")
    write_claim(site, "aa000001", [1, 2])
    others.poll()
    path = write_claim(site, "aa000009", [3])
    os.replace(path, paths_of(site).claim("aa000001"))
    others.poll()
    assert others.claims["aa000001"].journal.held.keys() == {3}
    assert others.hold(3)
    assert not others.hold(1)
    (Path(paths_of(site).claims) / ".hidden").touch()
    os.unlink(paths_of(site).claim("aa000001"))
    others.poll()
    assert "aa000001" not in others.claims
    assert ".hidden" not in others.claims


# ---- what a store keeps besides -----------------------------------------------------


def test_the_directory_of_the_first_start_is_kept(site):
    farm = site.open()
    assert farm.note_place("/first\udcff") == ""
    assert farm.note_place("/second") == "/first\udcff"
    assert Path(paths_of(site).begun_in).read_bytes() == b"/first\xff\n"
    Path(paths_of(site).begun_in).write_bytes(b"/torn")
    assert farm.note_place("/third") == ""
    assert farm.note_place("") == "/third"


def test_a_line_of_ours_stands_in_the_log(site):
    farm = site.open()
    farm.note_in_log(3, "it was lost")
    farm.note_in_log(3, "it runs again")
    assert (site.root / "logs" / "log_3").read_text() == (
        "=== mpifarm: it was lost ===\n=== mpifarm: it runs again ===\n"
    )


def test_a_result_is_written_at_the_second_try(site, monkeypatch):
    farm = site.open()
    real, tries = files.replace, []

    def replace(path, staging, content):
        tries.append(path)
        if len(tries) == 1:
            raise StorageError("gone")
        real(path, staging, content)

    monkeypatch.setattr(files, "replace", replace)
    farm.write_result({"a": 1})
    assert (site.root / "result.json").read_bytes() == b'{\n "a": 1\n}\n'.replace(
        b"\n ", b"\n  "
    )
    assert len(tries) == 2


def test_a_start_that_breaks_gives_up_the_lock_of_its_claim(site, monkeypatch):
    site.open().close()
    monkeypatch.setattr(
        "mpifarm.store.store.AttemptsFile.begin", lambda *_, **__: 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        site.open()
    (claim,) = Path(paths_of(site).claims).iterdir()
    with claim.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_two_farms_may_not_have_one_name(site):
    lock = FakeLock(site.root / "lock")
    farm = site.open()
    site.farms -= 1
    with pytest.raises(StorageError):
        site.open()
    assert lock.held is False
    farm.survey()


def test_a_held_task_that_others_have_finished_counts_as_finished(site):
    farm = site.open()
    farm.transact((), (), 3)
    (site.root / "finished").write_text(site.lines([0]))
    counts = farm.counts(farm.survey())
    assert (counts.finished, counts.held, counts.claimed) == (1, 2, 0)
    assert counts.toprocess == len(TASKS) - 3
