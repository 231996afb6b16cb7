"""Random mixes of faults: 14 seeds, or as many as ``FAULT_RUNS`` says.

    FAULT_SEED=17 pytest tests/fault/test_random_faults.py     # that one alone

Rules of this file: what is played stands in `tests.fault.harness`; a failure tells its
seed, the schedule, what was done to whom, and what the farms said.
"""

import os
from dataclasses import replace

import pytest

from tests.fault.harness import Deed, Kind, missing, plan, play

pytestmark = pytest.mark.timeout(180)

SEEDS = range(7, 21)
"""As few in a row as have all faults and all kinds of farms."""

FIRST = int(os.environ.get("FAULT_SEED", SEEDS[0]))
USUAL = 1 if "FAULT_SEED" in os.environ else len(SEEDS)
RUNS = int(os.environ.get("FAULT_RUNS", USUAL))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_after_faults_every_task_is_recorded_once_and_nothing_is_left(seed, tmp_path):
    scenario = plan(seed)
    if why := missing(scenario):
        pytest.skip(why)
    outcome = play(scenario, tmp_path / "scene")
    assert not outcome.findings, outcome.report


def test_a_seed_is_one_scenario_and_the_seeds_have_all_faults():
    scenarios = [plan(seed) for seed in SEEDS]
    assert scenarios == [plan(seed) for seed in SEEDS]
    assert len({replace(scenario, seed=0) for scenario in scenarios}) == len(SEEDS)
    deeds = {fault.deed for scenario in scenarios for fault in scenario.faults}
    assert deeds == set(Deed)
    assert {scenario.kind for scenario in scenarios} == set(Kind)
