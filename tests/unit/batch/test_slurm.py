"""The options of srun, and the states of nodes by sinfo.

Rules of this file: a command line is written as a user types it, and split at blanks.
"""

import pytest

from mpifarm.batch.slurm import (
    HOSTNAMES,
    SCANCEL,
    SINFO,
    SQUEUE,
    STEPS,
    exclude_nodes,
    find_srun,
    name_step,
    node_of_host,
    parse_states,
    parse_steps,
    without_missing,
)

JOB = {"SLURM_JOB_NUM_NODES": "8", "SLURM_NTASKS": "8"}
"""What a job of eight nodes with one rank on each has in its environment."""

FARM = "python -m mpifarm tasks.txt -n 4"


def excluded(line, *nodes, job_nodes=8, environ=JOB):
    words = exclude_nodes(line.split(), nodes or ("n3",), job_nodes, environ)
    return " ".join(words)


# ---- what sinfo says -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "gone", "suspect"),
    [
        ("idle", False, False),
        ("alloc", False, False),
        ("mix", False, False),
        ("comp", False, False),
        ("down", True, False),
        ("down*", True, False),
        ("alloc*", True, False),
        ("fail", True, False),
        ("boot", True, False),
        ("drain", False, True),
        ("drng", False, True),
        ("drng*", True, False),
        ("failg", False, True),
        ("maint", False, True),
    ],
)
def test_a_state_tells_what_can_be_expected_of_a_node(state, gone, suspect):
    states = parse_states(f"n1 idle\nn2 {state}\n")
    assert states.known == ("n1", "n2")
    assert states.gone == ({"n2"} if gone else set())
    assert states.suspect == ({"n2"} if suspect else set())


def test_a_node_of_two_partitions_is_one_node():
    assert parse_states("n1 idle\nn1 idle\n").known == ("n1",)


@pytest.mark.parametrize("text", ["", "\n", "sinfo: error: no such node\n", "n1\n"])
def test_what_is_no_state_is_passed_over(text):
    assert parse_states(text).known == ()


def test_a_node_that_the_job_has_no_more_is_gone_whatever_its_state():
    states = parse_states("n1 alloc\nn2 idle\nn3 drng\n")
    assert without_missing(states, ["n1", "n3"]).gone == {"n2"}
    assert without_missing(states, ["n1"]).gone == {"n2", "n3"}
    assert without_missing(states, ["n1"]).suspect == set()


def test_where_slurm_does_not_say_what_nodes_a_job_has_it_has_all():
    states = parse_states("n1 alloc\nn2 idle\n")
    assert without_missing(states, []) == states


@pytest.mark.parametrize("host", ["n3", "n3.cluster.example"])
def test_a_node_is_known_by_the_first_part_of_its_host_name(host):
    assert node_of_host(host, ("n1", "n3")) == "n3"


def test_a_host_that_is_no_node_of_the_job_is_none():
    assert node_of_host("login1", ("n1", "n3")) is None


# ---- srun's words --------------------------------------------------------------------


@pytest.mark.parametrize("line", ["srun -N 8 x", "/usr/bin/srun x", "time srun x"])
def test_srun_is_found(line):
    place = find_srun(line.split())
    assert place is not None
    assert line.split()[place].endswith("srun")


def test_a_command_without_srun_stays_as_it_is():
    line = f"mpirun -n 8 {FARM}"
    assert excluded(line) == line


def test_a_command_stays_as_it_is_when_no_node_is_excluded():
    words = f"srun -N 8 {FARM}".split()
    assert exclude_nodes(words, (), 8, JOB) == words


def test_a_step_over_the_whole_job_gets_what_is_left_of_it():
    begun = "srun --exclude=n3 --nodes=7 --ntasks=7"
    assert excluded(f"srun {FARM}") == f"{begun} {FARM}"


@pytest.mark.parametrize("said", ["-N 8", "-N8", "--nodes=8", "--nodes 8", "-N 8-8"])
def test_a_number_of_nodes_is_lowered_wherever_it_stands(said):
    line = excluded(f"srun --mpi=pmi2 {said} -K0 {FARM}", environ={})
    assert line == f"srun --exclude=n3 --nodes=7 --mpi=pmi2 -K0 {FARM}"


@pytest.mark.parametrize("said", ["-n 16", "-n16", "--ntasks=16", "--ntasks 16"])
def test_a_number_of_ranks_is_lowered_with_the_nodes(said):
    line = excluded(f"srun -N 8 {said} {FARM}")
    assert line == f"srun --exclude=n3 --nodes=7 --ntasks=14 {FARM}"


def test_the_farms_own_options_are_not_sruns():
    assert excluded(f"srun -N 8 nice -n 5 {FARM}").endswith(f" nice -n 5 {FARM}")


@pytest.mark.parametrize(
    "options",
    [
        "-l -u -N 8",
        "-lu -N 8",
        "-lN8",
        "--exclusive --label -N 8",
        "-c 4 -N 8",
        "--cpus-per-task 4 -N 8",
        "--cpu-bind=none -K0 -N 8",
        "-K -N 8",
    ],
)
def test_a_number_of_nodes_is_found_among_other_options(options):
    line = excluded(f"srun {options} {FARM}", environ={})
    assert line.count("8") == 0
    assert "--nodes=7" in line
    assert line.endswith(f" {FARM}")


def test_a_step_over_a_part_of_the_job_keeps_its_size():
    line = excluded(f"srun -N 4 -n 4 {FARM}")
    assert line == f"srun --exclude=n3 --nodes=4 -n 4 {FARM}"


def test_a_range_of_nodes_ends_at_what_is_left():
    assert "--nodes=2-7" in excluded(f"srun -N 2-8 {FARM}")


def test_each_node_that_is_left_keeps_a_rank():
    line = excluded(f"srun -N 8 -n 3 {FARM}", environ={})
    assert line == f"srun --exclude=n3 --nodes=7 --ntasks=7 {FARM}"


def test_slurm_is_asked_by_the_commands_whose_answers_are_understood():
    assert " ".join(SINFO) == "sinfo --noheader --Node --format=%N %t"
    assert " ".join(SQUEUE) == "squeue --noheader --format=%N"
    assert " ".join(STEPS) == "squeue --steps --noheader --format=%i %j"
    assert " ".join(HOSTNAMES) == "scontrol show hostnames"
    assert SCANCEL == ("scancel",)


def test_ranks_on_each_node_stay_as_many():
    line = excluded(f"srun -N 8 --ntasks-per-node=2 {FARM}", environ={})
    assert line == f"srun --exclude=n3 --nodes=7 --ntasks-per-node=2 {FARM}"


def test_nodes_that_the_user_excludes_stay_excluded():
    assert "--exclude=n1,n3 " in excluded(f"srun -x n1 {FARM}")


def test_nodes_that_the_user_names_are_left_to_the_user():
    line = f"srun -w n[1-4] {FARM}"
    assert excluded(line) == line


def test_several_nodes_are_excluded_together():
    line = excluded(f"srun -N 8 {FARM}", "n3", "n5")
    assert line.startswith("srun --exclude=n3,n5 --nodes=6 --ntasks=6 ")


def test_outside_a_job_srun_finds_other_nodes_by_itself():
    line = excluded(f"srun -N 8 {FARM}", job_nodes=0, environ={})
    assert line == f"srun --exclude=n3 -N 8 {FARM}"


# ---- steps ---------------------------------------------------------------------------


def test_a_step_is_found_by_its_name():
    text = "7.0 mpifarm-1a\n7.1 python\n7.2 mpifarm-1a\n7.batch batch\n\n7.3\n"
    assert parse_steps(text, "mpifarm-1a") == ["7.0", "7.2"]
    assert parse_steps("", "mpifarm-1a") == []


def test_a_step_gets_a_name():
    words = name_step(f"srun -N 8 {FARM}".split(), "a")
    assert " ".join(words) == f"srun --job-name=a -N 8 {FARM}"


@pytest.mark.parametrize(
    "line", ["srun -J b x", "srun -N 8 --job-name=b x", "mpirun x"]
)
def test_a_step_keeps_the_name_that_the_user_gave(line):
    assert name_step(line.split(), "a") == line.split()
