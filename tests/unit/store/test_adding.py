"""``mpifarm add``: a kill at any write loses no line of the list and doubles none."""

import json
import os
from contextlib import suppress

import pytest

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import adding
from mpifarm.store.adding import Adding, ListEnd
from mpifarm.system import files
from tests.unit.store_fakes import Killed, full_disk, interference

COMMANDS = [b"echo three", b"echo four"]


class Place:
    """A list in a directory, and its workdir."""

    def __init__(self, root, content: str) -> None:
        root.mkdir()
        self.tasklist = root / "tasks.txt"
        self.tasklist.write_text(content)
        workdir = root / "tasks.txt_workdir"
        workdir.mkdir()
        self.paths = WorkdirPaths(str(workdir))

    def compose(self, after: str = "", commands: list[bytes] = COMMANDS) -> Adding:
        end = ListEnd(str(self.tasklist))
        end.read()
        return adding.compose(end, commands, after)

    def add(self, commands: list[bytes] = COMMANDS) -> None:
        """Add as the command does."""
        before = adding.find_unfinished(self.paths, str(self.tasklist))
        if before is not None:
            adding.finish(before)
            if before.is_like(self.compose(commands=commands)):
                adding.forget(self.paths)
                return
        adding.add(self.paths, self.compose(commands=commands))
        adding.forget(self.paths)

    def append(self, text: str) -> None:
        with self.tasklist.open("a") as stream:
            stream.write(text)

    @property
    def lines(self) -> list[str]:
        return [*self.tasklist.read_text().splitlines()]

    @property
    def is_adding(self) -> bool:
        return os.path.exists(self.paths.adding)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place", "one\ntwo\n")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_lines_are_appended_and_their_ids_follow_the_lists(place):
    found = place.compose()
    assert (found.first, found.number, found.begin) == (2, 2, 8)
    place.add()
    assert place.lines == ["one", "two", "echo three", "echo four"]
    assert not place.is_adding


def test_each_task_that_waits_for_others_has_its_directive(place):
    content = place.compose(after="0-1").content
    assert content == b"#AFTER 0-1\necho three\n#AFTER 0-1\necho four\n"


@pytest.mark.parametrize(
    ("content", "first", "begins"),
    [
        ("one\ntwo", 2, b"\n"),
        ("one\n# a comment", 1, b"\n"),
        ("one\n\n", 1, b"echo"),
        ("", 0, b"echo"),
        ("one\r\ntwo\r\n", 2, b"echo"),
        ("one\rtwo\r", 2, b"\n"),
    ],
)
def test_a_last_line_without_a_newline_is_ended_first(tmp_path, content, first, begins):
    place = Place(tmp_path / "place", content)
    found = place.compose()
    assert found.first == first
    assert found.content.startswith(begins)
    place.add()
    end = ListEnd(str(place.tasklist))
    end.read()
    assert end.total == first + 2
    assert [*end.reader.texts][-2:] == ["echo three", "echo four"]


def test_the_end_of_a_list_is_read_on(place, monkeypatch):
    monkeypatch.setattr(adding, "PART", 3)
    end = ListEnd(str(place.tasklist))
    end.read()
    assert end.total == 2
    place.append("#AFTER 0\nthree\nfo")
    end.read()
    assert (end.total, end.rest) == (4, b"fo")
    place.append("ur\n")
    end.read()
    assert (end.total, end.rest) == (4, b"")
    other = place.tasklist.with_name("other")
    other.write_text("only this\nand this\nand many more\nof these\nbut\nfour\n6\n")
    other.rename(place.tasklist)
    end.read()
    assert end.total == 7
    place.tasklist.write_text("short\n")
    end.read()
    assert end.total == 1


def test_a_list_that_is_gone_is_no_end(place):
    place.tasklist.unlink()
    with pytest.raises(FileNotFoundError):
        ListEnd(str(place.tasklist)).read()


# ---- kills --------------------------------------------------------------------------


def killed_at(place: Place, monkeypatch, at: int, *, half: bool) -> bool:
    """Add, and be killed at a step; whether it came so far."""
    with interference(monkeypatch, at, Killed(), half=half):
        try:
            place.add()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("content", ["one\ntwo\n", "one\ntwo"])
@pytest.mark.parametrize("who", ["the same", "another", "a farm"])
def test_an_adder_that_is_killed_at_any_step_has_added_all_once_the_next_has(
    tmp_path, monkeypatch, half, content, who
):
    for at in range(1, 50):
        place = Place(tmp_path / f"{at}", content)
        struck = killed_at(place, monkeypatch, at, half=half)
        expected = ["one", "two", "echo three", "echo four"]
        was_adding = place.is_adding
        if who == "a farm":
            adding.finish_at_start(place.paths, str(place.tasklist))
            assert place.lines in (expected, ["one", "two"])
        if struck and who != "another":
            place.add()  # the user gives the same command again
        elif who == "another":
            place.add([b"another"])
            if struck and not was_adding:  # it had not begun, or had told its ids
                assert place.lines in (
                    [*expected[:2], "another"],
                    [*expected, "another"],
                )
                continue
            expected = [*expected, "another"]
        assert place.lines == expected, at
        assert not place.is_adding
        if not struck:
            assert at > 6
            return
    pytest.fail("the adder never came to its end")


def test_a_second_kill_while_the_first_is_mended_changes_nothing(tmp_path, monkeypatch):
    for at in range(1, 50):
        struck, again = True, 0
        struck_again = True
        while struck_again:
            again += 1
            place = Place(tmp_path / f"{at} {again}", "one\ntwo\n")
            struck = killed_at(place, monkeypatch, at, half=True)
            if not struck:
                return
            struck_again = killed_at(place, monkeypatch, again, half=True)
            if struck_again:
                place.add()
            assert place.lines == ["one", "two", "echo three", "echo four"]
    pytest.fail("the adder never came to its end")


def test_a_disk_that_is_full_at_any_step_leaves_the_list_as_it_was(
    tmp_path, monkeypatch
):
    for at in range(1, 50):
        place = Place(tmp_path / f"{at}", "one\ntwo\n")
        failed = False
        with interference(monkeypatch, at, full_disk(), half=True):
            try:
                place.add()
            except StorageError:
                failed = True
        if not failed:
            return
        whole = ["one", "two", "echo three", "echo four"]
        assert place.lines in (["one", "two"], whole)
        place.add()
        assert place.lines == whole
    pytest.fail("the adder never came to its end")


@pytest.mark.parametrize("written", [b"", b"echo th"])
def test_what_a_full_disk_does_not_take_back_is_brought_to_its_end(
    place, monkeypatch, written
):
    def fail(path: str, _: bytes) -> None:
        with open(path, "ab") as stream:
            stream.write(written)
        raise StorageError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "append_beside_others", fail)
        with pytest.raises(StorageError):
            adding.add(place.paths, place.compose())
    assert place.is_adding == bool(written)
    adding.finish_at_start(place.paths, str(place.tasklist))
    whole = ["one", "two", "echo three", "echo four"]
    assert place.lines == (whole if written else whole[:2])


def test_lines_that_others_append_behind_a_torn_one_cost_none_that_was_whole(
    place, monkeypatch
):
    found = place.compose()
    content = adding.encode_adding(found)
    with open(place.paths.adding, "wb") as stream:
        stream.write(content)
    place.append("echo three\necho fo")
    place.append("more\n")
    before = adding.find_unfinished(place.paths, str(place.tasklist))
    assert before is not None
    assert adding.finish(before) == [2, 4]
    assert place.lines == ["one", "two", "echo three", "echo fomore", "echo four"]


def test_lines_that_others_append_in_front_shift_the_ids_and_double_nothing(place):
    found = place.compose()
    place.append("more\n# a comment\n\n")  # after the adder has read the list
    adding.add(place.paths, found)
    assert adding.find_ids(found) == [3, 4]
    assert adding.finish(found) == [3, 4]
    assert place.lines[-2:] == ["echo three", "echo four"]
    assert len(place.lines) == 7


def test_a_torn_line_behind_those_of_others_is_brought_to_its_end(place):
    found = place.compose()
    place.append("more\necho three\nagain\necho fo")
    assert adding.finish(found) == [3, 5]
    assert place.lines[2:] == ["more", "echo three", "again", "echo four"]


def test_a_directive_that_others_have_got_is_written_again(place):
    found = place.compose(after="0")
    place.append("#AFTER 0\nmore\n")
    assert adding.finish(found) == [3, 4]
    whole = ["#AFTER 0", "echo three", "#AFTER 0", "echo four"]
    assert place.lines[2:] == ["#AFTER 0", "more", *whole]


def test_nothing_is_added_to_a_list_that_is_shorter_by_now_or_gone(place):
    found = place.compose()
    place.tasklist.write_text("one\n")
    assert adding.finish(found) == [2, 3]
    assert place.lines == ["one"]
    place.tasklist.unlink()
    assert adding.finish(found) == [2, 3]
    assert not place.tasklist.exists()


def test_others_that_append_meanwhile_lose_nothing_if_the_disk_is_full(
    place, monkeypatch
):
    found = place.compose()

    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def pwrite(self, descriptor, content, offset):
            os.write(descriptor, content[:5])
            place.append("more\n")
            raise full_disk()

    monkeypatch.setattr(files, "os", Full())
    with pytest.raises(StorageError):
        files.append_beside_others(found.path, found.content)
    assert place.tasklist.read_text() == "one\ntwo\necho more\n"


def test_lines_that_the_user_takes_out_again_are_brought_back_by_no_start(place):
    adding.add(place.paths, place.compose())  # killed before the ids were told
    adding.finish_at_start(place.paths, str(place.tasklist))
    assert place.is_adding
    place.tasklist.write_text("one\ntwo\n")
    adding.finish_at_start(place.paths, str(place.tasklist))
    assert place.lines == ["one", "two"]
    assert not place.is_adding
    place.add()
    assert place.lines == ["one", "two", *map(bytes.decode, COMMANDS)]


def test_nothing_is_finished_in_a_list_that_was_edited_since(place):
    adding.add(place.paths, place.compose())
    place.tasklist.write_text("uno\ndue\ntre\n")
    adding.finish_at_start(place.paths, str(place.tasklist))
    assert place.lines == ["uno", "due", "tre"]
    assert not place.is_adding


def test_a_list_that_is_gone_may_come_back(place):
    adding.add(place.paths, place.compose())
    place.tasklist.unlink()
    assert adding.find_unfinished(place.paths, str(place.tasklist)) is not None
    assert place.is_adding


def test_the_end_of_a_long_list_is_enough_to_know_it(tmp_path, monkeypatch):
    monkeypatch.setattr(adding, "HASHED", 4)
    place = Place(tmp_path / "place", "one\ntwo\n")
    adding.add(place.paths, place.compose())
    place.tasklist.write_text("uno\ntwo\necho three\n")
    adding.finish_at_start(place.paths, str(place.tasklist))
    assert place.lines == ["uno", "two", "echo three", "echo four"]


# ---- the file ``adding`` ------------------------------------------------------------


def test_what_is_encoded_is_parsed_again():
    found = Adding("/a/\udcff list", 7, 1, 2, b"\necho \xff\n#AFTER 0\nx\n", "f0")
    for each in (found, found._replace(is_done=True)):
        assert adding.parse_adding(adding.encode_adding(each)) == each


HEAD = {"format": 1, "list": "/a", "begin": 0, "first": 0, "count": 1, "bytes": 2}
HEAD |= {"before": "", "done": False}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}\n", b"[1]\nx\n", b"\xff\nx\n"),
        *(
            json.dumps(HEAD | wrong).encode() + b"\nx\n"
            for wrong in (
                *({"bytes": 9}, {"format": 2}, {"list": 3}, {"begin": -1}),
                *({"first": "0"}, {"count": 1.5}, {"list": None}, {"before": 1}),
            )
        ),
    ],
)
def test_a_damaged_one_is_none(content, place):
    assert adding.parse_adding(content) is None
    with open(place.paths.adding, "wb") as stream:
        stream.write(content)
    assert adding.find_unfinished(place.paths, str(place.tasklist)) is None
    place.add()
    assert not place.is_adding


def test_what_is_for_another_list_or_of_another_user_is_left_alone(place, monkeypatch):
    adding.add(place.paths, place.compose())
    other = place.tasklist.with_name("other.txt")
    other.write_text("one\n")
    assert adding.find_unfinished(place.paths, str(other)) is None
    link = place.tasklist.with_name("link.txt")
    link.symlink_to(place.tasklist)
    assert adding.find_unfinished(place.paths, str(link)) is not None
    monkeypatch.setattr(files, "find_other_owner", lambda _: "user mallory")
    assert adding.find_unfinished(place.paths, str(place.tasklist)) is None
    with suppress(FileNotFoundError):
        adding.forget(place.paths)
