"""Tasks of a kind share seats: how many of them run, and that others go on."""

import math
import random

import pytest

from mpifarm.coordinator import seats as seats_module
from mpifarm.coordinator.seat_time import SeatTime
from mpifarm.coordinator.seats import MAX_WAITING, Seats
from mpifarm.coordinator.state import TaskRecord
from mpifarm.model.settings import Policy
from tests.unit.fakes import SimulatedFarm


def seats_of(kinds: dict[int, str], **most: int) -> Seats:
    seats = Seats(most)
    seats.name_kinds(kinds, ())
    return seats


def test_a_kind_has_so_many_seats_and_others_need_none():
    seats = seats_of({1: "disk", 2: "disk", 3: "other"}, disk=1, other=0)
    one, two = TaskRecord(1), TaskRecord(2)
    assert seats.take(TaskRecord(0))
    assert seats.take(TaskRecord(3))
    assert seats.take(one)
    assert not seats.take(two)
    assert [*seats] == [two]
    assert seats.call() == []
    seats.give_back(1)
    assert seats.call() == [two]
    assert len(seats) == 0
    assert seats.take(two)


def test_no_seats_are_limited_by_nothing_or_by_zero():
    assert not Seats({}).is_limited
    assert not Seats({"disk": 0}).is_limited
    assert Seats({"disk": 1}).is_limited


def test_what_ran_before_this_coordinator_has_its_seats():
    seats = Seats({"disk": 1})
    seats.name_kinds({1: "disk", 2: "disk", 3: "disk"}, [1, 2])
    assert not seats.take(TaskRecord(3))
    seats.give_back(1)
    assert seats.call() == []  # one too many ran
    seats.give_back(2)
    assert [each.taskid for each in seats.call()] == [3]


def test_so_many_wait_at_the_most_before_no_more_are_taken():
    seats = seats_of(dict.fromkeys(range(MAX_WAITING + 1), "disk"), disk=1)
    for taskid in range(MAX_WAITING):
        seats.take(TaskRecord(taskid))
    assert not seats.is_crowded
    seats.take(TaskRecord(MAX_WAITING))
    assert seats.is_crowded


# ---- whole farms --------------------------------------------------------------------


def most_at_once(farm: SimulatedFarm, seconds: float, taskids: set[int]) -> int:
    """Return how many of some tasks ran at the same time, at the most."""
    events = []
    for (taskid, _), ended in farm.ends.items():
        if taskid in taskids:
            events += [(ended - seconds + 1e-9, 1), (ended, -1)]
    running = most = 0
    for _, change in sorted(events):
        running += change
        most = max(most, running)
    return most


def test_at_most_so_many_of_a_kind_run_while_others_fill_the_workers():
    disk = set(range(60))
    farm = SimulatedFarm(
        100, ranks=4, workers=4, seconds=1.0, policy=Policy(seats=(("disk", 3),))
    )
    farm.coordinator.share_seats(dict.fromkeys(disk, "disk"))
    farm.run()
    assert sum(each.result.status == 0 for each in farm.disk.records.values()) == 100
    assert most_at_once(farm, 1.0, disk) == 3
    assert most_at_once(farm, 1.0, set(range(60, 100))) == 13
    # 60 tasks on 3 seats, and the others beside them.
    assert max(farm.ends.values()) - min(farm.ends.values()) < 25


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_each_task_ends_and_no_kind_has_too_many(seed):
    chance = random.Random(seed)
    count = 80
    kinds = {
        each: chance.choice(["disk", "gpu"])
        for each in range(count)
        if chance.random() < 0.6
    }
    policy = Policy(seats=(("disk", 1), ("gpu", 4)), retries=1, quarantine=0)
    farm = SimulatedFarm(
        count, ranks=3, workers=3, seconds=0.7, seed=seed, policy=policy
    )
    farm.coordinator.share_seats(kinds)
    failing = set(chance.sample(range(count), 10))
    farm.status_of = lambda lease: int(lease.taskid in failing and lease.attempt == 1)
    farm.run()
    assert sum(each.result.status == 0 for each in farm.disk.records.values()) == count
    for name, most in policy.seats:
        of_kind = {each for each, kind in kinds.items() if kind == name}
        assert most_at_once(farm, 0.7, of_kind) <= most
    assert farm.coordinator.find_violations() == []


def test_a_task_without_a_seat_is_requeued_by_a_drain():
    farm = SimulatedFarm(20, seconds=5.0, policy=Policy(seats=(("disk", 1),)))
    farm.coordinator.share_seats(dict.fromkeys(range(20), "disk"))
    farm.at(farm.now + 1.0, lambda: farm.coordinator.on_drain("enough"))
    farm.run()
    assert sum(each.result.status == 0 for each in farm.disk.records.values()) == 1
    assert sorted(farm.disk.toprocess) == [*range(1, 20)]


def test_tasks_behind_many_without_a_seat_are_reached_in_few_takings():
    farm = SimulatedFarm(
        3010, ranks=2, workers=4, seconds=50.0, policy=Policy(seats=(("disk", 2),))
    )
    farm.coordinator.share_seats(dict.fromkeys(range(3000), "disk"))
    farm.run(40.0)
    running = {lease.taskid for rank in farm.ranks for lease in rank.running}
    assert len(running & {*range(3000)}) == 2
    assert len(running & {*range(3000, 3010)}) == 6
    assert len(farm.disk.takes) < 20
    assert farm.counts.spins == 0


def test_rank_0_sleeps_while_too_many_wait_for_seats(monkeypatch):
    monkeypatch.setattr(seats_module, "MAX_WAITING", 50)
    farm = SimulatedFarm(
        500, ranks=2, workers=4, seconds=50.0, policy=Policy(seats=(("disk", 2),))
    )
    farm.coordinator.share_seats(dict.fromkeys(range(500), "disk"))
    farm.run(40.0)
    assert farm.coordinator.count_seatless()["disk"] >= 50
    assert farm.counts.spins == 0


# ---- how long seats take, at exact bounds --------------------------------------------


def estimated(most, kinds, ended=(), *, done=(), share=1.0):
    time = SeatTime(most, kinds)
    for taskid, seconds in ended:
        time.note_ended(taskid, seconds)
    return time.estimate({*done}.__contains__, share)


@pytest.mark.parametrize(
    ("seats", "left", "likely"),
    [
        (1, 10, 95.0),  # the one that has the seat is half done
        (2, 10, 45.0),
        (4, 4, 5.0),
        (20, 10, 2.5),  # more seats than tasks: half of them are left
    ],
)
def test_the_seats_of_a_kind_take_its_tasks_one_after_the_other(seats, left, likely):
    kinds = dict.fromkeys(range(left + 2), "gpu")
    ended = [(0, 10.0), (1, 10.0)]
    time = estimated({"gpu": seats}, kinds, ended, done=(0, 1))
    assert time.likely == pytest.approx(likely)
    assert time.low == pytest.approx(likely)
    assert time.high == pytest.approx(likely), "they all take the same"


def test_the_kind_that_takes_longest_counts_and_the_share_of_this_farm():
    kinds = {**dict.fromkeys(range(12), "gpu"), **dict.fromkeys(range(20, 30), "disk")}
    kinds[40] = "any"
    ended = [(0, 10.0), (1, 10.0), (20, 100.0), (21, 100.0), (40, 1e9)]
    most = {"gpu": 1, "disk": 1}
    done = (0, 1, 20, 21)
    assert estimated(most, kinds, ended, done=done).likely == pytest.approx(750.0)
    half = estimated(most, kinds, ended, done=done, share=0.5)
    assert half.likely == pytest.approx(350.0)


def test_as_long_as_a_kind_is_not_known_its_tasks_take_what_all_others_do():
    kinds = dict.fromkeys(range(10), "gpu")
    time = estimated({"gpu": 1}, kinds, [(90, 5.0), (91, 15.0)])
    assert time.likely == pytest.approx(95.0)
    assert time.low < time.likely / 3
    assert time.high > time.likely * 3
    assert estimated({"gpu": 1}, kinds) == (0.0, 0.0, 0.0)
    assert estimated({"gpu": 1}, kinds, [(90, 5.0)], done=range(10)).high == 0.0


def test_the_spread_of_durations_widens_the_range_and_more_of_them_make_it_narrow():
    kinds = dict.fromkeys(range(200), "gpu")
    few = [(taskid, 5.0 + 10.0 * (taskid % 2)) for taskid in range(4)]
    many = [(taskid, 5.0 + 10.0 * (taskid % 2)) for taskid in range(100)]
    wide = estimated({"gpu": 1}, kinds, few, done=range(100))
    narrow = estimated({"gpu": 1}, kinds, many, done=range(100))
    assert wide.likely == narrow.likely == pytest.approx(995.0)
    assert 1.0 < narrow.high / narrow.likely < wide.high / wide.likely
    assert narrow.low == pytest.approx(narrow.likely**2 / narrow.high)


def test_one_task_alone_says_little_of_the_others():
    kinds = dict.fromkeys(range(10), "gpu")
    time = estimated({"gpu": 1}, kinds, [(0, 10.0)], done=(0,))
    assert time.high / time.likely == pytest.approx(
        math.exp(1.2816 * (1 + 1 / 9) ** 0.5)
    )


@pytest.mark.parametrize("share", [0.5, 0.01, 1e-5])
def test_a_small_share_of_tasks_that_differ_much_leaves_a_time_that_means_something(
    share,
):
    kinds = dict.fromkeys(range(1001), "gpu")
    ended = [*((taskid, 0.0) for taskid in range(999)), (999, 1000.0)]
    time = estimated({"gpu": 1}, kinds, ended, done=range(1000), share=share)
    assert 0.0 < time.low < time.likely < time.high < 100 * time.likely


def test_whoever_is_cleared_or_removed_waits_no_more():
    seats = seats_of(dict.fromkeys(range(4), "disk") | {4: "net"}, disk=1, net=1)
    tasks = [TaskRecord(taskid) for taskid in range(5)]
    assert [seats.take(task) for task in tasks] == [True, False, False, False, True]
    assert (len(seats), seats.count_waiting()) == (3, {"disk": 3})
    seats.remove([2, 99])
    assert (len(seats), [*seats]) == (2, [tasks[1], tasks[3]])
    assert seats.clear() == [tasks[1], tasks[3]]
    assert (len(seats), [*seats], seats.count_waiting()) == (0, [], {})
    assert not seats.take(tasks[2])
    assert len(seats) == 1
