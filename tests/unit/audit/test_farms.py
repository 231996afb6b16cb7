"""Which farms live, which died, and what each said of itself last."""

import json
import os
from pathlib import Path

import pytest

from mpifarm.audit.audit import ClaimView
from mpifarm.audit.farms import SILENT_SECONDS, Life, read_farms
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.farm_liveness import FarmLiveness
from tests.farm_states import write_farm

NOW = 1_790_000_000.0
FARM = "0123abcd89ab"


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "claims").mkdir()
    return WorkdirPaths(str(tmp_path))


def claim(farm, liveness, *held):
    return ClaimView(farm, "", liveness, frozenset(held), frozenset(held))


def beat(paths, farm, when):
    Path(paths.claim(farm)).touch()
    os.utime(paths.claim(farm), (when, when))


def test_a_claim_says_whether_its_farm_lives_and_the_file_what_it_does(paths):
    write_farm(paths, FARM, written=NOW - 8, running={5: (1, 3, NOW - 100)})
    beat(paths, FARM, NOW - 4)
    (farm,) = read_farms(paths, [claim(FARM, FarmLiveness.RUNNING, 5)], NOW)
    assert (farm.life, farm.heard) == (Life.LIVES, NOW - 4)
    assert farm.report
    assert farm.report.job == ("slurm", "4711")
    (task,) = farm.find_running()
    assert (task.taskid, task.host, task.rank, task.worker) == (5, "n2", 1, 3)
    assert task.started == NOW - 100


@pytest.mark.parametrize(
    ("liveness", "age", "life"),
    [
        (FarmLiveness.HOLDS_LOCK, 1, Life.LIVES),
        (FarmLiveness.RUNNING, SILENT_SECONDS, Life.LIVES),
        (FarmLiveness.RUNNING, SILENT_SECONDS + 1, Life.SILENT),
        (FarmLiveness.UNCERTAIN, 1, Life.UNCERTAIN),
        (FarmLiveness.DEAD, 1, Life.DIED),
        (FarmLiveness.DAMAGED, 1, Life.DIED),
    ],
)
def test_the_life_of_a_farm(paths, liveness, age, life):
    write_farm(paths, FARM, written=NOW - age)
    (farm,) = read_farms(paths, [claim(FARM, liveness)], NOW)
    assert (farm.life, farm.heard) == (life, NOW - age)


def test_a_task_that_the_claim_no_longer_holds_runs_no_more(paths):
    write_farm(paths, FARM, written=NOW, running={5: (1, 3, NOW), 6: (1, 4, NOW)})
    (farm,) = read_farms(paths, [claim(FARM, FarmLiveness.RUNNING, 6)], NOW)
    assert [each.taskid for each in farm.find_running()] == [6]


def test_without_a_claim_a_farm_has_ended_or_died(paths):
    write_farm(paths, "aaaaaaaa01", written=NOW - 90, exit_status=1)
    write_farm(paths, "bbbbbbbb01", written=NOW - 50)
    found = {each.farm: each.life for each in read_farms(paths, [], NOW)}
    assert found == {"aaaaaaaa01": Life.ENDED, "bbbbbbbb01": Life.DIED}


def test_a_farm_that_another_rank_leads_now_did_not_die(paths):
    write_farm(paths, "aaaaaaaa01", written=NOW - 90)
    write_farm(paths, "aaaaaaaa02", written=NOW - 15)
    claims = [
        claim("aaaaaaaa01", FarmLiveness.DEAD),
        claim("aaaaaaaa02", FarmLiveness.RUNNING),
    ]
    found = {each.farm: each.life for each in read_farms(paths, claims, NOW)}
    assert found == {"aaaaaaaa02": Life.LIVES}
    assert [each.farm for each in read_farms(paths, [], NOW)] == ["aaaaaaaa02"]


def test_a_farm_without_a_file_has_its_claim_alone(paths):
    beat(paths, FARM, NOW - 3)
    (farm,) = read_farms(paths, [claim(FARM, FarmLiveness.RUNNING, 1)], NOW)
    assert (farm.life, farm.heard, farm.report) == (Life.LIVES, NOW - 3, None)
    assert [*farm.find_running()] == []


@pytest.mark.parametrize(
    "change",
    [
        {"ranks": 7},
        {"started": "yesterday"},
        {"started": None},
        {"counts": []},
        {"rate": float("nan")},
        {"host": ["n1"]},
        {"exit_status": "no"},
        {"job": "4711"},
        {"held": 7},
        {"seatless": ["gpu"]},
    ],
)
def test_a_file_with_odd_values_counts_as_none(paths, change):
    write_farm(paths, FARM, written=NOW - 60, **change)
    assert read_farms(paths, [], NOW) == []


def test_odd_entries_are_left_out(paths):
    early = NOW - 60
    write_farm(paths, FARM, written=early, running={5: (1, 3, NOW)}, time_left=7)
    path = Path(paths.farm(FARM))
    state = json.loads(path.read_text())
    state["running"] += [None, {}, {"task": "x"}, {"task": 6, "started": "soon"}]
    state["ranks"] += [{"rank": 9}]
    path.write_text(json.dumps(state))
    (farm,) = read_farms(paths, [], NOW)
    assert farm.report
    assert [each.taskid for each in farm.report.running] == [5]
    assert len(farm.report.ranks) == 2
    assert farm.report.time_left is None


def test_the_time_left_is_read_if_a_farm_tells_it(paths):
    left = {"low": 60, "likely": 90.5, "high": 120}
    write_farm(paths, FARM, written=NOW - 60, time_left=left)
    (farm,) = read_farms(paths, [], NOW)
    assert farm.report
    assert farm.report.time_left == (60.0, 90.5, 120.0)


def test_a_farm_that_has_just_given_up_its_claim_says_how_it_ended(paths, monkeypatch):
    def wait(_):
        write_farm(paths, FARM, written=NOW, exit_status=0)

    monkeypatch.setattr("mpifarm.audit.farms.time.sleep", wait)
    write_farm(paths, FARM, written=NOW - 1)
    (farm,) = read_farms(paths, [], NOW)
    assert farm.life is Life.ENDED


@pytest.mark.parametrize(
    ("liveness", "lives", "life"),
    [
        (FarmLiveness.HOLDS_LOCK, True, Life.LIVES),
        (FarmLiveness.UNCERTAIN, True, Life.UNCERTAIN),
        (FarmLiveness.DEAD, False, Life.DIED),
    ],
)
def test_a_farm_lives_unless_it_is_dead_or_has_ended(paths, liveness, lives, life):
    beat(paths, FARM, NOW)
    (farm,) = read_farms(paths, [claim(FARM, liveness, 3)], NOW)
    assert (farm.lives, farm.life, farm.held) == (lives, life, frozenset({3}))
    assert not farm._replace(life=Life.ENDED).lives
    assert farm._replace(claim=None).held == frozenset()


def test_the_last_sign_is_the_later_of_the_two(paths):
    for written, beaten in ((NOW - 8, NOW - 4), (NOW - 4, NOW - 8)):
        write_farm(paths, FARM, written=written)
        beat(paths, FARM, beaten)
        (farm,) = read_farms(paths, [claim(FARM, FarmLiveness.RUNNING)], NOW)
        assert farm.heard == NOW - 4


def test_a_dead_claim_of_a_farm_that_goes_on_elsewhere_is_left_out(paths):
    write_farm(paths, "aaaaaaaa01", written=NOW - 90)
    write_farm(paths, "aaaaaaaa02", written=NOW - 15, exit_status=0)
    dead = [claim("aaaaaaaa01", FarmLiveness.DEAD)]
    found = [(each.farm, each.life) for each in read_farms(paths, dead, NOW)]
    assert found == [("aaaaaaaa02", Life.ENDED)]
    uncertain = [claim("aaaaaaaa01", FarmLiveness.UNCERTAIN)]
    assert [each.farm for each in read_farms(paths, uncertain, NOW)] == ["aaaaaaaa01"]


def test_of_earlier_farms_those_that_wrote_last_are_told(paths):
    for number in range(12):
        name = f"{number:08x}01"
        write_farm(paths, name, written=NOW - 100 - number, exit_status=0)
    found = [each.farm for each in read_farms(paths, [], NOW)]
    assert found == [f"{number:08x}01" for number in range(10)]


@pytest.mark.parametrize(
    ("age", "exit_status", "looks"), [(10, None, 4), (11, None, 0), (1, 0, 0)]
)
def test_a_farm_that_may_be_ending_is_looked_at_some_times(
    paths, monkeypatch, age, exit_status, looks
):
    waits: list[float] = []
    monkeypatch.setattr("mpifarm.audit.farms.time.sleep", waits.append)
    write_farm(paths, FARM, written=NOW - age, exit_status=exit_status)
    (farm,) = read_farms(paths, [], NOW)
    assert waits == [0.25] * looks
    assert farm.life is (Life.DIED if exit_status is None else Life.ENDED)
