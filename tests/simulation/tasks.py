"""How long simulated tasks take, and what the best scheduler would make of them."""

import heapq
import random
from collections.abc import Callable, Sequence
from typing import overload

SAMPLES = 1 << 16


def create_seconds(kind: str, mean: float) -> Callable[[int], float]:
    """The run time of a task by its id.

    `constant`; `lognormal` with sigma 1; `pareto` with a tail of index 2, whose longest
    of 65 536 tasks takes some 130 times the mean.
    """
    if kind == "constant":
        return lambda _: mean
    chance = random.Random(7)
    draw = {
        "lognormal": lambda: chance.lognormvariate(0.0, 1.0),
        "pareto": lambda: chance.paretovariate(2.0),
    }[kind]
    samples = [draw() for _ in range(SAMPLES)]
    scale = mean * SAMPLES / sum(samples)
    table = [scale * each for each in samples]
    return lambda taskid: table[taskid % SAMPLES]


def best_makespan(seconds: Callable[[int], float], count: int, workers: int) -> float:
    """Of a scheduler that gives the next task of the list to the first free worker, at
    no cost."""
    free = [0.0] * workers
    longest = 0.0
    for taskid in range(count):
        ends = free[0] + seconds(taskid)
        heapq.heapreplace(free, ends)
        longest = max(longest, ends)
    return longest


class OneCommand(Sequence[str]):
    """A tasklist of any length that takes no memory."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._command = "x" * 80

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, taskid: int) -> str: ...
    @overload
    def __getitem__(self, taskid: slice) -> Sequence[str]: ...
    def __getitem__(self, taskid: int | slice) -> str | Sequence[str]:
        return self._command if isinstance(taskid, int) else [self._command]
