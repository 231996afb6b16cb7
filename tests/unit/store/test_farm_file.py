"""``farms/<farm>.json``: written now and then, and read by those who look."""

import json

import pytest

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.farm_file import (
    EARLY_SECONDS,
    MAX_SHARE,
    MIN_SECONDS,
    FarmFile,
    read_farm_files,
)

FARM = "0123abcd"


@pytest.fixture
def paths(tmp_path):
    return WorkdirPaths(str(tmp_path))


def test_a_state_replaces_the_one_before(paths, tmp_path):
    file = FarmFile(paths, FARM, 10.0)
    assert 10.0 < file.due_at <= 10.25  # to know the command of one that is killed then
    file.write({"farm": FARM, "n": 1}, 0.0, 11.0)
    file.write({"farm": FARM, "n": 2}, 0.0, 20.0)
    assert [each["n"] for each in read_farm_files(paths)] == [2]
    assert [path.name for path in (tmp_path / "farms").iterdir()] == [f"{FARM}.json"]


@pytest.fixture
def _writes_cost_nothing(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 7.0)


@pytest.mark.usefixtures("_writes_cost_nothing")
def test_the_next_state_is_due_by_what_one_costs(paths):
    file = FarmFile(paths, FARM, 10.0)
    file.write({}, 0.0, 21.0)
    assert file.due_at == 21.0 + MIN_SECONDS
    file.write({}, 1.0, 30.0)
    assert file.due_at == 30.0 + 1.0 / MAX_SHARE


@pytest.mark.usefixtures("_writes_cost_nothing")
def test_at_a_farms_beginning_states_are_due_sooner(paths):
    file = FarmFile(paths, FARM, 10.0)
    file.write({}, 0.0, 11.0)
    assert file.due_at == 11.0 + EARLY_SECONDS
    assert EARLY_SECONDS < MIN_SECONDS
    file.write({}, 1.0, 12.0)
    assert file.due_at == 12.0 + 1.0 / MAX_SHARE


def test_a_disk_that_fails_is_not_told(paths, tmp_path):
    (tmp_path / "farms").write_text("not a directory\n")
    FarmFile(paths, FARM, 10.0).write({}, 0.0, 11.0)
    assert (tmp_path / "farms").read_text() == "not a directory\n"
    assert [*read_farm_files(paths)] == []


def test_what_is_no_state_is_passed_over(paths, tmp_path):
    assert [*read_farm_files(paths)] == []
    (tmp_path / "farms").mkdir()
    for name, content in (
        ("aaaaaaaa.json", '{"format": 1, "farm": "aaaaaaaa"}'),
        ("bbbbbbbb.json", '{"format": 1, "fa'),
        ("cccccccc.json", '{"format": 99}'),
        ("dddddddd.json", "[1]"),
        ("eeeeeeee.json", "[" * 100_000),
        ("aaaaaaaa.json.aaaaaaaa", '{"format": 1}'),
        ("notes.txt", "mine"),
    ):
        (tmp_path / "farms" / name).write_text(content)
    (tmp_path / "farms" / "ffffffff.json").mkdir()
    assert [each["farm"] for each in read_farm_files(paths)] == ["aaaaaaaa"]


def test_a_state_is_one_line_of_json(paths, tmp_path):
    FarmFile(paths, FARM, 10.0).write({"command": ["ünï\udcff"]}, 0.0, 11.0)
    content = (tmp_path / "farms" / f"{FARM}.json").read_bytes()
    assert content.endswith(b"}\n")
    assert content.count(b"\n") == 1
    assert json.loads(content)["command"] == ["ünï\udcff"]
