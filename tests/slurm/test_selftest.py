"""The self-test between two nodes of a Slurm, as the page on file systems starts it."""

import pytest

from tests.slurm.conftest import create_slurm

SRUN = "srun --mpi=pmi2 python -m mpifarm selftest --mpi ."


@pytest.fixture
def named_slurm(named_conf, farm_environment, farm):
    slurm = create_slurm(named_conf, farm_environment, farm.directory)
    yield slurm
    slurm.cancel_all()


def test_all_holds_between_two_nodes_and_a_signal_to_the_step_reaches_all_ranks(
    named_slurm,
):
    argv = ("-N", "2", "--ntasks-per-node=2", "--exclusive", "--wrap", SRUN)
    job = named_slurm.submit(*argv)
    ended = job.wait()
    text = job.text()
    assert ended.status == 0, text
    assert "4 ranks by srun (--mpi=pmi2)" in text
    assert "4 on 2 hosts" in text
    assert "USR1 to the launcher or the step reaches all ranks: by scancel" in text
    assert text.count("flock between this process and rank") == 1
    assert text.splitlines()[-1] == "All that mpifarm promises holds here."
