"""From wishes to a request: which program is asked, what is chosen, what is refused."""

from dataclasses import replace

import pytest

from mpifarm.errors import InputError
from mpifarm.submit.planning import (
    Python,
    Wishes,
    check_wishes,
    find_scheduler,
    plan,
    take_variables,
)
from mpifarm.submit.request import After, GoingOn, Launcher
from mpifarm.submit.systems import SYSTEMS
from tests.unit.submit.test_choosing import ENVIRONMENT, LIST_20, LIST_22, SHOWN

PYTHON = Python(("/opt/venv/bin/python",), "/opt/venv/bin")
OF_SLURM = {"sbatch", "srun", "scontrol", "sinfo"}


class Cluster:
    """Programs that answer as they are told to; `asked` are the questions."""

    def __init__(self, here=OF_SLURM, vendor="MPICH", **answers):
        self.here = {*here}
        self.vendor = vendor
        self.answers = {
            "srun --mpi=list": LIST_22,
            "scontrol --all --oneliner show partition": SHOWN,
            "scontrol show config": "JobRequeue = 1\n",
            "sinfo --noheader --exact --partition=debug --format=%c": "64\n",
            **answers,
        }
        self.asked = []

    def find(self, names):
        return self.here & {*names}

    def ask(self, *words):
        self.asked.append(" ".join(words))
        return self.answers.get(" ".join(words), "")

    def ask_errors(self, *words):
        return self.ask(*words)

    def ask_python(self, program):
        self.asked.append("python")
        return self.vendor


def planned(cluster=None, scheduler="slurm", grace=2.0, **wishes):
    whole = replace(Wishes(seconds=3600), **wishes)
    cluster = cluster or Cluster()
    check_wishes(whole)
    return plan(whole, scheduler, grace, cluster, PYTHON, identity="1a2b3c")


def refused(**more):
    with pytest.raises(InputError) as error:
        planned(**more)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


# ---- Slurm ---------------------------------------------------------------------------


def test_several_nodes_are_farmed_by_srun():
    request = planned(nodes=3)
    assert request.launcher is Launcher.SRUN
    assert (request.nodes, request.pmi, request.cpus) == (3, "pmi2", None)
    assert request.python == PYTHON.words


def test_one_node_needs_no_mpi():
    cluster = Cluster(vendor="")
    request = planned(cluster)
    assert request.launcher is Launcher.NONE
    assert "python" not in cluster.asked
    assert request.cpus is None


def test_open_mpi_is_started_by_pmix():
    assert planned(Cluster(vendor="Open MPI"), nodes=2).pmi == "pmix"


CAN_T_LOAD = """\
srun: error:  mpi/pmix_v4: init: (null) [0]: pmi/pmix: can not load PMIx library
srun: error: MPI: Unable to load any plugin
srun: error: Invalid MPI type 'pmix', --mpi=list for acceptable types
"""


def test_a_plugin_that_srun_names_and_can_t_load_is_refused():
    test = {"srun --mpi=pmix --test-only true": CAN_T_LOAD}
    without = Cluster(vendor="Open MPI", **test)
    sentence = refused(cluster=without, nodes=2)
    assert "srun can't load that here (mpi/pmix_v4: init: (null) [0]:" in sentence
    assert "pip install 'mpifarm[mpich]'" in sentence
    assert planned(without, nodes=2, is_print=True).pmi == "pmix"
    assert planned(without, nodes=1).pmi == ""
    other = {"srun --mpi=pmix --test-only true": "srun: error: no account is given"}
    assert planned(Cluster(vendor="Open MPI", **other), nodes=2).pmi == "pmix"


def test_what_can_t_work_is_refused():
    assert "mpi4py finds no MPI" in refused(cluster=Cluster(vendor=""), nodes=2)
    old = Cluster(vendor="Open MPI", **{"srun --mpi=list": LIST_20})
    assert "needs srun --mpi=pmix" in refused(cluster=old, nodes=2)
    assert "-N 7 is more than" in refused(nodes=7)
    assert "no time limit is known" in refused(seconds=None)
    assert "no partition gpu" in refused(partition="gpu")
    assert "takes a minute or more" in refused(seconds=59)
    assert "-c 65 is more than any node" in refused(cpus=65)
    assert planned(cpus=64).cpus == 64


def test_the_partition_gives_the_time_limit():
    assert planned(seconds=None, partition="short").seconds == 3600


def test_an_array_is_small_jobs_of_eight_cpus():
    request = planned(array=4)
    assert (request.array, request.nodes, request.cpus) == (4, 1, 8)
    assert request.launcher is Launcher.NONE
    small = {"sinfo --noheader --exact --partition=debug --format=%c": "4\n"}
    assert planned(Cluster(**small), array=4).cpus == 4
    assert planned(array=4, cpus=30).cpus == 30
    assert planned(array=4, nodes=2).cpus is None


def test_a_gap_is_filled_by_four_cpus():
    request = planned(backfill=True)
    assert (request.is_backfill, request.cpus, request.name) == (True, 4, "farm-gap")
    assert planned(backfill=True, array=20).array == 20


def test_until_done_is_a_requeue_or_where_slurm_has_none_a_chain():
    assert planned(until_done=True).going_on is GoingOn.REQUEUE
    without = Cluster(**{"scontrol show config": "JobRequeue              = 0\n"})
    request = planned(without, until_done=True)
    assert request.going_on is GoingOn.CHAIN
    assert request.name == "farm-1a2b3c"
    assert planned(chain=True).going_on is GoingOn.CHAIN
    assert planned(chain=True, name="mine").name == "mine-1a2b3c"
    assert planned(name="mine").name == "mine"
    assert planned().going_on is GoingOn.NOT


def test_the_grace_time_of_the_farm_is_before_the_signal():
    assert planned().lead == 60
    assert planned(grace=300.0, seconds=36000).lead == 330


def test_the_job_before():
    assert planned(after=("12",)).after == (After("12"),)
    assert planned(after=("any:12_3",)).after == (After("12_3", is_any=True),)


def test_each_job_before_counts():
    wished = planned(after=("any:1", "2", "any:3")).after
    assert wished == (After("1", is_any=True), After("2"), After("3", is_any=True))


def test_a_slurm_that_does_not_answer_refuses_nothing():
    silent = Cluster(
        **{"srun --mpi=list": "", "scontrol --all --oneliner show partition": ""}
    )
    assert planned(silent, nodes=10_000, partition="any").pmi == "pmi2"


@pytest.mark.parametrize("word", ["--clusters=east", "-M east", "-Meast"])
def test_the_partitions_of_another_cluster_are_not_judged_by_those_of_this(word):
    request = planned(directives=(word,), partition="far", nodes=10_000)
    assert request.partition == "far"
    assert planned(directives=(word,), cpus=65).cpus == 65


def test_where_no_slurm_is_a_script_is_made_for_any():
    nowhere = Cluster(here=(), vendor="")
    request = planned(nowhere, nodes=8, is_print=True)
    assert (request.launcher, request.pmi) == (Launcher.SRUN, "")
    assert "no time limit is known" in refused(
        cluster=nowhere, seconds=None, is_print=True
    )


# ---- what contradicts itself ---------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"array": 2, "until_done": True}, "--array and --until-done contradict"),
        ({"array": 2, "chain": True}, "--array and --until-done contradict"),
        ({"backfill": True, "nodes": 8}, "in place of -N 8 give --array 8"),
        ({"account": "a b"}, "--account takes a name, not 'a b'"),
        ({"partition": "a;b"}, "--partition takes a name"),
        ({"qos": "a\nb"}, "--qos takes a name"),
        ({"name": "-x"}, "--job-name takes a name of letters"),
        ({"name": "a b"}, "--job-name takes a name of letters"),
        ({"directives": ("--a\n#SBATCH b",)}, "--directive takes one line"),
        ({"directives": (" ",)}, "--directive takes one line"),
        ({"after": ("x",)}, "--after takes the id of a job"),
        ({"after": (":12",)}, "--after takes the id of a job"),
        ({"after": ("afternotok:12",)}, "--after takes the id of a job"),
        ({"after": ("12", "12 --array=1")}, "--after takes the id of a job"),
        ({"after": ("12;x", "12")}, "--after takes the id of a job"),
        ({"environment": "mpi"}, "--pe is for Grid Engine, not for Slurm"),
    ],
)
def test_wishes_that_can_t_be_are_refused_in_a_sentence(wishes, words):
    assert words in refused(**wishes)


@pytest.mark.parametrize("directive", ["--dependency=afterany:1", "--depend", "-d 1"])
def test_a_dependency_of_sbatch_beside_after_is_refused(directive):
    wishes = {"after": ("12",), "directives": (directive,)}
    assert "--after and --dependency contradict each other" in refused(**wishes)
    assert planned(directives=(directive,)).after == ()


@pytest.mark.parametrize(
    ("scheduler", "directive", "named"),
    [
        ("pbs", "-W depend=afterany:12", "-W depend="),
        ("pbs", "-l x=1 -W block=true,depend=afterok:1:2", "-W depend="),
        ("pbs", '-W "depend=on:2"', "-W depend="),
        ("pbs", "-Wdepend=before:12", "-W depend="),
        ("lsf", "-w 'ended(12)'", "-w"),
        ("lsf", '-q night -w "done(12) && done(13)"', "-w"),
        ("lsf", "-w'done(12)'", "-w"),
        ("sge", "-hold_jid 12,13", "-hold_jid"),
        ("sge", "-p -5 -hold_jid_ad 12", "-hold_jid"),
    ],
)
def test_the_dependencies_of_other_batch_systems_beside_after_are_refused(
    scheduler, directive, named
):
    wishes = {"after": ("any:12",), "directives": (directive,), "cpus": 1}
    title = SYSTEMS[scheduler].title
    assert (
        f"--after and {named} contradict each other, because {title} heeds only one"
    ) in refused(scheduler=scheduler, **wishes)


@pytest.mark.parametrize(
    ("scheduler", "directive"),
    [
        ("pbs", "-W block=true"),
        ("pbs", "-W group_list=depend"),
        ("pbs", "-w depend=1"),
        ("lsf", "-W 4:00"),
        ("lsf", "-wt 5 -wa USR2"),
        ("lsf", "-R x-w"),
        ("sge", "-h"),
        ("sge", "-w e"),
    ],
)
def test_other_directives_stand_beside_after(scheduler, directive):
    wishes = {"after": ("any:12",), "directives": (directive,), "cpus": 1}
    assert planned(scheduler=scheduler, **wishes).directives == (directive,)


@pytest.mark.parametrize("scheduler", ["pbs", "lsf", "sge"])
@pytest.mark.parametrize(
    ("option", "wish"),
    [("backfill", True), ("supervise", True), ("qos", "high")],
)
def test_what_only_slurm_has_is_refused_elsewhere(scheduler, option, wish):
    sentence = refused(scheduler=scheduler, cpus=2, **{option: wish})
    assert sentence.startswith(f"--{option} is for Slurm, not for ")


# ---- PBS, LSF, Grid Engine -----------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["pbs", "lsf", "sge"])
def test_one_node_of_another_batch_system_needs_no_mpirun(scheduler):
    request = planned(Cluster(here=("qsub",)), scheduler, cpus=1)
    assert request.launcher is Launcher.NONE
    assert request.lead == (60 if scheduler == "sge" else 120)


@pytest.mark.parametrize("scheduler", ["pbs", "sge"])
def test_cpus_that_must_be_known_are_asked_for(scheduler):
    assert "as -c 32" in refused(scheduler=scheduler)


def test_several_hosts_of_lsf_are_taken_whole():
    assert "leave out -c 4" in refused(scheduler="lsf", nodes=2, cpus=4)
    assert planned(scheduler="lsf", nodes=2).launcher is Launcher.MPIRUN


@pytest.mark.parametrize(
    ("wishes", "cpus"),
    [
        ({"array": 3}, 8),
        ({"array": 3, "cpus": 2}, 2),
        ({"array": 3, "nodes": 2}, None),
        ({}, None),
    ],
)
def test_a_job_of_an_array_of_lsf_gets_the_slots_that_the_pages_promise(wishes, cpus):
    assert planned(Cluster(here=("bsub",)), "lsf", **wishes).cpus == cpus


def test_the_mpirun_is_that_of_the_python():
    beside = Cluster(here=("/opt/venv/bin/mpirun",))
    assert planned(beside, "pbs", nodes=2, cpus=4).mpirun == ("/opt/venv/bin/mpirun",)
    assert planned(Cluster(), "pbs", nodes=2, cpus=4).mpirun == ("mpirun",)


@pytest.mark.parametrize(
    ("vendor", "words"),
    [("MPICH", ("-ppn", "1")), ("Open MPI", ("--map-by", "ppr:1:node"))],
)
def test_each_host_of_grid_engine_gets_one_rank(vendor, words):
    request = planned(Cluster(vendor=vendor), "sge", nodes=2, cpus=4, environment="mpi")
    assert request.mpirun == ("mpirun", *words)


def test_the_parallel_environment_is_asked_for():
    answers = {
        "qconf -spl": "make\nsmp\n",
        "qconf -sp make": ENVIRONMENT.format("$round_robin").replace("mpi", "make"),
        "qconf -sp smp": ENVIRONMENT.format("$pe_slots").replace("mpi", "smp"),
    }
    assert planned(Cluster(**answers), "sge", cpus=4).environment == "smp"
    assert planned(Cluster(**answers), "sge", cpus=1).environment == ""
    sentence = refused(cluster=Cluster(**answers), scheduler="sge", nodes=2, cpus=4)
    assert "make ($round_robin), smp ($pe_slots)" in sentence


def test_where_no_grid_engine_is_a_script_names_an_environment_that_many_have():
    nowhere = Cluster(here=())
    assert planned(nowhere, "sge", cpus=2, is_print=True).environment == "mpi"
    assert planned(nowhere, "sge", cpus=1, is_print=True).environment == ""
    assert planned(nowhere, "sge", cpus=2, environment="smp").environment == "smp"


def test_going_on_is_what_each_batch_system_has():
    assert planned(scheduler="pbs", cpus=1, until_done=True).going_on is GoingOn.CHAIN
    assert planned(scheduler="pbs", cpus=1, chain=True).going_on is GoingOn.CHAIN
    for scheduler in ("lsf", "sge"):
        request = planned(scheduler=scheduler, cpus=1, until_done=True)
        assert request.going_on is GoingOn.REQUEUE
        sentence = refused(scheduler=scheduler, cpus=1, chain=True)
        assert "--chain is for Slurm and PBS" in sentence


def test_grid_engine_knows_no_status_of_the_job_before():
    assert "--after any:7" in refused(scheduler="sge", cpus=1, after=("any:6", "7"))
    request = planned(scheduler="sge", cpus=1, after=("any:7",))
    assert request.after == (After("7", True),)


# ---- variables of sbatch -------------------------------------------------------------

SBATCH = {"SBATCH_ACCOUNT": "phys", "SBATCH_QOS": "high", "SBATCH_TIMELIMIT": "1-0"}


def test_what_users_set_for_all_their_jobs_holds_unless_they_type_another():
    wishes = take_variables(Wishes(), "slurm", SBATCH | {"SBATCH_PARTITION": "long"})
    assert (wishes.account, wishes.qos, wishes.seconds) == ("phys", "high", 86400)
    assert wishes.partition == "long"
    typed = Wishes(account="bio", partition="gpu", seconds=60.0)
    wishes = take_variables(typed, "slurm", SBATCH | {"SBATCH_PARTITION": "long"})
    assert (wishes.account, wishes.qos, wishes.seconds) == ("bio", "high", 60)
    assert wishes.partition == "gpu"
    assert take_variables(typed, "pbs", SBATCH) is typed
    with pytest.raises(InputError, match="SBATCH_TIMELIMIT is no time"):
        take_variables(Wishes(), "slurm", {"SBATCH_TIMELIMIT": "soon"})


def test_the_cluster_that_a_variable_names_counts_as_typed():
    environ = {"SBATCH_CLUSTERS": "east,far west"}
    wishes = take_variables(Wishes(), "slurm", environ)
    assert wishes.directives == ('"--clusters=east,far west"',)
    typed = Wishes(directives=("-M north",))
    assert take_variables(typed, "slurm", environ).directives == ("-M north",)


# ---- which batch system --------------------------------------------------------------


def test_the_scheduler_is_the_one_that_is_here_or_named():
    assert find_scheduler(Wishes(), Cluster(), {}) == "slurm"
    assert find_scheduler(Wishes(), Cluster(here=("qsub",)), {}) == "pbs"
    assert find_scheduler(Wishes(scheduler="slurm"), Cluster(), {}) == "slurm"
    wishes = Wishes(scheduler="lsf")
    with pytest.raises(InputError, match="there is no bsub here, by which LSF takes"):
        find_scheduler(wishes, Cluster(), {})
    assert find_scheduler(replace(wishes, is_print=True), Cluster(), {}) == "lsf"


def test_no_batch_system_is_refused_but_to_see_a_script():
    with pytest.raises(InputError, match="no batch system is here"):
        find_scheduler(Wishes(), Cluster(here=("squeue", "bjobs", "qstat")), {})
    with pytest.raises(InputError, match="no batch system is here"):
        find_scheduler(Wishes(), Cluster(here=()), {})
    assert find_scheduler(Wishes(is_print=True), Cluster(here=()), {}) == "slurm"
