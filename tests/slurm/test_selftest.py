"""The self-test between two nodes of a Slurm, as pages start it, and the doctor."""

import json

import pytest

from tests.pages import take_block
from tests.patience import PATIENT
from tests.slurm.conftest import create_slurm

HOLDS = "All that mpifarm promises holds here."


@pytest.fixture
def named_slurm(named_conf, farm_environment, farm):
    site = farm.directory.with_name("site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(PATIENT)
    path = f"{site}:{farm_environment.get('PYTHONPATH', '')}".rstrip(":")
    environment = {**farm_environment, "PYTHONPATH": path}
    slurm = create_slurm(named_conf, environment, farm.directory)
    yield slurm
    slurm.cancel_all()


@pytest.mark.parametrize(
    ("block", "before"),
    [
        (take_block("file-systems.md", "mpifarm selftest"), HOLDS),
        (
            take_block("site-staff.md", "mpifarm doctor"),
            "good  batch system: Slurm job",
        ),
    ],
    ids=["file systems", "site staff"],
)
def test_all_holds_between_two_nodes_and_a_signal_to_the_step_reaches_all_ranks(
    named_slurm, block, before
):
    typed = block.text().replace("/scratch/me", ".")
    argv = ("-N", "2", "--ntasks-per-node=2", "--exclusive", "--wrap", typed)
    job = named_slurm.submit(*argv)
    ended = job.wait()
    text = job.text()
    assert ended.status == 0, text
    on_one_node, by_srun, ranks = text.partition("4 ranks by srun (--mpi=pmi2)")
    assert before in on_one_node
    assert by_srun, text
    assert "4 on 2 hosts" in ranks
    assert "USR1 to the launcher or the step reaches all ranks: by scancel" in ranks
    assert ranks.count("flock between this process and rank") == 1
    assert ranks.splitlines()[-1] == HOLDS


DOCTOR = """
srun --mpi=pmi2 -n 2 python -m mpifarm doctor --json . >fitting
srun --mpi=none -n 2 python -m mpifarm doctor --json . >other
exit 0
"""


def test_the_doctor_in_a_step_tells_its_launch_and_the_end_of_the_job(slurm):
    job = slurm.submit("-N", "1", "-n", "2", "--time=5", "--wrap", DOCTOR)
    job.assert_ends(0)

    def read(name):
        told = json.loads((slurm.directory / name).read_text())
        return {each["name"]: each for each in told["findings"]}, told["bad"]

    found, bad = read("fitting")
    launch = found["this launch"]
    assert launch["seen"] == "started by srun (--mpi=pmi2), 2 processes"
    assert found["srun"]["verdict"] == launch["verdict"] == "good"
    assert found["srun"]["remedy"].startswith("srun --mpi=pmi2 -N 2 python -m mpifarm")
    end = found["batch system"]
    assert end["verdict"] == "good"
    assert end["seen"].startswith(f"Slurm job {job.jobid}; the job ends at ")
    assert found["lock"]["verdict"] == found["fsync"]["verdict"] == "good"
    assert "this launch" not in bad
    found, bad = read("other")
    launch = found["this launch"]
    assert launch["seen"].endswith("2 processes, not for MPICH")
    assert launch["remedy"].endswith("or by srun --mpi=pmi2")
    assert "this launch" in bad
