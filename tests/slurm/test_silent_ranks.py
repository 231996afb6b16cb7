"""Ranks that are killed while srun and the other ranks live on.

Rules of this file: nobody is told of such a death; the farm has to notice the silence.
It may take the silence of a rank that the machine keeps still for death, too.
"""

import signal

import pytest

from tests.slurm.batch import DEADLINE
from tests.slurm.conftest import ENDS_SOON
from tests.support import wait_until

pytestmark = pytest.mark.timeout(240)

NODES = 3
WORKERS = 2
VICTIM = 2

WAITS = (
    "echo $MPIFARM_RANK >> started.$PROC_NUMBER; while [ ! -e go ]; do sleep 0.1; done"
)

OPTIONS = ("-n", str(WORKERS), "--rank-timeout", "3")


def strike_a_rank(farm, signum):
    """When all workers are busy; the tasks that it had."""
    wait_until(lambda: len(farm.marks("started")) == NODES * WORKERS, DEADLINE)
    theirs = [t for t in farm.marks("started") if ranks_of(farm, t) == [str(VICTIM)]]
    farm.signal_rank(VICTIM, signum)
    return theirs


def ranks_of(farm, taskid):
    """The ranks on which a task began."""
    return (farm.directory / f"started.{taskid}").read_text().split()


def test_a_farm_goes_on_without_a_rank_that_hangs_and_does_not_hang_at_its_end(
    farm, slurm
):
    farm.write_list([WAITS] * 3 * NODES)
    child = farm.start(*OPTIONS, under=slurm.srun("--mpi=pmi2", "-K0"), ranks=NODES)
    theirs = strike_a_rank(farm, signal.SIGSTOP)
    assert theirs
    wait_until(lambda: f"rank {VICTIM} on " in child.text(), DEADLINE)
    farm.allow()
    # Slurm waits some seconds (KillWait) before it kills a rank that is suspended.
    assert child.wait(150) in (0, 137), child.text()
    farm.assert_all_finished()
    assert VICTIM in farm.lost_ranks()
    assert all(len(ranks_of(farm, taskid)) >= 2 for taskid in theirs)
    assert farm.result()["exit_status"] == 0
    farm.wait_until_gone()


def test_a_job_that_has_lost_one_rank_finishes_and_leaves_the_queue(farm, slurm):
    farm.write_list([ENDS_SOON] * 10 + [WAITS] * 3 * NODES)
    job = slurm.submit("-N", str(NODES), "jobs/requeue.slurm", "tasks.txt", *OPTIONS)
    theirs = strike_a_rank(farm, signal.SIGKILL)
    wait_until(lambda: f"rank {VICTIM} on " in job.text(), DEADLINE)
    farm.allow()
    ended = job.assert_ends(0, DEADLINE)
    assert ended.state == "COMPLETED"
    farm.assert_all_finished()
    assert all(len(ranks_of(farm, taskid)) >= 2 for taskid in theirs)
    farm.wait_until_gone()
