"""What must not be missing on this machine: a skip on a laptop, a failure in CI."""

import os
import shutil
from typing import NoReturn

import pytest

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
