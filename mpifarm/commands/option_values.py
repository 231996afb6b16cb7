"""The words after a farm's options, and the values that they become.

Rules of this file: pure but for the number of CPUs.  Each ``parse_`` function raises
ValueError for a wrong word; the caller then says which values the option takes.  It
raises InputError where it has more to say.
"""

import math
import os
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpifarm.errors import InputError
from mpifarm.model.settings import ANY_SEED, LOG_KINDS, ORDERS, PROGRESS_KINDS

NO_WORDS = frozenset({"", "0", "false", "no", "off"})
"""Words after ``-v`` that mean no, in lower case."""


def usage_error(sentence: str) -> InputError:
    """Return the error for a mistake in a farm's command line, pointing to --help."""
    return InputError(f"{sentence} (mpifarm --help tells more)")


class Kind(NamedTuple):
    """The kind of value that an option takes.

    `parse` makes the value of the word after the option, and raises ValueError or
    InputError for a wrong word.  `takes` names the right values in the message about a
    ValueError, and `hint` is the end of that message.
    """

    parse: Callable[[str], Any]
    takes: str = ""
    hint: str = ""


def parse_seconds(word: str) -> float:
    """Return seconds, 0 or more, and finite: ``90``, ``1h30m``, ``1-02:03:04``.

    ``23:59`` is refused: it may be a time of day, hours, or minutes.
    """
    try:
        seconds = float(word)
    except ValueError:
        from mpifarm.model.durations import parse_duration  # for those who write so

        if word.count(":") == 1 and "-" not in word:
            raise
        seconds = parse_duration(word)
    if not 0 <= seconds < math.inf:
        raise ValueError(word)
    return seconds


def parse_whole(word: str, least: int = 0) -> int:
    """Return a whole number, `least` or more, of the digits 0 to 9 alone."""
    if not (word.isdecimal() and word.isascii()) or int(word) < least:
        raise ValueError(word)
    return int(word)


def one_of(words: Sequence[str]) -> Kind:
    """Return the kind of value that is one of `words`."""

    def parse(word: str) -> str:
        if word not in words:
            raise ValueError(word)
        return word

    *first, last = (repr(word) for word in words)
    return Kind(parse, f"{', '.join(first)} or {last}")


def parse_tasklist(word: str) -> str:
    """Return the name of the tasklist; raise InputError if it is empty."""
    if not word:
        raise usage_error(
            "the tasklist's name is empty: is a variable in your job script not set?"
        )
    return word


MAX_WORKERS = 4096
"""Workers of one rank: the pool can tell no more apart."""


def parse_workers(word: str) -> int:
    """Return the number of workers of ``--proc``, 1 to `MAX_WORKERS`.

    ``auto`` means the number of CPUs of this process; ``50%``, ``+2`` and ``-2`` count
    from that, as for GNU parallel, and are 1 at least.  Raises InputError for 0, for
    too many, and for mpirun's ``-np``.
    """
    if word == "auto":
        return usable_cpus()
    if of_cpus := _OF_CPUS.fullmatch(word):
        return _check_workers(word, max(1, _count_of_cpus(*of_cpus.groups())))
    if word == "p":
        raise usage_error(
            "-np is mpirun's: write -n N for the tasks at one time on each rank"
        )
    workers = int(word)
    if workers < 1:
        raise usage_error(
            f"--proc {word} would run nothing: write a number of tasks, 1 or more, or"
            " auto for one on each CPU"
        )
    return _check_workers(word, workers)


_OF_CPUS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)%|([+-][0-9]{1,9})", re.ASCII)


def _count_of_cpus(percentage: str | None, difference: str | None) -> int:
    """Return a share of the CPUs, or so many more or less."""
    cpus = usable_cpus()
    if percentage is not None:
        return int(cpus * float(percentage) / 100)
    return cpus + int(difference or 0)


def _check_workers(word: str, workers: int) -> int:
    """Return a number of workers; raise InputError if it is too large."""
    if workers > MAX_WORKERS:
        raise usage_error(f"--proc {word} is too many: {MAX_WORKERS} at the most")
    return workers


def is_workers(word: str) -> bool:
    """Return whether a word says a number of workers, be it too few or too many."""
    return word == "auto" or is_number(word) or _OF_CPUS.fullmatch(word) is not None


def usable_cpus() -> int:
    """Return the number of CPUs in this process's affinity, which launchers set."""
    return len(os.sched_getaffinity(0))


def parse_mpi(word: str) -> str:
    """Return ``auto`` or ``off``; raise ValueError for another word.

    Raises InputError for a value of srun's ``--mpi``.
    """
    if word.startswith("pm"):
        raise usage_error(
            f"--mpi={word} is srun's: give it to srun, before python -m mpifarm"
        )
    return str(one_of(("auto", "off")).parse(word))


def parse_id_variable(word: str) -> tuple[str, int]:
    """Return the name of a variable and the number that the first task gets.

    Raises InputError as `lists.task_numbers.parse_id_variable`.
    """
    from mpifarm.lists.task_numbers import parse_id_variable  # for the few that need it

    return parse_id_variable(word)


def parse_gpus(word: str) -> str:
    """Return ``auto``, ``none`` or a number of GPUs; raises InputError for 0."""
    if word in ("auto", "none"):
        return word
    if not parse_whole(word):
        raise usage_error(
            f"--gpus {word} would share nothing: it takes 1 or more, or 'none'"
        )
    return str(int(word))


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MEMORY = r"([0-9]+(?:\.[0-9]+)?)([KMGTkmgt]?)(?:[iI]?[bB])?"
MIN_MEMORY = 2**26
"""The lowest limit in bytes: Python and a worker need less themselves."""


_PERIODS = {"s": 1, "m": 60, "h": 3600}


def parse_start_rate(word: str) -> float | None:
    """Return the tasks in a second of ``20``, ``20/s``, ``90/m`` or ``5/h``.

    0 means any number: None.
    """
    count, slash, period = word.partition("/")
    if slash and period not in _PERIODS:
        raise ValueError(word)
    return parse_seconds(count) / _PERIODS[period or "s"] or None


def parse_seats(word: str) -> tuple[str, int]:
    """Return name and number of ``NAME=N``; raise InputError for several."""
    from mpifarm.order.directives import is_kind  # for those who have kinds

    if "," in word:
        each = " --limit ".join(word.split(","))
        raise usage_error(f"--limit {word} names several kinds: give --limit {each}")
    name, _, count = word.rpartition("=")
    if not is_kind(name):
        raise ValueError(word)
    return name, parse_whole(count)


def parse_memory(word: str) -> int:
    """Return the bytes of ``500M``, ``4G`` and the like, in powers of 1024.

    Raises InputError for less than `MIN_MEMORY`.
    """
    found = re.fullmatch(_MEMORY, word)
    if found is None:
        raise ValueError(word)
    memory = int(float(found[1]) * _UNITS[found[2].upper()])
    if memory < MIN_MEMORY:
        raise usage_error(f"--task-memory {word} is too little: it takes 64M or more")
    return memory


def parse_signal(word: str) -> int:
    """Return the number of a signal, named or numbered, that a command can catch."""
    name = word.upper().removeprefix("SIG")
    number = int(name) if name.isdecimal() and name.isascii() else 0
    for each in {*signal.Signals} - {signal.SIGKILL, signal.SIGSTOP}:
        if each.name == f"SIG{name}" or each.value == number:
            return int(each)
    raise ValueError(word)


def parse_max_failures(word: str) -> tuple[int | None, float | None]:
    """Return a number of tasks and None, or None and a share of the list (0 to 1)."""
    if not word.endswith("%"):
        count = int(word)
        if count >= 1:
            return count, None
    elif 0 < (share := float(word.removesuffix("%"))) <= 100:
        return None, share / 100
    raise ValueError(word)


def parse_requeue_status(word: str) -> int:
    """Return an exit status, 1 to 255."""
    status = parse_whole(word, least=1)
    if status > 255:
        raise ValueError(word)
    return status


MIN_RANK_TIMEOUT = 2.0
"""Seconds for which a busy rank may be silent."""


def parse_rank_timeout(word: str) -> float:
    """Return seconds; raises InputError below `MIN_RANK_TIMEOUT`."""
    seconds = parse_seconds(word)
    if seconds < MIN_RANK_TIMEOUT:
        raise usage_error(
            f"--rank-timeout {word} is too short: a busy rank may be silent for"
            f" {MIN_RANK_TIMEOUT:g} s"
        )
    return seconds


def parse_deadline(word: str) -> float:
    """Return the seconds since the epoch of a number or a local time.

    ``none`` means `inf`: the job has no end.  A time of day is the next one.
    """
    if word == "none":
        return math.inf
    if word.isdecimal() and word.isascii():
        return float(word)
    from datetime import datetime  # only for users of --deadline

    try:
        if _TIME_OF_DAY.fullmatch(word):
            return _find_next(word)
        return datetime.fromisoformat(word).timestamp()
    except OverflowError as error:
        raise ValueError(word) from error


_TIME_OF_DAY = re.compile(r"\d\d?:\d\d(?::\d\d)?", re.ASCII)


def _find_next(word: str) -> float:
    """Return when it is next this time of day, in seconds since the epoch."""
    from datetime import datetime, time, timedelta

    now = datetime.now()  # noqa: DTZ005 - the user's own time of day
    at = datetime.combine(now.date(), time.fromisoformat(word.zfill(len("0:00") + 1)))
    return (at if at > now else at + timedelta(days=1)).timestamp()


EVER = "ever"
"""The value of ``--follow`` without seconds."""


def parse_follow(word: str) -> float:
    """Return seconds, `inf` for `EVER`."""
    return math.inf if word == EVER else parse_seconds(word)


ANY_ORDER = "any"
"""The value of ``--shuffle`` without a seed."""


def parse_shuffle(word: str) -> int:
    """Return a seed, `ANY_SEED` for `ANY_ORDER`."""
    return ANY_SEED if word == ANY_ORDER else parse_whole(word)


def is_seed(word: str) -> bool:
    """Return whether a word behind ``--shuffle`` is its seed, and not the list."""
    return word.isdecimal() and word.isascii() and not os.path.exists(word)


def is_number(word: str) -> bool:
    """Return whether a word is a number, as seconds are written."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def is_seconds(word: str) -> bool:
    """Return whether a word is a number of seconds, or a duration and no file."""
    if is_number(word):
        return True
    try:
        parse_seconds(word)
    except ValueError:
        return False
    return not os.path.exists(word)


def parse_verbose(word: str) -> bool:
    """Return False for a word of `NO_WORDS`, True for any other."""
    return word.lower() not in NO_WORDS


def parse_quarantine(word: str) -> int:
    """Return a number of failures, 0 for ``off``."""
    return 0 if word == "off" else parse_whole(word, least=1)


ANY = Kind(str)
NAME = Kind(str, "a name")
"""The name of a file or directory; an empty one comes from an unset variable."""
TIMES = "or a time as 90s, 10m, 1h30m or 1-02:03:04"
SECONDS = Kind(parse_seconds, f"seconds, 0 or more, {TIMES}")
FOLLOW = Kind(parse_follow, f"seconds, 0 or more, or nothing, {TIMES}")
SECONDS_OR_NEVER = Kind(lambda word: parse_seconds(word) or None, SECONDS.takes)
"""Seconds; 0 means never (None), as for PyTaskFarmer's alarm(0)."""
NUMBER = Kind(parse_whole, "a number, 0 or more")
VERBOSE = Kind(parse_verbose)
WORKERS = Kind(
    parse_workers,
    "a number, or 'auto', or 50% for half of the CPUs",
)
GPUS = Kind(parse_gpus, "'auto', 'none' or a number of GPUs")
LOGS = one_of(LOG_KINDS)
PROGRESS = one_of(PROGRESS_KINDS)._replace(
    hint=": leave --progress out, and the farm shows its progress anyway"
)
ORDER = one_of(ORDERS)
SHUFFLE = Kind(parse_shuffle, "a whole number as a seed, or nothing")
MPI = Kind(parse_mpi, "'auto' or 'off'", ": is its value missing?")
ID_VARIABLE = Kind(parse_id_variable)
START_RATE = Kind(
    parse_start_rate, "a number of tasks per second, as 20, or 90/m, or 500/h"
)
SEATS = Kind(
    parse_seats, "NAME=N, the kind of a task ([limit=NAME] command) and a number"
)
MEMORY = Kind(parse_memory, "bytes, as 500M or 4G")
SIGNAL = Kind(parse_signal, "a signal that a command can catch, as USR1")
STATUS = Kind(parse_requeue_status, "a status, 1 to 255")
MAX_FAILURES = Kind(
    parse_max_failures, "a number of tasks, 1 or more, or a share as 5%"
)
QUARANTINE = Kind(parse_quarantine, "a number, 1 or more, or 'off'")
RANK_TIMEOUT = Kind(parse_rank_timeout, SECONDS.takes)
DEADLINE = Kind(
    parse_deadline, "seconds since 1970, a time as 2026-12-31T23:59 or 23:59, or 'none'"
)
