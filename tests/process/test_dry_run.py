"""``--dry-run`` beside the farm that it speaks of: its words, and its environment."""

import contextlib
import json
import os
import re
import shlex
import sqlite3
import sys
from pathlib import Path

import pytest

from mpifarm.database import schema
from mpifarm.database import tasks as statements
from tests.farm_driver import MPIFARM
from tests.process.dry_runs import assert_called, assert_changed, read_starts
from tests.support import snapshot, try_rounds, wait_until
from tests.workdir_files import WorkdirFiles

NOTE = f"""#!{sys.executable} -I
import json, os, sys
with open(os.environ["NOTES"], "a") as notes:
    print(json.dumps([sys.argv, dict(os.environ), os.getcwd()]), file=notes)
"""
"""A program that notes what it was given."""

OWN_RUNNER = """
import json, os

class Own:
    def __init__(self, greeting):
        self.greeting = greeting

    def run(self, taskid, command, logfh):
        with open(os.environ["NOTES"], "a") as notes:
            words = [taskid, command, self.greeting]
            print(json.dumps([words, dict(os.environ), os.getcwd()]), file=notes)
        return 0

    def terminate(self):
        pass
"""

JOB = {
    "LOADL_STEP_ID": "7",
    "LOADL_HOSTFILE": "/the/nodes/of/the/farm",
    "PMI_RANK": "0",
    "PMI_SIZE": "1",
    "OMPI_MCA_ras": "of the user",
    "PWD": "/not/here",
}
"""A rank in a job of a batch system."""


@pytest.fixture
def dry(create_place):
    """Show what a farm would run, run it, and compare; return what was shown."""
    place = create_place()
    notes = place.directory / "notes.json"
    (place.directory / "note").write_text(NOTE)
    (place.directory / "note").chmod(0o755)
    (place.directory / "own.py").write_text(OWN_RUNNER)
    (place.directory / "below").mkdir()
    path = f"{place.directory}:{os.environ['PATH']}"
    place.environment |= {"NOTES": str(notes), "PATH": path}

    def dry(lines, *options, ini="", environ=()):
        place.write_list(lines)
        (place.directory / "own.ini").write_text(ini)
        place.environment |= dict(environ)
        words = ["--config", "own.ini", "--mpi", "off", "-n", "1", *options]
        before = snapshot(place.directory)
        shown = place.start("--dry-run", *words)
        assert shown.wait() == 0, shown.text()
        assert snapshot(place.directory) == before
        farm = place.start(*words)
        assert farm.wait() == 0, farm.text()
        noted = [json.loads(line) for line in notes.read_text().splitlines()]
        for _, environment, _ in noted:
            assert_changed(shown.text(), place.environment, environment)
        return shown.text(), noted

    return dry


def test_a_dry_run_shows_words_variables_and_directory_of_the_default_runner(dry):
    text, noted = dry(
        ["note 'a  b' $SET", "note c; true", "note d"],
        *("-r", "quiet", "--id-variable", "NUMBER=5", "--gpus", "2", "--setup", "E=e"),
        ini="[quiet]\nRunner = mpifarm.runners.BasicRunner\n"
        "env.SET = x y\nenv.EMPTY =\nenv.OMP_NUM_THREADS = 7\ncwd = below\n",
        environ={**JOB, "MPIFARM_TRACE": "trace", "CUDA_VISIBLE_DEVICES": "3,5"},
    )
    starts = ["E=e && note 'a  b' $SET", "E=e\n\ncase", "E=e && note d"]
    for begin in starts:
        assert f"    starts {shlex.join(['/bin/bash', '-c', begin])[:-1]}" in text
    for _, environment, directory in noted:
        assert directory.endswith("/here/below")
        assert f"commands run in {directory}\n" in text
        assert environment["SET"] == "x y"
    assert [argv[1:] for argv, _, _ in noted] == [["a  b", "x", "y"], ["c"], ["d"]]
    assert "variables that commands don't get: LOADL_HOSTFILE, MPIFARM_TRACE, " in text
    assert "variable set: SET=x y\n" in text
    assert "variable set: EMPTY=\n" in text
    assert "variable set: OMP_NUM_THREADS=7\n" in text
    assert "variable set: HYDRA_RMK=user\n" in text
    assert "OMPI_MCA_ras" not in text
    assert "NUMBER (5 in task 0)" in text
    assert "CUDA_VISIBLE_DEVICES (here one of 3, 5)" in text


def test_a_dry_run_shows_the_words_of_a_line_without_a_shell(dry):
    text, noted = dry(["note a --b=c", "note d"], environ={"OMP_NUM_THREADS": "9"})
    for words, (argv, _, _) in zip(read_starts(text), noted, strict=True):
        assert_called(words, [os.path.basename(argv[0]), *argv[1:]])
    assert "OMP_NUM_THREADS" not in text


def test_a_dry_run_shows_what_a_class_of_the_user_gets(dry):
    text, noted = dry(
        ["a 'b'", "c"],
        *("-r", "own", "--id-variable", "NUMBER", "--chdir", "."),
        ini="[own]\nRunner = own.Own\ngreeting = hello\n",
        environ=JOB,
    )
    assert "/own.ini: own.Own, a class of your own with greeting = hello\n" in text
    for taskid, (words, _, _) in enumerate(noted):
        assert words == [taskid, ["a 'b'", "c"][taskid], "hello"]
        assert f"    calls Own.run({taskid}, {words[1]!r}, the file of its o" in text
    assert "starts" not in text


def test_a_dry_run_shows_a_setup_of_several_lines_in_one(dry):
    text, _ = dry(
        ["note $A$B"],
        *("-r", "two"),
        ini="[two]\nRunner = mpifarm.runners.BasicRunner\nsetup = A=1\n    B=2\n",
    )
    assert "BasicRunner with setup = A=1\\nB=2\n" in text


def test_a_dry_run_says_how_the_shell_gets_a_line_that_looks_like_an_option(dry):
    text, _ = dry(["+x () { note a; }; +x"])
    assert read_starts(text) == [["/bin/bash", "-c", "--", "+x () { note a; }; +x"]]


# ---- which tasks ---------------------------------------------------------------------


@pytest.fixture
def place(create_place):
    return create_place()


def show(place, *words, status=0):
    """What a dry run shows; nothing has changed then."""
    before = snapshot(place.directory)
    child = place.start("--dry-run", *words)
    assert child.wait() == status, child.text()
    assert snapshot(place.directory) == before
    return child.text()


def shown_ids(text):
    return [int(each) for each in re.findall(r"^task (\d+):", text, re.MULTILINE)]


def attempted(place, *words):
    """The ids of the tasks that a farm then runs, in the order of their starts."""

    def read():
        attempts = WorkdirFiles(place.workdir).attempts()
        return [each.taskid for each in attempts if each.worker >= 0]

    before = 0 if "--again" in words else len(read())
    child = place.start("-n", "1", *words)
    assert child.wait() in (0, 1, 75), child.text()
    return read()[before:]


def test_a_dry_run_of_a_begun_list_shows_the_tasks_that_the_next_farm_runs(place):
    place.write_list(["true", "false", "#AFTER 1", "true", "true"])
    assert attempted(place) == [0, 1, 3]
    text = show(place)
    assert "0 of 4 tasks are left to run, 2 finished, 1 failed, 1 not run\n" in text
    assert shown_ids(text) == []
    lines = ["true", "false", "#AFTER 1", "true", "true", "true", "#AFTER 0,4", "true"]
    lines += ["#AFTER 3,5", "true", "#BARRIER", "true", "false"]
    place.write_list(lines)
    text = show(place)
    assert "5 of 9 tasks are left to run, 2 finished, 1 failed, 1 not run\n" in text
    assert "task 5: true\n    waits for task 4\n    starts " in text
    assert "task 6: true\n    waits for task 5\n" in text
    assert "task 7: true\n    waits until all tasks before task 7 have ended\n" in text
    assert shown_ids(text) == attempted(place) == [4, 5, 6, 7, 8]


def test_a_dry_run_of_one_task_says_is(place):
    place.write_list(["true"])
    assert attempted(place) == [0]
    assert "0 of 1 task is left to run, 1 finished\n" in show(place)


def test_a_dry_run_leaves_out_what_a_user_holds(place):
    place.write_list(["false", "true"])
    attempted(place)
    place.write_list(["false", "true", "true", "true"])
    words = ["hold", str(place.workdir), "2", "--list", str(place.tasklist)]
    assert place.start_command([*MPIFARM, *words]).wait() == 0
    text = show(place)
    assert "1 of 4 tasks is left to run, 1 finished, 1 failed, 1 held\n" in text

    def run(_number):  # again where it was over before a task began
        return attempted(place, "--timeout", "3") or None

    assert shown_ids(text) == try_rounds(run) == [3]


def test_a_dry_run_shows_the_tasks_that_a_dead_farm_held_and_none_of_a_live_one(place):
    place.write_list(["true", "sleep 1000", "sleep 1000", "true"])
    farm = place.start("-n", "2")
    wait_until(lambda: place.ids("finished") == [0])
    shown = place.start("--dry-run")
    assert shown.wait() == 0
    assert not {0, 1, 2} & {*shown_ids(shown.text())}
    assert " left to run, 1 finished, " in shown.text()
    place.kill(farm)
    assert shown_ids(show(place)) == [1, 2, 3]


def test_a_dry_run_counts_what_a_dead_farm_held_and_a_user_holds_as_held(place):
    place.write_list(["true", "sleep 1000", "sleep 1000", "true"])
    farm = place.start("-n", "2")
    wait_until(lambda: place.ids("finished") == [0])
    place.kill(farm)
    words = ["hold", str(place.tasklist), "1,3"]
    assert place.start_command([*MPIFARM, *words]).wait() == 0
    text = show(place)
    assert "1 of 4 tasks is left to run, 1 finished, 2 held\n" in text
    assert shown_ids(text) == [2]


def test_a_dry_run_shows_what_a_plain_farmer_has_left(place):
    place.write_list(["true a", "true b", "true c"])
    place.workdir.mkdir()
    (place.workdir / "finished").write_text("0 true a\n")
    (place.workdir / "toprocess").write_text("1 true b\n2 true c\n")
    text = show(place)
    assert "2 of 3 tasks are left to run, 1 finished\n" in text
    assert shown_ids(text) == attempted(place) == [1, 2]


def test_a_dry_run_shows_what_a_remap_leaves(place):
    place.write_list(["true", "false", "true a", "true b"])
    attempted(place)
    place.write_list(["true new", "true b", "false", "#AFTER 2", "true later", "true"])
    assert "add --remap" in show(place, status=2)
    text = show(place, "--remap")
    assert "--remap: of 5 lines now, 2 were finished before, 1 failed, 2 run; " in text
    assert "task 3: true later\n    is not run, because task 2 failed\n" in text
    assert shown_ids(text) == [0, 3]
    assert place.start("--remap").wait() == 1
    assert sorted(place.ids("finished")) == [0, 1, 4]
    assert not (place.workdir / "logs" / "log_3").exists()


def test_a_dry_run_with_again_shows_all_tasks(place):
    place.write_list(["true", "false"])
    attempted(place)
    text = show(place, "--again")
    assert re.search("^--again: .* would be moved to ", text, re.MULTILINE)
    assert shown_ids(text) == attempted(place, "--again") == [0, 1]


def test_a_dry_run_shows_the_order_of_the_starts_and_what_has_to_wait(place):
    lines = [f"true {each}" for each in range(30)]
    lines[5:5] = ["#AFTER 1,2"]
    place.write_list(lines)
    text = show(place, "--shuffle", "7")
    assert "... and 20 tasks more\n" in text
    assert shown_ids(text) == attempted(place, "--shuffle", "7")[:10]


def test_a_dry_run_shows_commands_without_their_kinds(place):
    place.write_list(["[limit=io] echo a", "[limit=any] echo b"])
    text = show(place, "--limit", "io=2", "--limit", "any=0")
    assert (
        "task 0: echo a\n    is of the kind 'io', of which 2 may run at a time\n"
        in text
    )
    assert "task 1: echo b\n    starts " in text


def test_a_dry_run_of_a_database_shows_the_rows_that_are_left(place):
    path = str(place.directory / "tasks.db")
    with schema.creating(path) as connection:
        statements.insert_plain(connection, 0, [b"true", b"false"])
    place.tasklist = Path(path)
    text = show(place)
    assert "begun before" not in text
    assert shown_ids(text) == [0, 1]
    assert place.start().wait() == 1
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO tasks (command) VALUES ('echo new')")
    text = show(place)
    assert "1 of 3 tasks is left to run, 1 finished, 1 failed\n" in text
    assert shown_ids(text) == [2]


@pytest.mark.parametrize(
    ("handler", "lines", "commands"),
    [
        ("greasy", ["echo a", "[# 1 #] echo b"], {"echo a", "echo b"}),
        ("disbatch", ["#DISBATCH SUFFIX  | cat", "echo a"], {"| cat"}),
    ],
)
def test_a_dry_run_shows_the_commands_of_another_tools_list(
    place, handler, lines, commands
):
    place.write_list(lines)
    text = show(place, "-t", handler)
    starts = [line for line in text.splitlines() if line.startswith("    starts ")]
    for command in commands:
        assert any(command in line for line in starts), text
    assert len(starts) == len([each for each in lines if each[:2] != "#D"])


def test_a_dry_run_refuses_more_gpus_than_there_are_and_a_handler_that_fails(place):
    place.write_list(["true", "true", "true"])
    place.environment["CUDA_VISIBLE_DEVICES"] = "0,1"
    assert "is more than the 2" in show(place, "--gpus", "3", status=2)
    (place.directory / "bad.py").write_text(
        "from mpifarm.tasklists import ListTaskList\n"
        "class Bad(ListTaskList):\n"
        "    def __getitem__(self, taskid):\n"
        "        if taskid == 2:\n"
        "            raise ValueError('no such sample')\n"
        "        return 'true'\n"
    )
    (place.directory / "bad.ini").write_text("[bad]\nTaskList = bad.Bad\n")
    text = show(place, "--config", "bad.ini", "-t", "bad", status=2)
    assert "gave no command for task 2 (ValueError: no such sample, raised in" in text
    assert "Traceback" not in text


def test_a_handler_that_needs_its_workdir_before_the_first_start_is_told_how(place):
    """As those of PyTaskFarmer that lock it in their constructor."""
    place.write_list(["true", "true"])
    (place.directory / "locking.py").write_text(
        "from mpifarm.tasklists import ListTaskList\n"
        "class Locking(ListTaskList):\n"
        "    def __init__(self, path, workdir):\n"
        "        open(workdir + '/its-lock', 'w').close()\n"
        "        super().__init__(path, workdir)\n"
    )
    (place.directory / "own.ini").write_text("[own]\nTaskList = locking.Locking\n")
    words = ["--config", "own.ini", "-t", "own"]
    text = show(place, *words, status=2)
    assert "No such file or directory: " in text
    way = f"mkdir -p {place.workdir}/logs"
    assert f", which the first start makes: {way}, and give the same command" in text
    submit = [*MPIFARM, "submit", "--print", "-t", "5", str(place.tasklist), *words]
    refused = place.start_command(submit)
    assert refused.wait() == 2
    assert way in refused.text()
    assert place.start_command(way.split()).wait() == 0
    shown = place.start("--dry-run", *words)
    assert shown.wait() == 0
    assert shown_ids(shown.text()) == [0, 1]
    assert place.run(*words) == 0


def test_in_a_directory_that_is_gone_a_farm_needs_whole_paths_and_chdir(place):
    place.write_list(["pwd"])
    shell = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'

    def run(*words, status):
        argv = ["bash", "-c", shell, "bash", *MPIFARM, *words]
        child = place.start_command(argv)
        assert child.wait() == status, child.text()
        assert "Traceback" not in child.text()
        return child.text()

    tasklist, there = str(place.tasklist), str(place.directory / "below")
    os.mkdir(there)
    for dry in ([], ["--dry-run"]):
        for words in (["../tasks.txt"], ["x", ":::", "a"], ["--chdir", there, "a.txt"]):
            assert "because the current directory is gone" in run(
                *dry, *words, status=2
            )
        assert "name it with --chdir" in run(*dry, tasklist, status=2)
    assert not place.workdir.exists()
    words = ["--chdir", there, tasklist]
    assert f"commands run in {there}\n" in run("--dry-run", *words, status=0)
    run(*words, status=0)
    assert place.log(0) == f"{there}\n"


# ---- what a start says ---------------------------------------------------------------


def test_a_dry_run_says_what_a_start_says_of_list_options_and_directory(place):
    place.write_list(["true"])
    attempted(place)
    with place.tasklist.open("a") as file:
        file.write("true\ntrue")
    (place.directory / "other").mkdir()
    (place.directory / "site.ini").write_text("[options]\nproc = 3\n")
    (place.directory / "site.ini").chmod(0o666)  # so that it is not trusted
    site = f"{place.directory}/site.ini"
    environ = {"MPIFARM_GRACE": "3", "MPIFARM_SITE_CONFIG": site}

    def said(*words):
        words += ("--limit", "cpu=3", "--retry-delay", "4", str(place.tasklist))
        argv = ["bash", "-c", 'cd other; exec "$@"', "bash", *MPIFARM, *words]
        child = place.start_command(argv, env=environ)
        assert child.wait() in (0, 75), child.text()
        return child.text()

    text, started = said("--dry-run"), said()
    sentences = (
        "set by default: --grace 3 (MPIFARM_GRACE)\n",
        f"the last line of {place.tasklist} has no newline yet, so it may be half",
        "WARNING: --limit cpu=3 limits nothing so far: no task of ",
        "WARNING: --retry-delay 4 has no effect without --retries N: ",
        f"WARNING: this list was begun in {place.directory}, and its commands run in ",
        f"WARNING: the options of {site} are left out: ",
    )
    for sentence in sentences:
        assert sentence in text
        assert sentence in started


def test_a_dry_run_names_a_list_of_arguments_by_its_place_in_the_workdir(place):
    argv = [*MPIFARM, "--dry-run", "--limit", "cpu=3", "echo {}", ":::", "a"]
    child = place.start_command(argv)
    assert child.wait() == 0, child.text()
    assert "no task of mpifarm_workdir/stdin.txt is of the kind 'cpu'" in child.text()


def test_a_dry_run_names_the_file_that_sets_a_wrong_option(place):
    place.write_list(["true"])
    place.environment["CUDA_VISIBLE_DEVICES"] = "0"
    (place.directory / "mpifarm.ini").write_text("[options]\ngpus = 2\n")
    text = show(place, status=2)
    assert f"(--gpus is set in {place.directory}/mpifarm.ini, line 2)\n" in text


def test_a_dry_run_in_a_step_of_slurm_warns_of_an_srun_that_would_wait(place):
    place.write_list(["srun -n 1 true"])
    assert "--overlap" not in show(place)
    place.environment |= {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_CPUS_PER_NODE": "4",
        "SLURM_CPUS_ON_NODE": "4",
    }
    assert re.search("^WARNING: line 1 of .*--overlap", show(place), re.MULTILINE)
