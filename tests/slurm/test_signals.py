"""What scancel sends, and what becomes of a farm and its tasks.

Rules of this file: a signal is sent when every worker has a command that would run for
ever.  Whatever way the job ends: nothing is lost, nothing that the signal killed is in
``failed``, no command lives on, and the next submission finishes the list.
"""

import re

import pytest

from tests.slurm.batch import DEADLINE
from tests.slurm.conftest import ENDS_SOON, QUICK, WAITS
from tests.support import ROOT, wait_until

NODES = 4
WORKERS = 2

ENDS = "touch started.$PROC_NUMBER; while [ ! -e go ]; do sleep 0.05; done"
"""Ends when the test says go."""

TRAPS = f"trap 'exit 0' USR1 TERM; {ENDS}"
"""Ends with status 0, half done, at a signal."""


SIGNALS_TOO_EARLY = "trap '[[ $BASH_COMMAND != *=\\$!* ]] || kill -USR1 $$' DEBUG\n"
"""For ``BASH_ENV``: a script has started its srun, and hasn't kept its pid yet."""


def submit_busy(farm, slurm, line, *options):
    """A job whose workers all have a command that waits; the quick ones are done."""
    slots = NODES * WORKERS
    farm.write_list([ENDS_SOON] * QUICK + [line] * 2 * slots)
    job = slurm.submit(*options, "tasks.txt", "-n", str(WORKERS))
    busy = slots if "-N" in options else WORKERS
    wait_until(lambda: len(farm.marks("started")) >= busy, DEADLINE)
    wait_until(lambda: len(farm.finished()) == QUICK, DEADLINE)
    return job


def assert_stopped(farm, deadline=30):
    """Nothing lives on, nothing is lost, nothing that was killed is booked."""
    farm.wait_until_gone(deadline)
    farm.assert_sound()
    assert farm.failed() == []
    assert farm.finished() == list(range(QUICK))


def assert_next_submission_finishes(farm, slurm):
    farm.allow()
    slurm.submit("-N", str(NODES), "jobs/multinode.slurm", "tasks.txt").assert_ends(0)
    farm.assert_all_finished()


MULTINODE = ("-N", str(NODES), "jobs/multinode.slurm")


@pytest.mark.parametrize(
    ("full", "line"), [((), WAITS), (("--full",), TRAPS)], ids=["steps", "full"]
)
def test_usr1_to_a_job_stops_the_farm_and_the_job_ends_with_75(farm, slurm, full, line):
    job = submit_busy(farm, slurm, line, *MULTINODE)
    job.scancel(*full, "--signal=USR1")
    job.assert_ends(75)
    assert_stopped(farm)
    assert farm.to_process() == farm.all_ids()[QUICK:]
    assert_next_submission_finishes(farm, slurm)


def test_a_cancelled_job_loses_nothing(farm, slurm):
    job = submit_busy(farm, slurm, TRAPS, *MULTINODE)
    job.scancel()
    assert job.wait().state == "CANCELLED"
    assert_stopped(farm)
    assert_next_submission_finishes(farm, slurm)


def test_a_job_killed_without_notice_loses_nothing(farm, slurm):
    job = submit_busy(farm, slurm, WAITS, *MULTINODE)
    job.scancel("--signal=KILL")
    assert job.wait().state == "CANCELLED"
    assert_stopped(farm)
    assert_next_submission_finishes(farm, slurm)


@pytest.mark.parametrize("script", ["jobs/array.slurm", "jobs/backfill.slurm"])
def test_usr1_to_the_batch_shell_stops_a_farm_without_mpi(farm, slurm, script):
    job = submit_busy(farm, slurm, WAITS, "-c", "2", script)
    job.scancel("--batch", "--signal=USR1")
    job.assert_ends(75)
    assert_stopped(farm)
    assert_next_submission_finishes(farm, slurm)


def test_usr2_to_a_job_drains_the_farm(farm, slurm):
    slots = NODES * WORKERS
    farm.write_list([f"trap '' USR2; {ENDS}"] * 2 * slots)
    job = slurm.submit(*MULTINODE, "tasks.txt", "-n", str(WORKERS))
    wait_until(lambda: len(farm.marks("started")) >= slots, DEADLINE)
    job.scancel("--signal=USR2")
    wait_until(lambda: "nothing more is started" in job.text(), DEADLINE)
    farm.allow()
    job.assert_ends(75)
    assert farm.finished() == farm.marks("started")
    assert farm.failed() == []
    assert_next_submission_finishes(farm, slurm)


LAST_TRIES = {
    "requeue": "--comment=idle=3",
    "chain": "--export=ALL,FARM_CHAIN_RECORDED=0,FARM_CHAIN_IDLE=2",
}
"""Makes a job of each script the last of four that have recorded nothing."""


@pytest.mark.parametrize("name", LAST_TRIES)
def test_usr1_just_before_a_script_knows_its_srun_ends_the_job(farm, slurm, name):
    farm.write_list([WAITS] * 4)
    early = farm.directory / "signals-too-early"
    early.write_text(SIGNALS_TOO_EARLY)
    slurm.environment["BASH_ENV"] = str(early)
    options = ("-N", "2", LAST_TRIES[name])
    job = slurm.submit(*options, f"jobs/{name}.slurm", "tasks.txt", "-n", "2")
    job.assert_ends(75)
    wait_until(lambda: not slurm.queue(), DEADLINE)
    farm.wait_until_gone()
    assert farm.failed() == []
    assert farm.to_process() == farm.all_ids()


# ---- who gets what -------------------------------------------------------------------

LISTENS = """\
import os, signal, subprocess, sys, time
name, *children = sys.argv[1:]
def note(signum, frame):
    with open("heard", "a") as file:
        file.write(f"{name} {signal.Signals(signum).name[3:]}\\n")
for signum in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(signum, note)
open(f"listens.{os.getpid()}", "w").close()
for child in children:
    subprocess.Popen([sys.executable, __file__, child], start_new_session=True)
while not os.path.exists("go"):
    time.sleep(0.05)
"""

SCRIPT = """\
#!/bin/bash
for signal in USR1 TERM; do trap "echo shell $signal >> heard" $signal; done
python listener shells-child &
srun -n 1 python listener rank command &
while [ "$(jobs -r)" ]; do wait; done
"""

PLACES = ("shell", "shells-child", "rank", "command")
"""What listens; the columns of the table in the docs."""


def read_documented():
    """What each scancel reaches, by its options: ``{"--full": {"shell USR1", …}}``."""
    text = (ROOT / "docs" / "batch-systems.md").read_text()
    rows = re.findall(r"^\| `scancel (.*)JOB` \|(.*)\|$", text, re.MULTILINE)
    return {
        options.strip(): {
            f"{place} {signal.strip()}"
            for place, signal in zip(PLACES, cells.split("|"), strict=True)
            if signal.strip()
        }
        for options, cells in rows
    }


REACHED = read_documented()


def test_the_docs_tell_of_each_way_to_signal_a_job():
    ways = ("--signal=USR1", "--full --signal=USR1", "--batch --signal=USR1", "")
    assert tuple(REACHED) == ways


@pytest.mark.parametrize("options", REACHED)
def test_scancel_reaches_what_the_docs_say(farm, slurm, options):
    (farm.directory / "listener").write_text(LISTENS)
    (farm.directory / "script").write_text(SCRIPT)
    job = slurm.submit("-N", "1", "-n", "2", "script")
    wait_until(lambda: len(farm.marks("listens")) == 3, DEADLINE)
    job.scancel(*options.split())
    expected = REACHED[options]
    heard = farm.directory / "heard"
    wait_until(
        lambda: heard.exists() and set(heard.read_text().splitlines()) >= expected
    )
    farm.allow()
    job.wait()
    assert set(heard.read_text().splitlines()) == expected
