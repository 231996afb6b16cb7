"""How the durations of tasks go along the list.

Rules of this file: pure; the list is seen in at most 64 blocks of places, which double
their width when more are needed.  Three models of the logarithm of the durations
compete by Schwarz's criterion (Ann. Stat. 6, 1978, p. 461):

* `alike`: all of the list is like what has ended;
* `step`: since one of the blocks it is otherwise, and stays so;
* `slope`: it rises or falls along the list as a sorted one does: as a straight line
  over the normal quantile of the place, which is what log-normal durations do.
"""

import math
from dataclasses import dataclass, field, replace

from mpifarm.coordinator.lifetimes import SHORTEST, class_of_log
from mpifarm.coordinator.normal import find_quantile, standard_normal
from mpifarm.immutable import immutable

MAX_BLOCKS = 64

NOISE = 0.02
"""Durations that differ by less are equal: what is within it shows no order."""


@dataclass(slots=True)
class Block:
    """What has ended of neighbouring places."""

    count: float = 0
    places: float = 0.0
    """The sum of the places."""
    seconds: float = 0.0
    logs: float = 0.0
    """The sum of the logarithms of the seconds."""
    squares: float = 0.0
    """The sum of their squares."""
    classes: dict[int, float] = field(default_factory=dict)
    """How many took how long."""

    def add(self, other: "Block", share: float = 1) -> None:
        """Count in a share of what `other` has counted."""
        self.count += share * other.count
        self.places += share * other.places
        self.seconds += share * other.seconds
        self.logs += share * other.logs
        self.squares += share * other.squares
        classes = self.classes
        for place, count in other.classes.items():
            classes[place] = classes.get(place, 0) + share * count


@immutable
class Slope:
    """Durations that rise or fall along the list."""

    level: float
    slope: float
    """Logarithm of the seconds = level + slope * normal quantile of the place."""
    noise: float
    """The standard deviation of the logarithm around it."""
    slope_error: float
    centre: float
    """The quantile at which the line is known best."""
    level_error: float
    seen: tuple[float, float]
    """The normal quantiles between which it has been seen."""

    def log_at(self, quantile: float) -> float:
        """Return the logarithm of the seconds at a normal quantile of the place."""
        return self.level + self.slope * quantile

    def error_at(self, quantile: float) -> float:
        """Return the standard error of `log_at`."""
        return math.hypot(self.level_error, self.slope_error * (quantile - self.centre))

    def noise_at(self, quantile: float, total: int) -> float:
        """Return the standard deviation of the logarithm at a normal quantile.

        The longest of a sorted list are off the line by chance: the order statistics of
        a sample have the variance p (1 - p) / (n f^2) (David and Nagaraja, Order
        Statistics, 2003, section 10.2).
        """
        normal = standard_normal()
        below = min(1 - 0.5 / total, max(0.5 / total, normal.cdf(quantile)))
        density = normal.pdf(quantile)
        chance = math.sqrt(below * (1 - below) / total) / max(density, 0.5 / total)
        return math.hypot(self.noise, self.slope * chance)

    def beyond(self, quantile: float) -> float:
        """Return by how much `log_at` differs from where the line has been seen."""
        low, high = self.seen
        return abs(self.slope) * max(0.0, low - quantile, quantile - high)


@immutable
class Order:
    """The model that fits best."""

    recent: Block
    """What the rest of the list is like: all, or what is behind the step."""
    slope: Slope | None = None
    since: int = 0
    """The place of the step."""


class PlaceBlocks:
    """Durations by places, in at most `MAX_BLOCKS` blocks."""

    def __init__(self) -> None:
        self.count = 0
        """The number of tasks."""
        self.shift = 0
        """A block has 2 ** shift places."""
        self._blocks: dict[int, Block] = {}

    def note(self, place: int, seconds: float) -> None:
        """Count a task that took `seconds`."""
        if seconds < SHORTEST:  # noqa: PLR1730 - max() takes longer
            seconds = SHORTEST
        log = math.log(seconds)
        block = self._blocks.get(place >> self.shift) or self._add_block(place)
        self.count += 1
        block.count += 1
        block.places += place
        block.seconds += seconds
        block.logs += log
        block.squares += log * log
        class_ = class_of_log(log)
        block.classes[class_] = block.classes.get(class_, 0) + 1

    def sum_up(self) -> Block:
        """Return what is known of all places."""
        found = Block()
        for block in self._blocks.values():
            found.add(block)
        return found

    def in_order(self) -> list[tuple[int, Block]]:
        """Return the first place of each block, and the block."""
        return [
            (number << self.shift, self._blocks[number])
            for number in sorted(self._blocks)
        ]

    def between(self, first: int, last: int) -> Block:
        """Return what is known of these places, `last` not among them.

        Of a block that lies there in part, a part is counted.
        """
        found = Block()
        width = 1 << self.shift
        for begin, block in self.in_order():
            inside = min(last, begin + width) - max(first, begin)
            if inside > 0:
                found.add(block, inside / width)
        return found

    def _add_block(self, place: int) -> Block:
        while len(self._blocks) >= MAX_BLOCKS:
            self._widen()
        return self._blocks.setdefault(place >> self.shift, Block())

    def _widen(self) -> None:
        self.shift += 1
        wider: dict[int, Block] = {}
        for number, block in self._blocks.items():
            wider.setdefault(number >> 1, Block()).add(block)
        self._blocks = wider


def find_order(ended: PlaceBlocks, total: int) -> Order:
    """Return how durations go along a list of `total` tasks."""
    in_order = ended.in_order()
    blocks = [block for _, block in in_order]
    everything = ended.sum_up()
    count = everything.count
    if len(blocks) < 3 or count < FEWEST:
        return Order(everything)
    floor = count * NOISE**2
    alike = max(0.0, everything.squares - everything.logs**2 / count)
    best = _criterion(alike + floor, count, 2)
    order = Order(everything)
    step, behind = _best_step(blocks)
    value = _criterion(step + floor, count, 4)
    if value < best - MARGIN and step <= UNEXPLAINED * alike:
        best = value + MARGIN
        recent = Block()
        for block in blocks[behind + 1 :]:
            recent.add(block)
        # The step is within the first block, or at its begin.
        if recent.count < FEWEST:
            recent.add(blocks[behind])
        order = Order(recent, since=in_order[behind][0])
    if count < FEWEST_ON_SLOPE:
        return order
    slope, rest = _fit_slope(blocks, total, floor)
    value = _criterion(rest + floor, count, 3)
    if value < best - MARGIN and rest <= UNEXPLAINED * alike:
        return Order(everything, slope)
    return order


FEWEST = 6
"""Fewer tasks show no order; and so many are behind a step, at the least."""

FEWEST_ON_SLOPE = 16
"""Fewer tasks show no slope that goes on: 1.1, 1.2, ... 1.6 s are no sorted list."""

UNEXPLAINED = 0.25
"""Another model than `alike` leaves at the most so much of the variance.

The latest places show only what is short among them, the rest still runs: that looks
like a weak slope or step."""

MARGIN = 6.0
"""By so much another model than `alike` has to be better: strong evidence (Kass and
Raftery, J. Am. Stat. Assoc. 90, 1995, p. 773)."""


def _criterion(squares: float, count: float, parameters: int) -> float:
    return count * math.log(squares / count) + parameters * math.log(count)


def _best_step(blocks: list[Block]) -> tuple[float, int]:
    """Return the least sum of squares with a step, and the first block behind it."""
    count, logs = sum(b.count for b in blocks), sum(b.logs for b in blocks)
    squares = sum(b.squares for b in blocks)
    best, behind = math.inf, 1
    before_count, before_logs = 0.0, 0.0
    for number, block in enumerate(blocks[:-1], 1):
        before_count += block.count
        before_logs += block.logs
        after = count - before_count
        if after < FEWEST:
            break
        rest = (
            squares - before_logs**2 / before_count - (logs - before_logs) ** 2 / after
        )
        if rest < best:
            best, behind = rest, number
    return max(0.0, best), behind


def _fit_slope(blocks: list[Block], total: int, floor: float) -> tuple[Slope, float]:
    """Return the straight line, and the sum of squares around it."""
    xs = [quantile_of(block.places / block.count, total) for block in blocks]
    ns = [block.count for block in blocks]
    count = sum(ns)
    x_mean = sum(n * x for n, x in zip(ns, xs, strict=True)) / count
    y_mean = sum(block.logs for block in blocks) / count
    xx = sum(n * (x - x_mean) ** 2 for n, x in zip(ns, xs, strict=True))
    xy = sum(
        (x - x_mean) * (block.logs - block.count * y_mean)
        for x, block in zip(xs, blocks, strict=True)
    )
    slope = xy / xx if xx > 0 else 0.0
    between = sum(
        n * (block.logs / n - y_mean - slope * (x - x_mean)) ** 2
        for n, x, block in zip(ns, xs, blocks, strict=True)
    )
    within = sum(block.squares - block.logs**2 / block.count for block in blocks)
    rest = max(0.0, between + within)
    # Blocks that are off the line show that the line is not all: they count as one
    # observation each.
    off = max(rest + floor, 0.0) / count
    uneven = between / max(1, len(blocks) - 2) + NOISE**2
    error = math.sqrt(max(off, uneven) / max(xx, 1e-9))
    level_error = math.sqrt(max(off, uneven) / count)
    line = Slope(
        y_mean - slope * x_mean,
        slope,
        math.sqrt(off),
        error,
        x_mean,
        level_error,
        (min(xs), max(xs)),
    )
    fitted = sum(
        n * math.exp(line.level + slope * x) for n, x in zip(ns, xs, strict=True)
    )
    seconds = sum(block.seconds for block in blocks)
    return replace(line, level=line.level + math.log(seconds / fitted)), rest


def quantile_of(place: float, total: int) -> float:
    """Return the normal quantile of a place in the list."""
    return find_quantile(share_of(place, total))


def share_of(place: float, total: int) -> float:
    """Return the middle of a place as a share of the list, within 0 and 1."""
    return min(1 - 1e-7, max(1e-7, (place + 0.5) / max(1, total)))
