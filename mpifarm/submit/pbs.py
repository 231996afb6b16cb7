"""Job scripts for PBS Professional and OpenPBS.

Rules of this file: pure.  By the manuals; not run on a real PBS.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mpifarm.model.durations import clock_of
from mpifarm.submit.by_mpirun import Dialect, write_by_mpirun
from mpifarm.submit.request import GoingOn, JobRequest, Launcher
from mpifarm.submit.shell import (
    name_end,
    quote_word,
)

_DIALECT: Final = Dialect(
    name="multinode.pbs",
    mark="#PBS",
    submit="qsub",
    ranks='"$(wc -l <"$PBS_NODEFILE")"',
    hint="""\
# One rank for each line of the node file.  An mpirun that wasn't built for PBS wants
# --hostfile "$PBS_NODEFILE".  --bind-to none: else Open MPI gives a rank one core.""",
    signal="`qsig -s USR1` reaches this shell.",
    option='--deadline "$end"',
    enter=('cd "${PBS_O_WORKDIR:-.}" || exit',),
    chain_before='successor=$(qsub -V -W depend=afterany:"$PBS_JOBID" {path})',
    chain_cancel='qdel "$successor"',
)


def write_script(request: JobRequest) -> str:
    """Return the script of a job."""
    comment = "by walltime, in seconds since 1970"
    dialect = _DIALECT._replace(limit=(name_end(request), comment))
    return write_by_mpirun(
        request, dialect, _directives(request), _write_output(request)
    )


def waits_for_jobs(directives: Iterable[str]) -> bool:
    """Return whether directives name jobs that have to end first."""
    return any(map(_DEPEND.search, directives))


_DEPEND: Final = re.compile(r"""(?:^|\s)-W\s*["']?(?:\S*,)?\s*depend=""")


def _write_output(request: JobRequest) -> list[str]:
    """Return the lines that write the output of a job while it runs."""
    if request.source is None or request.names_output:
        return []
    workdir = quote_word(request.source.workdir)
    member = "_$PBS_ARRAY_INDEX" if request.array else ""
    return [
        "number=${PBS_JOBID%%[!0-9]*}",
        "# PBS itself shows what a job has printed only at its end.",
        f'exec >>{workdir}/job-"${{number}}{member}".out 2>&1',
        "",
    ]


def _directives(request: JobRequest) -> Iterator[str]:
    yield f"-N {request.name}"
    yield "-j oe"
    yield "-S /bin/bash"
    yield f"-l walltime={clock_of(request.seconds)}"
    if request.nodes is not None:
        ranks = "" if request.launcher is Launcher.NONE else ":mpiprocs=1"
        yield f"-l select={request.nodes}:ncpus={request.cpus}{ranks}"
        if request.nodes > 1:
            yield "-l place=scatter"
    if request.array:
        yield f"-J 1-{request.array}"
    if request.account:
        yield f"-A {request.account}"
    if request.partition:
        yield f"-q {request.partition}"
    if request.after:
        yield f"-W depend={request.dependency}"
    if request.going_on is GoingOn.CHAIN:
        yield "-r n"  # each start of a link submits a successor
    if request.source is not None:
        yield "-V"
    yield from request.directives
