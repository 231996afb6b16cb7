"""What the unit tests share: nothing of one test is left open for the next.

Rules of this file: a farm that a test "kills" leaves its claim open, as a dead process
would not; it is closed here, and so is what killed workers and readers leave.  A test
that stops the collection of garbage has failed: what later ones kill would stay open.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def close_claims_of_killed_farms() -> Iterator[None]:
    yield
    _close(lambda path: "/claims/" in path)


@pytest.fixture(autouse=True)
def garbage_is_collected() -> Iterator[None]:
    yield
    was_collected = gc.isenabled()
    gc.enable()
    assert was_collected, "the test has stopped the collection of garbage"


@pytest.fixture
def nothing_stays_open(tmp_path: Path) -> Iterator[None]:
    """Killed workers close nothing, and this process lives on.

    A `KeptFile` closes its descriptor itself, and would close another's here.
    """
    yield
    kept = ("finished", "failed")  # also where a repair has put them aside
    here = str(tmp_path)
    _close(lambda path: path.startswith(here) and not Path(path).name.startswith(kept))


def _close(is_meant: Callable[[str], bool]) -> None:
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if is_meant(os.readlink(f"/proc/self/fd/{descriptor}")):
                os.close(int(descriptor))
