"""``attempts.tsv``: a line for each attempt that has ended, in two formats.

Rules of this file:

- Format 2 is `COLUMNS`.  Versions up to 0.4.0 wrote format 1, `FIRST_COLUMNS`.  The
  number of its fields tells the format of a line, wherever the line stands.
- A farm that begins alone moves lines of format 1 to ``attempts.1.tsv``.  Beside
  another farm, which may be an older one, the file stays as it is.
- No field has a tab, a line end or another control character, and none begins with a
  quote: pandas, DuckDB and Miller read the file without options.
- The caller holds the lock where it writes.
"""

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import IntEnum
from itertools import compress, repeat
from math import isfinite
from typing import Any, Final, NamedTuple, TypeAlias

from mpifarm.model.paths import WorkdirPaths, staging_of
from mpifarm.model.task import NOT_RUN, Outcome, Result
from mpifarm.store.status_lines import cut_behind_lines
from mpifarm.store.types import Recorded
from mpifarm.system import file_contents, files
from mpifarm.system.time_of_day import encode_time


class Column(IntEnum):
    """The columns of format 2, by their places."""

    TASKID = 0
    ATTEMPT = 1
    OUTCOME = 2
    STATUS = 3
    SIGNAL = 4
    HOST = 5
    RANK = 6
    WORKER = 7
    PID = 8
    STARTED = 9
    SECONDS = 10
    USER_SECONDS = 11
    SYSTEM_SECONDS = 12
    PEAK_MEMORY = 13
    OUTPUT_BYTES = 14
    FARM = 15
    COMMAND = 16


COLUMNS: Final = tuple(column.name.lower() for column in Column)
FIRST_COLUMNS: Final = (
    *("taskid", "attempt", "status", "rank", "worker", "started", "seconds", "farm"),
)
"""Format 1: `worker` is a pid, `started` seconds since the epoch, and `status` -n for
signal n."""

_COMPLETED: Final = Outcome.COMPLETED.value
COMPLETED: Final = _COMPLETED.encode()
"""The outcome of an attempt that has not failed."""

CANCELLED: Final = Outcome.CANCELLED.value.encode()
"""The outcome of a task that a user has ended, or kept from starting."""

HEADER: Final = "\t".join(COLUMNS).encode() + b"\n"
FIRST_HEADER: Final = "\t".join(FIRST_COLUMNS).encode() + b"\n"

_LAST_LINES = 4096
"""Bytes at the end of the file by which it is known who has written last."""

BYTES_AT_ONCE = 1 << 20

_ODD = re.compile("[\x00-\x1f\\\\\x7f\ud800-\udfff]|^[\"']")
_NAMED: Final = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_ESCAPED = re.compile(rb"\\(?:([\\tnr])|x([0-9a-f]{2}))")
_MEANT: Final = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r"}


class Attempt(NamedTuple):
    """A line of either format; what format 1 does not have is None, or ""."""

    taskid: int
    attempt: int
    """Counted from 1 in each farm."""
    outcome: str
    """One of `mpifarm.model.task.Outcome`, in words; with the reason if the task was
    not run."""
    status: int
    """As ``$?`` in a shell: 128 + n where signal n ended the command."""
    signal: int
    """The signal that ended the command, 0 for none."""
    host: str
    rank: int
    worker: int | None
    """The index of the worker on its rank."""
    pid: int
    """Of the worker process."""
    started: float
    """Seconds since the epoch."""
    seconds: float
    user_seconds: float | None
    system_seconds: float | None
    """CPU time of the command and of what it has waited for."""
    peak_memory: int | None
    """Bytes of the largest process of the command; None if it was not larger than its
    worker, or if nobody saw it end."""
    output_bytes: int | None
    farm: str
    command: bytes | None


# ---- text ---------------------------------------------------------------------------


def escape(text: str) -> str:
    r"""Return a text for a field: control characters and ``\`` stand as escapes.

    A byte that is not UTF-8 (a lone surrogate), and a quote at the beginning,
    become ``\xHH``.
    """
    if _ODD.search(text) is None:
        return text
    return _ODD.sub(_escaped, text)


def _escaped(found: "re.Match[str]") -> str:
    char = found.group()
    return _NAMED.get(char) or f"\\x{ord(char) & 0xFF:02x}"


def unescape(field: bytes) -> bytes:
    """Return the text of a field as it was read from the tasklist."""
    return _ESCAPED.sub(_meant, field) if b"\\" in field else field


def _meant(found: "re.Match[bytes]") -> bytes:
    name, number = found.groups()
    return _MEANT[name] if name else bytes.fromhex(number.decode())


# ---- reading ------------------------------------------------------------------------


def split_rows(content: bytes) -> Iterator[list[bytes]]:
    """Yield the fields of each whole line, in the order of `COLUMNS`.

    Headers and lines that are torn or odd are passed over.  What format 1 does not
    have is empty.
    """
    for line in content.split(b"\n")[:-1]:
        fields = line.split(b"\t")
        if not fields[0].isdigit():
            continue
        if len(fields) == len(COLUMNS):
            yield fields
        elif len(fields) == len(FIRST_COLUMNS):
            # A time that is infinite, or of another age, is odd, too.
            with suppress(ValueError, OverflowError, OSError):
                yield _from_first(fields)


def _from_first(fields: list[bytes]) -> list[bytes]:
    taskid, attempt, status, rank, pid, started, seconds, farm = fields
    number = int(status)
    signal = max(-number, 0)
    outcome = Outcome.FAILED if number else Outcome.COMPLETED
    return [
        *(taskid, attempt, outcome.value.encode()),
        *(b"%d" % (128 + signal if signal else number), b"%d" % signal),
        *(b"", rank, b"", pid, encode_time(float(started)).encode(), seconds),
        *(b"", b"", b"", b"", farm, b""),
    ]


def parse_row(fields: Sequence[bytes]) -> Attempt:
    """Parse the fields of a line of `split_rows`; raise ValueError for an odd one."""
    taskid, attempt, outcome, status, signal, host, rank, worker = fields[:8]
    pid, started, seconds, user, system, peak, output, farm, command = fields[8:]
    return Attempt(
        taskid=int(taskid),
        attempt=int(attempt),
        outcome=outcome.decode(),
        status=int(status),
        signal=int(signal),
        host=host.decode("utf-8", "surrogateescape"),
        rank=int(rank),
        worker=int(worker) if worker else None,
        pid=int(pid),
        started=parse_time(started),
        seconds=parse_seconds(seconds),
        user_seconds=parse_seconds(user) if user else None,
        system_seconds=parse_seconds(system) if system else None,
        peak_memory=int(peak) if peak else None,
        output_bytes=int(output) if output else None,
        farm=farm.decode("ascii", "replace"),
        command=unescape(command) or None,
    )


def parse_seconds(field: bytes) -> float:
    """Parse a duration; raise ValueError for what is none, or not a finite one."""
    seconds = float(field)
    if not isfinite(seconds):
        raise ValueError("no duration")
    return seconds


def read_attempts_content(paths: WorkdirPaths) -> bytes:
    """Return both files, the older first; raise `StorageError`."""
    first = files.find_content(paths.first_attempts) or b""
    return first + (files.find_content(paths.attempts) or b"")


def read_last_rows(paths: WorkdirPaths, most: int) -> Iterator[list[bytes]]:
    """Yield the rows in the last `most` bytes of ``attempts.tsv``; see `split_rows`.

    Raises `StorageError`.
    """
    begin = max(0, files.find_size(paths.attempts) - most)
    content = files.find_rest(paths.attempts, begin)
    if begin:
        content = content.partition(b"\n")[2]
    return split_rows(content)


def read_attempts(paths: WorkdirPaths) -> Iterator[Attempt]:
    """Yield the attempts of a workdir in the order of their lines.

    Raises `StorageError`.
    """
    for fields in split_rows(read_attempts_content(paths)):
        with suppress(ValueError):
            yield parse_row(fields)


def read_rows(paths: WorkdirPaths) -> Iterator[list[bytes]]:
    """Yield the fields of each attempt, as `split_rows` does, block by block.

    Raises `StorageError`.
    """
    for lines in _read_lines(paths):
        yield from split_rows(lines)


def last_outcomes(rows: Iterable[Sequence[bytes]]) -> dict[int, bytes]:
    """Return the outcome of the last attempt of each task in these rows, as bytes."""
    last = {}
    for fields in rows:
        with suppress(ValueError):
            last[int(fields[Column.TASKID])] = fields[Column.OUTCOME]
    return last


Columns: TypeAlias = Sequence[Sequence[bytes]]
"""The fields of some attempts, column by column, because there may be a million."""


class LinesOfAll(Mapping[int, bytes]):
    """The lines of the last attempts of all tasks of a list, by their ids.

    Unlike a dict, it finds a million of them in no time.
    """

    def __init__(self, total: int) -> None:
        self._lines = [NO_LINE] * total

    def __getitem__(self, taskid: int) -> bytes:
        line = self._lines[taskid] if 0 <= taskid < len(self._lines) else NO_LINE
        if line == NO_LINE:
            raise KeyError(taskid)
        return line

    def __iter__(self) -> Iterator[int]:
        return (n for n, line in enumerate(self._lines) if line != NO_LINE)

    def __len__(self) -> int:
        return len(self._lines) - self._lines.count(NO_LINE)

    def update(self, taskids: Sequence[int], lines: Sequence[bytes]) -> None:
        """Put lines in the place of those before, but for ids beyond the list."""
        if max(taskids, default=-1) >= len(self._lines):
            are_known = [taskid < len(self._lines) for taskid in taskids]
            taskids = [*compress(taskids, are_known)]
            lines = [*compress(lines, are_known)]
        deque(map(self._lines.__setitem__, taskids, lines), 0)

    def at(self, taskids: Iterable[int]) -> Iterator[bytes]:
        """Return the line of each task, or `NO_LINE`; the list must have them all."""
        return map(self._lines.__getitem__, taskids)


class LastAttempts:
    """The last attempt of each task, of which only what is asked for is parsed.

    `lines` maps the id of a task to the line of its last attempt, as format 2 has it.
    """

    def __init__(self, lines: Mapping[int, bytes]) -> None:
        self.lines = lines

    def field(self, taskid: int, column: Column) -> bytes:
        """Return a field of a task's last attempt, b"" if there is none."""
        fields = self.fields(taskid)
        return fields[column] if fields else b""

    def fields(self, taskid: int) -> list[bytes]:
        """Return the fields of a task's last attempt, [] if there is none."""
        line = self.lines.get(taskid, NO_LINE)
        return [] if line == NO_LINE else line.split(b"\t")

    def blocks(self, taskids: Sequence[int]) -> Iterator[tuple[Sequence[int], Columns]]:
        """Yield these tasks, some at a time, each time with the `columns` of them."""
        for begin in range(0, len(taskids), _TASKS_AT_ONCE):
            block = taskids[begin : begin + _TASKS_AT_ONCE]
            yield block, self.columns(block)

    def columns(self, taskids: Iterable[int]) -> Columns:
        """Return the fields of these tasks, column by column.

        A task without an attempt has the fields of `NO_LINE`.
        """
        if isinstance(self.lines, LinesOfAll):
            lines = self.lines.at(taskids)
        else:
            lines = map(self.lines.get, taskids, repeat(NO_LINE))
        # All lines at once, because one by one takes half as long again.
        fields = b"\t".join(lines).split(b"\t")
        return [fields[column :: len(Column)] for column in Column]

    def find(self, taskid: int) -> Attempt | None:
        """Return a task's last attempt, None if there is none or its line is odd."""
        fields = self.fields(taskid)
        with suppress(ValueError):
            return parse_row(fields) if fields else None
        return None


_TASKS_AT_ONCE: Final = 250
"""So few that all their fields, and what is made of them, fit into a core's cache."""

NO_OUTCOME: Final = b"\n"
"""The outcome of no attempt; no field has a newline."""
NO_LINE: Final = b"\t".join(
    [
        *(b"", b"", NO_OUTCOME, b"", b"", b"", b"", b"", b""),
        *(encode_time(0).encode(), b"0", b"", b"", b"", b"", b"", b""),
    ]
)
"""A line in place of that of an attempt, with the time 0."""

_TABS: Final = len(COLUMNS) - 1
_MAX_DIGITS: Final = 18
_TABS_OF_ANY: Final = frozenset({_TABS, len(FIRST_COLUMNS) - 1})


def read_last_attempts(
    paths: WorkdirPaths, wanted: Iterable[int] | None = None
) -> LastAttempts:
    """Read the last attempts of the wanted tasks (None: of all), without the lock.

    Raises `StorageError`.
    """
    reader = LastReader(None if wanted is None else {*wanted})
    if reader.wanted != set():
        for content in _read_lines(paths):
            reader.feed(content)
    return LastAttempts(reader.last)


def read_last_of_all(paths: WorkdirPaths, total: int) -> LastAttempts:
    """Read the last attempts of all tasks of a list, as `read_last_attempts` does."""
    last = LinesOfAll(total)
    for content in _read_lines(paths):
        last.update(*_parse_lines(content))
    return LastAttempts(last)


def _read_lines(paths: WorkdirPaths) -> Iterator[bytes]:
    """Yield the whole lines of both files in blocks, those of the older file first."""
    for path in (paths.first_attempts, paths.attempts):
        yield from cut_behind_lines(blocks_of(path))


class LastReader:
    """A reader of last attempts: half a microsecond for each line."""

    def __init__(self, wanted: set[int] | None) -> None:
        self.wanted = wanted
        self.last: dict[int, bytes] = {}

    def feed(self, content: bytes) -> None:
        """Note the lines of a block; see `_parse_lines`."""
        pairs = zip(*_parse_lines(content), strict=True)
        if self.wanted is None:
            self.last.update(pairs)
        else:
            wanted = self.wanted
            self.last.update([each for each in pairs if each[0] in wanted])


def _parse_lines(content: bytes) -> tuple[list[int], list[bytes]]:
    """Return ids and lines, in format 2, of a block that ends with a newline.

    What is behind the last newline is being written, or was torn, and is left out.
    """
    content = content.removeprefix(HEADER)
    lines = content.split(b"\n")
    del lines[-1]
    taskids = _find_plain_ids(content, lines)
    if taskids is None:
        lines = [line for line in lines if _is_attempt(line)]
        taskids = [int(line[: line.find(b"\t")]) for line in lines]
        lines = [*map(_in_second_format, lines)]
    return taskids, lines


def _find_plain_ids(content: bytes, lines: Sequence[bytes]) -> list[int] | None:
    """Return the ids if all lines of a block are of format 2, else None."""
    # For all lines at once, because one by one takes longer than all the rest.
    heads = [line.partition(b"\t")[0] for line in lines]
    if not b"".join(heads).isdigit():
        return None
    if content.translate(None, _NO_FRAME) != (b"\t" * _TABS + b"\n") * len(lines):
        return None
    with suppress(ValueError):  # an empty field, or one of thousands of digits
        return [*map(int, heads)]
    return None


_NO_FRAME: Final = bytes({*range(256)} - {*b"\t\n"})
"""All bytes but those that part fields and lines."""


def _is_attempt(line: bytes) -> bool:
    head = line.partition(b"\t")[0]
    return (
        head.isdigit() and len(head) < _MAX_DIGITS and line.count(b"\t") in _TABS_OF_ANY
    )


def _in_second_format(line: bytes) -> bytes:
    """Return a line of either format in format 2, `NO_LINE` for an odd one."""
    if line.count(b"\t") == _TABS:
        return line
    return b"\t".join(next(split_rows(line + b"\n"), [NO_LINE]))


def blocks_of(path: str) -> Iterator[bytes]:
    """Yield the content of a file in blocks of `BYTES_AT_ONCE`."""
    with file_contents.content_of(path) as (_, content):
        for begin in range(0, len(content or b""), BYTES_AT_ONCE):
            yield (content or b"")[begin : begin + BYTES_AT_ONCE]


def parse_time(field: bytes) -> float:
    """Return seconds since the epoch; raise ValueError."""
    return datetime.fromisoformat(field.decode()).timestamp()


# ---- writing ------------------------------------------------------------------------


class AttemptsFile:
    """The attempts of one farm on their way into ``attempts.tsv``."""

    def __init__(self, paths: WorkdirPaths, farm: str, texts: Sequence[str]) -> None:
        self._paths = paths
        self._farm = farm
        self._texts = texts
        self._noted: list[tuple[Recorded, str]] = []
        """Attempts to be written, each with its farm."""
        self._is_first_format = False
        self._second = (-1, "")
        """The second of the last line, and its text: most lines have the same."""

    def begin(self, *, beside_others: bool) -> None:
        """Choose the format; alone, move lines of format 1 to ``attempts.1.tsv``.

        Raises `StorageError`: then the lines stay, and those of this farm are alike.
        """
        begins_with_first = self._begins_with(FIRST_HEADER)
        self._is_first_format = begins_with_first
        if beside_others or not (begins_with_first or self._ends_in_first()):
            return
        content = files.find_content(self._paths.attempts) or b""
        first, second = _divide(content)
        before = files.find_content(self._paths.first_attempts) or FIRST_HEADER
        # A kill between the two replacements leaves these lines in both files.
        if not before.endswith(first):
            self._replace(self._paths.first_attempts, before + first)
        self._replace(self._paths.attempts, HEADER + second)
        self._is_first_format = False

    def _begins_with(self, header: bytes) -> bool:
        return files.find_start(self._paths.attempts, len(header)) == header

    def _ends_in_first(self) -> bool:
        size = files.find_size(self._paths.attempts)
        end = files.find_rest(self._paths.attempts, max(0, size - _LAST_LINES))
        lines = end.split(b"\n")
        return len(lines) > 1 and lines[-2].count(b"\t") == len(FIRST_COLUMNS) - 1

    def _replace(self, path: str, content: bytes) -> None:
        files.replace(path, staging_of(path, self._farm), content)

    def note(self, results: Sequence[Recorded], farm: str | None = None) -> None:
        """Note attempts whose tasks run again; the next `append` writes them.

        `farm`: another farm that they were of.
        """
        self._noted += [(each, farm or self._farm) for each in results]

    def append(self, results: Sequence[Recorded] = ()) -> None:
        """Append a line for each attempt noted, then for each of these results.

        Raises `StorageError`.
        """
        encode = self._encode_first if self._is_first_format else self._encode
        lines = [encode(*each) for each in self._noted]
        lines += [encode(each, self._farm) for each in results]
        if not lines:
            return
        version = file_contents.find_version(self._paths.attempts)
        header = b"" if version and version.size else HEADER
        content = header + "".join(lines).encode("utf-8")
        files.append(self._paths.attempts, content, sync=False)
        self._noted.clear()

    def _encode(self, recorded: Recorded, farm: str) -> str:
        taskid, _, result, rank, _, host = recorded
        status, outcome = result.status, _COMPLETED
        if result.outcome is not Outcome.COMPLETED:
            outcome = outcome_in_words(result)
        signal = -status if status < 0 else 0
        second, ms = divmod(int(result.started * 1000), 1000)
        if second != self._second[0]:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second, text
        usage = "\t\t\t"
        if result.user_seconds is not None:
            usage = (
                f"{result.user_seconds:.6f}\t{result.system_seconds:.6f}\t"
                f"{result.peak_memory or ''}\t{_or_empty(result.output_bytes)}"
            )
        return (
            f"{taskid}\t{result.attempt}\t{outcome}\t"
            f"{128 + signal if signal else status}\t{signal}\t{host}\t{rank}\t"
            f"{_or_empty(result.worker_index)}\t{result.worker}\t"
            f"{self._second[1]}.{ms:03d}Z\t{result.seconds:.6f}\t{usage}\t"
            f"{farm}\t{escape(self._texts[taskid])}\n"
        )

    def _encode_first(self, recorded: Recorded, farm: str) -> str:
        result = recorded.result
        return (
            f"{recorded.taskid}\t{result.attempt}\t{result.status}\t{recorded.rank}\t"
            f"{result.worker}\t{result.started:.6f}\t{result.seconds:.6f}\t"
            f"{farm}\n"
        )


def outcome_in_words(result: Result) -> str:
    """Return the outcome in words, with the reason if the task was not run."""
    is_not_run = result.outcome is Outcome.NOT_RUN
    return result.note if is_not_run else result.outcome.value


def is_not_run(outcome: bytes) -> bool:
    """Return whether an outcome is that of a task that was not run."""
    return outcome.startswith(_NOT_RUN)


def has_run(outcome: bytes, host: bytes) -> bool:
    """Return whether a rank had an attempt with these fields.

    It had none of a task that was cancelled before, or not run since others had failed.
    """
    return not is_not_run(outcome) and (outcome != CANCELLED or host != b"")


def why_never_run(outcome: bytes, worker: bytes) -> str:
    """Return why no worker ever had an attempt with these fields, "" if one had it."""
    if is_not_run(outcome):
        return outcome.decode()
    is_cancelled = outcome == CANCELLED and not worker
    return "cancelled before it ran" if is_cancelled else ""


def find_awaited(outcome: bytes) -> int | None:
    """Return the failed task for which a task waits that was not run, else None."""
    found = _match_not_run(outcome)
    return int(found[1]) if found else None


_NOT_RUN: Final = NOT_RUN.encode()
_match_not_run = re.compile(_NOT_RUN + rb"task ([0-9]{1,18}) failed").fullmatch


def _or_empty(value: Any) -> Any:
    return "" if value is None else value


def _divide(content: bytes) -> tuple[bytes, bytes]:
    """Return the lines of format 1, then those of format 2, without headers."""
    first, second = [], []
    for line in content.split(b"\n"):
        fields = line.count(b"\t") + 1
        if not line[:1].isdigit():
            continue
        if fields == len(FIRST_COLUMNS):
            first.append(line + b"\n")
        elif fields == len(COLUMNS):
            second.append(line + b"\n")
    return b"".join(first), b"".join(second)
