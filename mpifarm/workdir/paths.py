"""Where everything in a workdir is.

Rules of this file: every path is a property of `WorkdirPaths`; nothing is opened.
``toprocess``, ``finished``, ``failed``, ``timeline.json``, ``logs/`` and ``lock`` are
shared with plain farmers; all others are mpifarm's own, which those never look at.
"""

import re
from dataclasses import dataclass

_BESIDE = re.compile(r"toprocess\.([A-Za-z0-9_-]+)\.([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class WorkdirPaths:
    """The paths in the workdir `root`."""

    root: str

    @property
    def toprocess(self) -> str:
        """What is still to be processed; absent means everything."""
        return f"{self.root}/toprocess"

    @property
    def added(self) -> str:
        """What is to be processed of the tasks that were added to a list in use."""
        return f"{self.root}/added"

    @property
    def finished(self) -> str:
        """What ended with status 0."""
        return f"{self.root}/finished"

    @property
    def failed(self) -> str:
        """What ended otherwise."""
        return f"{self.root}/failed"

    @property
    def timeline(self) -> str:
        """The events of all farmers."""
        return f"{self.root}/timeline.json"

    @property
    def logs(self) -> str:
        """The directory of the logs."""
        return f"{self.root}/logs"

    @property
    def claims(self) -> str:
        """The directory of the claims."""
        return f"{self.root}/claims"

    @property
    def attempts(self) -> str:
        """One line for each attempt, with its exit status."""
        return f"{self.root}/attempts.tsv"

    @property
    def fingerprint(self) -> str:
        """What the tasklist was when the workdir was begun."""
        return f"{self.root}/fingerprint.json"

    @property
    def remap(self) -> str:
        """There while the workdir is being brought in line with an edited list."""
        return f"{self.root}/remap.begun"

    @property
    def result(self) -> str:
        """How the last farm ended, for scripts."""
        return f"{self.root}/result.json"

    @property
    def drain(self) -> str:
        """Made by the user, to drain the farms."""
        return f"{self.root}/drain"

    def log(self, taskid: int) -> str:
        """Output of one task."""
        return f"{self.logs}/log_{taskid}"

    def claim(self, farm: str) -> str:
        """The claim of one farm."""
        return f"{self.claims}/{farm}"

    def timeline_of(self, farm: str) -> str:
        """The events of a farm that shares the workdir with others."""
        return f"{self.root}/timeline.{farm}.json"

    def timeline_aside(self, farm: str) -> str:
        """Where this farm moves a ``timeline.json`` that is not valid."""
        return f"{self.root}/timeline.invalid.{farm}.json"

    def toprocess_beside(self, farm: str, step: int) -> str:
        """The new ``toprocess`` of one step of a farm, before its rename."""
        return f"{self.toprocess}.{farm}.{step}"


def parse_beside(name: str) -> tuple[str, int] | None:
    """Farm and step of a file name made by `WorkdirPaths.toprocess_beside`."""
    match = _BESIDE.fullmatch(name)
    return (match[1], int(match[2])) if match else None
