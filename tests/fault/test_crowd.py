"""Many at work on one list that grows and has an order: some seeds, or `CROWD_RUNS`.

    CROWD_SEED=17 pytest tests/fault/test_crowd.py     # that one alone

Rules of this file: what is played stands in `tests.fault.crowd`; a failure tells its
seed, all acts, what was done to whom, what is wrong, and what all have printed.
"""

import os
from dataclasses import replace

import pytest

from tests.fault.crowd import SEAT, missing, plan, play

pytestmark = pytest.mark.timeout(240)

SEEDS = range(165, 172)
"""In a row, such that all acts are among them."""

FIRST = int(os.environ.get("CROWD_SEED", SEEDS[0]))
USUAL = 1 if "CROWD_SEED" in os.environ else len(SEEDS)
RUNS = int(os.environ.get("CROWD_RUNS", USUAL))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_each_task_ends_once_and_in_its_order_whoever_is_killed(seed, tmp_path):
    scenario = plan(seed)
    if why := missing(scenario):
        pytest.skip(why)
    outcome = play(scenario, tmp_path / "scene")
    assert not outcome.findings, outcome.report


def features_of(scenario):
    """The acts and states that a sample has to have, by their names."""
    yield from (line for line in scenario.lines if line.startswith("#BARRIER"))
    yield from ("#AFTER" for line in scenario.lines if line.startswith("#AFTER"))
    yield from (SEAT for line in scenario.lines if line.startswith(SEAT))
    for farm in scenario.farms:
        yield from (word for word in farm.options if word.startswith("--"))
        yield from ("all ranks" if kill.pick >= 1 else "a rank" for kill in farm.kills)
    if len({each.version for each in scenario.plain}) > 1:
        yield "both versions"
    for each in scenario.plain:
        yield each.version
        yield "first" if each.is_first else "later"
        yield "plain killed" if each.killed_after is not None else "plain lives"
    for adding in scenario.added:
        yield "add --after" if adding.after else "add"
        yield "adder killed" if adding.killed_after is not None else "adder lives"
    yield from ("appended" for _ in scenario.appended)
    for asking in scenario.asked:
        yield asking.kind if asking.picks else f"{asking.kind} all"
        yield "asker killed" if asking.killed_after is not None else "asker lives"
    yield "ends by kill" if scenario.ends_by_kill else "ends"


def test_a_seed_is_one_scenario_and_the_seeds_have_all_acts():
    scenarios = [plan(seed) for seed in SEEDS]
    assert scenarios == [plan(seed) for seed in SEEDS]
    assert len({replace(scenario, seed=0) for scenario in scenarios}) == len(SEEDS)
    many = {each for seed in range(300) for each in features_of(plan(seed))}
    assert {each for scenario in scenarios for each in features_of(scenario)} == many
