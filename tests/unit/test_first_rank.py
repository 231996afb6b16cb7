"""What rank 0 makes of what the user's handler gives it."""

from typing import Any

import pytest

from mpifarm.errors import InputError
from mpifarm.first_rank import Commands


class Text(str):
    """A string of a class of the user's own, which is shown in another way."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown"


class Handler:
    """A tasklist of one task."""

    def __init__(self, command: object) -> None:
        self._command = command

    def __len__(self) -> int:
        return 1

    def __getitem__(self, taskid: int) -> Any:
        if isinstance(self._command, BaseException):
            raise self._command
        return self._command


def command_of(given: object) -> object:
    handler: Any = Handler(given)
    return Commands(handler, "mine")[0]


def test_a_command_of_a_class_of_its_own_becomes_a_plain_string():
    # pipes and messages take no other
    command = command_of(Text("true"))
    assert command == "true"
    assert type(command) is str


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (17, "it is a int, not a text"),
        (b"true", "it is a bytes, not a text"),
        (KeyError("no line"), "no line"),
        (SystemExit(3), "3"),
    ],
    ids=repr,
)
def test_what_is_no_command_is_told_with_handler_and_task(given, why):
    with pytest.raises(InputError) as told:
        command_of(given)
    assert "the handler 'mine' gave no command for task 0" in str(told.value)
    assert why in str(told.value)
