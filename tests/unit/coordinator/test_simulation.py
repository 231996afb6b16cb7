"""The simulator of large farms: what it says of them is worth what it is itself."""

import pytest

from tests.simulation.busy import BusyTime
from tests.simulation.costs import Costs
from tests.simulation.farm import BigFarm
from tests.simulation.tasks import SAMPLES, best_makespan, create_seconds

COSTS = Costs(coordinator=10e-6)
"""The same at each run."""


@pytest.mark.parametrize("kind", ["constant", "lognormal"])
def test_so_many_ranks_that_they_report_later_lose_no_time_by_it(kind):
    seconds = create_seconds(kind, 0.5)
    farm = BigFarm(1500, 150, 2, seconds, COSTS)
    farm.run(200.0)
    assert farm.ended
    assert set(farm.recorded) == {1}
    assert farm.now < 1.05 * best_makespan(seconds, 1500, 300) + 0.5


def test_the_time_of_workers_is_the_time_of_their_tasks():
    farm = BigFarm(300, 3, 4, create_seconds("lognormal", 0.3), COSTS, slot=0.1)
    farm.run()
    total = sum(map(create_seconds("lognormal", 0.3), range(300)))
    assert farm.busy.total == pytest.approx(total)
    assert farm.busy.between(0.0, farm.now + 1.0) == pytest.approx(total)


def test_busy_time_counts_parts_of_slots_in_any_order():
    busy = BusyTime(slot=1.0)
    busy.begin(3.5)
    busy.begin(0.25)
    busy.end(2.5)
    busy.end(3.75)
    assert busy.total == pytest.approx(2.5)
    assert busy.between(0.0, 4.0) == pytest.approx(2.5)
    assert busy.between(0.5, 2.9) == pytest.approx(1.0), "the whole slots alone"
    assert busy.seconds_between(0.5, 2.9) == 1.0


def test_a_rank_0_that_takes_longer_for_each_event_is_the_limit_sooner():
    rates = []
    for coordinator in (1e-6, 1e-3):
        costs = Costs(coordinator=coordinator)
        farm = BigFarm(4000, 50, 4, create_seconds("constant", 0.02), costs, slot=0.05)
        farm.run()
        rates.append(4000 / farm.now)
        assert farm.ledger.busy <= farm.now
    assert rates[0] > 2 * rates[1]


def test_what_comes_while_rank_0_is_busy_waits():
    quick = BigFarm(400, 4, 2, create_seconds("constant", 0.05), COSTS)
    slow = BigFarm(
        *(400, 4, 2, create_seconds("constant", 0.05)),
        Costs(coordinator=10e-6, record=10e-3),
    )
    for farm in (quick, slow):
        farm.run()
    assert slow.ledger.busy > 400 * 10e-3
    assert slow.now > quick.now + 1.0


@pytest.mark.parametrize("kind", ["constant", "lognormal", "pareto"])
def test_run_times_have_the_mean_that_was_asked_for(kind):
    seconds = create_seconds(kind, 10.0)
    assert sum(map(seconds, range(SAMPLES))) / SAMPLES == pytest.approx(10.0)


def test_the_best_makespan_is_that_of_the_next_task_to_the_first_free_worker():
    lengths = [1.0, 1.0, 5.0, 1.0]
    assert best_makespan(lengths.__getitem__, 4, 2) == 6.0


def test_thousands_of_ranks_are_simulated_in_seconds():
    farm = BigFarm(30_000, 2000, 5, create_seconds("constant", 20.0), COSTS)
    farm.run()
    assert set(farm.recorded) == {1}
    assert farm.now < 1.1 * 60.0 + 2.0
    assert all(rank.pool.tasks for rank in farm.ranks)
