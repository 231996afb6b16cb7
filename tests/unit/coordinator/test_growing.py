"""A list that grows while its farm runs, and a farm that waits for more."""

import math
import random
from functools import partial

import pytest

from mpifarm.coordinator.coordinator import Effect, Phase
from mpifarm.coordinator.forecast import Forecast
from mpifarm.coordinator.growing import GrowingList
from mpifarm.coordinator.limits import FailureLimit
from mpifarm.coordinator.running import RunningTasks
from mpifarm.coordinator.state import FarmState
from mpifarm.model.settings import Policy
from mpifarm.order.constraints import Constraints
from tests.unit.fakes import SimulatedFarm, rank_set_of
from tests.unit.virtual_rank import START


def begin(tasks: int, follow: float | None = None, **facts) -> SimulatedFarm:
    """A farm whose list may grow."""
    farm = SimulatedFarm(tasks, **facts)
    farm.coordinator.expect_growth(follow)
    return farm


def assert_all_done(farm: SimulatedFarm) -> None:
    """Each task of the list, as it is now, was recorded, and the farm has left."""
    assert farm.ended_at is not None
    assert sorted(farm.disk.records) == [*range(len(farm.commands))]
    assert farm.disk.held == set()
    assert farm.counts.spins == 0


# ---- adding -------------------------------------------------------------------------


def test_what_is_added_while_tasks_run_is_done_by_idle_workers_soon():
    farm = begin(16, ranks=2, workers=4, seconds=10.0)
    farm.after(2.0, lambda: farm.add_lines(8))
    farm.after(6.0, lambda: farm.add_lines(8))
    farm.run()
    assert_all_done(farm)
    assert farm.now - START < 45


def test_workers_that_are_idle_get_what_is_added_at_once():
    farm = begin(3, ranks=1, workers=4, seconds=lambda taskid: 100.0 if taskid else 1.0)
    farm.after(9.4, lambda: farm.add_lines(1))
    farm.run(30.0)
    assert {lease.taskid for lease in farm.ranks[0].running} == {1, 2, 3}
    # A second after it was added it was seen, and the look at the queue was at once.
    assert any(10.35 < at - START < 10.45 for at in farm.disk.takes)


def test_the_list_is_looked_at_once_before_the_farm_leaves():
    farm = begin(5)
    farm.run()
    assert_all_done(farm)
    assert len(farm.looks) == 1
    assert farm.ended_at == farm.looks[0]


def test_a_farm_that_cannot_grow_does_not_look():
    farm = SimulatedFarm(5)
    farm.run()
    assert farm.looks == []
    assert_all_done(farm)


def test_what_was_added_last_is_found_by_the_look_at_the_end():
    farm = begin(5, seconds=1.0)
    farm.after(0.9, lambda: farm.add_lines(3))
    farm.run()
    assert_all_done(farm)
    assert len(farm.looks) == 2
    assert len(farm.disk.records) == 8


def test_a_farm_that_drains_leaves_what_is_added():
    farm = begin(5, seconds=5.0)
    farm.after(1.0, lambda: farm.coordinator.on_drain("the user says so"))
    farm.after(2.0, lambda: farm.add_lines(3))
    farm.run()
    assert farm.unseen == 3
    assert len(farm.disk.records) == 5
    assert farm.looks == []


@pytest.mark.parametrize("seed", range(40))
def test_random_lists_that_grow_are_done_once_whatever_befalls_ranks(seed):
    chance = random.Random(seed)
    constraints = Constraints()
    total = chance.randrange(40)
    if chance.random() < 0.5:
        for taskid in range(1, 200):
            if chance.random() < 0.1:
                constraints.after[taskid] = (chance.randrange(taskid),)
            if chance.random() < 0.03:
                constraints.add_barrier(taskid, checks=False)
    follow = chance.choice([None, None, 3.0])
    farm = begin(
        *(total, follow),
        ranks=4,
        workers=chance.randrange(1, 5),
        seconds=lambda _: chance.uniform(0.01, 3.0),
        seed=seed,
        disk_seconds=chance.choice([0.0, 0.05]),
        constraints=constraints,
        survives_rank_loss=True,
    )
    for _ in range(chance.randrange(1, 6)):
        count = chance.randrange(1, 25)
        farm.after(chance.uniform(0, 15), partial(farm.add_lines, count))
    if chance.random() < 0.5:
        farm.after(chance.uniform(0.1, 8.0), farm.ranks[3].die)
    farm.run()
    left = farm.unseen  # added when the farm had ended
    if left and follow is None:
        assert farm.ended_at is not None
        assert sorted(farm.disk.records) == [*range(len(farm.commands))]
        return
    assert_all_done(farm)


# ---- waiting for more ---------------------------------------------------------------


def test_a_farm_that_follows_waits_until_nothing_has_come_for_so_long():
    farm = begin(4, 20.0)
    farm.after(10.0, lambda: farm.add_lines(2))
    farm.run()
    assert_all_done(farm)
    assert farm.now - START == pytest.approx(10 + 1 + 1 + 20, abs=1.5)
    assert len(farm.looks) == 1


def test_it_costs_a_look_at_the_queue_each_second():
    farm = begin(4, 100.0)
    farm.run()
    assert 90 <= len(farm.disk.takes) <= 110
    assert farm.counts.decisions < 2000


def test_what_others_put_back_meanwhile_is_done():
    farm = begin(4, 10.0)
    farm.after(5.0, lambda: farm.disk.toprocess.append(2))
    farm.disk.records.pop(2, None)

    def forget() -> None:
        del farm.disk.records[2]

    farm.after(4.9, forget)
    farm.run()
    assert_all_done(farm)
    assert farm.now - START > 15


def test_without_an_end_it_waits_for_ever_and_says_so():
    farm = begin(0, math.inf)
    farm.run(10_000.0)
    assert farm.ended_at is None
    assert farm.coordinator.growing.is_waiting
    assert farm.coordinator.growing.wake_at() == math.inf
    farm.add_lines(2)
    farm.run(1.5)
    assert not farm.coordinator.growing.is_waiting
    farm.coordinator.on_list_ended()
    farm.run()
    assert_all_done(farm)


@pytest.mark.parametrize("how", ["drain", "timeout", "signal"])
def test_it_ends_by_all_that_ends_a_farm(how):
    timeout = 50.0 if how == "timeout" else None
    farm = begin(3, math.inf, timeout=timeout)
    if how == "drain":
        farm.after(50.0, lambda: farm.coordinator.on_drain("the user says so"))
    elif how == "signal":
        farm.after(50.0, lambda: farm.coordinator.on_signal(15, farm.now))
    farm.run(200.0)
    assert_all_done(farm)
    assert (farm.ended_at or math.inf) - START < 60


def test_it_ends_before_the_job_does():
    farm = begin(3, math.inf, deadline=START + 100.0)
    farm.run(300.0)
    assert_all_done(farm)
    assert (farm.ended_at or math.inf) - START < 100


def test_lines_added_before_the_end_begin_the_wait_anew():
    posted: list[Effect] = []
    growing = GrowingList(posted.append)
    growing.expect(10.0)
    assert not growing.may_leave(0.0)
    assert growing.wake_at() == 10.0
    assert not growing.may_leave(10.0)
    assert len(posted) == 1
    growing.note_work()
    growing.note_seen()
    assert not growing.may_leave(11.0)
    assert not growing.may_leave(21.0)
    assert len(posted) == 2
    growing.note_seen()
    assert growing.may_leave(21.5)


# ---- what is counted ----------------------------------------------------------------


def test_the_share_of_failures_is_that_of_the_list_as_it_is_now():
    limit = FailureLimit(Policy(max_failed_share=0.1), 20)
    for taskid in range(2):
        limit.note(taskid, failed=True)
    assert "10%, 2 of the list's 20" in limit.why()
    limit.grow(40)
    assert limit.why() == ""
    assert limit.left == 2
    fixed = FailureLimit(Policy(max_failures=2), 20)
    fixed.grow(100)
    assert fixed.left == 2


def test_a_farm_stops_at_the_share_of_the_list_as_it_is_now():
    policy = Policy(max_failed_share=0.5)
    farm = begin(8, ranks=1, workers=1, policy=policy)
    farm.status = lambda taskid: int(taskid >= 4)
    farm.after(1.0, lambda: farm.add_lines(8))
    farm.run()
    assert farm.coordinator.too_many_failures
    assert len(farm.disk.records) == 12


def estimate(farm):
    now, has_ended = farm.now, farm.disk.records.__contains__
    return farm.coordinator.forecast.estimate(now, now, 20, 1.0, has_ended)


def test_the_time_left_counts_what_was_added():
    farm = begin(40, ranks=1, workers=4, seconds=10.0)
    farm.run(52.0)
    before = estimate(farm)
    farm.add_lines(400)
    farm.run(2.0)
    after = estimate(farm)
    assert before is not None
    assert before.likely < 100
    assert after is not None
    assert after.likely > 900


def test_durations_that_are_known_of_added_tasks_count():
    farm = FarmState.begin(rank_set_of(1, 1), Policy())
    running = RunningTasks(None, 1, verbose=False)  # type: ignore[arg-type]
    forecast = Forecast(farm, running, 2, 0.0)
    forecast.grow(3)
    forecast.expect({0: 10.0, 3: 1000.0})
    forecast.grow(4)
    assert forecast._estimator._known.count == 2
    assert forecast._estimator.total == 4


def test_nothing_grows_once_the_farm_leaves():
    farm = begin(2)
    farm.run()
    assert farm.coordinator.phase is Phase.LEAVING
    farm.add_lines(2)
    farm.run(5.0)
    assert len(farm.commands) == 2
