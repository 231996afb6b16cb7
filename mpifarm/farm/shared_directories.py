"""What a host shares with rank 0: asked on each rank, before tasks are tried there.

Rules of this file: one look costs a few system calls, for a thousand ranks look at
once; nothing is opened.
"""

import os
from collections.abc import Callable
from shlex import quote

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.settings import FarmDefinition

LOOK_SECONDS = 2.0
"""Seconds that a host gets, or the grace time if longer, to see the files of rank 0:
the caches of a network file system may be behind."""


class SharedDirectories:
    """The answer to whether this host shares all directories with rank 0.

    `find_missing` returns a sentence on a missing directory, or "".  Without
    `find_missing`, all are there.
    """

    def __init__(
        self, find_missing: Callable[[FarmDefinition, str], str] | None = None
    ) -> None:
        self.is_sure = find_missing is None
        """Whether all is there: nobody need look any more."""
        self.fault = ""
        """The sentence on a directory that is missing for good; else empty."""
        self._find_missing = find_missing
        self._until = float("inf")

    def check(self, definition: FarmDefinition, host: str, now: float) -> bool:
        """Look again; set `is_sure`, and return it: whether tasks may begin.

        A directory that is missing for `LOOK_SECONDS`, or the grace time if longer, is
        set as the `fault`.
        """
        missing = self._find_missing(definition, host) if self._find_missing else ""
        self.is_sure = not missing
        self._until = min(self._until, now + max(LOOK_SECONDS, definition.grace))
        if missing and now >= self._until:
            self.fault = missing
        return self.is_sure


def find_missing(definition: FarmDefinition, host: str) -> str:
    """Return a sentence on a directory that `host`, this host, does not share, or "".

    Looked for are the farm's claim, by which a node's own directory of the workdir's
    name is told apart, and `definition.directory`, where the commands run; this process
    has to be in it.  The sentence names the remedy.
    """
    claim = WorkdirPaths(definition.workdir).claim(definition.farm)
    if _is_missing(claim):
        mark = os.path.relpath(claim, definition.workdir)
        return (
            f"the workdir is not shared: {host} does not see {mark} in"
            f" {definition.workdir}, where rank 0 has put it; use a directory that all"
            " nodes share (--workdir)"
        )
    if definition.directory and _is_missing(definition.directory):
        return (
            f"{host} does not have {definition.directory}, where the commands run on"
            " rank 0; use a directory that all nodes share (--chdir)"
        )
    if definition.directory and _is_elsewhere(definition.directory):
        return (
            f"on {host}, commands would run in another directory than on rank 0, where"
            f" they run in {definition.directory}: give --chdir"
            f" {quote(definition.directory)}"
        )
    return ""


def _is_elsewhere(directory: str) -> bool:
    """Return whether this process runs in another directory than `directory`.

    A launcher that could not enter that may have started the rank all the same.
    """
    try:
        return not os.path.samefile(".", directory)
    except OSError:
        return False


def _is_missing(path: str) -> bool:
    """Return whether there is no such path; False if the disk fails."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a disk that fails is told where it fails a task's log
        return False
    return False
