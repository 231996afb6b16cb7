"""Farms under the real srun, without a job script.

Rules of this file: a command ends only when all ranks, or all farmers, have begun one;
so each has had its share, however fast the others are.
"""

import shlex
import shutil
import sys

import pytest

from tests.pages import take_block
from tests.support import Launch, find_plain_python, plain_missing

NODES = 8

FARM = (sys.executable, "-m", "mpifarm", "tasks.txt", "-n", "1")

MEETS = (
    "touch started.$PROC_NUMBER; echo $PROC_NUMBER >> ran; "
    "until [ $(ls started.* | wc -l) -ge {} ]; do sleep 0.1; done"
)
"""Ends when that many tasks have begun."""

PMI2 = "--mpi=pmi2"


def run_farm(farm, slurm, *options, nodes=NODES):
    """srun to its end: its exit status, and what it printed."""
    words = ("srun", "-N", str(nodes), *options, *FARM)
    child = farm.start_command(Launch([*words], slurm.environment))
    return child.wait(), child.text()


def test_each_of_eight_nodes_is_a_rank_and_does_its_share(farm, slurm):
    farm.write_list([MEETS.format(NODES)] * 3 * NODES)
    status, printed = run_farm(farm, slurm, PMI2)
    assert status == 0, printed
    assert farm.ranks_at_work() == set(range(NODES))
    farm.assert_all_finished()
    farm.wait_until_gone()


def test_a_list_that_a_pipe_writes_is_done_as_the_page_says(farm, slurm):
    """A list of 2 MB: a rank that does not read it would hold it up."""
    command, comments = 'echo "echo $i >> ran"', "printf '# %0300d\\n' $(seq 300)"
    loop = f"for i in {{0..19}}; do {command}; {comments}; done"
    farm.write_program("generate", f"#!/bin/bash\n{loop}\n")
    (typed,) = take_block("adding-tasks.md", "generate | srun").lines
    environment = slurm.environment | {"PATH": f".:{slurm.environment['PATH']}"}
    child = farm.start_command(Launch(["bash", "-c", typed], environment))
    assert child.wait() == 0, child.text()
    assert "error" not in child.text()
    assert sorted(map(int, farm.notes("ran"))) == [*range(20)]


def test_the_farms_exit_status_comes_out_of_srun(farm, slurm):
    farm.write_list(["true"] * NODES + ["false"])
    assert run_farm(farm, slurm, PMI2)[0] == 1
    farm.assert_sound()


def test_a_list_that_is_not_there_is_status_2_and_one_sentence(farm, slurm):
    status, printed = run_farm(farm, slurm, PMI2)
    assert status == 2
    assert printed.count("tasks.txt") == 1, printed
    assert not farm.workdir.exists()


def test_where_slurm_can_not_enter_the_directory_no_task_runs_in_tmp(farm, slurm):
    """The list is named in full, and its command is there whatever the directory."""
    farm.write_list([f"touch '{farm.directory}/ran'"])
    gone = farm.directory.parent / "gone"
    under = slurm.srun(f"--chdir={gone}", PMI2)
    child = farm.start("-n", "1", under=under, ranks=2, env={"PWD": str(gone)})
    assert child.wait() == 2, child.text()
    assert f"can't run commands in {gone}: Slurm could not enter it on" in child.text()
    assert not (farm.directory / "ran").exists()
    assert not farm.workdir.exists()


def test_eight_ranks_that_see_no_other_say_so_once_and_share_the_list(farm, slurm):
    farm.write_list([MEETS.format(NODES)] * 2 * NODES + ["false"])
    ended, printed = run_farm(farm, slurm, "--mpi=none")
    assert ended == 1, printed
    assert printed.count("WARNING") == 1, printed
    own = ["srun", "--mpi=pmi2", "-N", str(NODES), *FARM]
    assert line_behind(": srun ", printed) == shlex.join(own)
    ran = (farm.directory / "ran").read_text().split()
    assert sorted(map(int, ran)) == list(range(2 * NODES))
    farm.assert_sound()
    assert len(farm.finished() + farm.failed()) == len(farm.tasks)
    assert len(farm.failed()) == 1
    assert farm.claims() == []


def line_behind(words, printed):
    """The line that a WARNING ends in; `words` are before it, and its first."""
    (warning,) = (each for each in printed.splitlines() if "WARNING" in each)
    before, _, rest = warning.rpartition(words)
    return words.split()[-1] + " " + rest if before else warning


def test_nodes_without_a_rank_are_told_with_a_line_that_uses_all(farm, slurm):
    farm.write_list(["true"] * 4)
    size = ("-N", "3", "--ntasks-per-node=2")
    words = "python -m mpifarm tasks.txt -n 1"
    jobs = [
        slurm.submit(*size, "--wrap", f"{start}{words}")
        for start in ("", "srun --mpi=pmi2 -n 1 ")
    ]
    for job in jobs:
        # 3: while the other still runs the rest
        assert job.wait().status in (0, 3)
        assert "the job has 3 nodes, and this farm runs on 1;" in job.text()
    lines = [line_behind("start it with srun ", job.text()) for job in jobs]
    for pasted in [slurm.submit(*size, "--wrap", line) for line in lines]:
        pasted.assert_ends(0)
        assert "3 ranks of 1 worker," in pasted.text()
        assert "WARNING: the job has" not in pasted.text()


def test_an_srun_that_waits_for_the_farm_is_told_and_what_is_told_to_write_runs(
    farm, slurm
):
    def run(line, status, seconds):
        farm.write_list([line])
        words = f"python -m mpifarm tasks.txt -n 1 --task-timeout {seconds}"
        job = slurm.submit("-N", "1", "--exclusive", "--wrap", f"srun {PMI2} {words}")
        job.assert_ends(status)
        return job.text()

    told = run("srun -n1 true", 1, 3)
    assert "line 1 of tasks.txt (task 0) starts srun without --overlap" in told
    assert "timed out" in told
    instead = 'srun --overlap -N1 -w "$SLURMD_NODENAME"'
    assert instead in told
    shutil.rmtree(farm.workdir)
    assert "WARNING" not in run(f"{instead} -n1 true", 0, 60)


# ---- a mix ---------------------------------------------------------------------------

TASKS = 160


@pytest.fixture
def plain_farmer():
    """The first arguments of PyTaskFarmer 0.1.0."""
    python = find_plain_python("0.1.0")
    if python is None:
        pytest.skip(plain_missing("0.1.0"))
    return f"{python} {python.parent / 'pytaskfarmer.py'}"


def write_meeting_list(farm, farmers):
    """Tasks that note who ran them, and end when so many farmers are at work."""
    script = farm.directory / "mark"
    script.write_text(
        "echo $1 $SLURM_JOB_ID >> ran.$1; touch at.$SLURM_JOB_ID; "
        f"until [ $(ls at.* | wc -l) -ge {farmers} ]; do sleep 0.1; done\n"
    )
    # a plain farmer has no shell
    farm.write_list(f"bash mark {taskid}" for taskid in range(TASKS))


def test_an_mpi_farm_a_farm_without_mpi_and_plain_farmers_run_each_task_once(
    farm, slurm, plain_farmer
):
    write_meeting_list(farm, farmers=4)
    large = slurm.submit("-N", "4", "jobs/multinode.slurm", "tasks.txt", "-n", "2")
    small = slurm.submit("jobs/backfill.slurm", "tasks.txt", "-n", "2")
    plain = slurm.submit_array("1-2", "--wrap", f"{plain_farmer} -n 2 tasks.txt")
    for job in (large, small):
        # 3: it had nothing left while another still ran its last tasks
        assert job.wait().status in (0, 3), job.text()
    for job in plain:
        job.assert_ends(0)
    notes = [path.read_text().split() for path in farm.directory.glob("ran.*")]
    assert sorted(int(taskid) for taskid, _ in notes) == farm.all_ids()
    assert len({job for _, job in notes}) == 4
    farm.assert_all_finished()
