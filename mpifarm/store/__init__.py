"""The workdir: status files, claims, timeline; the only owner of them.

Rules of this package: rank 0 uses a `Store`, which is a `FileStore`, or a
`CustomStore` for a tasklist that keeps its own state.  The other modules are parts of
these two.  Only `system.files` writes.
"""

from mpifarm.model.paths import WorkdirPaths
from mpifarm.store.claims import ClaimLostError
from mpifarm.store.custom_store import CustomStore, OwnStateList
from mpifarm.store.directories import make_directories, make_root
from mpifarm.store.farm_liveness import Machine, this_machine
from mpifarm.store.file_store import FileStore
from mpifarm.store.membership import FAMILY
from mpifarm.store.store import Store
from mpifarm.store.strangers import validate_place
from mpifarm.store.take_up import TakenUp
from mpifarm.store.types import (
    Counts,
    HeldLock,
    Recorded,
    Survey,
    Transacted,
)
from mpifarm.system.file_contents import ChangedError

__all__ = [
    "FAMILY",
    "ChangedError",
    "ClaimLostError",
    "Counts",
    "CustomStore",
    "FileStore",
    "HeldLock",
    "Machine",
    "OwnStateList",
    "Recorded",
    "Store",
    "Survey",
    "TakenUp",
    "Transacted",
    "WorkdirPaths",
    "make_directories",
    "make_root",
    "this_machine",
    "validate_place",
]
