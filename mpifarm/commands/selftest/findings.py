"""What a check has found: a line of the table, and the conclusion of all of them.

Rules of this file: it words and counts; it tests nothing and prints nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mpifarm.errors import FarmError
from mpifarm.model.wording import counted


class CheckResult(Enum):
    """How a check went, in the order in which it should worry the user."""

    MEASURED = "measured"
    HOLDS = "holds"
    UNTESTED = "could not be tested"
    BROKEN = "does not hold"


_WORRY = list(CheckResult)
_WIDTH = max(len(result.value) for result in CheckResult)


@dataclass(frozen=True, slots=True)
class SelfTestFinding:
    """One line of the table.  `run_check` gives it its name."""

    result: CheckResult
    seen: str
    follows: str = ""
    """The consequence for a farm and the remedy; "" if there is none."""
    weight: float = 0.0
    """Of the same finding on several ranks the heaviest is shown."""
    is_promised: bool = True
    """False for what mpifarm does not need, and commands may rely on."""
    name: str = ""

    def named(self, name: str) -> "SelfTestFinding":
        """Return the finding with its name."""
        return replace(self, name=name)

    def as_unpromised(self) -> "SelfTestFinding":
        """Return the finding as one on which only commands rely."""
        return replace(self, is_promised=False)


def holds(seen: str, follows: str = "", weight: float = 0.0) -> SelfTestFinding:
    """Return the finding that a promise holds."""
    return SelfTestFinding(CheckResult.HOLDS, seen, follows, weight)


def broken(seen: str, follows: str = "") -> SelfTestFinding:
    """Return the finding that a promise does not hold."""
    return SelfTestFinding(CheckResult.BROKEN, seen, follows)


def measured(seen: str, follows: str = "", weight: float = 0.0) -> SelfTestFinding:
    """Return a finding that promises nothing."""
    return SelfTestFinding(CheckResult.MEASURED, seen, follows, weight)


def untested(seen: str, follows: str = "") -> SelfTestFinding:
    """Return the finding that a check could not be made, and why."""
    return SelfTestFinding(CheckResult.UNTESTED, seen, follows)


def run_check(name: str, check: Callable[[], SelfTestFinding]) -> SelfTestFinding:
    """Return the finding of a check; an error of it is a promise that is broken."""
    try:
        return check().named(name)
    except (OSError, FarmError) as error:
        return broken(str(error)).named(name)


def in_words(finding: SelfTestFinding) -> str:
    """Return the finding as a line, and an indented line for what follows."""
    line = f"{finding.result.value:{_WIDTH}}  {finding.name}: {finding.seen}\n"
    if finding.follows:
        line += f"{'':{_WIDTH}}  -> {finding.follows}\n"
    return line


@dataclass(frozen=True, slots=True)
class RankFindings:
    """The findings of one rank, and its host."""

    host: str
    findings: Sequence[SelfTestFinding]


def merge(ranks: Mapping[int, RankFindings]) -> list[SelfTestFinding]:
    """Return the worst finding for each name, with the rank that it comes from."""
    by_name: dict[str, dict[int, SelfTestFinding]] = {}
    for rank, of_rank in ranks.items():
        for finding in of_rank.findings:
            by_name.setdefault(finding.name, {})[rank] = finding
    return [_worst(found, ranks) for found in by_name.values()]


def _worst(
    found: Mapping[int, SelfTestFinding], ranks: Mapping[int, RankFindings]
) -> SelfTestFinding:
    rank = max(found, key=lambda rank: _worry(found[rank]))
    worst = found[rank]
    if len(ranks) == 1:
        return worst
    where = f"rank {rank} on {ranks[rank].host}, the worst of {len(found)}"
    if len(found) == len(ranks) and len(set(found.values())) == 1:
        where = f"on all {len(ranks)} ranks"
    return replace(worst, seen=f"{worst.seen} ({where})")


def _worry(finding: SelfTestFinding) -> tuple[int, float]:
    return _WORRY.index(finding.result), finding.weight


def broken_promises(findings: Sequence[SelfTestFinding]) -> list[str]:
    """Return the names of mpifarm's promises that do not hold here."""
    return [
        finding.name
        for finding in findings
        if finding.result is CheckResult.BROKEN and finding.is_promised
    ]


def conclude(findings: Sequence[SelfTestFinding]) -> str:
    """Return the last line of the table."""
    text = "All that mpifarm promises holds here."
    if promises := broken_promises(findings):
        count = counted(len(promises), "of our promises does", "of our promises do")
        text = f"{count} not hold here: {'; '.join(promises)}."
    untested = [each.name for each in findings if each.result is CheckResult.UNTESTED]
    if untested:
        text += f"  Not tested: {'; '.join(untested)}."
    others = [
        each.name
        for each in findings
        if each.result is CheckResult.BROKEN and not each.is_promised
    ]
    if others:
        text += f"  Your commands should not rely on: {'; '.join(others)}."
    return text
