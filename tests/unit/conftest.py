"""What the unit tests share: nothing of one test is left open for the next.

Rules of this file: a farm that a test "kills" leaves its claim open, as a dead process
would not; it is closed here.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def close_claims_of_killed_farms() -> Iterator[None]:
    yield
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if "/claims/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                os.close(int(descriptor))
