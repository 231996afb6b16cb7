"""What the doctor says of the batch system, in a job and outside of one.

Rules of this file: the programs of batch systems are scripts on the PATH that print
what the real ones do (`batch_fakes`).
"""

import os
import re
from pathlib import Path

import pytest

from mpifarm.commands.doctor import batch_system
from mpifarm.commands.doctor.batch_system import look_at_batch_system
from mpifarm.commands.doctor.findings import Finding, Verdict, bad, good, note
from tests.process.batch_fakes import find_client

IN_A_JOB = "give mpifarm doctor in a job, too, for what it tells of its end"
NO_END = (
    "no farm asks Grid Engine for the end of its job: give --deadline, as mpifarm"
    " submit does"
)
DEADLINE = "give --deadline TIME, or the end of the job cuts the farm off"

JOBS = {
    "slurm": ({"SLURM_JOB_ID": "17"}, "Slurm job 17"),
    "pbs": ({"PBS_JOBID": "7.server"}, "PBS job 7.server"),
    "torque": ({"PBS_JOBID": "7.server"}, "PBS job 7.server"),
    "lsf": ({"LSB_JOBID": "7", "LSB_JOBINDEX": "0"}, "LSF job 7"),
}


class Machine:
    """A machine that has the programs which a test puts there, and those of Debian."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs = root / "bin"
        self.programs.mkdir()
        self.environ = {"PATH": f"{self.programs}"}
        # /bin has the programs of the scripts; what is found, `environ` says.
        monkeypatch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")

    def has(self, name: str, text: str = "exit 1", mode: int = 0o755) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)

    def has_client(self, kind: str) -> str:
        """Put the client of a batch system there.  Return its name."""
        client = find_client(kind)
        self.has(client.name, client.script())
        if kind == "sge":
            self.has("qconf")
        return client.name

    def look(self, **variables: str) -> Finding:
        return look_at_batch_system({**self.environ, **variables})


@pytest.fixture
def here(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


# ---- outside of a job ----------------------------------------------------------------


def test_a_machine_without_a_batch_system_is_good(here):
    assert here.look() == good("batch system", "none is here, and this is no job")


@pytest.mark.parametrize(
    ("kind", "told", "remedy"),
    [
        ("slurm", "Slurm (squeue: slurm-wlm 22.05.8)", IN_A_JOB),
        ("pbs", "PBS (qstat: pbs_version = 2022.1.1)", IN_A_JOB),
        ("torque", "PBS (qstat: Version: 6.1.2)", IN_A_JOB),
        (
            *("lsf", "LSF (bjobs: IBM Spectrum LSF Standard 10.1.0.14, Apr 20 2023)"),
            IN_A_JOB,
        ),
        ("sge", "Grid Engine (qstat: SGE 8.1.9)", NO_END),
    ],
)
def test_the_batch_system_is_named_with_its_version(here, kind, told, remedy):
    here.has_client(kind)
    assert here.look() == note("batch system", f"{told}; this is no job", remedy)


def test_a_grid_engine_is_told_from_pbs_by_its_root_as_by_submit(here):
    here.has_client("sge")
    (here.programs / "qconf").unlink()
    assert "Grid Engine (qstat: SGE 8.1.9)" in here.look(SGE_ROOT="/sge").seen


@pytest.mark.parametrize(
    ("first", "others", "option"),
    [
        ("slurm", ["lsf"], "--scheduler lsf"),
        ("slurm", ["pbs"], "--scheduler pbs"),
        ("lsf", ["sge"], "--scheduler sge"),
        ("slurm", ["lsf", "sge"], "--scheduler lsf or sge"),
    ],
)
def test_several_batch_systems_are_named_and_that_of_submit(
    here, first, others, option
):
    programs = [here.has_client(kind) for kind in (first, *others)]
    finding = here.look()
    assert finding.verdict is Verdict.NOTE
    assert re.findall(r"\((\w+): ", finding.seen) == programs
    title = {"slurm": "Slurm", "lsf": "LSF"}[first]
    assert finding.remedy.startswith(f"{IN_A_JOB}; ")
    assert finding.remedy.endswith(
        f"; mpifarm submit takes {title} unless given {option}"
    )


def ask_site(title: str, program: str) -> str:
    return (
        f"ask your site how {title} is used here: without {program}, no farm learns"
        " when its job ends"
    )


@pytest.mark.parametrize(
    ("name", "title", "submits"),
    [
        ("squeue", "Slurm", "sbatch"),
        ("bjobs", "LSF", "bsub"),
        ("qstat", "PBS", "qsub"),
    ],
)
def test_a_client_that_is_missing_is_told_with_what_it_is_for(
    here, name, title, submits
):
    here.has(submits)
    here.has(name, mode=0o644)  # a file that can't be executed is none
    remedy = ask_site(title, name)
    assert here.look() == note(
        "batch system", f"{title} without {name}; this is no job", remedy
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo 'squeue: error: no config' >&2; exit 1", "squeue: error: no config"),
        ("echo 'usage: squeue 2 words'", "usage: squeue 2 words"),
        ("exit 1", "it printed nothing"),
        ("kill -9 $$", "it printed nothing"),
        ("exec /bin/sleep 1000", "no answer in 0.3 s"),
    ],
)
def test_a_client_that_fails_or_hangs_tells_no_version(here, monkeypatch, text, why):
    seconds = 0.3 if "sleep" in text else 60.0
    monkeypatch.setattr(batch_system, "VERSION_SECONDS", seconds)
    here.has("squeue", text)
    finding = here.look()
    assert finding.verdict is Verdict.BAD
    assert finding.seen.startswith(f"Slurm, whose squeue tells no version ({why}")
    assert finding.remedy == ask_site("Slurm", "squeue")


@pytest.mark.parametrize(
    ("kind", "version", "asked"),
    [
        ("slurm", "Slurm (squeue: slurm-wlm 22.05.8)", r"squeue --user=\d+ .*"),
        ("pbs", "PBS (qstat: pbs_version = 2022.1.1)", "qstat -B"),
        (
            "lsf",
            "LSF (bjobs: IBM Spectrum LSF Standard 10.1.0.14, Apr 20 2023)",
            "bjobs",
        ),
        ("sge", "Grid Engine (qstat: SGE 8.1.9)", "qstat -g c"),
    ],
)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo 'unable to contact the server' >&2; exit 1", "unable to contact the"),
        ("exec /bin/sleep 1000", "no answer in 0.3 s"),
    ],
)
def test_a_batch_system_whose_server_does_not_answer_is_bad(
    here, monkeypatch, kind, version, asked, text, why
):
    monkeypatch.setattr(batch_system, "SERVER_SECONDS", 0.3)
    client = find_client(kind)
    here.has_client(kind)
    fails = f'[ "$1" = {client.option} ] || {{ {text}; }}'
    here.has(client.name, f"{fails}\n{client.script()}")
    finding = here.look()
    assert finding.verdict is Verdict.BAD
    told = rf"{re.escape(version)}, which does not answer {asked} \({why}.*\); this is"
    assert re.match(told, finding.seen)
    assert re.match(r"ask your site whether [\w ]+ is down: until ", finding.remedy)


def test_a_second_batch_system_may_be_there_in_name_only(here):
    here.has_client("slurm")
    here.has("qstat", "echo 'Unknown option: version'; exit 2")
    finding = here.look()
    assert finding.verdict is Verdict.NOTE
    assert "PBS, whose qstat tells no version (Unknown option: ver" in finding.seen


def test_a_format_of_the_user_does_not_hide_that_a_server_answers(here, monkeypatch):
    monkeypatch.setenv("SQUEUE_FORMAT2", "name")
    monkeypatch.setenv("LSB_BJOBS_FORMAT", "user")
    refuse = '[ ! "$SQUEUE_FORMAT2$LSB_BJOBS_FORMAT" ] || exit 1\n'
    for kind in ("slurm", "lsf"):
        client = find_client(kind)
        here.has(client.name, refuse + client.script())
    assert here.look().verdict is Verdict.NOTE


def test_a_client_without_its_interpreter_tells_no_version(here):
    here.has("bjobs")
    (here.programs / "bjobs").write_text("#!/nowhere/perl\n")
    assert here.look().seen == (
        "LSF, whose bjobs tells no version (can't be started: No such file or"
        " directory); this is no job"
    )


def test_a_version_counts_whatever_the_exit_status_is(here):
    here.has("qconf")
    here.has("qstat", "echo UGE 8.5.5; echo usage: qstat; exit 1")
    assert "Grid Engine (qstat: UGE 8.5.5)" in here.look().seen


def test_a_grid_engine_that_fails_costs_no_end_of_a_job(here):
    here.has("qconf")
    here.has("qstat", "echo critical error: Please set SGE_ROOT.; exit 1")
    finding = here.look()
    assert "tells no version (critical error: Please set SGE_ROOT.)" in finding.seen
    assert finding.remedy == "ask your site how Grid Engine is used here"


# ---- in a job ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", JOBS)
def test_in_a_job_its_end_is_told(here, kind):
    variables, job = JOBS[kind]
    here.has_client(kind)
    finding = here.look(**variables)
    assert finding.verdict is Verdict.GOOD
    assert re.fullmatch(
        rf"{job}; the job ends at \d\d:\d\d, in (?:[1-4]\d|50) s", finding.seen
    )


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo 'it is down' >&2; exit 1", "it is down"),
        ("exit 1", "an empty answer"),
        ("exec /bin/sleep 1000", ""),
        ("", "No such file or directory"),
    ],
)
def test_a_client_that_does_not_tell_the_end_of_the_job_is_bad(
    here, monkeypatch, kind, text, why
):
    variables, job = JOBS[kind]
    name = find_client(kind).name
    monkeypatch.setattr(batch_system, "JOB_SECONDS", 0.3 if "sleep" in text else 60.0)
    if text:
        here.has(name, text)
    else:
        monkeypatch.setitem(os.environ, "PATH", str(here.programs))
    seen = f"{job}; can't find out when it ends ({name}: {why})"
    if not why:
        seen = f"{job}; no answer in 0.3 s"
    assert here.look(**variables) == bad("batch system", seen, DEADLINE)


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SGE_TASK_ID": "undefined", "JOB_ID": "7"}, "Grid Engine job 7"),
        ({"FLUX_JOB_ID": "f7"}, "Flux job f7"),
        ({"OAR_JOB_ID": "7"}, "OAR job 7"),
        ({"COBALT_JOBID": "7"}, "Cobalt job 7"),
    ],
)
def test_a_batch_system_that_is_not_asked_is_bad_with_the_reason(here, variables, job):
    why = "mpifarm does not ask this batch system"
    seen = f"{job}; can't find out when it ends ({why})"
    assert here.look(**variables) == bad("batch system", seen, DEADLINE)


def test_a_job_without_a_limit_is_good(here):
    here.has("squeue", "echo '17|UNLIMITED|N/A'")
    finding = here.look(SLURM_JOB_ID="17")
    seen = "Slurm job 17; it has no time limit"
    assert finding == good("batch system", seen)


def test_the_end_that_slurm_says_in_a_variable_is_told_without_a_question(here):
    finding = here.look(SLURM_JOB_ID="17", SLURM_JOB_END_TIME="1")
    assert finding.verdict is Verdict.GOOD
    assert "now past" in finding.seen
