"""What the attempts of one cause have met: how many each task had, and which memory.

Rules of this file: pure.  The limit and the memory of all processes of a task stand in
the line that its worker has written into the log (`mpifarm.pool.out_of_memory`).
"""

import re
from dataclasses import dataclass, field

from mpifarm.causes.failure import Failure
from mpifarm.model.wording import size_in_words

_LIMIT = re.compile(rb"memory ran out: .*\blimit is ([0-9]+ [A-Za-z]+)")
_TOGETHER = re.compile(rb"processes had ([0-9.]+) (MB|GB) together")
_UNITS = {b"MB": 2**20, b"GB": 2**30}


@dataclass(slots=True)
class Extent:
    """The numbers of attempts that tasks had in their farm, and memory in bytes."""

    fewest: int = 0
    """0: nothing is known."""
    most: int = 0
    limits: set[str] = field(default_factory=set)
    """The limits of memory that were met, in words."""
    largest: int = 0
    """The memory of the largest that ran out of memory; 0 if nobody has seen it."""

    def add(self, failure: Failure) -> None:
        """Count a failure in."""
        extent = Extent(failure.attempt, failure.attempt)
        if failure.outcome == "out of memory":
            line = failure.tail.rstrip(b"\n").rpartition(b"\n")[2]
            if found := _LIMIT.search(line):
                extent.limits.add(found[1].decode())
            extent.largest = max(failure.peak_memory or 0, _find_together(line))
        self.unite(extent)

    def unite(self, other: "Extent") -> None:
        """Count in what another extent has."""
        known = [each.fewest for each in (self, other) if each.fewest]
        self.fewest, self.most = min(known, default=0), max(self.most, other.most)
        self.limits |= other.limits
        self.largest = max(self.largest, other.largest)

    def describe_attempts(self, tasks: int) -> str:
        """Return that attempts of so many `tasks` were the last of several, else ""."""
        if self.most < 2:
            return ""
        count = f"{self.most}" if self.fewest == self.most else f"up to {self.most}"
        return f"{'each ' if tasks > 1 else ''}the last of {count} attempts"

    def describe_memory(self) -> str:
        """Return the limit that was met, and the largest memory seen; "" for none."""
        parts = []
        if len(self.limits) == 1:
            parts.append(f"limit {next(iter(self.limits))}")
        if self.largest:
            parts.append(f"largest seen {size_in_words(self.largest)}")
        return ", ".join(parts)


def _find_together(line: bytes) -> int:
    found = _TOGETHER.search(line)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0
