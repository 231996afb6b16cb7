"""``mpifarm submit`` without a real batch system: scripts that are shown, and run.

Rules of this file: a script runs under bash as it stands, with the variables that its
batch system sets; sbatch, qsub and bsub are stand-ins (`batch_fakes` checks directives
by the manuals).  A real Slurm is in tests/slurm.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mpifarm
from mpifarm.commands import submit
from mpifarm.errors import InputError
from mpifarm.submit.asking import Programs
from mpifarm.system.console import Console
from tests.farm_driver import assert_ends
from tests.pages import take_block
from tests.process import batch_fakes
from tests.required import find_tool, need_launcher
from tests.support import make_bare_python, wait_until

WAITS = "touch started.$PROC_NUMBER; [ -e go ] || sleep 1000"
"""Runs for ever, until the test says go."""

ODD = (
    "two words it's quo\"te $HOME back\\slash new\nline * #no ümlaut %j a;b&c `id` (x)",
    "~",
    "-dash",
    os.fsdecode(b"no\xffutf"),
)
"""Names that a shell, or a batch system, could take for something else."""


class Desk:
    """A place with a list, and stand-ins for a batch system's programs in its PATH."""

    def __init__(self, farm):
        self.farm = farm
        self.programs = farm.directory / "bin"
        self.spool = farm.directory / "spool"
        self.scheduler = ["--scheduler", "slurm"]
        self.programs.mkdir()
        self.spool.mkdir()
        own = str(Path(sys.executable).parent)
        farm.environment |= {
            "PATH": f"{self.programs}:{own}:/usr/bin:/bin",
            "SPOOL": str(self.spool),
        }

    def install(self, name, text):
        program = self.programs / name
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)

    def install_fake(self, kind):
        self.scheduler = ["--scheduler", kind]
        name = {"pbs": "qsub", "lsf": "bsub"}[kind]
        fake = f"{sys.executable} {batch_fakes.__file__}"
        self.install(name, f'exec {fake} {kind} "$@"')

    def submit(self, *words, status=0, stdin=None):
        submit = [sys.executable, "-m", "mpifarm", "submit", *self.scheduler]
        source = ("/bin/bash", "-c", 'exec "$@" <"$0"', str(stdin or "/dev/null"))
        child = self.farm.start_command([*source, *submit, *words])
        assert_ends(child, status)
        return child.text()

    def start(self, script, **variables):
        """Start a script that was submitted, as its batch system would."""
        return self.farm.start_command(["bash", str(script)], env=variables)

    def kept(self):
        """The scripts that were submitted, the last one last."""
        return sorted(self.spool.glob("*.script"), key=lambda p: int(p.stem))


@pytest.fixture
def desk(farm):
    return Desk(farm)


# ---- scripts -------------------------------------------------------------------------

OPTIONS = {
    "slurm": (
        *("", "--until-done", "--chain", "--array 3", "--backfill", "--supervise"),
        *("-N 3", "-N 3 --until-done", "-N 3 --chain", "-N 3 --array 2", "-N 3 -c 4"),
        *("-N 3 --supervise", "-N 3 --supervise --until-done", "--install-free"),
    ),
    "pbs": ("", "--until-done", "--array 3", "-N 3", "-N 3 --until-done"),
    "lsf": ("", "--until-done", "--array 3"),
    "sge": ("", "--until-done", "--array 3", "-N 3 --pe mpi", "-N 3 --until-done"),
}


def show(tasklist, scheduler, form):
    """Return the script of a form of a batch system."""
    cpus = "" if scheduler == "slurm" else "-c 2"
    words = f"--scheduler {scheduler} -t 1h {cpus} {form} --print".split()
    printed = list[bytes]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "write_all", printed.extend)
        words.append(str(tasklist))
        assert submit.main(words, Console(prints=False), os.environ) == 0
    return b"".join(printed)


def test_shellcheck_finds_nothing_in_any_script(farm):
    shellcheck = find_tool("shellcheck")
    farm.write_list(["true"])
    paths = []
    for scheduler, forms in OPTIONS.items():
        for number, form in enumerate(forms):
            paths.append(farm.directory / f"{scheduler}-{number}.sh")
            paths[-1].write_bytes(show(farm.tasklist, scheduler, form))
    subprocess.run([shellcheck, "--shell=bash", *paths], check=True)


@pytest.mark.parametrize("name", ODD)
def test_a_script_of_any_directory_and_list_farms_it(desk, name):
    directory = desk.farm.directory / name
    directory.mkdir()
    (directory / f"{name}.txt").write_text('test "$(basename "$PWD")" = "$NAME"\n')
    tasklist = f"./{name}.txt"
    argv = [sys.executable, "-m", "mpifarm", "submit", "--print", "-t", "5", tasklist]
    environment = desk.farm.environment | {"NAME": name}
    shown = subprocess.run(
        [*argv, "--on-end", f": {shlex.quote(name)}"],
        cwd=directory,
        env=environment,
        capture_output=True,
        check=True,
    )
    script = desk.farm.directory / "job"
    script.write_bytes(shown.stdout)
    child = desk.start(script, NAME=name)
    assert_ends(child, 0)
    result = json.loads((directory / f"{name}.txt_workdir/result.json").read_text())
    assert result["tasks"]["finished"] == 1


def test_a_script_without_any_batch_system_is_shown(desk):
    desk.farm.write_list(["true"])
    desk.scheduler, desk.farm.environment["PATH"] = [], "/bin/nowhere"
    text = desk.submit("--print", "-N", "1000", "-t", "1-0", "tasks.txt")
    assert "#SBATCH --nodes=1000" in text
    assert not desk.farm.workdir.exists()


class InstallFree:
    """A Python that has what mpifarm needs, and no mpifarm; and that elsewhere."""

    def __init__(self, desk):
        self.desk = desk
        root = desk.farm.directory / "installed"
        self.modules = root / "my modules"
        package = Path(mpifarm.__file__).parent
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, self.modules / "mpifarm", ignore=without)
        self.python = make_bare_python(root / "venv")
        desk.farm.environment.pop("PYTHONPATH", None)

    def submit(self, *words):
        """Submit from the directory of the list, as who has mpifarm on a path."""
        argv = [self.python, "-m", "mpifarm", "submit", *self.desk.scheduler, *words]
        env = {"PYTHONPATH": str(self.modules)}
        child = self.desk.farm.start_command([*map(str, argv)], env=env)
        assert_ends(child, 0)
        return child.text()

    def start(self, text, **variables):
        """Start a script, as its batch system does: anywhere, without PYTHONPATH."""
        script = self.desk.farm.directory / "job"
        script.write_text(text)
        words = ["bash", "-c", 'cd / && exec bash "$0"', str(script)]
        return self.desk.farm.start_command(words, env=variables)

    def assert_farms(self, text, **variables):
        """A job farms its list by the line of its script, and not without it."""
        (line,) = [each for each in text.splitlines() if "PYTHONPATH" in each]
        child = self.start(text.replace(line, ""), **variables)
        assert child.wait(60) not in (None, 0)
        assert "No module named mpifarm" in self.output_of(child)
        child = self.start(text, **variables)
        assert_ends(child, 0)
        self.desk.farm.assert_all_finished()
        return self.output_of(child)

    def output_of(self, child):
        """What a job has printed, wherever that is."""
        outputs = [*self.desk.farm.workdir.glob("job-7.out")]
        return child.text() + "".join(each.read_text() for each in outputs)


@pytest.fixture
def install_free(desk):
    return InstallFree(desk)


@pytest.mark.parametrize("options", ["", "--supervise", "--array 3"])
def test_an_install_free_job_needs_no_mpifarm_in_its_python(
    desk, install_free, options
):
    desk.farm.write_list(["true"])
    text = install_free.submit(
        *("--print", "-t", "5", "-c", "1", *options.split(), "--install-free"),
        *("tasks.txt", "-v"),
    )
    install_free.assert_farms(text, SLURM_CPUS_PER_TASK="1")


def test_the_ranks_of_an_install_free_job_need_none_either(desk, install_free):
    launcher = need_launcher()
    desk.farm.environment |= launcher.variables
    desk.farm.write_list(["true"] * 8)
    desk.install_fake("pbs")
    nodes = desk.farm.directory / "nodes"
    nodes.write_text("localhost\nlocalhost\n")
    install_free.submit("-t", "1h", "-N", "2", "-c", "2", "--install-free", "tasks.txt")
    text = desk.kept()[0].read_text()
    variables = {**VARIABLES["pbs"], "PBS_NODEFILE": str(nodes)}
    assert "2 ranks of 2 workers" in install_free.assert_farms(text, **variables)


def test_a_chain_of_install_free_jobs_names_the_modules_once(desk, install_free):
    desk.farm.write_list(['echo "$PYTHONPATH" >path'])
    words = ("--print", "-t", "5", "-c", "1", "--install-free", "tasks.txt")
    text = install_free.submit(*words)
    paths = f"{install_free.modules}:/other"
    for given in ("/other", paths):
        child = install_free.start(text, SLURM_CPUS_PER_TASK="1", PYTHONPATH=given)
        assert_ends(child, 0)
        assert (desk.farm.directory / "path").read_text() == f"{paths}\n"
        shutil.rmtree(desk.farm.workdir)


def test_modules_in_a_directory_that_python_can_t_be_told_are_refused(desk):
    desk.farm.write_list(["true"])
    modules = desk.farm.directory / "a:b"
    package = Path(mpifarm.__file__).parent
    shutil.copytree(package, modules / "mpifarm")
    there = ["bash", "-c", 'cd "$0" && exec "$@"', str(modules)]
    farmer = [sys.executable, "-m", "mpifarm"]
    words = ["submit", "--install-free", "--print", "-t", "5", str(desk.farm.tasklist)]
    child = desk.farm.start_command([*there, *farmer, *words])
    assert_ends(child, 2)
    assert f"--install-free: {modules} has a colon" in child.text()


# ---- programs that are asked ---------------------------------------------------------


def test_a_program_that_is_missing_fails_or_hangs_has_no_answer():
    programs = Programs({"PATH": "/usr/bin:/bin"})
    assert programs.run(["no-such-program"]).status == 127
    assert programs.run(["sleep", "60"], seconds=0.05).status == 124
    assert programs.run(["cat"], "a\udcff") == (0, "a\ufffd", "")
    assert programs.ask("sh", "-c", "echo a; echo b >&2") == "a\nb\n"
    assert programs.ask("sh", "-c", "echo a; exit 1") == ""
    assert programs.ask_python("print(1)") == "1\n"
    assert programs.ask_python("print(1); 1 / 0") == ""
    assert programs.find(("sh", "no-such-program")) == {"sh"}


def test_a_pipe_in_place_of_a_script_holds_nobody_up(desk):
    desk.farm.write_list(["true"])
    desk.farm.workdir.mkdir()
    os.mkfifo(desk.farm.workdir / "job.slurm")
    (desk.farm.workdir / "job-2.slurm").symlink_to("/etc/passwd")
    desk.install("sbatch", "echo 7")
    assert "job-3.slurm" in desk.submit("-t", "5", "tasks.txt")


# ---- sbatch --------------------------------------------------------------------------


def test_what_is_submitted_is_told_in_three_lines_and_by_commands(desk):
    desk.farm.write_list(["true"] * 8)
    desk.install("sbatch", 'cp "$2" "$SPOOL/7.script"; echo "7;east"')
    text = desk.submit("-t", "5", "tasks.txt", "-n", "2")
    lines = [
        line for line in text.splitlines() if "WARNING: tasks.txt is in" not in line
    ]
    workdir = desk.farm.workdir
    assert "Slurm: one farm on one node for 0:05:00 h: 8 tasks of tasks.txt" in lines[0]
    assert (
        "60 s before the job's end the farm stops and puts back what runs" in lines[1]
    )
    assert f"job script {workdir}/job.slurm" in lines[2]
    assert lines[3:] == [
        "job 7 on east is submitted",
        "  status:  mpifarm status tasks.txt",
        f"  log:     tail -F {shlex.quote(str(workdir))}/job-7.out",
        "  cancel:  scancel -M east 7",
    ]
    assert (workdir / "job.slurm").read_bytes() == desk.kept()[0].read_bytes()
    assert_ends(desk.start(workdir / "job.slurm"), 0)
    desk.farm.assert_all_finished()


def test_no_variable_of_sbatch_outdoes_the_script(desk):
    desk.farm.write_list(["true"])
    desk.install("sbatch", 'env | grep ^SBATCH_ >"$SPOOL/env"; echo 7')
    own = {"ACCOUNT": "a", "SIGNAL": "TERM@1", "WAIT": "1", "MEM_PER_CPU": "1G"}
    desk.farm.environment |= {f"SBATCH_{name}": own[name] for name in own}
    desk.farm.environment["SBATCH_RESERVATION"] = "mine"
    desk.submit("-t", "5", "tasks.txt")
    assert (desk.spool / "env").read_text() == "SBATCH_RESERVATION=mine\n"
    assert "#SBATCH --account=a\n" in (desk.farm.workdir / "job.slurm").read_text()


def test_what_is_submitted_is_told_in_json(desk):
    desk.farm.write_list(["true"])
    desk.install("sbatch", "echo 7")
    told = json.loads(desk.submit("-t", "5", "--json", "tasks.txt").splitlines()[-1])
    assert told == {
        "job": "7",
        "cluster": None,
        "scheduler": "slurm",
        "script": f"{desk.farm.workdir}/job.slurm",
        "tasks": 1,
        "left": 1,
        "status": "mpifarm status tasks.txt",
        "log": f"tail -F {shlex.quote(str(desk.farm.workdir))}/job-7.out",
        "cancel": "scancel 7",
    }


def test_no_script_is_written_over_and_the_same_serves_again(desk):
    desk.farm.write_list(["true"])
    desk.install("sbatch", "echo 7")
    for minutes in ("5", "6", "5"):
        desk.submit("-t", minutes, "tasks.txt")
    scripts = sorted(path.name for path in desk.farm.workdir.glob("job*"))
    assert scripts == ["job-2.slurm", "job.slurm"]
    assert "--time=0:05:00" in (desk.farm.workdir / "job.slurm").read_text()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ('echo "sbatch: error: Batch job submission failed: No" >&2; exit 1', "No"),
        ("exit 1", "sbatch ended with 1"),
    ],
)
def test_a_job_that_is_refused_leaves_nothing(desk, program, words):
    desk.farm.write_list(["true"])
    desk.install("sbatch", program)
    text = desk.submit("-t", "5", "tasks.txt", status=2)
    assert "Slurm refused the job: " in text
    assert words in text.splitlines()[-1]
    assert not desk.farm.workdir.exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("echo nonsense", "may have queued the job: nonsense; look with squeue "),
        ("exec sleep 100", "may have queued the job: no answer within 1 s; "),
        ('echo "error: Socket timed out" >&2; exit 1', "job: error: Socket timed out;"),
    ],
)
def test_a_job_that_may_be_queued_keeps_its_script(desk, program, words, monkeypatch):
    desk.farm.write_list(["true"])
    desk.install("sbatch", program)
    monkeypatch.chdir(desk.farm.directory)
    if "sleep" in program:
        monkeypatch.setattr(submit, "SUBMIT_SECONDS", 1.0)
    line = ["--scheduler", "slurm", "-t", "5", "tasks.txt"]
    with pytest.raises(InputError) as raised:
        submit.main(line, Console(prints=False), desk.farm.environment)
    assert words in str(raised.value)
    script = desk.farm.workdir / "job.slurm"
    assert str(script) in str(raised.value)
    assert script.exists()


def test_a_refused_job_removes_neither_workdir_nor_scripts_of_others(desk):
    desk.farm.write_list(["true"])
    desk.install("sbatch", "echo 7")
    desk.submit("-t", "5", "tasks.txt")
    desk.install("sbatch", "exit 1")
    desk.submit("-t", "5", "tasks.txt", status=2)
    desk.submit("-t", "6", "tasks.txt", status=2)
    assert [path.name for path in desk.farm.workdir.iterdir()] == ["job.slurm"]


def test_the_status_of_a_list_whose_job_waits_says_so(desk, mpifarm):
    desk.farm.write_list(["true"])
    desk.install("sbatch", "echo 7")
    desk.submit("-t", "5", "tasks.txt")
    status, text = mpifarm(desk.farm, "status", "tasks.txt")
    assert status == 2
    assert "no farm has begun this list yet: its job waits in the queue (squeue" in text


@pytest.mark.parametrize("restarts", [0, 3, 4])
def test_a_job_whose_comment_slurm_keeps_is_requeued_a_few_times(desk, restarts):
    desk.farm.write_list(["true"] * 2)
    desk.install("sbatch", "echo 7")
    desk.install("squeue", "echo '(null)'")
    desk.install("scontrol", 'echo "$*" >>"$SPOOL/asked"; [[ $1 == requeue ]]')
    desk.submit("-t", "1h", "--until-done", "tasks.txt")
    record_nothing(desk.farm)
    variables = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    job = desk.start(desk.farm.workdir / "job.slurm", **variables)
    assert_ends(job, 75)
    asked = (desk.spool / "asked").read_text()
    assert ("requeue 7\n" in asked) == (restarts < 4)
    assert ("not requeued" in job.text()) == (restarts == 4)


@pytest.mark.parametrize(
    "options",
    [
        "--chdir no/such",
        "--durations none",
        "--hook Nope",
        "--events no/such/x",
        "--follow -t greasy",
        "--limit x=1 --limit x=2",
        "-w no/such/workdir",
        "-r none",
        "-t none",
        "--config none",
    ],
)
def test_what_a_start_refuses_submit_refuses_in_the_same_words(desk, mpifarm, options):
    desk.farm.write_list(["true"])
    desk.install("sbatch", "echo 7")
    status, started = mpifarm(desk.farm, "tasks.txt", *options.split(), "--mpi", "off")
    assert status == 2
    submitted = desk.submit("-t", "5", "tasks.txt", *options.split(), status=2)
    assert (
        submitted.splitlines()[-1]
        .partition("mpifarm")[2]
        .endswith(started.splitlines()[-1].partition("mpifarm: ")[2])
    )


# ---- lists that are no file ----------------------------------------------------------


def test_a_command_with_arguments_runs_in_the_job_as_it_was_typed(desk):
    arguments = ["a b", "it's", '$HOME "x" `id`', "*", "ü%j"]
    desk.install("sbatch", "echo 7")
    words = ["--retries", "1", "-t", "5", "-n", "2", "printf '%s\\n' {} >>out"]
    text = desk.submit(*words, ":::", *arguments)
    assert "5 tasks of mpifarm_workdir/stdin.txt, the first: printf '%s" in text
    assert "  status:  mpifarm status mpifarm_workdir\n" in text
    workdir = desk.farm.directory / "mpifarm_workdir"
    child = desk.start(workdir / "job.slurm")
    assert_ends(child, 0)
    assert sorted((desk.farm.directory / "out").read_text().splitlines()) == sorted(
        arguments
    )
    before = (workdir / "stdin.txt").read_bytes()
    text = desk.submit(*words, ":::", *arguments, status=2)
    assert "all 5 tasks of mpifarm_workdir/stdin.txt are finished" in text
    text = desk.submit(*words, ":::", *arguments, "one more")
    assert "1 of 6 tasks of mpifarm_workdir/stdin.txt" in text
    assert "1 task" in run_again(desk, workdir)
    assert (desk.farm.directory / "out").read_text().endswith("\none more\n")
    text = desk.submit(*words, ":::", "other", status=2)
    assert "these arguments make another list than mpifarm_workdir/stdin.txt" in text
    assert (workdir / "stdin.txt").read_bytes().startswith(before)


def run_again(desk, workdir):
    child = desk.start(workdir / "job.slurm")
    assert_ends(child, 0)
    return child.text()


def test_the_arguments_of_files_are_read_when_the_job_is_submitted(desk):
    names = desk.farm.directory / "names"
    names.write_text("x\ny z\n")
    desk.install("sbatch", "echo 7")
    desk.submit(
        "-t", "5", "-w", "w", "echo {} >>out", "::::", "names", "-", stdin=names
    )
    names.unlink()
    assert_ends(desk.start(desk.farm.directory / "w" / "job.slurm"), 0)
    lines = sorted((desk.farm.directory / "out").read_text().splitlines())
    assert lines == ["x x", "x y z", "y z x", "y z y z"]


def test_standard_input_is_the_list_of_a_job(desk):
    lines = desk.farm.directory / "lines"
    lines.write_text("echo one >>out\necho two >>out")
    desk.install("sbatch", "echo 7")
    text = desk.submit("-t", "5", "-", "-n", "1", stdin=lines)
    assert "2 tasks of mpifarm_workdir/stdin.txt, the first: echo one" in text
    workdir = desk.farm.directory / "mpifarm_workdir"
    assert_ends(desk.start(workdir / "job.slurm"), 0)
    assert (desk.farm.directory / "out").read_text() == "one\ntwo\n"
    text = desk.submit("-t", "5", "-", "-n", "1", status=2)
    assert "all 2 tasks of mpifarm_workdir/stdin.txt are finished" in text
    lines.write_text("echo three")
    text = desk.submit("-t", "5", "-", stdin=lines, status=2)
    assert "standard input has other lines than mpifarm_workdir/stdin.txt has" in text
    text = desk.submit("-t", "5", "-", "-w", "new", status=2)
    assert "standard input has no line: there is nothing to submit" in text
    assert not (desk.farm.directory / "new").exists()


def test_the_blocks_of_the_pages_about_lists_that_are_no_file(desk):
    need_launcher()
    desk.install("sbatch", "echo 7")
    desk.install("mpifarm", f'exec {sys.executable} -m mpifarm "$@"')
    desk.install("generate", "seq -f './simulate %.0f' 4 5")
    desk.install("srun", 'for w; do shift; [[ $w != -K0 ]] || exec "$@"; done')
    desk.farm.directory.joinpath("simulate").write_text('#!/bin/sh\necho "$@" >>out\n')
    desk.farm.directory.joinpath("simulate").chmod(0o755)
    workdir = desk.farm.directory / "mpifarm_workdir"
    in_job = {"SLURM_JOB_ID": "7"}
    of_arguments = take_block("arguments.md", "mpifarm submit -N 8").lines
    of_submit = take_block(
        "submit.md", "mpifarm submit -N 8 -t 4:00:00 --retries"
    ).lines

    def type_line(line):
        assert_ends(desk.farm.start_command(["/bin/bash", "-c", line]), 0)

    for line in (of_submit[0], of_arguments[0]):
        shutil.rmtree(workdir, ignore_errors=True)
        type_line(line)
        assert_ends(desk.start(workdir / "job.slurm", **in_job), 0)
    type_line(of_arguments[1])
    assert (workdir / "stdin.txt").read_text().endswith("\n./simulate --long 5\n")
    shutil.rmtree(workdir)
    type_line(of_submit[1])
    assert_ends(desk.start(workdir / "job.slurm", **in_job), 0)
    ran = (desk.farm.directory / "out").read_text().split()
    assert sorted(ran) == sorted("12312345")


def test_the_block_for_a_sites_own_pages_goes_on_where_a_job_ended(desk):
    need_launcher()
    modules = desk.farm.directory / "module"
    modules.mkdir()
    program = modules / "mpifarm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mpifarm "$@"\n')
    program.chmod(0o755)
    desk.install("sbatch", "echo 7")
    desk.install("srun", 'for w; do shift; [[ $w != -K0 ]] || exec "$@"; done')
    load, *lines = take_block("site-staff.md", "module load").lines
    module = f'module() {{ [[ "$*" != "load mpifarm" ]] || PATH={modules}:$PATH; }}'

    def type_line(line):
        typed = f"{module}; {load}; {line}"
        child = desk.farm.start_command(["/bin/bash", "-c", typed])
        assert_ends(child, 0)
        return child.text()

    def start_job():
        return desk.start(desk.farm.workdir / "job.slurm", SLURM_JOB_ID="7")

    submit, status, why, again = lines
    cpus = len(os.sched_getaffinity(0))
    waits = "touch started.$PROC_NUMBER; until [ -e go ]; do sleep 0.05; done"
    desk.farm.write_list(["cat nothing", *[waits] * cpus, "true"])
    assert "-A PROJECT" in submit
    assert "job 7 is submitted" in type_line(submit)
    job = start_job()
    desk.farm.wait_for_marks("started", cpus)
    type_line("mpifarm drain tasks.txt")
    desk.farm.allow()
    assert_ends(job, 75)
    assert f"{cpus} finished, 1 failed, 0 running, 1 waiting" in type_line(status)
    assert "cat: nothing: No such file" in type_line(why)
    type_line(again)
    assert_ends(start_job(), 1)
    assert desk.farm.finished() == [*range(1, cpus + 2)]


def test_a_job_with_arguments_that_is_refused_leaves_no_list(desk):
    desk.install("sbatch", "exit 1")
    text = desk.submit("-t", "5", "echo", ":::", "a", "b", status=2)
    assert "Slurm refused the job: sbatch ended with 1" in text
    assert not (desk.farm.directory / "mpifarm_workdir").exists()


LEAVE_TASKS = (75, 9, 14, 137)
"""What a farm that was stopped ends with, and launchers of which a rank was killed."""


@pytest.mark.parametrize("status", [0, 1, 2, 3, 70, 126, 127, *LEAVE_TASKS])
def test_a_job_goes_on_after_what_leaves_tasks(desk, status):
    desk.farm.write_list(["true"])
    text = desk.submit("--print", "-t", "5", "--until-done", "tasks.txt")
    farm = f"farm=(bash -c 'exit {status}' farm)"
    script = desk.farm.directory / "job"
    script.write_text(re.sub(r"(?m)^farm=.*$", farm, text))
    desk.install("scontrol", 'echo "$1" >>"$SPOOL/asked"')
    desk.install("squeue", "true")
    job = desk.start(script, SLURM_JOB_ID="7")
    assert_ends(job, status)
    goes_on = status in LEAVE_TASKS
    assert ("the job goes on as job 7 again" in job.text()) == goes_on
    assert ((desk.spool / "asked").exists()) == goes_on


def test_a_job_that_slurm_does_not_requeue_says_what_to_do(desk):
    desk.farm.write_list(["true"])
    script = desk.farm.directory / "job"
    script.write_text(desk.submit("--print", "-t", "5", "--until-done", "tasks.txt"))
    record_nothing(desk.farm)
    desk.install("scontrol", '[ "$1" = update ]')
    desk.install("squeue", "true")
    job = desk.start(script, SLURM_JOB_ID="7")
    assert_ends(job, 75)
    assert "not requeued by Slurm: submit the same again" in job.text()


# ---- PBS and LSF ---------------------------------------------------------------------

PBS_JOB = {"PBS_JOBID": "7.server", "PBS_ENVIRONMENT": "PBS_BATCH"}
LSF_JOB = {"LSB_JOBID": "7"}
VARIABLES = {"pbs": PBS_JOB, "lsf": LSF_JOB}
CPUS = {"pbs": ["-c", "2"], "lsf": []}


@pytest.mark.parametrize("kind", ["pbs", "lsf"])
@pytest.mark.parametrize(
    "options",
    [
        ("--array", "3", "-A", "phys", "-p", "long", "--after", "12"),
        ("--until-done", "--after", "any:12"),
        ("--after", "any:12", "--after", "13", "--after", "any:14"),
    ],
    ids=" ".join,
)
def test_qsub_and_bsub_understand_each_form(desk, kind, options):
    desk.farm.write_list(["true"])
    desk.install_fake(kind)
    text = desk.submit("-t", "4:00:00", *CPUS[kind], *options, "tasks.txt")
    assert {"pbs": "job 7.server is", "lsf": "job 7 is"}[kind] in text
    assert len(desk.kept()) == 1


@pytest.mark.parametrize("kind", ["pbs", "lsf"])
def test_qsub_and_bsub_say_why_they_refuse_a_job(desk, kind):
    desk.farm.write_list(["true"])
    desk.install_fake(kind)
    words = ("-t", "5", *CPUS[kind], "--directive", "--nonsense", "tasks.txt")
    text = desk.submit(*words, status=2)
    assert "illegal option" in text
    assert not desk.farm.workdir.exists()


@pytest.mark.parametrize("kind", ["pbs", "lsf"])
def test_a_farm_on_one_node_stops_at_usr1_and_goes_on(desk, kind):
    desk.farm.write_list([WAITS] * 2)
    desk.install_fake(kind)
    desk.submit("-t", "1h", *CPUS[kind], "tasks.txt", "-n", "2")
    job = desk.start(desk.kept()[0], **VARIABLES[kind], BASH_ENV=old(desk))
    desk.farm.wait_for_marks("started", 2)
    job.send_signal(signal.SIGUSR1)
    assert_ends(job, 75)
    assert desk.farm.to_process() == [0, 1]
    desk.farm.allow()
    assert_ends(desk.start(desk.kept()[0], **VARIABLES[kind]), 0)
    desk.farm.assert_all_finished()


def old(desk):
    """A file for ``BASH_ENV``: a script passes a signal on at once."""
    path = desk.farm.directory / "old"
    path.write_text("SECONDS=60\n")
    return str(path)


@pytest.mark.parametrize("kind", ["pbs", "lsf"])
def test_a_farm_over_several_nodes_is_started_by_the_mpirun_of_its_python(desk, kind):
    launcher = need_launcher()
    desk.farm.environment |= launcher.variables
    desk.farm.write_list(["true"] * 8)
    desk.install_fake(kind)
    desk.submit("-t", "1h", "-N", "2", *CPUS[kind], "tasks.txt", "-n", "2")
    nodes = desk.farm.directory / "nodes"
    nodes.write_text("localhost\nlocalhost\n")
    of_nodes = {"PBS_NODEFILE": str(nodes), "LSB_DJOB_NUMPROC": "2"}
    job = desk.start(desk.kept()[0], **VARIABLES[kind], **of_nodes)
    assert_ends(job, 0)
    outputs = [*desk.farm.workdir.glob("job-7.out")] if kind == "pbs" else [job.output]
    assert "2 ranks of 2 workers" in outputs[0].read_text()
    desk.farm.assert_all_finished()


def record_nothing(farm):
    """Let each start end with 75 at once."""
    farm.workdir.mkdir(exist_ok=True)
    (farm.workdir / "drain").touch()


def test_a_job_of_lsf_is_requeued_until_four_runs_have_recorded_nothing(desk):
    desk.farm.write_list(["true"] * 2)
    desk.install_fake("lsf")
    desk.submit("-t", "1h", "--until-done", "tasks.txt")
    (desk.farm.workdir / "job-7.idle").write_text("2\n")
    record_nothing(desk.farm)
    job = desk.start(desk.kept()[0], **LSF_JOB)
    assert_ends(job, 75)
    assert "the job goes on as job 7 again, back in the queue" in job.text()
    record_nothing(desk.farm)
    job = desk.start(desk.kept()[0], **LSF_JOB)
    assert_ends(job, 1)
    assert "not requeued, because the last four runs recorded nothing" in job.text()
    assert not [*desk.farm.workdir.glob("*.idle")]
    (desk.farm.workdir / "drain").unlink(missing_ok=True)
    assert_ends(desk.start(desk.kept()[0], **LSF_JOB), 0)


def test_a_job_of_lsf_whose_runs_can_t_be_counted_is_not_requeued_for_ever(desk):
    desk.farm.write_list(["true"] * 2)
    desk.install_fake("lsf")
    desk.submit("-t", "1h", "--until-done", "tasks.txt")
    (desk.farm.workdir / "job-7.idle").mkdir()  # as little to be written as a full disk
    record_nothing(desk.farm)
    job = desk.start(desk.kept()[0], **LSF_JOB)
    assert_ends(job, 1)
    assert "not requeued, because the disk does not keep how many runs" in job.text()


def test_a_chain_within_a_chain_of_another_list_counts_for_itself(desk):
    desk.farm.write_list(["true"] * 2)
    desk.install_fake("pbs")
    desk.install("qdel", 'echo "$*" >>"$SPOOL/deleted"')
    desk.submit("-t", "1h", "-c", "2", "--until-done", "tasks.txt", "-n", "2")
    of_another = {"FARM_CHAIN_RECORDED": "9", "FARM_CHAIN_IDLE": "3"}
    named = {**PBS_JOB, **of_another, "FARM_CHAIN_OF": "/elsewhere other_workdir"}
    assert_ends(desk.start(desk.kept()[0], **named), 0)
    job = desk.start(desk.kept()[0], **PBS_JOB, **of_another)
    assert_ends(job, 75)
    text = (desk.farm.workdir / "job-7.out").read_text()
    assert "its last four links recorded nothing" in text


def test_a_chain_of_pbs_submits_its_successor_and_ends_with_the_list(desk):
    desk.farm.write_list([WAITS] * 2)
    desk.install_fake("pbs")
    desk.install("qdel", 'echo "$*" >>"$SPOOL/deleted"')
    desk.submit("-t", "1h", "-c", "2", "--until-done", "tasks.txt", "-n", "2")
    job = desk.start(desk.kept()[0], **PBS_JOB, BASH_ENV=old(desk))
    desk.farm.wait_for_marks("started", 2)
    wait_until(lambda: len(desk.kept()) == 2)
    assert (desk.spool / "8.words").read_text() == "-V -W depend=afterany:7.server"
    job.send_signal(signal.SIGUSR1)
    assert_ends(job, 75)
    assert not (desk.spool / "deleted").exists()
    said = (desk.farm.workdir / "job-7.out").read_text()
    assert "the job goes on as job 8.server, the next of the chain" in said
    desk.farm.allow()
    second = {**PBS_JOB, "PBS_JOBID": "8.server", "FARM_CHAIN_RECORDED": "0"}
    assert_ends(desk.start(desk.kept()[1], **second, FARM_CHAIN_IDLE="0"), 0)
    desk.farm.assert_all_finished()
    assert (desk.spool / "deleted").read_text() == "9.server\n"
    assert "goes on as" not in (desk.farm.workdir / "job-8.out").read_text()


@pytest.mark.parametrize(
    ("idle", "qsub", "sentence"),
    [
        ("2", "exit 1", "no next job of the chain could be submitted: submit the same"),
        (
            "2",
            "echo 8.server",
            "the job goes on as job 8.server, the next of the chain",
        ),
        ("3", "echo 8.server", "the chain ends, because its last four links recorded"),
    ],
)
def test_a_link_that_leaves_tasks_says_how_the_chain_goes_on(
    desk, idle, qsub, sentence
):
    desk.farm.write_list(["true"])
    desk.install_fake("pbs")
    desk.install("qdel", 'echo "$*" >>"$SPOOL/deleted"')
    desk.submit("-t", "1h", "-c", "2", "--until-done", "tasks.txt")
    desk.install("qsub", qsub)
    record_nothing(desk.farm)
    counted = {"FARM_CHAIN_RECORDED": "0", "FARM_CHAIN_IDLE": str(int(idle) - 1)}
    assert_ends(desk.start(desk.kept()[0], **PBS_JOB, **counted), 75)
    (said,) = [
        line
        for line in (desk.farm.workdir / "job-7.out").read_text().splitlines()
        if line.startswith("job.pbs: ")
    ]
    assert sentence in said
    assert (desk.spool / "deleted").exists() == (idle == "3")


# ---- Grid Engine ---------------------------------------------------------------------


GRID_ENGINE_JOB = {"JOB_ID": "7", "SGE_TASK_ID": "undefined", "NSLOTS": "1"}


def start_on_grid_engine(desk):
    """Start a job that goes on until all is done; return when it is busy."""
    desk.farm.write_list([WAITS] * 2)
    desk.install("qsub", 'cp "$2" "$SPOOL/7.script"; echo 7')
    desk.install("qconf", "exit 1")
    desk.scheduler = ["--scheduler", "sge"]
    desk.submit("-t", "1h", "-c", "1", "--until-done", "tasks.txt", "-n", "2")
    job = desk.start(desk.kept()[0], **GRID_ENGINE_JOB, BASH_ENV=old(desk))
    desk.farm.wait_for_marks("started", 2)
    return job


def test_a_job_of_grid_engine_goes_back_into_the_queue(desk):
    job = start_on_grid_engine(desk)
    job.send_signal(signal.SIGUSR1)
    assert_ends(job, 99)
    assert "the job goes on as job 7 again, back in the queue" in job.text()
    assert desk.farm.to_process() == [0, 1]
    desk.farm.allow()
    assert_ends(desk.start(desk.kept()[0], **GRID_ENGINE_JOB), 0)
    desk.farm.assert_all_finished()


def test_a_job_of_grid_engine_that_is_deleted_does_not_say_that_it_goes_on(desk):
    job = start_on_grid_engine(desk)
    job.send_signal(signal.SIGUSR2)  # qdel's warning, and that of a limit at its end
    assert_ends(job, 75)
    assert "not requeued, because the job was deleted or reached its" in job.text()
    assert "goes on as" not in job.text()
    assert desk.farm.to_process() == [0, 1]
    assert not [*desk.farm.workdir.glob("*.idle")]
