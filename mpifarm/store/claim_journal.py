"""The format of a claim: an append-only journal of the tasks that a farm holds.

Rules of this file: it opens nothing.  A journal has one JSON object a line, the head
first; unknown keys and events are ignored, and a line that is no whole JSON object was
torn and never happened.  Ids stand as ranges (``0-99,105``).

An event that changes a queue names the step that does so (``via``): as long as the
staging file of that step exists, the event has not happened.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpifarm.model.id_ranges import MAX_IDS, IdRangesError, encode_ids, parse_ids

FORMAT_VERSION = 1
_MAX_NUMBER = 10**15
"""Larger than the number of any step, and than the size of any file in bytes."""


class LockFile(NamedTuple):
    """A lock file that a farm takes, as that farm saw it."""

    path: str
    device: int
    inode: int


class Head(NamedTuple):
    """The first line of a claim.

    `process_start` is in clock ticks since boot, `started` in seconds since the epoch.
    `array` names the job array of the farm, "" outside of an array and in older claims.
    `requests` is 1 if the farm heeds requests of users, 0 in older claims.
    """

    farm: str
    host: str
    boot_id: str
    pid: int
    process_start: int
    started: float
    locks: tuple[LockFile, ...]
    array: str = ""
    requests: int = 0

    @property
    def where(self) -> str:
        """Host and pid, in words."""
        return f"on {self.host} (pid {self.pid})"


class Event(NamedTuple):
    """A line behind the head: the ids taken, put back to a queue, or done.

    `step` names the step of a queue by which the event happens, None without one.
    `failed` is the size of ``failed`` at the take, in bytes.  `giving` are ids that the
    farm is about to return to a tasklist that keeps its own state: from here on other
    farms may have them, or, if this farm dies, none.
    """

    take: Sequence[int] = ()
    put: Sequence[int] = ()
    done: Sequence[int] = ()
    giving: Sequence[int] = ()
    step: int | None = None
    failed: int = 0


class DamagedClaimError(ValueError):
    """A whole line that can't be understood, in a claim that has to be left alone."""


def encode_head(head: Head) -> bytes:
    """Return the first line of a claim."""
    record = {"version": FORMAT_VERSION, **head._asdict()}
    return json.dumps(record).encode("ascii") + b"\n"


def parse_head(line: bytes) -> Head:
    """Parse the first line; raises `DamagedClaimError`, also for an unknown version."""
    try:
        record = json.loads(line)
        version = record["version"]
        head = (
            None
            if version != FORMAT_VERSION
            else Head(
                farm=_word(record["farm"]),
                host=_word(record["host"]),
                boot_id=_word(record["boot_id"]),
                pid=_number(record["pid"], least=1),
                process_start=_number(record["process_start"]),
                started=_time(record["started"]),
                locks=tuple(map(_lock_file, record["locks"])),
                array=_word(record.get("array", "")),
                requests=_number(record.get("requests", 0)),
            )
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise DamagedClaimError("its first line can't be read") from error
    if head is None:
        raise DamagedClaimError(f"its format is version {version!r:.20}")
    return head


def _word(value: Any) -> str:
    # It is said to the user as it stands.
    if not isinstance(value, str) or not value.isprintable() or len(value) > 255:
        raise TypeError
    return value


def _number(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 10**20:
        raise TypeError
    return value


def _time(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _lock_file(value: Any) -> LockFile:
    path, device, inode = value[:3]
    if not isinstance(path, str):
        raise TypeError
    return LockFile(path, _number(device), _number(inode))


def encode_event(event: Event) -> bytes:
    """Return the line of an event."""
    record: dict[str, str | int] = {}
    for name, taskids in (
        ("take", event.take),
        ("put", event.put),
        ("done", event.done),
        ("giving", event.giving),
    ):
        if taskids:
            record[name] = encode_ids(taskids)
    if event.step is not None:
        record["via"] = event.step
    if event.take:
        record["failed"] = event.failed
    return json.dumps(record).encode("ascii") + b"\n"


def parse_event(line: bytes) -> Event | None:
    """Parse a line behind the head; return None for a torn line.

    Raises `DamagedClaimError` for a whole line with wrong values.
    """
    try:
        record = json.loads(line)
    except ValueError:
        return None
    except RecursionError as error:
        raise DamagedClaimError("one of its lines is damaged") from error
    if not isinstance(record, dict):
        return None
    return Event(
        take=_parse_ids(record.get("take", "")),
        put=_parse_ids(record.get("put", "")),
        done=_parse_ids(record.get("done", "")),
        giving=_parse_ids(record.get("giving", "")),
        step=None if record.get("via") is None else _parse_number(record["via"], 1),
        failed=_parse_number(record.get("failed", 0), 0),
    )


def _parse_ids(text: object) -> list[int]:
    try:
        return parse_ids(text)
    except IdRangesError as error:
        raise DamagedClaimError(f"no ranges of ids: {text!r:.60}") from error


def _parse_number(value: object, least: int) -> int:
    try:
        number = _number(value, least)
    except TypeError as error:
        raise DamagedClaimError("one of its lines is damaged") from error
    if number >= _MAX_NUMBER:
        raise DamagedClaimError("one of its lines is damaged")
    return number


class Journal:
    """The sum of the lines of a claim.

    `head` is None until it was read.  `held` maps each id that the farm holds to the
    size of ``failed`` at its take, in bytes.  `giving` are the ids that others may have
    meanwhile.  `last_step` is the number of the last step that the claim names.

    `step_happened` returns for the number of a step whether its staging file is gone.
    """

    def __init__(self, step_happened: Callable[[int], bool]) -> None:
        self.head: Head | None = None
        self.held: dict[int, int] = {}
        self.giving: set[int] = set()
        self.last_step = 0
        self._step_happened = step_happened
        self._pending: list[Event] = []
        """Events whose step has not happened yet."""
        self._rest = b""
        """A last line without its newline."""

    def feed(self, content: bytes) -> None:
        """Read on, and apply events that now have happened.

        A last line without newline waits for its rest, an event for its step.  Raises
        `DamagedClaimError`, and what `step_happened` raises.
        """
        *lines, self._rest = (self._rest + content).split(b"\n")
        self._apply_all(self._pending)
        for line in lines:
            if self.head is None:
                self.head = parse_head(line)
            elif event := parse_event(line):
                self._apply_all([*self._pending, event])

    def _apply_all(self, events: list[Event]) -> None:
        self._pending = []
        for event in events:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        """Apply an event; if its step has not happened, only `done` and `giving`."""
        for taskid in event.done:
            self.held.pop(taskid, None)
        self.giving.difference_update(event.done)
        self.giving.update(event.giving)
        if event.step is not None:
            self.last_step = max(self.last_step, event.step)
            if not self._step_happened(event.step):
                self._pending.append(event)
                return
        for taskid in event.put:
            self.held.pop(taskid, None)
        for taskid in event.take:
            self.held[taskid] = event.failed
        if len(self.held) > MAX_IDS:
            raise DamagedClaimError(f"it holds more than {MAX_IDS} tasks")
