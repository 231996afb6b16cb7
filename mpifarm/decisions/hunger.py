"""Which ranks could hold more leases, and what all ranks have together.

Rules of this file: pure.  A farm has 10 000 ranks, and a decision comes with each
message: nothing here looks at all of them; sums are kept by differences.
"""

from collections import OrderedDict
from collections.abc import Iterator

from mpifarm.decisions.state import RankRecord, RankState


class Hunger:
    """The ranks that could hold more leases, in the order in which they came to.

    `unmet` is how many leases more they could hold, `idle` how many of those a worker
    could begin at once.
    """

    def __init__(self) -> None:
        self.unmet = 0
        self.idle = 0
        self._wants: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._wants)

    def __len__(self) -> int:
        return len(self._wants)

    def __iter__(self) -> Iterator[int]:
        return iter(self._wants)

    @property
    def first(self) -> int:
        """The rank whose turn it is."""
        return next(iter(self._wants))

    def note(self, rank: int, wanted: int, idle: int) -> None:
        """It could hold `wanted` more; where it waits already, it keeps its place."""
        before_wanted, before_idle = self._wants.get(rank, (0, 0))
        self._wants[rank] = (wanted, idle)
        self.unmet += wanted - before_wanted
        self.idle += idle - before_idle

    def put_last(self, rank: int) -> None:
        """Another's turn comes first."""
        if rank in self._wants:
            self._wants.move_to_end(rank)

    def forget(self, rank: int) -> None:
        """It wants nothing, or gets nothing."""
        if rank in self._wants:
            wanted, idle = self._wants.pop(rank)
            self.unmet -= wanted
            self.idle -= idle


class Census:
    """What the ranks of the farm have together."""

    def __init__(self, ranks: int) -> None:
        self.can_work = ranks
        """Ranks that take leases, now or when they have come."""
        self.workers = 0
        """Of the ranks that take leases now."""
        self.rate = 0.0
        """Tasks that these get done in a second, as far as known."""
        self.ended = 0
        """Results that were reported."""

    def enter(self, record: RankRecord, state: RankState) -> None:
        """The rank comes into this state."""
        self.can_work -= record.may_work
        record.state = state
        self.can_work += record.may_work
        self.note(record)

    def note(self, record: RankRecord) -> None:
        """The number of its workers, or what they get done, may have changed."""
        workers, rate = (record.workers, record.rate) if record.works else (0, 0.0)
        before_workers, before_rate = record.counted
        if workers != before_workers or rate != before_rate:
            record.counted = (workers, rate)
            self.workers += workers - before_workers
            self.rate += rate - before_rate
