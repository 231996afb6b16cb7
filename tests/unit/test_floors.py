"""The package's floors: imports between rooms, and the owners of outside things."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpifarm

PACKAGE = Path(mpifarm.__file__).parent

FLOORS = {
    "": 0,  # mpifarm itself: the version; it imports only when names are used
    "errors": 0,
    "immutable": -1,
    "batch": 0,
    "model": 0,
    "causes": 1,
    "order": 1,
    "submit": 1,
    "system": 1,
    "database": 2,
    "plugins": 2,
    "runners": 3,
    "tasklists": 3,
    "output": 3,
    "transport": 3,
    "hooks": 3,
    "coordinator": 3,
    "containers": 4,
    "databases": 4,
    "dialects": 4,
    "templates": 4,
    "lists": 4,
    "pool": 4,
    "store": 4,
    "audit": 5,
    "farm": 5,
    "commands": 6,
    "interface": 7,
    "__main__": 7,
}
"""A room imports only from lower floors."""

OWNERS = {
    "mpi4py": {"transport.mpi"},
    "filelock": {"system.lock"},
    "subprocess": {
        *("system.processes", "pool", "commands.supervise", "submit.asking"),
        "interface.child",
    },
    "multiprocessing": {"system.processes", "pool"},
    "_posixsubprocess": {"system.processes", "pool"},
    "pty": set(),
    "sqlite3": {"database"},
    "argparse": {
        *("commands.options", "commands.subcommand"),
        "commands.help_files.command_lines",
    },
}
"""The module or room that may import it; what is not named here is free for all."""

STARTS_PROCESSES = {
    *("fork", "forkpty", "posix_spawn", "posix_spawnp", "popen", "system"),
    *("execl", "execle", "execlp", "execlpe", "execv", "execve", "execvp", "execvpe"),
    *("spawnl", "spawnle", "spawnlp", "spawnlpe"),
    *("spawnv", "spawnve", "spawnvp", "spawnvpe"),
}
"""Functions of `os` that are left to `processes`, `task_command` and the pool."""


def name_of(path: Path) -> str:
    """Return ``pool.worker`` for pool/worker.py, ``pool`` for pool/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


SOURCES = {name_of(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
"""The text of each module, by its name."""


def room_of(name: str) -> str:
    """Return ``pool`` for ``pool.worker``."""
    return name.split(".", maxsplit=1)[0]


def imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the full names of all imports, even in functions."""
    for node in _nodes_of(tree, package):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -(node.level - 1) or None]
            parts = [*(above if node.level else []), *filter(None, [node.module])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def _nodes_of(tree: ast.AST, package: str) -> Iterator[ast.AST]:
    """Yield all nodes, but of mpifarm itself not what only type checkers read."""
    todo = [tree]
    while todo:
        node = todo.pop()
        match node:
            case ast.If(ast.Name("TYPE_CHECKING")) if package == "mpifarm":
                todo += node.orelse
            case _:
                yield node
                todo += ast.iter_child_nodes(node)


def package_of(name: str) -> str:
    """Return the package in which a module's relative imports begin."""
    is_package = any(other.startswith(f"{name}.") for other in SOURCES) or not name
    return f"mpifarm.{name if is_package else name.rpartition('.')[0]}".rstrip(".")


def imported_modules(name: str, source: str) -> set[str]:
    """Return the modules of mpifarm that the module `name` imports."""
    found = set()
    for imported in imported_names(ast.parse(source), package_of(name)):
        top, _, rest = imported.partition(".")
        while top == "mpifarm" and rest not in SOURCES:
            rest = rest.rpartition(".")[0]  # a name in a module
        if top == "mpifarm":
            found.add(rest)
    return found - {name}


def breaches(name: str, source: str) -> list[str]:
    """Return the breaches of the rules by `source`, as the module `name`."""
    room, tree = room_of(name), ast.parse(source)
    found = [
        f"{name} imports {other}, which is on no lower floor"
        for other in sorted(imported_modules(name, source))
        if room_of(other) != room and FLOORS[room_of(other)] >= FLOORS[room]
    ]
    for imported in imported_names(tree, package_of(name)):
        top, _, rest = imported.partition(".")
        if not {name, room} & OWNERS.get(top, {name}):
            found.append(f"{name} imports {top}")
        if top == "os" and rest in STARTS_PROCESSES:
            found.append(f"{name} imports os.{rest}")
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("os"), attr) if attr in STARTS_PROCESSES:
                found.append(f"{name} uses os.{attr}")
    if "pool" in (name, room) or name in ("system.processes", "system.task_command"):
        found = [breach for breach in found if " os." not in breach]
    return found


def find_circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other around a circle, or nothing."""
    arrows = {name: set(others) for name, others in arrows.items()}
    while leaves := [name for name, others in arrows.items() if not others]:
        for leaf in leaves:
            del arrows[leaf]
        for others in arrows.values():
            others.difference_update(leaves)
    return sorted(arrows)


@pytest.mark.parametrize("name", SOURCES)
def test_each_module_stands_on_a_floor(name):
    assert room_of(name) in FLOORS


@pytest.mark.parametrize("name", SOURCES)
def test_each_module_keeps_to_its_floor_and_leaves_outside_things_to_their_owners(name):
    assert breaches(name, SOURCES[name]) == []


def test_each_floor_has_its_modules():
    assert set(FLOORS) - set(map(room_of, SOURCES)) == set()


def test_no_modules_import_each_other_around_a_circle():
    arrows = {name: imported_modules(name, text) for name, text in SOURCES.items()}
    assert find_circle(arrows) == []


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model.task", "from mpifarm.coordinator.state import Phase"),
        ("model.task", "from mpifarm import runners"),
        ("model.task", "import mpifarm.commands.main"),
        ("tasklists", "from . import containers"),
        ("tasklists", "from .store import FileStore"),
        ("pool", "from ..farm import Farm"),
        ("pool.worker", "from .. import farm"),
        ("farm.agent", "from mpifarm.commands.main import main"),
        ("farm.process", "def f():\n    import mpi4py"),
        ("farm.process", "from mpi4py import MPI"),
        ("store.store", "from filelock import FileLock"),
        ("runners", "import subprocess"),
        ("runners", "import os\nos.posix_spawn('/bin/true', ['true'], {})"),
        ("runners", "from os import fork"),
    ],
)
def test_a_breach_is_found(name, source):
    assert breaches(name, source) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "commands.main",
            "from mpifarm import __version__\nimport mpifarm.farm.process",
        ),
        ("pool", "from mpifarm.pool.worker import x\nfrom . import client"),
        ("pool.worker", "from ..system.processes import start\nimport os\nos.fork()"),
        ("transport.mpi", "from mpi4py import MPI"),
    ],
)
def test_what_is_allowed_is_no_breach(name, source):
    assert breaches(name, source) == []
