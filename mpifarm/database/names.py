"""Which lists are databases, by their names.

Rules of this file: it does not import sqlite3, because farms of text lists ask it, too.
"""

from typing import Final

SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
"""The ends of names of lists that are databases."""

DATABASE_CLASS: Final = "mpifarm.databases.SqliteTaskList"
"""The class of the handler that reads databases."""


def is_database_name(path: str) -> bool:
    """Return whether a list of this name is a database, unless a handler is named."""
    return path.endswith(SUFFIXES)
