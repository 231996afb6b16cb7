"""Which ranks fail everything, fast, while others succeed.

Rules of this file:

* Pure: results come in (`note_...`), time is an argument (seconds, monotonic); the
  coordinator does what `judge` says.
* A rank's last *fast* failures in a row are its streak.  They are held back from the
  disk, so that they can run again elsewhere.  Fast is below a second, or below a tenth
  of what successes take.
* A streak of `most` puts the rank on trial: it gets no more until what it holds has
  ended.  If something of that runs on, or succeeds, the rank is acquitted.  If all of
  it failed fast, others tell: with a success among them, of a task handed out later
  than the first of the streak, it is put out of use; with fast failures on the most of
  them the tasks are at fault, and the rank is acquitted; as long as they say nothing,
  it gets single tasks, more and more seldom.
* A rank that works alone is never on trial, and nothing of it is held back.
"""

from dataclasses import dataclass, field
from enum import Enum

from mpifarm.decisions.state import UNLIMITED, RankRecord, TaskRecord

FAST_SECONDS = 1.0
"""Attempts below are fast."""

FAST_SHARE = 0.1
"""... and those below this share of what successes take."""

STREAK_SECONDS = 3.0
"""Failures are held back for so long, unless the rank goes on failing."""

SHOWN = 3
"""Fast failures in a row (or as many as the streak needs, if fewer) that show that
tasks fail on a rank too."""

FIRST_PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 60.0
"""Between the single tasks of a rank on trial, which no other's results explain."""


class Verdict(Enum):
    """What a trial ends with."""

    ACQUITTED = "acquitted"
    OUT_OF_USE = "out of use"
    PROBE = "probe"
    """Give it one task more."""


@dataclass(slots=True)
class Streak:
    """Fast failures in a row on one rank."""

    rank: int
    turn: int
    """Of the first of them (`TaskRecord.turn`)."""
    count: int = 0
    longest: float = 0.0
    """Seconds of the longest of them."""
    latest: float = 0.0
    """When the last of them ended."""
    held: list[TaskRecord] = field(default_factory=list)
    """Those that are held back."""
    is_on_trial: bool = False
    acquit_at: float = float("inf")
    """What runs on until then was not failed by the rank."""
    probe_at: float = float("inf")
    probe_seconds: float = FIRST_PROBE_SECONDS
    is_probing: bool = False


class Quarantine:
    """The streaks of all ranks; `most` makes a trial (0: there is no quarantine)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.working = 0
        """Ranks that take leases; the coordinator keeps it."""
        self.streaks: dict[int, Streak] = {}
        self.held = 0
        """Results held back."""
        self.trials = 0
        self.wake_at = float("inf")
        """When time alone may change something; it may be too early."""
        self._shown = min(SHOWN, most)
        self._failing = 0
        """Ranks whose streaks show that tasks fail there."""
        self._success_turn = 0
        """Of all tasks that succeeded, the turn of the one handed out last."""
        self._success_seconds = 0.0
        """Moving mean."""

    def note_success(self, seconds: float, turn: int) -> None:
        """A task succeeded, on whatever rank."""
        if turn > self._success_turn:  # noqa: PLR1730 - max() takes longer
            self._success_turn = turn
        self._success_seconds += (seconds - self._success_seconds) * 0.05

    def is_fast(self, seconds: float) -> bool:
        """Whether a failure after `seconds` is one."""
        return seconds < max(FAST_SECONDS, FAST_SHARE * self._success_seconds)

    def note_failure(
        self, record: RankRecord, task: TaskRecord, seconds: float
    ) -> list[TaskRecord]:
        """A task failed; what is no longer suspect: it, others too, or nothing."""
        if not self.most or self.working < 2 or not record.works:
            return [*self.end(record), task]
        if not self.is_fast(seconds):
            return [*self.end(record), task]
        streak = self.streaks.get(record.rank)
        if streak is None:
            streak = Streak(record.rank, task.turn)
            self.streaks[record.rank] = streak
        self._extend(streak, task, seconds)
        if streak.count >= self.most and not streak.is_on_trial:
            if self._tasks_are_at_fault(streak):
                return self.end(record)
            self._begin_trial(streak)
        if streak.is_on_trial:
            record.most_leases = 0
        self.wake_at = min(self.wake_at, self._due(streak))
        return []

    def _extend(self, streak: Streak, task: TaskRecord, seconds: float) -> None:
        streak.count += 1
        streak.longest = max(streak.longest, seconds)
        streak.latest = max(streak.latest, task.ended)
        streak.held.append(task)
        self.held += 1
        self._failing += streak.count == self._shown
        if streak.is_probing:
            streak.is_probing = False
            streak.probe_at = streak.latest + streak.probe_seconds

    def _begin_trial(self, streak: Streak) -> None:
        streak.is_on_trial = True
        streak.probe_at = streak.latest + streak.probe_seconds
        self.trials += 1

    def _tasks_are_at_fault(self, streak: Streak) -> bool:
        """Whether they fail on the most of the other ranks, too."""
        failing = self._failing - (streak.count >= self._shown)
        return 2 * failing > self.working - 1

    def _due(self, streak: Streak) -> float:
        if not streak.is_on_trial:
            return streak.latest + STREAK_SECONDS if streak.held else float("inf")
        holds = streak.acquit_at < float("inf")
        return streak.acquit_at if holds else streak.probe_at

    def end(self, record: RankRecord) -> list[TaskRecord]:
        """The streak is over, whatever ended it; what was held back."""
        streak = self.streaks.pop(record.rank, None)
        if streak is None:
            return []
        record.most_leases = UNLIMITED
        self.held -= len(streak.held)
        self.trials -= streak.is_on_trial
        self._failing -= streak.count >= self._shown
        return streak.held

    def find_due(self, now: float) -> list[Streak]:
        """Those to look at now: all on trial, and those that went quiet."""
        if not self.trials and now < self.wake_at:
            return []
        streaks = self.streaks.values()
        return [each for each in streaks if each.is_on_trial or self._due(each) <= now]

    def release(self, streak: Streak) -> list[TaskRecord]:
        """It went quiet: nothing is held back, but the count goes on."""
        held, streak.held = streak.held, []
        self.held -= len(held)
        return held

    def set_timer(self) -> None:
        """All that was due has been looked at."""
        due = map(self._due, self.streaks.values())
        self.wake_at = min(due, default=float("inf"))

    def judge(self, streak: Streak, record: RankRecord, now: float) -> Verdict | None:
        """What a trial ends with, if it does."""
        if record.leases:
            if streak.acquit_at == float("inf"):
                streak.acquit_at = now + FAST_SECONDS + 2 * streak.longest
            return Verdict.ACQUITTED if now >= streak.acquit_at else None
        streak.acquit_at = float("inf")
        if self.working < 2 or self._tasks_are_at_fault(streak):
            return Verdict.ACQUITTED
        if self._success_turn > streak.turn:
            return Verdict.OUT_OF_USE
        if now >= streak.probe_at:
            self._probe(streak, record)
            return Verdict.PROBE
        return None

    def _probe(self, streak: Streak, record: RankRecord) -> None:
        record.most_leases = 1
        streak.is_probing = True
        streak.probe_at = float("inf")
        streak.probe_seconds = min(LONGEST_PROBE_SECONDS, 2 * streak.probe_seconds)
