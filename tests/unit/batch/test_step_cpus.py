"""Tasks with an srun that would wait for the farm's own CPUs.

Rules of this file: the variables are those that srun 22.05 was seen to set.
"""

import pytest

from mpifarm.batch.step_cpus import holds_all_cpus, is_overlapping, waits_for_cpus

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_CPUS_ON_NODE": "4",
}


@pytest.mark.parametrize("cpus", ["4", "4(x2)", "4(x2),8", "4,8(x3)"])
def test_a_step_on_all_nodes_with_all_cpus_holds_them(cpus):
    assert holds_all_cpus({**STEP, "SLURM_JOB_CPUS_PER_NODE": cpus})


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_CPUS_ON_NODE": "2"},
        {"SLURM_STEP_NUM_NODES": "1"},
        {"SLURM_STEP_ID": ""},
        {"SLURM_STEP_ID": "4294967290"},
        {"SLURM_JOB_CPUS_PER_NODE": ""},
        {"SLURM_OVERLAP": "1"},
        {"HYDI_CONTROL_FD": "8"},
        {"PRTE_LAUNCHED": "1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_where_cpus_or_nodes_are_free_or_nothing_is_sure_none_are_held(change):
    assert not holds_all_cpus({**STEP, **change})


def test_a_batch_script_and_a_login_node_hold_none():
    assert not holds_all_cpus({})
    script = {name: STEP[name] for name in STEP if "STEP" not in name}
    assert not holds_all_cpus(script)


def test_a_farm_that_overlaps_is_known_by_its_srun():
    words = ["python", "-m", "mpifarm", "tasks.txt"]
    overlapping = ["srun", "--overlap", "-N", "2", *words]
    assert is_overlapping([["srun", "true"], overlapping], words)
    assert not is_overlapping([["srun", "-N", "2", *words]], words)
    assert not is_overlapping([], words)


@pytest.mark.parametrize(
    "line",
    [
        "srun -n2 ./solve 1",
        "srun ./solve",
        "/usr/bin/srun --mpi=pmi2 -n 2 ./solve $PROC_NUMBER",
        "srun --exact -n1 -c1 ./solve --overlap",
        "srun --exclusive -N1 ./solve",
        "srun -w $SLURMD_NODENAME ./solve",
        "env OMP_NUM_THREADS=2 srun ./solve",
        "timeout -k 5 10m nice -n 5 /usr/bin/srun -n2 ./solve",
        *(f"{wrapper} srun ./solve" for wrapper in ("sudo", "time", "exec", "numactl")),
    ],
)
def test_an_srun_without_overlap_waits(line):
    assert waits_for_cpus(line.split())


@pytest.mark.parametrize(
    "line",
    [
        *("srun --overlap -n2 ./solve 1", "srun -n 2 --overlap ./solve", "srun"),
        *("srun --jobid=8 ./solve", "srun -s -n2 ./solve", "srun $OPTIONS ./solve"),
        *("srun --version", "./srun.sh 1", "echo srun -n2 ./solve", ""),
        *("srun --share ./solve", "srun --oversubscribe ./solve", "env srun -s ./x"),
    ],
)
def test_one_that_overlaps_or_may_do_so_does_not(line):
    assert not waits_for_cpus(line.split())


@pytest.mark.parametrize("name", [*STEP])
def test_without_one_of_its_variables_no_step_holds_cpus(name):
    known = {each: value for each, value in STEP.items() if each != name}
    assert holds_all_cpus(known) is (name == "SLURM_JOB_ID")
