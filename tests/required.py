"""What must not be missing on this machine: a skip on a laptop, a failure in CI."""

import os
import shutil
import sys
from typing import NoReturn

import pytest

from tests.support import Launcher, find_launcher

REQUIRED_VARIABLE = "MPIFARM_TEST_REQUIRED"
"""The words of what CI has, with blanks between: ``slurm fuse``."""


def skip_where_allowed(word: str, lack: str) -> NoReturn:
    """Skip the test for this `lack`; fail it where CI says that it has `word`."""
    if word in os.environ.get(REQUIRED_VARIABLE, "").split():
        pytest.fail(f"{lack}; but {REQUIRED_VARIABLE} has {word}", pytrace=False)
    pytest.skip(lack)


def find_tool(name: str) -> str:
    """Return the path of a program that a test judges by: CI has ``tools``."""
    path = shutil.which(name)
    if path is None:
        skip_where_allowed("tools", f"{name} is not installed")
    return path


def need_launcher() -> Launcher:
    """Return the launcher of the running environment; skip the test without an MPI."""
    launcher = find_launcher()
    if launcher is None:
        pytest.skip(f"no MPI wheel in {sys.prefix}")
    return launcher
