"""Which watch over its list a farm has.

Rules of this file: what reads databases is imported for databases alone.
"""

import time
from typing import TYPE_CHECKING

from mpifarm.coordinator.coordinator import Coordinator
from mpifarm.farm.context import UserOutput
from mpifarm.farm.growth import Growth, is_plain_database, may_grow
from mpifarm.store.file_store import FileStore
from mpifarm.store.store import Store
from mpifarm.system.lock import WorkdirLock
from mpifarm.tasklists import ListTaskList, TaskList

if TYPE_CHECKING:
    from mpifarm.farm.database_growth import DatabaseGrowth


def find_growth(
    tasks: TaskList,
    store: Store,
    lock: WorkdirLock,
    coordinator: Coordinator,
    output: UserOutput,
) -> "Growth | DatabaseGrowth | None":
    """Return the growth of a list, None for one that does not grow while it runs."""
    if not may_grow(tasks):
        return None
    farm = lock, coordinator, output.say, output.mention, time.monotonic()
    if is_plain_database(tasks):
        from mpifarm.farm.database_growth import DatabaseGrowth  # imports sqlite3

        return DatabaseGrowth.of_store(tasks, store, *farm)
    if not isinstance(store, FileStore):
        return None
    assert isinstance(tasks, ListTaskList)
    return Growth(tasks, store, *farm)
