"""Job scripts for LSF.

Rules of this file: pure.  By the manuals; not run on a real LSF.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mpifarm.submit.by_mpirun import Dialect, write_by_mpirun
from mpifarm.submit.request import GoingOn, JobRequest

_DIALECT: Final = Dialect(
    name="multinode.lsf",
    mark="#BSUB",
    submit="bsub <",
    ranks='"$LSB_DJOB_NUMPROC"',
    hint="""\
# One rank for each slot.  An mpirun that wasn't built for LSF wants
# --hostfile "$LSB_DJOB_HOSTFILE".
# --bind-to none: else Open MPI gives a rank one core.""",
    signal="The signal may reach this shell only.",
    job="$LSB_JOBID",
    requeue="exit 75  # -Q: LSF puts a job that ends so back into the queue",
)


def write_script(request: JobRequest) -> str:
    """Return the script of a job."""
    return write_by_mpirun(request, _DIALECT, _directives(request))


def _directives(request: JobRequest) -> Iterator[str]:
    members = f'"{request.name}[1-{request.array}]"' if request.array else request.name
    yield f"-J {members}"
    yield f"-o {request.name}.%J{'.%I' if request.array else ''}.out"
    minutes = request.seconds // 60
    yield f"-W {minutes // 60}:{minutes % 60:02}"
    yield _size(request)
    yield f"-wt {-(-request.lead // 60)} -wa USR1"
    if request.account:
        yield f"-P {request.account}"
    if request.partition:
        yield f"-q {request.partition}"
    if request.after:
        ends = (
            f"{'ended' if each.is_any else 'done'}({each.job})"
            for each in request.after
        )
        yield f'-w "{" && ".join(ends)}"'
    if request.going_on is GoingOn.REQUEUE:
        yield '-r -Q "75"'
    yield from request.directives


def waits_for_jobs(directives: Iterable[str]) -> bool:
    """Return whether directives name jobs that have to end first."""
    return any(map(_WAIT.search, directives))


_WAIT: Final = re.compile(r"(?:^|\s)-w(?![at]\b)")
"""The option -w, which is neither -wa nor -wt."""


def _size(request: JobRequest) -> str:
    if request.cpus is not None:
        return f'-n {request.cpus} -R "span[hosts=1]"'
    nodes = "" if request.nodes is None else f"-n {request.nodes} "
    return f'{nodes}-R "span[ptile=1]" -x'
