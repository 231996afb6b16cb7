"""Job scripts: their directives as sbatch reads them, their words as bash reads them.

Rules of this file: no process.  `read_directives` is sbatch's own way to read a script,
by its source; tests/process and tests/slurm run scripts.
"""

import shlex
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.submit import grid_engine, lsf, pbs, slurm
from mpifarm.submit.request import After, GoingOn, JobRequest, Launcher, Source
from mpifarm.submit.samples import DESCRIPTIONS, write_samples
from tests.support import ROOT

WRITERS = {
    "SBATCH": slurm.write_script,
    "PBS": pbs.write_script,
    "BSUB": lsf.write_script,
    "$": grid_engine.write_script,
}

ODD = (
    "a b",
    "it's",
    'a"b',
    "a$b",
    "a\\b",
    "a\nb",
    "-x",
    "a#b",
    "a;b",
    "é",
    "%j",
    "`a`",
)


def make_source(words=("tasks.txt",), **changes):
    source = Source(
        words=tuple(words),
        directory="/home/me/work",
        workdir="/home/me/work/tasks.txt_workdir",
        path="/home/me/work/tasks.txt_workdir/job.slurm",
        command="mpifarm submit -N 2 tasks.txt",
    )
    return source._replace(**changes)


def make_request(**changes):
    whole = JobRequest(seconds=14400, nodes=2, launcher=Launcher.SRUN, pmi="pmi2")
    return replace(whole, source=make_source(), **changes)


def read_directives(text):
    """Return the options of a script as sbatch's `_get_argument` reads them."""
    options = []
    for line in text.splitlines():
        if not line.startswith("#") and line.strip():
            break
        if line.startswith("#SBATCH"):
            options += read_words(line.removeprefix("#SBATCH"))
    return options


def read_words(line):
    words, word, quote, escaped, begun = list[str](), "", "", False, False
    for letter in line + " ":
        if escaped:
            word, escaped = word + letter, False
        elif letter == "\\":
            escaped = begun = True
        elif quote:
            word, quote = (word, "") if letter == quote else (word + letter, quote)
        elif letter in "\"'":
            quote, begun = letter, True
        elif letter == "#":
            break
        elif letter.isspace():
            words, word, begun = ([*words, word] if begun else words), "", False
        else:
            word, begun = word + letter, True
    return words


def find_lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


# ---- jobs/ ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_script_of_jobs_is_what_is_written_for_its_request(name):
    assert (ROOT / "jobs" / name).read_text() == write_samples()[name]


def test_jobs_has_no_other_scripts():
    there = {
        p.name for p in (ROOT / "jobs").iterdir() if p.suffix not in (".py", ".txt")
    }
    assert there == {*write_samples()} == {*DESCRIPTIONS}


# ---- words that bash reads -----------------------------------------------------------


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=4)
)
def test_the_farms_words_come_through_bash_as_they_are(words):
    given_words = ["tasks.txt", *words]
    assert "set --" not in slurm.write_script(JobRequest(seconds=60))
    request = replace(make_request(), source=make_source(given_words))
    written = slurm.write_script(request)
    line = f"set -- {shlex.join(given_words)}\n"
    assert line in written
    assert shlex.split(line)[2:] == given_words


@pytest.mark.parametrize("word", ODD)
@pytest.mark.parametrize("kind", WRITERS)
def test_an_odd_word_stands_in_no_directive_and_no_comment_as_a_line(kind, word):
    source = make_source(
        [word, "-w", word],
        directory=f"/home/{word}",
        workdir=f"/home/{word}/{word}_workdir",
        command=f"mpifarm submit {word}",
        path=f"/home/{word}/{word}_workdir/job",
        modules=f"/opt/{word}",
    )
    request = replace(make_request(cpus=2), source=source, mpirun=(f"/{word}/mpirun",))
    text = WRITERS[kind](request)
    head = text[: text.index("\ncd ")]
    assert all(line.startswith("#") or not line for line in head.splitlines())
    assert f"cd {shlex.quote(source.directory)} || exit 2\n" in text
    assert shlex.quote(source.modules) in text


@pytest.mark.parametrize("kind", WRITERS)
def test_text_that_is_no_utf_8_stands_in_a_script_as_it_is(kind):
    name = b"\xff\xfe.txt".decode("utf-8", "surrogateescape")
    request = replace(make_request(cpus=2), source=make_source([name]))
    text = WRITERS[kind](request)
    assert b"\xff\xfe.txt" in text.encode("utf-8", "surrogateescape")


# ---- Slurm's directives --------------------------------------------------------------


SEVERAL = (After("12"), After("3", is_any=True), After("4"))
COMMENT = "--comment=a \"b\" \\c #d 'e'"


def directives_of(**changes):
    return read_directives(slurm.write_script(make_request(**changes)))


def test_a_farm_on_whole_nodes():
    assert directives_of() == [
        *("--job-name=farm", "--time=4:00:00"),
        *("--nodes=2", "--ntasks-per-node=1", "--exclusive", "--mem=0"),
        "--signal=USR1@60",
        "--output=/home/me/work/tasks.txt_workdir/job-%j.out",
    ]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"account": "phys"}, "--account=phys"),
        ({"partition": "gpu,cpu"}, "--partition=gpu,cpu"),
        ({"qos": "high"}, "--qos=high"),
        ({"array": 7}, "--array=1-7"),
        ({"cpus": 8}, "--cpus-per-task=8"),
        ({"after": (After("12"),)}, "--dependency=afterok:12"),
        ({"after": (After("12_3", is_any=True),)}, "--dependency=afterany:12_3"),
        ({"after": SEVERAL}, "--dependency=afterok:12:4,afterany:3"),
        ({"going_on": GoingOn.REQUEUE}, "--requeue"),
        ({"going_on": GoingOn.REQUEUE}, "--open-mode=append"),
        ({"going_on": GoingOn.REQUEUE}, "--signal=B:USR1@60"),
        ({"going_on": GoingOn.CHAIN}, "--signal=B:USR1@60"),
        ({"is_supervised": True}, "--no-kill"),
        ({"is_supervised": True}, "--signal=B:USR1@60"),
        ({"launcher": Launcher.NONE, "nodes": 1}, "--signal=B:USR1@60"),
        ({"is_backfill": True}, "--time-min=0:30:00"),
        ({"is_backfill": True}, "--requeue"),
        ({"lead": 150}, "--signal=USR1@150"),
        ({"directives": (slurm.quote_directive(COMMENT),)}, COMMENT),
        ({"directives": ("--mem=16G", "--gres=gpu:4")}, "--gres=gpu:4"),
    ],
)
def test_what_is_wanted_is_a_directive(changes, wanted):
    assert wanted in directives_of(**changes)
    assert wanted not in directives_of()


def test_a_job_that_shares_its_nodes_takes_none_of_them_whole():
    assert not {"--exclusive", "--mem=0"} & {*directives_of(cpus=8)}


@pytest.mark.parametrize("more", [{}, {"is_backfill": True}])
def test_a_chain_is_not_requeued(more):
    """Each start of a link submits a successor, and Slurm requeues by itself."""
    found = directives_of(going_on=GoingOn.CHAIN, **more)
    assert "--no-requeue" in found
    assert "--requeue" not in found
    assert "--no-requeue" not in directives_of(going_on=GoingOn.REQUEUE)
    assert "#PBS -r n" in pbs.write_script(
        make_request(**ALONE, going_on=GoingOn.CHAIN)
    )


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1))
def test_sbatch_reads_a_directive_as_it_was_given(text):
    word = f"--comment={text} {text}"
    assert word in directives_of(directives=(slurm.quote_directive(word),))


@pytest.mark.parametrize("name", ["a b", "it's", 'a"b', "a#b", "é", "a$b", "a=b"])
def test_the_output_is_in_the_workdir_whatever_its_name(name):
    request = replace(make_request(), source=make_source(workdir=f"/home/{name}"))
    (output,) = [
        word
        for word in read_directives(slurm.write_script(request))
        if word.startswith("--output=")
    ]
    assert output == f"--output=/home/{name}/job-%j.out"


def test_a_percent_sign_in_a_path_is_not_taken_for_a_number():
    request = replace(make_request(), source=make_source(workdir="/home/100%j"))
    assert slurm.output_pattern(request) == "/home/100%%j/job-%j.out"


@pytest.mark.parametrize("name", ["a\\b", "a\nb"])
def test_a_path_that_slurm_cannot_take_leaves_the_output_to_it(name):
    request = replace(make_request(), source=make_source(workdir=f"/home/{name}"))
    text = slurm.write_script(request)
    assert not [w for w in read_directives(text) if w.startswith("--output")]


@pytest.mark.parametrize(
    ("seconds", "least"),
    [(60, "0:01:00"), (90, "0:01:30"), (600, "0:02:00"), (7200, "0:15:00")],
)
def test_a_gap_is_no_longer_than_the_job_and_has_whole_minutes(seconds, least):
    found = directives_of(is_backfill=True, seconds=seconds)
    assert f"--time-min={least}" in found


@pytest.mark.parametrize(
    ("directive", "variables"),
    [
        ("--constraint=knl", {"SBATCH_CONSTRAINT"}),
        ('"--constraint=knl&x y"', {"SBATCH_CONSTRAINT"}),
        ("-C knl", {"SBATCH_CONSTRAINT"}),
        ("-Cknl --gres=gpu:1", {"SBATCH_CONSTRAINT", "SBATCH_GRES"}),
        ("--gres gpu:1", {"SBATCH_GRES"}),
        ("--gpus-per-node=4", {"SBATCH_GPUS_PER_NODE"}),
        ("--mem=1G", {"SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_NODE"}),
        ("--mem-per-cpu=1G", {"SBATCH_MEM_PER_GPU", "SBATCH_MEM_PER_NODE"}),
        ("--switches=1@60", {"SBATCH_REQ_SWITCH", "SBATCH_WAIT4SWITCH"}),
        ("--clusters=b", {"SBATCH_CLUSTERS", "SLURM_CLUSTERS"}),
        ("--hint=nomultithread", {"SBATCH_HINT", "SLURM_HINT"}),
    ],
)
def test_no_variable_of_sbatch_outdoes_what_was_typed(directive, variables):
    request = make_request(cpus=2)
    typed = slurm.find_overriding(replace(request, directives=(directive,)))
    assert variables <= typed
    assert not variables & slurm.find_overriding(request)


def test_what_a_farm_says_does_not_go_to_another_file_than_the_output():
    assert "SBATCH_ERROR" in slurm.find_overriding(make_request())


# ---- what the forms do ---------------------------------------------------------------

SIZES: list[dict[str, Any]] = [
    {"nodes": nodes, "launcher": launcher, "cpus": cpus}
    for nodes, launcher in [(1, Launcher.NONE), (2, Launcher.SRUN)]
    for cpus in (None, 4)
]
ENDS: list[dict[str, Any]] = [
    {},
    {"going_on": GoingOn.REQUEUE},
    {"going_on": GoingOn.CHAIN},
    {"array": 3},
    {"is_backfill": True},
    {"is_supervised": True},
    {"is_supervised": True, "going_on": GoingOn.REQUEUE},
]
FORMS = [{**size, **end} for size, end in product(SIZES, ENDS)]


@pytest.mark.parametrize("form", FORMS)
def test_a_farm_of_slurm_has_the_workers_of_its_job(form):
    text = slurm.write_script(make_request(**form))
    workers = '"$SLURM_CPUS_PER_TASK"' if form["cpus"] else "auto"
    (farm,) = find_lines(text, "farm=(")
    assert farm.endswith(f"--proc {workers})")
    assert ("--mpi off" in farm) == (form["launcher"] is Launcher.NONE)
    launches = [line for line in text.splitlines() if "srun --mpi=" in line]
    assert len(launches) == (form["launcher"] is Launcher.SRUN)
    for line in launches:
        assert "-K0" in line
        assert "--export=ALL" in line
        assert ("--cpus-per-task=" in line) == bool(form["cpus"])
        assert ("--no-kill" in line) == form.get("is_supervised", False)
    assert (" supervise -- " in text) == form.get("is_supervised", False)
    assert ("--in-array" in text) == ("array" in form)
    assert ("scontrol requeue" in text) == (form.get("going_on") is GoingOn.REQUEUE)
    assert ("$(sbatch " in text) == (form.get("going_on") is GoingOn.CHAIN)
    goes_on = form.get("going_on", GoingOn.NOT) is not GoingOn.NOT
    assert ("the job goes on as job " in text) == goes_on


def test_the_next_of_a_chain_has_the_time_of_this_unless_slurm_may_shorten_it():
    chain = make_request(going_on=GoingOn.CHAIN)
    assert '--time="$(squeue' in slurm.write_script(chain)
    text = slurm.write_script(replace(chain, is_backfill=True))
    assert "--time=" in text
    assert "squeue" not in text


def test_only_a_sample_explains_what_may_be_edited():
    assert "pmix for Open MPI" in write_samples()["multinode.slurm"]
    assert "# MPICH and its like" not in slurm.write_script(make_request())
    assert "jobs/" not in slurm.write_script(make_request())


@pytest.mark.parametrize("kind", WRITERS)
def test_an_install_free_job_takes_mpifarm_from_where_it_is(kind):
    request = make_request(cpus=1)
    wanted = "export PYTHONPATH='/opt/my modules'${PYTHONPATH:+:$PYTHONPATH}\n"
    assert "PYTHONPATH" not in WRITERS[kind](request)
    source = make_source(modules="/opt/my modules")
    assert wanted in WRITERS[kind](replace(request, source=source))


# ---- PBS, LSF, Grid Engine -----------------------------------------------------------

BY_MPIRUN = {"launcher": Launcher.MPIRUN, "cpus": 32, "nodes": 8}
ALONE = {"launcher": Launcher.NONE, "cpus": 4, "nodes": 1}


@pytest.mark.parametrize(
    ("kind", "changes", "wanted"),
    [
        ("PBS", BY_MPIRUN, "-l select=8:ncpus=32:mpiprocs=1"),
        ("PBS", BY_MPIRUN, "-l place=scatter"),
        ("PBS", BY_MPIRUN, "-l walltime=4:00:00"),
        ("PBS", ALONE, "-l select=1:ncpus=4"),
        ("PBS", {**ALONE, "array": 5}, "-J 1-5"),
        ("PBS", {**ALONE, "account": "phys", "partition": "long"}, "-A phys"),
        ("PBS", {**ALONE, "account": "phys", "partition": "long"}, "-q long"),
        ("PBS", {**ALONE, "after": (After("7.server"),)}, "-W depend=afterok:7.server"),
        ("PBS", {**ALONE, "after": (After("7", is_any=True),)}, "-W depend=afterany:7"),
        ("PBS", {**ALONE, "after": SEVERAL}, "-W depend=afterok:12:4,afterany:3"),
        ("PBS", {**ALONE, "directives": ("-m e",)}, "-m e"),
        ("BSUB", {**BY_MPIRUN, "cpus": None}, '-n 8 -R "span[ptile=1]" -x'),
        ("BSUB", {**BY_MPIRUN, "cpus": None, "lead": 130}, "-wt 3 -wa USR1"),
        ("BSUB", ALONE, '-n 4 -R "span[hosts=1]"'),
        ("BSUB", ALONE, "-W 4:00"),
        ("BSUB", {**ALONE, "array": 5}, '-J "farm[1-5]"'),
        ("BSUB", {**ALONE, "after": (After("7"),)}, '-w "done(7)"'),
        ("BSUB", {**ALONE, "after": (After("7", is_any=True),)}, '-w "ended(7)"'),
        (
            *("BSUB", {**ALONE, "after": SEVERAL}),
            '-w "done(12) && ended(3) && done(4)"',
        ),
        ("BSUB", {**ALONE, "going_on": GoingOn.REQUEUE}, '-r -Q "75"'),
        ("BSUB", {**ALONE, "account": "phys"}, "-P phys"),
        ("BSUB", {**ALONE, "partition": "long"}, "-q long"),
        ("$", {**BY_MPIRUN, "environment": "mpi"}, "-pe mpi 256"),
        ("$", ALONE, "-l h_rt=14400"),
        ("$", {**ALONE, "array": 5}, "-t 1-5"),
        ("$", {**ALONE, "after": (After("7", is_any=True),)}, "-hold_jid 7"),
        ("$", {**ALONE, "after": SEVERAL}, "-hold_jid 12,3,4"),
        ("$", {**ALONE, "going_on": GoingOn.REQUEUE}, "-r y"),
        ("$", {**ALONE, "account": "phys"}, "-A phys"),
        ("$", {**ALONE, "partition": "long.q"}, "-q long.q"),
    ],
)
def test_a_directive_of_another_batch_system(kind, changes, wanted):
    assert f"#{kind} {wanted}" in WRITERS[kind](make_request(**changes)).splitlines()


@pytest.mark.parametrize("kind", ["PBS", "BSUB", "$"])
@pytest.mark.parametrize("going_on", GoingOn)
@pytest.mark.parametrize("size", [BY_MPIRUN, ALONE], ids=["mpirun", "alone"])
def test_a_farm_of_another_batch_system_starts_once_in_a_script(kind, going_on, size):
    text = WRITERS[kind](make_request(**size, going_on=going_on))
    launches = [line for line in text.splitlines() if '"${farm[@]}"' in line]
    assert len(launches) == 1
    assert launches[0].endswith('--workdir "$workdir" "$tasklist" "$@" &')
    assert ("\nmpirun -n " in text) == (size is BY_MPIRUN)
    assert ("recorded()" in text) == (going_on is not GoingOn.NOT)
    counts = "\n# idle: how many " in text
    assert counts == (going_on is not GoingOn.NOT)


def test_each_of_an_array_of_pbs_writes_an_output_of_its_own():
    text = pbs.write_script(make_request(**ALONE, array=5))
    assert 'job-"$number_$PBS_ARRAY_INDEX".out' not in text  # $number_ is a name
    assert 'job-"${number}_$PBS_ARRAY_INDEX".out' in text


def test_a_farm_that_no_signal_warns_stops_by_itself():
    text = pbs.write_script(make_request(**ALONE, lead=120))
    assert "end=$(($(date +%s) + 14400 - 120))" in text
    assert '--deadline "$end"' in text
    assert "--timeout" not in text  # it would outdo one that a file or variable sets
    text = grid_engine.write_script(make_request(**ALONE))
    assert "end=$(($(date +%s) + 14400 - 60))" in text
    assert '--deadline "$end"' in text
