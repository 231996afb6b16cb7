"""What the processes of a command line have imported, told by each when it ends.

Rules of this file: what the interpreter has imported before mpifarm does not count: a
site, a tool that measures coverage or an editable installation imports what it wants.
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.farm_driver import Mpirun
from tests.support import Processes, wait_until

TELL_MODULES = """
import os, sys
before, leave = set(sys.modules), os._exit
from mpifarm.commands.main import main

def tell(role):
    variables = ("MPIFARM_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")
    number = next((os.environ[each] for each in variables if each in os.environ), "0")
    name = f"modules.{number}.{role}"
    with open("new." + name, "w") as file:
        file.write(" ".join(set(sys.modules) - before))
    os.rename("new." + name, name)

def tell_and_leave(status):
    worker = os.environ.get("MPIFARM_WORKER")
    tell("fork_server" if worker is None else "worker" + worker)
    leave(status)

os._exit = tell_and_leave
try:
    main()
finally:
    tell("rank")
"""
"""A command line whose processes leave the names of their modules in files."""

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

WORKERS = 2

ROLES = ("rank", "fork_server", *(f"worker{index}" for index in range(WORKERS)))
"""The processes of a rank."""

_TELL_BROUGHT = """
import sys
before = set(sys.modules)
for name in sys.argv[1:]:
    if name == "mpi4py.MPI":
        __import__("mpi4py").rc.initialize = False
    __import__(name)
print(*set(sys.modules) - before)
print(*before)
"""


def modules_of_ranks(
    mpirun: Mpirun, processes: Processes, directory: Path, *words: str
) -> list[dict[str, set[str]]]:
    """The modules of each process of two ranks, by its role.

    `words` stand behind the options of the farm, in `directory`.
    """
    argv = [sys.executable, "-c", TELL_MODULES, "-n", str(WORKERS), *words]
    child = processes(mpirun(2, *argv), cwd=directory)
    assert child.wait() in (0, 1), child.text()
    return [
        {role: _read(directory / f"modules.{rank}.{role}") for role in ROLES}
        for rank in range(2)
    ]


def _read(path: Path) -> set[str]:
    wait_until(path.exists)  # a fork server ends after its rank
    return set(path.read_text().split())


def among(names: Iterable[str], modules: Iterable[str]) -> set[str]:
    """Those of `names` that are among `modules`; a package by any module of it."""
    packages = {part for module in modules for part in _with_packages(module)}
    return {*names} & packages


def _with_packages(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[: count + 1]) for count in range(len(parts))}


def compare(
    modules: set[str], listed: Iterable[str], environment: Mapping[str, str]
) -> list[str]:
    """Say in a sentence each what is new among `modules`, and what of a list is gone.

    What the listed modules of Python and of mpi4py import themselves is not new.  This
    interpreter is asked for that: no two versions of Python have the same.
    """
    ours, others = _split(listed)
    argv = [sys.executable, "-c", _TELL_BROUGHT, *sorted(others)]
    told = subprocess.run(
        argv,
        env={**environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    brought, before = (set(line.split()) for line in told.stdout.splitlines())
    new = sorted(modules - ours - brought)
    gone = sorted((ours | others) - modules - before)
    return [
        *(f"{name} is imported, and not in the list" for name in new),
        *(f"{name} is in the list, and no longer imported: remove it" for name in gone),
    ]


def _split(names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Those of mpifarm, and all others."""
    names = set(names)
    ours = {name for name in names if name.partition(".")[0] == "mpifarm"}
    return ours, names - ours
