"""Results into the page: the tables between two marks of it, and the plot beside it.

    python -m tests.bench.report RESULTS.json [--page docs/performance.md]

Rules of this file: standard library only; nothing is measured here.
"""

import argparse
from collections.abc import Iterator
from math import isnan
from pathlib import Path

from tests.bench.goals import (
    PEERS,
    table_of_goals,
    table_of_granularity,
    table_of_rates,
    times_with_as_many_tasks,
)
from tests.bench.measurements import ONE_RANK
from tests.bench.plot import Bar, bar_chart
from tests.bench.results import Results, load
from tests.support import ROOT

BEGIN = "<!-- figures: written by tests/bench/report.py -->"
END = "<!-- end of the figures -->"

_SHAPES = (
    ONE_RANK,
    "mpifarm, 2 ranks x 4, MPICH",
    "mpifarm, 4 ranks x 2, MPICH",
    "mpifarm, 2 ranks x 4, Open MPI",
    "mpifarm, 4 ranks x 2, Open MPI",
)


# ---- the page -----------------------------------------------------------------------


def figures(results: Results, plot_name: str) -> list[str]:
    """All that stands between the marks."""
    lines = ["", f"![Commands started a second]({plot_name})", ""]
    lines += [*table_of_goals(results), "", *table_of_rates(results), ""]
    lines += [*_granularity(results), *_same_counts(results), *_command_lines(results)]
    return [*lines, *_circumstances(results)]


def _granularity(results: Results) -> Iterator[str]:
    rows = table_of_granularity(results)
    if rows:
        yield "METG, the shortest task at which 8 workers spend that share of time in"
        yield "tasks (`sleep`; start and end left out):"
        yield ""
        yield from rows
        yield ""


def _same_counts(results: Results) -> Iterator[str]:
    """For those to whom fewer tasks were given: the start weighs more then."""
    known = [(peer, times_with_as_many_tasks(results, peer)) for peer, _ in PEERS]
    words = [f"{peer} {times:.3g}" for peer, times in known if not isnan(times)]
    if words:
        yield "The same ratios when mpifarm gets no more tasks than the peer:"
        yield f"{', '.join(words)}."
        yield ""


def _command_lines(results: Results) -> Iterator[str]:
    yield "The command lines:"
    yield ""
    yield "| contender | command line |"
    yield "|---|---|"
    for name, command in results.commands.items():
        yield f"| {name} | `{command}` |"
    yield ""
    for why in results.skipped.values():
        yield f"Not measured: {why}."
        yield ""


def _circumstances(results: Results) -> Iterator[str]:
    yield "Measured on:"
    yield ""
    for name, text in results.machine.items():
        yield f"- {name}: {text}"
    versions = [f"{name} {version}" for name, version in results.versions.items()]
    yield f"- {', '.join(versions)}"
    for part in results.parts:
        yield f"- {part['date']}: `{part['command']}`"
    yield ""


def replace_between_marks(page: str, begin: str, end: str, lines: list[str]) -> str:
    """The page with `lines` in place of what stands between the two marks."""
    before, found, rest = page.partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too):
        raise SystemExit(f"the page lacks the lines {begin!r} and {end!r}")
    return before + begin + "\n" + "\n".join(lines) + "\n" + end + after


# ---- the plot -----------------------------------------------------------------------


def plot(results: Results) -> str:
    """Rates relative to the limit.

    Those of the peers are through mpifarm on one rank, which ran in both sections: two
    sections are not of the same minutes.
    """
    limit = results.rate("limit", "limit")
    bars = [Bar("the limit: bare loops", 1.0, f"1.00   ({limit:,.0f}/s)", "limit")]
    for name in _SHAPES:
        ratio = results.ratio("limit", name, "limit")
        if not isnan(ratio):
            bars.append(Bar(name, ratio, f"{ratio:.2f}", "mine"))
    mine = results.ratio("limit", ONE_RANK, "limit")
    peers = [(mine * results.ratio("peers", peer, ONE_RANK), peer) for peer, _ in PEERS]
    for ratio, peer in sorted(
        (each for each in peers if not isnan(each[0])), reverse=True
    ):
        bars.append(Bar(peer, ratio, f"{ratio:.2g}", "peer"))
    title = "Commands started a second, beside the limit of this machine"
    count = results.machine.get("CPUs", "").partition(" ")[0]
    subtitle = f"the command true, 8 at a time on {count} CPUs; as parts of the limit"
    return bar_chart(title, subtitle, bars)


def main() -> None:
    parser = argparse.ArgumentParser(prog="report", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    args = parser.parse_args()
    if not args.results.exists():
        raise SystemExit(f"{args.results}: no such file; make it by tests.bench.bench")
    results = load(args.results)
    drawing = args.page.with_suffix(".svg")
    page = args.page.read_text(encoding="utf-8")
    page = replace_between_marks(page, BEGIN, END, figures(results, drawing.name))
    args.page.write_text(page, encoding="utf-8")
    drawing.write_text(plot(results), encoding="utf-8")
    print(f"wrote {args.page} and {drawing}")


if __name__ == "__main__":
    main()
