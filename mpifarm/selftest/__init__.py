"""``mpifarm selftest``: which of mpifarm's promises hold on this cluster.

Rules of this package: what is tested are the farm's own parts (its lock, its way to
write files, to start and to end commands, to wait), not copies of them.  All files are
made in a directory of its own, which is removed at the end, however that comes.
Nothing here decides by the name of a file system or a launcher: it tries, and tells
what it saw.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpifarm.console import Console


def main(argv: Sequence[str], console: "Console", environ: Mapping[str, str]) -> int:
    """Run ``mpifarm selftest`` on this rank: 0 all holds, 1 something does not.

    Raises InputError for a wrong command line.
    """
    from mpifarm.selftest.command import run

    return run(argv, console, environ)
