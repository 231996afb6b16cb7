"""How many tasks may start: the rate of starts, alone and in whole farms."""

from math import inf

import pytest

from mpifarm.coordinator.start_rate import BURST_SECONDS, StartRate
from mpifarm.coordinator.state import UNLIMITED
from mpifarm.model.settings import Policy
from tests.unit.fakes import SimulatedFarm


def test_without_a_rate_any_number_may_start():
    rate = StartRate(None, 10.0)
    rate.note_started(1000)
    assert rate.allow(10.0) == UNLIMITED
    assert rate.wake_at() == inf


def test_the_first_starts_at_once_and_the_next_when_its_time_has_come():
    rate = StartRate(2.0, 10.0)
    assert rate.allow(10.0) == 1
    assert rate.wake_at() == inf
    rate.note_started(1)
    assert rate.wake_at() == 10.5
    assert [rate.allow(10.4), rate.allow(10.5)] == [0, 1]


def test_starts_that_were_not_used_come_together_for_a_tenth_of_a_second_at_most():
    rate = StartRate(100.0, 10.0)
    assert rate.allow(10.0) == 1
    assert rate.allow(20.0) == 100 * BURST_SECONDS
    slow = StartRate(0.5, 10.0)
    assert slow.allow(60.0) == 1


def starts_of(farm: SimulatedFarm, seconds: float) -> list[float]:
    return sorted(ended - seconds for ended in farm.ends.values())


@pytest.mark.parametrize("per_second", [1.0, 7.0, 90.0])
def test_a_farm_starts_no_more_than_its_rate_and_hardly_less(per_second):
    count = 40
    farm = SimulatedFarm(
        count, ranks=8, workers=8, seconds=3.0, policy=Policy(start_rate=per_second)
    )
    farm.run()
    assert sum(each.result.status == 0 for each in farm.disk.records.values()) == count
    starts = starts_of(farm, 3.0)
    most = max(1.0, per_second * BURST_SECONDS)
    late = 0.01  # messages take a millisecond, and ranks look at their mail in turn
    for first in range(count):
        for last in range(first + 1, count):
            allowed = most + per_second * (starts[last] - starts[first] + late)
            assert last - first + 1 <= allowed + 1
    assert starts[-1] - starts[0] <= count / per_second + 1.0


def test_failed_tasks_that_run_again_count_as_starts_too():
    policy = Policy(start_rate=5.0, retries=1)
    farm = SimulatedFarm(20, seconds=0.1, policy=policy)
    farm.status_of = lambda lease: int(lease.attempt == 1)
    farm.run()
    starts = starts_of(farm, 0.1)
    assert len(starts) == 40
    assert starts[-1] - starts[0] >= 39 / 5 - 0.1


@pytest.mark.parametrize("retries", [0, 1])
def test_rank_0_sleeps_until_the_next_task_may_start(retries):
    policy = Policy(start_rate=1 / 20, retries=retries)
    farm = SimulatedFarm(12, ranks=2, workers=2, seconds=0.1, policy=policy)
    farm.status_of = lambda lease: int(lease.attempt == 1 and retries)
    farm.run(200.0)
    assert farm.ends
    assert farm.counts.spins == 0
