"""A disk that fails where a test says: a directory seen through FUSE.

    with FaultyDisk(tmp_path) as disk:
        disk.inject(Fault("rename", r"/toprocess$", "done:EIO"))
        ...  # work in disk.root
        assert disk.struck()

Rules of this file: what is below `root` is kept in `backing`, where a test can look at
it and change it without any fault.  Calls are those of the FUSE protocol, and not of
the C library: each name on the way to a file is a ``getattr``, `unlink` of an open file
is one as well, a ``close`` is a ``flush``.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.required import skip_where_allowed
from tests.support import ROOT, wait_until

DEVICE = Path("/dev/fuse")


@dataclass(frozen=True)
class Fault:
    """What happens to which calls."""

    calls: str
    """A pattern for the whole name of the call: ``write|fsync``."""
    paths: str
    """A pattern that is searched for in the path below `root`, which begins with /."""
    deed: str = "EIO"
    """``EIO`` or another error: the call fails and does nothing.  ``done:EIO``: it does
    all, and says that it failed.  ``short``: a write writes its first half."""
    first: int = 1
    """The first of the calls that fit which fails."""
    count: int = 1
    """How many do from there on; 0 for all."""


class Call(NamedTuple):
    """A call that came to the disk."""

    name: str
    path: str


class FaultyDisk:
    """The mount; a context manager."""

    def __init__(self, directory: Path) -> None:
        self.backing = directory / "backing"
        self.root = directory / "disk"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.backing.mkdir(parents=True)
        self.root.mkdir()
        argv = [sys.executable, "-m", "tests.fault.faulty_fs"]
        self._process = subprocess.Popen(
            [*argv, str(self.backing), str(self.root)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        wait_until(lambda: os.path.ismount(self.root) or self._process_ended())
        assert os.path.ismount(self.root)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:  # Something has still a file open there.
            self._process.kill()
            self._process.communicate()

    def _process_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def inject(self, *faults: Fault) -> None:
        """Let these take the place of all faults; calls are counted from here."""
        self._ask({"rules": [asdict(fault) for fault in faults]})

    def heal(self) -> None:
        """Let nothing fail any more."""
        self.inject()

    def calls(self) -> list[Call]:
        """The calls since the last `inject`."""
        return [Call(*call) for call in self._ask({})["calls"]]

    def struck(self) -> list[list[str]]:
        """Those of them that failed: the call, its path, and how."""
        return list(self._ask({})["struck"])

    def clear(self) -> None:
        """Remove all files, with no fault in force."""
        self.heal()
        wait_until(self._is_cleared)

    def _is_cleared(self) -> bool:
        """Remove what is there; whether that was all."""
        # libfuse removes the files that it hides by itself, maybe in this moment
        with suppress(FileNotFoundError):
            for path in self.backing.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return not any(self.backing.iterdir())

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"the file system has ended with {process.poll()}"
        return dict(json.loads(answer))


def find_lack() -> str:
    """What such a disk needs and this machine has not; empty if all is there."""
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed (pip install '.[dev]')"
    if not list(Path("/usr/lib").glob("*/libfuse3.so.3")):
        return "libfuse3 is not installed (Debian's package fuse3)"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is not there, or not for this user"
    if os.geteuid() != 0:
        return "only root may mount and unmount it"
    return ""


def skip_without_fuse() -> None:
    """Skip the test where there is no FUSE; fail it where FUSE is required."""
    if lack := find_lack():
        skip_where_allowed("fuse", lack)
