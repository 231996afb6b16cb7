"""What a host does not share with rank 0 is found before tasks are tried there."""

from dataclasses import replace

import pytest

from mpifarm.farm.shared_directories import find_missing
from mpifarm.model.settings import FarmDefinition, RunnerDefinition


@pytest.fixture
def definition(tmp_path, monkeypatch):
    """A farm whose workdir has its claim, and whose directory is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w" / "claims").mkdir(parents=True)
    (tmp_path / "w" / "claims" / "ab12").touch()
    here = str(tmp_path)
    return FarmDefinition(
        "ab12", f"{here}/w", RunnerDefinition(), grace=2.0, directory=here
    )


def test_a_host_that_sees_the_claim_and_the_directory_shares_all(definition):
    assert find_missing(definition, "n3") == ""


@pytest.mark.parametrize("gone", ["w/claims/ab12", "w/claims", "w"])
def test_a_workdir_of_the_same_name_that_is_another_is_told(definition, tmp_path, gone):
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    said = find_missing(definition, "n3")
    assert said.startswith("the workdir is not shared: n3 does not see claims/ab12")
    assert f"in {tmp_path}/w" in said
    assert "--workdir" in said


def test_a_directory_that_is_not_there_is_told(definition):
    said = find_missing(replace(definition, directory="/no/such"), "n3")
    assert said.startswith("n3 does not have /no/such, where the commands run")
    assert "--chdir" in said


def test_a_rank_that_was_started_in_another_directory_is_told(
    definition, tmp_path, monkeypatch
):
    monkeypatch.chdir("/")
    said = find_missing(definition, "n3")
    assert said.startswith("on n3, commands would run in another directory")
    assert said.endswith(f"give --chdir {tmp_path}")
    assert find_missing(replace(definition, directory=""), "n3") == ""
    (tmp_path / "w" / "link").symlink_to("/")
    linked = replace(definition, directory=str(tmp_path / "w" / "link"))
    assert find_missing(linked, "n3") == ""


def test_a_disk_that_fails_is_no_directory_that_is_missing(definition, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr("os.stat", fail)
    assert find_missing(definition, "n3") == ""
