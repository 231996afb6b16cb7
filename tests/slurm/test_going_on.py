"""The job scripts that go on by themselves, until the list is done or nothing helps.

Rules of this file: a task of stage n runs for ever until the test lets that stage go;
so a run gets as far as it is let, and then waits for its signal.
"""

import signal

from tests.farm_driver import Part, send_signal
from tests.slurm.batch import DEADLINE
from tests.support import wait_until

STAGE = "touch started.$PROC_NUMBER; until [ -e go.{0} ]; do sleep 0.2; done"
EACH = 4
"""Tasks of a stage: the workers of the farm."""

STOP = ("--batch", "--signal=USR1")
"""What ``--signal=B:USR1@60`` does a minute before the time limit."""


def write_stages(farm, count):
    """The tasks of `count` stages, each done before the next begins."""
    farm.write_list(STAGE.format(task // EACH) for task in range(count * EACH))


def let_go(farm, stage):
    """Its tasks end at once from now on."""
    (farm.directory / f"go.{stage}").touch()


def submit(slurm, script, *options, of_farm=()):
    """One of `jobs/`, which takes itself for old: it passes a signal on at once."""
    (slurm.directory / "old").write_text("SECONDS=60\n")
    slurm.environment["BASH_ENV"] = str(slurm.directory / "old")
    words = (f"jobs/{script}.slurm", "tasks.txt", "-n", "2", *of_farm)
    return slurm.submit("-N", "2", *options, *words)


def wait_until_stuck(farm, stage):
    """Until all before that stage is recorded, and a task of it runs."""
    done = stage * EACH
    wait_until(lambda: len(farm.finished()) == done, DEADLINE)
    wait_until(lambda: max(farm.marks("started"), default=-1) >= done, DEADLINE)


def find_successor(slurm, job):
    """The job that waits for the end of this one."""
    (successor,) = (other for other in slurm.queue() if other.jobid != job.jobid)
    return successor


# ---- requeue.slurm -------------------------------------------------------------------


def test_a_job_requeues_itself_until_the_list_is_done(farm, slurm):
    write_stages(farm, 2)
    let_go(farm, 0)
    job = submit(slurm, "requeue", "--comment=mine, idle=3")
    wait_until_stuck(farm, 1)
    job.scancel(*STOP)
    job.wait_until_restarted(1)
    # what a run records gives a job its three tries again
    comment = slurm.ask("squeue", "-h", "-j", job.jobid, "-o", "%k")
    assert comment.strip() == "mine, idle=0"
    let_go(farm, 1)
    ended = job.assert_ends(0)
    assert ended.state == "COMPLETED"
    assert ended.restarts == 1
    farm.assert_all_finished()
    # one output for all runs
    assert job.text().count("exit status 75") == 1
    assert job.text().count("exit status 0") == 1


def test_a_requeued_job_goes_on_with_what_it_has_begun_again(farm, slurm):
    write_stages(farm, 2)
    farm.workdir.mkdir()
    lines = [f"{taskid} {text}\n" for taskid, text in enumerate(farm.tasks)]
    (farm.workdir / "finished").write_text("".join(lines[:-1]))
    (farm.workdir / "toprocess").write_text(lines[-1])
    let_go(farm, 0)
    job = submit(slurm, "requeue", of_farm=["--again"])
    wait_until_stuck(farm, 1)
    job.scancel(*STOP)
    job.wait_until_restarted(1)
    let_go(farm, 1)
    assert job.assert_ends(0).restarts == 1
    farm.assert_all_finished()
    assert len([*farm.directory.glob("tasks.txt_workdir.before-*")]) == 1
    assert "has begun this list again before, and goes on" in job.text()


def record_nothing(farm):
    """Let each start end with 75 at once."""
    farm.workdir.mkdir(exist_ok=True)
    (farm.workdir / "drain").touch()


def test_a_job_is_requeued_until_four_runs_have_recorded_nothing(farm, slurm):
    write_stages(farm, 1)
    record_nothing(farm)
    job = submit(slurm, "requeue", "--comment=idle=2")
    assert job.assert_ends(75).restarts == 1
    assert "not requeued, because the last four runs recorded nothing" in job.text()
    farm.assert_sound()
    assert farm.to_process() == farm.all_ids()


def test_a_job_whose_ranks_were_killed_is_requeued(farm, slurm):
    write_stages(farm, 2)
    let_go(farm, 0)
    job = submit(slurm, "requeue")
    wait_until_stuck(farm, 1)
    send_signal(farm.pids(Part.RANK), signal.SIGKILL)
    job.wait_until_restarted(1)
    let_go(farm, 1)
    assert job.assert_ends(0).restarts == 1
    farm.assert_all_finished()


def test_a_cancelled_job_is_not_requeued(farm, slurm):
    write_stages(farm, 2)
    let_go(farm, 0)
    job = submit(slurm, "requeue")
    wait_until_stuck(farm, 1)
    job.scancel()
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("CANCELLED", 0)
    farm.wait_until_gone(30)
    farm.assert_sound()


# ---- chain.slurm ---------------------------------------------------------------------


def test_a_chain_goes_on_over_a_stop_and_a_kill_until_the_list_is_done(farm, slurm):
    write_stages(farm, 3)
    let_go(farm, 0)
    first = submit(slurm, "chain")
    wait_until_stuck(farm, 1)
    second = find_successor(slurm, first)
    first.scancel(*STOP)
    first.assert_ends(75)
    let_go(farm, 1)
    wait_until_stuck(farm, 2)
    third = find_successor(slurm, second)
    second.scancel("--signal=KILL")
    assert second.wait().state == "CANCELLED"
    let_go(farm, 2)
    third.assert_ends(0)
    farm.assert_all_finished()
    wait_until(lambda: not slurm.queue(), DEADLINE)


def test_a_link_is_like_the_one_before(farm, slurm):
    write_stages(farm, 1)
    options = ("--time=7", "--job-name=another", "-N", "3")
    first = slurm.submit(*options, "jobs/chain.slurm", "tasks.txt", "-n", "2")
    wait_until_stuck(farm, 0)
    second = find_successor(slurm, first)
    fields = second.fields()
    assert fields["JobName"] == "another"
    assert fields["TimeLimit"] == "00:07:00"
    assert fields["NumNodes"].startswith("3")
    assert fields["Dependency"].startswith(f"afterany:{first.jobid}")


def test_a_chain_ends_when_four_links_have_recorded_nothing(farm, slurm):
    write_stages(farm, 1)
    record_nothing(farm)
    first = submit(slurm, "chain")
    wait_until(lambda: not slurm.queue(), DEADLINE)
    later = [path.read_text() for path in farm.directory.glob("slurm-*.out")]
    assert sum("exit status 75" in text for text in [first.text(), *later]) == 4
    farm.assert_sound()
    assert farm.to_process() == farm.all_ids()


def test_a_chain_ends_when_four_links_were_killed_that_recorded_nothing(farm, slurm):
    write_stages(farm, 1)
    link = slurm.submit(
        *("--export=ALL,FARM_CHAIN_RECORDED=0,FARM_CHAIN_IDLE=3", "-N", "2"),
        *("jobs/chain.slurm", "tasks.txt", "-n", "2"),
    )
    link.assert_ends(75)
    assert "its last four links recorded nothing" in link.text()
    wait_until(lambda: not slurm.queue(), DEADLINE)
    assert not farm.workdir.exists()


# ---- an array of one job at a time ---------------------------------------------------


def test_an_array_of_one_job_at_a_time_is_a_chain_too(farm, slurm):
    write_stages(farm, 2)
    let_go(farm, 0)
    script = ("-N", "2", "jobs/multinode.slurm", "tasks.txt", "-n", "2")
    first, second, third = slurm.submit_array("1-3%1", *script)
    wait_until_stuck(farm, 1)
    first.signal_step("USR1")
    first.assert_ends(75)
    let_go(farm, 1)
    second.assert_ends(0)
    third.assert_ends(0)
    farm.assert_all_finished()
