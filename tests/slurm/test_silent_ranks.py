"""A job that has lost one of its ranks, while the others and srun live on.

Rules of this file: nobody is told of such a death, and the farm waits for a minute
before it believes in it; so this job (`silenced`) lost its rank before the first test
of all, and this file is one of the last.
"""

import pytest

from tests.slurm.conftest import SILENCED_RANK

pytestmark = pytest.mark.timeout(240)

SILENCE_SECONDS = 150.0
"""The job isn't waited for longer: a minute of silence, the requeueing, and more."""


def test_a_job_that_has_lost_one_rank_ends_by_itself_is_requeued_and_finishes(silenced):
    farm, _, job = silenced
    ended = job.assert_ends(0, SILENCE_SECONDS)
    assert (ended.state, ended.restarts) == ("COMPLETED", 1)
    assert f"rank {SILENCED_RANK} on " in job.text()
    farm.assert_all_finished()
    farm.wait_until_gone()
