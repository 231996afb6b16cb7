"""A rank's worker processes.

Rules of this room: `client` is the rank's side, with a `worker_link` to each worker;
`fork_server` forks the workers; `worker` runs tasks.  They share `shared_state` and
talk in frames (`framing`).
"""

from mpifarm.pool.client import Pool
from mpifarm.pool.definition import (
    Allotment,
    LeaseRefused,
    LeaseReturned,
    PoolDefinition,
    PoolEvent,
    PoolGone,
    PoolUseless,
    WorkerLost,
)

__all__ = [
    "Allotment",
    "LeaseRefused",
    "LeaseReturned",
    "Pool",
    "PoolDefinition",
    "PoolEvent",
    "PoolGone",
    "PoolUseless",
    "WorkerLost",
]
