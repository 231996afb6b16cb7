"""``requests`` and ``answers``: what users ask of running farms, and what these say.

Rules of this file:

* Both files are appended to under the lock, by whole lines of one JSON object each.
* A request names the farms that lived when it was appended: these heed it, and no other
  does.  A farm joins under the same lock, so it is named or it has come later.  Where
  another rank leads a farm on, it heeds what the farm has not answered.
* A farm opens ``requests`` each second, and reads what is new: opened again, a file on
  NFS is up to date.
* A line that can't be understood is passed over, and told once.
* A start beside no other farm empties both: nobody waits for their lines any more.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from mpifarm.errors import StorageError
from mpifarm.model.id_ranges import IdRangesError, encode_ids, parse_ids
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.requests import (
    Answer,
    Fate,
    FateOfTasks,
    Request,
    RequestKind,
)
from mpifarm.store.membership import FAMILY
from mpifarm.system import files
from mpifarm.system.regular_files import OddFileError

MAX_AT_ONCE = 1 << 26
"""Bytes that are read at once: more than the longest line has."""

_HEAD = 128
"""Bytes in which the name of a file's first request stands."""

_MAX_WORD = 255
_SHOWN = 60
"""Characters of a damaged line that are shown."""


class DamagedLineError(ValueError):
    """A line that is no request, or no answer."""


class Asked(NamedTuple):
    """A line of ``requests``: the request, and the farms that are to heed it."""

    request: Request
    farms: tuple[str, ...]


class Answered(NamedTuple):
    """A line of ``answers``: the answer of one farm."""

    farm: str
    answer: Answer


# ---- the lines ----------------------------------------------------------------------


def encode_request(asked: Asked) -> bytes:
    """Return the line of a request."""
    request = asked.request
    record = {
        "request": request.name,
        "kind": request.kind.value,
        "tasks": None if request.tasks is None else encode_ids({*request.tasks}),
        "farms": asked.farms,
        "asker": request.asker,
        "time": _now(),
    }
    return json.dumps(record).encode("ascii") + b"\n"


def parse_request(line: bytes) -> Asked:
    """Parse a line of ``requests``; raises `DamagedLineError`."""

    def parse(record: dict[str, Any]) -> Asked:
        tasks = record["tasks"]
        ids = None if tasks is None else tuple(parse_ids(tasks))
        kind = RequestKind(record["kind"])
        if ids is None and kind is RequestKind.CANCEL:
            raise ValueError  # nothing cancels all tasks
        request = Request(_word(record["request"]), kind, ids, _word(record["asker"]))
        return Asked(request, tuple(_word(each) for each in record["farms"]))

    return _parse(line, parse)


def encode_answer(answered: Answered) -> bytes:
    """Return the line of an answer."""
    answer = answered.answer
    record = {
        "request": answer.request,
        "farm": answered.farm,
        "fates": [
            {
                "fate": each.fate.value,
                "host": each.host,
                "tasks": encode_ids(each.tasks),
            }
            for each in answer.fates
        ],
        "running": answer.running,
        "refusal": answer.refusal,
        "time": _now(),
    }
    return json.dumps(record).encode("ascii") + b"\n"


def parse_answer(line: bytes) -> Answered:
    """Parse a line of ``answers``; raises `DamagedLineError`."""

    def parse(record: dict[str, Any]) -> Answered:
        fates = tuple(
            FateOfTasks(
                Fate(each["fate"]), _word(each["host"]), tuple(parse_ids(each["tasks"]))
            )
            for each in record["fates"]
        )
        answer = Answer(
            *(_word(record["request"]), fates, int(record["running"])),
            _word(record["refusal"]),
        )
        return Answered(_word(record["farm"]), answer)

    return _parse(line, parse)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat()


def find_time(line: bytes) -> float:
    """Return when a line of either file was written, 0.0 if it does not say so."""
    with suppress(ValueError, TypeError, KeyError):
        return datetime.fromisoformat(json.loads(line)["time"]).timestamp()
    return 0.0


_Line = TypeVar("_Line", Asked, Answered)


def _parse(line: bytes, parse: Callable[[dict[str, Any]], _Line]) -> _Line:
    try:
        return parse(json.loads(line))
    except (
        *(ValueError, TypeError, KeyError, AttributeError),
        *(RecursionError, OverflowError, IdRangesError),
    ) as error:
        raise DamagedLineError(line.decode("utf-8", "backslashreplace")) from error


def _word(value: Any) -> str:
    # It is said to the user as it stands.
    if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_WORD:
        raise TypeError
    return value


# ---- reading on ---------------------------------------------------------------------


class LinesRead:
    """The whole lines of a file that others append to, replace, or empty."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that was read."""
        self._offset = 0
        self._head = b""
        """The first bytes of that file: another may have got its inode."""

    def poll(self) -> list[bytes]:
        """Return the whole lines since the last call; all again of another file.

        Raises OSError.
        """
        try:
            with files.opened(self._path, os.O_RDONLY) as descriptor:
                return self._read(descriptor)
        except FileNotFoundError:
            return []

    def _read(self, descriptor: int) -> list[bytes]:
        status = os.fstat(descriptor)
        file = (status.st_dev, status.st_ino)
        is_same = file == self._file and status.st_size >= self._offset
        if is_same and self._offset:
            is_same = os.pread(descriptor, len(self._head), 0) == self._head
        if not is_same:
            self._file, self._offset = file, 0
        if status.st_size == self._offset:
            return []
        content = os.pread(descriptor, MAX_AT_ONCE, self._offset)
        whole = content[: content.rfind(b"\n") + 1]
        if not self._offset:
            self._head = whole[:_HEAD]
        self._offset += len(whole)
        return whole.split(b"\n")[:-1]


# ---- a farm -------------------------------------------------------------------------


class RequestInbox:
    """The requests to one farm; `notes` takes sentences for the user."""

    def __init__(self, paths: WorkdirPaths, farm: str, notes: list[str]) -> None:
        self._paths = paths
        self._farm = farm
        self._notes = notes
        self._lines = LinesRead(paths.requests)
        self._known: set[str] = set()
        """The names of the requests that were met."""
        self._left: list[bytes] = []
        """Lines whose turn comes when ``answers`` can be read."""
        self._is_told = False
        """Whether the user knows that a file can't be read."""

    def begin(self, *, beside_others: bool) -> None:
        """Make both files, and empty them unless other farms may use them.  Lock held.

        A disk that fails is not told: nobody has asked anything yet.
        """
        for path in (self._paths.requests, self._paths.answers):
            with suppress(OSError), files.opened(path, os.O_WRONLY | os.O_CREAT):
                pass
            if not beside_others:
                files.truncate(path)

    def poll(self) -> list[Request]:
        """Return the new requests to this farm.

        A file that can't be read, and each damaged line, are told once.
        """
        try:
            lines = self._left + self._lines.poll()
        except OSError as error:
            self._tell_unread(error)
            return []
        self._left = []
        return [*self._choose(lines)] if lines else []

    def _choose(self, lines: Sequence[bytes]) -> Iterator[Request]:
        for place, line in enumerate(lines):
            if not line:
                continue
            try:
                request, farms = parse_request(line)
            except DamagedLineError as error:
                self._notes.append(
                    f"a line of {self._paths.requests} is no request, and was passed"
                    f" over: '{str(error)[:_SHOWN]}'"
                )
                continue
            if request.name in self._known:
                continue
            try:
                is_ours = self._is_to_be_heeded(request, farms)
            except StorageError as error:
                # Later lines wait, too: a release comes after its hold.
                self._left = [*lines[place:]]
                self._tell_deaf(str(error))
                return
            self._known.add(request.name)
            if is_ours:
                yield request

    def _is_to_be_heeded(self, request: Request, farms: Sequence[str]) -> bool:
        return self._farm in farms or self._is_left_by_predecessor(request, farms)

    def _is_left_by_predecessor(self, request: Request, farms: Sequence[str]) -> bool:
        """Return whether a rank that led this farm before has left the request open.

        Raises `StorageError` if ``answers`` can't be read.
        """
        family = self._farm[:FAMILY]
        if not any(farm.startswith(family) for farm in farms):
            return False
        answers = AnswerInbox(self._paths)
        return not any(
            answered.answer.request == request.name and answered.farm.startswith(family)
            for answered in answers.poll()
        )

    def _tell_unread(self, error: OSError) -> None:
        why = error.strerror or str(error)
        if isinstance(error, OddFileError):
            why = f"{why}, and has to be a file; remove it"
        self._tell_deaf(f"can't read {self._paths.requests}: {why}")

    def _tell_deaf(self, why: str) -> None:
        if not self._is_told:
            self._is_told = True
            self._notes.append(
                "this farm hears of no mpifarm cancel, hold, release or drain for now:"
                f" {why}"
            )

    def answer(self, answers: Sequence[Answer]) -> None:
        """Append answers of this farm.  Lock held.  Raises `StorageError`."""
        lines = [encode_answer(Answered(self._farm, each)) for each in answers]
        files.append(self._paths.answers, b"".join(lines), sync=True)


# ---- a command ----------------------------------------------------------------------


class AnswerInbox:
    """The answers of farms, as a command reads them."""

    def __init__(self, paths: WorkdirPaths) -> None:
        self._path = paths.answers
        self._lines = LinesRead(paths.answers)

    def poll(self) -> list[Answered]:
        """Return the new answers; lines that are none are passed over.

        Raises `StorageError`.
        """
        try:
            lines = self._lines.poll()
        except OSError as error:
            raise files.storage_error("read", self._path, error) from error
        answers = []
        for line in lines:
            with suppress(DamagedLineError):
                answers.append(parse_answer(line))
        return answers


def append_request(paths: WorkdirPaths, asked: Asked) -> None:
    """Append a request.  Lock held.  Raises `StorageError`."""
    files.append(paths.requests, encode_request(asked), sync=True)
