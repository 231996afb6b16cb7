"""What was measured, as a file: rates by round, and single figures.

Rules of this file: standard library only; nothing is measured here.  A file is added
to, so that a long measurement can be made in parts; each part's date and command line
stand in it.  What is derived (medians, ratios) is not stored.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from statistics import median

VERSION = 1


@dataclass(frozen=True)
class Run:
    """One whole program, start and end included."""

    tasks: int
    seconds: float
    cpu_seconds: float
    """User and system, of all processes that somebody has waited for."""

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return self.tasks / self.seconds


@dataclass
class Results:
    """`rounds` holds, by section, the runs of each round by the contender's name."""

    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    amounts: dict[str, object] = field(default_factory=dict)
    """How many tasks of what; all parts must have the same."""
    parts: list[dict[str, str]] = field(default_factory=list)
    """Date and command line of each measurement that went in here."""
    commands: dict[str, str] = field(default_factory=dict)
    """By the contender's name: its command line, for readers."""
    rounds: dict[str, list[dict[str, Run]]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """By name: why there is no figure."""

    def add_round(self, section: str, runs: dict[str, Run]) -> None:
        self.rounds.setdefault(section, []).append(runs)

    def add_figures(self, name: str, values: Iterable[float]) -> None:
        self.figures.setdefault(name, []).extend(values)

    def runs_of(self, section: str, name: str) -> list[Run]:
        """One for each round in which it did what it should."""
        return [runs[name] for runs in self.rounds.get(section, []) if name in runs]

    def rate(self, section: str, name: str) -> float:
        """The median of its rounds; nan where there is none."""
        return median_of(run.rate for run in self.runs_of(section, name))

    def cpu_microseconds(self, section: str, name: str) -> float:
        """CPU time for each task, the median of its rounds."""
        runs = self.runs_of(section, name)
        return median_of(run.cpu_seconds / run.tasks * 1e6 for run in runs)

    def ratio(self, section: str, mine: str, other: str) -> float:
        """The median of the rounds' ratios of rates; nan where no round has both."""
        return median_of(
            runs[mine].rate / runs[other].rate
            for runs in self.rounds.get(section, [])
            if mine in runs and other in runs
        )

    def figure(self, name: str) -> float:
        """The median; nan where there is none."""
        return median_of(self.figures.get(name, []))


def median_of(values: Iterable[float]) -> float:
    """The median; nan of nothing."""
    known = list(values)
    return median(known) if known else nan


def load(path: Path) -> Results:
    """What the file holds; nothing where there is none yet."""
    if not path.exists():
        return Results()
    stored = json.loads(path.read_text())
    if stored.pop("version") != VERSION:
        raise SystemExit(f"{path} is of another version: give another --out")
    rounds = {
        section: [{name: Run(**run) for name, run in runs.items()} for runs in each]
        for section, each in stored.pop("rounds").items()
    }
    return Results(rounds=rounds, **stored)


def save(results: Results, path: Path) -> None:
    """Replace the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps({"version": VERSION, **asdict(results)}, indent=1))
    os.replace(beside, path)
