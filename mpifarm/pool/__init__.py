"""A rank's worker processes.

Rules of this package: the rank's side is `pool`, the fork server is `parent`, the
processes that run tasks are `worker`; they share a `board` and talk in `wire` frames.
"""

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
from mpifarm.pool.pool import Pool

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
