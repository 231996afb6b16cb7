"""Which lists are databases, by their names.

Rules of this file: it does not import sqlite3, because farms of text lists ask it, too.
"""

from typing import Final

SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
"""The ends of names of lists that are databases."""

DATABASE_CLASS: Final = "mpifarm.databases.SqliteTaskList"
"""The class of the handler that reads databases."""

DATABASE_HANDLER: Final = "sqlite"
"""The name of that handler."""


def is_database_name(path: str) -> bool:
    """Return whether a list of this name is a database, unless a handler is named."""
    return path.endswith(SUFFIXES)


def choose_handler(name: str, tasklist: str) -> str:
    """Return the name of the handler that reads a list, for the `name` of one.

    In place of the default one, the list's name may choose that of databases.
    """
    is_chosen = name == "default" and is_database_name(tasklist)
    return DATABASE_HANDLER if is_chosen else name
