"""What the commands that look, check, retry and log say of a list with an order."""

import json
import re
from pathlib import Path

import pytest

from mpifarm.commands import check, log, ls, retry, status, why
from mpifarm.errors import InputError
from mpifarm.store.fingerprint import encode_fingerprint, take_fingerprint
from mpifarm.system.console import Console
from mpifarm.tasklists import read_list
from tests.unit.store_fakes import Site
from tests.workdir_files import Attempt, format_attempts

LIST = """\
./a
./b
#BARRIER CHECK
./c
./d
#AFTER 1
./e
"""
NOT_RUN = "not run: task 0 failed"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Task 0 has failed, 1 finished; so the others were not run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.txt").write_text(LIST)
    reader = read_list("tasks.txt")
    site = Site(tmp_path / "tasks.txt_workdir", [*reader.texts])
    site.constraints = reader.constraints
    site.write("finished", [1])
    site.write("failed", [0, 2, 3, 4])
    site.write("toprocess", [])
    site.write("waiting", [])
    (site.root / "logs").mkdir()
    for taskid in (0, 1):
        (site.root / f"logs/log_{taskid}").write_text("no luck\n")
    fingerprint = take_fingerprint(site.tasks, constraints=site.constraints)
    (site.root / "fingerprint.json").write_bytes(encode_fingerprint(fingerprint))
    ends = [Attempt(0, status=1), Attempt(1)]
    ends += [Attempt(each, 0, status=1, host="", outcome=NOT_RUN) for each in (2, 3, 4)]
    (site.root / "attempts.tsv").write_text(format_attempts(*ends))
    return site


@pytest.fixture
def run(capfd):
    """Call a subcommand on the list: its exit status, its output and its words."""

    def call(command, *words: str) -> tuple[int, str, str]:
        console = Console(prints=True)
        ended = command.main(["tasks.txt", *words], console, {})
        console.close()
        out, err = capfd.readouterr()
        return ended, out, err

    return call


def test_what_was_not_run_has_no_log_and_that_is_in_order(site, run):
    ended, out, _ = run(check)
    assert (ended, "without a log" in out) == (0, False)
    assert "the workdir is in order" in out


def test_its_log_is_the_reason(site, run):
    with pytest.raises(InputError, match="task 3 was not run: task 0 failed"):
        run(log, "3")


def test_what_was_cancelled_before_it_ran_has_no_log_either(site, run):
    ends = [Attempt(0, status=1), Attempt(1)]
    ends += [
        Attempt(taskid, status=-15, outcome="cancelled", worker=worker)
        for taskid, worker in ((2, -1), (3, 1), (4, -1))
    ]
    (site.root / "attempts.tsv").write_text(format_attempts(*ends))
    (site.root / "waiting").unlink()
    with pytest.raises(InputError, match="task 2 was cancelled before it ran"):
        run(log, "2")
    with pytest.raises(InputError, match="task 3 has failed, and has no output"):
        run(log, "3")
    _, out, _ = run(check)
    (row,) = [line for line in out.splitlines() if "without a log" in line]
    assert re.search(r" 1  notice: ended, and without a log +3 ", row)


def test_it_is_one_group_by_the_task_that_failed_in_the_first_place(site, run):
    _, out, _ = run(why, "--json")
    groups = json.loads(out)["groups"]
    assert [each["count"] for each in groups] == [1, 3]  # the real failure first
    assert groups[1]["cause"] == NOT_RUN


def test_status_counts_it_apart_and_shows_what_failed_alone(site, run):
    _, out, _ = run(status)
    lines = out.splitlines()
    assert lines[1] == (
        "1 finished, 1 failed, 3 not run (they wait for task 0), 0 running, 0 waiting"
    )
    rows = out.partition("failed last:\n")[2].splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["0"]
    _, out, _ = run(status, "--json")
    found = json.loads(out)
    assert (found["counts"]["failed"], found["not_run"]) == (4, 3)


def test_ls_has_no_status_and_no_start_of_it(site, run):
    _, out, _ = run(ls, "--failed")
    row = next(line for line in out.splitlines() if NOT_RUN in line)
    assert row.split() == ["2", "failed", *NOT_RUN.split(), "./c"]
    ended, out, _ = run(ls, "--status", "1", "--ids")
    assert (ended, out) == (0, "0\n")
    _, out, _ = run(ls, "--failed", "--json")
    tasks = {each["id"]: each for each in json.loads(out)["tasks"]}
    known = {name for name, value in tasks[2].items() if value is not None}
    assert known == {"id", "state", "outcome", "command"}
    assert tasks[2]["outcome"] == NOT_RUN
    assert tasks[0]["status"] == 1


def test_what_goes_back_waits_behind_the_barrier(site, run):
    _, out, _ = run(retry, "--ids", "3")
    assert "4 tasks put back to be run: 0, 2-4" in out
    assert "of these, tasks 0, 2, 4 by the order of the list: they wait for" in out
    assert (site.ids("toprocess"), site.ids("waiting")) == ([0], [2, 3, 4])
    assert site.ids("failed") == []
    _, out, _ = run(ls, "--waiting")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["0", "2", "3", "4"]
    _, out, _ = run(status)
    assert "3 of those waiting wait for others, by the order of the list" in out
    site.write("toprocess", [])
    _, out, _ = run(status)
    assert "all of those waiting wait for others, by the order of the list" in out
    site.write("waiting", [4])
    _, out, _ = run(status)
    assert "the one waiting waits for others, by the order of the list" in out
    site.write("waiting", [2, 3, 4])
    site.write("failed", [0])
    site.write("toprocess", [])
    _, out, _ = run(status)
    assert "wait for others" not in out  # they will not be run


def test_what_plain_farmers_may_not_run_is_taken_out_of_their_queue(site, run):
    site.write("failed", [0])
    site.write("toprocess", [2, 3])
    site.write("waiting", [4])
    ended, out, _ = run(check)
    assert ended == 1
    assert "in toprocess, where plain farmers would run it too early  2-3" in out
    ended, out, _ = run(check, "--repair")
    assert ended == 0
    assert site.ids("waiting") == [2, 3, 4]


@pytest.mark.parametrize("wrong", ["#BARRIER CHEK", "#AFTER 99"])
def test_a_wrong_directive_is_a_warning_to_those_who_look(site, run, wrong):
    with open("tasks.txt", "a") as stream:
        stream.write(f"{wrong}\n./late\n")
    sentence = "line 8 of tasks.txt "
    _, out, _ = run(status)
    assert "1 finished, 1 failed, 3 not run (they wait for task 0)" in out
    assert f"\n{sentence}" in out
    _, out, err = run(ls)
    assert (len(out.splitlines()), sentence in err) == (6, True)
    _, out, err = run(why)
    assert ("1 of 5 tasks has failed" in out, sentence in err) == (True, True)
    ended, out, err = run(check)
    assert (ended, sentence in err) == (1, True)
    assert "1 finished, 1 failed, 3 not run, 0 to process" in out
    with pytest.raises(InputError, match=sentence):
        run(check, "--repair")


def test_a_list_that_cannot_be_read_is_a_mistake_still(site, run):
    Path("tasks.txt").write_bytes("./a\n".encode("utf-16"))
    with pytest.raises(InputError, match="is UTF-16"):
        run(status)
