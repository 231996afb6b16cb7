"""The command line of the doctor: the order of its looks, and what is printed.

Rules of this file: each line is printed as soon as it is known.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mpifarm.commands.doctor import batch_system, machine, mpi
from mpifarm.commands.doctor.findings import (
    Finding,
    conclude,
    encode,
    find_bad,
    in_words,
)
from mpifarm.commands.selftest.place import add_place, check_place
from mpifarm.commands.sink import write_all
from mpifarm.commands.subcommand import SubcommandParser
from mpifarm.errors import ExitStatus
from mpifarm.system.console import Console

_DESCRIPTION = (
    "Say whether a farm has here what it needs: versions, options, MPI library and"
    " launchers, file system and lock, CPUs, what bounds the memory of a task, and what"
    " the batch system tells of the job's end; each with a verdict, and what to do.  It"
    " takes some seconds, and at most a few minutes where something hangs."
)
_EPILOG = (
    "mpifarm selftest --mpi tests what takes ranks on two nodes.  Exit status: 0, or 1"
    " if a verdict is bad, 2 if the command line is wrong."
)


def main(argv: Sequence[str], console: Console, environ: Mapping[str, str]) -> int:
    """Run ``mpifarm doctor``.  Return 1 if a verdict is bad, else 0.

    Raises `InputError` for a wrong command line.
    """
    chosen = _parse(argv)
    findings: list[Finding] = []
    for finding in look(chosen.directory, chosen.lock_area, environ):
        findings.append(finding)
        if not chosen.json:
            console.print_text(in_words(finding))
    if chosen.json:
        write_all([json.dumps(encode(findings), indent=1).encode("ascii") + b"\n"])
    else:
        console.print_text(f"\n{conclude(findings)}\n")
    if find_bad(findings):
        return ExitStatus.SOME_FAILED
    return ExitStatus.ALL_FINISHED


def _parse(argv: Sequence[str]) -> Any:
    parser = SubcommandParser("doctor", _DESCRIPTION)
    parser.epilog = _EPILOG
    add_place(parser)
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object in place of lines"
    )
    chosen = parser.parse_args(argv)
    check_place(chosen)
    return chosen


def look(
    directory: str, lock_area: str | None, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield all findings, in the order in which a start needs things."""
    yield machine.look_at_versions()
    options, finding = machine.look_at_options(environ)
    yield finding
    library, finding = mpi.look_for_library()
    yield finding
    yield from mpi.look_at_launchers(library, environ)
    lock_area = lock_area or options.lock_area
    yield from machine.look_at_disk(directory, lock_area)
    yield machine.look_at_cpus(environ, options.workers)
    yield machine.look_at_task_memory(environ)
    yield batch_system.look_at_batch_system(environ)
