"""A task's log: what stands in it, whoever writes, and what is no reason to fail."""

import errno
import os
import re

import pytest

from mpifarm.output import task_log
from mpifarm.output.task_log import TaskLog, append_own_line, blames_one_task
from tests.pages import take_block


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log_0"


def test_a_log_that_this_user_may_not_write_is_moved_out_of_the_way(path, monkeypatch):
    path.write_text("another user's\n")
    path.chmod(0o444)

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "no", path)

    monkeypatch.setattr(task_log, "open_regular", refuse)
    log = TaskLog(str(path), 1)
    log.write("own\n")
    log.end()
    (kept,) = path.parent.glob("log_0.before-*")
    assert (kept.read_text(), path.read_text()) == ("another user's\n", "own\n")


def test_what_comes_and_goes_in_its_place_is_an_error_at_last(path, monkeypatch):
    path.write_text("")
    monkeypatch.setattr(task_log, "_find_log", lambda _: None)
    with pytest.raises(OSError, match="comes and goes"):
        TaskLog(str(path), 1)


def test_text_and_what_a_command_writes_keep_their_order(path):
    log = TaskLog(str(path), 1)
    log.write("text\n")
    os.write(log.fileno(), b"command\n")
    log.write("more\n")
    log.append_own_line("a line")
    log.end()
    assert path.read_text() == "text\ncommand\nmore\n=== mpifarm: a line ===\n"


def test_mpifarms_own_lines_begin_at_the_start_of_a_line(path):
    log = TaskLog(str(path), 1)
    log.append_own_line("first")
    log.write("half")
    log.append_killed_line(15)
    log.end()
    assert append_own_line(str(path), "last")
    assert path.read_text().splitlines() == [
        "=== mpifarm: first ===",
        "half",
        "=== mpifarm: killed by signal 15 (SIGTERM) ===",
        "=== mpifarm: last ===",
    ]


def test_a_real_time_signal_has_no_name(path):
    log = TaskLog(str(path), 1)
    log.append_killed_line(40)
    log.end()
    assert path.read_text() == "=== mpifarm: killed by signal 40 ===\n"


def test_a_line_in_a_log_that_is_not_there_is_not_written(path):
    assert not append_own_line(str(path), "a line")
    assert not path.exists()
    assert append_own_line(str(path), "a line", os.O_CREAT)


def test_the_line_before_another_attempt_is_that_of_the_page(path, monkeypatch):
    monkeypatch.setenv("MPIFARM_FARM", "d08798af")
    path.write_text("first\n")
    TaskLog(str(path), 2).end()
    (shown,) = take_block("logs.md", "=== mpifarm: started again").lines
    written = path.read_text()
    (when,), (now,) = map(re.compile(r"\d+-\d+-\d+ [\d:]+").findall, (shown, written))
    here = shown.replace(when, now).replace("n17", os.uname().nodename)
    assert written == f"first\n{here}\n"


@pytest.mark.parametrize(
    ("most", "end"), [(100, b"second\n"), (4, b"ond\n"), (7, b"second\n")]
)
def test_the_end_of_a_log_is_that_of_this_attempt(path, most, end, monkeypatch):
    monkeypatch.setenv("MPIFARM_FARM", "f0")
    path.write_text("first\n")
    log = TaskLog(str(path), 2)
    own_line = path.read_bytes().partition(b"\n")[2]
    assert own_line.startswith(b"=== mpifarm: started again, attempt 2 of farm f0, ")
    os.write(log.fileno(), b"second\n")
    assert log.read_end(most) == (own_line + end)[-most:]
    log.end()


def test_the_first_trouble_is_the_one_that_is_told(path):
    log = TaskLog(str(path), 1)
    log.note_trouble(OSError(errno.ENOSPC, "full"))
    log.note_trouble(ValueError("closed"), "read")
    log.end()
    assert log.trouble == f"can't write the end of {path}: full"


def test_a_log_whose_descriptor_a_runner_has_closed_ends_with_trouble(path):
    log = TaskLog(str(path), 1)
    os.close(log.fileno())
    log.append_own_line("lost")
    log.end()
    assert "Bad file descriptor" in log.trouble


def test_one_log_is_to_blame_if_another_can_be_made_beside_it(path):
    assert not blames_one_task(str(path)), "there is nothing that could be to blame"
    path.mkdir()
    assert blames_one_task(str(path))
    assert [each.name for each in path.parent.iterdir()] == ["log_0"]
    assert not blames_one_task(str(path.parent / "missing" / "log_0"))


def test_a_log_that_takes_no_line_is_not_left_open(path, monkeypatch):
    path.write_text("first\n")

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(task_log, "_write_line", fail)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="full"):
        TaskLog(str(path), 2)
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_what_this_attempt_has_written_is_counted(path):
    path.write_text("before\n")
    log = TaskLog(str(path), 2)
    assert log.output_bytes() == 0
    log.write("12345")
    assert log.output_bytes() == 5
    os.write(log.fileno(), b"678")
    assert log.output_bytes() == 8
    log.end()
    assert log.output_bytes() == 0


def test_a_log_is_a_text_file_for_runners(path):
    with TaskLog(str(path), 1) as log:
        assert not log.isatty()
        assert log.encoding == "utf-8"
        log.writelines(["a\n", "b\udcff\n"])
        with pytest.raises(AttributeError):
            log.__no_such__  # noqa: B018 - asked for alone
    assert path.read_bytes() == b"a\nb\xff\n", "the block flushes it"
    log.end()
    assert log.trouble == ""


# From Python 3.13 on, the end of a file that can't be closed is told, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_text_that_can_not_be_flushed_at_the_end_of_a_block_is_trouble(path):
    with TaskLog(str(path), 1) as log:
        log.write("text")
        os.close(log._fd)
    assert "Bad file descriptor" in log.trouble
    log._fd = -1


def test_the_end_of_a_log_that_can_not_be_read_is_empty(path):
    log = TaskLog(str(path), 1)
    log.write("text\n")
    path.unlink()
    assert log.read_end(10) == b""
    log.end()


def test_a_second_name_of_another_file_gets_no_log(path):
    other = path.with_name("precious")
    other.write_text("precious\n")
    os.link(other, path)
    log = TaskLog(str(path), 1)
    log.write("own\n")
    log.end()
    assert (other.read_text(), path.read_text()) == ("precious\n", "own\n")


def test_what_is_no_file_makes_way_and_a_directory_is_kept(path):
    path.mkdir()
    TaskLog(str(path), 1).end()
    (kept,) = path.parent.glob("log_0.before-*")
    assert kept.is_dir()
    path.unlink()
    path.symlink_to("precious")
    TaskLog(str(path), 1).end()
    assert path.is_file()
    assert not path.is_symlink()
    assert not path.with_name("precious").exists()


def test_what_can_not_make_way_is_told_as_the_first_error(path, monkeypatch):
    path.symlink_to("precious")

    def refuse(_: object) -> None:
        raise PermissionError(errno.EPERM, "second")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(OSError, match="log_0") as caught:
        TaskLog(str(path), 1)
    assert "second" not in str(caught.value)


def test_a_log_that_a_command_writes_to_blocks(path):
    path.write_text("before\n")
    log = TaskLog(str(path), 2)
    assert os.get_blocking(log.fileno())
    log.end()


@pytest.mark.parametrize(
    ("content", "begins"), [("", b"==="), ("half", b"half\n==="), ("a\n", b"a\n===")]
)
def test_an_own_line_never_goes_on_in_the_line_of_a_task(path, content, begins):
    path.write_text(content)
    assert append_own_line(str(path), "a line")
    assert path.read_bytes().startswith(begins)


def test_of_a_log_that_can_not_be_read_the_last_line_may_be_half(path, monkeypatch):
    path.write_text("a\n")

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "no", path)

    monkeypatch.setattr(task_log, "open_regular", refuse)
    with path.open("ab") as log:
        assert not task_log._ends_with_newline(log.fileno(), str(path))
