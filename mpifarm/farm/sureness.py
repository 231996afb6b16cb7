"""When a rank is sure of a result: no signal that stops the farm ended the command.

Rules of this file:

* Pure: time is an argument (seconds, monotonic).
* The evidence is on the node.  A daemon that signals a rank's commands (Slurm's does)
  signals the rank too, some time earlier or later.  So a command was ended by no signal
  if its rank has got none until a *wait* after its end.
* The waits are five times as long as the rank was ever seen to be later than a command
  (docs/signals.md has the figures, `tests/bench/signal_skew.py` measures them).
"""

import math
from collections import deque
from collections.abc import Iterable

from mpifarm.batch.launcher import names_launcher
from mpifarm.model.task import LAUNCHED_WAIT, Lease, Result

MIN_WAIT = 0.07
WAIT_FOR_COMMAND = 0.014
LONGEST_WAIT = 0.35
"""The daemon signals one process of its node after the other, the ranks last: the more
there are, the later."""

MIN_WAIT_OUTSIDE = 0.02
WAIT_FOR_COMMAND_OUTSIDE = 0.004
"""The same outside of a batch job, where no daemon signals commands, only somebody who
names commands and rank to one ``kill``, the rank last."""


_ROUNDING = 1e-6
"""Seconds added to a look, so that `now` minus the wait has passed the end."""


def find_wait(commands: int, *, in_job: bool = True) -> float:
    """Return the wait on a node that runs so many commands at a time.

    `in_job`: whether the farm is part of a job, whose batch system has daemons.
    """
    if not in_job:
        return min(LONGEST_WAIT, MIN_WAIT_OUTSIDE + WAIT_FOR_COMMAND_OUTSIDE * commands)
    return min(LONGEST_WAIT, MIN_WAIT + WAIT_FOR_COMMAND * commands)


class Sureness:
    """The results of one rank: which are sure, and which never will be."""

    def __init__(self, wait: float = LONGEST_WAIT) -> None:
        self.until = -math.inf
        """Results that ended until then are sure."""
        self._wait = wait
        self._void_after = math.inf
        """Results that ended later never get sure; `inf` before a signal."""
        self._unsure: deque[float] = deque()
        """The ends of reported results that aren't sure yet."""
        self._launching: set[tuple[int, int]] = set()
        """(taskid, attempt) of commands that start processes through a launcher."""
        self._launched: list[float] = []
        """The ends of such commands that aren't sure yet."""
        self._is_signalled = False
        """Whether a signal to some rank stops the farm."""

    # ---- what happens ----------------------------------------------------------------

    def note_leases(self, leases: Iterable[Lease]) -> None:
        """Remember the commands that start processes through a launcher."""
        for taskid, attempt, command in leases:
            if names_launcher(command):
                self._launching.add((taskid, attempt))

    def note_end(self, result: Result) -> None:
        """Remember when a command has ended that started processes through a launcher.

        After a signal to another rank, its result never gets sure, nor does a later
        one.
        """
        if self._launching and result[:2] in self._launching:
            self._launching.discard(result[:2])
            self._launched.append(result.ended)
            if self._is_signalled:
                self._void_launched()

    def note_quiet(self, now: float) -> None:
        """Set `until` to a wait before `now`: no signal had come to this rank by `now`.

        A command that started processes through a launcher holds `until` back for
        `LAUNCHED_WAIT`.  After a signal, `until` stays where it was.
        """
        sure = min(now - self._wait, self._void_after)
        if self._launched:
            self._launched = [x for x in self._launched if x + LAUNCHED_WAIT > now]
            first = min(self._launched, default=math.inf)
            sure = min(sure, math.nextafter(first, 0.0))
        self.until = sure

    def note_reported(self, results: Iterable[Result]) -> None:
        """Note which of these results, told to rank 0, are still to get sure."""
        unsure = self._unsure
        unsure.extend([result.ended for result in results])
        while unsure and unsure[0] <= self.until:
            unsure.popleft()

    def void(self) -> None:
        """Note a signal to this rank: results that aren't sure by now never will be."""
        self._void_after = min(self._void_after, self.until)

    def void_launched(self) -> None:
        """Note a signal to another rank: it may end processes launched from here."""
        self._is_signalled = True
        self._void_launched()

    def _void_launched(self) -> None:
        """Make the end of the first launched command, and all later, never sure."""
        if self._launched:
            first = math.nextafter(min(self._launched), 0.0)
            self._void_after = min(self._void_after, first)

    # ---- what is ---------------------------------------------------------------------

    def may_count(self, result: Result) -> bool:
        """Return whether the result is sure, or may get so."""
        return result.ended <= self._void_after

    @property
    def is_waiting(self) -> bool:
        """Whether something that was reported may yet get sure."""
        return bool(self._unsure) and self._unsure[0] <= self._void_after

    @property
    def has_news(self) -> bool:
        """Whether something got sure since rank 0 was told."""
        return bool(self._unsure) and self._unsure[0] <= self.until

    def first_at(self) -> float:
        """Return when the first reported result gets sure; only while one waits."""
        return self._sure_at(self._unsure[0])

    def last_at(self) -> float:
        """Return when the last reported result gets sure; only while one waits."""
        return self._sure_at(self._unsure[-1])

    def _sure_at(self, ended: float) -> float:
        at = ended + self._wait
        if self._launched:
            at = max([at, *(x + LAUNCHED_WAIT for x in self._launched if x <= ended)])
        return at + _ROUNDING
