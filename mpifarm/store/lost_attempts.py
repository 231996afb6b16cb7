"""The attempts that a dead farm had running, and whose end nobody has seen.

Rules of this file: it reads, with the lock held, and never raises: ``attempts.tsv`` has
no results, and no start depends on it.
"""

from collections.abc import Collection
from contextlib import suppress
from signal import SIGKILL
from typing import Final

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.task import Outcome, Result
from mpifarm.store.attempts import Column, escape, parse_row, read_last_rows
from mpifarm.store.farm_report import FarmReport, find_report
from mpifarm.store.membership import FAMILY
from mpifarm.store.types import Recorded
from mpifarm.system import files

MAX_READ: Final = 8 << 20
"""Bytes at the end of ``attempts.tsv`` that are read: some 50 000 attempts."""

SURE_SECONDS: Final = 60.0
"""Seconds by which an attempt must have ended before a moment, so that its line was
written before that moment as well."""


def find_lost_attempts(
    paths: WorkdirPaths, farm: str, taskids: Collection[int]
) -> list[Recorded]:
    """Return the attempts of these tasks that a dead farm called running last.

    One that has a line already, because it ended later, is left out.  If more was
    written since than `MAX_READ`, nobody knows which have: then none is returned.
    """
    report = find_report(paths, farm)
    wanted = {*taskids}
    ran = {each.taskid: each for each in report.running} if report else {}
    lost = [each for taskid, each in ran.items() if taskid in wanted]
    if report is None or not lost:
        return []
    standing = _find_standing(paths, report)
    if standing is None:
        return []
    return [
        Recorded(
            each.taskid,
            False,
            Result(
                *(each.taskid, each.attempt, Outcome.LOST, -SIGKILL, 0),
                *(each.started, 0.0, 0.0),
                worker_index=each.worker,
            ),
            each.rank,
            0,
            escape(each.host),
        )
        for each in lost
        if (each.taskid, each.attempt) not in standing
    ]


def _find_standing(
    paths: WorkdirPaths, report: FarmReport
) -> set[tuple[int, int]] | None:
    """Return task and attempt of each line that a farm wrote since its last report.

    Lines from before may be among them.  None if more was written since than is read.
    """
    with suppress(StorageError, ValueError):
        rows = [*read_last_rows(paths, MAX_READ)]
        if rows and files.find_size(paths.attempts) > MAX_READ:
            first = parse_row(rows[0])
            if first.started + first.seconds > report.written - SURE_SECONDS:
                return None
        family = report.farm[:FAMILY].encode()
        return {
            (int(fields[Column.TASKID]), int(fields[Column.ATTEMPT]))
            for fields in rows
            if fields[Column.FARM].startswith(family)
        }
    return None
