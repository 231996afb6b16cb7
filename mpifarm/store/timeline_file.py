"""``timeline.json`` on the disk: appended to, mended, left to others.

Rules of this file: `timeline` composes, this writes; the caller holds the lock.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths, copy_staging_of, staging_of
from mpifarm.model.wording import counted
from mpifarm.store import timeline
from mpifarm.store.tracks import Tracks
from mpifarm.store.types import Recorded
from mpifarm.system import files

LARGE_TIMELINE = 256 * 1024
"""Bytes of ``timeline.json`` above which plain farmers, which read the file at each
task, get a new one."""


MAX_SALVAGED = 4 * 1024 * 1024
"""Bytes of the largest invalid timeline whose events are saved, which takes 0.07 s a
MiB under the lock."""


JUDGED_BY_ITS_ENDS = 1 << 20
"""Bytes above which only the ends of a timeline are checked."""


COUNTER_SECONDS = 1.0
"""The least time between two events of the counters."""


class TornEnd(NamedTuple):
    """An append that failed: from `offset` on, the file may have a part of `pieces`."""

    path: str
    offset: int
    pieces: list[bytes]


class TimelineFile:
    """The timeline of one farm; `notes` takes sentences for the user.

    `count_waiting` returns how many tasks of the list nobody has begun, as far as this
    farm knows.
    """

    def __init__(
        self,
        paths: WorkdirPaths,
        farm: str,
        texts: Sequence[str],
        notes: list[str],
        count_waiting: Callable[[int], int] = lambda running: 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.count_running: Callable[[], int] | None = None
        """The number of tasks that run now; None: there are no counters."""
        self._paths = paths
        self._farm = farm
        self._texts = texts
        self._notes = notes
        self._count_waiting = count_waiting
        self._clock = clock
        self._path = paths.timeline
        """The file of the next append: this farm's own, once others have joined."""
        self._tracks = Tracks(farm)
        self._noted: list[Recorded] = []
        self._counted_at = 0.0
        """The time of the last counters, 0 before the first."""
        self._torn: TornEnd | None = None

    def note(self, results: Sequence[Recorded]) -> None:
        """Note attempts whose tasks run again; the next `append` writes their events.

        `close` writes those that are left.
        """
        self._noted += results

    def append(self, results: Sequence[Recorded]) -> None:
        """Take back a failed append, then append an event for each attempt.

        Attempts that were noted come first, the counters last, if it is time.  A
        timeline that does not end as one is moved aside and rebuilt.  Raises
        `StorageError`: no event is in the file then, or the next call removes them.
        """
        self._append([*self._noted, *results], len(results))

    def close(self) -> None:
        """Append the attempts that were noted, and the last counters if there are any.

        Raises `StorageError`.
        """
        if self._noted or self._counted_at:
            self._append(self._noted, 0, is_last=True)

    def _append(
        self, attempts: Sequence[Recorded], ended: int, *, is_last: bool = False
    ) -> None:
        """Append events.  The last `ended` attempts have no record yet."""
        self._cut_back()
        end = _find_end(self._path)
        if end is None:
            content = files.find_content(self._path)
            if content is not None:
                self._rebuild(self._path, content)
                end = _find_end(self._path)
                assert end is not None
        # Not before: a file that is new or rebuilt may be without the names.
        if end is None:
            self._tracks = Tracks(self._farm)
        now = self._clock()
        events = self._encode(attempts, ended, now, is_last=is_last)
        if end is None:
            self._create(events)
        else:
            self._write(end, events)
        self._tracks.names.clear()
        self._noted.clear()

    def _write(self, end: timeline.ArrayEnd, events: Sequence[bytes]) -> None:
        pieces = timeline.cut_pieces(end, events)
        try:
            files.write_tail(self._path, end.offset, pieces, b"]")
        except StorageError:
            self._torn = TornEnd(self._path, end.offset, pieces)
            raise

    def _encode(
        self, attempts: Sequence[Recorded], ended: int, now: float, *, is_last: bool
    ) -> list[bytes]:
        """Return the events of attempts, after new names and before the counters."""
        texts, find = self._texts, self._tracks.find
        events = [
            timeline.encode_event(texts[each.taskid], find(each), each)
            for each in attempts
        ]
        is_due = abs(now - self._counted_at) >= COUNTER_SECONDS
        if self.count_running is not None and (is_due or is_last):
            self._counted_at = now
            events.append(self._encode_counters(self.count_running(), ended, now))
        return [*self._tracks.names, *events]

    def _encode_counters(self, running: int, ended: int, now: float) -> bytes:
        waiting = max(self._count_waiting(running) - ended, 0)
        place = self._tracks.place_of_counters()
        values = {"running": running, "waiting": waiting}
        return timeline.encode_counter(place, now, values)

    def _create(self, events: Sequence[bytes]) -> None:
        try:
            self._replace(self._path, events)
        except StorageError:
            # The rename may have happened all the same.
            self._torn = TornEnd(self._path, 1, [timeline.encode_timeline(events)[1:]])
            raise

    def _cut_back(self) -> None:
        """Remove the part that a failed append has left in the file.

        If others have written behind that part since, only rebuild an invalid file.
        """
        if self._torn is None:
            return
        path, offset, pieces = self._torn
        left = files.find_rest(path, offset)
        if not timeline.is_part(left, pieces):
            self._mend(path)
        elif left != b"]":
            files.cut_back(path, offset, b"]")
        self._torn = None

    def mend(self) -> None:
        """Move an invalid timeline aside, rebuild it, and note that for the user.

        A valid or missing timeline stays as it is.  Raises `StorageError`.
        """
        self._mend(self._path)

    def _mend(self, path: str) -> None:
        try:
            if is_valid_timeline(path):
                return
        except FileNotFoundError:
            return
        except OSError as error:
            raise files.storage_error("read", path, error) from error
        self._rebuild(path, files.find_content(path) or b"")

    def leave_to_others(self) -> None:
        """Write to a file of this farm's own from now on.

        A large ``timeline.json`` becomes that file, and an empty one takes its place:
        plain farmers read it at each task.  Raises `StorageError`.
        """
        self._path = self._paths.timeline_of(self._farm)
        try:
            size = os.lstat(self._paths.timeline).st_size
        except OSError:
            size = 0
        # The farm's own file, if it is new, has no names yet.
        self._tracks = Tracks(self._farm)
        if size > LARGE_TIMELINE:
            files.rename(self._paths.timeline, self._path)
            self._replace(self._paths.timeline, ())

    def _replace(self, path: str, events: Sequence[bytes]) -> None:
        staging = staging_of(path, self._farm)
        files.replace(path, staging, timeline.encode_timeline(events))

    def _rebuild(self, path: str, content: bytes) -> None:
        """Move an invalid timeline aside, and put its whole events in its place.

        The events of a timeline above `MAX_SALVAGED` bytes are not saved.  A note tells
        the user.
        """
        self._tracks = Tracks(self._farm)
        aside = self._paths.timeline_aside(self._farm)
        if len(content) > MAX_SALVAGED:
            files.rename(path, aside)
            self._replace(path, ())
            self._notes.append(f"{path} was not valid JSON: it is {aside} now")
            return
        files.replace(aside, copy_staging_of(aside), content)
        events = timeline.salvage(content)
        self._replace(path, events)
        self._notes.append(
            f"{path} was not valid JSON: saved {counted(len(events), 'event')} of "
            f"it, and the old file is {aside}"
        )


def is_valid_timeline(path: str) -> bool:
    """Return whether the file is a JSON array.

    A large file whose ends are those of a timeline is not read whole.  Raises OSError.
    """
    size = os.lstat(path).st_size
    if size > JUDGED_BY_ITS_ENDS:
        with files.opened(path, os.O_RDONLY) as descriptor:
            head = os.pread(descriptor, 64, 0)
        if timeline.ends_well(head + files.read_from(path, size - (1 << 16))):
            return True
    try:
        return timeline.is_valid(files.read_from(path))
    except RecursionError:
        return False


def _find_end(path: str) -> timeline.ArrayEnd | None:
    """Return the end of the array, None if there is no file or no such end."""
    try:
        size = os.lstat(path).st_size
        offset = max(0, size - 64)
        return timeline.find_end(files.read_from(path, offset), offset)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.storage_error("read", path, error) from error
