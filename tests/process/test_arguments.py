"""Farms whose list is made of a command and arguments: ``mpifarm 'x {}' ::: a b``."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess

import pytest

from tests.farm_driver import MPIFARM, assert_ends
from tests.required import need_launcher
from tests.support import wait_until


def run(place, *words, status=0, stdin=""):
    """Run mpifarm in the place's directory to its end; what it has printed."""
    ended = subprocess.run(
        [*MPIFARM, *words],
        check=False,
        input=stdin,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=place.environment,
        cwd=place.directory,
        timeout=120,
    )
    assert ended.returncode == status, ended.stdout
    return ended.stdout


def kept_list(place, workdir="mpifarm_workdir"):
    return (place.directory / workdir / "stdin.txt").read_text()


def created(create_place, *names):
    place = create_place([])
    for name in names:
        (place.directory / name).touch()
    return place


def test_a_command_runs_for_each_argument_and_the_same_words_go_on(create_place):
    place = created(create_place, "a b.jpg", "it's.jpg")
    words = ["cp {} {.}.png && echo {} >> runs", ":::", "a b.jpg", "it's.jpg"]
    run(place, *words)
    assert (place.directory / "a b.png").exists()
    assert (place.directory / "it's.png").exists()
    assert "had nothing to run" in run(place, *words)
    assert len((place.directory / "runs").read_text().split("\n")) == 3
    assert run(place, "status", "mpifarm_workdir").count("2 finished") >= 1


def test_other_arguments_in_the_same_workdir_are_refused_and_nothing_is_touched(
    create_place,
):
    place = created(create_place)
    run(place, "echo", ":::", "a", "b")
    before = kept_list(place)
    said = run(place, "echo", ":::", "a", "c", status=2)
    assert "line 2 is 'echo b' there, and 'echo c' now" in said
    assert kept_list(place) == before
    assert "2 tasks were added" in run(place, "echo", ":::", "a", "b", "c", "d")
    run(place, "add", "mpifarm_workdir", "echo e")
    said = run(place, "echo", ":::", "a", "b", "c", "d")
    assert "has 1 line more than these arguments make" in said
    assert run(place, "log", "mpifarm_workdir", "4") == "e\n"


def test_a_list_of_arguments_that_was_edited_runs_by_the_command_that_is_named(
    create_place,
):
    place = created(create_place)
    run(place, "-n", "1", "-w", "wa", "echo {} >> ran", ":::", "a", "eccho")
    kept = place.directory / "wa" / "stdin.txt"
    kept.write_text(kept.read_text().replace("eccho", "b"))
    said = run(place, "retry", "wa", status=2)
    command = "mpifarm --remap -n 1 --workdir wa wa/stdin.txt"
    assert f"needs no retry: {command} runs each line" in said
    assert f"{command} (or all afresh, with --again" in run(place, "status", "wa")
    run(place, *command.split()[1:])
    assert (place.directory / "ran").read_text() == "a\neccho\nb\n"
    run(place, *command.replace("--remap", "--again").split()[1:])
    assert (place.directory / "ran").read_text() == "a\neccho\nb\na\nb\n"


@pytest.mark.parametrize(
    "words",
    [
        ["echo {} it\\'s", ":::", "b c", "d"],
        ["-w", "mpifarm_workdir", "-n2", "--", "echo", ":::", "b c", "d"],
        ["--remap", "--", "echo", ":::", "b c", "d"],
    ],
)
def test_the_commands_for_another_list_can_be_pasted(create_place, words):
    place = created(create_place)
    for workdir, pattern in [
        ("mpifarm_workdir2", r"in another workdir: mpifarm (.*?); or begin"),
        ("mpifarm_workdir3", r"in another workdir: mpifarm (.*?); or begin"),
        ("mpifarm_workdir", r"moved aside: mpifarm (.*)\n"),
    ]:
        run(place, "--again", "echo {}", ":::", "a")
        said = run(place, *words, status=2)
        pasted = re.search(pattern, said)
        assert pasted, said
        run(place, *shlex.split(pasted[1]))
        assert kept_list(place, workdir).startswith("echo 'b c'")
        finished = place.directory / workdir / "finished"
        assert len(finished.read_text().splitlines()) == 2


@pytest.mark.parametrize("words", [["-"], ["-n", "2", "--", "echo", "::::", "-"]])
def test_the_options_for_another_list_that_is_read_once_are_named(create_place, words):
    place = created(create_place)
    run(place, "echo {}", ":::", "a")
    said = run(place, *words, status=2, stdin="true\n")
    ways = re.search(r"workdir: (-w \S+) in the command; .*: (--again) in the", said)
    assert ways, said
    for way in ways.groups():
        run(place, *way.split(), *words, stdin="true\n")
    for workdir in ("mpifarm_workdir2", "mpifarm_workdir"):
        assert kept_list(place, workdir).endswith("true\n")
        finished = (place.directory / workdir / "finished").read_text()
        assert finished == f"0 {kept_list(place, workdir)}"


def test_files_and_standard_input_have_arguments_too(create_place):
    place = created(create_place)
    (place.directory / "in").mkdir()
    (place.directory / "names").write_text("x\ny z\n")
    words = ["echo", "::::", "names", ":::", "1", "::::+", "-"]
    run(place, "-w", "w", "--chdir", "in", *words, stdin="p\nq\n")
    assert kept_list(place, "w") == "echo x 1 p\necho 'y z' 1 p\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["echo", "::::", "none"], "can't read none"),
        (["echo {%}", ":::", "a"], "$MPIFARM_WORKER"),
        (["echo", ":::"], "needs an argument"),
        (["echo", ":::", "a", "--dry-run"], "put it in front of the command"),
        (["echo", ":::", "a", "--help"], "put it in front of the command"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(create_place, words, said):
    place = created(create_place)
    before = sorted(place.directory.iterdir())
    assert said in run(place, *words, status=2)
    assert sorted(place.directory.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ["{}", ":::", "echo b", "#BARRIER", "echo c"],
        [":::", "#BARRIER"],
        ["{2} {1}", "::::", "-", ":::", "#BARRIER", "x"],
        ["--dry-run", "{}", ":::", "#BARRIER"],
        ["submit", "--print", "-t", "1h", "{}", ":::", "#BARRIER"],
        ["add", "begun", "{}", ":::", "echo b", "#BARRIER"],
    ],
)
def test_an_argument_becomes_neither_a_barrier_nor_a_comment(create_place, words):
    place = created(create_place)
    if words[0] == "add":
        run(place, "-w", "begun", "-", stdin="true\n")
    before = sorted(place.directory.rglob("*"))
    said = run(place, *words, stdin="true\n", status=2)
    number = "2" if "echo b" in words else "1"
    assert f"line {number} that the arguments make, '#BARRIER" in said
    assert "begins with #, which makes a comment or a directive of it" in said
    assert sorted(place.directory.rglob("*")) == before


def test_an_argument_with_the_name_of_an_option_is_warned_of(create_place):
    place = created(create_place)
    said = run(place, "echo", ":::", "a", "--retries")
    assert "WARNING: --retries behind ::: is taken for one more argument" in said


def test_many_arguments_are_not_written_into_what_a_farm_says_of_itself(create_place):
    place = created(create_place)
    numbers = [f"{number:05}" for number in range(2000)]
    run(place, "-n", "2", ":", ":::", *numbers)
    (path,) = (place.directory / "mpifarm_workdir" / "farms").glob("*.json")
    command = json.loads(path.read_text())["command"]
    workdir = "mpifarm_workdir"
    rest = ["-n", "2", "--workdir", workdir, f"{workdir}/stdin.txt"]
    assert command == ["mpifarm", *rest]
    assert "had nothing to run" in run(place, *rest)


def test_all_ranks_get_the_arguments_and_the_first_one_makes_the_list(create_place):
    launcher = need_launcher()
    place = created(create_place)
    words = [*MPIFARM, "-n", "2", "echo {1}-{2}", ":::", *"abc", ":::", "1", "2"]
    launch = launcher(place.environment, 3, *words)
    for _ in range(2):
        subprocess.run(
            launch.argv, env=launch.env, cwd=place.directory, check=True, timeout=120
        )
    assert len(kept_list(place).splitlines()) == 6
    finished = (place.directory / "mpifarm_workdir" / "finished").read_text()
    assert len(finished.splitlines()) == 6


def test_the_words_of_other_tools_run_a_list(create_place):
    place = created(create_place)
    (place.directory / "run").write_text("echo from run\n")
    (place.directory / "tasks").write_text("echo from tasks\n")
    assert "1 task of tasks" in run(place, "run", "tasks", "-j", "2", "--grace", "1m")
    assert run(place, "log", "tasks", "0") == "from tasks\n"
    said = run(place, "run", "--jobs=2")
    assert "say ./run for the list" in said
    assert run(place, "log", "run", "0") == "from run\n"


def test_a_list_from_standard_input_has_a_workdir_if_none_is_named(create_place):
    place = created(create_place)
    run(place, "-", stdin="echo a\necho b\n")
    assert kept_list(place) == "echo a\necho b\n"
    assert "had nothing to run" in run(place, "-")
    said = run(place, "-", stdin="echo c\n", status=2)
    assert "standard input has other lines" in said
    assert run(place, "log", "mpifarm_workdir", "1") == "b\n"


def test_help_about_a_topic_is_printed_and_an_unknown_one_is_a_mistake(create_place):
    place = created(create_place)
    assert "75  tasks are left" in run(place, "help", "exit")
    assert "did you mean slurm?" in run(place, "help", "slrum", status=2)


def test_a_start_without_the_handler_of_the_last_one_adds_no_line(create_place):
    place = created(create_place)
    run(place, "-t", "disbatch", "-", stdin="true 1\n")
    said = run(place, "-", stdin="true 1\ntrue 2\n", status=2)
    assert "add -t disbatch" in said
    assert kept_list(place) == "true 1\n"


def test_a_setup_runs_in_the_shell_of_each_command_on_all_ranks(create_place):
    launcher = need_launcher()
    place = created(create_place)
    (place.directory / "env.sh").write_text("greet() { echo hello $1; }\n")
    words = ["-n", "1", "--setup", "source ./env.sh", "greet", ":::", *"abcdef"]
    launch = launcher(place.environment, 2, *MPIFARM, *words)
    subprocess.run(
        launch.argv, env=launch.env, cwd=place.directory, check=True, timeout=120
    )
    said = run(place, "log", "mpifarm_workdir", "0-5")
    assert all(f"hello {name}" in said for name in "abcdef")


def test_a_setup_that_fails_fails_the_task_and_one_that_can_t_be_is_a_mistake(
    create_place,
):
    place = created(create_place)
    run(place, "--setup", "exit 7", "touch", ":::", "made", status=1)
    assert not (place.directory / "made").exists()
    (place.directory / "own.py").write_text(
        "class Own:\n"
        "    def run(self, taskid, command, logfh):\n        return 0\n"
        "    def terminate(self):\n        pass\n"
    )
    (place.directory / "own.ini").write_text("[own]\nRunner = own.Own\n")
    words = ["--config", "own.ini", "-r", "own", "--setup", "true", "-w", "w", "x"]
    said = run(place, *words, ":::", "a", status=2)
    assert "setup" in said
    assert not (place.directory / "w").exists()


def test_a_dry_run_shows_tasks_and_runner_and_changes_nothing(create_place):
    place = created(create_place, "a b")
    (place.directory / "tasks").write_text("touch made\n# no task\necho 'x  y'\n")
    before = sorted(place.directory.rglob("*"))
    said = run(place, "--dry-run", "tasks")
    assert "2 tasks of tasks, workdir tasks_workdir" in said
    assert "task 0: touch made\n    starts touch made\n" in said
    assert "task 1: echo 'x  y'\n    starts /bin/bash -c " in said
    words = ["--dry-run", "--setup", ". ./env", "cat {}", ":::", "a b"]
    said = run(place, *words)
    assert "task 0: cat 'a b'\n    starts /bin/bash -c '. ./env && cat " in said
    assert sorted(place.directory.rglob("*")) == before


def test_an_empty_list_is_no_mistake_however_it_is_made(create_place):
    place = created(create_place, "empty")
    before = sorted(place.directory.rglob("*"))
    for words in (["x", "::::", "empty"], ["-"], ["empty"]):
        assert "no tasks" in run(place, *words)
        said = run(place, "--dry-run", *words)
        assert "no tasks" in said
        assert "nothing was run" in said
    assert sorted(place.directory.rglob("*")) == before


@pytest.mark.parametrize("lines", ["# only a comment\n", "\n\n", "#BARRIER\n"])
def test_a_standard_input_without_a_task_is_told_so_and_not_kept(create_place, lines):
    place = created(create_place)
    for options in ([], ["--dry-run"]):
        said = run(place, *options, "-", stdin=lines)
        assert "no tasks: standard input has ended, and none of its lines is a" in said
    said = run(place, "submit", "--print", "-t", "1h", "-", stdin=lines, status=2)
    assert "no line of standard input is a task: there is nothing to submit" in said
    assert [*place.directory.iterdir()] == [place.tasklist]
    run(place, "-", stdin="echo a\n")
    assert kept_list(place) == "echo a\n"
    assert "had nothing to run" in run(place, "-")
    said = run(place, "-", stdin=lines, status=2)
    assert "standard input has other lines" in said
    assert kept_list(place) == "echo a\n"


def test_arguments_that_make_empty_lines_are_told_so(create_place):
    place = created(create_place)
    for options in ([], ["--dry-run"]):
        said = run(place, *options, "{}", ":::", "", " ")
        assert "no tasks: each command that the arguments make is empty" in said
    said = run(place, "submit", "--print", "-t", "1h", "{}", ":::", "", status=2)
    assert "each command that the arguments make is empty" in said
    assert [*place.directory.iterdir()] == [place.tasklist]


def test_a_signal_while_standard_input_is_read_leaves_no_workdir(create_place):
    place = created(create_place)
    os.mkfifo(place.directory / "fifo")
    words = shlex.join([*MPIFARM, "-", "-w", "w"])
    child = place.start_command(["bash", "-c", f"exec {words} <fifo"])
    with open(place.directory / "fifo", "w"):
        wait_until((place.directory / "w").exists)
        child.process.terminate()
        assert child.wait() == 75, child.text()
    assert "nothing was started" in child.text()
    assert not (place.directory / "w").exists()


def test_a_pipe_is_read_once_and_until_a_signal_comes(create_place):
    place = created(create_place)
    os.mkfifo(place.directory / "fifo")
    shell = "exec 3< <(echo true; echo :); exec "
    words = [*MPIFARM, "--dry-run", "-w", "w", "/dev/fd/3"]
    child = place.start_command(["bash", "-c", shell + shlex.join(words)])
    assert child.wait() == 0, child.text()
    assert "2 tasks of /dev/fd/3" in child.text()
    for words in (["--dry-run", "x", "::::", "fifo"], ["x", "::::", "fifo"]):
        child = place.start_command([*MPIFARM, *words])
        writer = open_writer(place.directory / "fifo")
        child.process.terminate()
        assert child.wait() in (75, -signal.SIGTERM)
        os.close(writer)
    assert not (place.directory / "mpifarm_workdir").exists()


def open_writer(fifo):
    """Open a fifo for writing as soon as somebody reads it."""
    opened = []

    def has_reader():
        with contextlib.suppress(OSError):
            opened.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return bool(opened)

    wait_until(has_reader)
    return opened[0]


def test_a_dry_run_refuses_what_a_start_refuses(create_place):
    place = created(create_place)
    assert "none" in run(place, "--dry-run", "none", status=2)
    assert "nobody" in run(
        place, "--dry-run", "-r", "nobody", "x", ":::", "a", status=2
    )
    run(place, "echo", ":::", "a", "b")
    said = run(place, "--dry-run", "echo", ":::", "b", status=2)
    assert "line 1 is 'echo a' there" in said
    said = run(place, "--dry-run", "echo", ":::", *map(str, ["a", "b", *range(30)]))
    assert "32 tasks" in said
    assert "... and 20 tasks more" in said
    assert kept_list(place) == "echo a\necho b\n"
    said = run(place, "--dry-run", "-", stdin="echo b\n", status=2)
    assert "standard input has other lines" in said
    assert "submit --print" in run(place, "submit", "tasks", "--dry-run", status=2)


def test_a_dry_run_reads_standard_input_and_keeps_nothing(create_place):
    place = created(create_place)
    before = sorted(place.directory.rglob("*"))
    said = run(place, "--dry-run", "-", stdin="touch made\n# no task\n#BARRIER\necho b")
    assert "2 tasks of mpifarm_workdir/stdin.txt, workdir mpifarm_workdir" in said
    assert "task 0: touch made\n    starts touch made\n" in said
    assert "task 1: echo b\n" in said
    said = run(place, "--dry-run", "-", stdin="true\n#AFTER 7\n", status=2)
    assert "line 2 of mpifarm_workdir/stdin.txt" in said
    assert sorted(place.directory.rglob("*")) == before
    run(place, "-", stdin="echo a\n")
    said = run(place, "--dry-run", "-", stdin="echo a\necho b\n")
    assert "2 tasks" in said
    assert "1 finished" in said
    for again, tasks in ([], "3 tasks"), (["--again"], "2 tasks"):
        words = ["--dry-run", *again, "--follow", "0", "-"]  # which appends lines
        assert tasks in run(place, *words, stdin="echo b\necho c\n")
    assert kept_list(place) == "echo a\n"


WAITING_RUNNER = """\
import os, time
from pathlib import Path

from mpifarm.runners import BasicRunner

kind = os.environ["FARM_TEST_KIND"]
Path(f"reads.{kind}").touch()
while not Path(f"go.{kind}").exists():
    time.sleep(0.02)
if kind == "good":
    Good = BasicRunner
"""
"""A runner whose class is there once the test says so, in one of two starts."""


def test_a_refused_start_leaves_the_list_to_one_that_has_found_it(create_place):
    """Both make the same list in a new workdir, and neither has begun it."""
    place = create_place()
    (place.directory / "waiting.py").write_text(WAITING_RUNNER)
    (place.directory / "own.ini").write_text("[own]\nRunner = waiting.Good\n")
    words = ["-w", "w", "--config", "own.ini", "-r", "own", "echo {}", ":::", "a", "b"]
    starts = {}
    for kind in ("bad", "good"):
        starts[kind] = place.start_command(
            [*MPIFARM, *words], env={"FARM_TEST_KIND": kind}, name=kind
        )
        wait_until((place.directory / f"reads.{kind}").exists)
    (place.directory / "go.bad").touch()
    assert starts["bad"].wait() == 2, starts["bad"].text()
    assert (place.directory / "w" / "stdin.txt").read_text() == "echo a\necho b\n"
    (place.directory / "go.good").touch()
    assert_ends(starts["good"], 0)
    assert (place.directory / "w" / "finished").read_text().count("\n") == 2
