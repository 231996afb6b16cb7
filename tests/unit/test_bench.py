"""What the benchmark concludes from what it has measured."""

import xml.etree.ElementTree as ET
from math import isnan

import pytest

from tests.bench.farms import best_makespan, gaps
from tests.bench.goals import (
    goals,
    table_of_goals,
    table_of_granularity,
    table_of_rates,
    times_with_as_many_tasks,
)
from tests.bench.granularity import durations, find_metg, find_shares, tasks_for
from tests.bench.measurements import ONE_RANK
from tests.bench.plot import Bar, bar_chart
from tests.bench.report import BEGIN, END, plot, replace_between_marks
from tests.bench.results import Results, Run, load, save
from tests.workdir_files import Attempt


def create_results() -> Results:
    results = Results(machine={"CPUs": "2 x Some"})
    for slow in (1.0, 4.0, 2.0):
        mine, limit = Run(100, 2 * slow, 0.02), Run(100, slow, 0.01)
        results.add_round("limit", {"limit": limit, ONE_RANK: mine})
        peer, same = Run(10, 5 * slow, 0.1), Run(10, 0.5 * slow, 0.1)
        runs = {ONE_RANK: mine, f"{ONE_RANK}, 10 tasks": same, "disBatch": peer}
        results.add_round("peers", runs)
    results.add_figures("busy, 1 s", [0.98, 0.995, 0.999])
    return results


def row_of(lines: list[str], text: str) -> list[str]:
    (line,) = [line for line in lines if text in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_the_median_of_the_ratios_of_each_round():
    results = create_results()
    assert results.ratio("limit", ONE_RANK, "limit") == pytest.approx(0.5)
    results.add_round("limit", {"limit": Run(100, 1.0, 0.0)})  # the other one failed
    assert results.ratio("limit", ONE_RANK, "limit") == pytest.approx(0.5)


def test_results_come_back_from_their_file(tmp_path):
    path = tmp_path / "new" / "results.json"
    assert load(path) == Results()
    save(create_results(), path)
    assert load(path) == create_results()


def test_a_goal_without_a_figure_is_not_reached():
    lines = table_of_goals(Results())
    assert len(lines) == 2 + len(list(goals()))
    assert all(line.count("not measured") == 1 for line in lines[2:])


def test_the_table_says_of_each_goal_whether_it_is_reached():
    lines = table_of_goals(create_results())
    assert row_of(lines, "1 rank x 8 workers / limit")[1:] == [
        "0.500",
        "≥ 0.850",
        "**no**",
    ]
    assert row_of(lines, "tasks of 1 s")[1:] == ["99.5 %", "≥ 99 %", "yes"]
    assert row_of(lines, "disBatch")[1:] == ["25 ×", "≥ 50 ×", "**no**"]


def test_a_peer_is_also_compared_with_as_many_tasks_as_it_had():
    assert times_with_as_many_tasks(create_results(), "disBatch") == pytest.approx(10)
    assert isnan(times_with_as_many_tasks(create_results(), "HyperShell"))


def test_the_rates_stand_beside_their_spread_and_cpu_time():
    row = row_of(table_of_rates(create_results()), "| limit ")
    assert row == ["limit", "100", "3", "50/s", "25/s", "100/s", "100 µs", "1"]


def test_the_best_makespan_gives_each_task_in_order_to_who_is_free_first():
    seconds = [3.0, 1.0, 1.0, 5.0]
    attempts = [Attempt(i, seconds=long) for i, long in enumerate(seconds)]
    assert best_makespan(attempts, 2) == pytest.approx(7.0)
    assert best_makespan(attempts, 4) == pytest.approx(5.0)


def test_a_gap_is_between_two_tasks_of_one_worker():
    def attempt(taskid, rank, worker, started, seconds):
        where = {"rank": rank, "worker": worker}
        return Attempt(taskid, **where, started=started, seconds=seconds)

    attempts = [
        attempt(0, 1, 7, 10.0, 1.0),
        attempt(2, 1, 7, 11.5, 1.0),
        attempt(1, 1, 8, 10.0, 9.0),
        attempt(3, 0, 9, 10.0, 0.1),
        attempt(4, 0, 9, 15.0, 0.1),
    ]
    assert gaps(attempts, lambda rank: rank == 1) == [0.5]


def test_what_stands_between_the_marks_is_replaced_and_nothing_else():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_between_marks(page, BEGIN, END, ["new"]) == page.replace(
        "old", "new"
    )
    with pytest.raises(SystemExit, match="lacks"):
        replace_between_marks("no marks", BEGIN, END, ["new"])


def test_the_plot_shows_peers_as_parts_of_the_limit():
    drawing = plot(create_results())
    texts = [text.text for text in ET.fromstring(drawing).iter() if text.text]
    assert texts[texts.index("disBatch") + 1] == "0.02"


def test_a_bar_is_as_long_as_its_value():
    bars = [Bar("a", 4.0, "4", "limit"), Bar("<b>", 1.0, "1", "mine")]
    rects = ET.fromstring(bar_chart("t", "s", bars)).iter(
        "{http://www.w3.org/2000/svg}rect"
    )
    _, first, second = [float(rect.attrib["width"].rstrip("%")) for rect in rects]
    assert second == pytest.approx(first / 4)


def test_the_granularity_is_where_the_share_of_time_in_tasks_falls_below():
    shares = find_shares(lambda seconds: seconds / (seconds + 0.01))
    assert find_metg(shares, 0.5) == pytest.approx(0.01, rel=0.1)
    assert find_metg(shares, 0.95) == pytest.approx(0.19, rel=0.1)
    assert shares[-1][1] < 0.5 <= shares[-2][1], "shorter ones are not tried"


def test_a_share_that_was_never_reached_or_never_missed_has_no_granularity():
    assert isnan(find_metg([(0.5, 0.4)], 0.5))
    always = find_shares(lambda _: 0.99)
    assert [seconds for seconds, _ in always] == [*durations()]
    assert isnan(find_metg(always, 0.95))
    assert find_shares(lambda _: float("nan"))[1:] == []


def test_so_many_tasks_are_run_that_all_workers_are_busy():
    assert tasks_for(0.1, 8, 4.0) == 320
    assert tasks_for(10.0, 8, 4.0) == 8


def test_the_page_shows_the_granularity_of_each_contender():
    results = create_results()
    assert table_of_granularity(results) == []
    results.add_figures("METG(50 %), GNU parallel", [0.02])
    results.add_figures("METG(95 %), GNU parallel", [0.2])
    row = row_of(table_of_granularity(results), "GNU parallel")
    assert row == ["GNU parallel", "20.0 ms", "200.0 ms"]
