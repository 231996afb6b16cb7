"""A workdir is moved aside: it is the old or the new one after a kill at any step."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths, parse_aside
from mpifarm.store import aside
from mpifarm.store.aside import (
    drop_second_locks,
    finish_move,
    has_begun,
    list_asides,
    move_aside,
    move_back,
    name_next,
    refuse_farmers,
)
from tests.unit.store_fakes import (
    Interference,
    Killed,
    PlainFarmer,
    Site,
    ended,
    full_disk,
    instead_of_os,
)

STAMP = "20260102-030405"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "workdir")


@pytest.fixture
def used(site):
    """A list of which two tasks have ended, with what a workdir has besides."""
    workdir = site.open()
    workdir.transact((), (), 4)
    workdir.transact([ended(0), ended(1, 1)], (2, 3), 0)
    workdir.close()
    for name in ("stdin.txt", "job.slurm", "job-12.pbs", "job-7.out", "mine.txt"):
        (site.root / name).write_text(f"{name}\n")
    (site.root / "logs" / "log_0").write_text("0\n")
    (site.root / "lock").touch()
    return site


def paths_of(site: Site) -> WorkdirPaths:
    return WorkdirPaths(str(site.root))


def old_ones(site: Site) -> list[Path]:
    return [Path(each) for each in list_asides(str(site.root))]


def contents(root: Path) -> dict[str, bytes]:
    """All files but the locks."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def begin(site: Site) -> None:
    """What a start does that is to begin again."""
    if finish_move(str(site.root)) or not site.root.exists():
        return
    if has_begun(paths_of(site)):
        move_aside(str(site.root), STAMP)


# ---- moving --------------------------------------------------------------------------


def test_the_next_workdir_has_what_does_not_belong_to_the_run_before(used):
    before, lock = contents(used.root), os.stat(used.root / "lock").st_ino
    used.root.chmod(0o2770)
    old = Path(move_aside(str(used.root), STAMP))
    assert old.name == f"workdir.before-{STAMP}"
    assert contents(old) == before
    assert sorted(contents(used.root)) == ["job-12.pbs", "job.slurm", "stdin.txt"]
    assert contents(used.root).items() < before.items()
    # who waits for the old lock gets it in the new workdir, and nobody in the old one
    assert os.stat(used.root / "lock").st_ino == lock
    assert not (old / "lock").exists()
    assert stat.S_IMODE(os.stat(used.root).st_mode) == 0o2770
    assert not os.path.lexists(name_next(str(used.root)))
    assert not has_begun(paths_of(used))
    assert used.open().transact((), (), 12).taken == [*range(12)]


def test_each_of_one_second_gets_a_name_and_the_latest_is_the_last(site):
    names = []
    for number in range(11):
        site.write("finished", [number])
        names.append(move_aside(str(site.root), STAMP))
    assert names[0].endswith(STAMP)
    assert names[10].endswith(f"{STAMP}-11")
    assert list_asides(str(site.root)) == names
    assert [parse_aside(each)[2] for each in names] == [*range(1, 12)]  # type: ignore[index]
    for other in (
        "workdir",
        "workdir.before-x",
        "my.workdir.before",
        "workdir.mpifarm-next",
    ):
        assert parse_aside(other) is None


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("strike", [Killed(), full_disk()], ids=["kill", "full"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_one(tmp_path, strike, half):
    """And the same command again has moved it aside once, whatever was there."""
    steps = 0
    for at in range(1, 41):
        site = Site(tmp_path / str(at) / "workdir")
        site.root.parent.mkdir()
        site.write("finished", [0, 1])
        site.write("toprocess", [*range(2, 12)])
        (site.root / "lock").touch()
        for name in ("stdin.txt", "job.slurm"):
            (site.root / name).write_text("x\n")
        before = contents(site.root)
        interference = Interference(at, strike, half=half)
        with instead_of_os(interference, aside), suppress(Killed, StorageError):
            begin(site)
        steps = interference.steps
        old = [contents(each) for each in old_ones(site)]
        is_old = site.root.exists() and contents(site.root) == before
        assert (is_old, old) in [(True, []), (False, [before])]
        for _ in range(2):
            begin(site)
            assert [contents(each) for each in old_ones(site)] == [before]
            assert sorted(contents(site.root)) == ["job.slurm", "stdin.txt"]
    assert 8 < steps < 40


def test_where_the_system_refuses_it_nothing_is_changed(used, monkeypatch):
    before = contents(used.root)

    def refuse(source, target):
        if source == str(used.root):
            raise PermissionError(13, "Permission denied")
        os.replace(source, target)

    monkeypatch.setattr(aside.os, "rename", refuse)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"can't move .*workdir aside \(Permission"):
        move_aside(str(used.root), STAMP)
    assert contents(used.root) == before
    assert [each.name for each in used.root.parent.iterdir()] == ["workdir"]


def test_a_farmer_that_makes_the_workdir_in_that_moment_begins_there(used, monkeypatch):
    rename = os.rename

    def be_late(source, target):
        if target == str(used.root):
            used.root.mkdir()
            (used.root / "lock").touch()
        rename(source, target)

    monkeypatch.setattr(aside.os, "rename", be_late)  # type: ignore[attr-defined]
    old = move_aside(str(used.root), STAMP)
    assert contents(used.root) == {}
    assert Path(old, "finished").exists()
    assert not os.path.lexists(name_next(str(used.root)))


# ---- what is there -------------------------------------------------------------------


def test_a_workdir_in_which_no_task_has_begun_has_nothing_to_keep(site):
    paths = paths_of(site)
    assert not has_begun(paths)
    site.kill(site.open())
    (site.root / "stdin.txt").write_text("x\n")
    (site.root / "logs" / "packed").mkdir()
    assert (site.root / "fingerprint.json").exists()
    assert not has_begun(paths)
    (site.root / "logs" / "packed" / "1.index").touch()
    assert has_begun(paths)


@pytest.mark.parametrize("name", ["toprocess", "failed", "waiting", "attempts.tsv"])
def test_what_a_run_has_left_is_kept(site, name):
    site.write(name, [])
    assert has_begun(paths_of(site))


def test_a_farm_that_lives_or_may_live_keeps_its_workdir(site):
    workdir = site.open()
    other = site.machine(99)
    with pytest.raises(InputError, match=r"farm .* is at work there: end it first"):
        refuse_farmers(paths_of(site), other, 12)
    site.kill(workdir)
    refuse_farmers(paths_of(site), other, 12)
    site.kill(site.open(site.machine(50, host="node2", boot="boot2")))
    site.now = os.stat(next((site.root / "claims").iterdir())).st_mtime + 30
    with pytest.raises(InputError, match=r"farm .* may still be at work there"):
        refuse_farmers(paths_of(site), other, 12)
    site.now += 60
    refuse_farmers(paths_of(site), other, 12)


def test_tasks_that_a_plain_farmer_has_keep_the_workdir(site):
    plain = PlainFarmer(site)
    taken = plain.pop()
    assert taken is not None
    machine = site.machine(99)
    with pytest.raises(InputError, match=f"task {taken} is in no file there: .* mv "):
        refuse_farmers(paths_of(site), machine, 12)
    plain.record(taken, 0)
    refuse_farmers(paths_of(site), machine, 12)
    assert plain.pop() is not None
    (site.root / "toprocess").unlink()  # all that has not finished is to run
    refuse_farmers(paths_of(site), machine, 12)


def test_tasks_of_a_dead_farm_and_lines_of_another_list_are_no_plain_farmers(site):
    site.kill(first := site.open())
    first = site.open()
    first.transact((), (), 5)
    site.kill(first)
    with (site.root / "failed").open("a") as file:
        file.write("999999999999999999 other\n17 torn")
    refuse_farmers(paths_of(site), site.machine(99), 12)


def test_a_next_workdir_that_is_none_of_ours_is_not_used(used, monkeypatch):
    """In a directory where everyone may write, a stranger may have put it there."""
    before = contents(used.root)
    following = Path(name_next(str(used.root)))
    following.symlink_to(used.root.parent / "elsewhere")
    with pytest.raises(InputError, match=r"as .*\.mpifarm-next, and there is some"):
        move_aside(str(used.root), STAMP)
    following.unlink()
    following.mkdir()
    (following / ".mpifarm-next").touch()
    monkeypatch.setattr(aside.os, "geteuid", lambda: 4242)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="another user's: move it away"):
        move_aside(str(used.root), STAMP)
    assert contents(used.root) == before
    used.root.rename(used.root.parent / "gone")
    with pytest.raises(InputError, match="another user's: move it away"):
        finish_move(str(used.root))
    assert following.exists()


@pytest.mark.parametrize("mark", [".mpifarm-next", "other"])
def test_a_directory_of_the_users_is_no_next_workdir(used, monkeypatch, mark):
    """Not even if a farm lives there, and not if the system refuses the move."""
    other = Site(Path(name_next(str(used.root))))
    other.write("finished", [0, 1])
    (other.root / "lock").touch()
    (other.root / mark).touch()
    before = contents(used.root), contents(other.root)
    with pytest.raises(InputError, match="files that it has not made: move that away"):
        move_aside(str(used.root), STAMP)
    aside._remove_next(str(other.root))
    assert (contents(used.root), contents(other.root)) == before
    assert (other.root / "lock").exists()
    used.root.rename(used.root.parent / "gone")
    with pytest.raises(InputError, match="files that it has not made: move that away"):
        finish_move(str(used.root))
    assert contents(other.root) == before[1]


def test_an_empty_directory_of_that_name_is_not_put_in_place(site):
    Path(name_next(str(site.root))).mkdir()
    assert not finish_move(str(site.root))
    assert not site.root.exists()


def test_a_rename_of_which_nfs_lost_the_answer_has_happened(used, monkeypatch):
    before = contents(used.root)

    def lose(source, target):
        os.replace(source, target)
        if os.path.isdir(target):
            raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(aside.os, "rename", lose)  # type: ignore[attr-defined]
    old = Path(move_aside(str(used.root), STAMP))
    assert contents(old) == before
    assert "stdin.txt" in contents(used.root)


def test_a_kill_leaves_no_second_name_of_a_lock_that_would_be_refused(tmp_path):
    for at in range(1, 41):
        site = Site(tmp_path / str(at) / "workdir")
        site.root.parent.mkdir()
        site.write("finished", [0, 1])
        site.root.chmod(0o777)
        (site.root / "lock").touch()
        interference = Interference(at, Killed(), half=False)
        with instead_of_os(interference, aside), suppress(Killed):
            begin(site)
        if not site.root.exists():
            finish_move(str(site.root))
        drop_second_locks(str(site.root))
        assert os.stat(site.root / "lock").st_nlink == 1


# ---- back again ----------------------------------------------------------------------


def test_a_workdir_goes_back_in_its_place_with_one_lock_file(used):
    before = contents(used.root)
    lock = (used.root / "lock").stat().st_ino
    old = move_aside(str(used.root), STAMP)
    assert move_back(str(used.root), old)
    assert contents(used.root) == before
    assert [(used.root / "lock").stat().st_ino, old_ones(used)] == [lock, []]
    assert (used.root / "lock").stat().st_nlink == 1
    assert not Path(name_next(str(used.root))).exists()


def test_a_script_keeps_its_mode_in_the_next_workdir(used):
    (used.root / "job.slurm").chmod(0o750)
    move_aside(str(used.root), STAMP)
    assert stat.S_IMODE((used.root / "job.slurm").stat().st_mode) == 0o750


@pytest.mark.parametrize("name", ["job-13.slurm", "fingerprint.json", "stdin.txt"])
def test_a_workdir_stays_aside_where_others_have_come(used, name):
    old = move_aside(str(used.root), STAMP)
    (used.root / name).write_text("theirs")
    new, before = contents(used.root), contents(Path(old))
    assert not move_back(str(used.root), old, b"ours")
    assert [contents(used.root), contents(Path(old))] == [new, before]


def test_a_workdir_that_cannot_go_back_leaves_the_next_one(used, monkeypatch):
    old = move_aside(str(used.root), STAMP)
    new, before = contents(used.root), contents(Path(old))
    rename = os.rename

    def refuse(source, target):
        if source == old:
            raise PermissionError
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert not move_back(str(used.root), old)
    assert [contents(used.root), contents(Path(old))] == [new, before]
    assert not (Path(old) / "lock").exists()
