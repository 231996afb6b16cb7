"""What goes on in a workdir, put together for those who look.

Rules of this file: it reads, without the lock, and words nothing.  Times are in seconds
since the epoch, ages in seconds.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final, NamedTuple

from mpifarm.audit.farms import Farm, Life, read_farms
from mpifarm.audit.view import State, View, is_of, read_view
from mpifarm.causes.lines import last_printed
from mpifarm.model.wording import TimeLeft
from mpifarm.output.tails import read_tail
from mpifarm.store.attempts import Attempt
from mpifarm.store.attempts_scan import (
    count_completed_lines,
    find_last_attempts,
    find_without_attempt,
)
from mpifarm.store.farm_liveness import Machine
from mpifarm.store.farm_report import FarmReport, RunningReport
from mpifarm.store.target import Target
from mpifarm.system.processes import find_directory

RECORD_SECONDS: Final = 0.2
"""Seconds within which a farm writes the attempt of a task that it calls finished."""

RECENT_SECONDS: Final = 24 * 3600.0
"""Seconds for which a farm that has died, and has no claim any more, is told of."""


EARLY_SECONDS: Final = 10.0
"""Seconds from a farm's start on for which no rate is no news."""


class Running(NamedTuple):
    """A running task, its farm, and what that said of it."""

    farm: Farm
    report: RunningReport


class FailedTask(NamedTuple):
    """A task that failed.

    `attempt` is None if another farmer has run it, `last_line` "" without an output.
    """

    taskid: int
    attempt: Attempt | None
    last_line: str


@dataclass(frozen=True)
class Status:
    """The state of a workdir, at `now`."""

    view: View
    farms: list[Farm]
    failed: list[FailedTask]
    """The tasks that failed last, the last one first."""
    by_others: int
    """Finished tasks without an attempt of mpifarm's."""
    now: float
    directory: str
    """The directory of those who look, "" if it was removed."""

    @property
    def live(self) -> list[Farm]:
        """The farms that live, or may."""
        return [farm for farm in self.farms if farm.lives]

    @property
    def dead(self) -> list[Farm]:
        """The farms that died and still hold tasks, or died lately."""
        return [
            farm
            for farm in self.farms
            if farm.life is Life.DIED
            and (farm.claim or self.now - farm.heard < RECENT_SECONDS)
        ]

    @property
    def is_left(self) -> bool:
        """Whether any task has, or may have, neither finished nor failed."""
        if not self.view.list_is_known:  # or it keeps its own state, as it alone knows
            return True
        counts = self.view.counts
        return counts[State.FINISHED] + counts[State.FAILED] < sum(counts.values())

    @property
    def last_gone(self) -> Farm | None:
        """The farm that ended or died last, None if there is none."""
        gone = [
            farm
            for farm in self.farms
            if farm.life is Life.ENDED
            or (farm.life is Life.DIED and not farm.is_damaged)
        ]
        return max(gone, key=lambda farm: farm.heard, default=None)

    @property
    def last_report(self) -> FarmReport | None:
        """What was said last by any farm that does not live any more."""
        reports = [farm.report for farm in self.farms if farm.report and not farm.lives]
        return max(reports, key=lambda report: report.written, default=None)

    @cached_property
    def no_limit(self) -> Mapping[str, int]:
        """How many tasks wait of each kind that has no limit in the farms that live.

        Where none lives, the last one counts.  A farm of an older version starts tasks
        of all kinds.
        """
        reports = [farm.report for farm in self.live]
        if not reports and self.last_report:
            reports = [self.last_report]
        limits = set[str]()
        for report in reports:
            if report is None or report.limits is None:
                return {}
            limits.update(report.limits)
        return self.view.count_waiting_of_kinds(limits) if reports else {}

    @property
    def goes_on(self) -> bool:
        """Whether any farmer lives, or may: a plain farmer has tasks in no file.

        Of a list that was edited, the changed lines are in no file, either.
        """
        in_no_file = self.view.counts[State.NOWHERE] > 0
        return bool(self.live) or (in_no_file and not self.view.is_edited)

    @property
    def has_ended_tasks(self) -> bool:
        """Whether any task has finished or failed."""
        counts = self.view.counts
        return counts[State.FINISHED] + counts[State.FAILED] > 0

    @cached_property
    def counts(self) -> Mapping[State, int]:
        """The number of tasks in each state; RUNNING are those that farms count.

        CLAIMED are those that farms have taken, and that have not begun.
        """
        counts = dict(self.view.counts)
        taken = counts[State.RUNNING] + counts[State.CLAIMED]
        told = [farm.report.running_count for farm in self.live if farm.report]
        running = min(taken, max(sum(told), counts[State.RUNNING]))
        return counts | {State.RUNNING: running, State.CLAIMED: taken - running}

    @cached_property
    def running(self) -> list[Running]:
        """The tasks of which it is known where they run, the longest-running first."""
        found = [
            Running(farm, each)
            for farm in self.live
            for each in farm.find_running()
            if self.view.state(each.taskid) is State.RUNNING
        ]
        return sorted(found, key=lambda each: each.report.started)

    def find_unended(self, farm: Farm) -> list[RunningReport]:
        """Return what a dead farm ran and has not ended, the longest-running first."""
        ran = farm.report.running if farm.report else ()
        found = [
            each
            for each in ran
            if self.view.state(each.taskid) is not State.FINISHED
            and (farm.claim is None or each.taskid in farm.held)
        ]
        return sorted(found, key=lambda each: each.started)

    @property
    def rate(self) -> float | None:
        """The tasks per second of all farms, None if none tells it."""
        rates = [farm.report.rate for farm in self.live if farm.report]
        return sum(rates) if rates else None

    @property
    def is_early(self) -> bool:
        """Whether all farms that tell a rate have just begun, so that it tells little.

        What ended since they told of themselves is not in it.
        """
        begun = [farm.report.started for farm in self.live if farm.report]
        return all(self.now - each < EARLY_SECONDS for each in begun)

    @property
    def outruns(self) -> bool:
        """Whether all that is left runs, and has far longer than any that has ended."""
        reports = [farm.report for farm in self.live if farm.report]
        return bool(reports) and all(report.outruns for report in reports)

    @property
    def time_left(self) -> TimeLeft | None:
        """The time left from now on, of the farm that expects the latest end."""
        found = [
            TimeLeft(*(max(0.0, each - age) for each in left))
            for farm in self.live
            if farm.report and (left := farm.report.time_left)
            for age in [max(0.0, self.now - farm.report.written)]
        ]
        return max(found, key=lambda left: left.likely, default=None)


def read_status(
    target: Target,
    environ: Mapping[str, str],
    *,
    most_failed: int,
    machine: Machine | None = None,
) -> Status:
    """Read the workdir and what its farms say; `most_failed` tasks are looked up.

    Raises `InputError` if the list cannot be used, `StorageError` if the disk fails.
    """
    view = read_view(target, environ, machine)
    now = time.time()
    farms = read_farms(view.paths, view.claims, now)
    failed = _find_failed(view, most_failed)
    return Status(view, farms, failed, _count_by_others(view), now, find_directory())


def _find_failed(view: View, most: int) -> list[FailedTask]:
    taskids = view.last_failed(most)
    attempts = find_last_attempts(view.paths, taskids)
    found = []
    for taskid in taskids:
        attempt = attempts.find(taskid)
        if attempt and not is_of(State.FAILED, attempt.outcome.encode()):
            attempt = None
        tail = read_tail(view.paths.logs, taskid)
        found.append(FailedTask(taskid, attempt, last_printed(tail)))
    return found


def _count_by_others(view: View) -> int:
    """Return the number of finished tasks without an attempt of mpifarm's."""
    finished = view.counts[State.FINISHED]
    # As many attempts as tasks: the quick answer for a list of a million tasks.
    if not finished or count_completed_lines(view.paths) == finished:
        return 0
    # A farm that lives may be about to write attempts.
    wait = partial(time.sleep, RECORD_SECONDS) if view.live_farms else None
    taskids = view.ids_in(State.FINISHED)
    return len(find_without_attempt(view.paths, taskids, wait=wait))
