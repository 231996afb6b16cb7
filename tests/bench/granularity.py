"""METG: the shortest task at which workers spend some share of their time in tasks.

The field's measure ("minimum effective task granularity", Slaughter and others, Task
Bench, SC20).  Start and end of a farm are left out: a list and one twice as long are
run, and the time between the two is what the second half took.

Rules of this file: standard library only; pure but for the asking of `measure`.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import exp, log, nan

SHARES = (0.5, 0.95)

LONGEST = 0.512
SHORTEST = 0.0005
"""Seconds; each task tried is half as long as the one before."""


def durations(longest: float = LONGEST) -> Iterator[float]:
    """The tasks to try, the longest first."""
    seconds = longest
    while seconds >= SHORTEST:
        yield seconds
        seconds /= 2


def find_shares(
    measure: Callable[[float], float], longest: float = LONGEST
) -> list[tuple[float, float]]:
    """(seconds of a task, share of their time that workers spend in such tasks).

    Down to the first that is below all of `SHARES`; `measure` finds a share, or nan.
    """
    found = []
    for seconds in durations(longest):
        share = measure(seconds)
        found.append((seconds, share))
        if not share >= min(SHARES):
            break
    return found


def find_metg(shares: Sequence[tuple[float, float]], least: float) -> float:
    """Return the METG in seconds, between two tasks that were tried; nan: not found."""
    for (longer, above), (shorter, below) in pairwise(shares):
        if above >= least > below:
            part = (above - least) / (above - below)
            return exp(log(longer) + part * (log(shorter) - log(longer)))
    return nan


def tasks_for(seconds: float, workers: int, lasts: float) -> int:
    """Return how many such tasks take `workers` as long as `lasts`."""
    return workers * max(1, round(lasts / seconds))
