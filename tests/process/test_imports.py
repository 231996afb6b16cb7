"""What a command line imports where no other rank is: each user waits for that.

Rules of this file: modules are looked at when the process ends, in the process that
the command line started, not in its workers.  What ranks import is in
`tests/mpi/test_rank_imports.py`.
"""

import os
import subprocess
import sys

import pytest

from tests.imported import OF_NOBODY, OF_RANK_0, TELL_MODULES, among
from tests.support import ROOT, clean_environment

OF_MPI = {"ctypes", "mpi4py"}

OF_VERSION = {
    *("mpifarm", "mpifarm.commands", "mpifarm.commands.main", "mpifarm.immutable"),
    *("mpifarm.commands.options", "mpifarm.commands.option_values", "mpifarm.errors"),
    *("mpifarm.batch", "mpifarm.batch.launcher", "mpifarm.model"),
    *("mpifarm.model.settings", "mpifarm.system", "mpifarm.system.console"),
    *("mpifarm.system.destination", "mpifarm.system.signals"),
}
"""All of mpifarm that answers ``--version``."""

NOT_OF_VERSION = {
    *("datetime", "difflib", "hashlib", "json", "logging", "pathlib", "random"),
    *("shlex", "socket", "textwrap", "threading", "traceback"),
}
"""Modules of Python that take a millisecond each, and are not of ``--version``."""


def base_environment():
    return {**clean_environment(os.environ), "PYTHONPATH": str(ROOT)}


def modules_of(directory, *words):
    """The modules that a command line has imported when it ends."""
    argv = [sys.executable, "-c", TELL_MODULES, *words]
    subprocess.run(
        argv,
        env=base_environment(),
        cwd=directory,
        check=False,
        capture_output=True,
        timeout=60,
    )
    return set((directory / "modules.0.rank").read_text().split())


def test_the_package_by_itself_imports_nothing():
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); "
        "import mpifarm; print(sorted(set(sys.modules) - before))"
    )
    # -I -S: nothing of the environment is imported first
    argv = [sys.executable, "-I", "-S", "-c", program]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "['mpifarm']\n"


def test_a_farm_without_a_launcher_imports_no_mpi(tmp_path):
    (tmp_path / "tasks.txt").write_text("true\n")
    alone = modules_of(tmp_path, "tasks.txt")
    assert "mpifarm.farm.process" in alone
    assert among(OF_MPI, alone) == set()


@pytest.mark.parametrize("options", [["--help"], ["--version"], ["--proc", "0", "x"]])
def test_a_command_line_that_starts_no_farm_imports_none(tmp_path, options):
    modules = modules_of(tmp_path, *options)
    assert "mpifarm.commands.options" in modules
    assert (
        among(OF_MPI | OF_RANK_0 | {"mpifarm.farm.process", "mpifarm.pool"}, modules)
        == set()
    )


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_told_at_once(tmp_path, option):
    """It takes 30 ms, most of them Python's; each import here is seen by each user."""
    modules = modules_of(tmp_path, option)
    ours = {each for each in modules if each.split(".")[0] == "mpifarm"}
    assert ours == OF_VERSION
    assert among(OF_NOBODY | OF_MPI | NOT_OF_VERSION, modules) == set()
