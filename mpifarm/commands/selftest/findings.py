"""What a check has found: a line of the table, and the conclusion of all of them.

Rules of this file: it words and counts; it tests nothing and prints nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import NamedTuple, TypeVarTuple

from mpifarm.errors import FarmError
from mpifarm.immutable import immutable
from mpifarm.model.wording import counted

Ts = TypeVarTuple("Ts")


class CheckResult(Enum):
    """How a check went, in the order in which it should worry the user."""

    MEASURED = "measured"
    HOLDS = "holds"
    UNTESTED = "could not be tested"
    BROKEN = "does not hold"


_WORRY = list(CheckResult)
_WIDTH = max(len(result.value) for result in CheckResult)


@immutable
class SelfTestFinding:
    """One line of the table.  `run_check` gives it its name."""

    result: CheckResult
    seen: str
    follows: str = ""
    """The consequence for a farm and the remedy; "" if there is none."""
    weight: float = 0.0
    """Of the same finding on several ranks the heaviest is shown."""
    name: str = ""

    def named(self, name: str) -> "SelfTestFinding":
        """Return the finding with its name."""
        return replace(self, name=name)


holds = partial(SelfTestFinding, CheckResult.HOLDS)
broken = partial(SelfTestFinding, CheckResult.BROKEN)
measured = partial(SelfTestFinding, CheckResult.MEASURED)
"""A finding that promises nothing."""
untested = partial(SelfTestFinding, CheckResult.UNTESTED)


def run_check(
    name: str, check: Callable[[*Ts], SelfTestFinding], *arguments: *Ts
) -> SelfTestFinding:
    """Return the finding of a check; an error of it is a promise that is broken."""
    try:
        return check(*arguments).named(name)
    except (OSError, FarmError) as error:
        return broken(str(error)).named(name)


def in_words(finding: SelfTestFinding) -> str:
    """Return the finding as a line, and an indented line for what follows."""
    line = f"{finding.result.value:{_WIDTH}}  {finding.name}: {finding.seen}\n"
    if finding.follows:
        line += f"{'':{_WIDTH}}  -> {finding.follows}\n"
    return line


class RankFindings(NamedTuple):
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


def names_of(findings: Sequence[SelfTestFinding], result: CheckResult) -> list[str]:
    """Return the names of the findings with that result."""
    return [finding.name for finding in findings if finding.result is result]


def conclude(findings: Sequence[SelfTestFinding]) -> str:
    """Return the last line of the table."""
    text = "All that mpifarm promises holds here."
    if promises := names_of(findings, CheckResult.BROKEN):
        count = counted(len(promises), "of our promises does", "of our promises do")
        text = f"{count} not hold here: {'; '.join(promises)}."
    if names := names_of(findings, CheckResult.UNTESTED):
        text += f"  Not tested: {'; '.join(names)}."
    return text
