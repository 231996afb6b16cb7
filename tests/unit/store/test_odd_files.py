"""What is no file in place of one: told at once, whoever opens it, never followed."""

import errno
import gc
import os
import resource
import socket
import stat
from collections.abc import Callable
from contextlib import contextmanager

import pytest

from mpifarm.errors import FarmError, InputError, StorageError, UnfitFileError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import HandlerDefinition
from mpifarm.output.reader import find_outputs
from mpifarm.output.task_log import TaskLog, blames_one_task
from mpifarm.plugins.registry import SearchPath, find_runner
from mpifarm.store.file_store import FileStore
from mpifarm.store.validate import validate_access
from mpifarm.system import file_contents, files
from mpifarm.system.lock import WorkdirLock, lock_paths
from mpifarm.system.regular_files import OddFileError, open_regular
from mpifarm.tasklists import open_tasklist
from tests.unit.store_fakes import TASKS, FakeLock

pytestmark = pytest.mark.timeout(10)
"""A fifo that is waited for."""


def put_link(path):
    path.with_name("victim").write_text("precious")
    path.symlink_to(path.with_name("victim"))


def put_dangling_link(path):
    path.symlink_to(path.with_name("nowhere"))


def put_fifo(path):
    os.mkfifo(path)


def put_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)  # its name must be short
        try:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def put_directory(path):
    path.mkdir()


def put_device(path):
    if os.geteuid() != 0:
        pytest.skip("only root can make a device")
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


KINDS = {
    "a link": put_link,
    "a link ": put_dangling_link,
    "a fifo": put_fifo,
    "a socket": put_socket,
    "a directory": put_directory,
    "a device": put_device,
}
each_kind = pytest.mark.parametrize("kind", KINDS)

STATUS_FILES = [
    *("toprocess", "added", "finished", "failed", "timeline.json", "attempts.tsv"),
    *("fingerprint.json", "result.json", "drain", "begun-in", "toprocess.feedbeef.1"),
]


def put(kind, path):
    KINDS[kind](path)
    return kind.strip()


def open_workdir(root):
    """As a start does."""
    return FileStore.open(str(root), TASKS, FakeLock(), "feedbeef")


@each_kind
@pytest.mark.parametrize("name", STATUS_FILES)
def test_a_start_tells_what_stands_in_place_of_a_file(tmp_path, name, kind):
    what = put(kind, tmp_path / name)
    with pytest.raises(FarmError, match=f"{name} can't be used: it is {what}") as told:
        open_workdir(tmp_path)
    assert told.value.exit_status == 2
    assert not (tmp_path / "claims").exists()


def test_what_a_link_leads_to_is_not_to_be_removed(tmp_path):
    put_link(tmp_path / "finished")
    with pytest.raises(UnfitFileError, match="put the file itself in its place"):
        open_workdir(tmp_path)


@each_kind
@pytest.mark.parametrize("name", ["logs", "claims"])
def test_a_start_tells_what_stands_in_place_of_a_directory(tmp_path, name, kind):
    if kind == "a directory":
        return
    put(kind, tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is not a directory"):
        open_workdir(tmp_path)


@each_kind
def test_a_start_tells_what_stands_in_place_of_the_lock(tmp_path, kind):
    what = put(kind, tmp_path / "lock")
    with pytest.raises(InputError, match=f"lock .*is (not a regular file \\()?{what}"):
        WorkdirLock(lock_paths(str(tmp_path), {}, None)).probe()


def test_a_lock_in_the_workdir_that_turns_into_a_link_is_not_followed(tmp_path):
    (path,) = lock_paths(str(tmp_path), {}, None)
    os.symlink(tmp_path / "victim", path)
    with pytest.raises(StorageError, match="is a link"):
        WorkdirLock([path]).acquire(1.0)
    assert not (tmp_path / "victim").exists()


OPENERS: dict[str, Callable[[str], object]] = {
    "find_content": files.find_content,
    "find_rest": lambda path: files.find_rest(path, 1),
    "find_version": file_contents.find_version,
    "find_size": files.find_size,
    "find": file_contents.find_state,
    "find_last_line": file_contents.find_last_line,
    "append": lambda path: files.append(path, b"x\n", sync=False),
    "write_again": lambda path: files.write_again(path, 0, b"x"),
    "write_tail": lambda path: files.write_tail(path, 0, (b"x",), b""),
    "cut_back": lambda path: files.cut_back(path, 0, b""),
    "write_staging_file": lambda path: files.write_staging_file(path, (b"x",)),
}


@each_kind
@pytest.mark.parametrize("name", OPENERS)
def test_what_gets_there_later_is_told_by_whoever_opens_it(tmp_path, name, kind):
    what = put(kind, tmp_path / "it")
    with pytest.raises(UnfitFileError, match=f"it is {what}"):
        OPENERS[name](str(tmp_path / "it"))
    victim = tmp_path / "victim"
    assert not victim.exists() or victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_is_emptied_is_no_other_file(tmp_path):
    put_link(tmp_path / "it")
    files.truncate(str(tmp_path / "it"))
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_file_with_a_lease_on_it_is_waited_for(tmp_path, monkeypatch):
    path, real_open = tmp_path / "it", os.open
    path.write_text("x")

    def refuse(name, flags, *mode):
        if flags & os.O_NONBLOCK:
            raise BlockingIOError(11, "Resource temporarily unavailable", name)
        return real_open(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    assert files.find_content(str(path)) == b"x"


# ---- logs ---------------------------------------------------------------------------


@each_kind
def test_a_log_that_is_no_file_is_replaced_by_a_fresh_one(tmp_path, kind):
    path = tmp_path / "log_1"
    put(kind, path)
    log = TaskLog(str(path), 1)
    log.write("output")
    log.end()
    assert stat.S_ISREG(path.lstat().st_mode)
    assert path.read_text() == "output"
    victim = tmp_path / "victim"
    assert not victim.exists() or victim.read_text() == "precious"


def test_a_log_that_is_a_second_name_of_a_file_is_replaced(tmp_path):
    (tmp_path / "victim").write_text("precious")
    os.link(tmp_path / "victim", tmp_path / "log_1")
    log = TaskLog(str(tmp_path / "log_1"), 2)
    log.write("output")
    log.end()
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "log_1").read_text() == "output"


def test_the_command_gets_a_log_that_blocks_as_files_do(tmp_path):
    for _ in range(2):
        log = TaskLog(str(tmp_path / "log_1"), 1)
        assert os.get_blocking(log.fileno())
        log.end()


def test_a_directory_in_place_of_a_log_is_kept_beside(tmp_path):
    (tmp_path / "log_1").mkdir()
    (tmp_path / "log_1" / "mine").write_text("precious")
    TaskLog(str(tmp_path / "log_1"), 1).end()
    (kept,) = tmp_path.glob("log_1.before-*")
    assert (kept / "mine").read_text() == "precious"


@each_kind
def test_a_log_that_is_no_file_is_told_to_who_wants_to_read_it(tmp_path, kind):
    what = put(kind, tmp_path / "log_1")
    with pytest.raises(OddFileError, match=f"it is {what}"):
        find_outputs(str(tmp_path), 1, split=False)


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("broken", ["log_1", ""])
def test_a_log_is_to_blame_alone_where_another_can_be_made(
    tmp_path, monkeypatch, error, broken
):
    (tmp_path / "log_1").touch()
    real_open = os.open

    def refuse(path, *others):
        if broken in str(path):
            raise OSError(error, os.strerror(error), path)
        return real_open(path, *others)

    monkeypatch.setattr(os, "open", refuse)
    assert blames_one_task(str(tmp_path / "log_1")) == bool(broken)
    assert os.listdir(tmp_path) == ["log_1"]
    assert not blames_one_task(str(tmp_path / "log_2"))


# ---- the end of a log ---------------------------------------------------------------


@pytest.fixture
def log(tmp_path):
    log = TaskLog(str(tmp_path / "log_1"), 1)
    os.write(log.fileno(), b"there\n")
    yield log
    log.end()


@contextmanager
def files_that_are_full():
    """No file takes more than 6 bytes: neither do those to which pytest writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "act",
    [
        lambda log: log.end(),
        lambda log: log.close(),
        lambda log: log.__exit__(None, None, None),
        lambda log: log.append_own_line("it failed"),
        lambda log: log.append_killed_line(9),
    ],
    ids=["end", "close", "with", "a line of ours", "killed"],
)
def test_what_can_not_be_written_at_the_end_of_a_log_raises_nothing_and_is_told(
    log, act
):
    with files_that_are_full():
        log.write("last words of a runner")
        act(log)
        log.end()
    assert log.trouble == f"can't write the end of {log.name}: File too large"


def test_what_could_not_be_written_gets_into_no_later_file(log, tmp_path):
    with files_that_are_full():
        log.write("last words")
        log.end()
    other = TaskLog(str(tmp_path / "log_2"), 1)
    gc.collect()
    other.end()
    assert (tmp_path / "log_2").read_bytes() == b""


# ---- what the user names ------------------------------------------------------------


@each_kind
def test_a_tasklist_that_is_no_file_is_told(tmp_path, kind):
    if "link" in kind:
        return
    what = put(kind, tmp_path / "list")
    with pytest.raises(InputError, match=f"it is {what}[;,] .*(a|the) file"):
        open_tasklist(
            HandlerDefinition(), str(tmp_path / "list"), "workdir", lambda: lambda: None
        )


def test_a_tasklist_may_be_a_pipe_of_the_shells():
    reader, writer = os.pipe()
    os.write(writer, b"true\nfalse\n")
    os.close(writer)
    tasks = open_tasklist(
        HandlerDefinition(), f"/dev/fd/{reader}", "workdir", lambda: lambda: None
    )
    os.close(reader)
    assert list(tasks.tasks) == ["true", "false"]


def test_a_tasklist_may_be_a_link(tmp_path):
    put_link(tmp_path / "list")
    tasks = open_tasklist(
        HandlerDefinition(), str(tmp_path / "list"), "workdir", lambda: lambda: None
    )
    assert list(tasks.tasks) == ["precious"]


@each_kind
def test_an_ini_file_that_is_no_file_is_told(tmp_path, kind):
    if "link" in kind:
        return
    what = put(kind, tmp_path / "my.ini")
    places = SearchPath(str(tmp_path), str(tmp_path), config=str(tmp_path / "my.ini"))
    with pytest.raises(InputError, match=f"my.ini: it is {what}"):
        find_runner("mine", places)


def test_an_ini_file_in_the_way_of_others_holds_nobody_up(tmp_path):
    home = tmp_path / "mpifarm"
    home.mkdir()
    os.mkfifo(home / "a.ini")
    places = SearchPath(str(tmp_path), str(tmp_path))
    with pytest.raises(InputError, match=r"a\.ini: it is a fifo"):
        find_runner("mine", places)


# ---- directories --------------------------------------------------------------------


def test_logs_may_be_a_link_of_our_own(tmp_path):
    (tmp_path / "scratch").mkdir()
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    (workdir / "logs").symlink_to(tmp_path / "scratch")
    validate_access(WorkdirPaths(str(workdir)))


def test_only_what_is_a_file_is_truncated(tmp_path):
    put_link(tmp_path / "it")
    with pytest.raises(OddFileError):
        open_regular(str(tmp_path / "it"), os.O_WRONLY | os.O_TRUNC)
    assert (tmp_path / "victim").read_text() == "precious"
