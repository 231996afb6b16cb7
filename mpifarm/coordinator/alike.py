"""How much fails fast on each rank, so that ranks can be compared.

Rules of this file: pure.  A farm has 10 000 ranks, and each result may ask: what is
kept are the ranks on which something failed fast of late, and how many of them there
are for each share; nothing here looks at all ranks.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from mpifarm.coordinator.state import RankRecord, TaskRecord

FEWEST = 32
WORKERS_TIMES = 4
"""The number of a rank's last results that count: the greater of `FEWEST` and
`WORKERS_TIMES` for each worker."""

FORGET_SECONDS = 60.0
"""Seconds after which the fast failures of a rank no longer count, from the last on."""

STEPS = 16
"""Steps in which shares are counted."""


@dataclass(slots=True)
class Recent:
    """The last results of a rank, one bit each: 1 is a fast failure."""

    bits: int
    count: int
    latest: float
    """When the last of the fast failures ended."""
    window: int
    """The number of results that count."""
    step: int = 0
    """The share of fast failures, in steps, as it is counted."""
    running: int = 0
    """Tasks that the rank was running when `step` was set."""
    turns: deque[int] = field(default_factory=deque)
    """`TaskRecord.turn` of the fast failures."""

    def push(self, bit: int) -> None:
        """Add a result, and drop the oldest of a full window."""
        self.bits = (self.bits << 1 | bit) & ((1 << self.window) - 1)
        self.count = min(self.window, self.count + 1)

    def share_since(self, turn: int, shown: int) -> float:
        """Return the share of fast failures since the first after `turn`.

        Running tasks count as tried.  0 if fewer than `shown` failed fast since then.
        """
        failed = sum(each > turn for each in self.turns)
        if failed < shown:
            return 0.0
        ones, bits, count = failed, self.bits, 0
        while ones and bits:
            ones -= bits & 1
            bits >>= 1
            count += 1
        return failed / (count + self.running)


class Alike:
    """The shares of tasks that fail fast, of all ranks.

    A rank has to show `shown` fast failures before its share is more than none.
    """

    def __init__(self, shown: int) -> None:
        self.recent: OrderedDict[int, Recent] = OrderedDict()
        """Results of ranks on which something failed fast, the longest ago first."""
        self._shown = shown
        self._ranks_at = [0] * (STEPS + 1)
        """The number of ranks by their share, in steps; a share of 0 is not kept."""

    def note_failed_fast(self, record: RankRecord, task: TaskRecord) -> None:
        """Record a fast failure; the rank's results are counted from its first on."""
        recent = self.recent.get(record.rank)
        if recent is None:
            window = max(FEWEST, WORKERS_TIMES * record.workers)
            count = max(1, min(window, record.ended))
            recent = self.recent[record.rank] = Recent(1, count, task.ended, window)
        else:
            recent.push(1)
            recent.latest = task.ended
            self.recent.move_to_end(record.rank)
        recent.turns.append(task.turn)
        if len(recent.turns) > recent.window:
            recent.turns.popleft()
        self._count(record, recent)

    def note_other(self, record: RankRecord) -> None:
        """Record a result that is no fast failure, if the rank has fast failures.

        Drop the rank when its last fast failure has left the window.
        """
        recent = self.recent.get(record.rank)
        if recent is None:
            return
        recent.push(0)
        self._count(record, recent)
        if not recent.bits:
            del self.recent[record.rank]

    def _count(self, record: RankRecord, recent: Recent) -> None:
        """Move the rank to its new share in `_ranks_at`."""
        # What runs has not failed fast yet: without it, the failures, which come first,
        # would be all that a rank with long tasks has shown.
        recent.running = min(record.workers, len(record.leases))
        tried = recent.count + recent.running
        failed = recent.bits.bit_count()
        step = STEPS * failed // tried if failed >= self._shown else 0
        if step != recent.step:
            self._ranks_at[recent.step] -= 1
            self._ranks_at[step] += 1
            recent.step = step

    def forget(self, rank: int) -> None:
        """Drop the counts of a rank, if it has any."""
        recent = self.recent.pop(rank, None)
        if recent is not None:
            self._ranks_at[recent.step] -= 1

    def expire(self, now: float) -> None:
        """Forget the ranks on which nothing failed fast for `FORGET_SECONDS`."""
        while self.recent:
            rank, recent = next(iter(self.recent.items()))
            if recent.latest > now - FORGET_SECONDS:
                return
            self.forget(rank)

    def median_without(self, rank: int, others: int) -> float:
        """Return the share of fast failures that most of the `others` of `rank` reach.

        The middle of a step stands for the step: so 0 < share < 1, also if nothing
        failed.
        """
        own = self.recent.get(rank)
        left = others // 2 + 1
        for step in range(STEPS, 0, -1):
            left -= self._ranks_at[step] - (own is not None and own.step == step)
            if left <= 0:
                return (step + 0.5) / (STEPS + 1)
        return 0.5 / (STEPS + 1)

    def fails_on_most_since(self, turn: int, share: float, rank: int, of: int) -> bool:
        """Return whether `share` of the tasks leased after `turn` fails on most ranks.

        Only fast failures count, and only ranks other than `rank`, of which there are
        `of`.
        """
        failing = sum(
            recent.share_since(turn, self._shown) >= share
            for other, recent in self.recent.items()
            if other != rank
        )
        return 2 * failing > of
