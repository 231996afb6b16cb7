"""Job scripts for Grid Engine.

Rules of this file: pure.  Seen with Debian's Grid Engine 8.1.9, on one host.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from mpifarm.submit.by_mpirun import Dialect, write_by_mpirun
from mpifarm.submit.request import GoingOn, JobRequest
from mpifarm.submit.shell import (
    name_end,
)

_DIALECT: Final = Dialect(
    name="multinode.sge",
    mark="#$",
    submit="qsub",
    ranks='"$NHOSTS"',
    hint="""\
# One rank on each host.
# --bind-to none: else Open MPI gives a rank one core.""",
    signal="-notify: USR2 comes before the KILL of qdel.",
    signals="USR1 USR2",
    option='--deadline "$end"',
    job="$JOB_ID",
    last_signal="USR2",
    requeue="exit 99  # Grid Engine puts a job that ends so back into the queue",
)


def write_script(request: JobRequest) -> str:
    """Return the script of a job."""
    comment = "by h_rt, in seconds since 1970"
    dialect = _DIALECT._replace(limit=(name_end(request), comment))
    return write_by_mpirun(request, dialect, _directives(request))


def _directives(request: JobRequest) -> Iterator[str]:
    yield f"-N {request.name}"
    yield "-cwd -j y -S /bin/bash -notify"
    yield f"-l h_rt={request.seconds}"
    if request.environment and request.nodes is not None:
        slots = request.nodes * (request.cpus or 1)
        yield f"-pe {request.environment} {slots}"
    if request.array:
        yield f"-t 1-{request.array}"
    if request.account:
        yield f"-A {request.account}"
    if request.partition:
        yield f"-q {request.partition}"
    if request.after:
        yield f"-hold_jid {','.join(each.job for each in request.after)}"
    if request.going_on is GoingOn.REQUEUE:
        yield "-r y"
    if request.source is not None:
        yield "-V"
    yield from request.directives


def waits_for_jobs(directives: Iterable[str]) -> bool:
    """Return whether directives name jobs that have to end first.

    ``-hold_jid_ad`` names an array.
    """
    words = (word for line in directives for word in line.split())
    return any(word in ("-hold_jid", "-hold_jid_ad") for word in words)
