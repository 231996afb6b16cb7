"""Standard input as a list: what gets into the workdir, and when."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.errors import FutileError, InputError, StorageError
from mpifarm.farm import standard_input
from mpifarm.farm.standard_input import (
    NO_LINE,
    InputFeed,
    KeptInput,
    NoArgumentError,
    is_standard_input,
    keep_all,
    keep_list,
    open_list,
    read_all,
    take_back,
    take_standard_input,
)
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Arguments, ArgumentSource, Settings
from mpifarm.system import files
from mpifarm.system.file_contents import Version, find_version


class Pipe:
    """A pipe with both its ends."""

    def __init__(self) -> None:
        self.out, self._in = os.pipe()
        self._is_open = True

    def write(self, text: str) -> None:
        os.write(self._in, text.encode())

    def end(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._in)


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.end()
    os.close(pipe.out)


@pytest.fixture
def paths(tmp_path):
    return WorkdirPaths(str(tmp_path))


@pytest.fixture
def feed(pipe, paths):
    open_list(paths)
    return InputFeed(paths.stdin_list, told.append, pipe.out)


class Lock:
    """The lock of the workdir; `is_free` says whether it can be had."""

    def __init__(self) -> None:
        self.is_free = True
        self.is_held = False

    def try_acquire(self) -> bool:
        assert not self.is_held
        self.is_held = self.is_free
        return self.is_held

    def release(self) -> None:
        self.is_held = False


@pytest.fixture
def lock():
    lock = Lock()
    yield lock
    assert not lock.is_held


told: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_told():
    told.clear()


def content(paths: WorkdirPaths) -> str:
    with open(paths.stdin_list) as stream:
        return stream.read()


def append(paths: WorkdirPaths, text: str) -> None:
    with open(paths.stdin_list, "a") as stream:
        stream.write(text)


# ---- as it comes --------------------------------------------------------------------


def test_whole_lines_get_into_the_list_as_they_come(pipe, feed, paths, lock):
    assert not feed.step(1.0, lock)
    pipe.write("one\ntw")
    assert feed.step(2.0, lock)
    assert content(paths) == "one\n"
    pipe.write("o\n\nthree\n")
    assert feed.step(3.0, lock)
    assert content(paths) == "one\ntwo\n\nthree\n"
    assert not feed.has_ended


def test_the_last_line_needs_no_newline(pipe, feed, paths, lock):
    pipe.write("one\ntwo")
    pipe.end()
    feed.step(1.0, lock)
    assert feed.has_ended
    assert content(paths) == "one\ntwo\n"
    assert not feed.step(2.0, lock)


@pytest.mark.parametrize("before", ["", "one\n"])
def test_an_input_without_a_line_is_told_unless_the_list_has_some(
    pipe, feed, paths, lock, before
):
    append(paths, before)
    pipe.end()
    feed.step(1.0, lock)
    assert feed.has_ended
    assert told == ([] if before else [NO_LINE])


def test_an_input_that_is_busy_is_looked_at_more_often(pipe, feed, lock):
    feed.step(1.0, lock)
    assert feed.look_at == pytest.approx(1.0 + standard_input.IDLE_SECONDS)
    assert not feed.step(1.05, lock)
    pipe.write("one\n")
    feed.step(1.2, lock)
    assert feed.look_at == pytest.approx(1.2 + standard_input.EAGER_SECONDS)


def test_one_step_reads_no_more_than_so_many_parts(
    pipe, feed, paths, monkeypatch, lock
):
    monkeypatch.setattr(standard_input, "PART", 4)
    monkeypatch.setattr(standard_input, "PARTS", 2)
    pipe.write("one\ntwo\nthree\n")
    feed.step(1.0, lock)
    assert content(paths) == "one\ntwo\n"
    feed.step(2.0, lock)
    assert content(paths) == "one\ntwo\nthree\n"


def test_lines_wait_for_the_lock_and_are_appended_under_it(
    pipe, feed, paths, lock, monkeypatch
):
    real = files.append_beside_others

    def append(*args: Any, **named: Any) -> None:
        assert lock.is_held
        real(*args, **named)

    monkeypatch.setattr("mpifarm.system.files.append_beside_others", append)
    lock.is_free = False
    pipe.write("one\n")
    assert not feed.step(1.0, lock)
    assert feed.look_at < 1.01
    pipe.write("two\n")
    pipe.end()
    assert not feed.step(1.1, lock)
    assert not feed.has_ended
    assert content(paths) == ""
    lock.is_free = True
    assert feed.step(1.2, lock)
    assert feed.has_ended
    assert content(paths) == "one\ntwo\n"


def test_lines_that_come_all_the_time_leave_the_lock_to_others(pipe, feed, paths, lock):
    pipe.write("one\n")
    assert feed.step(1.0, lock)
    pipe.write("two\n")
    assert not feed.step(1.02, lock)
    pipe.write("three\n")
    assert not feed.step(1.04, lock)
    assert feed.step(1.0 + standard_input.APPEND_SECONDS, lock)
    assert content(paths) == "one\ntwo\nthree\n"


def test_no_more_is_read_than_so_much_while_the_lock_is_with_others(
    pipe, feed, paths, lock, monkeypatch
):
    monkeypatch.setattr(standard_input, "PART", 4)
    monkeypatch.setattr(standard_input, "PARTS", 2)
    lock.is_free = False
    lines = "".join(f"{letter}\n" for letter in "abcdefghijkl")
    pipe.write(lines)
    for number in range(5):
        feed.step(1.0 + number, lock)
    lock.is_free = True
    assert feed.step(10.0, lock)
    assert content(paths) == lines[:16]
    assert feed.step(11.0, lock)
    assert content(paths) == lines


def test_a_disk_that_is_full_costs_no_line_and_is_told_once(
    pipe, feed, paths, monkeypatch, lock
):
    real = files.append_beside_others
    fails = [StorageError("the disk is full")] * 2

    def append(*args: Any, **named: Any) -> None:
        if fails:
            raise fails.pop()
        real(*args, **named)

    monkeypatch.setattr("mpifarm.system.files.append_beside_others", append)
    pipe.write("one\n")
    assert not feed.step(1.0, lock)
    pipe.write("two\n")
    pipe.end()
    assert not feed.step(1.5, lock)
    assert not feed.step(2.1, lock)
    assert not feed.has_ended
    assert feed.step(3.2, lock)
    assert feed.has_ended
    assert content(paths) == "one\ntwo\n"
    assert told == ["the disk is full; trying again"]


def test_a_line_that_others_append_meanwhile_is_not_written_over(
    pipe, feed, paths, monkeypatch, lock
):
    real = os.pwrite

    def write(*args: Any) -> int:
        monkeypatch.setattr("os.pwrite", real)
        append(paths, "theirs\n")
        return real(*args)

    pipe.write("one\n")
    feed.step(1.0, lock)
    monkeypatch.setattr("os.pwrite", write)
    pipe.write("two\n")
    assert feed.step(2.0, lock)
    assert content(paths) == "one\ntheirs\ntwo\n"


def test_after_a_failure_what_is_in_the_list_already_is_not_written_again(
    pipe, feed, paths, monkeypatch, lock
):
    real = os.pwrite

    def write(descriptor: int, lines: memoryview, place: int) -> int:
        if place == 4:
            real(descriptor, lines[:6], place)
            append(paths, "\ntheirs\n")
        monkeypatch.setattr("os.pwrite", real)
        raise OSError(28, "No space left on device")

    pipe.write("one\n")
    feed.step(1.0, lock)
    monkeypatch.setattr("os.pwrite", write)
    pipe.write("two\nthree\n")
    assert not feed.step(2.0, lock)
    assert content(paths) == "one\ntwo\nth\ntheirs\n"
    pipe.write("four\n")
    assert feed.step(4.0, lock)
    assert content(paths) == "one\ntwo\nth\ntheirs\nthree\nfour\n"


def test_a_torn_line_of_others_swallows_none(pipe, feed, paths, monkeypatch, lock):
    def fail(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    append(paths, "the")
    pipe.write("one\n")
    with monkeypatch.context() as full:
        full.setattr("os.pwrite", fail)
        assert not feed.step(1.0, lock)
    assert feed.step(3.0, lock)
    append(paths, "irs")
    pipe.write("two\n")
    assert feed.step(4.0, lock)
    assert content(paths) == "the\none\nirs\ntwo\n"


def test_an_input_that_cannot_be_read_has_ended(feed, monkeypatch, lock):
    def fail(*_: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(standard_input, "is_readable", lambda _: True)
    monkeypatch.setattr("os.read", fail)
    feed.step(1.0, lock)
    assert feed.has_ended
    assert told[0] == "can't read standard input any more (Input/output error)"


@pytest.mark.parametrize(
    ("before", "after"),
    [("one\ntwo\n", "one\ntwo\n"), ("one\ntw", "one\n"), ("tw", ""), ("", "")],
)
def test_a_line_that_a_kill_has_torn_is_taken_out_of_the_list(paths, before, after):
    with open(paths.stdin_list, "w") as stream:
        stream.write(before)
    open_list(paths)
    assert content(paths) == after


# ---- to its end ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        ("", "one\ntwo", "one\ntwo\n"),
        ("one\n", "one\ntwo\n", "one\ntwo\n"),
        ("one\ntwo\n", "one\n", "one\ntwo\n"),
        ("one\n", "", "one\n"),
    ],
)
def test_an_input_that_goes_on_with_the_list_is_the_list(
    pipe, paths, before, given, after
):
    open_list(paths)
    with open(paths.stdin_list, "w") as stream:
        stream.write(before)
    pipe.write(given)
    pipe.end()
    keep_all(paths, read_all(lambda: None, pipe.out), lambda _: pytest.fail("another"))
    assert content(paths) == after


def test_an_input_with_other_lines_is_refused_and_the_list_stays(paths):
    append(paths, "one\ntwo\n")
    with pytest.raises(InputError, match="another list than b'one"):
        keep_all(paths, b"two\n", lambda before: f"another list than {before!r}")
    assert content(paths) == "one\ntwo\n"


KEEPER = """\
import sys, time

from mpifarm.errors import InputError
from mpifarm.farm.standard_input import keep_list, open_list
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import Settings

content, opens = sys.argv[1].encode(), sys.argv[2] == "True"


def keep(paths):
    if opens:
        open_list(paths)
    try:
        kept = keep_list(Settings("-", paths.root), {}, content)
    except InputError:
        return "another list"
    except BaseException as error:
        return repr(error)
    return "ok" if kept.written is None else "written"


for line in sys.stdin:
    at, root = line.split()
    while time.monotonic() < float(at):
        pass
    print(keep(WorkdirPaths(root)), flush=True)
"""
"""Keeps a list in each workdir that is given, at the instant that is given with it."""


@pytest.fixture
def start_keepers():
    """Give a function that starts a process for each list, and keeps all at once."""
    keepers: list[subprocess.Popen[str]] = []

    def start(*contents: str, opens: bool) -> Callable[[Path], list[str]]:
        for content in contents:
            command = [sys.executable, "-c", KEEPER, content, str(opens)]
            pipe = subprocess.PIPE
            keepers.append(
                subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            )
        return keep

    def keep(root: Path) -> list[str]:
        root.mkdir(exist_ok=True)
        at = time.monotonic() + 0.002
        for keeper in keepers:
            assert keeper.stdin
            keeper.stdin.write(f"{at} {root}\n")
            keeper.stdin.flush()
        return [keeper.stdout.readline().strip() for keeper in keepers if keeper.stdout]

    yield start
    for keeper in keepers:
        keeper.communicate()


TRIES = 150
"""Workdirs in which two processes keep lists at one instant."""


@pytest.mark.parametrize("opens", [False, True], ids=["arguments", "stdin"])
def test_two_starts_that_make_the_same_list_at_once_share_it(
    tmp_path, start_keepers, opens
):
    keep = start_keepers("one\ntwo\n", "one\ntwo\n", opens=opens)
    for number in range(TRIES):
        root = tmp_path / str(number)
        said = keep(root)
        assert set(said) <= {"ok", "written"}
        assert "written" in said
        assert {*os.listdir(root)} <= {"stdin.txt", "lock"}
        assert (root / "stdin.txt").read_text() == "one\ntwo\n"


def test_of_two_starts_that_make_other_lists_at_once_one_is_refused(
    tmp_path, start_keepers
):
    contents = ["one\ntwo\n", "another, which is longer\n"]
    keep = start_keepers(*contents, opens=False)
    for number in range(TRIES):
        root = tmp_path / str(number)
        said = keep(root)
        assert sorted(said) == ["another list", "written"]
        assert os.listdir(root) == ["stdin.txt"]
        assert (root / "stdin.txt").read_text() == contents[said.index("written")]


def test_of_two_starts_that_lengthen_the_list_at_once_one_is_refused(
    tmp_path, start_keepers
):
    contents = ["one\ntwo\n", "one\nanother, which is longer\n"]
    keep = start_keepers(*contents, opens=False)
    for number in range(TRIES):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "stdin.txt").write_text("one\n")
        said = keep(root)
        assert sorted(said) == ["another list", "written"]
        assert {*os.listdir(root)} == {"stdin.txt", "lock"}
        assert (root / "stdin.txt").read_text() == contents[said.index("written")]


KILLED = """\
import os, signal, sys
from itertools import count

from mpifarm.farm.standard_input import keep_list
from mpifarm.model.settings import Settings

root, content = sys.argv[1], sys.argv[2].encode()
path = os.path.join(root, "stdin.txt")
CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.utime"}


def keep_until(step):
    left = count(step, -1)

    def look(event, given):
        if event in CHANGES and str(given[0]).startswith(root) and not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    keep_list(Settings("-", root), {}, content)


for step in count():
    with open(path, "w") as file:
        file.write(sys.argv[3])
    child = os.fork()
    if not child:
        keep_until(step)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with open(path) as file:
        print(repr(file.read()))
    if not status:
        break
"""
"""Lengthens a list, killed before the first step at a file, then the second, and so on;
the list after each."""


def test_a_start_that_is_killed_while_it_lengthens_the_list_loses_no_line(paths):
    before, after = "one\n", "one\ntwo\n"
    command = [sys.executable, "-c", KILLED, paths.root, after, before]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = told.stdout.splitlines()
    assert len(found) > 5
    assert {*found[:-1]} <= {repr(before), repr(after)}
    assert found[-1] == repr(after)
    assert keep_list(Settings("-", paths.root), {}, after.encode()).written is None
    assert content(paths) == after


@pytest.fixture
def after_reading(paths, monkeypatch):
    """Give a function that has `act` called once, after the list was first read."""

    def after_reading(act: Callable[[], object]) -> None:
        find = files.find_content

        def find_then_act(path: str) -> bytes | None:
            found = find(path)
            if path == paths.stdin_list:
                monkeypatch.setattr(files, "find_content", find)
                act()
            return found

        monkeypatch.setattr(files, "find_content", find_then_act)

    return after_reading


@pytest.mark.parametrize("others", ["one\ntwo\n", "one\ntwo\n3\n", "one\nanother\n"])
def test_what_another_start_has_added_since_the_list_was_read_stays(
    paths, after_reading, others
):
    settings = Settings("-", paths.root)
    append(paths, "one\n")
    after_reading(lambda: keep_list(settings, {}, others.encode()))
    if "another" in others:
        with pytest.raises(InputError, match="other lines"):
            keep_list(settings, {}, b"one\ntwo\n")
    else:
        keep_list(settings, {}, b"one\ntwo\n")
    assert content(paths) == others


def test_a_list_that_another_start_has_mended_meanwhile_stays(
    paths, stdin, after_reading
):
    append(paths, "one\ntw")
    after_reading(lambda: keep_list(Settings("-", paths.root), {}, b"one\ntwo\n3\n"))
    stdin.end()
    take_standard_input(context_of(Settings("-", paths.root)))
    assert content(paths) == "one\ntwo\n3\n"


@pytest.fixture
def lock_at_replacing(paths, monkeypatch):
    """Give whether the lock was held, for each time that the list was replaced."""
    held: list[bool] = []
    put_in_place = files.put_in_place

    def note_lock(path: str, staging: str) -> None:
        with open(paths.lock) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
            else:
                held.append(False)
        put_in_place(path, staging)

    monkeypatch.setattr(files, "put_in_place", note_lock)
    return held


def test_a_list_is_lengthened_and_put_back_under_the_lock(
    paths, stdin, lock_at_replacing
):
    append(paths, "one\n")
    stdin.write("one\ntwo\n")
    stdin.end()
    refuse(Settings("-", paths.root))
    assert content(paths) == "one\n"
    assert lock_at_replacing == [True, True]


def test_a_list_that_was_lengthened_when_it_is_taken_back_stays(paths, monkeypatch):
    settings = Settings("-", paths.root)
    kept = keep_list(settings, {}, b"one\n")
    is_unshared = standard_input.is_unshared

    def lengthen_then(path: str, text: bytes, version: Version) -> bool:
        monkeypatch.setattr(standard_input, "is_unshared", is_unshared)
        found = is_unshared(path, text, version)
        keep_list(settings, {}, b"one\ntwo\n")
        return found

    monkeypatch.setattr(standard_input, "is_unshared", lengthen_then)
    assert not take_back(settings, {}, b"one\n", kept, lambda: False)
    assert content(paths) == "one\ntwo\n"


def test_who_waits_for_the_end_looks_whether_it_is_to_go_on(pipe):
    def check() -> None:
        raise FutileError("a signal")

    pipe.write("one\n")
    with pytest.raises(FutileError):
        read_all(check, pipe.out)


def test_a_closed_input_is_told():
    out, end = os.pipe()
    os.close(end)
    os.close(out)
    with pytest.raises(InputError, match="can't read standard input"):
        read_all(lambda: None, out)


# ---- for a farm ---------------------------------------------------------------------


def context_of(settings: Settings, **environ: str) -> Any:
    from dataclasses import dataclass, field

    @dataclass(frozen=True)
    class Context:
        settings: Settings
        process: Any = field(
            default_factory=lambda: SimpleNamespace(
                environ=environ,
                output=SimpleNamespace(say=told.append),
                signals=SimpleNamespace(any_noted=True),
            )
        )

    return Context(settings)


def test_another_list_is_left_as_it_is(tmp_path):
    context = context_of(Settings("tasks.txt", str(tmp_path / "w")))
    assert take_standard_input(context) == (context, None)
    assert not (tmp_path / "w").exists()


def test_a_file_of_that_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings("-", "w")
    assert is_standard_input(settings)
    (tmp_path / "-").touch()
    assert not is_standard_input(settings)


@pytest.fixture
def stdin(pipe, monkeypatch):
    monkeypatch.setattr(standard_input, "STDIN", pipe.out)
    monkeypatch.setattr(read_all, "__defaults__", (pipe.out,))
    return pipe


def test_a_farm_that_follows_gets_a_feed(tmp_path, stdin):
    settings = Settings("-", str(tmp_path / "w"), follow=1.0)
    context, feed = take_standard_input(context_of(settings))
    assert context.settings.tasklist == str(tmp_path / "w" / "stdin.txt")
    assert isinstance(feed, InputFeed)
    assert (tmp_path / "w" / "stdin.txt").read_text() == ""


@pytest.mark.parametrize("typed", [False, True])
def test_who_types_the_list_is_told_how_to_end_it(tmp_path, stdin, monkeypatch, typed):
    monkeypatch.setattr("os.isatty", lambda descriptor: typed)
    stdin.end()
    take_standard_input(context_of(Settings("-", str(tmp_path / "w"))))
    assert told == [standard_input.TYPED] * typed


def test_any_other_has_all_of_it_in_its_list(tmp_path, stdin):
    stdin.write("one\n")
    stdin.end()
    settings = Settings("-", str(tmp_path / "w"))
    context, feed = take_standard_input(context_of(settings))
    assert feed is None
    assert (tmp_path / "w" / "stdin.txt").read_text() == "one\n"
    assert context.settings.tasklist.endswith("stdin.txt")


@pytest.mark.parametrize("follow", [None, 1.0])
def test_the_list_of_a_workdir_that_was_begun_waits_for_the_lock(
    paths, stdin, monkeypatch, follow
):
    monkeypatch.setattr(standard_input, "LOCK_TIMEOUT", 0.01)
    stdin.write("one\n")
    stdin.end()
    settings = Settings("-", paths.root, follow=follow)
    with open(paths.lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="was held by other farmers"):
            take_standard_input(context_of(settings))
    assert not os.path.exists(paths.stdin_list)
    take_standard_input(context_of(settings))
    assert content(paths) == ("one\n" if follow is None else "")


def take_and_refuse(settings: Settings) -> None:
    kept = KeptInput(settings, {})
    with kept.put_back_if_refused():
        take_standard_input(context_of(settings), kept=kept)
        assert (Path(settings.workdir) / "stdin.txt").read_text() == "one\ntwo\n"
        raise InputError("line 2 is wrong")


def refuse(settings: Settings) -> None:
    """Take the input, and refuse it as a list."""
    with pytest.raises(InputError, match="line 2"):
        take_and_refuse(settings)


def take_no_file(settings: Settings) -> None:
    with KeptInput(settings, {}).put_back_if_refused():
        raise InputError("line 1 is wrong")


def test_a_refused_input_is_not_kept(tmp_path, stdin):
    stdin.write("one\ntwo\n")
    stdin.end()
    refuse(Settings("-", str(tmp_path / "w")))
    assert not (tmp_path / "w").exists()


def test_what_was_in_the_workdir_before_a_refused_input_stays(tmp_path, stdin):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "stdin.txt").write_text("one\n")
    stdin.write("one\ntwo\n")
    stdin.end()
    refuse(Settings("-", str(tmp_path / "w")))
    assert (tmp_path / "w" / "stdin.txt").read_text() == "one\n"


def test_the_list_of_a_workdir_that_was_begun_is_never_cut(paths, stdin):
    Path(paths.fingerprint).touch()
    append(paths, "one\n")
    stdin.write("one\ntwo\n")
    stdin.end()
    refuse(Settings("-", paths.root))
    assert content(paths) == "one\ntwo\n"


def test_a_workdir_that_was_begun_with_another_list_keeps_no_input(paths, stdin):
    Path(paths.fingerprint).touch()
    stdin.write("one\ntwo\n")
    stdin.end()
    refuse(Settings("-", paths.root))
    assert os.listdir(paths.root) == ["fingerprint.json"]


def test_the_list_of_a_workdir_that_another_farm_has_begun_meanwhile_stays(paths):
    kept = KeptInput(Settings("-", paths.root), {})
    append(paths, "one\n")
    version = find_version(paths.stdin_list)
    assert version is not None
    kept.note(b"one\n", None, version)
    Path(paths.fingerprint).touch()
    with pytest.raises(InputError), kept.put_back_if_refused():
        raise InputError("line 1 is wrong")
    assert content(paths) == "one\n"


class Start:
    """A start whose list is refused after another start has written the list."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings("-", str(directory / "w"))
        self.list = directory / "w" / "stdin.txt"
        self.kept = KeptInput(self.settings, {})

    def take(self) -> None:
        take_standard_input(context_of(self.settings), kept=self.kept)

    def write(self, text: str) -> None:
        """Write the list, as another start does."""
        self.list.parent.mkdir(exist_ok=True)
        self.list.write_text(text)

    def refuse(self, text: str) -> None:
        with self.kept.put_back_if_refused():
            self.write(text)
            raise InputError("line 2 is wrong")


@pytest.mark.parametrize("before", ["", "one\n"])
def test_the_list_that_another_start_has_written_meanwhile_stays(
    tmp_path, stdin, before
):
    start = Start(tmp_path)
    if before:
        start.write(before)
    stdin.write("one\ntwo\n")
    stdin.end()
    start.take()
    with pytest.raises(InputError):
        start.refuse("one\ntwo\nthree\n")
    assert start.list.read_text() == "one\ntwo\nthree\n"


def share(start: Start, text: str = "one\n") -> None:
    """Go on with the list as another start does that makes the same."""
    keep_list(start.settings, {}, text.encode())


@pytest.mark.parametrize("text", ["one\n", "one\ntwo\n", ""])
def test_the_list_that_another_start_has_found_as_it_is_stays(tmp_path, stdin, text):
    stdin.write("one\ntwo\n")
    stdin.end()
    start = Start(tmp_path)
    start.take()
    before = start.list.stat().st_ino
    share(start, text)
    assert start.list.stat().st_ino == before, "what others append at once stays"
    start.kept.put_back()
    assert start.list.read_text() == "one\ntwo\n"


def test_the_list_of_a_farm_that_follows_stays_for_another_that_follows(tmp_path):
    settings = Settings("-", str(tmp_path / "w"), follow=9.0)
    first, second = KeptInput(settings, {}), KeptInput(settings, {})
    for kept in (first, second):
        take_standard_input(context_of(settings), kept=kept)
    first.put_back()
    assert (tmp_path / "w" / "stdin.txt").exists()
    second.put_back()
    assert (tmp_path / "w" / "stdin.txt").exists()


def test_a_farm_that_follows_takes_back_what_it_has_made(tmp_path):
    for again in (False, True):
        settings = Settings("-", str(tmp_path / "w"), follow=9.0, again=again)
        kept = KeptInput(settings, {})
        take_standard_input(context_of(settings), kept=kept)
        kept.put_back()
        assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_start_that_finds_the_list_at_the_moment_of_its_removal_has_it(
    tmp_path, stdin, monkeypatch, comes_first
):
    stdin.write("one\n")
    stdin.end()
    start = Start(tmp_path)
    start.take()
    rename = files.rename

    def rename_beside(source: str, target: str) -> None:
        monkeypatch.setattr(files, "rename", rename)
        if comes_first:
            share(start)
        rename(source, target)
        if not comes_first:
            share(start)

    monkeypatch.setattr(files, "rename", rename_beside)
    start.kept.put_back()
    assert files.rename is rename
    assert {*os.listdir(start.list.parent)} - {"lock"} == {"stdin.txt"}
    assert start.list.read_text() == "one\n"


def test_a_removal_leaves_what_another_start_is_writing(tmp_path, stdin, monkeypatch):
    monkeypatch.setattr(standard_input, "LOCK_TIMEOUT", 0.01)
    stdin.write("one\n")
    stdin.end()
    start = Start(tmp_path)
    start.take()
    write_staging = files.write_staging_file

    def put_back_first(path: str, blocks: Any, **options: Any) -> None:
        write_staging(path, blocks, **options)
        start.kept.put_back()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write_staging_file", put_back_first)
        share(start, "one\ntwo\n")
    assert start.list.read_text() == "one\ntwo\n"


def test_of_two_inputs_that_end_at_one_instant_one_is_refused(tmp_path, monkeypatch):
    """The other one ends while the first writes its list, in a new workdir."""
    start, other = Start(tmp_path), Start(tmp_path)
    inputs = iter([b"one\n", b"two\n"])
    monkeypatch.setattr(standard_input, "read_all", lambda check: next(inputs))
    write_staging = files.write_staging_file

    def end_other(path: str, blocks: Any, **options: Any) -> None:
        blocks = tuple(blocks)
        if blocks == (b"one\n",):
            other.take()
        write_staging(path, blocks, **options)

    monkeypatch.setattr(files, "write_staging_file", end_other)
    with pytest.raises(InputError, match="other lines"):
        start.take()
    start.kept.put_back()
    assert start.list.read_text() == "two\n"


@pytest.mark.parametrize("is_new", [True, False])
def test_an_input_that_cannot_be_read_leaves_no_new_workdir(
    tmp_path, monkeypatch, is_new
):
    start = Start(tmp_path)
    if not is_new:
        start.list.parent.mkdir()
    directory = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(read_all, "__defaults__", (directory,))
    with (
        pytest.raises(InputError, match="can't read standard input"),
        start.kept.put_back_if_refused(),
    ):
        start.take()
    os.close(directory)
    assert start.list.parent.exists() is not is_new


def test_a_list_that_is_taken_back_while_it_is_shared_is_made_anew(
    tmp_path, stdin, monkeypatch
):
    stdin.write("one\ntwo\n")
    stdin.end()
    start = Start(tmp_path)
    start.take()
    make_younger = files.make_younger

    def take_back_first(path: str, seconds: int) -> bool:
        start.list.unlink(missing_ok=True)
        return make_younger(path, seconds)

    monkeypatch.setattr(files, "make_younger", take_back_first)
    share(start, "one\n")
    assert start.list.read_text() == "one\n"


def test_a_list_that_a_farm_has_begun_keeps_its_time(paths):
    append(paths, "one\n")
    Path(paths.fingerprint).touch()
    before = os.stat(paths.stdin_list).st_mtime_ns
    keep_list(Settings("-", paths.root), {}, b"one\n")
    assert os.stat(paths.stdin_list).st_mtime_ns == before


def test_a_start_that_has_written_nothing_removes_nothing(tmp_path):
    start = Start(tmp_path)
    with pytest.raises(InputError):
        start.refuse("another's\n")
    assert start.list.read_text() == "another's\n"


def test_the_list_that_has_come_while_the_input_was_read_is_put_back(tmp_path, stdin):
    start = Start(tmp_path)
    read_all = standard_input.read_all

    def read_beside(check: Callable[[], None]) -> bytes:
        start.write("one\n")
        return read_all(check, stdin.out)

    stdin.write("one\ntwo\n")
    stdin.end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standard_input, "read_all", read_beside)
        start.take()
    assert start.list.read_text() == "one\ntwo\n"
    start.kept.put_back()
    assert start.list.read_text() == "one\n"


def test_a_refused_list_that_is_a_file_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("one\n")
    with pytest.raises(InputError, match="line 1"):
        take_no_file(Settings("-", "w"))
    assert (tmp_path / "-").read_text() == "one\n"


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("one\n", "one\n"),
        ("", "one\ntwo\n"),
        ("one\ntwo\n3\n", "one\ntwo\n3\n"),
        ("2\n", "2\n"),
    ],
)
def test_a_list_that_begins_again_is_the_one_that_is_given(
    tmp_path, stdin, typed, kept
):
    """The beginning of the list before is another list, and no line is that list."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "stdin.txt").write_text("one\ntwo\n")
    stdin.write(typed)
    stdin.end()
    take_standard_input(context_of(Settings("-", str(tmp_path / "w"), again=True)))
    assert (tmp_path / "w" / "stdin.txt").read_text() == kept


def test_a_signal_ends_the_reading(tmp_path, stdin):
    settings = Settings("-", str(tmp_path / "w"))
    with pytest.raises(FutileError, match="nothing was started"):
        take_standard_input(context_of(settings))


@pytest.mark.parametrize("is_new", [True, False])
def test_a_signal_while_the_input_is_read_leaves_no_new_workdir(
    tmp_path, stdin, is_new
):
    start = Start(tmp_path)
    if not is_new:
        start.list.parent.mkdir()
    with pytest.raises(FutileError), start.kept.put_back_if_refused():
        start.take()
    assert start.list.parent.exists() is not is_new


def test_a_workdir_that_another_start_removes_while_the_input_is_read_is_made_again(
    tmp_path, stdin
):
    start = Start(tmp_path)
    read_all = standard_input.read_all

    def read_beside(check: Callable[[], None]) -> bytes:
        start.list.parent.rmdir()
        return read_all(check, stdin.out)

    stdin.write("one\n")
    stdin.end()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standard_input, "read_all", read_beside)
        start.take()
    assert start.list.read_text() == "one\n"


def test_a_workdir_that_is_removed_just_before_the_list_is_written_is_made_again(
    tmp_path, stdin, monkeypatch
):
    start = Start(tmp_path)
    write_staging_file = files.write_staging_file
    removals = iter([start.list.parent.rmdir, lambda: None])

    def remove_first(*args: Any, **options: Any) -> None:
        next(removals)()
        write_staging_file(*args, **options)

    monkeypatch.setattr(files, "write_staging_file", remove_first)
    stdin.write("one\n")
    stdin.end()
    start.take()
    assert start.list.read_text() == "one\n"


def made_of(path: str, workdir: str) -> Settings:
    source = ArgumentSource((path,), is_file=True)
    return Settings(":::", workdir, arguments=Arguments((), (source,), 2))


@pytest.mark.parametrize("kind", ["a fifo without a writer", "a pipe of the shell"])
def test_a_signal_ends_the_reading_of_arguments(tmp_path, pipe, kind):
    path = f"/dev/fd/{pipe.out}"
    if "fifo" in kind:
        os.mkfifo(path := str(tmp_path / "fifo"))
    with pytest.raises(FutileError, match="stopped by a signal while the list was"):
        take_standard_input(context_of(made_of(path, str(tmp_path / "w"))))
    assert not (tmp_path / "w").exists()


def test_arguments_may_come_from_a_pipe(tmp_path, pipe):
    pipe.write("one\ntwo\n")
    pipe.end()
    settings = made_of(f"/dev/fd/{pipe.out}", str(tmp_path / "w"))
    take_standard_input(context_of(settings))
    assert (tmp_path / "w" / "stdin.txt").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("path", ["-", "a pipe"])
def test_an_empty_list_is_a_list_and_leaves_nothing(tmp_path, stdin, path):
    stdin.end()
    name = path if path == "-" else f"/dev/fd/{stdin.out}"
    for settings in (
        made_of(name, str(tmp_path / "w")),
        Settings("-", str(tmp_path / "w")),
    ):
        kept = KeptInput(settings, {})
        context, _ = take_standard_input(context_of(settings), kept=kept)
        assert Path(context.settings.tasklist).read_text() == ""
        kept.put_back()
        assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("kind", ["a file", "a pipe"])
def test_an_empty_file_of_arguments_is_not_the_list_of_another_command(
    tmp_path, pipe, kind
):
    pipe.end()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "stdin.txt").write_text("echo a\n")
    (tmp_path / "empty").touch()
    named = str(tmp_path / "empty") if kind == "a file" else f"/dev/fd/{pipe.out}"
    context = context_of(made_of(named, str(tmp_path / "w")))
    if kind == "a file":
        with pytest.raises(NoArgumentError, match="there are no tasks"):
            take_standard_input(context)
    else:  # an earlier start may have read it
        found, _ = take_standard_input(context)
        assert Path(found.settings.tasklist).read_text() == "echo a\n"
    assert (tmp_path / "w" / "stdin.txt").read_text() == "echo a\n"


def test_a_farm_that_follows_may_begin_with_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    settings = made_of(str(tmp_path / "empty"), str(tmp_path / "w"))
    settings = replace(settings, follow=1.0)
    context, _ = take_standard_input(context_of(settings))
    assert Path(context.settings.tasklist).read_text() == ""


def test_a_list_that_another_process_has_filled_meanwhile_stays(tmp_path, pipe):
    pipe.end()
    settings = made_of(f"/dev/fd/{pipe.out}", str(tmp_path / "w"))
    kept = KeptInput(settings, {})
    context, _ = take_standard_input(context_of(settings), kept=kept)
    Path(context.settings.tasklist).write_text("true\n")
    kept.put_back()
    assert Path(context.settings.tasklist).read_text() == "true\n"


def test_an_empty_list_is_told_by_what_makes_it():
    told_of = standard_input.describe_no_tasks
    assert told_of(made_of("empty", "w")).endswith("behind :::: is empty")
    assert NO_LINE in told_of(Settings("-", "w"))
    assert told_of(Settings("list", "w")) == "list has no tasks"
    has_lines = partial(told_of, has_lines=True)
    assert has_lines(made_of("f", "w")).endswith("that the arguments make is empty")
    assert "none of its lines is a task" in has_lines(Settings("-", "w"))
    assert has_lines(Settings("list", "w")) == "list has no tasks"


def test_only_the_first_of_a_launch_reads(tmp_path, stdin):
    settings = Settings("-", str(tmp_path / "w"), follow=1.0)
    context, feed = take_standard_input(context_of(settings), takes_over=True)
    assert feed is None
    context, feed = take_standard_input(context_of(settings, PMI_RANK="1"))
    assert feed is None
    assert context.settings.tasklist.endswith("stdin.txt")


# ---- what a step leaves alone --------------------------------------------------------


def test_an_input_that_has_ended_is_not_read_again(pipe, feed, lock, monkeypatch):
    pipe.end()
    feed.step(1.0, lock)
    monkeypatch.setattr(feed, "_read", None)
    assert not feed.step(9e9, lock)


def test_a_step_before_its_time_reads_nothing(pipe, feed, paths, lock):
    feed.step(1.0, lock)
    pipe.write("one\n")
    assert not feed.step(feed.look_at - 0.001, lock)
    assert content(paths) == ""
    assert feed.step(feed.look_at, lock)


def test_without_a_whole_line_the_lock_is_left_to_others(pipe, feed, lock, monkeypatch):
    monkeypatch.setattr(lock, "try_acquire", None)
    assert not feed.step(1.0, lock)
    pipe.write("tw")
    assert not feed.step(2.0, lock)
    assert feed.look_at > 2.0


def test_lines_that_wait_for_their_time_are_looked_at_then(pipe, feed, paths, lock):
    pipe.write("one\n")
    assert feed.step(1.0, lock)
    feed._append_at = 50.0
    pipe.write("two\n")
    assert not feed.step(10.0, lock)
    assert feed.look_at < 50.0, "more may come meanwhile"
    assert not feed.step(49.99, lock)
    assert feed.look_at == 50.0
    assert feed.step(50.0, lock)
    assert content(paths) == "one\ntwo\n"
