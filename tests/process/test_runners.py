"""Runners in real workers: the default one's options, and users' own classes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mpifarm.pool import LeaseRefused
from mpifarm.runners import BasicRunner
from tests.process.pool_driver import PoolDriver
from tests.support import ROOT, find_plain_python, plain_missing, try_rounds, wait_until


@pytest.fixture
def start_pool(tmp_path, farm_environment, farm_token):
    started = []
    logs = tmp_path / "logs"
    logs.mkdir()

    def start(create_runner, workers=1, **variables):
        environment = {**farm_environment, **variables}
        driver = PoolDriver(logs, environment, farm_token, workers, create_runner)
        started.append(driver)
        return driver

    yield start
    for driver in started:
        driver.end()


@pytest.fixture
def run_with(start_pool):
    """Run a command by a default runner with options: its status and its log."""

    def run(command, variables=None, **options):
        driver = start_pool(
            lambda definition: BasicRunner(**options), **(variables or {})
        )
        (driver.logs / "log_0").unlink(missing_ok=True)
        result = driver.run(command)[0]
        return result.status, driver.log(0)

    return run


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


# ---- the option shell ----------------------------------------------------------------


def test_without_a_shell_words_are_passed_as_they_are(run_with):
    line = "printf <%s> 'a b' $HOME | * \xe9\udcff \xa0;"
    status, log = run_with(line, shell="never")
    assert (status, log) == (0, "<'a><b'><$HOME><|><*><\xe9\udcff><;>")


def test_without_a_shell_a_program_that_does_not_exist_fails_its_task_with_127(
    run_with,
):
    status, log = run_with("no-such-program a", shell="never")
    assert status == 127
    assert log.startswith("mpifarm: can't start no-such-program: ")
    assert "No such file" in log


@pytest.mark.parametrize("text", ["no program", "#!/no/such/interpreter\n"])
def test_without_a_shell_what_cannot_be_started_fails_its_task(
    run_with, tmp_path, text
):
    program = tmp_path / "it"
    program.write_text(text)
    assert run_with(str(program), shell="never")[0] == 126
    program.chmod(0o755)
    expected = 127 if text.startswith("#!") else 126
    assert run_with(str(program), shell="never")[0] == expected


def test_a_shell_runs_each_line_where_it_is_to(run_with):
    # bash leaves the name of the program in this variable
    assert run_with("printenv _", {"_": "none"}) == (0, "none\n")
    status, log = run_with("printenv _", {"_": "none"}, shell="always")
    assert status == 0
    assert log.endswith("/printenv\n")


# ---- the option setup ----------------------------------------------------------------

SETUPS = [
    "export A=1 B='two words'",
    "export A=1\nB='two words'\n",
    "A=1; B='two words'  # a comment",
    "A=1 \\\nB='two words' \\",
    "false || A=1; B='two words';",
    "set -e\nA=1\nB='two words'",
]


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("form", ['echo "$A $B"', 'echo "$A $B"; true', "{}"])
def test_a_setup_runs_in_the_shell_of_its_task(run_with, setup, form):
    command = f'echo "$A $B" # {"x" * 200_000}' if form == "{}" else form
    assert run_with(command, setup=setup) == (0, "1 two words\n")


@pytest.mark.parametrize(
    "setup",
    [
        "(exit 7)",
        "true; (exit 7)",
        "exit 7",
        "set -e\n(exit 7)\ntrue",
        "(exit 7) # comment",
        "false || (exit 7)",
        "(exit 7)\n\n",
    ],
)
@pytest.mark.parametrize(
    "command",
    ["echo ran", "echo ran; true", "false || echo ran", "echo ran &", "a\necho ran"],
)
def test_a_task_whose_setup_fails_does_not_run_and_has_its_status(
    run_with, setup, command
):
    assert run_with(command, setup=setup) == (7, "")


@pytest.mark.parametrize("command", ["# just a comment", "  # a; b", "", " "])
def test_a_comment_or_a_blank_as_a_task_does_nothing_after_its_setup(run_with, command):
    assert run_with(command, setup="export A=1") == (0, "")
    assert run_with(command, setup="(exit 7)") == (7, "")


@pytest.mark.parametrize("setup", ["true", "true # x"])
def test_a_task_with_a_setup_has_its_own_status(run_with, setup):
    assert run_with("exit 3", setup=setup)[0] == 3
    assert run_with("no-such-program", setup=setup)[0] == 127
    assert run_with("echo $?", setup=setup) == (0, "0\n")


def test_a_setup_runs_before_each_task(start_pool, tmp_path):
    setup = f"echo setup >> {tmp_path}/notes; hello() {{ echo hello $PROC_NUMBER; }}"
    driver = start_pool(lambda definition: BasicRunner(setup=setup))
    driver.run("hello", "hello", "/bin/true")
    assert [driver.log(0), driver.log(1)] == ["hello 0\n", "hello 1\n"]
    assert (tmp_path / "notes").read_text() == "setup\n" * 3


# ---- the options env.NAME and cwd ----------------------------------------------------


def test_variables_are_literal_and_the_tasks_own_come_last(run_with):
    status, log = run_with(
        'printenv A_TEST PROC_NUMBER; echo "$A_TEST"',
        {"A_TEST": "old"},
        **{"env.A_TEST": "a  $HOME `x` '\udcff"},
    )
    value = "a  $HOME `x` '\udcff"
    assert (status, log) == (0, f"{value}\n0\n{value}\n")


@pytest.mark.parametrize("shell", ["auto", "always", "never"])
def test_programs_are_looked_for_along_the_path_that_is_set(run_with, tmp_path, shell):
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin" / "a-program", "#!/bin/sh\necho found\n")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    assert run_with("a-program", shell=shell)[0] == 127
    found = run_with("a-program", shell=shell, **{"env.PATH": path})
    assert found[1].endswith("found\n")


def test_what_changes_the_shell_is_heeded(run_with, tmp_path):
    (tmp_path / "start").write_text("true() { echo mine; }\n")
    variable = {"env.BASH_ENV": str(tmp_path / "start")}
    assert run_with("true", **variable) == (0, "mine\n")


@pytest.mark.parametrize("command", ["pwd", "/bin/pwd -P", "echo $PWD; cat <here"])
def test_tasks_run_in_the_directory_that_is_named(
    run_with, tmp_path, monkeypatch, command
):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "here").touch()
    monkeypatch.chdir(tmp_path)
    told = (0, f"{tmp_path}/there\n")
    assert run_with(command, cwd=str(tmp_path / "there")) == told
    assert run_with(command, cwd="there") == told
    at_home = {"HOME": str(tmp_path)}
    assert run_with(command, at_home, cwd="~/there", shell="always") == told


def test_a_directory_that_is_gone_fails_tasks_until_it_is_back(start_pool, tmp_path):
    directory = tmp_path / "there"
    directory.mkdir()

    def create_runner(definition):
        runner = BasicRunner(cwd=str(directory))
        directory.rmdir()
        return runner

    driver = start_pool(create_runner)
    assert driver.run("true")[0].status == 1
    assert f"No such file or directory: '{directory}'" in driver.log(0)
    directory.mkdir()
    assert driver.run("pwd", first=1)[1].status == 0
    assert driver.log(1) == f"{directory}\n"


# ---- users' runners: failures and crashes --------------------------------------------


class RunnerOfTheTest:
    """Its command is Python, run in the worker."""

    def __init__(self, definition=None):
        pass

    def run(self, taskid, command, logfh):
        return eval(command)

    def terminate(self):
        pass


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("os._exit(3)", 3),
        ("os._exit(0)", 0),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.abort()", -signal.SIGABRT),
        ("__import__('ctypes').string_at(0)", -signal.SIGSEGV),
    ],
)
def test_a_runner_that_crashes_costs_its_task_and_the_worker_is_replaced(
    start_pool, command, status
):
    driver = start_pool(RunnerOfTheTest)
    driver.run("0")
    driver.submit(command, "0", first=1)
    driver.collect_until(driver.losses)
    (loss,) = driver.losses()
    assert (loss.running.taskid, loss.status) == (1, status)
    driver.pool.submit(loss.unstarted)
    driver.collect_until(lambda: 2 in driver.results() or loss.unstarted == ())
    results = driver.run("0", first=3)
    assert results[3].status == 0
    assert results[3].worker != results[0].worker


def test_a_runner_that_leaves_python_fails_its_task_and_keeps_its_worker(start_pool):
    driver = start_pool(RunnerOfTheTest)
    results = driver.run("__import__('sys').exit(0)", "0")
    assert [results[0].status, results[1].status] == [1, 0]
    assert results[0].worker == results[1].worker
    assert "SystemExit" in driver.log(0)


@pytest.mark.parametrize(
    "name",
    ["KeyboardInterrupt", "GeneratorExit", "__import__('asyncio').CancelledError"],
)
def test_an_exception_that_is_no_failure_of_python_fails_its_task_all_the_same(
    start_pool, name
):
    driver = start_pool(RunnerOfTheTest)
    results = driver.run(f"(i for i in ()).throw({name}('of mine'))", "0")
    assert [results[0].status, results[1].status] == [1, 0]
    assert results[0].worker == results[1].worker
    assert driver.losses() == []
    assert driver.log(0).startswith("Traceback (most recent call last):\n")
    assert "of mine" in driver.log(0).splitlines()[-1]


class UnmadeRunner(RunnerOfTheTest):
    def __init__(self, definition):
        raise OSError("no licence on this node")


class LeavingRunner(RunnerOfTheTest):
    def __init__(self, definition):
        raise SystemExit("no licence on this node")


class InterruptedRunner(RunnerOfTheTest):
    def __init__(self, definition):
        raise KeyboardInterrupt("no licence on this node")


@pytest.mark.parametrize(
    "runner_class", [UnmadeRunner, LeavingRunner, InterruptedRunner]
)
def test_a_runner_that_cannot_be_made_gives_all_leases_back_with_the_reason(
    start_pool, runner_class
):
    driver = start_pool(runner_class)
    driver.submit("0", "0")
    driver.collect_until(lambda: len(driver.events) == 2)
    assert all(isinstance(event, LeaseRefused) for event in driver.events)
    assert [event.lease.taskid for event in driver.events] == [0, 1]
    reason = driver.events[0].reason
    assert reason.startswith("the runner 'default' can't be made on host ")
    assert "no licence on this node, raised in " in reason
    assert list(driver.logs.iterdir()) == []
    assert len(driver.worker_pids()) == 1


def test_workers_that_can_make_no_runner_end_at_a_stop(start_pool):
    driver = start_pool(UnmadeRunner, workers=2)
    driver.submit("0", "0")
    driver.collect_until(lambda: len(driver.events) == 2)
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)


# ---- users' runners: what they print -------------------------------------------------


say = print


class LoudRunner(RunnerOfTheTest):
    """Prints in all ways there are, and then does what its command says."""

    def __init__(self, definition):
        self.stdout = sys.stdout

    def run(self, taskid, command, logfh):
        say("task", taskid)
        logfh.write("two\n")
        say("three", file=sys.stderr)
        logfh.write("four\n")
        say("five", flush=True)
        subprocess.call(["echo", "six"])
        os.system("echo seven; echo eight >&2")
        os.write(2, b"nine\n")
        say("ten")
        say("last", file=self.stdout)
        return super().run(taskid, command, logfh)


LOUD = "task {}\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"


def test_what_a_users_runner_and_its_children_print_is_in_the_log_of_the_task(
    start_pool,
):
    driver = start_pool(LoudRunner)
    driver.run("0", "0")
    for taskid in (0, 1):
        assert driver.log(taskid).startswith(LOUD.format(taskid))
        # what took hold of the stream before is not in order, but is not lost
        rest = driver.log(taskid).removeprefix(LOUD.format(taskid))
        assert sorted(rest.split()) == ["last", "ten"]


def test_what_a_users_runner_prints_before_it_raises_is_before_the_traceback(
    start_pool,
):
    driver = start_pool(LoudRunner)
    assert driver.run("1 / 0", "0")[0].status == 1
    log = driver.log(0)
    assert log.startswith(LOUD.format(0))
    assert log.index("\nten\n") < log.index("\nTraceback ")
    assert "\nlast\n" in log
    assert driver.log(1).startswith(LOUD.format(1))


@pytest.mark.parametrize(
    ("create_runner", "while_it_runs"),
    [(RunnerOfTheTest, "{log}"), (lambda definition: BasicRunner(), "/dev/null")],
)
def test_only_a_users_runner_has_the_log_for_its_output_and_only_while_it_runs(
    start_pool, tmp_path, create_runner, while_it_runs
):
    driver = start_pool(create_runner)
    go = tmp_path / "go"
    os.mkfifo(go)
    is_users = create_runner is RunnerOfTheTest
    driver.submit(f"len(open('{go}').read())" if is_users else f"cat < {go}")
    driver.collect_until(lambda: driver.pool._shared.row(0).begun)
    (worker,) = driver.worker_pids()
    expected = while_it_runs.format(log=driver.logs / "log_0")
    wait_until(lambda: outputs_of(worker) == {expected})
    with open(go, "w"):  # waits for the reader
        assert outputs_of(worker) == {expected}
    driver.collect_until(driver.results)
    assert outputs_of(worker) == {"/dev/null"}


def outputs_of(pid):
    return {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)}


# ---- users' runners: the stop --------------------------------------------------------


class ShellRunner(RunnerOfTheTest):
    """Starts a shell, and at a stop kills that and nothing else: as PyTaskFarmer's."""

    own_session = False

    def run(self, taskid, command, logfh):
        self.shell = subprocess.Popen(
            # It begins when `terminate` knows of it.
            ["/bin/bash", "-c", f"read -r; {command}"],
            stdin=subprocess.PIPE,
            stdout=logfh,
            stderr=logfh,
            start_new_session=self.own_session,
        )
        assert self.shell.stdin is not None
        self.shell.stdin.write(b"\n")
        self.shell.stdin.close()
        return self.shell.wait()

    def terminate(self):
        self.shell.kill()


class ShellInSessionRunner(ShellRunner):
    own_session = True


class DeafRunner(ShellRunner):
    def run(self, taskid, command, logfh):
        self.log = logfh.fileno()
        return super().run(taskid, command, logfh)

    def terminate(self):
        os.write(self.log, b"asked\n")


class RaisingRunner(DeafRunner):
    def terminate(self):
        super().terminate()
        raise ValueError("not now")


FAMILY = "sleep 1000 & bash -c 'sleep 1000 & sleep 1000'; exit 5"
SIZE = 5


def begin_family(driver, size=SIZE):
    driver.submit(FAMILY)
    driver.collect_until(lambda: len(driver.commands()) == size)


@pytest.mark.parametrize("runner_class", [ShellRunner, ShellInSessionRunner])
def test_what_a_runner_leaves_of_a_terminated_task_is_killed(start_pool, runner_class):
    driver = start_pool(runner_class)
    begin_family(driver)
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.commands() == []
    assert driver.results()[0].status == -signal.SIGKILL


def test_what_a_runner_leaves_gets_the_signal_and_time_to_end(start_pool, tmp_path):
    driver = start_pool(ShellRunner)
    tidy = f"trap 'sleep 0.3; echo tidy > {tmp_path}/tidy; exit' TERM; echo up; "
    driver.submit(f'bash -c "{tidy} while :; do sleep 0.05; done"; true')
    driver.collect_until(lambda: driver.log(0) == "up\n")
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)
    assert (tmp_path / "tidy").read_text() == "tidy\n"
    assert driver.commands() == []


def test_what_a_runner_leaves_and_what_ignores_the_signal_dies_at_the_kill(start_pool):
    driver = start_pool(ShellRunner)
    deaf = "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done"
    driver.submit(f'bash -c "{deaf}"; true')
    driver.collect_until(lambda: driver.log(0) == "up\n")
    driver.pool.terminate()
    driver.collect_until(lambda: "asked" in driver.log(0))
    assert not driver.pool.stopped
    driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.commands() == []


@pytest.mark.parametrize("runner_class", [DeafRunner, RaisingRunner])
def test_a_runner_that_does_not_terminate_is_killed_with_its_children(
    start_pool, runner_class
):
    driver = start_pool(runner_class)
    begin_family(driver)
    driver.pool.terminate()
    driver.collect_until(lambda: driver.log(0) == "asked\n")
    assert not driver.pool.stopped
    assert len(driver.commands()) == SIZE
    driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    assert driver.commands() == []


def test_what_a_task_left_running_before_outlives_its_worker(start_pool):
    driver = start_pool(ShellRunner)
    driver.run("sleep 1000 & exit 0")
    driver.pool.close()
    assert len(driver.commands()) == 1


# ---- whole farms with users' classes -------------------------------------------------

MODULE = '''
import os, subprocess, time


class Crashing:
    """A class that derives from nothing."""

    def __init__(self, when):
        self.when = when

    def run(self, taskid, command, logfh):
        with open("notes", "a") as notes:
            print(taskid, command, file=notes)
        if command == self.when:
            os._exit(9)
        logfh.write(f"did {command}\\n")
        return 0

    def terminate(self):
        pass


class OnlyOnce(Crashing):
    """Can be made once: on rank 0, for the check."""

    def __init__(self):
        with open("made", "x"):
            pass


class DiesWhenMade(Crashing):
    """But not at the check on rank 0."""

    def __init__(self):
        try:
            with open("made", "x"):
                pass
        except FileExistsError:
            os._exit(9)


class Deaf:
    def run(self, taskid, command, logfh):
        self.child = subprocess.Popen(["bash", "-c", command], stdout=logfh)
        return self.child.wait()

    def terminate(self):
        with open("notes", "a") as notes:
            print("asked", file=notes)
'''


@pytest.fixture
def create_own(create_place, tmp_path):
    """A place with the users' module and an INI file beside the tasklist."""

    def create(commands, *definitions):
        place = create_place(commands)
        (place.directory / "my_classes.py").write_text(MODULE)
        config = place.directory / "own.ini"
        config.write_text("\n".join(["[own]", *definitions, ""]))
        place.environment["PYTHONPATH"] = os.pathsep.join(
            [str(place.directory), place.environment.get("PYTHONPATH", "")]
        ).strip(os.pathsep)
        place.environment["HOME"] = str(tmp_path)
        return place

    return create


OWN = ("--config", "own.ini", "-r", "own")


def test_a_task_that_crashes_its_runner_fails_after_three_workers(create_own):
    place = create_own(["a", "b", "c"], "Runner = my_classes.Crashing", "when = b")
    assert place.run(*OWN, "-n", "2") == 1
    assert place.ids("failed") == [1]
    assert place.finished() == [0, 2]
    assert place.notes("notes").count("1 b") == 3
    assert place.log(2) == "did c\n"
    place.assert_sound()


def test_a_runner_that_can_be_made_on_rank_0_alone_stops_the_farm(create_own):
    place = create_own(["a", "b", "c"], "Runner = my_classes.OnlyOnce")
    farm = place.start(*OWN, "-n", "2")
    assert farm.wait() == 75, farm.text()
    assert "the runner 'own' can't be made on host " in farm.text()
    assert "FileExistsError" in farm.text()
    assert place.counts() == {}
    place.assert_sound()


def test_a_runner_that_kills_its_worker_when_it_is_made_stops_the_farm(create_own):
    place = create_own(["a", "b", "c"], "Runner = my_classes.DiesWhenMade")
    farm = place.start(*OWN, "-n", "2")
    assert farm.wait() == 75, farm.text()
    assert "die before their first task (exit status 9): see what the runner 'own'" in (
        farm.text()
    )
    assert place.counts() == {}
    place.assert_sound()
    assert place.pids() == []


def test_a_farm_whose_runner_does_not_terminate_ends_after_the_grace(create_own):
    place = create_own(["sleep 1000 & sleep 1000"], "Runner = my_classes.Deaf")
    farm = place.start(*OWN, "-n", "1", "--grace", "0.5")
    wait_until(lambda: len(sleeping(place)) == 2)
    begin = time.monotonic()
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75, farm.text()
    assert time.monotonic() - begin > 0.4
    assert place.notes("notes") == ["asked"]
    assert place.pids() == []
    assert place.counts() == {}


def sleeping(place):
    return [
        pid for pid in place.pids() if b"sleep" in command_line(pid).split(b"\0")[0]
    ]


def command_line(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_a_wrong_option_ends_the_farm_before_anything_is_touched(create_own):
    place = create_own(["a"], "Runner = my_classes.Crashing", "wen = b")
    farm = place.start(*OWN)
    assert farm.wait() == 2
    told = farm.text()
    assert "the runner 'own' in " in told
    assert "own.ini" in told
    assert "it misses the option when, and doesn't know the option wen" in told
    assert not place.workdir.exists()


# ---- PyTaskFarmer's own classes, and classes derived from them -----------------------

PLAIN_MODULE = """
import os
import subprocess
from taskfarmer.runners import BasicRunner, Runner, ShifterRunner


class FromRunner(Runner):
    def __init__(self, greeting, **rest):
        super().__init__()
        self.greeting = greeting
        self.rest = rest
        self.execute = None

    def run(self, taskid, command, logfh):
        logfh.write(f"{self.greeting} {sorted(self.rest.items())}\\n")
        logfh.flush()
        my_env = os.environ.copy()
        my_env["TASK"] = str(taskid)
        self.execute = subprocess.Popen(
            ["/bin/sh", "-c", command], stdout=logfh, stderr=logfh, env=my_env
        )
        self.execute.communicate()
        return self.execute.returncode

    def terminate(self):
        if self.execute is not None:
            self.execute.kill()


class FromBasic(BasicRunner):
    def run(self, taskid, command, logfh):
        logfh.write("before\\n")
        logfh.flush()
        return super().run(taskid, "nice " + command, logfh)


class FromShifter(ShifterRunner):
    def __init__(self, **options):
        super().__init__(image="an/image:1", **options)
"""

PLAIN_INI = """
[something else]
a = b

[first]
Runner = plain_classes.FromRunner
greeting = hello
Size = 100%%

[second]
Runner = plain_classes.FromBasic

[third]
Runner = plain_classes.FromShifter
setup = A=1
"""


@pytest.fixture
def create_plain(create_place, tmp_path):
    """A place of a user of PyTaskFarmer: the package, a module, an INI file."""
    python = find_plain_python("0.1.0")
    if python is None:
        pytest.skip(plain_missing("0.1.0"))
    found = [*python.parent.parent.glob("lib/python3*/site-packages/taskfarmer")]

    def create(commands):
        place = create_place(commands)
        modules, home = tmp_path / "modules", tmp_path / "home"
        shutil.copytree(found[0], modules / "taskfarmer")
        (modules / "plain_classes.py").write_text(PLAIN_MODULE)
        directory = home / ".pytaskfarmer" / "runners.d"
        directory.mkdir(parents=True)
        (directory / "x.ini").write_text(PLAIN_INI)
        before = place.environment.get("PYTHONPATH")
        paths = [str(modules), *([before] if before else [])]
        place.environment["PYTHONPATH"] = os.pathsep.join(paths)
        place.environment["HOME"] = str(home)
        return place

    return create


def test_a_class_derived_from_pytaskfarmers_runner_runs_unchanged(create_plain):
    place = create_plain(["echo $TASK $PROC_NUMBER | cat", "exit 3"])
    farm = place.start("-r", "first", "-n", "2")
    assert farm.wait() == 1, farm.text()
    assert place.log(0) == "hello [('Size', '100%')]\n0 0\n"
    assert place.ids("failed") == [1]
    assert [each.status for each in place.attempts() if each.taskid == 1] == [3]


def test_a_class_derived_from_pytaskfarmers_basic_runner_runs_unchanged(create_plain):
    place = create_plain(
        ["echo 'a b' $HOME", "no-such-program", "printenv PROC_NUMBER"]
    )
    farm = place.start("-r", "second", "-n", "2")
    assert farm.wait() == 1, farm.text()
    assert place.log(0) == "before\n'a b' $HOME\n"
    assert place.log(2) == "before\n2\n"
    assert place.ids("failed") == [1]


def test_a_class_derived_from_pytaskfarmers_shifter_runner_runs_unchanged(
    create_plain, tmp_path
):
    place = create_plain(["echo $A $PROC_NUMBER"])
    (tmp_path / "bin").mkdir()
    write_program(
        tmp_path / "bin" / "shifter",
        '#!/bin/bash\necho "$1 $2"\nuntil [ "$1" = -- ]; do shift; done\nshift\n"$@"\n',
    )
    place.environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    farm = place.start("-r", "third", "-n", "1")
    assert farm.wait() == 0, farm.text()
    assert place.log(0) == "--image an/image:1\n1 0\n"


@pytest.mark.parametrize("runner", ["first", "second"])
@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_at_a_stop_nothing_is_left_of_what_such_a_class_has_started(
    create_plain, runner, signum
):
    inner = "/bin/sleep 1000 & /bin/sleep 1000; exit 1"
    place = create_plain(
        [f'bash -c "{inner}"' if runner == "first" else "./family"] * 2
    )
    place.script("family", inner)
    farm = place.start("-r", runner, "-n", "2", "--grace", "1000")
    wait_until(lambda: len(sleeping(place)) == 4)
    farm.send_signal(signum)
    assert farm.wait() == 75, farm.text()
    assert place.pids() == []
    assert place.counts() == {}
    place.assert_sound()


# ---- the examples of the documents ---------------------------------------------------

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def create_example(create_place, tmp_path):
    """A place with the examples beside its tasklist, as they stand."""

    def create(commands, **options):
        place = create_place(commands, **options)
        for name in ("retry_runner.py", "time_limit_runner.py", "runners.ini"):
            shutil.copy(EXAMPLES / name, place.directory)
        place.environment["HOME"] = str(tmp_path)
        return place

    return create


def test_the_example_that_tries_again_works_as_it_stands(create_example):
    place = create_example(
        ["echo $LANG >> tried; exit 6", "test -s once || ! date > once"]
    )
    farm = place.start("--config", "runners.ini", "-r", "retry", "-n", "1")
    assert farm.wait() == 1, farm.text()
    assert place.notes("tried") == ["C"] * 3
    assert place.ids("failed") == [0]
    assert place.log(0).splitlines()[-1] == "try 3 of 3 ended with status 6"
    assert place.log(1) == "try 1 of 3 ended with status 1\n"
    assert place.ids("finished") == [1]


def test_the_example_that_tries_again_does_not_at_a_stop(create_example):
    place = create_example(["echo x >> tried; sleep 1000"])
    farm = place.start("--config", "runners.ini", "-r", "retry", "-n", "1")
    place.await_notes("tried", 1)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75, farm.text()
    assert place.notes("tried") == ["x"]


def test_the_example_with_a_time_limit_works_as_it_stands(create_example):
    tasks = ["sleep 1000 | sleep 1000", "echo quick", "exit 3"]

    def run(number):
        place = create_example(tasks, name=f"here {number}")
        farm = place.start("--config", "runners.ini", "-r", "limited", "-n", "3")
        assert farm.wait() == 1, farm.text()
        quick = [each for each in place.attempts() if each.taskid]
        return place if all(each.seconds < 1 for each in quick) else None

    place = try_rounds(run)
    assert place.log(0) == "killed after 1 s\n"
    assert place.log(1) == "quick\n"
    statuses = {each.taskid: each.status for each in place.attempts()}
    assert statuses == {0: 124, 1: 0, 2: 3}
    assert place.pids() == []


def test_the_example_with_a_time_limit_ends_its_task_at_a_stop(create_example):
    place = create_example(
        ["trap 'echo x > tidy; exit' TERM; echo x > up; while sleep 0.05; do :; done"]
    )
    (place.directory / "runners.ini").write_text(
        (EXAMPLES / "runners.ini").read_text().replace("seconds = 1", "seconds = 100")
    )
    farm = place.start(
        "--config", "runners.ini", "-r", "limited", "-n", "1", "--grace", "60"
    )
    place.await_notes("up", 1)
    farm.send_signal(signal.SIGUSR1)
    assert farm.wait() == 75, farm.text()
    assert place.notes("tidy") == ["x"]
    assert place.pids() == []
