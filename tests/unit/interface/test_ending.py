"""How a farm has ended, where several have worked in one workdir."""

import json

import pytest

from mpifarm.errors import ExitStatus
from mpifarm.interface.ending import Ending, find_ending, find_result, has_begun
from mpifarm.model.paths import WorkdirPaths

OURS, OTHER = "0123abcd", "4567abcd"


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "farms").mkdir()
    return WorkdirPaths(str(tmp_path))


def write_result(paths, farm, status, reason=""):
    tasks = {"toprocess": 0, "elsewhere": 0, "claimed": 0}
    value = {"farm": farm, "exit_status": status, "reason": reason, "tasks": tasks}
    with open(paths.result, "w") as file:
        json.dump(value, file)


def write_report(paths, farm, mark, status=None, reason=""):
    value = {
        "format": 1,
        "version": "1",
        "host": "n1",
        "pid": 1,
        "phase": "ended",
        "started": "2026-01-01T00:00:00Z",
        "written": "2026-01-01T00:00:00Z",
        "command": ["mpifarm", "::::", f"w/given-{mark}.txt"],
        "reason": reason,
        "exit_status": status,
        "counts": {"running": 0},
        "rate": 0,
        "ranks": [],
        "running": [],
    }
    with open(paths.farm(farm), "w") as file:
        json.dump(value, file)


def test_the_result_of_another_farm_is_not_ours(paths):
    write_report(paths, OTHER, "other", 0)
    write_result(paths, OTHER, 0)
    assert find_ending(paths, "ours", None) is None
    assert not has_begun(paths, "ours")


def test_a_result_that_another_farm_has_replaced_is_found(paths):
    write_report(paths, OURS, "ours", 1, "why")
    write_report(paths, OTHER, "other", 0)
    write_result(paths, OTHER, 0)
    assert find_ending(paths, "ours", None) == Ending(ExitStatus.SOME_FAILED, "why")


def test_the_result_says_it_before_the_farms_own_last_word(paths):
    write_report(paths, OURS, "ours")
    assert find_ending(paths, "ours", None) is None
    assert has_begun(paths, "ours")
    write_result(paths, OURS, 75, "SIGUSR1 was received")
    ending = Ending(ExitStatus.RUN_AGAIN, "SIGUSR1 was received")
    assert find_ending(paths, "ours", None) == ending


def test_without_any_word_a_new_result_is_ours(paths):
    write_result(paths, OTHER, 0)
    before = find_result(paths)
    assert find_ending(paths, "ours", before) is None
    write_result(paths, OURS, 3)
    ending = Ending(ExitStatus.WITH_OTHERS, "other farms hold what is left")
    assert find_ending(paths, "ours", before) == ending


def test_a_status_of_another_version_is_a_defect(paths):
    write_report(paths, OURS, "ours", 99)
    assert find_ending(paths, "ours", None) == Ending(ExitStatus.DEFECT, "")
