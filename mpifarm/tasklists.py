"""Tasklists: what reads the user's list of tasks, and how a handler is made.

Rules of this file: a task's id is its place in the list, and ids and texts are exactly
PyTaskFarmer's, for they are what a workdir is shared by; so lines and white space are
what Python's text mode and `str.strip` make of them.  Bytes that are not UTF-8 stand in
the texts as lone surrogates (``surrogateescape``).  Everything wrong with a list, or
with a handler of the user's, is an InputError; an empty list is not wrong.
"""

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, NoReturn, Protocol, TextIO, overload

from mpifarm.classes import check_options, import_class, in_one_line
from mpifarm.config import HandlerDefinition
from mpifarm.errors import InputError


class TaskList(Protocol):
    """What a handler makes of a tasklist; made and asked on rank 0 only.

    The constructor is called with the paths of the tasklist and of the workdir, and
    with the options of the handler's INI section as keyword arguments, all strings.
    """

    tasks: Sequence[str]
    """The texts of the tasks by id, as the status files hold them.  For the same
    tasklist they must be the same at each start: they say which task is which."""

    def __len__(self) -> int:
        """How many tasks there are."""
        ...

    def __getitem__(self, taskid: int, /) -> str:
        """What the runner gets: the text, or a command made of it.

        Called once for each attempt, just before it is handed out, so it must be
        quick.
        """
        ...


class OptionError(InputError):
    """An option of a handler is wrong; told with the handler and its INI file."""


class TasklistFileError(InputError):
    """The tasklist itself is wrong, whatever handler reads it; told as it stands."""


class ListTaskList(TaskList):
    """The default handler: one task a line; blank lines and ``#`` in column 0 are none.

    A handler of the user's is best a subclass: one that extends or replaces `tasks` in
    its constructor, or makes the command of a text in ``__getitem__``.
    Raises TasklistFileError: the file can't be read, or a task has a NUL byte in it.
    """

    def __init__(self, path: str, workdir: str) -> None:
        self.path = path
        self.workdir = workdir
        texts = read_texts(path)
        # A handler of the user's may change its list.
        self.tasks = texts if _is_of_mpifarm(type(self)) else list(texts)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, taskid: int, /) -> str:
        return self.tasks[taskid]


class PackedTexts(Sequence[str]):
    """The texts of a long list in one piece of memory: its own, and 8 bytes for each.

    A text is made a str when it is asked for.
    """

    def __init__(self) -> None:
        self._content = bytearray()
        """All texts, each with a newline behind it."""
        self._ends = array("Q", [0])
        """Behind 0, for each text how long it is together with those before it,
        newlines not counted."""

    def extend(self, texts: Sequence[str]) -> None:
        """Add some at the end; none has a line break in it."""
        encoded = "\n".join([*texts, ""]).encode("utf-8", "surrogateescape")
        lengths = map(len, texts if encoded.isascii() else encoded.split(b"\n")[:-1])
        ends = accumulate(lengths, initial=self._ends[-1])
        next(ends)
        self._content += encoded
        self._ends.extend(ends)

    def encoded_text(self, taskid: int) -> bytearray:
        """One text as the files hold it; raises `IndexError` where there is none."""
        end = self._ends[taskid + 1] + taskid
        return self._content[self._ends[taskid] + taskid : end]

    def encoded_texts(self, begin: int, end: int) -> memoryview:
        """Those of a range of ids, each with a newline behind it."""
        place = self._ends[begin] + begin
        return memoryview(self._content)[place : self._ends[end] + end]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, taskid: int, /) -> str: ...

    @overload
    def __getitem__(self, taskid: slice, /) -> Sequence[str]: ...

    def __getitem__(self, taskid: int | slice, /) -> str | Sequence[str]:
        if isinstance(taskid, slice):
            return [self[each] for each in range(*taskid.indices(len(self)))]
        if taskid < 0:
            taskid += len(self)
            if taskid < 0:
                raise IndexError("there is no such task")
        return self.encoded_text(taskid).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _BLOCK):
            block = self.encoded_texts(begin, min(begin + _BLOCK, len(self)))
            yield from str(block, "utf-8", "surrogateescape").split("\n")[:-1]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(ours == theirs for ours, theirs in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, others: list[str]) -> list[str]:
        """A list of these and others, as a user's handler may make it."""
        return [*self, *others]


_BLOCK: Final = 1000
"""Texts that are made into strings at once."""

_BLOCK_CHARACTERS: Final = 1 << 18
"""Of a list, read at once."""


def read_texts(path: str) -> PackedTexts:
    """The texts of the tasks in a file; raises TasklistFileError."""
    texts = PackedTexts()
    number = 1
    try:
        with _open_list(path) as stream:
            while lines := stream.readlines(_BLOCK_CHARACTERS):
                tasks = parse_tasks(lines)
                if "\0" in "".join(tasks):
                    _refuse_nul(path, lines, number)
                texts.extend(tasks)
                number += len(lines)
    except FileNotFoundError:
        reason = "there is no such file"
    except IsADirectoryError:
        reason = "it is a directory; name the file in it that lists the commands"
    except PermissionError:
        reason = "you have no permission to read it"
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        return texts
    raise TasklistFileError(f"can't read the tasklist {path}: {reason}")


def _open_list(path: str) -> TextIO:
    # In text mode: universal newlines make the line ends what they are for
    # PyTaskFarmer (a lone CR is one).  No "utf-8-sig": it keeps a byte order mark too.
    return open(path, encoding="utf-8", errors="surrogateescape")


def parse_tasks(lines: Iterable[str]) -> list[str]:
    """The texts of the tasks in some lines of a list; only LF ends a line by now."""
    return [
        task for line in lines if not line.startswith("#") and (task := line.strip())
    ]


def _refuse_nul(path: str, lines: Sequence[str], first: int) -> NoReturn:
    """Tell of the NUL byte in one of these lines; the number of the first is given."""
    number = next(
        number
        for number, line in enumerate(lines, start=first)
        if "\0" in line and not line.startswith("#")
    )
    raise TasklistFileError(
        f"line {number} of the tasklist {path} has a NUL byte in it, which no"
        " command can have: remove it, or save the file as UTF-8 text"
    )


# ---- from a definition to a tasklist -------------------------------------------------


def open_tasklist(
    definition: HandlerDefinition,
    path: str,
    workdir: str,
    make_workdir: Callable[[], Callable[[], None]],
) -> TaskList:
    """Read the tasklist at `path` with that handler.

    `make_workdir` is called just before the constructor of a class that is not
    mpifarm's own, and not before all is checked that can be: those of PyTaskFarmer
    find the workdir made, and may write into it.  It returns what takes back what it
    made; that is called where the class turns out to be wrong.  Raises InputError.
    """
    title = _title(definition)
    handler = _find_class(definition, title)
    if definition.options or handler is not ListTaskList:
        _check_options(handler, definition, title)
    if _is_of_mpifarm(handler):
        return _construct(handler, definition, title, path, workdir)
    take_back = make_workdir()
    try:
        tasks = _construct(handler, definition, title, path, workdir)
        _check_tasks(tasks, title, needs_texts=not keeps_own_state(tasks, workdir))
    except InputError:
        take_back()
        raise
    return tasks


def _title(definition: HandlerDefinition) -> str:
    where = f" in {definition.source}" if definition.source else ""
    return f"the tasklist handler {definition.name!r}{where}"


def _find_class(definition: HandlerDefinition, title: str) -> Any:
    if definition.python_class == "mpifarm.tasklists.ListTaskList":
        return ListTaskList
    try:
        handler = import_class(definition.python_class)
    except InputError as error:
        raise InputError(f"{title} can't be made: {error}") from error
    if not callable(handler):
        raise InputError(f"{title} names {definition.python_class}, which is no class")
    if hasattr(handler, "run") and hasattr(handler, "terminate"):
        raise InputError(f"{title} names {definition.python_class}, which is a runner")
    return handler


def _is_of_mpifarm(handler: Any) -> bool:
    return (
        isinstance(handler, type)
        and issubclass(handler, ListTaskList)
        and handler.__module__.partition(".")[0] == "mpifarm"
    )


def _construct(
    handler: Any, definition: HandlerDefinition, title: str, path: str, workdir: str
) -> TaskList:
    try:
        return handler(path, workdir, **definition.options)  # type: ignore[no-any-return]
    except TasklistFileError:
        raise
    except InputError as error:
        raise InputError(f"{title}: {error}") from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{title} can't read the tasklist {path}: {in_one_line(error)}"
        ) from error


_GIVEN: Final = ("the path of the tasklist", "that of the workdir")


def _check_options(handler: Any, definition: HandlerDefinition, title: str) -> None:
    try:
        check_options(handler, definition.python_class, definition.options, _GIVEN)
    except InputError as error:
        raise InputError(f"{title} {error}") from error


def _check_tasks(tasks: TaskList, title: str, *, needs_texts: bool) -> None:
    """Raise InputError where a tasklist of the user's class is none."""
    try:
        count = len(tasks)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{title} can't tell how many tasks it has: {in_one_line(error)}"
        ) from error
    if not needs_texts:
        return
    texts = getattr(tasks, "tasks", None)
    if not isinstance(texts, list | tuple | PackedTexts):
        raise InputError(
            f"{title} has no list of texts named tasks: {type(texts).__name__}"
        )
    if len(texts) != count:
        raise InputError(
            f"{title} says that it has {count} tasks, but its list has {len(texts)}"
        )
    _check_texts(texts, title)
    if count:
        _check_command(tasks, title)


def _check_texts(texts: Sequence[Any], title: str) -> None:
    """Raise InputError for a text that a status file can't hold."""
    try:
        joined = "\0".join(texts)
        joined.encode("utf-8", "surrogateescape")
    except (TypeError, UnicodeEncodeError):
        _refuse_text(texts, title)
    if joined.count("\0") >= max(len(texts), 1) or _line_break.search(joined):
        _refuse_text(texts, title)


_line_break = re.compile(r"[\r\n]")


def _refuse_text(texts: Iterable[Any], title: str) -> NoReturn:
    for taskid, text in enumerate(texts):
        if problem := _problem_with(text):
            raise InputError(
                f"{title} made a text of task {taskid} that {problem}:"
                f" {str(text)[:80]!r}"
            )
    raise AssertionError("all texts are fit")


def _problem_with(text: object) -> str:
    if not isinstance(text, str):
        return f"is no str but {type(text).__name__}"
    if _line_break.search(text):
        return "has a line break in it"
    if "\0" in text:
        return "has a NUL byte in it"
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "can't be written as UTF-8"
    return ""


def _check_command(tasks: TaskList, title: str) -> None:
    """Raise InputError where a handler can't even make the first command."""
    try:
        command: object = tasks[0]
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{title} can't make the command of task 0: {in_one_line(error)}"
        ) from error
    if not isinstance(command, str):
        raise InputError(
            f"{title} made a command of task 0 that is no str but"
            f" {type(command).__name__}: {command!r}"
        )


# ---- lists that keep their own state -------------------------------------------------

STATE_METHODS: Final = (
    *("pop_task", "record_toprocess_task", "record_done_task", "get_finished"),
    *("read_toprocess", "write_toprocess", "read_finished", "lock", "unlock"),
)
"""The methods by which a TaskList of PyTaskFarmer keeps what is done."""

STATE_FILES: Final = ("toprocess", "finished", "failed")


def keeps_own_state(tasks: TaskList, workdir: str) -> bool:
    """Whether what is to do and done is kept by the list's own methods alone.

    It is not where the list is mpifarm's, or has no such methods, or is one of
    PyTaskFarmer's ListTaskList that leaves them and the files in `workdir` as they
    are: then the files of the workdir say all.
    """
    if isinstance(tasks, ListTaskList) or not hasattr(tasks, "pop_task"):
        return False
    base = _find_plain_base(type(tasks))
    return base is None or not (
        all(_is_inherited(tasks, name, base) for name in STATE_METHODS)
        and all(_is_in(workdir, tasks, name) for name in STATE_FILES)
        and _has_lock_of(base, tasks, workdir)
    )


def _find_plain_base(python_class: type) -> type | None:
    """PyTaskFarmer's ListTaskList among the bases; that is not imported for it."""
    for base in python_class.__mro__:
        if (base.__module__, base.__qualname__) == ("taskfarmer.task", "ListTaskList"):
            return base
    return None


def _is_inherited(tasks: TaskList, name: str, base: type) -> bool:
    return name not in vars(tasks) and getattr(type(tasks), name, None) is getattr(
        base, name, None
    )


def _is_in(workdir: str, tasks: TaskList, name: str) -> bool:
    path = getattr(tasks, f"path_{name}", None)
    return isinstance(path, str) and os.path.abspath(path) == os.path.abspath(
        os.path.join(workdir, name)
    )


def _has_lock_of(base: type, tasks: TaskList, workdir: str) -> bool:
    """Whether the list takes the lock that the plain base would take."""
    plain: Any = object.__new__(base)
    base.__base__.__init__(plain, "", workdir)  # type: ignore[misc] # reads no file
    path = getattr(tasks, "path_lock", None)
    return isinstance(path, str) and os.path.abspath(path) == os.path.abspath(
        plain.path_lock
    )
