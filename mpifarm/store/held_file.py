"""``held``: the tasks that users hold, for farms that start later.

Rules of this file: it is replaced whole, under the lock, by the command that holds or
releases tasks; farms read it as they join, and change what they know by the requests
that follow.
"""

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mpifarm.model.id_ranges import IdRangesError, encode_ids, parse_ids
from mpifarm.model.paths import WorkdirPaths, copy_staging_of
from mpifarm.model.requests import Request, RequestKind
from mpifarm.system import files

VERSION = 1


class Held(NamedTuple):
    """What users hold."""

    tasks: frozenset[int] = frozenset()
    holds_all: bool = False

    def holds(self, taskid: int) -> bool:
        """Return whether a task must wait until it is released."""
        return self.holds_all or taskid in self.tasks

    def after(self, request: Request) -> "Held":
        """Return what is held once this request is carried out."""
        tasks = request.tasks
        if request.kind is RequestKind.HOLD:
            if tasks is None:
                return self._replace(holds_all=True)
            return self._replace(tasks=self.tasks.union(tasks))
        if request.kind is RequestKind.RELEASE:
            if tasks is None:
                return Held()
            return self._replace(tasks=self.tasks.difference(tasks))
        return self

    def count_left(self, total: int, has_ended: Callable[[int], bool]) -> int:
        """Return how many tasks of a list, of `total`, are held and have not ended."""
        return sum(each < total and not has_ended(each) for each in self.tasks)


NOTHING_HELD: Final = Held()


def encode_held(held: Held) -> bytes:
    """Return the content of the file."""
    record = {
        "version": VERSION,
        "all": held.holds_all,
        "tasks": encode_ids(held.tasks),
    }
    return json.dumps(record).encode("ascii") + b"\n"


def parse_held(content: bytes) -> Held | None:
    """Return what a content says, None if it is damaged or of another version."""
    try:
        record: Any = json.loads(content)
        if record["version"] != VERSION:
            return None
        return Held(frozenset(parse_ids(record["tasks"])), record["all"] is True)
    except (ValueError, TypeError, KeyError, RecursionError, IdRangesError):
        return None


def find_held(paths: WorkdirPaths) -> tuple[Held, str] | None:
    """Return what is held, and a sentence if the file is damaged; None without one.

    Raises `StorageError`.
    """
    content = files.find_content(paths.held)
    if content is None:
        return None
    held = parse_held(content)
    if held is None:
        return Held(), (
            f"{paths.held} can't be read: no task is held (to hold some, give mpifarm"
            " hold again)"
        )
    return held, ""


def replace_held(paths: WorkdirPaths, held: Held) -> None:
    """Replace the file.  Lock held.  Raises `StorageError`."""
    files.replace(paths.held, copy_staging_of(paths.held), encode_held(held))
