"""The file of ``--events``: one line of JSON for each event, appended and synced.

Rules of this file: each line is whole, also beside other writers and on a disk that
fills up.  What could not be written is counted, and told.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress

from mpifarm.errors import StorageError
from mpifarm.hooks.definitions import HookDefinition
from mpifarm.hooks.sink import Report
from mpifarm.model.wording import counted
from mpifarm.system.files import append_beside_others
from mpifarm.system.regular_files import open_regular, read_end

SYNC_SECONDS = 1.0
"""Seconds for which events wait for others, to be written and synced together."""

MAX_KEPT = 1 << 18
"""Bytes that are written before that time is over."""


class EventsFile:
    """Appends lines to a file, in batches."""

    def __init__(self, definition: HookDefinition, report: Report) -> None:
        self._path = definition.options["path"]
        self._title = definition.title
        self._report = report
        self._kept: list[bytes] = []
        self._size = 0
        self._due_at = float("inf")
        self._lost = 0
        self._is_told = False

    def take(self, lines: Sequence[bytes]) -> None:
        """Keep lines; write all if they are many."""
        if not lines:
            return
        if not self._kept:
            self._due_at = time.monotonic() + SYNC_SECONDS
        self._kept += lines
        self._size += sum(map(len, lines))
        if self._size >= MAX_KEPT:
            self._write()

    def wake_at(self) -> float:
        """Return when the kept lines are due."""
        return self._due_at

    def step(self, now: float) -> None:
        """Write the kept lines if they are due."""
        if now >= self._due_at:
            self._write()

    def end(self) -> None:
        """Write what is kept, and tell how many lines were lost."""
        self._write()
        if self._lost:
            self._report(f"{counted(self._lost, 'event')} are missing in {self._path}")

    def _write(self) -> None:
        lines, self._kept, self._size = self._kept, [], 0
        self._due_at = float("inf")
        if not lines:
            return
        try:
            self._append(b"".join(lines))
        except (OSError, StorageError) as error:
            self._lost += len(lines)
            if not self._is_told:
                self._is_told = True
                why = error.strerror if isinstance(error, OSError) else error
                self._report(f"{self._title} does not get all events: {why}")

    def _append(self, content: bytes) -> None:
        with suppress(FileExistsError):
            os.close(open_regular(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        # A writer that was killed may have left a torn line, to which nothing belongs.
        if read_end(os.path.realpath(self._path), 1) not in (b"", b"\n"):
            content = b"\n" + content
        append_beside_others(self._path, content)
