"""When the list will be done, and how sure that is.

Rules of this file: pure; seconds by any clock.  The cost of an event and of a look does
not grow with the list, nor does what is kept.

What a task takes is known from what has ended and the ages of what runs (`lifetimes`),
and how that goes along the list from the places (`list_order`).  Where durations are
known beforehand, they count instead, times the ratio of what such tasks took until now
to what was foretold.  Workers count by their `Use`: the share of their time that they
have lately spent in tasks; so where handing out is what takes long, the rate is the one
that was seen.  From all that `list_end` makes the end and its range.
"""

import math
from dataclasses import replace

from mpifarm.coordinator.lifetimes import Ages, Lifetimes, class_of
from mpifarm.coordinator.list_end import (
    Outlook,
    estimate_running,
    estimate_waiting,
)
from mpifarm.coordinator.list_order import (
    Block,
    PlaceBlocks,
    Slope,
    find_order,
    quantile_of,
)
from mpifarm.model.wording import TimeLeft

NODES = 32
"""Places at which a slope is evaluated."""

BEYOND_ERROR = 0.25
"""By how much a slope may be wrong, for what lies beyond where it has been seen."""

MANY = 1e9
"""Expected durations stand for so many tasks: they need no doubt of their own."""

OLD = 1e-4
"""The share of older tasks among those that are expected to run."""

POWER = 4.0
"""The power with which the share of tasks falls that take longer than expected."""

LEAST_USE = 1e-3
"""The smallest share of their time that workers are taken to spend in tasks."""

KNOWN_ERROR = 0.05
"""The relative error of a sum of durations that are known beforehand."""


class Use:
    """The share of their time that workers spend in tasks, lately."""

    def __init__(self, since: float | None) -> None:
        self._since = since
        self._ended = 0.0
        self._had = 0.0
        self._workers = 0
        self._looked = 0.0
        self._marks: list[tuple[float, float, float]] = []
        """Two old looks and the last: (now, seconds of workers, seconds in tasks)."""

    def note_ended(self, seconds: float) -> None:
        """Count a task that ended."""
        self._ended += seconds

    def look(self, now: float, workers: int, ages: Ages) -> None:
        """Take in how many workers there are, and what they have done until now."""
        marks = self._marks
        if not marks:
            oldest = max((age for age, _ in ages), default=0.0)
            if self._since is None:
                self._since = now - max(oldest, self._ended / max(1, workers))
            self._since = self._looked = min(now, self._since)
            self._workers = workers
            marks.append((self._since, 0.0, 0.0))
        self._had += (now - self._looked) * min(workers, self._workers)
        self._looked, self._workers = now, workers
        busy = self._ended + sum(age * count for age, count in ages)
        if len(marks) == 3:
            # The share is that of the last third of all the time, or some more of it.
            if self._since is not None and now - marks[1][0] > (now - self._since) / 3:
                del marks[0]
            else:
                del marks[2]
        marks.append((now, self._had, busy))

    @property
    def share(self) -> float:
        """The share; 1 as long as nothing is known of it."""
        had = self._marks[-1][1] - self._marks[0][1]
        busy = self._marks[-1][2] - self._marks[0][2]
        if not self._marks[-1][2]:
            return 1.0  # what runs first was not told yet
        return min(1.0, max(LEAST_USE, busy / had)) if had > 0 else 1.0


class TimeLeftEstimator:
    """Estimates when a list of `total` tasks will be done.

    A place is that of a task in the list, from 0.  `since`: when the first task of this
    farm began, if that is known.
    """

    def __init__(self, total: int, since: float | None = None) -> None:
        self.total = total
        self._ended = PlaceBlocks()
        self._known = PlaceBlocks()
        self._use = Use(since)
        # Of tasks whose duration was known: what was foretold, and what they took.
        self._foretold, self._took = 0.0, 0.0

    def grow(self, total: int) -> None:
        """Reckon with the `total` tasks that the list has now."""
        self.total = total

    def note_earlier(self, place: int, seconds: float) -> None:
        """Learn from an attempt of an earlier farm, of a task that is done."""
        self._ended.note(place, seconds)

    def note_known(self, place: int, seconds: float) -> None:
        """Learn beforehand what a task takes that is still to run."""
        self._known.note(place, seconds)

    def note_ended(self, place: int, seconds: float, known: float = 0.0) -> None:
        """Learn that an attempt of this farm ended after `seconds`.

        `known`: what `note_known` was told of the task, if anything.
        """
        self._ended.note(place, seconds)
        self._use.note_ended(seconds)
        if known > 0:
            self._foretold += known
            self._took += seconds

    def estimate(
        self, now: float, waiting: int, workers: int, ages: Ages, share: float = 1.0
    ) -> TimeLeft | None:
        """Return the time left; None if nothing is known yet, or nobody works.

        `waiting`: the tasks that have not begun.  `ages`: of what runs
        (`RunningAges.at`).  `share`: how much of what waits this farm will take, if
        other farms are on the list.
        """
        running = sum(count for _, count in ages)
        if not waiting and not running:
            return TimeLeft(0.0, 0.0, 0.0)
        if waiting:
            self._use.look(now, workers, ages)
        outlook = self._look_out(waiting, workers, ages, running)
        if outlook is None or workers <= 0:
            return None
        if waiting:
            used = workers * self._use.share
            outlook = replace(outlook, waiting=share * outlook.waiting)
            ours = max(1, round(share * waiting))
            return estimate_waiting(outlook, ours, used, ages)
        return estimate_running(outlook, ages)

    def _look_out(
        self, waiting: int, workers: int, ages: Ages, running: int
    ) -> Outlook | None:
        outlook = None
        if self._ended.count:
            order = find_order(self._ended, self.total)
            if order.slope is not None:
                outlook = self._follow(order.slope, waiting, workers, running)
            else:
                outlook = _go_on(order.recent, waiting, ages, running)
        if self._known.count:
            return self._foresee(outlook, waiting, workers, running)
        return outlook

    def _follow(
        self, slope: Slope, waiting: int, workers: int, running: int
    ) -> Outlook:
        """Return what is expected if durations rise or fall along the list."""
        total = self.total
        front = max(1, total - waiting)
        recent, _ = _expect(slope, max(0, front - running), front, total)
        older, _ = _expect(slope, 0, front, total)
        ending, _ = _expect(slope, max(0, total - workers), total, total)
        seconds, error = 0.0, 0.0
        if waiting:
            block, error = _expect(slope, front, total, total)
            seconds = waiting * block.seconds / block.count
        return Outlook(
            _running_life(recent, older),
            Lifetimes(ending.classes, ending.seconds, power=POWER),
            seconds,
            math.hypot(error, slope.noise / math.sqrt(max(1, waiting))),
            self._ended.count,
        )

    def _foresee(
        self, outlook: Outlook | None, waiting: int, workers: int, running: int
    ) -> Outlook:
        """Return what is expected where durations are known beforehand."""
        total, known = self.total, self._known
        everything = known.sum_up()
        front = max(1, total - waiting)
        ratio = self._took / self._foretold if self._foretold else 1.0
        behind = known.between(front, total)
        ending = known.between(max(0, total - workers), total)
        recent = known.between(max(0, front - running), front)
        unknown = max(0.0, waiting - behind.count)
        if outlook is None:
            # Nothing has ended: those of which nothing is known are like the others.
            mean, error = everything.seconds / everything.count, 1.0
        else:
            mean, error = outlook.waiting / max(1, waiting), outlook.error
        foreseen = ratio * behind.seconds
        seconds = foreseen + unknown * mean
        if seconds > 0:
            error = math.hypot(
                KNOWN_ERROR * foreseen / seconds, error * unknown * mean / seconds
            )
        life, last = (outlook.running, outlook.last) if outlook else (None, None)
        if life is None or 2 * recent.count > running:
            whole = recent if recent.count else everything
            life = _running_life(_as_many(whole, ratio), _as_many(everything, ratio))
        if last is None or 2 * ending.count > workers:
            many = _as_many(ending if ending.count else everything, ratio)
            last = Lifetimes(many.classes, many.seconds, power=POWER)
        return Outlook(life, last, seconds, error, everything.count)


def _go_on(recent: Block, waiting: int, ages: Ages, running: int) -> Outlook:
    """Return what is expected if the rest of the list is like what has ended."""
    life = Lifetimes(recent.classes, recent.seconds, ages, waiting + running)
    error = life.spread * math.sqrt(1 / recent.count + 1 / max(1, waiting))
    return Outlook(life, life, waiting * life.mean, error, recent.count)


def _running_life(recent: Block, older: Block) -> Lifetimes:
    """Return what those take that run.

    They have begun lately.  If one has run longer than those can, it is one of the
    older ones that take so long.
    """
    recent = replace(recent, classes=dict(recent.classes))
    recent.add(older, OLD)
    return Lifetimes(recent.classes, recent.seconds, power=POWER)


def _as_many(block: Block, ratio: float) -> Block:
    """Return the same durations times `ratio`, as if many had shown them."""
    many = Block()
    many.add(block, MANY / block.count)
    many.seconds *= ratio
    return many


def _expect(slope: Slope, first: int, last: int, total: int) -> tuple[Block, float]:
    """Return what tasks of these places take, as if many had shown it, and its error.

    The error is the standard error of the sum, as a share of it.
    """
    block, deviation = Block(), 0.0
    begin, end = quantile_of(first, total), quantile_of(max(first, last - 1), total)
    middles = [begin + (end - begin) * (node + 0.5) / NODES for node in range(NODES)]
    # Nodes as far from each other in quantiles, with as many tasks as lie between them:
    # so the longest ones have theirs.
    weights = [math.exp(-each * each / 2) for each in middles]
    scale = MANY / sum(weights)
    for middle, weight in zip(middles, weights, strict=True):
        line, noise = slope.log_at(middle), slope.noise_at(middle, total)
        error = math.hypot(slope.error_at(middle), BEYOND_ERROR * slope.beyond(middle))
        for sign, part in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
            seconds = math.exp(line + sign * math.sqrt(3) * noise)
            count = scale * weight * part
            block.count += count
            block.seconds += count * seconds
            deviation += count * seconds * error
            place = class_of(seconds)
            block.classes[place] = block.classes.get(place, 0) + count
    return block, deviation / block.seconds
