"""Ranks that are put out of use, those that are not, and the way back, in virtual time.

Rules of this file: whole simulated farms; a *seat* is what a task needs and may not
get (a licence), whatever its rank; a *black hole* is a rank on which everything fails
at once.
"""

from collections.abc import Callable
from itertools import pairwise
from signal import SIGUSR1, SIGUSR2
from typing import Any

import pytest

from mpifarm.coordinator.alike import FEWEST, FORGET_SECONDS, Alike
from mpifarm.coordinator.coordinator import COMMIT_INTERVAL, RankChange
from mpifarm.coordinator.quarantine import FIRST_PAUSE
from mpifarm.coordinator.retries import PATIENCE_SECONDS
from mpifarm.coordinator.state import RankRecord, TaskRecord
from mpifarm.model.messages import Join, RankUnusable
from mpifarm.model.settings import Policy
from mpifarm.model.task import Lease
from tests.unit.coordinator.test_coordinator import Hand
from tests.unit.coordinator.test_losses import assert_all_is_accounted_for
from tests.unit.fakes import FakeRank, SimulatedFarm, sure_report
from tests.unit.virtual_rank import START, result_of

HOUR = 3600.0


def a_farm(tasks: int, policy: Policy | None = None, **how: Any) -> SimulatedFarm:
    how = {"ranks": 4, "workers": 4, "seconds": 1.0, "checked": False, **how}
    return SimulatedFarm(tasks, policy=policy or Policy(), **how)


def fail_now_and_then(farm: SimulatedFarm, share: float, fails_in: float) -> None:
    """A share of the attempts fails fast, wherever."""
    seconds, failing = farm.seconds, set[int]()

    def draw(taskid: int) -> float:
        failing.discard(taskid)
        if farm.random.random() >= share:
            return seconds(taskid)
        failing.add(taskid)
        return fails_in

    farm.seconds = draw
    farm.status = lambda taskid: taskid in failing


def were_out_of_use(farm: SimulatedFarm) -> list[str]:
    return [line for line in farm.told if "out of use" in line]


# ---- a resource that all ranks share ------------------------------------------------


class Seats:
    """A task holds a seat for `seconds`, or fails when there is none."""

    def __init__(self, farm: SimulatedFarm, seats: int, seconds: float) -> None:
        self._free = seats
        self._held: set[int] = set()
        self._seconds = seconds
        self._random = farm.random
        farm.seconds = self.begin
        farm.status_of = self.end

    def begin(self, taskid: int) -> float:
        if not self._free:
            return self._random.uniform(0.01, 0.03)
        self._free -= 1
        self._held.add(taskid)
        return self._seconds * self._random.uniform(0.9, 1.1)

    def end(self, lease: Lease) -> int:
        if lease.taskid not in self._held:
            return 1
        self._held.remove(lease.taskid)
        self._free += 1
        return 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("ranks", "workers"), [(3, 8), (4, 6), (2, 12), (6, 4)])
@pytest.mark.parametrize("retry", [(0, 0.0), (10, 0.0), (5, 0.3), (100, 1.0)])
@pytest.mark.parametrize("seconds", [0.05, 0.5, 5.0])
def test_four_licences_for_24_workers_put_no_rank_out_of_use(
    seed, ranks, workers, retry, seconds
):
    policy = Policy(retries=retry[0], retry_delay=retry[1])
    farm = a_farm(60, policy, ranks=ranks, workers=workers, seed=seed)
    Seats(farm, 4, seconds)
    farm.run()
    assert_all_is_accounted_for(farm)
    assert were_out_of_use(farm) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("seats", [1, 4, 16])
def test_licences_put_no_rank_of_many_out_of_use(seed, seats):
    farm = a_farm(400, Policy(retries=3), ranks=30, workers=8, seed=seed)
    Seats(farm, seats, 2.0)
    farm.run()
    assert were_out_of_use(farm) == []


# ---- tasks that fail everywhere -----------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3, 20])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.98])
@pytest.mark.parametrize("seconds", [(0.02, 0.02), (0.02, 2.0), (0.9, 3.0)])
def test_tasks_that_fail_at_random_put_no_rank_out_of_use(ranks, share, seconds):
    seed = round(100 * share)
    farm = a_farm(800, ranks=ranks, seed=seed, seconds=seconds[1])
    fail_now_and_then(farm, share, seconds[0])
    farm.run()
    assert were_out_of_use(farm) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ranks", [2, 5])
def test_blocks_of_tasks_that_fail_put_no_rank_out_of_use(seed, ranks):
    """A list made by nested loops: 50 in a row have the parameter that can't be."""
    farm = a_farm(2000, ranks=ranks, seed=seed)
    farm.seconds = lambda taskid: 0.05 if taskid // 50 % 3 == 1 else 0.5
    farm.status = lambda taskid: taskid // 50 % 3 == 1
    farm.run()
    assert were_out_of_use(farm) == []


def test_fast_checkpoints_do_not_put_their_rank_on_trial():
    policy = Policy(quarantine=2, requeue_status=75)
    hand = Hand(size=2, workers=1, policy=policy)
    hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(1, 2, empty=True)
    now, leases = hand.clock.now, hand.leases(1)
    fast = tuple(result_of(lease, now, 0.1, status=75) for lease in leases)
    hand.hear(1, sure_report(now, fast))
    hand.decide(COMMIT_INTERVAL)
    hand.decide()
    again = [(lease.taskid, lease.attempt) for lease in hand.leases(1)[2:]]
    assert again == [(1, 2), (2, 2)]


# ---- a rank that fails everything ---------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_a_black_hole_is_found_though_tasks_fail_elsewhere_too(seed, ranks, share):
    farm = a_farm(1200, Policy(retries=3), ranks=ranks, workers=8, seed=seed)
    fail_now_and_then(farm, share, 0.05)
    farm.ranks[1].fails_all_in = 0.05
    farm.run(8.0)
    assert [*farm.coordinator.quarantined] == [1]
    assert len(farm.ranks[1].told) < 80
    farm.run()
    assert_all_is_accounted_for(farm)
    assert len(were_out_of_use(farm)) == 1


@pytest.mark.parametrize("bad", [{1}, {1, 3}, {0, 2, 5}])
def test_as_long_as_most_ranks_are_good_each_black_hole_is_found(bad):
    farm = a_farm(1000, ranks=7, seconds=0.3)
    for rank in bad:
        farm.ranks[rank].fails_all_in = 0.01
    farm.run()
    assert {*farm.coordinator.quarantined} == bad
    assert {r.result.status for r in farm.disk.records.values()} == {0}


@pytest.mark.parametrize("seconds", [50.0, 67.0])
def test_a_node_that_breaks_in_mid_run_is_found(seconds):
    """Tasks that it began before end well between those that fail."""
    farm = a_farm(1500)
    farm.at(START + seconds, lambda: setattr(farm.ranks[3], "fails_all_in", 0.02))
    farm.run()
    assert [*farm.coordinator.quarantined] == [3]
    assert {r.result.status for r in farm.disk.records.values()} == {0}


def test_failures_of_an_hour_ago_do_not_excuse_a_black_hole():
    farm = a_farm(400, ranks=3, seconds=lambda t: 0.1 if t < 100 else 30.0)
    farm.status = lambda taskid: taskid < 100
    broken = START + 20.0 + FORGET_SECONDS
    farm.at(broken, lambda: setattr(farm.ranks[2], "fails_all_in", 0.02))
    farm.run()
    assert [*farm.coordinator.quarantined] == [2]
    failed = {t for t, r in farm.disk.records.items() if r.result.status}
    # until the last good task of the rank ends, each of those excuses what failed
    assert len(failed) < 120


@pytest.mark.parametrize("quarantine", [2, 3])
def test_a_rank_on_trial_keeps_no_suspects_from_the_coordinators_own(quarantine):
    """Nobody has what the lost coordinator held; a bad rank alone may not run it."""
    farm = a_farm(
        20, Policy(quarantine=quarantine), ranks=3, survives_rank_loss=True, seconds=0.3
    )
    farm.ranks[2].fails_all_in = 0.01
    farm.at(START + 0.12, farm.lose_coordinator)
    farm.run(100.0)
    assert_all_is_accounted_for(farm)
    assert {r.result.status for r in farm.disk.records.values()} == {0}
    assert farm.ended_at is not None
    assert farm.ended_at < START + 30.0


def test_a_rank_whose_trial_ends_without_a_verdict_gets_tasks_again():
    hand = Hand(size=2, workers=1, policy=Policy(quarantine=2, retries=1))
    (own,) = hand.begin(0, workers=1, empty=False)
    hand.hear(1, Join("node", 2, 2))
    hand.decide()
    hand.write(1, 2, empty=True)
    hand.report(own)
    now, leases = hand.clock.now, hand.leases(1)
    fast = tuple(result_of(lease, now, 0.1, status=1) for lease in leases)
    hand.hear(1, sure_report(now, fast))
    hand.decide()
    hand.decide(COMMIT_INTERVAL)
    hand.write()
    hand.decide()
    assert len(hand.leases(0)) == 2  # its worker is busy with one of them
    hand.decide(PATIENCE_SECONDS)
    (again,) = hand.leases(1)[2:]
    assert (again.taskid, again.attempt) == (2, 2)


# ---- the way back -------------------------------------------------------------------


def heal(rank: FakeRank) -> None:
    rank.fails_all_in = None


def starts_on(farm: SimulatedFarm, rank: int) -> int:
    return len(farm.ranks[rank].told)


@pytest.mark.parametrize("healed", [8.0, 25.0, 100.0])
def test_a_rank_that_is_well_again_is_in_use_again(healed):
    farm = a_farm(1600, workers=2)
    farm.ranks[2].fails_all_in = 0.02
    farm.at(START + healed, lambda: heal(farm.ranks[2]))
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.told[1:] == ["rank 2 on node is in use again: a task succeeded there"]
    assert farm.coordinator.quarantined == {}
    changes = [change for rank, change in farm.changes if rank == 2]
    assert changes == [RankChange.JOINED, RankChange.OUT_OF_USE, RankChange.IN_USE]
    assert starts_on(farm, 2) > 30
    assert {r.result.status for r in farm.disk.records.values()} == {0}
    assert farm.counts.spins == 0


def test_a_rank_that_stays_bad_is_tried_with_one_task_more_and_more_seldom():
    farm = a_farm(3000, workers=1, ranks=3, seconds=5.0)
    farm.ranks[2].fails_all_in = 0.02
    farm.run(5.0)
    starts, moments = starts_on(farm, 2), list[float]()
    for _ in range(4000):
        farm.run(1.0)
        if starts_on(farm, 2) > starts:
            assert starts_on(farm, 2) == starts + 1
            starts += 1
            moments.append(farm.now)
    pauses = [b - a for a, b in pairwise(moments)]
    expected = [20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0, 600.0, 600.0, 600.0]
    assert pauses == pytest.approx(expected[: len(pauses)], abs=1.5)
    assert len(pauses) >= 9
    assert len(farm.told) == 1
    assert {r.result.status for r in farm.disk.records.values()} == {0}
    assert farm.counts.spins == 0


def test_tasks_that_are_tried_there_in_vain_keep_all_their_retries():
    farm = a_farm(600, Policy(retries=2))
    farm.ranks[2].fails_all_in = 0.02
    failed = dict.fromkeys(range(600), 0)

    def fails_twice(lease: Lease) -> int:
        failed[lease.taskid] += 1
        return int(failed[lease.taskid] <= 2)

    farm.status_of = fails_twice
    farm.run()
    assert_all_is_accounted_for(farm)
    assert starts_on(farm, 2) > 10
    assert {r.result.status for r in farm.disk.records.values()} == {0}


def test_a_task_that_runs_on_brings_a_rank_back():
    farm = a_farm(3000, seconds=lambda t: 200.0 if t % 2 else 0.5)
    farm.ranks[2].fails_all_in = 0.02
    farm.at(START + 5.0, lambda: setattr(farm.ranks[2], "fails_all_in", 300.0))
    farm.run(25.0)
    assert farm.told[1:] == ["rank 2 on node is in use again: a task runs on there"]
    assert len(farm.ranks[2].running) == 4


def test_a_failure_that_takes_its_time_brings_a_rank_back():
    farm = a_farm(300, Policy(retries=5), seconds=2.0)
    farm.ranks[2].fails_all_in = 0.02
    farm.at(START + 5.0, lambda: setattr(farm.ranks[2], "fails_all_in", 1.02))
    farm.run(16.0)
    assert farm.told[1:] == [
        "rank 2 on node is in use again: a task that failed there did not fail fast"
    ]


def test_when_tasks_begin_to_fail_on_all_ranks_one_that_was_out_of_use_is_back():
    farm = a_farm(3000)
    farm.ranks[2].fails_all_in = 0.02
    farm.run(9.0)
    assert [*farm.coordinator.quarantined] == [2]
    for rank in farm.ranks:
        rank.fails_all_in = 0.5
    farm.run(40.0)
    why = "tasks fail on other ranks as well"
    assert farm.told[1:] == [f"rank 2 on node is in use again: {why}"]


def test_a_rank_is_tried_again_for_what_was_lost_with_another():
    farm = a_farm(6, Policy(quarantine=2), ranks=3, workers=1)

    def seconds(taskid: int) -> float:
        own = [lease.taskid for lease in farm.ranks[0].running]
        return 500.0 if taskid in own else 1.0

    farm.seconds = seconds
    farm.ranks[1].fails_all_in = 0.01
    farm.at(START + 3.0, lambda: heal(farm.ranks[1]))
    farm.at(START + 5.0, lambda: farm.kill(2))
    farm.run()
    assert_all_is_accounted_for(farm)
    lost = farm.ranks[2].told[-1].taskid
    assert farm.disk.records[lost].rank == 1
    assert farm.disk.records[lost].at < START + 20.0


def test_nothing_is_tried_when_nothing_waits():
    """The last tasks run on the good ranks, and the farm ends with the last of them."""
    farm = a_farm(40, seconds=lambda t: 1.0 if t < 28 else 500.0)
    farm.ranks[2].fails_all_in = 0.02
    farm.run(100.0)
    starts = starts_on(farm, 2)
    farm.run()
    assert starts_on(farm, 2) == starts
    assert farm.counts.spins == 0
    assert len(farm.disk.records) == 40


def test_a_rank_that_can_run_nothing_does_not_come_back():
    farm = a_farm(800)
    farm.at(START + 2.0, lambda: farm.ranks[2].say(RankUnusable("no runner")))
    farm.run(5.0)
    starts = starts_on(farm, 2)
    farm.run()
    assert starts_on(farm, 2) == starts
    assert farm.coordinator.quarantined[2].why == "no runner"


def test_trouble_ends_the_way_back():
    farm = a_farm(800)
    farm.ranks[2].fails_all_in = 0.02
    farm.at(START + 8.0, lambda: farm.ranks[2].say(RankUnusable("no runner")))
    farm.run(9.0)
    starts = starts_on(farm, 2)
    farm.run()
    assert starts_on(farm, 2) == starts


Befalls = Callable[[SimulatedFarm], None]

WHAT_BEFALLS: dict[str, Befalls] = {
    "it is killed": lambda farm: farm.kill(2),
    "its pool is lost": lambda farm: farm.ranks[2].lose_pool(),
    "it loses a worker": lambda farm: farm.ranks[2].lose_worker(),
    "the farm stops": lambda farm: farm.signal(SIGUSR1, 1),
    "the farm drains": lambda farm: farm.signal(SIGUSR2, 1),
    "another is killed": lambda farm: farm.kill(1),
}


@pytest.mark.parametrize("befalls", WHAT_BEFALLS.values(), ids=WHAT_BEFALLS.keys())
@pytest.mark.parametrize("after", [5.0, FIRST_PAUSE + 0.2, FIRST_PAUSE + 1.5])
def test_whatever_befalls_a_rank_out_of_use_each_task_is_accounted_for(befalls, after):
    """Before it is tried, while its task runs there, and when that runs on."""
    farm = a_farm(400, checked=True)
    farm.ranks[2].fails_all_in = 0.02

    def slow_down() -> None:
        farm.ranks[2].fails_all_in = 3.0

    farm.at(START + 4.0, slow_down)
    while not farm.coordinator.quarantined:
        farm.run(0.05)
    farm.at(farm.now + after, lambda: befalls(farm))
    farm.run()
    assert_all_is_accounted_for(farm)
    assert farm.counts.spins == 0


# ---- the shares ---------------------------------------------------------------------


FAILED = TaskRecord(0, turn=5, ended=START)


def alike_of(*failed: int) -> Alike:
    """One rank for each number: so many of its last `FEWEST` results failed fast."""
    alike = Alike(shown=3)
    for rank, count in enumerate(failed):
        record = RankRecord(rank, workers=4)
        for number in range(FEWEST):
            record.ended += 1
            if number < count:
                alike.note_failed_fast(record, FAILED)
            else:
                alike.note_other(record)
    return alike


def test_the_share_of_most_others_is_that_which_more_than_half_of_them_reach():
    alike = alike_of(32, 16, 8)
    assert alike.median_without(9, 3) == pytest.approx(0.5, abs=0.05)
    assert alike.median_without(0, 2) == pytest.approx(0.25, abs=0.05)
    assert alike.median_without(1, 2) == pytest.approx(0.25, abs=0.05)
    assert alike.median_without(2, 2) == pytest.approx(0.5, abs=0.05)
    assert alike.median_without(9, 6) < 0.05
    alike.forget(0)
    assert alike.median_without(9, 2) == pytest.approx(0.25, abs=0.05)
    alike.expire(START + FORGET_SECONDS)
    assert alike.median_without(9, 2) < 0.05
    assert not alike.recent


def test_a_rank_is_forgotten_when_its_last_results_are_good():
    alike, record = alike_of(5), RankRecord(0, workers=4)
    for _ in range(5):
        alike.note_other(record)
    assert not alike.recent
    assert alike.median_without(9, 1) < 0.05


def test_what_runs_counts_as_tasks_that_did_not_fail_fast():
    """On a rank with long tasks the failures are all that has ended so far."""
    alike, record = Alike(shown=3), RankRecord(0, workers=8)
    record.leases = {*range(7)}
    for _ in range(3):
        record.ended += 1
        alike.note_failed_fast(record, FAILED)
    assert alike.median_without(9, 1) == pytest.approx(0.3, abs=0.05)


def test_of_a_rank_counts_what_failed_since_a_task_was_handed_out():
    alike, record = alike_of(0, 0), RankRecord(0, workers=4)
    for failing in [False] * 28 + [True] * 4 + [False] * 3:
        record.ended += 1
        if failing:
            alike.note_failed_fast(record, FAILED)
        else:
            alike.note_other(record)
    share = 4 / 7
    assert alike.median_without(9, 1) < 0.2
    assert alike.fails_on_most_since(4, share, rank=9, of=1)
    assert not alike.fails_on_most_since(4, share + 0.01, rank=9, of=1)
    assert not alike.fails_on_most_since(5, share, rank=9, of=1)
    assert not alike.fails_on_most_since(4, share, rank=9, of=2)
    assert not alike.fails_on_most_since(4, share, rank=0, of=1)


@pytest.mark.parametrize("workers", [8, 128])
def test_a_rank_of_any_size_shows_that_everything_fails(workers):
    alike, record = Alike(shown=3), RankRecord(0, workers=workers)
    record.leases = {*range(workers)}
    for _ in range(4 * workers):
        record.ended += 1
        alike.note_failed_fast(record, FAILED)
    assert alike.median_without(9, 1) > 0.7
