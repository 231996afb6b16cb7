"""The batch system: which one is here, and what it tells of the job's end.

Rules of this file: in a job its variables say which one it is; outside of one, the
programs on the PATH do, as for ``mpifarm submit``.
"""

import os
import re
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from mpifarm.batch.job import BATCH_SYSTEMS, find_job
from mpifarm.batch.launcher import environment_on_own_node
from mpifarm.commands.doctor.asking import ask_program, first_line
from mpifarm.commands.doctor.findings import Finding, bad, good, note
from mpifarm.commands.options import deadline_of_job
from mpifarm.farm.job_end import JobEnd
from mpifarm.submit.asking import Programs
from mpifarm.submit.systems import PROGRAMS, find_systems

NAME: Final = "batch system"
JOB_SECONDS: Final = 20.0
VERSION_SECONDS: Final = 10.0


class Client(NamedTuple):
    """A program of a batch system, with the option that has it tell its version.

    `version` is the pattern of the line that does, whatever the exit status is: some
    qstat of Grid Engine end with 1.  `tells_end`: whether a farm asks it for the end of
    its job.
    """

    program: str
    option: str
    version: str
    tells_end: bool = True


_CLIENTS: Final[Mapping[str, Client]] = {
    "slurm": Client("squeue", "--version", r"^slurm\S* .*\d.*"),
    "lsf": Client("bjobs", "-V", r"^(?:IBM|Platform|[Oo]pen[Ll]ava)\b.*\d.*"),
    "pbs": Client("qstat", "--version", r"^(?:pbs_version =|[Vv]ersion:).*\d.*"),
    "sge": Client("qstat", "-help", r"^[A-Z][A-Z\d]+ \d\S*$", tells_end=False),
}


class Seen(NamedTuple):
    """What was seen of a batch system outside of a job, and what to do."""

    words: str
    remedy: str


def look_at_batch_system(environ: Mapping[str, str]) -> Finding:
    """Return the batch system, and what it tells of the job's end."""
    if job := find_job(environ):
        return _look_at_job(*job, environ)
    here = Programs(environ).find(PROGRAMS)
    systems = find_systems(here, environ)
    if not systems:
        return good(NAME, "none is here, and this is no job")
    seen = [_look_at_client(system, here) for system in systems]
    remedies = [*dict.fromkeys(each.remedy for each in seen)]
    if others := systems[1:]:
        first, names = BATCH_SYSTEMS[systems[0]], " or ".join(others)
        remedies.append(
            f"mpifarm submit takes {first} unless given --scheduler {names}"
        )
    words = " and ".join(each.words for each in seen)
    return note(NAME, f"{words}; this is no job", "; ".join(remedies))


def _look_at_client(system: str, here: set[str]) -> Seen:
    """Ask the client of a batch system for its version."""
    title, client = BATCH_SYSTEMS[system], _CLIENTS[system]
    if client.program not in here:
        return Seen(f"{title} without {client.program}", _remedy(title, client))
    env = environment_on_own_node(os.environb)
    argv = [client.program, client.option]
    printed, fault = ask_program(argv, env, VERSION_SECONDS)
    if version := re.search(client.version, printed, re.MULTILINE):
        remedy = _IN_A_JOB if client.tells_end else _NOT_ASKED
        return Seen(f"{title} ({client.program}: {version[0]})", remedy)
    why = fault or first_line(printed)
    words = f"{title}, whose {client.program} tells no version ({why})"
    return Seen(words, _remedy(title, client))


_IN_A_JOB: Final = "give mpifarm doctor in a job, too, for what it tells of its end"
_NOT_ASKED: Final = (
    "no farm asks Grid Engine for the end of its job: give --deadline, as mpifarm"
    " submit does"
)


def _remedy(title: str, client: Client) -> str:
    """Return what to do about a client that is missing or does not work."""
    remedy = f"ask your site how {title} is used here"
    if not client.tells_end:
        return remedy
    return f"{remedy}: without {client.program}, no farm learns when its job ends"


def _look_at_job(system: str, job: str, environ: Mapping[str, str]) -> Finding:
    title = BATCH_SYSTEMS[system]
    end = JobEnd(deadline_of_job(environ), environ)
    until = time.monotonic() + JOB_SECONDS
    try:
        while not end.poll(time.monotonic()) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        end.close()
    news = " ".join(end.take_news()) or f"no answer in {JOB_SECONDS:g} s"
    news = news.replace(f"{title} job {job} ", "it ")
    if end.is_unknown:
        seen = f"{title} job {job}; {news.partition(': give ')[0]}"
        remedy = "give --deadline TIME, or the end of the job cuts the farm off"
        return bad(NAME, seen, remedy)
    return good(NAME, f"{title} job {job}; {news}")
