"""Tasks of a script as a list: each is one line, and task n is the n-th."""

from pathlib import Path

import pytest

from mpifarm.errors import InputError
from mpifarm.interface.tasks import list_tasks


def test_a_task_is_a_line_and_may_have_a_name():
    listed = list_tasks(["echo ä", ("exit 3", "three"), "last\n"])
    assert listed.content.decode() == "echo ä\nexit 3\nlast\n"
    assert listed.names == [None, "three", None]


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("a\nb", "line break"),
        ("a\rb", "line break"),
        ("a\0b", "NUL"),
        ("\ud800", "can't be written as UTF-8"),
        ("  ", "is no command"),
        ("#BARRIER", "is no command"),
        (3, "give a command as text"),
        (("a", 3), "give a command as text"),
        (("a", "b", "c"), "give a command as text"),
    ],
)
def test_what_is_no_line_of_a_list_is_refused_with_its_place(task, why):
    with pytest.raises(InputError, match=why) as refused:
        list_tasks(["true", task])
    assert str(refused.value).startswith("task 1")


@pytest.mark.parametrize("tasks", ["tasks.txt", Path("tasks.txt"), b"true"])
def test_one_text_is_not_taken_for_many_tasks(tasks):
    with pytest.raises(InputError, match="the tasks are one text"):
        list_tasks(tasks)


@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ({"a", "b"}, "which has another order in each run"),
        ({"a": "b"}, r"as tasks\.items\(\)"),
        (None, "the tasks are None"),
        ([["ls", "x"]], r"make its words one text, as shlex\.join\(words\)"),
    ],
)
def test_what_is_no_list_of_commands_is_told_with_what_is(tasks, why):
    with pytest.raises(InputError, match=why):
        list_tasks(tasks)
    assert list_tasks({"a": "b"}.items()).names == ["b"]


def test_what_a_farm_says_of_a_line_is_said_of_the_task():
    listed = list_tasks(["true", "for i in 1"])
    said = 'line 2 of w/stdin.txt has no end for its "for"'
    told = "task 1, 'for i in 1', has no end for its \"for\""
    assert listed.reword(said) == told
    assert listed.reword(said.replace("stdin.txt", "stdin.txt (task 1)")) == told
    assert listed.reword("line 3 of w/stdin.txt") == "line 3 of w/stdin.txt"
    assert listed.reword("line 1 of other.txt") == "line 1 of other.txt"
    said = "task 0 of /tmp/a/stdin.txt is of the kind 'x'"
    assert listed.reword(said) == "task 0, 'true', is of the kind 'x'"
    assert listed.reword("no task of a/stdin.txt is") == "no task is"
