"""What another user can do to a farm in a directory where everyone may write.

Rules of this file: the other user is a child with another uid, so these tests need
root; the kernel's own protection is told apart from ours by not relying on it: what
the stranger plants is made by root and given away.
"""

import os
import pwd
import re
import stat
from pathlib import Path

import filelock  # noqa: F401 - the other user may not be able to read Python's files
import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.output.task_log import TaskLog
from mpifarm.store.claim_journal import Event, Head
from mpifarm.store.claims import OtherClaims, OwnClaim, grasped
from mpifarm.store.farm_liveness import this_machine
from mpifarm.store.strangers import validate_place
from mpifarm.store.validate import validate_access
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.system.processes import fork_child, reap_child

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can play another user"
)

STRANGER = 54321
"""A uid and gid that nobody has."""

COLLEAGUE = 54322


@pytest.fixture
def reachable(tmp_path):
    """A directory that every user can reach: pytest's own is root's alone."""
    for directory in (tmp_path, *tmp_path.parents):
        mode = stat.S_IMODE(directory.stat().st_mode)
        if not mode & stat.S_IXOTH:
            directory.chmod(mode | stat.S_IXOTH)
    return tmp_path


@pytest.fixture
def area(reachable):
    """As /tmp is: root's, sticky, everyone may write."""
    path = reachable / "area"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def workdir(reachable):
    path = reachable / "workdir"
    path.mkdir()
    os.chown(path, COLLEAGUE, COLLEAGUE)
    return path


def as_user(uid, act, groups=()):
    """Do it as that user, in a child; what it returned, or the sentence it raised."""
    read, write = os.pipe()

    def child():
        os.setgroups(list(groups))
        os.setgid(uid)
        os.setuid(uid)
        try:
            told = f"returned {act()}"
        except (InputError, StorageError, OSError) as error:
            told = f"{type(error).__name__}: {error}"
        os.write(write, told.encode())

    pid = fork_child(child)
    os.close(write)
    with open(read, "rb") as pipe:
        told = pipe.read().decode()
    reap_child(pid)
    return told


def lock_path(workdir, area) -> Path:
    return Path(lock_paths(str(workdir), {}, str(area))[0])


def take(workdir, area):
    """As the colleague, whose workdir it is."""

    def act():
        lock = WorkdirLock(lock_paths(str(workdir), {}, str(area)))
        lock.probe()
        lock.acquire(1.0)
        return lock.held

    return as_user(COLLEAGUE, act)


def give(path, uid=STRANGER):
    os.chown(path, uid, uid, follow_symlinks=False)


def test_a_lock_in_a_shared_area_can_be_taken_by_its_user(workdir, area):
    assert take(workdir, area) == "returned True"
    made = lock_path(workdir, area).stat()
    assert made.st_uid == COLLEAGUE
    assert not made.st_mode & stat.S_IWOTH
    assert take(workdir, area) == "returned True"


def test_a_link_that_a_stranger_has_planted_is_told_and_not_followed(
    workdir, area, reachable
):
    victim = reachable / "victim"
    link = lock_path(workdir, area)
    link.symlink_to(victim)
    give(link)
    os.chmod(reachable, 0o777)  # the colleague could make the victim's file
    told = take(workdir, area)
    assert told.startswith("InputError")
    assert str(link) in told
    assert f"user {STRANGER}" in told
    assert "--lock-area" in told
    assert not victim.exists()


def test_a_strangers_link_to_a_file_of_ours_leaves_it_as_it_was(
    workdir, area, reachable
):
    victim = reachable / "victim"
    victim.write_text("precious")
    give(victim, COLLEAGUE)
    link = lock_path(workdir, area)
    link.symlink_to(victim)
    give(link)
    assert take(workdir, area).startswith("InputError")
    assert victim.read_text() == "precious"


def test_a_link_behind_a_link_of_ours_is_looked_at_as_well(workdir, area, reachable):
    own, second = lock_path(workdir, area), area / "second"
    own.symlink_to(second)
    give(own, COLLEAGUE)
    second.symlink_to(reachable / "victim")
    give(second)
    told = take(workdir, area)
    assert told.startswith("InputError")
    assert str(second) in told


def test_a_link_that_comes_after_the_start_is_not_followed(workdir, area, reachable):
    victim = reachable / "victim"
    give(reachable, COLLEAGUE)
    os.chmod(reachable, 0o755)
    path = lock_path(workdir, area)

    def act():
        lock = WorkdirLock((str(path), f"{workdir}/lock"))
        lock.acquire(1.0)
        return lock.held

    path.symlink_to(victim)
    give(path)
    told = as_user(COLLEAGUE, act)
    assert told.startswith("StorageError")
    assert f"user {STRANGER}" in told
    assert not victim.exists()


@pytest.mark.parametrize("owner", [0, COLLEAGUE])
def test_a_link_of_our_own_or_of_the_areas_owner_is_followed(
    workdir, area, reachable, owner
):
    target = reachable / "target"
    target.touch()
    give(target, COLLEAGUE)
    link = lock_path(workdir, area)
    link.symlink_to(target)
    give(link, owner)
    assert take(workdir, area) == "returned True"


def test_a_file_that_a_stranger_has_planted_is_told_and_not_used(workdir, area):
    path = lock_path(workdir, area)
    path.write_text("a trap")
    path.chmod(0o666)
    give(path)
    told = take(workdir, area)
    assert told.startswith("InputError")
    assert f"belongs to user {STRANGER}" in told
    assert "no part in the workdir" in told
    assert path.read_text() == "a trap"


def test_a_hard_link_to_another_file_is_told_and_not_used(workdir, area, reachable):
    victim = reachable / "victim"
    victim.write_text("precious")
    give(victim, COLLEAGUE)
    path = lock_path(workdir, area)
    os.link(victim, path)
    told = take(workdir, area)
    assert told.startswith("InputError")
    assert "hard link" in told
    assert victim.read_text() == "precious"


def test_a_fifo_is_told_and_does_not_hang_the_start(workdir, area):
    path = lock_path(workdir, area)
    os.mkfifo(path, 0o666)
    path.chmod(0o666)
    give(path)
    told = take(workdir, area)
    assert told.startswith("InputError")
    assert "not a regular file (a fifo)" in told


def test_a_device_is_told(workdir, area):
    path = lock_path(workdir, area)
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    path.chmod(0o666)
    assert "not a regular file (a device)" in take(workdir, area)


def test_a_lock_of_the_workdirs_owner_is_used_by_those_who_share_it(workdir, area):
    workdir.chmod(0o777)
    path = lock_path(workdir, area)
    path.touch()
    path.chmod(0o666)
    give(path, COLLEAGUE)

    def act():
        lock = WorkdirLock(lock_paths(str(workdir), {}, str(area)))
        lock.probe()
        lock.acquire(1.0)
        return lock.held

    assert as_user(STRANGER, act) == "returned True"


def test_a_lock_of_one_who_may_write_the_workdir_by_its_group_is_used(
    workdir, area, monkeypatch
):
    os.chown(workdir, COLLEAGUE, 777)
    workdir.chmod(0o2775)
    path = lock_path(workdir, area)
    path.touch()
    path.chmod(0o666)
    give(path)
    member = pwd.struct_passwd(("x", "x", STRANGER, STRANGER, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: member)
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 777])
    assert take(workdir, area) == "returned True"
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid])
    assert take(workdir, area).startswith("InputError")


def test_in_a_directory_of_their_own_a_colleagues_lock_is_no_trap(workdir, reachable):
    own_area = reachable / "own"
    own_area.mkdir(mode=0o770)
    give(own_area, COLLEAGUE)
    path = lock_path(workdir, own_area)
    path.touch()
    path.chmod(0o666)
    give(path)
    assert take(workdir, own_area) == "returned True"


def test_a_lock_that_may_not_be_written_is_told_with_its_owner(workdir, area):
    path = lock_path(workdir, area)
    path.touch(mode=0o644)
    give(path)
    told = take(workdir, area)
    assert told.startswith("InputError")
    assert f"belongs to user {STRANGER} and you may not write it" in told


# ---- whole farms --------------------------------------------------------------------


def test_a_farm_makes_nothing_that_everyone_may_write(create_place):
    place = create_place(["echo hello", "false"])
    child = place.start(
        "-n", "1", before=("/bin/sh", "-c", 'umask 022; exec "$@"', "-")
    )
    child.wait()
    modes = {
        str(path.relative_to(place.workdir)): path.lstat().st_mode
        for path in [place.workdir, *place.workdir.rglob("*")]
    }
    assert len(modes) > 5
    assert [name for name, mode in modes.items() if mode & stat.S_IWOTH] == []


def test_a_private_farm_makes_nothing_that_others_may_read(create_place):
    place = create_place(["echo hello", "false"])
    child = place.start(
        "-n", "1", before=("/bin/sh", "-c", 'umask 077; exec "$@"', "-")
    )
    child.wait()
    modes = {path: path.lstat().st_mode for path in place.workdir.rglob("*")}
    assert len(modes) > 5
    assert [path for path, mode in modes.items() if mode & 0o077] == []


def test_a_farm_refuses_a_planted_lock_and_touches_nothing(create_place, area):
    place = create_place(["true"])
    link = lock_path(place.workdir, area)
    link.symlink_to(area / "elsewhere")
    give(link)
    child = place.start("--lock-area", str(area))
    assert child.wait() == 2, child.text()
    assert re.search(rf"link that user {STRANGER} has put", child.text())
    assert not (area / "elsewhere").exists()
    assert not (place.workdir / "toprocess").exists()


# ---- links, and a workdir that a stranger has made ----------------------------------


def run_as(place, uid, *options):
    """A farm of that user, who has no other group."""
    words = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    return place.start(*options, before=("setpriv", *words))


def test_a_link_in_a_workdir_that_a_group_shares_leads_to_nobodys_file(
    create_place, reachable
):
    place = create_place(["echo stolen"])
    give(place.directory, COLLEAGUE)
    (place.workdir / "logs").mkdir(parents=True)
    profile = reachable / "profile"
    profile.write_text("precious\n")
    give(profile, COLLEAGUE)
    for directory in (place.workdir, place.workdir / "logs"):
        os.chown(directory, COLLEAGUE, COLLEAGUE)
        directory.chmod(0o2775)
    log = place.workdir / "logs" / "log_0"
    log.symlink_to(profile)
    give(log)
    farm = run_as(place, COLLEAGUE)
    assert farm.wait() == 0, farm.text()
    assert profile.read_text() == "precious\n"
    assert log.read_text() == "stolen\n"
    assert not log.is_symlink()


@pytest.mark.parametrize("maker", ["stranger", "user", "root", "owner of the list"])
def test_a_workdir_where_everyone_may_write_is_used_of_friends_alone(
    create_place, reachable, area, maker
):
    makers = {"stranger": STRANGER, "user": COLLEAGUE, "root": 0}
    place = create_place(["echo hello"])
    os.chown(place.tasklist, 4711, 4711)
    workdir = area / "workdir"
    workdir.mkdir()
    workdir.chmod(0o777)
    os.chown(workdir, makers.get(maker, 4711), -1)
    farm = run_as(place, COLLEAGUE, "--workdir", str(workdir))
    if maker == "stranger":
        assert farm.wait() == 2, farm.text()
        assert f"the workdir {workdir} belongs to user {STRANGER}" in farm.text()
        assert [*workdir.iterdir()] == []
    else:
        assert farm.wait() == 0, farm.text()


def test_a_colleagues_log_that_we_may_not_write_is_kept_beside(reachable):
    log = reachable / "log_1"
    log.write_text("theirs")
    log.chmod(0o644)
    give(log)
    give(reachable, COLLEAGUE)

    def act():
        own = TaskLog(str(log), 2)
        own.write("ours")
        own.end()

    assert as_user(COLLEAGUE, act) == "returned None"
    assert log.read_text() == "ours"
    (kept,) = reachable.glob("log_1.before-*")
    assert kept.read_text() == "theirs"


def judge(workdir, tasklist=None):
    def act():
        validate_place(str(workdir), tasklist)
        validate_access(WorkdirPaths(str(workdir)))

    return as_user(COLLEAGUE, act)


@pytest.mark.parametrize("name", ["workdir", "logs", "claims", "logs/packed"])
@pytest.mark.parametrize(
    ("owner", "is_used"),
    [(0, True), (COLLEAGUE, True), (4711, True), (STRANGER, False)],
)
def test_a_directory_may_be_a_link_of_a_friend(reachable, name, owner, is_used):
    shared, elsewhere = reachable / "shared", reachable / "elsewhere"
    for directory in (shared, elsewhere):
        (directory / "logs").mkdir(parents=True)
        for each in (directory, directory / "logs"):
            os.chown(each, 4711, COLLEAGUE)
            each.chmod(0o2775)
    workdir = shared / "workdir" if name == "workdir" else shared
    link = workdir if name == "workdir" else workdir / name
    if link.is_dir():
        link.rmdir()
    link.symlink_to(elsewhere)
    give(link, owner)
    told = judge(workdir)
    if is_used:
        assert told == "returned None"
    else:
        assert told.startswith("InputError")
        assert f"{link} is a link of user {STRANGER}" in told


def test_a_workdir_of_a_group_is_used_without_an_option(reachable):
    workdir = reachable / "project" / "workdir"
    workdir.mkdir(parents=True)
    for directory in (workdir.parent, workdir):
        os.chown(directory, STRANGER, COLLEAGUE)
        directory.chmod(0o2775)
    assert judge(workdir) == "returned None"


@pytest.mark.parametrize("words", [["check"], ["log"], ["retry"]])
def test_no_subcommand_uses_a_strangers_workdir(create_place, area, words):
    place = create_place(["true"])
    workdir = area / "workdir"
    (workdir / "logs").mkdir(parents=True)
    give(workdir)
    after = ["0"] if words == ["log"] else []
    argv = [*words, str(workdir), "--list", str(place.tasklist), *after]
    assert place.run_words(*argv) == 2


# ---- another user's claim -----------------------------------------------------------


@pytest.fixture
def foreign_claim(reachable):
    """The claim of a colleague's farm that is dead, in a workdir of a group."""
    root = reachable / "shared"
    (root / "claims").mkdir(parents=True)
    for directory in (root, root / "claims"):
        directory.chmod(0o777)
    paths = WorkdirPaths(str(root))

    def act():
        machine = this_machine()
        start = machine.find_process_start(os.getpid()) or 0
        head = Head("theirs", "h", machine.boot_id, os.getpid(), start, 1.0, ())
        own = OwnClaim(paths, head)
        own.append(Event(take=[3, 4]))
        own.end()

    assert as_user(COLLEAGUE, act) == "returned None"
    return paths


def judge_as_stranger(paths):
    def act():
        others = OtherClaims(paths, "ours")
        others.poll()
        claim = others.claims["theirs"]
        with grasped(claim, this_machine()) as grasp:
            return grasp.liveness.name, grasp.is_reclaimable, sorted(claim.journal.held)

    return as_user(STRANGER, act)


def test_the_claim_of_another_user_is_read_and_never_broken(foreign_claim):
    path = Path(foreign_claim.claim("theirs"))
    assert path.stat().st_mode & 0o022 == 0
    before = path.read_bytes()
    assert judge_as_stranger(foreign_claim) == "returned ('DEAD', False, [3, 4])"
    assert path.read_bytes() == before
    # the same claim, were it ours to write, is that of a dead farm
    give(path)
    assert judge_as_stranger(foreign_claim) == "returned ('DEAD', True, [3, 4])"


def test_a_claim_that_may_not_be_read_is_told_by_its_name(foreign_claim):
    path = Path(foreign_claim.claim("theirs"))
    path.chmod(0o600)
    told = judge_as_stranger(foreign_claim)
    assert told.split(":")[0] in ("StorageError", "InputError")
    assert str(path) in told
    assert path.exists()
