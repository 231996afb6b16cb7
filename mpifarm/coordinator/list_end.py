"""When the last of the tasks ends, given what they take.

Rules of this file: pure functions.  Workers that take the next task as they get free
are busy until nothing waits any more; then the last tasks run on.

* If all workers ended together, they would at the work left over the workers.
* They don't.  At the last start each of the others is within a task.  What is left of
  that has the distribution of a renewal's residual life (Cox, Renewal Theory, 1962,
  section 5.1): its mean is the mean square of the durations over twice their mean, and
  so much earlier is the last start.
* The end is the latest of all: the product of the probabilities to have ended.
* The range has two parts, taken as independent: the spread of the latest end, and the
  error of the work left.
"""

import math
from collections.abc import Callable

from mpifarm.coordinator.lifetimes import Ages, Lifetimes
from mpifarm.immutable import immutable
from mpifarm.model.wording import TimeLeft

TENTH = 1.2816 * 1.2
"""The normal distribution's, beyond which a tenth lies; and 1.2 for what the models do
not know, so that the range comes true as often as it says (docs/time-left.md)."""

LOW, HIGH = 0.07, 0.93
"""The probabilities that all has ended at both ends of the range: a little further out
than a tenth, for the same reason."""

MODEL_ERROR = 0.02
"""The relative error of the work left that no model is free of."""

DOUBT = 3.0
"""The range is wider by this over the root of the tasks from which all is known: a few
may be alike by chance."""

EVEN = 0.25
"""Workers stay in step if their times differ by less than this share of a task."""

MAX_AGES = 48
"""Classes of ages that are gone through again and again."""


@immutable
class Outlook:
    """What is expected of the tasks that have not ended."""

    running: Lifetimes
    """What those that run take altogether."""
    last: Lifetimes
    """What the last ones of the list take."""
    waiting: float
    """The seconds of all that wait."""
    error: float
    """The standard error of `waiting`, as a share of it."""
    known_by: float
    """The number of tasks from which all this is known."""


def estimate_running(outlook: Outlook, ages: Ages) -> TimeLeft:
    """Return the time left when nothing waits: that of the last to end."""
    life, few = outlook.running, thin_out(ages)

    def has_ended(seconds: float) -> float:
        return _all_ended(life, few, seconds)

    return _range_of(has_ended, max(life.left_at(age) for age, _ in few))


def estimate_waiting(
    outlook: Outlook, waiting: int, workers: float, ages: Ages
) -> TimeLeft:
    """Return the time left as long as tasks wait for a worker."""
    running, last, few = outlook.running, outlook.last, thin_out(ages)
    in_hand = sum(count * running.left_at(age) for age, count in few)
    together = (in_hand + outlook.waiting) / workers
    share = outlook.waiting / (outlook.waiting + in_hand)
    error = math.hypot(outlook.error * share, MODEL_ERROR)
    doubt = 1 + DOUBT / math.sqrt(max(1.0, outlook.known_by))
    factor = math.exp(TENTH * doubt * error)
    less, more = together * (1 - 1 / factor), together * (factor - 1)
    if last is running and last.spread * math.sqrt(waiting / workers + 1) < EVEN:
        likely = max(together, _end_of_waves(last, waiting, workers, few))
        spread = last.spread * last.mean
        less = math.hypot(less, spread, (likely - together) / 3)
        return TimeLeft(max(0.0, likely - less), likely, likely + more + spread)
    latest = _latest_end(outlook, waiting, together, few)
    low = latest.likely - math.hypot(doubt * (latest.likely - latest.low), less)
    high = latest.likely + math.hypot(doubt * (latest.high - latest.likely), more)
    return TimeLeft(max(0.0, low), latest.likely, high)


def thin_out(ages: Ages) -> Ages:
    """Return fewer classes of ages, the oldest as they are."""
    if len(ages) <= MAX_AGES:
        return ages
    ages = sorted(ages, reverse=True)
    half = MAX_AGES // 2
    few, rest = list(ages[:half]), ages[half:]
    width = -(-len(rest) // half)
    for begin in range(0, len(rest), width):
        group = rest[begin : begin + width]
        count = sum(each for _, each in group)
        few.append((sum(age * each for age, each in group) / count, count))
    return few


def _latest_end(
    outlook: Outlook, waiting: int, together: float, ages: Ages
) -> TimeLeft:
    """Return the range of the latest end, if the work left is what is expected."""
    running, last = outlook.running, outlook.last
    last_start = max(
        _free_at(running, ages, waiting),
        together - last.square / (2 * last.mean),
        1e-9,
    )
    rate = waiting / last_start

    def has_ended(seconds: float) -> float:
        since = seconds - last_start
        if since <= 0:
            return 0.0
        # Of tasks that begin at a steady rate, so many are expected to run then.
        open_ = rate * (last.beyond(since) - last.beyond(seconds))
        return math.exp(-open_) * _all_ended(running, ages, seconds)

    return _range_of(has_ended, together)


def _end_of_waves(life: Lifetimes, waiting: int, workers: float, ages: Ages) -> float:
    """Return the end if all tasks take nearly the same: that of the last wave."""
    seconds = life.mean
    width = max(1, round(workers), sum(count for _, count in ages))
    waves, rest = divmod(waiting, width)
    end = waves * seconds
    if ages:
        end += max(0.0, seconds - min(age for age, _ in ages))
    if rest:
        end = max(end, (waves + 1) * seconds + _nth_end(seconds, rest, ages))
    # The last of the wave takes longer than the mean.
    return end + life.exceeded_by(0.5 / (rest or width)) - seconds


def _nth_end(seconds: float, number: int, ages: Ages) -> float:
    """Return when so many of the running tasks have ended, if all take `seconds`."""
    ends = 0.0
    for age, count in sorted(ages, reverse=True):
        ends = max(0.0, seconds - age)
        number -= count
        if number <= 0:
            break
    return ends


def _free_at(life: Lifetimes, ages: Ages, waiting: int) -> float:
    """Return when as many of the running tasks have ended as wait, or half of them."""
    running = sum(count for _, count in ages)
    if not running:
        return 0.0
    wanted = min(waiting, running / 2)

    def ended(seconds: float) -> float:
        return sum(count * life.ended_within(seconds, age) for age, count in ages)

    return _solve(ended, wanted, life.mean)


def _all_ended(life: Lifetimes, ages: Ages, seconds: float) -> float:
    """Return the probability that all that runs has ended after `seconds`."""
    total, unseen = 0.0, 0.0
    for age, count in ages:
        within = life.ended_within(seconds, age)
        if within <= 0.0:
            return 0.0
        if age <= life.seen_until:
            total += count * math.log(within)
        else:
            # They are of a kind of which few have ended yet: they end together.
            unseen = min(unseen, math.log(within))
    return math.exp(total + unseen)


def _range_of(has_ended: Callable[[float], float], guess: float) -> TimeLeft:
    return TimeLeft(*(_solve(has_ended, each, guess) for each in (LOW, 0.5, HIGH)))


def _solve(rises: Callable[[float], float], wanted: float, guess: float) -> float:
    """Return where a function that rises from 0 reaches `wanted`, to 1 %."""
    low, high = 0.0, max(guess, 1e-6)
    for _ in range(60):
        if rises(high) >= wanted:
            break
        low, high = high, 2 * high
    for _ in range(60):
        if high - low <= 0.01 * high:
            break
        middle = (low + high) / 2
        if rises(middle) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2
