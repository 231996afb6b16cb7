"""The container runners with programs that stand in for Shifter, Apptainer and Podman.

A stand-in notes what it was given, and runs it as the real one would: with the
environment that the real one lets through, and in the directory that it was told.
One of them really makes a container, by bubblewrap.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpifarm.model.settings import RunnerDefinition, TaskLimits
from mpifarm.model.task import Outcome
from mpifarm.runners import create_runner
from tests.process.dry_runs import assert_called, assert_changed, read_starts
from tests.process.pool_driver import PoolDriver
from tests.support import TOKEN_VARIABLE, snapshot

STAND_IN = '''
import json, os, signal, sys

name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["STAND_IN_NOTES"], "a") as notes:
    print(json.dumps([[name, *words], dict(os.environ)]), file=notes)
TOKEN = "FARM_TEST_TOKEN"
env = {each: os.environ[each] for each in ("PATH", TOKEN)}
directory = None


def take(*with_value):
    """The options before the first other word; each as a pair."""
    while words and words[0].startswith("-") and words[0] != "--":
        option, equals, value = words.pop(0).partition("=")
        if not equals and option in with_value:
            value = words.pop(0)
        yield option, value


if name == "shifter":
    env = dict(os.environ)
    for option, value in take("--image"):
        directory = value if option == "--workdir" else directory
    assert words.pop(0) == "--"
elif name == "podman":
    for option, value in take():
        assert option == "--module"
    assert words.pop(0) == "run"
    for option, value in take():
        if option == "--env":
            env[value] = os.environ[value]
        elif option == "--workdir":
            directory = value
        elif option == "--entrypoint":
            entrypoint = value
    image = words.pop(0)
    words.insert(0, entrypoint)
else:
    prefix = name.upper() + "ENV_"
    assert words.pop(0) == "exec"
    options = list(take("--bind", "--pwd"))
    if ("--cleanenv", "") not in options:
        env = {k: v for k, v in os.environ.items() if not k.startswith(prefix)}
    # what an image sets is stronger than the host's
    env |= {"MPIFARM_WORKDIR": "of the image", "BASH_ENV": "/no/such/file"}
    for key, value in os.environ.items():
        if key.startswith(prefix):
            env[key.removeprefix(prefix)] = value
    directory = dict(options).get("--pwd")
    image = words.pop(0)
if directory:
    os.chdir(directory)
if name != "podman":
    os.execve(words[0], words, env)

# Podman's container is no child of it but of a monitor, which has a session and an
# environment of its own; TERM is passed on, KILL can't be.
MONITOR = '"$@" 3>&- & echo $! >&3; wait $!; echo $? >&3'
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
told, tells = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.dup2(tells, 3)
        variables = [f"{key}={value}" for key, value in env.items()]
        container = ["env", "-i", *variables, *words]
        clean = {each: os.environ[each] for each in ("PATH", TOKEN)}
        os.execve("/bin/sh", ["sh", "-c", MONITOR, "sh", *container], clean)
    os._exit(0)
os.close(tells)
os.wait()
with open(told) as told:
    container = int(told.readline())
    signal.signal(signal.SIGTERM, lambda *_: os.kill(container, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sys.exit(int(told.readline()))
'''

RUNNERS = {
    "shifter": "ShifterRunner",
    "apptainer": "ApptainerRunner",
    "singularity": "ApptainerRunner",
    "podman": "PodmanRunner",
}
ALL = pytest.mark.parametrize("name", RUNNERS)
NO_LIMITS = TaskLimits()


class Runtime:
    """A stand-in on PATH, and pools whose runner uses it."""

    def __init__(self, directory, farm_environment, farm_token):
        self.directory = directory
        self.notes = directory / "notes.json"
        self.tmp = directory / "tmp with blank"
        self.environment = {
            **farm_environment,
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "TMPDIR": str(self.tmp),
            "STAND_IN_NOTES": str(self.notes),
            "BASH_ENV": str(directory / "site.sh"),
            "CUDA_VISIBLE_DEVICES": "0,1",
        }
        self.token = farm_token
        self.started = []
        for each in ("bin", "logs", "tmp with blank"):
            (directory / each).mkdir()
        (directory / "site.sh").write_text("echo the site speaks\n")

    def install(self, name, text=None):
        program = self.directory / "bin" / name
        program.write_text(text or f"#!{sys.executable} -I\n{STAND_IN}")
        program.chmod(0o755)

    def start(self, name, limits=NO_LIMITS, **options):
        definition = RunnerDefinition(
            "box",
            f"mpifarm.containers.{RUNNERS[name]}",
            {"image": "docker://an/image:1", **options},
        )
        driver = PoolDriver(
            self.directory / "logs",
            self.environment,
            self.token,
            workers=1,
            create_runner=lambda _: create_runner(definition),
            limits=limits,
            grace=0.3,
        )
        self.started.append(driver)
        return driver

    def run(self, name, command, **options):
        """Status and log of a command."""
        driver = self.start(name, **options)
        return driver.run(command)[0].status, driver.log(0)

    def noted(self):
        """The argv and environment of each start."""
        return [json.loads(line) for line in self.notes.read_text().splitlines()]


@pytest.fixture
def runtime(tmp_path, farm_environment, farm_token, request, monkeypatch):
    runtime = Runtime(tmp_path, farm_environment, farm_token)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", None)  # as in a process that has just begun
    if "name" in request.fixturenames:
        runtime.install(request.getfixturevalue("name"))
    yield runtime
    for driver in runtime.started:
        driver.end()


# ---- what runs -----------------------------------------------------------------------


@ALL
def test_a_line_runs_in_the_containers_shell_after_the_setup(runtime, name):
    setup = "A='two words' # of the site"
    line = 'echo "$A" $0 | cat; exit 5'
    assert runtime.run(name, line, setup=setup) == (5, "two words /bin/bash\n")


@ALL
def test_a_task_whose_setup_fails_does_not_run(runtime, name):
    assert runtime.run(name, "true; echo ran", setup="(exit 7)") == (7, "")


@ALL
def test_without_a_setup_a_line_runs_as_it_is(runtime, name):
    assert runtime.run(name, "echo a && false") == (1, "a\n")
    ((argv, _),) = runtime.noted()
    assert argv[-2:] == ["-c", "echo a && false"]


@ALL
@pytest.mark.parametrize("modules", ["", "cleanenv"])
def test_a_task_has_the_variables_of_the_farm_inside(runtime, name, modules):
    if name == "shifter" and modules:
        pytest.skip("Shifter passes the environment")
    variables = "PROC_NUMBER CUDA_VISIBLE_DEVICES MPIFARM_TASK_ID MPIFARM_ATTEMPT "
    variables += "MPIFARM_RANK MPIFARM_WORKER MPIFARM_WORKDIR MPIFARM_FARM"
    driver = runtime.start(name, modules=modules)
    for taskid in (0, 1):
        driver.run(f"printenv {variables}; echo ${{BASH_ENV-unset}}", first=taskid)
        number, gpus, again, attempt, rank, worker, *others = driver.log(
            taskid
        ).splitlines()
        assert (number, gpus, again, attempt) == (f"{taskid}", "0,1", f"{taskid}", "1")
        assert (rank, worker) == ("3", "0")
        assert others == [str(driver.logs), "f" + driver.token, ""]


@ALL
def test_a_task_has_a_session_of_its_own_and_three_descriptors(runtime, name):
    line = "cut -d' ' -f 1,5,6 /proc/$$/stat; ls /proc/$$/fd; readlink /proc/$$/fd/0"
    _, log = runtime.run(name, line)
    pid, group, session, *descriptors = log.split()
    assert name == "podman" or pid == session
    assert group == session
    assert descriptors == ["0", "1", "2", "/dev/null"]


@ALL
def test_bytes_that_are_not_utf8_reach_the_task(runtime, name):
    assert runtime.run(name, "printf %s a\udcff\udc80b") == (0, "a\udcff\udc80b")


@ALL
def test_a_line_that_is_too_long_fails_its_task_alone(runtime, name):
    driver = runtime.start(name)
    results = driver.run("echo " + "x" * 200_000, "echo short")
    assert [results[taskid].status for taskid in range(2)] == [126, 0]
    assert "is longer than" in driver.log(0)
    assert driver.log(1) == "short\n"


@pytest.mark.parametrize("name", ["podman"])
def test_a_container_has_labels_of_its_farm_and_its_task(runtime, name):
    driver = runtime.start(name)
    driver.run("true", "true")
    told = [
        [word for word in argv if "label=mpi" in word] for argv, _ in runtime.noted()
    ]
    farm = f"--label=mpifarm.farm=f{driver.token}"
    assert told == [[farm, f"--label=mpifarm.task={taskid}"] for taskid in (0, 1)]


# ---- directories ---------------------------------------------------------------------


@ALL
def test_a_task_has_a_temporary_directory_of_its_own_which_is_removed(runtime, name):
    driver = runtime.start(name, tempdir="True")
    results = driver.run("pwd; ls; echo x > file; mkdir d", "pwd; ls; exit 4")
    assert [results[taskid].status for taskid in range(2)] == [0, 4]
    first, second = Path(driver.log(0).strip()), Path(driver.log(1).strip())
    assert first.parent == second.parent == runtime.tmp
    assert first != second
    assert list(runtime.tmp.iterdir()) == []


@ALL
def test_a_temporary_directory_of_a_terminated_task_is_removed(runtime, name):
    driver = runtime.start(name, tempdir="yes")
    driver.submit("touch made; echo up; sleep 1000 & sleep 1000; echo never")
    driver.collect_until(lambda: driver.log(0) == "up\n")
    assert len(list(runtime.tmp.iterdir())) == 1
    driver.pool.terminate()
    driver.collect_until(lambda: driver.pool.stopped)
    terminated = 128 + signal.SIGTERM if name == "podman" else -signal.SIGTERM
    assert driver.results()[0].status == terminated
    assert list(runtime.tmp.iterdir()) == []
    assert driver.commands() == []


@ALL
def test_without_tempdir_a_task_runs_where_the_farm_was_started(runtime, name):
    assert runtime.run(name, "pwd") == (0, f"{runtime.directory}\n")


# ---- the end -------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("is_asked", [True, False])
def test_a_task_that_ignores_the_signal_dies_at_the_kill(runtime, name, is_asked):
    driver = runtime.start(name)
    driver.submit("trap '' TERM; sleep 1000 & echo up; sleep 1000; sleep 1000")
    driver.collect_until(lambda: driver.log(0) == "up\n")
    if is_asked:
        driver.pool.terminate()
    driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    driver.collect_until(lambda: driver.commands() == [])


@ALL
def test_a_task_whose_time_is_over_dies_with_its_container_and_costs_no_worker(
    runtime, name, monkeypatch
):
    # a worker that stalls is left alone
    monkeypatch.setattr("mpifarm.pool.time_limit.LATE", 60_000_000_000)
    driver = runtime.start(name, limits=TaskLimits(timeout=1.0))
    ignores = "trap '' TERM; sleep 1000 & sleep 1000; sleep 1000"
    results = driver.run(ignores, "true")
    after = results[1]
    if after.seconds >= 1.0:
        after = driver.run_in_time("true", 1.0, first=2)
    outcomes = [results[0].outcome, after.outcome]
    assert outcomes == [Outcome.TIMED_OUT, Outcome.COMPLETED]
    assert results[0].worker == after.worker
    # the kernel ends what is in it a moment after the runtime itself
    driver.collect_until(lambda: driver.commands() == [])


@ALL
def test_processes_in_a_container_have_the_limit_of_memory(runtime, name):
    driver = runtime.start(name, limits=TaskLimits(memory=200 * 2**20))
    results = driver.run("ulimit -d", f"{sys.executable} -c 'bytearray(1 << 30)'")
    assert driver.log(0) == "204800\n"
    assert results[1].outcome is Outcome.OUT_OF_MEMORY
    told = [word for words, _ in runtime.noted() for word in words if "ulimit=" in word]
    limit = ["--ulimit=data=209715200:209715200"]
    assert told == (2 * limit if name == "podman" else [])


@ALL
def test_a_task_dies_with_its_worker(runtime, name):
    driver = runtime.start(name)
    driver.submit("sleep 1000 & echo up; sleep 1000; sleep 1000")
    driver.collect_until(lambda: driver.log(0) == "up\n")
    (worker,) = driver.worker_pids()
    os.kill(worker, signal.SIGKILL)
    driver.collect_until(driver.losses)
    driver.collect_until(lambda: driver.commands() == [])


# ---- whole farms ---------------------------------------------------------------------

INI = """
[box]
Runner = {python_class}
image = docker://an/image:1
setup = export A=1
    B=$A%%
tempdir = True
"""


@ALL
def test_a_farm_runs_its_tasks_in_the_containers_of_an_ini_file(
    runtime, name, create_place
):
    place = create_place(["echo $A$B $PROC_NUMBER", "test -d /; exit 3"])
    (place.directory / ".pytaskfarmer" / "runners.d").mkdir(parents=True)
    python_class = f"mpifarm.containers.{RUNNERS[name]}"
    if name == "shifter":
        python_class = "taskfarmer.runners.ShifterRunner"
    (place.directory / ".pytaskfarmer" / "runners.d" / "x.ini").write_text(
        INI.format(python_class=python_class)
    )
    place.environment = {
        **runtime.environment,
        "HOME": str(place.directory),
        "SCRATCH": str(place.directory),  # the lock's, which would else be in TMPDIR
    }
    farm = place.start("-r", "box", "-n", "2")
    assert farm.wait() == 1, farm.text()
    assert place.log(0) == "11% 0\n"
    assert place.ids("failed") == [1]
    assert len(runtime.noted()) == 2
    assert list(runtime.tmp.iterdir()) == []
    place.assert_sound()


@ALL
def test_a_dry_run_shows_what_the_runtime_is_really_called_with(
    runtime, name, create_place
):
    place = create_place(["echo $A 'x  y'", "exit 3", "echo " + "x" * 200_000])
    (place.directory / "mounted").mkdir()
    (place.directory / "own.ini").write_text(
        f"[box]\nRunner = mpifarm.containers.{RUNNERS[name]}\n"
        "image = docker://an/image:1\nsetup = export A=1\ntempdir = yes\n"
        f"volumes = {place.directory}/mounted:/mnt\n"
        f"modules = {'cvmfs gpu' if name == 'shifter' else 'cleanenv'}\n"
    )
    place.environment = {
        **runtime.environment,
        "HOME": str(place.directory),
        "SCRATCH": str(place.directory),  # the lock's, which would else be in TMPDIR
        "PMI_LOCAL": "of a launcher",
    }
    options = [
        "--config",
        "own.ini",
        "-r",
        "box",
        "-n",
        "1",
        "--chdir",
        f"{place.directory}/mounted",
    ]
    options += ["--task-memory", "2G", "--id-variable", "NUMBER=1"]
    before = snapshot(runtime.directory)
    shown = place.start("--dry-run", *options)
    assert shown.wait() == 0, shown.text()
    text = shown.text()
    shown.output.unlink()
    assert snapshot(runtime.directory) == before
    farm = place.start(*options)
    assert farm.wait() == 1, farm.text()
    for words, (argv, env) in zip(read_starts(text), runtime.noted(), strict=True):
        assert_called(words, argv)
        assert_changed(text, place.environment, env)
    assert f"commands run in {place.directory}/mounted\n" in text
    fault = text.partition("    fails with 126: ")[2].partition("\n")[0]
    assert fault in place.log(2)
    assert fault


# ---- a real container ----------------------------------------------------------------

BUBBLEWRAP_APPTAINER = f"""#!/bin/bash
# "apptainer exec": a root that can't be written, an empty environment
[ "$1" = exec ] || exit 255
shift
options=(--ro-bind / / --dev /dev --proc /proc --clearenv)
options+=(--setenv PATH "$PATH" --setenv {TOKEN_VARIABLE} "${TOKEN_VARIABLE}")
while [[ $1 == --* ]]; do
    case $1 in
        --bind) IFS=: read -r from to _ <<< "$2"
                options+=(--bind "$from" "${{to:-$from}}"); shift ;;
        --pwd) options+=(--chdir "$2"); shift ;;
        --pid) options+=(--unshare-pid) ;;
    esac
    shift
done
for name in $(compgen -e APPTAINERENV_); do
    options+=(--setenv "${{name#APPTAINERENV_}}" "${{!name}}")
done
shift  # the image: there is only one
exec bwrap "${{options[@]}}" "$@"
"""


@pytest.fixture
def bubblewrap(runtime):
    """Bubblewrap as Apptainer, where it is installed and may make containers."""
    program = shutil.which("bwrap")
    tried = [program or "false", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    if subprocess.run(tried, check=False, capture_output=True).returncode:
        pytest.skip("bubblewrap is not installed, or may not make containers here")
    runtime.install("apptainer", BUBBLEWRAP_APPTAINER)
    runtime.tmp = runtime.directory / "tmp"
    runtime.tmp.mkdir()
    runtime.environment["TMPDIR"] = str(runtime.tmp)
    return runtime


def test_a_task_in_a_real_container_sees_its_variables_and_binds(bubblewrap):
    runtime = bubblewrap
    (runtime.directory / "out").mkdir()
    line = (
        f"echo $PROC_NUMBER $MPIFARM_ATTEMPT ${{HOME-clean}}; pwd; touch here && "
        f"echo data > /mnt/result; touch {runtime.directory}/x 2>/dev/null || echo ro"
    )
    driver = runtime.start(
        "apptainer",
        modules="cleanenv",
        tempdir="yes",
        volumes=f"{runtime.directory}/out:/mnt",
    )
    assert driver.run(line)[0].status == 0
    variables, directory, read_only = driver.log(0).splitlines()
    assert variables == "0 1 clean"
    assert Path(directory).parent == runtime.tmp
    assert read_only == "ro"
    assert (runtime.directory / "out" / "result").read_text() == "data\n"
    assert list(runtime.tmp.iterdir()) == []


@pytest.mark.parametrize("modules", ["cleanenv", "cleanenv pid"])
@pytest.mark.parametrize("is_deaf", [False, True])
def test_a_real_container_dies_with_all_that_is_in_it(bubblewrap, modules, is_deaf):
    driver = bubblewrap.start("apptainer", modules=modules)
    deafly = "trap '' TERM; " if is_deaf else ""
    driver.submit(f"{deafly}sleep 1000 & echo up; sleep 1000; sleep 1000")
    driver.collect_until(lambda: driver.log(0) == "up\n")
    driver.pool.terminate()
    if is_deaf:
        driver.pool.kill()
    driver.collect_until(lambda: driver.pool.stopped)
    driver.collect_until(lambda: driver.commands() == [])
