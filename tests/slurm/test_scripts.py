"""The job scripts of ``jobs/`` under the real sbatch: how a job ends that nobody stops.

Rules of this file: what is submitted is the script as it stands; only the size of the
job is given on the command line, as its head says.
"""

import pytest

from tests.slurm.batch import DEADLINE
from tests.support import wait_until

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


@pytest.fixture(params=SIZES)
def script(request):
    """The first arguments of sbatch for one script after the other."""
    return (*SIZES[request.param], f"jobs/{request.param}.slurm")


def test_a_jobs_exit_status_is_that_of_its_farm(farm, slurm, script):
    farm.write_list(["true"] * 8)
    broken = farm.directory / "broken.txt"
    broken.write_text("true\nfalse\n")
    jobs = {
        slurm.submit(*script, "tasks.txt"): 0,
        slurm.submit(*script, "broken.txt"): 1,
        slurm.submit(*script, "missing.txt"): 2,
    }
    for job, status in jobs.items():
        ended = job.assert_ends(status)
        assert ended.restarts == 0
        assert ended.state == ("COMPLETED" if status == 0 else "FAILED")
    farm.assert_all_finished()
    # a successor that isn't wanted is cancelled before it begins
    wait_until(lambda: not slurm.queue(), DEADLINE)
    assert list(farm.directory.glob("slurm-*.out")) == []


def test_options_after_the_list_are_the_farms(farm, slurm, script):
    farm.write_list(["true"])
    job = slurm.submit(*script, "tasks.txt", "--grace", "7", "--verbose")
    job.assert_ends(0)
    assert "task=0 attempt=1 rank=0" in job.text()


def test_each_node_of_the_job_is_a_rank_with_a_worker_for_each_cpu(farm, slurm):
    farm.write_list(["true"])
    job = slurm.submit("-N", "3", "jobs/multinode.slurm", "tasks.txt")
    job.assert_ends(0)
    assert "3 ranks of " in job.text()


def test_the_tasks_of_an_array_share_the_list(farm, slurm):
    farm.write_list([MEETS] * 60)
    jobs = slurm.submit_array("1-3", "-c", "2", "jobs/array.slurm", "tasks.txt")
    # 3: nothing was left while another still ran its last tasks
    assert {job.wait().status for job in jobs} <= {0, 3}
    farm.assert_all_finished()
    ran = (farm.directory / "ran").read_text().split()
    assert sorted(map(int, ran)) == farm.all_ids()


@pytest.mark.parametrize("name", ["requeue", "chain"])
@pytest.mark.parametrize("option", ["-w", "--workdir", "--workd"])
def test_a_script_that_counts_refuses_another_workdir(farm, slurm, name, option):
    farm.write_list(["true"])
    job = slurm.submit(f"jobs/{name}.slurm", "tasks.txt", option, "elsewhere")
    job.assert_ends(2)
    assert "the workdir is set at the top of the script" in job.text()
    assert not (farm.directory / "elsewhere").exists()


@pytest.mark.parametrize("name", ["requeue", "chain"])
@pytest.mark.parametrize("words", [("-n", "4", "tasks.txt"), ()], ids=["-n", "none"])
def test_a_script_that_counts_wants_the_tasklist_first(farm, slurm, name, words):
    farm.write_list(["true"])
    job = slurm.submit("-N", "2", f"jobs/{name}.slurm", *words)
    job.assert_ends(2)
    assert job.text() == f"{name}.slurm: the tasklist comes first, then options\n"
