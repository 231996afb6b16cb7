"""The watch over a list: what it offers, and what it says of an odd list.

Rules of this file: a fake file, and time as an argument.
"""

import os
from collections.abc import Callable

import pytest

from mpifarm.lists import growth
from mpifarm.lists.growth import ODD_SECONDS, ListWatch, Oddity, explain_odd
from mpifarm.order.constraints import Barrier
from mpifarm.tasklists import ListReader, ListTaskList

PATH = "tasks.txt"
LIST = "# a comment\none\n\n  two \n"


class FakeFile:
    """A file that is written by steps; each state has another version."""

    def __init__(self, content: str) -> None:
        self.content: bytes | None = content.encode()
        self.inode = 1
        self.writes = 0
        self.opened = 0
        self.is_open = False
        self.bytes_read = 0
        self.at_read: Callable[[], None] | None = None

    def write(self, content: str) -> None:
        self.content = content.encode()
        self.writes += 1

    def append(self, text: str) -> None:
        assert self.content is not None
        self.write(self.content.decode() + text)

    def replace(self, content: str) -> None:
        self.inode += 1
        self.write(content)

    def remove(self) -> None:
        self.content = None

    def open(self, path: str) -> "FakeFile":
        assert path == PATH
        if self.content is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        self.opened += 1
        return self

    # ---- as an open file ---------------------------------------------------------

    def version(self) -> tuple[int, ...]:
        return 1, self.inode, len(self.content or b""), self.writes

    def read(self, begin: int, length: int) -> bytes:
        if self.at_read is not None:
            self.at_read()
        part = (self.content or b"")[begin : begin + length]
        self.bytes_read += len(part)
        return part

    def close(self) -> None:
        self.opened -= 1


class Watched:
    """A list and its watch, as a farm has them."""

    def __init__(self, content: str = LIST) -> None:
        self.file = FakeFile(content)
        reader = ListReader(PATH)
        if content:
            reader.take(content.encode())
        reader.texts.version = self.file.version()
        self.tasks = ListTaskList.__new__(ListTaskList)
        self.tasks.path = PATH
        self.tasks.tasks = reader.texts
        self.tasks.constraints = reader.constraints
        self.now = 0.0
        self.watch = ListWatch(self.tasks, self.now, self.file.open, lambda: 0.0)

    def look(self, *, seconds: float = 1.0) -> None:
        """Look once, to the end, after so many seconds."""
        self.now += seconds
        self.watch.look(self.now)
        while self.watch.is_reading:
            self.watch.look(self.now)
        assert self.file.opened == 0

    def wait(self) -> None:
        """Look as often as it takes until an odd list is told."""
        for _ in range(int(ODD_SECONDS) + 1):
            self.look()

    def take(self) -> list[str]:
        """Take up what is offered, as a farm does."""
        watch, count = self.watch, self.watch.count
        texts = [*watch.fresh.texts][watch.begin : watch.begin + count]
        self.tasks.tasks.extend(texts)
        self.tasks.constraints.extend(watch.fresh.constraints)
        known = len(self.tasks.tasks)
        watch.fresh.constraints = self.tasks.constraints.cut(known)
        watch.note_taken(count)
        return texts


@pytest.fixture
def watched():
    return Watched()


# ---- lines at the end ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("appended", "offered"),
    [
        ("", []),
        ("three\n", ["three"]),
        ("three\n\n four \n", ["three", "four"]),
        ("three\r\nfour\r\n", ["three", "four"]),
        ("three\nfo", ["three"]),
        ("thr", []),
        ("three\rfo", []),
        ("# a comment\n\n", []),
        ("dr\xfcben\n", ["dr\xfcben"]),
    ],
)
def test_tasks_on_whole_lines_at_the_end_are_offered(watched, appended, offered):
    watched.file.append(appended)
    watched.look()
    assert watched.take() == offered
    watched.look()
    assert watched.watch.count == 0
    assert watched.watch.odd is None


def test_a_line_that_is_appended_in_parts_is_offered_when_it_is_whole(watched):
    taken = []
    for part in ("thr", "ee", "\nfo", "ur\n", "\n", "fi", "ve\r\n"):
        watched.file.append(part)
        watched.look()
        taken.append(watched.take())
    assert taken == [[], [], ["three"], ["four"], [], [], ["five"]]


def test_nothing_is_read_as_long_as_nothing_changes(watched):
    for _ in range(3):
        watched.look()
    assert watched.file.bytes_read == 0
    assert watched.watch.looks == 3


def test_what_was_taken_up_is_read_on_behind_its_hash(watched):
    for number in range(3):
        watched.file.append(f"more {number}\n")
        watched.look()
        assert watched.take() == [f"more {number}"]
    assert [*watched.tasks.tasks] == ["one", "two", "more 0", "more 1", "more 2"]


def test_what_is_not_taken_up_is_offered_again_with_what_comes(watched):
    watched.file.append("three\n")
    watched.look()
    watched.file.append("four\n")
    watched.look()
    assert watched.take() == ["three", "four"]


def test_a_part_of_what_is_offered_may_be_taken_up(watched):
    watched.file.append("three\nfour\nfive\n")
    watched.look()
    texts = watched.watch.fresh.texts
    watched.tasks.tasks.extend([texts[0]])
    watched.watch.note_taken(1)
    assert watched.watch.count == 2
    watched.file.append("six\n")
    watched.look()
    assert watched.take() == ["four", "five", "six"]


def test_a_list_without_tasks_grows_too():
    watched = Watched("")
    watched.file.append("#BARRIER\none\n")
    watched.look()
    assert watched.take() == ["one"]


@pytest.mark.parametrize("content", ["one\ntwo", "one\rtwo\r", "one\rtwo"])
def test_a_last_line_without_a_newline_that_was_there_is_no_new_one(content):
    watched = Watched(content)
    watched.file.write(content)
    watched.look()
    assert watched.watch.count == 0
    watched.file.write("one\ntwo\nthree\n")
    watched.look()
    assert watched.take() == ["three"]


def test_a_last_line_that_is_written_on_was_edited():
    watched = Watched("one\ntw")
    watched.file.write("one\ntwo\nthree\n")
    watched.wait()
    assert watched.watch.odd == (Oddity.EDITED, "", "")


def test_a_look_comes_each_second_and_less_often_if_it_takes_long(watched):
    times = iter(range(100))
    watch = ListWatch(watched.tasks, 0.0, watched.file.open, lambda: next(times) / 2)
    watch.look(0.9)
    assert watch.looks == 0
    watch.look(1.0)
    assert (watch.looks, watch.look_at) == (1, 6.0)


# ---- in parts -----------------------------------------------------------------------


def test_a_long_list_is_read_in_parts(watched, monkeypatch):
    monkeypatch.setattr(growth, "PART", 64)
    lines = [f"more {number}" for number in range(100)]
    watched.file.append("".join(f"{line}\n" for line in lines))
    watched.now += 1
    steps = 0
    while not watched.watch.looks:
        assert watched.watch.look_at <= watched.now
        watched.watch.look(watched.now)
        assert watched.watch.count == 0 or watched.watch.looks
        steps += 1
    assert steps > 10
    assert watched.take() == lines
    watched.file.append("x" * 300 + "\nlast\n")
    watched.look()
    assert watched.take() == ["x" * 300, "last"]


def test_a_list_that_is_replaced_while_it_is_read_is_read_again(watched, monkeypatch):
    monkeypatch.setattr(growth, "PART", 16)
    watched.file.append("three\nfour\n")

    def replace() -> None:
        watched.file.at_read = None
        watched.file.replace(LIST + "drei\n")

    watched.file.at_read = replace
    watched.look()
    assert watched.watch.count == 0
    watched.look()
    assert watched.take() == ["drei"]


# ---- other changes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "one\n",
        "one\ntw",
        "one\n2wo\nthree\n",
        "none\none\ntwo\n",
        "two\none\nthree\n",
        "one\n\ntoo\n",
    ],
)
def test_an_edit_is_looked_at_again_before_it_is_told_and_offers_nothing(
    watched, content
):
    watched.file.write(content)
    for _ in range(int(ODD_SECONDS)):
        watched.look()
        assert watched.watch.odd is None
        assert watched.watch.looks == 0
    watched.look()
    assert watched.watch.odd.why is Oddity.EDITED
    assert watched.watch.looks == 1
    assert watched.watch.count == 0


@pytest.mark.parametrize("keeps_inode", [True, False])
def test_a_list_that_is_written_anew_is_never_taken_for_an_edit(watched, keeps_inode):
    write = watched.file.write if keeps_inode else watched.file.replace
    for content in ("", "one\n", "one\ntw", "one\ntwo\nthr"):
        write(content)
        watched.look()
        assert watched.watch.count == 0
    write("one\ntwo\nthree\n")
    watched.look()
    assert watched.take() == ["three"]
    assert watched.watch.odd is None


def test_an_edit_that_keeps_the_length_is_seen(watched):
    watched.file.append("three\n")
    watched.look()
    watched.take()
    watched.file.write(LIST.replace("two", "2wo") + "three\nfour\n")
    watched.wait()
    assert watched.watch.odd.why is Oddity.EDITED
    assert watched.watch.count == 0


def test_an_edit_of_what_is_offered_is_no_edit(watched):
    watched.file.append("three\n")
    watched.look()
    watched.file.write(LIST + "drei\n")
    assert watched.watch.count == 1
    watched.look()
    assert watched.take() == ["drei"]
    watched.file.write(LIST + "drei\n")
    watched.look()
    assert watched.watch.odd is None


def test_comments_and_blank_lines_may_change_in_known_lines(watched):
    watched.file.append("three\n")
    watched.look()
    watched.take()
    watched.file.write("one\ntwo\n# another\nthree\nfour\n")
    watched.look()
    assert watched.take() == ["four"]


def test_an_edit_that_is_taken_back_ends_the_pause(watched):
    watched.file.write("none\n")
    watched.wait()
    assert watched.watch.odd is not None
    watched.file.write(LIST + "three\n")
    watched.look()
    assert watched.watch.odd is None
    assert watched.take() == ["three"]


def test_a_list_that_is_gone_may_come_back_as_it_was(watched):
    watched.look()
    before = watched.file.content
    watched.file.remove()
    watched.look()
    watched.file.content = before
    watched.look()
    assert watched.watch.looks == 2
    watched.file.remove()
    watched.wait()
    assert watched.watch.odd == (Oddity.GONE, "No such file or directory", "")


def test_an_odd_list_is_not_read_again_as_long_as_it_does_not_change(watched):
    watched.file.write("none\n")
    watched.look()
    before = watched.file.bytes_read
    watched.wait()
    assert watched.watch.odd is not None
    assert watched.file.bytes_read == before


def test_a_line_that_no_task_can_be_is_told_and_what_is_above_it_is_offered(watched):
    watched.file.append("three\n#AFTER 99\nfour\n")
    watched.wait()
    odd = watched.watch.odd
    assert odd.why is Oddity.WRONG
    assert explain_odd(PATH, odd, 2) == (
        f"WARNING: {odd.fault}; until then, neither this line nor what follows it in"
        " the list is taken up"
    )
    assert "line 6 of tasks.txt lets task 3 wait for task 99" in odd.fault
    assert watched.take() == ["three"]
    assert watched.watch.count == 0
    watched.look()
    assert watched.watch.count == 0
    watched.file.write(LIST + "three\n#AFTER 2\nfour\n")
    watched.look()
    assert watched.take() == ["four"]
    assert watched.tasks.constraints.after == {3: (2,)}
    assert watched.watch.odd is watched.watch.wrong is None


@pytest.mark.parametrize(
    ("appended", "offered"),
    [
        ("three\n#BARRIER\nfour\n[limit= five\nsix\n", ["three", "four"]),
        ("three\r\n#AFTER 0,\r\nfour\r\n", ["three"]),
        ("three\nfo\0ur\nfive\n", ["three"]),
        ("#BARRIER CHEK\nthree\n", []),
        ("three\n#AFTER 0\n#AFTER 9\nfour", ["three"]),
    ],
)
@pytest.mark.parametrize("part", [1, 1 << 21])
def test_what_stands_above_a_wrong_line_is_offered(
    watched, monkeypatch, appended, offered, part
):
    monkeypatch.setattr(growth, "PART", part)
    watched.file.append("zero\n")
    watched.look()
    assert watched.take() == ["zero"]
    watched.file.append(appended)
    watched.look()
    assert watched.watch.wrong is not None
    assert watched.take() == offered


def test_where_lone_carriage_returns_end_lines_a_wrong_line_lets_nothing_be_offered(
    watched,
):
    watched.file.append("zero\n")
    watched.look()
    assert watched.take() == ["zero"]
    watched.file.append("three\rfour\n#AFTER 9\nfive\n")
    watched.wait()
    assert watched.watch.odd.why is Oddity.WRONG
    assert watched.watch.count == 0


def test_a_wrong_line_among_known_ones_lets_nothing_be_offered(watched):
    watched.file.write(LIST.replace("one", "one\n#AFTER 5") + "three\n")
    watched.wait()
    assert watched.watch.odd.why is Oddity.WRONG
    assert watched.watch.count == 0
    watched.file.write(LIST + "three\n")
    watched.look()
    assert watched.take() == ["three"]


def test_a_wrong_line_that_comes_while_others_wait_costs_none_of_them(watched):
    watched.file.append("three\nfour\n")
    watched.look()
    assert watched.watch.count == 2
    watched.file.append("five\n#BARRIER CHEK\n")
    watched.look()
    assert watched.take() == ["three", "four", "five"]


def test_what_another_farm_knows_otherwise_is_told(watched):
    watched.file.append("three\n")
    watched.look()
    watched.watch.note_refused(watched.now)
    assert watched.watch.count == 0
    watched.wait()
    assert watched.watch.odd.why is Oddity.OTHER


@pytest.mark.parametrize("why", [Oddity.EDITED, Oddity.GONE, Oddity.OTHER])
def test_a_sentence_says_with_which_tasks_the_farm_goes_on(why):
    sentence = explain_odd(PATH, growth.Odd(why, "Stale file handle"), 3)
    assert "goes on with the 3 tasks that it knows" in sentence
    assert ("Stale" in sentence) is (why is Oddity.GONE)


# ---- what a list says of its order --------------------------------------------------


def test_directives_that_are_added_come_with_their_tasks(watched):
    watched.file.append("#BARRIER\nthree\n#AFTER 2\n[limit=net] four\n")
    watched.look()
    watched.take()
    constraints = watched.tasks.constraints
    assert constraints.barriers == [Barrier(2, checks=False)]
    assert (constraints.after, constraints.kinds) == ({3: (2,)}, {3: "net"})


def test_a_directive_waits_at_the_end_for_its_task():
    watched = Watched("one\ntwo\n#AFTER 0\n")
    watched.file.append("# more\n")
    watched.look()
    watched.take()
    watched.file.append("three\n#BARRIER CHECK\n")
    watched.look()
    watched.take()
    assert watched.tasks.constraints.after == {2: (0,)}
    assert watched.tasks.constraints.barriers == []
    watched.file.append("#AFTER 1\n")
    watched.look()
    watched.take()
    watched.file.append("four\n")
    watched.look()
    watched.take()
    assert watched.tasks.constraints.after == {2: (0,), 3: (1,)}
    assert watched.tasks.constraints.barriers == [Barrier(3, checks=True)]


def test_a_directive_that_was_at_the_end_may_be_taken_out():
    watched = Watched("one\ntwo\n#AFTER 0\n")
    watched.file.write("one\ntwo\nthree\n")
    watched.look()
    assert watched.take() == ["three"]
    assert watched.tasks.constraints.after == {}


def test_a_directive_that_was_added_to_known_lines_is_an_edit(watched):
    watched.file.write("one\n#BARRIER\ntwo\nthree\n")
    watched.wait()
    assert watched.watch.odd.why is Oddity.EDITED


# ---- the file itself ----------------------------------------------------------------


def test_an_edit_that_keeps_size_and_mtime_of_a_file_changes_its_version(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("one\ntwo\n")
    os.utime(path, ns=(1, 1))
    tasks = ListTaskList(str(path), "")
    with path.open("r+") as stream:
        stream.write("0ne")
    os.utime(path, ns=(1, 1))
    watch = ListWatch(tasks, 0.0)
    for now in range(1, int(ODD_SECONDS) + 3):
        watch.look(float(now))
        while watch.is_reading:
            watch.look(float(now))
    assert watch.odd is not None


def test_a_real_file_is_read_on(tmp_path):
    path = tmp_path / "tasks.txt"
    path.write_text("one\n")
    tasks = ListTaskList(str(path), "")
    watch = ListWatch(tasks, 0.0)
    with path.open("a") as stream:
        stream.write("two\n")
    watch.look(1.0)
    while watch.is_reading:
        watch.look(1.0)
    assert [*watch.fresh.texts] == ["two"]
