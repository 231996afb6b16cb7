"""Installs mpifarm in a bare Debian, in each way, from a local index.

    python -m tests.install.prove [--keep DIRECTORY] [WAY ...]

Rules of this file: run as root on Debian, with debootstrap and bubblewrap; the bare
root has no network.  It takes minutes and some GB, and is no part of CI.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support import ROOT

WAYS: Final = ("wheel", "mpich", "sdist", "pipx", "uv", "module", "conda")

_PACKAGES: Final = (
    *("python3", "python3-venv", "man-db", "groff-base"),
    *("bash-completion", "fish", "lmod", "zsh"),
)
"""What a machine of a user has, who may want mpifarm."""

_NEEDED: Final = ("mpifarm[mpich]", "hatchling", "pip", "pipx", "setuptools", "uv")
"""What pip is asked for in the bare root, with what these need."""


def main(argv: Sequence[str] | None = None) -> int:
    """Try the ways; return how many of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="*", choices=[*WAYS, []], metavar="WAY")
    parser.add_argument("--keep", type=Path, help="where the bare root stays, for more")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="mpifarm-install-") as scratch:
        place = chosen.keep or Path(scratch)
        place.mkdir(exist_ok=True)
        index = _make_index(place / "index")
        root = _make_root(place / "root")
        failed = [way for way in chosen.ways or WAYS if not _try(way, root, index)]
    print(f"failed: {', '.join(failed) or 'none'}")
    return len(failed)


def _run(*argv: str | Path, cwd: Path = ROOT) -> None:
    subprocess.run([*map(str, argv)], cwd=cwd, check=True)


def _make_index(index: Path) -> Path:
    """Build mpifarm, look at its metadata, and fetch what it needs."""
    shutil.rmtree(index, ignore_errors=True)
    tools = index.parent / "tools"
    _run(sys.executable, "-m", "venv", tools)
    _run(tools / "bin" / "pip", "install", "--quiet", "build", "twine")
    _run(tools / "bin" / "python", "-m", "build", "--outdir", index, ROOT)
    _run(tools / "bin" / "twine", "check", "--strict", *index.iterdir())
    # Debian's pip is what will look into the index: so is this one, or newer.
    download = (sys.executable, "-m", "pip", "download", "--quiet", "--dest", index)
    _run(*download, "--find-links", index, *_NEEDED)
    return index


def _make_root(root: Path) -> Path:
    """Make a Debian of the release that runs here."""
    if (root / "usr" / "bin" / "fish").exists():
        return root
    (line,) = (
        line
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    packages = f"--include={','.join(_PACKAGES)}"
    _run("debootstrap", "--variant=minbase", packages, line.partition("=")[2], root)
    return root


def _try(way: str, root: Path, index: Path) -> bool:
    """Install in one way, in a copy of the root that is gone afterwards."""
    if way == "conda":
        return _try_conda(index.parent)
    script = Path(__file__).with_name("in_bare_root.sh")
    bare = index.parent / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    _run("cp", "-a", "--reflink=auto", root, bare)
    for name in ("index", "packaging"):
        (bare / name).mkdir()
    ended = subprocess.run(
        [
            *("bwrap", "--unshare-all", "--die-with-parent", "--bind", str(bare), "/"),
            *("--ro-bind", str(index), "/index", "--proc", "/proc", "--dev", "/dev"),
            *("--ro-bind", str(ROOT / "docs" / "packaging"), "/packaging"),
            *("--ro-bind", str(script), "/try.sh", "--tmpfs", "/tmp", "--clearenv"),
            *("/bin/bash", "/try.sh", way),
        ],
        check=False,
    )
    shutil.rmtree(bare, ignore_errors=True)
    return ended.returncode == 0


def _try_conda(place: Path) -> bool:
    """Build the recipe and run its tests, with stand-ins for the packages of a channel.

    No index has those packages: Python's is an environment that has all of them.
    """
    tools, python = place / "conda", place / "python"
    for environment in (tools, python):
        _run(sys.executable, "-m", "venv", environment)
    _run(tools / "bin" / "pip", "install", "--quiet", "py-rattler-build")
    found = ("--quiet", "--no-index", "--find-links", place / "index")
    needed = ("hatchling", "mpi4py", "filelock")
    _run(python / "bin" / "pip", "install", *found, *needed)
    script = Path(__file__).with_name("build_conda.py")
    recipe = ROOT / "docs" / "packaging" / "conda" / "recipe.yaml"
    argv = [tools / "bin" / "python", script, recipe, python, place / "channel"]
    return subprocess.run([*map(str, argv)], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
