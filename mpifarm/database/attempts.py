"""The table ``attempts`` of an exported database: the lines of ``attempts.tsv``.

Rules of this file: the columns have the names of the file, and types.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from mpifarm.database.schema import Connection
from mpifarm.database.tasks import as_value

_COLUMNS: Final = (
    *("taskid INTEGER", "attempt INTEGER", "outcome TEXT", "status INTEGER"),
    *("signal INTEGER", "host TEXT", "rank INTEGER", "worker INTEGER", "pid INTEGER"),
    *("started TEXT", "seconds REAL", "user_seconds REAL", "system_seconds REAL"),
    *("peak_memory INTEGER", "output_bytes INTEGER", "farm TEXT", "command TEXT"),
)
_AT_ONCE: Final = 1000


def write_attempts(connection: Connection, rows: Iterable[Sequence[bytes]]) -> int:
    """Make the table of the fields of attempts.  Return how many there are.

    An empty field is NULL.
    """
    connection.execute(f"CREATE TABLE attempts ({', '.join(_COLUMNS)})")
    # SQLite makes NULLs and numbers faster than Python.
    marks = ", ".join(["nullif(?, '')"] * (len(_COLUMNS) - 1))
    insert = f"INSERT INTO attempts VALUES ({marks}, ?)"  # noqa: S608 - constants
    left, count = iter(rows), 0
    while block := [*islice(left, _AT_ONCE)]:
        connection.executemany(insert, map(_values, block))
        count += len(block)
    connection.execute("CREATE INDEX attempts_of ON attempts (taskid)")
    return count


def _values(fields: Sequence[bytes]) -> Sequence[str | bytes | None]:
    *others, command = fields
    texts = b"\t".join(others).decode("utf-8", "replace").split("\t")
    return (*texts, as_value(command) or None)
