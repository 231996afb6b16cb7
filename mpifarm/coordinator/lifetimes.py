"""How long tasks take, from what has ended and what still runs.

Rules of this file: pure; durations are counted in classes of 5 %, so that a million
of them take no more room than ten.

* What still runs counts with its age: the product-limit estimator (Kaplan and Meier,
  J. Am. Stat. Assoc. 53, 1958, p. 457).  Without it the short tasks, which end first,
  would be all that is known.
* Beyond the longest the share of tasks falls as if the logarithms of the durations were
  normal: on probability paper the line of the longest ones goes on.  It is kept as the
  power of time that meets the line again at the longest of those to come.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from mpifarm.coordinator.normal import find_quantile

STEP = math.log(1.05)
SHORTEST = 1e-4
LOG_SHORTEST = math.log(SHORTEST)

Ages = Sequence[tuple[float, int]]
"""Pairs of an age and how many running tasks have it."""

SIGMA_BEFORE = 0.7
"""The deviation of the logarithms, before anything is known of it;"""
SIGMA_WEIGHT = 2.0
"""it has the weight of so many tasks."""

MIN_POWER, MAX_POWER = 2.2, 100.0
"""Bounds of the tail's power: above 2 it has a variance."""

FEW_ENDED = 4.0
"""Where a fifth of those that have run so long has ended, the rest ends by chance."""

MAX_BEYOND = 4.0
"""The longest of those to come takes up to so many times the longest so far."""


def class_of(seconds: float) -> int:
    """Return the class of a duration."""
    return class_of_log(math.log(max(seconds, SHORTEST)))


def class_of_log(log: float) -> int:
    """Return the class of a duration whose logarithm this is."""
    return int((log - LOG_SHORTEST) / STEP) + 1


def middle_of(place: int) -> float:
    """Return the middle of a class."""
    return SHORTEST * math.exp(STEP * (place - 0.5))


def _class_of_older(ages: Ages, longest: float) -> int:
    """Return the class of the median of the ages beyond the longest."""
    older = sorted(each for each in ages if each[0] > longest)
    half = sum(count for _, count in older) / 2
    for age, count in older:
        half -= count
        if half <= 0:
            return class_of(age)
    return 0


class Lifetimes:
    """The share of tasks that take longer than a time, and what follows from it.

    `counts`: tasks that have ended, by class, of `seconds` altogether.  `ages`: of
    those that run.  `to_come`: how many the means are for.  `power`: of the tail, if
    it is known.
    """

    def __init__(
        self,
        counts: Mapping[int, float],
        seconds: float,
        ages: Ages = (),
        to_come: int = 0,
        power: float | None = None,
    ) -> None:
        self.ended = sum(counts.values())
        first, last = min(counts), max(counts)
        last = max(last, _class_of_older(ages, middle_of(last + 1)))
        by_middle = sum(count * middle_of(place) for place, count in counts.items())
        # Tasks that take the same all stand in one class: here is where in it.
        self._scale = scale = seconds / by_middle if by_middle > 0 else 1.0
        # The upper edge of each class from the first, and how many run beyond it.
        self._times = [
            scale * middle_of(place) * math.exp(STEP / 2)
            for place in range(first - 1, last + 1)
        ]
        running = [0.0] * (len(self._times) + 1)
        for age, count in ages:
            running[bisect_right(self._times, age)] += count
        self.seen_until = self._find_seen(counts, first, running)
        """Beyond that hardly any have ended of those that have run so long."""
        self._shares = self._product_limit(counts, first, running)
        self._tail = power or self._find_tail(to_come, running[-1] + running[-2])
        self._sum(to_come)

    def _find_seen(
        self, counts: Mapping[int, float], first: int, running: list[float]
    ) -> float:
        ended, older = 0.0, running[-1]
        for place in range(len(self._times) - 1, 0, -1):
            ended += counts.get(first + place - 1, 0.0)
            older += running[place]
            if FEW_ENDED * ended > older:
                return self._times[place]
        return self._times[0]

    def _product_limit(
        self, counts: Mapping[int, float], first: int, running: list[float]
    ) -> list[float]:
        times = self._times
        at_risk = self.ended + sum(running) - running[0]
        share, shares = 1.0, [1.0]
        for place in range(1, len(times)):
            ended = counts.get(first + place - 1, 0.0)
            # Those whose age is in the class count half.
            exposed = at_risk - 0.5 * running[place]
            if ended:
                share *= max(0.0, 1.0 - ended / exposed)
            shares.append(share)
            at_risk -= ended + running[place]
        # Of n tasks and one more, that one is the longest with probability 1 / (n + 1).
        rest = 1.0 / (self.ended + 1.0)
        return [rest + (1.0 - rest) * share for share in shares]

    def _find_tail(self, to_come: int, oldest: float) -> float:
        """Return the power with which the share falls beyond the longest."""
        shares, times = self._shares, self._times
        share = min(shares[-1], 1 - 1e-9)
        middle = share + (1 - share) / math.sqrt(self.ended)
        begin = max(k for k, each in enumerate(shares) if each >= middle)
        before = min(shares[begin], 1 - (1 - share) / 4)
        line = math.log(times[-1] / times[begin]) / (
            find_quantile(1 - share) - find_quantile(1 - before)
        )
        weight = self.ended * (shares[begin] - share)
        sigma = (SIGMA_WEIGHT * SIGMA_BEFORE + weight * line) / (SIGMA_WEIGHT + weight)
        far = min(share / 10, 1.0 / (to_come + 1))
        rise = sigma * (find_quantile(1 - far) - find_quantile(1 - share))
        power = math.log(share / far) / rise
        # Of many in the tail none takes more than a few times the longest: they are a
        # class of tasks of which none has ended, and end together.
        together = math.log(max(1.0, share * to_come, oldest)) / math.log(MAX_BEYOND)
        return min(MAX_POWER, max(MIN_POWER, power, together))

    def _sum(self, to_come: int) -> None:
        times, shares, tail = self._times, self._shares, self._tail
        longest, share = times[-1], shares[-1]
        above = share * longest / (tail - 1.0)
        above_squared = share * longest * longest / (tail - 2.0)
        # What none of the tasks to come is likely to take has no part in the means.
        cut = math.pow(max(1.0, 2.0 * (to_come + 1) * share), 1.0 / tail)
        unlikely = above * math.pow(cut, 1.0 - tail)
        unlikely_squared = above_squared * math.pow(cut, 2.0 - tail)
        integrals = [above]
        for k in range(len(times) - 1, 0, -1):
            width, middle = times[k] - times[k - 1], (times[k] + times[k - 1]) / 2
            share = (shares[k] + shares[k - 1]) / 2
            above += width * share
            above_squared += width * share * middle
            integrals.append(above)
        integrals.reverse()
        self._integrals = integrals
        """The integral of the share that takes longer, from each of the times on."""
        shortest = times[0]
        self.mean = above + shortest - unlikely
        self.square = 2.0 * (above_squared - unlikely_squared) + shortest * shortest
        """The mean of the squares."""

    @property
    def spread(self) -> float:
        """The standard deviation, as a share of the mean."""
        return math.sqrt(max(0.0, self.square / (self.mean * self.mean) - 1.0))

    def longer_than(self, seconds: float) -> float:
        """Return the share of tasks that take longer."""
        times, shares = self._times, self._shares
        if seconds <= times[0]:
            return 1.0
        if seconds >= times[-1]:
            return shares[-1] * math.pow(times[-1] / seconds, self._tail)
        k = bisect_right(times, seconds)
        part = (seconds - times[k - 1]) / (times[k] - times[k - 1])
        return shares[k - 1] + part * (shares[k] - shares[k - 1])

    def exceeded_by(self, share: float) -> float:
        """Return the time that this share of tasks exceeds, 0 < share < 1."""
        times, shares = self._times, self._shares
        if share < shares[-1]:
            return times[-1] * math.pow(shares[-1] / share, 1 / self._tail)
        k = next(k for k, each in enumerate(shares) if each <= share)
        if not k:
            return times[0]
        part = (shares[k - 1] - share) / (shares[k - 1] - shares[k])
        return times[k - 1] + part * (times[k] - times[k - 1])

    def beyond(self, seconds: float) -> float:
        """Return the mean of what tasks take beyond a time; 0 for those that don't."""
        times, shares = self._times, self._shares
        if seconds <= times[0]:
            return self._integrals[0] + times[0] - seconds
        if seconds >= times[-1]:
            return self.longer_than(seconds) * seconds / (self._tail - 1.0)
        k = bisect_right(times, seconds)
        share = (self.longer_than(seconds) + shares[k]) / 2
        return self._integrals[k] + (times[k] - seconds) * share

    def left_at(self, age: float) -> float:
        """Return the mean of what a task of that age still takes."""
        return self.beyond(age) / max(1e-300, self.longer_than(age))

    def ended_within(self, seconds: float, age: float) -> float:
        """Return the probability that a task of that age ends within `seconds`."""
        alive = self.longer_than(age)
        if alive <= 1e-300:
            return 1.0
        return 1.0 - self.longer_than(age + seconds) / alive
