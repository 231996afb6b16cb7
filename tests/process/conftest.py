"""Fixtures of the tests with whole farms.

Rules of this file: a fixture makes a place for a farm; what runs there the test says.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpifarm.pool.definition import CreateRunner
from tests.process.farms import Place, StartProcess
from tests.process.pool_driver import PoolDriver

CreatePlace = Callable[..., Place]


@pytest.fixture
def create_place(
    tmp_path: Path, farm_processes: StartProcess, farm_environment: dict[str, str]
) -> CreatePlace:
    """Write a tasklist: ``create_place(["true", "false"])``, or ``content=b"..."``."""

    def create(*args: object, name: str = "here", **others: object) -> Place:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        return Place(directory, farm_processes, farm_environment, *args, **others)  # type: ignore[arg-type]

    return create


@pytest.fixture
def start_pool(
    tmp_path: Path, farm_environment: dict[str, str], farm_token: str
) -> Iterator[Callable[..., PoolDriver]]:
    """Start a rank's pool: ``start_pool(2, create_runner=None, limits=...)``."""
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
