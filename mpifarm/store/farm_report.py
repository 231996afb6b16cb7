"""What a farm said of itself last, parsed from ``farms/<farm>.json``.

Rules of this file: it reads.  A file may be damaged, or of another version: what is odd
in it is left out.  `farm.farm_state` puts the file together.
"""

from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from typing import Any, NamedTuple

from mpifarm.model.paths import WorkdirPaths
from mpifarm.model.wording import TimeLeft
from mpifarm.store.attempts import parse_time
from mpifarm.store.farm_file import read_farm_file


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
    grows: bool = False
    """Whether it takes up what is added to its list."""
    held: int = 0
    """Tasks that users hold by their ids."""
    holds_all: bool = False
    directory: str = ""
    """The directory in which its command was given."""
    outruns: bool = False
    """Whether all that is left runs, and has far longer than any that has ended."""
    seatless: tuple[tuple[str, int], ...] = ()
    """The kinds whose tasks wait for a seat, and how many it has taken of each."""
    limits: tuple[str, ...] | None = None
    """The kinds that have a limit in it; None for an older version, which starts tasks
    of all kinds."""


def find_report(paths: WorkdirPaths, farm: str) -> FarmReport | None:
    """Return what a farm said of itself last, None if it has left nothing whole."""
    state = read_farm_file(paths, farm)
    if state is not None:
        odd = KeyError, TypeError, ValueError, OverflowError, AttributeError
        with suppress(*odd):
            return _parse_report(farm, state)
    return None


def _parse_report(farm: str, state: dict[str, Any]) -> FarmReport:
    ranks = tuple(_parse_each(state["ranks"], _parse_rank))
    hosts = {each.rank: each.host for each in ranks}
    job, status = state.get("job"), state.get("exit_status")
    held = state.get("held") or {}
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
        grows=state.get("grows") is True,
        held=_number(held.get("tasks", 0)),
        holds_all=held.get("all") is True,
        outruns=state.get("outruns") is True,
        directory=_word(state.get("directory") or ""),
        seatless=tuple(
            (_word(kind), _number(count))
            for kind, count in (state.get("seatless") or {}).items()
        ),
        limits=tuple(map(_word, state["limits"])) if "limits" in state else None,
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
