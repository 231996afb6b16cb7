"""Which ranks fail everything, fast, while others succeed.

Rules of this file:

* Pure: results come in (`note_...`), time is an argument (seconds, monotonic);
  `RankUse` does what `assess` says.
* A rank's last *fast* failures in a row are its streak.  They are held back from the
  disk, so that they can run again elsewhere.  Fast is below a second, or below a tenth
  of what successes take.
* A streak of `most` puts the rank on trial: it gets no more until what it holds has
  ended.  If something of that runs on, or succeeds, the rank is acquitted.  If all of
  it failed fast, the other ranks tell: what share of *their* last results failed fast
  (`alike`).  Where that is half or more on most ranks, the tasks are at fault (there is
  no licence free, for example), and the rank is acquitted.  Where chance alone may make
  such a streak of such a share, the rank gets single tasks until the streak tells.
  Else, with a success of a task handed out later than the first of the streak, the rank
  is put out of use; as long as no other rank says anything, it gets single tasks.
* A rank out of use gets one task after `FIRST_PAUSE` seconds, and after twice as long
  each time that this task fails fast as well.  A success, or a task that runs on,
  brings the rank back.
* A rank that works alone is never on trial, and nothing of it is held back.
"""

from dataclasses import dataclass, field
from enum import Enum
from math import log
from typing import NamedTuple

from mpifarm.coordinator.alike import Alike
from mpifarm.coordinator.state import UNLIMITED, RankRecord, RankState, TaskRecord

FAST_SECONDS = 1.0
"""Seconds below which an attempt is fast."""

FAST_SHARE = 0.1
"""The share of the mean seconds of successes below which an attempt is fast, too."""

STREAK_SECONDS = 3.0
"""Seconds for which failures are held back, unless the rank goes on failing."""

SHOWN = 3
"""Fast failures among its last results (or as many as the streak needs, if fewer) that
show that tasks fail on a rank too."""

SHARE_OF_TASKS = 0.5
"""Where this share of the results of most ranks fails fast, the tasks are at fault."""

SHARE_OF_CHANCE = 0.25
"""A streak is no chance if it is as unlikely, by the share of the others, as `most`
failures in a row where one task in four fails: 1 to 10^6 with the default of 10."""

FIRST_PAUSE = 10.0
LONGEST_PAUSE = 600.0
"""Seconds out of use before a task is tried there: twice as long each time."""

FIRST_PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 60.0
"""Seconds between the single tasks of a rank on trial, if no other rank's results
explain its failures; twice as long each time."""


class QuarantineVerdict(Enum):
    """The end of a trial."""

    RUNS_ON = "a task runs on"
    TASKS_AT_FAULT = "tasks at fault"
    OUT_OF_USE = "out of use"
    PROBE = "probe"
    """Give it one task more."""
    STILL_OUT = "still out of use"
    """The rank was tried again, in vain."""


@dataclass(slots=True)
class Streak:
    """Fast failures in a row on one rank."""

    rank: int
    turn: int
    """`TaskRecord.turn` of the first failure."""
    count: int = 0
    longest: float = 0.0
    """Seconds of the longest failure."""
    latest: float = 0.0
    """When the last of the failures ended."""
    held: list[TaskRecord] = field(default_factory=list)
    """The failed tasks that are held back."""
    is_on_trial: bool = False
    acquit_at: float = float("inf")
    """A task that runs on until then clears the rank."""
    probe_at: float = float("inf")
    probe_seconds: float = FIRST_PROBE_SECONDS
    is_probing: bool = False
    returns: bool = False
    """The rank was out of use, and is tried again."""

    def note_success(self, turn: int) -> bool:
        """Note that the task of a `turn` succeeded; return whether the streak is over.

        A task that was handed out before those that failed may have begun on a node
        that was still whole: they stay held back, and failures are counted anew.
        """
        self.count = 0
        return turn > self.turn or self.is_on_trial


@dataclass(slots=True)
class Pause:
    """The time that a rank is out of use."""

    longest: float
    """Seconds of the longest failure that led to the pause."""
    probe_at: float
    seconds: float = FIRST_PAUSE


class OutOfUse(NamedTuple):
    """A rank that gets no more tasks, for sentences."""

    rank: int
    host: str
    why: str


class Quarantine:
    """The streaks of all ranks; `most` makes a trial (0: there is no quarantine)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.working = 0
        """Ranks that take leases."""
        self.streaks: dict[int, Streak] = {}
        self.held = 0
        """Results held back."""
        self.trials = 0
        self.wake_at = float("inf")
        """When time alone may change something, or a time before that."""
        self.pauses: dict[int, Pause] = {}
        """Ranks that are out of use for a time, or are tried again."""
        self.alike = Alike(min(SHOWN, most))
        self._success_turn = 0
        """The turn of the last task that succeeded, in the order of handing out."""
        self._success_seconds = 0.0
        """Moving mean of the seconds that successes take."""

    def enter(self, record: RankRecord, state: RankState) -> None:
        """Count the working ranks anew: `record` is about to enter `state`.

        Drop the counts in `alike` of a rank that works no more.
        """
        if record.works and state is not RankState.WORKING:
            self.working -= 1
            self.alike.forget(record.rank)
        elif state is RankState.WORKING and not record.works:
            self.working += 1

    def count_free_without(self, rank: int) -> int:
        """Return how many working ranks other than `rank` are not on trial.

        `rank` itself has to be working.
        """
        streak = self.streaks.get(rank)
        is_on_trial = streak is not None and streak.is_on_trial
        return self.working - self.trials - (not is_on_trial)

    def note_success(self, record: RankRecord, seconds: float, turn: int) -> None:
        """Record the `turn` of a success, and its `seconds` in the moving mean."""
        if record.rank in self.alike.recent:
            self.alike.note_other(record)
        if turn > self._success_turn:  # noqa: PLR1730 - max() takes longer
            self._success_turn = turn
        self._success_seconds += (seconds - self._success_seconds) * 0.05

    def is_fast(self, seconds: float) -> bool:
        """Return whether a failure after `seconds` is fast."""
        return seconds < max(FAST_SECONDS, FAST_SHARE * self._success_seconds)

    def note_failure(
        self, record: RankRecord, task: TaskRecord, seconds: float
    ) -> list[TaskRecord]:
        """Record a failure; return the tasks whose failure counts now, if any.

        A fast failure is held back; enough in a row put the rank on trial, without
        leases.  Any other failure ends the streak.  So does each one on a rank that
        does not work, or works alone.
        """
        if not self.most or self.working < 2 or not record.works:
            return [*self.end(record), task]
        if not self.is_fast(seconds):
            self.alike.note_other(record)
            return [*self.end(record), task]
        self.alike.note_failed_fast(record, task)
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
        """Hold a failed task back in the streak, and set a time for the next probe."""
        streak.count += 1
        streak.longest = max(streak.longest, seconds)
        streak.latest = max(streak.latest, task.ended)
        streak.held.append(task)
        self.held += 1
        if streak.is_probing:
            streak.is_probing = False
            streak.probe_at = streak.latest + streak.probe_seconds

    def _begin_trial(self, streak: Streak) -> None:
        """Put a streak on trial, and set the time of its first probe."""
        streak.is_on_trial = True
        streak.probe_at = streak.latest + streak.probe_seconds
        self.trials += 1

    def _tasks_are_at_fault(self, streak: Streak) -> bool:
        """Return whether tasks fail as often on most of the other ranks."""
        return self._share_of_others(streak) >= SHARE_OF_TASKS

    def _share_of_others(self, streak: Streak) -> float:
        """Forget old failures; return the share that fails fast on most other ranks."""
        self.alike.expire(streak.latest)
        return self.alike.median_without(streak.rank, self.working - 1)

    def _is_telling(self, streak: Streak) -> bool:
        """Return whether tasks succeed elsewhere, and the streak is no chance.

        Always true of a rank that is tried again.
        """
        if streak.returns:
            return True
        return self._success_turn > streak.turn and not self._may_be_chance(streak)

    def _may_be_chance(self, streak: Streak) -> bool:
        """Return whether the others' share of failures may make such a streak."""
        share = self._share_of_others(streak)
        return streak.count * log(share) > self.most * log(SHARE_OF_CHANCE)

    def _due(self, streak: Streak) -> float:
        """Return when to assess a streak; `inf` if only a result changes anything."""
        if not streak.is_on_trial:
            return streak.latest + STREAK_SECONDS if streak.held else float("inf")
        holds = streak.acquit_at < float("inf")
        return streak.acquit_at if holds else streak.probe_at

    def end(self, record: RankRecord) -> list[TaskRecord]:
        """End the streak of a rank, lift its limit of leases, return the held tasks.

        [] if there is no streak.
        """
        streak = self.streaks.pop(record.rank, None)
        if streak is None:
            return []
        record.most_leases = UNLIMITED
        self.held -= len(streak.held)
        self.trials -= streak.is_on_trial
        return streak.held

    def find_due(self, now: float) -> list[Streak]:
        """Return the streaks to assess now: all on trial, and those that went quiet.

        [] before `wake_at` if no rank is on trial.
        """
        if not self.trials and now < self.wake_at:
            return []
        streaks = self.streaks.values()
        return [each for each in streaks if each.is_on_trial or self._due(each) <= now]

    def release(self, streak: Streak) -> list[TaskRecord]:
        """Hold nothing of a quiet streak back, and return its tasks; go on counting."""
        held, streak.held = streak.held, []
        self.held -= len(held)
        return held

    def set_timer(self) -> None:
        """Set `wake_at` to the next streak's time; only after all due were assessed."""
        due = map(self._due, self.streaks.values())
        self.wake_at = min(due, default=float("inf"))

    def assess(
        self, streak: Streak, record: RankRecord, now: float
    ) -> QuarantineVerdict | None:
        """Return the verdict on a streak on trial; None as long as the trial goes on.

        While the rank has leases, only time is measured: a task that runs on acquits.
        With PROBE, the rank is allowed one lease.
        """
        if record.leases:
            if streak.acquit_at == float("inf"):
                streak.acquit_at = now + FAST_SECONDS + 2 * streak.longest
            return QuarantineVerdict.RUNS_ON if now >= streak.acquit_at else None
        streak.acquit_at = float("inf")
        if streak.returns and streak.is_probing:
            return None  # the task for it has not come, or was lost with its worker
        if self.working < 2 or self._tasks_are_at_fault(streak):
            return QuarantineVerdict.TASKS_AT_FAULT
        if self._is_telling(streak):
            return self._blame(streak)
        if now >= streak.probe_at:
            self._probe(streak, record)
            return QuarantineVerdict.PROBE
        return None

    def _blame(self, streak: Streak) -> QuarantineVerdict:
        """Return the verdict on a streak that chance did not make.

        A block of tasks that fail is over when tasks succeed again, and may be a small
        part of the other ranks' last results: so only the tasks count that were handed
        out since the streak began.
        """
        if streak.returns:
            return QuarantineVerdict.STILL_OUT
        since, others = streak.turn, self.working - 1
        if self.alike.fails_on_most_since(since, SHARE_OF_TASKS, streak.rank, others):
            return QuarantineVerdict.TASKS_AT_FAULT
        return QuarantineVerdict.OUT_OF_USE

    def _probe(self, streak: Streak, record: RankRecord) -> None:
        """Allow the rank one lease; no other probe is due while that one lasts.

        The time to the next probe, if this one fails, doubles up to
        `LONGEST_PROBE_SECONDS`.
        """
        record.most_leases = 1
        streak.is_probing = True
        streak.probe_at = float("inf")
        streak.probe_seconds = min(LONGEST_PROBE_SECONDS, 2 * streak.probe_seconds)

    # ---- the way back ------------------------------------------------------------

    def pause(self, rank: int, longest: float, now: float) -> float:
        """Begin a rank's time out of use, or one twice as long; return its seconds."""
        pause = self.pauses.get(rank)
        if pause is None:
            pause = self.pauses[rank] = Pause(longest, now + FIRST_PAUSE)
        else:
            pause.seconds = min(LONGEST_PAUSE, 2 * pause.seconds)
            pause.probe_at = now + pause.seconds
        return pause.seconds

    def has_returned(self, rank: int) -> bool:
        """Return whether `rank` was out of use, and is no longer suspect."""
        return rank in self.pauses and rank not in self.streaks

    def find_due_returns(self, now: float) -> list[int]:
        """Return the ranks out of use that may be tried now."""
        return [rank for rank, each in self.pauses.items() if each.probe_at <= now]

    def return_at(self) -> float:
        """Return when the next rank out of use may be tried; `inf` if none waits."""
        times = (pause.probe_at for pause in self.pauses.values())
        return min(times, default=float("inf"))

    def try_again(self, record: RankRecord, turn: int) -> None:
        """Put a rank that was out of use on trial, and allow it one lease.

        `turn` is that of the last lease of the farm.
        """
        pause = self.pauses[record.rank]
        pause.probe_at = float("inf")
        streak = Streak(record.rank, turn, longest=pause.longest, returns=True)
        streak.is_on_trial = streak.is_probing = True
        self.trials += 1
        self.streaks[record.rank] = streak
        record.most_leases = 1
