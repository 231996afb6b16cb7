"""The package's floors: who may import whom, and who owns what is outside."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpifarm

PACKAGE = Path(mpifarm.__file__).parent

FLOORS = {
    "": 0,  # mpifarm itself: the version
    "errors": 0,
    "task": 1,
    "classes": 1,
    "config": 1,
    "launcher": 2,
    "logfiles": 2,
    "messages": 2,
    "processes": 2,
    "shellwords": 2,
    "signals": 2,
    "slurm": 2,
    "supervision": 2,
    "waiting": 2,
    "cpus": 3,
    "decisions": 3,
    "gpus": 3,
    "runners": 3,
    "surroundings": 3,
    "arguments": 4,
    "comm": 4,
    "console": 4,
    "containers": 4,
    "coordinator": 4,
    "lock": 4,
    "plugins": 4,
    "pool": 4,
    "report": 4,
    "tasklists": 4,
    "workdir": 4,
    "place": 5,
    "rank": 5,
    "templates": 5,
    "conductor": 6,
    "first_rank": 7,
    "check": 8,
    "farm": 8,
    "log": 8,
    "retry": 8,
    "selftest": 8,
    "supervise": 8,
    "cli": 9,
    "__main__": 10,
}
"""A module imports only from lower floors; a package counts as one unit."""

OWNERS = {
    "mpi4py": {"comm"},
    "filelock": {"lock"},
    "subprocess": {"processes", "pool", "supervise"},
    "multiprocessing": {"processes", "pool"},
    "_posixsubprocess": {"processes", "pool"},
    "pty": set(),
    "argparse": {"arguments"},
}
"""Who may import what; a module that is not named here is free for all."""

STARTS_PROCESSES = {
    *("fork", "forkpty", "posix_spawn", "posix_spawnp", "popen", "system"),
    *("execl", "execle", "execlp", "execlpe", "execv", "execve", "execvp", "execvpe"),
    *("spawnl", "spawnle", "spawnlp", "spawnlpe"),
    *("spawnv", "spawnve", "spawnvp", "spawnvpe"),
}
"""Functions of `os` that are left to `processes` and the pool."""


def unit_of(path: Path) -> str:
    """``pool`` for pool/worker.py, ``comm`` for comm.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Full names of all that is imported anywhere, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None]
            parts = [*(above if node.level else []), *filter(None, [node.module])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def imported_units(tree: ast.AST, package: str) -> Iterator[str]:
    """Units of mpifarm among them."""
    for name in imported_names(tree, package):
        top, _, rest = name.partition(".")
        if top == "mpifarm":
            unit = rest.split(".")[0]
            # `from mpifarm import __version__` imports the package itself
            yield unit if unit in FLOORS else ""


def breaches(unit: str, source: str, package: str = "mpifarm") -> list[str]:
    """What `source`, as a module of `unit`, does against the rules."""
    tree = ast.parse(source)
    found = [
        f"{unit} imports {other}, which is no lower floor"
        for other in imported_units(tree, package)
        if other != unit and FLOORS[other] >= FLOORS[unit]
    ]
    for name in imported_names(tree, package):
        top, _, rest = name.partition(".")
        if unit not in OWNERS.get(top, {unit}):
            found.append(f"{unit} imports {top}")
        if top == "os" and rest in STARTS_PROCESSES:
            found.append(f"{unit} imports os.{rest}")
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("os"), attr) if attr in STARTS_PROCESSES:
                found.append(f"{unit} uses os.{attr}")
    if unit in ("processes", "pool"):
        found = [breach for breach in found if " os." not in breach]
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_id(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", SOURCES, ids=module_id)
def test_each_module_stands_on_a_floor(path):
    assert unit_of(path) in FLOORS


@pytest.mark.parametrize("path", SOURCES, ids=module_id)
def test_each_module_keeps_to_its_floor_and_leaves_outside_things_to_their_owners(path):
    package = ".".join(["mpifarm", *path.relative_to(PACKAGE).parts[:-1]])
    assert breaches(unit_of(path), path.read_text(), package) == []


def test_each_floor_has_its_module():
    units = {unit_of(path) for path in SOURCES}
    assert set(FLOORS) - units == set()


@pytest.mark.parametrize(
    ("unit", "source", "package"),
    [
        ("task", "from mpifarm.messages import Assign", "mpifarm"),
        ("task", "from mpifarm import messages", "mpifarm"),
        ("task", "import mpifarm.cli", "mpifarm"),
        ("task", "from . import cli", "mpifarm"),
        ("task", "from .comm import Link", "mpifarm"),
        ("pool", "from ..rank import Rank", "mpifarm.pool"),
        ("pool", "from .. import farm", "mpifarm.pool"),
        ("rank", "from mpifarm.farm import Farm", "mpifarm"),
        ("farm", "def f():\n    import mpi4py", "mpifarm"),
        ("farm", "from mpi4py import MPI", "mpifarm"),
        ("workdir", "from filelock import FileLock", "mpifarm.workdir"),
        ("runners", "import subprocess", "mpifarm"),
        ("runners", "import os\nos.posix_spawn('/bin/true', ['true'], {})", "mpifarm"),
        ("runners", "from os import fork", "mpifarm"),
    ],
)
def test_a_breach_is_found(unit, source, package):
    assert breaches(unit, source, package) != []


@pytest.mark.parametrize(
    ("unit", "source", "package"),
    [
        (
            "cli",
            "from mpifarm import __version__\nimport mpifarm.farm",
            "mpifarm",
        ),
        ("pool", "from mpifarm.pool.worker import x\nfrom . import y", "mpifarm.pool"),
        ("pool", "from ..processes import start\nimport os\nos.fork()", "mpifarm.pool"),
        ("comm", "from mpi4py import MPI", "mpifarm"),
    ],
)
def test_what_is_allowed_is_no_breach(unit, source, package):
    assert breaches(unit, source, package) == []
