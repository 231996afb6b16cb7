"""``mpifarm submit`` on a real Slurm: each form, a cancel, a node that goes, a refusal.

Rules of this file: what is typed after a submission is what submit has printed.  How a
script goes on after kills is the same in ``jobs/``, whose tests hold it.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.slurm.batch import DEADLINE, Job
from tests.slurm.conftest import ENDS_SOON, WAITS, skip_where_allowed
from tests.slurm.nodes import nodes_of
from tests.slurm.test_supervise import take_away
from tests.support import (
    OPENMPI_ENVIRONMENT,
    ROOT,
    TOKEN_VARIABLE,
    make_bare_python,
    wait_until,
)

__all__ = ["take_away"]

OF_A_GROUP = ("-A", "phys", "-p", "small", "--qos", "high")

FORMS = {
    "one": ("-c", "2"),
    "nodes": ("-N", "2"),
    "shared": ("-N", "2", "-c", "2", '--comment=it\'s "mine" #1', *OF_A_GROUP),
    "array": ("--array", "2", "-c", "2"),
    "arrayed": ("--array", "2", "-N", "2", "-c", "1"),
    "gap": ("--backfill", "-c", "1"),
    "until": ("--until-done", "-N", "2", "-c", "1"),
    "chain": ("--chain", "-c", "1"),
    "supervised": ("--supervise", "--until-done", "-N", "2", "-c", "1"),
}


class Submitted:
    """A submission: what submit says of it, and its jobs."""

    def __init__(self, slurm, told, directory, members=0):
        self._slurm = slurm
        self.told = told
        names = [f"_{number}" for number in range(1, members + 1)] or [""]
        workdir = directory / "tasks.txt_workdir"
        self.jobs = [
            Job(slurm, told["job"] + name, workdir / f"job-{told['job']}{name}.out")
            for name in names
        ]

    def type(self, name):
        """Type one of the commands that were printed."""
        subprocess.run(
            ["bash", "-c", self.told[name]],
            env=self._slurm.environment,
            cwd=self._slurm.directory,
            check=True,
        )


def submit(slurm, *words, directory=None, python=sys.executable):
    directory = directory or slurm.directory
    members = int(words[words.index("--array") + 1]) if "--array" in words else 0
    done = run(slurm, directory, *words, python=python)
    assert done.returncode == 0, done.stderr
    return Submitted(slurm, json.loads(done.stdout), directory, members)


def run(slurm, directory, *words, python=sys.executable):
    argv = [python, "-m", "mpifarm", "submit", "--json", *words]
    return subprocess.run(
        argv,
        env=slurm.environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_form_farms_its_list_to_the_end(farm, slurm):
    submitted, before = {}, ""
    for name, options in FORMS.items():
        directory = farm.directory / f"{name} it's 100%j"
        directory.mkdir()
        (directory / "tasks.txt").write_text("true\n" * 8)
        after = ("--after", before) if before else ()
        words = ("-t", "10", *options, *(after if name == "shared" else ()))
        submitted[name] = submit(slurm, *words, "tasks.txt", directory=directory)
        before = submitted[name].told["job"]
    for name, each in submitted.items():
        for job in each.jobs:
            assert job.assert_ends(0).state == "COMPLETED", name
            assert "exit status 0" in job.text()
    workdirs = [*farm.directory.glob("*/tasks.txt_workdir")]
    assert len(workdirs) == len(FORMS)
    for workdir in workdirs:
        assert len((workdir / "finished").read_text().splitlines()) == 8
    fields = submitted["gap"].jobs[0].fields()
    assert (fields["TimeMin"], fields["Requeue"]) == ("00:02:00", "1")
    shared = submitted["shared"].jobs[0]
    fields = shared.fields()
    assert fields["Comment"] == "it's"  # and more
    assert (fields["Account"], fields["Partition"]) == ("phys", "small")
    # Slurm keeps no quality of service without a database
    script = slurm.ask("scontrol", "write", "batch_script", shared.jobid, "-")
    assert "--qos=high" in script
    assert "2 ranks of 2 workers" in shared.text()
    assert "2 ranks of " in submitted["nodes"].jobs[0].text()
    wait_until(lambda: not slurm.queue(), DEADLINE)  # the successor of the chain


def test_a_command_with_arguments_runs_in_a_job_and_goes_on(farm, slurm):
    words = ("-N", "2", "-c", "1", "-t", "10", "echo {} >>out", ":::", "a b", "it's")
    for more, left in (((), 2), (("$HOME",), 1)):
        told = json.loads(run(slurm, farm.directory, *words, *more).stdout)
        workdir = farm.directory / "mpifarm_workdir"
        Job(slurm, told["job"], workdir / f"job-{told['job']}.out").assert_ends(0)
        assert told["left"] == left
    out = (farm.directory / "out").read_text().splitlines()
    assert sorted(out) == ["$HOME", "a b", "it's"]


def test_the_printed_command_cancels_a_chain_with_all_its_links(farm, slurm):
    farm.write_list([WAITS] * 2)
    chain = submit(slurm, "-t", "10", "-c", "2", "--chain", "tasks.txt")
    wait_until(lambda: len(farm.marks("started")) == 2, DEADLINE)
    assert len(slurm.queue()) == 2
    chain.type("cancel")
    wait_until(lambda: not slurm.queue(), DEADLINE)
    farm.wait_until_gone(30)
    farm.assert_sound()
    assert farm.to_process() == [0, 1]


def test_a_job_goes_on_after_a_stop_and_without_a_node_that_goes(
    farm, slurm, take_away
):
    farm.write_list(["true"] * 4 + [WAITS] * 6)
    words = ("-N", "3", "-t", "10", "--supervise", "--until-done", "tasks.txt")
    (job,) = submit(slurm, *words, "-n", "2", "--rank-timeout", "8").jobs
    wait_until(lambda: len(farm.marks("started")) == 6, DEADLINE)
    wait_until(lambda: len(farm.finished()) == 4, DEADLINE)
    node = nodes_of(slurm, job)[-1]
    take_away(node, "DOWN")
    wait_until(lambda: "rank 2 on " in job.text(), DEADLINE)
    job.scancel("--batch", "--signal=USR1")  # as Slurm does before the limit
    job.wait_until_restarted(1)
    farm.allow()
    assert job.assert_ends(0).restarts == 1
    farm.assert_all_finished()


def test_a_job_waits_for_all_the_jobs_that_are_named_as_it_says(farm, slurm):
    farm.write_list(["true"] * 2)
    waits = slurm.submit("--wrap", "until [ -e go ]; do sleep 0.2; done")
    fails = slurm.submit("--wrap", "exit 1")
    words = ("-t", "10", "-c", "1", "--after")
    both = (waits.jobid, "--after", f"any:{fails.jobid}")
    (job,) = submit(slurm, *words, *both, "tasks.txt").jobs
    (never,) = submit(slurm, *words, fails.jobid, "tasks.txt").jobs
    fails.assert_ends(1)
    reason = "DependencyNeverSatisfied"
    wait_until(lambda: never.fields()["Reason"] == reason, DEADLINE)
    assert job.fields()["Dependency"].startswith(f"afterok:{waits.jobid}(unfulfilled)")
    assert farm.finished() == []
    farm.allow()
    job.assert_ends(0)
    farm.assert_all_finished()


def test_the_ranks_of_an_install_free_job_need_no_mpifarm_in_their_python(farm, slurm):
    python = make_bare_python(farm.directory / "bare")
    bare = [str(python), "-c", "import mpifarm"]
    imported = subprocess.run(
        bare, env={}, cwd=farm.directory, capture_output=True, check=False
    )
    assert b"No module named 'mpifarm'" in imported.stderr
    farm.write_list(['echo "${FARM_TEST_SECRET-none}"'] * 4)
    slurm.environment |= {"PYTHONPATH": str(ROOT), "FARM_TEST_SECRET": "of the login"}
    export = f"--export=PATH,SCRATCH,{TOKEN_VARIABLE}"
    words = ("-N", "2", "-c", "1", "-p", "small", "--install-free", export, "tasks.txt")
    (job,) = submit(slurm, *words, python=python).jobs
    assert job.fields()["TimeLimit"] == "00:05:00"  # the partition's own
    job.assert_ends(0)
    assert "2 ranks of 1 worker" in job.text()
    farm.assert_all_finished()
    assert farm.log(0) == "none\n"


OPENMPI = ROOT / ".venvs" / "openmpi" / "bin" / "python"


def find_lack_of_pmix(slurm):
    """Return what a farm under PMIx wants and is not here; "" if nothing is missing."""
    if not OPENMPI.exists():
        return "no environment with Open MPI"
    words = ["srun", "--mpi=pmix", "--test-only", "true"]
    ended = subprocess.run(
        words, env=slurm.environment, capture_output=True, text=True, check=False
    )
    return ended.stderr if ended.returncode else ""


def test_open_mpi_is_one_world_by_pmix_and_goes_on_when_a_rank_is_killed(farm, slurm):
    if lack := find_lack_of_pmix(slurm):
        skip_where_allowed(lack)
    slurm.environment |= {**OPENMPI_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    farm.write_list([ENDS_SOON] * 4 + [WAITS] * 4)
    words = ("-N", "2", "-c", "1", "-t", "10", "--until-done", "tasks.txt")
    submitted = submit(slurm, *words, python=OPENMPI)
    (job,) = submitted.jobs
    assert "\nmpi=pmix\n" in Path(submitted.told["script"]).read_text()
    wait_until(lambda: len(farm.marks("started")) == 2, DEADLINE)
    wait_until(lambda: len(farm.finished()) == 4, DEADLINE)
    assert "2 ranks of 1 worker" in job.text()
    farm.signal_rank(1, signal.SIGKILL)  # PMIx ends the others, with 14
    job.wait_until_restarted(1)
    assert "the job goes on as job" in job.text()
    farm.allow()
    assert job.assert_ends(0).restarts == 1
    farm.assert_all_finished()
    assert {attempt.rank for attempt in farm.attempts()} == {0, 1}


def test_what_slurm_can_never_start_is_refused_and_leaves_nothing(farm, slurm):
    farm.write_list(["true"])
    refused = {
        ("-N", "99", "-t", "5"): "-N 99 is more than the partition debug gives",
        ("-t", "5", "--gres=gpu:4"): "Slurm refused the job: sbatch: error:",
        ("-t", "5", "-c", "99"): "-c 99 is more than any node",
        ("-t", "5", "-p", "gpu"): "Slurm has no partition gpu here, only debug, small",
        ("-N", "3", "-p", "small"): "-N 3 is more than the partition small gives",
        ("-t", "1h", "-p", "small"): "-t 1:00:00 is longer than the partition small",
        (): "no time limit is known: give one, as -t 4:00:00",
    }
    for words, sentence in refused.items():
        done = run(slurm, farm.directory, *words, "tasks.txt")
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr
    assert [path.name for path in farm.directory.iterdir()] == ["tasks.txt"]
    assert slurm.queue() == []


def test_a_chain_begins_its_list_again_once_when_it_is_submitted(farm, slurm):
    farm.write_list(["true"] * 2 + [WAITS] * 2)
    farm.workdir.mkdir()
    (farm.workdir / "finished").write_text("0 true\n")
    (farm.workdir / "toprocess").write_text("1 true\n" + f"2 {WAITS}\n3 {WAITS}\n")
    words = ("--chain", "-c", "1", "-t", "10", "tasks.txt", "--again", "-n", "2")
    (job,) = submit(slurm, *words).jobs
    wait_until(lambda: len(farm.marks("started")) == 2, DEADLINE)
    wait_until(lambda: farm.finished() == [0, 1], DEADLINE)
    job.scancel("--batch", "--signal=USR1")  # as Slurm does before the limit
    job.wait()
    farm.allow()
    wait_until(lambda: len(farm.finished()) == 4, DEADLINE)
    (old,) = farm.directory.glob("tasks.txt_workdir.before-*")
    assert (old / "finished").read_text() == "0 true\n"
