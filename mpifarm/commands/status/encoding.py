"""The JSON of ``mpifarm status``: stable keys, ``docs/what-is-going-on.md`` has them.

Rules of this file: pure.  What is unknown is null; times are seconds since the epoch.
"""

from collections import Counter
from typing import Any

from mpifarm.audit.farms import Farm
from mpifarm.audit.status import FailedTask, Status
from mpifarm.audit.view import View
from mpifarm.commands.farm_command import name_farm_words
from mpifarm.model.id_ranges import encode_ids
from mpifarm.store.farm_report import RankReport, RunningReport

LOST = ("out of use", "lost", "dead")
"""The states of ranks that run nothing more."""


def encode_status(status: Status) -> dict[str, Any]:
    """Return the whole state as a JSON object."""
    view, left = status.view, status.time_left
    return {
        "workdir": view.target.workdir,
        "list": view.target.tasklist,
        "time": round(status.now, 3),
        "total": view.total,
        "counts": {state.value: count for state, count in status.counts.items()},
        "not_run": len(view.not_run),
        "finished_by_others": status.by_others,
        "rate": status.rate,
        "time_left": left._asdict() if left else None,
        "no_limit": {**status.no_limit},
        "is_draining": view.is_draining,
        "held": {"all": view.held.holds_all, "tasks": encode_ids(view.held.tasks)},
        "goes_on": status.goes_on,
        "farms": [_encode_farm(status, each) for each in status.live + status.dead],
        "running": [
            _encode_running(view, each.farm, each.report, status.now)
            for each in status.running
        ],
        "failed": [_encode_failed(view, each) for each in status.failed],
        "warnings": [*view.warnings()],
    }


def _encode_farm(status: Status, farm: Farm) -> dict[str, Any]:
    report = farm.report
    ran = [] if farm.lives else status.find_unended(farm)
    encoded = {
        "farm": farm.farm,
        "life": farm.life.value,
        "heard": round(farm.heard, 3) or None,
        "holds": len(farm.held),
        "ran": [_encode_running(status.view, farm, each, status.now) for each in ran],
    }
    return encoded | (
        {
            "job": {"system": report.job[0], "id": report.job[1]}
            if report.job
            else None,
            "host": report.host,
            "pid": report.pid,
            "version": report.version,
            "command": [*name_farm_words(report.command)],
            "started": report.started,
            "phase": report.phase,
            "reason": report.reason,
            "held": {"all": report.holds_all, "tasks": report.held},
            "seatless": dict(report.seatless),
            "ranks": len(report.ranks),
            "workers": sum(each.workers for each in report.ranks),
            "hosts": dict(Counter(each.host for each in report.ranks)),
            "lost_ranks": [
                {"rank": each.rank, "host": each.host, "state": each.state}
                for each in find_lost(farm)
            ],
        }
        if report
        else dict.fromkeys(
            (
                *("job", "host", "pid", "version", "command", "started", "phase"),
                *("reason", "held", "seatless", "ranks", "workers", "hosts"),
                "lost_ranks",
            )
        )
    )


def find_lost(farm: Farm) -> list[RankReport]:
    """Return the ranks that run nothing more, though the farm goes on."""
    ranks = farm.report.ranks if farm.report else ()
    return [each for each in ranks if each.state in LOST]


def _encode_running(
    view: View, farm: Farm, each: RunningReport, now: float
) -> dict[str, Any]:
    return {
        "id": each.taskid,
        "attempt": each.attempt,
        "farm": farm.farm,
        "host": each.host,
        "rank": each.rank,
        "worker": each.worker,
        "started": each.started,
        "seconds": round(max(0.0, now - each.started), 3),
        "command": view.text(each.taskid),
    }


def _encode_failed(view: View, failed: FailedTask) -> dict[str, Any]:
    attempt = failed.attempt
    names = ("attempt", "outcome", "status", "signal", "host", "rank", "worker")
    known = {name: getattr(attempt, name) if attempt else None for name in names}
    return {
        "id": failed.taskid,
        **known,
        "started": attempt.started if attempt else None,
        "seconds": attempt.seconds if attempt else None,
        "farm": attempt.farm if attempt else None,
        "last_line": failed.last_line,
        "command": view.text(failed.taskid),
    }
