"""What a check has found, in words: one finding, the table, the conclusion.

Rules of this file: it words and counts; it tests nothing and prints nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mpifarm.errors import FarmError


class Verdict(Enum):
    """What a check says, in the order in which it should worry the user."""

    MEASURED = "measured"
    HOLDS = "holds"
    UNTESTED = "could not be tested"
    BROKEN = "does not hold"


_WORRY = list(Verdict)
_WIDTH = max(len(verdict.value) for verdict in Verdict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    name: str
    verdict: Verdict
    seen: str
    follows: str = ""
    """What it means for a farm, and the remedy; "" where nothing follows."""
    ours: bool = True
    """Whether it is mpifarm's promise; else it is one that commands may rely on."""
    weight: float = 0.0
    """Of the same finding on several ranks the heaviest is shown."""


@dataclass(frozen=True, slots=True)
class FromRank:
    """The findings of one rank, and where it runs."""

    host: str
    findings: Sequence[Finding]


def guard(check: Callable[[], Finding], name: str) -> Finding:
    """The check's finding, or that it could not even do what it tried."""
    try:
        return check()
    except (OSError, FarmError) as error:
        return Finding(name, Verdict.BROKEN, str(error))


def in_words(finding: Finding) -> str:
    """The finding as a line, and an indented one for what follows."""
    line = f"{finding.verdict.value:{_WIDTH}}  {finding.name}: {finding.seen}\n"
    if finding.follows:
        line += f"{'':{_WIDTH}}  -> {finding.follows}\n"
    return line


def merge(ranks: Mapping[int, FromRank]) -> list[Finding]:
    """One finding for each name: the worst, with the rank that it comes from."""
    by_name: dict[str, list[tuple[int, Finding]]] = {}
    for rank, told in ranks.items():
        for finding in told.findings:
            by_name.setdefault(finding.name, []).append((rank, finding))
    return [_worst(each, ranks) for each in by_name.values()]


def _worst(
    found: Sequence[tuple[int, Finding]], ranks: Mapping[int, FromRank]
) -> Finding:
    rank, worst = max(found, key=lambda each: _worry(each[1]))
    if len(ranks) == 1:
        return worst
    if all(finding == worst for _, finding in found) and len(found) == len(ranks):
        return replace(worst, seen=f"{worst.seen} (on all {len(ranks)} ranks)")
    where = f"rank {rank} on {ranks[rank].host}, the worst of {len(found)}"
    return replace(worst, seen=f"{worst.seen} ({where})")


def _worry(finding: Finding) -> tuple[int, float]:
    return _WORRY.index(finding.verdict), finding.weight


def broken_promises(findings: Sequence[Finding]) -> list[Finding]:
    """What mpifarm promises and does not hold here."""
    return [each for each in findings if each.verdict is Verdict.BROKEN and each.ours]


def conclude(findings: Sequence[Finding]) -> str:
    """The last line."""
    broken = broken_promises(findings)
    if broken:
        count = (
            "1 of our promises does"
            if len(broken) == 1
            else f"{len(broken)} of our promises do"
        )
        text = f"{count} not hold here: {'; '.join(each.name for each in broken)}."
    else:
        text = "All that mpifarm promises holds here."
    untested = [each.name for each in findings if each.verdict is Verdict.UNTESTED]
    if untested:
        text += f"  Not tested: {'; '.join(untested)}."
    others = [
        each.name
        for each in findings
        if each.verdict is Verdict.BROKEN and not each.ours
    ]
    if others:
        text += f"  Your commands should not rely on: {'; '.join(others)}."
    return text
