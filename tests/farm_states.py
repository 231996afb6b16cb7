"""Claims, and files ``farms/<farm>.json``, as farms write them.

Rules of this file: for tests of those who look; no farm reads what is written here.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.claim_journal import Event, Head, encode_event, encode_head
from mpifarm.store.farm_liveness import this_machine


def write_farm(
    paths: WorkdirPaths,
    farm: str,
    *,
    written: float,
    running: Mapping[int, tuple[int, int, float]] | None = None,
    **others: Any,
) -> None:
    """Write the state of a farm of two ranks on n1 and n2, each of 8 workers.

    `running` maps tasks to (rank, worker, started).  `others` replaces whole values.
    """
    state: dict[str, Any] = {
        "format": 1,
        "farm": farm,
        "version": "0.6.0",
        "command": ["mpifarm", "tasks.txt"],
        "directory": "/data",
        "tasklist": "/data/tasks.txt",
        "workdir": paths.root,
        "host": "n1",
        "pid": 77,
        "job": {"system": "slurm", "id": "4711"},
        "started": encode(written - 3600),
        "written": encode(written),
        "phase": "working",
        "reason": "",
        "exit_status": None,
        "counts": {
            "total": 12,
            "finished": 2,
            "failed": 1,
            "running": len(running or {}),
        },
        "rate": 0.25,
        "ranks": [
            {"rank": n, "host": f"n{n + 1}", "pid": 7, "workers": 8, "state": "working"}
            for n in range(2)
        ],
        "running": [
            {
                "task": task,
                "attempt": 1,
                "rank": rank,
                "worker": worker,
                "started": encode(started),
            }
            for task, (rank, worker, started) in (running or {}).items()
        ],
        **others,
    }
    Path(paths.farms).mkdir(exist_ok=True)
    path = Path(paths.farm(farm))
    path.write_text(json.dumps(state) + "\n")
    os.utime(path, (written, written))


def write_claim(
    paths: WorkdirPaths, farm: str, taken: Sequence[int], *, is_dead: bool = False
) -> None:
    """Write the claim of a farm on this machine: of this process, or of a dead one."""
    machine = this_machine()
    start = machine.find_process_start(machine.pid)
    assert start is not None
    start += is_dead  # then another process had this pid
    head = Head(farm, "n1", machine.boot_id, machine.pid, start, 1.0, ())
    path = Path(paths.claim(farm))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode_head(head) + encode_event(Event(take=taken)))


def encode(seconds: float) -> str:
    """Return a time as farms write it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
