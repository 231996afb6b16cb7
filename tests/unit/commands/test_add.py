"""``mpifarm add``: what it refuses, what it prints, and who takes the tasks up."""

import io
import json
import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mpifarm.audit.farms import Farm, Life
from mpifarm.commands import add
from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store import adding
from mpifarm.store.farm_report import FarmReport
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.tasklists import read_list


class Console:
    """Takes what is printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print_line(self, line: str) -> None:
        self.lines.append(line)

    print_text = print_error = print_line


class Place:
    """A list of two tasks that was begun, and a console."""

    def __init__(self, directory) -> None:
        self.tasklist = directory / "tasks.txt"
        self.tasklist.write_text("echo one\necho two\n")
        self.workdir = directory / "tasks.txt_workdir"
        self.workdir.mkdir()
        (self.workdir / "finished").touch()
        self.console: Any = Console()

    def add(self, *words: str, target: str = "") -> list[str]:
        """Run the command, and return what it has printed."""
        lines: list[str] = self.console.lines
        lines.clear()
        argv = [target or str(self.tasklist), *words]
        assert add.main(argv, self.console, {}) == 0
        return lines

    def refuse(self, *words: str, target: str = "") -> str:
        """Run the command, which changes nothing; return its sentence."""
        before = self.content
        with pytest.raises(InputError) as caught:
            self.add(*words, target=target)
        assert self.content == before
        assert not (self.workdir / "adding").exists()
        sentence = str(caught.value)
        assert "\n" not in sentence
        return sentence

    def say(self, **state: object) -> None:
        """A farm that has ended says this of itself."""
        (self.workdir / "farms").mkdir()
        path = self.workdir / "farms" / "0123456789abcdef.json"
        path.write_text(json.dumps({"format": 1, **state}))

    @property
    def content(self) -> str:
        return str(self.tasklist.read_text())


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    return Place(tmp_path)


def test_commands_get_to_the_end_of_the_list_and_their_ids_are_printed(place):
    said = place.add("echo three", " echo four ")
    assert said[0] == f"tasks 2-3 were added to {place.tasklist}"
    assert place.content == "echo one\necho two\necho three\necho four\n"
    assert place.add("echo five")[0] == f"task 4 was added to {place.tasklist}"
    assert not (place.workdir / "adding").exists()


def test_the_workdir_may_be_named_in_place_of_the_list(place):
    assert place.add("echo three", target=str(place.workdir))
    assert place.content.endswith("echo three\n")


@pytest.mark.parametrize("is_told", [True, False])
def test_a_list_that_was_moved_away_is_told_to_be_gone(place, is_told):
    if is_told:
        place.say(tasklist=str(place.tasklist), handler="default")
    moved = place.tasklist.with_name("moved")
    place.tasklist.rename(moved)
    for target in (place.tasklist, place.workdir):
        with pytest.raises(InputError) as caught:
            place.add("x", target=str(target))
        assert str(caught.value) == (
            f"{place.workdir} names no tasklist, and {place.tasklist} is gone: move it"
            " back, or add --list FILE"
        )
    place.add("echo three", "--list", str(moved), target=str(place.workdir))
    assert moved.read_text().endswith("echo three\n")


def test_the_list_of_a_workdir_with_another_name_is_that_of_its_last_farm(place):
    other = place.workdir.with_name("elsewhere")
    place.workdir.rename(other)
    place.workdir = other
    assert "names no tasklist: add --list" in place.refuse("x", target=str(other))
    place.say(tasklist=str(place.tasklist), handler="default")
    place.add("echo three", target=str(other))
    assert place.content.endswith("echo three\n")


def test_the_same_list_is_named_as_the_user_has_named_its_workdir(place, monkeypatch):
    monkeypatch.chdir(place.tasklist.parent)
    place.say(tasklist=str(place.tasklist), handler="default")
    said = place.add("echo three", target="tasks.txt_workdir")
    assert said[0] == "task 2 was added to tasks.txt"


def test_the_list_of_the_last_farm_goes_before_that_of_the_workdirs_name(
    place, tmp_path
):
    other = tmp_path / "other.txt"
    other.write_text("x\n")
    place.say(tasklist=str(other), handler="default")
    place.add("echo three", target=str(place.workdir))
    assert other.read_text() == "x\necho three\n"
    place.add("echo four")
    assert place.content.endswith("echo four\n")


def test_options_may_stand_before_and_behind_commands(place):
    place.add("echo three", "--after", "1,0", "echo four")
    lines = place.content.splitlines()[2:]
    assert lines == ["#AFTER 0-1", "echo three", "#AFTER 0-1", "echo four"]


@pytest.mark.parametrize("words", [[], ["-"]])
def test_commands_come_from_standard_input_one_a_line(place, monkeypatch, words):
    stream = SimpleNamespace(buffer=io.BytesIO(b"echo a\r\n\n  \necho \xfc\necho c"))
    monkeypatch.setattr(sys, "stdin", stream)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    place.add(*words)
    assert place.tasklist.read_bytes().endswith(b"two\necho a\necho \xfc\necho c\n")


def test_a_command_with_arguments_is_a_task_for_each(place, tmp_path):
    said = place.add("./sim --seed {1} {2/} >{#}.txt", ":::", "1", "2", ":::", "d/a b")
    assert said[0] == f"tasks 2-3 were added to {place.tasklist}"
    assert said[1] == "task 2: ./sim --seed 1 'a b' >1.txt"
    assert place.content.endswith("2 'a b' >2.txt\n")
    place.add("--after", "1", "./sim", "--after", "{}", ":::", "x")
    assert place.content.endswith("\n#AFTER 1\n./sim --after x\n")
    place.add(":::", "echo a", "echo b")
    assert place.content.endswith("\necho a\necho b\n")
    names = tmp_path / "names"
    names.write_text("p\nq\n")
    place.add("--", "-x {}", "::::", str(names), ":::+", "it's", "c")
    assert place.content.endswith("\n-x p 'it'\"'\"'s'\n-x q c\n")


def test_an_option_behind_the_separator_is_warned_of_or_refused(place):
    said = place.add("echo", ":::", "--after", "3")
    assert said[0].startswith("WARNING: --after behind ::: is taken for one more")
    assert "--dry-run stands behind :::" in place.refuse("x", ":::", "--dry-run")
    assert "or --file FILE" in place.refuse("--file", "f", "x", ":::", "a")
    assert "can't read none" in place.refuse("x", "::::", "none")
    assert "needs an argument behind it" in place.refuse("x", ":::")
    assert "-w would be a command" in place.refuse(":::", "a", "-w")
    assert "in one word, --after 0,1" in place.refuse(
        "--after", "0", "1", "x", ":::", "a"
    )


def test_on_a_terminal_a_command_has_to_be_named(place, monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda _: True)
    assert "or - to read standard input" in place.refuse()


def test_commands_come_from_a_file(place, tmp_path):
    more = tmp_path / "more"
    more.write_text("echo a\necho b\n")
    place.add("--file", str(more))
    assert place.content.endswith("two\necho a\necho b\n")
    assert "not both" in place.refuse("--file", str(more), "echo c")
    more.write_text("\n")
    assert "nothing to add" in place.refuse("--file", str(more))
    assert "can't read" in place.refuse("--file", str(tmp_path))


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("", "is empty"),
        (" \t", "is empty"),
        ("# echo", "begins with #"),
        ("  #BARRIER", "'#BARRIER' is no command: write the line into "),
        ("#AFTER 0", "tasks.txt yourself; to let what is added wait, use --after"),
        ("echo\necho", "has a line break"),
        ("echo\recho", "has a line break"),
        ("echo \0", "has a NUL byte"),
        ("[limit= x", "begins with a broken prefix"),
        ("#" + "x" * 100, "…' begins with #"),
    ],
)
def test_what_is_no_command_is_refused_and_the_others_with_it(place, command, why):
    assert why in place.refuse("echo three", command)


def test_a_task_of_a_kind_is_added_as_it_stands(place):
    place.add("[limit=net] echo three")
    assert place.content.endswith("\n[limit=net] echo three\n")


def test_more_ids_behind_a_blank_are_no_tasks(place):
    why = place.refuse("--after", "0", "1", "echo x")
    assert "give all ids in one word, --after 0,1" in why
    place.add("0", "echo three")
    assert place.content.endswith("\n0\necho three\n")


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        ("2", "names task 2, and .*tasks.txt has ids 0 to 1"),
        ("0-9", "names task 9"),
        ("x", "--after takes ids, as 3,7-9, not 'x'"),
        ("", "--after takes ids, as 3,7-9, not ''"),
        ("1-0", "the range 1-0 ends before it begins"),
        ("-", "is not the id of a task"),
    ],
)
def test_a_task_waits_only_for_tasks_that_are_in_the_list(place, ids, why):
    assert re.search(why, place.refuse("echo three", "--after", ids))


def test_a_command_in_place_of_ids_is_told_before_one_is_missed(place):
    said = place.refuse("--after", "echo q")
    assert "--after takes ids, as 3,7-9, not 'echo q'" in said


def test_several_tasks_are_shown_so_that_forgotten_quotes_are_seen(place):
    assert place.add("echo", "three")[1:3] == ["task 2: echo", "task 3: three"]
    said = place.add("a", "b" * 99, "c", "d", "e")
    assert said[1:5] == [
        *("task 4: a", f"task 5: {'b' * 59}…", "task 6: c", "and 2 more"),
    ]


def test_a_list_that_no_line_can_be_added_to_is_refused(place, tmp_path, monkeypatch):
    assert "read by the handler 'params'" in place.refuse("x", "-t", "params")
    link = tmp_path / "other.txt"
    os.mkfifo(link)
    said = place.refuse("x", "--list", str(link), target=str(place.workdir))
    assert "is not a file" in said
    gone = place.refuse("x", "--list", "gone.txt", target=str(place.workdir))
    assert "there is no tasklist gone.txt" in gone
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: mode != 6 and access(path, mode)
    )
    assert "you may not write to" in place.refuse("x")
    monkeypatch.setattr(os, "access", access)
    place.say(tasklist=str(place.tasklist), handler="greasy")
    assert "read by the handler 'greasy'" in place.refuse("x")


@pytest.mark.parametrize("known", [["echo one", "echo two"], ["echo one"]])
def test_to_an_edited_list_nothing_is_added(place, known):
    fingerprint = encode_fingerprint(take_fingerprint(known))
    (place.workdir / "fingerprint.json").write_bytes(fingerprint)
    assert place.add("true")
    place.tasklist.write_text("echo 1\necho two\ntrue\n")
    said = place.refuse("true")
    assert "was edited since" in said
    assert said.endswith(
        f"undo the edit, or give mpifarm --remap {place.tasklist}, and then add"
    )


@pytest.mark.parametrize("last", ["echo two", "[limit=a] echo two"])
def test_the_last_line_of_a_list_may_have_no_newline(place, last):
    place.tasklist.write_text(f"echo one\n{last}")
    read = read_list(str(place.tasklist))
    fingerprint = take_fingerprint(read.texts, constraints=read.constraints)
    encoded = encode_fingerprint(fingerprint)
    (place.workdir / "fingerprint.json").write_bytes(encoded)
    assert place.add("true")
    assert place.content == f"echo one\n{last}\ntrue\n"


def test_a_list_that_was_never_farmed_has_no_workdir(place, tmp_path):
    new = tmp_path / "new.txt"
    new.write_text("echo\n")
    said = place.refuse("x", target=str(new))
    assert f"append the line to {new} yourself, or start mpifarm {new} first" in said
    assert said.endswith(f"run: mpifarm add DIR --list {new} 'COMMAND'")
    assert new.read_text() == "echo\n"


def test_the_same_again_after_a_kill_adds_nothing_twice(place):
    end = adding.ListEnd(str(place.tasklist))
    end.read()
    wanted = adding.compose(end, [b"echo three", b"echo four"], "")
    paths = WorkdirPaths(str(place.workdir))
    adding.add(paths, wanted)
    place.tasklist.write_text("echo one\necho two\necho three\necho fo")
    said = place.add("echo three", "echo four")
    assert said[0].startswith("tasks 2-3 were added to")
    assert "an earlier mpifarm add of the same, which was killed" in said[0]
    assert place.content == "echo one\necho two\necho three\necho four\n"
    assert place.add("echo three", "echo four")[0].startswith("tasks 4-5 were added")


def test_another_command_after_a_kill_finishes_the_first(place):
    end = adding.ListEnd(str(place.tasklist))
    end.read()
    wanted = adding.compose(end, [b"echo three", b"echo four"], "")
    adding.add(WorkdirPaths(str(place.workdir)), wanted)
    place.tasklist.write_text("echo one\necho two\nech")
    assert place.add("echo five")[0].startswith("task 4 was added")
    assert place.content.splitlines()[2:] == ["echo three", "echo four", "echo five"]


def test_the_ids_are_told_while_the_same_command_can_still_be_known(place, monkeypatch):
    there = []
    monkeypatch.setattr(
        place.console,
        "print_line",
        lambda _: there.append((place.workdir / "adding").exists()),
    )
    place.add("echo three")
    assert set(there) == {True}
    assert not (place.workdir / "adding").exists()


# ---- who takes them up --------------------------------------------------------------


def report(**facts) -> FarmReport:
    known = {
        "farm": "f1",
        "version": "0.5.0",
        "job": None,
        "command": ("mpifarm",),
        "host": "n7",
        "pid": 1,
        "started": 1.0,
        "written": 2.0,
        "phase": "working",
        "reason": "",
        "exit_status": None,
        "running_count": 0,
        "rate": 0.0,
        "time_left": None,
        "ranks": (),
        "running": (),
        "grows": True,
    }
    return FarmReport(**{**known, **facts})


@pytest.mark.parametrize(
    ("life", "said", "words"),
    [
        (Life.LIVES, report(), "on n7 takes it up"),
        (Life.LIVES, report(phase="draining"), "is draining: it takes nothing up"),
        (Life.LIVES, report(grows=False), "takes nothing up: its list is not one"),
        (Life.LIVES, None, "has said nothing of itself yet"),
        (Life.SILENT, report(), "is silent: it may take up"),
    ],
)
def test_each_farm_that_lives_is_told(place, monkeypatch, life, said, words):
    farm = Farm("f1", life, 0.0, None, said)
    monkeypatch.setattr(add, "find_farms", lambda _: [farm])
    lines = place.add("echo three")
    assert f"farm f1 {words}" in lines[1]
    is_sure = words.endswith("takes it up")
    assert (len(lines) == 2) is is_sure
    if not is_sure:
        assert lines[2].startswith("no farm is known to take it up: mpifarm")


SOME = "farm f1 on n7 takes them up, but leaves those of the"
NONE = "no running farm has that limit: start one with"


@pytest.mark.parametrize(
    ("limits", "commands", "said"),
    [
        ((), ["echo"], ["farm f1 on n7 takes it up"]),
        (("zz", "a"), ["[limit=zz] x"], ["farm f1 on n7 takes it up"]),
        (None, ["[limit=zz] x"], ["farm f1 on n7 takes it up"]),
        (
            ("a",),
            ["[limit=zz] x"],
            [
                "farm f1 on n7 leaves it waiting: it has no limit for the kind 'zz'",
                f"{NONE} --limit zz=N beside it",
            ],
        ),
        (
            ("a",),
            ["[limit=zz] x", "[limit=a] x", "[limit=b] x", "[limit=zz] y"],
            [
                f"{SOME} kinds 'zz', 'b' waiting: it has no limit",
                f"{NONE} --limit zz=N --limit b=N beside it",
            ],
        ),
    ],
)
def test_a_farm_without_the_limit_of_a_kind_is_told_to_leave_it(
    place, monkeypatch, limits, commands, said
):
    farm = Farm("f1", Life.LIVES, 0.0, None, report(limits=limits))
    monkeypatch.setattr(add, "find_farms", lambda _: [farm])
    assert place.add(*commands)[-len(said) :] == said
    (text,) = place.add(*commands, "--json")
    assert bool(json.loads(text)["no_limit"]) is (len(said) > 1)


def test_a_farm_with_the_limit_of_a_kind_is_enough(place, monkeypatch):
    farms = [
        Farm(name, Life.LIVES, 0.0, None, report(limits=limits))
        for name, limits in (("f1", ()), ("f2", ("zz",)))
    ]
    monkeypatch.setattr(add, "find_farms", lambda _: farms)
    assert place.add("[limit=zz] x")[1:] == [
        "farm f1 on n7 leaves it waiting: it has no limit for the kind 'zz'",
        "farm f2 on n7 takes it up",
    ]


def test_without_a_farm_the_limit_of_a_kind_is_told(place):
    said = place.add("[limit=zz] x")[-1]
    assert said.endswith(f"mpifarm {place.tasklist} with --limit zz=N runs it")


def test_without_a_farm_the_command_that_starts_one_is_told(place):
    said = place.add("echo three")[-1]
    assert said == f"no farm is known to take it up: mpifarm {place.tasklist} runs it"


def test_json_says_all_of_it(place, monkeypatch):
    (text,) = place.add("echo three", "echo four", "--json")
    assert json.loads(text) == {
        "workdir": str(place.workdir),
        "list": str(place.tasklist),
        "tasks": "2-3",
        "count": 2,
        "was_killed": False,
        "farms": [],
        "no_limit": [],
        "command": f"mpifarm {place.tasklist}",
    }
    farm = Farm("f1", Life.LIVES, 0.0, None, report())
    monkeypatch.setattr(add, "find_farms", lambda _: [farm])
    (text,) = place.add("echo five", "--json")
    assert json.loads(text)["farms"] == ["f1"]
    assert json.loads(text)["command"] is None
