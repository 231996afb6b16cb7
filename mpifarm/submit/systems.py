"""The batch systems in one table: how each gets a script, and how its jobs are found.

Rules of this file: pure.  A command for the user can be pasted into a shell.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from mpifarm.submit import grid_engine, lsf, pbs, slurm
from mpifarm.submit.request import GoingOn, JobRequest


class Commands(NamedTuple):
    """Commands for the user of a job: one that shows its output, one that ends it."""

    log: str
    cancel: str


class JobId(NamedTuple):
    """The id of a job; `cluster` is that of Slurm, where the user has named one.

    `number` is "" where no job was submitted.
    """

    number: str
    cluster: str = ""


class System(NamedTuple):
    """A batch system.

    `program` submits: `submit` are its first words, and the script's path follows, or
    is its standard input (`reads_stdin`).  `look` returns the command that lists the
    user's jobs on clusters, "" for the one that is here.  `parse` returns the job's id
    from what `program` prints.  `ending` is the ending of a script's name.
    """

    title: str
    program: str
    submit: tuple[str, ...]
    look: Callable[[str], str]
    ending: str
    write: Callable[[JobRequest], str]
    parse: Callable[[str], JobId]
    find_commands: Callable[[JobId, JobRequest], Commands]
    waits: Callable[[Iterable[str]], bool]
    """Returns whether directives name jobs that have to end first, by `waiting`."""
    waiting: str
    reads_stdin: bool = False
    overrides: Callable[[JobRequest], frozenset[str]] = lambda _: frozenset()
    """Returns the variables that must not be there when a job is submitted: the program
    would heed them in place of directives of the script."""


# ---- the answers of the programs that submit -----------------------------------------


def parse_sbatch(text: str) -> JobId:
    """Return the job of ``sbatch --parsable``, which prints ``<job>[;<cluster>]``."""
    return JobId(*_last_match(r"(\d+)(?:;(\S+))?", text))


def parse_pbs_qsub(text: str) -> JobId:
    """Return the job of PBS's qsub, which prints ``123.server`` or ``123[].server``."""
    return JobId(*_last_match(r"(\d+(?:\[\])?(?:\.\S+)?)", text))


def parse_bsub(text: str) -> JobId:
    """Return the job of a line ``Job <123> is submitted to queue <normal>``."""
    return JobId(*_last_match(r"Job <(\d+)> is submitted.*", text))


def parse_grid_engine_qsub(text: str) -> JobId:
    """Return the job of ``qsub -terse``, which prints ``123`` or ``123.1-4:1``."""
    return JobId(*_last_match(r"(\d+)(?:\.\d+-\d+:\d+)?", text))


def _last_match(pattern: str, text: str) -> tuple[str, ...]:
    """Return the groups of the last line that has a pattern, or an empty word."""
    found = [re.fullmatch(pattern, line.strip()) for line in text.splitlines()]
    return next((each.groups("") for each in reversed(found) if each), ("",))


# ---- commands for the user -----------------------------------------------------------


def _look_at_slurm(clusters: str) -> str:
    return f'squeue{_on(clusters)} -u "$USER"'


def _on(clusters: str) -> str:
    """Return the option that names a cluster to a program of Slurm."""
    return f" -M {shlex.quote(clusters)}" if clusters else ""


def _of_slurm(job: JobId, request: JobRequest) -> Commands:
    on = _on(job.cluster)
    by_name = request.going_on is GoingOn.CHAIN
    which = f"--name={shlex.quote(request.name)}" if by_name else job.number
    cancel = f"scancel{on} {which}"
    if "output" in slurm.name_options(request.directives):
        return Commands(f"scontrol{on} show job {job.number} | grep StdOut", cancel)
    pattern = slurm.output_pattern(request)
    if not pattern:
        member = "_*" if request.array else ""
        return Commands(f"tail -F slurm-{job.number}{member}.out", cancel)
    return Commands(_follow(request, f"job-{job.number}"), cancel)


def _follow(request: JobRequest, stem: str) -> str:
    """Return the command that follows an output in the workdir."""
    assert request.source is not None
    path = f"{shlex.quote(request.source.workdir)}/{stem}"
    return f"tail -F {path}_*.out" if request.array else f"tail -F {path}.out"


def _of_pbs(job: JobId, request: JobRequest) -> Commands:
    named = shlex.quote(job.number)
    cancel = f"qdel {named}"
    if request.going_on is GoingOn.CHAIN:
        cancel = f"qdel $(qselect -N {request.name})"
    if request.names_output:
        return Commands(f"qstat -f {named} | grep -A 1 Output_Path", cancel)
    number = re.split(r"[.\[]", job.number)[0]
    return Commands(_follow(request, f"job-{number}"), cancel)


def _of_lsf(job: JobId, request: JobRequest) -> Commands:
    member = f"'{job.number}[1]'" if request.array else job.number
    return Commands(f"bpeek -f {member}", f"bkill {job.number}")


def _of_grid_engine(job: JobId, request: JobRequest) -> Commands:
    assert request.source is not None
    cancel = f"qdel {job.number}"
    if request.names_output:
        return Commands(f"qstat -j {job.number} | grep stdout_path_list", cancel)
    path = shlex.quote(os.path.join(request.source.directory, request.name))
    output = f"{path}.o{job.number}{'.*' if request.array else ''}"
    return Commands(f"tail -F {output}", cancel)


SYSTEMS: Final[Mapping[str, System]] = {
    "slurm": System(
        *("Slurm", "sbatch", ("sbatch", "--parsable"), _look_at_slurm, "slurm"),
        *(slurm.write_script, parse_sbatch, _of_slurm),
        *(slurm.waits_for_jobs, "--dependency"),
        overrides=slurm.find_overriding,
    ),
    "pbs": System(
        *("PBS", "qsub", ("qsub",), lambda _: "qstat", "pbs"),
        *(pbs.write_script, parse_pbs_qsub, _of_pbs),
        *(pbs.waits_for_jobs, "-W depend="),
    ),
    "lsf": System(
        *("LSF", "bsub", ("bsub",), lambda _: "bjobs", "lsf"),
        *(lsf.write_script, parse_bsub, _of_lsf),
        *(lsf.waits_for_jobs, "-w"),
        reads_stdin=True,
    ),
    "sge": System(
        *("Grid Engine", "qsub", ("qsub", "-terse"), lambda _: "qstat", "sge"),
        *(grid_engine.write_script, parse_grid_engine_qsub, _of_grid_engine),
        *(grid_engine.waits_for_jobs, "-hold_jid"),
    ),
}
"""The batch systems, by their names behind ``--scheduler``."""


def find_systems(programs: set[str], environ: Mapping[str, str]) -> list[str]:
    """Return the names of the batch systems that have one of the `programs`.

    The first is that which gets a job unless the user names another.  The qsub and
    qstat of Grid Engine are told from those of PBS by qconf or SGE_ROOT.
    """
    has_qconf = "qconf" in programs or "SGE_ROOT" in environ
    other = "pbs" if has_qconf else "sge"
    return [
        name
        for name in ("slurm", "lsf", "pbs", "sge")
        if name != other and not programs.isdisjoint(_PROGRAMS_OF[name])
    ]


_PROGRAMS_OF: Final = {
    "slurm": ("sbatch", "squeue"),
    "lsf": ("bsub", "bjobs"),
    "pbs": ("qsub", "qstat"),
    "sge": ("qsub", "qstat"),
}

SUBMITTING: Final = ("sbatch", "bsub", "qsub", "qconf")
"""The programs by which `find_systems` finds what takes jobs here."""
PROGRAMS: Final = (*SUBMITTING, "squeue", "bjobs", "qstat")
"""All programs that `find_systems` knows."""
