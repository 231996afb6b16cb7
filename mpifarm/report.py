"""What a farm says about itself: the live line, the summary, and ``result.json``.

Rules of this file: it words and counts, it writes nothing; where the words go is the
command line's affair.  Times are in seconds; `now` is the monotonic clock.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from shlex import quote
from signal import Signals
from typing import NamedTuple

from mpifarm.errors import ExitStatus
from mpifarm.task import Outcome, Result

MEANINGS = {
    ExitStatus.ALL_FINISHED: "all tasks of the list are finished",
    ExitStatus.SOME_FAILED: "nothing is left to do; some tasks failed",
    ExitStatus.BAD_INPUT: "the command line or an input is wrong",
    ExitStatus.WITH_OTHERS: (
        "nothing is left to start; some tasks are with other farmers, or were lost by "
        "a plain one"
    ),
    ExitStatus.DEFECT: "a defect of mpifarm",
    ExitStatus.RUN_AGAIN: "tasks are left: give the same command again to go on",
}
"""The exit statuses in words."""

MOST_STATUSES = 10_000
RATE_SECONDS = 10.0


class Standing(NamedTuple):
    """The state of the whole list, whoever ran what."""

    total: int
    finished: int
    failed: int
    toprocess: int
    elsewhere: int
    """With other farmers, or in no file."""
    claimed: int = 0
    """Of those elsewhere: held by other farms that live, or may."""
    is_counted: bool = True
    """Whether all could be counted; if not, `toprocess` and `elsewhere` are 0."""

    @property
    def exit_status(self) -> ExitStatus:
        """What it means for a job script."""
        if self.toprocess:
            return ExitStatus.RUN_AGAIN
        if self.finished == self.total:
            return ExitStatus.ALL_FINISHED
        if self.finished + self.failed == self.total:
            return ExitStatus.SOME_FAILED
        return ExitStatus.WITH_OTHERS


class FailedTask(NamedTuple):
    """A failed task, how it failed in words, and the path of its log.

    The path is empty where the log is no file of its own: ``mpifarm log`` finds it.
    """

    taskid: int
    how: str
    log: str

    def in_words(self, workdir: str = "") -> str:
        """For a line of the summary."""
        log = self.log or f"mpifarm log {workdir} {self.taskid}"
        return f"task {self.taskid}: {self.how}, see {log}"


@dataclass(slots=True)
class Tally:
    """What this farm has done."""

    started: float
    """Monotonic."""
    worker_count: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    retried: int = 0
    """Attempts whose tasks ran again."""
    busy: float = 0.0
    """Seconds that workers spent in tasks."""
    statuses: dict[int, str] = field(default_factory=dict)
    """How tasks failed, in words; the first `MOST_STATUSES`."""
    _recent: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, result: Result) -> None:
        """Count a recorded result."""
        self.outcomes[result.outcome] += 1
        self.busy += result.seconds
        failed = result.outcome is not Outcome.COMPLETED
        if failed and len(self.statuses) < MOST_STATUSES:
            self.statuses[result.taskid] = how_it_failed(result)

    def note_retry(self, result: Result) -> None:
        """Count an attempt whose task runs again."""
        self.retried += 1
        self.busy += result.seconds

    @property
    def ran(self) -> int:
        """Attempts that were recorded."""
        return self.outcomes.total()

    def rate(self, now: float) -> float:
        """Tasks recorded per second over the last `RATE_SECONDS`."""
        self._recent.append((now, self.ran))
        while now - self._recent[0][0] > RATE_SECONDS and len(self._recent) > 2:
            self._recent.popleft()
        then, ran = self._recent[0] if len(self._recent) > 1 else (self.started, 0)
        seconds = now - then
        return (self.ran - ran) / seconds if seconds > 0 else 0.0

    def busy_share(self, now: float) -> float:
        """Share of the workers' time that went into tasks, 0 to 1."""
        available = self.worker_count * (now - self.started)
        return min(1.0, self.busy / available) if available > 0 else 0.0


def how_it_failed(result: Result) -> str:
    """A failure in words."""
    if result.note:
        return result.note
    how = status_in_words(result.status)
    match result.outcome:
        case Outcome.LOST:
            return "its worker or its rank died each time that it ran"
        case Outcome.TIMED_OUT:
            return f"timed out after {duration_in_words(result.seconds)} ({how})"
        case Outcome.OUT_OF_MEMORY:
            return f"memory ran out ({how})"
        case _:
            return how


def status_in_words(status: int) -> str:
    """A returncode as in `subprocess`, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by signal {-status} ({Signals(-status).name})"
    except ValueError:
        return f"killed by signal {-status}"


def rank_in_words(rank: int, host: str) -> str:
    """A rank, and where it is or was."""
    return f"rank {rank} on {host}" if host else f"rank {rank}"


def duration_in_words(seconds: float) -> str:
    """A duration as people say it: 4.2 s, 3:07 min, 12:00:05 h."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return (
        f"{hours}:{minute:02}:{second:02} h" if hours else f"{minute}:{second:02} min"
    )


def progress_line(
    total: int, finished: int, failed: int, running: int, rate: float
) -> str:
    """One line: done of total, failed, running, tasks/s, time left."""
    done = min(total, finished + failed)
    parts = [f"{done}/{total} done", f"{failed} failed", f"{running} running"]
    if rate > 0:
        parts.append(f"{rate:.3g} tasks/s")
        # The last ones take as long as they take, whatever the rate was.
        if total - done > running:
            parts.append(f"{duration_in_words((total - done) / rate)} left")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a farm, for the summary and for ``result.json``."""

    farm: str
    tasklist: str
    workdir: str
    ranks: int
    seconds: float
    standing: Standing
    tally: Tally
    failed: Sequence[FailedTask]
    """The first of all that failed."""
    busy_share: float
    status: ExitStatus
    reason: str
    notes: Sequence[str] = ()
    keeps_own_state: bool = False
    """Whether the tasklist does, and not the files of the workdir."""
    launch: str = ""
    """Which start of ``mpifarm supervise`` this is."""
    place: str = ""
    """The words that name the workdir to a subcommand."""
    lost: Sequence[tuple[int, str]] = ()
    """(rank, host) of each rank that was lost; "" for a host that isn't known."""
    quarantined: Sequence[tuple[int, str, int]] = ()
    """(rank, host, tasks that ran again elsewhere) of each that got no more."""

    def lines(self) -> list[str]:
        """What is said at the end."""
        standing = self.standing
        lines = [self._counts_line(), self._work_line()]
        workdir = quote(self.workdir)
        lines += [f"failed: {task.in_words(workdir)}" for task in self.failed]
        unshown = standing.failed - len(self.failed)
        if unshown > 0:
            lines.append(f"failed: {unshown} more, see {self.workdir}/failed")
        if self.status is ExitStatus.SOME_FAILED and not self.keeps_own_state:
            lines.append(
                f"to run what failed again: mpifarm retry {self.place}, and the same "
                "command"
            )
        lines += self._lost_lines()
        lines += self._rank_lines()
        lines += self.notes
        if self.reason:
            lines.append(f"ended early: {self.reason}")
        lines.append(f"exit status {self.status.value}: {self._meaning()}")
        return lines

    def _meaning(self) -> str:
        if self.status is ExitStatus.SOME_FAILED and self.standing.toprocess:
            return "the farm stopped, for too much failed; tasks are left"
        return MEANINGS[self.status]

    def _lost_lines(self) -> list[str]:
        """What may be done about tasks that no farm is known to have."""
        lost = self.standing.elsewhere - self.standing.claimed
        if self.status is not ExitStatus.WITH_OTHERS or lost <= 0:
            return []
        if self.keeps_own_state:
            return [f"{lost} are in no farm's claim, and the tasklist has no more"]
        remedy = (
            f"{lost} are in no file: with a plain farmer, or lost by one that was "
            "killed.  If none is running any more: mpifarm check --repair "
            f"--assume-idle {self.place}, and the same command"
        )
        return [remedy]

    def _rank_lines(self) -> list[str]:
        """The ranks that fell out."""
        lines = []
        if self.lost:
            ranks = ", ".join(rank_in_words(rank, host) for rank, host in self.lost)
            fate = "runs again" if self.standing.toprocess else "ran elsewhere"
            lines.append(f"ranks that were lost: {ranks}; what they held {fate}")
        for rank, host, rerun in self.quarantined:
            lines.append(
                f"put out of use: {rank_in_words(rank, host)}, where tasks failed that "
                f"succeed elsewhere; {rerun} of them ran again elsewhere"
            )
        return lines

    def _counts_line(self) -> str:
        standing = self.standing
        if not standing.is_counted:
            return (
                f"{standing.finished} finished and {standing.failed} failed were "
                f"recorded, of {standing.total} tasks; the rest can't be counted now"
            )
        return (
            f"{standing.finished} finished, {standing.failed} failed, "
            f"{standing.toprocess} to process, {standing.elsewhere} with others; "
            f"{standing.total} {'task' if standing.total == 1 else 'tasks'} in all"
        )

    def _work_line(self) -> str:
        tally = self.tally
        if not tally.ran:
            left = self.status is ExitStatus.RUN_AGAIN
            what = "recorded nothing" if left else "had nothing to run"
            return f"this farm {what}, in {duration_in_words(self.seconds)}"
        return (
            f"this farm ran {tally.ran} in {duration_in_words(self.seconds)} "
            f"({self._rate():.3g} tasks/s) with {tally.worker_count} "
            f"{'worker' if tally.worker_count == 1 else 'workers'} on {self.ranks} "
            f"{'rank' if self.ranks == 1 else 'ranks'}, "
            f"{100 * self.busy_share:.0f} % of their time in tasks{self._retried()}"
        )

    def _retried(self) -> str:
        again = self.tally.retried
        attempts = "attempt was" if again == 1 else "attempts were"
        return f"; {again} more {attempts} not the last of their tasks" if again else ""

    def payload(self) -> dict[str, object]:
        """``result.json``, version 1."""
        standing, tally = self.standing, self.tally
        return {
            "version": 1,
            "farm": self.farm,
            "launch": self.launch,
            "tasklist": self.tasklist,
            "exit_status": self.status.value,
            "meaning": self._meaning(),
            "reason": self.reason,
            "tasks": standing._asdict(),
            "this_farm": {
                "ran": tally.ran,
                "outcomes": {o.value: n for o, n in tally.outcomes.items()},
                "attempts_that_ran_again": tally.retried,
                "seconds": round(self.seconds, 3),
                "tasks_per_second": round(self._rate(), 3),
                "ranks": self.ranks,
                "workers": tally.worker_count,
                "busy_percent": round(100 * self.busy_share, 1),
            },
            "lost": [{"rank": rank, "host": host} for rank, host in self.lost],
            "quarantined": [
                {"rank": rank, "host": host} for rank, host, _ in self.quarantined
            ],
            "failed": [task._asdict() for task in self.failed],
            "notes": list(self.notes),
        }

    def _rate(self) -> float:
        return self.tally.ran / self.seconds if self.seconds > 0 else 0.0
