"""What the tests remove when all is over, and what they leave alone."""

import os
import sys

import pytest

from tests import leavings


@pytest.fixture
def no_moment(monkeypatch):
    """What was made just now counts as old."""
    monkeypatch.setattr(leavings, "_MOMENT", -1.0)


@pytest.mark.usefixtures("no_moment")
def test_what_nobody_uses_is_removed(tmp_path):
    folder = tmp_path / "ompi.vm.0"
    within = folder / "pid.999999999"
    within.mkdir(parents=True)
    segment = tmp_path / "mpich_shm_1"
    segment.write_bytes(b"x")
    leavings.remove({folder, within, segment})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("no_moment")
def test_what_is_open_or_of_a_living_launcher_stays(tmp_path):
    folder = tmp_path / "ompi.vm.0"
    within = folder / f"pid.{os.getpid()}"
    within.mkdir(parents=True)
    segment = tmp_path / "mpich_shm_1"
    with segment.open("wb"):
        leavings.remove({folder, within, segment})
    assert within.is_dir()
    assert segment.exists()


def test_what_was_made_a_moment_ago_stays(tmp_path):
    segment = tmp_path / "mpich_shm_1"
    segment.write_bytes(b"x")
    leavings.remove({segment})
    assert segment.exists()


def test_what_is_mapped_is_known_as_used():
    assert os.path.realpath(sys.executable) in {*leavings._used_files()}
