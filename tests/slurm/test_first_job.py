"""From an empty directory to a farm on all nodes: an install, and two commands.

Rules of this file: nothing of the checkout is on the path of what runs; the commands
are those of the README, and what is typed after the first is what it has printed.
"""

import importlib.util
import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.pages import find_missing, tutorial, without_varying
from tests.slurm.batch import DEADLINE
from tests.slurm.conftest import NAMED_NODES, create_slurm
from tests.support import ROOT, wait_until

# builds, and installs from a package index
pytestmark = pytest.mark.timeout(300)

TASKS = 260


@pytest.fixture
def desk(named_conf, farm_environment, farm):
    """A login node with mpifarm in an environment of its own."""
    slurm = create_slurm(named_conf, farm_environment, farm.directory)
    yield Desk(slurm)
    slurm.cancel_all()


class Desk:
    """A directory with a list and an environment, and what is typed there."""

    def __init__(self, slurm):
        self.directory = slurm.directory
        environment = self.directory / "env"
        self._variables = {**slurm.environment, "PATH": f"{environment}/bin:/usr/bin"}
        self._variables["PATH"] += ":/bin"
        self._variables.pop("PYTHONPATH", None)
        self._variables["PWD"] = str(self.directory)
        self._run(sys.executable, "-m", "venv", "--without-pip", str(environment))
        pip = ["-m", "pip", "--python", f"{environment}/bin/python", "install"]
        if importlib.util.find_spec("hatchling") is not None:
            pip.append("--no-build-isolation")
        self._run(sys.executable, *pip, "--quiet", f"{ROOT}[mpich]")

    def _run(self, *words):
        done = subprocess.run(
            words,
            env=self._variables,
            cwd=self.directory,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def type(self, command):
        """Return the status of a command, and what it has printed."""
        done = subprocess.run(
            ["bash", "-c", command],
            env=self._variables,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


def command_of_readme():
    """The line that submits a list."""
    found = re.search(r"^    (mpifarm submit -N 8 .*?) *#", README, re.MULTILINE)
    assert found
    return found[1]


README = (ROOT / "README.md").read_text()


def test_a_list_runs_on_all_nodes_after_an_install_and_two_commands(desk):
    # until each node has begun one, however late it comes
    meets = f"until [ $(ls at.* | wc -l) -ge {NAMED_NODES} ]; do sleep 0.1; done"
    each = f"on $(uname -n); touch at.$(uname -n); {meets}"
    tasks = [f"echo {number} {each}" for number in range(TASKS)]
    (desk.directory / "tasks.txt").write_text("\n".join(tasks) + "\n")
    status, printed = desk.type(command_of_readme())
    assert status == 0, printed
    assert f"one farm on {NAMED_NODES} nodes for 4:00:00 h, by srun" in printed
    assert f": {TASKS} tasks of tasks.txt\n" in printed
    (command,) = re.findall(r"^  status:  (.*)$", printed, re.MULTILINE)

    def is_done():
        status, printed = desk.type(command)
        assert status == 0 or "no farm has begun this list yet" in printed, printed
        return f"{TASKS} finished, 0 failed" in printed

    wait_until(is_done, DEADLINE)
    _, printed = desk.type("mpifarm log tasks.txt 0-259")
    ran = re.findall(r"^(\d+) on (n\d+)$", printed, re.MULTILINE)
    assert [int(number) for number, _ in ran] == [*range(TASKS)]
    hosts = Counter(host for _, host in ran)
    assert {*hosts} == {f"n{number}" for number in range(1, NAMED_NODES + 1)}, hosts


def test_the_tutorial_on_slurm_word_by_word(desk):
    program, _, typed = tutorial()
    (desk.directory / "simulate").write_text(program)
    (desk.directory / "simulate").chmod(0o755)

    job = "1"

    def type_command(command):
        nonlocal job
        text = desk.type(command.replace("scancel 1", f"scancel {job}"))[1]
        if submitted := re.search(r"^job (\d+) is submitted", text, re.MULTILINE):
            job = submitted[1]  # other tests have submitted some
        text = re.sub(rf"'?{re.escape(str(desk.directory))}", "/home/ada/study", text)
        text = text.replace("workdir'/", "workdir/")  # the path here has a blank
        lines = text.splitlines()  # and is in /tmp
        return "\n".join(line for line in lines if "WARNING: tasks.txt" not in line)

    def assert_shown(awaited="", lines=None):
        """Type the next command, again and again until it prints what is awaited."""
        each, text = typed.pop(0), ""

        def is_printed():
            nonlocal text
            text = type_command(each.command)
            return awaited in text

        try:
            wait_until(is_printed, DEADLINE)
        except AssertionError:
            raise AssertionError(text) from None
        shown = without_varying(each.printed[:lines])
        assert find_missing(shown, without_varying(text.splitlines())) == "", text

    assert_shown()  # doctor
    assert_shown()  # seq
    assert_shown()  # submit
    assert_shown(" 8 running", lines=1)
    assert_shown()  # scancel
    assert_shown("status 75", lines=1)
    assert_shown(lines=0)  # submit; how many are left is another number
    assert_shown("all tasks are finished")
    assert typed == []
