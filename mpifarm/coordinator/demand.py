"""Which ranks could hold more leases.

Rules of this file: pure.  A farm has 10 000 ranks, and a decision comes with each
message: nothing here looks at all of them; sums are kept by differences.
"""

from collections import OrderedDict
from collections.abc import Iterator


class Demand:
    """The ranks that could hold more leases, in the order of their turns.

    `unmet` is how many leases more the ranks could hold together, `idle` how many of
    these leases a worker could begin at once.
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
        """The rank whose turn is next; raises StopIteration if no rank waits."""
        return next(iter(self._wants))

    def note(self, rank: int, wanted: int, idle: int) -> None:
        """Record how many leases more a rank could hold; a new rank is last in turn."""
        before_wanted, before_idle = self._wants.get(rank, (0, 0))
        self._wants[rank] = (wanted, idle)
        self.unmet += wanted - before_wanted
        self.idle += idle - before_idle

    def put_last(self, rank: int) -> None:
        """Put `rank` behind all others that wait; no effect if `rank` does not wait."""
        if rank in self._wants:
            self._wants.move_to_end(rank)

    def forget(self, rank: int) -> None:
        """Drop a rank and its counts; no effect if the rank does not wait."""
        if rank in self._wants:
            wanted, idle = self._wants.pop(rank)
            self.unmet -= wanted
            self.idle -= idle
