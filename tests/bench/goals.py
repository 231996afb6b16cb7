"""The goals, what was measured of each, and both tables of the page.

Rules of this file: standard library only; results in, lines of Markdown out.  A goal
without a figure is shown as such, never as reached.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan

from tests.bench.granularity import SHARES
from tests.bench.measurements import FEW, ONE_RANK, limit_with, with_tasks
from tests.bench.results import Results, Run

PEERS = (
    ("xargs -P8 -n1", 1.25),
    ("GNU parallel", 6.0),
    ("HyperQueue", 5.0),
    ("HyperShell", 8.0),
    ("disBatch", 50.0),
    ("PyTaskFarmer", 10.0),
)
"""Each peer, and how many times its rate mpifarm is to have."""

_TITLES = {
    "limit": "Against the limit",
    "few": "Short lists",
    "peers": "Against the peers",
    "shell": "Lines that need a shell",
    "disk": "On a disk",
    "dispatch": "Dispatch alone: a runner that does nothing",
}
_BASES = {
    "limit": "limit",
    "few": limit_with(FEW[0]),
    "peers": ONE_RANK,
    "shell": "limit, bash -c",
    "disk": ONE_RANK,
}
"""What the ratios of a section are to."""


@dataclass(frozen=True)
class Goal:
    """`least` or `most` is to be reached; `show` makes text of such a number."""

    text: str
    value: Callable[[Results], float]
    show: Callable[[float], str]
    least: float | None = None
    most: float | None = None

    def is_reached(self, value: float) -> bool:
        if self.least is not None:
            return value >= self.least
        return self.most is not None and value < self.most

    def aim(self) -> str:
        if self.least is not None:
            return f"≥ {self.show(self.least)}"
        return f"< {self.show(self.most or 0.0)}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _times(value: float) -> str:
    return f"{value:.3g} ×"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.1f} ms"


def _rate(value: float) -> str:
    return f"{value:,.0f}/s".replace(",", " ")


def _ratio_in(section: str, mine: str) -> Callable[[Results], float]:
    return lambda results: results.ratio(section, mine, _BASES[section])


def _ratio_with(tasks: int) -> Callable[[Results], float]:
    return lambda results: results.ratio("few", with_tasks(tasks), limit_with(tasks))


def _times_of(peer: str) -> Callable[[Results], float]:
    return lambda results: results.ratio("peers", ONE_RANK, peer)


def _figure(name: str) -> Callable[[Results], float]:
    return lambda results: results.figure(name)


def goals() -> Iterator[Goal]:
    """In the order of the page."""
    yield from _goals_of_rates()
    yield from _goals_of_long_tasks()
    yield from _goals_of_start_and_end()


def _goals_of_rates() -> Iterator[Goal]:
    one = _ratio_in("limit", ONE_RANK)
    yield Goal("`true`, 1 rank x 8 workers / limit", one, _ratio, least=0.85)
    for tasks, least in zip(FEW, (0.80, 0.55), strict=True):
        text = f"`true`, a list of {tasks}, 1 rank x 8 / limit"
        yield Goal(text, _ratio_with(tasks), _ratio, least=least)
    for mpi, least in (("MPICH", 0.85), ("Open MPI", 0.83)):
        for ranks in (2, 4):
            name = f"mpifarm, {ranks} ranks x {8 // ranks}, {mpi}"
            value = _ratio_in("limit", name)
            aim = least if ranks == 4 else 0.80
            yield Goal(f"{name} / limit", value, _ratio, least=aim)
    for peer, least in PEERS:
        yield Goal(f"1 rank x 8 / {peer}", _times_of(peer), _times, least=least)
    name = "`--logs packed` on disk / `--logs all` on a tmpfs"
    value = _ratio_in("disk", f"{ONE_RANK}, --logs packed, on disk")
    yield Goal(name, value, _ratio, least=0.85)
    value = _ratio_in("shell", f"{ONE_RANK}, lines for a shell")
    yield Goal("lines for a shell / `bash -c` loops", value, _ratio, least=0.85)
    yield Goal(
        "dispatch alone, 4 ranks, all log files",
        lambda results: results.rate(
            "dispatch", "dispatch alone, 4 ranks x 2, --logs all"
        ),
        _rate,
        least=30_000,
    )


def _goals_of_long_tasks() -> Iterator[Goal]:
    for name, least in (("100 ms", 0.97), ("1 s", 0.99)):
        text = f"tasks of {name}, 8 workers on 4 ranks: time in tasks / worker time"
        yield Goal(text, _figure(f"busy, {name}"), _percent, least=least)
    yield Goal(
        "output of 100 MB: `cmd > file` / mpifarm, time for each task",
        _figure("output, cmd > file / mpifarm"),
        _ratio,
        least=0.98,  # no slower, but for noise
    )
    yield Goal(
        "4 000 x 10 ms, then 20 s: makespan / best for that order",
        _figure("skew, makespan / best"),
        _ratio,
        most=1.05,
    )


def _goals_of_start_and_end() -> Iterator[Goal]:
    shapes = ("1 rank", "4 ranks, MPICH", "4 ranks, Open MPI")
    for shape, most in zip(shapes, (0.25, 0.7, 0.7), strict=True):
        name = f"start to first command, {shape}"
        yield Goal(name, _figure(name), _seconds, most=most)
    for shape, most in zip(shapes, (0.12, 0.2, 0.2), strict=True):
        name = f"last result to exit, {shape}"
        yield Goal(name, _figure(name), _seconds, most=most)
    yield Goal("one task in all", _figure("one task in all"), _seconds, most=0.3)
    idle = ("1 rank that waits for 8 tasks", "4 ranks with 1 task, MPICH")
    for shape in (*idle, "4 ranks with 1 task, Open MPI"):
        text = f"CPU of the busiest rank, {shape}"
        yield Goal(text, _figure(f"idle, {shape}"), _percent, most=0.02)
    for mpi in ("MPICH", "Open MPI"):
        text = f"free worker on another rank to its next command, idle farm, {mpi}"
        yield Goal(text, _figure(f"latency, {mpi}"), _milliseconds, most=0.005)


# ---- tables -------------------------------------------------------------------------


def table_of_goals(results: Results) -> list[str]:
    """Markdown: each goal, what was measured, and whether that is enough."""
    rows = [("what", "measured", "to reach", "reached")]
    for goal in goals():
        value = goal.value(results)
        if isnan(value):
            rows.append((goal.text, "–", goal.aim(), "not measured"))
        else:
            verdict = "yes" if goal.is_reached(value) else "**no**"
            rows.append((goal.text, goal.show(value), goal.aim(), verdict))
    return table(rows)


def table_of_rates(results: Results) -> list[str]:
    """Markdown: a table for each section, contenders in the order of their turns."""
    lines: list[str] = []
    for section, title in _TITLES.items():
        names = _contenders_of(results, section)
        if names:
            lines += [f"{title}:", "", *_section_table(results, section, names), ""]
    return lines[:-1]


def _contenders_of(results: Results, section: str) -> list[str]:
    rounds = results.rounds.get(section, [])
    return list(dict.fromkeys(name for runs in rounds for name in runs))


def _section_table(results: Results, section: str, names: list[str]) -> list[str]:
    base = _BASES.get(section, names[0])
    header = ["contender", "tasks", "rounds", "median", "least", "most", "CPU/task"]
    rows = [(*header, f"/ {base}")]
    for name in names:
        runs = results.runs_of(section, name)
        rates = [run.rate for run in runs]
        cpu = results.cpu_microseconds(section, name)
        ratio = results.ratio(section, name, base)
        counts = f"{runs[0].tasks:,}".replace(",", " "), str(len(runs))
        spread = (
            _rate(results.rate(section, name)),
            _rate(min(rates)),
            _rate(max(rates)),
        )
        rows.append((name, *counts, *spread, f"{cpu:.0f} µs", f"{ratio:.3g}"))
    return table(rows)


def table_of_granularity(results: Results) -> list[str]:
    """Markdown: METG of each contender; nothing where none was measured."""
    heads = [f"METG({100 * share:.0f} %), " for share in SHARES]
    names = [name[len(heads[0]) :] for name in results.figures if heads[0] in name]
    rows = [("contender", *(head.rstrip(", ") for head in heads))]
    for name in names:
        values = [results.figure(head + name) for head in heads]
        rows.append((name, *map(_milliseconds, values)))
    return table(rows) if names else []


def times_with_as_many_tasks(results: Results, peer: str) -> float:
    """mpifarm's rate / the peer's, when both have the peer's number of tasks."""
    runs: list[Run] = results.runs_of("peers", peer)
    if not runs:
        return float("nan")
    same = f"{ONE_RANK}, {runs[0].tasks} tasks"
    mine = same if results.runs_of("peers", same) else ONE_RANK
    return results.ratio("peers", mine, peer)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The first row is the head; columns are aligned for those who read the source."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [lines[0], rule, *lines[1:]]
