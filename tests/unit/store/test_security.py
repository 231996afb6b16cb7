"""What the package never does: execute what it reads, or make files open to all.

Rules of this file: the sources are read, nothing is run but what makes files.
"""

import ast
import os
import stat
from pathlib import Path

import pytest

import mpifarm
from mpifarm.output.task_log import TaskLog
from mpifarm.system import files
from mpifarm.system.lock import WorkdirLock

PACKAGE = Path(mpifarm.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

LOADERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
"""Modules that make more than plain values of what they read."""

MAY_LOAD = {
    ("pool/framing.py", "marshal"),
    ("transport/mpi.py", "marshal"),
    ("transport/mpi.py", "pickle"),
}
"""Between a process and its own children, over a pair of sockets that nobody else has;
and between the ranks of one job, over MPI, which nobody else has part in."""

EXECUTORS = {"eval", "exec", "compile", "__import__"}

MAY_EXECUTE: set[tuple[str, str]] = set()


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def breaches(name: str, source: str) -> list[str]:
    """Where `source` loads objects or executes text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                loaded = {alias.name.split(".")[0] for alias in names}
            case ast.ImportFrom(module=module):
                loaded = {(module or "").split(".")[0]}
            case _:
                loaded = set()
        found += [
            f"imports {each}"
            for each in loaded & LOADERS
            if (name, each) not in MAY_LOAD
        ]
        match node:
            case ast.Call(func=ast.Name(id=called)) if called in EXECUTORS:
                if (name, called) not in MAY_EXECUTE:
                    found.append(f"calls {called}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_module_executes_or_unpickles_what_it_reads(path):
    assert breaches(name_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "import yaml.loader",
        "eval(text)",
        "exec(open(name).read())",
    ],
)
def test_a_breach_is_found(source):
    assert breaches("workdir/status.py", source) != []


@pytest.mark.parametrize(("name", "loader"), sorted(MAY_LOAD))
def test_each_exception_is_in_use(name, loader):
    assert f"import {loader}" in (PACKAGE / name).read_text()


# ---- the modes of files -------------------------------------------------------------


def make_by_append(path):
    files.append(path, b"x\n", sync=False)


def make_by_replacing(path):
    files.replace(path, path + ".beside", b"x\n")


def make_exclusively(path):
    os.close(files.create_exclusively(path))


def make_log(path):
    TaskLog(path, 1).end()


def make_lock(path):
    WorkdirLock((path,)).probe()


MAKERS = [make_by_append, make_by_replacing, make_exclusively, make_log, make_lock]


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def set_umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002, 0o027])
def test_a_file_is_made_with_the_users_umask(tmp_path, set_umask, make, umask):
    path = str(tmp_path / "made")
    set_umask(umask)
    make(path)
    assert mode_of(path) == 0o666 & ~umask


def test_a_lock_is_never_for_everyone_to_write(tmp_path, set_umask):
    set_umask(0)
    make_lock(str(tmp_path / "lock"))
    assert mode_of(tmp_path / "lock") == 0o664


def test_what_replaces_a_file_is_no_more_open_than_that_was(tmp_path, set_umask):
    path = tmp_path / "toprocess"
    path.write_text("0 true\n")
    path.chmod(0o600)
    files.write_staging_file(str(path) + ".beside", (b"x\n",), like=str(path))
    assert mode_of(str(path) + ".beside") == 0o600
