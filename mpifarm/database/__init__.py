"""A database as tasklist: its tables, its statements, and copies of it.

Only this room imports sqlite3.  `schema` creates and opens a database, `tasks` has the
statements on its tasks, `copy` reads it as it was at one moment.

Rules of this room: the caller holds the lock of the database's workdir, because the
locks of SQLite itself cannot be relied on where several hosts share a file system.
"""
