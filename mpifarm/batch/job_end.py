"""The end of a job: the command that asks its batch system, the parser of the answer.

Rules of this file: pure; times are seconds since the epoch.  An answer that is not
certain counts as unknown: with an end that is guessed too late, the batch system would
kill the farm in the middle of its tasks.

The commands work with Slurm of any version, with OpenPBS, PBS Professional and Torque
(``qstat -f``), and with LSF from 9.1 on.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

from mpifarm.batch.job import BATCH_SYSTEMS, find_job


class Question(NamedTuple):
    """A command that asks a batch system when a job ends, and the answer's parser."""

    job: str
    """The job in words."""
    argv: tuple[str, ...]
    """The command; () if the batch system cannot be asked."""
    parse: Callable[[str, float], float | None]
    """Takes the answer and the time of the question; returns the end of the job, `inf`
    for a job without a limit, None if the answer does not tell."""


def find_question(environ: Mapping[str, str]) -> Question | None:
    """Return the question for the end of this process's job, or None outside of a job.

    For Grid Engine, Flux, OAR and Cobalt, which are not asked, it has no command.
    """
    if job := environ.get("SLURM_JOB_ID") or environ.get("SLURM_JOBID", ""):
        return _ask_slurm(job)
    if job := environ.get("LSB_JOBID", ""):
        return _ask_lsf(job, environ.get("LSB_JOBINDEX", "0"))
    if job := environ.get("PBS_JOBID", ""):
        return Question(f"PBS job {job}", ("qstat", "-f", job), parse_qstat)
    if found := find_job(environ):
        system, job = found
        named = f"{BATCH_SYSTEMS[system]} job {job}"
        return Question(named, (), lambda _text, _asked: None)
    return None


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without the variables that change the output of squeue."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("SQUEUE_") and name != "SLURM_TIME_FORMAT"
    }


# ---- Slurm ---------------------------------------------------------------------------


def _ask_slurm(job: str) -> Question:
    # %L, the time that is left, comes first: it depends on no time zone and on no
    # format that the user has set, as %e, the end, does.
    argv = ("squeue", "--noheader", f"--jobs={job}", "--format=%A|%L|%e")
    return Question(f"Slurm job {job}", argv, partial(parse_squeue, job=job))


_LEFT = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")


def parse_squeue(text: str, asked: float, *, job: str = "") -> float | None:
    """Parse lines ``<job>|<time left>|<end>`` of squeue (``--format=%A|%L|%e``).

    Return the end as in `Question.parse`, for `job` alone if it has a line of its own.
    """
    rows = [line.strip().split("|") for line in text.splitlines()]
    rows = [row for row in rows if len(row) == 3]
    # The last task of an array has the array's number as its own: asked for that,
    # squeue prints all tasks of the array.
    own = [row for row in rows if row[0] == job] or rows
    return _earliest(_read_row(left, end, asked) for _, left, end in own)


_MAX_DAYS: Final = 300
"""Days left from which on a job has no limit: Slurm's backfill scheduler gives a job
without a limit one of 365 days."""


def _read_row(left: str, end: str, asked: float) -> float | None:
    if left == "UNLIMITED":
        return math.inf
    if found := _LEFT.fullmatch(left):
        days, hours, minutes, seconds = (int(group or 0) for group in found.groups())
        if days > _MAX_DAYS:
            return math.inf
        return asked + ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return _parse_local_time(end)


def _parse_local_time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if "T" in text else None
    except (ValueError, OverflowError, OSError):
        return None


def _earliest(moments: Iterable[float | None]) -> float | None:
    return min((m for m in moments if m is not None), default=None)


# ---- PBS -----------------------------------------------------------------------------


def parse_qstat(text: str, asked: float) -> float | None:
    """Parse the lines ``<attribute> = <value>`` that ``qstat -f`` prints of one job.

    Return the end as in `Question.parse`: `inf` for a running job without a walltime.
    The start is ``stime`` in OpenPBS and PBS Professional, and ``start_time`` in
    Torque, which prints the seconds that are left, too.
    """
    values = _read_attributes(text)
    if not values:
        return None
    limit = values.get("Resource_List.walltime")
    if limit is None:
        return math.inf if values.get("job_state") == "R" else None
    seconds = _parse_duration(limit)
    begun = _parse_ctime(values.get("stime") or values.get("start_time", ""))
    if seconds is not None and begun is not None:
        return begun + seconds
    left = values.get("Walltime.Remaining", "")
    return asked + float(left) if _is_number(left) else None


def _read_attributes(text: str) -> dict[str, str]:
    unfolded = re.sub(r"\n\t", "", text)
    pairs = (line.partition(" = ") for line in unfolded.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _parse_duration(text: str) -> float | None:
    """Return the seconds of ``[[[days:]hours:]minutes:]seconds``, else None."""
    parts = text.split(":")
    if len(parts) > 4 or not all(map(_is_number, parts)):
        return None
    units = (1, 60, 3600, 86400)
    return float(sum(int(p) * u for p, u in zip(reversed(parts), units, strict=False)))


def _is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 12


_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_CTIME = re.compile(r"\w{3} (\w{3}) +(\d+) (\d+):(\d+):(\d+) (\d{4})")


def _parse_ctime(text: str) -> float | None:
    """Parse ``Sun Nov 29 14:32:10 2026``, local time; None for any other text."""
    # By hand: `strptime` expects the names of the user's locale.
    found = _CTIME.fullmatch(text)
    if not found or found[1] not in _MONTHS:
        return None
    month = _MONTHS.index(found[1]) + 1
    day, hour, minute, second, year = map(int, found.groups()[1:])
    return _local_time(year, month, day, hour, minute, second)


def _local_time(*fields: int) -> float | None:
    try:
        return datetime(*fields).timestamp()  # type: ignore[arg-type]  # noqa: DTZ001 - local
    except (ValueError, OverflowError, OSError):
        return None


# ---- LSF -----------------------------------------------------------------------------

_FINISH = re.compile(
    r"(\w{3}) +(\d+) +(\d+):(\d+)(?::(\d+))?(?: +(\d{4}))?(?: +([ELX]))?"
)


def _ask_lsf(job: str, index: str) -> Question:
    name = job if index in ("", "0") else f"{job}[{index}]"
    argv = ("bjobs", "-noheader", "-o", "finish_time", name)
    return Question(f"LSF job {name}", argv, parse_bjobs)


def parse_bjobs(text: str, asked: float) -> float | None:
    """Parse a ``finish_time`` of LSF, such as ``Nov 29 14:32 L``.

    Return the end as in `Question.parse`.  ``-`` means a job without a limit.  L and X
    mark the run limit, at which LSF kills the job; E marks an estimate, which counts as
    unknown.  An end without a year gets the year that puts it nearest to `asked`.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines == ["-"]:
        return math.inf
    for found in filter(None, map(_FINISH.fullmatch, lines)):
        if found[7] != "E" and found[1] in _MONTHS:
            return _read_finish(found, asked)
    return None


def _read_finish(found: re.Match[str], asked: float) -> float | None:
    month = _MONTHS.index(found[1]) + 1
    day, hour, minute, second = (int(found[i] or 0) for i in (2, 3, 4, 5))
    this_year = datetime.fromtimestamp(asked).year  # noqa: DTZ006 - LSF says local time
    years = [int(found[6])] if found[6] else [this_year - 1, this_year, this_year + 1]
    moments = [_local_time(y, month, day, hour, minute, second) for y in years]
    known = [moment for moment in moments if moment is not None]
    return min(known, key=lambda moment: abs(moment - asked), default=None)
