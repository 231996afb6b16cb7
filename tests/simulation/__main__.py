"""Farms of up to 10 000 ranks in virtual time; docs/scale.md has what came of them.

    python -m tests.simulation                      # 100 ranks, some seconds
    python -m tests.simulation --ranks 1000 10000 --seconds 10 60 --rounds 8
    python -m tests.simulation --limit --ranks 100 1000 10000
    python -m tests.simulation --tail               # the end of a list, 4 ranks
    python -m tests.simulation --granularity --ranks 100 1000 10000 --workers 8

`python -m tests.simulation.measure` finds the costs of this machine.
"""

import argparse
import time
from collections.abc import Callable

from tests.bench.granularity import SHARES, find_metg, find_shares
from tests.simulation.costs import Costs
from tests.simulation.farm import BigFarm
from tests.simulation.tasks import best_makespan, create_seconds

Seconds = Callable[[int], float]

HEAD = (
    "| ranks | tasks | of | whole | steady | tail | rank 0 | messages/s | tasks/s "
    "| coordinator |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def main() -> None:
    """Run what the command line says, and print a table for a document."""
    asked = _parse()
    if asked.tail:
        _show_tail()
        return
    head = GRANULARITY_HEAD if asked.granularity else HEAD
    print(LIMIT_HEAD if asked.limit else head, flush=True)
    for ranks in asked.ranks:
        if asked.granularity:
            _show_granularity(ranks, asked.workers, asked.tasks or FEWEST_TASKS)
            continue
        if asked.limit:
            tasks = asked.tasks or LIMIT_TASKS
            rounds = int(asked.rounds * ranks * asked.workers)
            _show_limit(ranks, asked.workers, max(tasks, rounds))
            continue
        for mean in asked.seconds:
            for kind in asked.kinds:
                _show(asked, ranks, kind, mean)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[100])
    parser.add_argument("--workers", type=int, default=128)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0])
    parser.add_argument(
        "--kinds", nargs="+", default=["constant", "lognormal", "pareto"]
    )
    parser.add_argument(
        "--rounds", type=float, default=8.0, help="tasks for each worker"
    )
    parser.add_argument(
        "--until", type=float, default=float("inf"), help="simulate so many seconds"
    )
    parser.add_argument(
        "--tasks", type=int, help="the fewest of --limit and --granularity"
    )
    parser.add_argument("--limit", action="store_true", help="rank 0's limit")
    parser.add_argument("--tail", action="store_true", help="ends of lists, 4 ranks")
    parser.add_argument("--granularity", action="store_true", help="METG")
    return parser.parse_args()


def _show(asked: argparse.Namespace, ranks: int, kind: str, mean: float) -> None:
    everyone = ranks * asked.workers
    count, seconds = int(everyone * asked.rounds), create_seconds(kind, mean)
    farm = BigFarm(count, ranks, asked.workers, seconds, slot=min(1.0, mean / 10))
    begun = time.perf_counter()
    farm.run(asked.until)
    if farm.ended:
        _check(farm)
    # from when the first tasks have ended until nothing is left to hand out
    begin, end = farm.filled_at + mean, min(farm.handed_out_at, farm.now)
    area, length = farm.busy.between(begin, end), farm.busy.seconds_between(begin, end)
    steady = f"{area / (everyone * length):7.2%}" if length else "-"
    seconds_done, did = farm.done_between(begin, end)
    whole = tail = "-"
    if farm.ended:
        whole = f"{farm.busy.total / (everyone * farm.busy.last_end):7.2%}"
        tail = f"{farm.busy.last_end - farm.handed_out_at:.1f} s"
    each = did.coordinator / max(1, did.results)
    print(
        f"| {ranks} | {kind} {mean:g} s | {count} | {whole} | {steady} "
        f"| {tail} | {did.busy / seconds_done:6.1%} "
        f"| {(did.received + did.sent) / seconds_done:.0f} "
        f"| {did.results / seconds_done:.0f} | {1e6 * each:.1f} us |"
        f"  <!-- {farm.busy.last_end:.0f} s, {did.recalls} recalls, "
        f"{time.perf_counter() - begun:.0f} s to simulate -->",
        flush=True,
    )


def _check(farm: BigFarm) -> None:
    if set(farm.recorded) != {1}:
        raise AssertionError("a task was not recorded, or twice")


# ---- the limit ----------------------------------------------------------------------

LIMIT_HEAD = (
    "| ranks | workers | most tasks/s | messages/s | rank 0 is the limit below |\n"
    "|--:|--:|--:|--:|--:|"
)


LIMIT_TASKS = 400_000
"""At least so many are needed to see it."""


def _show_limit(ranks: int, workers: int, count: int) -> None:
    """Find rank 0's rate, with tasks that are far too short for it."""
    everyone = ranks * workers
    seconds = create_seconds("lognormal", everyone / 100_000)
    farm = BigFarm(count, ranks, workers, seconds, slot=0.25)
    while farm.ledger.results < 0.8 * count:
        farm.run(farm.now + 1.0)
    middle = [
        moment
        for moment, done in farm.history
        if 0.2 * count < done.results < 0.8 * count
    ]
    length, did = farm.done_between(middle[0], middle[-1])
    rate = did.results / length
    print(
        f"| {ranks} | {everyone} | {rate:.0f} "
        f"| {(did.received + did.sent) / length:.0f} | {everyone / rate:.2g} s |"
        f"  <!-- rank 0 busy {did.busy / length:.1%} -->",
        flush=True,
    )


# ---- the shortest tasks -------------------------------------------------------------

GRANULARITY_HEAD = "| ranks | workers | METG(50 %) | METG(95 %) |\n|--:|--:|--:|--:|"

FEWEST_TASKS = 20_000
TASKS_EACH = 12
"""Tasks for each worker, at the least: the first and the last of them don't count."""


def _show_granularity(ranks: int, workers: int, tasks: int) -> None:
    everyone = ranks * workers
    count, longest = max(tasks, TASKS_EACH * everyone), max(0.512, 2e-3 * everyone)
    shares = find_shares(
        lambda seconds: _find_share(ranks, workers, count, seconds), longest
    )
    found = [f"{1e3 * find_metg(shares, least):.3g} ms" for least in SHARES]
    print(f"| {ranks} | {everyone} | {' | '.join(found)} |", flush=True)


def _find_share(ranks: int, workers: int, count: int, seconds: float) -> float:
    """Return time in tasks / worker time, in the middle third of the run."""
    everyone = ranks * workers
    slot = max(0.01, seconds / 10)
    farm = BigFarm(count, ranks, workers, lambda _: seconds, slot=slot)
    farm.run()
    _check(farm)
    begin, end = farm.busy.last_end / 3, 2 * farm.busy.last_end / 3
    length = farm.busy.seconds_between(begin, end)
    if not length:
        return float("nan")
    return farm.busy.between(begin, end) / (everyone * length)


# ---- the end of a list --------------------------------------------------------------


def _skewed(taskid: int) -> float:
    return 20.0 if taskid == 3999 else 0.01


def _behind(taskid: int) -> float:
    return 5.0 if 1000 <= taskid < 1004 else 0.01


def _show_tail() -> None:
    print("| list, 4 ranks of 2 workers | best possible | took | more | came back |")
    print("|---|--:|--:|--:|--:|")
    lists: list[tuple[str, int, Seconds]] = [
        ("4 000 of 10 ms, the last of 20 s", 4000, _skewed),
        ("4 of 5 s within 4 000 of 10 ms", 4000, _behind),
        ("100 ms", 800, lambda _: 0.1),
        ("1 s", 160, lambda _: 1.0),
        ("lognormal, 100 ms", 800, create_seconds("lognormal", 0.1)),
        ("Pareto, 100 ms", 800, create_seconds("pareto", 0.1)),
    ]
    for name, count, seconds in lists:
        farm = BigFarm(count, 4, 2, seconds, Costs(), slot=0.1)
        farm.run()
        _check(farm)
        best, took = best_makespan(seconds, count, 8), farm.busy.last_end
        back = sum(rank.returned for rank in farm.ranks)
        print(
            f"| {name} | {best:.2f} s | {took:.2f} s | {took / best - 1:.1%} | {back} |"
        )


if __name__ == "__main__":
    main()
