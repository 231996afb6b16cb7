"""``mpifarm cancel``: tasks are ended, or not started.

Rules of this file: `asking` has the arguments and words of all such commands.
"""

from collections.abc import Mapping

from mpifarm.commands.asking import run
from mpifarm.model.requests import RequestKind
from mpifarm.system.console import Console


def main(argv: list[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm cancel``.  Return the exit status.

    Raises `InputError` and `StorageError`.
    """
    return run(RequestKind.CANCEL, argv, console, environ)
