"""The batch systems in one table: how each gets a script, and how its jobs are found.

Rules of this file: pure.  A command for the user can be pasted into a shell.
"""

import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from mpifarm.submit import grid_engine, lsf, pbs, slurm
from mpifarm.submit.request import GoingOn, JobRequest


class Commands(NamedTuple):
    """Commands for the user of a job: one that shows its output, one that ends it."""

    log: str
    cancel: str


class System(NamedTuple):
    """A batch system.

    `program` submits: `submit` are its first words, and the script's path follows, or
    is its standard input (`reads_stdin`).  `look` is the command that lists the user's
    jobs.  `parse` returns the job's id from what it
    prints, "" if there is none.  `ending` is the ending of a script's name.
    """

    title: str
    program: str
    submit: tuple[str, ...]
    look: str
    ending: str
    write: Callable[[JobRequest], str]
    parse: Callable[[str], str]
    find_commands: Callable[[str, JobRequest], Commands]
    reads_stdin: bool = False
    overrides: Callable[[JobRequest], frozenset[str]] = lambda _: frozenset()
    """Returns the variables that must not be there when a job is submitted: the program
    would heed them in place of directives of the script."""


# ---- the answers of the programs that submit -----------------------------------------


def parse_sbatch(text: str) -> str:
    """Return the job of ``sbatch --parsable``, which prints ``<job>[;<cluster>]``."""
    return _last_match(r"(\d+)(?:;\S+)?", text)


def parse_pbs_qsub(text: str) -> str:
    """Return the job of PBS's qsub, which prints ``123.server`` or ``123[].server``."""
    return _last_match(r"(\d+(?:\[\])?(?:\.\S+)?)", text)


def parse_bsub(text: str) -> str:
    """Return the job of a line ``Job <123> is submitted to queue <normal>``."""
    return _last_match(r"Job <(\d+)> is submitted.*", text)


def parse_grid_engine_qsub(text: str) -> str:
    """Return the job of ``qsub -terse``, which prints ``123`` or ``123.1-4:1``."""
    return _last_match(r"(\d+)(?:\.\d+-\d+:\d+)?", text)


def _last_match(pattern: str, text: str) -> str:
    found = [re.fullmatch(pattern, line.strip()) for line in text.splitlines()]
    return next((each[1] for each in reversed(found) if each), "")


# ---- commands for the user -----------------------------------------------------------


def _of_slurm(job: str, request: JobRequest) -> Commands:
    by_name = request.going_on is GoingOn.CHAIN
    cancel = ["scancel", f"--name={request.name}" if by_name else job]
    if "output" in slurm.name_options(request.directives):
        shown = f"scontrol show job {job} | grep StdOut"
        return Commands(shown, shlex.join(cancel))
    pattern = slurm.output_pattern(request)
    if not pattern:
        output = f"slurm-{job}_*.out" if request.array else f"slurm-{job}.out"
        return Commands(f"tail -F {output}", shlex.join(cancel))
    assert request.source is not None
    return Commands(_follow(request, f"job-{job}"), shlex.join(cancel))


def _follow(request: JobRequest, stem: str) -> str:
    """Return the command that follows an output in the workdir."""
    assert request.source is not None
    path = f"{shlex.quote(request.source.workdir)}/{stem}"
    return f"tail -F {path}_*.out" if request.array else f"tail -F {path}.out"


def _of_pbs(job: str, request: JobRequest) -> Commands:
    cancel = f"qdel {shlex.quote(job)}"
    if request.going_on is GoingOn.CHAIN:
        cancel = f"qdel $(qselect -N {request.name})"
    number = re.split(r"[.\[]", job)[0]
    return Commands(_follow(request, f"job-{number}"), cancel)


def _of_lsf(job: str, request: JobRequest) -> Commands:
    member = f"'{job}[1]'" if request.array else job
    return Commands(f"bpeek -f {member}", f"bkill {job}")


def _of_grid_engine(job: str, request: JobRequest) -> Commands:
    assert request.source is not None
    path = shlex.quote(os.path.join(request.source.directory, request.name))
    output = f"{path}.o{job}{'.*' if request.array else ''}"
    return Commands(f"tail -F {output}", f"qdel {job}")


SYSTEMS: Final[Mapping[str, System]] = {
    "slurm": System(
        *("Slurm", "sbatch", ("sbatch", "--parsable"), 'squeue -u "$USER"', "slurm"),
        *(slurm.write_script, parse_sbatch, _of_slurm),
        overrides=slurm.find_overriding,
    ),
    "pbs": System(
        *("PBS", "qsub", ("qsub",), "qstat", "pbs"),
        *(pbs.write_script, parse_pbs_qsub, _of_pbs),
    ),
    "lsf": System(
        *("LSF", "bsub", ("bsub",), "bjobs", "lsf"),
        *(lsf.write_script, parse_bsub, _of_lsf),
        reads_stdin=True,
    ),
    "sge": System(
        *("Grid Engine", "qsub", ("qsub", "-terse"), "qstat", "sge"),
        *(grid_engine.write_script, parse_grid_engine_qsub, _of_grid_engine),
    ),
}
"""The batch systems, by their names behind ``--scheduler``."""


def find_system(programs: set[str], environ: Mapping[str, str]) -> str:
    """Return the name of the batch system whose `programs` are here, "" for none.

    The qsub of Grid Engine is told from that of PBS by qconf or SGE_ROOT.
    """
    if "sbatch" in programs:
        return "slurm"
    if "bsub" in programs:
        return "lsf"
    if "qsub" in programs:
        return "sge" if "qconf" in programs or "SGE_ROOT" in environ else "pbs"
    return ""


PROGRAMS: Final = ("sbatch", "bsub", "qsub", "qconf")
"""The programs that `find_system` knows."""
