"""How many leases a rank may hold, and how many tasks are taken: at exact bounds."""

from typing import Any

from mpifarm.coordinator.ahead import LeaseRoom, expect_long_tasks, share_ahead
from mpifarm.coordinator.capacity import Capacity
from mpifarm.coordinator.demand import Demand
from mpifarm.coordinator.limits import Limits
from mpifarm.coordinator.pacing import ReportPacing
from mpifarm.coordinator.prefetch import (
    MAX_AT_ONCE,
    MAX_STOCK,
    POLL_SECONDS,
    TAKE_COST_FACTOR,
    TAKE_INTERVAL,
    TAKE_SECONDS,
    Prefetch,
)
from mpifarm.coordinator.state import RankRecord, RankSet, RankState
from mpifarm.coordinator.walltime import Walltime
from mpifarm.model.settings import Policy


class Rooms:
    """The parts of which the room of a rank depends; two ranks of four workers."""

    def __init__(self, ranks: int = 2, workers: int = 4, **policy: Any) -> None:
        walltime = Walltime(None, 2.0, None)
        self.limits = Limits(Policy(**policy), 1000, 0, walltime)
        self.prefetch = Prefetch(self.limits, 0, 0.0, waits_for_others=False)
        self.capacity = Capacity(ranks)
        self.capacity.workers = ranks * workers
        self.queue = list(range(100))
        self.room = LeaseRoom(
            RankSet(tuple(range(ranks)), 0, workers),
            ReportPacing(ranks),
            self.capacity,
            self.limits.failures,
            self.prefetch,
            self.queue,
        )

    def of(self, *, mean: float = 0.0, ended: int = 0, workers: int = 4) -> int:
        record = RankRecord(1, workers=workers, mean=mean, ended=ended)
        return self.room.of(record)

    def empty(self) -> None:
        self.prefetch.note(0.0, empty=True, cost=0.0, others=False)


def test_a_rank_that_has_ended_nothing_gets_one_for_each_worker():
    assert Rooms().of() == 4


def test_a_rank_gets_half_a_second_of_work_ahead():
    assert Rooms().of(mean=0.1, ended=1000) == 4 + 20


def test_a_rank_gets_ahead_twice_what_it_has_ended_at_most():
    assert Rooms().of(mean=0.1, ended=3) == 4 + 6


def test_a_rank_that_ends_a_task_every_two_seconds_and_a_half_gets_one_ahead():
    assert Rooms().of(mean=10.0, ended=1000) == 4 + 1
    assert Rooms().of(mean=10.1, ended=1000) == 4


def test_a_rank_that_returned_leases_gets_none_ahead():
    record = RankRecord(1, workers=4, mean=0.1, ended=1000)
    expect_long_tasks(record)
    assert Rooms().room.of(record) == 4


def test_a_rank_on_trial_gets_what_the_trial_allows():
    record = RankRecord(1, workers=4, mean=0.1, ended=1000, most_leases=1)
    assert Rooms().room.of(record) == 1


def test_on_many_workers_each_has_a_task_ahead_of_short_ones():
    rooms = Rooms(ranks=1000, workers=8)
    assert rooms.of(workers=8) == 16  # the first tasks may end all at once
    assert rooms.of(workers=8, mean=3.9, ended=99) == 16
    assert rooms.of(workers=8, mean=4.1, ended=99) < 16


def test_near_the_limit_of_failures_there_is_nothing_ahead():
    assert Rooms(max_failures=8).of(mean=0.1, ended=1000) == 4
    assert Rooms(max_failures=10).of(mean=0.1, ended=1000) == 4 + 1


def test_when_nothing_more_comes_a_rank_gets_half_its_share_of_the_queue_ahead():
    rooms = Rooms()
    rooms.queue[:] = range(16)
    assert rooms.of(mean=0.1, ended=1000) == 24
    rooms.empty()
    assert rooms.of(mean=0.1, ended=1000) == 4 + 4


def test_without_workers_nobody_has_a_share():
    assert share_ahead(10, 0, 0) == 0
    assert share_ahead(10, 2, 4) == 2


# ---- demand and capacity ------------------------------------------------------------


def test_demand_is_the_sum_over_the_ranks_and_their_turns_come_in_order():
    demand = Demand()
    demand.note(3, 5, 2)
    demand.note(1, 4, 4)
    demand.note(3, 1, 0)
    assert ([*demand], demand.unmet, demand.idle) == ([3, 1], 5, 4)
    demand.put_last(3)
    assert demand.first == 1
    demand.forget(1)
    demand.forget(1)
    assert ([*demand], demand.unmet, demand.idle) == ([3], 1, 0)


def test_capacity_counts_a_rank_once_and_only_while_it_works():
    capacity = Capacity(1)
    record = RankRecord(0, RankState.WORKING, workers=4, mean=0.5)
    for _ in range(2):
        capacity.update(record)
        assert (capacity.workers, capacity.rate) == (4, 8.0)
    record.state = RankState.OUT_OF_USE
    capacity.update(record)
    assert (capacity.workers, capacity.rate) == (0, 0.0)


# ---- taking -------------------------------------------------------------------------


def prefetch_of(first: int = 0, **policy: Any) -> Prefetch:
    limits = Limits(Policy(**policy), 1000, 0, Walltime(None, 2.0, None))
    return Prefetch(limits, first, 10.0, waits_for_others=True)


def test_the_first_taking_is_made_before_any_rank_asks():
    prefetch = prefetch_of(8)
    assert prefetch.count(0, 0, 0.0, 0) == 8
    assert prefetch.count(0, 0, 0.0, 0) == 0


def test_a_taking_is_worth_two_seconds_of_work_or_twenty_times_its_cost():
    prefetch = prefetch_of()
    assert prefetch.count(0, 3, 100.0, 10**6) == 3 + int(100.0 * TAKE_SECONDS)
    prefetch.note(0.0, empty=False, cost=1.0, others=False)
    assert prefetch.count(0, 3, 100.0, 10**6) == 3 + 100 * TAKE_COST_FACTOR


def test_no_more_is_taken_ahead_than_eight_times_what_was_done():
    assert prefetch_of().count(0, 3, 100.0, 2) == 3 + 2 * MAX_STOCK


def test_nothing_is_taken_while_a_second_of_work_waits():
    prefetch = prefetch_of()
    assert prefetch.count(101, 0, 100.0, 10**6) == 0
    assert prefetch.count(100, 0, 100.0, 10**6) == 100


def test_one_taking_is_bounded_unless_it_would_not_last():
    prefetch = prefetch_of()
    assert prefetch.count(0, 10 * MAX_AT_ONCE, 0.0, 0) == MAX_AT_ONCE
    many = prefetch.count(0, 10 * MAX_AT_ONCE, MAX_AT_ONCE, MAX_AT_ONCE)
    assert many == 2 * MAX_AT_ONCE


def test_a_taking_is_limited_by_the_canary():
    assert prefetch_of(8, canary=2).count(0, 0, 0.0, 0) == 2


def test_two_takings_are_apart_and_an_empty_list_is_looked_at_again_later():
    prefetch = prefetch_of()
    assert not prefetch.is_too_soon(10.0)
    prefetch.note(20.0, empty=True, cost=0.0, others=True)
    assert prefetch.is_too_soon(20.0 + 0.9 * TAKE_INTERVAL)
    assert not prefetch.is_too_soon(20.0 + TAKE_INTERVAL)
    assert prefetch.poll_at == 20.0 + POLL_SECONDS
    assert prefetch.others_hold
    assert prefetch.nothing_more_comes


# ---- room at its bounds -------------------------------------------------------------


def test_near_the_limit_of_failures_a_rank_still_fills_its_workers():
    assert Rooms(max_failures=2).of(mean=0.1, ended=1000) == 4


def test_far_from_the_limit_of_failures_a_rank_gets_what_it_gets_without_one():
    assert Rooms(max_failures=1000).of(mean=0.1, ended=1000) == 24


def test_a_limit_of_failures_is_no_defect_before_any_rank_works():
    rooms = Rooms(max_failures=8)
    rooms.capacity.workers = 0
    assert rooms.of(mean=0.1, ended=1000) == 24


def test_a_long_queue_gives_no_rank_more_ahead_when_nothing_more_comes():
    rooms = Rooms()
    rooms.queue[:] = range(1000)
    rooms.empty()
    assert rooms.of(mean=0.1, ended=1000) == 24


def test_on_many_workers_very_short_tasks_are_ahead_by_their_rate():
    rooms = Rooms(ranks=1000, workers=8)
    assert rooms.of(workers=8, mean=0.01, ended=10_000) > 100


def test_from_five_thousand_workers_on_each_has_a_task_ahead_at_first():
    assert Rooms(ranks=625, workers=8).of(workers=8) == 16
    assert Rooms(ranks=624, workers=8).of(workers=8) == 8


def test_where_leases_go_out_one_by_one_a_trial_limits_them_too():
    rooms = Rooms()
    room = LeaseRoom(
        *(RankSet((0, 1), 0, 4), ReportPacing(2), rooms.capacity),
        *(rooms.limits.failures, rooms.prefetch, rooms.queue),
        one_by_one=True,
    )
    record = RankRecord(1, workers=4, mean=0.1, ended=1000)
    assert room.of(record) == 4
    record.most_leases = 1
    assert room.of(record) == 1


def test_a_rank_of_long_tasks_that_returns_leases_keeps_its_mean():
    record = RankRecord(1, workers=4, mean=50.0)
    expect_long_tasks(record)
    assert record.mean == 50.0
