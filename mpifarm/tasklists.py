"""Handlers, which read the user's tasklist; the user's first plug-in point.

Rules of this file: ids and texts are exactly PyTaskFarmer's, since farmers share a
workdir by them.  A task's id is its place in the list.  Line ends are those of Python's
text mode, and white space is that of `str.strip`.  Bytes that are not UTF-8 are lone
surrogates in the texts (``surrogateescape``).  Each mistake in a list, or in a handler
of the user, is an InputError; an empty list is not a mistake.
"""

import io
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO, Final, NoReturn, Protocol, TextIO

from mpifarm.errors import InputError, StorageError
from mpifarm.model.packed_texts import MARKS, PackedTexts
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import HandlerDefinition
from mpifarm.model.task import decode_text, encode_text
from mpifarm.model.wording import counted
from mpifarm.order.constraints import UNORDERED, Constraints
from mpifarm.order.directives import (
    DIRECTIVES,
    MISSPELT,
    DirectiveError,
    DirectiveReader,
    command_of,
)
from mpifarm.order.faults import find_fault
from mpifarm.plugins.loading import check_options, import_class, in_one_line
from mpifarm.plugins.shell_split import split_direct
from mpifarm.system.pipes import CheckingReader
from mpifarm.system.regular_files import OddFileError, open_regular


class TaskList(Protocol):
    """The tasks of a tasklist, as a handler has read them; it lives on rank 0 only.

    The constructor is called with the paths of the tasklist and of the workdir, and
    with the options of the handler's INI section as keyword arguments, all strings.
    """

    tasks: Sequence[str]
    """The texts of the tasks by id, as in the status files.  For the same tasklist they
    must be the same at each start: a task is recognized by its id and its text."""

    def __len__(self) -> int:
        """Return the number of tasks."""
        ...

    def __getitem__(self, taskid: int, /) -> str:
        """Return the command for the runner: the text, or a command made of it.

        Called once for each attempt, just before the task is handed out.  A slow method
        delays all ranks.
        """
        ...


class OptionError(InputError):
    """A mistake in an option of a handler.

    `open_tasklist` puts the names of the handler and of its INI file before the text.
    """


class TasklistFileError(InputError):
    """A mistake in the tasklist itself, whichever handler reads it.

    `place` names the line, as "line 7 of tasks.txt", and `number` is its number, from
    1; "" and 0 if no line is to blame.  `is_unended`: it is the last line, and has no
    newline, so it may be half written.
    """

    def __init__(
        self, what: str, place: str = "", number: int = 0, *, is_unended: bool = False
    ) -> None:
        super().__init__(f"{what}{UNENDED if is_unended else ''}")
        self.place = place
        self.number = number
        self.is_unended = is_unended


UNENDED: Final = " (the line has no newline at its end, so it may be half written)"


class ListTaskList(TaskList):
    """The default handler: one task a line, without blank lines and comments.

    A comment has its ``#`` in column 0.  A handler of the user is best a subclass.  It
    extends or replaces `tasks` in its constructor, or makes the command of a text in
    ``__getitem__``.

    Raises TasklistFileError if the file cannot be read or a task has a NUL byte.
    """

    def __init__(self, path: str, workdir: str) -> None:
        reader = read_list(path)
        if reader.fault is not None:
            raise reader.fault
        self.fill(path, workdir, reader)

    @classmethod
    def read_ended(cls, path: str, workdir: str) -> "ListTaskList":
        """Return the list as if its last line, which is wrong, were not there yet."""
        tasks = cls.__new__(cls)
        tasks.fill(path, workdir, read_list(path))
        tasks.has_left_last = True
        return tasks

    def fill(self, path: str, workdir: str, reader: "ListReader") -> None:
        """Take what a reader has read."""
        self.path = path
        self.workdir = workdir
        # A handler of the user may use any method of a list.
        texts = reader.texts
        self.tasks = texts if _is_of_mpifarm(type(self)) else list(texts)
        self.constraints = reader.constraints
        """What the list says of the order of its tasks."""
        self._order = (reader.constraints, len(texts))
        """The same, and for how many tasks it holds."""
        self.is_unended = reader.is_unended
        """Whether the last task's line has no newline: it may be half written."""
        self.has_left_last = False

    def leave_last(self) -> None:
        """Forget the last task, as if its line were not there yet."""
        assert isinstance(self.tasks, PackedTexts)
        self.tasks.cut(len(self.tasks) - 1)
        self.constraints.cut(len(self.tasks))
        self.has_left_last = True

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, taskid: int, /) -> str:
        return command_of(self.tasks[taskid])


HEAD: Final = 1000
TAIL: Final = 250
"""The numbers of tasks at the beginning and at the end of a list that are checked."""

MAX_REMARKS: Final = 1000
"""The number of directives in comments that are kept of a list."""

_is_remark = re.compile(
    rb"#(?:!|DISBATCH|SBATCH|PBS|BSUB|OAR|PJM|MSUB|COBALT|HQ|SWARM|flux:|FLUX:|\$ ?-"
    rb"|(?!BARRIER|AFTER)\s*(?i:BARRIER(?:\s+CHECK)?|AFTER\s[\s\d,-]*\d)\s*$"
    rb")|[ \t]+#(?:BARRIER|AFTER)(?![A-Za-z0-9_])"
    # The similarity is told later.
    rb"|" + MISSPELT.encode()
).match
"""Lines that are directives to other programs, or nearly directives of a list."""


def end_ids(texts: Sequence[str]) -> Iterator[int]:
    """Yield the ids of the first `HEAD` and the last `TAIL` tasks, each once."""
    yield from range(min(HEAD, len(texts)))
    yield from range(max(HEAD, len(texts) - TAIL), len(texts))


def is_plain(texts: PackedTexts) -> bool:
    """Return whether nothing in a list seems to be for a shell or for another tool.

    Only the marks and remarks that the reading has kept are checked, and the tasks at
    both ends.
    """
    if texts.remarks or texts.has_any(MARKS[1:]):
        return False
    ends = [command_of(texts[taskid]) for taskid in end_ids(texts)]
    return all(map(split_direct, ends)) and not any(map(_may_be_foreign, ends))


_may_be_foreign = re.compile(
    r"(?:module|ml|spack|conda|mamba)\s|.*\b(?:PYL_ID|srun)\b"
).match
"""Plain commands in lists that may be for another tool, or a script."""


_BLOCK_BYTES: Final = 1 << 18
"""Bytes of a list that are read at once."""

_NOT_SIMPLE: Final = b"\r\x1c\x1d\x1e\x1f"
"""Bytes that are line ends or white space in a str, but not in bytes."""


class ListReader:
    """The reading of the file of a list in blocks, in their order.

    `texts` and `constraints` get what the blocks say.  To replace them by empty ones
    between two blocks does no harm.  For a reading that begins behind known lines,
    `lines` and `tasks` are their number and that of the tasks in them.
    """

    def __init__(self, path: str, lines: int = 0, tasks: int = 0) -> None:
        self.texts = PackedTexts()
        self.constraints = Constraints()
        """With the ids of the whole list."""
        self.lines = lines
        """The number of lines so far, the known ones included."""
        self._path = path
        self.tasks = tasks
        """The number of tasks so far, the known ones included."""
        self.is_unended = False
        """Whether the last line so far is a task that nothing ends."""
        self.fault: TasklistFileError | None = None
        """The fault of the last line, which nothing ends; None if it has none."""
        self._directives = DirectiveReader()

    def take(self, block: bytes) -> None:
        """Add the tasks of whole lines, of which the file's last may have no newline.

        Raises TasklistFileError for a NUL byte in a task, or a wrong directive.
        """
        texts, before, number = self.texts, len(self.texts), self.lines + 1
        if block.isascii() and not any(mark in block for mark in _NOT_SIMPLE):
            lines = block.removesuffix(b"\n").split(b"\n")
            texts.extend_encoded(_parse_simple(lines, block))
        else:
            text = decode_text(block).replace("\r\n", "\n").replace("\r", "\n")
            texts_of_lines = text.removesuffix("\n").split("\n")
            lines = [*map(encode_text, texts_of_lines)]
            texts.extend(parse_tasks(texts_of_lines))
        if texts.has_mark(b"\0"):
            _refuse_nul(self._path, [*map(decode_text, lines)], number)
        may_direct = _may_direct(block)
        if may_direct:
            self._take_directives(lines)
        added = len(texts) - before
        if may_direct or added < len(lines):
            _keep_remarks(texts.remarks, lines, number)
        self.lines += len(lines)
        self.tasks += added
        is_ended = block.endswith((b"\n", b"\r"))
        self.is_unended = not is_ended and parse_tasks([decode_text(lines[-1])]) != []

    def take_end(self, line: bytes) -> None:
        """Add what the file's last line says, which nothing ends.

        If it is wrong, it is left out, and `fault` is set.
        """
        before = len(self.texts)
        try:
            self.take(line)
        except TasklistFileError as error:
            if b"\r" in line:  # it is some lines
                raise
            self.texts.cut(before)
            place = error.place, error.number
            self.fault = TasklistFileError(str(error), *place, is_unended=True)

    def _take_directives(self, lines: Iterable[bytes]) -> None:
        place = self.lines + 1, self.tasks
        try:
            self._directives.read(self.constraints, map(decode_text, lines), *place)
        except DirectiveError as error:
            where = f"line {error.number} of {self._path}"
            what = f"{where} {error}"
            raise TasklistFileError(what, where, error.number) from error


def read_list(path: str) -> ListReader:
    """Read a file of tasks.  Return its reader, whose texts have the file's version.

    The reader has the fault of a last line that nothing ends.
    Raises TasklistFileError if the file cannot be read, or as `ListReader.take`.
    """
    reader = ListReader(path)
    try:
        with _open_list(path) as stream:
            reader.texts.version = version_of(stream.fileno())
            # In bytes: for ten million lines it takes half the time.
            while block := _read_block(stream.buffer):
                if block.endswith(b"\n"):
                    reader.take(block)
                    continue
                whole = block.rfind(b"\n") + 1
                if whole:
                    reader.take(block[:whole])
                reader.take_end(block[whole:])
                break  # what comes now was not there: it would tear the line in two
    except OSError as error:
        raise _cannot_read(path, error) from error
    return reader


def read_lines(path: str) -> Iterator[tuple[str, bool]]:
    """Yield each line of a list, and whether a newline ends it, for another format.

    Raises TasklistFileError if the file cannot be read, or for a NUL byte.
    """
    try:
        with _open_list(path) as stream:
            for number, line in enumerate(stream, start=1):
                if "\0" in line:
                    _refuse_nul_in(path, number, line)
                is_ended = line.endswith("\n")
                yield line.removesuffix("\n"), is_ended
                if not is_ended:  # what is appended now would tear the line in two
                    return
    except OSError as error:
        raise _cannot_read(path, error) from error


def _read_block(stream: BinaryIO) -> bytes:
    """Read about `_BLOCK_BYTES`, up to the end of a line; b"" at the file's end."""
    block = stream.read(_BLOCK_BYTES)
    return block if block.endswith(b"\n") else block + stream.readline()


def _may_direct(block: bytes) -> bool:
    """Return whether lines may have a directive; fast if they have no "#" and "["."""
    return any(mark[:1] in block and mark in block for mark in DIRECTIVES)


def _parse_simple(lines: Sequence[bytes], block: bytes) -> list[bytes]:
    """Return the tasks in lines whose white space is the same to bytes and to text."""
    tasks = [*map(bytes.strip, lines)]
    if b"#" not in block and all(tasks):
        return tasks
    return [
        task
        for line, task in zip(lines, tasks, strict=True)
        if task and not line.startswith(b"#")
    ]


def _cannot_read(path: str, error: OSError) -> TasklistFileError:
    why = _why_unread(error, path)
    if isinstance(error, FileNotFoundError) and len(path.split()) > 1:
        if why.endswith("?"):
            why = f"{why[:-1]}, or a command, with ::: in front of it?"
        else:
            why += "; to run it as a command, write ::: in front of it"
    return TasklistFileError(f"can't read the tasklist {path}: {why}")


def name_near(path: str) -> str:
    """Return the end of a sentence about a missing file: the near name beside it."""
    from mpifarm.model.nearness import find_near_word  # for mistakes only

    directory, name = os.path.split(path)
    names = list[str]()
    with suppress(OSError), os.scandir(directory or ".") as entries:
        names += (each.name for each in islice(entries, MAX_NAMES) if each.is_file())
    near = find_near_word(name, names)
    if not near:
        return ""
    return f": did you mean {shlex.quote(os.path.join(directory, near))}?"


MAX_NAMES: Final = 10_000
"""Names beside a missing file that are compared with its name."""


def _why_unread(error: OSError, path: str) -> str:
    match error:
        case FileNotFoundError():
            return f"there is no such file{name_near(path)}"
        case OddFileError():
            return _why_no_list(error.strerror or "")
        case PermissionError():
            return "you have no permission to read it"
    return error.strerror or str(error)


def _why_no_list(what: str) -> str:
    if "directory" in what:
        return f"{what}; name the file in it that lists the commands"
    return f"{what}, and has to be a file"


def _is_pipe(path: str) -> bool:
    """Return whether `path` is the pipe of a shell's ``<(...)``, or standard input."""
    # Such a pipe has a writer, and ends with it.  A named fifo may wait for one for
    # ever.
    return os.path.realpath(path).startswith("/proc/") and stat.S_ISFIFO(
        os.stat(path).st_mode
    )


def version_of(fd: int) -> tuple[int, ...] | None:
    """Return a value that changes with the content of a file, None for a pipe."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return None
    # An edit that keeps size and mtime changes ctime.
    times = found.st_mtime_ns, found.st_ctime_ns
    return found.st_dev, found.st_ino, found.st_size, *times


def _open_list(path: str) -> TextIO:
    # As PyTaskFarmer opens it.  In text mode a lone CR ends a line, and without
    # "utf-8-sig" a byte order mark stays in the first task.
    if _is_pipe(path):
        pipe = io.BufferedReader(CheckingReader(path))
        return io.TextIOWrapper(pipe, encoding="utf-8", errors="surrogateescape")
    descriptor = open_regular(path, os.O_RDONLY, follow=True)
    return open(descriptor, encoding="utf-8", errors="surrogateescape")


def parse_tasks(lines: Iterable[str]) -> list[str]:
    """Return the texts of the tasks in lines of a list, each with or without its LF."""
    return [
        task for line in lines if not line.startswith("#") and (task := line.strip())
    ]


_UTF_16: Final = ("\udcff\udcfe", "\udcfe\udcff")
"""The byte order marks of UTF-16, decoded with ``surrogateescape``."""


def _keep_remarks(
    remarks: list[tuple[int, str]], lines: Iterable[bytes], first: int
) -> None:
    """Add the directives among `lines` to `remarks`, up to `MAX_REMARKS` in all.

    `first` is the number of the first line.
    """
    for number, line in enumerate(lines, start=first):
        may_be = line.startswith((b"#", b" ", b"\t"))
        if may_be and len(remarks) < MAX_REMARKS and _is_remark(line):
            remarks.append((number, decode_text(line).rstrip()))


def find_line_numbers(path: str, taskids: Iterable[int]) -> dict[int, int]:
    """Read the list again.  Return the line numbers of some tasks, from 1.

    A task that the file no longer has is left out.  Raises OSError.
    """
    wanted, numbers, taskid = set(taskids), dict[int, int](), 0
    with _open_list(path) as stream:
        for number, line in enumerate(stream, start=1):
            if len(numbers) == len(wanted):
                break
            if parse_tasks([line]):
                if taskid in wanted:
                    numbers[taskid] = number
                taskid += 1
    return numbers


def _refuse_nul(path: str, lines: Sequence[str], first: int) -> NoReturn:
    """Raise TasklistFileError for a NUL byte in `lines`, numbered from `first`."""
    number, line = next(
        (number, line)
        for number, line in enumerate(lines, start=first)
        if "\0" in line and not line.startswith("#")
    )
    _refuse_nul_in(path, number, line)


def _refuse_nul_in(path: str, number: int, line: str) -> NoReturn:
    if number == 1 and line.startswith(_UTF_16):
        raise TasklistFileError(
            f"the tasklist {path} is UTF-16, as some editors save it: convert it"
            f" (iconv -f UTF-16 -t UTF-8 {shlex.quote(path)} > new.txt)"
        )
    raise TasklistFileError(
        f"line {number} of the tasklist {path} has a NUL byte in it, which no"
        " command can have: remove it, or save the file as UTF-8 text",
        f"line {number} of {path}",
        number,
    )


def find_constraints(tasks: TaskList) -> Constraints:
    """Return what a list says of the order of its tasks; a handler may say nothing."""
    constraints = getattr(tasks, "constraints", None)
    return UNORDERED if constraints is None else constraints


# ---- reading with a handler ----------------------------------------------------------


def open_tasklist(
    definition: HandlerDefinition,
    path: str,
    workdir: str,
    make_workdir: Callable[[], Callable[[], None]],
) -> TaskList:
    """Read the tasklist at `path` with the handler of a definition.

    `make_workdir` is called just before the constructor of a class of the user, which
    may write into the workdir, as in PyTaskFarmer.  It returns a function that removes
    the new workdir; that is called if the class fails.  Raises InputError.
    """
    title = _title(definition)
    handler = find_handler_class(definition)
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


def find_handler_class(definition: HandlerDefinition) -> Any:
    """Return the class of a definition, which takes its options.  Raises InputError."""
    title = _title(definition)
    handler = _find_class(definition, title)
    if definition.options or handler is not ListTaskList:
        _check_options(handler, definition, title)
    return handler


def _title(definition: HandlerDefinition) -> str:
    where = f" in {definition.source}" if definition.source else ""
    return f"the tasklist handler {definition.name!r}{where}"


PLAIN_CLASS: Final = "mpifarm.tasklists.ListTaskList"
"""The class of plain lists, as a definition names it."""

_NAME_IT: Final = "name the class of a handler after TaskList ="


def _find_class(definition: HandlerDefinition, title: str) -> Any:
    if definition.python_class == PLAIN_CLASS:
        return ListTaskList
    try:
        handler = import_class(definition.python_class)
    except InputError as error:
        raise InputError(f"{title} can't be made: {error}") from error
    if not callable(handler):
        raise InputError(
            f"{title} names {definition.python_class}, which is not a class: {_NAME_IT}"
        )
    if hasattr(handler, "run") and hasattr(handler, "terminate"):
        raise InputError(
            f"{title} names {definition.python_class}, which is a runner: write"
            " Runner = in place of TaskList =, and give --runner"
            f" {shlex.quote(definition.name)}, or {_NAME_IT}"
        )
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
    except (TasklistFileError, StorageError):
        raise
    except InputError as error:
        if is_database(handler):
            raise
        raise InputError(f"{title}: {error}") from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{title} can't read the tasklist {path}: {in_one_line(error)}"
            f"{_explain_workdir(workdir)}"
        ) from error


def _explain_workdir(workdir: str) -> str:
    """Return what to do if the list needs a workdir that does not exist.

    A start makes it first, and a command that only looks makes none.
    """
    logs = WorkdirPaths(workdir).logs
    if os.path.isdir(logs):
        return ""
    return (
        "; if it needs its workdir, which the first start makes: mkdir -p"
        f" {shlex.quote(logs)}, and give the same command again"
    )


_GIVEN: Final = ("the path of the tasklist", "that of the workdir")


def _check_options(handler: Any, definition: HandlerDefinition, title: str) -> None:
    try:
        check_options(handler, definition.python_class, definition.options, _GIVEN)
    except InputError as error:
        raise InputError(f"{title} {error}") from error


def _check_tasks(tasks: TaskList, title: str, *, needs_texts: bool) -> None:
    """Raise InputError for a tasklist of a user's class that can't be run.

    The list has to have a length.  With `needs_texts`, its ``tasks`` has to be a
    sequence of that many texts, each fit for a status file, and task 0 has to have a
    command.
    """
    try:
        count = len(tasks)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{title} can't tell how many tasks it has: {in_one_line(error)}; let its"
            " __len__() return their number"
        ) from error
    _check_constraints(tasks, title, count, keeps_state=not needs_texts)
    if not needs_texts:
        return
    texts = getattr(tasks, "tasks", None)
    if not isinstance(texts, list | tuple | PackedTexts):
        raise InputError(
            f"{title} has no list of texts named tasks: {type(texts).__name__}; set"
            " self.tasks to a list of str in its constructor"
        )
    if len(texts) != count:
        raise InputError(
            f"{title} says that it has {counted(count)}, but its list has {len(texts)}:"
            " let its __len__() return len(self.tasks)"
        )
    if not is_database(tasks):  # It has checked its texts as it read them.
        _check_texts(texts, title)
    if count:
        _check_command(tasks, title)


def _check_constraints(
    tasks: TaskList, title: str, count: int, *, keeps_state: bool
) -> None:
    """Raise InputError for constraints of a user's class that don't fit its tasks."""
    constraints: object = find_constraints(tasks)
    if not isinstance(constraints, Constraints):
        raise InputError(
            f"{title} has constraints that are not Constraints but"
            f" {type(constraints).__name__}: set self.constraints to"
            " mpifarm.tasklists.Constraints(…), or leave it out"
        )
    if constraints and keeps_state:
        raise InputError(
            f"{title} keeps the state of its tasks itself, and then they have no order:"
            " leave self.constraints out"
        )
    read, lines = getattr(tasks, "_order", (None, count))
    if constraints and constraints is read and count != lines:
        raise InputError(
            f"{title} makes {counted(count)} of {counted(lines, 'line')}, for which the"
            " list has #BARRIER, #AFTER or [limit=…]: let it set self.constraints to"
            " those of its tasks, or take them out of the list"
        )
    if fault := find_fault(constraints, count):
        raise InputError(f"{title} has constraints whose {fault}; correct them")


def _check_texts(texts: Sequence[Any], title: str) -> None:
    """Raise InputError for a text that a status file cannot hold."""
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
                f" {str(text)[:80]!r}; put one line of UTF-8 text into self.tasks for"
                " each task"
            )
    raise AssertionError("all texts are fit")


def _problem_with(text: object) -> str:
    if not isinstance(text, str):
        return f"is not a str but {type(text).__name__}"
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
    """Raise InputError if a handler cannot make the first command."""
    try:
        command: object = tasks[0]
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{title} can't make the command of task 0: {in_one_line(error)}; correct"
            " its __getitem__()"
        ) from error
    if not isinstance(command, str):
        raise InputError(
            f"{title} made a command of task 0 that is not a str but"
            f" {type(command).__name__}: {command!r}; let its __getitem__() return one"
            " line for the shell"
        )


# ---- lists that keep their own state -------------------------------------------------

STATE_METHODS: Final = (
    *("pop_task", "record_toprocess_task", "record_done_task", "get_finished"),
    *("read_toprocess", "write_toprocess", "read_finished", "lock", "unlock"),
)
"""The methods by which a TaskList of PyTaskFarmer 0.1.0 records the state of tasks."""

STATE_FILES: Final = ("toprocess", "finished", "failed")


def keeps_own_state(tasks: TaskList, workdir: str) -> bool:
    """Return whether a list records the state of its tasks by methods of its own.

    Else the status files in `workdir` hold the whole state.  A list without
    ``pop_task`` has no such methods.
    """
    # A subclass of PyTaskFarmer's ListTaskList that changes neither its methods nor its
    # files writes the status files, too.
    is_of_files = isinstance(tasks, ListTaskList) or not hasattr(tasks, "pop_task")
    if is_of_files or is_database(tasks):
        return False
    base = _find_plain_base(type(tasks))
    return base is None or not (
        all(_is_inherited(tasks, name, base) for name in STATE_METHODS)
        and all(_is_in(workdir, tasks, name) for name in STATE_FILES)
        and _has_lock_of(base, tasks, workdir)
    )


def is_database(tasks: object) -> bool:
    """Return whether a list, or its class, is a database of mpifarm.

    Its rows have the states of all tasks.
    """
    return getattr(tasks, "is_database", False) is True


def _find_plain_base(python_class: type) -> type | None:
    """Return PyTaskFarmer's ListTaskList among the bases, without importing it."""
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
    """Return whether the list uses the same lock file as its base in PyTaskFarmer."""
    plain: Any = object.__new__(base)
    base.__base__.__init__(plain, "", workdir)  # type: ignore[misc] # reads no file
    path = getattr(tasks, "path_lock", None)
    return isinstance(path, str) and os.path.abspath(path) == os.path.abspath(
        plain.path_lock
    )
