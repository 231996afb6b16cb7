"""How a farm that a script has started has ended, as its workdir tells.

Rules of this file: it reads.  A launcher's exit status is not asked.  Several farms may
work in one workdir: a farm is known by a mark that stands in its command alone.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from mpifarm.commands.restart_policy import FarmResult, parse_result
from mpifarm.errors import ExitStatus
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.farm_file import list_farm_files
from mpifarm.store.farm_report import FarmReport, find_report


class Ending(NamedTuple):
    """The end of a farm."""

    exit_status: ExitStatus
    reason: str
    """Why it ended early, "" if it did not."""


def find_result(paths: WorkdirPaths) -> FarmResult | None:
    """Return the result of the last farm of a workdir, None without a whole one."""
    odd = (KeyError, TypeError, ValueError, AttributeError)
    with suppress(OSError, *odd), open(paths.result, "rb") as file:
        return parse_result(json.load(file))
    return None


def find_ending(
    paths: WorkdirPaths, mark: str, before: FarmResult | None
) -> Ending | None:
    """Return how the farm with this mark in its command ended, None if nothing says so.

    `before` is the result that the workdir had at the start.
    """
    result = find_result(paths)
    if result is not None and _is_of(find_report(paths, result.farm), mark):
        return _end_of(result.status, result.reason)
    for report in _find_reports(paths, mark):
        if report.exit_status is not None:
            return _end_of(report.exit_status, report.reason)
    is_new = result is not None and (before is None or result.farm != before.farm)
    if result is not None and is_new and find_report(paths, result.farm) is None:
        return _end_of(result.status, result.reason)  # The disk took no report.
    return None


def has_begun(paths: WorkdirPaths, mark: str) -> bool:
    """Return whether a farm with this mark in its command has told of itself."""
    return any(True for _ in _find_reports(paths, mark))


def _find_reports(paths: WorkdirPaths, mark: str) -> Iterator[FarmReport]:
    for farm in list_farm_files(paths):
        report = find_report(paths, farm)
        if report is not None and _is_of(report, mark):
            yield report


def _is_of(report: FarmReport | None, mark: str) -> bool:
    return report is not None and any(mark in word for word in report.command)


def _end_of(status: int, reason: str) -> Ending:
    known = status in frozenset(ExitStatus)
    if status == ExitStatus.WITH_OTHERS:
        reason = reason or "other farms hold what is left"
    return Ending(ExitStatus(status) if known else ExitStatus.DEFECT, reason)
