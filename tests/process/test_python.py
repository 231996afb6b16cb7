"""Farms that a script in Python starts, and the screen of code of their page.

Rules of this file: the farms run on this machine alone, but for one under mpirun.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import assert_type

import pytest

import mpifarm
from tests.pages import take_blocks
from tests.required import need_launcher
from tests.support import ROOT, clean_environment, wait_until


@pytest.fixture(autouse=True)
def place(tmp_path, tmp_path_factory, monkeypatch):
    """An empty current directory, and an environment without a launcher's variables."""
    clean = clean_environment(os.environ)
    for name in os.environ.keys() - clean.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    # A farm's own temporary workdirs, of which those with failures stay.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    return tmp_path


RUN, ITERATE, RETRY, LAUNCH, END_BY_SIGNAL = (
    block.text() for block in take_blocks("python.md")
)
"""The blocks of the page: each is typed by a test."""


@pytest.fixture
def simulate(place, monkeypatch):
    """The program of the page, of which one seed fails; ``mpifarm`` is a command."""
    program = place / "simulate"
    program.write_text('#!/bin/sh\nsleep 0.02\necho ran $2; [ "$2" != 7 ]\n')
    program.chmod(0o755)
    programs = os.path.join(sys.prefix, "bin")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.mark.usefixtures("simulate")
def test_the_code_of_the_page_does_what_the_page_says(place):
    (place / "script.py").write_text(f"{RUN}\nprint()\n{ITERATE}\nprint()\n{RETRY}")
    argv = [sys.executable, "-u", "script.py"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    host = os.uname().nodename
    *lines, farm_again, error, failed = printed.splitlines()
    assert lines == [
        *(f"seed 7 failed 1 {host}", "ran 7", "", "99 of 100 completed"),
        *("", "0 tasks are left", ""),
        "mpifarm: 1 task put back to be run: 7",
    ]
    assert farm_again.endswith("--workdir=seeds seeds/stdin.txt")
    assert error.startswith("100 tasks, 99 completed, 1 failed, 0 left; exit status 1")
    assert failed == "['seed 7']"


@pytest.mark.usefixtures("simulate")
def test_a_launcher_starts_the_ranks(monkeypatch, capfd):
    found = need_launcher()
    for name, value in found.variables.items():
        monkeypatch.setenv(name, value)
    commands = ["./simulate --seed 1; sleep 0.05"] * 40
    exec(LAUNCH, {"mpifarm": mpifarm, "commands": commands})
    ranks = json.loads(capfd.readouterr().out)
    assert {*ranks} <= {0, 1, 2, 3}
    assert len(ranks) > 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_exits_at_a_signal_stops_its_farm(place, signum):
    head = 'import mpifarm\ncommands = ["true", "sleep 600"]\n'
    (place / "script.py").write_text(head + END_BY_SIGNAL)
    attempts = place / "seeds" / "attempts.tsv"
    with subprocess.Popen([sys.executable, "script.py"]) as script:
        wait_until(lambda: attempts.exists() and "completed" in attempts.read_text())
        script.send_signal(signum)
    assert script.returncode == 128 + signum
    assert (place / "seeds" / "toprocess").read_text() == "1 sleep 600\n"
    assert not [*(place / "seeds" / "claims").iterdir()]


def test_the_code_of_a_script_has_types():
    # the type checker reads this as it reads a script of a user
    results = assert_type(mpifarm.run([("true", "a")], proc=2), mpifarm.Results)
    assert_type(results[0], mpifarm.Attempt)
    with mpifarm.Farm(["[limit=a] true"], limit={"a": 1}, bind=True) as farm:
        for attempt in farm:
            assert_type(attempt.name, str | None)
            assert assert_type(attempt.has_completed, bool)


def test_the_same_tasks_go_on_and_more_are_added(capfd):
    tasks = ["echo one", "exit 3"]
    before = mpifarm.run(tasks, workdir="w", proc=2)
    after = mpifarm.run([*tasks, "echo new"], workdir="w", proc=2)
    assert [each.outcome for each in after] == ["completed", "failed", "completed"]
    assert after[:2] == before[:]
    assert after[2].farm != after[1].farm
    assert after.read_output(2) == "new\n"
    for taskid in (-1, 3):
        with mpifarm.Farm([*tasks, "echo new"], workdir="w") as farm:
            assert farm.read_output(0) == "one\n"
            refused = f"there is no task {taskid}: there are 3 tasks, from 0 on"
            with pytest.raises(mpifarm.InputError, match=refused):
                farm.read_output(taskid)
    assert capfd.readouterr() == ("", "")


def test_what_a_farm_refuses_is_told_and_nothing_is_left(place):
    sentence = "task 1, 'for i in 1', has no end for its \"for\""
    with pytest.raises(mpifarm.InputError, match=sentence):
        mpifarm.run(["true", "for i in 1"], workdir="w")
    with pytest.raises(mpifarm.InputError, match="can't start nosuch"):
        mpifarm.run(["true"], launcher="nosuch -n 2")
    with pytest.raises(mpifarm.FarmError, match="false started no farm"):
        mpifarm.run(["true"], launcher=["/bin/false"])
    with pytest.raises(mpifarm.InputError, match='no end for its "for"'):
        mpifarm.run(["for i in 1"])
    kind = r"""task 0, '\[limit=l\] true', is of .*, by limit=\{"l": N\} \(0"""
    with pytest.raises(mpifarm.InputError, match=kind):
        mpifarm.run(["[limit=l] true"], workdir="w")
    with pytest.raises(
        mpifarm.InputError, match=r"for hook, only: none.* with config$"
    ):
        mpifarm.run(["true"], hook="x", workdir="w")
    assert mpifarm.run([], workdir="w")[:] == []
    assert mpifarm.run([])[:] == []
    assert [*place.iterdir(), *Path(tempfile.gettempdir()).iterdir()] == []


def test_a_temporary_workdir_stays_while_something_is_wrong_or_used():
    results = mpifarm.run(["echo hello"])
    workdir = Path(results.workdir)
    assert results.read_output(0) == "hello\n"
    del results
    assert not workdir.exists()
    with pytest.raises(mpifarm.TasksFailedError) as error:
        mpifarm.run([("exit 3", "three")], check=True)
    (failed,) = error.value.failed
    assert (failed.name, failed.status) == ("three", 3)
    assert Path(error.value.results.workdir, "attempts.tsv").exists()


def test_leaving_the_block_puts_running_tasks_back():
    with mpifarm.Farm(["true", "sleep 600"], workdir="w", proc=2) as farm:
        for attempt in farm:
            assert attempt.taskid == 0
            break
    results = farm.wait()
    assert results.exit_status is mpifarm.ExitStatus.RUN_AGAIN
    assert results.reason == "the script stopped it"
    assert results.left == [1]
    assert Path("w/toprocess").read_text() == "1 sleep 600\n"


def test_an_interrupt_puts_running_tasks_back():
    farm = mpifarm.Farm(["true", "sleep 600"], workdir="w", proc=2)
    attempts = Path("w/attempts.tsv")

    def interrupt():
        wait_until(lambda: attempts.exists() and "completed" in attempts.read_text())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with suppress(KeyboardInterrupt), farm:
        thread.start()
        farm.wait()
        pytest.fail("no interrupt came")
    thread.join()
    assert farm.wait().left == [1]
    assert [each.taskid for each in farm.wait() if each.has_completed] == [0]


def test_an_interrupt_says_how_to_go_on(place):
    with pytest.raises(KeyboardInterrupt) as interrupt, mpifarm.Farm(["true"] * 2):
        raise KeyboardInterrupt
    (note,) = interrupt.value.__notes__
    assert "the farm was stopped" in note
    assert "workdir='" in note


def test_fewer_tasks_than_before_are_refused_and_none_runs(place):
    tasks = ["echo one >>out", "echo two >>out"]
    mpifarm.run(tasks[:1], workdir="w")
    with mpifarm.Farm(["echo one >>out", "true", "true"], workdir="w") as farm:
        farm.wait()
    before = Path("out").read_text()
    with pytest.raises(mpifarm.InputError, match="w has 3 tasks, and only the first 2"):
        mpifarm.run(["echo one >>out", "true"], workdir="w")
    with pytest.raises(mpifarm.InputError, match="task 0 is 'echo one >>out' there"):
        mpifarm.run(tasks[1:], workdir="w")
    assert Path("out").read_text() == before
    with open("w/stdin.txt") as kept:
        assert len(mpifarm.run(kept, workdir="w", check=True)) == 3


def test_two_scripts_with_one_new_workdir_never_run_each_others_tasks(place):
    launcher = ["sh", "-c", 'until [ -e go ]; do sleep 0.01; done; exec "$@"', "sh"]
    slow = mpifarm.Farm(["echo slow >>out"], workdir="w", launcher=launcher)
    refused = pytest.raises(mpifarm.InputError, match="another list than w/stdin")
    with refused, slow:
        fast = mpifarm.run(["echo fast >>out"], workdir="w")
        Path("go").touch()
        slow.wait()
    assert fast.exit_status == 0
    assert Path("out").read_text() == "fast\n"
    assert not [*Path("w").glob("given-*")]


def test_the_farms_sentence_is_found_above_what_a_launcher_says_of_it(place):
    says = "for line in 1 2 3 4 5 6 7 8 9 10 11 12; do echo mpirun: $line; done"
    launcher = ["sh", "-c", f'"$@"; status=$?; {says}; exit $status', "sh"]
    with pytest.raises(mpifarm.InputError, match='no end for its "for"') as error:
        mpifarm.run(["for i in 1"], launcher=launcher)
    assert "mpirun" not in str(error.value)
    assert [*place.iterdir()] == []


def test_what_a_farm_has_refused_is_told_again(capfd):
    farm = mpifarm.Farm(["for i in 1"], workdir="w", progress=True)
    refused = pytest.raises(mpifarm.InputError, match='no end for its "for"')
    with refused, farm:
        farm.wait()
    with refused:
        farm.wait()
    assert capfd.readouterr().out.count("no end for its") == 1


def test_a_farm_that_was_killed_goes_on_with_the_same_call(place):
    tasks = ["true", "[ -e go ] || sleep 600"]
    with mpifarm.Farm(tasks, workdir="w", proc=2) as farm:
        reports = Path("w/farms")
        wait_until(lambda: reports.exists() and [*reports.glob("*.json")])
        next(iter(farm))
        (report,) = reports.glob("*.json")
        os.kill(json.loads(report.read_text())["pid"], signal.SIGKILL)
        results = farm.wait()
    assert results.exit_status is mpifarm.ExitStatus.RUN_AGAIN
    assert results.reason.endswith("ended before its farm, with status 137")
    assert results.left == [1]
    Path("go").touch()
    mpifarm.run(tasks, workdir="w", check=True)


KILLED_FARM = """
"$@" & farm=$!
until ls w/farms/*.json; do sleep 0.05; done
kill -KILL $farm; wait; echo srun: error: why; exit $0
"""


@pytest.mark.parametrize("status", [70, 137])
def test_why_a_launcher_lost_its_farm_is_told(place, status):
    launcher = ["sh", "-c", KILLED_FARM, str(status)]
    farm = mpifarm.Farm(["sleep 600"], workdir="w", launcher=launcher)
    if status == mpifarm.ExitStatus.DEFECT:
        refused = pytest.raises(mpifarm.FarmError, match="a defect of mpifarm ended")
        with refused as error, farm:
            farm.wait()
        assert str(error.value).endswith("\nsrun: error: why")
    else:
        with farm:
            results = farm.wait()
        why = "sh ended before its farm, with status 137: srun: error: why"
        assert results.reason == why


def test_the_nodes_that_a_farm_leaves_idle_are_told(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "8")
    with pytest.warns(
        UserWarning, match="8 nodes, and the farm runs on this one alone"
    ):
        mpifarm.Farm(["true"])
    with pytest.warns(UserWarning, match="8 nodes") as told:
        mpifarm.run([])
    assert {each.filename for each in told} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mpifarm.Farm(["true"], launcher="srun -N 8")


def test_a_rank_of_a_job_that_is_not_the_first_starts_no_farm(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    with pytest.raises(mpifarm.InputError, match="not the first"):
        mpifarm.run(["true"])
