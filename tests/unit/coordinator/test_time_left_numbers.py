"""The numbers that the time left is made of, as they are.

Rules of this file: no number here is right by itself; docs/time-left.md says how often
the ranges come true that were made with them.  Whoever changes one on purpose measures
that again (tests/simulation), and takes over the numbers that this file then finds.
"""

import math
from statistics import NormalDist

import pytest

from mpifarm.coordinator.lifetimes import Ages, Lifetimes, class_of
from mpifarm.coordinator.list_end import thin_out
from mpifarm.coordinator.list_order import PlaceBlocks, find_order
from mpifarm.coordinator.time_left import TimeLeftEstimator


def spread_out(count: int, sigma: float = 1.0, mean: float = 10.0) -> list[float]:
    """Return log-normal durations in an order that is none, the same each time."""
    places = ((0.5 + 0.6180339887 * each) % 1 for each in range(count))
    return [mean * math.exp(sigma * NormalDist().inv_cdf(each)) for each in places]


def told(
    total: int, seconds: list[float], since: float | None = None, first: int = 0
) -> TimeLeftEstimator:
    estimator = TimeLeftEstimator(total, since)
    for place, each in enumerate(seconds, first):
        estimator.note_ended(place, each)
    return estimator


def foretold(
    total: int, known: list[float], times: float = 1.0, ended: int = 0
) -> TimeLeftEstimator:
    """Return one that knows the first tasks beforehand, of which some have ended."""
    estimator = TimeLeftEstimator(total)
    for place, each in enumerate(known):
        estimator.note_known(place, each)
    for place, each in enumerate(known[:ended]):
        estimator.note_ended(place, times * each, each)
    return estimator


def looked_at(shares: list[float], workers: list[int]) -> TimeLeftEstimator:
    """Return one that was asked each 10 s, while workers were busy for these shares."""
    estimator, place = TimeLeftEstimator(10_000, 0.0), 0
    for look, (share, count) in enumerate(zip(shares, workers, strict=True), 1):
        for _ in range(round(10 * share * count)):
            estimator.note_ended(place, 1.0)
            place += 1
        estimator.estimate(10.0 * look, 10_000 - place, count, [(0.5, 1)])
    return estimator


RISES = sorted(spread_out(2000, 0.8))
FALLS = RISES[::-1]
STEP = [100.0] * 60 + spread_out(60, 0.1, 3.0)
WAVES = [10.0] * 40
LOOKS = ([1.0, 0.5, 0.5, 0.2, 0.2, 0.2, 0.3], [4, 4, 4, 4, 2, 6, 6])
OLD: Ages = [(100.0, 2), (40.0, 1), (3.0, 5)]
MANY_AGES: Ages = [(0.3 * each, 1 + each % 3) for each in range(120)]


@pytest.mark.parametrize(
    ("estimator", "at", "left"),
    [
        pytest.param(
            lambda: told(75, WAVES),
            (43.0, 25, 10, [(3.0, 10)], 1.0),
            (34.9611754, 37.242046, 39.0197905),
            id="waves",
        ),
        pytest.param(
            lambda: told(90, WAVES),
            (43.0, 40, 10, [(3.0, 4), (7.0, 6)], 1.0),
            (45.0496316, 47.2812329, 49.6648433),
            id="a wave that fits",
        ),
        pytest.param(
            lambda: told(60, WAVES),
            (40.0, 3, 10, [], 1.0),
            (7.76676427, 10.1757914, 10.5930505),
            id="nothing runs",
        ),
        pytest.param(
            lambda: told(100, spread_out(30, 0.05)),
            (80.0, 66, 4, [(2.0, 4)], 1.0),
            (169.562896, 179.232357, 189.859552),
            id="nearly alike",
        ),
        pytest.param(
            lambda: told(120, spread_out(6)),
            (30.0, 106, 8, [(4.0, 8)], 1.0),
            (139.416927, 603.430021, 3243.83683),
            id="few have ended",
        ),
        pytest.param(
            lambda: told(900, spread_out(600)),
            (900.0, 292, 8, [(4.0, 8)], 1.0),
            (562.284143, 665.147263, 837.92537),
            id="many have ended",
        ),
        pytest.param(
            lambda: told(300, spread_out(60)),
            (200.0, 232, 8, OLD, 1.0),
            (536.146213, 891.801747, 1905.13144),
            id="some are old",
        ),
        pytest.param(
            lambda: told(300, spread_out(60)),
            (200.0, 232, 8, OLD, 0.3),
            (186.498614, 363.120947, 993.552798),
            id="other farms take most",
        ),
        pytest.param(
            lambda: told(68, spread_out(60)),
            (200.0, 0, 8, OLD, 1.0),
            (30.2532154, 106.817805, 367.651979),
            id="nothing waits",
        ),
        pytest.param(
            lambda: told(61, WAVES + spread_out(20)),
            (300.0, 0, 8, [(200.0, 1)], 1.0),
            (15.4362668, 85.7669233, 499.654607),
            id="the last is old",
        ),
        pytest.param(
            lambda: told(1000, spread_out(300)),
            (200.0, 460, 240, MANY_AGES, 1.0),
            (228.506333, 281.494842, 474.241135),
            id="ages of many",
        ),
        pytest.param(
            lambda: told(2000, RISES[:400]),
            (900.0, 1592, 8, [(1.0, 8)], 1.0),
            (1888.7764, 3444.7542, 6363.74912),
            id="a list that rises",
        ),
        pytest.param(
            lambda: told(2000, FALLS[:400]),
            (900.0, 1592, 8, [(9.0, 8)], 1.0),
            (1294.94903, 1745.64722, 2352.58722),
            id="a list that falls",
        ),
        pytest.param(
            lambda: told(2000, RISES[:1990]),
            (900.0, 0, 8, [(30.0, 8), (1.0, 2)], 1.0),
            (96.4344849, 125.801365, 199.218566),
            id="the end of one",
        ),
        pytest.param(
            lambda: told(400, STEP),
            (900.0, 272, 8, [(1.0, 8)], 1.0),
            (100.828882, 106.508037, 112.491411),
            id="a step",
        ),
        pytest.param(
            lambda: foretold(300, spread_out(300)),
            (0.0, 292, 8, [(0.0, 8)], 1.0),
            (579.188087, 647.544402, 711.151593),
            id="all is known",
        ),
        pytest.param(
            lambda: foretold(300, spread_out(150)),
            (0.0, 292, 8, [(0.0, 8)], 1.0),
            (277.426703, 672.148674, 1703.04076),
            id="half is known",
        ),
        pytest.param(
            lambda: foretold(300, spread_out(300), 1.7, 40),
            (90.0, 252, 8, OLD, 1.0),
            (862.324298, 963.189338, 1059.24952),
            id="it takes longer",
        ),
        pytest.param(
            lambda: foretold(300, spread_out(100), 1.7, 40),
            (90.0, 252, 8, OLD, 1.0),
            (917.340652, 1273.44791, 1812.0615),
            id="part takes longer",
        ),
        pytest.param(
            lambda: foretold(300, spread_out(300), 1.2, 296),
            (90.0, 0, 8, [(5.0, 4)], 1.0),
            (10.8595205, 32.7745817, 108.203164),
            id="the last are known",
        ),
        pytest.param(
            lambda: foretold(2000, RISES[:600], 0.5, 400),
            (90.0, 1592, 8, [(1.0, 8)], 1.0),
            (906.212173, 1587.20154, 2811.24493),
            id="known and rising",
        ),
        pytest.param(
            lambda: looked_at(*LOOKS),
            (80.0, 9000, 6, [(0.5, 1)], 1.0),
            (6763.13371, 7035.71551, 7327.79305),
            id="slow starts",
        ),
        pytest.param(
            lambda: told(500, [1.0] * 20, 0.0),
            (1000.0, 476, 4, [(0.5, 1)], 1.0),
            (22001.0027, 23224.0263, 24514.7568),
            id="idle workers",
        ),
    ],
)
def test_the_range_is_the_one_that_was_measured(estimator, at, left):
    assert estimator().estimate(*at) == pytest.approx(left, rel=1e-6)


def lived(seconds: list[float], *more: object) -> Lifetimes:
    counts: dict[int, float] = {}
    for each in seconds:
        counts[class_of(each)] = counts.get(class_of(each), 0) + 1
    return Lifetimes(counts, sum(seconds), *more)  # type: ignore[arg-type]


def describe(life: Lifetimes) -> list[float]:
    """Return the numbers that others make use of, at times from short to beyond all."""
    numbers = [life.mean, life.square, life.spread, life.seen_until]
    for age in (0.001, 2.0, 9.0, 30.0, 500.0):
        numbers += [life.longer_than(age), life.left_at(age)]
        numbers += [life.beyond(age), life.ended_within(3.0, age)]
    return numbers + [life.exceeded_by(each) for each in (0.999999, 0.5, 0.1, 1e-4)]


@pytest.mark.parametrize(
    ("life", "numbers"),
    [
        pytest.param(
            lambda: lived(WAVES),
            "10.0089264 100.238095 0.0243684917 10.2469508 1 10.0127421 "
            "10.0127421 0 1 8.0137421 8.0137421 0 1 1.0137421 1.0137421 "
            "0.999994257 5.11725004e-27 0.578060416 2.95807969e-27 0.993537172 "
            "1.19140896e-91 9.63434027 1.14784394e-90 0.27125964 9.75900123 "
            "10.0090751 10.2091346 11.3690344",
            id="alike",
        ),
        pytest.param(
            lambda: lived(spread_out(50)),
            "17.3600389 692.991716 1.13994044 89.8062372 1 18.3376348 "
            "18.3376348 0.104604399 0.960784314 17.0336865 16.3656988 "
            "0.220396541 0.555003054 20.1405145 11.178047 0.213649378 "
            "0.146646959 34.3136173 5.03198762 0.0640453558 0.000160325734 "
            "277.867052 0.044549239 0.0166069007 0.830108569 10.2449987 "
            "40.9453612 591.834899",
            id="some",
        ),
        pytest.param(
            lambda: lived(spread_out(50), (), 5000),
            "18.1039214 904.852931 1.32694598 89.8062372 1 18.1221146 "
            "18.1221146 0.104604399 0.960784314 16.8093696 16.1501786 "
            "0.220396541 0.555003054 19.7521919 10.9625268 0.213649378 "
            "0.146646959 32.843964 4.81646743 0.0640453558 6.69947496e-05 "
            "216.671247 0.014515836 0.0195920914 0.830108569 10.2449987 "
            "40.9453612 442.97264",
            id="some, for many",
        ),
        pytest.param(
            lambda: lived([7.0]),
            "7.08747428 50.2541667 0.020868082 7.17286554 1 9.53878388 "
            "9.53878388 0 1 7.53978388 7.53978388 0 0.285952493 6.15396631 "
            "1.75974201 0.507572919 0.014747551 20.513221 0.302519775 "
            "0.209190833 1.44528087e-05 341.887017 0.00494122765 0.014622715 "
            "6.83130119 7.17286554 13.7892825 227.944915",
            id="one",
        ),
        pytest.param(
            lambda: lived(spread_out(50), OLD, 100),
            "26.2319747 2639.00735 1.6837806 89.8062372 1 27.5918212 27.5918212 "
            "0.0904563864 0.966193374 26.5124488 25.6161523 0.202328854 "
            "0.585821301 34.6136004 20.2773844 0.192870448 0.196710859 "
            "67.2281377 13.2245047 0.0454952663 0.00198274337 416.666667 "
            "0.826143069 0.0130743362 0.830108908 11.1784211 67.9410517 "
            "1943.73295",
            id="with ages",
        ),
        pytest.param(
            lambda: lived(spread_out(20), [(300.0, 30), (90.0, 4), (2.0, 9)], 10),
            "308.77774 161598.091 0.833607039 10.9746309 1 336.769121 "
            "336.769121 0.0401966659 0.984882842 339.926265 334.787546 "
            "0.0877079505 0.826911723 397.248359 328.489325 0.0442070508 "
            "0.684251059 457.633003 313.135867 0 0.189684608 344.010195 "
            "65.2534388 0.0145695081 0.826720119 336.821558 649.072382 "
            "10840.8519",
            id="the old are more",
        ),
        pytest.param(
            lambda: lived(spread_out(50), (), 0, 4.0),
            "17.3600389 692.991716 1.13994044 89.8062372 1 17.9460078 "
            "17.9460078 0.104604399 0.960784314 16.6260748 15.9740718 "
            "0.220396541 0.555003054 19.4348841 10.7864201 0.213649378 "
            "0.146646959 31.6430745 4.64036063 0.0640453558 2.04068423e-05 "
            "166.666667 0.00340114038 0.0236442751 0.830108569 10.2449987 "
            "40.9453612 336.057782",
            id="with a power",
        ),
        pytest.param(
            lambda: lived([0.0, 0.0, 1e-5, 0.01]),
            "0.00399317872 3.87091208e-05 1.19481908 0.0099529149 0.4 "
            "0.0129814757 0.00519259028 0.999998244 1.71496257e-06 1.66666667 "
            "2.85827094e-06 0.866791487 6.26883897e-08 7.5 4.70162923e-07 "
            "0.468950775 4.4345941e-09 25 1.10864852e-07 0.189158268 "
            "9.0946633e-12 416.666667 3.78944304e-09 0.0130743362 "
            "9.65977287e-05 0.000100622626 0.0136389867 0.315078283",
            id="short",
        ),
    ],
)
def test_what_tasks_take_is_what_it_was(life, numbers):
    expected = [*map(float, numbers.split())]
    assert describe(life()) == pytest.approx(expected, rel=1e-6, abs=1e-300)


def slope_of(seconds: list[float], total: int) -> list[float]:
    blocks = PlaceBlocks()
    for place, each in enumerate(seconds):
        blocks.note(place, each)
    slope = find_order(blocks, total).slope
    if slope is None:
        return []
    numbers = [slope.level, slope.slope, slope.noise, slope.slope_error, slope.centre]
    numbers += [slope.level_error, *slope.seen]
    for at in (-6.0, -1.0, 0.5, 6.0):
        numbers += [slope.log_at(at), slope.error_at(at), slope.noise_at(at, total)]
        numbers.append(slope.beyond(at))
    return numbers


@pytest.mark.parametrize(
    ("seconds", "total", "numbers"),
    [
        pytest.param(
            *(RISES[:400], 2000),
            "2.31382332 0.809461129 0.0362098288 0.00393937138 -1.39787947 "
            "0.00181049144 -2.87816174 -0.848786686 -2.54294345 0.0182196396 "
            "1.14518041 2.52700672 1.5043622 0.0023947038 0.045365799 0 "
            "2.71855389 0.00769254279 0.0433017175 1.09179039 7.17059009 "
            "0.0291991783 1.14518041 5.5438266",
            id="rises",
        ),
        pytest.param(
            *(FALLS[:70], 2000),
            "2.22327554 -0.8388769 0.0502273797 0.0174226501 -2.20520516 "
            "0.00600332012 -3.29052673 -1.81841976 7.25653694 0.0663873759 "
            "1.1872657 2.27291454 3.06215244 0.0218391919 0.057662509 "
            "0.686553434 1.80383709 0.0475126348 0.055932143 1.94486878 "
            "-2.80998585 0.143082415 1.1872657 6.55869173",
            id="falls",
        ),
        pytest.param(
            *(STEP, 400),
            "",
            id="a step alone",
        ),
        pytest.param(
            *(RISES[::150], 14),
            "",
            id="too few",
        ),
        pytest.param(
            *(RISES[::125], 16),
            "2.08036417 0.924997844 0.247109313 0.0686888531 -1.38777878e-17 "
            "0.0660156975 -1.86273187 1.86273187 -3.46962289 0.417386847 "
            "1.31104108 3.8269641 1.15536632 0.0952692545 0.427761626 0 "
            "2.54286309 0.0744151325 0.39128785 0 7.63035123 0.417386847 "
            "1.31104108 3.8269641",
            id="just enough",
        ),
        pytest.param(
            *(
                [
                    a * b
                    for a, b in zip(RISES[:90], spread_out(90, 0.01, 1.0), strict=True)
                ],
                2000,
            ),
            "2.31046021 0.804754135 0.0267982088 0.00789100681 -2.10441793 "
            "0.00282477923 -3.29052673 -1.70069646 -2.5180646 0.0308695797 "
            "1.13826744 2.18045982 1.50570607 0.00916133558 0.0381626364 "
            "0.563888375 2.71283728 0.0207447028 0.0357140325 1.77101958 "
            "7.13898502 0.0640143723 1.13826744 6.19716732",
            id="noisy",
        ),
    ],
)
def test_the_line_of_a_sorted_list_is_what_it_was(seconds, total, numbers):
    expected = [*map(float, numbers.split())]
    assert slope_of(seconds, total) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "since", "count"),
    [
        ([9.0] * 20 + [1.0] * 5, 19, 6),  # the block at the step counts too
        ([9.0] * 20 + [1.0] * 6, 20, 6),
        ([9.0] + [1.0] * 9, 1, 8),
        ([9.0] * 2 + [1.0] * 3, 0, 5),  # too few at all
        ([9.0] * 30 + [3.0] * 9 + [1.0] * 30, 30, 37),
        ([1.0, 1.019] * 20, 0, 40),  # the same but for noise
        ([9.0] * 500 + [1.0] * 100, 496, 88),  # within a block of 16
    ],
)
def test_a_step_counts_from_its_block_on(seconds, since, count):
    blocks = PlaceBlocks()
    for place, each in enumerate(seconds):
        blocks.note(place, each)
    order = find_order(blocks, 10 * len(seconds))
    assert (order.since, order.recent.count) == (since, count)


def test_ages_of_many_are_thinned_out_by_their_means():
    few = thin_out(MANY_AGES)
    assert len(few) == 48
    assert few[:2] == [(0.3 * 119, 3), (0.3 * 118, 2)]
    # sum() rounds less from Python 3.12 on
    middle = [(pytest.approx(28.8), 1), (pytest.approx(28 + 1 / 15), 9), (26.8125, 8)]
    assert few[23:26] == middle
    assert thin_out(MANY_AGES[:48]) == MANY_AGES[:48]
    assert len(thin_out(MANY_AGES[:49])) == 37
