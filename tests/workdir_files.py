"""The files of a workdir as docs/protocol.md describes them, read and written by tests.

Rules of this file: standard library only, and none of mpifarm's readers: no test judges
a reader by itself.  No other file of the tests knows the columns of ``attempts.tsv``.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple


class Attempt(NamedTuple):
    """A line of ``attempts.tsv``; times in seconds, `started` since 1970.

    `worker` is -1 where none had the task.  `status` is -n where signal n ended the
    command: the file has 128 + n and n.
    """

    taskid: int
    attempt: int = 1
    status: int = 0
    rank: int = 0
    worker: int = 0
    pid: int = 1
    started: float = 1.0
    seconds: float = 1.0
    farm: str = "x"
    outcome: str = ""
    host: str = "n1"
    user_seconds: str = "0.01"
    system_seconds: str = "0.02"
    peak_memory: str = ""
    output_bytes: str = "0"
    command: str = "true"

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def line(self) -> str:
        """The line with its newline."""
        signal = max(-self.status, 0)
        begun = datetime.fromtimestamp(self.started, UTC)
        cells = self._asdict() | {
            "status": 128 + signal if signal else self.status,
            "signal": signal,
            "worker": "" if self.worker < 0 else self.worker,
            "outcome": self.outcome or ("failed" if self.status else "completed"),
            "started": f"{begun:%Y-%m-%dT%H:%M:%S}.{begun.microsecond // 1000:03d}Z",
        }
        return "\t".join(str(cells[name]) for name in ATTEMPTS_COLUMNS) + "\n"

    @property
    def old_line(self) -> str:
        """The line as mpifarm 0.4.0 writes it, with its newline."""
        cells = (self.taskid, self.attempt, self.status, self.rank, self.pid)
        rest = (f"{self.started:.6f}", f"{self.seconds:.6f}", self.farm)
        return "\t".join(map(str, (*cells, *rest))) + "\n"


ATTEMPTS_COLUMNS = [
    "taskid",
    "attempt",
    "outcome",
    "status",
    "signal",
    "host",
    "rank",
    "worker",
    "pid",
    "started",
    "seconds",
    "user_seconds",
    "system_seconds",
    "peak_memory",
    "output_bytes",
    "farm",
    "command",
]
ATTEMPTS_HEAD = "\t".join(ATTEMPTS_COLUMNS) + "\n"
OLD_ATTEMPTS_HEAD = "taskid\tattempt\tstatus\trank\tworker\tstarted\tseconds\tfarm\n"


def format_attempts(*attempts: Attempt) -> str:
    """Return the whole file."""
    return ATTEMPTS_HEAD + "".join(attempt.line for attempt in attempts)


def split_attempts(content: bytes) -> tuple[list[Attempt], list[str]]:
    """Return the attempts, and the whole lines that are neither one nor the head."""
    attempts, odd = [], []
    for line in content.decode().split("\n")[:-1]:
        try:
            attempts.append(_parse_attempt(line))
        except ValueError:
            odd += [line] if f"{line}\n" != ATTEMPTS_HEAD else []
    return attempts, odd


def _parse_attempt(line: str) -> Attempt:
    cells: dict[str, Any] = dict(zip(ATTEMPTS_COLUMNS, line.split("\t"), strict=True))
    for name in ("taskid", "attempt", "status", "signal", "rank", "pid"):
        cells[name] = int(cells[name])
    cells["worker"] = int(cells["worker"] or -1)
    cells["seconds"] = float(cells["seconds"])
    cells["started"] = datetime.fromisoformat(cells["started"]).timestamp()
    if signal := cells.pop("signal"):
        assert cells["status"] == 128 + signal
        cells["status"] = -signal
    return Attempt(**cells)


def parse_ids(content: bytes, tasks: Sequence[str] | None = None) -> list[int]:
    """Return the ids of the whole lines of a status file, in their order.

    With `tasks`, only of the lines whose text is that of their task.
    """
    lines = [line for line in content.split(b"\n")[:-1] if line]
    if tasks is None:
        return [int(line.split(b" ")[0]) for line in lines]
    known = {os.fsencode(f"{i} {text}"): i for i, text in enumerate(tasks)}
    return [known[line] for line in lines if line in known]


def parse_ranges(text: str) -> set[int]:
    """Return the ids of ``0-99,105``."""
    ids: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids


class WorkdirFiles:
    """What is in a workdir, which need not be there yet."""

    def __init__(self, workdir: Path | str) -> None:
        self.workdir = Path(workdir)

    def content(self, name: str) -> bytes:
        """The bytes of a file, none where there is none."""
        try:
            return (self.workdir / name).read_bytes()
        except FileNotFoundError:
            return b""

    def held(self) -> dict[str, set[int]]:
        """The ids that each claim holds."""
        return {farm: self._held_by(farm) for farm in self.claims()}

    def _held_by(self, farm: str) -> set[int]:
        held: set[int] = set()
        for line in self.content(f"claims/{farm}").split(b"\n")[1:-1]:
            try:
                event = json.loads(line)
            except ValueError:  # a torn line: it never happened
                continue
            held -= parse_ranges(event.get("done", ""))
            staging = f"toprocess.{farm}.{event.get('via')}"
            if not (self.workdir / staging).exists():
                held -= parse_ranges(event.get("put", ""))
                held |= parse_ranges(event.get("take", ""))
        return held

    def ids(self, name: str, tasks: Sequence[str] | None = None) -> list[int]:
        """The ids in a status file; see `parse_ids`."""
        return parse_ids(self.content(name), tasks)

    def attempts(self) -> list[Attempt]:
        """The attempts, if nothing else is in ``attempts.tsv``."""
        attempts, odd = split_attempts(self.content("attempts.tsv"))
        assert not odd, odd
        return attempts

    def events(self, name: str = "timeline.json") -> list[dict[str, Any]]:
        """All events of a timeline, with its names and counters."""
        events: list[dict[str, Any]] = json.loads(self.content(name))
        return events

    def timeline(self, name: str = "timeline.json") -> list[dict[str, Any]]:
        """The events of attempts in a timeline."""
        return [event for event in self.events(name) if event["ph"] == "X"]

    def ranks_at_work(self) -> set[int]:
        """The ranks that have run a task whose result is on disk."""
        return {attempt.rank for attempt in self.attempts()}

    def claims(self) -> list[str]:
        """The names of the claims that farms hold or have left."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(self.workdir / "claims"))
        return []
