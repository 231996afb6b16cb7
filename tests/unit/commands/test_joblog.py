"""``mpifarm joblog --gnu``: the lines of GNU parallel's ``--joblog``."""

import pytest

from mpifarm.commands import joblog
from mpifarm.system.console import Console
from tests.unit.store_fakes import Site
from tests.workdir_files import OLD_ATTEMPTS_HEAD, Attempt, format_attempts

HEAD = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """0 and 1 finished, 2 and 3 failed."""
    site = Site(tmp_path / "tasks.txt_workdir")
    (tmp_path / "tasks.txt").write_text("".join(f"{text}\n" for text in site.tasks))
    site.write("finished", [1, 0])
    site.write("failed", [2, 3])
    site.write("toprocess", range(4, 12))
    monkeypatch.chdir(tmp_path)
    return site


@pytest.fixture
def lines(capfd):
    def call(*words):
        assert joblog.main([*words, "--gnu"], Console(prints=True), {}) == 0
        return capfd.readouterr().out.splitlines()

    return call


def test_each_attempt_is_a_line_of_its_own(site, lines):
    attempts = [
        Attempt(0, started=1700000000.125, seconds=2.5, output_bytes="17"),
        Attempt(1, status=3),
        Attempt(1, 2),
        Attempt(2, status=-9, command=r"a\tb\nc\x1b"),
        Attempt(3, outcome="timed out"),
    ]
    (site.root / "attempts.tsv").write_text(format_attempts(*attempts))
    head, *rows = lines("tasks.txt")
    assert head == HEAD
    assert rows[0] == "1\tn1\t1700000000.125\t     2.500\t0\t17\t0\t0\ttrue"
    assert [row.split("\t")[6:8] for row in rows] == [
        *(["0", "0"], ["3", "0"], ["0", "0"], ["0", "9"], ["-1", "0"]),
    ]
    assert rows[3].endswith("\t9\ta\tb\0c\x1b")


def test_tasks_that_a_plain_farmer_ran_have_a_line_without_times(site, lines):
    old = Attempt(2, status=7, started=1e9, seconds=3)
    (site.root / "attempts.1.tsv").write_text(OLD_ATTEMPTS_HEAD + old.old_line)
    assert lines("tasks.txt_workdir")[1:] == [
        "3\t:\t1000000000.000\t     3.000\t0\t0\t7\t0\techo task 2",
        "1\t:\t0.000\t     0.000\t0\t0\t0\t0\techo task 0",
        "2\t:\t0.000\t     0.000\t0\t0\t0\t0\techo task 1",
        "4\t:\t0.000\t     0.000\t0\t0\t1\t0\techo task 3",
    ]


def test_odd_lines_are_left_out(site, lines):
    odd = Attempt(2).line.replace("\t1.0", "\tsoon") + "\0\0\n" + Attempt(2).line[:50]
    (site.root / "attempts.tsv").write_text(odd)
    assert [row.split("\t")[0] for row in lines("tasks.txt")[1:]] == list("1234")


def test_the_only_format_need_not_be_named(site, lines, capfd):
    named = lines("tasks.txt")
    assert joblog.main(["tasks.txt"], Console(prints=True), {}) == 0
    assert capfd.readouterr().out.splitlines() == named


def test_a_command_is_that_of_its_attempt_and_else_that_of_the_list(site, lines):
    attempts = [
        Attempt(0, command="now"),
        Attempt(1, command=""),
        Attempt(2, status=1, command=r"a\\b"),
        Attempt(3, outcome="cancelled", status=0),
    ]
    (site.root / "attempts.tsv").write_text(format_attempts(*attempts))
    rows = [row.split("\t") for row in lines("tasks.txt")[1:]]
    commands = [row[8] for row in rows]
    assert commands[:3] == ["now", site.tasks[1], "a\\b"]
    assert [row[6:8] for row in rows] == [
        *(["0", "0"], ["0", "0"], ["1", "0"], ["-1", "0"])
    ]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
