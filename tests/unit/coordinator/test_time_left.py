"""The time left: what it says of lists whose end is known, and what it costs."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.coordinator.lifetimes import Lifetimes, class_of
from mpifarm.coordinator.list_end import MAX_AGES, thin_out
from mpifarm.coordinator.list_order import MAX_BLOCKS, PlaceBlocks, find_order
from mpifarm.coordinator.running_ages import MAX_CLASSES, RunningAges
from mpifarm.coordinator.time_left import TimeLeftEstimator
from mpifarm.model.wording import TimeLeft
from tests.simulation.lists import KINDS, create_list
from tests.simulation.replay import Replayed
from tests.simulation.time_left import judge, judge_farm

Seconds = st.floats(1e-3, 1e5)


def estimator_of(seconds, total):
    estimator = TimeLeftEstimator(total)
    for place, each in enumerate(seconds):
        estimator.note_ended(place, each)
    return estimator


def lifetimes_of(seconds, ages=()):
    counts: dict[int, float] = {}
    for each in seconds:
        counts[class_of(each)] = counts.get(class_of(each), 0) + 1
    return Lifetimes(counts, sum(seconds), ages)


def blocks_of(seconds):
    blocks = PlaceBlocks()
    for place, each in enumerate(seconds):
        blocks.note(place, each)
    return blocks


# ---- the end ------------------------------------------------------------------------


def test_nothing_is_said_before_anything_is_known():
    assert TimeLeftEstimator(100).estimate(5.0, 90, 10, [(5.0, 10)]) is None


def test_nothing_is_said_where_nobody_works():
    assert estimator_of([1.0] * 10, 100).estimate(5.0, 90, 0, []) is None


def test_nothing_is_left_when_all_has_ended():
    shown = estimator_of([1.0] * 10, 10).estimate(5.0, 0, 4, [])
    assert shown == TimeLeft(0.0, 0.0, 0.0)


def test_one_end_is_enough_to_say_something():
    shown = estimator_of([60.0], 100).estimate(60.0, 95, 4, [(60.0, 3), (0.0, 1)])
    assert shown is not None
    assert shown.low < 25 * 60 < shown.high


def test_the_last_wave_of_equal_tasks_takes_as_long_as_any():
    """40 have ended; 10 run since 3 s; of the 25 that wait 5 are a wave alone."""
    shown = estimator_of([10.0] * 40, 75).estimate(43.0, 25, 10, [(3.0, 10)])
    assert shown is not None
    assert shown.likely == pytest.approx(7 + 30, rel=0.05)
    assert shown.low <= 37 <= shown.high


def test_the_last_tasks_take_what_is_left_of_them():
    shown = estimator_of([10.0] * 99, 100).estimate(96.0, 0, 10, [(6.0, 1)])
    assert shown is not None
    assert shown.likely == pytest.approx(4.0, rel=0.1)


def test_a_task_that_runs_far_longer_than_any_goes_on_about_as_long():
    shown = estimator_of([10.0] * 99, 100).estimate(1090.0, 0, 10, [(1000.0, 1)])
    assert shown is not None
    assert 50 < shown.likely < 2000
    assert shown.high > 1000


def test_where_handing_out_takes_long_the_rate_is_the_one_that_was_seen():
    """Tasks of 1 ms on 100 workers, of which 1 000 ended in each second."""
    estimator = TimeLeftEstimator(10_000, since=0.0)
    for second in (1, 2, 3, 4):
        for place in range(1000):
            estimator.note_ended(1000 * (second - 1) + place, 1e-3)
        waiting = 10_000 - 1000 * second
        shown = estimator.estimate(float(second), waiting, 100, [(0.0, 1)])
        assert shown is not None
        assert shown.likely == pytest.approx(10 - second, rel=0.1)


def test_lost_workers_make_it_longer():
    ages = [(5.0, 10)]
    before = estimator_of([10.0] * 40, 1000).estimate(45.0, 950, 10, ages)
    after = estimator_of([10.0] * 40, 1000).estimate(45.0, 955, 5, [(5.0, 5)])
    assert before is not None
    assert after is not None
    assert after.likely == pytest.approx(2 * before.likely, rel=0.1)


def test_what_other_farms_take_is_not_waited_for():
    """Half of what waits goes to a farm beside this one."""
    estimator = estimator_of([10.0] * 40, 1000)
    alone = estimator.estimate(45.0, 950, 10, [(5.0, 10)])
    beside = estimator.estimate(45.0, 950, 10, [(5.0, 10)], share=0.5)
    assert alone is not None
    assert beside is not None
    assert beside.likely == pytest.approx(alone.likely / 2, rel=0.05)


def test_attempts_of_earlier_farms_count_from_the_begin():
    estimator = TimeLeftEstimator(100)
    for place in range(50):
        estimator.note_earlier(place, 10.0)
    shown = estimator.estimate(0.0, 46, 4, [(0.0, 4)])
    assert shown is not None
    assert shown.likely == pytest.approx(130, rel=0.1)


def test_before_anything_is_told_of_this_farm_its_workers_count_as_busy():
    """It goes on with the list of an earlier one, and a look comes very early."""
    estimator = TimeLeftEstimator(100, since=0.0)
    for place in range(50):
        estimator.note_earlier(place, 10.0)
    shown = estimator.estimate(1.5, 50, 4, [])
    assert shown is not None
    assert shown.likely == pytest.approx(130, rel=0.1)


def test_what_is_known_beforehand_counts_in_place_of_what_has_ended():
    """The first 100 tasks take 100 s, as was known, and the others 1 s."""
    estimator = TimeLeftEstimator(200)
    known = [100.0] * 100 + [1.0] * 100
    for place, each in enumerate(known):
        estimator.note_known(place, each)
    for place in range(50):
        estimator.note_ended(place, 100.0, known[place])
    shown = estimator.estimate(1250.0, 146, 4, [(50.0, 4)])
    assert shown is not None
    assert shown.likely == pytest.approx((46 * 100 + 100 + 4 * 50) / 4, rel=0.1)


def test_what_is_known_beforehand_is_corrected_by_what_tasks_take():
    estimators = [TimeLeftEstimator(1000) for _ in range(2)]
    for times, estimator in enumerate(estimators, 1):
        for place in range(1000):
            estimator.note_known(place, 10.0)
        for place in range(100):
            estimator.note_ended(place, times * 10.0, 10.0)
    shown = [each.estimate(250.0, 896, 4, [(1.0, 4)]) for each in estimators]
    assert shown[0] is not None
    assert shown[1] is not None
    assert shown[1].likely == pytest.approx(2 * shown[0].likely, rel=0.05)


def test_durations_of_nothing_are_no_defect():
    shown = estimator_of([0.0] * 10, 100).estimate(1.0, 86, 4, [(0.0, 4)])
    assert shown is not None
    assert 0 <= shown.low <= shown.likely <= shown.high < 60


@given(
    st.lists(Seconds, min_size=1, max_size=60),
    st.integers(0, 10_000),
    st.integers(1, 2000),
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 100)), max_size=60),
)
def test_whatever_has_ended_the_range_holds_what_is_likely(
    seconds, waiting, workers, ages
):
    running = sum(count for _, count in ages)
    total = len(seconds) + waiting + running
    shown = estimator_of(seconds, total).estimate(1e6, waiting, workers, ages)
    assert shown is not None
    assert 0 <= shown.low <= shown.likely <= shown.high < math.inf


@pytest.mark.parametrize("kind", ["equal", "log-normal, σ 1", "two classes"])
def test_the_more_waits_the_longer_it_takes(kind):
    seconds = KINDS[kind](random.Random(1), 300)
    ages = [(0.1 * each, 1) for each in range(8)]
    likely = []
    for waiting in (0, 1, 4, 8, 16, 50, 200, 1000, 5000):
        shown = estimator_of(seconds, 308 + waiting).estimate(40.0, waiting, 8, ages)
        assert shown is not None
        likely.append(shown.likely)
    assert likely == sorted(likely)


# ---- what comes true ----------------------------------------------------------------

QUICK = [kind for kind in KINDS if kind != "first long, then short"]
"""Nothing tells beforehand that long tasks are followed by short ones."""


def test_on_a_list_of_each_kind_the_range_comes_true():
    judged = []
    for kind in QUICK:
        judged += judge(create_list(kind, 1))
    held = [each.shown.low <= each.left <= each.shown.high for each in judged]
    assert sum(held) / len(held) > 0.7
    assert statistics.median(each.error for each in judged) < 0.2


def test_under_the_real_coordinator_it_is_the_same():
    chance = random.Random(3)
    what = Replayed("", [chance.lognormvariate(0, 0.5) for _ in range(400)], 16)
    replayed, real = judge(what), judge_farm(what)
    for one, other in zip(replayed[:30], real[:30], strict=True):
        assert one.shown.likely == pytest.approx(other.shown.likely, rel=0.15)


# ---- what it costs ------------------------------------------------------------------


def test_a_million_tasks_take_no_more_room_than_a_thousand():
    estimator, chance = TimeLeftEstimator(1 << 20), random.Random(2)
    for place in range(0, 1 << 20, 37):
        estimator.note_ended(place, chance.lognormvariate(0, 1.5))
    blocks = estimator._ended.in_order()
    assert len(blocks) <= MAX_BLOCKS
    assert sum(len(block.classes) for _, block in blocks) < MAX_BLOCKS * 300


def test_the_ages_of_a_million_tasks_take_bounded_room():
    ages = RunningAges()
    for number in range(200_000):
        ages.note_begun(0.01 * number)
    assert ages.count == 200_000
    found = ages.at(2000.0)
    assert len(found) <= MAX_CLASSES
    assert sum(count for _, count in found) == 200_000
    assert len(thin_out(found)) <= MAX_AGES + 1


@given(st.lists(st.floats(0, 1000), max_size=700), st.randoms())
def test_ages_are_those_of_what_runs(begins, chance):
    ages = RunningAges(begins)
    gone = [each for each in begins if chance.random() < 0.5]
    for each in gone:
        ages.note_gone(each)
    found = ages.at(1000.0)
    assert sum(count for _, count in found) == ages.count == len(begins) - len(gone)
    if not gone and begins:
        mean = sum(age * count for age, count in found) / len(begins)
        exact = sum(1000.0 - each for each in begins) / len(begins)
        assert mean == pytest.approx(exact, rel=0.1, abs=1.0)


def test_a_begin_that_is_known_to_some_milliseconds_is_found():
    ages = RunningAges([1.0, 2.0, 3.0])
    ages.note_gone(2.004)
    assert [count for _, count in ages.at(4.0)] == [1, 1]
    assert [age for age, _ in ages.at(4.0)] == [3.0, 1.0]


def test_thinned_ages_are_as_many_and_the_oldest_stay():
    ages = [(float(each), each % 3 + 1) for each in range(500)]
    few = thin_out(ages)
    assert sum(count for _, count in few) == sum(count for _, count in ages)
    assert few[0] == ages[-1]


# ---- what tasks take ----------------------------------------------------------------


def test_many_alike_take_what_they_took():
    life = lifetimes_of([10.0] * 1000)
    assert life.mean == pytest.approx(10, rel=0.01)
    assert life.spread < 0.1
    assert life.longer_than(9.0) == 1.0
    assert life.longer_than(11.0) < 0.01


def test_what_still_runs_makes_the_mean_longer():
    """Half of the tasks have ended after 1 s; the others run since 9 s."""
    short = lifetimes_of([1.0] * 100)
    both = lifetimes_of([1.0] * 100, [(9.0, 100)])
    assert short.mean == pytest.approx(1.0, rel=0.05)
    assert both.mean > 5.0
    assert both.longer_than(5.0) == pytest.approx(0.5, abs=0.02)


def test_the_means_are_those_of_a_lognormal_sample():
    chance = random.Random(4)
    life = lifetimes_of([chance.lognormvariate(0, 1) for _ in range(20_000)])
    assert life.mean == pytest.approx(math.exp(0.5), rel=0.05)
    assert life.square == pytest.approx(math.exp(2), rel=0.25)
    assert life.exceeded_by(0.5) == pytest.approx(1.0, rel=0.05)


@given(st.lists(Seconds, min_size=1, max_size=50), st.floats(0, 1e6))
def test_shares_fall_and_what_is_beyond_is_no_more_than_all(seconds, age):
    life = lifetimes_of(seconds)
    assert 0.0 <= life.longer_than(2 * age) <= life.longer_than(age) <= 1.0
    assert 0.0 <= life.beyond(2 * age) <= life.beyond(age) * (1 + 1e-9)
    assert 0.0 <= life.ended_within(1.0, age) <= 1.0
    assert life.left_at(age) > 0.0


# ---- the order of the list ----------------------------------------------------------


def test_what_comes_by_chance_has_no_order():
    chance = random.Random(5)
    order = find_order(blocks_of([chance.expovariate(1) for _ in range(500)]), 1000)
    assert order.slope is None
    assert order.since == 0


def test_a_step_is_found_and_what_is_before_it_does_not_count():
    order = find_order(blocks_of([100.0] * 64 + [1.0] * 64), 1000)
    assert order.since == 64
    assert order.recent.seconds / order.recent.count == pytest.approx(1.0)


@pytest.mark.parametrize("falls", [False, True])
def test_a_sorted_list_is_known_by_its_first_fifth(falls):
    chance = random.Random(6)
    seconds = sorted((chance.lognormvariate(2, 1) for _ in range(2000)), reverse=falls)
    slope = find_order(blocks_of(seconds[:400]), 2000).slope
    assert slope is not None
    assert math.exp(slope.log_at(0.0)) == pytest.approx(seconds[1000], rel=0.25)


# ---- ages of what runs, at their bounds ----------------------------------------------


def test_begins_that_come_late_are_sorted_in():
    ages = RunningAges()
    for begun, count in ((10.0, 1), (30.0, 2), (20.0, 3), (5.0, 1), (20.0, 1)):
        ages.note_begun(begun, count)
    ages.note_begun(40.0, 0)
    ages.note_begun(40.0, -1)
    assert ages.at(100.0) == [(95.0, 1), (90.0, 1), (80.0, 4), (70.0, 2)]
    assert ages.count == 8


@pytest.mark.parametrize(
    ("begun", "left"),
    [
        (10.0, [(80.0, 2), (70.0, 1)]),
        (14.0, [(80.0, 2), (70.0, 1)]),
        (16.0, [(90.0, 1), (80.0, 1), (70.0, 1)]),  # the nearer neighbour
        (15.0, [(80.0, 2), (70.0, 1)]),
        (1.0, [(80.0, 2), (70.0, 1)]),
        (99.0, [(90.0, 1), (80.0, 2)]),
    ],
)
def test_what_has_ended_is_taken_from_the_nearest_begin(begun, left):
    ages = RunningAges([10.0, 20.0, 20.0, 30.0])
    ages.note_gone(begun)
    assert ages.at(100.0) == left
    assert ages.count == 3


def test_nothing_is_taken_where_nothing_runs():
    ages = RunningAges([10.0])
    for _ in range(2):
        ages.note_gone(10.0)
    assert (ages.count, ages.at(20.0)) == (0, [])
    ages.note_begun(30.0)
    assert ages.at(20.0) == [(0.0, 1)], "no age is negative"
