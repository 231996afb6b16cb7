"""Lists for which the time left is judged, by kind.

Rules of this file: a list is the same each time: its kind and its number are the seed.
"""

import random
from collections.abc import Callable, Sequence

from tests.simulation.replay import Replayed

Draw = Callable[[random.Random, int], list[float]]
"""Returns so many durations, in units of a typical one."""

MAX_TASKS = 20_000


def lognormal(sigma: float) -> Draw:
    return lambda chance, count: [chance.lognormvariate(0, sigma) for _ in range(count)]


def of_any_sigma(chance: random.Random, count: int) -> list[float]:
    return lognormal(chance.uniform(0.5, 1.5))(chance, count)


def in_two_classes(chance: random.Random, count: int) -> list[float]:
    """A twentieth to a half of the tasks take 5 to 50 times as long."""
    share, times = chance.uniform(0.05, 0.5), chance.uniform(5, 50)
    return [
        (times if chance.random() < share else 1.0) * chance.lognormvariate(0, 0.1)
        for _ in range(count)
    ]


def long_first(chance: random.Random, count: int) -> list[float]:
    """The tasks of `in_two_classes`, those that take long first."""
    share, times = chance.uniform(0.05, 0.5), chance.uniform(5, 50)
    long = round(share * count)
    return [
        (times if place < long else 1.0) * chance.lognormvariate(0, 0.1)
        for place in range(count)
    ]


KINDS: dict[str, Draw] = {
    "equal": lognormal(0.01),
    "log-normal, σ 0.5": lognormal(0.5),
    "log-normal, σ 1": lognormal(1.0),
    "log-normal, σ 1.5": lognormal(1.5),
    "two classes": in_two_classes,
    "log-normal, shortest first": lambda chance, count: sorted(
        of_any_sigma(chance, count)
    ),
    "log-normal, longest first": lambda chance, count: sorted(
        of_any_sigma(chance, count), reverse=True
    ),
    "first short, then long": lambda chance, count: long_first(chance, count)[::-1],
    "first long, then short": long_first,
    "first long, then short; known": long_first,
    "log-normal, resumed": of_any_sigma,
    "log-normal, ranks lost": of_any_sigma,
}
"""`known`: the durations are known beforehand, each to some 10 %.  `resumed`: earlier
farms have done half of the list."""


def create_list(kind: str, number: int) -> Replayed:
    """Return a list: 4 to 1 024 workers, 3 to 300 tasks for each, 10 ms to 2 h."""
    chance = random.Random(f"{kind} {number}")
    workers = round(4 * 256 ** chance.random())
    each = 3 * 100 ** chance.random()
    count = max(30, min(MAX_TASKS, round(workers * each)))
    typical = 0.01 * 720_000 ** chance.random()
    seconds = [typical * each for each in KINDS[kind](chance, count)]
    known = [each * chance.lognormvariate(0, 0.1) for each in seconds]
    return Replayed(
        kind,
        seconds,
        workers,
        losses=_lose_ranks(chance, seconds, workers) if "lost" in kind else (),
        known=known if "known" in kind else (),
        done_before=count // 2 if "resumed" in kind else 0,
    )


def _lose_ranks(
    chance: random.Random, seconds: Sequence[float], workers: int
) -> list[tuple[float, int]]:
    """Lose a sixteenth of the workers, twice."""
    length = sum(seconds) / workers
    return sorted(
        (chance.uniform(0.05, 0.9) * length, max(1, workers // 16)) for _ in range(2)
    )


def five_lists() -> dict[str, Replayed]:
    """Return the lists on which the time left is compared with another tool's."""
    chance = random.Random(5)
    count, workers, typical = 2000, 32, 30.0
    kinds: dict[str, Draw] = {
        "equal": lognormal(0.01),
        "log-normal, σ 1": lognormal(1.0),
        "two classes": in_two_classes,
        "log-normal, σ 1, shortest first": lambda chance, count: sorted(
            lognormal(1.0)(chance, count)
        ),
        "log-normal, σ 1, longest first": lambda chance, count: sorted(
            lognormal(1.0)(chance, count), reverse=True
        ),
    }
    return {
        name: Replayed(name, [typical * each for each in draw(chance, count)], workers)
        for name, draw in kinds.items()
    }
