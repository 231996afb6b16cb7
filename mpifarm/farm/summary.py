"""What a farm says about itself: the live line, the summary, and ``result.json``.

Rules of this file: it words and counts, and writes nothing.  Times are in seconds;
`now` is the monotonic clock.
"""

from bisect import insort
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote
from signal import Signals
from typing import TYPE_CHECKING, NamedTuple

from mpifarm.errors import ExitStatus
from mpifarm.farm.cause_lines import GroupedFailures, describe_causes, describe_memory
from mpifarm.immutable import immutable
from mpifarm.model.id_ranges import name_ids
from mpifarm.model.task import (
    LEFT_RUNNING,
    NOT_RUN,
    Outcome,
    Result,
    has_not_run,
)
from mpifarm.model.wording import agree, counted, duration_in_words

if TYPE_CHECKING:
    from mpifarm.coordinator.quarantine import OutOfUse

MEANINGS = {
    ExitStatus.ALL_FINISHED: "all tasks of the list are finished",
    ExitStatus.SOME_FAILED: "nothing is left to do; some tasks failed",
    ExitStatus.BAD_INPUT: "the command line or an input is wrong",
    ExitStatus.WITH_OTHERS: (
        "nothing is left to start; some tasks are with another farm, or in no file"
    ),
    ExitStatus.DEFECT: "a defect of mpifarm",
    ExitStatus.RUN_AGAIN: "tasks are left: give the same command again to go on",
}
"""The exit statuses in words."""

MAX_STATUSES = 10_000
MAX_LEFT_SHOWN = 10
MAX_SINGLE = 3
"""Failures that are told one by one; more are told by cause."""
RATE_SECONDS = 10.0
LONG_RATE_SECONDS = 60.0


class ListCounts(NamedTuple):
    """The numbers of the list's tasks by place, whichever farm ran them."""

    total: int
    finished: int
    failed: int
    toprocess: int
    elsewhere: int
    """Tasks with other farmers, or in no file."""
    claimed: int = 0
    """Tasks elsewhere that are held by other farms, which live, or may."""
    is_counted: bool = True
    """Whether all could be counted; if not, `toprocess` and `elsewhere` are 0."""
    in_array: int = 0
    """Claimed tasks that are held by living farms of the same job array."""
    held_up: int = 0
    """Tasks to process that have to wait for others, by the list's order."""

    @property
    def exit_status(self) -> ExitStatus:
        """The exit status by which a job script learns of these counts."""
        if self.toprocess > self.held_up:
            return ExitStatus.RUN_AGAIN
        if self.finished == self.total:
            return ExitStatus.ALL_FINISHED
        if self.finished + self.failed == self.total:
            return ExitStatus.SOME_FAILED
        return ExitStatus.WITH_OTHERS

    @property
    def is_in_good_hands(self) -> bool:
        """Whether all that is left is with living farms of the same job array.

        Nothing may have failed either: then one of them could end with 0 though no
        task of the list will ever be run again.
        """
        is_left = self.exit_status is ExitStatus.WITH_OTHERS
        return is_left and not self.failed and self.elsewhere == self.in_array


class FailedTask(NamedTuple):
    """A failed task, the failure in words, and the path of its log.

    The path is empty where the log is no file of its own: ``mpifarm log`` finds it.
    """

    taskid: int
    how: str
    log: str
    is_of_this_farm: bool = True

    def in_words(self, workdir: str = "") -> str:
        """Return the task's line of the summary.

        Without a path of the log, the line names the command that finds the log in
        `workdir`.
        """
        log = self.log or f"mpifarm log {workdir} {self.taskid}"
        return f"task {self.taskid}: {self.how}, see {log}"


@dataclass(slots=True)
class Tally:
    """The work of this farm, in numbers."""

    started: float
    """Monotonic."""
    worker_count: int = 0
    done_before: int = 0
    """Tasks of the list that had ended when this farm began."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    retried: int = 0
    """Attempts whose tasks ran again."""
    busy: float = 0.0
    """Seconds that workers spent in tasks."""
    cut_short: int = 0
    """Tasks with an output that could not be kept whole."""
    first_cut: str = ""
    """The first task with such an output, and why."""
    left_running: int = 0
    """Tasks that ended before processes that they had started."""
    first_left: list[int] = field(default_factory=list)
    """The first such tasks, at most `MAX_LEFT_SHOWN`."""
    first_not_run: list[int] = field(default_factory=list)
    """The lowest ids of tasks that were not run, at most `MAX_LEFT_SHOWN`."""
    statuses: dict[int, str] = field(default_factory=dict)
    """The words for the failure of each task, by id; the first `MAX_STATUSES`."""
    repeated: int = 0
    """Results of tasks that had failed in this farm before: users put them back."""
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, result: Result) -> None:
        """Count a recorded result, its seconds, its note and, in words, its failure."""
        self.outcomes[result.outcome] += 1
        if result.outcome is Outcome.NOT_RUN:
            insort(self.first_not_run, result.taskid)
            del self.first_not_run[MAX_LEFT_SHOWN:]
            return
        self.busy += result.seconds
        if result.note == LEFT_RUNNING:
            self.left_running += 1
            if len(self.first_left) < MAX_LEFT_SHOWN:
                self.first_left.append(result.taskid)
        elif result.note and not result.note.startswith(NOT_RUN):
            self.cut_short += 1
            self.first_cut = self.first_cut or f"task {result.taskid}: {result.note}"
        if self.statuses and self.statuses.pop(result.taskid, None) is not None:
            self.repeated += 1
        failed = result.outcome is not Outcome.COMPLETED
        if failed and len(self.statuses) < MAX_STATUSES:
            how = how_it_failed(result)
            self.statuses[result.taskid] = f"{how}{_count_attempts(result)}"

    def note_retry(self, result: Result) -> None:
        """Count an attempt whose task runs again, unless it was lost."""
        if result.outcome is Outcome.LOST:
            return
        self.retried += 1
        self.busy += result.seconds

    @property
    def ran(self) -> int:
        """Results that were recorded, without those of tasks that were not run."""
        return self.outcomes.total() - self.not_run

    @property
    def not_run(self) -> int:
        """Tasks that were not run, since others had failed."""
        return self.outcomes[Outcome.NOT_RUN]

    def rate(self, now: float) -> float:
        """Return the tasks recorded per second in the last `RATE_SECONDS`.

        If there were none, return that of the last `LONG_RATE_SECONDS`: tasks that take
        longer end by bursts.  Each call adds a sample, from which later calls count.
        """
        samples = self._recent
        samples.append((now, self.ran))
        while now - samples[0][0] > LONG_RATE_SECONDS and len(samples) > 2:
            samples.popleft()
        first = samples[0] if len(samples) > 1 else (self.started, 0)
        late = (each for each in samples if now - each[0] <= RATE_SECONDS)
        then, ran = next(late)
        if ran == self.ran:
            then, ran = first
        seconds = now - then
        return (self.ran - ran) / seconds if seconds > 0 else 0.0

    def share(self, done: int) -> float:
        """Return the share of the tasks that end which this farm runs, 0 to 1.

        `done` is how many of the list have ended by now, whichever farm ran them.
        """
        grown = done - self.done_before - self.not_run
        return min(1.0, self.ran / grown) if self.ran and grown > 0 else 1.0

    def busy_share(self, now: float) -> float:
        """Return the share of the workers' time that went into tasks, 0 to 1."""
        available = self.worker_count * (now - self.started)
        return min(1.0, self.busy / available) if available > 0 else 0.0


def how_it_failed(result: Result) -> str:
    """Return how an attempt failed, in words, with its note."""
    if result.note.startswith(NOT_RUN):
        return result.note
    how = _how_it_ended(result)
    return f"{how}; {result.note}" if result.note else how


_TELL_TIME = (Outcome.CANCELLED, Outcome.LOST, Outcome.TIMED_OUT)
"""Outcomes whose words say when the attempt ended, or that nobody knows."""


def failed_in_words(result: Result) -> str:
    """Return that an attempt failed, how, and after which time, each once."""
    words = f"failed ({how_it_failed(result)}{_count_attempts(result)})"
    if result.outcome in _TELL_TIME:
        return words
    return f"{words} after {duration_in_words(result.seconds)}"


def _count_attempts(result: Result) -> str:
    """Return that an attempt was the last of several, behind a comma; else ""."""
    if result.attempt < 2 or has_not_run(result):
        return ""
    return f", the last of {result.attempt} attempts"


def _how_it_ended(result: Result) -> str:
    how = status_in_words(result.status)
    match result.outcome:
        case Outcome.LOST:
            return "its worker or its rank died each time that it ran"
        case Outcome.CANCELLED if has_not_run(result):
            return "cancelled before it ran"
        case Outcome.CANCELLED:
            after = duration_in_words(result.seconds)
            return f"cancelled after {after} ({how})"
        case Outcome.TIMED_OUT:
            return f"timed out after {duration_in_words(result.seconds)} ({how})"
        case Outcome.OUT_OF_MEMORY:
            return f"memory ran out ({how})"
        case _:
            return how


def status_in_words(status: int) -> str:
    """Return a status, as `subprocess` has it, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by signal {-status} ({Signals(-status).name})"
    except ValueError:
        return f"killed by signal {-status}"


def rank_in_words(rank: int, host: str) -> str:
    """Return the words that name a rank, and its host if that is known."""
    return f"rank {rank} on {host}" if host else f"rank {rank}"


def progress_line(
    total: int,
    finished: int,
    failed: int,
    running: int,
    rate: float,
    time_left: str,
    *,
    waits: bool = False,
    held: str = "",
) -> str:
    """Return the live line: done of total, failed, running, tasks/s, time left.

    `rate` is that of this farm; at 0 it is left out.  `time_left` is in words, "" if it
    is not known, and so is what users hold, "" for nothing.  `waits`: whether the farm
    waits for more tasks.
    """
    done = min(total, finished + failed)
    parts = [f"{done}/{total} done", f"{failed} failed", f"{running} running"]
    if held:
        parts.append(held)
    if rate > 0:
        parts.append(f"{rate:.3g} tasks/s")
    if time_left and total > done:
        parts.append(time_left)
    if waits:
        parts.append("waiting for more")
    return ", ".join(parts)


@immutable
class Summary:
    """The end of a farm, for the summary and for ``result.json``."""

    farm: str
    tasklist: str
    workdir: str
    ranks: int
    seconds: float
    counts: ListCounts
    tally: Tally
    failed: Sequence[FailedTask]
    """The first failed tasks."""
    busy_share: float
    status: ExitStatus
    reason: str
    has_leased: bool = True
    """Whether any rank has had a task of this farm's."""
    stopped_because: str = ""
    """The words for a stop because of failures."""
    way_on: str = ""
    """How to go on where the same command would stop again; else empty."""
    no_limit: Sequence[str] = ()
    """The kinds of tasks that are left because the farm has no limit for them."""
    wrong_line: str = ""
    """The line of the list from which on nothing could be taken up; else empty."""
    all_held: bool = False
    """Whether users hold all tasks that are left."""
    makes_checkpoints: bool = False
    """Whether there is an exit status by which a task tells of a checkpoint."""
    notes: Sequence[str] = ()
    began_again: bool = False
    """Whether the farm was given ``--again``, which does not go on with its tasks."""
    keeps_own_state: bool = False
    """Whether the tasklist keeps the state of tasks, not the files of the workdir."""
    is_database: bool = False
    """Whether the tasklist is a database, which has the states of the tasks."""
    launch: str = ""
    """The start of ``mpifarm supervise`` that this is; empty without one."""
    place: str = ""
    """The words that name the workdir to a subcommand."""
    outputs_of: str = ""
    """The same, if this farm has kept the output of each task that it ran."""
    lost: Sequence[tuple[int, str]] = ()
    """(rank, host) of each rank that was lost; "" for a host that isn't known."""
    quarantined: "Sequence[OutOfUse]" = ()
    """Ranks that got no more tasks."""
    causes: GroupedFailures | None = None
    """The failures of this farm by cause; None if there are none."""

    def lines(self) -> list[str]:
        """Return the lines of the summary, in their order."""
        lines = [self._counts_line(), self._work_line()]
        lines += self._failed_lines()
        lines += self._not_run_lines()
        if self.status is ExitStatus.SOME_FAILED and not self.keeps_own_state:
            lines.append(
                f"to run what failed again: mpifarm retry {self.place}, and"
                f" {self._command}"
            )
        lines += self._lost_lines()
        lines += self._rank_lines()
        lines += self._output_lines()
        lines += self._left_lines()
        lines += self.notes
        if self.outputs_of:
            lines.append(f"outputs: mpifarm log {self.outputs_of}")
        if self.reason:
            lines.append(f"{self._early_end}: {self.reason}")
        lines.append(f"exit status {self.status.value}: {self.meaning}")
        return lines

    @property
    def _early_end(self) -> str:
        """The words in front of the reason of an end before the list was done."""
        counts = self.counts
        has_ended = self.status in (ExitStatus.ALL_FINISHED, ExitStatus.SOME_FAILED)
        if has_ended and not (counts.toprocess or counts.elsewhere):
            return "too late to end early, because no task was left to start"
        return "ended early"

    @property
    def _command(self) -> str:
        """The command that goes on, in words."""
        return f"the same command{' without --again' if self.began_again else ''}"

    @property
    def meaning(self) -> str:
        """The exit status in words, as it came about in this farm."""
        if self.status is ExitStatus.SOME_FAILED and self.counts.toprocess:
            left = counted(self.counts.toprocess, "task is", "tasks are")
            return f"stopped because {self.stopped_because}; {left} left to process"
        if self.status is ExitStatus.RUN_AGAIN and self.wrong_line:
            return (
                f"{self.wrong_line} and what follows it have not run: correct the line,"
                f" then give {self._command} again"
            )
        if self.status is ExitStatus.RUN_AGAIN and self.all_held:
            left = counted(self.counts.toprocess, "task is", "tasks are")
            then = self.way_on or f"then {self._command}"
            return f"{left} left, and held: give mpifarm release {self.place}, {then}"
        way_on = self.way_on or (f"give {self._command}" if self.began_again else "")
        if self.status is ExitStatus.RUN_AGAIN and way_on:
            return f"tasks are left: to go on, {way_on}"
        if self.status is ExitStatus.ALL_FINISHED and self.counts.in_array:
            left = counted(self.counts.in_array, "task is", "tasks are")
            return (
                f"nothing is left to start; {left} with other farms "
                "of this job array, whose own status says how they end"
            )
        return MEANINGS[self.status]

    def _failed_lines(self) -> list[str]:
        """Return the failures: by cause where there are many, else one by one."""
        if self.causes is not None and self.causes.looked_at > MAX_SINGLE:
            failed = self.counts.failed - self.tally.not_run
            return describe_causes(self.causes, failed, self.place)
        workdir = quote(self.workdir)
        own = [task for task in self.failed if task.is_of_this_farm]
        lines = [f"failed: {task.in_words(workdir)}" for task in own]
        if self.causes is not None:
            lines += describe_memory(self.causes)
        unshown = self.counts.failed - len(own) - self.tally.not_run
        if unshown > 0 and len(own) < len(self.failed):
            lines.append(f"failed: {self._describe_others(unshown)}")
        elif unshown > 0:
            where = f"see {self.workdir}/failed"
            if self.is_database:
                where = f"list them: mpifarm ls --failed {self.place}"
            lines.append(f"failed: {unshown} more, {where}")
        return lines

    def _describe_others(self, count: int) -> str:
        """Return what is known of `count` tasks that failed, and not in this farm."""
        ids = [task.taskid for task in self.failed if not task.is_of_this_farm]
        more = ", …" if count > len(ids) else ""
        which = f"{agree(count, 'task', 'tasks')} {name_ids(ids)}{more}"
        said = f"{counted(count)} in earlier or other farms ({which})"
        return said if self.keeps_own_state else f"{said}, see mpifarm why {self.place}"

    def _not_run_lines(self) -> list[str]:
        """Return the line on the tasks that were not run, if any."""
        not_run = self.tally.not_run
        if not not_run or not self.counts.failed:  # put back since, and done
            return []
        first = self.tally.first_not_run
        shown = ", ".join(map(str, first))
        more = ", …" if not_run > len(first) else ""
        which = f"{agree(not_run, 'task', 'tasks')} {shown}{more}"
        wait = agree(not_run, "it waits", "they wait")
        why = f"since others failed for which {wait}"
        return [f"not run: {counted(not_run)}, {why}: {which}"]

    def _lost_lines(self) -> list[str]:
        """Return the remedy for tasks that no farm is known to have, if any."""
        lost = self.counts.elsewhere - self.counts.claimed
        if self.status is not ExitStatus.WITH_OTHERS or lost <= 0:
            return []
        are = counted(lost, "task is", "tasks are")
        if self.keeps_own_state:
            where = f"{are} in no farm's claim, and the handler offers no more"
            return [f"{where}: look into the state that it keeps"]
        place = (
            "'running' under no farm of mpifarm" if self.is_database else "in no file"
        )
        remedy = (
            f"{are} {place}: taken by a PyTaskFarmer (at work, or killed), or "
            "removed by hand.  Once nothing works on this list any more, give mpifarm "
            f"check --repair --assume-idle {self.place}, then {self._command}"
        )
        return [remedy]

    def _left_lines(self) -> list[str]:
        """Return the line on tasks that left processes in the background, if any."""
        left, first = self.tally.left_running, sorted(self.tally.first_left)
        if not left:
            return []
        shown = ", ".join(map(str, first))
        more = ", …" if left > len(first) else ""
        line = (
            f"{counted(left)} ended while processes started there still ran, for "
            f"which nothing waits: task {shown}{more}"
        )
        return [line]

    def _rank_lines(self) -> list[str]:
        """Return the lines on ranks that were lost or put out of use."""
        lines = []
        if self.lost:
            ranks = ", ".join(rank_in_words(rank, host) for rank, host in self.lost)
            fate = "runs again" if self.counts.toprocess else "ran elsewhere"
            lines.append(f"ranks that were lost: {ranks}; what they held {fate}")
        lines += [
            f"put out of use: {rank_in_words(each.rank, each.host)}: {each.why}"
            for each in self.quarantined
        ]
        return lines

    def _output_lines(self) -> list[str]:
        """Return the line on outputs that may not be whole, whatever the outcome."""
        tally = self.tally
        if not tally.cut_short:
            return []
        which = counted(tally.cut_short)
        return [f"the output of {which} may not be whole: {tally.first_cut}"]

    def _counts_line(self) -> str:
        counts = self.counts
        if not counts.is_counted:
            return (
                f"{counts.finished} finished and {counts.failed} failed were "
                f"recorded, of {counted(counts.total)}; the rest can't be counted now"
            )
        not_run = 0 if self.tally.repeated else self.tally.not_run
        failed = f"{counts.failed} failed"
        if 0 < not_run <= counts.failed:  # else some were put back since
            failed = f"{counts.failed - not_run} failed, {not_run} not run"
        return (
            f"{counts.finished} finished, {failed}, "
            f"{counts.toprocess} to process, {counts.elsewhere} with others; "
            f"{counted(counts.total)} in all"
        )

    def _work_line(self) -> str:
        tally = self.tally
        if not tally.ran:
            return f"this farm {self._describe_idleness()}"
        workers, ranks = (
            counted(tally.worker_count, "worker"),
            counted(self.ranks, "rank"),
        )
        return (
            f"this farm ran {counted(tally.ran)} in {duration_in_words(self.seconds)} "
            f"({self._rate():.3g} tasks/s) with {workers} on {ranks}, "
            f"{100 * self.busy_share:.0f} % of their time in tasks{self._retried()}"
        )

    def _describe_idleness(self) -> str:
        """Return what a farm did that has recorded the end of no task."""
        seconds = duration_in_words(self.seconds)
        if self.status is not ExitStatus.RUN_AGAIN:
            return f"had nothing to run, in {seconds}"
        if not self.has_leased:
            return f"started no task, in {seconds}"
        return f"recorded the end of no task, in {seconds}: what it ran runs again"

    def _retried(self) -> str:
        again = self.tally.retried
        if not again:
            return ""
        attempts = counted(again, "more attempt")
        if not self.makes_checkpoints:
            return f"; {attempts} failed and {agree(again, 'was', 'were')} retried"
        end = agree(again, "its task runs", "their tasks run")
        return f"; {attempts} failed or made a checkpoint: {end} again"

    def payload(self) -> dict[str, object]:
        """Return the content of ``result.json``: its keys are for users' scripts."""
        counts, tally = self.counts, self.tally
        return {
            "version": 1,
            "farm": self.farm,
            "launch": self.launch,
            "tasklist": self.tasklist,
            "exit_status": self.status.value,
            "meaning": self.meaning,
            "reason": self.reason,
            "tasks": {
                "total": counts.total,
                "finished": counts.finished,
                "failed": counts.failed,
                "toprocess": counts.toprocess,
                "held_up": counts.held_up,
                "elsewhere": counts.elsewhere,
                "claimed": counts.claimed,
                "is_counted": counts.is_counted,
                "in_array": counts.in_array,
            },
            "this_farm": {
                "ran": tally.ran,
                "outcomes": {o.value: n for o, n in tally.outcomes.items()},
                "attempts_that_ran_again": tally.retried,
                "outputs_not_whole": tally.cut_short,
                "left_processes_running": tally.left_running,
                "seconds": round(self.seconds, 3),
                "tasks_per_second": round(self._rate(), 3),
                "ranks": self.ranks,
                "workers": tally.worker_count,
                "busy_percent": round(100 * self.busy_share, 1),
            },
            "lost": [{"rank": rank, "host": host} for rank, host in self.lost],
            "no_limit": list(self.no_limit),
            "quarantined": [
                {"rank": each.rank, "host": each.host, "why": each.why}
                for each in self.quarantined
            ],
            "failed": [
                {"taskid": task.taskid, "how": task.how, "log": task.log}
                for task in self.failed
            ],
            "notes": list(self.notes),
        }

    def _rate(self) -> float:
        return self.tally.ran / self.seconds if self.seconds > 0 else 0.0
