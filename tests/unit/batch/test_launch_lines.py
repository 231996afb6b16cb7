"""The command line that starts one farm, corrected or made anew.

Rules of this file: lines are what a user can paste into a shell, so that is how they
are compared.
"""

import shlex

import pytest

from mpifarm.batch.launch_lines import (
    PMI_OF,
    JobNodes,
    correct_mpirun,
    correct_srun,
    count_nodes,
    describe_idle_nodes,
    find_farm_words,
    line_over_all_nodes,
    starts_programs_elsewhere,
)
from mpifarm.batch.slurm import set_option

WORDS = ["python", "-m", "mpifarm", "my tasks.txt", "-n", "1"]
STEP = {"SLURM_STEP_NUM_NODES": "8", "SLURM_STEP_NUM_TASKS": "8"}

# ---- srun with another --mpi ---------------------------------------------------------


def test_the_words_of_a_script_are_without_its_interpreter():
    assert find_farm_words(["/v/bin/python3", "/v/bin/mpifarm", "t"]) == [
        "/v/bin/mpifarm",
        "t",
    ]
    assert find_farm_words(WORDS) == WORDS


def test_a_line_is_made_of_what_the_step_says():
    line = correct_srun(STEP, "pmi2", WORDS, [])
    assert line == "srun --mpi=pmi2 -N 8 python -m mpifarm 'my tasks.txt' -n 1"
    assert shlex.split(line)[4:] == WORDS


def test_more_ranks_than_nodes_are_in_the_line():
    step = {**STEP, "SLURM_STEP_NUM_TASKS": "16"}
    assert correct_srun(step, "pmix", WORDS, []).startswith(
        "srun --mpi=pmix -N 8 -n 16 python"
    )


def test_the_line_of_a_farm_that_is_supervised_is_supervised_too():
    step = {**STEP, "MPIFARM_LAUNCH": "17793fa0"}
    words = shlex.join(WORDS)
    running = [shlex.split(f"srun --job-name=mpifarm-17793fa0 -n3 {words}")]
    line = f"mpifarm supervise -- srun --mpi=pmi2 -n3 {words}"
    assert correct_srun(step, "pmi2", WORDS, running) == line
    line = f"mpifarm supervise -- srun --mpi=pmi2 -N 8 {words}"
    assert correct_srun(step, "pmi2", WORDS, []) == line


@pytest.mark.parametrize(
    ("typed", "corrected"),
    [
        ("srun -N 8 {}", "srun --mpi=pmi2 -N 8 {}"),
        ("srun --mpi=none -N 8 {}", "srun --mpi=pmi2 -N 8 {}"),
        ("srun -N 8 --mpi pmix -K0 {}", "srun --mpi=pmi2 -N 8 -K0 {}"),
        ("/opt/bin/srun -c 4 --label {}", "srun --mpi=pmi2 -c 4 --label {}"),
        ("srun -N8 -- {}", "srun --mpi=pmi2 -N8 -- {}"),
    ],
)
def test_the_users_own_line_is_corrected_where_it_is_known(typed, corrected):
    words = shlex.join(WORDS)
    running = [shlex.split(typed.format(words))]
    assert correct_srun(STEP, "pmi2", WORDS, running) == corrected.format(words)


@pytest.mark.parametrize(
    "running",
    [
        [["srun", "-N", "2", "python", "-m", "mpifarm", "another.txt", "-n", "1"]],
        [["srun", "-N", "2", *WORDS], ["srun", "-N", "3", *WORDS]],
        [["srun", "hostname"], ["srun"], []],
        [["srun", "-N", "2", "bash", "-c", shlex.join(WORDS)]],
    ],
    ids=["another list", "two", "others", "a shell"],
)
def test_a_line_that_may_be_anothers_is_not_taken(running):
    assert correct_srun(STEP, "pmi2", WORDS, running).startswith(
        "srun --mpi=pmi2 -N 8 python"
    )


def test_srun_is_two_processes_with_one_line():
    line = ["srun", "-N", "8", "--mpi=none", *WORDS]
    assert "--mpi=pmi2 -N 8" in correct_srun(STEP, "pmi2", WORDS, [line, line])


def test_the_interpreter_may_be_named_otherwise_in_the_line():
    """A launcher may have put the path in its place."""
    line = ["srun", "-c", "3", *WORDS]
    own = ["/usr/bin/python3", *WORDS[1:]]
    assert "-c 3 python -m" in correct_srun(STEP, "pmi2", own, [line])


def test_an_option_is_set_once():
    words = ["srun", "--mpi=a", "-N", "2", "--mpi", "b", "x", "--mpi=c"]
    wanted = ["srun", "--mpi=z", "-N", "2", "x", "--mpi=c"]
    assert set_option(words, "mpi", "z") == wanted
    assert set_option(["x"], "mpi", "z") == ["x"]


def test_each_mpi_library_wants_its_own_plugin():
    assert {
        **dict.fromkeys(("MPICH", "Intel MPI", "MVAPICH"), "pmi2"),
        "Open MPI": "pmix",
    } == PMI_OF


# ---- nodes without a rank ------------------------------------------------------------

SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4"}
LSF = {"LSB_JOBID": "7", "LSB_MCPU_HOSTS": "n1 4 n2 4 n3 2"}


@pytest.mark.parametrize(
    ("environ", "ranks", "hosts", "nodes"),
    [
        (SLURM, 1, [], (4, 1)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "2"}, 2, [], (4, 2)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "4"}, 1, [], (4, 4)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "3", "PRTE_LAUNCHED": "1"}, 4, [], (4, 4)),
        ({**SLURM, "SLURM_STEP_NUM_NODES": "1", "HYDI_CONTROL_FD": "8"}, 2, [], (4, 2)),
        (SLURM, 16, [], (4, 4)),
        (LSF, 1, [], (3, 1)),
        ({"NHOSTS": "2"}, 1, [], (2, 1)),
        ({"PBS_JOBID": "7"}, 1, ["n1\n", "n1\n", "n2\n", "\n"], (2, 1)),
    ],
)
def test_the_nodes_of_the_job_and_of_the_farm_are_counted(environ, ranks, hosts, nodes):
    assert count_nodes(environ, ranks, hosts) == nodes


@pytest.mark.parametrize("environ", [{}, {"SLURM_JOB_NUM_NODES": "four"}])
def test_where_no_job_says_its_nodes_none_are_counted(environ):
    assert count_nodes(environ, 1) is None


def test_a_farm_on_all_nodes_gets_no_word():
    assert describe_idle_nodes(JobNodes(4, 4), "x") == ""
    assert describe_idle_nodes(JobNodes(1, 1), "x") == ""


def test_nodes_that_idle_are_told_with_the_line():
    warning = describe_idle_nodes(JobNodes(4, 3), "srun -N 4 x")
    assert warning.startswith("WARNING: the job has 4 nodes, and this farm runs on 3;")
    assert "unless you keep the others for something else" in warning
    assert warning.endswith("start it with srun -N 4 x")


@pytest.mark.parametrize(
    ("environ", "vendor", "begins"),
    [
        (SLURM, "MPICH", "srun --mpi=pmi2 -N 4 -n 4 --cpu-bind=none -K0 python"),
        (SLURM, "Open MPI", "srun --mpi=pmix -N 4 -n 4 --cpu-bind=none -K0 python"),
        (SLURM, "", "srun --mpi=pmi2 -N 4 -n 4 --cpu-bind=none -K0 python"),
        (LSF, "MPICH", "mpirun -n 4 -ppn 1 python"),
        (LSF, "Open MPI", "mpirun -n 4 --map-by ppr:1:node --bind-to none python"),
        ({}, "", "mpirun -n 4 python"),
        ({}, "Intel MPI", "mpirun -n 4 python"),
    ],
)
def test_the_line_starts_one_rank_on_each_node(environ, vendor, begins):
    assert line_over_all_nodes(environ, 4, vendor, WORDS).startswith(begins)


@pytest.mark.parametrize("option", [["--mpi", "off"], ["--mpi=off"]])
def test_a_line_over_all_nodes_has_no_option_that_splits_the_farm(option):
    words = ["mpifarm", "-n", "4", *option, "tasks.txt"]
    line = line_over_all_nodes(SLURM, 4, "MPICH", words)
    assert line.endswith(" -K0 mpifarm -n 4 tasks.txt")
    assert "--mpi auto off" in line_over_all_nodes({}, 4, "", ["--mpi", "auto", "off"])


@pytest.mark.parametrize(
    "command",
    [
        "srun --overlap -N 2 ./x",
        "cd a && mpirun -n 8 ./x",
        "/opt/mpi/bin/mpiexec ./x",
        'ssh "$host" make',
        "OMP_NUM_THREADS=2 mpiexec.hydra ./x",
        "(mpirun ./x)",
        *("mpirun.openmpi -n 2 ./x", "/usr/bin/mpirun.mpich ./x", "$MPIRUN ./x"),
        *("prterun -n 2 ./x", "flux run -N 2 ./x", "blaunch n2 ./x", "sbatch job"),
    ],
)
def test_a_task_that_starts_programs_elsewhere_is_seen(command):
    assert starts_programs_elsewhere(["true", command])


@pytest.mark.parametrize("command", ["./run x", "./mpirunner", "prune x", ""])
def test_an_ordinary_task_does_not_start_programs_elsewhere(command):
    assert not starts_programs_elsewhere([command])


def test_a_job_of_slurm_under_mpirun_gets_a_line_of_mpirun():
    line = line_over_all_nodes({**SLURM, "PRTE_LAUNCHED": "1"}, 4, "Open MPI", WORDS)
    assert line.startswith("mpirun -n 4 --map-by ppr:1:node")


def test_the_mpiexec_beside_this_python_is_named_where_there_is_one(tmp_path):
    assert correct_mpirun(str(tmp_path), 4, WORDS) == ""
    program = tmp_path / "bin" / "mpiexec"
    program.parent.mkdir()
    program.touch(mode=0o755)
    line = correct_mpirun(str(tmp_path), 4, WORDS)
    assert shlex.split(line) == [str(program), "-n", "4", *WORDS]


@pytest.mark.parametrize(
    ("original", "words"),
    [
        ([], []),
        (["mpifarm"], ["mpifarm"]),
        (["python", "/bin/mpifarm", "t"], ["/bin/mpifarm", "t"]),
        (["python", "-m", "mpifarm"], ["python", "-m", "mpifarm"]),
        (["python", "x/mpifarm.py"], ["python", "x/mpifarm.py"]),
    ],
)
def test_the_words_of_a_farm_begin_with_what_the_user_typed(original, words):
    assert find_farm_words(original) == words
