"""The environment that the page on large jobs sends to the nodes, on a real Slurm.

Rules of this file: the environment has what farms need as links, and is small; /tmp of
a node is a directory of the test.
"""

import subprocess
import sys
from pathlib import Path

import mpi4py

from tests.pages import take_block
from tests.slurm.conftest import create_slurm
from tests.support import ROOT


def make_environment(place: Path) -> None:
    """Make a virtual environment with mpifarm, what it needs, and MPICH."""
    venv = [sys.executable, "-m", "venv", "--without-pip", str(place)]
    subprocess.run(venv, check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    here = Path(mpi4py.__file__).parents[1]
    for package in (ROOT / "mpifarm", here / "mpi4py", here / "filelock"):
        (packages / package.name).symlink_to(package)
    for library in Path(sys.prefix, "lib").glob("*mpi*"):
        (place / "lib" / library.name).symlink_to(library)


def test_an_environment_that_slurm_has_sent_to_a_node_farms_there(
    slurm_conf, farm_environment, farm
):
    environment = {n: v for n, v in farm_environment.items() if n != "PYTHONPATH"}
    slurm = create_slurm(slurm_conf, environment, farm.directory)
    place, node = farm.directory, farm.directory / "tmp"
    node.mkdir()
    make_environment(place / "env")
    farm.write_list(["true"])
    typed, *script = take_block("large-jobs.md", "  tar -czf").lines
    subprocess.run(typed, shell=True, cwd=place, check=True)
    (place / "env").rename(place / "env of before")
    text = "\n".join(script).replace("/tmp", f"'{node}'")
    (place / "job.slurm").write_text(f"#!/bin/bash\n{text}\n")
    job = slurm.submit("-N", "1", "--exclusive", "job.slurm")
    job.assert_ends(0)
    farm.assert_all_finished()
