"""A task that hangs on one of eight nodes is named by one command.

Rules of this file: the nodes have host names of their own; the command runs outside of
the job, as on a login node.
"""

import json
import os
import sys
import time

import pytest

from tests.farm_driver import MPIFARM
from tests.slurm.batch import DEADLINE
from tests.slurm.conftest import create_slurm
from tests.support import wait_until

pytestmark = pytest.mark.timeout(300)

NODES = 8

MEETS = (
    "touch started.$PROC_NUMBER; "
    f"until [ $(ls started.* | wc -l) -ge {NODES} ]; do sleep 0.1; done"
)
"""Ends when each node has begun one."""

HANGS = 'echo "$(uname -n) $(date +%s)" > hangs; [ -e go ] || sleep 1000; true'

HANGING = 2 * NODES
"""The id of the task that hangs."""


@pytest.fixture
def named_slurm(named_conf, farm_environment, farm):
    slurm = create_slurm(named_conf, farm_environment, farm.directory)
    yield slurm
    slurm.cancel_all()


def test_a_task_that_hangs_on_one_of_eight_nodes_is_named_with_its_node_and_age(
    farm, named_slurm
):
    farm.write_list([MEETS] * 2 * NODES + [HANGS] + ["true"] * NODES)
    job = named_slurm.submit(
        *("-N", str(NODES), "--ntasks-per-node=1", "--exclusive", "--wrap"),
        f"srun --mpi=pmi2 {sys.executable} -m mpifarm tasks.txt -n 1 -v",
    )
    (line,) = farm.await_notes("hangs", 1, DEADLINE)
    node, begun = line.split()

    def find_row():
        child = farm.start_command([*MPIFARM, "status", "tasks.txt"])
        assert child.wait(60) == 0, child.text()
        behind = child.text().partition("running longest:\n")[2]
        rows = behind.partition("\n\n")[0].splitlines()[1:]
        is_known = rows and rows[0].split()[0] == str(HANGING)
        return (rows[0], child.text()) if is_known else None

    row, text = wait_until(find_row, DEADLINE)
    assert f" {node} " in row, f"{row!r}, not on {node}:\n{text}"
    assert 'echo "$(uname -n) $(date +%s)" > hangs' in row
    assert f"(slurm job {job.jobid}): n[1-8] × 1 worker, working, began at" in text

    child = farm.start_command([*MPIFARM, "status", "tasks.txt", "--json"])
    assert child.wait(60) == 0, child.text()
    (task, *_) = json.loads(child.text())["running"]
    assert (task["id"], task["host"]) == (HANGING, node)
    assert abs(task["started"] - int(begun)) < 20
    assert task["seconds"] == pytest.approx(time.time() - int(begun), abs=20)

    os.close(os.open(farm.directory / "go", os.O_CREAT))
    job.scancel()
