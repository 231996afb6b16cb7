"""Attempts as a script sees them, read while a farm writes them.

Rules of this file: it reads, without the lock.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from mpifarm.errors import InputError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, decode_text
from mpifarm.model.wording import agree, counted
from mpifarm.output.reader import OutputReader, find_outputs
from mpifarm.store import attempts as lines
from mpifarm.system import file_contents, files

_UNENDED = frozenset({Outcome.INTERRUPTED.value, Outcome.LOST.value})


class Attempt(NamedTuple):
    """An attempt of a task that has ended."""

    taskid: int
    """The place of the task among the commands, from 0."""
    name: str | None
    """The name that was given with the command."""
    attempt: int
    """Counted from 1 in each farm; 0 for a task that no farm of mpifarm ran."""
    outcome: str
    """``completed``, ``failed``, ``timed out``, ``out of memory``, ``interrupted``,
    ``lost``, ``cancelled``, or ``not run`` with the reason."""
    status: int
    """The exit status, as ``$?`` in a shell."""
    signal: int
    """The signal that ended the command, 0 for none."""
    host: str
    rank: int
    worker: int | None
    pid: int
    started: float
    """Seconds since the epoch."""
    seconds: float
    user_seconds: float | None
    system_seconds: float | None
    peak_memory: int | None
    """Bytes of the largest process, if that is known."""
    output_bytes: int | None
    farm: str
    command: str

    @property
    def has_completed(self) -> bool:
        """Whether the command ended with status 0."""
        return self.outcome == Outcome.COMPLETED.value

    @property
    def has_failed(self) -> bool:
        """Whether the attempt has ended otherwise, by itself or by a user's order.

        False if a stop or a loss has ended it.  It says nothing of the task, which may
        have retries left: `Results.failed` does.
        """
        return not self.has_completed and self.outcome not in _UNENDED


def name_attempt(line: lines.Attempt, names: Sequence[str | None]) -> Attempt:
    """Return an attempt with its name, of the names of all tasks."""
    fields = line._asdict()
    command = decode_text(fields.pop("command") or b"")
    name = names[line.taskid] if line.taskid < len(names) else None
    return Attempt(name=name, command=command, **fields)


class AttemptReader:
    """The attempts in a workdir, read on and on.

    A line that is being written, or was torn, waits for its end.
    """

    def __init__(self, paths: WorkdirPaths, names: Sequence[str | None]) -> None:
        self._paths = paths
        self._names = names
        self._file: tuple[int, int] | None = None
        """Device and inode of the file, which a farm may replace."""
        self._offset = 0
        self._returned = 0
        """The number of attempts that were returned."""

    def read(self) -> list[Attempt]:
        """Return the attempts that have come since; raise `StorageError`."""
        version = file_contents.find_version(self._paths.attempts)
        if version is None:
            return []
        file = version.device, version.inode
        if file != self._file:
            return self._read_anew(file)
        if version.size <= self._offset:
            return []
        rest = files.find_rest(self._paths.attempts, self._offset)
        return self._note(file, self._offset, rest, self._parse(rest))

    def _read_anew(self, file: tuple[int, int]) -> list[Attempt]:
        """Return the attempts of both files, without those that were returned.

        A farm replaces the file when it moves the lines of format 1 out of it.
        """
        first = files.find_content(self._paths.first_attempts) or b""
        second = files.find_content(self._paths.attempts) or b""
        found = [*self._parse(first), *self._parse(second)][self._returned :]
        return self._note(file, 0, second, found)

    def _parse(self, content: bytes) -> list[Attempt]:
        found: list[Attempt] = []
        for fields in lines.split_rows(content):
            with suppress(ValueError):
                found.append(name_attempt(lines.parse_row(fields), self._names))
        return found

    def _note(
        self, file: tuple[int, int], begin: int, content: bytes, found: list[Attempt]
    ) -> list[Attempt]:
        """Note, when all is parsed, how far the file was read; return what was found.

        A Ctrl-C before this line costs nothing: the same lines are read again.
        """
        place = file, begin + content.rfind(b"\n") + 1, self._returned + len(found)
        self._file, self._offset, self._returned = place
        return found


def read_output(paths: WorkdirPaths, taskid: int, total: int) -> str:
    """Return what the last attempt of a task has printed, "" if nothing is kept.

    `total` is the number of tasks that were given.  Raises `InputError` for any other
    that has no output (others may have been added), OSError, and `StorageError`.
    """
    outputs = find_outputs(paths.logs, taskid, split=True) if taskid >= 0 else []
    if not outputs and not 0 <= taskid < total:
        there_are = f"there {agree(total, 'is', 'are')} {counted(total)}, from 0 on"
        raise InputError(f"there is no task {taskid}: {there_are}")
    if not outputs:
        return ""
    reader = OutputReader(outputs[-1])
    try:
        parts = [*iter(reader.read, b"")]
    finally:
        reader.close()
    return b"".join(parts).decode("utf-8", "replace")
