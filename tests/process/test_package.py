"""The wheel: what is in it, and that it runs from an empty environment.

Rules of this file: the package is built and installed once; nothing of the checkout is
on the path of what runs then.
"""

import email
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from mpifarm import __version__
from mpifarm.commands import SUBCOMMANDS
from tests.pages import take_block
from tests.support import ROOT, clean_environment

# builds, and installs from a package index
pytestmark = pytest.mark.timeout(300)


class Installed(NamedTuple):
    """The wheel, the environment into which it was installed, and a place to be."""

    wheel: Path
    programs: Path
    directory: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, from a directory that is not ours."""
        return _run([str(self.programs / words[0]), *words[1:]], self.directory)


def _run(argv: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = clean_environment(os.environ)
    ended = subprocess.run(
        argv, env=env, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


def _build_wheel(into: Path) -> Path:
    # The backend of this environment, if it has one; else pip fetches it.
    has_backend = importlib.util.find_spec("hatchling") is not None
    options = ["--no-build-isolation"] if has_backend else []
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    _run([*pip, *options, "--wheel-dir", str(into), str(ROOT)], into)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("package")
    dist, venv, elsewhere = (directory / n for n in ("dist", "venv", "else where"))
    dist.mkdir()
    elsewhere.mkdir()
    wheel = _build_wheel(dist)
    _run([sys.executable, "-m", "venv", "--without-pip", str(venv)], directory)
    _run([*_pip_of(venv), "install", "--quiet", str(wheel)], directory)
    return Installed(wheel, venv / "bin", elsewhere)


def _pip_of(venv: Path) -> list[str]:
    """This environment's pip at work on another one, which then needs none."""
    return [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]


def _metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_package_and_its_metadata_only(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {
        "mpifarm",
        f"mpifarm-{__version__}.data",
        f"mpifarm-{__version__}.dist-info",
    }
    pages = {name for name in names if name.startswith("mpifarm/docs/")}
    assert {"mpifarm/docs/README.md", "mpifarm/docs/order.md"} < pages
    held = {name for name in names if name.startswith("mpifarm/")} - pages
    modules = (ROOT / "mpifarm").rglob("*.py")
    expected = {str(module.relative_to(ROOT)) for module in modules}
    # by which type checkers know that the package has types
    assert held == expected | {"mpifarm/py.typed"}


def test_the_wheel_carries_its_license(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        assert [n for n in archive.namelist() if n.endswith("/licenses/LICENSE")]
    assert _metadata(installed.wheel)["License-Expression"] == "Apache-2.0"


def test_what_it_needs_to_run_is_mpi4py_and_filelock(installed):
    required = _metadata(installed.wheel).get_all("Requires-Dist")
    plain = [line for line in required if "extra ==" not in line]
    assert [line.split(">=")[0] for line in sorted(plain)] == ["filelock", "mpi4py"]
    _run([*_pip_of(installed.programs.parent), "check"], installed.directory)


def test_it_runs_without_the_checkout(installed):
    found = installed.run("python", "-c", "import mpifarm; print(mpifarm.__file__)")
    assert Path(found.stdout.strip()).is_relative_to(installed.programs.parent)


def test_it_prints_its_pages(installed):
    for page in ("README.md", "docs/order.md"):
        told = installed.run("mpifarm", "help", page)
        assert told.stdout == (ROOT / page).read_text(encoding="utf-8")


COMMANDS = [("mpifarm",), ("python", "-m", "mpifarm")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_it_tells_its_version(installed, command):
    assert installed.run(*command, "--version").stdout == f"mpifarm {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_it_farms_a_list_from_any_directory(installed, command):
    # no MPI library is installed: a farmer on this machine alone
    tasklist = installed.directory / f"{command[0]}.txt"
    tasklist.write_text("true\necho 'a b' | tr a c\n\n# no task\ntest -e .\n")
    ended = installed.run(*command, "-n", "2", str(tasklist))
    assert "3 finished, 0 failed" in ended.stdout
    assert ended.stderr == ""
    workdir = installed.directory / f"{command[0]}.txt_workdir"
    assert (workdir / "logs" / "log_1").read_text() == "c b\n"


def test_manual_pages_and_completion_are_where_programs_look_for_them(installed):
    share = installed.programs.parent / "share"
    held = {str(path.relative_to(share)) for path in share.rglob("*") if path.is_file()}
    assert held == {
        "bash-completion/completions/mpifarm",
        "fish/vendor_completions.d/mpifarm.fish",
        "zsh/site-functions/_mpifarm",
        "man/man1/mpifarm.1",
        *(f"man/man1/mpifarm-{name}.1" for name in SUBCOMMANDS),
    }
    completion = installed.run("mpifarm", "completion", "fish").stdout
    assert (share / "fish/vendor_completions.d/mpifarm.fish").read_text() == completion


def test_it_brings_the_job_scripts(installed):
    installed.run("mpifarm", "jobs", "chain.slurm")
    copied = installed.directory / "chain.slurm"
    assert copied.read_text() == (ROOT / "jobs" / "chain.slurm").read_text()


def test_an_environment_without_compiled_modules_gets_them_as_the_page_says(tmp_path):
    packages = tmp_path / "env" / "lib" / "python3" / "site-packages"
    ignored = shutil.ignore_patterns("__pycache__", "docs")
    shutil.copytree(ROOT / "mpifarm", packages / "mpifarm", ignore=ignored)
    (line,) = take_block("large-jobs.md", "python -m compileall").lines
    _run([sys.executable, *line.split()[1:]], tmp_path)
    modules = len([*packages.rglob("*.py")])
    assert len([*packages.rglob("__pycache__/*.pyc")]) == modules > 100


def test_a_prefix_of_its_own_is_made_as_the_page_for_site_staff_says(
    installed, tmp_path
):
    """Its pip gets the words of the page, and installs the wheel that was built."""
    create, install, link = take_block("site-staff.md", "python3.11 -m venv").lines
    (tmp_path / "bin").mkdir()
    pip = shlex.join([*_pip_of(tmp_path / "mpifarm" / __version__)])
    programs = {
        "python3.11": f'exec {sys.executable} "$@" --without-pip',
        "pip": f'echo "$MPICC $*" >asked; exec {pip} install --quiet {installed.wheel}',
    }
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    prefix = tmp_path / "mpifarm" / __version__
    lines = [
        'set -e; module() { [[ "$*" == "load openmpi" ]]; }',
        f"export PATH={tmp_path}/bin:/usr/bin:/bin",
        *(create, f"ln -s {tmp_path}/bin/pip {prefix}/bin/pip", install, link),
    ]
    typed = "\n".join(lines).replace("/opt/", f"{tmp_path}/")
    _run(["/bin/bash", "-c", typed], tmp_path)
    assert (tmp_path / "asked").read_text() == "mpicc install --no-binary mpi4py .\n"
    told = _run([str(prefix / "module" / "bin" / "mpifarm"), "--version"], tmp_path)
    assert __version__ in told.stdout
