"""Failures: told as they happen, a few a minute, and grouped by cause at the end."""

import signal
from pathlib import Path

import pytest

from mpifarm.causes.failure import TAIL, Failure
from mpifarm.farm import failures as failures_module
from mpifarm.farm.cause_lines import (
    MAX_CAUSES,
    MAX_IDS,
    GroupedFailures,
    describe_causes,
)
from mpifarm.farm.failures import MAX_LINE, MAX_TOLD, MINUTE, Failures
from mpifarm.model.task import Outcome, Result
from mpifarm.pool import out_of_memory
from tests.pages import take_block

START = 1000.0


class Site:
    """Failures of a farm of which each task writes a line, to a log of its own."""

    def __init__(self, logs: Path, *, tells_ends: bool = True) -> None:
        self.logs = logs
        self.told: list[str] = []
        commands = [f"./run {taskid}" for taskid in range(10_000)]
        self.failures = Failures(
            *(str(logs), "f00d", commands, lambda rank: f"n{rank}"),
            *(self.told.append, START),
            tells_ends=tells_ends,
        )

    def fail(
        self, taskid: int, words: str = "", status: int = 1, now: float = START
    ) -> None:
        if words:
            (self.logs / f"log_{taskid}").write_text(words)
        result = Result(taskid, 1, Outcome.FAILED, status, 4711, 1.7e9, 2.5, 9.0)
        self.failures.note(3, result, now)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_a_failure_is_told_with_host_status_command_and_last_words(site):
    site.fail(17, "hello\nValueError: bad\x1b[0m\n\n", status=3)
    assert site.told == [
        "task 17 failed (exit status 3) after 2.5 s on n3: ./run 17",
        "task 17 printed last: ValueError: bad",
    ]


def test_a_task_without_an_output_has_no_last_words(site):
    site.fail(17, status=-signal.SIGKILL)
    assert site.told == [
        "task 17 failed (killed by signal 9 (SIGKILL)) after 2.5 s on n3: ./run 17"
    ]


def test_what_mpifarm_itself_has_written_is_no_last_word(site):
    own = "=== mpifarm: killed by signal 9 (SIGKILL) ===\n"
    site.fail(17, f"step 7 of 9\n{own}", status=-9)
    site.fail(18, own, status=-9)
    assert [line for line in site.told if "printed" in line] == [
        "task 17 printed last: step 7 of 9"
    ]


def test_where_each_end_is_told_anyway_only_the_last_words_are_added(tmp_path):
    site = Site(tmp_path, tells_ends=False)
    site.fail(1, "bad")
    assert site.told == ["task 1 printed last: bad"]


def test_a_few_failures_a_minute_are_told_and_the_others_counted(site):
    for taskid in range(40):
        site.fail(taskid, now=START + taskid)
    site.failures.look(START + MINUTE - 1)
    assert len(site.told) == MAX_TOLD
    site.failures.look(START + MINUTE)
    *_, shown = take_block("screen.md", "mpifarm: task 17 failed").lines
    assert [f"mpifarm: {told}" for told in site.told[MAX_TOLD:]] == [shown]
    site.fail(41, now=START + MINUTE + 1)
    assert site.told[-1].startswith("task 41 failed")


def test_the_cost_is_bounded_whatever_fails(site, monkeypatch):
    ticks = iter(range(100_000))
    fake = type("time", (), {"perf_counter": lambda: next(ticks) / 10})
    monkeypatch.setattr(failures_module, "time", fake)
    for taskid in range(100):
        site.fail(taskid, "ValueError: bad")
    assert site.failures.group({"n3": 100}).looked_at == 21
    for taskid in range(100):
        site.fail(100 + taskid, "ValueError: bad", now=START + 100)
    assert site.failures.group({"n3": 100}).looked_at == 41


def group(*words: str, tmp_path: Path) -> GroupedFailures:
    site = Site(tmp_path)
    for taskid, each in enumerate(words):
        site.fail(taskid, each)
    return site.failures.group({"n3": len(words)})


def test_failures_are_told_by_cause_with_the_line_that_retries_them(tmp_path):
    missing = ["cat: here.txt: No such file or directory"] * 3
    causes = group(*missing, *["ValueError: bad"] * 2, tmp_path=tmp_path)
    lines = describe_causes(causes, 5, "tasks.txt_workdir")
    assert lines[0].startswith("failed: 3 tasks: ")
    assert "here.txt" in lines[0]
    assert lines[1:5] == [
        "  tasks 0-2 on n3",
        "  task 0 ended with:",
        "  | cat: here.txt: No such file or directory",
        "  again, these alone: mpifarm retry tasks.txt_workdir --ids 0-2",
    ]
    assert lines[5] == "failed: 2 tasks: ValueError: bad"
    assert lines[-1].endswith("--ids 3-4")


def test_the_attempts_and_the_memory_of_a_cause_are_told(tmp_path):
    site = Site(tmp_path)
    line = out_of_memory.excess_line(369 << 20, 200 << 20)
    for taskid in range(2):
        (site.logs / f"log_{taskid}").write_text(f"=== mpifarm: {line} ===\n")
        result = Result(taskid, 2, Outcome.OUT_OF_MEMORY, -9, 4711, 1.7e9, 2.5, 9.0)
        site.failures.note(3, result, START)
    lines = describe_causes(site.failures.group({"n3": 2}), 2, "tasks.txt_workdir")
    assert lines[:2] == [
        "failed: 2 tasks: out of memory (limit 200 MB, largest seen 369 MB)",
        "  tasks 0-1 on n3, each the last of 2 attempts",
    ]


def test_more_causes_than_are_shown_and_tasks_not_looked_at_are_counted(tmp_path):
    words = [f"{name}Error: bad" for name in ("A", "B", "C", "D", "E", "F", "G")]
    lines = describe_causes(group(*words, tmp_path=tmp_path), 100, "here")
    assert len([line for line in lines if "again, these" in line]) == MAX_CAUSES
    assert lines[-2:] == [
        "failed: 2 more causes, see mpifarm why here",
        (
            "failed: 93 more tasks, in earlier or other farms or too many to look at, "
            "see mpifarm why here"
        ),
    ]


def test_ids_that_make_a_line_too_long_are_left_to_another_command(tmp_path):
    words = [("ValueError: bad", "A: good")[taskid % 2] for taskid in range(400)]
    lines = describe_causes(group(*words, tmp_path=tmp_path), 400, "here")
    assert max(map(len, lines)) < 2 * MAX_IDS
    assert lines[-1] == "  again, these alone: as mpifarm why here says"


# ---- bounds --------------------------------------------------------------------------


@pytest.mark.parametrize("length", [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1])
def test_a_last_line_is_cut_where_it_is_longer_than_what_is_shown(site, length):
    site.fail(1, "x" * length)
    whole = "x" * length
    shown = whole if length <= MAX_LINE else "x" * (MAX_LINE - 1) + "…"
    assert site.told[-1] == f"task 1 printed last: {shown}"


def test_each_minute_tells_of_its_own_failures(site):
    for minute in range(3):
        begun = START + minute * MINUTE
        site.failures.look(begun)
        for taskid in range(MAX_TOLD + 2):
            site.fail(100 * minute + taskid, now=begun)
        site.failures.look(begun + MINUTE - 0.001)
        assert len(site.told) == minute + (minute + 1) * MAX_TOLD
    site.failures.look(START + 3 * MINUTE)
    assert [line for line in site.told if "more failed" in line] == [
        "… and 2 more failed in the last minute"
    ] * 3


def test_a_minute_without_more_failures_tells_of_none(site):
    for taskid in range(MAX_TOLD):
        site.fail(taskid)
    site.failures.look(START + MINUTE)
    assert len(site.told) == MAX_TOLD


def outcome_of(site: Site, outcome: Outcome, status: int, **changes: object) -> None:
    result = Result(17, 1, outcome, status, 4711, 1.7e9, 2.5, 9.0, worker_index=0)
    site.failures.note(3, result._replace(**changes), START)  # type: ignore[arg-type]


def test_a_cancelled_task_is_grouped_and_not_told(site):
    outcome_of(site, Outcome.CANCELLED, -15)
    assert site.told == []
    assert site.failures.group({}).looked_at == 1
    for taskid in range(MAX_TOLD):
        site.fail(taskid)
    assert len(site.told) == MAX_TOLD, "it takes no place from those that are told"


@pytest.mark.parametrize(
    ("status", "shown", "number"), [(3, 3, 0), (-9, 137, 9), (0, 0, 0)]
)
def test_a_failure_is_grouped_with_its_status_as_the_shell_has_it(
    site, monkeypatch, status, shown, number
):
    added: list[Failure] = []
    grouper = site.failures._grouper
    monkeypatch.setattr(grouper, "add", added.append)
    (site.logs / "log_17").write_text("bad\n")
    outcome_of(site, Outcome.FAILED, status, peak_memory=99)
    site.logs.joinpath("log_17").write_text("x" * (TAIL + 9))
    outcome_of(site, Outcome.CANCELLED, status, worker_index=None)
    first, second = added
    assert first == Failure(
        *(17, "failed", shown, number, "n3", "./run 17", b"bad\n", 1.7e9, 2.5, 99, 1)
    )
    assert second.host == "", "no worker had it"
    assert len(second.tail) == TAIL + 1


def test_a_failure_of_the_next_minute_is_told_again(site):
    for taskid in range(MAX_TOLD + 2):
        site.fail(taskid)
    assert len(site.told) == MAX_TOLD
    site.fail(99, now=START + MINUTE)
    assert any(line.startswith("task 99 failed") for line in site.told)
