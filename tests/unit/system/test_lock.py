"""The lock: its files, all or none, never blocking, and its messages."""

import errno
import fcntl
import os
import pwd
import stat
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest

from mpifarm.errors import InputError, StorageError
from mpifarm.system import lock
from mpifarm.system.lock import DOUBT_SECONDS, WorkdirLock, lock_paths


class Clock:
    """A monotonic clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.when_asleep: Callable[[], object] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.when_asleep()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def workdir(tmp_path):
    path = tmp_path / "tasks.txt_workdir"
    path.mkdir()
    return path


@pytest.fixture
def area(tmp_path):
    path = tmp_path / "scratch"
    path.mkdir()
    return path


class OtherFarmer:
    """A plain farmer's hold on a lock file, as PyTaskFarmer takes it."""

    def __init__(self, path) -> None:
        self.file = open(path, "w+")  # noqa: SIM115
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise

    def unlock(self) -> None:
        self.file.close()


def is_free(path) -> bool:
    try:
        OtherFarmer(path).unlock()
    except OSError:
        return False
    return True


def open_files() -> set[str]:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return {os.readlink(link) for link in links if link.is_symlink()}


def make(paths, clock) -> WorkdirLock:
    return WorkdirLock([str(path) for path in paths], clock, clock.sleep)


# ---- which files --------------------------------------------------------------------


def area_name(workdir) -> str:
    return md5(os.path.abspath(workdir).encode()).hexdigest() + "_lock"


def test_without_a_lock_area_the_lock_is_the_workdirs(workdir):
    assert lock_paths(str(workdir), {"HOME": "/"}, None) == (f"{workdir}/lock",)


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        (("SCRATCH", "TMP", "TMPDIR"), "SCRATCH"),
        (("TMPDIR", "TMP"), "TMP"),
        (("TMPDIR",), "TMPDIR"),
        (("TMPDIR", "SCRATCH"), "SCRATCH"),
    ],
)
def test_the_area_is_the_one_that_pytaskfarmer_chooses(
    workdir, tmp_path, variables, chosen
):
    environ = {variable: str(tmp_path / variable) for variable in variables}
    for path in environ.values():
        os.mkdir(path)
    assert lock_paths(str(workdir), environ, None) == (
        f"{tmp_path}/{chosen}/{area_name(workdir)}",
        f"{workdir}/lock",
    )


def test_a_variable_that_is_set_and_empty_counts_and_is_the_root_directory(
    workdir, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda _path, _mode: True)
    environ = {"SCRATCH": "", "TMP": "/nowhere"}
    paths = lock_paths(str(workdir), environ, None)
    assert paths == (f"/{area_name(workdir)}", f"{workdir}/lock")


def test_the_lock_area_option_replaces_the_choice(workdir, area):
    paths = lock_paths(str(workdir), {"SCRATCH": "/nowhere"}, str(area))
    assert paths == (f"{area}/{area_name(workdir)}", f"{workdir}/lock")


def test_the_name_in_the_area_is_that_of_the_absolute_path_with_links_kept(
    workdir, area, tmp_path, monkeypatch
):
    (tmp_path / "link").symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    through_link = lock_paths("./link//", {}, str(area))
    assert through_link[0] == f"{area}/{area_name(tmp_path / 'link')}"
    assert through_link[1] == f"{workdir}/lock"


def test_a_workdir_whose_name_is_not_utf8_has_a_lock_in_the_area(tmp_path, area):
    workdir = f"{tmp_path}/\udcff"
    name = md5(os.fsencode(workdir)).hexdigest() + "_lock"
    assert lock_paths(workdir, {}, str(area))[0] == f"{area}/{name}"


def test_links_are_resolved_so_that_one_file_has_one_name(workdir, area, tmp_path):
    (tmp_path / "link").symlink_to(area)
    assert lock_paths(
        str(workdir), {"TMP": str(tmp_path / "link")}, None
    ) == lock_paths(str(workdir), {"TMP": str(area)}, None)


def test_an_area_lock_that_is_a_link_to_the_workdirs_is_taken_once(workdir, area):
    (area / area_name(workdir)).symlink_to(workdir / "lock")
    assert lock_paths(str(workdir), {}, str(area)) == (f"{workdir}/lock",)


@pytest.mark.parametrize("variable", ["SCRATCH", "TMP", "TMPDIR"])
def test_an_area_that_is_not_there_is_told_with_the_variable_and_the_remedy(
    workdir, tmp_path, variable
):
    with pytest.raises(InputError) as caught:
        lock_paths(str(workdir), {variable: str(tmp_path / "gone")}, None)
    for said in (
        f"{tmp_path}/gone",
        "does not exist",
        f"${variable}",
        "--lock-area",
    ):
        assert said in str(caught.value)


def test_an_area_option_that_is_not_there_is_told(workdir, tmp_path):
    with pytest.raises(InputError, match=r"gone \(from --lock-area\) does not exist"):
        lock_paths(str(workdir), {}, str(tmp_path / "gone"))


def test_an_area_that_cannot_be_written_is_told(workdir, area, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(InputError, match="can't be written"):
        lock_paths(str(workdir), {}, str(area))
    (area / area_name(workdir)).touch()
    assert len(lock_paths(str(workdir), {}, str(area))) == 2


# ---- taking and giving back ---------------------------------------------------------


@pytest.fixture
def paths(workdir, area):
    return [area / "a_lock", workdir / "lock"]


def test_all_locks_are_taken_and_given_back(paths, clock):
    both = make(paths, clock)
    assert both.try_acquire()
    assert both.held
    assert not any(map(is_free, paths))
    both.release()
    assert not both.held
    assert all(map(is_free, paths))


@pytest.mark.parametrize("busy", [0, 1])
def test_all_locks_are_taken_or_none(paths, clock, busy):
    other = OtherFarmer(paths[busy])
    both = make(paths, clock)
    assert not both.try_acquire()
    assert not both.held
    assert is_free(paths[1 - busy])
    other.unlock()
    clock.sleep(0.001)
    assert both.try_acquire()


def test_two_of_ours_exclude_one_another_in_one_process(paths, clock):
    first, second = make(paths, clock), make(paths, clock)
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()


def test_a_lock_is_not_taken_again_within_a_millisecond(paths, clock):
    both = make(paths, clock)
    assert both.try_acquire()
    both.release()
    assert not both.try_acquire()
    clock.now += 0.0009
    assert not both.try_acquire()
    clock.now += 0.0001
    assert both.try_acquire()


def test_a_lock_given_back_for_want_of_the_other_leaves_the_gap_too(paths, clock):
    other = OtherFarmer(paths[1])
    both = make(paths, clock)
    assert not both.try_acquire()
    other.unlock()
    assert not both.try_acquire()
    clock.now += 0.001
    assert both.try_acquire()


def test_taking_what_is_held_is_a_defect(paths, clock):
    both = make(paths, clock)
    both.acquire(0)
    with pytest.raises(RuntimeError):
        both.try_acquire()
    assert both.held


def test_giving_back_what_is_not_held_does_nothing(paths, clock):
    both = make(paths, clock)
    both.release()
    assert both.try_acquire()


def test_acquire_polls_each_millisecond_until_the_lock_is_free(paths, clock):
    other = OtherFarmer(paths[0])
    both = make(paths, clock)
    clock.when_asleep = lambda: other.unlock() if len(clock.slept) == 7 else None
    both.acquire(timeout=1.0)
    assert both.held
    assert clock.slept == [0.001] * 7


@pytest.mark.parametrize("busy", [0, 1])
def test_acquire_gives_up_after_its_timeout_and_names_the_file(paths, clock, busy):
    other = OtherFarmer(paths[busy])
    both = make(paths, clock)
    with pytest.raises(StorageError) as caught:
        both.acquire(timeout=0.5)
    assert str(paths[busy]) in str(caught.value)
    assert "0.5 s" in str(caught.value)
    assert 100.5 <= clock.now < 100.51
    assert not both.held
    other.unlock()


def test_acquire_keeps_the_first_lock_for_a_while_as_it_waits_for_the_second(
    paths, clock
):
    other = OtherFarmer(paths[1])
    both = make(paths, clock)
    first_was_free: list[bool] = []
    clock.when_asleep = lambda: first_was_free.append(is_free(paths[0]))
    with pytest.raises(StorageError):
        both.acquire(timeout=1.0)
    # kept for a quarter of a second, then left alone for one poll, and so on
    assert first_was_free.index(True) == 250
    assert 3 <= first_was_free.count(True) <= 5
    assert is_free(paths[0])
    other.unlock()


def test_an_interrupted_acquire_holds_nothing(paths, clock):
    other = OtherFarmer(paths[1])
    both = make(paths, clock)

    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.when_asleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        both.acquire(timeout=1.0)
    assert is_free(paths[0])
    other.unlock()


def test_hold_gives_back_even_after_an_error(paths, clock):
    both = make(paths, clock)
    with pytest.raises(ZeroDivisionError), both.hold(1.0):
        _ = 1 / (not both.held)
    assert not both.held
    assert all(map(is_free, paths))


def test_no_descriptor_stays_open_between_two_takings(paths, clock):
    both = make(paths, clock)
    both.probe()
    other = OtherFarmer(paths[1])
    clock.now += 1
    assert not both.try_acquire()
    other.unlock()
    clock.now += 1
    both.acquire(1.0)
    assert {str(path) for path in paths} <= open_files()
    both.release()
    assert not {str(path) for path in paths} & open_files()


def test_a_command_does_not_inherit_the_lock(paths, clock):
    both = make(paths, clock)
    with both.hold(1.0):
        assert not any(map(os.get_inheritable, both._descriptors))


# ---- the files stay as they are -----------------------------------------------------


def test_a_lock_file_is_never_truncated_unlinked_or_replaced(paths, clock):
    for path in paths:
        path.write_text("not ours")
    before = [path.stat().st_ino for path in paths]
    both = make(paths, clock)
    both.probe()
    for _ in range(3):
        clock.now += 1
        with both.hold(1.0):
            pass
    assert [path.stat().st_ino for path in paths] == before
    assert [path.read_text() for path in paths] == ["not ours"] * 2


def test_taking_creates_the_files_empty_and_with_the_users_umask(paths, clock):
    before = os.umask(0o027)
    try:
        with make(paths, clock).hold(1.0):
            pass
    finally:
        os.umask(before)
    for path in paths:
        assert path.read_bytes() == b""
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_lock_file_in_an_area_that_is_a_link_is_the_same_lock(workdir, area, clock):
    (area / "a_lock").symlink_to(area / "real")
    linked = make([area / "a_lock", workdir / "lock"], clock)
    with linked.hold(1.0):
        assert not is_free(area / "real")
    assert (area / "a_lock").is_symlink()


def test_a_lock_file_in_the_workdir_that_is_a_link_is_told(workdir, area, clock):
    (workdir / "lock").symlink_to(area / "real")
    with pytest.raises(InputError, match=r"lock is a link, .* --lock-area"):
        lock_paths(str(workdir), {}, None)
    with pytest.raises(InputError, match="lock is a link"):
        make([workdir / "lock"], clock).probe()
    assert not (area / "real").exists()


def test_the_lock_of_a_file_that_was_replaced_meanwhile_counts_for_nothing(
    workdir, clock, monkeypatch
):
    path = workdir / "lock"
    real_open = os.open

    def open_and_lose(name, *rest):
        descriptor = real_open(name, *rest)
        if losses:
            losses.pop()
            os.unlink(name)
            path.touch()
        return descriptor

    losses = [1]
    monkeypatch.setattr(os, "open", open_and_lose)
    one = make([path], clock)
    assert not one.try_acquire()
    assert is_free(path)
    clock.now += 1
    assert one.try_acquire()
    assert not is_free(path)


def test_a_workdir_that_vanished_is_told_and_not_made_again(workdir, clock):
    one = make([workdir / "lock"], clock)
    one.probe()
    (workdir / "lock").unlink()
    workdir.rmdir()
    clock.now += 1
    with pytest.raises(StorageError, match="as its directory does not exist"):
        one.try_acquire()
    assert not workdir.exists()


def test_what_was_taken_is_given_back_when_the_next_one_breaks(paths, clock):
    both = make(paths, clock)
    both.probe()
    paths[1].unlink()
    paths[1].parent.rmdir()
    clock.now += 1
    with pytest.raises(StorageError):
        both.acquire(1.0)
    assert not both.held
    assert is_free(paths[0])


# ---- file systems without flock, and other troubles ---------------------------------


@pytest.fixture
def refuse(monkeypatch):
    """Let ``flock`` fail with an error for a path."""
    refusals: dict[str, int] = {}
    real = fcntl.flock

    def flock(descriptor, operation):
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if path in refusals:
            raise OSError(refusals[path], os.strerror(refusals[path]))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    return lambda path, code: refusals.__setitem__(str(path), code)


NO_FLOCK = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.mark.parametrize("code", NO_FLOCK)
@pytest.mark.parametrize("without", [0, 1])
def test_a_file_system_without_flock_is_left_out_if_another_lock_remains(
    paths, clock, refuse, code, without
):
    refuse(paths[without], code)
    both = make(paths, clock)
    both.probe()
    assert both.paths == (str(paths[1 - without]),)
    assert both.without_flock == (str(paths[without]),)
    assert f"no flock for {paths[without]}" in both.describe()
    clock.now += 1
    assert both.try_acquire()
    assert not is_free(paths[1 - without])


@pytest.mark.parametrize("code", NO_FLOCK)
def test_no_flock_anywhere_is_told_with_the_remedy_and_no_soft_lock_is_made(
    paths, clock, refuse, code
):
    for path in paths:
        refuse(path, code)
    with pytest.raises(InputError) as caught:
        make(paths, clock).probe()
    for said in (*map(str, paths), "--lock-area", "$SCRATCH"):
        assert said in str(caught.value)
    assert [sorted(os.listdir(path.parent)) for path in paths] == [["a_lock"], ["lock"]]


@pytest.mark.parametrize("code", NO_FLOCK)
def test_flock_that_stops_working_in_mid_run_stops_the_farm(paths, clock, refuse, code):
    both = make(paths, clock)
    both.probe()
    refuse(paths[1], code)
    clock.now += 1
    with pytest.raises(StorageError, match="has stopped working for"):
        both.try_acquire()
    assert is_free(paths[0])


def test_a_lock_that_others_hold_at_the_start_has_flock(paths, clock):
    others = [OtherFarmer(path) for path in paths]
    both = make(paths, clock)
    both.probe()
    assert both.paths == tuple(map(str, paths))
    for other in others:
        other.unlock()


def test_two_names_of_one_file_are_taken_once(workdir, area, clock):
    (workdir / "lock").touch()
    os.link(workdir / "lock", area / "a_lock")
    both = make([area / "a_lock", workdir / "lock"], clock)
    both.probe()
    assert both.paths == (f"{area}/a_lock",)
    clock.now += 1
    assert both.try_acquire()


def test_after_probing_the_gap_is_left_as_well(paths, clock):
    both = make(paths, clock)
    both.probe()
    assert not both.held
    assert not both.try_acquire()
    clock.now += 0.001
    assert both.try_acquire()


@pytest.fixture
def fail_open(monkeypatch):
    """Let the opening of a lock file fail."""

    def with_code(code):
        def refuse_open(path, *_rest):
            raise OSError(code, os.strerror(code), path)

        monkeypatch.setattr(os, "open", refuse_open)

    return with_code


def test_a_lock_file_of_another_user_is_told_with_the_owner(
    workdir, clock, fail_open, monkeypatch
):
    (workdir / "lock").touch()
    monkeypatch.setattr(lock, "_user_name", lambda _uid: "user eve")
    fail_open(errno.EACCES)
    with pytest.raises(InputError, match=r"/lock belongs to user eve and you may not"):
        make([workdir / "lock"], clock).probe()
    with pytest.raises(StorageError, match="belongs to user eve"):
        make([workdir / "lock"], clock).acquire(1.0)


def test_a_user_without_a_name_is_told_by_his_number():
    assert lock._user_name(2**31 - 7) == f"user {2**31 - 7}"
    assert lock._user_name(0) == "user root"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EACCES, "you may not write to its directory"),
        (errno.ENOENT, "as its directory does not exist"),
        (errno.EROFS, "Read-only file system"),
        (errno.EISDIR, "Is a directory"),
        (errno.ELOOP, "symbolic links"),
    ],
)
def test_at_the_start_a_lock_file_that_cannot_be_made_is_bad_input(
    workdir, clock, fail_open, code, told
):
    fail_open(code)
    with pytest.raises(InputError, match=told):
        make([workdir / "lock"], clock).probe()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_storage_that_gives_way_is_no_bad_input(workdir, clock, fail_open, code):
    fail_open(code)
    with pytest.raises(StorageError, match="can't be used"):
        make([workdir / "lock"], clock).probe()


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EAGAIN])
def test_an_answer_that_may_pass_is_an_error_when_it_does_not(
    workdir, clock, fail_open, code
):
    lock = make([workdir / "lock"], clock)
    fail_open(code)
    assert not lock.try_acquire()
    clock.now += DOUBT_SECONDS
    with pytest.raises(StorageError, match="can't be used"):
        lock.try_acquire()


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EAGAIN])
def test_a_file_that_is_busy_or_just_replaced_is_tried_again(
    workdir, clock, fail_open, code
):
    fail_open(code)
    with pytest.raises(StorageError, match="held by other farmers"):
        make([workdir / "lock"], clock).acquire(0.1)


def test_a_doubt_that_has_passed_begins_anew_with_the_next(workdir, clock, monkeypatch):
    lock = make([workdir / "lock"], clock)
    for begun in (200.0, 300.0):
        clock.now = begun
        with monkeypatch.context() as stale:
            stale.setattr(os, "open", lambda *_: _raise(errno.ESTALE))
            assert not lock.try_acquire()
        assert lock.try_acquire()
        lock.release()


def _raise(code: int) -> None:
    raise OSError(code, os.strerror(code))


def test_a_lock_area_that_is_no_directory_is_told(workdir, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a directory: name another one, the"):
        lock_paths(str(workdir), {}, str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"unset or correct \$TMP, or name another"):
        lock_paths(str(workdir), {"TMP": str(tmp_path / "file")}, None)


def test_a_new_lock_file_is_for_the_group_and_not_for_all(paths, clock):
    before = os.umask(0)
    try:
        make(paths, clock).probe()
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o664}


def test_the_locks_are_described_in_one_sentence(paths, clock):
    assert make(paths, clock).describe() == (
        f"the lock of this workdir is flock on {paths[0]} and {paths[1]}"
    )
    assert make(paths[1:], clock).describe() == (
        f"the lock of this workdir is flock on {paths[1]}"
    )


# ---- what a stranger may have put into a directory where everyone may write ---------


@pytest.fixture
def open_area(area):
    """Make a directory with the permissions of /tmp."""
    area.chmod(0o1777)
    return area


@pytest.fixture
def as_a_stranger_to_them(monkeypatch):
    """Let all files of this process belong to another user."""
    monkeypatch.setattr(lock, "_safe_owners", lambda _directory: (-1, -1))
    monkeypatch.setattr(lock, "_shares_workdir", lambda _uid, _workdir: False)
    monkeypatch.setattr(lock, "_user_name", lambda _uid: "user eve")


@pytest.mark.usefixtures("as_a_stranger_to_them")
def test_a_strangers_link_in_the_area_is_bad_input_before_anything_is_opened(
    workdir, open_area, tmp_path
):
    link = open_area / area_name(workdir)
    link.symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="is a link that user eve has put") as caught:
        lock_paths(str(workdir), {}, str(open_area))
    assert str(link) in str(caught.value)
    assert "--lock-area" in str(caught.value)
    assert not (tmp_path / "victim").exists()


@pytest.mark.usefixtures("as_a_stranger_to_them")
def test_a_strangers_file_in_the_area_is_not_used(workdir, open_area, clock):
    (open_area / "a_lock").write_text("a trap")
    both = make([open_area / "a_lock", workdir / "lock"], clock)
    with pytest.raises(InputError, match="user eve, who has no part in the workdir"):
        both.probe()
    with pytest.raises(StorageError, match="user eve"):
        both.acquire(1.0)
    assert (open_area / "a_lock").read_text() == "a trap"
    assert open_files().isdisjoint({str(open_area / "a_lock")})


@pytest.mark.usefixtures("as_a_stranger_to_them")
def test_in_a_directory_that_only_friends_may_write_all_of_it_is_used(
    workdir, area, clock
):
    (area / "target").touch()
    (area / "a_lock").symlink_to(area / "target")
    both = make([area / "a_lock", workdir / "lock"], clock)
    both.probe()
    clock.now += 1
    assert both.try_acquire()


def status(*, uid: int = 7, gid: int = 70, mode: int = 0o755) -> os.stat_result:
    return os.stat_result((stat.S_IFDIR | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("uid", "mode", "groups", "shares"),
    [
        (7, 0o700, [], True),
        (8, 0o755, [70], False),
        (8, 0o775, [70], True),
        (8, 0o775, [71], False),
        (8, 0o777, [70], False),
    ],
)
def test_a_user_has_a_part_in_the_workdir_as_owner_or_by_its_group(
    monkeypatch, uid, mode, groups, shares
):
    user = type("User", (), {"pw_name": "eve", "pw_gid": 8})
    with monkeypatch.context() as system:
        system.setattr(os, "stat", lambda _: status(mode=mode))
        system.setattr(os, "getgrouplist", lambda _name, _gid: groups)
        system.setattr(pwd, "getpwuid", lambda _: user)
        found = lock._shares_workdir(uid, "/w")
    assert found is shares


def test_safe_are_the_files_of_the_user_and_of_the_directorys_owner():
    owner = os.geteuid() + 1
    assert lock._safe_owners(status(uid=owner)) == (os.geteuid(), owner)


def test_a_file_of_two_names_is_not_used_where_everyone_may_write(
    workdir, open_area, tmp_path, clock
):
    (tmp_path / "victim").write_text("precious")
    os.link(tmp_path / "victim", open_area / "a_lock")
    with pytest.raises(InputError, match="hard link"):
        make([open_area / "a_lock", workdir / "lock"], clock).probe()


def test_a_fifo_in_place_of_a_lock_is_told_at_once(workdir, clock):
    os.mkfifo(workdir / "lock")
    with pytest.raises(InputError, match=r"is not a regular file \(a fifo\)"):
        make([workdir / "lock"], clock).probe()


def test_links_that_lead_in_a_circle_are_told(workdir, clock):
    (workdir / "one").symlink_to(workdir / "other")
    (workdir / "other").symlink_to(workdir / "one")
    with pytest.raises(InputError, match="symbolic links"):
        make([workdir / "one", workdir / "sub" / "lock"], clock).probe()


def test_a_lock_file_that_another_makes_at_the_same_moment_is_used(
    workdir, clock, monkeypatch
):
    path, real_open = workdir / "lock", os.open

    def open_second(name, flags, *mode):
        if flags & os.O_CREAT and not path.exists():
            os.close(real_open(name, os.O_CREAT, 0o600))
        return real_open(name, flags, *mode)

    monkeypatch.setattr(os, "open", open_second)
    one = make([path], clock)
    one.probe()
    clock.now += 1
    assert one.try_acquire()


# ---- at the edges --------------------------------------------------------------------


def failing(number: int) -> Callable[..., None]:
    def raise_error(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return raise_error


def test_a_file_that_is_looked_at_may_be_gone_and_a_disk_may_fail(
    tmp_path, monkeypatch
):
    path = str(tmp_path / "none")
    assert lock._find_status(path) is None
    assert lock._find_status(str(tmp_path)) is not None
    monkeypatch.setattr(os, "stat", failing(errno.EACCES))
    assert lock._find_status(path) is None
    monkeypatch.setattr(os, "stat", failing(errno.EIO))
    with pytest.raises(StorageError, match="none"):
        lock._find_status(path)


def test_a_race_for_a_lock_file_that_does_not_end_is_an_error(tmp_path, monkeypatch):
    tries: list[int] = []

    def lose(path: str, flags: int, mode: int = 0) -> int:
        tries.append(flags)
        if flags & os.O_CREAT:
            raise FileExistsError(errno.EEXIST, "another was quicker")
        raise FileNotFoundError(errno.ENOENT, "and has removed it")

    monkeypatch.setattr(os, "open", lose)
    with pytest.raises(OSError, match="lock") as caught:
        lock._open_or_create(str(tmp_path / "lock"))
    assert caught.value.errno == errno.EAGAIN
    assert len(tries) == 2 * lock._MAX_RACES
    assert all(flags & os.O_EXCL for flags in tries[1::2])


def test_an_open_file_is_at_its_path_until_that_names_another_or_none(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as file:
        assert lock._is_at(file.fileno(), str(path))
        path.rename(tmp_path / "elsewhere")
        assert not lock._is_at(file.fileno(), str(path))
        path.touch()
        assert not lock._is_at(file.fileno(), str(path))


def test_links_in_a_circle_are_left_to_the_opening(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert lock._resolved(str(tmp_path / "one")).startswith(str(tmp_path))
    (tmp_path / "three").symlink_to("four")
    assert lock._resolved(str(tmp_path / "three")) == str(tmp_path / "four")


def test_a_user_whom_nobody_knows_has_no_part_in_a_workdir(tmp_path, monkeypatch):
    tmp_path.chmod(0o770)
    unknown = 3_999_999

    def fail(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", fail)
    assert not lock._shares_workdir(unknown, str(tmp_path))
    assert lock._shares_workdir(tmp_path.stat().st_uid, str(tmp_path))
