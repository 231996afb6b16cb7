"""The attempts that a dead farm had running, and whose end nobody has seen.

Rules of this file: it reads, with the lock held, and never raises: ``attempts.tsv`` has
no results, and no start depends on it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from signal import SIGKILL
from typing import TYPE_CHECKING, Final

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result
from mpifarm.store.attempts import Column, escape, parse_row, read_last_rows
from mpifarm.store.membership import FAMILY
from mpifarm.store.types import Recorded
from mpifarm.system import files

if TYPE_CHECKING:
    from mpifarm.store.farm_report import FarmReport, RunningReport

MAX_READ: Final = 8 << 20
"""Bytes at the end of ``attempts.tsv`` that are read: some 50 000 attempts."""

SURE_SECONDS: Final = 60.0
"""Seconds by which an attempt must have ended before a moment, so that its line was
written before that moment as well."""


class LostAttempts:
    """The attempts that dead farms had running, of the tasks that were reclaimed.

    The files are read once for all these farms, however many there are.
    """

    def __init__(self, paths: WorkdirPaths) -> None:
        self._paths = paths
        self._reclaimed: dict[str, frozenset[int]] = {}
        """The reclaimed tasks of each dead farm."""

    def note_reclaimed(self, farm: str, taskids: Iterable[int]) -> None:
        """Note tasks of a dead farm that nobody can reclaim again."""
        self._reclaimed[farm] = frozenset(taskids)

    def take(self) -> Iterator[tuple[str, list[Recorded]]]:
        """Yield each dead farm with its lost attempts, and forget the noted tasks.

        One that has a line already, because it ended later, is left out.  If more was
        written since than `MAX_READ`, nobody knows which have: then none is returned.
        """
        reclaimed, self._reclaimed = self._reclaimed, {}
        if not reclaimed:
            return
        from mpifarm.store.farm_report import find_report  # for the few who need it

        lost: list[tuple[FarmReport, list[RunningReport]]] = []
        for farm, taskids in reclaimed.items():
            if report := find_report(self._paths, farm):
                ran = {each.taskid: each for each in report.running}
                if running := [ran[each] for each in ran if each in taskids]:
                    lost.append((report, running))
        standing = _find_standing(self._paths, [report for report, _ in lost])
        for report, running in lost:
            there = standing.get(report.farm)
            if there is not None:
                yield (
                    report.farm,
                    [
                        _record_lost(each)
                        for each in running
                        if (each.taskid, each.attempt) not in there
                    ],
                )


def _record_lost(running: "RunningReport") -> Recorded:
    return Recorded(
        running.taskid,
        False,
        Result(
            *(running.taskid, running.attempt, Outcome.LOST, -SIGKILL, 0),
            *(running.started, 0.0, 0.0),
            worker_index=running.worker,
        ),
        running.rank,
        0,
        escape(running.host),
    )


def _find_standing(
    paths: WorkdirPaths, reports: Sequence["FarmReport"]
) -> dict[str, set[tuple[int, int]]]:
    """Return task and attempt of each line that a farm wrote since its last report.

    Lines from before may be among them.  A farm is left out if more was written since
    than is read.
    """
    families = {report.farm[:FAMILY].encode() for report in reports}
    if not families:
        return {}
    standing = {family: set[tuple[int, int]]() for family in families}
    with suppress(StorageError, ValueError):
        rows = [*read_last_rows(paths, MAX_READ)]
        begun = -math.inf
        if rows and files.find_size(paths.attempts) > MAX_READ:
            first = parse_row(rows[0])
            begun = first.started + first.seconds + SURE_SECONDS
        for fields in rows:
            there = standing.get(fields[Column.FARM][:FAMILY])
            if there is not None:
                taskid, attempt = fields[Column.TASKID], fields[Column.ATTEMPT]
                there.add((int(taskid), int(attempt)))
        return {
            report.farm: standing[report.farm[:FAMILY].encode()]
            for report in reports
            if begun <= report.written
        }
    return {}
