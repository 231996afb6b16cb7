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
SERVER_SECONDS: Final = 20.0
"""Seconds for an answer of the server: squeue gives one up that is down after 9."""


class Client(NamedTuple):
    """A program of a batch system, with the option that has it tell its version.

    `version` is the pattern of the line that does, whatever the exit status is: some
    qstat of Grid Engine end with 1.  The program tells that without its server, which
    it needs for the words `asks`; `answer` is the pattern of what it prints then.
    `tells_end`: whether a farm asks it for the end of its job.
    """

    program: str
    option: str
    version: str
    asks: tuple[str, ...]
    answer: str
    tells_end: bool = True


_CLIENTS: Final[Mapping[str, Client]] = {
    "slurm": Client(
        *("squeue", "--version", r"^slurm\S* .*\d.*"),
        # Those of this user: a list of all jobs costs the server more.
        *((f"--user={os.getuid()}", "--format=%A"), r"^\s*JOBID"),
    ),
    "lsf": Client(
        *("bjobs", "-V", r"^(?:IBM|Platform|[Oo]pen[Ll]ava)\b.*\d.*"),
        *((), r"^JOBID|No unfinished job"),
    ),
    "pbs": Client(
        *("qstat", "--version", r"^(?:pbs_version =|[Vv]ersion:).*\d.*"),
        *(("-B",), r"^Server\b"),
    ),
    "sge": Client(
        *("qstat", "-help", r"^[A-Z][A-Z\d]+ \d\S*$"),
        *(("-g", "c"), r"^CLUSTER QUEUE"),
        tells_end=False,
    ),
}

_FORMATS: Final = (b"SQUEUE_", b"LSB_BJOBS_")
"""How the variables begin that change what a client prints."""


class Seen(NamedTuple):
    """What was seen of a batch system outside of a job, and what to do.

    `is_bad`: its client is here, and gets no answer.
    """

    words: str
    remedy: str
    is_bad: bool = False


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
    # Another one may be there in name only: a qstat that Slurm brings, for example.
    verdict = bad if seen[0].is_bad else note
    return verdict(NAME, f"{words}; this is no job", "; ".join(remedies))


def _look_at_client(system: str, here: set[str]) -> Seen:
    """Ask the client of a batch system for its version, and then its server."""
    title, client = BATCH_SYSTEMS[system], _CLIENTS[system]
    remedy = _remedy(title, client)
    if client.program not in here:
        return Seen(f"{title} without {client.program}", remedy)
    version, why = _ask(client, (client.option,), client.version, VERSION_SECONDS)
    if not version:
        words = f"{title}, whose {client.program} tells no version ({why})"
        return Seen(words, remedy, is_bad=True)
    words = f"{title} ({client.program}: {version})"
    answer, why = _ask(client, client.asks, client.answer, SERVER_SECONDS)
    if not answer:
        asked = " ".join([client.program, *client.asks])
        return Seen(
            f"{words}, which does not answer {asked} ({why})",
            f"ask your site whether {title} is down: until it answers, no job starts",
            is_bad=True,
        )
    return Seen(words, _IN_A_JOB if client.tells_end else _NOT_ASKED)


def _ask(
    client: Client, words: tuple[str, ...], pattern: str, seconds: float
) -> tuple[str, str]:
    """Return what has a pattern in an answer; or "" and why there is nothing."""
    env = {
        name: value
        for name, value in environment_on_own_node(os.environb).items()
        if not name.startswith(_FORMATS)
    }
    printed, fault = ask_program([client.program, *words], env, seconds)
    if found := re.search(pattern, printed, re.MULTILINE):
        return found[0], ""
    return "", fault or first_line(printed)


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
