"""What the ranks of the farm can do together.

Rules of this file: pure.  A farm has 10 000 ranks, and a decision comes with each
message: nothing here looks at all of them; sums are kept by differences.
"""

from mpifarm.coordinator.state import RankRecord


class Capacity:
    """The sums over all ranks; `ranks` is how many there are at the start."""

    def __init__(self, ranks: int) -> None:
        self.can_work = ranks
        """Ranks that take leases, now or when they have come; `RankUse` counts them."""
        self.workers = 0
        """Workers of the ranks that take leases now."""
        self.rate = 0.0
        """Tasks that these ranks get done in a second, as far as known."""
        self.ended = 0
        """Results that ranks have reported."""

    def update(self, record: RankRecord) -> None:
        """Count a rank anew in the sums: its state, workers or run times may differ."""
        workers, rate = (record.workers, record.rate) if record.works else (0, 0.0)
        before_workers, before_rate = record.counted
        if workers != before_workers or rate != before_rate:
            record.counted = (workers, rate)
            self.workers += workers - before_workers
            self.rate += rate - before_rate
