"""`TaskLines`: the lines of ``--verbose`` on each task."""

import re

import pytest

from mpifarm.dialects import DisBatchTaskList
from mpifarm.errors import InputError
from mpifarm.farm.task_lines import MAX_COMMAND, TaskLines, show_command
from mpifarm.model.task import Outcome, Result, RunningTask


class Commands(list[str]):
    def __getitem__(self, taskid):
        if taskid >= len(self):
            raise InputError("no such task")
        return super().__getitem__(taskid)


class Site:
    def __init__(self):
        self.said: list[str] = []
        commands = Commands(["true", "x" * 1000, "exit 3"])
        self.lines = TaskLines(commands, lambda rank: f"n{rank}", self.said.append)

    def end(self, taskid, status=0, attempt=1, worker=5):
        outcome = Outcome.FAILED if status else Outcome.COMPLETED
        result = Result(taskid, attempt, outcome, status, 4711, 1.7e9, 2.5, 9.0)
        self.lines.note_end(3, result._replace(worker_index=worker))


@pytest.fixture
def site():
    return Site()


def test_a_long_task_has_its_line_at_the_start_and_one_at_the_end(site):
    site.lines.note_running(3, (RunningTask(0, 1, 5, 1.7e9),))
    [begun] = site.said
    assert re.fullmatch(r"task 0 began at \d\d:\d\d:\d\d on n3, worker 5: true", begun)
    site.end(0)
    assert site.said[1:] == ["task 0 finished after 2.5 s on n3, worker 5"]


def test_a_short_task_has_both_lines_at_its_end(site):
    site.end(2, 3, attempt=2)
    begun, ended = site.said
    assert begun.endswith("on n3, worker 5, attempt 2: exit 3")
    assert ended == (
        "task 2 failed (exit status 3, the last of 2 attempts) after 2.5 s on n3,"
        " worker 5"
    )


def test_the_next_attempt_has_a_start_of_its_own(site):
    site.end(0, 1)
    site.end(0, 0, attempt=2)
    assert len(site.said) == 4


def test_variables_of_another_tool_do_not_hide_the_command(tmp_path):
    path = tmp_path / "Tasks"
    path.write_text("#DISBATCH PREFIX ( cd x ; \n./run )\n")
    tasks = DisBatchTaskList(str(path), "")
    assert show_command([tasks[0]], 0) == "( cd x ; ./run )"


def test_a_long_command_is_shortened(site):
    site.end(1)
    assert site.said[0].endswith("…")
    assert site.said[0].count("x") == MAX_COMMAND - 1


def test_a_task_that_no_worker_had_has_one_line(site):
    site.end(9, 1, worker=None)
    assert site.said == ["task 9 failed (exit status 1) after 2.5 s"]


@pytest.mark.parametrize(
    ("outcome", "ended"),
    [
        (Outcome.TIMED_OUT, "failed (timed out after 2.5 s (exit status 1)) on n3,"),
        (Outcome.CANCELLED, "failed (cancelled after 2.5 s (exit status 1)) on n3,"),
        (Outcome.LOST, "failed (its worker or its rank died each time that it ran) on"),
    ],
)
def test_the_time_of_an_end_is_told_once_and_none_that_nobody_knows(
    site, outcome, ended
):
    result = Result(0, 1, outcome, 1, 4711, 1.7e9, 2.5, 9.0)
    site.lines.note_end(3, result._replace(worker_index=5))
    assert site.said[1].startswith(f"task 0 {ended}")


def test_a_task_without_a_command_is_told_all_the_same(site):
    site.end(9)
    assert site.said[0].endswith("(no command)")


def test_a_task_that_was_not_run_says_why_and_had_no_start():
    said: list[str] = []
    lines = TaskLines(["echo"] * 4, lambda rank: f"n{rank}", said.append)
    outcome, note = Outcome.NOT_RUN, "not run: task 0 failed"
    result = Result(3, 1, outcome, 1, 0, 0.0, 0.0, 0.0, note=note)
    lines.note_end(0, result)
    assert said == ["task 3 is not run: task 0 failed"]
