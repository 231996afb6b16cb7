"""What a rank imports: a thousand of them read it from one shared file system at once.

Rules of this file: modules are looked at when the process ends, in the process that
the command line started, not in its workers.
"""

import os
import subprocess
import sys

import pytest

from mpifarm.database import schema
from mpifarm.database import tasks as statements
from tests.support import ROOT, Launch, clean_environment, find_launcher

TELL_MODULES = """
import os, sys
before = set(sys.modules)
from mpifarm.commands.main import main
try:
    main()
finally:
    name = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK", "0")
    with open("modules." + name, "w") as file:
        file.write(" ".join(set(sys.modules) - before))
"""
"""A command line whose process leaves the names of its modules in a file."""

OF_RANK_0 = {
    "filelock",
    "hashlib",
    "json",
    "mpifarm.farm.leader",
    "mpifarm.coordinator.coordinator",
    "mpifarm.farm.startup",
    "mpifarm.system.lock",
    "mpifarm.plugins.registry",
    "mpifarm.farm.summary",
    "mpifarm.tasklists",
    "mpifarm.store",
}
"""What belongs to the list, the workdir and their files."""

OF_FILELOCK = {"decimal", "logging", "pathlib", "platform", "secrets", "urllib.parse"}
"""What that one brings with it; the next version may need less."""

OF_NOBODY = {
    "asyncio",
    "configparser",
    "concurrent.futures",
    "email",
    "http",
    "importlib.metadata",
    "mpifarm.farm.trace",
    "mpifarm.farm.watched",
    "mpifarm.hooks",
    "mpifarm.model.events",
    "mpifarm.output.records",
    "mpifarm.submit",
    "mpi4py.futures",
    "mpi4py.util",
    "multiprocessing",
    "numpy",
    "sqlite3",
    "ssl",
    "subprocess",
    "unittest",
    "urllib.request",
}
"""Costly ones that a farm has no use for: on no rank."""

OF_RUNNERS = {"mpifarm.runners", "mpifarm.plugins.shell_split", "shutil", "tempfile"}
"""What the fork server imports, while its rank goes on into MPI."""

OF_MPI = {"ctypes", "mpi4py"}


OF_ARGUMENTS = {
    "mpifarm.farm.arguments",
    "mpifarm.farm.standard_input",
    "mpifarm.lists",
}
"""What makes a list of arguments."""

OF_VERSION = {
    *("mpifarm", "mpifarm.commands", "mpifarm.commands.main", "mpifarm.immutable"),
    *("mpifarm.commands.options", "mpifarm.commands.option_values", "mpifarm.errors"),
    *("mpifarm.batch", "mpifarm.batch.launcher", "mpifarm.model"),
    *("mpifarm.model.settings", "mpifarm.system", "mpifarm.system.console"),
    *("mpifarm.system.destination", "mpifarm.system.signals"),
    "mpifarm.system.time_of_day",
}
"""All of mpifarm that answers ``--version``."""

NOT_OF_VERSION = {
    *("datetime", "difflib", "hashlib", "json", "logging", "pathlib", "random"),
    *("shlex", "socket", "textwrap", "threading", "traceback"),
}
"""Modules of Python that take a millisecond each, and are not of ``--version``."""


def farm_modules(directory, launch_of, *words):
    """The modules that each rank of a small farm has imported when it ends, by rank."""
    (directory / "tasks.txt").write_text("sleep 0.05\n" * 12)
    words = words or ("tasks.txt",)
    launch = launch_of([sys.executable, "-c", TELL_MODULES, "-n", "2", *words])
    subprocess.run(launch.argv, env=launch.env, cwd=directory, check=True, timeout=60)
    files = sorted(directory.glob("modules.*"))
    return [set(file.read_text().split()) for file in files]


def base_environment():
    return {**clean_environment(os.environ), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two ranks of a farm have imported."""
    launcher = find_launcher()
    if launcher is None:
        pytest.skip(f"no MPI wheel in {sys.prefix}")
    directory = tmp_path_factory.mktemp("ranks")
    return farm_modules(directory, lambda argv: launcher(base_environment(), 2, *argv))


def among(names, modules):
    """Those of `names` that are among `modules`; a package by any module of it."""
    packages = {part for module in modules for part in _with_packages(module)}
    return names & packages


def _with_packages(module):
    parts = module.split(".")
    return {".".join(parts[: count + 1]) for count in range(len(parts))}


def test_the_package_by_itself_imports_nothing():
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); "
        "import mpifarm; print(sorted(set(sys.modules) - before))"
    )
    # -I -S: nothing of the environment is imported first
    argv = [sys.executable, "-I", "-S", "-c", program]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "['mpifarm']\n"


def test_rank_0_alone_imports_what_list_workdir_and_lock_need(ranks):
    first, other = ranks
    assert among(OF_RANK_0, other) == set()
    # or the names above would be out of date, and this test empty
    assert among(OF_RANK_0, first) == OF_RANK_0


def test_another_rank_imports_nothing_of_what_the_lock_brings(ranks):
    first, other = ranks
    assert among(OF_FILELOCK, other) == set()
    assert among(OF_FILELOCK, first) != set()


def test_rank_0_alone_imports_what_reads_a_database(tmp_path):
    launcher = find_launcher()
    if launcher is None:
        pytest.skip(f"no MPI wheel in {sys.prefix}")
    with schema.creating(str(tmp_path / "tasks.db")) as connection:
        statements.insert_plain(connection, 0, [b"sleep 0.05"] * 12)
    environ = base_environment()
    first, other = farm_modules(
        tmp_path, lambda argv: launcher(environ, 2, *argv), "tasks.db"
    )
    names = {"sqlite3", "mpifarm.database", "mpifarm.databases"}
    assert among(names, first) == names
    assert among(names, other) == set()


def test_rank_0_alone_imports_what_makes_a_list_of_arguments(ranks, tmp_path):
    launcher = find_launcher()
    assert launcher is not None
    environ = base_environment()
    words = ["sleep {}", ":::", *["0.05"] * 12]
    first, other = farm_modules(
        tmp_path, lambda argv: launcher(environ, 2, *argv), *words
    )
    assert among(OF_ARGUMENTS, first) == OF_ARGUMENTS
    assert among(OF_ARGUMENTS, other) == set()
    # that finds the arguments among the words, which each rank has to do
    assert other - ranks[1] <= {"mpifarm.commands.argument_words"}


def test_rank_0_alone_imports_what_reads_a_file_of_options(ranks, tmp_path):
    launcher = find_launcher()
    assert launcher is not None
    (tmp_path / "mpifarm.ini").write_text("[options]\ngrace = 3\nquarantine = off\n")
    environ = base_environment()
    first, other = farm_modules(tmp_path, lambda argv: launcher(environ, 2, *argv))
    names = {"configparser", "mpifarm.commands.defaults"}
    assert among(names, first) == names
    assert other <= ranks[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_no_rank_imports_what_a_farm_has_no_use_for(ranks, rank):
    assert among(OF_NOBODY, ranks[rank]) == set()


def test_another_rank_leaves_the_import_of_the_runners_to_its_pool(ranks):
    assert among(OF_RUNNERS, ranks[1]) == set()
    assert among(OF_MPI, ranks[1]) == OF_MPI


def test_a_farm_without_a_launcher_imports_no_mpi(tmp_path):
    (alone,) = farm_modules(tmp_path, lambda argv: Launch(argv, base_environment()))
    assert "mpifarm.farm.process" in alone
    assert among(OF_MPI, alone) == set()


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
    return set((directory / "modules.0").read_text().split())


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
