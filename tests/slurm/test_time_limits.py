"""Jobs that their time limit ends, and what Slurm sends before it.

Rules of this file: a time limit has whole minutes, and Slurm looks after it twice a
minute; so these jobs (`limited`) were submitted before the first test of all, each with
a list of its own.
"""

import pytest

from tests.slurm.conftest import QUICK

pytestmark = pytest.mark.timeout(240)

LIMIT_SECONDS = 180.0
"""A job isn't waited for longer: a minute, the 30 s between two looks, and more."""


def assert_stopped(farm):
    """Nothing lives on, nothing is lost, nothing that was killed is booked."""
    farm.wait_until_gone(20)
    farm.assert_sound()
    assert farm.failed() == []
    assert farm.finished() == list(range(QUICK))


def assert_next_submission_finishes(farm, slurm):
    farm.allow()
    job = slurm.submit("-N", "2", "jobs/multinode.slurm", "tasks.txt")
    job.assert_ends(0)
    farm.assert_all_finished()


@pytest.mark.parametrize("name", ["signal to the ranks", "signal to the shell"])
def test_a_job_that_is_told_in_time_ends_with_75_before_its_limit(limited, name):
    farm, slurm, job = limited[name]
    job.assert_ends(75, LIMIT_SECONDS)
    assert "SIGUSR1 was received" in job.text()
    assert_stopped(farm)
    assert farm.to_process() == farm.all_ids()[QUICK:]
    assert_next_submission_finishes(farm, slurm)


def test_a_farm_that_nobody_tells_ends_by_itself_before_its_job_does(limited):
    farm, slurm, job = limited["by itself"]
    ended = job.assert_ends(75, LIMIT_SECONDS)
    assert ended.state == "FAILED"  # and not TIMEOUT
    assert "mpifarm: the job ends at " in job.text()
    assert "the job ends in " in job.text()
    assert_stopped(farm)
    assert farm.to_process() == farm.all_ids()[QUICK:]
    assert_next_submission_finishes(farm, slurm)


def test_a_job_that_slurm_has_shortened_requeues_itself_and_finishes(limited):
    farm, _, job = limited["requeue"]
    fields = job.fields()
    assert (fields["TimeMin"], fields["TimeLimit"]) == ("00:01:00", "00:01:00")
    ended = job.assert_ends(0, LIMIT_SECONDS)
    assert (ended.state, ended.restarts) == ("COMPLETED", 1)
    farm.assert_all_finished()


def test_a_job_that_its_limit_ends_without_notice_loses_nothing(limited):
    farm, slurm, job = limited["no signal"]
    assert job.wait(LIMIT_SECONDS).state == "TIMEOUT"
    assert_stopped(farm)
    assert_next_submission_finishes(farm, slurm)
