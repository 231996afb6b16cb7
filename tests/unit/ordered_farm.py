"""A simulated farm whose list has an order, and random orders for it.

Rules of this file: what may start is judged by the list and by what stands on disk, not
by what the farm or the fake disk makes of them.
"""

import random
from collections.abc import Iterator
from typing import Any

from mpifarm.model.task import Lease, Outcome
from mpifarm.order.constraints import Constraints
from tests.unit.fakes import FakeDisk, FakeRank, SimulatedFarm


def make_constraints(total: int, random_: random.Random) -> Constraints:
    """Return barriers, some of which check, and tasks that wait for others."""
    constraints = Constraints()
    for taskid in range(1, total):
        if random_.random() < 0.08:
            constraints.add_barrier(taskid, checks=random_.random() < 0.3)
        if random_.random() < 0.3:
            near = range(max(0, taskid - 20), taskid)
            after = random_.sample(near, min(len(near), random_.randint(1, 3)))
            constraints.after[taskid] = tuple(sorted(after))
    return constraints


def find_needed(constraints: Constraints, taskid: int) -> Iterator[int]:
    """Yield the tasks that have to finish, or this one is not run."""
    yield from constraints.after.get(taskid, ())
    for first, checks, since in constraints.barriers:
        if checks and first <= taskid:
            yield from range(since, first)


def find_stage(constraints: Constraints, taskid: int) -> int:
    """Return the first task behind the last barrier above this one; 0 without one."""
    firsts = (each.first for each in constraints.barriers if each.first <= taskid)
    return max(firsts, default=0)


class OrderedFarm(SimulatedFarm):
    """A farm that asserts at each start that all for which the task waits has ended."""

    def __init__(self, constraints: Constraints, disk: FakeDisk, **more: Any) -> None:
        super().__init__(disk.left, disk=disk, **more)
        self.constraints = constraints

    def note_start(self, lease: Lease, rank: FakeRank) -> None:
        super().note_start(lease, rank)
        records, taskid = self.disk.records, lease.taskid
        assert taskid not in records, f"{lease} is recorded already"
        needed = {*find_needed(self.constraints, taskid)}
        for each in needed.union(range(find_stage(self.constraints, taskid))):
            assert each in records, f"{lease} began before {each} had ended"
        failed = {
            each
            for each in needed
            if records[each].result.outcome is not Outcome.COMPLETED
        }
        assert failed == set(), f"{lease} began though {failed} did not complete"
