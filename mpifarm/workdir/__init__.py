"""The workdir: status files, claims, timeline; the only owner of them.

Rules of this package: `Workdir` is what rank 0 uses; the other modules are its parts,
pure but for `files` (all that is written), `claims`, `ledger` and `opening` (reading).
"""

from mpifarm.workdir.claims import Machine, this_machine
from mpifarm.workdir.invariants import find_violations
from mpifarm.workdir.paths import WorkdirPaths
from mpifarm.workdir.records import (
    Counts,
    HeldLock,
    Recorded,
    Survey,
    Transacted,
)
from mpifarm.workdir.workdir import Workdir, make_root

__all__ = [
    "Counts",
    "HeldLock",
    "Machine",
    "Recorded",
    "Survey",
    "Transacted",
    "Workdir",
    "WorkdirPaths",
    "find_violations",
    "make_root",
    "this_machine",
]
