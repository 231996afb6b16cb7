"""``mpifarm supervise`` in a job: srun dies, ranks die, nodes go; the job goes on.

Rules of this file: a node is taken away as an administrator takes it, with its slurmd
killed or alive, and given back at the end of its test.  ``-K1`` has srun end when a
rank does.
"""

import signal
from pathlib import Path

import pytest

from tests.farm_driver import Part, send_signal
from tests.slurm.batch import DEADLINE
from tests.slurm.conftest import QUICK, WAITS
from tests.slurm.nodes import Daemon, nodes_of, set_state
from tests.support import wait_until

NODES = 3

SUPERVISED = (
    "exec python -m mpifarm supervise -- "
    "srun --mpi=pmi2 {} python -m mpifarm tasks.txt -n 2"
)

JOB = ("-N", str(NODES), "--ntasks-per-node=1", "--exclusive", "--no-kill")


def submit_busy(farm, slurm, *argv, ranks=NODES):
    """A job whose workers all have a command that waits; the quick ones are done."""
    farm.write_list(["true"] * QUICK + [WAITS] * 4 * ranks)
    job = slurm.submit(*argv)
    wait_until(lambda: len(farm.marks("started")) >= 2 * ranks, DEADLINE)
    wait_until(lambda: len(farm.finished()) == QUICK, DEADLINE)
    return job


@pytest.fixture
def take_away(slurm):
    """Set a node to a state in which nothing is started there; until the test's end."""
    taken = []

    def take(node, state):
        taken.append(node)
        set_state(slurm, node, state)

    yield take
    slurm.cancel_all()
    for node in taken:
        # one that is down comes back by itself when its slurmd next reports
        words = ("sinfo", "-h", "-p", "debug", "-n", node, "-o", "%t")
        if slurm.ask(*words) not in ("idle", "alloc"):
            set_state(slurm, node, "RESUME")


def test_a_farm_whose_mpi_does_not_fit_srun_is_started_once(farm, slurm):
    """Debian's Open MPI 4 needs PMIx, and ends with 1 under PMI2."""
    library = next(Path("/usr/lib").glob("*-linux-gnu/libmpi.so.40"), None)
    if library is None:
        pytest.skip("Debian's Open MPI is not installed")
    farm.write_list(["true"] * 4)
    command = f"export MPI4PY_LIBMPI={library}; {SUPERVISED.format('')}"
    job = slurm.submit(*JOB, "--wrap", command)
    job.assert_ends(1)
    assert "no farm began, so it is not started again" in job.text()
    assert job.text().count("mpifarm supervise:") == 1
    assert farm.finished() == []


def test_a_farm_goes_on_without_a_node_whose_slurmd_is_dead(
    farm, slurm, take_away, request
):
    job = submit_busy(farm, slurm, *JOB, "--wrap", SUPERVISED.format(""))
    node = nodes_of(slurm, job)[-1]
    daemon = Daemon(slurm, node)
    daemon.kill()
    request.addfinalizer(daemon.start)
    take_away(node, "DOWN")  # as Slurm itself does after SlurmdTimeout
    wait_until(lambda: "starting it again" in job.text(), DEADLINE)
    farm.allow()
    job.assert_ends(0)
    assert f"starting it again at once, without {node}\n" in job.text()
    assert "2 ranks of 2 workers" in job.text()
    farm.assert_all_finished()


def test_a_farm_goes_on_without_a_node_that_has_gone_down(farm, slurm, take_away):
    job = submit_busy(farm, slurm, *JOB, "--wrap", SUPERVISED.format("-N 3 -n 3"))
    node = nodes_of(slurm, job)[-1]
    take_away(node, "DOWN")
    wait_until(lambda: "starting it again" in job.text(), DEADLINE)
    farm.allow()
    job.assert_ends(0)
    assert f"starting it again at once, without {node}\n" in job.text()
    assert "2 ranks of 2 workers" in job.text()
    farm.assert_all_finished()
    farm.wait_until_gone()


def test_a_farm_that_loses_a_rank_goes_on_without_a_node_that_is_drained(
    farm, slurm, take_away
):
    job = submit_busy(farm, slurm, *JOB, "--wrap", SUPERVISED.format("-K1 -N 3"))
    node = nodes_of(slurm, job)[1]
    take_away(node, "DRAIN")
    farm.signal_rank(2, signal.SIGKILL)
    wait_until(lambda: "starting it again" in job.text(), DEADLINE)
    farm.allow()
    job.assert_ends(0)
    assert f"starting it again at once, without {node}\n" in job.text()
    assert "2 ranks of 2 workers" in job.text()
    farm.assert_all_finished()


def name_of(pid):
    """That of the program."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_farm_whose_srun_is_killed_goes_on_in_the_same_job(farm, slurm):
    job = submit_busy(farm, slurm, *JOB, "--wrap", SUPERVISED.format(""))
    # srun is two processes
    sruns = [pid for pid in farm.pids(Part.LAUNCHER) if name_of(pid) == "srun"]
    send_signal(sruns, signal.SIGKILL)
    wait_until(
        lambda: "ending steps that the last srun has left" in job.text(), DEADLINE
    )
    farm.allow()
    job.assert_ends(0)
    farm.assert_all_finished()


def test_the_signal_before_the_time_limit_stops_the_farm_and_the_job(farm, slurm):
    script = ("-N", str(NODES), "jobs/supervised.slurm", "tasks.txt", "-n", "2")
    job = submit_busy(farm, slurm, *script)
    job.scancel("--batch", "--signal=USR1")
    job.assert_ends(75)
    assert "SIGUSR1 was received" in job.text()
    farm.wait_until_gone()
    assert farm.to_process() == farm.all_ids()[QUICK:]
    farm.assert_sound()
