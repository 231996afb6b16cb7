"""``mpifarm ls``, ``why``, ``joblog`` and ``log --failed`` on workdirs of real farms.

Rules of this file: what is printed is compared with the files as `tests.workdir_files`
reads them, and with what GNU parallel makes of it.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.farm_driver import MPIFARM
from tests.required import find_tool
from tests.support import wait_until

FAILS = [0, 3, 5, -9]
"""The statuses of the tasks of `ended`, over and over."""


@pytest.fixture
def ended(create_place):
    """A workdir after a farm: every second task is longer, three of four fail."""
    ends = ["true", "exit 3", "exit 5", "kill -9 $$"]
    place = create_place(
        [
            f"echo line 1 of {i}; echo line 2 of {i}; sleep 0.{i % 2}; {ends[i % 4]}"
            for i in range(12)
        ]
    )
    assert place.run("--proc", "4") == 1
    return place


def listed(mpifarm, place, *words):
    """The tasks that ``mpifarm ls --json`` lists."""
    status, text = mpifarm(place, "ls", "tasks.txt", "--json", *words)
    tasks = json.loads(text)["tasks"]
    assert status == (0 if tasks else 1)
    return tasks


def ids_of(tasks):
    return [task["id"] for task in tasks]


def test_a_farm_s_workdir_is_listed_as_its_files_say(ended, mpifarm):
    status, text = mpifarm(ended, "ls", "tasks.txt", "--json")
    assert status == 0
    found = json.loads(text[text.index("{") :])
    by_id = {attempt.taskid: attempt for attempt in ended.attempts()}
    assert len(by_id) == 12
    finished, failed = {*ended.ids("finished")}, {*ended.ids("failed")}
    for task, text_of_it in zip(found["tasks"], ended.tasks, strict=True):
        attempt = by_id[task["id"]]
        assert task["command"] == text_of_it
        states = {"finished": finished, "failed": failed}
        assert task["id"] in states[task["state"]]
        signum = task["signal"]
        assert (-signum or task["status"]) == attempt.status == FAILS[task["id"] % 4]
        for name in ("host", "rank", "seconds", "started", "farm", "attempt", "pid"):
            assert task[name] == getattr(attempt, name)
    assert found["counts"]["failed"] == len(failed) == 9


def test_what_is_chosen_is_what_the_files_say(ended, mpifarm):
    attempts = ended.attempts()
    wanted = sorted(each.taskid for each in attempts if each.status == 3)
    assert ids_of(listed(mpifarm, ended, "--status", "3")) == wanted
    times = sorted(attempts, key=lambda each: -each.seconds)
    slowest = ids_of(listed(mpifarm, ended, "--slowest", "4"))
    assert slowest == [each.taskid for each in times[:4]]
    limit = times[5].seconds
    longer = ids_of(listed(mpifarm, ended, "--longer-than", f"{limit:.6f}"))
    assert longer == sorted(each.taskid for each in times if each.seconds >= limit)
    host = os.uname().nodename
    assert len(listed(mpifarm, ended, "--host", host)) == 12
    assert listed_none(mpifarm, ended, "--host", "not" + host)


def listed_none(mpifarm, place, *words):
    status, text = mpifarm(place, "ls", "tasks.txt", *words)
    return status == 1 and "none of " in text


def test_ids_go_to_the_next_command(ended, mpifarm):
    command = " ".join(MPIFARM)
    line = (
        f"{command} retry tasks.txt"
        f' --ids "$({command} ls tasks.txt --failed --status 3 --ids)"'
    )
    child = ended.start_command(["sh", "-c", line])
    assert child.wait(60) == 0, child.text()
    assert "put back to be run: 1, 5, 9\n" in child.text()
    assert ids_of(listed(mpifarm, ended, "--waiting")) == [1, 5, 9]


def test_the_last_lines_of_what_failed(ended, mpifarm):
    status, text = mpifarm(ended, "log", "tasks.txt", "--failed", "--last", "1")
    assert status == 0
    failed = sorted(ended.ids("failed"))
    # What mpifarm itself says of the end is the last line of the output.
    killed = "=== mpifarm: killed by signal 9 (SIGKILL) ==="
    lines = {i: f"line 2 of {i}" if FAILS[i % 4] > 0 else killed for i in failed}
    assert text == "".join(f"==> task {i} <==\n{lines[i]}\n" for i in failed)


@pytest.mark.parametrize("logs", ["packed", "failed"])
def test_the_outputs_of_what_failed_are_found_whatever_logs_there_were(
    create_place, mpifarm, logs
):
    place = create_place(["echo a; exit 1", "echo b", "echo c; echo d; exit 2"])
    assert place.run("--logs", logs) == 1
    _, text = mpifarm(place, "log", "tasks.txt", "--failed", "--last", "1")
    assert text == "==> task 0 <==\na\n==> task 2 <==\nd\n"


@pytest.mark.parametrize("logs", ["all", "packed", "failed"])
def test_causes_are_read_whatever_logs_there_were(create_place, mpifarm, logs):
    wrong = "echo error: no cell $MPIFARM_TASK in grid >&2; exit 1"
    place = create_place([wrong, "echo b", wrong, "echo error: other; exit 2", wrong])
    assert place.run("--logs", logs, "--retries", "1") == 1
    _, text = mpifarm(place, "why", "tasks.txt", "--json")
    first, second = json.loads(text)["groups"]
    assert (first["tasks"], second["tasks"]) == ("0,2,4", "3")
    assert first["cause"].startswith("error: no cell")
    assert second["cause"] == "error: other"
    assert [*first["hosts"]] == [os.uname().nodename]
    command = first["retry"].removeprefix("mpifarm ").split()
    status, text = mpifarm(place, *command)
    assert status == 0, text
    assert place.ids("toprocess") == [0, 2, 4]
    assert place.ids("failed") == [3]


def test_a_list_named_as_a_command_is_farmed_and_told(create_place):
    place = create_place(["true"])
    place.tasklist.rename(place.directory / "why")
    told = "say ./why for the list, or mpifarm why WORKDIR for the command"
    for word in ("why", "./why"):
        child = place.start_command([*MPIFARM, word])
        assert child.wait(60) == 0, child.text()
        assert (told in child.text()) is (word == "why")
    child = place.start_command([*MPIFARM, "why", "why"])
    assert child.wait(60) == 0
    assert child.text() == "no task has failed\n"


# ---- while a farm runs, and when it has died ----------------------------------------


def test_what_runs_is_listed_with_its_host_and_when_the_farm_has_died_as_orphaned(
    create_place, mpifarm
):
    place = create_place(["true", *["touch begun; exec sleep 1000"] * 2, "sleep 1000"])
    # it tells what runs each half second then, and not each five
    farm = place.start("--verbose", "--proc", "2")
    wait_until(lambda: place.ids("finished") == [0], 60)

    def running():
        tasks = listed(mpifarm, place, "--running")
        return [task for task in tasks if task["state"] == "running"]

    tasks = wait_until(running, 60)
    assert {*ids_of(tasks)} <= {1, 2}
    assert {task["host"] for task in tasks} == {os.uname().nodename}
    assert all(0 < task["seconds"] < 100 for task in tasks)
    (claim,) = place.claims()
    assert {task["claimed_by"] for task in tasks} == {claim}
    assert ids_of(listed(mpifarm, place, "--running", "--host", "nowhere")) == []
    place.kill(farm)
    assert listed_none(mpifarm, place, "--running")
    waiting = listed(mpifarm, place, "--waiting")
    assert {"orphaned"} <= {task["state"] for task in waiting}
    assert ids_of(waiting) == [1, 2, 3]


def test_it_may_be_asked_all_the_time_while_a_farm_writes(create_place, mpifarm):
    place = create_place(["sleep 0.02"] * 300)
    farm = place.start("--proc", "4")
    wait_until(lambda: place.ids("finished"), 60)
    finished = 0
    while not farm.has_ended():
        status, text = mpifarm(place, "ls", "tasks.txt", "--json")
        assert status == 0, text
        counts = json.loads(text)["counts"]
        assert sum(counts.values()) == 300
        assert counts["nowhere"] == 0
        assert counts["finished"] >= finished
        finished = counts["finished"]
    assert farm.wait() == 0
    assert place.violations() == []


def test_causes_may_be_asked_for_all_the_time_while_a_farm_writes(
    create_place, mpifarm
):
    place = create_place(["sleep 0.02; echo error: no cell; exit 1"] * 200)
    farm = place.start("--proc", "4", "--logs", "packed", "--quarantine", "off")
    wait_until(lambda: place.ids("failed"), 60)
    count = 0
    while not farm.has_ended():
        status, text = mpifarm(place, "why", "tasks.txt", "--json")
        assert status == 0, text
        (group,) = json.loads(text)["groups"]
        assert group["cause"] == "error: no cell"
        assert group["count"] >= count
        count = group["count"]
    assert farm.wait() == 1
    _, text = mpifarm(place, "why", "tasks.txt")
    assert text.startswith("200 of 200 tasks have failed, of 1 cause\n")
    assert place.violations() == []


# ---- other workdirs -----------------------------------------------------------------


@pytest.mark.parametrize("plain_farmer", ["0.1.0"], indirect=True)
def test_the_workdir_of_a_plain_farmer(create_place, mpifarm, plain_farmer):
    # It runs no shell by default.
    place = create_place(["echo a", "ls nowhere", "echo c"])
    plain = place.start_plain(plain_farmer, "--proc", "1")
    assert plain.wait(60) == 0
    tasks = listed(mpifarm, place)
    assert [task["state"] for task in tasks] == ["finished", "failed", "finished"]
    assert [task["status"] for task in tasks] == [None] * 3
    assert [task["command"] for task in tasks] == place.tasks
    _, text = mpifarm(place, "ls", "tasks.txt", "--failed")
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["id", "state"],
        ["1", "failed"],
    ]
    status, text = mpifarm(place, "ls", "tasks.txt", "--slowest", "1")
    assert (status, "no mpifarm has run any" in text) == (1, True)
    _, text = mpifarm(place, "joblog", "tasks.txt", "--gnu")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    assert {(row[0], row[6]) for row in rows} == {("1", "0"), ("2", "1"), ("3", "0")}
    status, text = mpifarm(place, "log", "tasks.txt", "--failed", "--last", "1")
    assert text.startswith("==> task 1 <==\n")
    _, text = mpifarm(place, "why", "tasks.txt")
    assert "group 1: a file is missing (No such file or directory): nowhere\n" in text


@pytest.mark.parametrize("with_list", [True, False])
def test_an_empty_workdir(create_place, mpifarm, with_list):
    place = create_place(["echo a"])
    (place.workdir / "logs").mkdir(parents=True)
    if not with_list:
        place.tasklist.unlink()
    for words in (("ls",), ("joblog", "--gnu"), ("log", "--failed"), ("why",)):
        status, text = mpifarm(place, words[0], "tasks.txt_workdir", *words[1:])
        assert status in (0, 1)
        assert "Traceback" not in text
    status, text = mpifarm(place, "ls", "tasks.txt_workdir")
    assert ("waiting  echo a" in text) is with_list
    assert ("has no tasks" in text) is not with_list


def test_a_damaged_workdir_is_listed_without_a_traceback(ended, mpifarm):
    rng = random.Random(7)
    whole = Path(ended.directory, "whole")
    shutil.copytree(ended.workdir, whole)
    names = ["toprocess", "finished", "failed", "attempts.tsv", "fingerprint.json"]
    names += [f"farms/{name}" for name in os.listdir(whole / "farms")]
    for name in names:
        shutil.rmtree(ended.workdir)
        shutil.copytree(whole, ended.workdir)
        path = ended.workdir / name
        content = bytearray(path.read_bytes() if path.exists() else b"")
        for _ in range(20):
            place = rng.randrange(len(content) + 1)
            content[place : place + rng.randrange(3)] = rng.randbytes(3)
        path.write_bytes(content)
        for words in (["ls"], ["joblog", "--gnu"], ["why"]):
            child = ended.start_command([*MPIFARM, *words, "tasks.txt"])
            assert child.wait(60) in (0, 1), child.text()
            assert "Traceback" not in child.text()
    # A file that is no file is told of in a sentence.
    path = ended.workdir / "attempts.tsv"
    path.unlink()
    os.mkfifo(path)
    for words in (["ls"], ["joblog", "--gnu"], ["why"]):
        status, text = mpifarm(ended, *words, "tasks.txt")
        assert status == 2
        assert text.count("\n") == 1
        assert "attempts.tsv can't be used: it is a fifo" in text


# ---- GNU parallel -------------------------------------------------------------------


def dry_run(place, option):
    """The commands that GNU parallel would run after the joblog."""
    with place.tasklist.open() as tasklist:
        ran = subprocess.run(
            [
                find_tool("parallel"),
                "--will-cite",
                "--dry-run",
                option,
                "--joblog",
                "joblog",
            ],
            stdin=tasklist,
            capture_output=True,
            text=True,
            cwd=place.directory,
            env=os.environ | {"HOME": str(place.directory)},
            check=True,
        )
    return ran.stdout.splitlines()


def test_gnu_parallel_goes_on_after_the_joblog(ended):
    with ended.tasklist.open("a") as stream:
        stream.write("echo one more\n")
    joblog = ended.directory / "joblog"
    with joblog.open("wb") as out:
        subprocess.run(
            [*MPIFARM, "joblog", "tasks.txt", "--gnu"],
            stdout=out,
            cwd=ended.directory,
            env=ended.environment,
            check=True,
        )
    before = joblog.read_bytes()
    left = [text for i, text in enumerate(ended.tasks) if i % 4 or i == 12]
    assert sorted(dry_run(ended, "--resume-failed")) == sorted(left)
    joblog.write_bytes(before)
    assert dry_run(ended, "--resume") == ["echo one more"]


# ---- a terminal ---------------------------------------------------------------------

ON_A_TERMINAL = """
import fcntl, os, pty, struct, sys, termios
pid, master = pty.fork()
if pid == 0:
    size = struct.pack("HHHH", 24, int(sys.argv[1]), 0, 0)
    fcntl.ioctl(1, termios.TIOCSWINSZ, size)
    os.execv(sys.argv[2], sys.argv[2:])
try:
    while piece := os.read(master, 65536):
        os.write(1, piece)
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("columns", [80, 200])
def test_each_task_is_one_line_of_the_terminal(create_place, columns):
    place = create_place([f"true {'x' * 150} \x1b[2J", "true \udcff"])
    assert place.run() == 0
    before = (sys.executable, "-c", ON_A_TERMINAL, str(columns))
    child = place.start_command([*before, *MPIFARM, "ls", "tasks.txt"])
    assert child.wait(60) == 0, child.text()
    text = child.output.read_text("utf-8")
    for code in ("\x1b[1m", "\x1b[32m", "\x1b[0m"):
        text = text.replace(code, "")
    lines = text.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) <= columns for line in lines)
    assert len(lines[1]) == columns
    assert lines[1].endswith("…")
    assert lines[2].endswith(r"true \udcff")


def test_a_reader_that_has_seen_enough_ends_it(ended):
    line = f"{' '.join(MPIFARM)} ls tasks.txt | head -1"
    child = ended.start_command(["sh", "-c", line])
    assert child.wait(60) == 0
    assert child.text().split()[:2] == ["id", "state"]
