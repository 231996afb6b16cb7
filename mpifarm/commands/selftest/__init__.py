"""``mpifarm selftest``: which of mpifarm's promises hold on this cluster.

Rules of this package: the farm's own parts are tested (its lock, its way to write
files, to start commands, to wait), not copies of them.  What every Linux holds is left
to mpifarm's tests.  All files are made in a directory that is removed at the end,
however that comes.  Nothing here decides by the name of a file system or a launcher:
it tries, and says what it saw.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpifarm.system.console import Console


def main(argv: Sequence[str], console: "Console", environ: Mapping[str, str]) -> int:
    """Run ``mpifarm selftest`` on this rank.  Return 0 if all promises hold, else 1.

    Raise InputError for a wrong command line.
    """
    from mpifarm.commands.selftest.command import run

    return run(argv, console, environ)
