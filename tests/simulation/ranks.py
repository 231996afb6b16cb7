"""A rank of a large farm: the real agent of a rank, with what a simulation asks of it.

Rules of this file: it is woken by `BigFarm`, whose clock is the time of the rank that
is at work; nothing here may cost more than the agent does.
"""

from collections.abc import Callable

from mpifarm.farm.sureness import find_wait
from mpifarm.model.messages import Report, ToCoordinator
from mpifarm.model.task import Lease
from tests.simulation.busy import BusyTime
from tests.unit.virtual_rank import Clock, FakePool, Seconds, VirtualRank

Say = Callable[[ToCoordinator], None]


class CountingPool(FakePool):
    """A pool that counts its tasks, of which there may be millions."""

    def __init__(self, clock: Clock, seconds: Seconds, busy: BusyTime) -> None:
        super().__init__(clock, seconds)
        self._busy = busy
        self.tasks = 0
        """Tasks that its workers have begun."""

    def note_begin(self, lease: Lease, now: float) -> None:
        self.tasks += 1
        self._busy.begin(now)

    def note_end(self, lease: Lease, now: float) -> None:
        self._busy.end(now)


class BigFarmRank(VirtualRank):
    """One rank of `workers`; `say` takes what it says."""

    pool: CountingPool

    def __init__(
        self, rank: int, workers: int, pool: CountingPool, clock: Clock, say: Say
    ) -> None:
        self._say = say
        self.returned = 0
        """Leases that it returned."""
        super().__init__(rank, workers, pool, clock, self._count, find_wait(workers))

    def _count(self, message: ToCoordinator) -> None:
        if isinstance(message, Report):
            self.returned += len(message.returned)
        self._say(message)

    @property
    def waiting(self) -> int:
        """Leases that wait for a worker, in workers' pipes too."""
        held = len(self.agent.feeder.queue) + self.pool.busy
        return held - self.pool.runs

    @property
    def idle(self) -> int:
        """Workers with nothing to do."""
        return self.pool.vacancies(0)
