"""The workdir: status files, claims, timeline; the only owner of them.

Rules of this package: rank 0 uses a `JoinedWorkdir`, which is a `Workdir`, or a
`ForeignWorkdir` for a tasklist that keeps its own state; the other modules are their
parts.  All that is written is written in `files`.
"""

from mpifarm.workdir.claims import ClaimLostError, Machine, this_machine
from mpifarm.workdir.files import ChangedError
from mpifarm.workdir.foreign import ForeignWorkdir, OwnStateList
from mpifarm.workdir.invariants import find_violations
from mpifarm.workdir.joined import JoinedWorkdir
from mpifarm.workdir.membership import FAMILY
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.records import (
    Counts,
    HeldLock,
    Recorded,
    Survey,
    Transacted,
)
from mpifarm.workdir.workdir import Workdir, make_directories, make_root

__all__ = [
    "FAMILY",
    "ChangedError",
    "ClaimLostError",
    "Counts",
    "ForeignWorkdir",
    "HeldLock",
    "JoinedWorkdir",
    "Machine",
    "OwnStateList",
    "Recorded",
    "Survey",
    "Transacted",
    "Workdir",
    "WorkdirPaths",
    "find_violations",
    "make_directories",
    "make_root",
    "this_machine",
]
