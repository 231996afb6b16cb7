"""``farms/<farm>.json``: what a farm says of itself, for those who look.

Rules of this file: no farm depends on it, so a disk that fails is never told.  It is
replaced whole, without the lock and without a sync, and stays when the farm has ended
or died.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

from mpifarm.errors import StorageError
from mpifarm.model.paths import WorkdirPaths, is_farm_id, staging_of
from mpifarm.system import files

FORMAT = 1
FIRST_SECONDS = 0.2
"""Seconds from the farm's start to the first state on disk.

Of a farm that is killed before that, ``mpifarm status`` does not know the command; and
the first commands are not to wait for it.
"""
MIN_SECONDS = 5.0
"""Seconds between two states of a small farm."""
EARLY_SECONDS = 1.0
"""The same at its beginning, which users look at."""
BEGINNING = 10.0
"""Seconds that the beginning takes."""
MAX_SHARE = 0.005
"""Share of rank 0's time that it may take."""


class FarmFile:
    """The file of one farm, and when it is due."""

    def __init__(self, paths: WorkdirPaths, farm: str, now: float) -> None:
        self.due_at = now + FIRST_SECONDS
        """When to write the next state (monotonic)."""
        self._directory = paths.farms
        self._path = paths.farm(farm)
        self._staging = staging_of(self._path, farm)
        self._begun = now
        self._is_there = False

    def write(self, state: Mapping[str, Any], cost: float, now: float) -> None:
        """Replace the file; set when the next state is due.

        `cost`: seconds that it took to put the state together.
        """
        begun = time.perf_counter()
        content = json.dumps({"format": FORMAT, **state}).encode("ascii") + b"\n"
        with suppress(OSError):
            if not self._is_there:
                files.make_directory(self._directory)
                self._is_there = True
            files.replace_unsynced(self._path, self._staging, content)
        cost += time.perf_counter() - begun
        is_early = now - self._begun < BEGINNING
        least = EARLY_SECONDS if is_early else MIN_SECONDS
        self.due_at = now + max(least, cost / MAX_SHARE)


def read_farm_files(paths: WorkdirPaths) -> Iterator[dict[str, Any]]:
    """Yield the states of all farms that have left one, first the last that wrote.

    What can't be read, or is of no format that is known, is passed over.
    """
    for _, state in _read_with_paths(paths):
        yield state


def find_last_farm_file(paths: WorkdirPaths, most: int | None = None) -> dict[str, Any]:
    """Return the state of the farm that wrote last, {} if none has left one.

    Of more than `most` files in the directory, only so many are looked at.
    """
    return find_last_with_path(paths, most)[1]


def find_last_with_path(
    paths: WorkdirPaths, most: int | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the file and the state of the farm that wrote last, or "" and {}.

    As `find_last_farm_file`.  The state itself may lie about its file.
    """
    return next(_read_with_paths(paths, most), ("", {}))


def _read_with_paths(
    paths: WorkdirPaths, most: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    for farm in list_farm_files(paths, most):
        state = read_farm_file(paths, farm)
        if state is not None:
            yield paths.farm(farm), state


def list_farm_files(paths: WorkdirPaths, most: int | None = None) -> list[str]:
    """Return the farms that have left a state, first the one that wrote last.

    Of more than `most` files in the directory, only so many are asked for their times.
    """
    found = []
    with suppress(OSError), os.scandir(paths.farms) as entries:
        for entry in islice(entries, most):
            farm, dot, rest = entry.name.partition(".")
            if dot and rest == "json" and is_farm_id(farm):
                with suppress(OSError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, farm))
    return [farm for _, farm in sorted(found, reverse=True)]


def read_farm_file(paths: WorkdirPaths, farm: str) -> dict[str, Any] | None:
    """Return the state of a farm, None if it can't be read or is of another format."""
    try:
        state = json.loads(files.find_content(paths.farm(farm)) or b"")
    except (OSError, ValueError, RecursionError, StorageError):
        return None
    if isinstance(state, dict) and state.get("format") == FORMAT:
        return state
    return None
