"""Rank 0 and its list: what it takes up, says and answers; the store is a fake."""

import math
import os
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.coordinator.coordinator import Phase
from mpifarm.errors import StorageError
from mpifarm.farm import growth
from mpifarm.farm.growth import (
    Growth,
    Left,
    explain_left,
    explain_unended,
    has_changed,
    leave_unended,
    may_grow,
)
from mpifarm.farm.standard_input import InputFeed
from mpifarm.lists.growth import ODD_SECONDS, Odd, Oddity
from mpifarm.model.settings import Settings
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.store.take_up import TakenUp, split_texts
from mpifarm.store.unlimited import Unlimited
from mpifarm.tasklists import ListTaskList


class FakeStore:
    """Takes up what it is offered, or answers what it is told to answer."""

    def __init__(self, tasks: Any) -> None:
        self.grows = False
        self.answers: list[Any] = []
        self.offers: list[int] = []
        self._tasks = tasks
        self.unlimited = Unlimited(tasks.constraints)
        self.unlimited.name_limits(["disk"])

    def take_up(self, fresh: Any, begin: int, most: int) -> TakenUp:
        self.offers.append(len(fresh) - begin)
        answer = self.answers.pop(0) if self.answers else TakenUp.YES
        if isinstance(answer, Exception):
            raise answer
        if answer is TakenUp.YES:
            end = min(len(fresh), begin + most)
            self._tasks.tasks.extend_encoded(split_texts(fresh, begin, end))
        assert isinstance(answer, TakenUp)
        return answer


class Grown:
    """A list of two tasks, its farm at work, and what comes of lines that are added."""

    def __init__(
        self,
        directory: Any,
        content: str = "one\ntwo\n",
        tasks: ListTaskList | None = None,
    ) -> None:
        self.path = directory / "tasks.txt"
        self.path.write_text(content)
        self.tasks = tasks or ListTaskList(str(self.path), "")
        self.store = FakeStore(self.tasks)
        self.is_free = True
        self.is_held = False
        self.told: list[str] = []
        self.events: list[str] = []
        self.coordinator: Any = SimpleNamespace(
            phase=Phase.WORKING,
            on_list_grown=lambda now: self.events.append("grown"),
            on_list_seen=lambda: self.events.append("seen"),
            on_list_ended=lambda: self.events.append("ended"),
        )
        self.lock = SimpleNamespace(try_acquire=self._acquire, release=self._release)
        fakes: dict[str, Any] = {"store": self.store, "lock": self.lock}
        fakes["coordinator"] = self.coordinator
        say = self.told.append
        self.now = 0.0
        self.growth = Growth(self.tasks, say=say, mention=say, now=self.now, **fakes)
        # what a look costs, on whatever machine, puts off the next one
        self.growth.watch._timer = lambda: 0.0

    def _acquire(self) -> bool:
        self.is_held = self.is_free
        return self.is_free

    def _release(self) -> None:
        assert self.is_held
        self.is_held = False

    def append(self, text: str) -> None:
        with self.path.open("a") as stream:
            stream.write(text)

    def run(self, seconds: float = 1.0) -> None:
        """Let the loop go on for so long."""
        until = self.now + seconds
        while True:
            moved = self.growth.step(self.now)
            assert not self.is_held
            if not moved:
                wake_at = max(self.growth.wake_at(), self.now + 0.001)
                if wake_at > until:
                    self.now = until
                    return
                self.now = wake_at

    @property
    def texts(self) -> list[str]:
        return [*self.tasks.tasks]


@pytest.fixture
def grown(tmp_path):
    return Grown(tmp_path)


def test_what_is_added_is_taken_up_and_told(grown):
    assert grown.store.grows
    grown.append("three\nfour\n")
    grown.run(2.0)
    assert grown.texts == ["one", "two", "three", "four"]
    assert grown.events == ["grown"]
    assert grown.told == [f"2 tasks were added to {grown.path}: they run too"]


def test_a_kind_without_a_limit_that_is_added_is_told_at_once_and_once(grown):
    grown.append("three\n")
    grown.run(2.0)
    for number, kind in enumerate(["disk", "gpu", "gpu"]):
        grown.append(f"[limit={kind}] {number}\n")
        grown.run(2.0)
    first, warning = grown.told
    assert first == f"1 task was added to {grown.path}: it runs too"
    assert warning == (
        "WARNING: tasks of the kind 'gpu' were added, which has no limit in this farm:"
        " they wait until a farm with --limit gpu=N runs them; start one beside this"
        " one, or after it"
    )
    grown.run(100.0)
    assert grown.told[2:] == [f"1 task was added to {grown.path}: it runs too"]


def test_what_is_added_bit_by_bit_is_told_now_and_then(grown):
    for number in range(30):
        grown.append(f"more {number}\n")
        grown.run(1.0)
    grown.run(20.0)
    assert len(grown.texts) == 32
    assert len(grown.told) <= 5
    counts = [int(sentence.split()[0]) for sentence in grown.told]
    assert sum(counts) == 30
    assert grown.told[0].endswith("it runs too")


def test_many_are_taken_up_in_parts(grown, monkeypatch):
    monkeypatch.setattr(growth, "MIN_TASKS", 2)
    grown.append("".join(f"more {number}\n" for number in range(95)))
    grown.run(2.0)
    assert len(grown.texts) == 97
    assert grown.store.offers[:3] == [95, 93, 91]
    assert 20 < len(grown.store.offers) < 40  # parts grow with what was added


def test_the_lock_is_tried_again_soon(grown):
    grown.is_free = False
    grown.append("three\n")
    grown.run(1.1)
    assert grown.store.offers == []
    grown.is_free = True
    grown.run(0.02)
    assert grown.events == ["grown"]


def test_a_disk_that_fails_is_told_once_and_tried_again(grown):
    grown.store.answers = [StorageError("the disk is full")] * 3
    grown.append("three\n")
    grown.run(5.0)
    assert grown.texts[2:] == ["three"]
    first, second = grown.told
    assert first == "the disk is full; trying again to take up what was added"
    assert "1 task was added" in second


def test_a_success_ends_the_failures_before_it(grown):
    """Each is told anew, and the time for which a farm waits begins anew."""
    full = StorageError("the disk is full")
    grown.store.answers = [full, TakenUp.YES, full, TakenUp.YES]
    grown.append("three\n")
    grown.run(ODD_SECONDS + 1.0)
    grown.append("four\n")
    grown.run(ODD_SECONDS + 1.0)
    assert grown.texts[2:] == ["three", "four"]
    failed = [each for each in grown.told if each.startswith("the disk is full")]
    assert len(failed) == 2


def test_a_late_failure_of_another_line_is_not_given_up_at_once(grown):
    full = StorageError("the disk is full")
    grown.store.answers = [full, TakenUp.YES, *[full] * 99]
    grown.append("three\n")
    grown.run(10.0 + ODD_SECONDS)
    grown.append("four\n")
    grown.growth.look_at_end()
    grown.run(ODD_SECONDS / 2)
    assert grown.events == ["grown"], "not yet"
    grown.run(2 * ODD_SECONDS)
    assert grown.events == ["grown", "seen"]


def test_a_lock_file_that_fails_ends_no_farm(grown, monkeypatch):
    def fail() -> bool:
        raise StorageError("the lock can't be opened")

    with monkeypatch.context() as failing:
        failing.setattr(grown.lock, "try_acquire", fail)
        grown.append("three\n")
        grown.run(3.0)
    grown.run(3.0)
    assert grown.texts[2:] == ["three"]
    assert grown.told[0].startswith("the lock can't be opened; trying again")


def test_what_waits_for_others_waits_also_if_it_is_taken_up_later(grown):
    grown.store.answers = [TakenUp.LATER, StorageError("the disk is full")]
    grown.append("#AFTER 0\nthree\n#AFTER 1\n")
    grown.run(1.5)
    constraints = grown.tasks.constraints
    assert constraints.after == {}
    grown.run(4.0)
    assert constraints.after == {2: (0,)}
    grown.append("four\n")
    grown.run(2.0)
    assert constraints.after == {2: (0,), 3: (1,)}


def test_what_the_store_refuses_is_told_after_a_while_and_offered_no_more(grown):
    grown.store.answers = [TakenUp.NO]
    grown.append("three\n")
    grown.run(ODD_SECONDS - 1)
    assert grown.told == []
    grown.run(5.0)
    assert len(grown.told) == 1
    assert "another farm knows other lines" in grown.told[0]
    assert grown.store.offers == [1]
    grown.append("four\n")
    grown.run(2.0)
    assert grown.texts[2:] == ["three", "four"]


def test_an_edit_is_told_each_time_that_it_comes_again(grown):
    before = grown.path.read_text()
    for _ in range(2):
        grown.path.write_text("none\ntwo\n")
        grown.run(8.0)
        grown.path.write_text(before)
        grown.run(2.0)
    assert len(grown.told) == 2
    assert "was edited" in grown.told[1]


# ---- the look at the end ------------------------------------------------------------


def test_a_look_at_the_end_is_made_at_once(grown):
    grown.growth.look_at_end()
    grown.run(0.01)
    assert grown.events == ["seen"]


def test_what_that_look_finds_is_taken_up_before_the_answer(grown):
    grown.append("three\n")
    grown.growth.look_at_end()
    grown.run(0.01)
    assert grown.events == ["grown", "seen"]


def test_what_that_look_finds_waits_for_the_lock_before_the_answer(grown):
    grown.is_free = False
    grown.append("three\n")
    grown.growth.look_at_end()
    grown.run(20.0)
    assert grown.events == []
    grown.is_free = True
    grown.run(0.1)
    assert grown.events == ["grown", "seen"]


def test_an_odd_list_is_answered_for_when_it_has_been_told(grown):
    grown.path.write_text("none\n")
    grown.growth.look_at_end()
    grown.run(3.0)
    assert grown.events == []
    grown.run(5.0)
    assert grown.events == ["seen"]
    assert len(grown.told) == 1


def test_what_cannot_be_taken_up_for_long_keeps_no_farm(grown):
    grown.store.answers = [TakenUp.LATER] * 100
    grown.append("three\n")
    grown.growth.look_at_end()
    grown.run(3.0)
    assert grown.events == []
    grown.run(5.0)
    assert grown.events == ["seen"]
    assert grown.growth.find_left(grown.now) == Left(1)


def test_a_farm_that_does_not_work_any_more_takes_nothing_up(grown):
    grown.coordinator.phase = Phase.DRAINING
    grown.append("three\n")
    grown.run(3.0)
    assert grown.growth.wake_at() == math.inf
    assert grown.texts == ["one", "two"]
    assert grown.growth.find_left(grown.now) == Left(1)


AFTER_9 = Odd(Oddity.WRONG, "line 2 …", "line 2 of …")


@pytest.mark.parametrize(
    ("content", "left"),
    [
        ("one\ntwo\n", Left()),
        ("one\ntwo\nthree\nfo", Left(1)),
        ("none\ntwo\nthree\n", Left(1, Odd(Oddity.EDITED))),
        ("one\n", Left(0, Odd(Oddity.EDITED))),
        ("none\n#AFTER 9\ntwo\n", Left(0, AFTER_9)),
    ],
)
def test_a_farm_knows_at_its_end_what_it_leaves(grown, content, left):
    grown.path.write_text(content)
    if left.odd:
        grown.run(8.0)
    else:
        grown.coordinator.phase = Phase.DRAINING
    found = grown.growth.find_left(grown.now)
    if left.odd is AFTER_9:
        assert found.wrong_line == f"line 2 of {grown.path}"
    else:
        assert found == left


def test_what_stands_above_a_wrong_line_runs_before_the_farm_leaves(grown):
    grown.append("three\n#AFTER 9\nfour\n")
    grown.growth.look_at_end()
    grown.run(8.0)
    assert grown.texts == ["one", "two", "three"]
    assert grown.events == ["grown", "seen"]
    warnings = [each for each in grown.told if "WARNING: line 4 of" in each]
    assert len(warnings) == 1
    assert grown.growth.find_left(grown.now).wrong_line == f"line 4 of {grown.path}"


@pytest.mark.parametrize("lasts", [False, True])
def test_a_wrong_line_at_the_end_is_left_however_new_it_is(grown, lasts):
    grown.append("#AFTER 9\nthree\n")
    if lasts:
        grown.run(8.0)
    else:
        grown.coordinator.phase = Phase.DRAINING
    left = grown.growth.find_left(grown.now)
    assert left.wrong_line == f"line 3 of {grown.path}"
    assert "lets task 2 wait for task 9" in explain_left("t", left)


@pytest.mark.parametrize(
    ("added", "place"),
    [("three", "line 3"), ("# c\n#AFTER 0\nthree", "line 5"), ("#AFTER 9", "line 3")],
)
def test_a_line_without_newline_is_left_at_the_end_and_named(grown, added, place):
    grown.append(added)
    grown.run(8.0)
    assert grown.texts == ["one", "two"]
    left = grown.growth.find_left(grown.now)
    assert left.wrong_line == f"{place} of {grown.path}"


@pytest.mark.parametrize("added", ["# a comment", "  ", "\n"])
def test_an_end_that_is_no_task_is_not_left(grown, added):
    grown.append(added)
    assert grown.growth.find_left(grown.now) == Left()


def test_a_line_without_newline_that_the_farm_knows_is_not_left(tmp_path):
    grown = Grown(tmp_path, "one\ntwo")
    assert grown.growth.find_left(grown.now) == Left()


# ---- a start beside a writer ---------------------------------------------------------


def started(directory: Any, content: str, known: int = 0, **given: Any) -> ListTaskList:
    """Read a list as a start does, in a workdir whose fingerprint has `known` tasks."""
    path = directory / "tasks.txt"
    path.write_bytes(content.encode())
    if known:
        found = take_fingerprint([f"echo {each}" for each in range(known)])
        (directory / "fingerprint.json").write_bytes(encode_fingerprint(found))
    tasks = ListTaskList(str(path), "")
    leave_unended(tasks, Settings(str(path), str(directory), **given))
    return tasks


@pytest.mark.parametrize(
    ("content", "known", "given"),
    [
        ("echo 0\necho 1\necho 2", 2, {}),
        ("echo 0\necho 1\n#AFTER 0\n[limit=x] echo 2", 1, {}),
        ("echo 0\necho 1\necho 2", 0, {"follow": 5.0}),
        ("echo 0\necho 1\nä", 2, {"follow": 5.0}),
    ],
)
def test_a_start_leaves_a_line_that_may_be_half_written(
    tmp_path, content, known, given
):
    tasks = started(tmp_path, content, known, **given)
    assert [*tasks.tasks] == ["echo 0", "echo 1"]
    assert not tasks.constraints
    assert explain_unended(tasks).startswith(f"the last line of {tasks.path} has no")
    grown = Grown(tmp_path, content, tasks)
    assert grown.growth.find_left(grown.now).wrong_line
    grown.append("2\n")
    grown.run(2.0)
    assert grown.texts == ["echo 0", "echo 1", content.split("\n")[-1] + "2"]
    assert grown.growth.find_left(grown.now) == Left()


@pytest.mark.parametrize(
    ("half", "rest", "texts", "after"),
    [
        ("#AFTER", " 0\n2\n", ["2"], {2: (0,)}),
        ("#AFTER 0,", "1\n2\n", ["2"], {2: (0, 1)}),
        ("[limit=d", "isk] 2\n", ["[limit=disk] 2"], {}),
    ],
)
def test_a_wrong_line_is_left_until_it_is_whole(tmp_path, half, rest, texts, after):
    content = f"0\n1\n{half}"
    (tmp_path / "tasks.txt").write_text(content)
    tasks = ListTaskList.read_ended(str(tmp_path / "tasks.txt"), "")
    grown = Grown(tmp_path, content, tasks)
    left = grown.growth.find_left(grown.now)
    place = f"line 3 of {grown.path}"
    assert left.wrong_line == place
    assert explain_left("", left) == (
        f"{place} has no newline at its end, so it may be half written, and does not"
        " count yet: end it by a newline, and give the same command again"
    )
    grown.append(rest)
    grown.run(2.0)
    assert grown.texts == ["0", "1", *texts]
    assert tasks.constraints.after == after
    assert grown.growth.find_left(grown.now) == Left()


def test_a_wrong_end_of_an_edited_list_is_named(grown):
    grown.path.write_text("0\n1\n2\n#AFTER 7")
    grown.run(ODD_SECONDS + 3.0)
    assert grown.growth.find_left(grown.now).wrong_line == f"line 4 of {grown.path}"


@pytest.mark.parametrize(
    ("content", "known", "given"),
    [
        ("echo 0\necho 1", 0, {}),
        ("echo 0\necho 1", 2, {}),
        ("echo 0\necho 1", 2, {"follow": 5.0}),
        ("echo 0\necho 1", 1, {"remap": True}),
        ("echo 0\necho 1\n", 1, {}),
        ("echo 0\necho 1\r", 1, {}),
        ("echo 0\necho 1\n# a comment", 1, {"follow": 5.0}),
    ],
)
def test_a_start_takes_what_is_ended_or_known_and_a_new_list_as_it_is(
    tmp_path, content, known, given
):
    tasks = started(tmp_path, content, known, **given)
    assert [*tasks.tasks] == ["echo 0", "echo 1"]
    assert explain_unended(tasks) == ""


def test_what_is_left_is_told_with_the_remedy():
    assert explain_left("t", Left()) == ""
    assert "--remap" in explain_left("t", Left(2, Odd(Oddity.EDITED)))
    assert "--remap" not in explain_left("t", Left(0, Odd(Oddity.EDITED)))
    assert explain_left("t", Left(1)).endswith("left it: give the same command again")


# ---- standard input -----------------------------------------------------------------


BLOCKED_UNTIL = 5.0


class Feed(InputFeed):
    """A standard input that has one of the `lines` at each look, and then `ends`."""

    is_blocked = False
    """Whether the lines are in memory, because others have the lock."""

    def __init__(self, grown: Grown, lines: list[str]) -> None:
        super().__init__(str(grown.path), grown.told.append)
        self.lines, self.ends = lines, False
        self._grown = grown

    @property
    def has_lines(self) -> bool:
        return self.is_blocked and bool(self.lines)

    def step(self, now: float, lock: Any) -> bool:
        assert lock is self._grown.lock
        if now < self.look_at:
            return False
        self.look_at = now + 0.1
        if self.has_lines and now < BLOCKED_UNTIL:
            return False
        if not self.lines:
            self.has_ended = self.ends
            return False
        line = self.lines.pop(0)
        self._grown.append(line)
        return bool(line)


def test_standard_input_is_read_until_it_ends(grown):
    grown.growth.feed = feed = Feed(grown, ["three\n", "", "four\n"])
    feed.ends = True
    grown.run(2.0)
    assert grown.growth.feed is None
    assert grown.texts[2:] == ["three", "four"]
    assert grown.events.count("ended") == 1


def test_standard_input_is_read_before_it_is_told_that_nothing_has_come(grown):
    feed = Feed(grown, ["three\n"])
    feed.look_at = math.inf
    grown.growth.feed = feed
    grown.run(0.5)
    grown.growth.look_at_end()
    grown.run(0.001)
    assert (grown.texts[2:], grown.events[0]) == (["three"], "grown")


def test_lines_that_wait_for_the_lock_are_to_come(grown):
    grown.growth.feed = feed = Feed(grown, ["three\n"])
    feed.is_blocked = True
    grown.growth.look_at_end()
    grown.run(BLOCKED_UNTIL - 1.0)
    assert grown.events == []
    grown.run(2.0)
    assert (grown.texts[2:], grown.events[0]) == (["three"], "grown")


@pytest.mark.parametrize(
    ("content", "events"), [("", []), ("# no task\n", []), ("one\n", ["seen"])]
)
def test_a_list_without_tasks_awaits_its_first_line(tmp_path, content, events):
    grown = Grown(tmp_path, content)
    feed = Feed(grown, [])
    grown.growth.feed = feed
    grown.growth.look_at_end()
    grown.run(5.0)
    assert grown.events == events
    if not events:
        feed.lines = ["# no task either\n"]
        grown.run(60.0)
        assert grown.events == []
        feed.lines = ["two\n"]
        grown.run(2.0)
        assert (grown.texts, grown.events[0]) == (["two"], "grown")


def test_a_comment_that_comes_by_a_pipe_is_no_first_task(tmp_path):
    grown = Grown(tmp_path, "")
    reader, writer = os.pipe()
    grown.growth.feed = InputFeed(str(grown.path), grown.told.append, reader)
    grown.growth.look_at_end()
    try:
        os.write(writer, b"# a header\n\n")
        grown.run(60.0)
        assert (grown.path.read_text(), grown.events) == ("# a header\n\n", [])
        os.write(writer, b"one\n")
        grown.run(2.0)
        assert (grown.texts, grown.events[0]) == (["one"], "grown")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_list_whose_first_line_is_wrong_awaits_no_other(tmp_path):
    grown = Grown(tmp_path, "")
    grown.growth.feed = Feed(grown, ["#AFTER\n"])
    grown.growth.look_at_end()
    grown.run(2 * ODD_SECONDS)
    assert (grown.events, grown.texts) == (["seen"], [])


def test_tasks_that_cannot_be_taken_up_are_awaited_for_a_while(tmp_path):
    grown = Grown(tmp_path, "")
    grown.growth.feed = Feed(grown, ["one\n"])
    grown.store.answers = [TakenUp.LATER] * 60
    grown.growth.look_at_end()
    grown.run(2 * ODD_SECONDS)
    assert (grown.events, grown.texts) == (["seen"], [])


def test_the_list_is_looked_at_once_more_when_its_input_has_ended(tmp_path):
    grown = Grown(tmp_path, "")
    feed = Feed(grown, ["# a header\n"])
    grown.growth.feed = feed
    grown.growth.look_at_end()
    grown.run(2.0)
    feed.ends = True
    feed.look_at = grown.growth.watch.look_at = grown.now + 0.5
    grown.append("of another\n")
    grown.run(1.0)
    assert (grown.texts, grown.events[:2]) == (["of another"], ["ended", "grown"])


def test_a_list_that_has_no_line_has_ended_with_its_input(tmp_path):
    grown = Grown(tmp_path, "")
    feed = Feed(grown, [])
    grown.growth.feed = feed
    grown.growth.look_at_end()
    grown.run(1.0)
    feed.ends = True
    grown.run(1.0)
    assert grown.events == ["ended", "seen"]


def test_a_producer_that_is_faster_than_the_farm_has_to_wait(grown, monkeypatch):
    monkeypatch.setattr(growth, "MAX_AHEAD", 2)
    steps: list[float] = []
    feed: Any = SimpleNamespace(has_ended=False, look_at=math.inf)
    feed.step = lambda now, lock: steps.append(now)
    grown.append("a\nb\nc\n")
    grown.is_free = False
    grown.run(1.01)
    grown.growth.feed = feed
    grown.run(0.5)
    assert steps == []
    grown.is_free = True
    grown.run(0.5)
    assert steps


# ---- which lists --------------------------------------------------------------------


def test_only_files_that_the_default_handler_reads_grow(grown):
    assert may_grow(grown.tasks)

    class Another(ListTaskList):
        pass

    assert not may_grow(Another(str(grown.path), ""))
    grown.tasks.tasks.version = None
    assert not may_grow(grown.tasks)
    assert not has_changed(grown.tasks)


def test_a_list_that_has_changed_since_it_was_read_is_known(grown):
    assert not has_changed(grown.tasks)
    grown.append("three\n")
    assert has_changed(grown.tasks)
    grown.path.unlink()
    assert not has_changed(grown.tasks)
