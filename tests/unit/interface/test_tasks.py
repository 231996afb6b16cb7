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
