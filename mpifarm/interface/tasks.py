"""Tasks as a script has them, made a list.

Rules of this file: pure.  Task n is the n-th command, so each command must be exactly
one line that farms count as a task.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from mpifarm.errors import InputError
from mpifarm.model.task import encode_text
from mpifarm.tasklists import parse_tasks

Task: TypeAlias = str | tuple[str, str]
"""A command for the shell, or a command with a name."""


class ListedTasks(NamedTuple):
    """A list, and the names of its tasks by their ids."""

    content: bytes
    names: list[str | None]


def list_tasks(tasks: Iterable[Task]) -> ListedTasks:
    """Return the list of these tasks; raise `InputError` for what can't be a task."""
    if isinstance(tasks, (str, bytes, os.PathLike)):
        raise InputError(
            f"the tasks are one text, {str(tasks)!r:.60}: give a list of commands, as"
            " ['echo a', 'echo b'], or the lines of a file, open('tasks.txt')"
        )
    lines: list[str] = []
    names: list[str | None] = []
    for number, task in enumerate(tasks):
        command, name = _split_task(number, task)
        lines.append(_check_command(number, command))
        names.append(name)
    return ListedTasks(b"".join(encode_text(f"{line}\n") for line in lines), names)


def _split_task(number: int, task: object) -> tuple[str, str | None]:
    match task:
        case str():
            return task, None
        case (str() as command, str() as name):
            return command, name
    raise InputError(
        f"task {number} is {task!r:.60}: give a command as text, or (command, name)"
    )


def _check_command(number: int, command: str) -> str:
    """Return a command without a newline at its end; raise `InputError` if it is none.

    The lines of a file end in one.
    """
    line = command.removesuffix("\n").removesuffix("\r")
    shown = f"task {number}, {command!r:.60},"
    if "\n" in line or "\r" in line:
        raise InputError(
            f"{shown} has a line break in it, and a task is one line: join its lines by"
            " ; or make them a script"
        )
    if "\0" in line:
        raise InputError(f"{shown} has a NUL byte in it, which no command can have")
    if not parse_tasks([line]):
        raise InputError(
            f"{shown} is no command: leave out blank lines, and those that begin with #"
        )
    return line
