"""Fixtures of the tests with whole farms.

Rules of this file: a fixture makes a place for a farm; what runs there the test says.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.farms import Place, StartProcess

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
