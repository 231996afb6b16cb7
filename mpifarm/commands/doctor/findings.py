"""What the doctor says: a line for each thing, with a verdict and a remedy.

Rules of this file: it words and counts, and looks at nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from mpifarm.commands.selftest.findings import CheckResult, SelfTestFinding
from mpifarm.immutable import immutable
from mpifarm.model.wording import counted


class Verdict(StrEnum):
    """What a finding means for a farm."""

    GOOD = "good"
    NOTE = "note"
    """Something that may be meant so, or that can't be told."""
    BAD = "bad"


_WIDTH = max(map(len, Verdict))


@immutable
class Finding:
    """A line: what was looked at, what was seen, and what to do."""

    name: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    """What to do; of a good finding, how to make use of it, or ""."""


def good(name: str, seen: str, remedy: str = "") -> Finding:
    """Return a finding that a farm can live with."""
    return Finding(name, Verdict.GOOD, seen, remedy)


def note(name: str, seen: str, remedy: str) -> Finding:
    """Return a finding of which the user has to say whether it is meant so."""
    return Finding(name, Verdict.NOTE, seen, remedy)


def bad(name: str, seen: str, remedy: str) -> Finding:
    """Return a finding of which a farm would suffer."""
    return Finding(name, Verdict.BAD, seen, remedy)


_VERDICTS = {
    CheckResult.HOLDS: Verdict.GOOD,
    CheckResult.MEASURED: Verdict.GOOD,
    CheckResult.UNTESTED: Verdict.NOTE,
    CheckResult.BROKEN: Verdict.BAD,
}


def of_selftest(finding: SelfTestFinding, name: str = "") -> Finding:
    """Return a finding of the self-test as the doctor's, by another `name` if given."""
    verdict = _VERDICTS[finding.result]
    if verdict is Verdict.GOOD and finding.follows:
        verdict = Verdict.NOTE
    return Finding(name or finding.name, verdict, finding.seen, finding.follows)


def in_words(finding: Finding) -> str:
    """Return the finding as a line, and an indented line for the remedy."""
    line = f"{finding.verdict:{_WIDTH}}  {finding.name}: {finding.seen}\n"
    if finding.remedy:
        line += f"{'':{_WIDTH}}  -> {finding.remedy}\n"
    return line


def find_bad(findings: Sequence[Finding]) -> list[str]:
    """Return the names of the bad findings."""
    return [each.name for each in findings if each.verdict is Verdict.BAD]


def conclude(findings: Sequence[Finding]) -> str:
    """Return the last line."""
    if names := find_bad(findings):
        return f"{counted(len(names), 'thing')} to mend: {', '.join(names)}."
    return (
        "Nothing is wrong here.  What one process can't see, this tests, in a job of"
        " two nodes: srun -N 2 python -m mpifarm selftest --mpi"
    )


def encode(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what JSON has."""
    return {
        "findings": [asdict(each) for each in findings],
        "bad": find_bad(findings),
    }
