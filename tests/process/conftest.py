"""Fixtures of the tests with whole farms.

Rules of this file: a fixture makes a place for a farm; what runs there the test says.
"""

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpifarm.pool.definition import CreateRunner
from tests.farm_driver import MPIFARM, Command, FarmDriver
from tests.process.pool_driver import PoolDriver
from tests.process.typed_page import Page
from tests.support import ROOT, Processes

OLD_COMMIT = "164f6ff"
"""mpifarm 0.4.0, which writes another ``attempts.tsv``, and heeds no order."""


@pytest.fixture
def create_place(
    tmp_path: Path, farm_processes: Processes, farm_environment: dict[str, str]
) -> Callable[..., FarmDriver]:
    """Write a tasklist: ``create_place(["true", "false"])``, or ``content=b"..."``."""

    def create(
        commands: Iterable[Command] = (),
        *,
        content: bytes | None = None,
        name: str = "here",
    ) -> FarmDriver:
        place = FarmDriver(tmp_path / name, farm_processes, farm_environment)
        place.write_list(commands)
        if content is not None:
            place.tasklist.write_bytes(content)
        return place

    return create


@pytest.fixture(autouse=True)
def nothing_is_left_on_a_page() -> Iterator[None]:
    """Each example of the pages that a test opens is typed, or left by a word."""
    Page.opened.clear()
    yield
    left = [each.command for page in Page.opened for each in page.left]
    assert left == [], "not typed"


@pytest.fixture
def mpifarm() -> Callable[..., tuple[int, str]]:
    """Run a subcommand beside a place: its exit status, and what it has printed."""

    def run(place: FarmDriver, *words: str) -> tuple[int, str]:
        child = place.start_command([*MPIFARM, *words])
        return child.wait(), child.text()

    return run


@pytest.fixture
def start_pool(
    tmp_path: Path,
    farm_environment: dict[str, str],
    farm_token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., PoolDriver]]:
    """Start a rank's pool: ``start_pool(2, create_runner=None, limits=...)``."""
    # What a KILL has reached dies late on a machine that stalls.
    monkeypatch.setattr("mpifarm.pool.fork_server._DEATH_PATIENCE", 30.0)
    started: list[PoolDriver] = []

    def start(
        workers: int = 2,
        create_runner: CreateRunner | None = None,
        **definition: Any,
    ) -> PoolDriver:
        driver = PoolDriver(
            *(tmp_path, farm_environment, farm_token, workers, create_runner),
            **definition,
        )
        started.append(driver)
        return driver

    yield start
    for driver in started:
        driver.end()


@pytest.fixture
def pool(start_pool: Callable[..., PoolDriver]) -> PoolDriver:
    """A pool of two workers with the default runner."""
    return start_pool()


@pytest.fixture(scope="session")
def old_mpifarm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which ``-m mpifarm`` is a real 0.4.0, out of the history."""
    command = ["git", "-C", str(ROOT), "archive", OLD_COMMIT, "mpifarm"]
    archived = subprocess.run(command, capture_output=True, check=False)
    if archived.returncode:
        pytest.skip("the history of this checkout does not have mpifarm 0.4.0")
    directory = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return {"PYTHONPATH": str(directory)}
