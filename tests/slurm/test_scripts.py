"""The job scripts of ``jobs/`` under the real sbatch: how a job ends that nobody stops.

Rules of this file: what is submitted is the script as it stands; only the size of the
job is given on the command line, as its head says.
"""

import pytest

from tests.slurm.batch import DEADLINE
from tests.support import kill_survivors, wait_until

SIZES = {
    "multinode": ("-N", "2"),
    "requeue": ("-N", "2"),
    "supervised": ("-N", "2"),
    "chain": ("-N", "2"),
    "backfill": ("-c", "2"),
    "array": ("-c", "2"),
}
"""Each script, and the size of its job here."""

MEETS = (
    "echo $PROC_NUMBER >> ran; touch at.$SLURM_ARRAY_TASK_ID; "
    "until [ $(ls at.* | wc -l) -ge 3 ]; do sleep 0.1; done"
)
"""Ends when three farms are at work."""

WAITS = (
    "echo $SLURM_ARRAY_TASK_ID > started.$PROC_NUMBER; "
    "until [ -e go ]; do sleep 0.1; done"
)
"""Ends when the test says so."""


@pytest.fixture(params=SIZES)
def script(request):
    """The first arguments of sbatch for one script after the other."""
    return (*SIZES[request.param], f"jobs/{request.param}.slurm")


def test_a_jobs_exit_status_is_that_of_its_farm(farm, slurm, script):
    farm.write_list(["true"] * 8)
    broken = farm.directory / "broken.txt"
    broken.write_text("true\nfalse\n")
    jobs = {
        slurm.submit(*script, "tasks.txt", "--grace", "7", "--verbose"): 0,
        slurm.submit(*script, "broken.txt"): 1,
        slurm.submit(*script, "missing.txt"): 2,
    }
    for job, status in jobs.items():
        ended = job.assert_ends(status)
        assert ended.restarts == 0
        assert ended.state == ("COMPLETED" if status == 0 else "FAILED")
        # options after the list are the farm's
        assert ("task 0 began at" in job.text()) == (status == 0)
    farm.assert_all_finished()
    # a successor that isn't wanted is cancelled before it begins
    wait_until(lambda: not slurm.queue(), DEADLINE)
    assert list(farm.directory.glob("slurm-*.out")) == []


def test_each_node_of_the_job_is_a_rank_with_a_worker_for_each_cpu(farm, slurm):
    farm.write_list(["true"])
    job = slurm.submit("-N", "3", "jobs/multinode.slurm", "tasks.txt")
    job.assert_ends(0)
    assert "3 ranks of " in job.text()


def test_the_tasks_of_an_array_share_the_list(farm, slurm):
    farm.write_list([MEETS] * 60)
    jobs = slurm.submit_array("1-3", "-c", "2", "jobs/array.slurm", "tasks.txt")
    for job in jobs:
        job.assert_ends(0)
    farm.assert_all_finished()
    ran = (farm.directory / "ran").read_text().split()
    assert sorted(map(int, ran)) == farm.all_ids()


def submit_array_and_what_follows(farm, slurm):
    """An array of three, and a job that needs all of them; two have ended with 0.

    Returns the last member, which has a task, and the job.
    """
    farm.write_list([MEETS] * 6 + [WAITS])
    jobs = slurm.submit_array("1-3", "-c", "2", "jobs/array.slurm", "tasks.txt")
    array = jobs[0].jobid.partition("_")[0]
    after = slurm.submit(f"--dependency=afterok:{array}", "--wrap", "touch followed")
    wait_until(lambda: farm.marks("started") == [6], DEADLINE)
    (member,) = farm.await_notes("started.6", 1, DEADLINE)
    (last,) = [job for job in jobs if job.jobid.endswith(f"_{member}")]
    for job in jobs:
        if job is not last:
            job.assert_ends(0)
            assert "with other farms of this job array, whose own" in job.text()
    wait_until(lambda: farm.finished() == [0, 1, 2, 3, 4, 5], DEADLINE)
    return last, after


def test_what_needs_all_of_an_array_starts_when_all_tasks_are_finished(farm, slurm):
    last, after = submit_array_and_what_follows(farm, slurm)
    assert not (farm.directory / "followed").exists()
    farm.allow()
    last.assert_ends(0)
    farm.assert_all_finished()
    after.assert_ends(0)
    assert (farm.directory / "followed").exists()


@pytest.mark.parametrize("how", ["scancel", "kill -9"])
def test_what_needs_all_of_an_array_never_starts_when_the_last_member_is_ended(
    farm, slurm, how
):
    last, after = submit_array_and_what_follows(farm, slurm)
    if how == "scancel":
        last.scancel()
    else:
        kill_survivors(farm.token)
    ended = last.wait()
    assert ended.state in ("FAILED", "CANCELLED")
    reason = "DependencyNeverSatisfied"
    wait_until(lambda: after.fields()["Reason"] == reason, DEADLINE)
    assert not (farm.directory / "followed").exists()
    assert farm.finished() == [0, 1, 2, 3, 4, 5]
