"""Where there is no Slurm: a skip on a laptop, a failure in CI.

Rules of this file: it starts no Slurm.
"""

import pytest

from tests.required import REQUIRED_VARIABLE
from tests.slurm.conftest import find_lack, skip_where_allowed


def test_what_is_missing_is_named():
    assert "no such-a-program" in find_lack(("such-a-program",))


@pytest.mark.parametrize("words", ["slurm", "podman slurm"])
def test_a_slurm_that_is_required_and_missing_is_a_failure(monkeypatch, words):
    monkeypatch.setenv(REQUIRED_VARIABLE, words)
    with pytest.raises(pytest.fail.Exception, match="no sinfo; but"):
        skip_where_allowed("no sinfo")


@pytest.mark.parametrize("words", ["", "podman", "slurmish"])
def test_a_slurm_that_nobody_requires_and_is_missing_is_a_skip(monkeypatch, words):
    monkeypatch.setenv(REQUIRED_VARIABLE, words)
    with pytest.raises(pytest.skip.Exception, match="no sinfo"):
        skip_where_allowed("no sinfo")
