"""``mpifarm.run`` in a job of the real Slurm: which nodes it farms, and a cancel.

Rules of this file: the script runs once, in the batch script or by salloc, and starts
the ranks itself; each task says on which node it runs.
"""

from tests.slurm.batch import DEADLINE
from tests.slurm.nodes import nodes_of
from tests.support import wait_until

NODES = 3

MEETS = (
    "echo $SLURMD_NODENAME; touch started.$PROC_NUMBER;"
    f" until [ -e go ] && [ $(ls started.* | wc -l) -ge {NODES} ]; do sleep 0.1; done"
)
"""Ends when each rank has one, and the test says go."""

SCRIPT = f"""\
import sys
import mpifarm

commands = [{MEETS!r}] * {NODES}
results = mpifarm.run(commands, workdir="meets", proc=1, launcher=sys.argv[1:] or None)
nodes = sorted(results.read_output(a.taskid).strip() for a in results.completed)
print("nodes:", *nodes)
print("ranks:", *sorted(a.rank for a in results.completed))
print("left:", *results.left)
"""

COMMAND = ("python", "script.py")

LAUNCHER = ("srun", "--mpi=pmi2", "-N", str(NODES))

JOB = ("-N", str(NODES), "--ntasks-per-node=1", "--exclusive")


def test_a_script_farms_all_nodes_of_its_job_and_goes_on_after_a_cancel(farm, slurm):
    (farm.directory / "script.py").write_text(SCRIPT)
    command = (*COMMAND, *LAUNCHER)
    job = slurm.submit(*JOB, "--wrap", " ".join(command))
    wait_until(lambda: len(farm.marks("started")) == NODES, DEADLINE)
    nodes = nodes_of(slurm, job)
    job.scancel()
    assert job.wait().state == "CANCELLED"
    farm.wait_until_gone(30)
    farm.allow()
    where = f"--nodelist={','.join(nodes)}"
    printed = slurm.ask("salloc", "--quiet", *JOB, where, *command)
    ranks = range(NODES)
    assert f"nodes: {' '.join(sorted(nodes))}\n" in printed
    assert f"ranks: {' '.join(map(str, ranks))}\nleft:" in printed
    slurm.ask("python", "-m", "mpifarm", "check", "meets")


def test_a_script_without_a_launcher_farms_one_node_and_says_so(farm, slurm):
    (farm.directory / "script.py").write_text(SCRIPT)
    for task in range(NODES):  # they need not meet
        (farm.directory / f"started.{task}").touch()
    farm.allow()
    job = slurm.submit(*JOB, "--wrap", " ".join(COMMAND))
    job.assert_ends(0)
    node = nodes_of(slurm, job)[0]
    assert f"nodes: {node} {node} {node}\n" in job.text()
    assert f"the job has {NODES} nodes" in job.text()
