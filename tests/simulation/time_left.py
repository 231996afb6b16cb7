"""Whether the time left that is shown comes true (docs/time-left.md).

python -m tests.simulation.time_left              # 240 lists, some minutes
python -m tests.simulation.time_left --gnu        # five lists beside GNU parallel
python -m tests.simulation.time_left --farm       # the same five by the coordinator
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mpifarm.coordinator.running_ages import RunningAges
from mpifarm.coordinator.time_left import TimeLeftEstimator
from mpifarm.model.messages import Report, ToCoordinator
from mpifarm.model.wording import TimeLeft
from tests.simulation.costs import Costs
from tests.simulation.farm import BigFarm
from tests.simulation.lists import KINDS, create_list, five_lists
from tests.simulation.replay import Listener, Look, Replay, Replayed

LOOKS = 40
"""Looks at each list, as far from each other, from `BEGIN` to the end."""

BEGIN = 0.05
"""The first look is when so much of the work has been done."""


@dataclass(frozen=True)
class Judged:
    """What was shown at one look, and what was true."""

    left: float
    shown: TimeLeft
    cost: float
    """Seconds that the look took."""

    @property
    def error(self) -> float:
        """How far off the likely time left is, as a share of the true one."""
        return abs(self.shown.likely / self.left - 1)

    @property
    def width(self) -> float:
        """The range, as a share of the likely time left."""
        return (self.shown.high - self.shown.low) / max(1e-9, self.shown.likely)


class Watcher(Listener):
    """Tells an estimator what happens, as rank 0 does."""

    def __init__(self, what: Replayed) -> None:
        self.estimator = TimeLeftEstimator(len(what.seconds), since=0.0)
        self.ages = RunningAges()
        self._known = what.known
        for place in range(what.done_before):
            self.estimator.note_earlier(place, what.seconds[place])
        for place, seconds in enumerate(what.known):
            self.estimator.note_known(place, seconds)

    def on_begun(self, now: float) -> None:
        self.ages.note_begun(now)

    def on_gone(self, begun: float) -> None:
        self.ages.note_gone(begun)

    def on_ended(self, place: int, seconds: float, now: float) -> None:
        known = self._known[place] if self._known else 0.0
        self.estimator.note_ended(place, seconds, known)

    def look(self, look: Look) -> TimeLeft | None:
        """Return what is shown."""
        return self.estimator.estimate(
            look.now, look.waiting, look.workers, self.ages.at(look.now)
        )


def judge(what: Replayed) -> list[Judged]:
    """Replay a list with looks; return what each look showed."""
    first = Replay(what, Listener(), share=BEGIN)
    list(first)
    watcher, judged = Watcher(what), []
    for look in Replay(what, watcher, look_times(first)):
        begun = time.thread_time()
        shown = watcher.look(look)
        cost = time.thread_time() - begun
        if shown is None:
            raise AssertionError("nothing shown though tasks have ended")
        judged.append(Judged(first.end - look.now, shown, cost))
    return judged


def look_times(first: Replay) -> list[float]:
    """Return when to look in another replay of the same list."""
    # A moment after the end of that task.
    begin = first.reached * (1 + 1e-12)
    return [begin + (first.end - begin) * each / LOOKS for each in range(LOOKS)]


# ---- GNU parallel -------------------------------------------------------------------


@dataclass
class GnuParallel(Listener):
    """What `parallel --eta` shows: `compute_eta` of GNU parallel 20221122.

    The time since the first end over the ended tasks, smoothed by their share, times
    the tasks that have not ended; what rises by less than a tenth stays.
    """

    total: int
    completed: int = 0
    eta: float = 0.0
    _first_completed: float | None = None
    _smoothed: float = 0.0
    _last: float = field(default=0.0)

    def on_ended(self, place: int, seconds: float, now: float) -> None:
        self.completed += 1
        self.compute(now)

    def compute(self, now: float) -> float:
        """Return the seconds left; it is computed at each end and at each look."""
        left, share = self.total - self.completed, self.completed / self.total
        if self._first_completed is None:
            self._first_completed = now
        average = (now - self._first_completed) / self.completed
        self._smoothed = self._smoothed or average
        self._smoothed = (1 - share) * self._smoothed + share * average
        eta = int(left * self._smoothed)
        if not eta * 0.90 < self._last < eta:
            self._last = eta
        return self._last


def judge_gnu(what: Replayed) -> list[float]:
    """Return the errors of GNU parallel's estimate at the same looks."""
    first = Replay(what, Listener(), share=BEGIN)
    list(first)
    gnu = GnuParallel(len(what.seconds))
    return [
        abs(gnu.compute(look.now) / (first.end - look.now) - 1)
        for look in Replay(what, gnu, look_times(first))
    ]


# ---- the coordinator ----------------------------------------------------------------


class WatchedFarm(BigFarm):
    """A simulated farm with the real coordinator; its reports are estimated from."""

    def __init__(self, what: Replayed, ranks: int) -> None:
        super().__init__(
            *(len(what.seconds), ranks, what.workers // ranks),
            *(what.seconds.__getitem__, Costs(coordinator=10e-6)),
        )
        self.watcher = Watcher(what)

    def _hear(self, came: list[tuple[int, ToCoordinator]]) -> None:
        for _, message in came:
            if isinstance(message, Report):
                for result in message.results:
                    self.watcher.on_ended(result.taskid, result.seconds, self.now)
        super()._hear(came)

    def look(self) -> TimeLeft | None:
        """Return what is shown now."""
        begins = [
            run.started for rank in self.ranks for run in rank.pool._runs.values()
        ]
        waiting = len(self.recorded) - sum(rank.pool.tasks for rank in self.ranks)
        return self.watcher.estimator.estimate(
            *(self.now, waiting, self._workers),
            RunningAges(begins).at(self.now),
        )


def judge_farm(what: Replayed, ranks: int = 4) -> list[Judged]:
    """Return what is shown in a simulated farm of `ranks` ranks."""
    first = Replay(what, Listener(), share=BEGIN)
    list(first)
    farm, shown = WatchedFarm(what, ranks), []
    for moment in look_times(first):
        farm.run(moment)
        each = farm.look()
        if each is not None and not farm.ended:
            shown.append((farm.now, each))
    farm.run()
    end = farm.busy.last_end
    return [Judged(end - now, each, 0.0) for now, each in shown if now < end]


# ---- the tables ---------------------------------------------------------------------

HEAD = (
    "| list | looks | in the range | earlier | later | median error | median width |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)


def row(name: str, judged: Sequence[Judged]) -> str:
    """Return the row of a table."""
    count = len(judged)
    earlier = sum(each.left < each.shown.low for each in judged) / count
    later = sum(each.left > each.shown.high for each in judged) / count
    error = statistics.median(each.error for each in judged)
    width = statistics.median(each.width for each in judged)
    return (
        f"| {name} | {count} | {1 - earlier - later:.0%} | {earlier:.0%} | {later:.0%} "
        f"| {error:.1%} | {width:.0%} |"
    )


def main() -> None:
    """Run what the command line says, and print a table for a document."""
    asked = _parse()
    if asked.gnu:
        _show_gnu()
        return
    print(HEAD)
    if asked.farm:
        for name, what in five_lists().items():
            print(row(name, judge_farm(what)), flush=True)
        return
    everything: list[Judged] = []
    for kind in asked.kinds:
        judged = [
            each
            for number in range(asked.first, asked.first + asked.lists)
            for each in judge(create_list(kind, number))
        ]
        everything += judged
        print(row(kind, judged), flush=True)
    print(row("all", everything))
    costs = [1e3 * each.cost for each in everything]
    print(f"\na look: {statistics.mean(costs):.1f} ms, at the most {max(costs):.0f} ms")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.simulation.time_left",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lists", type=int, default=20, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--gnu", action="store_true", help="beside GNU parallel")
    parser.add_argument("--farm", action="store_true", help="the real coordinator")
    return parser.parse_args()


def _show_gnu() -> None:
    print("| list | mpifarm: median error | largest | GNU parallel: median | largest |")
    print("|---|--:|--:|--:|--:|")
    for name, what in five_lists().items():
        ours, theirs = [each.error for each in judge(what)], judge_gnu(what)
        numbers = [f(errors) for errors in (ours, theirs) for f in (_median, max)]
        print(f"| {name} | {' | '.join(f'{each:.0%}' for each in numbers)} |")


def _median(numbers: Sequence[float]) -> float:
    return statistics.median(numbers)


if __name__ == "__main__":
    main()
