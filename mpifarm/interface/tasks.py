"""Tasks as a script has them, made a list.

Rules of this file: pure.  Task n is the n-th command, so each command must be exactly
one line that farms count as a task.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from mpifarm.errors import InputError
from mpifarm.model.task import encode_text
from mpifarm.tasklists import parse_tasks

Task: TypeAlias = str | tuple[str, str]
"""A command for the shell, or a command with a name."""


class ListedTasks(NamedTuple):
    """The commands, and the names of the tasks, by their ids."""

    commands: list[str]
    names: list[str | None]

    @property
    def content(self) -> bytes:
        """The list: a line for each command."""
        return b"".join(encode_text(f"{line}\n") for line in self.commands)

    def reword(self, sentence: str) -> str:
        """Return what a farm says of lines of its list in terms of these tasks."""

        def name_task(found: re.Match[str]) -> str:
            number = int(found[1]) - 1 if found[1] else int(found[2])
            if number >= len(self.commands):
                return found[0]
            return f"task {number}, {self.commands[number]!r:.60},"

        file = r" of \S*\bstdin\.txt\b(?: \(task \d+\))?"
        sentence = re.sub(rf"\b(?:line (\d+)|task (\d+)){file}", name_task, sentence)
        return re.sub(rf"\bno task{file}", "no task", sentence)


def list_tasks(tasks: Iterable[Task]) -> ListedTasks:
    """Return the list of these tasks; raise `InputError` for what can't be a task."""
    _check_kind(tasks)
    listed = ListedTasks([], [])
    for number, task in enumerate(tasks):
        command, name = _split_task(number, task)
        listed.commands.append(_check_command(number, command))
        listed.names.append(name)
    return listed


def _check_kind(tasks: object) -> None:
    """Raise `InputError` for what is no list, or has no order."""
    if isinstance(tasks, (str, bytes, os.PathLike)):
        raise InputError(
            f"the tasks are one text, {str(tasks)!r:.60}: give a list of commands, as"
            " ['echo a', 'echo b'], or the lines of a file, open('tasks.txt')"
        )
    if isinstance(tasks, (set, frozenset)):
        raise InputError(
            "the tasks are a set, which has another order in each run: give a list of"
            " them, as sorted(tasks)"
        )
    if isinstance(tasks, Mapping):
        raise InputError(
            "the tasks are a mapping: give its pairs of a command and a name, as"
            " tasks.items()"
        )
    if not isinstance(tasks, Iterable):
        raise InputError(
            f"the tasks are {tasks!r:.60}: give a list of commands, as ['echo a',"
            " 'echo b']"
        )


def _split_task(number: int, task: object) -> tuple[str, str | None]:
    match task:
        case str():
            return task, None
        case (str() as command, str() as name) if isinstance(task, tuple):
            return command, name
        case [str(), *_] if isinstance(task, list):
            raise InputError(
                f"task {number} is the list {task!r:.60}: make its words one text, as"
                " shlex.join(words)"
            )
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
    try:
        encode_text(line)
    except UnicodeEncodeError as error:
        raise InputError(f"{shown} can't be written as UTF-8: {error.reason}") from None
    if not parse_tasks([line]):
        raise InputError(
            f"{shown} is no command: leave out blank lines, and those that begin with #"
        )
    return line
