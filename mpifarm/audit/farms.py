"""The farms of a workdir: which live, which died, and what each said of itself last.

Rules of this file: a claim says whether its farm lives, the farm's own file never does.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from typing import Final, NamedTuple

from mpifarm.audit.audit import ClaimView
from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.farm_file import list_farm_files
from mpifarm.store.farm_liveness import FarmLiveness
from mpifarm.store.farm_report import FarmReport, RunningReport, find_report
from mpifarm.store.membership import FAMILY

SILENT_SECONDS: Final = 60.0
"""Seconds without a sign of life after which a farm that lives is called silent."""

MAX_EARLIER: Final = 10
"""Farms without a claim that are looked at, those that wrote last."""

ENDING_SECONDS: Final = 10.0
"""Seconds for which a farm without a claim may be one that ends just now."""

ENDING_LOOKS: Final = 4
ENDING_PAUSE: Final = 0.25
"""Looks at such a farm, and seconds between them."""


class Life(Enum):
    """Whether a farm lives, as far as that is known."""

    LIVES = "alive"
    SILENT = "silent"
    """It lives, and has given no sign for `SILENT_SECONDS`."""
    UNCERTAIN = "uncertain"
    """On another machine, and its last sign is not old."""
    DIED = "dead"
    ENDED = "ended"


class Farm(NamedTuple):
    """A farm; without `report` it is of a version up to 0.4.0, or has just begun."""

    farm: str
    life: Life
    heard: float
    """Its last sign of life, in seconds since the epoch, 0 if that is unknown."""
    claim: ClaimView | None
    report: FarmReport | None

    @property
    def lives(self) -> bool:
        """Whether the farm lives, or may."""
        return self.life not in (Life.DIED, Life.ENDED)

    @property
    def is_damaged(self) -> bool:
        """Whether its claim can't be understood, and so whether it lives."""
        claim = self.claim
        return claim is not None and claim.liveness is FarmLiveness.DAMAGED

    @property
    def held(self) -> frozenset[int]:
        """The tasks that the farm holds."""
        return self.claim.held if self.claim else frozenset()

    def find_running(self) -> Iterator[RunningReport]:
        """Yield what the farm runs, or ran when it was heard last and still holds."""
        for each in self.report.running if self.report else ():
            if each.taskid in self.held:
                yield each


def read_farms(
    paths: WorkdirPaths, claims: Iterable[ClaimView], now: float
) -> list[Farm]:
    """Return the farms that have a claim, then those of late that have none any more.

    `now` is in seconds since the epoch.  An earlier life of a farm that another rank
    leads now is left out.
    """
    names = list_farm_files(paths)
    newest = dict[str, str]()
    for name in names:
        newest.setdefault(name[:FAMILY], name)
    farms = [
        _find_farm(paths, claim, now)
        for claim in claims
        if claim.may_live or newest.get(claim.farm[:FAMILY], claim.farm) == claim.farm
    ]
    claimed = {farm.farm[:FAMILY] for farm in farms}
    others = [name for name in newest.values() if name[:FAMILY] not in claimed]
    farms += _find_earlier(paths, others[:MAX_EARLIER], now)
    return farms


def read_claimed(paths: WorkdirPaths, claims: Iterable[ClaimView]) -> Iterator[Farm]:
    """Yield the farms of these claims."""
    now = time.time()
    for claim in claims:
        yield _find_farm(paths, claim, now)


def _find_farm(paths: WorkdirPaths, claim: ClaimView, now: float) -> Farm:
    report = find_report(paths, claim.farm)
    heard = report.written if report else 0.0
    with suppress(OSError):
        # Rank 0 touches it in its loop: a farm that hangs has no heartbeat either.
        heard = max(heard, os.stat(paths.claim(claim.farm)).st_mtime)
    life = Life.DIED
    if claim.liveness is FarmLiveness.UNCERTAIN:
        life = Life.UNCERTAIN
    elif claim.may_live:
        life = Life.SILENT if now - heard > SILENT_SECONDS else Life.LIVES
    return Farm(claim.farm, life, heard, claim, report)


def _find_earlier(
    paths: WorkdirPaths, names: Sequence[str], now: float
) -> Iterator[Farm]:
    for name in names:
        report = find_report(paths, name)
        # A farm that ends gives its claim up first, and says so a moment later.
        for _ in range(ENDING_LOOKS):
            if report is None or report.exit_status is not None:
                break
            if now - report.written > ENDING_SECONDS:
                break
            time.sleep(ENDING_PAUSE)
            report = find_report(paths, name)
        if report is not None:
            ended = report.exit_status is not None
            life = Life.ENDED if ended else Life.DIED
            yield Farm(name, life, report.written, None, report)
