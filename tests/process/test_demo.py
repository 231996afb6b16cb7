"""The demo: what it prints is what the workdir holds.

Rules of this file: the demo runs as `make demo` runs it, with fewer modules, in a
directory of its own.
"""

import re
import sys

import pytest

from tests.support import ROOT, find_launcher
from tests.workdir_files import WorkdirFiles

pytestmark = pytest.mark.skipif(find_launcher() is None, reason="no MPI wheel")

MODULES = 5
TASKS = 3 * MODULES


@pytest.fixture
def demo(tmp_path, farm_environment, farm_processes):
    """Start it in `tmp_path`, in the folder ``a demo``."""
    launcher = find_launcher()
    env = farm_environment | dict(launcher.variables if launcher else {})

    def start(*options):
        script = str(ROOT / "jobs" / "demo.py")
        argv = [sys.executable, script, *options, "a demo"]
        return farm_processes(argv, env=env, cwd=tmp_path)

    return start


def _numbers(text, row):
    """The numbers of the line of the report that begins with the word `row`."""
    (line,) = re.findall(rf"^{row} +(.*)$", text, re.MULTILINE)
    return [int(word) for word in re.findall(r"\d+", line)]


def test_the_demo_finishes_and_tells_what_is_in_the_workdir(demo, tmp_path):
    child = demo("--modules", str(MODULES), "--ranks", "2")
    assert child.wait(100) == 0, child.text()
    said, folder = child.text(), tmp_path / "a demo"
    workdir = folder / "tasks.txt_workdir"

    assert len(WorkdirFiles(workdir).ids("finished")) == TASKS
    assert _numbers(said, "commands") == [TASKS, 0, TASKS]
    logs = [(workdir / "logs" / f"log_{i}").read_text() for i in range(1, TASKS, 3)]
    counted = sum(int(log.split()[0]) for log in logs)
    assert _numbers(said, "counted") == [counted, MODULES]
    compressed = list((folder / "gz").iterdir())
    sizes = sum(path.stat().st_size for path in compressed)
    assert _numbers(said, "compressed")[1:] == [sizes, MODULES]
    assert len(list((folder / "bytecode").rglob("*.pyc"))) == MODULES
    assert _numbers(said, "compiled")[0] == MODULES


def test_the_demo_starts_afresh_each_time(demo, tmp_path):
    options = ("--modules", "2", "--ranks", "1")
    for _ in range(2):
        child = demo(*options)
        assert child.wait(60) == 0, child.text()
        assert _numbers(child.text(), "commands") == [6, 0, 6]


def test_each_path_that_the_demo_names_is_there(demo, tmp_path):
    child = demo("--modules", "1", "--ranks", "1")
    assert child.wait(60) == 0, child.text()
    paths = re.findall(r": (a demo/\S+)$", child.text(), re.MULTILINE)
    paths += re.findall(r"^for example (.*?): ", child.text(), re.MULTILINE)
    assert len(paths) == 3
    for path in paths:
        assert (tmp_path / path).exists()
