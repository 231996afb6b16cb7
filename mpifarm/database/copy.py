"""A copy of a database in memory, as it was at one moment.

Rules of this file: the lock is held only for the copy, some 0.1 s for 100 MB.  What is
read of the copy afterwards keeps no farm waiting.
"""

import sqlite3
from contextlib import AbstractContextManager, closing

from mpifarm.database.errors import explained
from mpifarm.database.schema import connect


def read_copy(path: str, lock: AbstractContextManager[object]) -> sqlite3.Connection:
    """Return a copy of a database in memory, taken within `lock`.

    A transaction of a writer that died is rolled back in the file first.  Raises what
    `connect` raises.
    """
    copy = sqlite3.connect(":memory:", isolation_level=None)
    try:
        # SQLite's own lock as well: a user may be writing by another program.
        with (
            lock,
            closing(connect(path, writes=False)) as connection,
            explained(path),
        ):
            connection.backup(copy)
    except BaseException:
        copy.close()
        raise
    return copy
