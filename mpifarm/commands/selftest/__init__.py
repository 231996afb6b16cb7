"""``mpifarm selftest``: which of mpifarm's promises hold on this cluster.

Rules of this package: the farm's own parts are tested (its lock, its way to write
files, to wait), not copies of them.  What every Linux holds on one node is left to
mpifarm's tests.  All files are made in a directory that is removed at the end, however
that comes.  Nothing here decides by the name of a file system or a launcher: it tries,
and says what it saw.
"""

from mpifarm.commands.selftest.command import main

__all__ = ["main"]
