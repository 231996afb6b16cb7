"""Where there is no Grid Engine: a skip that says what is missing.

Rules of this file: it starts no Grid Engine.
"""

import pytest

from tests.grid_engine.batch import Run, parse_accounting
from tests.grid_engine.conftest import PACKAGES, find_lack, skip_where_allowed
from tests.required import REQUIRED_VARIABLE

ACCOUNTING = """\
==============================================================
qname        main.q
jobnumber    5
taskid       undefined
account      sge
slots        2
failed       25  : rescheduling
exit_status  99                  (Cannot assign requested address)
==============================================================
qname        main.q
jobnumber    5
taskid       undefined
account      sge
slots        2
failed       0
exit_status  0
"""


def test_what_is_missing_is_named_with_the_packages_that_bring_it():
    lack = find_lack(("such-a-program",))
    assert "no such-a-program" in lack
    assert PACKAGES in lack


def test_a_grid_engine_that_nobody_requires_and_is_missing_is_a_skip(monkeypatch):
    monkeypatch.setenv(REQUIRED_VARIABLE, "slurm")
    with pytest.raises(pytest.skip.Exception, match="no qsub"):
        skip_where_allowed("no qsub")


def test_each_run_of_a_job_is_read_from_the_accounting():
    assert parse_accounting(ACCOUNTING) == [
        Run("undefined", "25", 99, 2, "main.q", "sge"),
        Run("undefined", "0", 0, 2, "main.q", "sge"),
    ]
