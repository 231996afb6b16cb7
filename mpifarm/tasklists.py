"""Tasklists: what reads the user's list of tasks, and the handlers by name.

Rules of this file: a task's id is its place in the list, and ids and texts are exactly
PyTaskFarmer's, for they are what a workdir is shared by; so lines and white space are
what Python's text mode and `str.strip` make of them.  Bytes that are not UTF-8 stand in
the texts as lone surrogates (``surrogateescape``).  Everything wrong with a list is an
InputError; an empty list is not wrong.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from mpifarm.errors import InputError


class TaskList(Protocol):
    """What a handler makes of a tasklist.

    `tasks` are the texts as the status files hold them; ``tasklist[taskid]`` is what
    the runner gets, which a handler may make of the text.
    """

    tasks: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, taskid: int, /) -> str: ...


class ListTaskList(TaskList):
    """The default handler: one task a line; blank lines and ``#`` in column 0 are none.

    Raises InputError: the file can't be read, or a task has a NUL byte in it.
    """

    def __init__(self, path: str, workdir: str) -> None:
        self.path = path
        self.workdir = workdir
        text = _read_text(path)
        if "\0" in text:
            _check_no_nul(path, text)
        self.tasks = parse_tasks(text)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, taskid: int, /) -> str:
        return self.tasks[taskid]


HANDLERS: Mapping[str, Callable[[str, str], TaskList]] = {"default": ListTaskList}
"""Handlers by the name that ``--tasklist`` takes."""


def open_tasklist(handler: str, path: str, workdir: str) -> TaskList:
    """Read the tasklist at `path` with the handler of that name; raises InputError."""
    if handler not in HANDLERS:
        known = ", ".join(sorted(HANDLERS))
        raise InputError(
            f"there is no tasklist handler {handler!r} for --tasklist, only: {known}"
        )
    return HANDLERS[handler](path, workdir)


def parse_tasks(text: str) -> list[str]:
    """The texts of the tasks, by id, in the text of a list, whose lines end in LF."""
    return [
        task
        for line in text.split("\n")
        if not line.startswith("#") and (task := line.strip())
    ]


def _read_text(path: str) -> str:
    # Opened in text mode: universal newlines make the line ends what they are for
    # PyTaskFarmer (a lone CR is one).  No "utf-8-sig": it keeps a byte order mark too.
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except FileNotFoundError:
        reason = "there is no such file"
    except IsADirectoryError:
        reason = "it is a directory; name the file in it that lists the commands"
    except PermissionError:
        reason = "you have no permission to read it"
    except OSError as error:
        reason = error.strerror or str(error)
    raise InputError(f"can't read the tasklist {path}: {reason}")


def _check_no_nul(path: str, text: str) -> None:
    """Raise InputError for a NUL byte in a task: no command can have one."""
    for number, line in enumerate(text.split("\n"), start=1):
        if "\0" in line and not line.startswith("#"):
            raise InputError(
                f"line {number} of the tasklist {path} has a NUL byte in it, which no"
                " command can have: remove it, or save the file as UTF-8 text"
            )
