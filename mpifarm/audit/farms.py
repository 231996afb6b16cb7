"""The farms of a workdir: which live, which died, and what each said of itself last.

Rules of this file: a claim says whether its farm lives, the farm's own file never does.
A file may be damaged, or of another version: what is odd in it is left out.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import Enum
from math import isfinite
from typing import Any, Final, NamedTuple

from mpifarm.audit.audit import ClaimView
from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import TimeLeft
from mpifarm.store.attempts import parse_time
from mpifarm.store.farm_file import list_farm_files, read_farm_file
from mpifarm.store.farm_liveness import FarmLiveness
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


class RankReport(NamedTuple):
    """A rank, as its farm told of it; `state` is a `RankState` of the coordinator."""

    rank: int
    host: str
    workers: int
    state: str


class RunningReport(NamedTuple):
    """A running task, as its farm told of it; `started` is since the epoch."""

    taskid: int
    attempt: int
    rank: int
    host: str
    worker: int
    started: float


class FarmReport(NamedTuple):
    """A state that a farm has written; times are in seconds since the epoch."""

    farm: str
    version: str
    job: tuple[str, str] | None
    """Batch system and id."""
    command: tuple[str, ...]
    host: str
    pid: int
    started: float
    written: float
    phase: str
    reason: str
    exit_status: int | None
    """That of a farm that has ended."""
    running_count: int
    rate: float
    time_left: TimeLeft | None
    """From when it was written on."""
    ranks: tuple[RankReport, ...]
    running: tuple[RunningReport, ...]


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


# ---- parsing ------------------------------------------------------------------------


def find_report(paths: WorkdirPaths, farm: str) -> FarmReport | None:
    """Return what a farm said of itself last, None if it has left nothing whole."""
    state = read_farm_file(paths, farm)
    if state is not None:
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            return _parse_report(farm, state)
    return None


def _parse_report(farm: str, state: dict[str, Any]) -> FarmReport:
    ranks = tuple(_parse_each(state["ranks"], _parse_rank))
    hosts = {each.rank: each.host for each in ranks}
    job, status = state.get("job"), state.get("exit_status")
    return FarmReport(
        farm=farm,
        version=_word(state["version"]),
        job=(_word(job["system"]), _word(job["id"])) if job else None,
        command=tuple(map(_word, state["command"])),
        host=_word(state["host"]),
        pid=_number(state["pid"]),
        started=parse_time(_word(state["started"]).encode()),
        written=parse_time(_word(state["written"]).encode()),
        phase=_word(state["phase"]),
        reason=_word(state.get("reason") or ""),
        exit_status=None if status is None else _number(status),
        running_count=_number(state["counts"]["running"]),
        rate=_real(state["rate"]),
        time_left=_parse_time_left(state.get("time_left")),
        ranks=ranks,
        running=tuple(
            _parse_each(state["running"], lambda each: _parse_running(each, hosts))
        ),
    )


def _parse_each(entries: Any, parse: Any) -> Iterator[Any]:
    for entry in entries:
        with suppress(KeyError, TypeError, ValueError):
            yield parse(entry)


def _parse_rank(entry: Any) -> RankReport:
    return RankReport(
        _number(entry["rank"]),
        _word(entry["host"]),
        _number(entry["workers"]),
        _word(entry["state"]),
    )


def _parse_running(entry: Any, hosts: dict[int, str]) -> RunningReport:
    rank = _number(entry["rank"])
    return RunningReport(
        _number(entry["task"]),
        _number(entry["attempt"]),
        rank,
        hosts.get(rank, ""),
        _number(entry["worker"]),
        parse_time(_word(entry["started"]).encode()),
    )


def _parse_time_left(entry: Any) -> TimeLeft | None:
    if entry is None:
        return None
    with suppress(KeyError, TypeError, ValueError):
        return TimeLeft(*(_real(entry[name]) for name in TimeLeft._fields))
    return None


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _real(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value):
        raise TypeError
    return float(value)
