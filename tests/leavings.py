"""What killed ranks and launchers leave: their MPI cleans up only where it ends.

Rules of this file: nothing is removed that another user owns, that was there before,
that a living process uses, or that was made a moment ago, maybe for one that will.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.support import is_running

_SEGMENTS = (
    "dev/shm/mpich_shm_*",
    "dev/shm/sm_segment.*",
    "dev/shm/ucx_shm_posix_*",
    "dev/shm/vader_segment.*",
)
_OF_LAUNCHERS = (
    "tmp/hydra_hwloc_xmlfile_*",
    "tmp/ompi.*.*/pid.*",  # ompi.HOST.UID/pid.PID: Open MPI 4
    "tmp/ompi.*",  # ompi.PID: Open MPI 5
)
_MOMENT = 5.0
"""Seconds."""


def leavings() -> set[Path]:
    """All there is now, of this user."""
    patterns = (*_SEGMENTS, *_OF_LAUNCHERS)
    found = {path for pattern in patterns for path in Path("/").glob(pattern)}
    return {path for path in found if _is_ours(path)}


def remove(paths: set[Path]) -> None:
    """Remove those of them that nobody uses."""
    used = set(_used_files())
    for path in sorted(paths, reverse=True):  # what is in a folder before the folder
        if str(path) in used or _is_new(path):
            continue
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif not _has_a_living_launcher(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _is_new(path: Path) -> bool:
    try:
        return path.stat().st_ctime > time.time() - _MOMENT
    except OSError:
        return False


def _has_a_living_launcher(directory: Path) -> bool:
    """Its name ends with the launcher's pid, or it holds folders of living ones."""
    pid = directory.name.rpartition(".")[2]
    return any(directory.glob("pid.*")) or (pid.isdigit() and is_running(int(pid)))


def _used_files() -> Iterator[str]:
    """What living processes have mapped or open."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for line in (process / "maps").read_text(errors="replace").splitlines():
                yield "/" + line.partition("/")[2]
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    yield os.readlink(descriptor)
